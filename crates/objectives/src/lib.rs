//! Backbone in, loss out: one file per self-supervised method, and the list of them.
//!
//! A new method is one file here, its `mod` line, its line in [the list](METHODS), and one config under
//! `configs/pretrain/`. It is finished when it passes the conformance suite (`conformance.rs`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

// The methods.
pub mod barlow_twins;
pub mod byol;
pub mod dino;
pub mod ibot;
pub mod mae;
pub mod moco;
pub mod moco_cld;
pub mod moco_v3;
pub mod simclr;
pub mod simsiam;
pub mod swav;
pub mod vicreg;

// Shared modules.
mod checks;
pub mod head;
pub mod memory;
pub mod method;
pub mod parameter_budget;
mod teacher;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod formula;
#[cfg(test)]
mod grid;
#[cfg(test)]
#[path = "../../../scripts/parity/wave.rs"]
mod wave;

pub use method::{Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape};

use backbones::{BackboneConfig, Paper};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use training::{
    Config, Count, Dataset, Error, Event, Objective, ObjectiveSection, Replayed, RunOptions, StepsToReplay,
    Summary, dataset_views,
};

/// Defines [`ObjectiveConfig`] from the list below: a variant for each method, and the matches that select a
/// config's method. All differences between methods are in their [`MethodConfig`].
macro_rules! methods {
    ($($variant:ident in $module:ident,)*) => {
        /// The self-supervised method of a config. TOML: one table, e.g. `[objective.moco]`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        pub enum ObjectiveConfig {
            $(
                #[doc = concat!("`[objective.", stringify!($module), "]`.")]
                $variant($module::Config),
            )*
        }

        /// The name of every method.
        pub const METHODS: &[&str] = &[$($module::Config::NAME),*];

        /// What to cite for a method; nothing for a name that is none.
        pub fn papers(method: &str) -> &'static [Paper] {
            match method {
                $($module::Config::NAME => $module::Config::PAPERS,)*
                _ => &[],
            }
        }

        impl ObjectiveConfig {
            /// The method's name, as in the config.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $module::Config::NAME,)* }
            }

            /// Parameter counts of the method's parts for features of this width, by the key with the largest
            /// effect.
            pub(crate) fn parameter_budget(&self, features: f64) -> Vec<(String, f64)> {
                let parts = match self { $(Self::$variant(method) => method.parameter_budget(features),)* };
                let name = self.name();
                parts.into_iter().map(|(key, numbers)| (format!("objective.{name}.{key}"), numbers)).collect()
            }

            /// What a step keeps beside weights and the backbone's activations.
            pub(crate) fn footprint(&self, step: &StepShape) -> Footprint {
                match self { $(Self::$variant(method) => method.footprint(step),)* }
            }

            /// The method's keys that count epochs, steps or images, with their full names.
            fn method_counts(&self) -> Vec<Count> {
                let counts = match self { $(Self::$variant(method) => method.counts(),)* };
                let table = format!("objective.{}", self.name());
                counts.into_iter().map(|count| count.within(&table)).collect()
            }

            /// The config of a two-step trial with `batch_images` images; only settings that count images,
            /// steps or epochs change.
            pub fn for_smoke_test(&mut self, batch_images: usize) {
                match self { $(Self::$variant(method) => method.for_smoke_test(batch_images),)* }
            }

            /// Adapts settings that count images, steps or epochs to other data, and says why each changed, with full names.
            pub fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
                let table = format!("objective.{}", self.name());
                let changes = match self { $(Self::$variant(method) => method.for_data(data),)* };
                let named = |change: Change| Change { key: format!("{table}.{}", change.key), ..change };
                changes.into_iter().map(named).collect()
            }

            /// Passes the method, on this network, to `visitor`. Both configs must be valid.
            pub fn visit<V: Visitor>(&self, backbone: &BackboneConfig, visitor: V) -> V::Output {
                let backbone = backbone.clone();
                match self.clone() {
                    $(Self::$variant(method) => visitor.visit(&method.objective(backbone)),)*
                }
            }

            fn check(&self, run: &RunShape<'_>) -> Result<(), String> {
                match self { $(Self::$variant(method) => method.check(run),)* }
            }
        }

        /// Runs a conformance suite on every method.
        #[cfg(test)]
        fn every_method_conforms(suite: &impl conformance::Suite) {
            $($module::tests::conforms(suite);)*
        }
    };
}

methods! {
    BarlowTwins in barlow_twins,
    Byol in byol,
    Dino in dino,
    Ibot in ibot,
    Mae in mae,
    Moco in moco,
    MocoCld in moco_cld,
    MocoV3 in moco_v3,
    Simclr in simclr,
    Simsiam in simsiam,
    Swav in swav,
    Vicreg in vicreg,
}

impl ObjectiveSection for ObjectiveConfig {
    fn validate(config: &Config<Self>) -> Result<(), String> {
        parameter_budget::check(config, None)?;
        config.objective.check(&RunShape {
            batch_images: config.data.batch_images,
            backbone: &config.backbone,
            views_px: &dataset_views(&config.views),
        })
    }

    fn counts(&self) -> Vec<Count> {
        self.method_counts()
    }
}

/// An action on the method that a config names.
pub trait Visitor {
    /// The result.
    type Output;
    /// The action.
    fn visit<O: Objective>(self, objective: &O) -> Self::Output;
}

/// Runs [`training::pretrain`] with the method that the config names.
///
/// # Errors
/// Those of [`training::train`], and a config that does not suit its method.
pub fn pretrain(
    config: &Config<ObjectiveConfig>,
    dataset: Arc<Dataset>,
    options: &RunOptions,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let run = Run {
        config,
        dataset,
        options,
        observe,
    };
    config.objective.visit(&config.backbone, run)
}

/// Runs [`training::replay`] with the method that the config names.
///
/// # Errors
/// Those of [`training::replay`].
pub fn replay(
    config: &Config<ObjectiveConfig>,
    dataset: Arc<Dataset>,
    options: &RunOptions,
    which: StepsToReplay,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Replayed, Error> {
    let run = Run {
        config,
        dataset,
        options,
        observe,
    };
    config.objective.visit(&config.backbone, Replay { run, which })
}

/// The arguments of [`training::replay`] without the objective.
struct Replay<'a> {
    run: Run<'a>,
    which: StepsToReplay,
}

impl Visitor for Replay<'_> {
    type Output = Result<Replayed, Error>;

    fn visit<O: Objective>(self, objective: &O) -> Self::Output {
        let Run {
            config,
            dataset,
            options,
            observe,
        } = self.run;
        training::replay(objective, config, dataset, options, self.which, observe)
    }
}

/// The arguments of [`training::pretrain`] without the objective.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_own_paper() {
        let first = METHODS.iter().map(|method| papers(method)[0].arxiv);
        let first: std::collections::BTreeSet<&str> = first.collect();
        assert_eq!(first.len(), METHODS.len());
        assert!(papers("resnet").is_empty());
    }

    /// A method's own name is the name of its table.
    #[test]
    fn a_methods_name_is_that_of_its_table() {
        let error = toml::from_str::<ObjectiveConfig>("[unknown]").unwrap_err();
        let names: Vec<String> = METHODS.iter().map(|name| format!("`{name}`")).collect();
        let listed = format!("expected one of {}", names.join(", "));
        assert!(error.to_string().contains(&listed), "{error}");
    }
}
