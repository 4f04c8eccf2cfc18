//! Batch normalization of images with the statistics of their group, and its gradients, on the CPU: as few
//! passes over memory as possible, and groups at no cost.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::vectorized;
use crate::uninitialized::uninitialized;

/// The grouping of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Number of groups, one after the other.
    pub(crate) groups: usize,
    /// Images per group.
    pub(crate) images: usize,
    pub(crate) channels: usize,
    /// Pixels per channel.
    pub(crate) pixels: usize,
}

impl Extent {
    pub(crate) fn image(&self) -> usize {
        self.channels * self.pixels
    }

    /// Start of the values of an image's group in an array `[groups, channels]`.
    pub(crate) fn of_group(&self, image: usize) -> usize {
        image / self.images * self.channels
    }
}

/// Means and biased variances, `[groups, channels]` each, one after the other.
pub(crate) fn statistics(x: &[f32], extent: &Extent) -> Vec<f32> {
    // Mean and summed squares around it for each channel of each image, then their union (Chan, Golub,
    // LeVeque, 1983): one pass over memory, and no difference of large sums.
    let mut planes = vec![[0.0f32; 2]; x.len() / extent.pixels];
    planes
        .par_chunks_mut(extent.channels)
        .zip(x.par_chunks(extent.image()))
        .for_each(|(planes, x)| {
            vectorized(Moments {
                x,
                pixels: extent.pixels,
                planes,
            });
        });

    let values = extent.groups * extent.channels;
    let mut statistics = vec![0.0; 2 * values];
    let (means, variances) = statistics.split_at_mut(values);
    let pixels = extent.pixels as f64;
    for (group, planes) in planes.chunks(extent.images * extent.channels).enumerate() {
        for channel in 0..extent.channels {
            let planes = || planes[channel..].iter().step_by(extent.channels);
            let mean = planes().map(|p| f64::from(p[0])).sum::<f64>() / extent.images as f64;
            let within = planes().map(|p| f64::from(p[1])).sum::<f64>();
            let between = planes().map(|p| (f64::from(p[0]) - mean).powi(2)).sum::<f64>() * pixels;
            means[group * extent.channels + channel] = mean as f32;
            variances[group * extent.channels + channel] =
                ((within + between) / (extent.images as f64 * pixels)) as f32;
        }
    }
    statistics
}

struct Moments<'a> {
    x: &'a [f32],
    pixels: usize,
    planes: &'a mut [[f32; 2]],
}

impl WithSimd for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (x, plane) in self.x.chunks_exact(self.pixels).zip(self.planes) {
            let (body, rest) = S::as_simd_f32s(x);
            let sum = sum_of(simd, body, rest, |x| x, |x| x);
            let mean = sum / self.pixels as f32;
            let means = simd.splat_f32s(mean);
            let square = |x| {
                let x = simd.sub_f32s(x, means);
                simd.mul_f32s(x, x)
            };
            *plane = [
                mean,
                sum_of(simd, body, rest, square, |x| (x - mean) * (x - mean)),
            ];
        }
    }
}

/// The sum of a function's values, in four chains so that no addition waits for the previous one.
#[inline(always)]
fn sum_of<S: Simd>(
    simd: S,
    body: &[S::f32s],
    rest: &[f32],
    of_vector: impl Fn(S::f32s) -> S::f32s,
    of_value: impl Fn(f32) -> f32,
) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); 4];
    let quads = body.chunks_exact(4);
    for (sum, x) in sums.iter_mut().zip(quads.remainder()) {
        *sum = of_vector(*x);
    }
    for quad in quads {
        for (sum, x) in sums.iter_mut().zip(quad) {
            *sum = simd.add_f32s(*sum, of_vector(*x));
        }
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(sum) + rest.iter().map(|x| of_value(*x)).sum::<f32>()
}

/// The affine map that normalizes a channel: `y = (x − mean) · scale + shift`.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) mean: f32,
    pub(crate) scale: f32,
    pub(crate) shift: f32,
}

/// The scales and shifts of `[groups, channels]`.
pub(crate) fn channels(statistics: &[f32], weight: &[f32], bias: &[f32], epsilon: f64) -> Vec<Channel> {
    let (means, variances) = statistics.split_at(statistics.len() / 2);
    let affine = weight.iter().zip(bias).cycle();
    let values = means.iter().zip(variances).zip(affine);
    values
        .map(|((mean, variance), (weight, shift))| Channel {
            mean: *mean,
            scale: (f64::from(*weight) / (f64::from(*variance) + epsilon).sqrt()) as f32,
            shift: *shift,
        })
        .collect()
}

