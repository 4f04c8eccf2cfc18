//! Clipping of gradient norms.

use super::rows::{add_squares, rows};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Clipping of large gradients. TOML: `clip_gradients = { global_norm = 1.0 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClipConfig {
    /// All gradients scaled together so that their norm is at most this: `torch.nn.utils.clip_grad_norm_`.
    GlobalNorm(f64),
    /// Each parameter's gradient scaled separately. DINO: 3.0.
    PerParameterNorm(f64),
}

impl ClipConfig {
    /// Gives an error for norms of 0 or less.
    pub fn validate(&self) -> Result<(), String> {
        let (Self::GlobalNorm(norm) | Self::PerParameterNorm(norm)) = self;
        if norm.is_finite() && *norm > 0.0 {
            return Ok(());
        }
        Err(format!(
            "`training.clip_gradients` must be finite and above 0, got {norm}"
        ))
    }
}

/// How gradients are scaled in one step.
// One value per step, so its size does not matter.
#[allow(clippy::large_enum_variant)]
pub(super) enum Clip {
    None,
    /// One factor for all, `[1, 1]`.
    Together(Tensor<2>),
    Each(f64),
}

impl Clip {
    pub(super) fn new<M: Module>(config: Option<ClipConfig>, module: &M, grads: &GradientsParams) -> Self {
        match config {
            None => Self::None,
            Some(ClipConfig::PerParameterNorm(largest)) => Self::Each(largest),
            Some(ClipConfig::GlobalNorm(largest)) => match squares(module, grads) {
                Some(squares) => Self::Together(kernels::clip_factor(squares, largest).reshape([1, 1])),
                None => Self::None,
            },
        }
    }

    pub(super) fn apply(&self, gradient: Tensor<2>) -> Tensor<2> {
        match self {
            Self::None => gradient,
            Self::Together(factor) => gradient * factor.clone(),
            Self::Each(largest) => kernels::clip_to_norm(gradient, *largest),
        }
    }
}

/// The norm of all gradients together, `[1]`; `None` without gradients.
pub(crate) fn gradient_norm<M: Module>(module: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
    squares(module, grads).map(Tensor::sqrt)
}

/// The sum of the squares of all gradients, `[1]`; `None` without gradients.
fn squares<M: Module>(module: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
    let mut squares = Squares { grads, total: None };
    module.visit(&mut squares);
    squares.total
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    total: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.grads.get::<D>(param.id) {
            let gradient = rows(gradient.without_autodiff());
            self.total = Some(add_squares(self.total.take(), gradient));
        }
    }
}
