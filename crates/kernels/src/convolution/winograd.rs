//! 3×3 convolution at stride 1, and the gradient of its input, with 16 products for four outputs instead of 36.
//!
//! Winograd's F(2×2, 3×3) (Lavin, Gray, *Fast algorithms for convolutional neural networks*, 2015, §4.1): a
//! tile of 4×4 inputs `d` and a kernel `g` give 2×2 outputs `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. Summed over input
//! channels, each of the 16 positions `p` of a tile is a separate matrix product, `M[p] = U[p] V[p]`, which
//! the inner loops of [`product`](crate::product) compute. The gradient of the input is again a convolution,
//! with the kernel rotated. The gradient of the weight, whose sums run over tiles, gains nothing here:
//! transforming both factors costs as much as it saves.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, VECTOR};
use crate::padded::{Axis, PaddedPlanes};
use crate::product::{Accumulate, BLOCK};
use crate::simd::vectorized;
use crate::uninitialized::uninitialized;

/// Positions of a tile.
const PLACES: usize = 16;
/// Channels, and pixels of a side, below which the tiles cost more than they save.
const FEWEST: usize = 64;
const SMALLEST: usize = 4;
/// Floats of input and output tiles that a strip should hold to stay in a core's cache.
const CACHED: usize = 160 * 1024;
/// Fewest tiles of a strip that keep the inner loops busy.
const SHORTEST: usize = 48;

/// Whether this file computes a convolution.
pub(crate) fn applies(g: &Geometry) -> bool {
    (g.kernel, g.stride, g.padding) == (3, 1, 1)
        && g.inputs.min(g.outputs) >= FEWEST
        && g.height.min(g.width) >= SMALLEST
}

/// As [`convolution::forward`](crate::convolution::forward).
pub(crate) fn forward(x: &[f32], weight: &[f32], g: &Geometry) -> Vec<f32> {
    let kernel = |o: usize, c: usize, tap: usize| weight[(o * g.inputs + c) * 9 + tap];
    convolve(x, &Kernels::new(g.outputs, g.inputs, kernel), g)
}

/// As [`convolution::input_gradient`](crate::convolution::input_gradient).
pub(crate) fn input_gradient(gradient: &[f32], weight: &[f32], g: &Geometry) -> Vec<f32> {
    let kernel = |c: usize, o: usize, tap: usize| weight[(o * g.inputs + c) * 9 + (8 - tap)];
    convolve(gradient, &Kernels::new(g.inputs, g.outputs, kernel), g)
}

/// Kernels in Winograd's domain, `U = G g Gᵀ`.
struct Kernels {
    outputs: usize,
    inputs: usize,
    /// `[PLACES]`, each packed in blocks of outputs.
    places: Vec<Vec<f32>>,
}

impl Kernels {
    fn new(outputs: usize, inputs: usize, kernel: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let half = |[a, b, c]: [f32; 3]| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
        let blocks = outputs.div_ceil(BLOCK);
        let mut places = vec![vec![0.0f32; blocks * inputs * BLOCK]; PLACES];
        let mut of_blocks = (0..blocks)
            .map(|_| Vec::with_capacity(PLACES))
            .collect::<Vec<_>>();
        for place in &mut places {
            for (block, of_block) in place.chunks_exact_mut(inputs * BLOCK).zip(&mut of_blocks) {
                of_block.push(block);
            }
        }
        of_blocks.par_iter_mut().enumerate().for_each(|(block, places)| {
            for c in 0..inputs {
                for o in 0..BLOCK.min(outputs - block * BLOCK) {
                    let tap = |y: usize, x: usize| kernel(block * BLOCK + o, c, 3 * y + x);
                    let columns: [[f32; 4]; 3] =
                        std::array::from_fn(|x| half([tap(0, x), tap(1, x), tap(2, x)]));
                    for i in 0..4 {
                        let line = half([columns[0][i], columns[1][i], columns[2][i]]);
                        for (j, value) in line.into_iter().enumerate() {
                            places[4 * i + j][c * BLOCK + o] = value;
                        }
                    }
                }
            }
        });
        Self {
            outputs,
            inputs,
            places,
        }
    }
}

/// How the images of a batch are divided into strips of tiles.
struct Cut {
    /// Rows and columns of tiles per image.
    rows: usize,
    columns: usize,
    /// Images laid out together.
    group: usize,
    /// Rows of tiles in a strip; a strip may span several images.
    strip: usize,
    /// Floats from one channel's tiles to the next's.
    run: usize,
}

