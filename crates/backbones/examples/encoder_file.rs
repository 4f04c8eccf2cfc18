//! Writes a random encoder and its features for `scripts/parity/encoder_roundtrip.py`:
//! `encoder_file DEPTH ENCODER.safetensors FEATURES.safetensors`.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use backbones::{
    BackboneConfig, Context, Draws, EncoderInfo, Init, Progress, ResNetConfig, Stem, encoder_to_safetensors,
};
use burn::tensor::{Device, Distribution, Tensor};
use safetensors::tensor::{Dtype, TensorView};

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let architecture = BackboneConfig::Resnet(ResNetConfig {
        depth: arguments[0].parse().unwrap(),
        width: 64,
        stem: Stem::Imagenet,
    });
    let device = Device::flex();
    let backbone = architecture.init(&Init::new(0, &device));
    let images = Tensor::<4>::random([4, 3, 64, 64], Distribution::Normal(0.0, 1.0), &device);
    // A few training passes, so that running statistics are not those of an untouched network.
    for step in 0..3 {
        let progress = Progress {
            step,
            steps_per_epoch: 1,
            steps: 3,
        };
        backbone.forward(
            images.clone(),
            &Context::training(progress, Draws::new(0, step as u64)),
        );
    }
    let info = EncoderInfo {
        architecture,
        method: "random".to_owned(),
        fingerprint: String::new(),
        licences: String::new(),
        pixels: 64,
        mean: [0.0; 3],
        std: [1.0; 3],
        steps: 3,
        extra: BTreeMap::new(),
    };
    std::fs::write(&arguments[1], encoder_to_safetensors(&backbone, &info)).unwrap();

    let features = backbone
        .forward(images.clone(), &Context::evaluation())
        .into_data();
    let images = images.into_data();
    let views = HashMap::from([("images", &images), ("features", &features)])
        .into_iter()
        .map(|(name, data)| {
            let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
            (name, view.unwrap())
        });
    std::fs::write(&arguments[2], safetensors::serialize(views, None).unwrap()).unwrap();
}
