//! The run directory: a new one, or one of an earlier process, whose config and data must match this run's.

use super::RunOptions;
use crate::checkpoint::{self, CheckpointDir};
use crate::config::Config;
use crate::error::Error;
use crate::later_keys;
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
        for missing in ["config.toml", "run.json"] {
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
            tracing::warn!("nothing to resume in `{}`: starting at step 0", out.display());
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
    if let Some(known) = run_fingerprint(out)?
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

/// The data set's fingerprint in `run.json`, if the file exists.
fn run_fingerprint(out: &Path) -> Result<Option<String>, Error> {
    let path = out.join("run.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path).map_err(FileError::new("read", &path))?;
    let facts: serde_json::Value = serde_json::from_slice(&text)
        .map_err(std::io::Error::from)
        .map_err(FileError::new("read", &path))?;
    let fingerprint = facts.get("fingerprint").and_then(|value| value.as_str());
    Ok(fingerprint.map(String::from))
}

#[cfg(test)]
mod tests {
    use super::*;

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
