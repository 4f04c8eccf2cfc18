//! Encoders on disk: those of runs, which PyTorch can read too, and those of other programs.

use crate::batch::Normalize;
use crate::config::{Config, dataset_views};
use crate::error::Error;
use backbones::Backbone;
use burn::tensor::Device;
use data::{durable, hex};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use weights::{
    EncoderInfo, Import, ImportOptions, Naming, Origin, SeenNetwork, WeightsError, encoder_to_safetensors,
    encoder_to_safetensors_as,
};

mod open;

pub use open::UnfinishedRun;
pub(crate) use open::{Opened, open_encoder};

/// The key of [`EncoderInfo::extra`] with a sample of the images that an encoder was trained on
/// ([`data::ContentSample`]).
const SAMPLE_KEY: &str = "images";

/// The encoder's name in a run directory and in a checkpoint.
pub(crate) const ENCODER: &str = "encoder.safetensors";

/// An encoder read from disk.
#[derive(Debug)]
pub struct LoadedEncoder {
    /// The network, on a device without autodiff.
    pub backbone: Backbone,
    /// The file's own description, or known facts about a foreign file's layout.
    pub info: EncoderInfo,
    /// Identifies it: SHA-256 (hexadecimal) of the file. A foreign file can give several encoders (the other
    /// network, other heads), so there the hash covers the file's SHA-256 and `info`.
    pub hash: String,
    /// SHA-256 of the file, hexadecimal; of several files, the SHA-256 of theirs.
    pub file_hash: String,
    /// The file that was read.
    pub path: PathBuf,
    /// If it is of a run that is not finished: how far that is.
    pub unfinished: Option<UnfinishedRun>,
}

impl LoadedEncoder {
    /// A sample of the images that it was trained on; empty where the file has none.
    pub fn sample(&self) -> data::ContentSample {
        sample_of(&self.info)
    }

    /// The channel statistics of its training.
    pub fn normalize(&self) -> Normalize {
        Normalize {
            mean: self.info.mean,
            std: self.info.std,
        }
    }
}

/// The sample of images in an encoder's description.
pub(crate) fn sample_of(info: &EncoderInfo) -> data::ContentSample {
    let text = info.extra.get(SAMPLE_KEY);
    text.and_then(|text| data::ContentSample::from_text(text))
        .unwrap_or_default()
}

/// The bytes of an encoder file for a network of this run.
pub(crate) fn encoder_bytes<C>(
    backbone: &Backbone,
    dataset: &data::Dataset,
    config: &Config<C>,
    method: &str,
    steps: usize,
    origin: Option<&Origin>,
) -> Result<Vec<u8>, Error> {
    let mut extra = std::collections::BTreeMap::from([("seed".to_string(), config.seed.to_string())]);
    let sample = dataset.sample()?;
    if !sample.is_empty() {
        extra.insert(SAMPLE_KEY.to_string(), sample.to_text());
    }
    let pixels = dataset_views(&config.views)
        .first()
        .map_or(0, |(width, _)| *width as usize);
    let mut info = EncoderInfo {
        architecture: config.backbone.clone(),
        method: method.to_string(),
        fingerprint: dataset.fingerprint().to_string(),
        licenses: dataset.licenses()?.clone(),
        pixels,
        mean: config.data.normalize.mean,
        std: config.data.normalize.std,
        steps: steps as u64,
        extra,
    };
    if let Some(origin) = origin {
        info.set_origin(origin);
    }
    Ok(encoder_to_safetensors(backbone, &info))
}

/// Writes an encoder file atomically.
///
/// # Errors
/// A disk that refuses the write; a network without a counterpart in the other library.
pub fn write_encoder(
    path: &Path,
    backbone: &Backbone,
    info: &EncoderInfo,
    naming: Naming,
) -> Result<(), Error> {
    let bytes = encoder_to_safetensors_as(backbone, info, naming).map_err(|error| refused(path, &error))?;
    Ok(durable::write(path, &bytes)?)
}

/// Reads the encoder of a run directory (its final one, else its newest checkpoint's), of a checkpoint, of an encoder
/// file, or of a file or folder of weights in any known layout (`docs/weights.md`).
///
/// # Errors
/// A path without an encoder, a damaged or hostile file, or tensors that do not exactly match their network.
pub fn read_encoder(path: &Path, options: &ImportOptions, device: &Device) -> Result<LoadedEncoder, Error> {
    let mut opened = open_encoder(path)?;
    let (path, file_hash) = (opened.path.clone(), opened.hash.clone());
    let read = |opened: &mut Opened| {
        let checkpoint = opened.checkpoint()?;
        let plan = Import::plan(&checkpoint, options, device)?;
        // Our own files describe themselves, and only these options could change the result.
        let plain = checkpoint.is_ours() && *options == ImportOptions::default();
        for other in &plan.recognized.other_networks {
            tracing::warn!("encoder `{}`: {}", path.display(), not_read(other));
        }
        Ok((plan.load(&mut opened.source)?, checkpoint.is_ours(), plain))
    };
    let ((backbone, mut info), ours, plain) =
        read(&mut opened).map_err(|error: WeightsError| refused(&path, &error))?;
    for note in info.notes() {
        tracing::warn!("encoder `{}`: {note}", path.display());
    }
    if !ours {
        info.extra.insert("source_sha256".into(), file_hash.clone());
    }
    let hash = if plain {
        file_hash.clone()
    } else {
        let made = serde_json::to_string(&info).map_err(|error| Error::Encoder {
            path: path.clone(),
            reason: error.to_string(),
            hint: None,
        })?;
        hex(&Sha256::digest(format!("{file_hash}\n{made}")))
    };
    Ok(LoadedEncoder {
        backbone,
        info,
        hash,
        file_hash,
        path,
        unfinished: opened.unfinished,
    })
}

/// The warning for an unread network in a file.
pub(crate) fn not_read(network: &SeenNetwork) -> String {
    format!(
        "the file holds another network, which is not read: names like those of {} under `{}`",
        network.looks,
        network.path.escape_debug()
    )
}

/// The error of a file.
pub(crate) fn refused(path: &Path, error: &WeightsError) -> Error {
    Error::Encoder {
        path: path.to_path_buf(),
        // Its names come from the file, and a terminal obeys control characters.
        reason: data::terminal::escape(&error.to_string()),
        hint: error.hint(),
    }
}
