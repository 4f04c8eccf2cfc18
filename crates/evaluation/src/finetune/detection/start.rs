//! The weights that a detector starts with, by torchvision's names.

use crate::error::Error;
use crate::finetune::Start;
use backbones::{BackboneConfig, ResNetConfig, VitConfig, state_dict};
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
    let (own, wanted) = (&encoder.info.architecture, &network.backbone);
    let body = match (own, wanted) {
        (BackboneConfig::Resnet(own), BackboneConfig::Resnet(wanted)) => {
            check_resnet(own, wanted)?;
            "backbone.body"
        }
        (BackboneConfig::Vit(own), BackboneConfig::Vit(wanted)) => {
            check_vit(own, wanted)?;
            "backbone.vit.body"
        }
        _ => {
            return Err(Error::Config(format!(
                "`detection.network.backbone` is {}, and the encoder {}: write the encoder's keys there, of a vision transformer \
                 below `detection.network.backbone.vit`",
                wanted.name(),
                own.name()
            )));
        }
    };
    let named = state_dict(&encoder.backbone).into_iter();
    Ok(named
        .map(|(name, values)| (format!("{body}.{name}"), values))
        .collect())
}

fn check_resnet(own: &ResNetConfig, wanted: &ResNetConfig) -> Result<(), Error> {
    // How residual branches start says nothing of a trained network.
    let of = |config: &ResNetConfig| (config.depth, config.width, config.stem, config.stride_in_1x1);
    if of(own) == of(wanted) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "`detection.network.backbone` is depth {}, width {}, stem {:?}, stride_in_1x1 {}, and the encoder has {}, {}, {:?}, {}",
        wanted.depth,
        wanted.width,
        wanted.stem,
        wanted.stride_in_1x1,
        own.depth,
        own.width,
        own.stem,
        own.stride_in_1x1
    )))
}

/// The first key of a transformer that changes what its weights mean.
fn check_vit(own: &VitConfig, wanted: &VitConfig) -> Result<(), Error> {
    let of = |config: &VitConfig| {
        [
            ("width", config.width.to_string()),
            ("depth", config.depth.to_string()),
            ("heads", config.heads.to_string()),
            ("patch_px", config.patch_px.to_string()),
            ("image_px", config.image_px.to_string()),
            ("registers", config.registers.to_string()),
            (
                "position",
                serde_json::to_string(&config.position).unwrap_or_default(),
            ),
            (
                "layer_scale",
                if config.layer_scale.is_some() {
                    "set"
                } else {
                    "left out"
                }
                .to_owned(),
            ),
            ("norm_epsilon", format!("{:e}", config.epsilon())),
        ]
    };
    let pairs = of(own).into_iter().zip(of(wanted));
    match pairs.into_iter().find(|((_, own), (_, wanted))| own != wanted) {
        None => Ok(()),
        Some(((key, own), (_, wanted))) => Err(Error::Config(format!(
            "`detection.network.backbone.vit.{key}` must be {own}, as in the encoder, got {wanted}"
        ))),
    }
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
