//! Convolution of images and its two gradients on the CPU.

mod winograd;

use crate::simd::vectorized;
use crate::uninitialized::uninitialized;
use rayon::prelude::*;

use crate::padded::{Axis, PaddedPlanes, SLACK};
use crate::product::{Accumulate, BLOCK, Correlate, pack_rows, transpose};

/// The sizes of a convolution: square kernels, equal strides and borders, no groups, no dilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) images: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// Floats of the longest vector.
pub(crate) const VECTOR: usize = 16;
/// Pixels of an output from which on sums along them count as long.
const LONG: usize = 1024;
/// Floats of a plane group that should fit in a core's L2 cache.
const CACHED: usize = 96 * 1024;

impl Geometry {
    /// Height and width of the output.
    pub(crate) fn output_size(&self) -> (usize, usize) {
        let size = |n: usize| (n + 2 * self.padding - self.kernel) / self.stride + 1;
        (size(self.height), size(self.width))
    }

    /// Whether the kernel has a single tap, and images need no copies for long runs.
    fn pointwise(&self, channels: usize) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
            && channels.is_multiple_of(BLOCK)
            && self.height * self.width >= 8 * VECTOR
    }

    /// Floats of an image of the input and of the output.
    fn floats_of_an_image(&self) -> (usize, usize) {
        let (height, width) = self.output_size();
        (
            self.inputs * self.height * self.width,
            self.outputs * height * width,
        )
    }

    /// The sum of `part`'s results over images and the gradients of their outputs, in chunks of whole image
    /// groups, each `floats` long. The split depends only on shapes, so the bits do not depend on the number
    /// of threads.
    fn sum_over_images(
        &self,
        x: &[f32],
        gradient: &[f32],
        group: usize,
        floats: usize,
        part: impl Fn(&[f32], &[f32]) -> Vec<f32> + Sync,
    ) -> Vec<f32> {
        let (x_image, y_image) = self.floats_of_an_image();
        let tasks = ((4 << 20) / floats).clamp(2, 16);
        let per_task = self.images.div_ceil(tasks).next_multiple_of(group);
        let parts = x
            .par_chunks(per_task * x_image)
            .zip(gradient.par_chunks(per_task * y_image))
            .map(|(x, gradient)| part(x, gradient))
            .collect::<Vec<_>>();
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or_default();
        for part in parts {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
        total
    }

    fn input_axes(&self) -> (Axis, Axis) {
        let axis = |size| Axis::of_input(size, self.kernel, self.stride, self.padding);
        (axis(self.height), axis(self.width))
    }

    /// Images per group: enough for long runs, few enough for the cache.
    fn group(&self, floats_of_an_image: usize) -> usize {
        (CACHED / floats_of_an_image.max(1)).clamp(1, self.images.div_ceil(2).max(1))
    }
}

/// `[images, outputs, height', width']` of `x`, `[images, inputs, height, width]`, and `weight`,
/// `[outputs, inputs, kernel, kernel]`.
pub(crate) fn forward(x: &[f32], weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let g = geometry;
    if winograd::applies(g) {
        return winograd::forward(x, weight, g);
    }
    if g.pointwise(g.outputs) {
        let mut packed = uninitialized(weight.len());
        packed
            .par_chunks_exact_mut(BLOCK * g.inputs)
            .zip(weight.par_chunks_exact(BLOCK * g.inputs))
            .for_each(|(packed, weight)| pack_rows(weight, g.inputs, BLOCK, g.inputs, packed));
        return pointwise(x, &packed, g.outputs, g);
    }
    let (rows, columns) = g.input_axes();
    let image = rows.length * columns.length * rows.phases.len() * columns.phases.len() * g.inputs;
    let group = g.group(image);
    let layout = PaddedPlanes::new(rows, columns, g.inputs, (g.height, g.width), group);
    let taps = |channel, ky, kx| layout_tap(&layout, g.stride, channel, ky, kx);
    let offsets = each_tap(g.inputs, g.kernel)
        .map(|(c, ky, kx)| taps(c, ky, kx))
        .collect::<Vec<_>>();
    let packed = pack(g.outputs, offsets.len(), |o, k| weight[o * offsets.len() + k]);

    let (height, width) = g.output_size();
    let mut output = uninitialized(g.images * g.outputs * height * width);
    let sums = Sums {
        layout: &layout,
        packed: &packed,
        offsets: &offsets,
        channels: g.outputs,
        pixels: height * width,
    };
    sums.write(x, &mut output, |from, to| {
        for (to, from) in to.chunks_exact_mut(width).zip(from.chunks(layout.columns.length)) {
            to.copy_from_slice(&from[..width]);
        }
    });
    output
}

