//! Fine-tuning a classifier: which records it learns from, how a network is scored, and its files.

use super::curve::{Curve, CurveLine};
use super::objective::{Finetune, Network, State};
use super::run::{Common, EvaluatedOn, Evaluation, FinetuneEvent, FinetuneResult, Job, Recipe, Task, tune};
use super::start::Start;
use super::{Config, Keep, Protocol, Settings, subset};
use crate::error::{Error, io};
use crate::overlap::Overlap;
use crate::progress::Event;
use crate::result::{Outcome, rank_of, scores_of, share_within};
use crate::task::Classes;
use backbones::{BackboneConfig, Context, Replicas};
use burn::module::Module;
use burn::tensor::Tensor;
use data::{Dataset, Loader, LoaderConfig, Order};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use training::{LoadedEncoder, Normalize, Summary};

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

    fn score(&self) -> Option<f64> {
        Some(self.top1)
    }
}

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
    observe: &mut dyn FnMut(FinetuneEvent<'_, ValidationLine>),
) -> Result<FinetuneResult, Error> {
    tune(Finetuning::prepare(config, job), job, observe)
}

/// Labeled records, and the place of each one's class.
struct Labeled {
    records: Arc<Dataset>,
    places: Vec<u32>,
}

/// A fine-tuning whose config, encoder and labels have been checked.
struct Finetuning<'a> {
    job: &'a Job<'a>,
    /// With the encoder's network, if there is one.
    config: training::Config<Settings>,
    objective: Finetune,
    classes: Classes,
    /// Records to learn from.
    train: Arc<Dataset>,
    /// Held-out records; empty if there are none.
    validation: Labeled,
    test: Labeled,
    /// How far the test images are new; on rank 0, which writes the results.
    overlap: Option<Overlap>,
    /// How validation and test images reach the network.
    view: data::ViewGroup,
}

impl<'a> Finetuning<'a> {
    fn prepare(config: &Config, job: &'a Job<'a>) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        if let Start::Detector(_) = job.start {
            return Err(Error::Config(
                "a whole detector is a start for configs with `[detection]` alone".into(),
            ));
        }
        let encoder = job.start.encoder();
        let view = config.test_view();
        let mut config = config
            .with_backbone(&backbone_of(config, encoder)?)
            .map_err(Error::Config)?;
        check_normalize(&config.data.normalize, encoder);
        config.objective.encoder = job.start.hash();
        let ranks = job.options.replicas.count();
        // Ranks that do not divide the batch are an error of the loop.
        if let Some(mixing) = &config.objective.mixing
            && config.data.batch_images.is_multiple_of(ranks)
        {
            mixing
                .check_ranks(config.pass_images(ranks))
                .map_err(Error::Config)?;
        }
        job.check_records()?;
        let (classes, places) = subset::train_places(&job.train)?;
        let test = Labeled {
            places: subset::test_places(&classes, &job.train, &job.test)?,
            records: Arc::clone(&job.test),
        };
        let (learned, held_out) = split(&config.objective, &job.train, &places)?;
        let part = |positions: Vec<u32>| -> Result<Arc<Dataset>, Error> {
            Ok(match positions.len() == job.train.len() {
                true => Arc::clone(&job.train),
                false => Arc::new(Dataset::part(&job.train, positions)?),
            })
        };
        let used = part([&learned[..], &held_out].concat())?;
        let overlap = job.overlap(&used.into(), config.objective.max_shared_fraction)?;
        let held_out_places = held_out.iter().map(|position| places[*position as usize]);
        let validation = Labeled {
            places: held_out_places.collect(),
            records: part(held_out)?,
        };
        let of_encoder = encoder.map(|encoder| (&encoder.backbone, &encoder.info.architecture));
        let objective = Finetune::new(&config.objective, &config.backbone, of_encoder, classes.clone())?;
        Ok(Self {
            job,
            config,
            objective,
            classes,
            train: part(learned)?,
            validation,
            test,
            overlap,
            view,
        })
    }

    /// Which weights are scored.
    fn weights(&self) -> &'static str {
        match self.config.objective.average {
            Some(_) => "average",
            None => "trained",
        }
    }
}

