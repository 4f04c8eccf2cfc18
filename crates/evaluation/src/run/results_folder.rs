//! `result.json` of an output folder: its existing scores, the missing ones, and their identity.

use crate::error::Error;
use crate::features::Origin;
use crate::overlap::{ByPixels, Overlap};
use crate::protocols::{ProtocolConfig, Scored};
use crate::result::{Outcome, Provenance, Score, read_results, write_results};
use crate::task::Splits;
use data::Listing;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The file of scores in the output folder.
const RESULTS: &str = "result.json";

/// Identity of the scores: encoder, records and program.
#[derive(Clone, Debug)]
pub(crate) struct RunIdentity {
    /// Origin of the training records' features, as if all were stored.
    pub(crate) train: Origin,
    /// Origin of the test records' features.
    pub(crate) test: Origin,
    /// Optimizer steps of the encoder's training, where known.
    pub(crate) encoder_step: Option<u64>,
    pub(crate) provenance: Provenance,
    /// What became no record in the training set and in the test set.
    pub(crate) listings: [Listing; 2],
    /// How far the test images are new.
    pub(crate) overlap: Overlap,
}

/// The scores of one protocol, and the number of records behind them.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) scored: Scored,
    pub(crate) train_records: usize,
    pub(crate) test_records: usize,
    pub(crate) train_bad_records: usize,
    pub(crate) test_bad_records: usize,
}

impl Counted {
    /// Scores over stored features. `train_images` is the number of train records, for protocols that read their images.
    pub(crate) fn new(scored: Scored, splits: Splits<'_>, train_images: usize) -> Self {
        let (train_records, train_bad_records) = match scored.train_bad_records {
            Some(bad_records) => (train_images - bad_records, bad_records),
            None => (splits.train.records(), splits.train.bad_records),
        };
        Self {
            scored,
            train_records,
            train_bad_records,
            test_records: splits.test.records(),
            test_bad_records: splits.test.bad_records,
        }
    }
}

impl RunIdentity {
    /// Hash of everything that decides the scores of a protocol.
    fn asked(&self, protocol: &ProtocolConfig) -> String {
        let all = json!([
            protocol,
            self.train.unnamed(),
            self.test.unnamed(),
            self.provenance.commit,
            self.provenance.device,
        ]);
        hash_of(&all)
    }

    fn outcomes(&self, protocol: &ProtocolConfig, counted: Counted) -> Vec<Outcome> {
        let asked = self.asked(protocol);
        let outcome = |score: Score| Outcome {
            protocol: protocol.name().to_string(),
            metric: score.metric.to_string(),
            value: score.value,
            headline: score.headline,
            spread: score.spread,
            encoder: self.test.encoder.clone(),
            encoder_name: self.test.encoder_name.clone(),
            encoder_step: self.encoder_step,
            classes: counted.scored.classes,
            train_records: counted.train_records,
            test_records: counted.test_records,
            train_bad_records: counted.train_bad_records,
            test_bad_records: counted.test_bad_records,
            train_fingerprint: self.train.fingerprint.clone(),
            test_fingerprint: self.test.fingerprint.clone(),
            train_listing: self.listings[0].clone(),
            test_listing: self.listings[1].clone(),
            overlap: Some(self.overlap.clone()),
            settings: settings(protocol, score.details),
            test_transforms: self.test.transforms.clone(),
            normalize: self.test.normalize.clone(),
            commit: self.provenance.commit.clone(),
            device: self.provenance.device.clone(),
            asked: asked.clone(),
        };
        counted.scored.scores.into_iter().map(outcome).collect()
    }
}

/// The scores of an evaluation, in its folder's `result.json`.
#[derive(Debug)]
pub(crate) struct ResultsFolder {
    path: PathBuf,
    identity: RunIdentity,
    protocols: Vec<ProtocolConfig>,
    /// For each protocol its outcomes, once they are known.
    done: Vec<Option<Vec<Outcome>>>,
    /// Protocols whose scores existed at the start.
    kept: Vec<&'static str>,
    /// Outcomes of other protocols, which stay in the file.
    others: Vec<Outcome>,
}

