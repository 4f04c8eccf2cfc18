//! The layers of every network here: the only code that calls Burn's convolutions, matrix products, norms and
//! activations. So initial weights, faster kernels for a device and 16-bit compute are each implemented once.
//! Parameters have PyTorch's names and layout (`weight` and `bias`, a linear layer's weight as `[outputs,
//! inputs]`).
//!
//! In 16-bit compute convolutions give 16 bits, which norms, activations and pooling pass on. Linear layers,
//! attention and the last pooling give f32, so that methods compute with features and embeddings in f32.
//!
//! Shapes are written `[images, channels, height, width]`, those of token sequences `[images, tokens, channels]`.

mod attention;
mod batch_norm;
mod convolution;
mod depthwise;
mod drop_path;
mod layer_norm;
mod layer_scale;
mod linear;
mod patch_embedding;
mod running_statistic;
mod transposed_convolution;

pub use attention::Attention;
pub use batch_norm::BatchNorm;
pub use convolution::{Conv2d, Conv2dConfig};
pub use depthwise::DepthwiseConv2d;
pub use drop_path::DropPath;
pub use kernels::{Roi, RoiAlign, cross_entropies, log_sum_exp, roi_align_plane};
pub use layer_norm::LayerNorm;
pub use layer_scale::LayerScale;
pub use linear::Linear;
pub use patch_embedding::{PatchEmbedding, Projection};
pub use running_statistic::{RunningStatistic, is_running_statistic};
pub use transposed_convolution::TransposedConv2d;

use crate::precision::{in_f32, raise};
use burn::tensor::Tensor;
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions};

/// `max(x, 0)`.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::relu(x)
}

/// `x` where it is positive, `slope · x` elsewhere.
pub fn leaky_relu<const D: usize>(x: Tensor<D>, slope: f64) -> Tensor<D> {
    burn::tensor::activation::leaky_relu(x, slope)
}

/// `1 / (1 + e⁻ˣ)`.
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::sigmoid(x)
}

/// `x · sigmoid(x)`, also called swish.
///
/// Elfwing, Uchibe, Doya, *Sigmoid-weighted linear units*, 2018, eq. 7.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    in_f32(x, kernels::silu)
}

/// Each pixel repeated to fill `[height, width]`: output pixel `i` copies pixel `⌊i · size / size'⌋`, as in
/// PyTorch's `interpolate(mode="nearest")`.
pub fn upsample_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
    burn::tensor::module::interpolate(x, options)
}

/// `x · Φ(x)`, `Φ` the cumulative distribution of the standard normal: exact, by the error function.
///
/// Hendrycks, Gimpel, *Gaussian error linear units*, 2016.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    kernels::gelu(x)
}

/// The largest value of each window of 3×3 at stride 2 with a border of 1: `[n, c, h, w]` to
/// `[n, c, ⌈h/2⌉, ⌈w/2⌉]`, the pooling of a ResNet's stem.
pub fn max_pool(x: Tensor<4>) -> Tensor<4> {
    largest(x, 3, 2, 1)
}

/// The largest value of each window of `kernel`×`kernel` pixels, with a border that is never the largest.
fn largest(x: Tensor<4>, kernel: usize, stride: usize, border: usize) -> Tensor<4> {
    let options = MaxPoolOptions {
        kernel_size: [kernel; 2],
        stride: [stride; 2],
        padding: [(border, border); 2],
        dilation: [1, 1],
        ceil_mode: false,
    };
    burn::tensor::module::max_pool2d(x, options)
}

/// The largest value of each window of an odd number of pixels at stride 1, the image's border left out: the
/// size stays.
pub fn max_pool_same(x: Tensor<4>, kernel: usize) -> Tensor<4> {
    largest(x, kernel, 1, kernel / 2)
}

/// The largest value of each square of 2×2 pixels: `[n, c, h, w]` to `[n, c, ⌊h/2⌋, ⌊w/2⌋]`.
pub fn halve_by_maximum(x: Tensor<4>) -> Tensor<4> {
    largest(x, 2, 2, 0)
}

/// Every second row and column, from the first: `[n, c, h, w]` to `[n, c, ⌈h/2⌉, ⌈w/2⌉]`, a pyramid's level `pool`.
pub fn every_second(x: Tensor<4>) -> Tensor<4> {
    largest(x, 1, 2, 0)
}

/// RoIAlign ([`kernels::roi_align`]) of at least one region; the output is always f32.
///
/// # Shapes
/// - `x`: `[images, channels, height, width]`
/// - output: `[regions, channels, output, output]`
pub fn roi_align(x: Tensor<4>, rois: &[Roi], settings: &RoiAlign) -> Tensor<4> {
    kernels::roi_align(raise(x), rois, settings)
}

/// The mean of each square window of `kernel` pixels at `stride`; the output is always f32. `padding` zeros
/// on each side count in the mean, as in `torch.nn.AvgPool2d`.
pub fn average_pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let options = AvgPoolOptions::new([kernel; 2])
        .with_stride([stride; 2])
        .with_padding([padding; 2]);
    burn::tensor::module::avg_pool2d(raise(x), options)
}

/// The means of `[rows, columns]` windows that cover the image; the output is always f32. Windows overlap if
/// the sides do not divide evenly, as in `torch.nn.AdaptiveAvgPool2d`.
pub fn adaptive_average_pool(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    burn::tensor::module::adaptive_avg_pool2d(raise(x), size)
}

/// The mean over height and width: `[n, c, h, w]` to `[n, c]`, always f32.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    let [images, channels, height, width] = x.dims();
    // One reduction over the flattened image: two reductions would write an intermediate tensor.
    raise(x)
        .reshape([images, channels, height * width])
        .mean_dim(2)
        .reshape([images, channels])
}
