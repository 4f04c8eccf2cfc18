//! A resize of which only a window is kept: the same pixels as the whole result has there, without the rest.
//!
//! A picture of 1 x 60,000 px whose shorter side becomes 256 px has 4 billion pixels then, of which a center
//! crop keeps 50,176. The coefficients and their rounding are those of the `fast_image_resize` crate, which
//! cannot leave pixels out, so that the result is the same to the bit.

use std::ops::Range;

use super::Filter;
use crate::decode::RgbImage;

/// The window of a resized picture that is computed, px.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Columns of the resized picture.
    pub(crate) columns: Range<u32>,
    /// Rows of the resized picture.
    pub(crate) rows: Range<u32>,
}

/// Resizes `image` to `width` x `height` px and returns the window of it, into `out`.
///
/// As the whole resize does, rows are resized first and rounded, then columns. `narrowed` is memory.
pub(crate) fn resize_window(
    image: &RgbImage,
    (width, height): (u32, u32),
    filter: Filter,
    window: &Window,
    narrowed: &mut Vec<u8>,
    out: &mut RgbImage,
) {
    let across = Taps::new(image.width, width, filter, &window.columns);
    let down = Taps::new(image.height, height, filter, &window.rows);
    // The rows of the image that the window's rows are made of.
    let first = down.taps.iter().map(|tap| tap.start).min().unwrap_or(0);
    let end = down.taps.iter().map(Tap::end).max().unwrap_or(0);
    let line = window.columns.len() * 3;
    let source = image.width as usize * 3;

    narrowed.clear();
    narrowed.reserve((end - first) * line);
    for row in first..end {
        let row = &image.pixels[row * source..][..source];
        for tap in &across.taps {
            let mut sums = [across.half(); 3];
            for (weight, pixel) in tap.weights.iter().zip(row[tap.start * 3..].as_chunks::<3>().0) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*weight) * i32::from(*value);
                }
            }
            narrowed.extend(sums.map(|sum| across.rounded(sum)));
        }
    }

    (out.width, out.height) = (window.columns.len() as u32, window.rows.len() as u32);
    out.pixels.clear();
    out.pixels.reserve(down.taps.len() * line);
    let mut sums = vec![0i32; line];
    for tap in &down.taps {
        sums.fill(down.half());
        let rows = narrowed[(tap.start - first) * line..].chunks_exact(line);
        for (weight, row) in tap.weights.iter().zip(rows) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*weight) * i32::from(*value);
            }
        }
        out.pixels.extend(sums.iter().map(|sum| down.rounded(*sum)));
    }
}

/// The pixels of one direction that make a pixel of the result, and their weights.
struct Tap {
    start: usize,
    weights: Vec<i16>,
}

impl Tap {
    fn end(&self) -> usize {
        self.start + self.weights.len()
    }
}

/// The taps of one direction, within the window.
struct Taps {
    taps: Vec<Tap>,
    /// Bits after the point of a weight.
    precision: u8,
}

/// The crate's bounds: 8 bits of a result and 2 more for sums beyond it, of 32; and 16-bit weights.
const MOST_PRECISION: u8 = 32 - 8 - 2;
const WEIGHT_BITS: u8 = 16 - 1;

impl Taps {
    fn new(from: u32, to: u32, filter: Filter, window: &Range<u32>) -> Taps {
        if from == to {
            // The crate leaves such a direction as it is.
            let taps = window.clone().map(|at| Tap {
                start: at as usize,
                weights: vec![1],
            });
            return Taps {
                taps: taps.collect(),
                precision: 0,
            };
        }
        let kernel = Kernel::new(from, to, filter);
        let precision = kernel.precision(to);
        let scale = f64::from(1u32 << precision);
        let taps = window.clone().map(|at| {
            let (start, weights) = kernel.weights(at);
            Tap {
                start,
                weights: weights
                    .iter()
                    .map(|weight| (weight * scale).round() as i16)
                    .collect(),
            }
        });
        Taps {
            taps: taps.collect(),
            precision,
        }
    }

    /// What a sum starts with, so that cutting its bits rounds it.
    fn half(&self) -> i32 {
        match self.precision {
            0 => 0,
            bits => 1 << (bits - 1),
        }
    }

