//! Protocols on features files alone: images go through the encoder once and are not needed afterwards. The
//! files may come from another program.

use super::results_folder::{Counted, ResultsFolder, RunIdentity};
use crate::config::Config;
use crate::error::{Error, io};
use crate::features::{Features, Stored};
use crate::overlap;
use crate::progress::Event;
use crate::protocols::{Bench, ProtocolConfig};
use crate::result::{Outcome, Provenance};
use crate::split::Split;
use crate::task::Splits;
use burn::tensor::Device;
use std::collections::BTreeSet;
use std::path::Path;

/// Reads the taps that the protocols of a config need from a features file: this program's, a folder of its slices, or any
/// safetensors file with taps as f32 or f16 `[records, width]` and optionally `labels`, `keys` and
/// `key_offsets`.
///
/// # Errors
/// [`Error::FeaturesFile`] if it is not a complete features file, [`Error::Slices`] and [`Error::OneSlice`] if slices are
/// not one, [`Error::NoTap`] if it lacks a tap; `split` is the role of the file.
pub fn read_features(path: &Path, config: &Config, split: Split) -> Result<Features, Error> {
    let stored = Stored::of_anyone(path)?;
    let found = stored.taps();
    let taps: BTreeSet<String> = (config.protocols.iter())
        .flat_map(|protocol| protocol.needs().taps)
        .map(|tap| tap.name())
        .collect();
    if let Some(tap) = taps.iter().find(|tap| !found.contains(tap)) {
        return Err(Error::NoTap {
            set: split.name(),
            tap: tap.clone(),
            found,
        });
    }
    stored.read(&taps.into_iter().collect::<Vec<_>>())
}

/// Features of both splits, and the output folder.
#[derive(Clone, Debug)]
pub struct FeaturesJob<'a> {
    /// Features of the records to learn from.
    pub train: &'a Features,
    /// Features of the records to score on.
    pub test: &'a Features,
    /// Folder for `result.json`; created if missing.
    pub out: &'a Path,
    /// Device that protocols compute on, without autodiff.
    pub device: &'a Device,
    /// Facts that only the program knows about itself.
    pub provenance: Provenance,
}

/// The scores of an evaluation on features.
#[derive(Clone, Debug, PartialEq)]
pub struct FeaturesScores {
    /// All scores, in the config's order.
    pub outcomes: Vec<Outcome>,
    /// Protocols whose scores were already in the folder.
    pub kept: Vec<&'static str>,
}

/// Runs every protocol of the config on stored features, in its order, writing `result.json` after each. The config's
/// `test_transforms`, `normalize` and `data` are not used.
///
/// # Errors
/// A protocol that needs images; features of two encoders or of different image transforms; the same records
/// twice; [`Error::Occupied`], as in an evaluation of the encoder; and errors of the protocols.
pub fn run_on_features(
    config: &Config,
    job: &FeaturesJob<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<FeaturesScores, Error> {
    config.validate().map_err(Error::Config)?;
    let (train, test) = (job.train, job.test);
    let needs_images = |protocol: &&ProtocolConfig| protocol.needs().images.is_some();
    if let Some(protocol) = config.protocols.iter().find(needs_images) {
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
    if config.needs_train_labels() && train.origin.fingerprint == test.origin.fingerprint {
        return Err(Error::SameRecords {
            records: test.records(),
            by_protocol: true,
        });
    }
    let learns = config.needs_train_labels();
    let overlap = overlap::of_features(train, test, config.max_shared_fraction, learns)?;
    let identity = RunIdentity {
        overlap,
        train: train.origin.clone(),
        test: test.origin.clone(),
        encoder_step: None,
        provenance: job.provenance.clone(),
        listings: [train, test].map(|features| features.listing.clone()),
    };
    std::fs::create_dir_all(job.out).map_err(io("make", job.out))?;
    let mut scores = ResultsFolder::open(job.out, &config.protocols, identity)?;
    for place in scores.missing() {
        let protocol = &config.protocols[place];
        tracing::info!(protocol = protocol.name(), "evaluating");
        let splits = Splits { train, test };
        let mut bench = Bench {
            splits,
            pipeline: None,
            device: job.device,
            progress: &mut *progress,
        };
        let scored = protocol
            .run(&mut bench)
            .map_err(|error| error.of(protocol.name()))?;
        scores.enter(place, Counted::new(scored, splits, 0))?;
    }
    Ok(FeaturesScores {
        outcomes: scores.outcomes(),
        kept: scores.kept().to_vec(),
    })
}

#[cfg(test)]
mod tests;
