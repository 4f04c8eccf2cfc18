//! A fine-tuning from config to `result.json`: splits, the training loop, the validation curve, one pass over
//! the test set.

use super::curve::{Curve, CurveLine};
use super::objective::{Finetune, Network, State};
use super::{Config, Keep, Protocol, Settings, subset};
use crate::encoder::PretrainedOn;
use crate::error::{Error, io};
use crate::features::Records;
use crate::overlap::{Comparison, Overlap};
use crate::progress::Event;
use crate::result::{Outcome, Provenance, Score, rank_of, scores_of, share_within, write_results};
use crate::task::Classes;
use backbones::{BackboneConfig, Context};
use burn::module::Module;
use burn::tensor::Tensor;
use data::{Dataset, Loader, LoaderConfig, Order};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{EvaluationDue, LoadedEncoder, Normalize, RunOptions, Summary, Trained};

/// Inputs and run directory of a fine-tuning.
pub struct Job<'a> {
    /// The encoder to start from; `None` starts from the config's network with initial weights.
    pub encoder: Option<&'a LoadedEncoder>,
    /// Labeled records; training and validation records are subsets of them.
    pub train: Arc<Dataset>,
    /// Labeled records to score on, once.
    pub test: Arc<Dataset>,
    /// Run directory, device, resume, stop flag.
    pub options: RunOptions,
    /// Facts that only the program knows about itself.
    pub provenance: Provenance,
}

