//! What the user can do about an error of this crate, as values: the program words them, with its own flags
//! and commands.

use std::path::PathBuf;

/// What is kept of a step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The run directory.
    pub run: PathBuf,
    /// The file with the step's records and draws.
    pub file: PathBuf,
}

/// A hint for an [`Error`](crate::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A hint for a file of weights.
    Weights(weights::Hint),
    /// A hint for the file of weights that `[start]` names, whose keys stand for the options of other readers.
    WeightsOfStart(weights::Hint),
    /// Resume the run, or write to another folder.
    ResumeOrOtherFolder,
    /// Wait for the other process or end it, then resume; or write to another folder.
    WaitOrOtherFolder,
    /// Use the run's original data, or start a new run.
    RunsData,
    /// Resume with the run's own config, or start a new run.
    RunsConfig,
    /// Allow the jump, or choose a schedule that leaves the length open; or resume from this checkpoint.
    OpenLength {
        /// A checkpoint from which there is no jump, once those behind it lie elsewhere.
        unspoiled: Option<PathBuf>,
    },
    /// Say which steps to run again.
    NameSteps,
    /// Restore the missing file, or write to another folder.
    RestoreFile,
    /// Run the step that is kept again, to see where it fails; lower the learning rate or raise the temperature, and start again.
    CalmerTraining(Option<Captured>),
    /// Run the step that is kept again; compute in bf16 or f32, and start again.
    WiderPrecision(Option<Captured>),
    /// If the device ran out of memory: use smaller batches, micro-batches or bf16.
    LessMemory,
    /// Free some space, then resume.
    FreeSpace,
    /// Remove this checkpoint, then resume from the one before it.
    RemoveCheckpoint {
        /// Its folder, or a file in it.
        path: PathBuf,
    },
    /// Put `run.json` back, or write into it what the newest checkpoint knows, which is enough to resume.
    WriteFacts {
        /// The file.
        file: PathBuf,
        /// Its content, as JSON.
        facts: String,
    },
}
