//! A JPEG in, its pixels out: only where the file holds one whole picture.
//!
//! The decoder itself would take a file that was cut and joined with the scan of another picture, and shows a mix
//! of both; and where the data end early and an end mark follows, it fills the rest with one color. So the marks
//! are read first, which says whether each component is coded once; and behind the data of the last scan the
//! decoder reads bits that no Huffman code has, in place of zeros without end.

mod same;

use std::borrow::Cow;
use std::cell::Cell;

use image::metadata::Orientation;
use zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZCursor, ZSeekFrom};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Announced, DecodeLimits, RGB_BYTES, RgbImage, turn};
use crate::error::DecodeError;
use crate::in_flight::Held;

pub(super) use same::same_picture;

/// A JPEG has at least one bit for each block of 64 pixels, so a file with more pixels per byte than twice
/// that has lost its end or was made to take memory.
const MOST_PIXELS_PER_BYTE: u64 = 2 * 8 * 64;

/// Height of a block, px.
const BLOCK_PX: u32 = 8;

const TRUNCATED: DecodeError = DecodeError::Truncated { format: "JPEG" };

fn broken(reason: impl ToString) -> DecodeError {
    DecodeError::Broken {
        format: "JPEG",
        reason: reason.to_string(),
    }
}

/// Width and height in the file's orientation, px, and that orientation, from bytes that contain the header; `None`
/// where it cannot be read.
pub(super) fn size_and_orientation(encoded: &[u8]) -> Option<(u32, u32, Orientation)> {
    let encoded = usual_header(encoded);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&*encoded), options());
    decoder.decode_headers().ok()?;
    let info = decoder.info()?;
    Some((
        u32::from(info.width),
        u32::from(info.height),
        orientation(&decoder),
    ))
}

/// Strict, because otherwise the decoder fills unreadable parts with gray. Limits on the sides are checked by the
/// caller.
fn options() -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

/// How a picture must be turned, once its headers are read.
fn orientation<T: ZByteReaderTrait>(decoder: &JpegDecoder<T>) -> Orientation {
    decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms)
}

/// Decodes a picture upright; `admit` is called between the header and the pixels.
///
/// # Errors
/// [`DecodeError`] where the file does not hold one whole picture, and those of `admit`.
pub(super) fn decode<'a>(
    encoded: &[u8],
    limits: &DecodeLimits,
    image: &mut RgbImage,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<Held<'a>, DecodeError> {
    let (jpeg, held) = read(encoded, limits, &mut image.pixels, Samples::Rgb, admit)?;
    (image.width, image.height) = (jpeg.width, jpeg.height);
    turn(image, jpeg.orientation);
    Ok(held)
}

/// In which color space the pixels of a JPEG are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Samples {
    /// Red, green and blue, whatever the file has.
    Rgb,
    /// The file's own four inks; red, green and blue of other files.
    Inks,
}

/// A JPEG whose pixels were read, in the file's orientation.
pub(super) struct Jpeg {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) orientation: Orientation,
    /// The color space of the pixels.
    pub(super) colors: ColorSpace,
}

