//! A whole evaluation: features of both data sets (made once, stored, used again), every protocol, `result.json`.

use crate::check::check;
use crate::clustering::clustering;
use crate::config::{Config, Protocol};
use crate::diagnostics::diagnostics;
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::extract::{Writing, extract_to_file, origin};
use crate::features::{Features, Origin, POOLED};
use crate::few_shot::few_shot;
use crate::knn::{knn_dino, knn_vissl};
use crate::linear_cached::linear_cached;
use crate::linear_cached_grid::linear_cached_grid;
use crate::linear_dinov2::linear_dinov2;
use crate::linear_probe;
use crate::linear_probe::Probe;
use crate::linear_vissl::linear_vissl;
use crate::logistic::logistic_regression;
use crate::one_vs_rest::OneVsRest;
use crate::partial::{FeatureType, Unfinished};
use crate::progress::Event;
use crate::report::{Content, report};
use crate::result::{Outcome, Provenance, Score, read_results, write_results};
use crate::retrieval::retrieval;
use crate::store::{Records, Store};
use crate::svm_low_shot::svm_low_shot;
use crate::svm_voc07::svm_voc07;
use crate::task::{Part, Task};
use crate::view_diagnostics::view_diagnostics;
use burn::tensor::Device;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// The file of scores in the output folder.
const RESULTS: &str = "result.json";

/// Whom to ask about what, and where to put the answers.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// What is evaluated.
    pub encoder: &'a Encoder,
    /// Labelled records to learn from.
    pub train: Records,
    /// Labelled records to be scored on.
    pub test: Records,
    /// Folder for `features-train.safetensors`, `features-test.safetensors` and `result.json`; made if need be.
    pub out: &'a Path,
    /// Features that several evaluations share; they lie in its folder under a hash of what they are of. Absent: those of this
    /// evaluation alone, in `out`.
    pub shared_features: Option<Arc<Store>>,
    /// Device of the encoder's weights, without autodiff.
    pub device: &'a Device,
    /// What only the program knows about itself.
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

/// An evaluation that can be carried out, and what of it is done already.
///
/// Features lying in the output folder are used again if encoder, data, labels, transforms and normalisation are the same;
/// scores in its `result.json` if settings, commit and device are as well.
#[derive(Debug)]
pub struct Plan<'a> {
    config: Config,
    /// With the config's normalisation.
    encoder: Encoder,
    job: Job<'a>,
    train: Origin,
    test: Origin,
    store: Arc<Store>,
    /// For each protocol of the config what it gave, once it is known.
    done: Vec<Option<Vec<Outcome>>>,
    /// Those that were there at the start.
    kept: Vec<&'static str>,
    /// Scores of other protocols, which stay in `result.json`.
    others: Vec<Outcome>,
}

impl<'a> Plan<'a> {
    /// Checks all that can be checked before the first image is read, for all protocols, and reads the results that are
    /// there.
    ///
    /// # Errors
    /// What the data cannot answer, and [`Error::Occupied`] where the folder holds results of another encoder or of other
    /// records.
    pub fn new(config: &Config, job: &Job<'a>) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        check(config, job.encoder, &job.train, &job.test)?;
        let mut encoder = job.encoder.clone();
        encoder.normalize = config.normalize.unwrap_or(encoder.normalize);
        let origin = |records: &Records| -> Result<Origin, Error> {
            let labels = records.labels_hash()?.clone();
            Ok(origin(&encoder, records, labels, &config.test_transforms))
        };
        let mut plan = Self {
            train: origin(&job.train)?,
            test: origin(&job.test)?,
            store: (job.shared_features.clone()).unwrap_or_else(|| Arc::new(Store::new(job.out))),
            config: config.clone(),
            encoder,
            job: job.clone(),
            done: vec![None; config.protocols.len()],
            kept: vec![],
            others: vec![],
        };
        plan.read_stored()?;
        Ok(plan)
    }

