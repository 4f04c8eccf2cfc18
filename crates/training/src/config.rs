//! The config of a pretraining run: one flat TOML file. Every key is required, unknown keys give an error.
//!
//! Generic over the objective's section, which `objectives` owns: this crate knows no method.

use crate::batch::Normalize;
use crate::counts::{Count, RunLength, check_counts, check_epochs};
use crate::optimizer::{ClipConfig, OptimizerConfig};
use crate::schedule::ScheduleConfig;
use backbones::{BackboneConfig, Precision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use weights::{Role, SawPeople};

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config<O> {
    /// Seed of every draw: data order, augmentation, initial weights, masks.
    pub seed: u64,
    /// How records become batches.
    pub data: DataConfig,
    /// View groups, in the order in which the objective reads them; the first holds the global views. Empty for
    /// objectives that make views of pictures with objects.
    pub views: Vec<data::ViewGroup>,
    /// The network under study.
    pub backbone: BackboneConfig,
    /// An encoder that pretraining starts from; absent: initial weights. `passer pretrain --start` names one too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StartConfig>,
    /// The self-supervised method.
    pub objective: O,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule.
    pub schedule: ScheduleConfig,
    /// Length, batch statistics, checkpoints and log.
    pub training: TrainingConfig,
}

/// How records become batches: [`data::LoaderConfig`] plus the two keys that only training needs. The data
/// set itself is not part of a config.
///
/// The loader's keys are repeated here because serde's `flatten` would remove line numbers and the list of
/// keys from errors; the loader's own config checks their values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Photographs (not views) per optimizer step. An epoch's last, incomplete batch is dropped.
    pub batch_images: usize,
    /// Threads that decode and augment; 0 does it in the training thread. The views do not depend on the
    /// number.
    pub workers: usize,
    /// `"global"`, or `{ blocks = N }` for storage with slow seeks.
    pub order: data::Order,
    /// The run stops when more than this fraction (0..1) of the records cannot be decoded.
    pub max_bad_fraction: f64,
    /// Channel statistics.
    pub normalize: Normalize,
}

impl DataConfig {
    /// The part of the config that every loader needs.
    pub fn loader(&self) -> data::LoaderConfig {
        data::LoaderConfig {
            batch_images: self.batch_images,
            workers: self.workers,
            max_bad_fraction: self.max_bad_fraction,
        }
    }

    /// Gives an error that names the key if a value is invalid for any data.
    fn validate(&self) -> Result<(), String> {
        self.loader().validate()?;
        let order = self.order.validate();
        order.map_err(|reason| format!("`data.order` {reason}"))?;
        self.normalize.validate("data.normalize")
    }
}

/// `[start]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartConfig {
    /// A run directory, an encoder file, or weights of another program in any known layout (`docs/weights.md`).
    pub encoder: PathBuf,
    /// The network, where the file does not show it: `vit_small_patch16`. Absent: derived from the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<String>,
    /// `"student"` or `"teacher"`, of a file with both. Absent: the network that the method's paper evaluates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Role>,
    /// Whether heads, teacher, queue and center also start from `encoder`, which must be a run of the same method, or a released
    /// checkpoint of MoCo or DINO. What has another shape there is drawn. Absent: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_parts: bool,
    /// Epochs in which the backbone's weights do not change, so that the new heads fit it first. Absent: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub freeze_backbone_epochs: usize,
    /// Whether the encoder saw people: `"yes"`, `"no"` or `"unknown"`. Absent: what its file says, otherwise unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saw_people: Option<SawPeople>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl StartConfig {
    /// Starts from this encoder, without further settings.
    pub fn from_encoder(encoder: impl Into<PathBuf>) -> Self {
        Self {
            encoder: encoder.into(),
            backbone: None,
            part: None,
            all_parts: false,
            freeze_backbone_epochs: 0,
            saw_people: None,
        }
    }
}

