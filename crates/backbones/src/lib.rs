//! Image tensor in, features out: residual networks, vision transformers, the layers of all networks, and
//! their initial weights.
//!
//! This crate does no I/O, reads no clock and never touches the device's random generator: initial weights come from
//! [`Init`], and later draws reach a `forward` through its [`Context`].
//!
//! To add a network: one file next to `resnet.rs`, its `mod` line, and a variant with its arms below.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]
#![recursion_limit = "256"]

pub mod context;
pub mod draws;
pub mod fit;
pub mod init;
pub mod layers;
pub mod papers;
pub mod parameters;
#[cfg(test)]
mod parity;
pub mod precision;
pub mod probe;
pub mod replicas;
pub mod resnet;
pub mod state;
pub mod teacher;
pub mod vit;
#[cfg(test)]
#[path = "../../../scripts/parity/wave.rs"]
mod wave;

pub use context::{Context, RunPosition};
pub use draws::Draws;
pub use fit::{adaptations, fit_state};
pub use init::Init;
pub use papers::Paper;
pub use parameters::{Parameter, change_value, parameters};
pub use precision::Precision;
pub use replicas::Replicas;
pub use resnet::{ResNet, ResNetConfig, ResNetStage, Stem};
pub use state::{replace_matching, replace_state, state_dict};
pub use teacher::{ema, ema_with_statistics, independent_copy, relative_distance};
pub use vit::{Vit, VitConfig};

use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which network, as `[backbone.NAME]` in a config file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackboneConfig {
    /// A residual network.
    Resnet(ResNetConfig),
    /// A vision transformer.
    Vit(VitConfig),
}

impl From<ResNetConfig> for BackboneConfig {
    fn from(config: ResNetConfig) -> Self {
        Self::Resnet(config)
    }
}

impl From<VitConfig> for BackboneConfig {
    fn from(config: VitConfig) -> Self {
        Self::Vit(config)
    }
}

impl BackboneConfig {
    /// Checks that such a network exists; the message names the field. Call it when a config is read: the
    /// other methods panic on invalid configs.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Resnet(config) => config.validate("backbone.resnet"),
            Self::Vit(config) => config.validate("backbone.vit"),
        }
    }

    /// Checks that images of this height and width, in pixels, fit the network; the message states the fault.
    /// Call it before a forward pass, which panics on other sizes.
    pub fn check_input(&self, height: usize, width: usize) -> Result<(), String> {
        match self {
            // Padded convolutions accept any size.
            Self::Resnet(_) => Ok(()),
            Self::Vit(config) => config.check_input(height, width),
        }
    }

    /// The network with its reference's initial weights, or with those that `init`
    /// [starts from](Init::starting_from).
    pub fn init(&self, init: &Init) -> Backbone {
        let network = match self {
            Self::Resnet(config) => Backbone::ResNet(config.init(init)),
            Self::Vit(config) => Backbone::Vit(config.init(init)),
        };
        match init.start() {
            Some(tensors) => state::replace(network, |name| tensors.get(name).cloned()),
            None => network,
        }
    }

    /// The residual network, if it is one.
    pub fn as_resnet(&self) -> Option<&ResNetConfig> {
        match self {
            Self::Resnet(config) => Some(config),
            Self::Vit(_) => None,
        }
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        match self {
            Self::Resnet(config) => config.features(),
            Self::Vit(config) => config.features(),
        }
    }

    /// The approximate parameter count, within 10%. Allocates no memory.
    pub fn parameter_count(&self) -> f64 {
        match self {
            Self::Resnet(config) => config.parameter_count(),
            Self::Vit(config) => config.parameter_count(),
        }
    }

    /// The config key with the largest effect on [`Self::parameter_count`].
    pub fn size_key(&self) -> &'static str {
        match self {
            Self::Resnet(_) => "backbone.resnet.width",
            Self::Vit(config) => config.size_key(),
        }
    }

    /// The usual name, for logs and tables: `resnet18` or `vit_small_patch16`, and `resnet18-w16-small` or
    /// `vit-w64-d6-h4-p4` for networks without a usual name.
    pub fn name(&self) -> String {
        match self {
            Self::Resnet(config) => config.name(),
            Self::Vit(config) => config.name(),
        }
    }
}

/// A network from images to features.
// A run has two or three of these, each moved once or twice per step: the unused space of the smaller variant
// costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Backbone {
    /// A residual network.
    ResNet(ResNet),
    /// A vision transformer.
    Vit(Vit),
}

impl Backbone {
    /// Pooled features of normalized images.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, features]`, in f32
    pub fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        match self {
            Self::ResNet(network) => network.forward(images, context),
            Self::Vit(network) => network.forward(images, context),
        }
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        match self {
            Self::ResNet(network) => network.features(),
            Self::Vit(network) => network.features(),
        }
    }

    /// The residual network, for probes of its stages; `None` for others.
    pub fn as_resnet(&self) -> Option<&ResNet> {
        match self {
            Self::ResNet(network) => Some(network),
            Self::Vit(_) => None,
        }
    }

    /// The vision transformer, for methods that need its tokens; `None` for others.
    pub fn as_vit(&self) -> Option<&Vit> {
        match self {
            Self::ResNet(_) => None,
            Self::Vit(network) => Some(network),
        }
    }

    /// Checks that images of this height and width, in pixels, fit: [`BackboneConfig::check_input`] for an
    /// existing network.
    pub fn check_input(&self, height: usize, width: usize) -> Result<(), String> {
        match self {
            Self::ResNet(_) => Ok(()),
            Self::Vit(network) => network.check_input(height, width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::{Initialization, Interpolation, Pooling, Position};

    #[test]
    fn parameter_counts_are_estimated_within_a_tenth() {
        let resnet = |depth, width| {
            BackboneConfig::Resnet(ResNetConfig {
                depth,
                width,
                stem: Stem::Imagenet,
                zero_init_residual: false,
                stride_in_1x1: false,
            })
        };
        let vit = BackboneConfig::Vit(VitConfig {
            width: 192,
            depth: 12,
            heads: 3,
            patch_px: 16,
            image_px: 224,
            position: Position::Learned,
            interpolation: Interpolation::Antialiased,
            registers: 0,
            layer_scale: None,
            drop_path: 0.0,
            pooling: Pooling::ClassToken,
            initialization: Initialization::TruncatedNormal,
            norm_epsilon: None,
        });
        for config in [
            resnet(18, 64),
            resnet(34, 32),
            resnet(50, 128),
            resnet(101, 64),
            vit,
        ] {
            let network = config.init(&Init::empty(&burn::tensor::Device::flex()));
            let exact = parameters(&network)
                .iter()
                .map(|parameter| parameter.shape.iter().product::<usize>())
                .sum::<usize>() as f64;
            let ratio = config.parameter_count() / exact;
            assert!((0.9..1.1).contains(&ratio), "{}: {ratio}", config.name());
        }
    }
}
