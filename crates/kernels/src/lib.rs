//! Operations that Burn 0.22 lacks, or implements slowly or inexactly, on a backend.
//!
//! On `flex`, Burn's CPU backend, in f32: convolution, linear layers, batch and layer normalization, attention, GELU,
//! softmax, RoIAlign, and the steps of optimizers and moving averages. On GPUs (feature `cube`), in f32 and 16 bits: batch
//! normalization in training, layer normalization, GELU, softmax and cross-entropy; in f32 the steps of optimizers and moving
//! averages, sums of squares and clipping by norm. On every other device and type they are Burn's own operations. The tensor's device and type decide at run time.
//!
//! Burn composes a convolution's gradients from convolutions of other shapes, and batch normalization from a
//! dozen passes over memory. With these kernels a step of the quick start's narrow ResNet-18 takes 2.6 times
//! less CPU time, and groups of batch statistics are free; Burn's composition needs four more copies for
//! them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attention;
mod backend;
mod batch_norm;
pub mod collective;
mod composed;
mod convolution;
mod engine;
mod entropy;
mod exponential;
#[cfg(feature = "cube")]
mod gpu;
mod layer_norm;
mod linear;
mod matrix;
mod norm;
mod padded;
mod pointwise;
mod product;
mod residual;
mod roi_align;
mod simd;
mod softmax;
mod uninitialized;
mod update;

use burn::backend::Dispatch;
use burn::tensor::module::batch_norm_train;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, FloatDType, Tensor, activation::relu};

pub use entropy::{cross_entropies, log_sum_exp};
pub use norm::{add_squared_distance, add_squares, clip_factor, clip_to_norm, squares};

#[cfg(feature = "cube")]
use backend::gpu::rows::RowBackend;
#[cfg(feature = "cube")]
use backend::gpu::updates::UpdateBackend;
use backend::residual::ResidualBackend;
use backend::roi_align::RegionBackend;
use backend::transformer::TransformerBackend;
use backend::{KernelBackend, Normalization, Window};
use pointwise::Pointwise;

/// Whether this crate has kernels for the tensor's device and type.
fn native<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device() == Device::flex()
}

/// The type of a tensor of 16 bits.
fn half<const D: usize>(tensor: &Tensor<D>) -> Option<FloatDType> {
    matches!(tensor.dtype(), DType::F16 | DType::BF16).then(|| tensor.dtype().into())
}

/// The same of a tensor on `flex`, whose own 16-bit products are up to ten times slower than f32's.
fn half_on_the_cpu<const D: usize>(tensor: &Tensor<D>) -> Option<FloatDType> {
    half(tensor).filter(|_| tensor.device() == Device::flex())
}

/// Whether the tensor's device runs this crate's kernels for GPUs, in the tensor's type.
#[cfg(feature = "cube")]
fn on_gpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && match tensor.device().without_autodiff().as_dispatch() {
            burn::backend::DispatchDevice::Cube(device) => gpu::fits(device),
            _ => false,
        }
}

/// Convolution with a square kernel, equal strides and equal borders of zeros, differentiable in `x` and `weight`.
///
/// # Shapes
/// - `x`: `[images, inputs, height, width]`
/// - `weight`: `[outputs, inputs, kernel, kernel]`
/// - output: `[images, outputs, height', width']` with `size' = (size + 2·padding − kernel) / stride + 1`
///
/// # Panics
/// If channels do not match, or the kernel is not square or larger than the image with its borders.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let ([_, inputs, height, width], [_, expected, kernel, other]) = (x.dims(), weight.dims());
    assert!(
        inputs == expected && kernel == other && height.min(width) + 2 * padding >= kernel && stride > 0,
        "a weight of {:?} cannot be convolved with images of {:?} at stride {stride} and padding {padding}",
        weight.dims(),
        x.dims()
    );
    if let Some(half) = half_on_the_cpu(&x) {
        // Same as matrix units: 16-bit factors, sums in f32, a 16-bit result.
        let (x, weight) = (x.cast(FloatDType::F32), weight.cast(FloatDType::F32));
        return conv2d(x, weight, stride, padding).cast(half);
    }
    if !native(&x) || padding >= kernel {
        let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        return burn::tensor::module::conv2d(x, weight, None, options);
    }
    let window = Window { stride, padding };
    let output = <Dispatch as KernelBackend>::convolve(x.into_dispatch(), weight.into_dispatch(), window);
    Tensor::from_dispatch(output)
}

