//! Bit-exact resizing of OpenCV's `resize(INTER_LINEAR)` for 8-bit pixels: detectors were trained and are
//! compared with it, and a resize with antialiasing would change their scores.

use crate::detector::Photo;

/// Bits of the weights' fixed point.
const WEIGHT_BITS: u32 = 11;

/// The two source pixels around each new pixel, and their weights in units of 2⁻¹¹.
struct Taps {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// The taps along one side. `clamps` decides how positions before the first or after the last pixel use that
/// pixel: once (as in OpenCV along rows) or twice, with both weights (as from row to row, with other
/// rounding).
fn taps(from: usize, to: usize, clamps: bool) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let one = (1 << WEIGHT_BITS) as f32;
    let last = from as isize - 1;
    let tap = |index: usize| {
        let place = ((index as f64 + 0.5) * scale - 0.5) as f32;
        let before = place.floor();
        let (mut fraction, before) = (place - before, before as isize);
        if clamps && (before < 0 || before >= last) {
            fraction = 0.0;
        }
        Taps {
            first: before.clamp(0, last) as usize,
            second: (before + 1).clamp(0, last) as usize,
            weights: [1.0 - fraction, fraction].map(|weight| (weight * one).round_ties_even() as i32),
        }
    };
    (0..to).map(tap).collect()
}

/// The photo resized to `width` x `height` px: `[height, width, 3]`. Linear interpolation, without
/// antialiasing.
///
/// # Panics
/// If a side of either is 0, or the photo has fewer bytes than its sides require.
pub fn resize(photo: &Photo<'_>, width: u32, height: u32) -> Vec<u8> {
    let (from, wide, high) = (photo.width as usize, width as usize, height as usize);
    assert!(
        from > 0 && photo.height > 0 && wide > 0 && high > 0,
        "a photo of {} x {} px cannot be resized to {width} x {height}",
        photo.width,
        photo.height
    );
    if (photo.width, photo.height) == (width, height) {
        return photo.pixels.to_vec();
    }
    let columns = taps(from, wide, true);
    let blend_row = |row: usize, out: &mut Vec<i32>| {
        let line = &photo.pixels[row * from * 3..(row + 1) * from * 3];
        out.clear();
        for tap in &columns {
            let (a, b) = (&line[tap.first * 3..][..3], &line[tap.second * 3..][..3]);
            let blended = a.iter().zip(b);
            out.extend(blended.map(|(a, b)| i32::from(*a) * tap.weights[0] + i32::from(*b) * tap.weights[1]));
        }
    };
    let mut pixels = Vec::with_capacity(wide * high * 3);
    // The two rows blended last, and their indices: the next new row usually needs them again.
    let mut rows = [(usize::MAX, Vec::new()), (usize::MAX, Vec::new())];
    for tap in taps(photo.height as usize, high, false) {
        if rows[1].0 == tap.first {
            rows.swap(0, 1);
        }
        for (slot, row) in rows.iter_mut().zip([tap.first, tap.second]) {
            if slot.0 != row {
                blend_row(row, &mut slot.1);
                slot.0 = row;
            }
        }
        let [above, below] = tap.weights;
        // OpenCV's vector code: shifts by four bits before the product, so that it fits, by sixteen after it,
        // by two at the end.
        let part = |weight: i32, blended: &i32| (weight * (blended >> 4)) >> 16;
        let blended = rows[0].1.iter().zip(&rows[1].1);
        pixels.extend(blended.map(|(a, b)| ((part(above, a) + part(below, b) + 2) >> 2).clamp(0, 255) as u8));
    }
    pixels
}

/// A photo resized to fit into a box at its upper left corner, with gray padding: YOLOX's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Width of the photo in the box, px.
    pub width: u32,
    /// Height of the photo in the box, px.
    pub height: u32,
    /// Pixels of the box per pixel of the photo.
    pub ratio: f32,
}

impl Letterbox {
    /// A photo of `width` x `height` px in a box of `box_width` x `box_height`.
    pub fn new(width: u32, height: u32, box_width: u32, box_height: u32) -> Self {
        // In f64 and truncated, as in YOLOX's Python code.
        let ratio = (f64::from(box_height) / f64::from(height)).min(f64::from(box_width) / f64::from(width));
        let side = |length: u32, limit: u32| ((f64::from(length) * ratio) as u32).clamp(1, limit);
        Self {
            width: side(width, box_width),
            height: side(height, box_height),
            ratio: ratio as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo(width: u32, height: u32, pixels: &[u8]) -> Photo<'_> {
        Photo {
            width,
            height,
            pixels,
        }
    }

    #[test]
    fn a_row_is_blended_between_its_pixels() {
        // Doubled: new centers are at -0.25, 0.25, 0.75, 1.25 of the old ones.
        let pixels = [0, 100, 200, 80, 20, 0];
        let wide = resize(&photo(2, 1, &pixels), 4, 1);
        assert_eq!(wide, [0, 100, 200, 20, 80, 150, 60, 40, 50, 80, 20, 0]);
        // Halved: the mean, because the new center is in the middle.
        assert_eq!(resize(&photo(2, 1, &pixels), 1, 1), [40, 60, 100]);
        assert_eq!(resize(&photo(1, 2, &pixels), 1, 1), [40, 60, 100]);
        assert_eq!(resize(&photo(2, 1, &pixels), 2, 1), pixels);
    }

    #[test]
    fn a_plain_photo_stays_plain() {
        let pixels = vec![77; 31 * 17 * 3];
        for (width, height) in [(5, 9), (62, 40), (1, 1), (416, 3)] {
            let resized = resize(&photo(31, 17, &pixels), width, height);
            assert_eq!(resized.len(), (width * height * 3) as usize);
            assert!(resized.iter().all(|value| (76..=77).contains(value)));
        }
    }

    #[test]
    fn a_letterbox_keeps_the_shape() {
        let fit = |width, height| {
            let fit = Letterbox::new(width, height, 416, 416);
            (fit.width, fit.height)
        };
        assert_eq!(fit(500, 375), (416, 312));
        assert_eq!(fit(333, 500), (277, 416));
        assert_eq!(fit(100, 100), (416, 416));
        // Never 0; and 100,000 · (416 / 100,000) is less than 416, in Python too.
        assert_eq!(fit(100_000, 1), (415, 1));
    }
}