/// The images normalized, scaled and shifted; with `relu`, negative values become zero.
pub(crate) fn normalize(
    x: &[f32],
    statistics: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f64,
    relu: bool,
    extent: &Extent,
) -> Vec<f32> {
    let channels = channels(statistics, weight, bias, epsilon);
    let mut output = uninitialized(x.len());
    output
        .par_chunks_mut(extent.image())
        .zip(x.par_chunks(extent.image()))
        .enumerate()
        .for_each(|(image, (output, x))| {
            vectorized(Normalize {
                x,
                output,
                channels: &channels[extent.of_group(image)..][..extent.channels],
                pixels: extent.pixels,
                relu,
            });
        });
    output
}

struct Normalize<'a> {
    x: &'a [f32],
    output: &'a mut [f32],
    channels: &'a [Channel],
    pixels: usize,
    relu: bool,
}

impl WithSimd for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let planes = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.output.chunks_exact_mut(self.pixels));
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let floors = simd.splat_f32s(floor);
        for ((x, output), channel) in planes.zip(self.channels) {
            let (mean, scale, shift) = splat(simd, channel);
            let (x, x_rest) = S::as_simd_f32s(x);
            let (y, y_rest) = S::as_mut_simd_f32s(output);
            for (y, x) in y.iter_mut().zip(x) {
                let value = simd.mul_add_f32s(simd.sub_f32s(*x, mean), scale, shift);
                *y = simd.max_f32s(value, floors);
            }
            for (y, x) in y_rest.iter_mut().zip(x_rest) {
                *y = (x - channel.mean)
                    .mul_add(channel.scale, channel.shift)
                    .max(floor);
            }
        }
    }
}

#[inline(always)]
pub(crate) fn splat<S: Simd>(simd: S, channel: &Channel) -> (S::f32s, S::f32s, S::f32s) {
    let Channel { mean, scale, shift } = *channel;
    (
        simd.splat_f32s(mean),
        simd.splat_f32s(scale),
        simd.splat_f32s(shift),
    )
}

/// The gradients of [`normalize`], including those through the statistics (Ioffe, Szegedy, 2015, §3).
/// `gradient` is that of the output, and becomes that of the input; weight's and bias's are returned.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gradients(
    x: &[f32],
    gradient: &mut [f32],
    statistics: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f64,
    relu: bool,
    extent: &Extent,
) -> (Vec<f32>, Vec<f32>) {
    let per_channel = channels(statistics, weight, bias, epsilon);
    let of_image = |image: usize| &per_channel[extent.of_group(image)..][..extent.channels];
    // Σ g and Σ g·(x − mean) of each channel of each image.
    let mut planes = vec![[0.0f32; 2]; x.len() / extent.pixels];
    planes
        .par_chunks_mut(extent.channels)
        .zip(
            x.par_chunks(extent.image())
                .zip(gradient.par_chunks(extent.image())),
        )
        .enumerate()
        .for_each(|(image, (planes, (x, gradient)))| {
            vectorized(GradientSums {
                x,
                gradient,
                channels: of_image(image),
                pixels: extent.pixels,
                relu,
                planes,
            });
        });

    let sums = Sums::of(&planes, statistics, weight, epsilon, extent);
    gradient
        .par_chunks_mut(extent.image())
        .zip(x.par_chunks(extent.image()))
        .enumerate()
        .for_each(|(image, (gradient, x))| {
            vectorized(InputGradient {
                x,
                gradient,
                channels: of_image(image),
                corrections: &sums.corrections[extent.of_group(image)..][..extent.channels],
                pixels: extent.pixels,
                relu,
            });
        });
    (sums.weight, sums.bias)
}

/// The results of a backward pass's sums over all images.
pub(crate) struct Sums {
    /// Gradient of the weight.
    pub(crate) weight: Vec<f32>,
    /// Gradient of the bias.
    pub(crate) bias: Vec<f32>,
    /// For each group and channel: the factor of x − mean and the constant in the gradient of x.
    pub(crate) corrections: Vec<[f32; 2]>,
}

