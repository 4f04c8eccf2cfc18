//! Backbone in, loss out: one file a self-supervised method, and the list of them.
//!
//! A new method is one file here, its `mod` line, one variant and one arm below, and one config under
//! `configs/pretrain/`. The conformance suite (`conformance.rs`) tells when it is done.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod formula;
pub mod head;
pub mod mae;
pub mod moco;
pub mod moco_cld;
pub mod moco_v3;
pub mod swav;

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use training::{Config, Dataset, Error, Event, RunOptions, Summary, dataset_views};

/// The self-supervised method of a config. TOML: one table, e.g. `[objective.moco]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveConfig {
    /// Masked autoencoders.
    Mae(mae::Config),
    /// Momentum contrast, versions 1 and 2.
    Moco(moco::Config),
    /// Swapped assignments to prototypes.
    Swav(swav::Config),
    /// Momentum contrast, version 2, with cross-level discrimination.
    MocoCld(moco_cld::Config),
    /// Momentum contrast, version 3: negatives from the batch.
    MocoV3(moco_v3::Config),
}

impl ObjectiveConfig {
    /// The method's name, as in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mae(_) => "mae",
            Self::Moco(_) => "moco",
            Self::Swav(_) => "swav",
            Self::MocoCld(_) => "moco_cld",
            Self::MocoV3(_) => "moco_v3",
        }
    }

    /// Refuses numbers with which the method makes no sense, or that do not fit the rest of the config.
    pub fn validate(config: &Config<Self>) -> Result<(), String> {
        let batch_images = config.data.batch_images;
        let backbone = &config.backbone;
        match &config.objective {
            Self::Mae(mae) => mae.validate(backbone, &dataset_views(&config.views)),
            Self::Moco(moco) => moco.validate(batch_images),
            Self::Swav(swav) => swav.validate(batch_images),
            Self::MocoCld(moco) => moco.validate(batch_images),
            Self::MocoV3(moco) => moco.validate(batch_images, backbone),
        }
    }

    /// The config of a two-step trial with `batch_images` images: all but what must follow the batch stays.
    pub fn for_smoke_test(&mut self, batch_images: usize) {
        match self {
            Self::Moco(moco) => moco.queue_images = batch_images * 4,
            Self::Swav(swav) => {
                if let Some(queue) = &mut swav.queue {
                    queue.images = batch_images * 2;
                }
            }
            Self::MocoCld(moco) => {
                moco.queue_images = batch_images * 4;
                moco.cluster_images = moco.cluster_images.map(|_| batch_images / 2);
            }
            Self::Mae(_) | Self::MocoV3(_) => {}
        }
    }
}

/// Runs [`training::pretrain`] with the method that the config names.
pub fn pretrain(
    config: &Config<ObjectiveConfig>,
    dataset: Arc<Dataset>,
    options: &RunOptions,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    ObjectiveConfig::validate(config).map_err(Error::Config)?;
    match &config.objective {
        ObjectiveConfig::Mae(mae) => {
            let objective = mae::Mae::new(mae.clone(), config.backbone.clone());
            training::pretrain(&objective, config, dataset, options, observe)
        }
        ObjectiveConfig::Moco(moco) => {
            let objective = moco::Moco::new(moco.clone(), config.backbone.clone());
            training::pretrain(&objective, config, dataset, options, observe)
        }
        ObjectiveConfig::Swav(swav) => {
            let objective = swav::Swav::new(swav.clone(), config.backbone.clone());
            training::pretrain(&objective, config, dataset, options, observe)
        }
        ObjectiveConfig::MocoCld(moco) => {
            let objective = moco_cld::MocoCld::new(moco.clone(), config.backbone.clone());
            training::pretrain(&objective, config, dataset, options, observe)
        }
        ObjectiveConfig::MocoV3(moco) => {
            let objective = moco_v3::MocoV3::new(moco.clone(), config.backbone.clone());
            training::pretrain(&objective, config, dataset, options, observe)
        }
    }
}
