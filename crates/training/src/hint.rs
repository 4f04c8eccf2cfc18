//! How a user can settle an error of this crate, as values: the program words them, with its own flags and commands.

/// The cure of an [`Error`](crate::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Of a file of weights.
    Weights(weights::Hint),
    /// Resume the run, or write to another folder.
    ResumeOrOtherFolder,
    /// Wait for the other process or end it, then resume; or write to another folder.
    WaitOrOtherFolder,
    /// Give the data that the run was started with, or start a new run.
    RunsData,
    /// Resume with the run's own config, or start a new run.
    RunsConfig,
    /// Put the missing file back, or write to another folder.
    RestoreFile,
    /// Lower the learning rate or raise the temperature, and start again.
    CalmerTraining,
    /// Compute in bf16 or f32, and start again.
    WiderPrecision,
    /// If the device ran out of memory: smaller batches, micro-batches or bf16.
    LessMemory,
    /// Free some space, then resume.
    FreeSpace,
    /// Remove this checkpoint, then resume from the one before it.
    RemoveCheckpoint,
}