/// A product with packed weights, pixel by pixel: images are read and written in place.
fn pointwise(source: &[f32], packed: &[f32], channels: usize, g: &Geometry) -> Vec<f32> {
    let pixels = g.height * g.width;
    let inputs = source.len() / (g.images * pixels);
    let offsets = (0..inputs).map(|channel| channel * pixels).collect::<Vec<_>>();
    let mut output = uninitialized(g.images * channels * pixels);
    output
        .par_chunks_exact_mut(channels * pixels)
        .zip(source.par_chunks_exact(inputs * pixels))
        .for_each(|(output, source)| {
            vectorized(Accumulate {
                weights: packed,
                offsets: &offsets,
                source,
                outputs: output,
                row: pixels,
                length: pixels,
                add: false,
            });
        });
    output
}

/// Offset of a tap in the layout of a convolution's input.
fn layout_tap(layout: &PaddedPlanes, stride: usize, channel: usize, ky: usize, kx: usize) -> usize {
    layout.offset(channel, (ky % stride, kx % stride), (ky / stride, kx / stride))
}

/// Channel and tap of each column of a weight, in their order in memory.
fn each_tap(channels: usize, kernel: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let taps = move |channel| (0..kernel * kernel).map(move |tap| (channel, tap / kernel, tap % kernel));
    (0..channels).flat_map(taps)
}

/// Weights in blocks of rows, `[blocks][columns][BLOCK]`; missing rows are zero.
pub(crate) fn pack(rows: usize, columns: usize, weight: impl Fn(usize, usize) -> f32 + Sync) -> Vec<f32> {
    let mut packed = vec![0.0; rows.div_ceil(BLOCK) * columns * BLOCK];
    let blocks = packed.par_chunks_exact_mut(columns * BLOCK).enumerate();
    blocks.for_each(|(block, packed)| {
        let rows = BLOCK.min(rows - block * BLOCK);
        for (column, packed) in packed.chunks_exact_mut(BLOCK).enumerate() {
            for (row, packed) in packed[..rows].iter_mut().enumerate() {
                *packed = weight(block * BLOCK + row, column);
            }
        }
    });
    packed
}

/// The sums of a convolution: shifted runs of the source for each of `channels` channels of `pixels` pixels.
struct Sums<'a> {
    layout: &'a PaddedPlanes,
    /// `[blocks][offsets.len()][BLOCK]`.
    packed: &'a [f32],
    offsets: &'a [usize],
    channels: usize,
    pixels: usize,
}

impl Sums<'_> {
    /// Computes the sums of every image of `source`; `place` writes a run to its output channel.
    fn write(&self, source: &[f32], output: &mut [f32], place: impl Fn(&[f32], &mut [f32]) + Sync) {
        let Self {
            layout,
            channels,
            pixels,
            ..
        } = *self;
        let run = layout.images * layout.image() + SLACK;
        let rows = channels.div_ceil(BLOCK) * BLOCK;
        let source_image = layout.channels * layout.height * layout.width;
        // A few tasks per thread: each has its own buffers, and sums do not depend on the thread.
        let groups = (source.len() / source_image).div_ceil(layout.images);
        let of_task = groups.div_ceil(4 * rayon::current_num_threads()) * layout.images;
        output
            .par_chunks_mut(of_task * channels * pixels)
            .zip(source.par_chunks(of_task * source_image))
            .for_each(|(output, source)| {
                let (mut padded, mut runs) = (vec![0.0; layout.len()], uninitialized(rows * run));
                let groups = output.chunks_mut(layout.images * channels * pixels);
                for (output, source) in groups.zip(source.chunks(layout.images * source_image)) {
                    layout.fill(&mut padded, source);
                    vectorized(Accumulate {
                        weights: self.packed,
                        offsets: self.offsets,
                        source: &padded,
                        outputs: &mut runs,
                        row: run,
                        length: source.len() / source_image * layout.image(),
                        add: false,
                    });
                    for (number, output) in output.chunks_exact_mut(pixels).enumerate() {
                        let (image, channel) = (number / channels, number % channels);
                        let start = channel * run + image * layout.image();
                        place(&runs[start..start + layout.image()], output);
                    }
                }
            });
    }
}

