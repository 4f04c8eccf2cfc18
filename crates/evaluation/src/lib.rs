//! An encoder in, scores out.
//!
//! [`run`] takes an encoder and two labelled data sets through the protocols of a [`Config`]. Each protocol is one file and
//! one function; `knn` is the place to start reading. What each protocol is, and what its numbers may be compared
//! with, stands in `docs/protocols.md`.
//!
//! This crate names no self-supervised method: it sees an [`Encoder`] and records.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod agreement;
mod average_precision;
mod check;
pub mod clustering;
mod config;
pub mod diagnostics;
mod eigenvalues;
mod encoder;
mod error;
mod extract;
mod features;
mod features_file;
pub mod few_shot;
pub mod finetune;
mod head;
mod head_grid;
mod kmeans;
pub mod knn;
mod lanes;
mod lbfgs;
pub mod linear_cached;
pub mod linear_cached_grid;
pub mod linear_dinov2;
pub mod linear_moco;
pub mod linear_probe;
pub mod linear_vissl;
pub mod logistic;
mod one_vs_rest;
#[cfg(test)]
mod parity;
mod partial;
mod progress;
pub mod report;
mod result;
pub mod retrieval;
mod run;
mod scores;
mod softmax;
#[cfg(test)]
mod speed;
mod stage;
mod store;
mod stored_features;
pub mod suite;
mod svm;
pub mod svm_low_shot;
pub mod svm_voc07;
mod taps;
mod task;
pub mod view_diagnostics;

pub use config::{Config, Protocol};
pub use encoder::{Encoder, weights_hash};
pub use error::Error;
pub use extract::{Writing, Written, extract, extract_taps, extract_to_file};
pub use features::{Features, Labels, Matrix, Origin, POOLED, UNDECIDED};
pub use partial::{FeatureType, Unfinished, lock};
pub use progress::Event;
pub use result::{Outcome, Provenance, Score, Spread, read_results, write_results};
pub use run::{Job, Plan, run};
pub use store::{Records, Store};
pub use stored_features::{FeaturesJob, FeaturesScores, read_features, run_on_features};
pub use suite::with_causes;
pub use taps::{Input, Tap};
pub use task::{Classes, Part, Scaling, Task};
