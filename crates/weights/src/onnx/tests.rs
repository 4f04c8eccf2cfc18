//! ONNX files read back and computed in f64 by a small interpreter of ONNX's operators, which knows nothing of the networks.

pub(crate) mod interpreter;

use backbones::vit::Pooling;
use backbones::{Backbone, BackboneConfig, Context, Init, ResNetConfig, Stem, VitConfig, replace_state};
use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::folder::{Target, export_folder};
use crate::format::{OnnxGraph, OnnxInput};
use interpreter::Value;

/// ‖graph − network‖ / ‖network‖, where the network computes in f32 and the graph in f64.
const BOUND: f64 = 1e-5;

/// A network in which no tensor is as it was initialized, so that each counts.
pub(crate) fn network(architecture: &BackboneConfig) -> Backbone {
    let backbone = architecture.init(&Init::new(0, &Device::flex()));
    let mut tensors = state_dict(&backbone);
    for (number, (name, data)) in tensors.iter_mut().enumerate() {
        let wave = |at: usize| ((at * 7 + number * 13) as f32 * 0.37).sin();
        let initial = data.iter::<f32>().collect::<Vec<_>>();
        let changed = initial.iter().enumerate().map(|(at, value)| match name {
            name if name.ends_with("running_var") => 0.6 + 0.4 * wave(at),
            _ => value + 0.1 * wave(at),
        });
        *data = TensorData::new(changed.collect::<Vec<_>>(), data.shape().clone());
    }
    replace_state(backbone, tensors)
}

pub(crate) fn info(architecture: BackboneConfig, pixels: usize) -> EncoderInfo {
    EncoderInfo {
        architecture,
        method: "dino".to_owned(),
        fingerprint: "f00d".to_owned(),
        licenses: serde_json::from_str("\"CC BY 4.0: 3; CC0: 1\"").unwrap(),
        pixels,
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.25, 0.3],
        steps: 7,
        extra: BTreeMap::new(),
    }
}

pub(crate) fn resnet(depth: u32, stem: Stem) -> BackboneConfig {
    BackboneConfig::Resnet(ResNetConfig {
        depth,
        width: 4,
        stem,
        zero_init_residual: false,
        stride_in_1x1: false,
    })
}

/// A network with bottlenecks as Caffe has them.
pub(crate) fn with_strides_in_1x1() -> BackboneConfig {
    BackboneConfig::Resnet(ResNetConfig {
        depth: 50,
        width: 4,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: true,
    })
}

pub(crate) fn vit(change: impl FnOnce(&mut VitConfig)) -> BackboneConfig {
    let mut config = VitConfig::tiny_for_tests();
    change(&mut config);
    BackboneConfig::Vit(config)
}

/// Every part that a network may have.
pub(crate) fn networks() -> Vec<BackboneConfig> {
    vec![
        resnet(18, Stem::Imagenet),
        resnet(34, Stem::Small),
        resnet(50, Stem::Imagenet),
        with_strides_in_1x1(),
        vit(|_| {}),
        vit(|config| config.norm_epsilon = Some(1e-2)),
        vit(|config| config.pooling = Pooling::Mean),
        vit(|config| config.pooling = Pooling::MeanThenNorm),
        vit(|config| config.registers = 3),
        vit(|config| config.layer_scale = Some(0.3)),
        vit(|config| {
            (config.registers, config.layer_scale, config.pooling) = (4, Some(0.3), Pooling::Mean);
        }),
    ]
}

fn images(count: usize, side: usize) -> Vec<f32> {
    let wave = |at: usize| 0.5 + 0.5 * (at as f32 * 0.618).sin();
    (0..count * 3 * side * side).map(wave).collect()
}

fn normalized(images: &[f32], side: usize, info: &EncoderInfo) -> Vec<f32> {
    let channel = |at: usize| at / (side * side) % 3;
    let values = images.iter().enumerate();
    values
        .map(|(at, value)| (value - info.mean[channel(at)]) / info.std[channel(at)])
        .collect()
}

