//! Errors of a run, one variant for each problem that a user can fix.

use crate::hint::{Captured, Hint};
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

    /// The run directory already holds a run, and resuming was not requested.
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
        /// The other process, as far as known.
        holder: String,
    },

    /// The run to resume differs from the config.
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

    /// The run to resume gets another length, and its steps so far would have been others.
    #[error(
        "`{}` has done {done} of {before} steps, and a run of {steps} would have had other rates in them: the next step has a jump, {jump}",
        path.display()
    )]
    ResumeLength {
        /// The run directory.
        path: PathBuf,
        /// Optimizer steps of the run until now.
        before: usize,
        /// Optimizer steps of the run from now on.
        steps: usize,
        /// Optimizer steps done.
        done: usize,
        /// What jumps, in words.
        jump: String,
        /// The newest checkpoint whose steps have the same rates in a run of the new length.
        unspoiled: Option<PathBuf>,
    },

    /// A replay of a run that keeps no failed step.
    #[error("`{}` keeps no step that failed", path.display())]
    NoFailedStep {
        /// The run directory.
        path: PathBuf,
    },

    /// A checkpoint's content does not fit the config.
    #[error("checkpoint `{}`: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint folder or the file in it.
        path: PathBuf,
        /// The mismatch.
        reason: String,
    },

    /// An encoder file that cannot be used.
    #[error("encoder `{}`: {reason}", path.display())]
    Encoder {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
        /// The hint, if known.
        hint: Option<weights::Hint>,
    },

    /// The encoder that `[start]` names cannot be used.
    #[error("`start.encoder`: {0}")]
    Start(Box<Error>),

    /// The loss became NaN or infinite.
    #[error(
        "loss is {loss} in step {step} (learning rate {learning_rate:.3e}, last finite loss {last_finite}); {checkpoint}{}",
        in_words(capture)
    )]
    NonFiniteLoss {
        /// NaN or an infinity.
        loss: f32,
        /// The step of that loss, counted from 1 as in `metrics.jsonl`.
        step: usize,
        /// The learning rate of that step.
        learning_rate: f64,
        /// The last finite loss, or "none".
        last_finite: String,
        /// The checkpoint that was kept, in words.
        checkpoint: String,
        /// What is kept of the step; `None` if it could not be written.
        capture: Option<Captured>,
    },

    /// A run directory that lost a file which identifies its checkpoints.
    #[error("`{}` has checkpoints and no `{missing}`, which says whose they are", path.display())]
    RunDamaged {
        /// The run directory.
        path: PathBuf,
        /// The missing file.
        missing: &'static str,
        /// If it is `run.json`: what the newest checkpoint knows of its content, as JSON.
        facts: Option<String>,
    },

    /// A `run.json` that does not say whose checkpoints lie beside it.
    #[error("`{}` is damaged: {reason}", path.display())]
    FactsDamaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
        /// What the newest checkpoint knows of its content, as JSON.
        facts: Option<String>,
    },

    /// The record of a step that failed is damaged.
    #[error("`{}` is damaged: {reason}", path.display())]
    FailedStepDamaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// Weights with NaN or infinity despite a finite loss; no checkpoint is written.
    #[error(
        "`{name}` holds NaN or an infinity after step {step} (learning rate {learning_rate:.3e}); {checkpoint}{}",
        in_words(capture)
    )]
    NonFiniteWeights {
        /// Path of the first such parameter.
        name: String,
        /// The step, counted from 1.
        step: usize,
        /// The learning rate of that step.
        learning_rate: f64,
        /// The checkpoint that was kept, in words.
        checkpoint: String,
        /// What is kept of the step; `None` if it could not be written.
        capture: Option<Captured>,
    },

    /// Gradients overflow f16 at any loss scale.
    #[error(
        "gradients are not finite in step {step} with any loss scale ({skipped} steps were skipped); {checkpoint}{}",
        in_words(capture)
    )]
    LossScale {
        /// The step, counted from 1.
        step: usize,
        /// Steps skipped since the run's start.
        skipped: usize,
        /// The checkpoint that was kept, in words.
        checkpoint: String,
        /// What is kept of the step; `None` if it could not be written.
        capture: Option<Captured>,
    },

    /// A rank that trains something else.
    #[error("rank {rank} has another {what} than rank 0: expected {expected}, got {got}")]
    RanksDiffer {
        /// "config", "program" or "data set".
        what: String,
        /// The rank that differs.
        rank: usize,
        /// Rank 0's.
        expected: String,
        /// That rank's.
        got: String,
    },

    /// Another rank failed, and reports why: this one only ends.
    #[error("rank {rank} failed; its message says why")]
    OtherRank {
        /// The rank that reports the error.
        rank: usize,
    },

    /// The device failed.
    #[error("the device failed in one of the {steps} steps before step {step}: {reason}")]
    Device {
        /// The step at which the failure was noticed, counted from 0: devices run asynchronously.
        step: usize,
        /// Steps since a value was last read from it.
        steps: usize,
        /// The backend's message.
        reason: String,
    },
}

