//! A fine-tuning from checked inputs to `result.json`: the training loop with its evaluations, and one pass over the test
//! set. What is trained, how it is scored, and which other files it writes is a [`Task`].

use super::curve::{Curve, CurveLine};
use super::start::Start;
use crate::encoder::PretrainedOn;
use crate::error::Error;
use crate::features::Records;
use crate::overlap::{Comparison, Overlap};
use crate::progress::Event;
use crate::result::{Outcome, Provenance, Score, write_results};
use backbones::independent_copy;
use burn::module::Module;
use data::Dataset;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use training::{
    EvaluationDue, Normalize, Objective, ObjectiveSection, RunOptions, Summary, Trained, TrainingConfig,
};

/// Inputs and run directory of a fine-tuning.
pub struct Job<'a> {
    /// What the network starts from.
    pub start: Start<'a>,
    /// Labeled records, or records with objects ([`Dataset::open_with_objects`]), to learn from; held-out records are a
    /// part of them.
    pub train: Arc<Dataset>,
    /// Such records to score on, once.
    pub test: Arc<Dataset>,
    /// Run directory, device, resume, stop flag.
    pub options: RunOptions,
    /// Facts that only the program knows about itself.
    pub provenance: Provenance,
}

/// A step of a fine-tuning, for the caller to show. `L` is a line of `validation.jsonl`.
#[derive(Debug)]
pub enum FinetuneEvent<'a, L> {
    /// In the training loop.
    Training(training::Event<'a>),
    /// An evaluation during training.
    Evaluated(&'a L),
    /// The test set is being scored.
    Testing(Event<'a>),
}

/// How a fine-tuning ended.
pub struct FinetuneResult {
    /// Of the training loop.
    pub summary: Summary,
    /// The scores of `result.json`; `None` if the run was interrupted, and on ranks besides rank 0.
    pub outcomes: Option<Vec<Outcome>>,
}

/// What the configs of fine-tunings have in common.
pub trait Recipe {
    /// A line of `validation.jsonl`.
    type Line;

    /// Gives an error that names the key if the config contradicts itself or cannot run with any start and data.
    ///
    /// # Errors
    /// The key, its valid range and its value.
    fn validate(&self) -> Result<(), String>;

    /// Gives an error that names the key if the run is too short for its value, as for a milestone that never comes. For new
    /// runs only.
    ///
    /// # Errors
    /// The key, its valid range and its value.
    fn validate_length(&self) -> Result<(), String>;

    /// Epochs that the run needs at least for each of its keys to take effect.
    fn epochs_needed(&self) -> usize;

    /// Length, batch statistics, checkpoints and log.
    fn training(&self) -> &TrainingConfig;

    /// Images of an optimizer step.
    fn batch_images(&self) -> usize;

    /// Keys besides those of `training` that count images and must divide the batch, with their values.
    fn divisors(&self) -> Vec<(&'static str, Option<usize>)>;

    /// The protocol's name in results.
    fn protocol(&self) -> String;

    /// Turns the config into a short trial with `batch_images` images per step; only settings that count images, regions, steps or
    /// epochs, and sizes of images, change.
    fn for_smoke_test(&mut self, batch_images: usize);

    /// Trains and scores, as the module's `run` does.
    ///
    /// # Errors
    /// Those of that function.
    fn run(
        &self,
        job: &Job<'_>,
        observe: &mut dyn FnMut(FinetuneEvent<'_, Self::Line>),
    ) -> Result<FinetuneResult, Error>;
}

const VALIDATION: &str = "validation.jsonl";

/// What differs between fine-tunings: a network to train, and its scores.
pub(super) trait Task {
    /// What the loop trains.
    type Objective: Objective;
    /// Its section of the config.
    type Settings: ObjectiveSection;
    /// A network to score.
    type Network: Module;
    /// Records to score on, and what is true of them.
    type Set;
    /// What the network says of all records of a set.
    type Found;
    /// A line of `validation.jsonl`.
    type Line: CurveLine;

    /// What the loop trains, how, and on which records.
    fn training(&self) -> (&Self::Objective, &training::Config<Self::Settings>, &Arc<Dataset>);

    /// The records of the evaluations during training.
    fn evaluated_on(&self) -> EvaluatedOn<'_, Self::Set>;

    /// The test set.
    fn test_set(&self) -> &Self::Set;

    /// The best network so far; `None` where the last one is kept.
    fn best(state: &mut State<Self>) -> &mut Option<Self::Network>;

    /// The network to score, of a student in training.
    fn to_score(&self, student: &Student<Self>, state: &State<Self>) -> Result<Self::Network, Error>;

    /// Scores all records of a set, each rank a part of them; the result is that of all on every rank.
    fn score(
        &self,
        network: &Self::Network,
        set: &Self::Set,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self::Found, Error>;

    /// The line of an evaluation.
    fn line(&self, found: &Self::Found, at: Evaluation) -> Result<Self::Line, Error>;

    /// Writes the files besides `result.json`, whose content it returns; on rank 0 alone.
    fn finish(
        &self,
        network: &Self::Network,
        found: &Self::Found,
        curve: &Curve<Self::Line>,
        summary: &Summary,
    ) -> Result<Vec<Outcome>, Error>;
}

type Student<T> = <<T as Task>::Objective as Objective>::Student;
type State<T> = <<T as Task>::Objective as Objective>::State;

/// The records of evaluations during training.
pub(super) enum EvaluatedOn<'a, S> {
    /// Records held out of the training set; they may choose the network that is kept.
    HeldOut(&'a S),
    /// The test set, which chooses nothing.
    Test,
    /// There are none.
    Nothing,
}

/// When and on what an evaluation during training was.
pub(super) struct Evaluation {
    /// Optimizer steps done.
    pub(super) step: usize,
    /// Whole epochs done.
    pub(super) epoch: usize,
    /// `"validation"` or `"test"`.
    pub(super) on: &'static str,
}

/// The receiver of events.
type Observer<'a, L> = RefCell<&'a mut dyn FnMut(FinetuneEvent<'_, L>)>;

/// A network with its scores on the test set.
type Tested<T> = Option<(<T as Task>::Network, <T as Task>::Found)>;

/// Trains what was prepared, and scores it on the test set. All ranks call it alike.
pub(super) fn tune<T: Task>(
    prepared: Result<T, Error>,
    job: &Job<'_>,
    observe: &mut dyn FnMut(FinetuneEvent<'_, T::Line>),
) -> Result<FinetuneResult, Error> {
    let replicas = &job.options.replicas;
    let task = training::agree(replicas, prepared)?;
    let test_set = format!("fingerprint {}", job.test.fingerprint());
    training::check_agreement(replicas, &BTreeMap::from([("test set", test_set)]))?;

    let observe = RefCell::new(observe);
    let mut tested: Tested<T> = None;
    let (objective, config, records) = task.training();
    let trained = training::train(
        objective,
        config,
        Arc::clone(records),
        &job.options,
        &mut |event| (observe.borrow_mut())(FinetuneEvent::Training(event)),
        &mut |due| evaluate(&task, job, due, &observe, &mut tested),
    );
    let Trained {
        summary,
        student,
        mut state,
    } = trained?;
    if summary.outcome == training::Outcome::Interrupted {
        return Ok(FinetuneResult {
            summary,
            outcomes: None,
        });
    }

    let (network, found) = match tested {
        Some(tested) => tested,
        None => {
            let network = match T::best(&mut state).take() {
                Some(best) => best,
                None => task.to_score(&student, &state)?,
            };
            let mut show = |event: Event<'_>| (observe.borrow_mut())(FinetuneEvent::Testing(event));
            let found = task.score(&network, task.test_set(), &mut show)?;
            (network, found)
        }
    };
    if replicas.rank() > 0 {
        return Ok(FinetuneResult {
            summary,
            outcomes: None,
        });
    }
    let curve = Curve::read(&job.options.out.join(VALIDATION), usize::MAX)?;
    let outcomes = task.finish(&network, &found, &curve, &summary)?;
    write_results(&job.options.out.join("result.json"), &outcomes)?;
    Ok(FinetuneResult {
        summary,
        outcomes: Some(outcomes),
    })
}

/// Scores a network in training, adds a line to the curve, and keeps the network if it is the best so far on held-out
/// records. Scores on the test set after the last step are the result's too: they go to `tested`.
fn evaluate<T: Task>(
    task: &T,
    job: &Job<'_>,
    due: EvaluationDue<'_, T::Objective>,
    observe: &Observer<'_, T::Line>,
    tested: &mut Tested<T>,
) -> Result<State<T>, Error> {
    let EvaluationDue {
        epochs,
        step,
        steps,
        student,
        mut state,
    } = due;
    let (set, on) = match task.evaluated_on() {
        EvaluatedOn::HeldOut(set) => (set, "validation"),
        EvaluatedOn::Test => (task.test_set(), "test"),
        EvaluatedOn::Nothing => return Ok(state),
    };
    let network = task.to_score(student, &state)?;
    let found = task.score(&network, set, &mut |_| {})?;
    let replicas = &job.options.replicas;
    let mut is_best = false;
    if replicas.rank() == 0 {
        let epoch = epochs;
        let line = task.line(&found, Evaluation { step, epoch, on })?;
        (observe.borrow_mut())(FinetuneEvent::Evaluated(&line));
        // A run that was killed after its newest checkpoint computes its later lines again.
        let path = job.options.out.join(VALIDATION);
        let mut curve = Curve::<T::Line>::read(&path, step)?;
        let every = task.training().1.objective.evaluate_every_steps();
        let earlier = every
            .map_or(epochs, |every| step.div_ceil(every))
            .saturating_sub(1);
        curve.check_earlier(earlier, step, &path)?;
        is_best = curve.lines.iter().all(|before| before.score() < line.score());
        curve.push(line, &path)?;
    }
    // The other ranks have no earlier lines to compare with.
    let of_rank_0 = replicas.gather_bytes(vec![u8::from(is_best)]).swap_remove(0);
    if of_rank_0 == [1]
        && let Some(best) = T::best(&mut state)
    {
        *best = independent_copy(&network);
    }
    if matches!(task.evaluated_on(), EvaluatedOn::Test) && step == steps {
        *tested = Some((network, found));
    }
    Ok(state)
}

/// What all outcomes of a run have in common besides the job's own facts.
pub(super) struct Common<'a> {
    pub(super) protocol: String,
    /// Of the network.
    pub(super) name: String,
    pub(super) classes: usize,
    /// The records that were learned from, and how many of them are broken.
    pub(super) train: &'a Dataset,
    pub(super) train_bad_records: usize,
    /// Test records that could be read.
    pub(super) test_records: usize,
    pub(super) overlap: Option<Overlap>,
    pub(super) test_transforms: Value,
    pub(super) normalize: &'a Normalize,
}

impl Job<'_> {
    /// Gives an error if the training records are the test records.
    pub(super) fn check_records(&self) -> Result<(), Error> {
        match self.train.fingerprint() == self.test.fingerprint() {
            true => Err(Error::SameRecords {
                records: self.test.len(),
            }),
            false => Ok(()),
        }
    }

    /// Compares the test images with those of `train`, the records whose labels are used; on rank 0, which writes the
    /// results. `most`: the largest share of them that may be in both.
    pub(super) fn overlap(&self, train: &Records, most: Option<f64>) -> Result<Option<Overlap>, Error> {
        if self.options.replicas.rank() > 0 {
            return Ok(None);
        }
        let pretrained_on = self.start.encoder().map(PretrainedOn::of).unwrap_or_default();
        let compared = Comparison {
            train,
            test: &Arc::clone(&self.test).into(),
            train_fingerprint: self.train.fingerprint(),
            pretrained_on: &pretrained_on,
            most,
            learns: true,
        };
        compared.check().map(Some)
    }

    /// The content of `result.json`.
    pub(super) fn outcomes(&self, common: &Common<'_>, scores: Vec<Score>) -> Vec<Outcome> {
        let Common {
            train,
            train_bad_records,
            test_records,
            ..
        } = *common;
        let steps = self.start.encoder().map(|encoder| encoder.info.steps);
        let outcome = |score: Score| Outcome {
            protocol: common.protocol.clone(),
            metric: score.metric.to_string(),
            value: score.value,
            headline: score.headline,
            spread: score.spread,
            encoder: self.start.hash().unwrap_or_else(|| "none".into()),
            encoder_name: common.name.clone(),
            encoder_step: steps.filter(|steps| *steps > 0),
            classes: common.classes,
            train_records: train.len() - train_bad_records,
            test_records,
            train_bad_records,
            test_bad_records: self.test.len() - test_records,
            train_fingerprint: train.fingerprint().to_string(),
            test_fingerprint: self.test.fingerprint().to_string(),
            train_listing: train.listing().clone(),
            test_listing: self.test.listing().clone(),
            overlap: common.overlap.clone(),
            settings: Value::Object(score.details),
            test_transforms: common.test_transforms.clone(),
            normalize: serde_json::json!(common.normalize),
            commit: self.provenance.commit.clone(),
            device: self.provenance.device.clone(),
            // A run resumes from its checkpoint, not from its result.
            asked: String::new(),
        };
        scores.into_iter().map(outcome).collect()
    }
}
