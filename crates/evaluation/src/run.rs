//! A whole evaluation: features of both data sets (made once, stored, used again), every protocol, `result.json`.

use crate::check::check;
use crate::config::{Config, Protocol};
use crate::encoder::Encoder;
use crate::error::{Error, io};
use crate::extract::{Writing, extract_to_file, origin};
use crate::features::{Features, Origin};
use crate::linear_dinov2::linear_dinov2;
use crate::linear_probe;
use crate::linear_probe::Probe;
use crate::linear_vissl::linear_vissl;
use crate::partial::{FeatureType, Unfinished};
use crate::progress::Event;
use crate::report::{Content, report};
use crate::result::{Outcome, Provenance};
use crate::scores::{Answer, Scores, Subject, hash_of, short};
use crate::store::{Records, Store};
use crate::stored_features::{answer_of_features, counted};
use crate::task::Part;
use crate::view_diagnostics::view_diagnostics;
use burn::tensor::Device;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

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
    scores: Scores,
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
        let (train, test) = (origin(&job.train)?, origin(&job.test)?);
        let subject = Subject {
            train: train.clone(),
            test: test.clone(),
            encoder_step: encoder.step,
            provenance: job.provenance.clone(),
        };
        Ok(Self {
            scores: Scores::open(job.out, &config.protocols, subject)?,
            train,
            test,
            store: (job.shared_features.clone()).unwrap_or_else(|| Arc::new(Store::new(job.out))),
            config: config.clone(),
            encoder,
            job: job.clone(),
        })
    }

    /// Protocols of the config whose scores were there at the start, from an earlier evaluation, in the config's order.
    pub fn kept(&self) -> &[&'static str] {
        self.scores.kept()
    }

    /// All scores that are known, in the config's order.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.scores.outcomes()
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
        let asked = self.scores.asked();
        if asked.is_empty() {
            return Ok(());
        }
        let needs_train = |place: &usize| self.config.protocols[*place].needs_train_features();
        let needs_train = asked.iter().any(needs_train);
        let test = self.features(Part::Test, progress)?;
        let train = match needs_train {
            true => self.features(Part::Train, progress)?,
            false => Arc::default(),
        };
        for place in asked {
            let protocol = &self.config.protocols[place];
            tracing::info!(protocol = protocol.name(), "evaluating");
            let answer = self
                .answer(protocol, &train, &test, progress)
                .map_err(|error| error.of(protocol.name()))?;
            self.scores.enter(place, answer)?;
        }
        Ok(())
    }

    /// Whether anything was computed in this call of the program.
    pub fn is_new(&self) -> bool {
        self.scores.is_new()
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

    /// What one protocol says.
    fn answer(
        &self,
        protocol: &Protocol,
        train: &Features,
        test: &Features,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Answer, Error> {
        let (config, job, encoder) = (&self.config, &self.job, &self.encoder);
        let (name, data, device) = (protocol.name(), &config.data, job.device);
        // Those that learn from images: what they read of the training set is theirs to count.
        let learned = |scores, classes, train_bad_records| Answer {
            scores,
            classes,
            train_records: job.train.len() - train_bad_records,
            train_bad_records,
            test_records: test.records(),
            test_bad_records: test.bad_records,
        };
        let probed = |settings: &linear_probe::Config, progress: &mut dyn FnMut(Event<'_>)| {
            let probe: Probe = settings.train(name, encoder, &job.train, test, data, device, progress)?;
            Ok(learned(probe.scores, probe.classes, probe.bad_records))
        };
        match protocol {
            Protocol::LinearMoco(settings) => probed(&settings.probe(), progress),
            Protocol::LinearSwav(settings)
            | Protocol::LinearDino(settings)
            | Protocol::LinearMocoV3(settings) => probed(settings, progress),
            Protocol::LinearDinov2(settings) => {
                let probe = linear_dinov2(
                    settings,
                    encoder,
                    &job.train,
                    test,
                    &config.test_transforms,
                    data,
                    device,
                    progress,
                )?;
                Ok(learned(probe.scores, probe.classes, probe.bad_records))
            }
            Protocol::LinearVissl(settings) => {
                let probe = linear_vissl(
                    settings,
                    encoder,
                    &job.train,
                    &job.test,
                    test,
                    &config.test_transforms,
                    data,
                    device,
                    progress,
                )?;
                Ok(learned(probe.scores, probe.classes, probe.bad_records))
            }
            Protocol::ViewDiagnostics(settings) => {
                let records = match settings.set {
                    Part::Train => &job.train,
                    Part::Test => &job.test,
                };
                let scores = view_diagnostics(settings, encoder, records, data, device, progress)?;
                Ok(Answer {
                    scores,
                    ..counted(train, test)
                })
            }
            _ => answer_of_features(protocol, train, test, device, progress),
        }
    }
}

#[cfg(test)]
mod tests;
