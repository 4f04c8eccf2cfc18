//! Encoded image in, upright RGB pixels out: JPEG, PNG, WebP, BMP and GIF, recognized by content, never by
//! name.
//!
//! The header is read first, and an image over the limits is rejected before its pixels are allocated. The
//! pixels of all threads together are bounded: a large picture waits for its turn. A decoder that would fill
//! the missing end of a truncated file with gray is made to fail instead, so that a network does not train on
//! half-gray pictures.

mod shown;
mod unseen;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::caught::caught;
use crate::content::{Content, START_BYTES, content_of};
use crate::error::DecodeError;
use crate::in_flight::{Held, PICTURES};

pub use shown::{Shown, shown};
pub use unseen::{frames, is_transparent};

/// An upright picture in three 8-bit channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RgbImage {
    /// Width, px.
    pub width: u32,
    /// Height, px.
    pub height: u32,
    /// Red, green, blue of each pixel, rows from the top: `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

/// The largest accepted image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The largest width and the largest height, px.
    pub side_px: u32,
    /// The largest width times height; memory is three bytes per pixel, and more while decoding.
    pub pixels: u64,
}

impl DecodeLimits {
    /// 65,535 px per side and 178,956,970 px in all: JPEG's own limit, and the limit above which Pillow gives
    /// an error.
    pub const DEFAULT: DecodeLimits = DecodeLimits {
        side_px: 65_535,
        pixels: 178_956_970,
    };

    pub(crate) fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::NoPixels { width, height });
        }
        let limit = if width > self.side_px || height > self.side_px {
            format!("{} px a side", self.side_px)
        } else if u64::from(width) * u64::from(height) > self.pixels {
            format!("{} px in all", self.pixels)
        } else {
            return Ok(());
        };
        Err(DecodeError::TooLarge { width, height, limit })
    }
}

/// Most memory that a file's own extras (color profile, comments) may take when it is read, bytes: a profile
/// of a few kilobytes can unpack to gigabytes.
const EXTRAS_BYTES: u64 = 1 << 28;

/// A JPEG has at least one bit for each block of 64 pixels, so a file with more pixels per byte than twice
/// that has lost its end or was made to take memory.
const MOST_JPEG_PIXELS_PER_BYTE: u64 = 2 * 8 * 64;

/// A picture as its header announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// Width of the upright picture, px.
    pub(crate) width: u32,
    /// Height of the upright picture, px.
    pub(crate) height: u32,
    /// Memory for decoding it, bytes: its pixels, and the decoder's own buffers.
    pub(crate) bytes: u64,
}