/// Reads the pixels of a JPEG into memory that is reused.
///
/// # Errors
/// Those of [`decode`].
pub(super) fn read<'a>(
    encoded: &[u8],
    limits: &DecodeLimits,
    pixels: &mut Vec<u8>,
    samples: Samples,
    admit: impl FnOnce(Announced) -> Result<Held<'a>, DecodeError>,
) -> Result<(Jpeg, Held<'a>), DecodeError> {
    let reached = Cell::new(false);
    let encoded = &*usual_header(encoded);
    let coded = coded_once(encoded)?;
    let mut decoder = JpegDecoder::new_with_options(coded.input(encoded, &reached), options());
    decoder.decode_headers().map_err(broken)?;
    // Behind the decoder's own errors, which are of headers that no scan can follow.
    if !coded.is_whole {
        return Err(TRUNCATED);
    }
    let info = decoder.info().ok_or_else(|| broken("no frame header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(width, height)?;
    if u64::from(width) * u64::from(height) > MOST_PIXELS_PER_BYTE * encoded.len() as u64 {
        return Err(TRUNCATED);
    }
    let orientation = orientation(&decoder);
    let own = decoder.input_colorspace().filter(|_| samples == Samples::Inks);
    let colors = own
        .filter(|own| matches!(own, ColorSpace::CMYK | ColorSpace::YCCK))
        .unwrap_or(ColorSpace::RGB);
    decoder.set_options(options().jpeg_set_out_colorspace(colors));
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
        .ok_or_else(|| broken("no frame header"))?;
    pixels.resize(bytes, 0);
    // Where the data end early, the decoder may leave the last rows as they are: those of an earlier picture.
    let last_row = bytes.saturating_sub(width as usize * colors.num_components());
    write_mark(pixels.get_mut(last_row..).unwrap_or_default());
    decoder.decode_into(pixels).map_err(|error| match reached.get() {
        true => TRUNCATED,
        false => broken(error),
    })?;
    // One row of blocks is always written.
    if height > BLOCK_PX && is_mark(pixels.get(last_row..).unwrap_or_default()) {
        return Err(TRUNCATED);
    }
    let jpeg = Jpeg {
        width,
        height,
        orientation,
        colors,
    };
    Ok((jpeg, held))
}

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

/// Frame headers of lossless, hierarchical and arithmetic coding.
const CODINGS_NOT_READ: [u8; 10] = [0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF];

/// Most bytes between the segments of a header that are ignored. Programs leave a few, such as 16 behind a segment whose
/// length is wrong; more of them are the rest of another file.
const MOST_EXTRA_BYTES: usize = 64;

/// Says to the decoder that the standard's own Huffman tables hold (ITU T.81, Annex K.3), as in a video of pictures.
const STANDARD_TABLES: [u8; 18] = *b"\xFF\xE0\0\x10AVI1\0\0\0\0\0\0\0\0\0\0";

/// The file, or a copy of it with a header that the decoder reads: without bytes between its segments, and with a note
/// where it has no Huffman tables, as pictures of webcams.
fn usual_header(encoded: &[u8]) -> Cow<'_, [u8]> {
    let mut segments = vec![];
    let (mut extra, mut has_tables) = (0, false);
    let mut at = 2;
    // Of a header that ends early `coded_once` says so.
    while let Some(found) = next_mark(encoded, at) {
        extra += found.at - at;
        let from = found.at;
        at = found.end;
        match found.mark {
            // A byte 0xFF, or a mark without meaning.
            0x00 | 0x01 => {
                extra += at - from;
                continue;
            }
            // Only a sequential picture may do without tables.
            0xC4 | 0xC2 => has_tables = true,
            0xD0..=0xD9 => break,
            0xDA => {
                if extra == 0 && has_tables || extra > MOST_EXTRA_BYTES {
                    break;
                }
                let mut file = Vec::with_capacity(encoded.len() + STANDARD_TABLES.len());
                file.extend_from_slice(encoded.get(..2).unwrap_or_default());
                for segment in segments {
                    file.extend_from_slice(encoded.get(segment).unwrap_or_default());
                }
                if !has_tables {
                    file.extend_from_slice(&STANDARD_TABLES);
                }
                file.extend_from_slice(encoded.get(from..).unwrap_or_default());
                return Cow::Owned(file);
            }
            _ => {}
        }
        let Some(length) = encoded.get(at..at + 2) else {
            break;
        };
        at += usize::from(u16::from_be_bytes([length[0], length[1]]));
        segments.push(from..at);
    }
    Cow::Borrowed(encoded)
}

/// A mark of a JPEG.
struct Mark {
    /// Its second byte.
    mark: u8,
    /// Where it begins, with the fill bytes before it.
    at: usize,
    /// Where it ends.
    end: usize,
}

/// The first mark from a place on; `None` where there is none.
fn next_mark(encoded: &[u8], from: usize) -> Option<Mark> {
    let at = from + first_ff(encoded.get(from..)?)?;
    let fill = encoded.get(at..)?.iter().position(|byte| *byte != 0xFF)?;
    let mark = *encoded.get(at + fill)?;
    let end = at + fill + 1;
    Some(Mark { mark, at, end })
}

/// The place of the first byte 0xFF. Blocks of bytes are compared at once, which takes a third of the time.
fn first_ff(bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let holds = |block: &[u8; 32]| block.iter().fold(false, |holds, byte| holds | (*byte == 0xFF));
    let place = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0xFF);
    match blocks.iter().position(holds) {
        Some(at) => Some(32 * at + place(&blocks[at])?),
        None => Some(32 * blocks.len() + place(rest)?),
    }
}

