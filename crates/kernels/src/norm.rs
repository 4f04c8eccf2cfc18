//! Sums of squares, and clipping by norm: of gradients and weights, outside autodiff.

use burn::tensor::{FloatDType, Tensor};

#[cfg(feature = "cube")]
use crate::{backend::gpu::norms::NormsBackend, updated_on_gpu};
#[cfg(feature = "cube")]
use burn::backend::Dispatch;

/// `Σ x²`, `[1]` in f32, outside autodiff. The same bits in each run.
///
/// # Shapes
/// - `x`: `[rows, columns]`
pub fn squares(x: Tensor<2>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if updated_on_gpu(&[&x]) {
        return Tensor::from_dispatch(<Dispatch as NormsBackend>::squares(x.into_dispatch()));
    }
    composed(x)
}

/// `total + Σ x²`, `[1]` in f32, outside autodiff: for sums over many tensors.
///
/// # Shapes
/// - `total`: `[1]`, in f32
/// - `x`: `[rows, columns]`
pub fn add_squares(total: Tensor<1>, x: Tensor<2>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if updated_on_gpu(&[&x]) && updated_on_gpu(&[&total]) {
        let (total, x) = (total.into_dispatch(), x.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as NormsBackend>::add_squares(total, x));
    }
    total + composed(x)
}

/// `total + Σ (a − b)²`, `[1]` in f32, outside autodiff.
///
/// # Shapes
/// - `total`: `[1]`, in f32
/// - `a`, `b`: `[rows, columns]`
pub fn add_squared_distance(total: Tensor<1>, a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if updated_on_gpu(&[&a, &b]) && updated_on_gpu(&[&total]) {
        let (total, a, b) = (total.into_dispatch(), a.into_dispatch(), b.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as NormsBackend>::add_squared_distance(total, a, b));
    }
    total + composed(a - b)
}

/// `x · min(1, largest / (‖x‖ + 1e-6))`, outside autodiff: `torch.nn.utils.clip_grad_norm_` of one tensor.
///
/// # Shapes
/// - `x` and output: `[rows, columns]`
pub fn clip_to_norm(x: Tensor<2>, largest: f64) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if updated_on_gpu(&[&x]) {
        return Tensor::from_dispatch(<Dispatch as NormsBackend>::clip_to_norm(
            x.into_dispatch(),
            largest,
        ));
    }
    let factor = clip_factor(squares(x.clone()), largest);
    x * factor.reshape([1, 1])
}

/// `min(1, largest / (√squares + 1e-6))`, `[1]`: PyTorch's and DINO's factor, from a sum of squares, `[1]`.
pub fn clip_factor(squares: Tensor<1>, largest: f64) -> Tensor<1> {
    (squares.sqrt() + 1e-6).recip().mul_scalar(largest).clamp_max(1.0)
}

/// Summed by dimension, because sums over a whole large tensor differ from run to run on `flex`.
fn composed(x: Tensor<2>) -> Tensor<1> {
    x.cast(FloatDType::F32)
        .powi_scalar(2)
        .sum_dim(1)
        .sum_dim(0)
        .reshape([1])
}