/// The product of the last two dimensions; for 16-bit factors in 16 bits with sums in f32.
///
/// # Shapes
/// - `a`: `[…, m, k]`, `b`: `[…, k, n]`
/// - output: `[…, m, n]`, of the factors' type
pub fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    match half_on_the_cpu(&a) {
        Some(half) => a.cast(FloatDType::F32).matmul(b.cast(FloatDType::F32)).cast(half),
        None => a.matmul(b),
    }
}

/// `x · weightᵀ + bias` over the last dimension, differentiable in all three; for 16-bit factors in 16 bits
/// with sums in f32.
///
/// # Shapes
/// - `x`: `[…, inputs]`, `weight`: `[outputs, inputs]`, `bias`: `[outputs]`
/// - output: `[…, outputs]`, of the factors' type
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if let Some(half) = half_on_the_cpu(&x) {
        let bias = bias.map(|bias| bias.cast(FloatDType::F32));
        let (x, weight) = (x.cast(FloatDType::F32), weight.cast(FloatDType::F32));
        return linear(x, weight, bias).cast(half);
    }
    let mut shape = x.dims();
    match bias {
        Some(bias) if native(&x) && shape.iter().all(|size| *size > 0) => {
            let inputs = shape[D - 1];
            let rows = shape[..D - 1].iter().product();
            let [outputs, expected] = weight.dims();
            assert!(
                inputs == expected && bias.dims() == [outputs],
                "rows of {inputs} cannot be multiplied by a weight of {:?} with a bias of {:?}",
                weight.dims(),
                bias.dims()
            );
            shape[D - 1] = outputs;
            let x: Tensor<2> = x.reshape([rows, inputs]);
            let output = <Dispatch as TransformerBackend>::linear_forward(
                x.into_dispatch(),
                weight.into_dispatch(),
                bias.into_dispatch(),
            );
            Tensor::<2>::from_dispatch(output).reshape(shape)
        }
        bias => burn::tensor::module::linear(x, weight.transpose(), bias),
    }
}

/// The last dimension with mean 0 and (biased) variance 1, scaled and shifted; differentiable in all three tensors; f32
/// inside.
///
/// # Shapes
/// - `x`: `[…, channels]`, in f32 or 16 bits
/// - `weight`, `bias`: `[channels]`, in f32
/// - output: of `x`'s shape and type
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let shape = x.dims();
    #[cfg(feature = "cube")]
    if on_gpu(&x) && gpu::layer_norm::fits(shape[..D - 1].iter().product(), shape[D - 1]) {
        let rows: Tensor<2> = x.reshape([shape[..D - 1].iter().product(), shape[D - 1]]);
        let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
        let (output, _) =
            <Dispatch as RowBackend>::normalize_rows(rows.into_dispatch(), weight, bias, epsilon);
        return Tensor::<2>::from_dispatch(output).reshape(shape);
    }
    if let Some(half) = half(&x) {
        return layer_norm(x.cast(FloatDType::F32), weight, bias, epsilon).cast(half);
    }
    if !native(&x) || shape.contains(&0) {
        return burn::tensor::module::layer_norm(x, weight, Some(bias), epsilon);
    }
    let channels = shape[D - 1];
    assert!(
        weight.dims() == [channels] && bias.dims() == [channels],
        "rows of {channels} cannot be scaled by {:?} and shifted by {:?}",
        weight.dims(),
        bias.dims()
    );
    let rows: Tensor<2> = x.reshape([shape[..D - 1].iter().product(), channels]);
    let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
    let output =
        <Dispatch as TransformerBackend>::layer_norm_forward(rows.into_dispatch(), weight, bias, epsilon);
    Tensor::<2>::from_dispatch(output).reshape(shape)
}

