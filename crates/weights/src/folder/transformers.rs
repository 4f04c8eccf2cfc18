//! Transformers' folder: its ViT, DINOv2 (with registers) or ResNet, by the names of the rows that read them.

use std::collections::BTreeMap;

use backbones::vit::Pooling;
use backbones::{Backbone, BackboneConfig, ResNetConfig, Stem, VitConfig, state_dict};
use burn::tensor::TensorData;
use serde_json::{Value, json};

use super::{ExportFolder, processor, refused, text};
use crate::encoder_info::EncoderInfo;
use crate::error::WeightsError;
use crate::export::file_of;
use crate::hint::Hint;
use crate::layouts::{TRANSFORMERS_DINOV2, TRANSFORMERS_RESNET, TRANSFORMERS_VIT, theirs};

pub(super) fn folder(backbone: &Backbone, mut info: EncoderInfo) -> Result<ExportFolder, WeightsError> {
    let mut tensors = state_dict(backbone);
    let (config, renames) = match &mut info.architecture {
        BackboneConfig::Resnet(config) => {
            if config.stem == Stem::Small {
                return Err(refused(
                    "Transformers has no ResNet with a 3×3 stem without pooling, as this network has",
                    Some(Hint::ExportOnnx),
                ));
            }
            (resnet(config), TRANSFORMERS_RESNET)
        }
        BackboneConfig::Vit(config) => {
            if config.pooling == Pooling::MeanThenNorm {
                return Err(refused(
                    "Transformers' ViTs norm every token, and this network has its last norm behind the mean of the patches",
                    Some(Hint::ExportTimm),
                ));
            }
            if config.registers == 0 && config.layer_scale.is_none() {
                (vit(config), TRANSFORMERS_VIT)
            } else {
                like_dinov2(config, &mut tensors);
                (dinov2(config), TRANSFORMERS_DINOV2)
            }
        }
    };
    let mut named = BTreeMap::new();
    for (name, data) in tensors {
        let names = theirs(renames, &name);
        match names.as_slice() {
            [name] => {
                named.insert(name.clone(), data);
            }
            names => named.extend(thirds(names, &data)),
        }
    }
    if let (BackboneConfig::Vit(config), true) = (&info.architecture, renames == TRANSFORMERS_DINOV2) {
        // A parameter of training that every such file has.
        let mask = TensorData::new(vec![0f32; config.width], [1, config.width]);
        named.insert("embeddings.mask_token".to_owned(), mask);
    }
    let network = config["architectures"][0].as_str().unwrap_or_default().to_owned();
    let processor = processor(&info, false);
    Ok(ExportFolder {
        files: BTreeMap::from([
            ("config.json", text(&config)),
            ("model.safetensors", file_of(named, &info)),
            ("preprocessor_config.json", text(&processor)),
        ]),
        info,
        network,
    })
}

/// Queries, keys and values apart.
fn thirds(names: &[String], data: &TensorData) -> Vec<(String, TensorData)> {
    let mut shape = data.shape().to_vec();
    shape[0] /= names.len();
    let values = data.iter::<f32>().collect::<Vec<_>>();
    let parts = values.chunks_exact(values.len() / names.len());
    names
        .iter()
        .zip(parts)
        .map(|(name, part)| (name.clone(), TensorData::new(part.to_vec(), shape.clone())))
        .collect()
}

/// What every DINOv2 has: factors of the residual branches, which are 1 where the network has none, and with registers a
/// position of the class token, which is 0 where the network has none.
fn like_dinov2(config: &mut VitConfig, tensors: &mut BTreeMap<String, TensorData>) {
    if config.layer_scale.is_none() {
        config.layer_scale = Some(1.0);
        for number in 0..config.depth {
            for scale in ["ls1", "ls2"] {
                let ones = TensorData::new(vec![1f32; config.width], [config.width]);
                tensors.insert(format!("blocks.{number}.{scale}.gamma"), ones);
            }
        }
    }
    if config.registers > 0
        && let Some(positions) = tensors.get_mut("pos_embed")
    {
        let mut values = vec![0f32; config.width];
        values.extend(positions.iter::<f32>());
        let places = values.len() / config.width;
        *positions = TensorData::new(values, [1, places, config.width]);
    }
}

fn of_every_vit(config: &VitConfig) -> Value {
    json!({
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "image_size": config.image_px,
        "patch_size": config.patch_px,
        "num_channels": 3,
        "qkv_bias": true,
        "hidden_act": "gelu",
        // Their default of the ViT, 1e-12, would give other features.
        "layer_norm_eps": config.epsilon(),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
    })
}

fn vit(config: &VitConfig) -> Value {
    let mut made = of_every_vit(config);
    made["model_type"] = "vit".into();
    made["architectures"] = json!(["ViTModel"]);
    made["intermediate_size"] = (4 * config.width).into();
    made
}

fn dinov2(config: &VitConfig) -> Value {
    let mut made = of_every_vit(config);
    made["mlp_ratio"] = 4.into();
    made["use_swiglu_ffn"] = false.into();
    made["layerscale_value"] = config.layer_scale.into();
    made["drop_path_rate"] = 0.0.into();
    if config.registers > 0 {
        made["model_type"] = "dinov2_with_registers".into();
        made["architectures"] = json!(["Dinov2WithRegistersModel"]);
        made["num_register_tokens"] = config.registers.into();
    } else {
        made["model_type"] = "dinov2".into();
        made["architectures"] = json!(["Dinov2Model"]);
    }
    made
}

fn resnet(config: &ResNetConfig) -> Value {
    let (depths, layer, ratio) = match config.depth {
        18 => ([2, 2, 2, 2], "basic", 1),
        34 => ([3, 4, 6, 3], "basic", 1),
        50 => ([3, 4, 6, 3], "bottleneck", 4),
        _ => ([3, 4, 23, 3], "bottleneck", 4),
    };
    let widths = [1, 2, 4, 8].map(|times| times * config.width * ratio);
    json!({
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "num_channels": 3,
        "embedding_size": config.width,
        "hidden_sizes": widths,
        "depths": depths,
        "layer_type": layer,
        "hidden_act": "relu",
        "downsample_in_first_stage": false,
        "downsample_in_bottleneck": config.stride_in_1x1,
        "dtype": "float32",
    })
}