impl Announced {
    /// A picture of `bytes_per_pixel` in its file's orientation, with a copy if it must be turned.
    fn new(width: u32, height: u32, bytes_per_pixel: u64, orientation: Orientation) -> Announced {
        let turned = orientation != Orientation::NoTransforms;
        let bytes = bytes_per_pixel + if turned { RGB_BYTES } else { 0 };
        let sideways = matches!(
            orientation,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        let (upright_width, upright_height) = if sideways {
            (height, width)
        } else {
            (width, height)
        };
        Announced {
            width: upright_width,
            height: upright_height,
            bytes: u64::from(width) * u64::from(height) * bytes,
        }
    }
}

/// Bytes of a pixel.
pub(crate) const RGB_BYTES: u64 = 3;

impl Default for DecodeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Decodes an image of any supported format to RGB.
///
/// EXIF orientation is applied; gray, palette and CMYK become RGB, 16 bits become 8, and alpha is dropped
/// without blending, as Pillow's `convert("RGB")` does. A GIF gives its first frame.
///
/// # Errors
/// [`DecodeError`] for anything else, truncated data included; never a panic.
pub fn decode(encoded: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let mut image = RgbImage::default();
    decode_into(encoded, limits, &mut image)?;
    Ok(image)
}

/// [`decode`] into an image whose memory is reused. After an error its content is unspecified.
///
/// # Errors
/// As [`decode`].
pub fn decode_into(encoded: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), DecodeError> {
    decode_admitted(encoded, limits, image, |picture| {
        Ok(PICTURES.reserve(picture.bytes))
    })
    .map(drop)
}

/// Decodes a picture and passes it to `work`; the memory of both counts in the bound over all threads.
///
/// `work` must not decode another picture, nor wait for other threads.
///
/// # Errors
/// As [`decode`], and [`DecodeError::Panicked`] for a panic in `work`.
pub fn decode_and<T>(
    encoded: &[u8],
    limits: &DecodeLimits,
    work: impl FnOnce(RgbImage) -> T,
) -> Result<T, DecodeError> {
    let mut image = RgbImage::default();
    let _held = decode_admitted(encoded, limits, &mut image, |picture| {
        Ok(PICTURES.reserve(picture.bytes))
    })?;
    caught(|| work(image)).map_err(|message| DecodeError::Panicked { message })
}

/// [`decode_into`] that calls `admit` between the header and the pixels: it reserves their memory, or refuses
/// the picture. The memory is returned as it was reserved.
///
/// # Errors
/// As [`decode`], and those of `admit`.
pub(crate) fn decode_admitted<'a>(
    encoded: &[u8],
    limits: &DecodeLimits,
    image: &mut RgbImage,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<Held<'a>, DecodeError> {
    let (format, name) = format_of(encoded)?;
    let held = whatever_happens(name, || match format {
        ImageFormat::Jpeg => decode_jpeg(encoded, limits, image, admit),
        format => decode_other(encoded, format, name, limits, image, admit),
    })?;
    // What a header announces and what a decoder gives are not always the same.
    limits.check(image.width, image.height)?;
    let bytes = u64::from(image.width) * u64::from(image.height) * RGB_BYTES;
    if image.pixels.len() as u64 != bytes {
        return Err(DecodeError::Broken {
            format: name,
            reason: format!(
                "{} x {} px must have {bytes} bytes, got {}",
                image.width,
                image.height,
                image.pixels.len()
            ),
        });
    }
    Ok(held)
}

/// The format of a file that can be decoded, and its name.
fn format_of(encoded: &[u8]) -> Result<(ImageFormat, &'static str), DecodeError> {
    let format = image::guess_format(encoded).map_err(|_| no_image(encoded))?;
    let name = match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        _ => return Err(no_image(encoded)),
    };
    Ok((format, name))
}

/// Decodes. The decoders are designed not to panic; this is for the file that makes one panic all the same.
fn whatever_happens<T>(
    format: &'static str,
    decode: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    caught(decode).unwrap_or_else(|message| {
        Err(DecodeError::Broken {
            format,
            reason: format!("the decoder panicked: {message}"),
        })
    })
}

/// Pixel count of an image from its header; 0 for an unreadable header, because such a file is not decoded
/// either.
pub fn header_pixels(encoded: &[u8]) -> u64 {
    let reader = image::ImageReader::new(Cursor::new(encoded)).with_guessed_format();
    let size = reader.ok().and_then(|reader| reader.into_dimensions().ok());
    size.map_or(0, |(width, height)| u64::from(width) * u64::from(height))
}

/// Bytes of a file in which the header of nearly every picture ends.
const HEADER_BYTES: u64 = 1 << 16;

/// Width and height of a file's picture after it is turned upright, px, from its header; `None` where it has none
/// that can be read.
pub(crate) fn upright_size(path: &Path) -> Option<(u32, u32)> {
    let mut file = File::open(path).ok()?;
    let mut start = Vec::new();
    file.by_ref().take(HEADER_BYTES).read_to_end(&mut start).ok()?;
    upright_size_of(&start).or_else(|| {
        file.read_to_end(&mut start).ok()?;
        upright_size_of(&start)
    })
}