/// Where the data of a picture lie in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Coded {
    /// Where the data of the last scan end, bytes; `None` without a scan.
    end: Option<usize>,
    /// Whether the decoder needs nothing behind the data of the last scan.
    is_closed: bool,
    /// Whether each component is coded.
    is_whole: bool,
}

impl Coded {
    /// What the decoder reads; `reached` is set once it reads behind the last scan.
    fn input<'a>(self, encoded: &'a [u8], reached: &'a Cell<bool>) -> Input<'a> {
        match self.end {
            Some(end) if self.is_closed => Input {
                data: encoded.get(..end).unwrap_or(encoded),
                behind: &NO_CODE,
                at: 0,
                reached,
            },
            _ => Input {
                data: encoded,
                behind: &[],
                at: 0,
                reached,
            },
        }
    }
}

/// A frame's components, and which of their coefficients its scans have coded.
struct Frame {
    is_progressive: bool,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// For each of 64 coefficients the lowest bit that was coded; `None` for none.
    lowest_bits: [Option<u8>; 64],
}

impl Frame {
    /// The frame header of this mark: precision, sides, and three bytes for each component.
    fn new(mark: u8, header: &[u8]) -> Frame {
        let components = header.get(6..).unwrap_or_default().as_chunks::<3>().0;
        let component = |[id, ..]: &[u8; 3]| Component {
            id: *id,
            lowest_bits: [None; 64],
        };
        Frame {
            is_progressive: mark == 0xC2,
            components: components.iter().map(component).collect(),
        }
    }

    /// Whether two components have one identifier, so that scans do not say which one they code.
    fn has_equal_identifiers(&self) -> bool {
        let ids = || self.components.iter().map(|component| component.id).enumerate();
        ids().any(|(place, id)| ids().any(|(other, same)| other > place && same == id))
    }

    /// Enters a scan by its header; returns its number of components. A header that cannot be read is left to the
    /// decoder.
    fn enter(&mut self, header: &[u8]) -> Result<usize, DecodeError> {
        let count = header.first().map_or(0, |count| usize::from(*count));
        let (Some(components), Some([first, last, bits])) = (
            header.get(1..1 + 2 * count),
            header.get(1 + 2 * count..4 + 2 * count),
        ) else {
            return Ok(0);
        };
        let (higher, lower) = (bits >> 4, bits & 15);
        let coefficients = match self.is_progressive {
            true => usize::from(*first)..usize::from(*last).min(63) + 1,
            false => 0..64,
        };
        for [id, _] in components.as_chunks::<2>().0 {
            let Some(component) = self.components.iter_mut().find(|component| component.id == *id) else {
                continue;
            };
            let coded = component.lowest_bits.get_mut(coefficients.clone());
            for lowest in coded.unwrap_or_default() {
                let is_first = !self.is_progressive || higher == 0;
                match lowest {
                    Some(_) if is_first => return Err(broken(CODED_TWICE)),
                    Some(lowest) if higher > *lowest => return Err(broken(CODED_TWICE)),
                    Some(lowest) if higher < *lowest => return Err(broken(NOT_CODED)),
                    None if !is_first => return Err(broken(NOT_CODED)),
                    _ => {}
                }
                *lowest = Some(if self.is_progressive { lower } else { 0 });
            }
        }
        Ok(count)
    }

