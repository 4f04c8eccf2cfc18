//! The interface of a method's file besides its objective: the name of its table, the validation of its
//! values, its parameter counts, and the changes for a smoke test.

use backbones::{BackboneConfig, Paper, VitConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use training::{Count, Objective, Remedy};

/// A self-supervised method, as its table `[objective.NAME]`. One file implements it together with its
/// [`Objective`], and `lib.rs` lists it; nothing else is needed.
pub trait MethodConfig: Clone + DeserializeOwned + Serialize {
    /// Name of the table, and of the method in logs and encoder files: the variant of
    /// [`ObjectiveConfig`](crate::ObjectiveConfig) in snake case.
    const NAME: &'static str;

    /// What to cite for the method.
    const PAPERS: &'static [Paper];

    /// The objective that trains with this config.
    type Objective: Objective;

    /// The objective of this validated config, on a network.
    fn objective(self, backbone: BackboneConfig) -> Self::Objective;

    /// Gives an error for values that the method cannot use, or that contradict the rest of the run.
    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid>;

    /// Parameter counts of the method's parts for features of this width, by the key with the largest effect.
    /// Approximate, with queues and without a teacher. Allocates no memory.
    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)>;

    /// What a step keeps beside the weights and the backbone's activations, for an estimate of its memory. Without an implementation:
    /// all views are differentiated, and there is no teacher.
    fn footprint(&self, _step: &StepShape) -> Footprint {
        Footprint::default()
    }

    /// The keys that count epochs, steps or images, as paths within the table.
    fn counts(&self) -> Vec<Count> {
        vec![]
    }

    /// Adapts settings that count images, steps or epochs, for two steps of `batch_images` images. Most methods
    /// change nothing.
    fn for_smoke_test(&mut self, _batch_images: usize) {}

    /// Adapts settings that count images, steps or epochs to other data than the config was written for, and says why each changed.
    /// Most methods change nothing.
    fn for_data(&mut self, _data: &DataShape) -> Vec<Change> {
        vec![]
    }

    /// [`validate`](Self::validate), with the message for the user.
    ///
    /// # Errors
    /// The key, its valid range and its value.
    fn check(&self, run: &RunShape<'_>) -> Result<(), String> {
        self.validate(run).map_err(|invalid| invalid.message(Self::NAME))
    }
}

/// The parts of a run's config that a method must fit.
#[derive(Clone, Copy, Debug)]
pub struct RunShape<'a> {
    /// Photographs per optimizer step.
    pub batch_images: usize,
    /// The network under study.
    pub backbone: &'a BackboneConfig,
    /// Width and height of each view group's images.
    pub views_px: &'a [(u32, u32)],
}

/// A run on other data than its config was written for.
#[derive(Clone, Copy, Debug)]
pub struct DataShape {
    /// Photographs to train on.
    pub images: usize,
    /// Photographs per optimizer step.
    pub batch_images: usize,
    /// Optimizer steps of the run.
    pub steps: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Epochs that the config had.
    pub epochs_before: usize,
}

impl DataShape {
    /// The same share of the run as so many epochs were of the config's, at least `least`.
    pub fn share(&self, epochs: usize, least: usize) -> usize {
        let share = epochs as f64 * self.epochs as f64 / self.epochs_before.max(1) as f64;
        (share.round() as usize).max(least)
    }
}

/// The size of a forward pass, for an estimate of its memory.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Photographs that go through the networks together.
    pub images: usize,
    /// Views of each.
    pub views: usize,
    /// Patches of a global view; 0 for networks without patches.
    pub patches: usize,
}

/// What a step of a method keeps in memory, beside the student's weights and the backbone's activations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// Whether there is a teacher as large as the student.
    pub has_teacher: bool,
    /// Views of an image that the student's backbone differentiates; absent: all.
    pub student_views: Option<usize>,
    /// Share of an image's patches that the backbone does not get, 0..1.
    pub hidden_share: f64,
    /// Whether heads take statistics over the batch.
    pub has_batch_norm: bool,
    /// Values that the heads and the loss keep per image.
    pub values_per_image: f64,
    /// Values that the loss keeps whatever the number of images.
    pub values: f64,
}

