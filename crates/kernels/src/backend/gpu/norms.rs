//! Sums of squares and clipping by norm on GPUs as an extension of Burn's backends.

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use crate::gpu::norms;

/// The operations added to a backend, all in f32. None for autodiff: gradients are clipped outside it.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait NormsBackend: Backend {
    /// `Σ x²`, `[1]`.
    #[fusion(meta = |_x| one())]
    fn squares(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `total + Σ x²`, `[1]`.
    #[fusion(meta = |_total, _x| one())]
    fn add_squares(total: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `total + Σ (a − b)²`, `[1]`.
    #[fusion(meta = |_total, _a, _b| one())]
    fn add_squared_distance(
        total: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `x`, scaled so that its norm is at most `largest`.
    #[fusion(meta = |x, _largest| x.clone())]
    fn clip_to_norm(x: FloatTensor<Self>, largest: f64) -> FloatTensor<Self>;
}

/// A sum.
#[cfg(feature = "fusion")]
fn one() -> TensorSpec {
    TensorSpec::new([1].into(), burn::tensor::DType::F32)
}

impl NormsBackend for CubeBackend {
    fn squares(x: CubeTensor) -> CubeTensor {
        norms::squares(x, None, None)
    }

    fn add_squares(total: CubeTensor, x: CubeTensor) -> CubeTensor {
        norms::squares(x, None, Some(total))
    }

    fn add_squared_distance(total: CubeTensor, a: CubeTensor, b: CubeTensor) -> CubeTensor {
        norms::squares(a, Some(b), Some(total))
    }

    fn clip_to_norm(x: CubeTensor, largest: f64) -> CubeTensor {
        norms::clip_to_norm(x, largest)
    }
}
