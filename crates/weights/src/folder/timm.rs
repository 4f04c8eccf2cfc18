//! timm's folder: one of its architectures by name with the arguments that make this network.

use std::collections::BTreeMap;

use backbones::vit::Pooling;
use backbones::{Backbone, BackboneConfig, Stem, VitConfig};
use serde_json::{Value, json};

use super::{ExportFolder, refused, text};
use crate::encoder_info::EncoderInfo;
use crate::error::WeightsError;
use crate::export::{Naming, STRIDES, encoder_to_safetensors_as};
use crate::hint::Hint;
use crate::preparation::Preparation;

pub(super) fn folder(backbone: &Backbone, info: EncoderInfo) -> Result<ExportFolder, WeightsError> {
    let (name, pool, arguments, first) = match &info.architecture {
        BackboneConfig::Resnet(config) => {
            if config.stem == Stem::Small {
                return Err(refused(
                    "timm has no ResNet with a 3×3 stem without pooling, as this network has",
                    Some(Hint::ExportOnnx),
                ));
            }
            if config.stride_in_1x1 {
                return Err(refused(STRIDES, Some(Hint::ExportTransformers)));
            }
            if config.width != 64 {
                let reason = format!(
                    "the first convolution of timm's ResNets has 64 channels, and this network's has {}",
                    config.width
                );
                return Err(refused(reason, Some(Hint::ExportTransformers)));
            }
            (format!("resnet{}", config.depth), "avg", json!({}), "conv1")
        }
        BackboneConfig::Vit(config) => {
            if config.epsilon() != VitConfig::USUAL_EPSILON {
                let reason = format!(
                    "timm's `config.json` cannot state the epsilon of norms, which is {:e} here and {:e} there",
                    config.epsilon(),
                    VitConfig::USUAL_EPSILON
                );
                let hint = match config.pooling {
                    Pooling::MeanThenNorm => Hint::ExportOnnx,
                    _ => Hint::ExportTransformers,
                };
                return Err(refused(reason, Some(hint)));
            }
            let pool = match config.pooling {
                Pooling::ClassToken => "token",
                Pooling::Mean | Pooling::MeanThenNorm => "avg",
            };
            (architecture(config), pool, of_vit(config), "patch_embed.proj")
        }
    };
    let images = Preparation::of(&info);
    let side = images.size_px;
    let config = json!({
        "architecture": name,
        "num_classes": 0,
        "num_features": info.architecture.features(),
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "fixed_input_size": matches!(info.architecture, BackboneConfig::Vit(_)),
            "interpolation": "bilinear",
            "crop_pct": images.crop_ratio(),
            // The whole picture, or its center.
            "crop_mode": if images.shorter_px.is_some() { "center" } else { "squash" },
            "mean": info.mean,
            "std": info.std,
            "num_classes": 0,
            "pool_size": Value::Null,
            "first_conv": first,
            "classifier": if first == "conv1" { "fc" } else { "head" },
        },
    });
    let weights = encoder_to_safetensors_as(backbone, &info, Naming::Timm)?;
    Ok(ExportFolder {
        files: BTreeMap::from([("config.json", text(&config)), ("model.safetensors", weights)]),
        network: name,
        info,
    })
}

/// The architecture of timm's whose name fits best: the arguments say everything, and a network of an unusual size is a
/// `vit_base_patch16_224` with other arguments.
fn architecture(config: &VitConfig) -> String {
    let size = match (config.width, config.depth, config.heads) {
        (192, 12, 3) => "tiny",
        (384, 12, 6) => "small",
        (768, 12, 12) => "base",
        (1024, 24, 16) => "large",
        _ => return "vit_base_patch16_224".to_owned(),
    };
    match (config.layer_scale, config.registers, config.patch_px) {
        (Some(_), 0, 14) if size != "tiny" => format!("vit_{size}_patch14_dinov2"),
        (Some(_), 4, 14) if size != "tiny" => format!("vit_{size}_patch14_reg4_dinov2"),
        _ => format!("vit_{size}_patch16_224"),
    }
}

/// Every argument of `VisionTransformer` on which the features depend.
fn of_vit(config: &VitConfig) -> Value {
    let has_mean = config.pooling != Pooling::ClassToken;
    let mut arguments = json!({
        "img_size": config.image_px,
        "patch_size": config.patch_px,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "global_pool": if has_mean { "avg" } else { "token" },
        "fc_norm": config.pooling == Pooling::MeanThenNorm,
        "reg_tokens": config.registers,
        "no_embed_class": config.registers > 0,
        // Its initial value: the weights have the trained ones.
        "init_values": config.layer_scale,
    });
    // timm's own default of a class token's pooling is no second norm.
    if !has_mean {
        arguments["fc_norm"] = false.into();
    }
    arguments
}