/// Self-attention of `heads` heads, `softmax(q·kᵀ / √channels) · v` each, concatenated; differentiable in
/// `qkv`. `None` if this crate has no kernel for the tensor's device and type.
///
/// # Shapes
/// - `qkv`: `[images, tokens, 3 · width]`: queries of all heads, then keys, then values
/// - output: `[images, tokens, width]`
pub fn attention(qkv: &Tensor<3>, heads: usize) -> Option<Tensor<3>> {
    let [images, tokens, width] = qkv.dims();
    if !native(qkv) || images * tokens * width == 0 || !width.is_multiple_of(3 * heads) {
        return None;
    }
    let output = <Dispatch as TransformerBackend>::attend(qkv.clone().into_dispatch(), heads);
    Some(Tensor::from_dispatch(output))
}

/// The exact GELU, `x · (1 + erf(x / √2)) / 2`, differentiable in `x`; f32 inside, of `x`'s type.
///
/// Burn's own GELU uses the gradient of a tanh approximation on every device but `flex`, wrong by up to 9e-4.
/// Where this crate has no kernel, it is composed, so that the gradient is that of `erf`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native(&x) {
        return pointwise(x, Pointwise::Gelu);
    }
    #[cfg(feature = "cube")]
    if on_gpu(&x) && gpu::rows::fits(&x.dims()) {
        return Tensor::from_dispatch(<Dispatch as RowBackend>::gelu_of_each(x.into_dispatch()));
    }
    if let Some(half) = half(&x) {
        return gelu(x.cast(FloatDType::F32)).cast(half);
    }
    let twice_cdf = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * 0.5 * twice_cdf
}

/// `x · sigmoid(x)`, differentiable in `x`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native(&x) {
        return pointwise(x, Pointwise::Silu);
    }
    burn::tensor::activation::silu(x)
}

fn pointwise<const D: usize>(x: Tensor<D>, function: Pointwise) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as KernelBackend>::pointwise(
        x.into_dispatch(),
        function,
    ))
}

/// `exp(x) / Σ exp(x)` over the last dimension, differentiable in `x`; f32 inside, of `x`'s type.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native(&x) && x.dims()[D - 1] > 0 {
        return Tensor::from_dispatch(<Dispatch as KernelBackend>::softmax_forward(x.into_dispatch()));
    }
    #[cfg(feature = "cube")]
    if on_gpu(&x) && gpu::rows::fits(&x.dims()) {
        return Tensor::from_dispatch(<Dispatch as RowBackend>::softmax_of_rows(x.into_dispatch()));
    }
    if let Some(half) = half(&x) {
        return softmax(x.cast(FloatDType::F32)).cast(half);
    }
    burn::tensor::activation::softmax(x, D - 1)
}

/// The result of [`batch_norm`].
pub struct Normalized<const D: usize> {
    /// The normalized input, in its shape and type.
    pub output: Tensor<D>,
    /// Mean of the groups' means, `[channels]`, outside autodiff.
    pub mean: Tensor<1>,
    /// Mean of the groups' biased variances, `[channels]`, outside autodiff.
    pub variance: Tensor<1>,
}

/// An operation that follows a batch normalization and is fused with it.
// Created once per layer and moved immediately: a box would only add an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Epilogue<const D: usize> {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// The end of a residual block: adds the shortcut, which has the input's shape, then applies ReLU.
    AddRelu(Tensor<D>),
}

