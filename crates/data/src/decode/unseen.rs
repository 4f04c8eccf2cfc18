//! Parts of an encoded picture that decoding leaves out, because it gives the first frame in RGB: later frames of
//! an animation, and transparency.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat};

use super::{DecodeLimits, EXTRAS_BYTES, PICTURES};
use crate::error::DecodeError;

/// The pictures in a file: 1, or the number of frames of an animated GIF, PNG or WebP. Reads marks and lengths and
/// decodes nothing; counts as far as the file can be read.
///
/// A PNG whose default image is no frame of its animation counts it too, because viewers show one or the other.
pub fn frames(encoded: &[u8]) -> usize {
    let count = match image::guess_format(encoded) {
        Ok(ImageFormat::Gif) => gif_frames(encoded),
        Ok(ImageFormat::Png) => png_frames(encoded),
        Ok(ImageFormat::WebP) => webp_frames(encoded),
        _ => 1,
    };
    count.max(1)
}

/// Whether any pixel of the first frame is transparent, in whole or in part. Decodes a PNG, WebP or GIF that may
/// have such pixels a second time.
///
/// # Errors
/// A file that does not decode, or is larger than `limits`.
pub fn is_transparent(encoded: &[u8], limits: &DecodeLimits) -> Result<bool, DecodeError> {
    let format = match image::guess_format(encoded) {
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif)) => format,
        _ => return Ok(false),
    };
    let convert = |error: image::ImageError| DecodeError::Broken {
        format: match format {
            ImageFormat::Png => "PNG",
            ImageFormat::WebP => "WebP",
            _ => "GIF",
        },
        reason: error.to_string(),
    };
    let frame = match format {
        ImageFormat::Gif => {
            super::gif_frame(encoded).map_or(0, |(width, height)| u64::from(width) * u64::from(height) * 4)
        }
        _ => 0,
    };
    let mut extras = image::Limits::no_limits();
    extras.max_alloc = Some(EXTRAS_BYTES.max(frame));
    let mut reader = image::ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(extras);
    let decoder = reader.into_decoder().map_err(convert)?;
    if !decoder.color_type().has_alpha() {
        return Ok(false);
    }
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let pixels = u64::from(width) * u64::from(height);
    let bytes_per_pixel = u64::from(decoder.color_type().bytes_per_pixel());
    let _held = PICTURES.reserve(pixels * bytes_per_pixel + frame);
    let picture = DynamicImage::from_decoder(decoder).map_err(convert)?;
    Ok(match &picture {
        DynamicImage::ImageLumaA8(picture) => picture.pixels().any(|pixel| pixel.0[1] != u8::MAX),
        DynamicImage::ImageRgba8(picture) => picture.pixels().any(|pixel| pixel.0[3] != u8::MAX),
        DynamicImage::ImageLumaA16(picture) => picture.pixels().any(|pixel| pixel.0[1] != u16::MAX),
        DynamicImage::ImageRgba16(picture) => picture.pixels().any(|pixel| pixel.0[3] != u16::MAX),
        _ => false,
    })
}

/// Images between the header and the end of a GIF.
fn gif_frames(file: &[u8]) -> usize {
    let colors = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    };
    // Behind blocks, the last of which has no length.
    let behind_blocks = |mut at: usize| {
        while let Some(length) = file.get(at).filter(|length| **length > 0) {
            at += 1 + usize::from(*length);
        }
        at + 1
    };
    let flags = |at: usize| file.get(at).copied().unwrap_or(0);
    let (mut at, mut count) = (13 + colors(flags(10)), 0);
    loop {
        match file.get(at) {
            Some(0x2C) => {
                count += 1;
                // Its place and size, its colors, the size of its codes.
                at = behind_blocks(at + 11 + colors(flags(at + 9)));
            }
            Some(0x21) => at = behind_blocks(at + 2),
            Some(0) => at += 1,
            _ => return count,
        }
    }
}

/// The image of a PNG, and the frames of its animation behind it.
fn png_frames(file: &[u8]) -> usize {
    let (mut at, mut count, mut has_image, mut in_frame) = (8, 0, false, false);
    while let Some(head) = file.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        match &head[4..] {
            b"IDAT" if !has_image => {
                has_image = true;
                count += 1;
            }
            b"fcTL" => in_frame = false,
            // The data of a frame, in one chunk or several.
            b"fdAT" if !in_frame => {
                in_frame = true;
                count += 1;
            }
            b"IEND" => break,
            _ => {}
        }
        at += 12 + length;
    }
    count
}

