//! A learned factor for each channel of a residual branch.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::{Init, trained};
use crate::probe::look;

/// Multiplies each channel by a factor that starts near zero, so that a deep network starts as the identity.
///
/// Touvron et al., *Going deeper with image transformers*, 2021, eq. 4. DINOv2 starts at 1e-5.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// The factors, `[channels]`.
    pub gamma: Param<Tensor<1>>,
}

impl LayerScale {
    /// All factors at `value`.
    pub fn new(init: &Init, channels: usize, value: f64) -> Self {
        Self {
            gamma: trained(init.at("gamma").ones([channels]) * value),
        }
    }

    /// `[…, channels]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        look(self.gamma.id, x * self.gamma.val().reshape([1, 1, -1]))
    }
}
