//! A small mask and its box in, a mask of the photo's size out.

use std::ops::Range;

use data::targets::{BoundingBox, Rle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a mask is enlarged to its box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Paste {
    /// The mask with a border of zeros, resized to a grown box with whole pixels: torchvision's.
    GrownBox,
    /// Sampled at the centers of pixels within the box itself: detectron2's.
    PixelCenters,
}

/// The probability of each pixel, `[height · width]`, 0 outside the box. 0.5 is the usual threshold.
///
/// - `mask`: `[side · side]` probabilities
/// - `size`: height and width of the photo, px
pub fn paste(mask: &[f32], side: usize, bounds: &BoundingBox, size: [usize; 2], how: Paste) -> Vec<f32> {
    let mut photo = vec![0.0; size[0] * size[1]];
    let part = Part::new(mask, side, bounds, size, how);
    part.each(|y, x, value| photo[y * size[1] + x] = value);
    photo
}

/// The pixels of more than 0.5 as run lengths; of the photo, only the part that the mask can reach is made.
///
/// As [`paste`]; both sides of the photo are at least 1.
pub fn pasted_rle(mask: &[f32], side: usize, bounds: &BoundingBox, size: [usize; 2], how: Paste) -> Rle {
    let part = Part::new(mask, side, bounds, size, how);
    let high = part.rows.len();
    let mut columns = vec![false; high * part.columns.len()];
    part.each(|y, x, value| columns[(x - part.columns.start) * high + y - part.rows.start] = value > 0.5);
    let mut runs = Runs::default();
    runs.push(false, part.columns.start * size[0]);
    for column in columns.chunks_exact(high.max(1)) {
        runs.push(false, part.rows.start);
        for pixel in column {
            runs.push(*pixel, 1);
        }
        runs.push(false, size[0] - part.rows.end);
    }
    runs.push(false, (size[1] - part.columns.end) * size[0]);
    let (width, height) = (size[1] as u32, size[0] as u32);
    Rle::new(width, height, runs.lengths).unwrap_or_else(|_| Rle::empty(width, height))
}

/// Lengths of pixels outside, inside, outside and so on.
#[derive(Default)]
struct Runs {
    lengths: Vec<u32>,
}

impl Runs {
    fn push(&mut self, inside: bool, count: usize) {
        if self.lengths.is_empty() {
            self.lengths.push(0);
        }
        // The runs at odd places are inside.
        let is_inside = self.lengths.len().is_multiple_of(2);
        if is_inside != inside {
            self.lengths.push(0);
        }
        if let Some(last) = self.lengths.last_mut() {
            *last += count as u32;
        }
    }
}

/// The part of a photo that a mask can reach.
struct Part<'a> {
    mask: &'a [f32],
    side: usize,
    bounds: &'a BoundingBox,
    how: Paste,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<'a> Part<'a> {
    /// No pixel for a mask of another size and a box that is not finite or empty.
    fn new(mask: &'a [f32], side: usize, bounds: &'a BoundingBox, size: [usize; 2], how: Paste) -> Self {
        let is_mask = side > 0 && mask.len() == side * side;
        let finite = bounds.edges().iter().all(|edge| edge.is_finite());
        let (rows, columns) = match how {
            _ if !(is_mask && finite) => (0..0, 0..0),
            Paste::GrownBox => {
                let clipped = |(low, high): (i64, i64), size: usize| {
                    let inside = |place: i64| place.clamp(0, size as i64) as usize;
                    inside(low)..inside(high + 1)
                };
                (
                    clipped(grown(bounds.top, bounds.bottom, side), size[0]),
                    clipped(grown(bounds.left, bounds.right, side), size[1]),
                )
            }
            Paste::PixelCenters if bounds.is_empty() => (0..0, 0..0),
            Paste::PixelCenters => {
                // Samples further than a mask's pixel from the box are 0.
                let reach = |low: f32, high: f32, size: usize| {
                    let margin = (high - low) / side as f32 + 1.0;
                    let first = (low - margin).floor().clamp(0.0, size as f32) as usize;
                    first..(high + margin).ceil().clamp(0.0, size as f32) as usize
                };
                (
                    reach(bounds.top, bounds.bottom, size[0]),
                    reach(bounds.left, bounds.right, size[1]),
                )
            }
        };
        let (rows, columns) = match rows.is_empty() || columns.is_empty() {
            true => (0..0, 0..0),
            false => (rows, columns),
        };
        Self {
            mask,
            side,
            bounds,
            how,
            rows,
            columns,
        }
    }

    /// Visits row, column and value of each pixel.
    fn each(&self, put: impl FnMut(usize, usize, f32)) {
        match self.how {
            Paste::GrownBox => self.grown_box(put),
            Paste::PixelCenters => self.pixel_centers(put),
        }
    }

    fn grown_box(&self, mut put: impl FnMut(usize, usize, f32)) {
        let (side, padded) = (self.side, self.side + 2);
        let (left, right) = grown(self.bounds.left, self.bounds.right, side);
        let (top, bottom) = grown(self.bounds.top, self.bounds.bottom, side);
        let (wide, high) = ((right - left + 1).max(1), (bottom - top + 1).max(1));
        let at = |row: usize, column: usize| {
            let inside = (1..=side).contains(&row) && (1..=side).contains(&column);
            if inside {
                self.mask[(row - 1) * side + column - 1]
            } else {
                0.0
            }
        };
        let share = padded as f64;
        for y in self.rows.clone() {
            let (row, next_row, down) = neighbors((y as i64 - top) as f64, share / high as f64, padded);
            for x in self.columns.clone() {
                let (column, next_column, across) =
                    neighbors((x as i64 - left) as f64, share / wide as f64, padded);
                let upper = at(row, column) * (1.0 - across) + at(row, next_column) * across;
                let lower = at(next_row, column) * (1.0 - across) + at(next_row, next_column) * across;
                put(y, x, upper * (1.0 - down) + lower * down);
            }
        }
    }

    fn pixel_centers(&self, mut put: impl FnMut(usize, usize, f32)) {
        let side = self.side;
        let at = |row: i64, column: i64| {
            let inside = (0..side as i64).contains(&row) && (0..side as i64).contains(&column);
            if inside {
                self.mask[row as usize * side + column as usize]
            } else {
                0.0
            }
        };
        let place = |pixel: usize, low: f32, length: f32| {
            let place = (pixel as f32 + 0.5 - low) / length * side as f32 - 0.5;
            (place.floor() as i64, place - place.floor())
        };
        let bounds = self.bounds;
        for y in self.rows.clone() {
            let (row, down) = place(y, bounds.top, bounds.height());
            for x in self.columns.clone() {
                let (column, across) = place(x, bounds.left, bounds.width());
                let upper = at(row, column) * (1.0 - across) + at(row, column + 1) * across;
                let lower = at(row + 1, column) * (1.0 - across) + at(row + 1, column + 1) * across;
                put(y, x, upper * (1.0 - down) + lower * down);
            }
        }
    }
}

/// The edges of a box that is grown by the border of its mask, in whole pixels: PyTorch's order of operations in f32,
/// because they are cut.
fn grown(low: f32, high: f32, side: usize) -> (i64, i64) {
    let scale = (side + 2) as f32 / side as f32;
    let (half, center) = ((high - low) * 0.5 * scale, (high + low) * 0.5);
    ((center - half) as i64, (center + half) as i64)
}

/// Bilinear resizing along one axis as `interpolate(align_corners=False)`: both neighbors and the second one's weight.
fn neighbors(index: f64, scale: f64, size: usize) -> (usize, usize, f32) {
    let place = ((index + 0.5) * scale - 0.5).max(0.0);
    let low = (place.floor() as usize).min(size - 1);
    (low, (low + 1).min(size - 1), (place - low as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_ones_fills_its_box_and_fades_at_the_border() {
        let bounds = BoundingBox::from_edges([2.0, 1.0, 6.0, 5.0]);
        for how in [Paste::GrownBox, Paste::PixelCenters] {
            let photo = paste(&[1.0; 16], 4, &bounds, [8, 9], how);
            let set = |y: usize, x: usize| photo[y * 9 + x] >= 0.5;
            assert!(set(2, 3) && set(4, 5) && set(1, 2), "{how:?}");
            assert!(!set(0, 4) && !set(4, 8) && !set(7, 0), "{how:?}");
        }
        // Pixel centers of a box with whole edges: the box itself, all of it.
        let photo = paste(&[1.0; 16], 4, &bounds, [8, 9], Paste::PixelCenters);
        assert_eq!(photo.iter().filter(|value| **value >= 0.5).count(), 16);
        assert_eq!(photo[9 + 2], 1.0);
    }

    #[test]
    fn boxes_over_the_border_and_without_extent_stay_inside() {
        let odd = [
            [-5.0, -5.0, 3.0, 3.0],
            [6.0, 6.0, 60.0, 60.0],
            [100.0, 100.0, 120.0, 120.0],
            [3.0, 3.0, 3.0, 3.0],
            [f32::NAN, 0.0, 1.0, 1.0],
        ];
        for edges in odd {
            for how in [Paste::GrownBox, Paste::PixelCenters] {
                let photo = paste(&[1.0; 4], 2, &BoundingBox::from_edges(edges), [8, 9], how);
                assert_eq!(photo.len(), 72);
                assert!(
                    photo.iter().all(|value| (0.0..=1.0).contains(value)),
                    "{edges:?} {how:?}"
                );
                let rle = pasted_rle(&[1.0; 4], 2, &BoundingBox::from_edges(edges), [8, 9], how);
                let rows: Vec<u8> = photo.iter().map(|value| u8::from(*value > 0.5)).collect();
                assert_eq!(rle.to_rows(), rows, "{edges:?} {how:?}");
            }
        }
    }

    #[test]
    fn run_lengths_are_the_pixels_of_more_than_half() {
        let mask: Vec<f32> = (0..49).map(|i| if i * 7 % 10 < 5 { 0.9 } else { 0.2 }).collect();
        for edges in [
            [2.0, 1.0, 27.5, 25.0],
            [0.0, 0.0, 30.0, 40.0],
            [-4.0, 3.0, 12.0, 60.0],
        ] {
            for how in [Paste::GrownBox, Paste::PixelCenters] {
                let bounds = BoundingBox::from_edges(edges);
                let photo = paste(&mask, 7, &bounds, [40, 30], how);
                let rows: Vec<u8> = photo.iter().map(|value| u8::from(*value > 0.5)).collect();
                let rle = pasted_rle(&mask, 7, &bounds, [40, 30], how);
                assert_eq!((rle.width(), rle.height()), (30, 40));
                assert_eq!(rle.to_rows(), rows, "{edges:?} {how:?}");
            }
        }
    }
}
