//! Everything fixed before the first step: the loader, the number of steps, each step's rates, and what is
//! due after it.

use super::RunOptions;
use crate::batch::Batch;
use crate::checkpoint;
use crate::config::{Config, ObjectiveSection};
use crate::counts::{RunLength, check_counts};
use crate::error::Error;
use crate::objective::Objective;
use crate::optimizer::{Optimizer, Rates};
use crate::start::Started;
use backbones::{Context, Draws, Init, RunPosition};
use std::sync::Arc;
use std::time::Instant;

/// A run whose config, data and device are compatible.
pub(super) struct Plan<'a, O, C> {
    pub(super) objective: &'a O,
    pub(super) config: &'a Config<C>,
    pub(super) options: &'a RunOptions,
    pub(super) dataset: Arc<data::Dataset>,
    pub(super) loader: data::Loader,
    pub(super) steps_per_epoch: usize,
    /// Total steps of the run.
    pub(super) steps: usize,
    /// Steps between evaluations; `None`: at the end of each epoch.
    evaluate_every_steps: Option<usize>,
    /// Photographs per step on this device.
    pub(super) images: usize,
    /// Photographs per forward and backward pass.
    pub(super) micro_batch_images: usize,
    /// Scaled by the batch size.
    pub(super) peak_learning_rate: f64,
}

/// Work due after a step.
pub(super) struct Due {
    /// The callback.
    pub(super) evaluation: bool,
    /// A line of `metrics.jsonl`.
    pub(super) line: bool,
    pub(super) checkpoint: bool,
}

impl<'a, O: Objective, C: ObjectiveSection> Plan<'a, O, C> {
    /// # Errors
    /// A config that contradicts itself, the objective, the device or the data.
    pub(super) fn new(
        objective: &'a O,
        config: &'a Config<C>,
        dataset: Arc<data::Dataset>,
        options: &'a RunOptions,
    ) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        objective.views().check(&config.views).map_err(Error::Config)?;
        let precision = config.training.precision;
        precision.check(&options.device).map_err(Error::Config)?;
        let (rank, ranks) = (options.replicas.rank(), options.replicas.count());
        let batch_images = config.data.batch_images;
        let images = rank_images(config, ranks).map_err(Error::Config)?;
        let micro_batch_images = config.pass_images(ranks);
        if !images.is_multiple_of(micro_batch_images) {
            return Err(Error::Config(format!(
                "`training.micro_batch_images` must divide the {images} images of a device, got {micro_batch_images}"
            )));
        }
        let records = Arc::clone(&dataset);
        let (of_loader, order, seed) = (config.data.loader(), config.data.order, config.seed);
        let loader = match config.objective.object_views() {
            Some(views) => {
                data::Loader::of_objects(records, views, micro_batch_images, of_loader, order, seed)?
            }
            None => data::Loader::new(records, config.views.clone(), of_loader, order, seed)?,
        };
        let loader = loader.part(rank, ranks)?;
        // For the encoder file: an error now is better than at the first checkpoint. The count is cached.
        dataset.licenses()?;
        let steps_per_epoch = loader.batches_per_epoch();
        let steps = config.training.total_steps(steps_per_epoch);
        let length = RunLength {
            epochs: steps.div_ceil(steps_per_epoch),
            steps,
            steps_per_epoch,
            records: dataset.len(),
            batch_images,
        };
        config
            .schedule
            .validate("schedule", Some(length.epochs))
            .map_err(Error::Config)?;
        check_length(config, &length, options.resume)?;
        Ok(Self {
            objective,
            config,
            options,
            dataset,
            loader,
            steps_per_epoch,
            steps,
            evaluate_every_steps: config.objective.evaluate_every_steps(),
            images,
            micro_batch_images,
            peak_learning_rate: config.optimizer.peak_learning_rate(batch_images),
        })
    }
}

/// The photographs of each of `ranks` devices per step.
///
/// # Errors
/// A batch that cannot be divided among them, alone or with its groups of batch statistics.
fn rank_images<C>(config: &Config<C>, ranks: usize) -> Result<usize, String> {
    let batch_images = config.data.batch_images;
    if !batch_images.is_multiple_of(ranks) {
        return Err(format!(
            "`data.batch_images` must be divisible by the {ranks} ranks, got {batch_images}"
        ));
    }
    let images = batch_images / ranks;
    match config.training.batch_norm_images {
        Some(group) if !images.is_multiple_of(group) && !group.is_multiple_of(images) => Err(format!(
            "`training.batch_norm_images` must divide the {images} images of each of the {ranks} ranks, or be a multiple of them, got {group}"
        )),
        _ => Ok(images),
    }
}

/// Gives an error for a setting that cannot take effect in the run, and logs a warning for one that takes less
/// effect than it says. A run that was begun with it continues, so then both are warnings.
fn check_length<C: ObjectiveSection>(
    config: &Config<C>,
    length: &RunLength,
    resume: bool,
) -> Result<(), Error> {
    for count in config.counts() {
        match check_counts(&[count], length) {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(reason) if resume => tracing::warn!("{reason}"),
            Err(reason) => return Err(Error::Config(reason)),
        }
    }
    Ok(())
}

