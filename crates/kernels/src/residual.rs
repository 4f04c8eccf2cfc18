//! The end of a residual block on the CPU: batch normalization, the added shortcut, ReLU, and their
//! gradients. Separately they would take three passes over a ResNet's largest feature maps in each direction.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::batch_norm::{Channel, Extent, Sums, channels, splat};
use crate::simd::vectorized;
use crate::uninitialized::uninitialized;

/// The images normalized, scaled and shifted, plus `shortcut`, then ReLU: the end of a residual block.
pub(crate) fn normalize_add_relu(
    x: &[f32],
    shortcut: &[f32],
    statistics: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f64,
    extent: &Extent,
) -> Vec<f32> {
    let channels = channels(statistics, weight, bias, epsilon);
    let mut output = uninitialized(x.len());
    output
        .par_chunks_mut(extent.image())
        .zip(x.par_chunks(extent.image()))
        .zip(shortcut.par_chunks(extent.image()))
        .enumerate()
        .for_each(|(image, ((output, x), shortcut))| {
            vectorized(NormalizeAddRelu {
                x,
                shortcut,
                output,
                channels: &channels[extent.of_group(image)..][..extent.channels],
                pixels: extent.pixels,
            });
        });
    output
}

struct NormalizeAddRelu<'a> {
    x: &'a [f32],
    shortcut: &'a [f32],
    output: &'a mut [f32],
    channels: &'a [Channel],
    pixels: usize,
}

impl WithSimd for NormalizeAddRelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let inputs = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.shortcut.chunks_exact(self.pixels));
        let planes = inputs.zip(self.output.chunks_exact_mut(self.pixels));
        let zero = simd.splat_f32s(0.0);
        for (((x, shortcut), output), channel) in planes.zip(self.channels) {
            let (mean, scale, shift) = splat(simd, channel);
            let ((x, x_rest), (s, s_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(shortcut));
            let (y, y_rest) = S::as_mut_simd_f32s(output);
            for ((y, x), s) in y.iter_mut().zip(x).zip(s) {
                let value = simd.mul_add_f32s(simd.sub_f32s(*x, mean), scale, shift);
                *y = simd.max_f32s(simd.add_f32s(value, *s), zero);
            }
            for ((y, x), s) in y_rest.iter_mut().zip(x_rest).zip(s_rest) {
                let value = (x - channel.mean).mul_add(channel.scale, channel.shift);
                *y = (value + s).max(0.0);
            }
        }
    }
}

/// The gradients of [`normalize_add_relu`]. `gradient` is that of the output, and becomes that of the
/// shortcut (zero where `output` is zero); those of x, weight and bias are returned.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gradients_add_relu(
    x: &[f32],
    output: &[f32],
    gradient: &mut [f32],
    statistics: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f64,
    extent: &Extent,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let per_channel = channels(statistics, weight, bias, epsilon);
    let of_image = |image: usize| &per_channel[extent.of_group(image)..][..extent.channels];
    let mut planes = vec![[0.0f32; 2]; x.len() / extent.pixels];
    planes
        .par_chunks_mut(extent.channels)
        .zip(gradient.par_chunks_mut(extent.image()))
        .zip(
            x.par_chunks(extent.image())
                .zip(output.par_chunks(extent.image())),
        )
        .enumerate()
        .for_each(|(image, ((planes, gradient), (x, output)))| {
            vectorized(MaskedSums {
                x,
                output,
                gradient,
                channels: of_image(image),
                pixels: extent.pixels,
                planes,
            });
        });

    let sums = Sums::of(&planes, statistics, weight, epsilon, extent);
    let mut of_x = uninitialized(x.len());
    of_x.par_chunks_mut(extent.image())
        .zip(gradient.par_chunks(extent.image()))
        .zip(x.par_chunks(extent.image()))
        .enumerate()
        .for_each(|(image, ((of_x, gradient), x))| {
            vectorized(InputGradientBeside {
                x,
                gradient,
                of_x,
                channels: of_image(image),
                corrections: &sums.corrections[extent.of_group(image)..][..extent.channels],
                pixels: extent.pixels,
            });
        });
    (of_x, sums.weight, sums.bias)
}

/// The gradient set to zero where the output is zero, and its sums.
struct MaskedSums<'a> {
    x: &'a [f32],
    output: &'a [f32],
    gradient: &'a mut [f32],
    channels: &'a [Channel],
    pixels: usize,
    planes: &'a mut [[f32; 2]],
}

impl WithSimd for MaskedSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let inputs = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.output.chunks_exact(self.pixels));
        let planes = inputs.zip(self.gradient.chunks_exact_mut(self.pixels));
        let zero = simd.splat_f32s(0.0);
        for (((x, output), gradient), (channel, plane)) in planes.zip(self.channels.iter().zip(self.planes)) {
            let (mean, _, _) = splat(simd, channel);
            let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(output));
            let (g, g_rest) = S::as_mut_simd_f32s(gradient);
            // Two chains each, so that additions overlap.
            let mut sums = [zero; 2];
            let mut products = [zero; 2];
            for ((x, y), g) in x.chunks(2).zip(y.chunks(2)).zip(g.chunks_mut(2)) {
                for i in 0..x.len() {
                    g[i] = simd.select_f32s(simd.greater_than_f32s(y[i], zero), g[i], zero);
                    sums[i] = simd.add_f32s(sums[i], g[i]);
                    products[i] = simd.mul_add_f32s(g[i], simd.sub_f32s(x[i], mean), products[i]);
                }
            }
            let mut totals = [sums, products].map(|s| simd.reduce_sum_f32s(simd.add_f32s(s[0], s[1])));
            for ((x, y), g) in x_rest.iter().zip(y_rest).zip(g_rest) {
                *g = if *y > 0.0 { *g } else { 0.0 };
                totals[0] += *g;
                totals[1] += *g * (x - channel.mean);
            }
            *plane = totals;
        }
    }
}

/// The gradient of x, computed next to that of the shortcut, which stays.
struct InputGradientBeside<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    of_x: &'a mut [f32],
    channels: &'a [Channel],
    corrections: &'a [[f32; 2]],
    pixels: usize,
}

impl WithSimd for InputGradientBeside<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let inputs = self
            .x
            .chunks_exact(self.pixels)
            .zip(self.gradient.chunks_exact(self.pixels));
        let planes = inputs.zip(self.of_x.chunks_exact_mut(self.pixels));
        for (((x, gradient), of_x), (channel, [factor, constant])) in
            planes.zip(self.channels.iter().zip(self.corrections))
        {
            let (mean, scale, _) = splat(simd, channel);
            let (factors, constants) = (simd.splat_f32s(*factor), simd.splat_f32s(*constant));
            let ((x, x_rest), (g, g_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(gradient));
            let (o, o_rest) = S::as_mut_simd_f32s(of_x);
            for ((x, g), o) in x.iter().zip(g).zip(o) {
                let corrected = simd.mul_add_f32s(simd.sub_f32s(*x, mean), factors, constants);
                *o = simd.mul_add_f32s(*g, scale, corrected);
            }
            for ((x, g), o) in x_rest.iter().zip(g_rest).zip(o_rest) {
                let corrected = (x - channel.mean).mul_add(*factor, *constant);
                *o = g.mul_add(channel.scale, corrected);
            }
        }
    }
}
