//! A step that failed in; what its replay needs out, in the run directory: its records and draws, and the checkpoint before it.
//!
//! When a loss is read, the weights are some steps further: they are kept as the checkpoint before the step, from which the steps
//! between are computed again, to the same bits on the CPU. Weights of every step would take the memory of a second network.

use super::plan::Plan;
use super::run_directory::RunDirectory;
use crate::checkpoint::{self, CheckpointDir};
use crate::error::Error;
use crate::hint::Captured;
use crate::objective::Objective;
use data::{FileError, durable};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder in a run directory; there is one, of the newest failure. It has `checkpoints` as a run directory does.
pub(super) const FOLDER: &str = "failed-step";
const FILE: &str = "step.json";

/// A step without finite values.
pub(super) struct Failed {
    /// Counted from 1, as in `metrics.jsonl`.
    pub(super) step: usize,
    /// Its loss, or the last finite one; `None` where none was read.
    pub(super) loss: Option<f32>,
    pub(super) learning_rate: f64,
}

/// `step.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Counted from 1, as in `metrics.jsonl`.
    pub(super) step: usize,
    /// In words, because JSON has no NaN.
    loss: Option<String>,
    learning_rate: f64,
    /// The epoch, from 0; all draws are functions of seed, epoch or step, and a record's place.
    epoch: usize,
    seed: u64,
    /// Steps done in the checkpoint that is kept; `None`: the steps begin with initial weights.
    checkpoint_step: Option<usize>,
    /// Position in the data set and key of each image, in the batch's order; on several devices those of rank 0.
    records: Vec<(u64, String)>,
}

/// Keeps a failed step, on rank 0 of a run that can be replayed. A failure to do so costs a warning: the run ends with the error
/// of its step.
pub(super) fn capture<O: Objective, C: Serialize>(
    plan: &Plan<'_, O, C>,
    directory: &RunDirectory,
    failed: &Failed,
) -> Option<Captured> {
    let run = directory.to_write().filter(|_| plan.options.keep_failed_step)?;
    let kept = keep(plan, run, failed).inspect_err(|error| {
        tracing::warn!("step {} cannot be kept for a replay: {error}", failed.step);
    });
    Some(Captured {
        run: run.clone(),
        file: kept.ok()?,
    })
}

fn keep<O: Objective, C: Serialize>(
    plan: &Plan<'_, O, C>,
    run: &Path,
    failed: &Failed,
) -> Result<PathBuf, Error> {
    let before = nearest(run, failed.step - 1)?;
    let path = run.join(FOLDER);
    let folder = durable::Folder::create(&path)?;
    if let Some(before) = &before
        && let Some(name) = before.path.file_name()
    {
        link(&before.path, &folder.path().join("checkpoints").join(name))?;
    }
    let progress = plan.progress(failed.step - 1);
    let kept = Kept {
        step: failed.step,
        loss: failed.loss.map(|loss| loss.to_string()),
        learning_rate: failed.learning_rate,
        epoch: progress.epoch(),
        seed: plan.config.seed,
        checkpoint_step: before.map(|before| before.step),
        records: records(plan, failed.step - 1)?,
    };
    durable::write_json(&folder.path().join(FILE), &kept)?;
    folder.replace()?;
    Ok(path.join(FILE))
}

/// Position and key of each image of a step.
fn records<O: Objective, C>(plan: &Plan<'_, O, C>, step: usize) -> Result<Vec<(u64, String)>, Error> {
    let Some(batch) = plan.loader.batches(step, step + 1).next() else {
        return Ok(vec![]);
    };
    let positions = batch?.positions.into_iter();
    let keyed = positions.map(|position| Ok((position, plan.dataset.key(position as usize)?)));
    keyed.collect()
}

/// The step that a run directory keeps, if there is one.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub(super) fn kept(run: &Path) -> Result<Option<Kept>, Error> {
    let path = run.join(FOLDER).join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new("read", &path)(error).into()),
    };
    let kept = serde_json::from_slice(&text);
    kept.map(Some).map_err(|error| Error::FailedStepDamaged {
        path,
        reason: error.to_string(),
    })
}

/// The newest checkpoint of at most so many steps, of the run or of the step that it keeps.
///
/// # Errors
/// Folders that cannot be listed.
pub(super) fn nearest(run: &Path, done: usize) -> Result<Option<CheckpointDir>, Error> {
    let mut all = checkpoint::list_checkpoints(run)?;
    all.extend(checkpoint::list_checkpoints(&run.join(FOLDER))?);
    let before = all.into_iter().filter(|checkpoint| checkpoint.step <= done);
    Ok(before.max_by_key(|checkpoint| checkpoint.step))
}

/// A folder's files under another name, without a copy where the file system has links: checkpoints are never changed.
fn link(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::create_dir_all(to).map_err(FileError::new("create", to))?;
    for entry in fs::read_dir(from).map_err(FileError::new("list", from))? {
        let entry = entry.map_err(FileError::new("list", from))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if fs::hard_link(&old, &new).is_err() {
            fs::copy(&old, &new).map_err(FileError::new("copy", &old))?;
        }
    }
    Ok(())
}