fn error(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |of: &dyn Fn(usize) -> f64| (0..ours.len()).map(|at| of(at).powi(2)).sum::<f64>().sqrt();
    norm(&|at| ours[at] - theirs[at]) / norm(&|at| theirs[at])
}

/// What the network computes: its features, and all tokens but the registers.
fn of_network(backbone: &Backbone, images: Vec<f32>, count: usize, side: usize) -> (Vec<f64>, Vec<f64>) {
    let images = Tensor::<4>::from_data(TensorData::new(images, [count, 3, side, side]), &Device::flex());
    let context = Context::evaluation();
    let list = |data: TensorData| data.iter::<f64>().collect::<Vec<_>>();
    let features = list(backbone.forward(images.clone(), &context).into_data());
    let tokens = backbone.as_vit().map_or(vec![], |network| {
        let tokens = network.tokens(images, None, &context);
        let class = tokens.class.unsqueeze_dim::<3>(1);
        list(Tensor::cat(vec![class, tokens.patches], 1).into_data())
    });
    (features, tokens)
}

fn run(bytes: &[u8], images: &[f32], count: usize, side: usize) -> BTreeMap<String, Value> {
    let images = images.iter().map(|value| f64::from(*value)).collect();
    interpreter::run(bytes, Value::new(vec![count, 3, side, side], images))
}

#[test]
fn the_graph_computes_what_the_network_computes() {
    for architecture in networks() {
        let (backbone, side) = (network(&architecture), 16);
        let info = info(architecture.clone(), side);
        let bytes = encoder_to_onnx(&backbone, &info, OnnxOptions::default()).unwrap();
        for count in [1, 3] {
            let images = images(count, side);
            let (features, tokens) = of_network(&backbone, images.clone(), count, side);
            let outputs = run(&bytes, &images, count, side);
            let of_features = error(&outputs[ONNX_EMBEDDING].values, &features);
            assert!(of_features < BOUND, "{architecture:?}: {of_features:e}");
            let BackboneConfig::Vit(config) = &architecture else {
                assert!(!outputs.contains_key(ONNX_TOKENS));
                continue;
            };
            let all = &outputs[ONNX_TOKENS];
            assert_eq!(all.shape, [count, 17 + config.registers, 8]);
            let of_image = all.values.chunks_exact(all.shape[1] * 8).flat_map(|tokens| {
                let (class, rest) = tokens.split_at(8);
                class
                    .iter()
                    .chain(&rest[config.registers * 8..])
                    .copied()
                    .collect::<Vec<_>>()
            });
            let of_tokens = error(&of_image.collect::<Vec<_>>(), &tokens);
            assert!(of_tokens < BOUND, "{architecture:?}: {of_tokens:e}");
        }
    }
}

#[test]
fn normalization_goes_into_the_graph() {
    for architecture in [resnet(18, Stem::Small), vit(|_| {})] {
        let backbone = network(&architecture);
        let info = info(architecture, 16);
        let images = images(2, 16);
        let inside = OnnxOptions {
            normalization: Normalization::Inside,
            ..OnnxOptions::default()
        };
        let bytes = encoder_to_onnx(&backbone, &info, inside).unwrap();
        let (features, _) = of_network(&backbone, normalized(&images, 16, &info), 2, 16);
        let off = error(&run(&bytes, &images, 2, 16)[ONNX_EMBEDDING].values, &features);
        assert!(off < BOUND, "{off:e}");
    }
}

