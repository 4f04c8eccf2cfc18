//! The interface of a method's file beside its objective: the name of its table, the check of its values, its parameter
//! counts, and the changes for a smoke test.

use backbones::{BackboneConfig, VitConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use training::Objective;

/// A self-supervised method, as its table `[objective.NAME]`. One file implements it together with the [`Objective`] that it
/// makes, and `lib.rs` lists it: that is all a method takes.
pub trait MethodConfig: Clone + DeserializeOwned + Serialize {
    /// Name of the table, and of the method in logs and encoder files: the variant of
    /// [`ObjectiveConfig`](crate::ObjectiveConfig) in snake case.
    const NAME: &'static str;

    /// What is trained.
    type Objective: Objective;

    /// The objective of this config, which was validated, on a network.
    fn objective(self, backbone: BackboneConfig) -> Self::Objective;

    /// Refuses values with which the method makes no sense, or that do not fit the rest of the run.
    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid>;

    /// How many numbers the method's parts hold behind features of this width, by the key of the table that says it most.
    /// Parameters and queues, roughly; a teacher is not counted. No memory is taken.
    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)>;

    /// Changes what must follow the batch, for two steps of `batch_images` images. Most methods have nothing to change.
    fn for_smoke_test(&mut self, _batch_images: usize) {}

    /// [`validate`](Self::validate), with the message that a user reads.
    ///
    /// # Errors
    /// The key, what it must be and what it is.
    fn check(&self, run: &RunShape<'_>) -> Result<(), String> {
        self.validate(run).map_err(|invalid| invalid.message(Self::NAME))
    }
}

/// What of the rest of a run's config a method must fit.
#[derive(Clone, Copy, Debug)]
pub struct RunShape<'a> {
    /// Photographs in an optimizer step.
    pub batch_images: usize,
    /// The network under study.
    pub backbone: &'a BackboneConfig,
    /// Width and height of each view group's images.
    pub views_px: &'a [(u32, u32)],
}

/// Why a method refuses a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A key of the method's own table, and what it must be: `must be at least 1, got 0`.
    Key {
        /// Within the table: `head.prototypes`.
        key: String,
        /// What it must be, and what it is.
        reason: String,
    },
    /// Something of the rest of the config, in whole: `` `data.batch_images` must be at least 2, got 1 ``.
    Run(String),
}

impl Invalid {
    /// A key of the method's table and what is wrong with it.
    pub(crate) fn key(key: &str, reason: impl Into<String>) -> Self {
        Self::Key {
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    /// The same of a table within the method's table, `table`.
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

/// The run's vision transformer; other networks are refused, `why` being what `method` needs of one.
pub(crate) fn needs_vit<'a>(run: &RunShape<'a>, method: &str, why: &str) -> Result<&'a VitConfig, Invalid> {
    match run.backbone {
        BackboneConfig::Vit(vit) => Ok(vit),
        other => Err(Invalid::Run(format!(
            "`backbone` must be `[backbone.vit]` for `objective.{method}`, {why}, got {}",
            other.name()
        ))),
    }
}
