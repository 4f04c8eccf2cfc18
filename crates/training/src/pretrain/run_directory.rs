//! The run directory: a new one, or one of an earlier process, whose config and data must match this run's. Its length may
//! differ.

use super::length::{self, NewLength};
use super::plan::Plan;
use crate::checkpoint::{self, CheckpointDir};
use crate::encoder::ENCODER;
use crate::error::Error;
use crate::later_keys;
use crate::objective::Objective;
use crate::run_facts::{RUN_FACTS, RunFacts};
use data::{FileError, FolderLock, LockError, VIEWS_FILE, durable};
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use weights::EncoderInfo;

/// The directory of a run, locked against other processes.
///
/// Without the lock, two processes in one run directory, e.g. after a job was queued twice, would remove each
/// other's checkpoints while writing them.
pub(crate) struct RunDirectory {
    out: PathBuf,
    /// The checkpoint to resume from.
    pub(crate) resumed: Option<CheckpointDir>,
    /// The length that the run gets now.
    pub(crate) new_length: Option<NewLength>,
    /// Whether this process writes into it.
    writes: bool,
    /// `None` for processes that do not write.
    _lock: Option<FolderLock>,
}

impl RunDirectory {
    /// Creates the directory and writes `config.toml`, or finds this config's and data's run in it.
    ///
    /// # Errors
    /// A directory in use, one that holds another run or lost the files that identify it, and files that
    /// cannot be read or written.
    pub(super) fn open<O: Objective, C: Serialize>(plan: &Plan<'_, O, C>) -> Result<Self, Error> {
        let out = plan.options.out.clone();
        let lock = FolderLock::take(&out).map_err(|error| match error {
            LockError::InUse { folder, holder } => Error::RunInUse { path: folder, holder },
            LockError::File(error) => error.into(),
        })?;
        // Leftovers of a kill during a checkpoint.
        durable::remove_leftovers(&out.join("checkpoints"))?;
        let (resumed, new_length) = resumed_from(plan)?;
        Ok(Self {
            resumed,
            new_length,
            out,
            writes: true,
            _lock: Some(lock),
        })
    }

    /// The same on another rank, which neither locks nor writes: rank 0 sends it what it resumes from.
    pub(crate) fn of_rank_0(out: &Path) -> Self {
        Self::to_read(out, None)
    }

    /// A run's directory that is only read, as from this checkpoint on.
    pub(crate) fn to_read(out: &Path, resumed: Option<CheckpointDir>) -> Self {
        Self {
            out: out.to_owned(),
            resumed,
            new_length: None,
            writes: false,
            _lock: None,
        }
    }

