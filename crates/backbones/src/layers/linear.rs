//! A linear map of the last dimension.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::{Init, trained};
use crate::precision::{Precision, raise};
use crate::probe::look;

/// `y = x · weightᵀ + bias` over the last dimension, with PyTorch's layout.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    precision: Precision,
}

impl Linear {
    /// Weight and bias uniform on ±1/√inputs, PyTorch's default for `torch.nn.Linear`.
    pub fn new(init: &Init, inputs: usize, outputs: usize) -> Self {
        let bound = 1.0 / (inputs as f64).sqrt();
        Self {
            bias: Some(trained(init.at("bias").uniform([outputs], bound))),
            ..Self::without_bias(init, inputs, outputs)
        }
    }

    /// The weight of [`new`](Self::new), and no bias.
    pub fn without_bias(init: &Init, inputs: usize, outputs: usize) -> Self {
        let bound = 1.0 / (inputs as f64).sqrt();
        Self {
            weight: trained(init.at("weight").uniform([outputs, inputs], bound)),
            bias: None,
            precision: init.precision(),
        }
    }

    /// Weight normal with standard deviation `std`, bias zero: linear probes use 0.01.
    pub fn normal(init: &Init, inputs: usize, outputs: usize, std: f64) -> Self {
        Self::with_zero_bias(init, init.at("weight").normal([outputs, inputs], std))
    }

    /// Weight normal with standard deviation `std`, truncated at ±2; bias zero: vision transformers and
    /// DINO's head use 0.02.
    pub fn truncated_normal(init: &Init, inputs: usize, outputs: usize, std: f64) -> Self {
        Self::with_zero_bias(init, init.at("weight").truncated_normal([outputs, inputs], std))
    }

    /// Weight uniform on ±√(6 / `fans`), bias zero. `fans` is inputs + outputs for `xavier_uniform_`.
    ///
    /// Glorot, Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010, eq. 16.
    pub fn xavier_uniform(init: &Init, inputs: usize, outputs: usize, fans: usize) -> Self {
        let bound = (6.0 / fans as f64).sqrt();
        Self::with_zero_bias(init, init.at("weight").uniform([outputs, inputs], bound))
    }

    fn with_zero_bias(init: &Init, weight: Tensor<2>) -> Self {
        let outputs = weight.dims()[0];
        Self {
            weight: trained(weight),
            bias: Some(trained(init.at("bias").zeros([outputs]))),
            precision: init.precision(),
        }
    }

    /// # Shapes
    /// - `x`: `[…, inputs]`
    /// - output: `[…, outputs]`, always f32
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        raise(self.forward_low(x))
    }

    /// [`forward`](Self::forward) with output in the layer's precision, for consecutive layers.
    pub(crate) fn forward_low<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| self.precision.lower(bias.val()));
        let weight = self.precision.lower(self.weight.val());
        look(
            self.weight.id,
            kernels::linear(self.precision.lower(x), weight, bias),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn multiplies_by_the_transposed_weight() {
        let device = Device::flex();
        let layer = Linear {
            weight: Param::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device),
            bias: Some(Param::from_data([10.0, 20.0], &device)),
            precision: Precision::F32,
        };
        let x = Tensor::<2>::from_data([[1.0, 0.0, -1.0], [1.0, 1.0, 1.0]], &device);
        // Row 0: 1 − 3 + 10 and 4 − 6 + 20; row 1: the weight's row sums, 6 + 10 and 15 + 20.
        let wanted = TensorData::from([[8.0f32, 18.0], [16.0, 35.0]]);
        layer.forward(x).into_data().assert_eq(&wanted, true);
    }

    #[test]
    fn starts_as_pytorch_does() {
        let layer = Linear::new(&Init::new(0, &Device::flex()), 64, 100);
        let largest = layer.weight.val().abs().max().into_scalar::<f32>();
        assert!(largest <= 0.125 && largest > 0.124, "{largest}");
        let bias = layer.bias.expect("new has a bias").val();
        assert!(bias.abs().max().into_scalar::<f32>() <= 0.125);
    }
}
