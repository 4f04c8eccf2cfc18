//! The pretraining loop, one function that reads top to bottom.

use crate::batch::Batch;
use crate::checkpoint::{self, CheckpointDir, Position};
use crate::config::{Config, ObjectiveSection};
use crate::encoder::encoder_bytes;
use crate::error::{Error, io};
use crate::files::{write_atomically, write_json_atomically};
use crate::loss_scale::LossScale;
use crate::objective::{Loss, Objective};
use crate::optimizer::{Rates, drop_gradients};
use crate::run_log::{Drained, LogLine, RunLog, Window};
use backbones::{Context, Draws, Init, Precision, Progress, parameters};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use serde::Serialize;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where and how a run happens; what it computes is in its [`Config`].
pub struct RunOptions {
    /// The run directory.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// The device, without autodiff.
    pub device: Device,
    /// When it turns true, the loop ends after the current step with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// The objective's name as in the config, for the encoder file.
    pub method: String,
    /// What `run.json` says of the program: commit, version, device and so on.
    pub provenance: serde_json::Map<String, serde_json::Value>,
}

/// Something that happened in the loop, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The loop is about to start.
    Start {
        /// Step at which it starts; above 0 after a resume.
        step: usize,
        /// All steps of the run.
        steps: usize,
        /// Steps of an epoch.
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
    /// A checkpoint was written.
    Checkpoint(&'a CheckpointDir),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and `encoder.safetensors` is written.
    Finished,
    /// The stop flag was raised; a checkpoint is written.
    Interrupted,
}

/// What a run leaves to say at its end.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// Optimizer steps done in all.
    pub step: usize,
    /// All steps of the run.
    pub steps: usize,
    /// Mean loss of the last log line.
    pub last_loss: Option<f32>,
    /// Records that could not be decoded.
    pub bad_records: data::BadRecords,
    /// In f16: steps that were left out because a gradient overflowed, since the run's start.
    pub skipped_steps: usize,
    /// Seconds in the loop, this process only.
    pub seconds: f64,
}

/// An epoch whose last step is done, before its checkpoint is written.
pub struct EpochEnd<'a, O: Objective> {
    /// Epochs done.
    pub epochs: usize,
    /// Optimizer steps done.
    pub step: usize,
    /// What the optimizer updates.
    pub student: &'a O::Student,
    /// The rest of the objective; what is given back takes its place.
    pub state: O::State,
}

/// What is called then; the state that it gives back takes the old one's place.
pub type AtEpochEnd<'a, O, E> = dyn FnMut(EpochEnd<'_, O>) -> Result<<O as Objective>::State, E> + 'a;

/// A run that has come to its end in this process.
pub struct Trained<O: Objective> {
    /// How it went.
    pub summary: Summary,
    /// What the optimizer updated.
    pub student: O::Student,
    /// The rest of the objective.
    pub state: O::State,
}

/// [`train`] with nothing to do at the end of an epoch.
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

