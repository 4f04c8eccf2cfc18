//! A run between its steps: networks, optimizer and log; one step, and the files written after it.

use super::capture::{Failed, capture};
use super::plan::Plan;
use super::ranks::{self, Wishes};
use super::run_directory::{RunDirectory, write_facts, write_views};
use crate::alarm::{Alarm, Rules, Setting};
use crate::alarm_log::AlarmLog;
use crate::batch::Batch;
use crate::checkpoint::{self, CheckpointDir, Loaded, Position};
use crate::config::OnAlarm;
use crate::encoder::{ENCODER, encoder_bytes};
use crate::error::Error;
use crate::log_gap::Until;
use crate::log_line::LogLine;
use crate::loss_scale::LossScale;
use crate::objective::{Loss, Objective};
use crate::optimizer::{Optimizer, drop_gradients, drop_gradients_of, gradient_norm};
use crate::run_log::{Drained, RunLog, Window};
use crate::start::{Heads, Parts, Started, take_over};
use crate::watch::Watch;
use backbones::{Precision, RunPosition, parameters};
use burn::optim::{GradientsAccumulator, GradientsParams};
use data::durable;
use kernels::collective::Engine;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use weights::Origin;

/// Everything that a step changes.
pub(super) struct Run<O: Objective> {
    pub(super) student: O::Student,
    pub(super) state: O::State,
    optimizer: Optimizer,
    /// Present in f16.
    loss_scale: Option<LossScale>,
    log: RunLog,
    /// What lines of the log say of several steps; rank 0's alone.
    watch: Watch,
    /// `None` on ranks that do not write.
    alarms: Option<AlarmLog>,
    /// The alarm that ends the run after the next step, which all ranks do together.
    pub(super) ends_run: Option<Alarm>,
    /// Optimizer steps done.
    pub(super) done: usize,
    /// Learning rate of the newest step.
    learning_rate: f64,
    /// Mean loss of the newest line of the log.
    pub(super) last_loss: Option<f32>,
    /// What a rank wished before the end of the newest step: the user's interruption, and the clock's checkpoint.
    pub(super) wishes: Wishes,
    /// The step of the newest checkpoint that this process knows.
    pub(super) saved: Option<usize>,
    /// When that checkpoint was written, or this process began; by a clock that nobody sets.
    saved_at: Instant,
    /// The encoder that the run started from; known to rank 0.
    origin: Option<Origin>,
    /// Positions of the broken records that all ranks know.
    known_bad: BTreeSet<u64>,
    started: Instant,
}

/// The modules with what the source of a start has besides the backbone, where `all_parts` asks for it.
fn take_parts<O: Objective>(
    objective: &O,
    started: &Started,
    student: O::Student,
    state: O::State,
) -> Result<(O::Student, O::State, Heads), Error> {
    let mut heads = Heads::default();
    let (student, state) = match &started.parts {
        None => (student, state),
        Some(Parts::Run(checkpoint)) => {
            let (student, state, drawn) = checkpoint::take_over(checkpoint, student, state)?;
            heads.drawn = drawn;
            (student, state)
        }
        Some(Parts::Released) => {
            let taken = take_over(&started.path, &objective.released(), student, state)?;
            let all = parameters(&taken.student)
                .into_iter()
                .chain(parameters(&taken.state));
            let others = all.map(|parameter| parameter.path);
            heads.drawn = others.filter(|path| !taken.taken.contains(path)).collect();
            heads.taken = taken.taken;
            (taken.student, taken.state)
        }
    };
    // These are the encoder's, fitted to another image size.
    heads.drawn.retain(|path| !is_of_backbone(path));
    Ok((student, state, heads))
}

