//! An encoded picture in, a hash of all that decoders show of it out, to compare two files: samples in their own depth
//! and colors, transparency, orientation, and the later frames of an animation.

use std::hash::{DefaultHasher, Hasher};
use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, Frames, ImageDecoder, ImageFormat, ImageResult};

use super::jpeg::{self, Samples};
use super::{DecodeLimits, EXTRAS_BYTES, PICTURES, format_of, frames, read_other, whatever_happens};
use crate::caught::caught;
use crate::error::DecodeError;

/// Most pixels of all frames of an animation together: a thousand of 8 megapixels. A small file can announce any
/// number of large frames.
const MOST_FRAME_PIXELS: u64 = 1 << 33;

/// Canvases of four bytes per pixel that a decoder of frames holds at a time, and the frame that it gives.
const CANVASES: u64 = 5;

/// All that decoders show of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Hash of size, colors, orientation and samples of the picture and of the frames that decode. It is compared within
    /// one run of the program and never kept: where the processor does not help, SHA-256 takes longer than decoding.
    pub hash: u64,
    /// Whether all frames decode; those behind one that does not are not in the hash.
    pub is_whole: bool,
}

/// Hashes what a file shows: its picture in the file's own depth and colors (16 bits stay 16, inks stay inks), with
/// transparency, how it must be turned, and each frame of an animated GIF, PNG or WebP as viewers compose it.
/// Delays and color profiles are not in it.
///
/// # Errors
/// A picture, or first frame, that does not decode or is larger than `limits`; never a panic.
pub fn shown(encoded: &[u8], limits: &DecodeLimits) -> Result<Shown, DecodeError> {
    let (format, name) = format_of(encoded)?;
    let mut hash = DefaultHasher::new();
    let mut note = |sides: (u32, u32), orientation: Orientation, colors: &str, samples: &[u8]| {
        hash.write_u32(sides.0);
        hash.write_u32(sides.1);
        hash.write_u8(orientation.to_exif());
        hash.write(colors.as_bytes());
        hash.write_u8(0);
        hash.write(samples);
    };
    whatever_happens(name, || {
        let admit = |picture: super::Announced| Ok(PICTURES.reserve(picture.bytes));
        if format == ImageFormat::Jpeg {
            let mut pixels = Vec::new();
            let (picture, _held) = match jpeg::read(encoded, limits, &mut pixels, Samples::Inks, admit) {
                Ok(read) => read,
                // What decodes is compared, also where its inks do not.
                Err(_) => jpeg::read(encoded, limits, &mut pixels, Samples::Rgb, admit)?,
            };
            let sides = (picture.width, picture.height);
            note(
                sides,
                picture.orientation,
                &format!("{:?}", picture.colors),
                &pixels,
            );
            return Ok(());
        }
        let (picture, orientation, _held) = read_other(encoded, format, name, limits, admit)?;
        let (sides, colors) = ((picture.width(), picture.height()), picture.color());
        note(sides, orientation, &format!("{colors:?}"), picture.as_bytes());
        Ok(())
    })?;
    let count = frames(encoded);
    if count < 2 {
        return Ok(Shown {
            hash: hash.finish(),
            is_whole: true,
        });
    }
    // A decoder that panics at a frame shows no more of them.
    let is_whole = caught(|| hash_frames(encoded, format, &mut hash)).is_ok_and(|is_whole| is_whole);
    Ok(Shown {
        hash: hash.finish(),
        is_whole,
    })
}

/// Whether two JPEGs differ in metadata before their picture's data alone, so that decoders show the same of both: the
/// same bytes lie behind, and what says how to read them is the same. Of damaged files, both show as much.
///
/// Decodes headers alone. `false` where a comparison of what is [`shown`] must tell, and for other formats.
pub fn same_coded_picture(before: &[u8], after: &[u8], limits: &DecodeLimits) -> bool {
    let is_jpeg = |file: &[u8]| format_of(file).is_ok_and(|(format, _)| format == ImageFormat::Jpeg);
    is_jpeg(before)
        && is_jpeg(after)
        && caught(|| jpeg::same_picture(before, after, limits)).is_ok_and(|same| same)
}

/// Hashes the frames of an animation up to the first that does not decode. Returns whether there is none.
fn hash_frames(encoded: &[u8], format: ImageFormat, hash: &mut DefaultHasher) -> bool {
    let Ok((canvas, mut frames)) = open(encoded, format) else {
        return false;
    };
    let _held = PICTURES.reserve(canvas * 4 * CANVASES);
    let mut pixels = 0u64;
    loop {
        pixels = pixels.saturating_add(canvas);
        match frames.next() {
            None => return true,
            Some(Ok(frame)) if pixels <= MOST_FRAME_PIXELS => hash.write(frame.buffer().as_raw()),
            Some(_) => return false,
        }
    }
}

