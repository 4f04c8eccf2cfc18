//! How long work reports its progress.

/// Called as long work goes on, with the stage's name, what is done and what there is in all (0 where it is not known).
pub type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);