    /// The directory, if this process writes into it.
    pub(super) fn to_write(&self) -> Option<&PathBuf> {
        self.writes.then_some(&self.out)
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

/// The checkpoint from which a run of this config and data resumes, `None` to start at step 0; and its length, if it is new.
fn resumed_from<O: Objective, C: Serialize>(
    plan: &Plan<'_, O, C>,
) -> Result<(Option<CheckpointDir>, Option<NewLength>), Error> {
    let options = plan.options;
    let out = &options.out;
    let config_path = out.join("config.toml");
    let cannot_be_written =
        |error: toml::ser::Error| Error::Config(format!("cannot be written as TOML: {error}"));
    let now = toml::Table::try_from(plan.config).map_err(cannot_be_written)?;
    let checkpoints = checkpoint::list_checkpoints(out)?;
    let newest = checkpoints.last().cloned();
    if newest.is_some() {
        // These files identify the checkpoints; without them, checkpoints would match any run.
        for missing in ["config.toml", RUN_FACTS] {
            if !out.join(missing).exists() {
                return Err(Error::RunDamaged {
                    path: out.clone(),
                    missing,
                    facts: (missing == RUN_FACTS).then(|| known_facts(plan)).flatten(),
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
        return Ok((None, None));
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
    let comparable = length::with_length_of(before.clone(), &now);
    if let Some((key, expected, got)) = later_keys::difference(comparable, now.clone()) {
        return Err(mismatch(key, expected, got));
    }
    let facts = match (check_data(plan), &newest) {
        // The run starts at step 0 and writes the file anew.
        (Err(Error::FactsDamaged { path, reason, .. }), None) => {
            tracing::warn!("`{}` is damaged ({reason}) and is written anew", path.display());
            None
        }
        (facts, _) => facts?,
    };
    if newest.is_none() {
        tracing::warn!("`{}` has no checkpoint yet: starting at step 0", out.display());
    }
    let steps_before = length::steps_of(&before, plan.steps_per_epoch);
    let new_length = match steps_before.filter(|before| *before != plan.steps) {
        Some(before) => Some(plan.new_length(before, &checkpoints, out)?),
        None => None,
    };
    if let Some(new) = &new_length {
        let text = toml::to_string(&now).map_err(cannot_be_written)?;
        change_length(out, new, facts, &text)?;
    }
    Ok((newest, new_length))
}

/// The facts about the plan's run; `None` without the file.
///
/// # Errors
/// A file that cannot be read, or does not say whose checkpoints lie beside it.
pub(super) fn read_facts<O: Objective, C>(plan: &Plan<'_, O, C>) -> Result<Option<RunFacts>, Error> {
    let out = &plan.options.out;
    let damaged = |reason: String| Error::FactsDamaged {
        path: out.join(RUN_FACTS),
        reason,
        facts: known_facts(plan),
    };
    let facts = match RunFacts::read(out) {
        Err(error)
            if matches!(
                error.source.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            return Err(damaged(error.source.to_string()));
        }
        facts => facts?,
    };
    match &facts {
        // Without it, the checkpoints would match any data.
        Some(known) if known.fingerprint().is_none() => {
            Err(damaged("it has no `fingerprint` of the data".into()))
        }
        _ => Ok(facts),
    }
}

/// What the newest checkpoint knows of `run.json`, as JSON: its encoder file has the data's fingerprint, and what it started from.
fn known_facts<O: Objective, C>(plan: &Plan<'_, O, C>) -> Option<String> {
    let newest = checkpoint::latest_checkpoint(&plan.options.out).ok()??;
    let mut opened = crate::encoder::open_encoder(&newest.path.join(ENCODER)).ok()?;
    let opened = opened.checkpoint().ok()?;
    let info: EncoderInfo = serde_json::from_str(opened.metadata.get(data::ENCODER_KEY)?).ok()?;
    let mut facts = serde_json::json!({
        "fingerprint": info.fingerprint,
        "steps": plan.steps,
        "steps_per_epoch": plan.steps_per_epoch,
    });
    if let Some(origin) = info.origin() {
        facts["start"] = serde_json::json!({ "origin": origin });
    }
    Some(facts.to_string())
}

/// The facts about a run of the plan's data.
///
/// # Errors
/// A run of other data, and those of [`read_facts`].
pub(super) fn check_data<O: Objective, C>(plan: &Plan<'_, O, C>) -> Result<Option<RunFacts>, Error> {
    let (out, fingerprint) = (&plan.options.out, plan.dataset.fingerprint());
    let facts = read_facts(plan)?;
    match facts.as_ref().and_then(RunFacts::fingerprint) {
        Some(known) if known != fingerprint => Err(Error::ResumeMismatch {
            path: out.clone(),
            what: "data set".into(),
            expected: format!("fingerprint {known}"),
            got: fingerprint.into(),
        }),
        _ => Ok(facts),
    }
}

/// Gives a run its new length. Its earlier config, and the encoder of a run that had ended, keep a name of their own. `config.toml`
/// is written last: a process that is killed before that leaves a run that can get its new length again.
fn change_length(out: &Path, new: &NewLength, facts: Option<RunFacts>, config: &str) -> Result<(), Error> {
    let config_path = out.join("config.toml");
    let before = fs::read(&config_path).map_err(FileError::new("read", &config_path))?;
    let config_before = format!("config-of-{}-steps.toml", new.before);
    durable::write(&out.join(&config_before), &before)?;
    let encoder = out.join(ENCODER);
    if encoder.exists() {
        let kept = out.join(format!("encoder-of-{}-steps.safetensors", new.before));
        durable::rename(&encoder, &kept)?;
    }
    if let Some(facts) = facts {
        facts.with_new_length(
            new.done,
            [new.before, new.steps],
            new.jump.as_deref(),
            &config_before,
        )?;
    }
    Ok(durable::write(&config_path, config.as_bytes())?)
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

/// `run.json`: facts about the run from the program, the data and the plan.
pub(super) fn write_facts<O: Objective, C>(
    plan: &Plan<'_, O, C>,
    start: Option<serde_json::Value>,
) -> Result<(), Error> {
    let mut facts = plan.options.provenance.clone();
    if let Some(start) = start {
        facts.insert("start".into(), start);
    }
    facts.insert("fingerprint".into(), plan.dataset.fingerprint().into());
    facts.insert("records".into(), plan.dataset.len().into());
    // What became no record, or became one by a guess: the number of records alone does not tell.
    facts.insert("listing".into(), serde_json::json!(plan.dataset.listing()));
    facts.insert("steps".into(), plan.steps.into());
    facts.insert("ranks".into(), plan.options.replicas.count().into());
    facts.insert("steps_per_epoch".into(), plan.steps_per_epoch.into());
    facts.insert("peak_learning_rate".into(), plan.peak_learning_rate.into());
    Ok(durable::write_json(&plan.options.out.join(RUN_FACTS), &facts)?)
}

/// `.views.jpg`: the views of the run's first records, made in an earlier run's directory too. They are for people, so a
/// failure ends nothing.
pub(super) fn write_views<O: Objective, C>(plan: &Plan<'_, O, C>) {
    let (config, path) = (plan.config, plan.options.out.join(VIEWS_FILE));
    if config.views.is_empty() || path.exists() {
        return;
    }
    let sheet = data::contact_sheet::first_views(
        &plan.dataset,
        &config.views,
        config.data.order,
        config.seed,
        VIEWS_PIXELS,
    );
    let written = sheet.map_err(|error| error.to_string()).and_then(|sheet| {
        let jpeg = data::thumbnail::to_jpeg(&sheet, 88);
        durable::write(&path, &jpeg).map_err(|error| error.to_string())
    });
    if let Err(reason) = written {
        tracing::warn!("no picture of the views (`{VIEWS_FILE}`): {reason}");
    }
}

/// Most pixels of `.views.jpg`: about 150 kB of photographs.
const VIEWS_PIXELS: u64 = 1_000_000;

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