/// [`upright_size`] of bytes that contain the header.
pub(crate) fn upright_size_of(encoded: &[u8]) -> Option<(u32, u32)> {
    let (width, height, orientation) = match image::guess_format(encoded).ok()? {
        ImageFormat::Jpeg => {
            let mut decoder = JpegDecoder::new_with_options(ZCursor::new(encoded), jpeg_options());
            decoder.decode_headers().ok()?;
            let info = decoder.info()?;
            (
                u32::from(info.width),
                u32::from(info.height),
                jpeg_orientation(&decoder),
            )
        }
        format => {
            let reader = image::ImageReader::with_format(Cursor::new(encoded), format);
            let mut decoder = reader.into_decoder().ok()?;
            let (width, height) = decoder.dimensions();
            (width, height, decoder.orientation().ok()?)
        }
    };
    let announced = Announced::new(width, height, RGB_BYTES, orientation);
    Some((announced.width, announced.height))
}

/// Strict, because otherwise the decoder fills unreadable parts with gray. Limits on the sides are checked by the
/// caller.
fn jpeg_options() -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

/// How a JPEG must be turned, once its headers are read.
fn jpeg_orientation(decoder: &JpegDecoder<ZCursor<&[u8]>>) -> Orientation {
    decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms)
}

/// How many of the first images, given their pixel counts, may be decoded together: as many as fit into
/// `most_pixels`, and at least one.
pub fn decoded_together(pixels: impl IntoIterator<Item = u64>, most_pixels: u64) -> usize {
    let mut sum = 0;
    let fit = pixels.into_iter().take_while(|pixels| {
        sum += pixels;
        sum <= most_pixels
    });
    fit.count().max(1)
}

fn decode_jpeg<'a>(
    encoded: &[u8],
    limits: &DecodeLimits,
    image: &mut RgbImage,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<Held<'a>, DecodeError> {
    let (jpeg, held) = read_jpeg(encoded, limits, &mut image.pixels, Samples::Rgb, admit)?;
    (image.width, image.height) = (jpeg.width, jpeg.height);
    turn(image, jpeg.orientation);
    Ok(held)
}

/// In which color space the pixels of a JPEG are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Samples {
    /// Red, green and blue, whatever the file has.
    Rgb,
    /// The file's own four inks; red, green and blue of other files.
    Inks,
}

/// A JPEG whose pixels were read, in the file's orientation.
struct Jpeg {
    width: u32,
    height: u32,
    orientation: Orientation,
    /// The color space of the pixels.
    colors: ColorSpace,
}