impl<O: Objective> Run<O> {
    /// Starts at step 0 and writes `run.json`, or loads the checkpoint.
    ///
    /// # Errors
    /// Micro-batches that would change the step, a checkpoint that does not match the networks, and files
    /// that cannot be read or written.
    pub(super) fn start<C: Serialize>(
        plan: &Plan<'_, O, C>,
        directory: &RunDirectory,
        started: Option<Started>,
    ) -> Result<Self, Error> {
        let replicas = &plan.options.replicas;
        let origin = match &directory.resumed {
            Some(_) => match super::run_directory::read_facts(plan)? {
                Some(facts) => facts.origin()?,
                None => None,
            },
            None => started.as_ref().map(|started| started.origin.clone()),
        };
        let (student, state, optimizer) = plan.fresh(started.as_ref());
        if plan.micro_batch_images < plan.images {
            let checked = plan.check_micro_batches(&student);
            ranks::agree(replicas, checked)?;
        }
        let mut modules = Loaded {
            student,
            state,
            optimizer,
            position: Position {
                step: 0,
                window: Window::default(),
                last_finite: None,
                loss_scale: (plan.config.training.precision == Precision::F16).then(LossScale::new),
                checksums: Default::default(),
                closed: None,
                watched: None,
            },
        };
        let mut saved = None;
        if let Some(checkpoint) = &directory.resumed {
            modules = checkpoint::load(checkpoint, modules.student, modules.state, modules.optimizer)?;
            saved = Some(modules.position.step);
        } else if plan.writes() {
            // On rank 0 alone, which sends it to the others.
            let mut heads = Heads::default();
            if let Some(started) = &started {
                (modules.student, modules.state, heads) =
                    take_parts(plan.objective, started, modules.student, modules.state)?;
            }
            if directory.to_write().is_some() {
                write_facts(plan, started.map(|started| started.facts(&heads)))?;
            }
            if !heads.taken.is_empty() {
                tracing::info!("taken from the released file: {}", heads.taken.join(", "));
            }
            if !heads.drawn.is_empty() {
                let drawn = heads.drawn.join(", ");
                tracing::warn!(
                    "drawn, because the source has no parameters of these names and shapes: {drawn}"
                );
            }
        }
        if directory.to_write().is_some() {
            write_views(plan);
        }
        if let Some(engine) = replicas.engine() {
            ranks::check_agreement(replicas, &plan.identity()?)?;
            // What rank 0 resumed: the others need no access to its directory.
            (modules, _) = plan.rank_0s(engine, modules)?;
        }
        let Loaded {
            student,
            state,
            optimizer,
            mut position,
        } = modules;
        // The newest line came because the run ended, which it no longer does: its window is open again.
        let closed = position.closed.take().filter(|_| plan.steps > position.step);
        let logged = match closed {
            Some(window) => {
                position.window = window;
                position.step - 1
            }
            None => position.step,
        };
        let watch = match &position.watched {
            Some(bytes) if plan.writes() => {
                Watch::from_bytes(bytes, &plan.options.device).map_err(|reason| Error::Checkpoint {
                    path: plan.options.out.clone(),
                    reason,
                })?
            }
            _ => Watch::default(),
        };
        let out = directory.to_write();
        let until = Until {
            step: logged,
            every: plan.config.training.log_every_steps,
            skipped: position.loss_scale.as_ref().map_or(0, |scale| scale.skipped),
        };
        let (mut log, lines) = RunLog::open(out, until, position.window, position.last_finite)?;
        log.gauge = plan.options.gauge.clone();
        let alarms = out
            .map(|out| AlarmLog::open(out, plan.rules(), &lines))
            .transpose()?;
        Ok(Self {
            student,
            state,
            optimizer,
            watch,
            alarms,
            ends_run: None,
            loss_scale: position.loss_scale,
            log,
            done: position.step,
            learning_rate: 0.0,
            last_loss: None,
            wishes: Wishes::default(),
            saved,
            saved_at: Instant::now(),
            origin,
            known_bad: BTreeSet::new(),
            started: Instant::now(),
        })
    }

    /// One optimizer step: gradients of each micro-batch (usually one), the optimizer, and the method's
    /// update. In f16, a step whose gradients overflowed is skipped.
    pub(super) fn step<C: Serialize>(
        mut self,
        plan: &Plan<'_, O, C>,
        directory: &RunDirectory,
        batch: Batch,
        waited_seconds: f64,
    ) -> Result<Self, Error> {
        let passes = self.passes(plan, batch);
        self.update(plan, directory, passes, waited_seconds)
    }

