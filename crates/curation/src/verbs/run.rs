//! The chain: the source, then each stage in the config's order, each resuming where the ledger ends.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::bounded;

use crate::config::Config;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Funnel, LISTING, Ledger, SOURCE_ID, StageRow};
use crate::photo::Row;
use crate::progress::Progress;
use crate::settings::changes;
use crate::sources::{self, Position};
use crate::stages::Work;
use crate::stages::detect::{Detectors, check_weights, weights_sha256};

/// The name of the source in the ledger, as stage number 1.
pub(crate) const SOURCE: &str = "source";
/// Rows in one transaction: enough to make commits cheap, few enough that a kill loses a second of work.
const ROWS_PER_TRANSACTION: usize = 50_000;

/// The settings of a run.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// Run only this stage (`source` is one too); the stages before it must be done.
    pub only: Option<&'a str>,
    /// First remove the decisions of this stage and of all later ones.
    pub redo: Option<&'a str>,
    /// When it turns true, the run ends after the current transaction.
    pub stop: &'a AtomicBool,
    /// The detectors of the stages that detect people; [`NoDetectors`](crate::NoDetectors) where there are
    /// none.
    pub detectors: &'a dyn Detectors,
    /// Called during the work.
    pub progress: Progress<'a>,
}

/// Runs the stages of a curation in `folder` that are not done.
///
/// # Errors
/// [`Error::Interrupted`] when `stop` turns true; settings that changed, sources that cannot be read, a
/// ledger that cannot be written. Decisions made so far are kept.
pub fn run(config: &Config, folder: &Path, options: RunOptions<'_>) -> Result<(), Error> {
    config.validate()?;
    let config = config.clone().with_absolute_paths()?;
    let mut names = vec![SOURCE];
    names.extend(config.stages.iter().map(|stage| stage.name()));
    let known = |name: &str| {
        names
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| Error::Stage {
                stage: name.to_string(),
                reason: format!("not in the config, which has {}", names.join(", ")),
                hint: None,
            })
    };
    let only = options.only.map(known).transpose()?;
    let redo = options.redo.map(known).transpose()?;
    let mut ledger = Ledger::open(folder)?;
    let text = toml::to_string(&config)
        .map_err(|error| Error::config("config", format!("cannot be written: {error}")))?;
    // Every error that can be known in advance is reported before any decision is removed.
    let plan = Plan {
        config: &config,
        folder,
        names: &names,
        last: only.unwrap_or(config.stages.len()),
        forgotten: redo.map_or(i64::MAX, |redo| redo as i64 + SOURCE_ID),
    };
    check_files(&ledger, &plan)?;
    let undecided = check_settings(&ledger, &plan)?;
    if let Some(only) = only {
        check_order(&ledger, &plan, only, options.redo)?;
    }
    if let Some(redo) = redo {
        check_means(&ledger, &plan, options.detectors)?;
        ledger.forget_from(redo as i64 + SOURCE_ID)?;
    }
    if let Some(stage) = undecided {
        ledger.forget_from(stage)?;
    }
    say_of_release(&ledger, &config, folder);
    let path = folder.join("config.toml");
    data::durable::write(&path, text.as_bytes())?;
    ledger.set_fact("config", &text)?;

    for (at, name) in names.iter().enumerate() {
        let stage = at as i64 + SOURCE_ID;
        let done = ledger.stage(name)?.is_some_and(|row| row.done);
        match only {
            Some(only) if at > only => break,
            _ if done => continue,
            _ => {}
        }
        let started = Instant::now();
        let result = match at {
            0 => list_source(&config, &mut ledger, &options),
            _ => run_stage(&config, folder, &mut ledger, at, &options),
        };
        // The time counts even if the stage was interrupted.
        ledger.add_seconds(stage, started.elapsed().as_secs_f64())?;
        result?;
        let (kept, dropped) = ledger.finish_stage(stage)?;
        tracing::info!("{name}: {kept} kept, {dropped} dropped");
        if kept == 0 && dropped > 0 {
            let reasons = reasons(&ledger.funnel()?, name);
            tracing::warn!("stage `{name}` dropped every photo that it received: {reasons}");
        }
    }
    Ok(())
}