/// Reads the pixels of a JPEG into memory that is reused.
fn read_jpeg<'a>(
    encoded: &[u8],
    limits: &DecodeLimits,
    pixels: &mut Vec<u8>,
    samples: Samples,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<(Jpeg, Held<'a>), DecodeError> {
    let broken = |reason: &dyn std::fmt::Display| DecodeError::Broken {
        format: "JPEG",
        reason: reason.to_string(),
    };
    if !jpeg_marks(encoded).any(|mark| mark == JPEG_END) {
        return Err(DecodeError::Truncated { format: "JPEG" });
    }
    // The decoder's message for such a file is about something else.
    let mut header = jpeg_marks(encoded).take_while(|mark| *mark != JPEG_SCAN);
    if header.any(|mark| JPEG_CODINGS_NOT_READ.contains(&mark)) {
        return Err(broken(
            &"arithmetic coding, lossless coding and hierarchies are not read; save it as a usual JPEG",
        ));
    }
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(encoded), jpeg_options());
    decoder.decode_headers().map_err(|error| broken(&error))?;
    let info = decoder.info().ok_or_else(|| broken(&"no frame header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(width, height)?;
    if u64::from(width) * u64::from(height) > MOST_JPEG_PIXELS_PER_BYTE * encoded.len() as u64 {
        return Err(DecodeError::Truncated { format: "JPEG" });
    }
    let orientation = jpeg_orientation(&decoder);
    let own = decoder.input_colorspace().filter(|_| samples == Samples::Inks);
    let colors = own
        .filter(|own| matches!(own, ColorSpace::CMYK | ColorSpace::YCCK))
        .unwrap_or(ColorSpace::RGB);
    decoder.set_options(jpeg_options().jpeg_set_out_colorspace(colors));
    // A progressive picture's coefficients, 16 bits each, are all kept until its last scan.
    let coefficients = if info.sof.is_sequential_dct() {
        0
    } else {
        2 * RGB_BYTES
    };
    let held = admit(Announced::new(
        width,
        height,
        colors.num_components() as u64 + coefficients,
        orientation,
    ))?;
    let bytes = decoder
        .output_buffer_size()
        .ok_or_else(|| broken(&"no frame header"))?;
    pixels.resize(bytes, 0);
    // Where the data end early, the decoder may leave the last rows as they are: those of an earlier picture.
    let last_row = bytes.saturating_sub(width as usize * colors.num_components());
    write_mark(pixels.get_mut(last_row..).unwrap_or_default());
    decoder.decode_into(pixels).map_err(|error| broken(&error))?;
    // One row of blocks is always written.
    if height > JPEG_BLOCK_PX && is_mark(pixels.get(last_row..).unwrap_or_default()) {
        return Err(DecodeError::Truncated { format: "JPEG" });
    }
    let jpeg = Jpeg {
        width,
        height,
        orientation,
        colors,
    };
    Ok((jpeg, held))
}

/// Height of a block of a JPEG, px.
const JPEG_BLOCK_PX: u32 = 8;

/// Colors that no photo has side by side.
fn mark() -> impl Iterator<Item = u8> {
    (1u32..).map(|place| (place.wrapping_mul(0x9E37_79B9) >> 24) as u8)
}

fn write_mark(row: &mut [u8]) {
    row.iter_mut().zip(mark()).for_each(|(byte, mark)| *byte = mark);
}

fn is_mark(row: &[u8]) -> bool {
    row.iter().copied().zip(mark()).all(|(byte, mark)| byte == mark)
}

/// The end-of-image mark of a JPEG.
const JPEG_END: u8 = 0xD9;

/// The mark of the first coded data, behind all headers of a picture of one frame.
const JPEG_SCAN: u8 = 0xDA;

/// Frame headers of lossless, hierarchical and arithmetic coding.
const JPEG_CODINGS_NOT_READ: [u8; 10] = [0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF];

/// The marks of a JPEG's segments, up to the end-of-image mark of its first picture or to the end of the file.
///
/// The decoder notices missing data only where a row of blocks begins; the last mark covers the last row as
/// well. Searching for it from the end of the file would find the one of an embedded thumbnail or of a second
/// picture.
fn jpeg_marks(encoded: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 2;
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            // Data between segments, entropy-coded data included, run to the next 0xFF.
            let offset = encoded.get(at..)?.iter().position(|byte| *byte == 0xFF)?;
            at += offset + 1;
            match *encoded.get(at)? {
                // A byte 0xFF within the data, a restart mark, or the start-of-image mark: nothing to skip.
                0x00 | 0x01 | 0xD0..=0xD8 => at += 1,
                // Fill byte: the mark follows it.
                0xFF => {}
                JPEG_END => {
                    is_over = true;
                    return Some(JPEG_END);
                }
                mark => {
                    let length = encoded.get(at + 1..at + 3)?;
                    at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                    return Some(mark);
                }
            }
        }
        None
    })
}

fn decode_other<'a>(
    encoded: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &DecodeLimits,
    image: &mut RgbImage,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<Held<'a>, DecodeError> {
    let (picture, orientation, held) = read_other(encoded, format, name, limits, admit)?;
    let picture = picture.into_rgb8();
    (image.width, image.height) = picture.dimensions();
    image.pixels = picture.into_raw();
    turn(image, orientation);
    Ok(held)
}

