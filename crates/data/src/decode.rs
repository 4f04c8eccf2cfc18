//! Encoded image in, upright RGB pixels out: JPEG, PNG, WebP, BMP and GIF, recognized by content, never by
//! name.
//!
//! The header is read first, and an image over the limits is rejected before its pixels are allocated. The
//! pixels of all threads together are bounded: a large picture waits for its turn. A decoder that would fill
//! the missing end of a truncated file with gray is made to fail instead, so that a network does not train on
//! half-gray pictures, nor on two pictures that a file joins into one (`jpeg`).

mod jpeg;
#[cfg(test)]
mod made;
mod shown;
mod unseen;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat};

use crate::caught::caught;
use crate::content::{Content, START_BYTES, content_of};
use crate::error::DecodeError;
use crate::in_flight::{Held, PICTURES};

pub use shown::{Shown, same_coded_picture, shown};
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
        ImageFormat::Jpeg => jpeg::decode(encoded, limits, image, admit),
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
        ImageFormat::Jpeg => jpeg::size_and_orientation(encoded)?,
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