impl ResultsFolder {
    /// Reads the scores of earlier evaluations from the folder `out`.
    ///
    /// # Errors
    /// [`Error::Occupied`] if the folder holds results of another encoder or of other records.
    pub(crate) fn open(
        out: &Path,
        protocols: &[ProtocolConfig],
        identity: RunIdentity,
    ) -> Result<Self, Error> {
        let path = out.join(RESULTS);
        let mut stored = match path.exists() {
            true => read_results(&path)?,
            false => vec![],
        };
        for outcome in &stored {
            let differs = [
                (&outcome.encoder, &identity.test.encoder, "encoder"),
                (
                    &outcome.train_fingerprint,
                    &identity.train.fingerprint,
                    "training set",
                ),
                (&outcome.test_fingerprint, &identity.test.fingerprint, "test set"),
            ];
            if let Some((was, is, what)) = differs.into_iter().find(|(was, is, _)| was != is) {
                let (was, is) = match what {
                    "encoder" => (
                        format!("encoder `{}` ({})", outcome.encoder_name, short(was)),
                        format!("`{}` ({})", identity.test.encoder_name, short(is)),
                    ),
                    what => (format!("another {what} (fingerprint {})", short(was)), short(is)),
                };
                return Err(Error::Occupied {
                    path: out.to_path_buf(),
                    what: "results",
                    stored: was,
                    now: is,
                });
            }
        }
        let done: Vec<Option<Vec<Outcome>>> = protocols
            .iter()
            .map(|protocol| {
                let asked = identity.asked(protocol);
                let mut same: Vec<Outcome> =
                    stored.extract_if(.., |outcome| outcome.asked == asked).collect();
                // What they do not depend on is that of now.
                for outcome in &mut same {
                    [outcome.train_listing, outcome.test_listing] = identity.listings.clone();
                    // Features are not read again for stored scores.
                    let by_pixels = outcome.overlap.take().and_then(|overlap| overlap.by_pixels);
                    outcome.overlap = Some(Overlap {
                        by_pixels,
                        ..identity.overlap.clone()
                    });
                }
                (!same.is_empty()).then_some(same)
            })
            .collect();
        let kept = protocols.iter().zip(&done).filter(|(_, done)| done.is_some());
        let kept = kept.map(|(protocol, _)| protocol.name()).collect();
        stored.retain(|outcome| {
            !protocols
                .iter()
                .any(|protocol| protocol.name() == outcome.protocol)
        });
        Ok(Self {
            path,
            identity,
            protocols: protocols.to_vec(),
            done,
            kept,
            others: stored,
        })
    }

    /// The stored comparison of pixels, if an earlier evaluation made it.
    pub(crate) fn by_pixels(&self) -> Option<ByPixels> {
        let mut known = self.done.iter().flatten().flatten();
        known.find_map(|outcome| outcome.overlap.as_ref()?.by_pixels)
    }

    /// Replaces the comparison of the two sets, in stored scores too.
    pub(crate) fn set_overlap(&mut self, overlap: Overlap) {
        for outcome in self.done.iter_mut().flatten().flatten() {
            outcome.overlap = Some(overlap.clone());
        }
        self.identity.overlap = overlap;
    }

    /// The comparison of the two sets.
    pub(crate) fn overlap(&self) -> &Overlap {
        &self.identity.overlap
    }

    /// Indices of the protocols without scores.
    pub(crate) fn missing(&self) -> Vec<usize> {
        let unknown = |place: &usize| self.done[*place].is_none();
        (0..self.done.len()).filter(unknown).collect()
    }

    /// Adds the scores of the protocol at `place`, and writes the file.
    pub(crate) fn enter(&mut self, place: usize, counted: Counted) -> Result<(), Error> {
        self.done[place] = Some(self.identity.outcomes(&self.protocols[place], counted));
        let mut all = self.outcomes();
        all.extend(self.others.iter().cloned());
        write_results(&self.path, &all)
    }

    /// Protocols whose scores existed at the start, in the config's order.
    pub(crate) fn kept(&self) -> &[&'static str] {
        &self.kept
    }

    /// Whether any scores were entered.
    pub(crate) fn is_new(&self) -> bool {
        self.kept.len() < self.done.len()
    }

    /// All known scores, in the config's order.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.done.iter().flatten().flatten().cloned().collect()
    }
}

/// SHA-256 of a JSON value, hexadecimal.
pub(crate) fn hash_of(value: &Value) -> String {
    data::hex(&Sha256::digest(value.to_string()))
}

/// The first digits of a hash, enough to distinguish two.
pub(crate) fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// The protocol's settings from the config, with the additions and choices of this score.
fn settings(protocol: &ProtocolConfig, details: serde_json::Map<String, Value>) -> Value {
    let Value::Object(mut settings) = protocol.settings() else {
        return Value::Object(details);
    };
    settings.extend(details);
    Value::Object(settings)
}