/// Reads the first picture of a file that is no JPEG, in its own depth and colors, and how it must be turned.
fn read_other<'a>(
    encoded: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &DecodeLimits,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<(DynamicImage, Orientation, Held<'a>), DecodeError> {
    let convert = |error: image::ImageError| match error {
        image::ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: name }
        }
        error => DecodeError::Broken {
            format: name,
            reason: error.to_string(),
        },
    };
    let mut frame = 0;
    if format == ImageFormat::Gif {
        // The decoder unpacks the frame, whose size is its own, beside the screen.
        let (width, height) = gif_frame(encoded).ok_or(DecodeError::Truncated { format: name })?;
        limits.check(width, height)?;
        frame = u64::from(width) * u64::from(height) * 4;
    }
    let mut reader = image::ImageReader::with_format(Cursor::new(encoded), format);
    // The decoders count differently per format; pixels are checked here, before any large allocation.
    let mut extras = image::Limits::no_limits();
    extras.max_alloc = Some(EXTRAS_BYTES.max(frame));
    reader.limits(extras);
    let mut decoder = reader.into_decoder().map_err(convert)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let converted = match color {
        image::ColorType::Rgb8 => 0,
        _ => RGB_BYTES,
    };
    let bytes_per_pixel = u64::from(color.bytes_per_pixel()) + converted;
    let mut announced = Announced::new(width, height, bytes_per_pixel, orientation);
    announced.bytes += frame;
    let held = admit(announced)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(convert)?;
    Ok((picture, orientation, held))
}

/// Width and height of a GIF's first frame, px; `None` where the file ends before it.
fn gif_frame(encoded: &[u8]) -> Option<(u32, u32)> {
    let colors = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    };
    // Signature, then the screen: sides, flags, background, aspect; then the global colors.
    let mut at = 13 + colors(*encoded.get(10)?);
    loop {
        match encoded.get(at)? {
            // A frame: left, top, width, height.
            0x2C => {
                let side = |place: usize| {
                    let bytes = encoded.get(at + place..at + place + 2)?;
                    Some(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])))
                };
                return Some((side(5)?, side(7)?));
            }
            // An extension: its label, then blocks with their lengths, the last of length 0.
            0x21 => {
                at += 2;
                loop {
                    let length = usize::from(*encoded.get(at)?);
                    at += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
            }
            _ => return None,
        }
    }
}

fn turn(image: &mut RgbImage, orientation: Orientation) {
    if orientation == Orientation::NoTransforms {
        return;
    }
    let pixels = std::mem::take(&mut image.pixels);
    if let Some(picture) = image::RgbImage::from_raw(image.width, image.height, pixels) {
        let mut picture = DynamicImage::ImageRgb8(picture);
        picture.apply_orientation(orientation);
        (image.width, image.height) = (picture.width(), picture.height());
        image.pixels = picture.into_rgb8().into_raw();
    }
}

/// The error of bytes that are no image in a supported format.
pub(crate) fn no_image(encoded: &[u8]) -> DecodeError {
    match encoded.is_empty() {
        true => DecodeError::Empty,
        false => DecodeError::Format {
            found: describe(encoded),
        },
    }
}

/// A description of bytes that are not an image, for messages: by what they begin with.
pub fn describe(encoded: &[u8]) -> String {
    let start = &encoded[..encoded.len().min(START_BYTES)];
    match content_of(start) {
        Content::UnreadPicture(format) => {
            return format!(
                "a picture in the format {}; convert it to JPEG or PNG",
                format.to_uppercase()
            );
        }
        content => {
            if let Some(words) = content.words() {
                return words.to_string();
            }
        }
    }
    let start = &start[..start.len().min(16)];
    if start
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        format!(
            "text starting with `{}`",
            String::from_utf8_lossy(start).trim().escape_debug()
        )
    } else {
        let bytes: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("bytes {}", bytes.join(" "))
    }
}

#[cfg(test)]
mod tests;