impl Task for Finetuning<'_> {
    type Objective = Finetune;
    type Settings = Settings;
    type Network = Network;
    type Set = Labeled;
    type Found = Scored;
    type Line = ValidationLine;

    fn training(&self) -> (&Finetune, &training::Config<Settings>, &Arc<Dataset>) {
        (&self.objective, &self.config, &self.train)
    }

    fn evaluated_on(&self) -> EvaluatedOn<'_, Labeled> {
        match self.validation.places.is_empty() {
            true => EvaluatedOn::Nothing,
            false => EvaluatedOn::HeldOut(&self.validation),
        }
    }

    fn test_set(&self) -> &Labeled {
        &self.test
    }

    fn best(state: &mut State) -> &mut Option<Network> {
        &mut state.best
    }

    fn to_score(&self, student: &Network, state: &State) -> Result<Network, Error> {
        Ok(Finetune::current(student, state))
    }

    /// Scores all records, each rank a part of them: whole passes through the network, of as many images as in training, so
    /// that ranks compute what as many micro-batches on one device do, to the bit.
    fn score(
        &self,
        network: &Network,
        set: &Labeled,
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
        let loader = Loader::new(Arc::clone(&set.records), view, loader, Order::Sequential, 0)?;
        let passes = loader.batches_per_epoch();
        let (start, end) = (passes * rank / ranks, passes * (rank + 1) / ranks);
        let total = (end * images).min(set.records.len()) - start * images;
        let mut scores: Vec<RecordScore> = vec![];
        for batch in loader.batches(start, end) {
            let batch = batch?;
            for views in batch.views {
                let images = self.config.data.normalize.tensor(views, &self.job.options.device);
                let logits: Tensor<2> = network.forward(images, &Context::evaluation());
                let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
                for (logits, position) in logits.chunks_exact(self.classes.count()).zip(&batch.positions) {
                    let place = set.places[*position as usize];
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
        merged(scores, &loader, replicas)
    }

    fn line(&self, scored: &Scored, at: Evaluation) -> Result<ValidationLine, Error> {
        Ok(ValidationLine {
            epoch: at.epoch,
            step: at.step,
            top1: share_within(&scored.ranks, 1),
            loss: scored.loss,
            records: scored.ranks.len(),
            weights: self.weights().into(),
        })
    }

    /// Writes `classifier.safetensors`.
    fn finish(
        &self,
        network: &Network,
        scored: &Scored,
        curve: &Curve<ValidationLine>,
        summary: &Summary,
    ) -> Result<Vec<Outcome>, Error> {
        let (job, config) = (self.job, &self.config);
        write_classifier(
            &job.options.out.join("classifier.safetensors"),
            network,
            &config.backbone,
        )?;
        let held_out = self.validation.places.len();
        let details = details(config, curve, self.weights(), held_out, scored.loss)?;
        let scores = scores_of(&scored.ranks, &scored.places, self.classes.count(), &details);
        let common = Common {
            protocol: config.objective.protocol.name(),
            name: job.start.name(&config.backbone),
            classes: self.classes.count(),
            train: &self.train,
            train_bad_records: summary.bad_records.count,
            test_records: scored.ranks.len(),
            overlap: self.overlap.clone(),
            test_transforms: json!(config.objective.test_transforms),
            normalize: &config.data.normalize,
        };
        Ok(job.outcomes(&common, scores))
    }
}

/// The scores of all ranks' records, in the order of records; broken records count against the limit over all ranks.
fn merged(own: Vec<RecordScore>, loader: &Loader, replicas: &Replicas) -> Result<Scored, Error> {
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
fn backbone_of(config: &Config, encoder: Option<&LoadedEncoder>) -> Result<BackboneConfig, Error> {
    match (encoder, &config.backbone) {
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

/// Every setting of the run and its derived values, for `result.json`.
fn details(
    config: &training::Config<Settings>,
    curve: &Curve<ValidationLine>,
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
    let (line, chosen_on) = match config.objective.keep {
        Keep::Last => (curve.lines.last(), "nothing: the last epoch"),
        Keep::BestOnValidation => (curve.best(), "records held out of the training set"),
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