/// Warns of every text of `[release]` that differs from the last run's: another config may lack what was set.
fn say_of_release(ledger: &Ledger, config: &Config, folder: &Path) {
    let Ok(before) = Config::of(ledger, folder) else {
        return;
    };
    let value = |config: &Config| serde_json::to_value(&config.release).unwrap_or_default();
    let changes = changes(&value(&before).to_string(), &value(config));
    if !changes.is_empty() {
        let changes: Vec<String> = changes.iter().map(|change| format!("release.{change}")).collect();
        tracing::warn!(
            "the next release differs from the config of the last run: {}",
            changes.join(", ")
        );
    }
}

/// Why a stage dropped photos: `no_licence 250, no_photographer 1`.
fn reasons(funnel: &Funnel, stage: &str) -> String {
    let stage = funnel.stages.iter().find(|known| known.name == stage);
    let reasons = stage.map(|stage| stage.reasons.as_slice()).unwrap_or_default();
    let counts: Vec<String> = reasons
        .iter()
        .map(|count| format!("{} {}", count.reason, count.photos))
        .collect();
    counts.join(", ")
}

/// The settings of each stage, as the ledger keeps them.
fn settings(config: &Config, at: usize) -> Result<serde_json::Value, Error> {
    if at == 0 {
        return sources::identity(&config.source);
    }
    let stage = &config.stages[at - 1];
    let sha256 = stage
        .weights()
        .map(|path| weights_sha256(stage.name(), path))
        .transpose()?;
    Ok(stage.settings(sha256.as_deref()))
}

/// Whether settings in the ledger are those of a stage whose weights file no longer exists.
fn same_without_weights(config: &Config, at: usize, known: &str) -> bool {
    let mut known: serde_json::Value = serde_json::from_str(known).unwrap_or_default();
    let stage = &config.stages[at - 1];
    if let Some(settings) = known
        .get_mut(stage.name())
        .and_then(|value| value.as_object_mut())
    {
        settings.remove("weights_sha256");
    }
    changes(&known.to_string(), &stage.settings(None)).is_empty()
}

/// The plan of a run.
struct Plan<'a> {
    config: &'a Config,
    folder: &'a Path,
    /// Of the source and all stages.
    names: &'a [&'a str],
    /// The last stage that runs.
    last: usize,
    /// Number of the first stage whose decisions are removed.
    forgotten: i64,
}

impl Plan<'_> {
    /// Whether stage `at` is done and stays done.
    fn stays_done(&self, ledger: &Ledger, at: usize) -> Result<bool, Error> {
        let stays = (at as i64 + SOURCE_ID) < self.forgotten;
        Ok(stays && ledger.stage(self.names[at])?.is_some_and(|row| row.done))
    }
}

/// A stage that runs alone needs all stages before it.
fn check_order(ledger: &Ledger, plan: &Plan<'_>, only: usize, redo: Option<&str>) -> Result<(), Error> {
    for (at, name) in plan.names[..only].iter().enumerate() {
        if plan.stays_done(ledger, at)? {
            continue;
        }
        let undone = at as i64 + SOURCE_ID >= plan.forgotten;
        return Err(Error::Stage {
            stage: plan.names[only].to_string(),
            reason: match redo.filter(|_| undone) {
                Some(redo) => {
                    format!("`{name}` comes before it and would not be done once `{redo}` decides again")
                }
                None => format!("`{name}` comes before it and is not done"),
            },
            hint: Some(match undone {
                true => Hint::RunAllStages,
                false => Hint::RunStageFirst {
                    stage: (*name).to_string(),
                },
            }),
        });
    }
    Ok(())
}

