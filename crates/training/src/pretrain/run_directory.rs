//! The run directory: a new one, or one of an earlier process, whose config and data must match this run's.

use super::RunOptions;
use crate::checkpoint::{self, CheckpointDir};
use crate::config::Config;
use crate::error::Error;
use crate::later_keys;
use crate::run_facts::{RUN_FACTS, RunFacts};
use data::{FileError, FolderLock, LockError, durable};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of a run, locked against other processes.
///
/// Without the lock, two processes in one run directory, e.g. after a job was queued twice, would remove each
/// other's checkpoints while writing them.
pub(crate) struct RunDirectory {
    out: PathBuf,
    /// The checkpoint to resume from.
    pub(crate) resumed: Option<CheckpointDir>,
    /// `None` on ranks that do not write.
    _lock: Option<FolderLock>,
}

impl RunDirectory {
    /// Creates the directory and writes `config.toml`, or finds this config's and data's run in it.
    ///
    /// # Errors
    /// A directory in use, one that holds another run or lost the files that identify it, and files that
    /// cannot be read or written.
    pub(crate) fn open<C: Serialize>(
        config: &Config<C>,
        fingerprint: &str,
        options: &RunOptions,
    ) -> Result<Self, Error> {
        let out = options.out.clone();
        let lock = FolderLock::take(&out).map_err(|error| match error {
            LockError::InUse { folder, holder } => Error::RunInUse { path: folder, holder },
            LockError::File(error) => error.into(),
        })?;
        // Leftovers of a kill during a checkpoint.
        durable::remove_leftovers(&out.join("checkpoints"))?;
        Ok(Self {
            resumed: resumed_from(config, fingerprint, options)?,
            out,
            _lock: Some(lock),
        })
    }

    /// The same on another rank, which neither locks nor writes: rank 0 sends it what it resumes from.
    pub(crate) fn of_rank_0(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            resumed: None,
            _lock: None,
        }
    }

    /// The remaining checkpoint, for a message about a failed step.
    pub(crate) fn checkpoint_left(&self) -> String {
        match checkpoint::latest_checkpoint(&self.out) {
            Ok(Some(newest)) => format!(
                "the checkpoint before it, `{}`, is as it was",
                newest.path.display()
            ),
            _ => "there is no checkpoint before it".into(),
        }
    }
}

/// The checkpoint from which a run of this config and data resumes; `None` to start at step 0.
fn resumed_from<C: Serialize>(
    config: &Config<C>,
    fingerprint: &str,
    options: &RunOptions,
) -> Result<Option<CheckpointDir>, Error> {
    let out = &options.out;
    let config_path = out.join("config.toml");
    let cannot_be_written =
        |error: toml::ser::Error| Error::Config(format!("cannot be written as TOML: {error}"));
    let now = toml::Table::try_from(config).map_err(cannot_be_written)?;
    let newest = checkpoint::latest_checkpoint(out)?;
    if newest.is_some() {
        // These files identify the checkpoints; without them, checkpoints would match any run.
        for missing in ["config.toml", RUN_FACTS] {
            if !out.join(missing).exists() {
                return Err(Error::RunDamaged {
                    path: out.clone(),
                    missing,
                });
            }
        }
    }
    if !config_path.exists() {
        if options.resume {
            tracing::warn!(
                "there is no run to resume in `{}`: a new one starts there at step 0{}",
                out.display(),
                runs_beside(out)
            );
        }
        let text = toml::to_string(&now).map_err(cannot_be_written)?;
        durable::write(&config_path, text.as_bytes())?;
        return Ok(None);
    }
    if !options.resume {
        let checkpoint = newest.map_or("none".into(), |checkpoint| format!("step {}", checkpoint.step));
        return Err(Error::RunExists {
            path: out.clone(),
            checkpoint,
        });
    }
    let mismatch = |what: String, expected: String, got: String| Error::ResumeMismatch {
        path: out.clone(),
        what,
        expected,
        got,
    };
    let text = fs::read_to_string(&config_path).map_err(FileError::new("read", &config_path))?;
    let before: toml::Table = text
        .parse()
        .map_err(|error| Error::Config(format!("`{}`: {error}", config_path.display())))?;
    if let Some((key, expected, got)) = later_keys::difference(before, now) {
        return Err(mismatch(key, expected, got));
    }
    let facts = RunFacts::read(out)?;
    if let Some(known) = facts.as_ref().and_then(RunFacts::fingerprint)
        && known != fingerprint
    {
        let expected = format!("fingerprint {known}");
        return Err(mismatch("data set".into(), expected, fingerprint.into()));
    }
    if newest.is_none() {
        tracing::warn!("`{}` has no checkpoint yet: starting at step 0", out.display());
    }
    Ok(newest)
}

/// `; runs with checkpoints beside it: …`, three at most, those of the nearest names first: the name may be mistyped. Empty if there are none.
fn runs_beside(out: &Path) -> String {
    const SHOWN: usize = 3;
    let folder = match out.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return String::new(),
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_run = |path: &PathBuf| {
        path.file_name() != out.file_name()
            && path.join(RUN_FACTS).is_file()
            && checkpoint::latest_checkpoint(path).is_ok_and(|newest| newest.is_some())
    };
    let wanted = out.file_name().unwrap_or_default().to_string_lossy();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(is_run)
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort_by_cached_key(|name| (data::names::distance(name, &wanted), name.clone()));
    let mut names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(SHOWN);
    match names.is_empty() {
        true => String::new(),
        false => format!("; runs with checkpoints beside it: {}{more}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_told_which_runs_lie_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("mien");
        fs::create_dir(&out).unwrap();
        assert_eq!(runs_beside(&out), "");
        for name in ["mine", "b", "c", "d"] {
            let run = folder.path().join(name);
            fs::create_dir_all(run.join("checkpoints/step-00000004")).unwrap();
            fs::write(run.join(RUN_FACTS), "{}").unwrap();
        }
        // Without a checkpoint there is nothing to resume.
        fs::create_dir(folder.path().join("photos")).unwrap();
        assert_eq!(
            runs_beside(&out),
            "; runs with checkpoints beside it: `mine`, `b`, `c` and 1 more"
        );
    }

    #[test]
    fn a_run_directory_takes_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let held = FolderLock::take(&out).unwrap();
        assert!(matches!(FolderLock::take(&out), Err(LockError::InUse { .. })));
        drop(held);
        let _lock = FolderLock::take(&out).unwrap();
    }
}
