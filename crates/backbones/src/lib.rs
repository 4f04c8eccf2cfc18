//! Image tensor in, features out: residual networks, the layers that all networks are made of, initial weights, and
//! weights in and out of memory.
//!
//! This crate does no I/O, reads no clock and never touches the device's random generator: initial weights come from
//! [`Init`], and later draws reach a `forward` through its [`Context`].
//!
//! To add a network: one file beside `resnet.rs`, its `mod` line, and a variant with its arms below.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]
#![recursion_limit = "256"]

pub mod context;
pub mod init;
pub mod layers;
pub mod parameters;
#[cfg(test)]
mod parity;
pub mod resnet;
pub mod teacher;
pub mod weights;

pub use context::{Context, Draws, Progress, Replicas};
pub use init::Init;
pub use parameters::{Parameter, change_value, parameters};
pub use resnet::{ResNet, ResNetConfig, Stem};
pub use teacher::{ema, independent_copy};
pub use weights::{
    EncoderInfo, WeightsError, encoder_from_safetensors, encoder_to_safetensors, load_state_dict, state_dict,
};

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which network, as `[backbone.NAME]` in a config file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneConfig {
    /// A residual network.
    Resnet(ResNetConfig),
}

impl BackboneConfig {
    /// Whether such a network exists; the message names the field. Call it when a config is read: the other methods
    /// panic on what it refuses.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Resnet(config) => config.validate(),
        }
    }

    /// The network with its reference's initial weights.
    pub fn init(&self, init: &Init) -> Backbone {
        match self {
            Self::Resnet(config) => Backbone::ResNet(config.init(init)),
        }
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        match self {
            Self::Resnet(config) => config.features(),
        }
    }

    /// The usual name, for logs and tables: `resnet18`, or `resnet18-w16-small` where width or stem differ from
    /// torchvision's.
    pub fn name(&self) -> String {
        match self {
            Self::Resnet(config) => config.name(),
        }
    }
}

/// A network from images to features.
#[derive(Module, Debug)]
pub enum Backbone {
    /// A residual network.
    ResNet(ResNet),
}

impl Backbone {
    /// Pooled features of normalised images.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, features]`, in f32
    pub fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        match self {
            Self::ResNet(network) => network.forward(images, context),
        }
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        match self {
            Self::ResNet(network) => network.features(),
        }
    }
}