    /// Takes over what an earlier evaluation left in the folder.
    fn read_stored(&mut self) -> Result<(), Error> {
        let path = self.job.out.join(RESULTS);
        if !path.exists() {
            return Ok(());
        }
        let mut stored = read_results(&path)?;
        for outcome in &stored {
            let differs = [
                (&outcome.encoder, &self.encoder.hash, "encoder"),
                (
                    &outcome.train_fingerprint,
                    &self.train.fingerprint,
                    "training set",
                ),
                (&outcome.test_fingerprint, &self.test.fingerprint, "test set"),
            ];
            if let Some((was, is, what)) = differs.into_iter().find(|(was, is, _)| was != is) {
                let (was, is) = match what {
                    "encoder" => (
                        format!("encoder `{}` ({})", outcome.encoder_name, short(was)),
                        format!("`{}` ({})", self.encoder.name, short(is)),
                    ),
                    what => (format!("another {what} (fingerprint {})", short(was)), short(is)),
                };
                return Err(Error::Occupied {
                    path: self.job.out.to_path_buf(),
                    what: "results",
                    stored: was,
                    now: is,
                });
            }
        }
        for place in 0..self.done.len() {
            let asked = self.asked(place);
            let same: Vec<Outcome> = stored.extract_if(.., |outcome| outcome.asked == asked).collect();
            self.done[place] = (!same.is_empty()).then_some(same);
        }
        self.kept = (self.config.protocols.iter().zip(&self.done))
            .filter(|(_, done)| done.is_some())
            .map(|(protocol, _)| protocol.name())
            .collect();
        let asks = |name: &str| {
            self.config
                .protocols
                .iter()
                .any(|protocol| protocol.name() == name)
        };
        stored.retain(|outcome| !asks(&outcome.protocol));
        self.others = stored;
        Ok(())
    }

    /// Protocols of the config whose scores were there at the start, from an earlier evaluation, in the config's order.
    pub fn kept(&self) -> &[&'static str] {
        &self.kept
    }

