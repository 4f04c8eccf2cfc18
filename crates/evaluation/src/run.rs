//! A whole evaluation: features of both data sets (made once, stored, used again), every protocol, `result.json`.

use crate::clustering::{self, Clusters, clustering};
use crate::config::{Config, Protocol};
use crate::diagnostics::diagnostics;
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::extract::{extract, origin};
use crate::features::{Features, POOLED};
use crate::few_shot::few_shot;
use crate::knn::{knn_dino, knn_vissl};
use crate::linear_cached::linear_cached;
use crate::linear_moco::linear_moco;
use crate::logistic::logistic_regression;
use crate::one_vs_rest::OneVsRest;
use crate::progress::Event;
use crate::result::{Outcome, Provenance, Score, write_results};
use crate::retrieval::retrieval;
use crate::svm_low_shot::svm_low_shot;
use crate::svm_voc07::svm_voc07;
use crate::task::{Part, Task};
use burn::tensor::Device;
use data::Dataset;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Whom to ask about what, and where to put the answers.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// What is evaluated.
    pub encoder: &'a Encoder,
    /// Labelled records to learn from.
    pub train: Arc<Dataset>,
    /// Labelled records to be scored on.
    pub test: Arc<Dataset>,
    /// Folder for `features-train.safetensors`, `features-test.safetensors` and `result.json`; made if need be.
    pub out: &'a Path,
    /// Device of the encoder's weights, without autodiff.
    pub device: &'a Device,
    /// What only the program knows about itself.
    pub provenance: Provenance,
}