/// A step of a fine-tuning, for the caller to show.
#[derive(Debug)]
pub enum FinetuneEvent<'a> {
    /// In the training loop.
    Training(training::Event<'a>),
    /// An epoch was scored on the validation split.
    Validated(&'a ValidationLine),
    /// The test set is being scored.
    Testing(Event<'a>),
}

/// One line of `validation.jsonl`: an epoch's scores on the held-out records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// Epochs done.
    pub epoch: usize,
    /// Optimizer steps done.
    pub step: usize,
    /// Share of records with the true class on top.
    pub top1: f64,
    /// Mean cross-entropy with the labels, unsmoothed.
    pub loss: f64,
    /// Records.
    pub records: usize,
    /// `"average"` or `"trained"`: which weights were scored.
    pub weights: String,
}

impl CurveLine for ValidationLine {
    fn step(&self) -> usize {
        self.step
    }
}

/// How a fine-tuning ended.
pub struct FinetuneResult {
    /// Of the training loop.
    pub summary: Summary,
    /// The scores of `result.json`; `None` if the run was interrupted, and on ranks besides rank 0.
    pub outcomes: Option<Vec<Outcome>>,
}

const VALIDATION: &str = "validation.jsonl";

/// The receiver of events.
type Observer<'a> = RefCell<&'a mut dyn FnMut(FinetuneEvent<'_>)>;

/// Fine-tunes according to the config and scores the test set.
///
/// The run directory holds the files of a pretraining run, `validation.jsonl` if records are held out, and
/// `result.json` with `classifier.safetensors`. Resuming a finished run scores it again.
///
/// On several ranks, each scores a part of the held-out and test records, and rank 0 alone reads and writes the run
/// directory. All ranks call it alike, with the same data.
///
/// # Errors
/// Everything in [`Error`]; errors in config, encoder and indices are found before the first step.
pub fn run(
    config: &Config,
    job: &Job<'_>,
    observe: &mut dyn FnMut(FinetuneEvent<'_>),
) -> Result<FinetuneResult, Error> {
    let replicas = &job.options.replicas;
    let finetuning = training::agree(replicas, Finetuning::prepare(config, job))?;
    let test_set = format!("fingerprint {}", job.test.fingerprint());
    training::check_agreement(replicas, &BTreeMap::from([("test set", test_set)]))?;
    let observe = RefCell::new(observe);
    let Trained {
        summary,
        student,
        state,
    } = finetuning.train(&observe)?;
    if summary.outcome == training::Outcome::Interrupted {
        return Ok(FinetuneResult {
            summary,
            outcomes: None,
        });
    }
    let network = Finetune::kept(&student, &state);
    let scored = finetuning.score_test_set(&network, &observe)?;
    let outcomes = match finetuning.overlap() {
        Some(overlap) => Some(finetuning.write_results(&network, scored, overlap, &summary)?),
        None => None,
    };
    Ok(FinetuneResult { summary, outcomes })
}

/// A fine-tuning whose config, encoder and labels have been checked.
struct Finetuning<'a> {
    job: &'a Job<'a>,
    /// With the encoder's network, if there is one.
    config: training::Config<Settings>,
    classes: Classes,
    /// Records to learn from.
    train: Arc<Dataset>,
    /// Held-out records, and the place of each one's class.
    validation: (Arc<Dataset>, Vec<u32>),
    /// The place of each test record's class.
    test_places: Vec<u32>,
    /// How far the test images are new; on rank 0, which writes the results.
    overlap: Option<Overlap>,
    /// How validation and test images reach the network.
    view: data::ViewGroup,
}

/// Compares the test images with those of the records whose labels are used.
fn compare(job: &Job<'_>, settings: &Settings, used: &[u32]) -> Result<Overlap, Error> {
    let train: Records = match used.len() == job.train.len() {
        true => Arc::clone(&job.train).into(),
        false => Dataset::part(&job.train, used.to_vec())?.into(),
    };
    let pretrained_on = job.encoder.map(PretrainedOn::of).unwrap_or_default();
    Comparison {
        train: &train,
        test: &Arc::clone(&job.test).into(),
        train_fingerprint: job.train.fingerprint(),
        pretrained_on: &pretrained_on,
        most: settings.max_shared_fraction,
        learns: true,
    }
    .check()
}

impl<'a> Finetuning<'a> {
    fn prepare(config: &Config, job: &'a Job<'a>) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        let view = config.test_view();
        let mut config = config
            .with_backbone(&backbone_of(config, job)?)
            .map_err(Error::Config)?;
        check_normalize(&config.data.normalize, job.encoder);
        config.objective.encoder = job.encoder.map(|encoder| encoder.hash.clone());
        let (ranks, is_first) = (job.options.replicas.count(), job.options.replicas.rank() == 0);
        // Ranks that do not divide the batch are an error of the loop.
        if let Some(mixing) = &config.objective.mixing
            && config.data.batch_images.is_multiple_of(ranks)
        {
            mixing
                .check_ranks(config.pass_images(ranks))
                .map_err(Error::Config)?;
        }
        if job.train.fingerprint() == job.test.fingerprint() {
            return Err(Error::SameRecords {
                records: job.test.len(),
            });
        }
        let (classes, places) = subset::train_places(&job.train)?;
        let test_places = subset::test_places(&classes, &job.train, &job.test)?;
        let (learned, held_out) = split(&config.objective, &job.train, &places)?;
        let used = [&learned[..], &held_out].concat();
        let overlap = is_first.then(|| compare(job, &config.objective, &used));
        let overlap = overlap.transpose()?;
        let train = match learned.len() == job.train.len() {
            true => Arc::clone(&job.train),
            false => Arc::new(Dataset::part(&job.train, learned)?),
        };
        let held_out_places = held_out
            .iter()
            .map(|position| places[*position as usize])
            .collect();
        let held_out = Arc::new(Dataset::part(&job.train, held_out)?);
        Ok(Self {
            job,
            config,
            classes,
            train,
            validation: (held_out, held_out_places),
            test_places,
            overlap,
            view,
        })
    }

    /// The training loop, with the validation curve.
    fn train(&self, observe: &Observer<'_>) -> Result<Trained<Finetune>, Error> {
        let encoder = self.job.encoder;
        let encoder = encoder.map(|encoder| (&encoder.backbone, &encoder.info.architecture));
        let objective = Finetune::new(
            &self.config.objective,
            &self.config.backbone,
            encoder,
            self.classes.clone(),
        )?;
        training::train(
            &objective,
            &self.config,
            Arc::clone(&self.train),
            &self.job.options,
            &mut |event| (observe.borrow_mut())(FinetuneEvent::Training(event)),
            &mut |end| self.validate(end, observe),
        )
    }

    /// Scores an epoch on the held-out records, adds a line to the curve, and keeps the network if it is the
    /// best so far.
    fn validate(&self, end: EvaluationDue<'_, Finetune>, observe: &Observer<'_>) -> Result<State, Error> {
        let EvaluationDue {
            epochs,
            step,
            student,
            mut state,
        } = end;
        let (held_out, places) = &self.validation;
        if held_out.is_empty() {
            return Ok(state);
        }
        let network = Finetune::current(student, &state);
        let scored = self.score(&network, held_out, places, &mut |_| {})?;
        let mut is_best = false;
        let replicas = &self.job.options.replicas;
        if replicas.rank() == 0 {
            // A run that was killed after its newest checkpoint computes its later lines again.
            let path = self.lines_path();
            let mut curve = Curve::<ValidationLine>::read(&path, step)?;
            let line = ValidationLine {
                epoch: epochs,
                step,
                top1: share_within(&scored.ranks, 1),
                loss: scored.loss,
                records: scored.ranks.len(),
                weights: self.weights().into(),
            };
            is_best = curve.lines.iter().all(|before| before.top1 < line.top1);
            (observe.borrow_mut())(FinetuneEvent::Validated(&line));
            curve.push(line, &path)?;
        }
        // The other ranks have no earlier lines to compare with.
        let of_rank_0 = replicas.gather_bytes(vec![u8::from(is_best)]).swap_remove(0);
        if self.config.objective.keeps_best() && of_rank_0 == [1] {
            state.best = Some(backbones::independent_copy(&network));
        }
        Ok(state)
    }

    fn overlap(&self) -> Option<&Overlap> {
        self.overlap.as_ref()
    }

    fn score_test_set(&self, network: &Network, observe: &Observer<'_>) -> Result<Scored, Error> {
        self.score(network, &self.job.test, &self.test_places, &mut |event| {
            (observe.borrow_mut())(FinetuneEvent::Testing(event));
        })
    }

    /// Writes `classifier.safetensors` and `result.json`.
    fn write_results(
        &self,
        network: &Network,
        scored: Scored,
        overlap: &Overlap,
        summary: &Summary,
    ) -> Result<Vec<Outcome>, Error> {
        let out = &self.job.options.out;
        write_classifier(
            &out.join("classifier.safetensors"),
            network,
            &self.config.backbone,
        )?;
        let curve = Curve::<ValidationLine>::read(&self.lines_path(), usize::MAX)?;
        let outcomes = self.outcomes(&scored, &curve.lines, overlap, summary.bad_records.count)?;
        write_results(&out.join("result.json"), &outcomes)?;
        Ok(outcomes)
    }

    fn outcomes(
        &self,
        scored: &Scored,
        lines: &[ValidationLine],
        overlap: &Overlap,
        train_bad_records: usize,
    ) -> Result<Vec<Outcome>, Error> {
        let (job, config) = (self.job, &self.config);
        let details = details(
            config,
            lines,
            self.weights(),
            self.validation.0.len(),
            scored.loss,
        )?;
        let encoder = job.encoder.map(|encoder| encoder.hash.clone());
        let encoder_step = job.encoder.map(|encoder| encoder.info.steps);
        let outcome = |score: Score| Outcome {
            protocol: config.objective.protocol.name(),
            metric: score.metric.to_string(),
            value: score.value,
            headline: score.headline,
            spread: None,
            encoder: encoder.clone().unwrap_or_else(|| "none".into()),
            encoder_name: name(&config.backbone, job.encoder),
            encoder_step: encoder_step.filter(|steps| *steps > 0),
            classes: self.classes.count(),
            train_records: self.train.len() - train_bad_records,
            test_records: scored.ranks.len(),
            train_bad_records,
            test_bad_records: job.test.len() - scored.ranks.len(),
            train_fingerprint: self.train.fingerprint().to_string(),
            test_fingerprint: job.test.fingerprint().to_string(),
            train_listing: self.train.listing().clone(),
            test_listing: job.test.listing().clone(),
            overlap: Some(overlap.clone()),
            settings: Value::Object(score.details),
            test_transforms: json!(config.objective.test_transforms),
            normalize: json!(config.data.normalize),
            commit: job.provenance.commit.clone(),
            device: job.provenance.device.clone(),
            // A run resumes from its checkpoint, not from its result.
            asked: String::new(),
        };
        let scores = scores_of(&scored.ranks, &scored.places, self.classes.count(), &details);
        Ok(scores.into_iter().map(outcome).collect())
    }

    fn lines_path(&self) -> PathBuf {
        self.job.options.out.join(VALIDATION)
    }

    /// Which weights are scored.
    fn weights(&self) -> &'static str {
        match self.config.objective.average {
            Some(_) => "average",
            None => "trained",
        }
    }

    /// Scores all records, each rank a part of them: whole passes through the network, of as many images as in training, so
    /// that ranks compute what as many micro-batches on one device do, to the bit. `places` holds the class of every record
    /// of the data set.
    fn score(
        &self,
        network: &Network,
        dataset: &Arc<Dataset>,
        places: &[u32],
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Scored, Error> {
        // Without autodiff, so that a forward records no graph.
        let network = network.valid();
        let replicas = &self.job.options.replicas;
        let (rank, ranks) = (replicas.rank(), replicas.count());
        let loader = LoaderConfig {
            batch_images: self.config.pass_images(ranks),
            ..self.config.data.loader()
        };
        let images = loader.batch_images;
        let view = vec![self.view.clone()];
        let loader = Loader::new(Arc::clone(dataset), view, loader, Order::Sequential, 0)?;
        let passes = loader.batches_per_epoch();
        let (start, end) = (passes * rank / ranks, passes * (rank + 1) / ranks);
        let total = (end * images).min(dataset.len()) - start * images;
        let mut scores: Vec<RecordScore> = vec![];
        for batch in loader.batches(start, end) {
            let batch = batch?;
            for views in batch.views {
                let images = self.config.data.normalize.tensor(views, &self.job.options.device);
                let logits: Tensor<2> = network.forward(images, &Context::evaluation());
                let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
                for (logits, position) in logits.chunks_exact(self.classes.count()).zip(&batch.positions) {
                    let place = places[*position as usize];
                    scores.push(RecordScore {
                        rank: rank_of(place, logits),
                        place,
                        loss: cross_entropy(logits, place),
                    });
                }
            }
            progress(Event {
                stage: "test set",
                done: scores.len(),
                total,
                unit: "images",
            });
        }
        self.merged(scores, &loader)
    }

    /// The scores of all ranks' records, in the order of records; broken records count against the limit over all ranks.
    fn merged(&self, own: Vec<RecordScore>, loader: &Loader) -> Result<Scored, Error> {
        let replicas = &self.job.options.replicas;
        training::share_bad_records(replicas, loader, &mut BTreeSet::new())?;
        let bytes = own.iter().flat_map(RecordScore::to_bytes).collect();
        let bytes = replicas.gather_bytes(bytes).concat();
        let all: Vec<RecordScore> = bytes.as_chunks().0.iter().map(RecordScore::from_bytes).collect();
        if all.is_empty() {
            return training::agree(replicas, Err(Error::Empty { set: "scored" }));
        }
        Ok(Scored {
            ranks: all.iter().map(|score| score.rank).collect(),
            places: all.iter().map(|score| score.place).collect(),
            loss: all.iter().map(|score| score.loss).sum::<f64>() / all.len() as f64,
        })
    }
}

/// The positions of training records to learn from and to hold out.
fn split(settings: &Settings, train: &Dataset, places: &[u32]) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let labeled = match &settings.protocol {
        Protocol::Finetune => (0..train.len() as u32).collect(),
        Protocol::SemiSupervised(part) => subset::labeled(part, train, places)?,
    };
    let Some(validation) = &settings.validation else {
        return Ok((labeled, vec![]));
    };
    let (learned, held_out) = subset::hold_out(validation, places, &labeled);
    match held_out.is_empty() {
        true => Err(Error::Config(
            "`objective.validation` holds no record out: every class has one record".into(),
        )),
        false => Ok((learned, held_out)),
    }
}

