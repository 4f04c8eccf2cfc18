//! Pillow's `Image.transform` with an affine map, and `Image.rotate`: maps a picture's plane, in place.
//!
//! It interpolates from two or four neighbors per direction without antialiasing, as Pillow does. Pillow's
//! cubic filter here has a = -1, unlike that of its resize. The area outside the image gets one color.

use serde::{Deserialize, Serialize};

/// The interpolation between pixels.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sampling {
    /// From 2 x 2 pixels.
    Bilinear,
    /// From 4 x 4 pixels.
    Bicubic,
}

/// `[a, b, c, d, e, f]`: pixel (x, y) of the result is pixel (a x + b y + c, d x + e y + f) of the picture.
pub(crate) type Affine = [f64; 6];

/// The map of `Image.rotate`: counter-clockwise about the middle, degrees.
pub(crate) fn rotation(degrees: f64, width: usize, height: usize) -> Affine {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (sin, cos) = (round_15(angle.sin()), round_15(angle.cos()));
    let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
    [
        cos,
        sin,
        x - (cos * x + sin * y),
        -sin,
        cos,
        y - (cos * y - sin * x),
    ]
}

/// Python's `round(value, 15)`.
fn round_15(value: f64) -> f64 {
    (value * 1e15).round_ties_even() / 1e15
}

/// Replaces planes `[3, height, width]` by the mapped ones. `copy` is a reused buffer.
pub(crate) fn transform(
    planes: &mut [u8],
    width: usize,
    map: &Affine,
    sampling: Sampling,
    fill: [u8; 3],
    copy: &mut Vec<u8>,
) {
    copy.clear();
    copy.extend_from_slice(planes);
    let pixels = planes.len() / 3;
    let height = pixels / width;
    let (columns, rows) = (width as f64, height as f64);
    for y in 0..height {
        for x in 0..width {
            let (at_x, at_y) = (x as f64 + 0.5, y as f64 + 0.5);
            let from_x = map[0] * at_x + map[1] * at_y + map[2];
            let from_y = map[3] * at_x + map[4] * at_y + map[5];
            let inside = (0.0..columns).contains(&from_x) && (0.0..rows).contains(&from_y);
            for channel in 0..3 {
                let plane = &copy[channel * pixels..(channel + 1) * pixels];
                let place = &mut planes[channel * pixels + y * width + x];
                *place = match (inside, sampling) {
                    (false, _) => fill[channel],
                    (true, Sampling::Bilinear) => bilinear(plane, width, height, from_x, from_y),
                    (true, Sampling::Bicubic) => bicubic(plane, width, height, from_x, from_y),
                };
            }
        }
    }
}

/// Integer and fractional part of a coordinate, counted from pixel centers.
fn split(coordinate: f64) -> (isize, f64) {
    let shifted = coordinate - 0.5;
    let whole = shifted.floor();
    (whole as isize, shifted - whole)
}

fn clipped(position: isize, length: usize) -> usize {
    position.clamp(0, length as isize - 1) as usize
}

fn bilinear(plane: &[u8], width: usize, height: usize, x: f64, y: f64) -> u8 {
    let ((x, dx), (y, dy)) = (split(x), split(y));
    let row = |y: isize| {
        let row = &plane[clipped(y, height) * width..][..width];
        let [left, right] = [x, x + 1].map(|x| f64::from(row[clipped(x, width)]));
        left + (right - left) * dx
    };
    let (above, below) = (row(y), row(y + 1));
    (above + (below - above) * dy) as u8
}

fn bicubic(plane: &[u8], width: usize, height: usize, x: f64, y: f64) -> u8 {
    let ((x, dx), (y, dy)) = (split(x), split(y));
    let row = |y: isize| {
        let row = &plane[clipped(y, height) * width..][..width];
        cubic(
            [x - 1, x, x + 1, x + 2].map(|x| f64::from(row[clipped(x, width)])),
            dx,
        )
    };
    // `as` clips to 0 and 255 and truncates, as Pillow does.
    cubic([y - 1, y, y + 1, y + 2].map(row), dy) as u8
}

fn cubic([before, left, right, after]: [f64; 4], d: f64) -> f64 {
    let linear = right - before;
    let square = 2.0 * (before - left) + right - after;
    let cube = left - before - right + after;
    left + d * (linear + d * (square + d * cube))
}
