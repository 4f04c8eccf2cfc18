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
pub mod memory;
pub mod moco;
pub mod moco_cld;
pub mod moco_v3;
pub mod simclr;
pub mod simsiam;
pub mod swav;
mod teacher;
pub mod vicreg;

use backbones::BackboneConfig;
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
        memory::check(config, None)?;
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

    /// Numbers that the method's parts take behind features of this width, by the key that says how many.
    pub(crate) fn sizes(&self, features: f64) -> Vec<(&'static str, f64)> {
        match self {
            Self::BarlowTwins(own) => own.sizes(features),
            Self::Byol(own) => own.sizes(features),
            Self::Dino(own) => own.sizes(features),
            Self::Ibot(own) => own.sizes(features),
            Self::Mae(own) => own.sizes(features),
            Self::Moco(own) => own.sizes(features),
            Self::MocoCld(own) => own.sizes(features),
            Self::MocoV3(own) => own.sizes(features),
            Self::Simclr(own) => own.sizes(features),
            Self::Simsiam(own) => own.sizes(features),
            Self::Swav(own) => own.sizes(features),
            Self::Vicreg(own) => own.sizes(features),
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

/// Something that is done with whichever method a config names.
pub trait Visitor {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<O: Objective>(self, objective: &O) -> Self::Output;
}

impl ObjectiveConfig {
    /// Shows the method, on this network, to `visitor`. Both configs were validated.
    pub fn visit<V: Visitor>(&self, backbone: &BackboneConfig, visitor: V) -> V::Output {
        let backbone = backbone.clone();
        match self.clone() {
            Self::BarlowTwins(own) => visitor.visit(&barlow_twins::BarlowTwins::new(own, backbone)),
            Self::Byol(own) => visitor.visit(&byol::Byol::new(own, backbone)),
            Self::Dino(own) => visitor.visit(&dino::Dino::new(own, backbone)),
            Self::Ibot(own) => visitor.visit(&ibot::Ibot::new(own, backbone)),
            Self::Mae(own) => visitor.visit(&mae::Mae::new(own, backbone)),
            Self::Moco(own) => visitor.visit(&moco::Moco::new(own, backbone)),
            Self::MocoCld(own) => visitor.visit(&moco_cld::MocoCld::new(own, backbone)),
            Self::MocoV3(own) => visitor.visit(&moco_v3::MocoV3::new(own, backbone)),
            Self::Simclr(own) => visitor.visit(&simclr::Simclr::new(own, backbone)),
            Self::Simsiam(own) => visitor.visit(&simsiam::Simsiam::new(own, backbone)),
            Self::Swav(own) => visitor.visit(&swav::Swav::new(own, backbone)),
            Self::Vicreg(own) => visitor.visit(&vicreg::Vicreg::new(own, backbone)),
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
    let run = Run {
        config,
        dataset,
        options,
        observe,
    };
    config.objective.visit(&config.backbone, run)
}

/// The arguments of [`training::pretrain`] but the objective.
struct Run<'a> {
    config: &'a Config<ObjectiveConfig>,
    dataset: Arc<Dataset>,
    options: &'a RunOptions,
    observe: &'a mut dyn FnMut(Event<'_>),
}

impl Visitor for Run<'_> {
    type Output = Result<Summary, Error>;

    fn visit<O: Objective>(self, objective: &O) -> Self::Output {
        training::pretrain(objective, self.config, self.dataset, self.options, self.observe)
    }
}
