//! The protocols that learn from features alone, asked of features files: an encoder goes through its images once, and nobody has to
//! have the encoder or the images any more. The files may be another program's.

use crate::clustering::clustering;
use crate::config::{Config, Protocol};
use crate::diagnostics::diagnostics;
use crate::error::{Error, io};
use crate::features::{Features, POOLED};
use crate::features_file::Stored;
use crate::few_shot::few_shot;
use crate::knn::{knn_dino, knn_vissl};
use crate::linear_cached::linear_cached;
use crate::linear_cached_grid::linear_cached_grid;
use crate::logistic::logistic_regression;
use crate::one_vs_rest::OneVsRest;
use crate::progress::Event;
use crate::result::{Outcome, Provenance};
use crate::retrieval::retrieval;
use crate::scores::{Answer, Scores, Subject};
use crate::svm_low_shot::svm_low_shot;
use crate::svm_voc07::svm_voc07;
use crate::task::{Part, Task};
use burn::tensor::Device;
use std::collections::BTreeSet;
use std::path::Path;

/// Reads what the protocols of a config want of a features file: this program's, or any safetensors file with taps as f32 or f16
/// `[records, width]` and perhaps `labels`, `keys` and `key_offsets`.
///
/// # Errors
/// [`Error::FeaturesFile`] where it is none or not a whole one, [`Error::NoTap`] where it lacks what is wanted; `part` is what it is for.
pub fn read_features(path: &Path, config: &Config, part: Part) -> Result<Features, Error> {
    let stored = Stored::of_anyone(path)?;
    let found = stored.taps();
    let taps: BTreeSet<String> = (config.protocols.iter())
        .flat_map(|protocol| protocol.taps())
        .map(|tap| tap.name())
        .collect();
    if let Some(tap) = taps.iter().find(|tap| !found.contains(tap)) {
        return Err(Error::NoTap {
            set: part.name(),
            tap: tap.clone(),
            found,
        });
    }
    stored.read(&taps.into_iter().collect::<Vec<_>>())
}

/// Features and where to put what protocols say of them.
#[derive(Clone, Debug)]
pub struct FeaturesJob<'a> {
    /// Of the records to learn from.
    pub train: &'a Features,
    /// Of the records to be scored on.
    pub test: &'a Features,
    /// Folder for `result.json`; made if need be.
    pub out: &'a Path,
    /// Device that protocols compute on, without autodiff.
    pub device: &'a Device,
    /// What only the program knows about itself.
    pub provenance: Provenance,
}

/// What became of an evaluation of features.
#[derive(Clone, Debug, PartialEq)]
pub struct FeaturesScores {
    /// All scores, in the config's order.
    pub outcomes: Vec<Outcome>,
    /// Protocols whose scores were in the folder already.
    pub kept: Vec<&'static str>,
}

