//! Transposed convolution whose windows do not overlap: each pixel becomes a square of pixels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::convolution::add_bias;
use crate::init::{Init, trained};
use crate::precision::Precision;
use crate::probe::look;

/// `torch.nn.ConvTranspose2d` with a stride of its kernel size: `y[o, k·h + a, k·w + b] = Σ_i x[i, h, w] ·
/// weight[i, o, a, b] + bias[o]`.
#[derive(Module, Debug)]
pub struct TransposedConv2d {
    /// `[inputs, outputs, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[outputs]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    precision: Precision,
}

impl TransposedConv2d {
    /// Weight Kaiming-normal as `kaiming_normal_(mode="fan_out")` has it on this layout (variance 2 / (inputs ·
    /// kernel²)), bias 0: the mask heads' of torchvision and detectron2.
    pub fn new(init: &Init, inputs: usize, outputs: usize, kernel: usize) -> Self {
        let shape = [inputs, outputs, kernel, kernel];
        Self {
            weight: trained(init.at("weight").kaiming_normal_fan_out(shape)),
            bias: trained(init.at("bias").zeros([outputs])),
            precision: init.precision(),
        }
    }

    /// Weights and biases uniform on ±√(1 / (outputs · kernel²)): PyTorch's default.
    pub fn uniform(init: &Init, inputs: usize, outputs: usize, kernel: usize) -> Self {
        let bound = (1.0 / (outputs * kernel * kernel) as f64).sqrt();
        Self {
            weight: trained(
                init.at("weight")
                    .uniform([inputs, outputs, kernel, kernel], bound),
            ),
            bias: trained(init.at("bias").uniform([outputs], bound)),
            precision: init.precision(),
        }
    }

    /// # Shapes
    /// - `x`: `[images, inputs, height, width]`
    /// - output: `[images, outputs, kernel · height, kernel · width]`, in the layer's precision
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [images, _, height, width] = x.dims();
        let [inputs, outputs, kernel, _] = self.weight.dims();
        // A 1 × 1 convolution to the pixels of each square, which are then put side by side.
        let weight = self.precision.lower(self.weight.val());
        let weight = weight
            .permute([1, 2, 3, 0])
            .reshape([outputs * kernel * kernel, inputs, 1, 1]);
        let x = kernels::conv2d(self.precision.lower(x), weight, 1, 0)
            .reshape([images, outputs, kernel, kernel, height, width])
            .permute([0, 1, 4, 2, 5, 3])
            .reshape([images, outputs, height * kernel, width * kernel]);
        look(self.weight.id, add_bias(x, self.precision.lower(self.bias.val())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use burn::tensor::ops::ConvTransposeOptions;

    #[test]
    fn is_burns_transposed_convolution() {
        let device = Device::flex();
        let init = Init::new(0, &device);
        let mut layer = TransposedConv2d::new(&init, 5, 3, 2);
        layer.bias = trained(init.at("bias").normal([3], 1.0));
        let x = init.at("x").normal([2, 5, 3, 4], 1.0);
        let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
        let burns = burn::tensor::module::conv_transpose2d(
            x.clone(),
            layer.weight.val(),
            Some(layer.bias.val()),
            options,
        );
        let ours = layer.forward(x);
        assert_eq!(ours.dims(), [2, 3, 6, 8]);
        assert!((ours - burns).abs().max().into_scalar::<f32>() < 1e-5);
    }
}
