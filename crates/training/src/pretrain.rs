//! The pretraining loop: one function that reads top to bottom; its phases are in the files next to it.

mod capture;
mod diagnosis;
mod length;
mod plan;
mod ranks;
mod replay;
mod run_directory;
mod step;

use crate::alarm::Alarm;
use crate::checkpoint::CheckpointDir;
use crate::config::{Config, ObjectiveSection};
use crate::error::Error;
use crate::log_line::{DeviceGauge, LogLine};
use crate::objective::Objective;
use backbones::Replicas;
use burn::tensor::Device;
pub use diagnosis::{Culprits, Finding, Place, Record};
pub use length::NewLength;
use plan::Plan;
pub use ranks::{agree, check_agreement, share_bad_records};
pub use replay::{Difference, Replayed, StepsToReplay, replay};
use run_directory::RunDirectory;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use step::Run;

/// Where and how a run executes; its [`Config`] defines the computation.
pub struct RunOptions {
    /// The run directory.
    pub out: PathBuf,
    /// Resume from the newest checkpoint in `out`.
    pub resume: bool,
    /// Whether a run that is resumed with another length may continue although a run of that length would have done its steps
    /// with other rates.
    pub allow_jump: bool,
    /// Whether a step without finite values is kept in the run directory, for [`replay`](crate::replay()).
    pub keep_failed_step: bool,
    /// The device, without autodiff.
    pub device: Device,
    /// Reads the device's card for the log; `None` where nothing reports on it.
    pub gauge: Option<DeviceGauge>,
    /// The devices that share the run, one process each; [`Replicas::single`] for one. All processes call the loop with
    /// the same config and data; that of rank 0 alone reads and writes the run directory.
    pub replicas: Replicas,
    /// When it turns true, the loop ends after the current step with a checkpoint; on all ranks if it turns true on one.
    pub stop: Arc<AtomicBool>,
    /// The objective's name in the config, for the encoder file.
    pub method: String,
    /// Facts about the program for `run.json`: commit, version, device and so on.
    pub provenance: serde_json::Map<String, serde_json::Value>,
}

/// An event in the loop, for the caller to show.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run that is resumed gets another length; before the start.
    NewLength(&'a NewLength),
    /// The loop is about to start.
    Start {
        /// First step; above 0 after a resume.
        step: usize,
        /// Total steps of the run.
        steps: usize,
        /// Steps per epoch.
        steps_per_epoch: usize,
        /// Peak learning rate after scaling by the batch.
        peak_learning_rate: f64,
    },
    /// A step was enqueued (its loss is not known yet).
    Step {
        /// Steps done.
        step: usize,
    },
    /// A line of the log was written.
    Log(&'a LogLine),
    /// An alarm was found and written to `alarms.jsonl`.
    Alarm(&'a Alarm),
    /// A checkpoint was written.
    Checkpoint(&'a CheckpointDir),
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and `encoder.safetensors` is written.
    Finished,
    /// The stop flag was set, or an alarm ended the run; a checkpoint is written.
    Interrupted,
}

/// Statistics of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// Total optimizer steps done.
    pub step: usize,
    /// Total steps of the run.
    pub steps: usize,
    /// The alarm that ended an interrupted run; known to rank 0.
    pub alarm: Option<Alarm>,
    /// Mean loss of the last log line.
    pub last_loss: Option<f32>,
    /// Records that could not be decoded.
    pub bad_records: data::BadRecords,
    /// In f16: steps skipped because a gradient overflowed, since the run's start.
    pub skipped_steps: usize,
    /// Seconds in the loop, this process only.
    pub seconds: f64,
}

/// The networks when an evaluation is due: at the end of an epoch, or after so many steps. Before a checkpoint is
/// written.
pub struct EvaluationDue<'a, O: Objective> {
    /// Whole epochs done.
    pub epochs: usize,
    /// Optimizer steps done.
    pub step: usize,
    /// Optimizer steps of the whole run.
    pub steps: usize,
    /// The module that the optimizer updates.
    pub student: &'a O::Student,
    /// The rest of the objective; the caller returns the state that replaces it.
    pub state: O::State,
}

/// The callback when an evaluation is due; the state that it returns replaces the old one.
pub type AtEvaluation<'a, O, E> = dyn FnMut(EvaluationDue<'_, O>) -> Result<<O as Objective>::State, E> + 'a;

/// A run that ended in this process.
pub struct Trained<O: Objective> {
    /// Its statistics.
    pub summary: Summary,
    /// The trained student.
    pub student: O::Student,
    /// The rest of the objective.
    pub state: O::State,
}