/// Length, batch statistics, checkpoints and log of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Passes over the data. Either this or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Optimizer steps of the run, for recipes that count iterations; the last pass over the data may be cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Images that share batch statistics (MoCo's 32 per GPU). Must divide `batch_images`; absent: the whole
    /// batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm_images: Option<usize>,
    /// Images per forward and backward pass; gradients of all micro-batches are summed before the optimizer
    /// step. Less memory, the same step. Must divide `batch_images`; absent: the whole batch at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_images: Option<usize>,
    /// Clipping of large gradients; absent: none. DINO: `{ per_parameter_norm = 3.0 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradients: Option<ClipConfig>,
    /// Compute type of convolutions, matrix products and attention: `"bf16"`, or `"f16"` with an automatic
    /// loss scale; absent: f32. Weights, optimizer, statistics, norms and losses are always f32.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Recompute outputs of element-wise operations in the backward pass instead of storing them: less
    /// memory, more time, the same step. Outputs of convolutions, matrix products and this program's own CPU
    /// kernels are stored. Absent: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute_activations: bool,
    /// Epochs between checkpoints; the end of the run writes one too. Either this or `checkpoint_every_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_epochs: Option<usize>,
    /// Steps between checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<usize>,
    /// Minutes between checkpoints, besides those by epochs or steps: after a checkpoint, the next one is written at the first
    /// step this much later. On several devices the clock of the first one counts. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_minutes: Option<f64>,
    /// Checkpoints kept; older ones are removed. At least 1.
    pub keep_checkpoints: usize,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every_steps: usize,
    /// What an alarm does (`docs/watching.md`): `"warn"`, or `"stop"`, which ends the run with a checkpoint. Absent: warn.
    #[serde(default, skip_serializing_if = "OnAlarm::is_warn")]
    pub on_alarm: OnAlarm,
}

/// What an alarm does besides being written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnAlarm {
    /// It warns.
    #[default]
    Warn,
    /// It ends the run with a checkpoint, from which the run can be resumed: an alarm comes once.
    Stop,
}

impl OnAlarm {
    fn is_warn(&self) -> bool {
        *self == Self::Warn
    }
}

impl TrainingConfig {
    /// Optimizer steps of the run, with so many of them in a pass over the data.
    pub fn total_steps(&self, steps_per_epoch: usize) -> usize {
        let of_epochs = self.epochs.unwrap_or(0).saturating_mul(steps_per_epoch);
        self.steps.unwrap_or(of_epochs)
    }

    /// Turns the length into this many epochs, each with a checkpoint and every step a line of the log: for a trial.
    pub fn for_smoke_test(&mut self, epochs: usize, batch_images: usize) {
        (self.epochs, self.steps) = (Some(epochs), None);
        (self.checkpoint_every_epochs, self.checkpoint_every_steps) = (Some(1), None);
        self.checkpoint_every_minutes = None;
        self.log_every_steps = 1;
        for images in [&mut self.batch_norm_images, &mut self.micro_batch_images] {
            *images = images.map(|_| batch_images / 2);
        }
    }

    /// Steps between checkpoints.
    pub(crate) fn checkpoint_steps(&self, steps_per_epoch: usize) -> usize {
        let of_epochs = self.checkpoint_every_epochs.unwrap_or(1);
        self.checkpoint_every_steps
            .unwrap_or(of_epochs.saturating_mul(steps_per_epoch))
    }
}

/// The config section that an objective's crate defines.
pub trait ObjectiveSection: Serialize + Sized {
    /// Gives an error for values that the objective cannot use, or that contradict the rest of `config`,
    /// whose own keys are valid.
    ///
    /// # Errors
    /// The key, its valid range and its value.
    fn validate(config: &Config<Self>) -> Result<(), String>;

    /// The keys of the section that count epochs, steps or images, with their full names.
    fn counts(&self) -> Vec<Count> {
        vec![]
    }