    /// The forward and backward passes of the next step. Of the networks they change running statistics alone.
    pub(super) fn passes<C>(&mut self, plan: &Plan<'_, O, C>, batch: Batch) -> Passes<O> {
        if let Some(engine) = plan.options.replicas.engine() {
            engine.at_step(self.done);
        }
        let context = plan.context(plan.progress(self.done));
        // Ranks are micro-batches: each scales its losses, and gradients are summed.
        let ranks = plan.options.replicas.count();
        let images = batch.images * ranks;
        self.trace("batch uploaded");

        let micro_batches = batch.parts(plan.micro_batch_images);
        let count = micro_batches.len();
        let mut accumulator = GradientsAccumulator::new();
        let (mut losses, mut pending) = (vec![], vec![]);
        for (index, micro_batch) in micro_batches.into_iter().enumerate() {
            let context = context.micro_batch(index, count);
            let (loss, of_micro_batch) =
                plan.objective
                    .loss(&self.student, &self.state, &micro_batch, &context);
            let factor = self.loss_scale.as_ref().map_or(1.0, LossScale::value) / (count * ranks) as f64;
            let scaled = if factor == 1.0 {
                loss.total.clone()
            } else {
                loss.total.clone() * factor
            };
            let gradients = GradientsParams::from_grads(scaled.backward(), &self.student);
            accumulator.accumulate(&self.student, gradients);
            losses.push(loss);
            pending.push(of_micro_batch);
        }
        let mut gradients = accumulator.grads();
        self.wishes = self.own_wishes(plan);
        if let Some(engine) = plan.options.replicas.engine() {
            self.trace("this rank's gradients enqueued");
            (gradients, self.wishes) = ranks::sum_gradients(engine, gradients, &self.student, self.wishes);
            self.trace("gradients summed over ranks");
        }
        self.trace("forward and backward enqueued");
        Passes {
            losses,
            pending,
            gradients,
            images,
        }
    }

    /// What this rank wishes: anyone's interruption, and rank 0's clock.
    fn own_wishes<C>(&self, plan: &Plan<'_, O, C>) -> Wishes {
        let minutes = plan.config.training.checkpoint_every_minutes;
        let by_clock = minutes.filter(|_| plan.writes());
        Wishes {
            stop: plan.options.stop.load(Ordering::Relaxed) || self.ends_run.is_some(),
            checkpoint: by_clock
                .is_some_and(|minutes| self.saved_at.elapsed().as_secs_f64() >= 60.0 * minutes),
        }
    }

    /// The optimizer's step with the gradients of the passes, and the method's update.
    pub(super) fn update<C: Serialize>(
        mut self,
        plan: &Plan<'_, O, C>,
        directory: &RunDirectory,
        passes: Passes<O>,
        waited_seconds: f64,
    ) -> Result<Self, Error> {
        let step = self.done;
        let progress = plan.progress(step);
        let (context, rates) = (plan.context(progress), plan.rates(&progress));
        let objective = plan.objective;
        let Passes {
            losses,
            pending,
            mut gradients,
            images,
        } = passes;
        drop_gradients(&mut gradients, &self.student, &objective.frozen(&progress));
        if plan.freezes_backbone(&progress) {
            drop_gradients_of(&mut gradients, &self.student, is_of_backbone);
        }
        let finite = match &mut self.loss_scale {
            Some(scale) => scale.unscale(&mut gradients, &self.student),
            // Losses that are not finite are detected when they are read.
            None => true,
        };
        if finite {
            // Of a step that a line follows: a norm in each step would cost a pass over all gradients.
            if plan.writes() && plan.due(step + 1, false).line {
                self.watch.gradient_norm = gradient_norm(&self.student, &gradients);
            }
            let clip = plan.config.training.clip_gradients;
            let student = self.optimizer.step_clipped(&rates, clip, self.student, gradients);
            (self.student, self.state) = objective.commit(student, self.state, pending, &context);
            let mut loss = Loss::mean(losses);
            if plan.writes() {
                self.watch.push(std::mem::take(&mut loss.watched));
            }
            self.log
                .push(step, rates.learning_rate, loss, images, waited_seconds);
        } else if let Some(scale) = self.loss_scale.as_ref().filter(|scale| scale.is_exhausted()) {
            let failed = Failed {
                step: step + 1,
                loss: None,
                learning_rate: rates.learning_rate,
            };
            let error = Error::LossScale {
                step: step + 1,
                skipped: scale.skipped,
                checkpoint: directory.checkpoint_left(),
                capture: capture(plan, directory, &failed),
            };
            return ranks::alike(&plan.options.replicas, Err(error));
        }
        self.learning_rate = rates.learning_rate;
        self.trace("optimizer and commit enqueued");
        self.done = step + 1;
        Ok(self)
    }

