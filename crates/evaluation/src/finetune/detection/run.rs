//! A detector's fine-tuning from config to `result.json`: checks, the training loop with its evaluations, and one pass
//! over the test set.

use super::line::EvaluationLine;
use super::objective::{Detect, State};
use super::page::page;
use super::precise::with_precise_statistics;
use super::results::{details, scores, write_files};
use super::score::{EvaluationSet, Found, Pass, Scores};
use super::{Config, Settings, Start};
use crate::encoder::PretrainedOn;
use crate::error::Error;
use crate::finetune::curve::Curve;
use crate::overlap::{Comparison, Overlap};
use crate::progress::Event;
use crate::result::{Outcome, Provenance, Score, write_results};
use crate::task::{Numbering, unknown_class};
use backbones::draws::choose;
use backbones::{Draws, independent_copy};
use burn::module::Module;
use data::targets::ImageTargets;
use data::{Dataset, Loader};
use detection::rcnn::Rcnn;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use training::{EvaluationDue, RunOptions, Summary, Trained};

/// Inputs and run directory of a detector's fine-tuning.
pub struct Job<'a> {
    /// What the detector starts from.
    pub start: Start<'a>,
    /// Records with objects ([`Dataset::open_with_objects`]) to learn from; held-out records are a part of them.
    pub train: Arc<Dataset>,
    /// Records with objects to score on.
    pub test: Arc<Dataset>,
    /// Run directory, device, resume, stop flag.
    pub options: RunOptions,
    /// Facts that only the program knows about itself.
    pub provenance: Provenance,
}