/// The network to train: the encoder's, which the config may repeat, or the config's.
fn backbone_of(config: &Config, job: &Job<'_>) -> Result<BackboneConfig, Error> {
    match (job.encoder, &config.backbone) {
        (None, None) => Err(Error::Config(
            "`[backbone]` is needed where training starts from scratch: there is no encoder to take it from"
                .into(),
        )),
        (None, Some(backbone)) => Ok(backbone.clone()),
        (Some(encoder), Some(backbone)) if backbone.name() != encoder.info.architecture.name() => {
            Err(Error::Config(format!(
                "`[backbone]` is {}, and the encoder {}; leave the table out to take the encoder's",
                backbone.name(),
                encoder.info.architecture.name()
            )))
        }
        (Some(encoder), _) => Ok(encoder.info.architecture.clone()),
    }
}

/// A normalization other than the encoder's is usually a mistake, and silently costs accuracy.
fn check_normalize(normalize: &Normalize, encoder: Option<&LoadedEncoder>) {
    let Some(of_encoder) = encoder.map(LoadedEncoder::normalize) else {
        return;
    };
    let near = |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-3);
    if !near(&normalize.mean, &of_encoder.mean) || !near(&normalize.std, &of_encoder.std) {
        tracing::warn!(
            "`data.normalize` has mean {:?} and std {:?}, the encoder was trained with {:?} and {:?}",
            normalize.mean,
            normalize.std,
            of_encoder.mean,
            of_encoder.std
        );
    }
}

