//! How long work reports its progress.

/// Called during long work, with the stage's name, the count done so far and the total (0 where it is
/// unknown).
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);