/// [`train`] without a callback.
///
/// # Errors
/// Those of [`train`].
pub fn pretrain<O: Objective, C: ObjectiveSection>(
    objective: &O,
    config: &Config<C>,
    dataset: Arc<data::Dataset>,
    options: &RunOptions,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let trained: Result<Trained<O>, Error> =
        train(objective, config, dataset, options, observe, &mut |end| {
            Ok(end.state)
        });
    Ok(trained?.summary)
}

/// Trains `objective` according to `config` on `dataset`, in the run directory `options.out`. Calls
/// `at_evaluation` after each epoch's last step, or as often as
/// [`evaluate_every_steps`](ObjectiveSection::evaluate_every_steps) says: the callback may read the networks, and may change the state
/// to remember something. On several ranks it is called on each of them, with the same networks, and must return the same
/// state.
///
/// A checkpoint holds everything that a run needs to resume, and every draw is a function of the seed and the
/// step. So on `flex` a resumed run equals an uninterrupted one to the bit.
///
/// # Errors
/// A config that contradicts itself or the data, a run directory that holds another run, more than
/// `max_bad_fraction` of undecodable records, a loss that is not finite, and files that cannot be written.
/// Earlier checkpoints stay unchanged. On several ranks, one of those with an error reports it, and the others may have
/// [`Error::OtherRank`].
pub fn train<O: Objective, C: ObjectiveSection, E: From<Error>>(
    objective: &O,
    config: &Config<C>,
    dataset: Arc<data::Dataset>,
    options: &RunOptions,
    observe: &mut dyn FnMut(Event<'_>),
    at_evaluation: &mut AtEvaluation<'_, O, E>,
) -> Result<Trained<O>, E> {
    // Before anything is written: reject invalid inputs, and count the steps.
    let plan = agree(&options.replicas, Plan::new(objective, config, dataset, options))?;

    // The encoder to start from, if the config names one.
    let started = agree(&options.replicas, plan.started())?;

    // The run directory: a new one, or the one that this config started.
    let directory = if plan.writes() {
        RunDirectory::open(&plan)?
    } else {
        RunDirectory::of_rank_0(&options.out)
    };

    // Networks, optimizer and log at step 0, or at the checkpoint's step.
    let mut run = Run::start(&plan, &directory, started)?;
    let start = run.done;
    let started = Instant::now();
    if let Some(new) = &directory.new_length {
        observe(Event::NewLength(new));
    }
    observe(Event::Start {
        step: start,
        steps: plan.steps,
        steps_per_epoch: plan.steps_per_epoch,
        peak_learning_rate: plan.peak_learning_rate,
    });

    let mut batches = plan.loader.batches(start, plan.steps);
    let mut outcome = Outcome::Finished;
    while run.done < plan.steps {
        // Views, from host memory to the device; forward, backward, optimizer, commit.
        let (batch, waited_seconds) = plan.next_batch(&mut batches, run.done)?;
        run = run.step(&plan, &directory, batch, waited_seconds)?;
        observe(Event::Step { step: run.done });

        // Scalars are read from the device only when a line or a checkpoint is due.
        let interrupted = run.wishes.stop;
        let due = plan.due(run.done, interrupted || run.wishes.checkpoint);
        if due.line || due.checkpoint {
            run.read_scalars(&plan, &directory)?;
        }
        if due.evaluation || due.checkpoint {
            run = run.agreed(&plan)?;
        }
        if due.evaluation {
            run.state = at_evaluation(EvaluationDue {
                epochs: run.done / plan.steps_per_epoch,
                step: run.done,
                steps: plan.steps,
                student: &run.student,
                state: run.state,
            })?;
        }
        if due.line
            && let Some(line) = run.write_line(&plan)?
        {
            observe(Event::Log(&line));
            for alarm in run.alarms(&plan, &line)? {
                observe(Event::Alarm(&alarm));
            }
        }
        if due.checkpoint {
            let saved;
            (run, saved) = run.save(&plan, &directory)?;
            if let Some(saved) = &saved {
                observe(Event::Checkpoint(saved));
            }
        }
        if interrupted && run.done < plan.steps {
            outcome = Outcome::Interrupted;
            break;
        }
    }
    drop(batches);

    // The encoder, next to the checkpoints.
    if outcome == Outcome::Finished && plan.writes() {
        run.write_encoder(&plan)?;
    }
    Ok(Trained {
        summary: Summary {
            outcome,
            step: run.saved.unwrap_or(start),
            steps: plan.steps,
            alarm: run.ends_run.clone().filter(|_| outcome == Outcome::Interrupted),
            last_loss: run.last_loss,
            bad_records: plan.loader.bad_records(),
            skipped_steps: run.skipped_steps(),
            seconds: started.elapsed().as_secs_f64(),
        },
        student: run.student,
        state: run.state,
    })
}