impl Cut {
    /// Strips of about `tiles` tiles of at most `images` images.
    fn new(g: &Geometry, images: usize, tiles: usize) -> Self {
        let (rows, columns) = (g.height.div_ceil(2), g.width.div_ceil(2));
        let group = tiles.div_ceil(rows * columns).min(images).max(1);
        let strip = if group == 1 {
            (tiles / columns).clamp(1, rows)
        } else {
            group * rows
        };
        Self {
            rows,
            columns,
            group,
            strip,
            run: (strip * columns).next_multiple_of(VECTOR),
        }
    }

    /// Floats of all positions of `channels` channels.
    fn len(&self, channels: usize) -> usize {
        PLACES * self.place(channels)
    }

    /// Floats of one position, padded so that vectors written past the last run do not reach the next
    /// position.
    fn place(&self, channels: usize) -> usize {
        channels * self.run + 2 * VECTOR
    }
}

/// Convolves `source`, `[images, inputs, height, width]`.
fn convolve(source: &[f32], kernels: &Kernels, g: &Geometry) -> Vec<f32> {
    let (inputs, outputs, pixels) = (kernels.inputs, kernels.outputs, g.height * g.width);
    let padded = outputs.next_multiple_of(BLOCK);
    let mut output = uninitialized(g.images * outputs * pixels);
    let tiles = (CACHED / (PLACES * (inputs + padded))).max(SHORTEST);
    // A few tasks per thread, with enough images for a strip. Sums do not depend on the thread.
    let of_strip = tiles.div_ceil(g.height.div_ceil(2) * g.width.div_ceil(2));
    let fair = g.images.div_ceil(rayon::current_num_threads());
    let of_task = g
        .images
        .div_ceil(4 * rayon::current_num_threads())
        .max(of_strip.min(fair));
    let cut = Cut::new(g, of_task, tiles);
    let axes = (Axis::of_tiles(g.height), Axis::of_tiles(g.width));
    let layout = PaddedPlanes::new(axes.0, axes.1, inputs, (g.height, g.width), cut.group);
    let offsets = (0..inputs).map(|channel| channel * cut.run).collect::<Vec<_>>();

    output
        .par_chunks_mut(of_task * outputs * pixels)
        .zip(source.par_chunks(of_task * inputs * pixels))
        .for_each(|(output, source)| {
            let mut planes = vec![0.0; layout.len()];
            let (mut into, mut out) = (uninitialized(cut.len(inputs)), uninitialized(cut.len(padded)));
            let groups = output.chunks_mut(cut.group * outputs * pixels);
            for (output, source) in groups.zip(source.chunks(cut.group * inputs * pixels)) {
                layout.fill(&mut planes, source);
                let rows = source.len() / (inputs * pixels) * cut.rows;
                for first in (0..rows).step_by(cut.strip) {
                    let strip = first..(first + cut.strip).min(rows);
                    let length = strip.len() * cut.columns;
                    vectorized(InputTiles {
                        cut: &cut,
                        layout: &layout,
                        planes: &planes,
                        strip: strip.clone(),
                        tiles: &mut into,
                    });
                    let places = into
                        .chunks_exact(cut.place(inputs))
                        .zip(out.chunks_exact_mut(cut.place(padded)));
                    for ((into, out), weights) in places.zip(&kernels.places) {
                        vectorized(Accumulate {
                            weights,
                            offsets: &offsets,
                            source: into,
                            outputs: out,
                            row: cut.run,
                            length,
                            add: false,
                        });
                    }
                    vectorized(Outputs {
                        cut: &cut,
                        tiles: &out,
                        strip,
                        channels: (outputs, padded),
                        size: (g.height, g.width),
                        output,
                    });
                }
            }
        });
    output
}

/// `Bᵀ d B` of every tile of a strip and every channel: `tiles` is `[PLACES][channels][run]`, with the tiles
/// of a row after those of the previous row.
struct InputTiles<'a> {
    cut: &'a Cut,
    layout: &'a PaddedPlanes,
    planes: &'a [f32],
    strip: std::ops::Range<usize>,
    tiles: &'a mut [f32],
}

