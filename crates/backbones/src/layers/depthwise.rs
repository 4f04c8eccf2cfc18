//! Depthwise convolution: each channel separately.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;

use crate::init::{Init, trained};
use crate::precision::Precision;
use crate::probe::look;

/// Convolution of each channel with its own kernel: MobileNet's depthwise filters (Howard et al.,
/// *MobileNets*, 2017, §3.1).
#[derive(Module, Debug)]
pub struct DepthwiseConv2d {
    /// `[channels, 1, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels]`.
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding: usize,
    #[module(skip)]
    precision: Precision,
}

impl DepthwiseConv2d {
    /// An odd kernel that keeps the image's size at stride 1, with Kaiming-normal weights (fan-out, for ReLU)
    /// and an optional bias of zeros.
    pub fn same(init: &Init, channels: usize, kernel: usize, stride: usize, bias: bool) -> Self {
        let weight = init
            .at("weight")
            .kaiming_normal_fan_out([channels, 1, kernel, kernel]);
        Self {
            weight: trained(weight),
            bias: bias.then(|| trained(init.at("bias").zeros([channels]))),
            stride,
            padding: kernel / 2,
            precision: init.precision(),
        }
    }

    /// # Shapes
    /// - `x`: `[images, channels, height, width]`
    /// - output: `[images, channels, ⌈height / stride⌉, ⌈width / stride⌉]`, in the layer's precision
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, weight) = (self.precision.lower(x), self.precision.lower(self.weight.val()));
        let bias = self.bias.as_ref().map(|bias| self.precision.lower(bias.val()));
        let channels = x.dims()[1];
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], channels);
        look(
            self.weight.id,
            burn::tensor::module::conv2d(x, weight, bias, options),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn channels_do_not_mix() {
        let device = Device::flex();
        let mut layer = DepthwiseConv2d::same(&Init::empty(&device), 2, 3, 2, true);
        // The first channel's middle pixel, and the second's left neighbor.
        let mut weight = [0.0; 18];
        (weight[4], weight[9 + 3]) = (2.0, 1.0);
        layer.weight = trained(Tensor::<1>::from_floats(weight, &device).reshape([2, 1, 3, 3]));
        layer.bias = Some(trained(Tensor::from_floats([0.0, 0.5], &device)));
        let x = Tensor::<1>::from_floats(
            [
                1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 20., 30., 40., 50., 60., 70., 80., 90.,
            ],
            &device,
        );
        let y = layer.forward(x.reshape([1, 2, 3, 3]));
        assert_eq!(y.dims(), [1, 2, 2, 2]);
        let values = y.into_data().iter::<f32>().collect::<Vec<_>>();
        assert_eq!(values, [2.0, 6.0, 14.0, 18.0, 0.5, 20.5, 0.5, 80.5]);
    }
}
