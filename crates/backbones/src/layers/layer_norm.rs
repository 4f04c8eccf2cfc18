//! Normalization of each token over its channels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::{Init, trained};
use crate::probe::look;

/// Normalizes the last dimension to mean 0 and (biased) variance 1, then scales and shifts it.
///
/// Ba, Kiros, Hinton, *Layer normalization*, 2016.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance under the root.
    epsilon: f64,
}

impl LayerNorm {
    /// Scale 1, shift 0, and the epsilon 1e-6 of vision transformers (PyTorch's default is 1e-5).
    pub fn new(init: &Init, channels: usize) -> Self {
        Self {
            weight: trained(init.at("weight").ones([channels])),
            bias: trained(init.at("bias").zeros([channels])),
            epsilon: 1e-6,
        }
    }

    /// The same with another epsilon.
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// # Shapes
    /// - `x`: `[…, channels]`
    /// - output: as `x`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = kernels::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon);
        look(self.weight.id, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// By hand: 1, 2, 3, 6 have mean 3 and biased variance (4 + 1 + 0 + 9) / 4 = 3.5.
    #[test]
    fn normalizes_each_row_by_its_own_statistics() {
        let device = Device::flex();
        let mut norm = LayerNorm::new(&Init::new(0, &device), 4);
        norm.weight = Param::from_data([1.0, 1.0, 2.0, 1.0], &device);
        norm.bias = Param::from_data([0.0, 0.0, 0.0, 10.0], &device);
        let x = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], &device);
        let output = norm.forward(x).into_data().iter::<f32>().collect::<Vec<_>>();
        let root = (3.5f32 + 1e-6).sqrt();
        let wanted = [
            -2.0 / root,
            -1.0 / root,
            0.0,
            3.0 / root + 10.0,
            0.0,
            0.0,
            0.0,
            10.0,
        ];
        for (ours, wanted) in output.iter().zip(wanted) {
            assert!((ours - wanted).abs() < 1e-6, "{output:?}");
        }
    }
}
