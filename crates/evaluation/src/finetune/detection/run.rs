//! Fine-tuning a detector: its records and their objects, how it is scored, and its files.

use super::line::EvaluationLine;
use super::objective::{Detect, State};
use super::page::page;
use super::precise::with_precise_statistics;
use super::results::{details, scores, write_files};
use super::score::{EvaluationSet, Found, Pass};
use super::{Config, Settings, start};
use crate::error::Error;
use crate::finetune::curve::Curve;
use crate::finetune::run::{Common, EvaluatedOn, Evaluation, FinetuneEvent, FinetuneResult, Job, Task, tune};
use crate::overlap::Overlap;
use crate::progress::Event;
use crate::result::Outcome;
use crate::task::{Numbering, unknown_class};
use backbones::Draws;
use backbones::draws::choose;
use burn::module::Module;
use data::targets::{ImageTargets, Object};
use data::{Dataset, Loader};
use detection::rcnn::Rcnn;
use rayon::prelude::*;
use serde_json::json;
use std::sync::Arc;
use training::Summary;

/// Fine-tunes a detector according to the config and scores the test set.
///
/// The run directory holds the files of a pretraining run, `validation.jsonl` with the evaluations during training,
/// `result.json`, `report.html`, `detector.safetensors` with torchvision's names, and what was found in the test set as
/// COCO's results files. Resuming a finished run scores it again.
///
/// On several ranks, each scores a part of the pictures, and rank 0 alone reads and writes the run directory. All ranks
/// call it alike, with the same data.
///
/// # Errors
/// Everything in [`Error`]; errors in config, weights and data are found before the first step.
pub fn run(
    config: &Config,
    job: &Job<'_>,
    observe: &mut dyn FnMut(FinetuneEvent<'_, EvaluationLine>),
) -> Result<FinetuneResult, Error> {
    tune(Tuning::prepare(config, job), job, observe)
}

/// A fine-tuning whose config, weights and data have been checked.
struct Tuning<'a> {
    job: &'a Job<'a>,
    config: training::Config<Settings>,
    objective: Detect,
    /// Records to learn from.
    train: Arc<Dataset>,
    validation: Option<EvaluationSet>,
    test: EvaluationSet,
    /// How far the test images are new; on rank 0, which writes the results.
    overlap: Option<Overlap>,
}

impl<'a> Tuning<'a> {
    fn prepare(config: &Config, job: &'a Job<'a>) -> Result<Self, Error> {
        let mut config = config.to_training();
        config.validate().map_err(Error::Config)?;
        let settings = &mut config.objective;
        settings.start = job.start.hash();
        let weights = start::weights(&job.start, &settings.network)?;
        let objective = Detect::new(settings, weights, &job.options.device);
        job.check_records()?;
        let (learned, held_out) = split(settings, &job.train)?;
        let train = Arc::new(Dataset::with_objects_to_train_on(&learned)?);
        check_training_objects(settings, &train)?;
        let validation = held_out.map(|records| evaluation_set(settings, &job.train, records));
        let test = evaluation_set(settings, &job.train, Arc::clone(&job.test))?;
        let overlap = job.overlap(&Arc::clone(&job.train).into(), settings.max_shared_fraction)?;
        Ok(Self {
            job,
            objective,
            train,
            validation: validation.transpose()?,
            test,
            overlap,
            config,
        })
    }
}