/// Batch normalization with the statistics of each of `groups` equal runs of images, and the epilogue;
/// differentiable in `x`, `weight`, `bias` and a shortcut, including through the statistics; f32 inside.
///
/// # Shapes
/// - `x`: `[images, channels, …]`, in f32 or 16 bits; a shortcut has its type
/// - `weight`, `bias`: `[channels]`, in f32
///
/// # Panics
/// If `groups` does not divide the images.
pub fn batch_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f64,
    then: Epilogue<D>,
) -> Normalized<D> {
    let shape = x.dims();
    let (images, channels) = (shape[0], shape[1]);
    assert!(
        groups > 0 && images.is_multiple_of(groups),
        "{images} images cannot make {groups} groups"
    );
    let pixels = shape[2..].iter().product::<usize>();
    let mean_over_groups = |tensor: Tensor<1>| {
        let tensor = tensor.without_autodiff().reshape([groups, channels]);
        tensor.mean_dim(0).reshape([channels])
    };

    if let Epilogue::AddRelu(shortcut) = &then {
        assert!(
            shortcut.dims() == shape,
            "a shortcut of {:?} cannot be added to {shape:?}",
            shortcut.dims()
        );
    }

    #[cfg(feature = "cube")]
    if on_gpu(&x) && gpu::images::fits(&shape, groups) {
        return normalized_on_gpu(x, weight, bias, groups, epsilon, then);
    }
    if let Some(half) = half(&x) {
        let (x, inner) = (
            x.cast(FloatDType::F32),
            match &then {
                Epilogue::Relu => Epilogue::Relu,
                _ => Epilogue::Nothing,
            },
        );
        let normalized = batch_norm(x, weight, bias, groups, epsilon, inner);
        let output = normalized.output.cast(half);
        return Normalized {
            output: match then {
                // In 16 bits: f32 would need a copy of the shortcut at twice its size.
                Epilogue::AddRelu(shortcut) => relu(output + shortcut),
                _ => output,
            },
            ..normalized
        };
    }

    // Vectors gain nothing on single pixels: Burn's own is faster for heads.
    if native(&x) && pixels >= 4 {
        let x = x.reshape([images, channels, pixels, 1]);
        let plain = x.clone().without_autodiff().into_dispatch();
        let statistics = <Dispatch as KernelBackend>::group_statistics(plain, groups);
        let statistics = Tensor::<2>::from_dispatch(statistics);
        let settings = Normalization {
            groups,
            epsilon,
            relu: !matches!(then, Epilogue::Nothing),
        };
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        let kept = statistics.clone().into_dispatch();
        let output = match then {
            Epilogue::AddRelu(shortcut) => {
                let shortcut = shortcut.reshape([images, channels, pixels, 1]).into_dispatch();
                <Dispatch as ResidualBackend>::normalize_add(x, weight, bias, shortcut, kept, settings)
            }
            _ => <Dispatch as KernelBackend>::normalize(x, weight, bias, kept, settings),
        };
        let row = |index| {
            mean_over_groups(
                statistics
                    .clone()
                    .narrow(0, index, 1)
                    .reshape([groups * channels]),
            )
        };
        return Normalized {
            output: Tensor::<4>::from_dispatch(output).reshape(shape),
            mean: row(0),
            variance: row(1),
        };
    }

    // Groups are folded into the channels, so that one normalization covers them all.
    let folded = if groups == 1 {
        x.reshape([images, channels, pixels])
    } else {
        x.reshape([groups, images / groups, channels, pixels])
            .swap_dims(0, 1)
            .reshape([images / groups, groups * channels, pixels])
    };
    let batch = batch_norm_train(
        folded,
        weight.repeat_dim(0, groups),
        bias.repeat_dim(0, groups),
        epsilon,
    );
    let output = if groups == 1 {
        batch.output.reshape(shape)
    } else {
        batch
            .output
            .reshape([images / groups, groups, channels, pixels])
            .swap_dims(0, 1)
            .reshape(shape)
    };
    Normalized {
        output: match then {
            Epilogue::Nothing => output,
            Epilogue::Relu => relu(output),
            Epilogue::AddRelu(shortcut) => relu(output + shortcut),
        },
        mean: mean_over_groups(batch.mean),
        variance: mean_over_groups(batch.variance),
    }
}