#[test]
fn halves_take_half_the_file_and_keep_three_digits() {
    for architecture in [resnet(50, Stem::Imagenet), vit(|config| config.registers = 2)] {
        let backbone = network(&architecture);
        let info = info(architecture, 16);
        let options = OnnxOptions {
            float: OnnxFloat::F16,
            normalization: Normalization::Inside,
        };
        let bytes = encoder_to_onnx(&backbone, &info, options).unwrap();
        let whole = encoder_to_onnx(&backbone, &info, OnnxOptions::default()).unwrap();
        assert!(bytes.len() < whole.len());
        let images = images(2, 16);
        let (features, _) = of_network(&backbone, normalized(&images, 16, &info), 2, 16);
        // The interpreter computes in f64: only the weights are rounded.
        let off = error(&run(&bytes, &images, 2, 16)[ONNX_EMBEDDING].values, &features);
        assert!(off > 1e-6 && off < 1e-2, "{off:e}");
    }
    let architecture = vit(|_| {});
    let mut tensors = state_dict(&network(&architecture));
    let width = TensorData::new(vec![70_000f32; 8], [8]);
    tensors.insert("blocks.1.norm2.bias".to_owned(), width);
    let large = replace_state(network(&architecture), tensors);
    let halves = OnnxOptions {
        float: OnnxFloat::F16,
        ..OnnxOptions::default()
    };
    let refused = encoder_to_onnx(&large, &info(architecture, 16), halves).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`blocks.1.norm2.bias` has numbers above 65,504, the largest of f16"
    );
}

#[test]
fn the_file_says_what_it_is_and_is_the_same_each_time() {
    let architecture = vit(|config| config.registers = 1);
    let backbone = network(&architecture);
    let info = info(architecture, 16);
    let bytes = encoder_to_onnx(&backbone, &info, OnnxOptions::default()).unwrap();
    assert_eq!(
        bytes,
        encoder_to_onnx(&backbone, &info, OnnxOptions::default()).unwrap()
    );
    let model = ModelProto::decode(bytes.as_slice()).unwrap();
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    let about = model.metadata_props.iter();
    let about = about
        .map(|entry| (entry.key.as_str(), entry.value.as_str()))
        .collect::<BTreeMap<_, _>>();
    assert_eq!(about["mean"], "[0.5,0.4,0.3]");
    assert_eq!(about["std"], "[0.2,0.25,0.3]");
    assert_eq!(about["fingerprint"], "f00d");
    assert_eq!(about["licenses"], "CC BY 4.0: 3; CC0: 1");
    assert_eq!((about["image_px"], about["normalization"]), ("16", "outside"));
    let read = OnnxGraph::read(&mut bytes.as_slice()).unwrap();
    let input = OnnxInput {
        name: "images".to_owned(),
        shape: Some(vec![None, Some(3), Some(16), Some(16)]),
    };
    assert_eq!(
        (read.inputs, read.outputs),
        (vec![input], vec!["embedding".to_owned(), "tokens".to_owned()])
    );
}

#[test]
fn another_image_size_has_the_networks_own_positions() {
    let architecture = vit(|config| config.interpolation = backbones::vit::Interpolation::Offset);
    let backbone = network(&architecture);
    let info = info(architecture, 16);
    let target = Target::Onnx(OnnxOptions::default());
    let folder = export_folder(&backbone, &info, target, Some(24)).unwrap();
    let images = images(2, 24);
    let (features, _) = of_network(&backbone, images.clone(), 2, 24);
    let outputs = run(&folder.files["model.onnx"], &images, 2, 24);
    let off = error(&outputs[ONNX_EMBEDDING].values, &features);
    assert!(off < BOUND, "{off:e}");
    let refused = export_folder(&backbone, &info, target, Some(18)).unwrap_err();
    assert!(refused.to_string().contains("cannot be cut into patches of 4 px"));
}

#[test]
fn more_than_two_gib_is_refused() {
    assert!(check_numbers((1 << 29) - 1, false).is_ok());
    let refused = check_numbers(1 << 29, false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "an ONNX file must be smaller than 2 GiB, got 2.0 GiB; weights in files beside it are not written"
    );
    assert_eq!(refused.hint(), Some(Hint::ExportHalves));
    assert!(check_numbers(1 << 29, true).is_ok());
    assert_eq!(check_numbers(1 << 31, true).unwrap_err().hint(), None);
}
