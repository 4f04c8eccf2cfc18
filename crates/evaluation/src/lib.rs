//! An encoder in, scores out.
//!
//! [`run`] takes an encoder and two labeled data sets through the protocols of a [`Config`]. A protocol is one file of
//! `protocols/`; `protocols/knn.rs` is the place to start reading. What each protocol is, and which published numbers its
//! scores may be compared with, is in `docs/protocols.md`.
//!
//! ```text
//! encoder/    a frozen network and its taps, the places that features are read at
//! features/   features of a data set: computed, resumed, written, read, cached
//! task/       features of both splits with checked labels
//! solvers/    kNN, k-means, SVM, L-BFGS, linear classifiers: rows in, a fit out
//! protocols/  one file per protocol, and their list
//! run/        one evaluation: config, checks, `result.json`
//! report/     one evaluation as an HTML page
//! suite/      many evaluations and their table
//! runs/       training runs side by side as an HTML page
//! finetune/   the one kind of protocol in which the encoder learns
//! ```
//!
//! This crate knows no self-supervised method: its inputs are an [`Encoder`] and records.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod config;
mod encoder;
mod error;
mod features;
pub mod finetune;
mod overlap;
mod progress;
pub mod protocols;
mod report;
mod result;
mod run;
pub mod runs;
pub mod solvers;
mod split;
pub mod suite;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[path = "../../../scripts/parity/wave.rs"]
mod wave;

pub use config::Config;
pub use encoder::{Encoder, Input, POOLED, PretrainedOn, Tap, weights_hash};
pub use error::{Error, Hint, SliceFault};
pub use features::{
    Extraction, FeatureCache, FeatureType, Features, Labels, Matrix, Origin, Records, Scaling,
    SeenInPretraining, Slice, UNDECIDED, Unfinished, Writing, Written, check_keys_for_npy, write_npy,
    write_parquet,
};
pub use overlap::{ByPixels, Compared, Overlap, Pretraining, PretrainingSample};
pub use progress::Event;
pub use protocols::ProtocolConfig;
pub use result::{Outcome, Provenance, Score, Spread, read_results, write_results};
pub use run::{FeaturesJob, FeaturesScores, Job, Plan, read_features, run, run_on_features};
pub use split::Split;
pub use task::{Classes, Task};