/// A step of a detector's fine-tuning, for the caller to show.
#[derive(Debug)]
pub enum DetectionEvent<'a> {
    /// In the training loop.
    Training(training::Event<'a>),
    /// An evaluation during training.
    Evaluated(&'a EvaluationLine),
    /// Pictures are being scored.
    Scoring(Event<'a>),
}

/// How a detector's fine-tuning ended.
pub struct DetectionResult {
    /// Of the training loop.
    pub summary: Summary,
    /// The scores of `result.json`; `None` if the run was interrupted, and on ranks besides rank 0.
    pub outcomes: Option<Vec<Outcome>>,
}

const VALIDATION: &str = "validation.jsonl";

/// The receiver of events.
type Observer<'a> = RefCell<&'a mut dyn FnMut(DetectionEvent<'_>)>;

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
    observe: &mut dyn FnMut(DetectionEvent<'_>),
) -> Result<DetectionResult, Error> {
    let replicas = &job.options.replicas;
    let tuning = training::agree(replicas, Tuning::prepare(config, job))?;
    let test_set = format!("fingerprint {}", job.test.fingerprint());
    training::check_agreement(replicas, &BTreeMap::from([("test set", test_set)]))?;
    let observe = RefCell::new(observe);
    let Trained {
        summary,
        student,
        state,
    } = tuning.train(&observe)?;
    if summary.outcome == training::Outcome::Interrupted {
        return Ok(DetectionResult {
            summary,
            outcomes: None,
        });
    }
    let outcomes = tuning.test(&student, &state, &summary, &observe)?;
    Ok(DetectionResult { summary, outcomes })
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
        let weights = job.start.weights(&settings.network)?;
        let objective = Detect::new(settings, weights);
        if job.train.fingerprint() == job.test.fingerprint() {
            return Err(Error::SameRecords {
                records: job.test.len(),
            });
        }
        let (learned, held_out) = split(settings, &job.train)?;
        let train = Arc::new(Dataset::with_objects_to_train_on(&learned)?);
        check_training_objects(settings, &train)?;
        let validation = held_out.map(|records| evaluation_set(settings, &job.train, records));
        let test = evaluation_set(settings, &job.train, Arc::clone(&job.test))?;
        let is_first = job.options.replicas.rank() == 0;
        let overlap = is_first.then(|| compare(job, settings));
        Ok(Self {
            job,
            objective,
            train,
            validation: validation.transpose()?,
            test,
            overlap: overlap.transpose()?,
            config,
        })
    }

    fn train(&self, observe: &Observer<'_>) -> Result<Trained<Detect>, Error> {
        training::train(
            &self.objective,
            &self.config,
            Arc::clone(&self.train),
            &self.job.options,
            &mut |event| (observe.borrow_mut())(DetectionEvent::Training(event)),
            &mut |due| self.evaluate(due, observe),
        )
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            settings: &self.config.objective,
            loader: self.config.data.loader(),
            device: &self.job.options.device,
            replicas: &self.job.options.replicas,
        }
    }

    /// The detector to score: without autodiff, and with precise statistics if the config wants them.
    fn to_score(&self, network: &Rcnn) -> Result<Rcnn, Error> {
        let network = network.valid();
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

    /// Scores the detector on the held-out records, or on the test set if there are none, adds a line to the curve, and
    /// keeps the detector if it is the best so far on held-out ones.
    fn evaluate(&self, due: EvaluationDue<'_, Detect>, observe: &Observer<'_>) -> Result<State, Error> {
        let EvaluationDue {
            epochs,
            step,
            student,
            mut state,
        } = due;
        let settings = &self.config.objective;
        let (set, on) = match &self.validation {
            Some(set) => (set, "validation"),
            // The test set is scored after the last step anyway.
            None if settings.evaluate_every_steps.is_none() => return Ok(state),
            None => (&self.test, "test"),
        };
        let network = self.to_score(student)?;
        let found = self.pass().find(&network, set, &mut |_| {})?;
        let replicas = &self.job.options.replicas;
        let mut is_best = false;
        if replicas.rank() == 0 {
            let line = line(&found, settings, (step, epochs), on)?;
            (observe.borrow_mut())(DetectionEvent::Evaluated(&line));
            // A run that was killed after its newest checkpoint computes its later lines again.
            let path = self.lines_path();
            let mut curve = Curve::<EvaluationLine>::read(&path, step)?;
            is_best = curve
                .lines
                .iter()
                .all(|before| before.box_ap.unwrap_or(-1.0) < line.box_ap.unwrap_or(0.0));
            curve.push(line, &path)?;
        }
        // The other ranks have no earlier lines to compare with.
        let of_rank_0 = replicas.gather_bytes(vec![u8::from(is_best)]).swap_remove(0);
        if settings.keeps_best() && of_rank_0 == [1] {
            state.best = Some(independent_copy(&network));
        }
        Ok(state)
    }

    /// The scores of the kept detector on the test set, written to the run directory by rank 0.
    fn test(
        &self,
        student: &Rcnn,
        state: &State,
        summary: &Summary,
        observe: &Observer<'_>,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        let network = match &state.best {
            // It has its precise statistics already.
            Some(_) => Detect::kept(student, state),
            None => self.to_score(student)?,
        };
        let found = self.pass().find(&network, &self.test, &mut |event| {
            (observe.borrow_mut())(DetectionEvent::Scoring(event));
        })?;
        let Some(overlap) = &self.overlap else {
            return Ok(None);
        };
        let settings = &self.config.objective;
        let scored = found.scores(settings, true)?;
        let out = &self.job.options.out;
        let names = self.job.train.class_names();
        write_files(out, &network, names, &found, &self.test)?;
        let outcomes = self.outcomes(&found, &scored, overlap, summary)?;
        write_results(&out.join("result.json"), &outcomes)?;
        let report = page(settings, names, &self.test, &found, &scored, &outcomes)?;
        data::durable::write(&out.join("report.html"), report.as_bytes())?;
        Ok(Some(outcomes))
    }

    fn outcomes(
        &self,
        found: &Found,
        scored: &Scores,
        overlap: &Overlap,
        summary: &Summary,
    ) -> Result<Vec<Outcome>, Error> {
        let train_bad_records = summary.bad_records.count;
        let (job, config) = (self.job, &self.config);
        let settings = &config.objective;
        let mut details = details(config);
        let curve = Curve::<EvaluationLine>::read(&self.lines_path(), usize::MAX)?;
        let best = curve
            .lines
            .iter()
            .reduce(|best, line| match line.box_ap > best.box_ap {
                true => line,
                false => best,
            });
        let (step, chosen_on) = match best.filter(|_| settings.keeps_best()) {
            Some(line) => (line.step, "records held out of the training set"),
            None => (summary.steps, "nothing: the last step"),
        };
        details.insert("step".into(), json!(step));
        details.insert("step_chosen_on".into(), json!(chosen_on));
        let encoder = job.start.encoder();
        let outcome = |score: Score| Outcome {
            protocol: settings.protocol().into(),
            metric: score.metric.to_string(),
            value: score.value,
            headline: score.headline,
            spread: None,
            encoder: job.start.hash().unwrap_or_else(|| "none".into()),
            encoder_name: job.start.name(&settings.network),
            encoder_step: encoder
                .map(|encoder| encoder.info.steps)
                .filter(|steps| *steps > 0),
            classes: settings.network.classes,
            train_records: self.train.len() - train_bad_records,
            test_records: found.results.len(),
            train_bad_records,
            test_bad_records: job.test.len() - found.results.len(),
            train_fingerprint: self.train.fingerprint().to_string(),
            test_fingerprint: job.test.fingerprint().to_string(),
            train_listing: self.train.listing().clone(),
            test_listing: job.test.listing().clone(),
            overlap: Some(overlap.clone()),
            settings: Value::Object(score.details),
            test_transforms: json!(settings.test_views()),
            normalize: json!(config.data.normalize),
            commit: job.provenance.commit.clone(),
            device: job.provenance.device.clone(),
            // A run resumes from its checkpoint, not from its result.
            asked: String::new(),
        };
        let all = scores(scored, job.train.class_names(), &details);
        Ok(all.into_iter().map(outcome).collect())
    }

    fn lines_path(&self) -> PathBuf {
        self.job.options.out.join(VALIDATION)
    }
}

fn line(
    found: &Found,
    settings: &Settings,
    (step, epoch): (usize, usize),
    on: &str,
) -> Result<EvaluationLine, Error> {
    let scored = found.scores(settings, false)?;
    let [box_ap, box_ap50, box_ap75] = scored.boxes.main();
    Ok(EvaluationLine {
        step,
        epoch,
        on: on.into(),
        box_ap,
        box_ap50,
        box_ap75,
        mask_ap: scored.masks.and_then(|masks| masks.ap),
        records: found.results.len(),
    })
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

/// The objects of all records, in their order.
fn all_targets(dataset: &Dataset) -> Result<Vec<ImageTargets>, Error> {
    let of = |position: usize| -> Result<ImageTargets, Error> {
        dataset.targets(position)?.ok_or_else(|| no_objects(dataset))
    };
    (0..dataset.len()).into_par_iter().map(of).collect()
}

fn no_objects(dataset: &Dataset) -> Error {
    Error::Config(format!(
        "a data set of {} records was opened without its objects",
        dataset.len()
    ))
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
        let targets = train.targets(position)?.ok_or_else(|| no_objects(train))?;
        for object in targets.objects.iter().filter(|object| object.is_trained_on()) {
            if object.class as usize >= network.classes {
                return Err(Error::Config(format!(
                    "`detection.network.classes` must be above {}, a class of `{}`, got {}",
                    object.class,
                    train.key(position)?,
                    network.classes
                )));
            }
            if network.masks.is_some() && object.segmentation.is_none() {
                return Err(Error::Config(format!(
                    "`detection.network.masks` needs a mask for each object, and object {} of `{}` has none; leave the table out to train boxes alone",
                    object.id,
                    train.key(position)?
                )));
            }
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
    let mut truth = all_targets(&dataset)?;
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
            if settings.network.masks.is_some() && object.segmentation.is_none() {
                return Err(Error::Config(format!(
                    "`detection.network.masks` needs a mask for each object, and object {} of `{}` has none",
                    object.id,
                    dataset.key(position)?
                )));
            }
        }
    }
    Ok(EvaluationSet {
        dataset,
        truth,
        category_ids,
    })
}

/// Compares the test images with the training images.
fn compare(job: &Job<'_>, settings: &Settings) -> Result<Overlap, Error> {
    let pretrained_on = job.start.encoder().map(PretrainedOn::of).unwrap_or_default();
    Comparison {
        train: &Arc::clone(&job.train).into(),
        test: &Arc::clone(&job.test).into(),
        train_fingerprint: job.train.fingerprint(),
        pretrained_on: &pretrained_on,
        most: settings.max_shared_fraction,
        learns: true,
    }
    .check()
}