impl Sums {
    /// From Σ g and Σ g·(x − mean) of each channel of each image.
    pub(crate) fn of(
        planes: &[[f32; 2]],
        statistics: &[f32],
        weight: &[f32],
        epsilon: f64,
        extent: &Extent,
    ) -> Self {
        let mut weight_gradient = vec![0.0f64; extent.channels];
        let mut bias_gradient = vec![0.0f64; extent.channels];
        let variances = &statistics[statistics.len() / 2..];
        let mut corrections = vec![[0.0f32; 2]; variances.len()];
        let count = (extent.images * extent.pixels) as f64;
        for (group, planes) in planes.chunks(extent.images * extent.channels).enumerate() {
            for channel in 0..extent.channels {
                let planes = || planes[channel..].iter().step_by(extent.channels);
                let sum = planes().map(|p| f64::from(p[0])).sum::<f64>();
                let product = planes().map(|p| f64::from(p[1])).sum::<f64>();
                let index = group * extent.channels + channel;
                let inverse = 1.0 / (f64::from(variances[index]) + epsilon).sqrt();
                weight_gradient[channel] += product * inverse;
                bias_gradient[channel] += sum;
                let scale = f64::from(weight[channel]) * inverse;
                let factor = -scale * inverse * inverse * product / count;
                corrections[index] = [factor as f32, (-scale * sum / count) as f32];
            }
        }
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Self {
            weight: narrow(weight_gradient),
            bias: narrow(bias_gradient),
            corrections,
        }
    }
}

struct GradientSums<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    channels: &'a [Channel],
    pixels: usize,
    relu: bool,
    planes: &'a mut [[f32; 2]],
}

/// The gradient where `relu` passed the value, which is recomputed as in [`Normalize`]; and x − mean.
#[inline(always)]
fn passed<S: Simd>(
    simd: S,
    relu: bool,
    x: S::f32s,
    gradient: S::f32s,
    (mean, scale, shift): (S::f32s, S::f32s, S::f32s),
) -> (S::f32s, S::f32s) {
    let centered = simd.sub_f32s(x, mean);
    if !relu {
        return (gradient, centered);
    }
    let zero = simd.splat_f32s(0.0);
    let value = simd.mul_add_f32s(centered, scale, shift);
    let gradient = simd.select_f32s(simd.greater_than_f32s(value, zero), gradient, zero);
    (gradient, centered)
}

#[inline(always)]
fn passed_value(relu: bool, x: f32, gradient: f32, channel: &Channel) -> (f32, f32) {
    let centered = x - channel.mean;
    let kept = !relu || centered.mul_add(channel.scale, channel.shift) > 0.0;
    (if kept { gradient } else { 0.0 }, centered)
}

impl WithSimd for GradientSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let planes = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.gradient.chunks_exact(self.pixels));
        for ((x, gradient), (channel, plane)) in planes.zip(self.channels.iter().zip(self.planes)) {
            let splatted = splat(simd, channel);
            let ((x, x_rest), (g, g_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(gradient));
            // Two chains each, so that additions overlap.
            let mut sums = [simd.splat_f32s(0.0); 2];
            let mut products = [simd.splat_f32s(0.0); 2];
            for (x, g) in x.chunks(2).zip(g.chunks(2)) {
                for i in 0..x.len() {
                    let (g, centered) = passed(simd, self.relu, x[i], g[i], splatted);
                    sums[i] = simd.add_f32s(sums[i], g);
                    products[i] = simd.mul_add_f32s(g, centered, products[i]);
                }
            }
            let mut totals = [sums, products].map(|s| simd.reduce_sum_f32s(simd.add_f32s(s[0], s[1])));
            for (x, g) in x_rest.iter().zip(g_rest) {
                let (g, centered) = passed_value(self.relu, *x, *g, channel);
                totals[0] += g;
                totals[1] += g * centered;
            }
            *plane = totals;
        }
    }
}

struct InputGradient<'a> {
    x: &'a [f32],
    gradient: &'a mut [f32],
    channels: &'a [Channel],
    corrections: &'a [[f32; 2]],
    pixels: usize,
    relu: bool,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let planes = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.gradient.chunks_exact_mut(self.pixels));
        for ((x, gradient), (channel, [factor, constant])) in
            planes.zip(self.channels.iter().zip(self.corrections))
        {
            let splatted = splat(simd, channel);
            let (factors, constants) = (simd.splat_f32s(*factor), simd.splat_f32s(*constant));
            let ((x, x_rest), (g, g_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(gradient));
            for (x, g) in x.iter().zip(g) {
                let (kept, centered) = passed(simd, self.relu, *x, *g, splatted);
                let corrected = simd.mul_add_f32s(centered, factors, constants);
                *g = simd.mul_add_f32s(kept, splatted.1, corrected);
            }
            for (x, g) in x_rest.iter().zip(g_rest) {
                let (kept, centered) = passed_value(self.relu, *x, *g, channel);
                *g = kept.mul_add(channel.scale, centered.mul_add(*factor, *constant));
            }
        }
    }
}