/// Values that the loss keeps of each logit: the logit, its log-softmax, the gradient.
pub(crate) const VALUES_PER_LOGIT: f64 = 3.0;

/// A key that was adapted to the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path within the method's table.
    pub key: String,
    /// Why it has its new value.
    pub reason: String,
}

impl Change {
    /// A key and its reason.
    pub(crate) fn new(key: &str, reason: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Adapts a queue: at most half of the images, so that an image rarely meets itself in it, in whole batches.
pub(crate) fn queue_for_data(key: &str, queue_images: &mut usize, data: &DataShape) -> Option<Change> {
    let before = *queue_images;
    let batch = data.batch_images.max(1);
    let most = (data.images / 2).min(before);
    *queue_images = (most / batch).max(1) * batch;
    let reason = format!(
        "in place of {before}: at most half of the {} images, in whole batches",
        data.images
    );
    (*queue_images != before).then(|| Change::new(key, reason))
}

/// Adapts the number of prototypes: not more than one for 16 images, so that each can be used, and at least `least`.
pub(crate) fn prototypes_for_data(
    key: &str,
    prototypes: &mut usize,
    least: usize,
    data: &DataShape,
) -> Option<Change> {
    let before = *prototypes;
    let most = (data.images / 16).max(least);
    if before <= most {
        return None;
    }
    *prototypes = most;
    Some(Change::new(
        key,
        format!("in place of {before}: one for 16 images, so that each is used"),
    ))
}

/// Adapts a warmup that counts epochs: the same share of the run, at least 2 epochs.
pub(crate) fn warmup_for_data(key: &str, epochs: &mut usize, data: &DataShape) -> Option<Change> {
    let before = *epochs;
    *epochs = data.share(before, 2);
    let reason = format!("as {before} of {} epochs", data.epochs_before);
    (*epochs != before).then(|| Change::new(key, reason))
}

/// Reason why a method rejects a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A key of the method's own table, and its condition: `must be at least 1, got 0`.
    Key {
        /// Path within the table: `head.prototypes`.
        key: String,
        /// Its valid range and its value.
        reason: String,
    },
    /// A condition on the rest of the config, as a full message: `` `data.batch_images` must be at least 2,
    /// got 1 ``.
    Run(String),
}

impl Invalid {
    /// A key of the method's table and its fault.
    pub(crate) fn key(key: &str, reason: impl Into<String>) -> Self {
        Self::Key {
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    /// The same for `table`, a table within the method's table.
    pub(crate) fn within(self, table: &str) -> Self {
        match self {
            Self::Key { key, reason } => Self::Key {
                key: format!("{table}.{key}"),
                reason,
            },
            run => run,
        }
    }

    fn message(&self, method: &str) -> String {
        match self {
            Self::Key { key, reason } => format!("`objective.{method}.{key}` {reason}"),
            Self::Run(message) => message.clone(),
        }
    }
}

/// Advice on a key: of the table `[objective.NAME]`, or with a full name that begins with another section's.
pub(crate) fn advice(method: &str, key: &str, advice: &str, source: &str) -> Remedy {
    let elsewhere = ["training.", "optimizer.", "schedule."]
        .iter()
        .any(|section| key.starts_with(section));
    let key = if elsewhere {
        key.to_owned()
    } else {
        format!("objective.{method}.{key}")
    };
    Remedy::new(key, advice, source)
}

/// Advice of which the config does not have the setting already: what is in force is no cure.
pub(crate) fn where_needed(advice: impl IntoIterator<Item = (bool, Remedy)>) -> Vec<Remedy> {
    let needed = advice.into_iter().filter(|(is_needed, _)| *is_needed);
    needed.map(|(_, remedy)| remedy).collect()
}

/// The run's vision transformer; other networks give an error, with `why` as the reason that `method` needs
/// one.
pub(crate) fn needs_vit<'a>(run: &RunShape<'a>, method: &str, why: &str) -> Result<&'a VitConfig, Invalid> {
    match run.backbone {
        BackboneConfig::Vit(vit) => Ok(vit),
        other => Err(Invalid::Run(format!(
            "`backbone` must be `[backbone.vit]` for `objective.{method}`, {why}, got {}",
            other.name()
        ))),
    }
}