/// [`batch_norm`] on a GPU: two launches, and two backward.
#[cfg(feature = "cube")]
fn normalized_on_gpu<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f64,
    then: Epilogue<D>,
) -> Normalized<D> {
    use backend::gpu::NormBackend;

    let shape = x.dims();
    // Images keep their order in memory, which another shape would lose.
    let images = |tensor: Tensor<D>| {
        let pixels = shape[2..].iter().product();
        match shape[..] {
            [_, _, _, _] => tensor.into_dispatch(),
            _ => tensor.reshape([shape[0], shape[1], pixels, 1]).into_dispatch(),
        }
    };
    let settings = Normalization {
        groups,
        epsilon,
        relu: !matches!(then, Epilogue::Nothing),
    };
    let (x, weight, bias) = (images(x), weight.into_dispatch(), bias.into_dispatch());
    let (output, _, mean, variance) = match then {
        Epilogue::AddRelu(shortcut) => {
            <Dispatch as NormBackend>::normalize_images_add(x, weight, bias, images(shortcut), settings)
        }
        _ => <Dispatch as NormBackend>::normalize_images(x, weight, bias, settings),
    };
    let constant = |tensor| Tensor::<1>::from_dispatch(tensor).without_autodiff();
    Normalized {
        output: if D == 4 {
            Tensor::from_dispatch(output)
        } else {
            Tensor::<4>::from_dispatch(output).reshape(shape)
        },
        mean: constant(mean),
        variance: constant(variance),
    }
}

/// A region of interest: a box in one image of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Index of the image in the batch.
    pub image: usize,
    /// Left, top, right and bottom, in pixels of the image.
    pub edges: [f32; 4],
}

/// Settings of [`roi_align`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// Positions of the map per pixel of the image.
    pub scale: f64,
    /// Height and width of a region's output.
    pub output: usize,
    /// Samples in each direction of an output bin; 0: as many as the bin has positions, rounded up.
    pub sampling_ratio: usize,
    /// Whether position 0 of the map is its first pixel's center (`aligned=True`) instead of the center of a pixel half
    /// a position further, and regions may be thinner than a position.
    pub aligned: bool,
}

/// RoIAlign: the averages of bilinear samples in each bin of each region, differentiable in `x`; torchvision's
/// `roi_align`. A sample outside the map by more than one position is 0.
///
/// # Shapes
/// - `x`: `[images, channels, height, width]`
/// - output: `[regions, channels, output, output]`
///
/// # Panics
/// If there is no region, or one of an image that the batch lacks.
pub fn roi_align(x: Tensor<4>, rois: &[Roi], settings: &RoiAlign) -> Tensor<4> {
    let shape = x.dims();
    assert!(
        !rois.is_empty() && rois.iter().all(|roi| roi.image < shape[0]) && !shape.contains(&0),
        "{} regions cannot be pooled from a map of {shape:?}",
        rois.len()
    );
    let plan = roi_align::Plan::new(shape, rois, settings);
    if native(&x) {
        return Tensor::from_dispatch(<Dispatch as RegionBackend>::pool_regions(x.into_dispatch(), plan));
    }
    plan.composed(x)
}

/// [`roi_align`] of one plane of bytes on the host, `[height, width]`: the target that a mask gives a region,
/// `[output · output]`.
///
/// # Panics
/// If the plane has another number of bytes, or none.
pub fn roi_align_plane(plane: &[u8], size: [usize; 2], edges: [f32; 4], settings: &RoiAlign) -> Vec<f32> {
    assert!(
        plane.len() == size[0] * size[1] && !plane.is_empty(),
        "{} bytes are no plane of {size:?}",
        plane.len()
    );
    roi_align::plane(plane, size, edges, settings)
}

/// Whether the steps of optimizers have a kernel for these tensors: f32 on a GPU, as many numbers as its indices count.
#[cfg(feature = "cube")]
fn updated_on_gpu<const D: usize>(tensors: &[&Tensor<D>]) -> bool {
    tensors.iter().all(|tensor| {
        let fits = gpu::rows::fits(&tensor.dims()) && tensor.dtype() == DType::F32;
        fits && !tensor.device().is_autodiff() && on_gpu(tensor)
    })
}

/// Settings of a step of `torch.optim.SGD` without dampening.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the velocity, 0 to below 1; 0: no velocity.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
}