    /// Whether each component has been coded, if not to the last bit, and the first one has more than the means of its
    /// blocks: a progressive picture of means alone was cut behind its first scan, or within it.
    fn is_whole(&self) -> bool {
        let mut components = self.components.iter();
        let details = self.components.first().map(|first| &first.lowest_bits[1..]);
        components.all(|component| component.lowest_bits[0].is_some())
            && details.is_some_and(|details| details.iter().any(Option::is_some))
    }
}

const NOT_READ: &str =
    "arithmetic coding, lossless coding and hierarchies are not read; save it as a usual JPEG";
const EQUAL_IDENTIFIERS: &str =
    "two of its components have one identifier, which is not read; save it as a usual JPEG";
const SECOND_PICTURE: &str = "another picture begins inside its data";
const CODED_TWICE: &str = "a scan codes again what was coded: its data are joined with another picture's";
const NOT_CODED: &str = "a scan refines what was not coded: a part of its data is missing";
const RESTARTS: &str =
    "its restart marks are out of order: a part of its data is missing or is another picture's";

/// Reads the marks up to the end-of-image mark of the first picture, and checks that one frame is coded, each of its
/// components once.
///
/// The decoder notices missing data only where a row of blocks begins; the last mark covers the last row as
/// well. Searching for it from the end of the file would find the one of an embedded thumbnail or of a second
/// picture.
fn coded_once(encoded: &[u8]) -> Result<Coded, DecodeError> {
    let mut frame: Option<Frame> = None;
    let (mut scans, mut first_components) = (0, 0);
    let (mut end, mut restarts) = (None, 0);
    let mut at = 2;
    loop {
        // Data between segments, entropy-coded data included, run to it.
        let Mark {
            mark,
            at: mark_at,
            end: mark_end,
        } = next_mark(encoded, at).ok_or(TRUNCATED)?;
        at = mark_end;
        match mark {
            // A byte 0xFF within the data, or a mark without meaning.
            0x00 | 0x01 => continue,
            0xD0..=0xD7 => {
                // Some programs write one behind the last data, of any number.
                let is_last = encoded.get(at) == Some(&0xFF)
                    && next_mark(encoded, at)
                        .is_some_and(|next| !matches!(next.mark, 0x00 | 0x01 | 0xD0..=0xD7));
                // They count from 0 to 7 and begin again.
                if scans > 0 && is_last {
                    end = end.or(Some(mark_at));
                } else if scans > 0 && end.is_none() {
                    if mark & 7 != restarts & 7 {
                        return Err(broken(RESTARTS));
                    }
                    restarts = (restarts + 1) & 7;
                }
                continue;
            }
            0xD8 => return Err(broken(SECOND_PICTURE)),
            _ => end = end.or((scans > 0).then_some(mark_at)),
        }
        if mark == 0xD9 {
            break;
        }
        let length = encoded.get(at..at + 2).ok_or(TRUNCATED)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = encoded.get(at + 2..at + length.max(2)).unwrap_or_default();
        at += length;
        match mark {
            0xC4 | 0xC8 | 0xCC => {}
            0xC0..=0xCF if frame.is_some() => return Err(broken(SECOND_PICTURE)),
            // The decoder's message for such a file is about something else.
            mark if CODINGS_NOT_READ.contains(&mark) => return Err(broken(NOT_READ)),
            0xC0..=0xCF => {
                let new = Frame::new(mark, segment);
                if new.has_equal_identifiers() {
                    return Err(broken(EQUAL_IDENTIFIERS));
                }
                frame = Some(new);
            }
            0xDA => {
                let components = frame.as_mut().map_or(Ok(0), |frame| frame.enter(segment))?;
                if scans == 0 {
                    first_components = components;
                }
                scans += 1;
                (end, restarts) = (None, 0);
            }
            _ => {}
        }
    }
    let Some(frame) = frame.filter(|_| scans > 0) else {
        return Ok(Coded {
            end: None,
            is_closed: false,
            is_whole: false,
        });
    };
    let is_closed = match frame.is_progressive {
        // The decoder looks for the mark behind the first scan while it reads that scan's data.
        true => scans > 1,
        false => first_components == frame.components.len(),
    };
    Ok(Coded {
        end,
        is_closed,
        is_whole: frame.is_whole(),
    })
}