    /// Reads the losses since the last call from the device, as means over ranks.
    ///
    /// # Errors
    /// A loss that is not finite, and a device that failed.
    pub(super) fn read_scalars<C: Serialize>(
        &mut self,
        plan: &Plan<'_, O, C>,
        directory: &RunDirectory,
    ) -> Result<(), Error> {
        let replicas = &plan.options.replicas;
        ranks::share_bad_records(replicas, &plan.loader, &mut self.known_bad)?;
        match self.log.drain(replicas) {
            Ok(()) => {}
            Err(Drained::NotFinite(bad)) => {
                let failed = Failed {
                    step: bad.step + 1,
                    loss: Some(bad.loss()),
                    learning_rate: bad.learning_rate,
                };
                let error = Error::NonFiniteLoss {
                    loss: bad.loss(),
                    step: bad.step + 1,
                    learning_rate: bad.learning_rate,
                    last_finite: self
                        .log
                        .last_finite
                        .map_or("none".into(), |loss| loss.to_string()),
                    checkpoint: directory.checkpoint_left(),
                    capture: capture(plan, directory, &failed),
                };
                // A mean over ranks.
                return ranks::alike(replicas, Err(error));
            }
            Err(Drained::Device { steps, reason }) => {
                return Err(Error::Device {
                    step: self.done,
                    steps,
                    reason,
                });
            }
        }
        self.trace("scalars read: the device has caught up");
        Ok(())
    }

    /// Writes the window's line of `metrics.jsonl`, unless the window is empty.
    pub(super) fn write_line<C>(&mut self, plan: &Plan<'_, O, C>) -> Result<Option<LogLine>, Error> {
        let last = plan.progress(self.done.saturating_sub(1));
        let measured = self.measured(plan, &last)?;
        let chance_loss = plan.objective.chance_loss(plan.config.data.batch_images);
        let line = self
            .log
            .write(last.epoch(), self.loss_scale.as_ref(), measured, chance_loss)?;
        if let Some(line) = &line {
            self.last_loss = Some(line.loss);
        }
        Ok(line)
    }

