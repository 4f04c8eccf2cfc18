//! A network as a folder that other libraries open by name: files by name, in memory.
//!
//! | target | files |
//! |---|---|
//! | timm | `config.json`, `model.safetensors` |
//! | Transformers | the same and `preprocessor_config.json` |
//! | ONNX | `model.onnx`, `preprocessor_config.json` |
//!
//! A model card is the caller's to add ([`card`](crate::card)), because it knows the run and its scores. Weights keep
//! Passer's own description in their metadata, so Passer reads the folder back as the same network.

mod timm;
mod transformers;

use std::collections::BTreeMap;

use backbones::{Backbone, BackboneConfig, Init, fit_state, replace_state, state_dict};
use burn::module::Module;
use serde_json::{Value, json};

use crate::encoder_info::EncoderInfo;
use crate::error::WeightsError;
use crate::onnx::{Normalization, OnnxOptions, encoder_to_onnx};
use crate::preparation::Preparation;

/// Who opens the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// timm (`local-dir:`), and Transformers' `AutoModel` where timm is installed.
    Timm,
    /// Transformers' own ViT, DINOv2 (with registers) or ResNet.
    Transformers,
    /// ONNX runtimes.
    Onnx(OnnxOptions),
}

/// A folder's files.
#[derive(Clone, Debug)]
pub struct ExportFolder {
    /// Contents by name.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// The network that the folder holds: at the requested size, with factors of residual branches that the target's network
    /// always has.
    pub info: EncoderInfo,
    /// The target's name of the network: timm's architecture, Transformers' class, or the usual name.
    pub network: String,
}

/// The folder of a network for square images of `size_px`, or of its training's size. Position embeddings are
/// interpolated to it as the network itself does. The same input gives the same bytes.
///
/// # Errors
/// [`WeightsError::Export`] where the target has no such network, or the patch does not divide the size.
pub fn export_folder(
    backbone: &Backbone,
    info: &EncoderInfo,
    target: Target,
    size_px: Option<usize>,
) -> Result<ExportFolder, WeightsError> {
    let (backbone, info) = at_size(backbone, info, size_px)?;
    match target {
        Target::Timm => timm::folder(&backbone, info),
        Target::Transformers => transformers::folder(&backbone, info),
        Target::Onnx(options) => {
            let model = encoder_to_onnx(&backbone, &info, options)?;
            let is_inside = options.normalization == Normalization::Inside;
            let processor = processor(&info, is_inside);
            Ok(ExportFolder {
                files: BTreeMap::from([
                    ("model.onnx", model),
                    ("preprocessor_config.json", text(&processor)),
                ]),
                network: info.architecture.name(),
                info,
            })
        }
    }
}

/// The network with position embeddings for images of this side.
fn at_size(
    backbone: &Backbone,
    info: &EncoderInfo,
    size_px: Option<usize>,
) -> Result<(Backbone, EncoderInfo), WeightsError> {
    let mut info = info.clone();
    let mut backbone = backbone.clone();
    let usual = match &info.architecture {
        // The side in training may be none that the patch divides.
        BackboneConfig::Vit(config) if config.check_input(info.pixels, info.pixels).is_err() => {
            config.image_px
        }
        BackboneConfig::Resnet(_) if info.pixels == 0 => 224,
        _ => info.pixels,
    };
    let size = size_px.unwrap_or(usual);
    if let BackboneConfig::Vit(config) = &mut info.architecture {
        config
            .check_input(size, size)
            .map_err(|reason| refused(reason, None))?;
        let stored = config.image_px;
        config.image_px = size;
        if stored != size {
            let mut from = config.clone();
            from.image_px = stored;
            let to = info.architecture.clone();
            let state = fit_state(&BackboneConfig::Vit(from), &to, state_dict(&backbone))
                .map_err(|reason| refused(reason, None))?;
            let device = backbone.devices().into_iter().next().unwrap_or_default();
            backbone = replace_state(to.init(&Init::empty(&device)), state);
        }
    }
    if size == 0 {
        return Err(refused("images must be at least 1 px wide, got 0 px", None));
    }
    info.pixels = size;
    Ok((backbone, info))
}

/// Transformers' description of the input: `do_normalize` is false where the network itself normalizes.
fn processor(info: &EncoderInfo, network_normalizes: bool) -> Value {
    let images = Preparation::of(info);
    let size = json!({ "height": images.size_px, "width": images.size_px });
    let mut processor = json!({
        "do_normalize": !network_normalizes,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": info.mean,
        "image_std": info.std,
        // Pillow's number of bilinear.
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
    });
    match images.shorter_px {
        Some(shorter) => {
            processor["image_processor_type"] = "BitImageProcessor".into();
            processor["size"] = json!({ "shortest_edge": shorter });
            processor["do_center_crop"] = true.into();
            processor["crop_size"] = size;
            processor["do_convert_rgb"] = true.into();
        }
        None => {
            processor["image_processor_type"] = "ViTImageProcessor".into();
            processor["size"] = size;
        }
    }
    processor
}

fn text(value: &Value) -> Vec<u8> {
    // Keys sorted, whatever map the build has.
    format!("{:#}\n", sorted(value)).into_bytes()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let by_key = object.iter().collect::<BTreeMap<_, _>>().into_iter();
            by_key.map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        plain => plain.clone(),
    }
}

fn refused(reason: impl Into<String>, hint: Option<crate::hint::Hint>) -> WeightsError {
    WeightsError::Export {
        reason: reason.into(),
        hint,
    }
}

#[cfg(test)]
mod tests;
