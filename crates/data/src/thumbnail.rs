//! Small pictures for reports: reduced copies, and JPEG bytes to embed in a page.

use image::ExtendedColorType;

use crate::decode::RgbImage;
use crate::transforms::Filter;
use crate::transforms::geometry::{CropBox, Resampler};

/// The whole image, its longer side at most `side_px`; a smaller image stays as it is.
///
/// `side_px` is at least 1.
pub fn thumbnail(image: &RgbImage, side_px: u32) -> RgbImage {
    let longer = image.width.max(image.height);
    if longer <= side_px {
        return image.clone();
    }
    let scaled = |length: u32| (u64::from(length) * u64::from(side_px) / u64::from(longer)).max(1) as u32;
    resized(
        image,
        CropBox::whole(image),
        scaled(image.width),
        scaled(image.height),
    )
}

/// The central square of an image, resized to `side_px`, which is at least 1.
pub fn square_thumbnail(image: &RgbImage, side_px: u32) -> RgbImage {
    let shorter = image.width.min(image.height);
    let part = CropBox {
        left: (image.width - shorter) / 2,
        top: (image.height - shorter) / 2,
        width: shorter,
        height: shorter,
    };
    resized(image, part, side_px, side_px)
}

fn resized(image: &RgbImage, part: CropBox, width: u32, height: u32) -> RgbImage {
    let mut out = RgbImage::default();
    Resampler::default().crop_and_resize(image, part, width, height, Filter::Bilinear, &mut out);
    out
}

/// The picture as baseline JPEG; `quality` in 1..=100. Empty where a side is 0 or above the format's 65,535
/// px.
pub fn to_jpeg(image: &RgbImage, quality: u8) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut encoded, quality);
    // Writing to memory cannot fail; sides out of range can, and give an empty picture.
    match encoder.encode(&image.pixels, image.width, image.height, ExtendedColorType::Rgb8) {
        Ok(()) => encoded,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeLimits, decode};

    /// Left half black, right half white.
    fn halves(width: u32, height: u32) -> RgbImage {
        let pixel = |place: u32| [if place % width < width / 2 { 0 } else { 255 }; 3];
        RgbImage {
            width,
            height,
            pixels: (0..width * height).flat_map(pixel).collect(),
        }
    }

    #[test]
    fn large_pictures_shrink_and_small_ones_stay() {
        let small = thumbnail(&halves(100, 40), 50);
        assert_eq!((small.width, small.height), (50, 20));
        assert_eq!(thumbnail(&halves(20, 10), 50), halves(20, 10));
        assert_eq!(thumbnail(&halves(1000, 1), 10).height, 1);
    }

    #[test]
    fn squares_are_cut_from_the_middle() {
        // The middle 10 of 30 columns: half black, half white.
        let square = square_thumbnail(&halves(30, 10), 10);
        assert_eq!(square, halves(10, 10));
    }

    #[test]
    fn jpeg_is_read_back() {
        let read = decode(&to_jpeg(&halves(16, 16), 90), &DecodeLimits::DEFAULT).unwrap();
        assert_eq!((read.width, read.height), (16, 16));
        assert!(read.pixels[0] < 20 && read.pixels[15 * 3] > 235);
        assert!(to_jpeg(&RgbImage::default(), 90).is_empty());
    }
}
