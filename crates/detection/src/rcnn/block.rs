//! A convolution and, in torchvision's second versions, the batch normalization behind it.

use backbones::layers::{BatchNorm, Conv2d, Conv2dConfig, relu};
use backbones::{Context, Init};
use burn::tensor::Tensor;

/// A tuple, because torchvision names its parts `0` and `1`.
pub(super) type Block = (Conv2d, Option<BatchNorm>);

/// A convolution that keeps the size, with a norm or a bias. `init` is that of the block.
pub(super) fn block(
    init: &Init,
    [inputs, outputs, kernel]: [usize; 3],
    norm: bool,
    draw: impl FnOnce(Conv2dConfig, &Init) -> Conv2d,
) -> Block {
    let config = Conv2dConfig {
        bias: !norm,
        ..Conv2dConfig::same(inputs, outputs, kernel, 1)
    };
    let norm = norm.then(|| BatchNorm::new(&init.at("1"), outputs));
    (draw(config, &init.at("0")), norm)
}

pub(super) fn forward((convolution, norm): &Block, x: Tensor<4>, context: &Context) -> Tensor<4> {
    let x = convolution.forward(x);
    match norm {
        Some(norm) => norm.forward(x, context),
        None => x,
    }
}

/// [`forward`], then ReLU.
pub(super) fn forward_relu((convolution, norm): &Block, x: Tensor<4>, context: &Context) -> Tensor<4> {
    let x = convolution.forward(x);
    match norm {
        Some(norm) => norm.forward_relu(x, context),
        None => relu(x),
    }
}
