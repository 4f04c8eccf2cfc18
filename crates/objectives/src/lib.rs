//! Backbone in, loss out: one file a self-supervised method, and the list of them.
//!
//! A new method is one file here, its `mod` line, one variant and one arm below, and one config under
//! `configs/pretrain/`. The conformance suite (`conformance.rs`) tells when it is done.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod barlow_twins;
pub mod byol;
mod checks;
#[cfg(test)]
mod conformance;
pub mod dino;
#[cfg(test)]
mod formula;
#[cfg(test)]
mod grid;
pub mod head;
pub mod ibot;
pub mod mae;
pub mod moco;
pub mod moco_cld;
pub mod moco_v3;
pub mod simclr;
pub mod simsiam;
pub mod swav;
pub mod vicreg;

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use training::{Config, Dataset, Error, Event, Objective, RunOptions, Summary, dataset_views};

/// The self-supervised method of a config. TOML: one table, e.g. `[objective.moco]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveConfig {
    /// Redundancy reduction between the dimensions of two views.
    BarlowTwins(barlow_twins::Config),
    /// Prediction of a slowly moving teacher.
    Byol(byol::Config),
    /// Self-distillation with no labels.
    Dino(dino::Config),
    /// Self-distillation with no labels, with hidden patches.
    Ibot(ibot::Config),
    /// Masked autoencoders.
    Mae(mae::Config),
    /// Momentum contrast, versions 1 and 2.
    Moco(moco::Config),
    /// Momentum contrast, version 2, with cross-level discrimination.
    MocoCld(moco_cld::Config),
    /// Momentum contrast, version 3: negatives from the batch.
    MocoV3(moco_v3::Config),
    /// Contrast within the batch.
    Simclr(simclr::Config),
    /// Prediction of the other view, with a stopped gradient and no teacher.
    Simsiam(simsiam::Config),
    /// Swapped assignments to prototypes.
    Swav(swav::Config),
    /// Variance, invariance, covariance.
    Vicreg(vicreg::Config),
}

impl ObjectiveConfig {
    /// The method's name, as in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BarlowTwins(_) => "barlow_twins",
            Self::Byol(_) => "byol",
            Self::Dino(_) => "dino",
            Self::Ibot(_) => "ibot",
            Self::Mae(_) => "mae",
            Self::Moco(_) => "moco",
            Self::MocoCld(_) => "moco_cld",
            Self::MocoV3(_) => "moco_v3",
            Self::Simclr(_) => "simclr",
            Self::Simsiam(_) => "simsiam",
            Self::Swav(_) => "swav",
            Self::Vicreg(_) => "vicreg",
        }
    }

    /// Refuses numbers with which the method makes no sense, or that do not fit the rest of the config.
    pub fn validate(config: &Config<Self>) -> Result<(), String> {
        let batch_images = config.data.batch_images;
        let backbone = &config.backbone;
        match &config.objective {
            Self::BarlowTwins(barlow) => barlow.validate(),
            Self::Byol(byol) => byol.validate(),
            Self::Dino(dino) => dino.validate(batch_images),
            Self::Ibot(ibot) => ibot.validate(batch_images, backbone),
            Self::Mae(mae) => mae.validate(backbone, &dataset_views(&config.views)),
            Self::Moco(moco) => moco.validate(batch_images),
            Self::MocoCld(moco) => moco.validate(batch_images),
            Self::MocoV3(moco) => moco.validate(batch_images, backbone),
            Self::Simclr(simclr) => simclr.validate(),
            Self::Simsiam(simsiam) => simsiam.validate(),
            Self::Swav(swav) => swav.validate(batch_images),
            Self::Vicreg(vicreg) => vicreg.validate(),
        }
    }

    /// The config of a two-step trial with `batch_images` images: all but what must follow the batch stays.
    pub fn for_smoke_test(&mut self, batch_images: usize) {
        match self {
            Self::Moco(moco) => moco.queue_images = batch_images * 4,
            Self::MocoCld(moco) => {
                moco.queue_images = batch_images * 4;
                moco.cluster_images = moco.cluster_images.map(|_| batch_images / 2);
            }
            Self::Swav(swav) => {
                if let Some(queue) = &mut swav.queue {
                    queue.images = batch_images * 2;
                }
            }
            Self::BarlowTwins(_)
            | Self::Byol(_)
            | Self::Dino(_)
            | Self::Ibot(_)
            | Self::Mae(_)
            | Self::MocoV3(_)
            | Self::Simclr(_)
            | Self::Simsiam(_)
            | Self::Vicreg(_) => {}
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
    let backbone = config.backbone.clone();
    let run = Run {
        config,
        dataset,
        options,
        observe,
    };
    match config.objective.clone() {
        ObjectiveConfig::BarlowTwins(own) => run.with(&barlow_twins::BarlowTwins::new(own, backbone)),
        ObjectiveConfig::Byol(own) => run.with(&byol::Byol::new(own, backbone)),
        ObjectiveConfig::Dino(own) => run.with(&dino::Dino::new(own, backbone)),
        ObjectiveConfig::Ibot(own) => run.with(&ibot::Ibot::new(own, backbone)),
        ObjectiveConfig::Mae(own) => run.with(&mae::Mae::new(own, backbone)),
        ObjectiveConfig::Moco(own) => run.with(&moco::Moco::new(own, backbone)),
        ObjectiveConfig::MocoCld(own) => run.with(&moco_cld::MocoCld::new(own, backbone)),
        ObjectiveConfig::MocoV3(own) => run.with(&moco_v3::MocoV3::new(own, backbone)),
        ObjectiveConfig::Simclr(own) => run.with(&simclr::Simclr::new(own, backbone)),
        ObjectiveConfig::Simsiam(own) => run.with(&simsiam::Simsiam::new(own, backbone)),
        ObjectiveConfig::Swav(own) => run.with(&swav::Swav::new(own, backbone)),
        ObjectiveConfig::Vicreg(own) => run.with(&vicreg::Vicreg::new(own, backbone)),
    }
}

/// The arguments of [`training::pretrain`] but the objective.
struct Run<'a> {
    config: &'a Config<ObjectiveConfig>,
    dataset: Arc<Dataset>,
    options: &'a RunOptions,
    observe: &'a mut dyn FnMut(Event<'_>),
}

impl Run<'_> {
    fn with<O: Objective>(self, objective: &O) -> Result<Summary, Error> {
        training::pretrain(objective, self.config, self.dataset, self.options, self.observe)
    }
}
