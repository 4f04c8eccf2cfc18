//! A whole evaluation: features of both data sets (computed once, stored, reused), every protocol,
//! `result.json`.

mod on_features;
mod preflight;
mod results_folder;

use crate::config::Config;
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::features::{
    Extraction, FeatureCache, FeatureType, Features, Origin, Records, Unfinished, Writing, origin,
};
use crate::overlap::Comparison;
use crate::progress::Event;
use crate::protocols::{Bench, Pipeline};
use crate::report::{Content, report};
use crate::result::{Outcome, Provenance};
use crate::split::Split;
use crate::task::Splits;
use burn::tensor::Device;
use results_folder::{Counted, ResultsFolder, RunIdentity, hash_of, short};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

pub use on_features::{FeaturesJob, FeaturesScores, read_features, run_on_features};

/// Inputs and output folder of one evaluation.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The encoder to evaluate.
    pub encoder: &'a Encoder,
    /// Labeled records to learn from.
    pub train: Records,
    /// Labeled records to score on.
    pub test: Records,
    /// Folder for `features-train.safetensors`, `features-test.safetensors` and `result.json`; created if
    /// missing.
    pub out: &'a Path,
    /// Features shared by several evaluations, stored in the cache's folder under a hash of their origin.
    /// Absent: features of this evaluation alone, in `out`.
    pub shared_features: Option<Arc<FeatureCache>>,
    /// Device of the encoder's weights, without autodiff.
    pub device: &'a Device,
    /// Commit and device.
    pub provenance: Provenance,
}

/// Runs every protocol of the config, in its order, writing `result.json` after each.
///
/// # Errors
/// As [`Plan::new`] and [`Plan::run`].
pub fn run(
    config: &Config,
    job: &Job<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Outcome>, Error> {
    let mut plan = Plan::new(config, job)?;
    plan.run(progress)?;
    Ok(plan.outcomes())
}

/// An evaluation that passed its checks, with its finished scores.
///
/// Features in the output folder are reused if encoder, data, labels, transforms and normalization are the
/// same. Scores in its `result.json` are reused if settings, commit and device are the same as well.
#[derive(Debug)]
pub struct Plan<'a> {
    config: Config,
    /// With the config's normalization.
    encoder: Encoder,
    job: Job<'a>,
    train: Origin,
    test: Origin,
    store: Arc<FeatureCache>,
    scores: ResultsFolder,
}

impl<'a> Plan<'a> {
    /// Checks everything that can be checked before the first image is read, for all protocols, and reads
    /// stored results.
    ///
    /// # Errors
    /// A protocol that cannot run on these records; [`Error::Occupied`] if the folder holds results of
    /// another encoder or of other records.
    pub fn new(config: &Config, job: &Job<'a>) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        preflight::check(config, job.encoder, &job.train, &job.test)?;
        let mut encoder = job.encoder.clone();
        encoder.normalize = config.normalize.unwrap_or(encoder.normalize);
        let origin = |records: &Records| -> Result<Origin, Error> {
            let labels = records.labels_hash()?.clone();
            Ok(origin(&encoder, records, labels, &config.test_transforms))
        };
        let (train, test) = (origin(&job.train)?, origin(&job.test)?);
        let overlap = Comparison {
            train: &job.train,
            test: &job.test,
            train_fingerprint: job.train.fingerprint(),
            pretrained_on: &encoder.pretrained_on,
            most: config.max_shared_fraction,
            learns: config.needs_train_labels(),
        }
        .check()?;
        let identity = RunIdentity {
            overlap,
            train: train.clone(),
            test: test.clone(),
            encoder_step: encoder.step,
            provenance: job.provenance.clone(),
            listings: [&job.train, &job.test].map(|records| records.listing().clone()),
        };
        let scores = ResultsFolder::open(job.out, &config.protocols, identity)?;
        if let Some(by_pixels) = scores.by_pixels()
            && config.needs_train_labels()
        {
            by_pixels.check(job.test.len(), config.max_shared_fraction)?;
        }
        Ok(Self {
            scores,
            train,
            test,
            store: (job.shared_features.clone()).unwrap_or_else(|| Arc::new(FeatureCache::new(job.out))),
            config: config.clone(),
            encoder,
            job: job.clone(),
        })
    }

    /// Protocols whose scores an earlier evaluation left in the folder, in the config's order.
    pub fn kept(&self) -> &[&'static str] {
        self.scores.kept()
    }

