//! A run directory in; some of its steps again, compared with its log, and the first step without finite values, out.
//!
//! The steps are the loop's own phases. Nothing in the run directory changes, except that a step that it keeps gets the weights
//! before it.

use super::capture::{self, FOLDER};
use super::diagnosis::{Culprits, Finding, Place, Suspect, passes_are_finite};
use super::plan::Plan;
use super::run_directory::RunDirectory;
use super::step::Run;
use super::{Event, RunOptions};
use crate::checkpoint::{self, tensors_not_finite};
use crate::config::{Config, ObjectiveSection};
use crate::error::Error;
use crate::log_line::{LogLine, read_metrics};
use crate::objective::Objective;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Steps to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepsToReplay {
    /// Those up to the step that failed, which the run directory keeps.
    Failed,
    /// Those from the nearest checkpoint to this one, counted from 1.
    UpTo(usize),
    /// The first so many, from the run's start.
    First(usize),
}

/// A line of the log whose replay has other numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The step of the line.
    pub step: usize,
    /// The first key that differs: `loss`, or a signal.
    pub key: String,
    /// The run's value; `None` for one that is not finite, or missing.
    pub logged: Option<f64>,
    /// The replay's.
    pub replayed: Option<f64>,
}

/// Steps that were run again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// Optimizer steps that the run had done where the replay began.
    pub from: usize,
    /// Optimizer steps that the run had done where it ended.
    pub to: usize,
    /// Lines of the log that were compared.
    pub lines: usize,
    /// Lines that the log should have and does not: nothing is known of their steps.
    pub not_logged: usize,
    /// Those with other bits, in their order.
    pub differences: Vec<Difference>,
    /// The largest difference of a line's loss, relative to the run's.
    pub largest_loss_difference: f64,
    /// The first step without finite values; the replay ends there.
    pub finding: Option<Finding>,
    /// Whether the user interrupted it.
    pub interrupted: bool,
}