/// Trains `objective` as `config` says on `dataset`, in the run directory `options.out`, and calls `at_epoch_end` when an
/// epoch's last step is done: it may look at the networks, and changes the state where it has to remember something.
///
/// Everything that a run needs to go on is in its checkpoint; every draw is a function of the seed and the step, so a
/// resumed run is the run never stopped, to the bit on `flex`.
///
/// # Errors
/// A config that contradicts itself or the data, a run directory that holds another run, records beyond
/// `max_bad_fraction` that cannot be decoded, a loss that is not finite, and files that cannot be written. Checkpoints
/// written before the error stay as they are.
pub fn train<O: Objective, C: ObjectiveSection, E: From<Error>>(
    objective: &O,
    config: &Config<C>,
    dataset: Arc<data::Dataset>,
    options: &RunOptions,
    observe: &mut dyn FnMut(Event<'_>),
    at_epoch_end: &mut AtEpochEnd<'_, O, E>,
) -> Result<Trained<O>, E> {
    // Refuse what cannot work before anything is written.
    config.validate().map_err(Error::Config)?;
    objective.views().check(&config.views).map_err(Error::Config)?;
    let precision = config.training.precision;
    precision.check(&options.device).map_err(Error::Config)?;
    let micro_batch_images = config
        .training
        .micro_batch_images
        .unwrap_or(config.data.batch_images);
    let loader = data::Loader::new(
        Arc::clone(&dataset),
        config.views.clone(),
        config.data.loader(),
        config.data.order,
        config.seed,
    )
    .map_err(Error::Data)?;
    let steps_per_epoch = loader.batches_per_epoch();
    let steps = steps_per_epoch * config.training.epochs;
    let peak_learning_rate = config.optimizer.peak_learning_rate(config.data.batch_images);

    // The run directory: a new one, or the one that this config started.
    let _lock = lock_run(&options.out)?;
    let resumed = open_run(config, dataset.fingerprint(), options)?;
    let newest = || {
        let name = |checkpoint: CheckpointDir| {
            format!(
                "the checkpoint before it, `{}`, is as it was",
                checkpoint.path.display()
            )
        };
        checkpoint::latest_checkpoint(&options.out)
            .ok()
            .flatten()
            .map_or("there is no checkpoint before it".into(), name)
    };

    // Networks at step 0, or where the checkpoint left them.
    let device = options.device.clone();
    let mut differentiating = device.clone().autodiff();
    if config.training.recompute_activations {
        differentiating = differentiating.gradient_checkpointing();
    }
    let init = Init::new(config.seed, &differentiating).with_precision(precision);
    let (mut student, mut state) = objective.init(&init);
    if micro_batch_images < config.data.batch_images {
        check_micro_batches(objective, &student, config.training.batch_norm_images)?;
    }
    let mut optimizer = config.optimizer.init();
    let mut position = Position {
        step: 0,
        window: Window::default(),
        last_finite: None,
        loss_scale: (precision == Precision::F16).then(LossScale::new),
        checksums: Default::default(),
    };
    if let Some(checkpoint) = &resumed {
        let loaded = checkpoint::load(checkpoint, student, state, optimizer)?;
        (student, state, optimizer, position) =
            (loaded.student, loaded.state, loaded.optimizer, loaded.position);
    } else {
        let mut facts = options.provenance.clone();
        facts.insert("fingerprint".into(), dataset.fingerprint().into());
        facts.insert("records".into(), dataset.len().into());
        facts.insert("steps".into(), steps.into());
        facts.insert("steps_per_epoch".into(), steps_per_epoch.into());
        facts.insert("peak_learning_rate".into(), peak_learning_rate.into());
        write_json_atomically(&options.out.join("run.json"), &facts)?;
    }
    let start = position.step;
    let mut log = RunLog::open(&options.out, start, position.window, position.last_finite)?;
    let mut loss_scale = position.loss_scale;
    let mut batches = loader.batches(start, steps);
    let started = Instant::now();
    let mut last_loss = None;
    let mut outcome = Outcome::Finished;
    observe(Event::Start {
        step: start,
        steps,
        steps_per_epoch,
        peak_learning_rate,
    });

    // When the host is done with each part of a step (PASSER_LOG=training=trace); a GPU is behind it.
    let trace =
        |step: usize, what: &str| tracing::trace!(step, "{:9.4} s {what}", started.elapsed().as_secs_f64());

    for step in start..steps {
        let progress = Progress {
            step,
            steps_per_epoch,
            steps,
        };
        let context = Context {
            batch_norm_images: config.training.batch_norm_images,
            ..Context::training(progress, Draws::new(config.seed, step as u64))
        };
        let rates = Rates {
            at_peak: (peak_learning_rate, objective.at_peak_rate()),
            rules: objective.parameter_rules(),
            ..config
                .optimizer
                .rates(peak_learning_rate, &config.schedule, &progress)
        };

        // Views, from plain memory to the device.
        let waiting = Instant::now();
        let batch = match batches.next() {
            Some(batch) => batch.map_err(Error::Data)?,
            None => {
                return Err(Error::Config(format!("the loader ended at step {step} of {steps}")).into());
            }
        };
        let waited = waiting.elapsed().as_secs_f64();
        trace(step, "batch taken from the loader");
        let batch = Batch::upload(batch, &config.data.normalize, &device);
        trace(step, "upload enqueued");
        let images = batch.images;

        // Loss and gradients of each micro-batch (mostly there is one), a step, and what the method does after it.
        let parts = batch.parts(micro_batch_images);
        let count = parts.len();
        let (mut gathered, mut losses, mut left) = (GradientsAccumulator::new(), vec![], vec![]);
        for (index, part) in parts.into_iter().enumerate() {
            let context = context.micro_batch(index, count);
            let (loss, pending) = objective.loss(&student, &state, &part, &context);
            let factor = loss_scale.as_ref().map_or(1.0, LossScale::value) / count as f64;
            let scaled = if factor == 1.0 {
                loss.total.clone()
            } else {
                loss.total.clone() * factor
            };
            gathered.accumulate(&student, GradientsParams::from_grads(scaled.backward(), &student));
            losses.push(loss);
            left.push(pending);
        }
        trace(step, "forward and backward enqueued");
        let mut grads = gathered.grads();
        drop_gradients(&mut grads, &student, &objective.frozen(&progress));
        if loss_scale
            .as_mut()
            .is_none_or(|scale| scale.unscale(&mut grads, &student))
        {
            student = optimizer.step_clipped(&rates, config.training.clip_gradients, student, grads);
            (student, state) = objective.commit(student, state, left, &context);
            log.push(step, rates.learning_rate, Loss::mean(losses), images, waited);
        } else if let Some(scale) = loss_scale.as_ref().filter(|scale| scale.is_exhausted()) {
            return Err(Error::LossScale {
                step: step + 1,
                skipped: scale.skipped,
                checkpoint: newest(),
            }
            .into());
        }
        let done = step + 1;
        trace(step, "optimizer and commit enqueued");
        observe(Event::Step { step: done });

        // Scalars cross from the device only here: when a line or a checkpoint is due.
        let interrupted = options.stop.load(Ordering::Relaxed);
        let epoch_ended = done % steps_per_epoch == 0;
        let checkpoint_due = interrupted
            || done == steps
            || (epoch_ended
                && (done / steps_per_epoch).is_multiple_of(config.training.checkpoint_every_epochs));
        let line_due = done % config.training.log_every_steps == 0 || done == steps;
        if line_due || checkpoint_due {
            log.drain().map_err(|failure| match failure {
                Drained::NotFinite(bad) => Error::NonFiniteLoss {
                    loss: bad.loss(),
                    step: bad.step + 1,
                    learning_rate: bad.learning_rate,
                    last_finite: log.last_finite.map_or("none".into(), |loss| loss.to_string()),
                    checkpoint: newest(),
                },
                Drained::Device { steps, reason } => Error::Device {
                    step: done,
                    steps,
                    reason,
                },
            })?;
            trace(step, "scalars read: the device has caught up");
        }
        if epoch_ended {
            state = at_epoch_end(EpochEnd {
                epochs: done / steps_per_epoch,
                step: done,
                student: &student,
                state,
            })?;
        }
        if line_due && let Some(line) = log.write(progress.epoch(), loss_scale.as_ref())? {
            last_loss = Some(line.loss);
            observe(Event::Log(&line));
        }
        if checkpoint_due {
            log.sync()?;
            let unsound = checkpoint::not_finite(&student, &state).map_err(|reason| Error::Device {
                step: done,
                steps: 1,
                reason,
            })?;
            if let Some(name) = unsound {
                return Err(Error::NonFiniteWeights {
                    name,
                    step: done,
                    learning_rate: rates.learning_rate,
                    checkpoint: newest(),
                }
                .into());
            }
            let position = Position {
                step: done,
                window: log.window.clone(),
                last_finite: log.last_finite,
                loss_scale: loss_scale.clone(),
                checksums: Default::default(),
            };
            let encoder = encoder_bytes(
                objective.encoder(&student, &state),
                &dataset,
                config,
                &options.method,
                done,
            );
            let keep = config.training.keep_checkpoints;
            let saved = checkpoint::save(
                &options.out,
                &student,
                &state,
                &optimizer,
                &encoder,
                &position,
                keep,
            )?;
            observe(Event::Checkpoint(&saved));
        }
        if interrupted && done < steps {
            outcome = Outcome::Interrupted;
            break;
        }
    }
    drop(batches);

    let step = checkpoint::latest_checkpoint(&options.out)?.map_or(start, |checkpoint| checkpoint.step);
    if outcome == Outcome::Finished {
        let encoder = encoder_bytes(
            objective.encoder(&student, &state),
            &dataset,
            config,
            &options.method,
            steps,
        );
        write_atomically(&options.out.join("encoder.safetensors"), &encoder)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let summary = Summary {
        outcome,
        step,
        steps,
        last_loss,
        bad_records: loader.bad_records(),
        skipped_steps: loss_scale.map_or(0, |scale| scale.skipped),
        seconds,
    };
    Ok(Trained {
        summary,
        student,
        state,
    })
}

/// Refuses micro-batches where they would not make the step of the whole batch.
fn check_micro_batches<O: Objective>(
    objective: &O,
    student: &O::Student,
    batch_norm_images: Option<usize>,
) -> Result<(), Error> {
    let refused = |reason: &str| {
        Err(Error::Config(format!(
            "`training.micro_batch_images` cannot be used here: {reason}"
        )))
    };
    if let Some(reason) = objective.whole_batch() {
        return refused(reason);
    }
    let has_statistics = parameters(student)
        .iter()
        .any(|parameter| parameter.running_statistic);
    if has_statistics && batch_norm_images.is_none() {
        return refused(
            "the networks take batch statistics over the whole batch; say with `training.batch_norm_images` how many images share them",
        );
    }
    Ok(())
}

/// Makes the run directory and keeps other processes out of it for as long as the returned file is open.
///
/// Two processes in one run directory, as after a job that was queued twice, would remove each other's checkpoints while
/// they are being written. The system lets go of the lock however a process ends, so a file left behind locks nobody out.
fn lock_run(out: &Path) -> Result<File, Error> {
    fs::create_dir_all(out).map_err(io(out, "making the run directory"))?;
    let path = out.join(".lock");
    let file = File::create(&path).map_err(io(&path, "writing"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::RunInUse {
            path: out.to_path_buf(),
        }),
        // Some network file systems have no locks; a run there is as good as it was without one.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(
                "`{}` cannot be locked ({error}): start no second process in it",
                out.display()
            );
            Ok(file)
        }
    }
}

