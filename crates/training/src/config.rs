//! The config of a pretraining run: one flat TOML file, every key required, unknown keys refused.
//!
//! Generic over the objective's section, which `objectives` owns: this crate knows no method.

use crate::batch::Normalize;
use crate::optimizer::{ClipConfig, OptimizerConfig};
use crate::schedule::ScheduleConfig;
use backbones::{BackboneConfig, Precision};
use serde::{Deserialize, Serialize};

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config<O> {
    /// Seed of every draw: data order, augmentation, initial weights, masks.
    pub seed: u64,
    /// How records become batches.
    pub data: DataConfig,
    /// View groups, in the order in which the objective reads them; the first holds the global views.
    pub views: Vec<data::ViewGroup>,
    /// The network under study.
    pub backbone: BackboneConfig,
    /// The self-supervised method.
    pub objective: O,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate's course.
    pub schedule: ScheduleConfig,
    /// Length, batch statistics, checkpoints and log.
    pub training: TrainingConfig,
}

/// How records become batches: [`data::LoaderConfig`] with the two keys that only training has. The records themselves are
/// not part of a config.
///
/// The keys of a loader stand here once more because serde's `flatten` would cost errors their line and the list of keys;
/// what they may be is checked by the loader's own config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Photographs (not views) in an optimizer step. An epoch's last, incomplete batch is dropped.
    pub batch_images: usize,
    /// Threads that decode and augment; 0 does it in the training thread. The views are the same for any number.
    pub workers: usize,
    /// `"global"`, or `{ blocks = N }` for stores that hate seeks.
    pub order: data::Order,
    /// The run stops when more than this fraction (0..1) of the records cannot be decoded.
    pub max_bad_fraction: f64,
    /// Channel statistics.
    pub normalize: Normalize,
}

impl DataConfig {
    /// The part of it that every loader needs.
    pub fn loader(&self) -> data::LoaderConfig {
        data::LoaderConfig {
            batch_images: self.batch_images,
            workers: self.workers,
            max_bad_fraction: self.max_bad_fraction,
        }
    }

    /// Refuses what cannot be carried out whatever the data, naming the key.
    fn validate(&self) -> Result<(), String> {
        self.loader().validate()?;
        let order = self.order.validate();
        order.map_err(|reason| format!("`data.order` {reason}"))?;
        self.normalize.validate()
    }
}

/// Length, batch statistics, checkpoints and log of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Passes over the data.
    pub epochs: usize,
    /// Images that share batch statistics (MoCo's 32 of a GPU). Must divide `batch_images`; absent: the whole batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm_images: Option<usize>,
    /// Images that go through the networks at a time, their gradients being added up before the one step: less memory for
    /// the same step. Must divide `batch_images`; absent: the whole batch at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_images: Option<usize>,
    /// What is done to gradients that are too long; absent: nothing. DINO: `{ per_parameter_norm = 3.0 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradients: Option<ClipConfig>,
    /// What convolutions, products and attention compute in: `"bf16"`, or `"f16"`, whose loss scale moves by itself; absent:
    /// f32. Weights, optimizer, statistics, norms and losses are f32 whatever it is.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Compute what element-wise operations gave again in the backward pass in place of keeping it: less memory, more time,
    /// the same step. What convolutions, products and this program's own CPU kernels gave is kept. Absent: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute_activations: bool,
    /// A checkpoint every so many epochs, and one at the end.
    pub checkpoint_every_epochs: usize,
    /// Checkpoints kept; older ones are removed. At least 1.
    pub keep_checkpoints: usize,
    /// A line of `metrics.jsonl` every so many steps.
    pub log_every_steps: usize,
}

/// The section of a config that belongs to an objective's crate.
pub trait ObjectiveSection: Serialize + Sized {
    /// Refuses values with which the objective makes no sense, or that do not fit the rest of `config`, whose own keys are
    /// valid.
    ///
    /// # Errors
    /// The key, what it must be and what it is.
    fn validate(config: &Config<Self>) -> Result<(), String>;
}

impl<O: ObjectiveSection> Config<O> {
    /// Refuses what contradicts itself, the objective's section included, naming the key. What the data or the device decide
    /// is checked by [`train`](crate::train()), which calls this too.
    ///
    /// # Errors
    /// The key, what it must be and what it is.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_own()?;
        O::validate(self)
    }
}

impl<O> Config<O> {
    /// The keys that this crate knows.
    fn validate_own(&self) -> Result<(), String> {
        let positive = |name: &str, value: usize| {
            if value == 0 {
                Err(format!("`{name}` must be at least 1, got 0"))
            } else {
                Ok(())
            }
        };
        self.data.validate()?;
        positive("training.epochs", self.training.epochs)?;
        positive(
            "training.checkpoint_every_epochs",
            self.training.checkpoint_every_epochs,
        )?;
        positive("training.keep_checkpoints", self.training.keep_checkpoints)?;
        positive("training.log_every_steps", self.training.log_every_steps)?;
        if let Some(images) = self.training.batch_norm_images {
            // One image's statistics over one position each would be no statistics at all.
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
        if self.views.is_empty() {
            return Err("`[[views]]` must describe at least one view group, got none".into());
        }
        for (index, group) in self.views.iter().enumerate() {
            group
                .validate()
                .map_err(|reason| format!("`[[views]]` group {}: {reason}", index + 1))?;
            if group.output_px().is_none() {
                return Err(format!(
                    "`[[views]]` group {}: its transforms must end at one size for every image (add `random_resized_crop`, `center_crop` or `resize_exact`)",
                    index + 1
                ));
            }
        }
        self.backbone.validate()?;
        for (index, (width, height)) in dataset_views(&self.views).into_iter().enumerate() {
            self.backbone
                .check_input(height as usize, width as usize)
                .map_err(|reason| format!("`[[views]]` group {}: {reason}", index + 1))?;
        }
        self.optimizer.validate()?;
        self.schedule.validate(self.training.epochs)
    }
}

/// The side lengths (width, height) of each view group's images, for a validated config.
pub fn dataset_views(views: &[data::ViewGroup]) -> Vec<(u32, u32)> {
    views.iter().filter_map(data::ViewGroup::output_px).collect()
}
