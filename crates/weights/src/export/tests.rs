//! Encoder files read back, their names and types, and errors.

use std::io::Cursor;

use backbones::{Init, ResNetConfig, Stem};
use burn::tensor::{DType, Device, Shape};

use super::*;
use crate::format::TensorInfo;
use crate::{Checkpoint, ImportOptions, load_state_dict, read_encoder};

fn read(bytes: &[u8]) -> Result<(Backbone, EncoderInfo), WeightsError> {
    read_encoder(
        &mut Cursor::new(bytes),
        &ImportOptions::default(),
        &Device::flex(),
    )
}

fn info(depth: u32) -> EncoderInfo {
    EncoderInfo {
        architecture: BackboneConfig::Resnet(ResNetConfig {
            depth,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: false,
        }),
        method: "moco_v2".to_owned(),
        fingerprint: "00ff".to_owned(),
        licenses: serde_json::from_value(serde_json::json!({ "CC BY 2.0": 3 })).unwrap(),
        pixels: 28,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        steps: 1234,
        extra: BTreeMap::from([("commit".to_owned(), "abc \"quoted\"".to_owned())]),
    }
}

fn network(depth: u32) -> Backbone {
    info(depth).architecture.init(&Init::new(7, &Device::flex()))
}

#[test]
fn an_encoder_file_reads_back_exactly() {
    let backbone = network(50);
    let bytes = encoder_to_safetensors(&backbone, &info(50));
    assert_eq!(
        bytes,
        encoder_to_safetensors(&backbone, &info(50)),
        "same input, other bytes"
    );
    let (read, about) = read(&bytes).unwrap();
    assert_eq!(about, info(50));
    assert_eq!(state_dict(&read), state_dict(&backbone));
}

#[test]
fn names_and_counts_are_torchvisions() {
    let bytes = encoder_to_safetensors(&network(50), &info(50));
    let mut source = Cursor::new(&bytes);
    let file = Checkpoint::open(&mut source).unwrap();
    let mut read = |(name, tensor): (String, &TensorInfo)| (name, tensor.read(&mut source).unwrap());
    let tensors = file
        .tensors()
        .into_iter()
        .map(&mut read)
        .collect::<BTreeMap<_, _>>();
    let bn = "layer1.0.downsample.1";
    for name in [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ] {
        assert!(tensors.contains_key(&format!("{bn}.{name}")), "{name}");
    }
    assert!(tensors.contains_key("layer3.5.conv3.weight"));
    // ResNet-50 has 53 convolutions and 53 norms of five tensors each; its classifier is excluded.
    assert_eq!(tensors.len(), 53 + 53 * 5);
    let count = &tensors["bn1.num_batches_tracked"];
    assert_eq!(
        (count.shape().len(), count.as_slice::<i64>().unwrap()),
        (0, &[1234][..])
    );
}

#[test]
fn other_float_types_become_f32() {
    use burn::tensor::{bf16, f16};
    let backbone = network(18);
    let exact = state_dict(&backbone);
    let converted = |make: fn(Vec<f32>, Shape) -> TensorData, error: f32| {
        let convert = |(name, data): (&String, &TensorData)| {
            let values = data.iter::<f32>().collect();
            (name.clone(), make(values, data.shape().clone()))
        };
        let loaded = load_state_dict(network(18), exact.iter().map(convert).collect()).unwrap();
        for (name, data) in state_dict(&loaded) {
            assert_eq!(data.dtype(), DType::F32, "{name}");
            for (a, b) in data.iter::<f32>().zip(exact[&name].iter::<f32>()) {
                assert!((a - b).abs() <= error * b.abs() + 1e-7, "{name}: {a} {b}");
            }
        }
    };
    converted(
        |v, s| TensorData::new(v.into_iter().map(f64::from).collect::<Vec<_>>(), s),
        0.0,
    );
    converted(
        |v, s| TensorData::new(v.into_iter().map(f16::from_f32).collect::<Vec<_>>(), s),
        1e-3,
    );
    converted(
        |v, s| TensorData::new(v.into_iter().map(bf16::from_f32).collect::<Vec<_>>(), s),
        8e-3,
    );
}

#[test]
fn what_does_not_fit_is_listed() {
    let mut tensors = state_dict(&network(18));
    let moved = tensors.remove("layer1.0.conv1.weight").unwrap();
    tensors.insert("layer1.0.conv_1.weight".to_owned(), moved);
    tensors.insert("bn1.bias".to_owned(), TensorData::new(vec![0.0f32; 3], [3]));
    let error = load_state_dict(network(18), tensors).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 missing: layer1.0.conv1.weight; 1 unexpected: \
         layer1.0.conv_1.weight (near layer1.0.conv1.weight); 1 of another shape: bn1.bias (expected [4], got [3])"
    );
    let error = load_state_dict(network(50), state_dict(&network(18))).unwrap_err();
    assert!(error.to_string().contains(" and "), "{error}");
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let refused = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    let bytes = encoder_to_safetensors(&network(18), &info(18));
    assert!(refused(&bytes[..bytes.len() - 1]).contains("the file has"));
    assert!(refused(b"").starts_with("neither a PyTorch checkpoint (zip or legacy) nor a safetensors file"));
    let values = [0; 4];
    let view = TensorView::new(Dtype::F32, vec![1], &values).unwrap();
    let plain = safetensors::serialize([("a", view)], None).unwrap();
    assert!(refused(&plain).starts_with("no known layout matches this file: it holds 1 tensors: a"));

    let mut wrong = info(18);
    wrong.architecture = info(34).architecture;
    let bytes = encoder_to_safetensors(&network(18), &wrong);
    assert!(refused(&bytes).contains("missing"));
}
