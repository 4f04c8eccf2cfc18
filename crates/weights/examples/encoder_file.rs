//! Writes a random encoder and its features for `scripts/parity/encoder_roundtrip.py`:
//! `encoder_file NETWORK ENCODER.safetensors FEATURES.safetensors`, NETWORK a JSON file of the form of `[backbone]`
//! (`{"resnet": {"depth": 50, "width": 64, "stem": "imagenet"}}`).
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use backbones::{BackboneConfig, Context, Draws, Init, RunPosition};
use burn::tensor::{Device, Distribution, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use weights::{EncoderInfo, encoder_to_safetensors};

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let network = std::fs::read(&arguments[0]).unwrap();
    let architecture: BackboneConfig = serde_json::from_slice(&network).unwrap();
    architecture.validate().unwrap();
    let device = Device::flex();
    let backbone = architecture.init(&Init::new(0, &device));
    // Not square, and divisible into patches of 8, 14 and 16 px.
    let images = Tensor::<4>::random([4, 3, 112, 224], Distribution::Normal(0.0, 1.0), &device);
    // A few training passes, so that running statistics leave their initial values.
    for step in 0..3 {
        let progress = RunPosition::at(step, 1, 3);
        backbone.forward(
            images.clone(),
            &Context::training(progress, Draws::new(0, step as u64)),
        );
    }
    let info = EncoderInfo {
        architecture,
        method: "random".to_owned(),
        fingerprint: String::new(),
        licenses: Default::default(),
        pixels: 112,
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