/// Asks every protocol of the config of features that are there, in its order, writing `result.json` after each. How the config would
/// bring images to the encoder is not looked at.
///
/// # Errors
/// A protocol that needs images; features of two encoders or of two ways to bring images to one; the same records twice;
/// [`Error::Occupied`], as an evaluation of the encoder would say; and what the protocols say.
pub fn run_on_features(
    config: &Config,
    job: &FeaturesJob<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<FeaturesScores, Error> {
    config.validate().map_err(Error::Config)?;
    let (train, test) = (job.train, job.test);
    if let Some(protocol) = config.protocols.iter().find(|protocol| !of_features(protocol)) {
        return Err(Error::NeedsImages {
            protocol: protocol.name(),
        });
    }
    if train.origin.encoder != test.origin.encoder {
        let name = |features: &Features| match features.origin.encoder.as_str() {
            "" => "of another program".to_string(),
            hash => hash.to_string(),
        };
        return Err(Error::EncoderMismatch {
            train: name(train),
            test: name(test),
        });
    }
    if (&train.origin.transforms, &train.origin.normalize)
        != (&test.origin.transforms, &test.origin.normalize)
    {
        return Err(Error::TransformsMismatch);
    }
    let learns = config.protocols.iter().any(Protocol::needs_train_labels);
    if learns && train.origin.fingerprint == test.origin.fingerprint {
        return Err(Error::SameRecords {
            records: test.records(),
        });
    }
    let subject = Subject {
        train: train.origin.clone(),
        test: test.origin.clone(),
        encoder_step: None,
        provenance: job.provenance.clone(),
    };
    std::fs::create_dir_all(job.out).map_err(io(job.out, "creating the output folder"))?;
    let mut scores = Scores::open(job.out, &config.protocols, subject)?;
    for place in scores.asked() {
        let protocol = &config.protocols[place];
        tracing::info!(protocol = protocol.name(), "evaluating");
        let answer = answer_of_features(protocol, train, test, job.device, progress)
            .map_err(|error| error.of(protocol.name()))?;
        scores.enter(place, answer)?;
    }
    Ok(FeaturesScores {
        outcomes: scores.outcomes(),
        kept: scores.kept().to_vec(),
    })
}

/// Whether a protocol looks at no image.
fn of_features(protocol: &Protocol) -> bool {
    protocol.train_transforms().is_none()
}

/// No scores yet, over these features.
pub(crate) fn counted(train: &Features, test: &Features) -> Answer {
    Answer {
        train_records: train.records(),
        train_bad_records: train.bad_records,
        test_records: test.records(),
        test_bad_records: test.bad_records,
        ..Answer::default()
    }
}

/// What a protocol says of features.
///
/// # Errors
/// [`Error::NeedsImages`] where it looks at images, and what it says itself.
pub(crate) fn answer_of_features(
    protocol: &Protocol,
    train: &Features,
    test: &Features,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Answer, Error> {
    let task = || match protocol.needs_train_labels() {
        true => Task::new(train, test, POOLED),
        false => Task::within_test(train, test, POOLED),
    };
    let answer = |scores, classes| Answer {
        scores,
        classes,
        ..counted(train, test)
    };
    Ok(match protocol {
        Protocol::KnnDino(settings) => {
            let task = task()?;
            answer(knn_dino(settings, &task, device)?, task.classes.count())
        }
        Protocol::KnnVissl(settings) => {
            let task = task()?;
            answer(knn_vissl(settings, &task, device)?, task.classes.count())
        }
        Protocol::LinearCachedGrid(settings) => {
            let task = task()?;
            let scores = linear_cached_grid(settings, &task, train, test, device, progress)?;
            answer(scores, task.classes.count())
        }
        Protocol::LinearCached(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            answer(linear_cached(settings, task, device, progress)?, classes)
        }
        Protocol::LogisticRegression(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            answer(logistic_regression(settings, task, progress)?, classes)
        }
        Protocol::Clustering(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            answer(clustering(settings, task, progress)?, classes)
        }
        Protocol::FewShot(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            answer(few_shot(settings, task, progress)?, classes)
        }
        Protocol::SvmVoc07(settings) => {
            let task = OneVsRest::new(train, test, POOLED)?;
            let classes = task.labels.len();
            answer(svm_voc07(settings, task, progress)?, classes)
        }
        Protocol::SvmLowShot(settings) => {
            let task = OneVsRest::new(train, test, POOLED)?;
            let classes = task.labels.len();
            answer(svm_low_shot(settings, task, progress)?, classes)
        }
        Protocol::Retrieval(settings) => {
            let task = task()?;
            let classes = task.classes.count();
            answer(retrieval(settings, task, progress)?, classes)
        }
        Protocol::Diagnostics(settings) => answer(diagnostics(settings, train, test, progress)?, 0),
        Protocol::LinearMoco(_)
        | Protocol::LinearSwav(_)
        | Protocol::LinearDino(_)
        | Protocol::LinearMocoV3(_)
        | Protocol::LinearDinov2(_)
        | Protocol::LinearVissl(_)
        | Protocol::ViewDiagnostics(_) => {
            return Err(Error::NeedsImages {
                protocol: protocol.name(),
            });
        }
    })
}

#[cfg(test)]
mod tests;