// Here and below: plain index loops place the vectors, because closures would not be inlined into one
// function.
#[allow(clippy::needless_range_loop)]
impl WithSimd for InputTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            cut, layout, planes, ..
        } = self;
        let place = cut.place(layout.channels);
        for channel in 0..layout.channels {
            let mut taps = [[0; 4]; 4];
            for (y, taps) in taps.iter_mut().enumerate() {
                for (x, tap) in taps.iter_mut().enumerate() {
                    *tap = layout.offset(channel, (y % 2, x % 2), (y / 2, x / 2));
                }
            }
            for (number, row) in self.strip.clone().enumerate() {
                let start = row / cut.rows * layout.image() + row % cut.rows * layout.columns.length;
                let to = channel * cut.run + number * cut.columns;
                for lane in (0..cut.columns).step_by(S::F32_LANES) {
                    // Down the columns, then along the rows.
                    let mut columns = [[simd.splat_f32s(0.0); 4]; 4];
                    for x in 0..4 {
                        let mut column = [simd.splat_f32s(0.0); 4];
                        for y in 0..4 {
                            column[y] = load(simd, &planes[taps[y][x] + start + lane..]);
                        }
                        columns[x] = into_domain(simd, column);
                    }
                    for y in 0..4 {
                        let row = [columns[0][y], columns[1][y], columns[2][y], columns[3][y]];
                        let values = into_domain(simd, row);
                        for x in 0..4 {
                            store(
                                simd,
                                &mut self.tiles[(4 * y + x) * place + to + lane..],
                                values[x],
                            );
                        }
                    }
                }
            }
        }
    }
}

/// `Aᵀ M A` of every tile of a strip, written to its pixels.
struct Outputs<'a> {
    cut: &'a Cut,
    tiles: &'a [f32],
    strip: std::ops::Range<usize>,
    /// Channels of the output, and the capacity of `tiles`.
    channels: (usize, usize),
    /// Height and width.
    size: (usize, usize),
    output: &'a mut [f32],
}

#[allow(clippy::needless_range_loop)]
impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { cut, tiles, .. } = self;
        let ((channels, padded), (height, width)) = (self.channels, self.size);
        let place = cut.place(padded);
        let room = cut.columns.next_multiple_of(VECTOR);
        // Even and odd columns of the two rows of pixels.
        let mut lines = vec![0.0f32; 4 * room];
        for channel in 0..channels {
            for (number, row) in self.strip.clone().enumerate() {
                let from = channel * cut.run + number * cut.columns;
                for lane in (0..cut.columns).step_by(S::F32_LANES) {
                    let mut columns = [[simd.splat_f32s(0.0); 2]; 4];
                    for x in 0..4 {
                        let mut column = [simd.splat_f32s(0.0); 4];
                        for y in 0..4 {
                            column[y] = load(simd, &tiles[(4 * y + x) * place + from + lane..]);
                        }
                        columns[x] = out_of_domain(simd, column);
                    }
                    for y in 0..2 {
                        let row = [columns[0][y], columns[1][y], columns[2][y], columns[3][y]];
                        let pair = out_of_domain(simd, row);
                        for x in 0..2 {
                            store(simd, &mut lines[(2 * y + x) * room + lane..], pair[x]);
                        }
                    }
                }
                let (image, top) = (row / cut.rows, row % cut.rows * 2);
                for y in 0..2.min(height - top) {
                    let to = ((image * channels + channel) * height + top + y) * width;
                    let to = &mut self.output[to..to + width];
                    let (even, odd) = lines[2 * y * room..(2 * y + 2) * room].split_at(room);
                    for ((to, even), odd) in to.chunks_exact_mut(2).zip(even).zip(odd) {
                        to[0] = *even;
                        to[1] = *odd;
                    }
                    if width % 2 == 1 {
                        to[width - 1] = even[width / 2];
                    }
                }
            }
        }
    }
}

/// `Bᵀ` times a column.
#[inline(always)]
fn into_domain<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
    [
        simd.sub_f32s(a, c),
        simd.add_f32s(b, c),
        simd.sub_f32s(c, b),
        simd.sub_f32s(b, d),
    ]
}

/// `Aᵀ` times a column.
#[inline(always)]
fn out_of_domain<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 2] {
    let (sum, difference) = (simd.add_f32s(b, c), simd.sub_f32s(b, c));
    [simd.add_f32s(a, sum), simd.sub_f32s(difference, d)]
}

#[inline(always)]
fn load<S: Simd>(_: S, from: &[f32]) -> S::f32s {
    S::as_simd_f32s(&from[..S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(_: S, to: &mut [f32], value: S::f32s) {
    S::as_mut_simd_f32s(&mut to[..S::F32_LANES]).0[0] = value;
}