/// The gradient of the input, in its shape, from the gradient of the output.
pub(crate) fn input_gradient(gradient: &[f32], weight: &[f32], geometry: &Geometry) -> Vec<f32> {
    let g = geometry;
    if winograd::applies(g) {
        return winograd::input_gradient(gradient, weight, g);
    }
    if g.pointwise(g.inputs) {
        let packed = pack(g.inputs, g.outputs, |c, o| weight[o * g.inputs + c]);
        return pointwise(gradient, &packed, g.inputs, g);
    }
    let (height, width) = g.output_size();
    let pixels = g.height * g.width;
    // With a stride, some pixels are in no window.
    let count = g.images * g.inputs * pixels;
    let mut output = if g.stride == 1 {
        uninitialized(count)
    } else {
        vec![0.0; count]
    };
    for row_phase in 0..g.stride.min(g.kernel) {
        for column_phase in 0..g.stride.min(g.kernel) {
            let axis = |size, phase| Axis::of_gradient(size, g.kernel, g.stride, g.padding, phase);
            let (rows, first_row) = axis(g.height, row_phase);
            let (columns, first_column) = axis(g.width, column_phase);
            let reach = |phase| (g.kernel - 1 - phase) / g.stride;
            let (row_reach, column_reach) = (reach(row_phase), reach(column_phase));
            let group = g.group(rows.length * columns.length * g.outputs);
            let layout = PaddedPlanes::new(rows, columns, g.outputs, (height, width), group);

            let mut offsets = Vec::new();
            let mut taps = Vec::new();
            for o in 0..g.outputs {
                for m in 0..=row_reach {
                    for l in 0..=column_reach {
                        offsets.push(layout.offset(o, (0, 0), (row_reach - m, column_reach - l)));
                        let (ky, kx) = (row_phase + g.stride * m, column_phase + g.stride * l);
                        taps.push((o * g.inputs * g.kernel + ky) * g.kernel + kx);
                    }
                }
            }
            let packed = pack(g.inputs, offsets.len(), |c, k| {
                weight[taps[k] + c * g.kernel * g.kernel]
            });
            let sums = Sums {
                layout: &layout,
                packed: &packed,
                offsets: &offsets,
                channels: g.inputs,
                pixels,
            };
            sums.write(gradient, &mut output, |from, to| {
                let to = to.chunks_exact_mut(g.width).skip(first_row).step_by(g.stride);
                for (to, from) in to.zip(from.chunks(layout.columns.length)) {
                    let to = to.iter_mut().skip(first_column).step_by(g.stride);
                    for (to, from) in to.zip(from) {
                        *to = *from;
                    }
                }
            });
        }
    }
    output
}

/// The gradient of the weight, in its shape, from the input and the gradient of the output.
pub(crate) fn weight_gradient(x: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let g = geometry;
    let size = g.output_size();
    if g.inputs >= 4 * VECTOR && size.0 * size.1 < LONG {
        return weight_gradient_by_channels(x, gradient, g);
    }
    let (rows, columns) = g.input_axes();
    let image = rows.length * columns.length;
    let padded = image * rows.phases.len() * columns.phases.len() * g.inputs;
    let group = g.group(padded.max(image * g.outputs));
    let outputs = g.outputs.next_multiple_of(BLOCK);
    let given = (Axis::of_outputs(&rows), Axis::of_outputs(&columns));
    let given = PaddedPlanes::new(given.0, given.1, g.outputs, size, group);
    let layout = PaddedPlanes::new(rows, columns, g.inputs, (g.height, g.width), group);
    let offsets = each_tap(g.inputs, g.kernel)
        .map(|(c, ky, kx)| layout_tap(&layout, g.stride, c, ky, kx))
        .collect::<Vec<_>>();

    let (x_image, y_image) = g.floats_of_an_image();
    g.sum_over_images(x, gradient, group, outputs * offsets.len(), |x, gradient| {
        let mut sums = vec![0.0; outputs * offsets.len()];
        let mut padded = vec![0.0; layout.len()];
        let mut rows = vec![0.0; outputs * given.plane];
        for (x, gradient) in x.chunks(group * x_image).zip(gradient.chunks(group * y_image)) {
            layout.fill(&mut padded, x);
            given.fill(&mut rows, gradient);
            let images = x.len() / x_image;
            if images < group {
                // Values of earlier images, in positions that now stay empty, must not count.
                for row in rows.chunks_exact_mut(given.plane) {
                    row[images * given.image()..].fill(0.0);
                }
            }
            vectorized(Correlate {
                rows: &rows,
                row: given.plane,
                source: &padded,
                offsets: &offsets,
                sums: &mut sums,
                length: images * given.image(),
            });
        }
        sums.truncate(g.outputs * offsets.len());
        sums
    })
}