fn name(backbone: &BackboneConfig, encoder: Option<&LoadedEncoder>) -> String {
    match encoder {
        Some(encoder) => format!("{} {}", backbone.name(), encoder.info.method),
        None => format!("{} from scratch", backbone.name()),
    }
}

/// Every setting of the run and its derived values, for `result.json`.
fn details(
    config: &training::Config<Settings>,
    lines: &[ValidationLine],
    weights: &str,
    validation_records: usize,
    test_loss: f64,
) -> Result<serde_json::Map<String, Value>, Error> {
    let Value::Object(mut details) = json!(config.objective) else {
        return Err(Error::Config("settings are no table".into()));
    };
    for (key, value) in [
        ("seed", json!(config.seed)),
        ("views", json!(config.views)),
        ("backbone", json!(config.backbone)),
        ("batch_images", json!(config.data.batch_images)),
        ("optimizer", json!(config.optimizer)),
        ("schedule", json!(config.schedule)),
        ("training", json!(config.training)),
        ("weights", json!(weights)),
        ("validation_records", json!(validation_records)),
        ("test_loss", json!(test_loss)),
    ] {
        details.insert(key.into(), value);
    }
    let best = || {
        let better = |best: &'_ ValidationLine, line: &'_ ValidationLine| line.top1 > best.top1;
        lines
            .iter()
            .reduce(|best, line| if better(best, line) { line } else { best })
    };
    let (line, chosen_on) = match config.objective.keep {
        Keep::Last => (lines.last(), "nothing: the last epoch"),
        Keep::BestOnValidation => (best(), "records held out of the training set"),
    };
    details.insert("epoch_chosen_on".into(), json!(chosen_on));
    details.insert(
        "epoch".into(),
        json!(line.map_or(config.training.epochs, |line| Some(line.epoch))),
    );
    if let Some(line) = line {
        details.insert("validation_top1".into(), json!(line.top1));
    }
    Ok(details)
}