    /// How pictures with their objects become views, for objectives that take them in place of `[[views]]`.
    fn object_views(&self) -> Option<data::ObjectViews> {
        None
    }

    /// Steps between calls of the callback of [`train`](crate::train()), which is also called after the last step;
    /// `None`: it is called at the end of each epoch.
    fn evaluate_every_steps(&self) -> Option<usize> {
        None
    }
}

impl<O: ObjectiveSection> Config<O> {
    /// Gives an error that names the key if the config contradicts itself, including the objective's section.
    /// [`train`](crate::train()) checks the dependencies on data and device, and calls this function too.
    ///
    /// # Errors
    /// The key, its valid range and its value.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_own(self.objective.object_views())?;
        O::validate(self)
    }

    /// Gives an error if the run is too short for what one of its keys says, such as a warmup that never ends.
    /// For new runs only: one that earlier versions began continues.
    ///
    /// # Errors
    /// The key, its valid range, its value, and what would happen.
    pub fn validate_length(&self) -> Result<(), String> {
        match self.training.epochs {
            Some(epochs) => check_epochs(&self.counts(), epochs),
            // Known only with the data: how many epochs these steps are.
            None => Ok(()),
        }
    }

    /// What a run on `records` photographs would warn of: keys that take less effect than their values say.
    ///
    /// # Errors
    /// Keys that could take no effect at all.
    pub fn warnings(&self, records: usize) -> Result<Vec<String>, String> {
        let batch_images = self.data.batch_images.max(1);
        let steps_per_epoch = (records / batch_images).max(1);
        let steps = self.training.total_steps(steps_per_epoch);
        let run = RunLength {
            epochs: steps.div_ceil(steps_per_epoch),
            steps,
            steps_per_epoch,
            records,
            batch_images,
        };
        check_counts(&self.counts(), &run)
    }

    /// Epochs that the run needs at least for each of its keys to take effect, whatever the data.
    pub fn epochs_needed(&self) -> usize {
        let of_counts = self.counts().iter().map(Count::epochs_needed).max();
        of_counts.unwrap_or(0).max(self.schedule.epochs_needed())
    }

    /// Every key that counts epochs, steps or images. Keys that [`validate`](Self::validate) holds against
    /// others, such as `data.batch_images`, are not among them.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let training = &self.training;
        let only_one = "the only checkpoint is that of the end, or of Ctrl-C";
        // With others by the clock there are more.
        let alone = training.checkpoint_every_minutes.is_none();
        let of_epochs = training
            .checkpoint_every_epochs
            .filter(|_| alone)
            .map(|epochs| Count::every_epochs("training.checkpoint_every_epochs", epochs, only_one));
        let of_steps = training
            .checkpoint_every_steps
            .filter(|_| alone)
            .map(|steps| Count::every_steps("training.checkpoint_every_steps", steps, only_one));
        let mut counts: Vec<Count> = of_epochs.into_iter().chain(of_steps).collect();
        counts.push(Count::every_steps(
            "training.log_every_steps",
            training.log_every_steps,
            "the log has one line, at the end",
        ));
        if let Some(start) = self
            .start
            .as_ref()
            .filter(|start| start.freeze_backbone_epochs > 0)
        {
            counts.push(Count::phase(
                "start.freeze_backbone_epochs",
                start.freeze_backbone_epochs,
                "the backbone never learns",
            ));
        }
        counts.extend(self.schedule.counts());
        counts.extend(self.objective.counts());
        counts
    }
}

impl<O> Config<O> {
    /// Photographs that go through the networks together on each of `ranks` devices: a micro-batch, or a device's part of
    /// the batch.
    pub fn pass_images(&self, ranks: usize) -> usize {
        let images = (self.data.batch_images / ranks.max(1)).max(1);
        self.training.micro_batch_images.unwrap_or(images).min(images)
    }