impl<O: Objective, C> Plan<'_, O, C> {
    /// The source of initial weights, on an autodiff device; with those of an encoder that was read to start from.
    pub(super) fn init(&self, started: Option<&Started>) -> Init {
        let mut device = self.options.device.clone().autodiff();
        if self.config.training.recompute_activations {
            device = device.gradient_checkpointing();
        }
        let init = Init::new(self.config.seed, &device).with_precision(self.config.training.precision);
        match started {
            Some(started) => init.starting_from(Arc::clone(&started.tensors)),
            None => init,
        }
    }

    pub(super) fn progress(&self, step: usize) -> RunPosition {
        RunPosition::at(step, self.steps_per_epoch, self.steps)
    }

    pub(super) fn context(&self, progress: RunPosition) -> Context {
        let draws = Draws::new(self.config.seed, progress.step as u64);
        let context = Context {
            batch_norm_images: self.config.training.batch_norm_images,
            ..Context::training(progress, draws)
        };
        context.shared_by(self.options.replicas.clone(), self.images)
    }

    /// Whether this process owns the run directory: that of rank 0.
    pub(super) fn writes(&self) -> bool {
        self.options.replicas.rank() == 0
    }

    /// Learning rate, weight decay and parameter rules of a step, all computed here.
    pub(super) fn rates(&self, progress: &RunPosition) -> Rates {
        self.config.optimizer.rates(
            self.peak_learning_rate,
            &self.config.schedule,
            progress,
            self.objective.parameter_rules(),
        )
    }

    /// The next batch on the device, and the seconds spent waiting for it.
    pub(super) fn next_batch(&self, batches: &mut data::Batches, step: usize) -> Result<(Batch, f64), Error> {
        let (batch, waited_seconds) = self.next_views(batches, step)?;
        Ok((self.upload(batch), waited_seconds))
    }

    /// A batch on the device.
    pub(super) fn upload(&self, batch: data::Batch) -> Batch {
        Batch::upload(batch, &self.config.data.normalize, &self.options.device)
    }

    /// The next batch in host memory, and the seconds spent waiting for it.
    pub(super) fn next_views(
        &self,
        batches: &mut data::Batches,
        step: usize,
    ) -> Result<(data::Batch, f64), Error> {
        let waiting = Instant::now();
        let Some(batch) = batches.next() else {
            return Err(Error::Config(format!(
                "the loader ended at step {step} of {}",
                self.steps
            )));
        };
        let waited_seconds = waiting.elapsed().as_secs_f64();
        Ok((batch?, waited_seconds))
    }

    /// Gives an error for micro-batches that would not give the whole batch's step.
    pub(super) fn check_micro_batches(&self, student: &O::Student) -> Result<(), Error> {
        let refused = |reason: &str| {
            Err(Error::Config(format!(
                "`training.micro_batch_images` cannot be used here: {reason}"
            )))
        };
        if let Some(reason) = self.objective.whole_batch() {
            return refused(reason);
        }
        let batch_norm_images = self.config.training.batch_norm_images;
        if self.objective.takes_batch_statistics(student) && batch_norm_images.is_none() {
            return refused(
                "the networks take batch statistics over the whole batch; say with `training.batch_norm_images` how many images share them",
            );
        }
        Ok(())
    }

    /// Whether a line is due after `done` steps of a run of any length.
    pub(super) fn line_whatever_the_length(&self, done: usize) -> bool {
        done.is_multiple_of(self.config.training.log_every_steps)
    }

    /// The work due after `done` steps; `now`: a checkpoint is due whatever the step.
    pub(super) fn due(&self, done: usize, now: bool) -> Due {
        let training = &self.config.training;
        let last = done == self.steps;
        let every = training.checkpoint_steps(self.steps_per_epoch);
        Due {
            evaluation: match self.evaluate_every_steps {
                Some(steps) => last || done.is_multiple_of(steps),
                None => done.is_multiple_of(self.steps_per_epoch),
            },
            line: last || self.line_whatever_the_length(done),
            checkpoint: last
                || now
                || done.is_multiple_of(every)
                || self.config.schedule.steps_before_decay(self.steps) == Some(done),
        }
    }
}

impl<O: Objective, C> Plan<'_, O, C> {
    /// The encoder that the config starts from, read; `None` for initial weights, for a run that resumes, and on ranks other
    /// than 0, which take the networks of rank 0.
    ///
    /// # Errors
    /// Those of [`Started::read`].
    pub(super) fn started(&self) -> Result<Option<Started>, Error> {
        let options = &self.options;
        if options.resume && checkpoint::latest_checkpoint(&options.out)?.is_some() {
            return Ok(None);
        }
        self.start_encoder()
    }

    /// The same, whether the run resumes or not.
    ///
    /// # Errors
    /// Those of [`Started::read`].
    pub(super) fn start_encoder(&self) -> Result<Option<Started>, Error> {
        let Some(start) = self.config.start.as_ref().filter(|_| self.writes()) else {
            return Ok(None);
        };
        let released = self.objective.released();
        let (backbone, options) = (&self.config.backbone, &self.options);
        Started::read(start, backbone, &options.method, &released, &options.device).map(Some)
    }

    /// Whether the backbone's weights rest in this step, while new heads fit it.
    pub(super) fn freezes_backbone(&self, progress: &RunPosition) -> bool {
        let epochs = self
            .config
            .start
            .as_ref()
            .map(|start| start.freeze_backbone_epochs);
        epochs.is_some_and(|epochs| progress.epoch() < epochs)
    }

    /// Networks and optimizer before the first step; with the weights of an encoder that was read to start from.
    pub(super) fn fresh(&self, started: Option<&Started>) -> (O::Student, O::State, Optimizer) {
        let (student, state) = self.objective.init(&self.init(started));
        (student, state, self.config.optimizer.init())
    }
}