    fn rounded(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

/// The filter of one direction, as wide as the resize needs it.
struct Kernel {
    from: u32,
    /// Pixels of the image per pixel of the result.
    scale: f64,
    filter: Filter,
    radius: f64,
    shrink: f64,
}

impl Kernel {
    fn new(from: u32, to: u32, filter: Filter) -> Kernel {
        let scale = f64::from(from) / f64::from(to);
        let widened = scale.max(1.0);
        let support = match filter {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        };
        Kernel {
            from,
            scale,
            filter,
            radius: support * widened,
            shrink: 1.0 / widened,
        }
    }

    /// The first pixel of the image that counts, and the weights from there on; their sum is 1.
    fn weights(&self, at: u32) -> (usize, Vec<f64>) {
        let middle = (f64::from(at) + 0.5) * self.scale;
        let start = (middle - self.radius).floor().max(0.0) as u32;
        let end = (middle + self.radius).ceil().min(f64::from(self.from)) as u32;
        let middle = middle - 0.5;
        let mut weights: Vec<f64> = (start..end)
            .map(|pixel| self.value((f64::from(pixel) - middle) * self.shrink))
            .collect();
        let skipped = weights.iter().take_while(|weight| **weight == 0.0).count();
        weights.drain(..skipped);
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        while weights.last().is_some_and(|weight| *weight == 0.0) {
            weights.pop();
        }
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        (start as usize + skipped, weights)
    }

    fn value(&self, x: f64) -> f64 {
        let x = x.abs();
        match self.filter {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bilinear => 0.0,
            // a = -0.5, in the crate's order of operations.
            Filter::Bicubic if x < 1.0 => ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Bicubic => 0.0,
        }
    }

    /// Bits after the point: as many as the largest weight of the whole result leaves room for.
    fn precision(&self, to: u32) -> u8 {
        let bits = |largest: f64| {
            (0..MOST_PRECISION)
                .find(|bits| (largest * f64::from(1u32 << (bits + 1))).round() as i32 >= 1 << WEIGHT_BITS)
                .unwrap_or(MOST_PRECISION - 1)
        };
        let mut largest = 0.0f64;
        for at in 0..to {
            let (_, weights) = self.weights(at);
            largest = weights.into_iter().fold(largest, f64::max);
            // No weight reaches 2, so none that is still to come takes another bit.
            if largest >= 1.0 {
                break;
            }
        }
        bits(largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::randomness::{Purpose, below, generator};
    use crate::transforms::geometry::{CropBox, Resampler};

    /// Noise of `width` x `height` px.
    fn noise(width: u32, height: u32) -> RgbImage {
        let mut draws = generator(7, Purpose::View, 0, u64::from(width), u64::from(height));
        let pixels = (0..width * height * 3).map(|_| below(&mut draws, 256) as u8);
        RgbImage {
            width,
            height,
            pixels: pixels.collect(),
        }
    }

    /// The same window, cut from the whole result.
    fn cut(image: &RgbImage, size: (u32, u32), filter: Filter, window: &Window) -> RgbImage {
        let mut whole = RgbImage::default();
        let all = CropBox::whole(image);
        Resampler::default().crop_and_resize(image, all, size.0, size.1, filter, &mut whole);
        let columns = window.columns.start as usize * 3..window.columns.end as usize * 3;
        let rows = whole.pixels.chunks_exact(size.0 as usize * 3);
        let rows = rows.skip(window.rows.start as usize).take(window.rows.len());
        RgbImage {
            width: window.columns.len() as u32,
            height: window.rows.len() as u32,
            pixels: rows.flat_map(|row| row[columns.clone()].to_vec()).collect(),
        }
    }

    #[test]
    fn a_window_is_the_whole_result_there_to_the_bit() {
        let mut draws = generator(3, Purpose::View, 0, 0, 0);
        let mut side = |most: u64| below(&mut draws, most) as u32 + 1;
        let mut sizes = vec![
            ((1, 300), (64, 19_200)),
            ((300, 1), (19_200, 64)),
            ((5, 5), (5, 5)),
        ];
        for _ in 0..60 {
            sizes.push(((side(90), side(90)), (side(300), side(300))));
            // One side as it is, which the crate leaves alone.
            let (width, height) = (side(90), side(90));
            sizes.push(((width, height), (width, side(300))));
        }
        for (from, to) in sizes {
            let image = noise(from.0, from.1);
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let (left, top) = (to.0 / 3, to.1 / 4);
                let window = Window {
                    columns: left..(left + 20).min(to.0),
                    rows: top..(top + 30).min(to.1),
                };
                let mut kept = RgbImage::default();
                resize_window(&image, to, filter, &window, &mut Vec::new(), &mut kept);
                assert_eq!(
                    kept,
                    cut(&image, to, filter, &window),
                    "{from:?} to {to:?}, {filter:?}"
                );
            }
        }
    }
}