/// The prediction for one image.
struct RecordScore {
    /// The true class's rank in the prediction (0 = first).
    rank: u32,
    place: u32,
    /// Cross-entropy with the label.
    loss: f64,
}

impl RecordScore {
    fn to_bytes(&self) -> [u8; 16] {
        let bits =
            (u128::from(self.rank) << 96) | (u128::from(self.place) << 64) | u128::from(self.loss.to_bits());
        bits.to_le_bytes()
    }

    fn from_bytes(bytes: &[u8; 16]) -> Self {
        let bits = u128::from_le_bytes(*bytes);
        Self {
            rank: (bits >> 96) as u32,
            place: (bits >> 64) as u32,
            loss: f64::from_bits(bits as u64),
        }
    }
}

/// Predictions of a network on labeled images.
struct Scored {
    /// The true class's rank in the prediction for each readable record (0 = first).
    ranks: Vec<u32>,
    /// The place of each record's class.
    places: Vec<u32>,
    /// Mean cross-entropy with the labels.
    loss: f64,
}

fn cross_entropy(logits: &[f64], place: u32) -> f64 {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
    most + sum.ln() - logits[place as usize]
}

/// The classifier of the scored network, by torchvision's or timm's names: together with
/// `encoder.safetensors` it forms their complete network.
fn write_classifier(path: &Path, network: &Network, backbone: &BackboneConfig) -> Result<(), Error> {
    let name = match backbone {
        BackboneConfig::Resnet(_) => "fc",
        BackboneConfig::Vit(_) => "head",
    };
    let head = &network.head;
    let mut tensors = vec![(format!("{name}.weight"), head.weight.val().into_data())];
    if let Some(bias) = &head.bias {
        tensors.push((format!("{name}.bias"), bias.val().into_data()));
    }
    let failed = |error: String| io("write", path)(std::io::Error::other(error));
    let views = tensors
        .iter()
        .map(|(name, data)| {
            let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
            view.map(|view| (name.as_str(), view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let bytes = safetensors::serialize(views, None).map_err(|error| failed(error.to_string()))?;
    Ok(data::durable::write(path, &bytes)?)
}