/// The end of a message about a step.
fn in_words(capture: &Option<Captured>) -> String {
    capture.as_ref().map_or(String::new(), |capture| {
        format!("; what the step had is kept in `{}`", capture.file.display())
    })
}

impl Error {
    /// What the user can do about it, if known. An error of the data has its own hint.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Encoder { hint, .. } => hint.clone().map(Hint::Weights),
            Self::Start(error) => match error.hint() {
                Some(Hint::Weights(hint)) => Some(Hint::WeightsOfStart(hint)),
                hint => hint,
            },
            Self::RunExists { .. } => Some(Hint::ResumeOrOtherFolder),
            Self::RunInUse { .. } => Some(Hint::WaitOrOtherFolder),
            Self::ResumeMismatch { what, .. } if what == "data set" => Some(Hint::RunsData),
            Self::ResumeMismatch { .. } => Some(Hint::RunsConfig),
            Self::ResumeLength { unspoiled, .. } => Some(Hint::OpenLength {
                unspoiled: unspoiled.clone(),
            }),
            Self::NoFailedStep { .. } | Self::FailedStepDamaged { .. } => Some(Hint::NameSteps),
            Self::RunDamaged { path, missing, facts } => Some(match facts {
                Some(facts) => Hint::WriteFacts {
                    file: path.join(missing),
                    facts: facts.clone(),
                },
                None => Hint::RestoreFile,
            }),
            Self::FactsDamaged { path, facts, .. } => Some(match facts {
                Some(facts) => Hint::WriteFacts {
                    file: path.clone(),
                    facts: facts.clone(),
                },
                None => Hint::RestoreFile,
            }),
            Self::NonFiniteLoss { capture, .. } | Self::NonFiniteWeights { capture, .. } => {
                Some(Hint::CalmerTraining(capture.clone()))
            }
            Self::LossScale { capture, .. } => Some(Hint::WiderPrecision(capture.clone())),
            Self::Device { reason, .. } if ran_out_of_memory(reason) => Some(Hint::LessMemory),
            Self::File(error) if error.is_disk_full() => Some(Hint::FreeSpace),
            Self::Checkpoint { path, reason } if reason.starts_with("damaged") => {
                Some(Hint::RemoveCheckpoint { path: path.clone() })
            }
            _ => None,
        }
    }
}

/// Whether a device's message says that its memory ran out, in the words of Burn's backends: they have no type for it that reaches
/// the reader of a tensor.
pub fn ran_out_of_memory(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "out of device memory",
        "out-of-memory",
        "out of memory",
        "out_of_memory",
        "can't allocate buffer",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// What a device's message says in one line: the root cause where its memory ran out, else its lines without those that only lead
/// from one failure to the next, and without backtraces and kernels' sources.
pub fn device_reason(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    if let Some(line) = lines.clone().find(|line| ran_out_of_memory(line)) {
        return line.into();
    }
    let leads = |line: &str| {
        line == "Caused by:" || line == "Several failures at once" || line.starts_with("skipped `")
    };
    let ends = |line: &str| {
        let numbered = line
            .split_once(':')
            .is_some_and(|(number, _)| number.parse::<usize>().is_ok());
        numbered
            || line.to_ascii_lowercase().starts_with("backtrace")
            || line.starts_with("No backtrace")
            || line.starts_with("[Source]")
    };
    let kept = lines.filter(|line| !leads(line)).take_while(|line| !ends(line));
    kept.take(6).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_message_becomes_one_line() {
        let memory = "An error happened during execution\nCaused by:\n  Several failures at once\nCaused by:\n  The bytes were never \
                      written (failure #1)\n  skipped `ReduceKernel`: it needed memory\nCaused by:\n  out of device memory allocating 64 \
                      bytes\nBacktrace:\nNo backtrace available";
        assert_eq!(device_reason(memory), "out of device memory allocating 64 bytes");
        assert!(ran_out_of_memory(memory));
        let other = "An error happened\nCaused by:\n  an illegal address\n   0: first\n   1: second";
        assert_eq!(device_reason(other), "An error happened; an illegal address");
        assert!(!ran_out_of_memory(other));
    }
}
