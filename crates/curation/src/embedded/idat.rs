//! The pixels of a PNG: the chunks of a picture or of a later frame come in, one compressed stream. Data behind its last row, which no decoder
//! shows, go: they may be the rest of a larger picture that was cropped.

use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};

use super::bytes::be32;

/// Bytes unpacked at a time.
const STEP: usize = 1 << 16;
/// Bytes of a stream before and behind its deflated data.
const HEAD: usize = 2;
const SUM: usize = 4;

/// The compressed rows of a picture.
pub(super) enum Rows {
    /// Nothing is behind the last row, or the stream is broken.
    Alone,
    /// The stream has so many bytes; others follow.
    Followed(usize),
    /// The stream goes on behind the last row. A stream of the rows alone.
    Longer(Vec<u8>),
}

/// What the chunks of a picture hold behind the rows that the data of `IHDR` announce; of a later frame, those with its
/// own width and height. Checksums are not compared, because
/// decoders do not compare them either.
pub(super) fn rows(header: &[u8], chunks: &[&[u8]]) -> Rows {
    let stream = chunks.concat();
    let (Some(expected), Some(deflated)) = (unpacked_bytes(header), stream.get(HEAD..)) else {
        return Rows::Alone;
    };
    let mut unpacking = Decompress::new(false);
    let mut out = vec![0; STEP];
    loop {
        let before = (unpacking.total_in(), unpacking.total_out());
        let rest = deflated.get(before.0 as usize..).unwrap_or_default();
        let Ok(status) = unpacking.decompress(rest, &mut out, FlushDecompress::None) else {
            return Rows::Alone;
        };
        if unpacking.total_out() > expected {
            return packed(deflated, expected).map_or(Rows::Alone, Rows::Longer);
        }
        if status == Status::StreamEnd {
            let end = HEAD + unpacking.total_in() as usize + SUM;
            return match stream.len() > end && unpacking.total_out() == expected {
                true => Rows::Followed(end),
                false => Rows::Alone,
            };
        }
        // The stream ends before its end.
        if before == (unpacking.total_in(), unpacking.total_out()) {
            return Rows::Alone;
        }
    }
}

/// The first `bytes` of a deflated stream, compressed again.
fn packed(deflated: &[u8], bytes: u64) -> Option<Vec<u8>> {
    let rows = DeflateDecoder::new(deflated).take(bytes);
    let mut packed = Vec::new();
    ZlibEncoder::new(rows, Compression::default())
        .read_to_end(&mut packed)
        .ok()?;
    Some(packed)
}

/// Bytes of all rows with their filters; `None` for a header that announces no picture.
fn unpacked_bytes(header: &[u8]) -> Option<u64> {
    let (width, height) = (u64::from(be32(header, 0)?), u64::from(be32(header, 4)?));
    let samples = match header.get(9)? {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let bits = u64::from(*header.get(8)?) * samples;
    let bytes = |width: u64, height: u64| -> Option<u64> {
        if width == 0 || height == 0 {
            return Some(0);
        }
        height.checked_mul(1 + width.checked_mul(bits)?.div_ceil(8))
    };
    match header.get(12)? {
        0 => bytes(width, height),
        // Adam7: first column and row, and their distances, of each pass.
        1 => [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
        .into_iter()
        .map(|(column, row, columns, rows)| {
            let count = |size: u64, first: u64, distance: u64| size.saturating_sub(first).div_ceil(distance);
            bytes(count(width, column, columns), count(height, row, rows))
        })
        .sum(),
        _ => None,
    }
}
