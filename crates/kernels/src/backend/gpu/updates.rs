//! Steps of optimizers and of moving averages on GPUs as an extension of Burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use crate::gpu::updates;
use crate::{Adamw, Sgd};

/// The operations added to a backend, all in f32. None for autodiff: weights are updated outside it.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait UpdateBackend: Backend {
    /// A step of SGD with an existing velocity: the updated weight and velocity.
    #[fusion(meta = |weight, _gradient, velocity, _settings| (weight.clone(), velocity.clone()))]
    fn sgd_of_each(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        settings: Sgd,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// A step of AdamW with existing averages: the updated weight and averages.
    #[fusion(meta = |weight, _gradient, mean, square, _settings| (weight.clone(), mean.clone(), square.clone()))]
    fn adamw_of_each(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        settings: Adamw,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// A step of a moving average.
    #[fusion(meta = |average, _value, _momentum| average.clone())]
    fn average_of_each(
        average: FloatTensor<Self>,
        value: FloatTensor<Self>,
        momentum: f64,
    ) -> FloatTensor<Self>;
}

impl UpdateBackend for CubeBackend {
    fn sgd_of_each(
        weight: CubeTensor,
        gradient: CubeTensor,
        velocity: CubeTensor,
        settings: Sgd,
    ) -> (CubeTensor, CubeTensor) {
        updates::sgd(weight, gradient, velocity, &settings)
    }

    fn adamw_of_each(
        weight: CubeTensor,
        gradient: CubeTensor,
        mean: CubeTensor,
        square: CubeTensor,
        settings: Adamw,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        updates::adamw(weight, gradient, mean, square, &settings)
    }

    fn average_of_each(average: CubeTensor, value: CubeTensor, momentum: f64) -> CubeTensor {
        updates::moving_average(average, value, momentum)
    }
}