/// Whether the stages that will run have their inputs: a source, photos, loadable weights.
fn check_means(ledger: &Ledger, plan: &Plan<'_>, detectors: &dyn Detectors) -> Result<(), Error> {
    for at in 0..=plan.last {
        if plan.stays_done(ledger, at)? {
            continue;
        }
        if at == 0 {
            sources::open(&plan.config.source, plan.config.licenses(), Position::default())?;
            continue;
        }
        let stage = &plan.config.stages[at - 1];
        if stage.looks_at_photos() {
            plan.config.photos(plan.folder)?.check()?;
        }
        stage.build(detectors)?;
    }
    Ok(())
}

/// Whether the files that the stages to come name can be opened: all that cannot are reported at once.
fn check_files(ledger: &Ledger, plan: &Plan<'_>) -> Result<(), Error> {
    let mut unread = Vec::new();
    for at in 0..=plan.last {
        // Decisions outlive the files that they were made with.
        if plan.stays_done(ledger, at)? {
            continue;
        }
        match at {
            0 => unread.extend(sources::unread(&plan.config.source)),
            _ => {
                let stage = &plan.config.stages[at - 1];
                let weights = stage.weights();
                unread.extend(weights.and_then(|path| check_weights(stage.name(), path).err()));
            }
        }
    }
    match (unread.pop(), unread.is_empty()) {
        (None, _) => Ok(()),
        (Some(error), true) => Err(error),
        (Some(error), false) => {
            unread.push(error);
            Err(Error::Unread(unread))
        }
    }
}

/// Decisions made with other settings, or in another order, must not be mixed with new ones. Stages up to the
/// last one of the plan will run, so their inputs are checked now instead of after days of fetching.
///
/// Returns the number of a stage that has begun with other settings and decided nothing, such as a source whose
/// name was misspelled: it begins again.
fn check_settings(ledger: &Ledger, plan: &Plan<'_>) -> Result<Option<i64>, Error> {
    let Plan {
        config,
        last,
        forgotten,
        ..
    } = *plan;
    let mut undecided = None;
    for at in 0..=config.stages.len() {
        let name = match at {
            0 => SOURCE,
            _ => config.stages[at - 1].name(),
        };
        let id = at as i64 + SOURCE_ID;
        let in_place = ledger.stage_within(id..forgotten.min(id + 1))?;
        let known = ledger.stage(name)?.filter(|row| row.id < forgotten);
        match (in_place, known) {
            (None, None) => {
                if at <= last {
                    settings(config, at)?;
                }
            }
            (Some(other), _) if other != name => {
                return Err(Error::Moved {
                    stage: name.to_string(),
                    place: id,
                    was: other,
                });
            }
            (_, Some(row)) if at > 0 && decided_nothing(&row, ledger.counts(row.id)?) => {
                if at <= last {
                    settings(config, at)?;
                }
            }
            (_, Some(row)) => {
                let now = match settings(config, at) {
                    // A list that was read whole may be deleted; its settings must stay the same.
                    Err(Error::List { .. })
                        if row.done
                            && at == 0
                            && sources::same_without_files(&config.source, &row.settings) =>
                    {
                        continue;
                    }
                    Err(Error::Stage { .. })
                        if row.done && at > 0 && same_without_weights(config, at, &row.settings) =>
                    {
                        continue;
                    }
                    now => now?,
                };
                let changes = changes(&row.settings, &now);
                if !changes.is_empty()
                    && !row.done
                    && row.position.is_none()
                    && ledger.counts(row.id)? == (0, 0)
                {
                    undecided = undecided.or(Some(row.id));
                } else if !changes.is_empty() {
                    return Err(Error::Changed {
                        stage: name.to_string(),
                        changes,
                    });
                }
            }
            (Some(_), None) => {}
        }
    }
    // No count would include stages beyond the end of a shortened config.
    let beyond = ledger.stage_within(config.stages.len() as i64 + SOURCE_ID + 1..forgotten)?;
    match beyond {
        None => Ok(undecided),
        Some(stage) => Err(Error::Stage {
            stage,
            reason: "it has decided on photos, but the config no longer has it".to_string(),
            hint: Some(Hint::RestoreStage),
        }),
    }
}

