//! Two JPEGs in, whether their pictures are coded by the same bytes out. Nothing is decoded but their headers.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_jpeg::JpegDecoder;

use super::super::DecodeLimits;
use super::{MOST_PIXELS_PER_BYTE, options, orientation};

/// Bytes of JFIF's and Adobe's segments that decoders read: what follows is a thumbnail, or belongs to nothing.
const COLOR_BYTES: usize = 12;

/// What of a file decides which picture decoders show.
#[derive(PartialEq)]
struct Picture<'a> {
    /// Segments that say how colors are to be read, in their order.
    colors: Vec<(u8, &'a [u8])>,
    /// Color space of the samples before they are converted.
    samples: Option<ColorSpace>,
    orientation: Orientation,
    /// The file from its first table or frame on, with whatever lies behind its end.
    coded: &'a [u8],
}

/// Whether two JPEGs differ in metadata before their first table or frame alone: then decoders show the same of both,
/// and of a damaged one as much. `false` where only decoding tells, or where the second is too short for its size.
pub(in super::super) fn same_picture(before: &[u8], after: &[u8], limits: &DecodeLimits) -> bool {
    let (Some(before), Some((picture, pixels))) = (picture(before, limits), picture(after, limits)) else {
        return false;
    };
    before.0 == picture && pixels <= MOST_PIXELS_PER_BYTE * after.len() as u64
}

/// The picture of a file, and its pixels; `None` where its headers cannot be read, or not without doubt.
fn picture<'a>(file: &'a [u8], limits: &DecodeLimits) -> Option<(Picture<'a>, u64)> {
    let mut colors = Vec::new();
    let mut at = 2;
    // Decoders do not agree on what follows fill bytes and bytes between segments.
    while let [0xFF, mark @ (0xE0..=0xEF | 0xFE), high, low] = *file.get(at..at + 4)? {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let data = file.get(at + 4..at + 2 + length)?;
        // JFXX holds a thumbnail alone.
        if mark == 0xEE || (mark == 0xE0 && !data.starts_with(b"JFXX\0")) {
            colors.push((mark, data.get(..COLOR_BYTES).unwrap_or(data)));
        }
        at += 2 + length;
    }
    let coded = file.get(at..)?;
    if !matches!(coded, [0xFF, 0xC0..=0xC7 | 0xDB | 0xDD, ..]) {
        return None;
    }
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options());
    decoder.decode_headers().ok()?;
    let info = decoder.info()?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(width, height).ok()?;
    let picture = Picture {
        colors,
        samples: decoder.input_colorspace(),
        orientation: orientation(&decoder),
        coded,
    };
    Some((picture, u64::from(width) * u64::from(height)))
}