/// Runs every protocol of the config, in its order, and writes `result.json`.
///
/// Features lying in the output folder are used again if encoder, data, labels, transforms and normalisation are the same.
///
/// # Errors
/// Everything in [`Error`]; what can be told from the data sets' indices is told before the first image is read.
pub fn run(
    config: &Config,
    job: &Job<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Outcome>, Error> {
    config.validate().map_err(Error::Config)?;
    check_early(config, job)?;
    std::fs::create_dir_all(job.out).map_err(io(job.out, "creating the output folder"))?;

    let mut encoder = job.encoder.clone();
    encoder.normalize = config.normalize.unwrap_or(encoder.normalize);
    let job = Job {
        encoder: &encoder,
        ..job.clone()
    };
    let test = features(
        config,
        &job,
        &job.test,
        "features-test.safetensors",
        "features of the test set",
        progress,
    )?;
    let train = match config.protocols.iter().any(Protocol::needs_train_features) {
        true => features(
            config,
            &job,
            &job.train,
            "features-train.safetensors",
            "features of the training set",
            progress,
        )?,
        false => Features::default(),
    };

    let mut outcomes = vec![];
    for protocol in &config.protocols {
        tracing::info!(protocol = protocol.name(), "evaluating");
        outcomes.extend(score(config, &job, protocol, &train, &test, progress)?);
    }
    write_results(&job.out.join("result.json"), &outcomes)?;
    Ok(outcomes)
}

/// What would otherwise be found out after the whole training set went through the encoder.
fn check_early(config: &Config, job: &Job<'_>) -> Result<(), Error> {
    job.encoder
        .check_transforms("`test_transforms`", &config.test_transforms)?;
    for protocol in &config.protocols {
        if let Protocol::LinearMoco(config) = protocol {
            let name = format!("`{}.train_transforms`", protocol.name());
            job.encoder.check_transforms(&name, &config.train_transforms)?;
        }
    }
    let train_labels = config.protocols.iter().any(Protocol::needs_train_labels);
    let test_labels = config.protocols.iter().any(Protocol::needs_labels);
    for (set, dataset, labels) in [
        ("training", &job.train, train_labels),
        ("test", &job.test, test_labels),
    ] {
        if dataset.is_empty() {
            return Err(Error::Empty { set });
        }
        if labels && !dataset.is_labelled() {
            return Err(Error::Unlabelled { set });
        }
    }
    for protocol in &config.protocols {
        if let Protocol::Clustering(clustering::Config {
            clusters: Clusters::Count(clusters),
            fit,
            ..
        }) = protocol
        {
            let records = match fit {
                Part::Train => job.train.len(),
                Part::Test => job.test.len(),
            };
            clustering::check_clusters(*clusters, *fit, records)?;
        }
    }
    let records = job.train.len();
    match config
        .protocols
        .iter()
        .find(|protocol| protocol.neighbors() > records)
    {
        Some(protocol) => Err(Error::Neighbors {
            protocol: protocol.name(),
            neighbors: protocol.neighbors(),
            records,
        }),
        None => Ok(()),
    }
}

/// The stored features if they are still those that would be made, else new ones.
fn features(
    config: &Config,
    job: &Job<'_>,
    dataset: &Arc<Dataset>,
    file: &str,
    stage: &str,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Features, Error> {
    let path = job.out.join(file);
    if path.exists() {
        let wanted = origin(job.encoder, dataset, &config.test_transforms)?;
        match Features::load(&path) {
            Ok(stored) if stored.origin.is(&wanted) => {
                tracing::info!(path = %path.display(), "using stored features");
                return Ok(stored);
            }
            Ok(_) => {
                tracing::info!(path = %path.display(), "stored features are of something else; making new ones")
            }
            Err(error) => tracing::warn!(%error, "stored features cannot be used; making new ones"),
        }
    }
    let mut named = |event: Event<'_>| progress(Event { stage, ..event });
    let features = extract(
        job.encoder,
        dataset,
        &config.test_transforms,
        &config.data,
        job.device,
        &mut named,
    )?;
    if features.bad_records > 0 {
        tracing::warn!(
            records = features.bad_records,
            "{stage}: records that could not be read were left out"
        );
    }
    features.save(&path)?;
    Ok(features)
}

/// One protocol's outcomes.
fn score(
    config: &Config,
    job: &Job<'_>,
    protocol: &Protocol,
    train: &Features,
    test: &Features,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Outcome>, Error> {
    let task = || match protocol.needs_train_labels() {
        true => Task::new(train, test, POOLED),
        false => Task::within_test(train, test, POOLED),
    };
    let mut train_records = train.records();
    let mut train_bad_records = train.bad_records;
    let (scores, classes) = match protocol {
        Protocol::KnnDino(settings) => {
            let task = task()?;
            (knn_dino(settings, &task, job.device)?, task.classes.count())
        }
        Protocol::KnnVissl(settings) => {
            let task = task()?;
            (knn_vissl(settings, &task, job.device)?, task.classes.count())
        }
        Protocol::LinearMoco(settings) => {
            let probe = linear_moco(
                settings,
                job.encoder,
                &job.train,
                test,
                &config.data,
                job.device,
                progress,
            )?;
            train_bad_records = probe.bad_records;
            train_records = job.train.len() - probe.bad_records;
            (probe.scores, probe.classes)
        }
        Protocol::LinearCached(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            (linear_cached(settings, task, job.device, progress)?, classes)
        }
        Protocol::LogisticRegression(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            (logistic_regression(settings, task, progress)?, classes)
        }
        Protocol::Clustering(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            (clustering(settings, task, progress)?, classes)
        }
        Protocol::FewShot(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            (few_shot(settings, task, progress)?, classes)
        }
        Protocol::SvmVoc07(settings) => {
            let task = OneVsRest::new(train, test, POOLED)?;
            let classes = task.labels.len();
            (svm_voc07(settings, task, progress)?, classes)
        }
        Protocol::SvmLowShot(settings) => {
            let task = OneVsRest::new(train, test, POOLED)?;
            let classes = task.labels.len();
            (svm_low_shot(settings, task, progress)?, classes)
        }
        Protocol::Retrieval(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            (retrieval(settings, task, progress)?, classes)
        }
        Protocol::Diagnostics(settings) => (diagnostics(settings, train, test, progress)?, 0),
    };
    let outcome = |score: Score| Outcome {
        protocol: protocol.name().to_string(),
        metric: score.metric.to_string(),
        value: score.value,
        headline: score.headline,
        spread: score.spread,
        encoder: job.encoder.hash.clone(),
        encoder_name: job.encoder.name.clone(),
        classes,
        train_records,
        test_records: test.records(),
        train_bad_records,
        test_bad_records: test.bad_records,
        train_fingerprint: job.train.fingerprint().to_string(),
        test_fingerprint: job.test.fingerprint().to_string(),
        settings: settings(protocol, score.details),
        test_transforms: json!(config.test_transforms),
        normalize: json!(job.encoder.normalize),
        commit: job.provenance.commit.clone(),
        device: job.provenance.device.clone(),
    };
    Ok(scores.into_iter().map(outcome).collect())
}

/// The protocol's settings as in the config, with what this one score adds to them or picks from them.
fn settings(protocol: &Protocol, details: serde_json::Map<String, Value>) -> Value {
    // An externally tagged enum is an object with one key, the protocol's name.
    let mut settings = match json!(protocol) {
        Value::Object(mut tagged) => match tagged.remove(protocol.name()) {
            Some(Value::Object(settings)) => settings,
            _ => serde_json::Map::new(),
        },
        _ => serde_json::Map::new(),
    };
    settings.extend(details);
    Value::Object(settings)
}

#[cfg(test)]
mod tests;