impl Task for Tuning<'_> {
    type Objective = Detect;
    type Settings = Settings;
    type Network = Rcnn;
    type Set = EvaluationSet;
    type Found = Found;
    type Line = EvaluationLine;

    fn training(&self) -> (&Detect, &training::Config<Settings>, &Arc<Dataset>) {
        (&self.objective, &self.config, &self.train)
    }

    fn evaluated_on(&self) -> EvaluatedOn<'_, EvaluationSet> {
        match (&self.validation, self.config.objective.evaluate_every_steps) {
            (Some(set), _) => EvaluatedOn::HeldOut(set),
            (None, Some(_)) => EvaluatedOn::Test,
            // The test set is scored after the last step anyway.
            (None, None) => EvaluatedOn::Nothing,
        }
    }

    fn test_set(&self) -> &EvaluationSet {
        &self.test
    }

    fn best(state: &mut State) -> &mut Option<Rcnn> {
        &mut state.best
    }

    /// Without autodiff, and with precise statistics if the config wants them.
    fn to_score(&self, student: &Rcnn, _: &State) -> Result<Rcnn, Error> {
        let network = student.valid();
        let settings = &self.config.objective;
        let Some(batches) = settings.precise_statistics_batches else {
            return Ok(network);
        };
        let images = self.config.pass_images(self.job.options.replicas.count());
        let loader = data::LoaderConfig {
            batch_images: images,
            ..self.config.data.loader()
        };
        let (order, seed) = (self.config.data.order, self.config.seed);
        let records = Arc::clone(&self.train);
        let loader = Loader::of_objects(records, settings.training_views(), images, loader, order, seed)?;
        let device = &self.job.options.device;
        with_precise_statistics(&network, settings, &loader, batches, (seed, device))
    }

    fn score(
        &self,
        network: &Rcnn,
        set: &EvaluationSet,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Found, Error> {
        let pass = Pass {
            settings: &self.config.objective,
            loader: self.config.data.loader(),
            device: &self.job.options.device,
            replicas: &self.job.options.replicas,
        };
        pass.find(network, set, progress)
    }

    fn line(&self, found: &Found, at: Evaluation) -> Result<EvaluationLine, Error> {
        let scored = found.scores(&self.config.objective, false)?;
        let [box_ap, box_ap50, box_ap75] = scored.boxes.main();
        Ok(EvaluationLine {
            step: at.step,
            epoch: at.epoch,
            on: at.on.into(),
            box_ap,
            box_ap50,
            box_ap75,
            mask_ap: scored.masks.and_then(|masks| masks.mean.ap),
            records: found.results.len(),
        })
    }

    /// Writes the detector, what it found, and the report.
    fn finish(
        &self,
        network: &Rcnn,
        found: &Found,
        curve: &Curve<EvaluationLine>,
        summary: &Summary,
    ) -> Result<Vec<Outcome>, Error> {
        let (job, settings) = (self.job, &self.config.objective);
        let names = job.train.class_names();
        write_files(&job.options.out, network, &job.train, found, &self.test)?;
        let mut details = details(&self.config);
        let best = curve.best().filter(|_| settings.keeps_best());
        let (step, chosen_on) = match best {
            Some(line) => (line.step, "records held out of the training set"),
            None => (summary.steps, "nothing: the last step"),
        };
        details.insert("step".into(), json!(step));
        details.insert("step_chosen_on".into(), json!(chosen_on));
        let common = Common {
            protocol: settings.protocol().into(),
            name: job.start.name(&self.config.backbone),
            classes: settings.network.classes,
            train: &self.train,
            train_bad_records: summary.bad_records.count,
            test_records: found.results.len(),
            overlap: self.overlap.clone(),
            test_transforms: json!(settings.test_views()),
            normalize: &self.config.data.normalize,
        };
        let scored = found.scores(settings, true)?;
        let outcomes = job.outcomes(&common, scores(&scored, names, &details, &settings.network));
        let report = page(settings, names, &self.test, found, &scored, &outcomes)?;
        data::durable::write(&job.options.out.join("report.html"), report.as_bytes())?;
        Ok(outcomes)
    }
}

/// The records to learn from, and those held out.
fn split(settings: &Settings, train: &Arc<Dataset>) -> Result<(Arc<Dataset>, Option<Arc<Dataset>>), Error> {
    let Some(held_out) = &settings.validation else {
        return Ok((Arc::clone(train), None));
    };
    let count = ((train.len() as f64 * held_out.fraction) as usize).max(1);
    let mut positions: Vec<u32> = (0..train.len() as u32).collect();
    if count >= positions.len() {
        return Err(Error::Config(format!(
            "`detection.validation.fraction` must leave records to learn from, got {} of {}",
            held_out.fraction,
            positions.len()
        )));
    }
    let mut rng = Draws::new(held_out.seed, 0).rng("finetune.detection.held_out", 0);
    choose(&mut rng, &mut positions, count);
    let mut learned = positions.split_off(count);
    positions.sort_unstable();
    learned.sort_unstable();
    let part = |positions| Dataset::part(train, positions).map(Arc::new);
    Ok((part(learned)?, Some(part(positions)?)))
}