/// [`weight_gradient`] with vectors of input channels instead of vectors of pixels, for small images: with
/// few vectors of pixels per sum, adding up a vector's lanes would be most of the work.
fn weight_gradient_by_channels(x: &[f32], gradient: &[f32], g: &Geometry) -> Vec<f32> {
    let (rows, columns) = g.input_axes();
    let (height, width) = g.output_size();
    let (x_image, y_image) = g.floats_of_an_image();
    let layout = PaddedPlanes::new(rows, columns, g.inputs, (g.height, g.width), 1);
    let phases = layout.rows.phases.len() * layout.columns.phases.len();
    // Channels of a position, and positions of a phase.
    let channels = g.inputs.next_multiple_of(VECTOR);
    let positions = layout.plane - SLACK;
    let offsets = (0..height * width)
        .map(|pixel| (pixel / width * layout.columns.length + pixel % width) * channels)
        .collect::<Vec<_>>();
    let taps = each_tap(1, g.kernel)
        .map(|(_, ky, kx)| {
            let phase = ky % g.stride * layout.columns.phases.len() + kx % g.stride;
            let shift = ky / g.stride * layout.columns.length + kx / g.stride;
            (phase * positions + shift) * channels
        })
        .collect::<Vec<_>>();

    let outputs = g.outputs.next_multiple_of(BLOCK);
    let of_tap = outputs * channels;
    let total = g.sum_over_images(x, gradient, 1, of_tap * taps.len(), |x, gradient| {
        let mut sums = vec![0.0; of_tap * taps.len()];
        let mut planes = vec![0.0; layout.len()];
        let mut padded = uninitialized(phases * positions * channels);
        let mut packed = uninitialized(outputs * offsets.len());
        for (x, gradient) in x.chunks_exact(x_image).zip(gradient.chunks_exact(y_image)) {
            layout.fill(&mut planes, x);
            let planes = planes.chunks_exact(g.inputs * layout.plane);
            for (planes, padded) in planes.zip(padded.chunks_exact_mut(positions * channels)) {
                transpose(planes, layout.plane, g.inputs, positions, padded, channels);
            }
            pack_rows(gradient, offsets.len(), g.outputs, offsets.len(), &mut packed);
            for (tap, sums) in taps.iter().zip(sums.chunks_exact_mut(of_tap)) {
                vectorized(Accumulate {
                    weights: &packed,
                    offsets: &offsets,
                    source: &padded[*tap..],
                    outputs: sums,
                    row: channels,
                    length: g.inputs,
                    add: true,
                });
            }
        }
        sums
    });
    let mut of_weight = uninitialized(g.outputs * g.inputs * taps.len());
    of_weight
        .par_chunks_exact_mut(g.inputs * taps.len())
        .enumerate()
        .for_each(|(o, of_weight)| {
            transpose(
                &total[o * channels..],
                of_tap,
                taps.len(),
                g.inputs,
                of_weight,
                taps.len(),
            );
        });
    of_weight
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every product of a convolution: indices of input, weight and output.
    fn each_product(g: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
        let (height, width) = g.output_size();
        let inside = |position: usize, size: usize| (g.padding..size + g.padding).contains(&position);
        for (image, o, c) in (0..g.images * g.outputs * g.inputs)
            .map(|i| (i / g.inputs / g.outputs, i / g.inputs % g.outputs, i % g.inputs))
        {
            for (y, x) in (0..height * width).map(|i| (i / width, i % width)) {
                for (ky, kx) in (0..g.kernel * g.kernel).map(|i| (i / g.kernel, i % g.kernel)) {
                    let (row, column) = (y * g.stride + ky, x * g.stride + kx);
                    if inside(row, g.height) && inside(column, g.width) {
                        let pixel = (row - g.padding) * g.width + column - g.padding;
                        visit(
                            (image * g.inputs + c) * g.height * g.width + pixel,
                            ((o * g.inputs + c) * g.kernel + ky) * g.kernel + kx,
                            (image * g.outputs + o) * height * width + y * width + x,
                        );
                    }
                }
            }
        }
    }

    fn values(count: usize, seed: usize) -> Vec<f32> {
        let wave = |i: usize| (12.9898 * i as f64 + 78.233 * seed as f64).sin() * 43758.5453;
        (0..count)
            .map(|i| (2.0 * wave(i).rem_euclid(1.0) - 1.0) as f32)
            .collect()
    }

    fn assert_near(ours: &[f32], reference: &[f64], what: &str) {
        assert_eq!(ours.len(), reference.len(), "{what}");
        let difference = ours
            .iter()
            .zip(reference)
            .map(|(a, b)| (f64::from(*a) - b).powi(2))
            .sum::<f64>();
        let error = (difference / reference.iter().map(|b| b * b).sum::<f64>()).sqrt();
        assert!(error < 1e-6, "{what}: {error:e}");
    }

    /// images, inputs, outputs, height, width, kernel, stride, padding
    #[test]
    fn convolution_and_gradients_are_their_definitions() {
        let cases = [
            [2, 3, 5, 9, 9, 3, 1, 1],
            [5, 3, 8, 4, 4, 3, 1, 1],
            [3, 3, 5, 9, 7, 3, 2, 1],
            [3, 2, 9, 10, 12, 3, 2, 1],
            [3, 3, 8, 33, 31, 7, 2, 3],
            [2, 4, 6, 9, 9, 1, 2, 0],
            [3, 4, 6, 8, 8, 1, 2, 0],
            [2, 4, 6, 8, 8, 1, 1, 0],
            // Images in place, and an end that is not a whole vector.
            [3, 5, 8, 13, 11, 1, 1, 0],
            [2, 16, 24, 16, 16, 1, 1, 0],
            // Vectors of channels for the weight's gradient.
            [3, 70, 24, 9, 8, 1, 1, 0],
            [3, 64, 9, 9, 8, 3, 2, 1],
            [2, 65, 12, 7, 7, 3, 1, 1],
            // Patches of a vision transformer.
            [2, 3, 8, 12, 12, 4, 4, 0],
            // A padding that leaves a phase of the gradient without its first line.
            [2, 3, 4, 7, 7, 3, 2, 2],
            [2, 3, 4, 9, 9, 5, 3, 1],
            // More terms than are summed at once, and uneven groups of images.
            [37, 40, 20, 6, 6, 3, 2, 1],
            [37, 40, 20, 6, 6, 3, 1, 0],
            // In Winograd's domain: odd and even sizes, one image, strips that split images and that hold
            // several.
            [3, 64, 65, 7, 7, 3, 1, 1],
            [1, 65, 64, 4, 5, 3, 1, 1],
            [2, 64, 70, 17, 20, 3, 1, 1],
            [13, 70, 64, 6, 5, 3, 1, 1],
            [2, 64, 64, 34, 36, 3, 1, 1],
            [2, 64, 300, 9, 10, 3, 1, 1],
            [3, 1, 1, 5, 5, 2, 1, 0],
            [1, 1, 1, 1, 1, 3, 1, 1],
            // Windows that span far.
            [1, 3, 4, 32, 32, 16, 16, 0],
            [2, 1, 2, 20, 13, 11, 1, 5],
            // No window reads the last pixels.
            [2, 2, 3, 8, 8, 3, 3, 0],
        ];
        for case in cases {
            let [images, inputs, outputs, height, width, kernel, stride, padding] = case;
            let g = Geometry {
                images,
                inputs,
                outputs,
                height,
                width,
                kernel,
                stride,
                padding,
            };
            let (output_height, output_width) = g.output_size();
            let x = values(images * inputs * height * width, 1);
            let weight = values(outputs * inputs * kernel * kernel, 2);
            let gradient = values(images * outputs * output_height * output_width, 3);
            let mut output = vec![0.0; gradient.len()];
            let (mut of_x, mut of_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
            each_product(&g, |i, k, o| {
                output[o] += f64::from(x[i]) * f64::from(weight[k]);
                of_x[i] += f64::from(gradient[o]) * f64::from(weight[k]);
                of_weight[k] += f64::from(gradient[o]) * f64::from(x[i]);
            });
            assert_near(&forward(&x, &weight, &g), &output, &format!("forward {case:?}"));
            assert_near(
                &input_gradient(&gradient, &weight, &g),
                &of_x,
                &format!("input {case:?}"),
            );
            assert_near(
                &weight_gradient(&x, &gradient, &g),
                &of_weight,
                &format!("weight {case:?}"),
            );
        }
    }
    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        // Runs of pixels, tiles, pixels in place, and small images.
        for (channels, size, kernel) in [(5, 13, 3), (64, 13, 3), (8, 13, 1), (64, 9, 1)] {
            let g = Geometry {
                images: 40,
                inputs: channels,
                outputs: 64,
                height: size,
                width: size,
                kernel,
                stride: 1,
                padding: kernel / 2,
            };
            let x = values(40 * channels * size * size, 1);
            let weight = values(64 * channels * kernel * kernel, 2);
            let gradient = values(40 * 64 * size * size, 3);
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    (
                        forward(&x, &weight, &g),
                        input_gradient(&gradient, &weight, &g),
                        weight_gradient(&x, &gradient, &g),
                    )
                })
            };
            let one = with(1);
            assert!(one == with(2) && one == with(5), "{g:?}");
        }
    }
}