    /// All known scores, in the config's order.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.scores.outcomes()
    }

    /// A note for the user before the work begins.
    pub fn size_note(&self) -> Option<String> {
        self.encoder.size_note(&self.config.test_transforms)
    }

    /// Runs the protocols that lack scores, and writes `result.json` after each.
    ///
    /// # Errors
    /// Everything in [`Error`]; earlier scores stay.
    pub fn run(&mut self, progress: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        let out = self.job.out;
        std::fs::create_dir_all(out).map_err(io("make", out))?;
        let missing = self.scores.missing();
        if missing.is_empty() {
            return Ok(());
        }
        let needs_train = missing
            .iter()
            .any(|place| self.config.protocols[*place].needs().train_features);
        let (train, test) = self.both_features(needs_train, progress)?;
        let mut overlap = self.scores.overlap().clone();
        overlap.compare_pixels(
            &train,
            &test,
            self.config.max_shared_fraction,
            self.config.needs_train_labels(),
            |warning| self.job.test.warn_once(warning),
        )?;
        if overlap.by_pixels.is_some() {
            self.scores.set_overlap(overlap);
        }
        let splits = Splits {
            train: &train,
            test: &test,
        };
        for place in missing {
            let protocol = &self.config.protocols[place];
            tracing::info!(protocol = protocol.name(), "evaluating");
            let mut bench = Bench {
                splits,
                pipeline: Some(Pipeline {
                    encoder: &self.encoder,
                    train: &self.job.train,
                    test: &self.job.test,
                    test_transforms: &self.config.test_transforms,
                    data: &self.config.data,
                }),
                device: self.job.device,
                progress: &mut *progress,
            };
            let scored = protocol
                .run(&mut bench)
                .map_err(|error| error.of(protocol.name()))?;
            let counted = Counted::new(scored, splits, self.job.train.len());
            self.scores.enter(place, counted)?;
        }
        Ok(())
    }

    /// Whether this call of the program computed anything.
    pub fn is_new(&self) -> bool {
        self.scores.is_new()
    }

    /// The evaluation as one HTML file with pictures; `data_name` is the name of the records.
    ///
    /// # Errors
    /// Errors in reading features, records and images.
    pub fn report(&self, data_name: &str, progress: &mut dyn FnMut(Event<'_>)) -> Result<String, Error> {
        self.report_of(data_name, &self.outcomes(), progress)
    }

    /// The same report with scores from elsewhere, of the same encoder and records.
    pub(crate) fn report_of(
        &self,
        data_name: &str,
        outcomes: &[Outcome],
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<String, Error> {
        let (train, test) = self.both_features(self.config.needs_train_features(), progress)?;
        let content = Content {
            data_name,
            encoder: &self.encoder,
            test_transforms: &self.config.test_transforms,
            voting: self
                .config
                .protocols
                .iter()
                .find_map(|protocol| protocol.voting()),
            outcomes,
            train: &train,
            test: &test,
            train_data: &self.job.train,
            test_data: &self.job.test,
            device: self.job.device,
        };
        report(&content, progress)
    }

    /// Features of both splits; those of the train split are empty if no protocol needs them.
    fn both_features(
        &self,
        needs_train: bool,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<(Arc<Features>, Arc<Features>), Error> {
        let test = self.features(Split::Test, progress)?;
        let train = match needs_train {
            true => self.features(Split::Train, progress)?,
            false => Arc::default(),
        };
        Ok((train, test))
    }

    /// The stored features if their origin matches, else newly computed ones.
    fn features(&self, split: Split, progress: &mut dyn FnMut(Event<'_>)) -> Result<Arc<Features>, Error> {
        let (records, wanted, file, stage) = match split {
            Split::Train => (
                &self.job.train,
                &self.train,
                "features-train.safetensors",
                "features of the training set",
            ),
            Split::Test => (
                &self.job.test,
                &self.test,
                "features-test.safetensors",
                "features of the test set",
            ),
        };
        let file = match self.job.shared_features {
            None => file.to_string(),
            Some(_) => format!("{}.safetensors", short(&hash_of(&json!(wanted.unnamed())))),
        };
        let writing = Writing {
            feature_type: FeatureType::F32,
            unfinished: Unfinished::Discard,
            set: split.name(),
        };
        self.store
            .get(&file, wanted, &self.config.stored_taps(), |taps, path| {
                let mut named = |event: Event<'_>| progress(Event { stage, ..event });
                let extraction = Extraction {
                    encoder: &self.encoder,
                    dataset: records,
                    transforms: &self.config.test_transforms,
                    taps,
                    data: &self.config.data,
                    device: self.job.device,
                };
                let written = extraction.write(path, writing, &mut named)?;
                if written.bad_records > 0 {
                    tracing::warn!(
                        records = written.bad_records,
                        "{stage}: records that could not be read were skipped"
                    );
                }
                Ok(())
            })
    }
}

#[cfg(test)]
mod tests;
