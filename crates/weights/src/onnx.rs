//! A network as an ONNX file: its config and weights in, the file's bytes out.
//!
//! The graph is written from the network's own description, not traced. Opset 17 (the first with
//! `LayerNormalization`) and IR version 8 are read by every runtime since 2022. The batch is open; a ResNet's sides are
//! open too, a vision transformer's image has one size. Batch normalization is folded into the convolution before it.

mod graph;
mod resnet;
#[cfg(test)]
pub(crate) mod tests;
mod vit;

use std::collections::BTreeMap;

use backbones::{Backbone, BackboneConfig, state_dict};
use burn::tensor::TensorData;
use prost::Message;

use crate::encoder_info::EncoderInfo;
use crate::error::WeightsError;
use crate::format::messages::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::hint::Hint;
use graph::{Graph, Size};

/// The graph's input: images of red, green and blue, `[batch, 3, height, width]`, f32.
pub const ONNX_INPUT: &str = "images";
/// The output of every network: pooled features, `[batch, features]`, f32.
pub const ONNX_EMBEDDING: &str = "embedding";
/// The output of vision transformers alone: the last block's tokens after the last norm, class token, registers and
/// patches row by row, `[batch, tokens, width]`, f32.
pub const ONNX_TOKENS: &str = "tokens";

/// Version of the operators.
const OPSET: i64 = 17;
/// Version of the file format.
const IR_VERSION: i64 = 8;
/// A message of protobuf is shorter than 2 GiB; what is larger needs files beside it.
const MAX_BYTES: usize = i32::MAX as usize;

/// How an ONNX file computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// The type of weights and computation; images and outputs are f32 in any case.
    pub float: OnnxFloat,
    /// Whether the graph normalizes the images.
    pub normalization: Normalization,
}

/// Floats of an ONNX file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxFloat {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: half the file, and about three digits.
    F16,
}

/// Where images are normalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalization {
    /// By the caller: the graph takes images from which the mean is subtracted and which are divided by the deviation, as
    /// timm's and Transformers' networks do.
    #[default]
    Outside,
    /// In the graph, which takes images from 0 to 1.
    Inside,
}

/// The bytes of an ONNX file. The same network, info and options give the same bytes.
///
/// # Errors
/// [`WeightsError::Export`] for more than 2 GiB, and for weights that f16 cannot hold.
pub fn encoder_to_onnx(
    backbone: &Backbone,
    info: &EncoderInfo,
    options: OnnxOptions,
) -> Result<Vec<u8>, WeightsError> {
    let tensors = state_dict(backbone);
    let half = options.float == OnnxFloat::F16;
    check_size(&tensors, half)?;
    let network = Tensors(tensors);
    let mut graph = Graph::new(half);
    let normalized = match options.normalization {
        Normalization::Outside => ONNX_INPUT.to_owned(),
        Normalization::Inside => graph.normalized(ONNX_INPUT, info.mean, info.std),
    };
    let images = graph.lowered(&normalized);
    let features = info.architecture.features();
    let sides = match &info.architecture {
        BackboneConfig::Resnet(config) => {
            resnet::write(&mut graph, config, &network, &images);
            [Size::Open("height"), Size::Open("width")]
        }
        BackboneConfig::Vit(config) => {
            vit::write(&mut graph, config, &network, &images);
            [Size::Of(config.image_px); 2]
        }
    };
    graph.output(ONNX_EMBEDDING, &[Size::Open("batch"), Size::Of(features)]);
    if let BackboneConfig::Vit(config) = &info.architecture {
        let patches = (config.image_px / config.patch_px).pow(2);
        let tokens = 1 + config.registers + patches;
        graph.output(
            ONNX_TOKENS,
            &[Size::Open("batch"), Size::Of(tokens), Size::Of(config.width)],
        );
    }
    let [height, width] = sides;
    let input = [Size::Open("batch"), Size::Of(3), height, width];
    let graph = graph.finish(info.architecture.name(), ONNX_INPUT, &input)?;
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "passer".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: about(info, options)
            .into_iter()
            .map(|(key, value)| StringStringEntryProto {
                key: key.to_owned(),
                value,
            })
            .collect(),
    };
    if model.encoded_len() > MAX_BYTES {
        return Err(too_large(model.encoded_len(), half));
    }
    Ok(model.encode_to_vec())
}

/// A network's tensors by timm's or torchvision's names.
struct Tensors(BTreeMap<String, TensorData>);

impl Tensors {
    /// Shape and values. The names are those of a network of this config, so a missing one is a defect of this crate.
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let Some(data) = self.0.get(name) else {
            unreachable!("every network of this config has `{name}`")
        };
        (data.shape().to_vec(), data.iter::<f32>().collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// What the file says of itself, by key.
fn about(info: &EncoderInfo, options: OnnxOptions) -> BTreeMap<&'static str, String> {
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let (normalization, input) = match options.normalization {
        Normalization::Outside => (
            "outside",
            "RGB, (value from 0 to 1 - mean) / std for each channel",
        ),
        Normalization::Inside => ("inside", "RGB, values from 0 to 1"),
    };
    let images = crate::preparation::Preparation::of(info);
    let mut about = BTreeMap::from([
        ("architecture", json(serde_json::to_string(&info.architecture))),
        ("fingerprint", info.fingerprint.clone()),
        ("image_px", images.size_px.to_string()),
        ("image_resize", images.in_words()),
        ("input", input.to_owned()),
        ("licenses", info.licenses.to_string()),
        ("mean", json(serde_json::to_string(&info.mean))),
        ("method", info.method.clone()),
        ("normalization", normalization.to_owned()),
        ("std", json(serde_json::to_string(&info.std))),
    ]);
    // What it started from, whose licenses and people it inherits.
    if let Some(origin) = info.origin() {
        about.insert("origin", json(serde_json::to_string(&origin)));
    }
    about
}

/// Before memory is taken for the graph.
fn check_size(tensors: &BTreeMap<String, TensorData>, half: bool) -> Result<(), WeightsError> {
    let numbers = tensors
        .values()
        .map(|data| data.shape().iter().product::<usize>());
    check_numbers(numbers.sum(), half)
}

fn check_numbers(numbers: usize, half: bool) -> Result<(), WeightsError> {
    let bytes = numbers.saturating_mul(if half { 2 } else { 4 });
    if bytes > MAX_BYTES {
        return Err(too_large(bytes, half));
    }
    Ok(())
}

fn too_large(bytes: usize, half: bool) -> WeightsError {
    WeightsError::Export {
        reason: format!(
            "an ONNX file must be smaller than 2 GiB, got {:.1} GiB; weights in files beside it are not written",
            bytes as f64 / f64::from(1 << 30)
        ),
        hint: (!half && bytes / 2 <= MAX_BYTES).then_some(Hint::ExportHalves),
    }
}
