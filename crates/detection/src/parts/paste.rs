//! A small mask and its box in, a mask of the photo's size out.

use serde::{Deserialize, Serialize};

use crate::BoundingBox;

/// How a mask is enlarged to its box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    if side == 0 || mask.len() != side * side || !bounds.edges().iter().all(|edge| edge.is_finite()) {
        return photo;
    }
    match how {
        Paste::GrownBox => grown_box(mask, side, bounds, size, &mut photo),
        Paste::PixelCenters => pixel_centers(mask, side, bounds, size, &mut photo),
    }
    photo
}

fn grown_box(
    mask: &[f32],
    side: usize,
    bounds: &BoundingBox,
    [height, width]: [usize; 2],
    photo: &mut [f32],
) {
    let padded = side + 2;
    // PyTorch's order of operations in f32, because the edges are cut to whole pixels.
    let scale = padded as f32 / side as f32;
    let edges = |low: f32, high: f32| {
        let (half, center) = ((high - low) * 0.5 * scale, (high + low) * 0.5);
        ((center - half) as i64, (center + half) as i64)
    };
    let (left, right) = edges(bounds.left, bounds.right);
    let (top, bottom) = edges(bounds.top, bounds.bottom);
    let (wide, high) = ((right - left + 1).max(1), (bottom - top + 1).max(1));
    let at = |row: usize, column: usize| {
        let inside = (1..=side).contains(&row) && (1..=side).contains(&column);
        if inside {
            mask[(row - 1) * side + column - 1]
        } else {
            0.0
        }
    };
    let share = padded as f64;
    for y in top.max(0)..(bottom + 1).min(height as i64) {
        let (row, next_row, down) = neighbors((y - top) as f64, share / high as f64, padded);
        for x in left.max(0)..(right + 1).min(width as i64) {
            let (column, next_column, across) = neighbors((x - left) as f64, share / wide as f64, padded);
            let upper = at(row, column) * (1.0 - across) + at(row, next_column) * across;
            let lower = at(next_row, column) * (1.0 - across) + at(next_row, next_column) * across;
            photo[y as usize * width + x as usize] = upper * (1.0 - down) + lower * down;
        }
    }
}

/// Bilinear resizing along one axis as `interpolate(align_corners=False)`: both neighbors and the second one's weight.
fn neighbors(index: f64, scale: f64, size: usize) -> (usize, usize, f32) {
    let place = ((index + 0.5) * scale - 0.5).max(0.0);
    let low = (place.floor() as usize).min(size - 1);
    (low, (low + 1).min(size - 1), (place - low as f64) as f32)
}

fn pixel_centers(
    mask: &[f32],
    side: usize,
    bounds: &BoundingBox,
    [height, width]: [usize; 2],
    photo: &mut [f32],
) {
    let at = |row: i64, column: i64| {
        let inside = (0..side as i64).contains(&row) && (0..side as i64).contains(&column);
        if inside {
            mask[row as usize * side + column as usize]
        } else {
            0.0
        }
    };
    let place = |pixel: usize, low: f32, length: f32| {
        let place = (pixel as f32 + 0.5 - low) / length * side as f32 - 0.5;
        (place.floor() as i64, place - place.floor())
    };
    // Samples further than a mask's pixel from the box are 0.
    let reach = |low: f32, high: f32, size: usize| {
        let margin = (high - low) / side as f32 + 1.0;
        let first = (low - margin).floor().clamp(0.0, size as f32) as usize;
        first..(high + margin).ceil().clamp(0.0, size as f32) as usize
    };
    if !(bounds.width() > 0.0 && bounds.height() > 0.0) {
        return;
    }
    for y in reach(bounds.top, bounds.bottom, height) {
        let (row, down) = place(y, bounds.top, bounds.height());
        for x in reach(bounds.left, bounds.right, width) {
            let (column, across) = place(x, bounds.left, bounds.width());
            let upper = at(row, column) * (1.0 - across) + at(row, column + 1) * across;
            let lower = at(row + 1, column) * (1.0 - across) + at(row + 1, column + 1) * across;
            photo[y * width + x] = upper * (1.0 - down) + lower * down;
        }
    }
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
            }
        }
    }
}