/// The objects of a record.
fn targets_of(dataset: &Dataset, position: usize) -> Result<ImageTargets, Error> {
    dataset.targets(position)?.ok_or_else(|| {
        Error::Config(format!(
            "a data set of {} records was opened without its objects",
            dataset.len()
        ))
    })
}

/// Gives an error if a network with masks is to learn or be scored on an object without one.
fn check_mask(settings: &Settings, object: &Object, dataset: &Dataset, position: usize) -> Result<(), Error> {
    match settings.network.masks.is_some() && object.segmentation.is_none() {
        true => Err(Error::Config(format!(
            "`detection.network.masks` needs a mask for each object, and object {} of `{}` has none; leave the table out to train boxes alone",
            object.id,
            dataset.key(position)?
        ))),
        false => Ok(()),
    }
}

/// Gives an error for classes that the network lacks and masks that the data lack.
fn check_training_objects(settings: &Settings, train: &Dataset) -> Result<(), Error> {
    let network = &settings.network;
    let names = train.class_names().len();
    if names > 0 && names != network.classes {
        return Err(Error::Config(format!(
            "`detection.network.classes` must be {names}, the number of classes of the training data, got {}",
            network.classes
        )));
    }
    let check = |position: usize| -> Result<(), Error> {
        let targets = targets_of(train, position)?;
        for object in targets.objects.iter().filter(|object| object.is_trained_on()) {
            if object.class as usize >= network.classes {
                return Err(Error::Config(format!(
                    "`detection.network.classes` must be above {}, a class of `{}`, got {}",
                    object.class,
                    train.key(position)?,
                    network.classes
                )));
            }
            check_mask(settings, object, train, position)?;
        }
        Ok(())
    };
    (0..train.len()).into_par_iter().try_for_each(check)
}

/// A set to score, with the classes of the training set.
fn evaluation_set(
    settings: &Settings,
    train: &Dataset,
    dataset: Arc<Dataset>,
) -> Result<EvaluationSet, Error> {
    let truth = (0..dataset.len()).into_par_iter();
    let truth = truth.map(|position| targets_of(&dataset, position));
    let mut truth = truth.collect::<Result<Vec<_>, _>>()?;
    let mut of_training = 0..settings.network.classes as i64;
    let mut labels = truth
        .iter()
        .flat_map(|targets| &targets.objects)
        .map(|object| i64::from(object.class));
    let numbering = Numbering::new(
        (train.class_names(), &mut of_training),
        (dataset.class_names(), &mut labels),
    )?;
    let mut category_ids: Vec<u64> = (0..settings.network.classes as u32)
        .map(|class| train.category_id(class))
        .collect();
    for own in 0..dataset.class_names().len() as u32 {
        let place = numbering.of_test(i64::from(own)).map(|class| class as usize);
        if let Some(id) = place.and_then(|class| category_ids.get_mut(class)) {
            *id = dataset.category_id(own);
        }
    }
    for (position, targets) in truth.iter_mut().enumerate() {
        for object in &mut targets.objects {
            let class = numbering.of_test(i64::from(object.class));
            let known = class.filter(|class| (0..settings.network.classes as i64).contains(class));
            let Some(class) = known else {
                let names = (train.class_names(), dataset.class_names());
                let key = dataset.key(position)?;
                return Err(unknown_class(names.0, names.1, i64::from(object.class), key));
            };
            object.class = class as u32;
            check_mask(settings, object, &dataset, position)?;
        }
    }
    Ok(EvaluationSet {
        dataset,
        truth,
        category_ids,
    })
}