    /// The alarms that a line of the log completes, written to `alarms.jsonl`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn alarms<C>(&mut self, plan: &Plan<'_, O, C>, line: &LogLine) -> Result<Vec<Alarm>, Error> {
        let Some(log) = &mut self.alarms else {
            return Ok(vec![]);
        };
        let optimizer = plan.config.optimizer.name();
        let alarms = log.take(line, |cause| {
            let mut remedies = plan.objective.remedies(cause);
            remedies.extend(cause.general_remedies(optimizer));
            remedies
        })?;
        if plan.config.training.on_alarm == OnAlarm::Stop && self.ends_run.is_none() {
            self.ends_run = alarms.first().cloned();
        }
        Ok(alarms)
    }

    /// The signals of the window's last step that are not means over the window; on rank 0.
    fn measured<C>(
        &mut self,
        plan: &Plan<'_, O, C>,
        last: &RunPosition,
    ) -> Result<BTreeMap<String, f32>, Error> {
        if !plan.writes() {
            return Ok(BTreeMap::new());
        }
        let more = plan.objective.measured(&self.student, &self.state);
        let measured = self.watch.measure(more).map_err(|reason| Error::Device {
            step: self.done,
            steps: 1,
            reason,
        });
        let mut measured = measured?;
        let images = plan.config.data.batch_images;
        let mut in_force = plan.objective.in_force(last, images);
        in_force.push(("weight_decay", plan.rates(last).weight_decay));
        measured.extend(
            in_force
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value as f32)),
        );
        Ok(measured)
    }

    /// Writes a checkpoint, on several ranks of the networks that they have [agreed](Self::agreed) on, and removes surplus
    /// ones.
    ///
    /// # Errors
    /// Weights that are not finite, a device that failed, and files that cannot be written.
    pub(super) fn save<C: Serialize>(
        mut self,
        plan: &Plan<'_, O, C>,
        directory: &RunDirectory,
    ) -> Result<(Self, Option<CheckpointDir>), Error> {
        self.saved = Some(self.done);
        self.saved_at = Instant::now();
        if !plan.writes() {
            return Ok((self, None));
        }
        self.log.sync()?;
        let not_finite = checkpoint::not_finite(&self.student, &self.state);
        let not_finite = not_finite.map_err(|reason| self.device_failed(reason))?;
        if let Some(name) = not_finite {
            let failed = Failed {
                step: self.done,
                loss: self.log.last_finite,
                learning_rate: self.learning_rate,
            };
            return Err(Error::NonFiniteWeights {
                name,
                step: self.done,
                learning_rate: self.learning_rate,
                checkpoint: directory.checkpoint_left(),
                capture: capture(plan, directory, &failed),
            });
        }
        let mut position = self.position();
        let line_of_the_end = self.done == plan.steps && !plan.line_whatever_the_length(self.done);
        position.closed = self.log.closed.clone().filter(|_| line_of_the_end);
        position.watched = self
            .watch
            .to_bytes()
            .map_err(|reason| self.device_failed(reason))?;
        let saved = checkpoint::save(
            &plan.options.out,
            &self.student,
            &self.state,
            &self.optimizer,
            &self.encoder(plan)?,
            &position,
            (
                plan.config.training.keep_checkpoints,
                plan.config.schedule.steps_before_decay(plan.steps),
            ),
        )?;
        Ok((self, Some(saved)))
    }

    /// Writes a checkpoint of this step with these networks below another folder, beside those that lie there.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub(super) fn save_as<C: Serialize>(
        &self,
        plan: &Plan<'_, O, C>,
        folder: &Path,
        student: &O::Student,
        state: &O::State,
    ) -> Result<CheckpointDir, Error> {
        let mut position = self.position();
        position.watched = self
            .watch
            .to_bytes()
            .map_err(|reason| self.device_failed(reason))?;
        let encoder = self.encoder_of(plan, student, state)?;
        let all = (usize::MAX, None);
        checkpoint::save(folder, student, state, &self.optimizer, &encoder, &position, all)
    }

    /// Whether passes without finite values end the run: in f16 only at the end of its loss scale.
    pub(super) fn fails_if_not_finite(&self) -> bool {
        self.loss_scale.as_ref().is_none_or(LossScale::is_at_its_end)
    }

    /// The loss scale in f16, otherwise 1.
    pub(super) fn loss_scale_value(&self) -> f64 {
        self.loss_scale.as_ref().map_or(1.0, LossScale::value)
    }

    /// The error of a device that failed in the step that is being done.
    pub(super) fn device_failed(&self, reason: String) -> Error {
        Error::Device {
            step: self.done,
            steps: 1,
            reason,
        }
    }

    fn position(&self) -> Position {
        Position {
            step: self.done,
            window: self.log.window.clone(),
            last_finite: self.log.last_finite,
            loss_scale: self.loss_scale.clone(),
            checksums: Default::default(),
            closed: None,
            watched: None,
        }
    }

    /// On several ranks: the mean of their running statistics, and rank 0's weights where others differ, since a GPU's own
    /// choice of kernels can round differently on each. Before anyone reads the networks.
    pub(super) fn agreed<C>(mut self, plan: &Plan<'_, O, C>) -> Result<Self, Error> {
        let Some(engine) = plan.options.replicas.engine() else {
            return Ok(self);
        };
        let position = self.position();
        let modules = Loaded {
            student: ranks::average_statistics(engine, self.student),
            state: ranks::average_statistics(engine, self.state),
            optimizer: self.optimizer,
            position,
        };
        let (modules, sent) = plan.rank_0s(engine, modules)?;
        if sent {
            tracing::warn!(
                step = self.done,
                "the ranks' weights differ by rounding: all take rank 0's"
            );
        }
        (self.student, self.state, self.optimizer) = (modules.student, modules.state, modules.optimizer);
        Ok(self)
    }

    /// Writes `encoder.safetensors` of the finished run.
    pub(super) fn write_encoder<C>(&self, plan: &Plan<'_, O, C>) -> Result<(), Error> {
        let path = plan.options.out.join(ENCODER);
        Ok(durable::write(&path, &self.encoder(plan)?)?)
    }

    fn encoder<C>(&self, plan: &Plan<'_, O, C>) -> Result<Vec<u8>, Error> {
        self.encoder_of(plan, &self.student, &self.state)
    }

    fn encoder_of<C>(
        &self,
        plan: &Plan<'_, O, C>,
        student: &O::Student,
        state: &O::State,
    ) -> Result<Vec<u8>, Error> {
        encoder_bytes(
            &plan.objective.encoder(student, state),
            &plan.dataset,
            plan.config,
            &plan.options.method,
            self.done,
            self.origin.as_ref(),
        )
    }

    /// In f16: steps skipped because a gradient overflowed, since the run's start.
    pub(super) fn skipped_steps(&self) -> usize {
        self.loss_scale.as_ref().map_or(0, |scale| scale.skipped)
    }

    /// Logs when the host finishes each phase of a step (`PASSER_LOG=training=trace`); a GPU finishes later.
    fn trace(&self, phase: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::trace!(step = self.done, "{seconds:9.4} s {phase}");
    }
}

