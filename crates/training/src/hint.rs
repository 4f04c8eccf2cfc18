//! What the user can do about an error of this crate, as values: the program words them, with its own flags
//! and commands.

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
    /// Restore the missing file, or write to another folder.
    RestoreFile,
    /// Lower the learning rate or raise the temperature, and start again.
    CalmerTraining,
    /// Compute in bf16 or f32, and start again.
    WiderPrecision,
    /// If the device ran out of memory: use smaller batches, micro-batches or bf16.
    LessMemory,
    /// Free some space, then resume.
    FreeSpace,
    /// Remove this checkpoint, then resume from the one before it.
    RemoveCheckpoint,
}