/// Whether a stage has begun and decided on nothing, as `review` while it waits: its settings may change.
fn decided_nothing(row: &StageRow, (kept, dropped): (u64, u64)) -> bool {
    !row.done && kept + dropped == 0
}

fn run_stage(
    config: &Config,
    folder: &Path,
    ledger: &mut Ledger,
    at: usize,
    options: &RunOptions<'_>,
) -> Result<(), Error> {
    let stage_config = &config.stages[at - 1];
    let (name, id) = (stage_config.name(), at as i64 + SOURCE_ID);
    let mut stage = stage_config.build(options.detectors)?;
    let (total, _) = ledger.counts(id - 1)?;
    let (kept, dropped) = ledger.counts(id)?;
    match ledger.stage(name)? {
        None => ledger.add_stage(id, name, &settings(config, at)?.to_string())?,
        Some(row) if decided_nothing(&row, (kept, dropped)) => {
            ledger.set_settings(id, &settings(config, at)?.to_string())?;
        }
        Some(_) => {}
    }
    let photos = config.photos(folder)?;
    if stage_config.looks_at_photos() {
        photos.check()?;
    }
    (options.progress)(name, kept + dropped, total);
    stage.run(&mut Work {
        ledger,
        name,
        stage: id,
        previous: id - 1,
        cursor: 0,
        decided: kept + dropped,
        total,
        photos: &photos,
        stop: options.stop,
        progress: options.progress,
    })
}

/// Reads the source into the ledger: one thread reads rows, this one writes them.
fn list_source(config: &Config, ledger: &mut Ledger, options: &RunOptions<'_>) -> Result<(), Error> {
    let position = ledger.stage(SOURCE)?.and_then(|row| row.position);
    let from: Position = match position {
        None => Position::default(),
        Some(text) => serde_json::from_str(&text).map_err(|error| Error::Stage {
            stage: SOURCE.to_string(),
            reason: format!("its position in the ledger is damaged: {error}"),
            hint: Some(Hint::Redo {
                stage: SOURCE.to_string(),
            }),
        })?,
    };
    // A source that cannot be opened leaves no settings in the ledger.
    let mut rows = sources::open(&config.source, config.licenses(), from)?;
    if ledger.stage(SOURCE)?.is_none() {
        ledger.add_stage(SOURCE_ID, SOURCE, &settings(config, 0)?.to_string())?;
    }
    let (send, receive) = bounded::<Result<(Vec<Row>, Position), Error>>(8);
    let listing = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                let mut batch = Vec::with_capacity(ROWS_PER_TRANSACTION / 16);
                let mut end = false;
                while batch.len() < batch.capacity() && !end {
                    match rows.next() {
                        Ok(Some(row)) => batch.push(row),
                        Ok(None) => end = true,
                        Err(error) => {
                            let _ = send.send(Err(error));
                            return rows.listing();
                        }
                    }
                }
                // The receiver no longer exists when the run was interrupted.
                if send.send(Ok((batch, rows.position()))).is_err() || end {
                    return rows.listing();
                }
            }
        });
        // Dropped when this closure ends, which lets the reader end too.
        let receive = receive;
        let mut open = true;
        while open {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let listed = ledger.transaction(|ledger| {
                let mut taken = 0;
                let mut last = None;
                while taken < ROWS_PER_TRANSACTION {
                    let Ok(message) = receive.recv() else {
                        open = false;
                        break;
                    };
                    let (batch, position) = message?;
                    taken += batch.len();
                    ledger.add_rows(&batch)?;
                    last = Some(position);
                }
                if let Some(position) = &last {
                    let text = serde_json::to_string(position).unwrap_or_default();
                    ledger.set_position(SOURCE_ID, &text)?;
                }
                Ok(last.map_or(0, |position| position.rows))
            })?;
            (options.progress)(SOURCE, listed.max(0) as u64, 0);
        }
        Ok::<_, Error>(reader.join().unwrap_or_default())
    })?;
    listing.warn(&config.source.place());
    let text = serde_json::to_string(&listing).unwrap_or_default();
    ledger.set_fact(LISTING, &text)?;
    ledger.drop_repeated_keys()
}
