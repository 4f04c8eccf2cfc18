//! The weights that a detector starts with, by torchvision's names.

use crate::error::Error;
use crate::finetune::Start;
use backbones::{BackboneConfig, ResNetConfig, state_dict};
use burn::tensor::TensorData;
use detection::rcnn::{Norm, RcnnConfig};
use std::collections::BTreeMap;
use training::LoadedEncoder;

/// The weights of what a run starts from; layers without one have initial weights.
///
/// # Errors
/// An encoder of another network, and frozen layers without weights.
pub(super) fn weights(
    start: &Start<'_>,
    network: &RcnnConfig,
) -> Result<BTreeMap<String, TensorData>, Error> {
    match start {
        Start::Scratch => {
            check_scratch(network).map_err(Error::Config)?;
            Ok(BTreeMap::new())
        }
        Start::Encoder(encoder) => of_encoder(encoder, network),
        Start::Detector(detector) => Ok(detector.weights.clone()),
    }
}

fn of_encoder(encoder: &LoadedEncoder, network: &RcnnConfig) -> Result<BTreeMap<String, TensorData>, Error> {
    let wanted = BackboneConfig::Resnet(network.backbone.clone());
    let BackboneConfig::Resnet(own) = &encoder.info.architecture else {
        return Err(Error::Config(format!(
            "`detection.network.backbone` is {}, and the encoder {}: detectors are built on ResNets so far",
            wanted.name(),
            encoder.info.architecture.name()
        )));
    };
    // How residual branches start says nothing of a trained network.
    let wanted = &network.backbone;
    let of = |config: &ResNetConfig| (config.depth, config.width, config.stem, config.stride_in_1x1);
    let same = of(own) == of(wanted);
    if !same {
        return Err(Error::Config(format!(
            "`detection.network.backbone` is depth {}, width {}, stem {:?}, stride_in_1x1 {}, and the encoder has {}, {}, {:?}, {}",
            wanted.depth,
            wanted.width,
            wanted.stem,
            wanted.stride_in_1x1,
            own.depth,
            own.width,
            own.stem,
            own.stride_in_1x1
        )));
    }
    let named = state_dict(&encoder.backbone).into_iter();
    Ok(named
        .map(|(name, values)| (format!("backbone.body.{name}"), values))
        .collect())
}

/// Why a network cannot start from initial weights: what never learns must have learned before.
pub(super) fn check_scratch(network: &RcnnConfig) -> Result<(), String> {
    let needs = |key: &str, got: &str, instead: &str| {
        Err(format!(
            "`detection.network.{key}` must be {instead} to start from initial weights, got {got}: what is frozen never learns"
        ))
    };
    if network.backbone_norm == Norm::Frozen {
        return needs("backbone_norm", "\"frozen\"", "\"trained\" or \"synchronized\"");
    }
    match network.frozen_stages {
        0 => Ok(()),
        stages => needs("frozen_stages", &stages.to_string(), "0"),
    }
}