/// Runs steps of the run in `options.out` again, on one device.
///
/// # Errors
/// Those of [`train`](super::train), a run directory without such steps, and data of another run.
pub fn replay<O: Objective, C: ObjectiveSection>(
    objective: &O,
    config: &Config<C>,
    dataset: Arc<data::Dataset>,
    options: &RunOptions,
    which: StepsToReplay,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Replayed, Error> {
    // The run has warned of its settings, most of which mean nothing to a replay: it writes no checkpoint and no log.
    let silent = tracing::subscriber::NoSubscriber::default();
    let plan = tracing::subscriber::with_default(silent, || Plan::new(objective, config, dataset, options))?;
    let run_path = &options.out;
    super::run_directory::check_data(&plan)?;
    let last = last_step(run_path, which)?;
    if last == 0 || last > plan.steps {
        return Err(Error::Config(format!(
            "the step to replay must be from 1 to the run's {}, got {last}",
            plan.steps
        )));
    }
    let log = read_metrics(run_path)?;

    // The state at the nearest checkpoint, or at the run's start.
    let nearest = match which {
        StepsToReplay::First(_) => None,
        _ => capture::nearest(run_path, last - 1)?,
    };
    let started = match &nearest {
        Some(_) => None,
        None => plan.start_encoder()?,
    };
    let directory = RunDirectory::to_read(run_path, nearest);
    let mut run = Run::start(&plan, &directory, started)?;
    let mut replayed = Replayed {
        from: run.done,
        to: run.done,
        lines: 0,
        not_logged: 0,
        differences: vec![],
        largest_loss_difference: 0.0,
        finding: None,
        interrupted: false,
    };
    observe(Event::Start {
        step: run.done,
        steps: last,
        steps_per_epoch: plan.steps_per_epoch,
        peak_learning_rate: plan.peak_learning_rate,
    });

    let mut batches = plan.loader.batches(run.done, last);
    while run.done < last && !options.stop.load(Ordering::Relaxed) {
        let (views, waited_seconds) = plan.next_views(&mut batches, run.done)?;
        let (positions, batch) = (views.positions.clone(), plan.upload(views));
        let (student, state) = (run.student.clone(), run.state.clone());
        let passes = run.passes(&plan, batch.clone());

        // A step without finite values ends the replay; f16 skips it as long as another loss scale may help.
        let losses = passes.losses.iter().map(|loss| loss.total.clone());
        let finite = passes_are_finite(losses, &passes.gradients, &student).and_then(|finite| {
            // A layer behind a weight may hide that it is no number.
            Ok(finite && checkpoint::not_finite(&student, &state)?.is_none())
        });
        let finite = finite.map_err(|reason| run.device_failed(reason))?;
        if run.fails_if_not_finite() && !finite {
            let suspect = Suspect {
                plan: &plan,
                student: &student,
                state: &state,
                done: run.done,
                batch,
                positions,
                loss_scale: run.loss_scale_value(),
            };
            replayed.finding = Some(suspect.examine()?);
            keep_weights(&run, &plan, &student, &state);
            break;
        }

        run = run.update(&plan, &directory, passes, waited_seconds)?;
        observe(Event::Step { step: run.done });
        if plan.due(run.done, false).line {
            run.read_scalars(&plan, &directory)?;
            if let Some(line) = run.write_line(&plan)? {
                replayed.compare(&line, log.lines.iter().find(|logged| logged.step == line.step));
            }
        }
        replayed.to = run.done;
    }
    // The last step's passes were finite, and its update may not have been.
    if replayed.finding.is_none() && run.done == last {
        let names = tensors_not_finite(&run.student, &run.state);
        let names = names.map_err(|reason| run.device_failed(reason))?;
        replayed.finding = (!names.is_empty()).then(|| Finding {
            step: last + 1,
            place: Place::Weights { names },
            records: Culprits::Any,
        });
    }
    replayed.interrupted = replayed.finding.is_none() && run.done < last;
    Ok(replayed)
}

/// The last step to run.
fn last_step(run: &Path, which: StepsToReplay) -> Result<usize, Error> {
    match which {
        StepsToReplay::UpTo(step) | StepsToReplay::First(step) => Ok(step),
        StepsToReplay::Failed => match capture::kept(run)? {
            Some(kept) => Ok(kept.step),
            None => Err(Error::NoFailedStep { path: run.to_owned() }),
        },
    }
}

/// Writes the networks before the step beside those that the run keeps, so that the next replay begins there.
fn keep_weights<O: Objective, C: ObjectiveSection>(
    run: &Run<O>,
    plan: &Plan<'_, O, C>,
    student: &O::Student,
    state: &O::State,
) {
    let folder = plan.options.out.join(FOLDER);
    if !folder.is_dir() {
        return;
    }
    let written = run.save_as(plan, &folder, student, state);
    if let Err(error) = written {
        tracing::warn!("the weights before the step are not kept: {error}");
    }
}

impl Replayed {
    /// Compares a line with the run's, without the fields that a clock gives.
    fn compare(&mut self, line: &LogLine, logged: Option<&LogLine>) {
        let Some(logged) = logged else {
            self.not_logged += 1;
            return;
        };
        self.lines += 1;
        let bits = |value: f64| value.is_finite().then_some(value);
        let (old, new) = (f64::from(logged.loss), f64::from(line.loss));
        let relative = (new - old).abs() / old.abs().max(f64::MIN_POSITIVE);
        // A loss that is no number differs from all.
        let relative = if relative.is_nan() {
            f64::INFINITY
        } else {
            relative
        };
        self.largest_loss_difference = self.largest_loss_difference.max(relative);
        let signal =
            |line: &LogLine, name: &str| line.signals.get(name).copied().map(f64::from).and_then(bits);
        let mut pairs = vec![("loss", bits(old), bits(new))];
        // Signals that a version added or dropped are not compared.
        let common = line
            .signals
            .keys()
            .filter(|name| logged.signals.contains_key(*name));
        pairs.extend(common.map(|name| (name.as_str(), signal(logged, name), signal(line, name))));
        if let Some((key, logged, replayed)) = pairs.into_iter().find(|(_, old, new)| old != new) {
            self.differences.push(Difference {
                step: line.step,
                key: key.to_owned(),
                logged,
                replayed,
            });
        }
    }
}
