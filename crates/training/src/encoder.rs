//! Encoder files of runs: what the paper evaluates, readable by PyTorch, and where to find it again.

use crate::batch::Normalize;
use crate::checkpoint::latest_checkpoint;
use crate::config::{Config, dataset_views};
use crate::error::{Error, io};
use crate::files::write_atomically;
use backbones::{Backbone, EncoderInfo, encoder_from_safetensors, encoder_to_safetensors};
use burn::tensor::Device;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// An encoder read from disk.
#[derive(Debug)]
pub struct LoadedEncoder {
    /// The network, on a device without autodiff.
    pub backbone: Backbone,
    /// What its file says of it.
    pub info: EncoderInfo,
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
    /// The file that was read.
    pub path: PathBuf,
}

impl LoadedEncoder {
    /// The channel statistics that it was trained with.
    pub fn normalize(&self) -> Normalize {
        Normalize {
            mean: self.info.mean,
            std: self.info.std,
        }
    }
}

/// The bytes of an encoder file for a network of this run.
pub(crate) fn encoder_bytes<C>(
    backbone: &Backbone,
    dataset: &data::Dataset,
    config: &Config<C>,
    method: &str,
    steps: usize,
) -> Vec<u8> {
    let extra = std::collections::BTreeMap::from([("seed".to_string(), config.seed.to_string())]);
    let pixels = dataset_views(&config.views)
        .first()
        .map_or(0, |(width, _)| *width as usize);
    let info = EncoderInfo {
        architecture: config.backbone.clone(),
        method: method.to_string(),
        fingerprint: dataset.fingerprint().to_string(),
        licences: String::new(),
        pixels,
        mean: config.data.normalize.mean,
        std: config.data.normalize.std,
        steps: steps as u64,
        extra,
    };
    encoder_to_safetensors(backbone, &info)
}

/// Writes an encoder file whole or not at all.
pub fn write_encoder(path: &Path, backbone: &Backbone, info: &EncoderInfo) -> Result<(), Error> {
    write_atomically(path, &encoder_to_safetensors(backbone, info))
}

/// Reads the encoder of a run directory (its final one, else its newest checkpoint's), of a checkpoint, or of a file.
///
/// # Errors
/// A path without an encoder, and a file whose tensors are not exactly those of the architecture it names.
pub fn read_encoder(path: &Path, device: &Device) -> Result<LoadedEncoder, Error> {
    let refused = |path: &Path, reason: String| Error::Encoder {
        path: path.to_path_buf(),
        reason,
    };
    let file = if path.is_dir() {
        let own = path.join("encoder.safetensors");
        if own.is_file() {
            own
        } else if let Some(checkpoint) = latest_checkpoint(path)? {
            checkpoint.path.join("encoder.safetensors")
        } else {
            return Err(refused(
                path,
                "the folder holds no `encoder.safetensors` and no checkpoint".into(),
            ));
        }
    } else {
        path.to_path_buf()
    };
    let bytes = fs::read(&file).map_err(io(&file, "reading the encoder"))?;
    let (backbone, info) =
        encoder_from_safetensors(&bytes, device).map_err(|error| refused(&file, error.to_string()))?;
    let hash = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(LoadedEncoder {
        backbone,
        info,
        hash,
        path: file,
    })
}