    /// All scores that are known, in the config's order.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.done.iter().flatten().flatten().cloned().collect()
    }

    /// What a user should know before the work begins.
    pub fn size_note(&self) -> Option<String> {
        self.encoder.size_note(&self.config.test_transforms)
    }

    /// Asks what is not known yet, writing `result.json` after each protocol.
    ///
    /// # Errors
    /// Everything in [`Error`]; the scores before it stay.
    pub fn run(&mut self, progress: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        let out = self.job.out;
        std::fs::create_dir_all(out).map_err(io(out, "creating the output folder"))?;
        let asked: Vec<&Protocol> = self
            .config
            .protocols
            .iter()
            .zip(&self.done)
            .filter(|(_, done)| done.is_none())
            .map(|(protocol, _)| protocol)
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let needs_train = asked.iter().any(|protocol| protocol.needs_train_features());
        let test = self.features(Part::Test, progress)?;
        let train = match needs_train {
            true => self.features(Part::Train, progress)?,
            false => Arc::default(),
        };
        for place in 0..self.done.len() {
            if self.done[place].is_some() {
                continue;
            }
            let name = self.config.protocols[place].name();
            tracing::info!(protocol = name, "evaluating");
            let outcomes = self
                .score(place, &train, &test, progress)
                .map_err(|error| error.of(name))?;
            self.done[place] = Some(outcomes);
            let mut all = self.outcomes();
            all.extend(self.others.iter().cloned());
            write_results(&out.join(RESULTS), &all)?;
        }
        Ok(())
    }

    /// Whether anything was computed in this call of the program.
    pub fn is_new(&self) -> bool {
        self.kept.len() < self.done.len()
    }

    /// The evaluation as one HTML file with pictures; `data_name` is what people call the records.
    ///
    /// # Errors
    /// What reading features, records and images says.
    pub fn report(&self, data_name: &str, progress: &mut dyn FnMut(Event<'_>)) -> Result<String, Error> {
        self.report_of(data_name, &self.outcomes(), progress)
    }

    /// The same with scores that were made elsewhere, of the same encoder and records.
    pub(crate) fn report_of(
        &self,
        data_name: &str,
        outcomes: &[Outcome],
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<String, Error> {
        let needs_train = self.config.protocols.iter().any(Protocol::needs_train_features);
        let test = self.features(Part::Test, progress)?;
        let train = match needs_train {
            true => self.features(Part::Train, progress)?,
            false => Arc::default(),
        };
        let content = Content {
            data_name,
            encoder: &self.encoder,
            config: &self.config,
            outcomes,
            train: &train,
            test: &test,
            train_data: &self.job.train,
            test_data: &self.job.test,
            device: self.job.device,
        };
        report(&content, progress)
    }

    /// Hash of all that decides the scores of a protocol.
    fn asked(&self, place: usize) -> String {
        let all = json!([
            self.config.protocols[place],
            self.train.unnamed(),
            self.test.unnamed(),
            self.job.provenance.commit,
            self.job.provenance.device,
        ]);
        hash_of(&all)
    }

    /// The stored features if they are still those that would be made, else new ones.
    fn features(&self, part: Part, progress: &mut dyn FnMut(Event<'_>)) -> Result<Arc<Features>, Error> {
        let (records, wanted, file, stage) = match part {
            Part::Train => (
                &self.job.train,
                &self.train,
                "features-train.safetensors",
                "features of the training set",
            ),
            Part::Test => (
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
            set: part.name(),
        };
        self.store
            .get(&file, wanted, &self.config.stored_taps(), |taps, path| {
                let mut named = |event: Event<'_>| progress(Event { stage, ..event });
                let written = extract_to_file(
                    &self.encoder,
                    records,
                    &self.config.test_transforms,
                    taps,
                    &self.config.data,
                    self.job.device,
                    path,
                    writing,
                    &mut named,
                )?;
                if written.bad_records > 0 {
                    tracing::warn!(
                        records = written.bad_records,
                        "{stage}: records that could not be read were left out"
                    );
                }
                Ok(())
            })
    }

    /// One protocol's outcomes.
    fn score(
        &self,
        place: usize,
        train: &Features,
        test: &Features,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<Outcome>, Error> {
        let (config, job, encoder) = (&self.config, &self.job, &self.encoder);
        let protocol = &config.protocols[place];
        let asked = self.asked(place);
        let task = || match protocol.needs_train_labels() {
            true => Task::new(train, test, POOLED),
            false => Task::within_test(train, test, POOLED),
        };
        let mut train_records = train.records();
        let mut train_bad_records = train.bad_records;
        let mut probed = |settings: linear_probe::Config, progress: &mut dyn FnMut(Event<'_>)| {
            let name = protocol.name();
            let probe: Probe = settings.train(
                name,
                encoder,
                &job.train,
                test,
                &config.data,
                job.device,
                progress,
            )?;
            train_bad_records = probe.bad_records;
            train_records = job.train.len() - probe.bad_records;
            Ok::<_, Error>((probe.scores, probe.classes))
        };
        let (scores, classes) = match protocol {
            Protocol::KnnDino(settings) => {
                let task = task()?;
                (knn_dino(settings, &task, job.device)?, task.classes.count())
            }
            Protocol::KnnVissl(settings) => {
                let task = task()?;
                (knn_vissl(settings, &task, job.device)?, task.classes.count())
            }
            Protocol::LinearMoco(settings) => probed(settings.probe(), progress)?,
            Protocol::LinearSwav(settings)
            | Protocol::LinearDino(settings)
            | Protocol::LinearMocoV3(settings) => probed(settings.clone(), progress)?,
            Protocol::LinearDinov2(settings) => {
                let probe = linear_dinov2(
                    settings,
                    encoder,
                    &job.train,
                    test,
                    &config.test_transforms,
                    &config.data,
                    job.device,
                    progress,
                )?;
                train_bad_records = probe.bad_records;
                train_records = job.train.len() - probe.bad_records;
                (probe.scores, probe.classes)
            }
            Protocol::LinearVissl(settings) => {
                let probe = linear_vissl(
                    settings,
                    encoder,
                    &job.train,
                    &job.test,
                    test,
                    &config.test_transforms,
                    &config.data,
                    job.device,
                    progress,
                )?;
                train_bad_records = probe.bad_records;
                train_records = job.train.len() - probe.bad_records;
                (probe.scores, probe.classes)
            }
            Protocol::LinearCachedGrid(settings) => {
                let task = task()?;
                let classes = task.classes.count();
                let scores = linear_cached_grid(settings, &task, train, test, job.device, progress)?;
                (scores, classes)
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
            Protocol::ViewDiagnostics(settings) => {
                let records = match settings.set {
                    Part::Train => &job.train,
                    Part::Test => &job.test,
                };
                let scores =
                    view_diagnostics(settings, encoder, records, &config.data, job.device, progress)?;
                (scores, 0)
            }
            Protocol::Diagnostics(settings) => (diagnostics(settings, train, test, progress)?, 0),
        };
        let outcome = |score: Score| Outcome {
            protocol: protocol.name().to_string(),
            metric: score.metric.to_string(),
            value: score.value,
            headline: score.headline,
            spread: score.spread,
            encoder: encoder.hash.clone(),
            encoder_name: encoder.name.clone(),
            encoder_step: encoder.step,
            classes,
            train_records,
            test_records: test.records(),
            train_bad_records,
            test_bad_records: test.bad_records,
            train_fingerprint: job.train.fingerprint().to_string(),
            test_fingerprint: job.test.fingerprint().to_string(),
            settings: settings(protocol, score.details),
            test_transforms: json!(config.test_transforms),
            normalize: json!(encoder.normalize),
            commit: job.provenance.commit.clone(),
            device: job.provenance.device.clone(),
            asked: asked.clone(),
        };
        Ok(scores.into_iter().map(outcome).collect())
    }
}

/// SHA-256 of a JSON value, hexadecimal.
fn hash_of(value: &Value) -> String {
    data::hex(&Sha256::digest(value.to_string()))
}

/// The first digits of a hash, enough to tell two apart.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
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
