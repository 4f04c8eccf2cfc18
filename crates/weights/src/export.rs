//! Networks as encoder files.
//!
//! An encoder file is a safetensors file that PyTorch loads without this program
//! (`load_state_dict(strict=True)` into torchvision's or timm's network, with an `Identity` classifier).
//! Everything needed to use it ([`EncoderInfo`], as JSON) is under `passer` in its metadata.

use std::collections::BTreeMap;

use backbones::vit::Pooling;
use backbones::{Backbone, BackboneConfig, state_dict};
use burn::tensor::TensorData;
use data::ENCODER_KEY;
use safetensors::tensor::{Dtype, TensorView};

use crate::encoder_info::EncoderInfo;
use crate::error::WeightsError;
use crate::format::with_metadata;
use crate::hint::Hint;
use crate::layouts::{TORCHVISION_VIT, theirs};
use crate::mismatch::BATCH_COUNT;

/// The library whose names an encoder file uses. Those of ResNets are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// This crate's, for every network.
    Passer,
    /// timm's names, which are nearly this crate's.
    Timm,
    /// torchvision's.
    Torchvision,
}

/// Why neither library gets a network with the key `stride_in_1x1`.
pub(crate) const STRIDES: &str = "bottlenecks of torchvision and timm stride in their 3×3 convolution, and this network's in the \
     first 1×1 one: theirs would load the weights and give wrong features";

/// The bytes of an encoder file. The same backbone and info give the same bytes.
pub fn encoder_to_safetensors(backbone: &Backbone, info: &EncoderInfo) -> Vec<u8> {
    file_of(state_dict(backbone), info)
}

/// The bytes of an encoder file with another library's names, which this crate reads too.
///
/// # Errors
/// A ViT with a part that torchvision's lacks, and a ResNet with strides in its 1×1 convolutions.
pub fn encoder_to_safetensors_as(
    backbone: &Backbone,
    info: &EncoderInfo,
    naming: Naming,
) -> Result<Vec<u8>, WeightsError> {
    let has_strides = matches!(&info.architecture, BackboneConfig::Resnet(config) if config.stride_in_1x1);
    if has_strides && naming != Naming::Passer {
        return Err(WeightsError::Export {
            reason: STRIDES.to_owned(),
            hint: Some(Hint::ExportTransformers),
        });
    }
    let mut tensors = state_dict(backbone);
    if let (Naming::Torchvision, BackboneConfig::Vit(config)) = (naming, &info.architecture) {
        for (present, what) in [
            (config.registers > 0, "registers"),
            (config.layer_scale.is_some(), "layer scale"),
            (config.pooling != Pooling::ClassToken, "mean pooling"),
        ] {
            if present {
                return Err(WeightsError::Torchvision(what));
            }
        }
        tensors = tensors
            .into_iter()
            .map(|(name, data)| (theirs(TORCHVISION_VIT, &name).concat(), data))
            .collect();
    }
    if let (Naming::Timm, BackboneConfig::Vit(config)) = (naming, &info.architecture)
        && config.pooling == Pooling::MeanThenNorm
    {
        // timm has two norms, one of them an identity: under `norm` the weights would give other features.
        for end in ["weight", "bias"] {
            if let Some(data) = tensors.remove(&format!("norm.{end}")) {
                tensors.insert(format!("fc_norm.{end}"), data);
            }
        }
    }
    Ok(file_of(tensors, info))
}

/// The bytes of an encoder file with these tensors.
pub(crate) fn file_of(tensors: BTreeMap<String, TensorData>, info: &EncoderInfo) -> Vec<u8> {
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX);
    let info = serde_json::to_string(info).expect("strings and finite numbers have a JSON form");
    to_safetensors(tensors, |_| Some(steps), [(ENCODER_KEY, info)])
}

/// The bytes of a safetensors file that PyTorch's networks load.
///
/// - `tensors`: f32, by their names
/// - `batches`: PyTorch's count of batches of the norm whose names begin so, such as `layer1.0.bn1.`, if it has one
/// - `about`: keys and texts of the file's metadata
pub fn to_safetensors<'a>(
    tensors: BTreeMap<String, TensorData>,
    batches: impl Fn(&str) -> Option<i64>,
    about: impl IntoIterator<Item = (&'a str, String)>,
) -> Vec<u8> {
    let counts = tensors.keys().filter_map(|name| {
        let norm = name.strip_suffix("running_mean")?;
        Some((format!("{norm}{BATCH_COUNT}"), batches(norm)?.to_le_bytes()))
    });
    let counts = counts.collect::<Vec<_>>();
    let counts = counts.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::I64, vec![], bytes);
        (name.clone(), view.expect("8 bytes are an i64"))
    });
    let weights = tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        (name.clone(), view.expect("a tensor's bytes fit its shape"))
    });
    let plain =
        safetensors::serialize(weights.chain(counts), None).expect("names are unique and views are sound");
    // At most two copies of a large network in memory.
    drop(tensors);
    // Other libraries look for "format" before they treat the tensors as PyTorch's.
    let mut metadata = BTreeMap::from([("format", "pt".to_owned())]);
    metadata.extend(about);
    with_metadata(&plain, &metadata)
}

#[cfg(test)]
mod tests;