/// `g += weight_decay w; v = momentum v + g; w -= learning_rate v` (Nesterov: `g + momentum v` instead of `v`), outside
/// autodiff. Returns weight and velocity; without a velocity, as in the first step, `v = g`.
pub fn sgd<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    settings: &Sgd,
) -> (Tensor<D>, Option<Tensor<D>>) {
    match velocity {
        Some(velocity) if native(&weight) && settings.momentum > 0.0 => {
            let (weight, gradient) = (weight.into_dispatch(), gradient.into_dispatch());
            let (weight, velocity) =
                <Dispatch as KernelBackend>::sgd_step(weight, gradient, velocity.into_dispatch(), *settings);
            (
                Tensor::from_dispatch(weight),
                Some(Tensor::from_dispatch(velocity)),
            )
        }
        #[cfg(feature = "cube")]
        Some(velocity) if settings.momentum > 0.0 && updated_on_gpu(&[&weight, &gradient, &velocity]) => {
            let (weight, velocity) = <Dispatch as UpdateBackend>::sgd_of_each(
                weight.into_dispatch(),
                gradient.into_dispatch(),
                velocity.into_dispatch(),
                *settings,
            );
            (
                Tensor::from_dispatch(weight),
                Some(Tensor::from_dispatch(velocity)),
            )
        }
        velocity => composed::sgd(weight, gradient, velocity, settings),
    }
}

/// Settings of a step of `torch.optim.AdamW` (Loshchilov, Hutter, *Decoupled weight decay regularization*, 2019,
/// algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adamw {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the averages of gradient and squared gradient.
    pub betas: [f64; 2],
    /// Added to the root of the squared gradient's average.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of the step, starting at 1.
    pub step: u64,
}

impl Adamw {
    /// Factors and terms of the formulas: β₁, 1 − β₁, β₂, 1 − β₂, 1 / √(1 − β₂ᵗ), ε, rate / (1 − β₁ᵗ), 1 − rate · decay.
    fn factors(&self) -> [f64; 8] {
        let correction = |beta: f64| 1.0 - beta.powi(self.step as i32);
        let [first, second] = self.betas;
        [
            first,
            1.0 - first,
            second,
            1.0 - second,
            1.0 / correction(second).sqrt(),
            self.epsilon,
            self.learning_rate / correction(first),
            1.0 - self.learning_rate * self.weight_decay,
        ]
    }
}

/// One step of AdamW, outside autodiff: returns the weight, and the averages of gradient and squared
/// gradient, which start at zero.
pub fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    averages: Option<[Tensor<D>; 2]>,
    settings: &Adamw,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    match averages {
        Some([mean, square]) if native(&weight) => {
            let (weight, mean, square) = <Dispatch as KernelBackend>::adamw_step(
                weight.into_dispatch(),
                gradient.into_dispatch(),
                mean.into_dispatch(),
                square.into_dispatch(),
                *settings,
            );
            let averages = [Tensor::from_dispatch(mean), Tensor::from_dispatch(square)];
            (Tensor::from_dispatch(weight), averages)
        }
        #[cfg(feature = "cube")]
        Some([mean, square]) if updated_on_gpu(&[&weight, &gradient, &mean, &square]) => {
            let (weight, mean, square) = <Dispatch as UpdateBackend>::adamw_of_each(
                weight.into_dispatch(),
                gradient.into_dispatch(),
                mean.into_dispatch(),
                square.into_dispatch(),
                *settings,
            );
            let averages = [Tensor::from_dispatch(mean), Tensor::from_dispatch(square)];
            (Tensor::from_dispatch(weight), averages)
        }
        averages => composed::adamw(weight, gradient, averages, settings),
    }
}

/// `momentum · average + (1 − momentum) · value`, outside autodiff.
pub fn moving_average<const D: usize>(average: Tensor<D>, value: Tensor<D>, momentum: f64) -> Tensor<D> {
    if native(&average) {
        let (average, value) = (average.into_dispatch(), value.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as KernelBackend>::averaged(average, value, momentum));
    }
    #[cfg(feature = "cube")]
    if updated_on_gpu(&[&average, &value]) {
        let (average, value) = (average.into_dispatch(), value.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as UpdateBackend>::average_of_each(
            average, value, momentum,
        ));
    }
    composed::moving_average(average, value, momentum)
}

#[cfg(test)]
mod tests;