/// The image of a WebP, and the frames of an animation.
fn webp_frames(file: &[u8]) -> usize {
    let (mut at, mut count) = (12, 0);
    while let Some(head) = file.get(at..at + 8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        count += usize::from(matches!(&head[..4], b"VP8 " | b"VP8L" | b"ANMF"));
        at += 8 + length + length % 2;
    }
    count
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{Frame, Rgb, RgbImage, Rgba, RgbaImage};

    use super::super::made::{encoded, png_chunk};
    use super::*;

    fn picture(seed: u32) -> RgbaImage {
        RgbaImage::from_fn(24, 16, |x, y| {
            Rgba([
                (x * 9 + seed * 40) as u8,
                (y * 13) as u8,
                (x * y + seed) as u8,
                255,
            ])
        })
    }

    fn gif(count: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = GifEncoder::new(&mut file);
        encoder
            .encode_frames((0..count).map(|seed| Frame::new(picture(seed))))
            .unwrap();
        drop(encoder);
        file
    }

    /// A PNG with these chunks before its pixels and behind them.
    fn png_with(before: &[u8], behind: &[u8]) -> Vec<u8> {
        let file = encoded(DynamicImage::ImageRgba8(picture(1)), ImageFormat::Png);
        let at = |name: &[u8]| file.windows(4).position(|window| window == name).unwrap() - 4;
        let (pixels, end) = (at(b"IDAT"), at(b"IEND"));
        [&file[..pixels], before, &file[pixels..end], behind, &file[end..]].concat()
    }

    fn webp_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_le_bytes();
        [&name[..], &length, data, &[0][..data.len() % 2]].concat()
    }

    #[test]
    fn frames_of_animations_are_counted() {
        assert_eq!(frames(&gif(1)), 1);
        assert_eq!(frames(&gif(3)), 3);

        let still = encoded(DynamicImage::ImageRgba8(picture(1)), ImageFormat::Png);
        assert_eq!(frames(&still), 1);
        let control = |number: u32| png_chunk(b"fcTL", &[&number.to_be_bytes()[..], &[0; 22]].concat());
        let data = |number: u32| png_chunk(b"fdAT", &number.to_be_bytes());
        let announced = png_chunk(b"acTL", &[0; 8]);
        // The image is the only frame.
        assert_eq!(frames(&png_with(&[&announced[..], &control(0)].concat(), &[])), 1);
        // The image and two frames, the first of two chunks.
        let behind = [control(1), data(2), data(3), control(4), data(5)].concat();
        assert_eq!(
            frames(&png_with(&[&announced[..], &control(0)].concat(), &behind)),
            3
        );
        // The only frame is another picture than the image; nothing announces it.
        assert_eq!(frames(&png_with(&[], &[control(0), data(1)].concat())), 2);

        let still = encoded(DynamicImage::ImageRgba8(picture(1)), ImageFormat::WebP);
        assert_eq!(frames(&still), 1);
        let frame = webp_chunk(b"ANMF", &[&[0; 16][..], &still[12..]].concat());
        let extended = webp_chunk(b"VP8X", &[2, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
        let inside = [&b"WEBP"[..], &extended, &frame, &frame].concat();
        let animated = [&b"RIFF"[..], &(inside.len() as u32).to_le_bytes(), &inside].concat();
        assert_eq!(frames(&animated), 2);

        let jpeg = encoded(
            DynamicImage::ImageRgba8(picture(1)).to_rgb8().into(),
            ImageFormat::Jpeg,
        );
        assert_eq!(frames(&jpeg), 1);
        for file in [&gif(3), &still, &animated, &jpeg] {
            for length in 0..file.len() {
                assert!(frames(&file[..length]) <= 3);
            }
        }
    }

    #[test]
    fn a_picture_is_transparent_if_any_pixel_is() {
        let limits = DecodeLimits::DEFAULT;
        let is = |file: &[u8]| is_transparent(file, &limits).unwrap();
        let opaque = picture(1);
        let mut holed = picture(1);
        holed.put_pixel(23, 15, Rgba([1, 2, 3, 254]));
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            assert!(!is(&encoded(opaque.clone().into(), format)), "{format:?}");
            assert!(is(&encoded(holed.clone().into(), format)), "{format:?}");
        }
        assert!(!is(&gif(2)));
        let mut file = Vec::new();
        holed.put_pixel(23, 15, Rgba([1, 2, 3, 0]));
        let mut encoder = GifEncoder::new(&mut file);
        encoder.encode_frame(Frame::new(holed)).unwrap();
        drop(encoder);
        assert!(is(&file));
        let gray = image::GrayAlphaImage::from_fn(8, 8, |x, _| image::LumaA([9, x as u8]));
        assert!(is(&encoded(gray.into(), ImageFormat::Png)));
        let plain = RgbImage::from_pixel(8, 8, Rgb([1, 2, 3]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
            assert!(!is(&encoded(plain.clone().into(), format)), "{format:?}");
        }
        assert!(is_transparent(&encoded(opaque.into(), ImageFormat::Png)[..60], &limits).is_err());
        let small = DecodeLimits {
            side_px: 4,
            ..DecodeLimits::DEFAULT
        };
        assert!(is_transparent(&encoded(picture(1).into(), ImageFormat::Png), &small).is_err());
    }
}