/// What the forward and backward passes of a step gave.
pub(super) struct Passes<O: Objective> {
    /// Of each micro-batch.
    pub(super) losses: Vec<Loss>,
    pending: Vec<O::Pending>,
    /// Over all micro-batches and ranks; in f16 times the loss scale.
    pub(super) gradients: GradientsParams,
    /// Of all ranks.
    images: usize,
}

/// What an objective's checkpoint holds.
type Modules<O> = Loaded<<O as Objective>::Student, <O as Objective>::State>;

impl<O: Objective, C> Plan<'_, O, C> {
    /// The rules of alarms.
    fn rules(&self) -> Rules {
        Rules::new(Setting {
            steps_per_epoch: self.steps_per_epoch,
            batch_images: self.config.data.batch_images,
            prototypes: self.objective.prototypes(),
        })
    }

    /// Rank 0's modules on every rank, and whether they had to be sent: `init` gives the same everywhere, and steps keep it
    /// the same.
    fn rank_0s(&self, engine: &Arc<dyn Engine>, modules: Modules<O>) -> Result<(Modules<O>, bool), Error> {
        if ranks::modules_agree(engine, &modules) {
            return Ok((modules, false));
        }
        let modules = ranks::receive(engine, modules, || self.fresh(None))?;
        Ok((modules, true))
    }
}

impl<O: Objective, C: Serialize> Plan<'_, O, C> {
    /// What all ranks must have in common.
    fn identity(&self) -> Result<BTreeMap<&'static str, String>, Error> {
        let config = toml::to_string(self.config)
            .map_err(|error| Error::Config(format!("cannot be written as TOML: {error}")))?;
        let facts = &self.options.provenance;
        let program = ["version", "commit"].map(|key| facts.get(key).map(|value| value.to_string()));
        let program = program.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let data = format!("fingerprint {}", self.dataset.fingerprint());
        Ok(BTreeMap::from([
            ("config", config),
            ("data set", data),
            ("program", program),
        ]))
    }
}

/// Whether a parameter of a student belongs to the network under study, which every method names so.
fn is_of_backbone(path: &str) -> bool {
    path.split('.').any(|part| part == "backbone")
}
