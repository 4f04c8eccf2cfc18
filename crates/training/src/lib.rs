//! The pretraining loop and its traits: objective, optimizer, schedule, checkpoints, run log.
//!
//! Start reading at [`pretrain`](pretrain()): the loop, top to bottom. A method implements [`Objective`]; everything
//! else here serves the loop. This crate knows no method and no evaluation: the caller passes them in.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod alarm;
mod alarm_log;
mod batch;
mod cause;
mod checkpoint;
mod config;
mod counts;
mod course;
mod eigenvalues;
mod encoder;
mod error;
mod hint;
mod inspection;
mod later_keys;
mod log_gap;
mod log_line;
mod loss_scale;
mod objective;
mod optimizer;
mod pretrain;
mod released;
mod run_facts;
mod run_log;
mod schedule;
mod start;
mod tensorboard;
mod watch;
#[cfg(test)]
#[path = "../../../scripts/parity/wave.rs"]
mod wave;

pub use alarm::Alarm;
pub use alarm_log::read_alarms;
pub use backbones::{Context, Draws, Init, Precision, Replicas, RunPosition};
pub use batch::{Batch, Normalize, ViewGroupTensor};
pub use cause::{Cause, Remedy};
pub use checkpoint::{CheckpointDir, latest_checkpoint, list_checkpoints};
pub use config::{Config, DataConfig, ObjectiveSection, OnAlarm, StartConfig, TrainingConfig, dataset_views};
pub use counts::{Count, RunLength, check_counts, check_epochs};
pub use course::cosine;
pub use data::Dataset;
pub use eigenvalues::{LANES, dot, rank_me, symmetric_eigenvalues};
pub use encoder::{LoadedEncoder, UnfinishedRun, read_encoder, write_encoder};
pub use error::{Error, device_reason, ran_out_of_memory};
pub use hint::{Captured, Hint};
pub use inspection::{Content, Dtypes, Inspection, Network, TensorLine, inspect_weights};
pub use later_keys::fill_in_later_keys;
pub use log_gap::{MissingSteps, missing_in_words, missing_steps};
pub use log_line::{DeviceGauge, DeviceReading, LogLine, Metrics, read_metrics};
pub use objective::{Loss, Objective, ViewCount, Watched};
pub use optimizer::{
    Adaptation, ClipConfig, Optimizer, OptimizerConfig, ParameterRule, Rates, drop_gradients,
};
pub use pretrain::{
    AtEvaluation, Culprits, Difference, EvaluationDue, Event, Finding, NewLength, Outcome, Place, Record,
    Replayed, RunOptions, StepsToReplay, Summary, Trained, agree, check_agreement, pretrain, replay,
    share_bad_records, train,
};
pub use released::Released;
pub use schedule::{Decay, FactorWarmup, ReachesPeak, ScheduleConfig, Warmup};
pub use weights::{Origin, SawPeople};