/// The pixels of an animation's canvas, and its frames; none where nothing says that the file is an animation.
fn open(encoded: &[u8], format: ImageFormat) -> ImageResult<(u64, Frames<'_>)> {
    let file = Cursor::new(encoded);
    let canvas = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    let limits = |canvas: u64| {
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(EXTRAS_BYTES + canvas * 4 * CANVASES);
        limits
    };
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file)?;
            let canvas = canvas(decoder.dimensions());
            decoder.set_limits(limits(canvas))?;
            (canvas, decoder.into_frames())
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file)?;
            match decoder.has_animation() {
                true => (canvas(decoder.dimensions()), decoder.into_frames()),
                false => (0, Frames::new(Box::new(std::iter::empty()))),
            }
        }
        _ => {
            let canvas = canvas(PngDecoder::new(file)?.dimensions());
            let decoder = PngDecoder::with_limits(Cursor::new(encoded), limits(canvas))?;
            (canvas, decoder.apng()?.into_frames())
        }
    })
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{DynamicImage, Frame, ImageBuffer, Rgb, Rgba, RgbaImage};

    use super::super::made::{encoded, png_chunk};
    use super::*;

    fn picture(seed: u32) -> RgbaImage {
        RgbaImage::from_fn(24, 16, |x, y| {
            Rgba([(x * 9 + seed * 40) as u8, (y * 13) as u8, seed as u8, 255])
        })
    }

    fn hash(file: &[u8]) -> Shown {
        shown(file, &DecodeLimits::DEFAULT).unwrap()
    }

    #[test]
    fn pixels_that_eight_bits_in_three_channels_do_not_tell_apart_differ() {
        let gray = |value: u16| {
            let deep = ImageBuffer::from_pixel(8, 8, image::Luma([value]));
            encoded(DynamicImage::ImageLuma16(deep), ImageFormat::Png)
        };
        assert!(hash(&gray(0x4000)) == hash(&gray(0x4000)) && hash(&gray(0x4000)) != hash(&gray(0x4001)));
        let mut holed = picture(1);
        holed.put_pixel(23, 15, Rgba([207, 195, 1, 0]));
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let files = [picture(1), holed.clone()].map(|picture| encoded(picture.into(), format));
            assert_ne!(hash(&files[0]), hash(&files[1]), "{format:?}");
        }
        // The same samples in another shape.
        let shape = |width, height| {
            let plain = image::RgbImage::from_pixel(width, height, Rgb([1, 2, 3]));
            hash(&encoded(plain.into(), ImageFormat::Bmp))
        };
        assert_ne!(shape(4, 16), shape(16, 4));
    }

    #[test]
    fn later_frames_of_a_gif_count() {
        let gif = |seeds: &[u32]| {
            let mut file = Vec::new();
            let mut encoder = GifEncoder::new(&mut file);
            let frames = seeds.iter().map(|seed| Frame::new(picture(*seed)));
            encoder.encode_frames(frames).unwrap();
            drop(encoder);
            file
        };
        let three = hash(&gif(&[0, 1, 2]));
        assert!(three.is_whole && three == hash(&gif(&[0, 1, 2])));
        for other in [&[0, 1, 3][..], &[0, 1], &[0]] {
            assert_ne!(three.hash, hash(&gif(other)).hash, "{other:?}");
        }
        // Cut in the last frame: the frames before it are in the hash.
        let (cut, two) = (gif(&[0, 1, 2]), gif(&[0, 1]));
        let cut = hash(&cut[..two.len() + 60]);
        assert!(!cut.is_whole && cut.hash == hash(&two).hash);
    }

    #[test]
    fn later_frames_of_webp_and_png_count() {
        let chunk = |name: &[u8; 4], data: &[u8]| {
            let length = (data.len() as u32).to_le_bytes();
            [&name[..], &length, data, &[0][..data.len() % 2]].concat()
        };
        let webp = |flags: u8, seeds: &[u32]| {
            let frame = |seed: &u32| {
                let still = encoded(picture(*seed).into(), ImageFormat::WebP);
                let head = [0, 0, 0, 0, 0, 0, 23, 0, 0, 15, 0, 0, 40, 0, 0, 0];
                chunk(b"ANMF", &[&head[..], &still[12..]].concat())
            };
            let frames: Vec<u8> = seeds.iter().flat_map(frame).collect();
            let extended = chunk(b"VP8X", &[flags, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
            let inside = [&b"WEBP"[..], &extended, &chunk(b"ANIM", &[0; 6]), &frames].concat();
            [&b"RIFF"[..], &(inside.len() as u32).to_le_bytes(), &inside].concat()
        };
        let two = hash(&webp(2, &[0, 1]));
        assert!(two.is_whole && two != hash(&webp(2, &[0, 2])) && two != hash(&webp(2, &[0, 1, 1])));

        let png = |seeds: &[u32], deep: bool| {
            let still = |seed: u32| match deep {
                true => encoded(
                    DynamicImage::from(picture(seed)).into_rgb16().into(),
                    ImageFormat::Png,
                ),
                false => encoded(picture(seed).into(), ImageFormat::Png),
            };
            let rows = |seed: u32| {
                let file = still(seed);
                let at = file.windows(4).position(|name| name == b"IDAT").unwrap();
                let length = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
                file[at + 4..at + 4 + length].to_vec()
            };
            let control = |number: u32| {
                let (number, sides) = (number.to_be_bytes(), [0, 0, 0, 24, 0, 0, 0, 16]);
                png_chunk(
                    b"fcTL",
                    &[&number[..], &sides, &[0; 8], &[0, 1, 0, 10, 0, 0]].concat(),
                )
            };
            let announced = [&(seeds.len() as u32).to_be_bytes()[..], &[0; 4]].concat();
            let mut file = still(seeds[0])[..33].to_vec();
            file.extend(png_chunk(b"acTL", &announced));
            file.extend(control(0));
            file.extend(png_chunk(b"IDAT", &rows(seeds[0])));
            for (at, seed) in seeds.iter().enumerate().skip(1) {
                let number = 2 * at as u32 - 1;
                file.extend(control(number));
                let data = [&(number + 1).to_be_bytes()[..], &rows(*seed)].concat();
                file.extend(png_chunk(b"fdAT", &data));
            }
            file.extend(png_chunk(b"IEND", b""));
            file
        };
        let two = hash(&png(&[0, 1], false));
        assert!(two.is_whole && two == hash(&png(&[0, 1], false)));
        assert!(two != hash(&png(&[0, 2], false)) && two != hash(&png(&[0, 1, 1], false)));
        // No decoder of frames of 16 bits.
        assert!(!hash(&png(&[0, 1], true)).is_whole);
        // Frames that nothing announces are none.
        let still = encoded(picture(0).into(), ImageFormat::Png);
        let end = still.len() - 12;
        let hidden = [&still[..end], &png_chunk(b"fcTL", &[0; 26]), &still[end..]].concat();
        assert_eq!(hash(&hidden), hash(&still));
    }

    /// A JPEG of `picture` with these segments behind its first mark.
    fn jpeg_with(segments: &[(u8, &[u8])], seed: u32) -> Vec<u8> {
        let file = encoded(
            DynamicImage::from(picture(seed)).into_rgb8().into(),
            ImageFormat::Jpeg,
        );
        let segment = |(mark, data): &(u8, &[u8])| {
            let length = (data.len() as u16 + 2).to_be_bytes();
            [&[0xFF, *mark][..], &length, data].concat()
        };
        let segments: Vec<u8> = segments.iter().flat_map(segment).collect();
        [&file[..2], &segments, &file[2..]].concat()
    }

    #[test]
    fn jpegs_with_the_same_coded_picture_need_no_decoding() {
        let limits = DecodeLimits::DEFAULT;
        let same = |one: &[u8], other: &[u8]| {
            let same = same_coded_picture(one, other, &limits);
            assert_eq!(same, same_coded_picture(other, one, &limits));
            // Never where decoders show something else.
            let (one, other) = (shown(one, &limits).ok(), shown(other, &limits).ok());
            assert!(!same || one == other);
            same
        };
        let plain = jpeg_with(&[], 1);
        let turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let described = [
            (0xFE, &b"home"[..]),
            (0xE1, b"Exif\0\0"),
            (0xED, b"Photoshop 3.0\0"),
        ];
        assert!(same(&plain, &jpeg_with(&described, 1)));
        assert!(same(
            &jpeg_with(&[(0xE1, turned)], 1),
            &jpeg_with(&[(0xE1, turned), (0xFE, b"a")], 1)
        ));
        // Turned, other colors, another picture, bytes behind the end or between segments.
        assert!(!same(&plain, &jpeg_with(&[(0xE1, turned)], 1)));
        assert!(!same(&plain, &jpeg_with(&[(0xEE, b"Adobe\0\x64\0\0\0\0\0")], 1)));
        assert!(!same(&plain, &jpeg_with(&described, 2)));
        assert!(!same(&plain, &[&plain[..], b"trailer"].concat()));
        assert!(!same(&plain, &[&plain[..2], b"gap", &plain[2..]].concat()));
        assert!(!same(&plain, &[&plain[..2], &[0xFF], &plain[2..]].concat()));
        // Damaged in its data: of both as much.
        let cut = |file: Vec<u8>| file[..file.len() - 30].to_vec();
        assert!(same(&cut(plain.clone()), &cut(jpeg_with(&described, 1))));
        // Headers that break, and other formats.
        assert!(!same(&plain[..30], &plain[..30]) && !same(b"", b""));
        let png = encoded(picture(1).into(), ImageFormat::Png);
        assert!(!same(&png, &png));
    }

    #[test]
    fn what_does_not_decode_is_an_error() {
        let limits = DecodeLimits::DEFAULT;
        assert!(shown(b"text", &limits).is_err() && shown(b"", &limits).is_err());
        for format in [
            ImageFormat::Png,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Jpeg,
        ] {
            let file = encoded(DynamicImage::from(picture(1)).into_rgb8().into(), format);
            assert!(
                shown(&file, &limits).is_ok_and(|shown| shown.is_whole),
                "{format:?}"
            );
            assert!(shown(&file[..file.len() / 2], &limits).is_err(), "{format:?}");
        }
    }
}