    /// Validates the keys of this crate.
    fn validate_own(&self, object_views: Option<data::ObjectViews>) -> Result<(), String> {
        let positive = |name: &str, value: usize| {
            if value == 0 {
                Err(format!("`{name}` must be at least 1, got 0"))
            } else {
                Ok(())
            }
        };
        self.data.validate()?;
        if let Some(start) = self
            .start
            .as_ref()
            .filter(|start| start.encoder.as_os_str().is_empty())
        {
            return Err(format!(
                "`start.encoder` must name an encoder, got `{}`",
                start.encoder.display()
            ));
        }
        let training = &self.training;
        let exactly_one = |what: &str, epochs: (&str, Option<usize>), steps: (&str, Option<usize>)| match (
            epochs.1, steps.1,
        ) {
            (Some(value), None) => positive(&format!("training.{}", epochs.0), value),
            (None, Some(value)) => positive(&format!("training.{}", steps.0), value),
            (given, _) => Err(format!(
                "`training.{}` or `training.{}` must give {what}, got {}",
                epochs.0,
                steps.0,
                if given.is_some() { "both" } else { "neither" }
            )),
        };
        exactly_one(
            "the length of the run",
            ("epochs", training.epochs),
            ("steps", training.steps),
        )?;
        exactly_one(
            "the interval of checkpoints",
            ("checkpoint_every_epochs", training.checkpoint_every_epochs),
            ("checkpoint_every_steps", training.checkpoint_every_steps),
        )?;
        if let Some(minutes) = training.checkpoint_every_minutes
            && !(minutes.is_finite() && minutes > 0.0)
        {
            return Err(format!(
                "`training.checkpoint_every_minutes` must be finite and above 0, got {minutes}"
            ));
        }
        positive("training.keep_checkpoints", self.training.keep_checkpoints)?;
        positive("training.log_every_steps", self.training.log_every_steps)?;
        if let Some(images) = self.training.batch_norm_images {
            // A single image with one position per channel would have no statistics.
            if images < 2 || !self.data.batch_images.is_multiple_of(images) {
                return Err(format!(
                    "`training.batch_norm_images` must be at least 2 and divide `data.batch_images` ({}), got {images}",
                    self.data.batch_images
                ));
            }
        }
        if let Some(images) = self.training.micro_batch_images {
            if images == 0 || !self.data.batch_images.is_multiple_of(images) {
                return Err(format!(
                    "`training.micro_batch_images` must divide `data.batch_images` ({}), got {images}",
                    self.data.batch_images
                ));
            }
            if let Some(group) = self.training.batch_norm_images
                && !images.is_multiple_of(group)
            {
                return Err(format!(
                    "`training.batch_norm_images` must divide `training.micro_batch_images` ({images}), got {group}"
                ));
            }
        }
        if let Some(clip) = &self.training.clip_gradients {
            clip.validate()?;
        }
        match object_views {
            // The objective's section checks them: it knows their keys.
            Some(_) => {}
            None if self.views.is_empty() => {
                return Err("`views` must describe at least one view group, got none".into());
            }
            None => {}
        }
        for (index, group) in self.views.iter().enumerate() {
            let (count, transforms) = (
                format!("views.{index}.count"),
                format!("views.{index}.transforms"),
            );
            group.validate_at(&count, &transforms)?;
        }
        self.backbone.validate()?;
        for (index, (width, height)) in dataset_views(&self.views).into_iter().enumerate() {
            self.backbone
                .check_input(height as usize, width as usize)
                .map_err(|reason| format!("`views.{index}.transforms`: {reason}"))?;
        }
        self.optimizer.validate("optimizer")?;
        self.schedule.validate("schedule", self.training.epochs)
    }
}

/// The side lengths (width, height) of each view group's images, for a validated config.
pub fn dataset_views(views: &[data::ViewGroup]) -> Vec<(u32, u32)> {
    views.iter().filter_map(data::ViewGroup::output_px).collect()
}
