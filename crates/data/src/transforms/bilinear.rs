//! Bilinear interpolation between the four nearest pixels, as PyTorch's `interpolate` without antialiasing:
//! torchvision's detectors resize so. The other resizes of this crate are antialiased, as Pillow's.

use crate::decode::RgbImage;

/// The two places of one side between which a place of the result lies, and the share of the second.
struct Between {
    first: usize,
    second: usize,
    share: f32,
}

/// The places of a side of `to` px in one of `from` px, centers of pixels on centers of pixels.
fn between(from: u32, to: u32) -> Vec<Between> {
    let scale = from as f32 / to as f32;
    let places = (0..to).map(|at| {
        let place = (scale * (at as f32 + 0.5) - 0.5).max(0.0);
        let first = (place as usize).min(from as usize - 1);
        Between {
            first,
            second: (first + 1).min(from as usize - 1),
            share: (place - first as f32).clamp(0.0, 1.0),
        }
    });
    places.collect()
}

/// Resizes to `width` x `height` px, both at least 1, into `out`. Values are made in f32 and rounded once.
pub(crate) fn resize(image: &RgbImage, (width, height): (u32, u32), out: &mut RgbImage) {
    (out.width, out.height) = (width, height);
    out.pixels.clear();
    out.pixels.reserve(width as usize * height as usize * 3);
    let from = (image.width, image.height);
    // `as` clips to 0 and 255.
    let put = |pixel: [f32; 3]| out.pixels.extend(pixel.map(|value| (value + 0.5) as u8));
    each_pixel(&image.pixels, from, (width, height), put);
}

/// The pixels of the picture resized to `to`, row by row, in f32 from 0 to 255 and not rounded. All sides must be at
/// least 1.
pub(crate) fn each_pixel(pixels: &[u8], from: (u32, u32), to: (u32, u32), mut put: impl FnMut([f32; 3])) {
    let line = from.0 as usize * 3;
    let across = between(from.0, to.0);
    // The picture's row at the height of the result's row.
    let mut row = vec![0.0f32; line];
    for down in between(from.1, to.1) {
        let above = &pixels[down.first * line..][..line];
        let below = &pixels[down.second * line..][..line];
        for ((value, above), below) in row.iter_mut().zip(above).zip(below) {
            let above = f32::from(*above);
            *value = above + (f32::from(*below) - above) * down.share;
        }
        let row = row.as_chunks::<3>().0;
        for place in &across {
            let (left, right) = (&row[place.first], &row[place.second]);
            put([0, 1, 2]
                .map(|channel: usize| left[channel] + (right[channel] - left[channel]) * place.share));
        }
    }
}
