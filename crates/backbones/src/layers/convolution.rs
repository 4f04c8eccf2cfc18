//! Convolution over images.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::{Init, trained};
use crate::precision::Precision;
use crate::probe::look;

/// The shape of a [`Conv2d`].
#[derive(Clone, Copy, Debug)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between windows, in both directions.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
    /// Whether a bias (initially zero) is added; a convolution before a norm needs none.
    pub bias: bool,
}

impl Conv2dConfig {
    /// A kernel of odd size that keeps the image's size at stride 1, without bias: ResNet's convolutions.
    pub fn same(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride,
            padding: kernel / 2,
            bias: false,
        }
    }

    /// The layer with Kaiming-normal weights (fan-out, for ReLU), as in torchvision's ResNets.
    pub fn init(&self, init: &Init) -> Conv2d {
        self.with_weight(init, init.at("weight").kaiming_normal_fan_out(self.shape()))
    }

    /// The layer with normal weights of standard deviation `std`.
    pub fn init_normal(&self, init: &Init, std: f64) -> Conv2d {
        self.with_weight(init, init.at("weight").normal(self.shape(), std))
    }

    /// The layer with weights uniform on ±√(3 / fan-in): `kaiming_uniform_(a=1)`, a feature pyramid's.
    pub fn init_uniform(&self, init: &Init) -> Conv2d {
        let fan_in = self.inputs * self.kernel * self.kernel;
        let bound = (3.0 / fan_in as f64).sqrt();
        self.with_weight(init, init.at("weight").uniform(self.shape(), bound))
    }

    /// The layer with weights and biases uniform on ±√(1 / fan-in): PyTorch's default.
    pub fn init_pytorch(&self, init: &Init) -> Conv2d {
        let fan_in = self.inputs * self.kernel * self.kernel;
        let bound = (1.0 / fan_in as f64).sqrt();
        let layer = self.with_weight(init, init.at("weight").uniform(self.shape(), bound));
        Conv2d {
            bias: self
                .bias
                .then(|| trained(init.at("bias").uniform([self.outputs], bound))),
            ..layer
        }
    }

    /// `[outputs, inputs, kernel, kernel]`.
    fn shape(&self) -> [usize; 4] {
        [self.outputs, self.inputs, self.kernel, self.kernel]
    }

    fn with_weight(&self, init: &Init, weight: Tensor<4>) -> Conv2d {
        Conv2d {
            weight: trained(weight),
            bias: self.bias.then(|| trained(init.at("bias").zeros([self.outputs]))),
            stride: self.stride,
            padding: self.padding,
            precision: init.precision(),
        }
    }
}

/// Convolution over images with a square kernel.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[outputs, inputs, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[outputs]`.
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding: usize,
    #[module(skip)]
    precision: Precision,
}

impl Conv2d {
    /// # Shapes
    /// - `x`: `[images, inputs, height, width]`
    /// - output: `[images, outputs, height', width']` with `size' = (size + 2·padding − kernel) / stride + 1`, in the layer's
    ///   precision
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, weight) = (self.precision.lower(x), self.precision.lower(self.weight.val()));
        let x = kernels::conv2d(x, weight, self.stride, self.padding);
        let x = match &self.bias {
            Some(bias) => add_bias(x, self.precision.lower(bias.val())),
            None => x,
        };
        look(self.weight.id, x)
    }
}

/// `x + bias` for each channel.
///
/// In three dimensions: with Burn 0.22.1 on wgpu the sum over a gradient in the layout that a convolution leaves is wrong
/// from about 100,000 values a channel on, and `reshape` gives it another layout.
pub(super) fn add_bias(x: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [images, channels, height, width] = x.dims();
    let x: Tensor<3> = x.reshape([images, channels, height * width]);
    let bias = bias.reshape([1, channels, 1]);
    (x + bias).reshape([images, channels, height, width])
}
