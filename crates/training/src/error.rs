//! What can go wrong in a run, one variant for each thing that a user can mend.

use crate::hint::Hint;
use std::path::PathBuf;

/// An error of the training crate. Messages are lowercase, name the thing, and say expected and got.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config is readable but contradicts itself or its data.
    #[error("config: {0}")]
    Config(String),

    /// Records could not be opened, read or decoded.
    #[error(transparent)]
    Data(#[from] data::Error),

    /// A file of the run directory could not be written or read.
    #[error(transparent)]
    File(#[from] data::FileError),

    /// The run directory already holds a run and it is not to be resumed.
    #[error("`{}` already holds a run (last checkpoint: {checkpoint})", path.display())]
    RunExists {
        /// The run directory.
        path: PathBuf,
        /// Its newest checkpoint, or "none".
        checkpoint: String,
    },

    /// Another process writes into the run directory.
    #[error("`{}` is in use by {holder}", path.display())]
    RunInUse {
        /// The run directory.
        path: PathBuf,
        /// The other process, as far as it is known.
        holder: String,
    },

    /// A resumed run is not the one that the config describes.
    #[error("`{}` was started with another {what}: expected {expected}, got {got}", path.display())]
    ResumeMismatch {
        /// The run directory.
        path: PathBuf,
        /// The config key, or "data set".
        what: String,
        /// The value in the run directory.
        expected: String,
        /// The value given now.
        got: String,
    },

    /// A checkpoint's content does not fit the config.
    #[error("checkpoint `{}`: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint folder or the file in it.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },

    /// An encoder file that cannot be used.
    #[error("encoder `{}`: {reason}", path.display())]
    Encoder {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The cure, where it is known.
        hint: Option<weights::Hint>,
    },

    /// The loss stopped being a number.
    #[error(
        "loss is {loss} in step {step} (learning rate {learning_rate:.3e}, last finite loss {last_finite}); {checkpoint}"
    )]
    NonFiniteLoss {
        /// NaN or an infinity.
        loss: f32,
        /// The step whose loss it is, counted from 1 as in `metrics.jsonl`.
        step: usize,
        /// The learning rate of that step.
        learning_rate: f64,
        /// The last finite loss, or "none".
        last_finite: String,
        /// Which checkpoint was kept, in words.
        checkpoint: String,
    },

    /// A run directory that lost a file which says what its checkpoints are of.
    #[error("`{}` has checkpoints and no `{missing}`, which says whose they are", path.display())]
    RunDamaged {
        /// The run directory.
        path: PathBuf,
        /// The file that it lacks.
        missing: &'static str,
    },

    /// Weights that are no longer numbers although the loss still was; no checkpoint is made of them.
    #[error(
        "`{name}` holds NaN or an infinity after step {step} (learning rate {learning_rate:.3e}); {checkpoint}"
    )]
    NonFiniteWeights {
        /// Path of the first parameter that does.
        name: String,
        /// The step, counted from 1.
        step: usize,
        /// The learning rate of that step.
        learning_rate: f64,
        /// Which checkpoint was kept, in words.
        checkpoint: String,
    },

    /// Gradients overflow f16 whatever the loss scale.
    #[error(
        "gradients are not finite in step {step} with any loss scale ({skipped} steps were skipped); {checkpoint}"
    )]
    LossScale {
        /// The step, counted from 1.
        step: usize,
        /// Steps skipped since the run's start.
        skipped: usize,
        /// Which checkpoint was kept, in words.
        checkpoint: String,
    },

    /// The device failed.
    #[error("the device failed in one of the {steps} steps before step {step}: {reason}")]
    Device {
        /// The step at which it was noticed, counted from 0: devices compute behind the loop.
        step: usize,
        /// Steps since a number was last read from it.
        steps: usize,
        /// The backend's message.
        reason: String,
    },
}

impl Error {
    /// What the user can do about it, where that is known. An error of the data has a hint of its own.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Encoder { hint, .. } => hint.clone().map(Hint::Weights),
            Self::RunExists { .. } => Some(Hint::ResumeOrOtherFolder),
            Self::RunInUse { .. } => Some(Hint::WaitOrOtherFolder),
            Self::ResumeMismatch { what, .. } if what == "data set" => Some(Hint::RunsData),
            Self::ResumeMismatch { .. } => Some(Hint::RunsConfig),
            Self::RunDamaged { .. } => Some(Hint::RestoreFile),
            Self::NonFiniteLoss { .. } | Self::NonFiniteWeights { .. } => Some(Hint::CalmerTraining),
            Self::LossScale { .. } => Some(Hint::WiderPrecision),
            Self::Device { .. } => Some(Hint::LessMemory),
            Self::File(error) if error.is_disk_full() => Some(Hint::FreeSpace),
            Self::Checkpoint { reason, .. } if reason.starts_with("damaged") => Some(Hint::RemoveCheckpoint),
            _ => None,
        }
    }
}