/// Bits that are all ones, which no Huffman code has, and the end-of-image mark.
const NO_CODE: [u8; 18] = [
    0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0xD9,
];

/// A file up to the end of its last scan, and other bytes behind it.
struct Input<'a> {
    data: &'a [u8],
    behind: &'static [u8],
    /// In both together.
    at: usize,
    /// Set once a byte of `behind` is read.
    reached: &'a Cell<bool>,
}

impl Input<'_> {
    fn len(&self) -> usize {
        self.data.len() + self.behind.len()
    }

    /// The byte at this place, in `data` or behind it.
    fn byte(&self, at: usize) -> Option<u8> {
        match self.data.get(at) {
            Some(byte) => Some(*byte),
            None => {
                let byte = self.behind.get(at.checked_sub(self.data.len())?)?;
                self.reached.set(true);
                Some(*byte)
            }
        }
    }

    /// Copies bytes as far as there are any; returns their number.
    fn copy(&self, into: &mut [u8]) -> usize {
        for (place, into) in into.iter_mut().enumerate() {
            match self.byte(self.at.saturating_add(place)) {
                Some(byte) => *into = byte,
                None => return place,
            }
        }
        into.len()
    }
}

impl ZByteReaderTrait for Input<'_> {
    #[inline(always)]
    fn read_byte_no_error(&mut self) -> u8 {
        let byte = self.byte(self.at);
        self.at += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }

    #[inline(always)]
    fn read_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        self.peek_exact_bytes(buf)?;
        self.at += buf.len();
        Ok(())
    }

    fn read_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        let read = self.copy(buf);
        self.at += read;
        Ok(read)
    }

    fn peek_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        Ok(self.copy(buf))
    }

    #[inline(always)]
    fn peek_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        let end = self.at.saturating_add(buf.len());
        if let Some(bytes) = self.data.get(self.at..end) {
            buf.copy_from_slice(bytes);
            return Ok(());
        }
        match self.copy(buf) {
            all if all == buf.len() => Ok(()),
            some => Err(ZByteIoError::NotEnoughBytes(some, buf.len())),
        }
    }

    #[inline(always)]
    fn z_seek(&mut self, from: ZSeekFrom) -> Result<u64, ZByteIoError> {
        let to = match from {
            ZSeekFrom::Start(at) => usize::try_from(at).ok(),
            ZSeekFrom::End(by) => isize::try_from(by)
                .ok()
                .and_then(|by| self.len().checked_add_signed(by)),
            ZSeekFrom::Current(by) => isize::try_from(by)
                .ok()
                .and_then(|by| self.at.checked_add_signed(by)),
        };
        self.at = to.ok_or(ZByteIoError::SeekError("a place before the first byte"))?;
        Ok(self.at as u64)
    }

    #[inline(always)]
    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        Ok(self.at >= self.len())
    }

    #[inline(always)]
    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        Ok(self.at as u64)
    }

    fn read_remaining(&mut self, sink: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        let before = sink.len();
        while let Some(byte) = self.byte(self.at) {
            sink.push(byte);
            self.at += 1;
        }
        Ok(sink.len() - before)
    }
}

#[cfg(test)]
mod tests;