/// Checks that the run directory is new or belongs to this config and data; the checkpoint to go on from.
fn open_run<C: Serialize>(
    config: &Config<C>,
    fingerprint: &str,
    options: &RunOptions,
) -> Result<Option<CheckpointDir>, Error> {
    let out = &options.out;
    checkpoint::remove_partial(&out.join("checkpoints"))?;
    let config_path = out.join("config.toml");
    let resolved = toml::Table::try_from(config)
        .and_then(|table| Ok((toml::to_string(&table)?, table)))
        .map_err(|error| Error::Config(format!("cannot be written as TOML: {error}")))?;
    let (text, table) = resolved;
    let newest = checkpoint::latest_checkpoint(out)?;
    if newest.is_some() {
        // Whose checkpoints they are is in these; without them they would be taken for any run's.
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
        write_atomically(&config_path, text.as_bytes())?;
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
    let before = fs::read_to_string(&config_path).map_err(io(&config_path, "reading the run's config"))?;
    let before: toml::Table = before
        .parse()
        .map_err(|error| Error::Config(format!("`{}`: {error}", config_path.display())))?;
    if let Some((key, expected, got)) = first_difference("", &before, &table) {
        return Err(mismatch(key, expected, got));
    }
    let known = run_fingerprint(out)?;
    if let Some(known) = known.filter(|known| known != fingerprint) {
        return Err(mismatch(
            "data set".into(),
            format!("fingerprint {known}"),
            fingerprint.into(),
        ));
    }
    if newest.is_none() {
        tracing::warn!("`{}` has no checkpoint yet: starting at step 0", out.display());
    }
    Ok(newest)
}

/// The data set's fingerprint that `run.json` holds, if the run got so far.
fn run_fingerprint(out: &Path) -> Result<Option<String>, Error> {
    let path = out.join("run.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path).map_err(io(&path, "reading"))?;
    let facts: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| io(&path, "reading")(error.into()))?;
    Ok(facts
        .get("fingerprint")
        .and_then(|value| value.as_str())
        .map(String::from))
}

/// The first key whose value differs, dotted, with both values. The number of workers changes no result and may differ.
fn first_difference(
    prefix: &str,
    before: &toml::Table,
    now: &toml::Table,
) -> Option<(String, String, String)> {
    let shown =
        |value: Option<&toml::Value>| value.map_or("nothing".to_string(), |value| format!("`{value}`"));
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for key in keys {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (before.get(key), now.get(key)) {
            _ if path == "data.workers" => {}
            (Some(toml::Value::Table(before)), Some(toml::Value::Table(now))) => {
                if let Some(difference) = first_difference(&path, before, now) {
                    return Some(difference);
                }
            }
            (before, now) if before == now => {}
            (before, now) => return Some((format!("`{path}`"), shown(before), shown(now))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_takes_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let held = lock_run(&out).unwrap();
        let error = lock_run(&out).unwrap_err();
        assert!(matches!(error, Error::RunInUse { .. }), "{error}");
        drop(held);
        lock_run(&out).unwrap();
    }

    #[test]
    fn differences_between_configs_are_named_but_workers_may_differ() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let before = table("seed = 0\n[data]\nworkers = 1\nbatch_images = 8");
        assert_eq!(
            first_difference(
                "",
                &before,
                &table("seed = 0\n[data]\nworkers = 4\nbatch_images = 8")
            ),
            None
        );
        assert_eq!(
            first_difference(
                "",
                &before,
                &table("seed = 0\n[data]\nworkers = 1\nbatch_images = 16")
            ),
            Some(("`data.batch_images`".into(), "`8`".into(), "`16`".into()))
        );
        assert_eq!(
            first_difference(
                "",
                &before,
                &table("seed = 0\nnew = 1\n[data]\nworkers = 1\nbatch_images = 8")
            ),
            Some(("`new`".into(), "nothing".into(), "`1`".into()))
        );
    }
}
