//! BMP: headers, colors, pixels. It has no place for metadata but gaps, the end of the file, and a color
//! profile, which may be the path of a file on somebody's disk.

use std::ops::Range;

use super::bytes::{le16, le32, slice};
use super::{Findings, Kinds, icc, trailer};

/// `LINK`: the profile is the path of a file.
const LINKED: u32 = 0x4C49_4E4B;
/// `MBED`: the profile lies in the file.
const EMBEDDED: u32 = 0x4D42_4544;
/// `sRGB`.
const SRGB: u32 = 0x7352_4742;

/// The file without bytes that belong to nothing; `None` if it breaks before its pixels.
pub(super) fn strip(file: &[u8]) -> Option<(Vec<u8>, Findings)> {
    let mut removed = Findings::default();
    let (pixels_at, head) = (le32(file, 10)? as usize, le32(file, 14)? as usize);
    if ![12, 40, 52, 56, 64, 108, 124].contains(&head) {
        return None;
    }
    // Decoders do not agree on pixels within the headers.
    if pixels_at > file.len() || pixels_at < head + 14 {
        return None;
    }
    // The pixels may begin among the colors.
    let colors_end = head
        .checked_add(14)?
        .saturating_add(colors(file, head)?)
        .min(pixels_at);
    let mut end = match pixels(file, head)? {
        // Compressed, and the length is not given.
        0 => file.len(),
        length => pixels_at.checked_add(length)?.min(file.len()),
    };
    let mut out = file.get(..end)?.to_vec();
    // Between colors and pixels.
    let gap = out.get_mut(colors_end..pixels_at)?;
    removed.add(trailer(gap));
    gap.fill(0);
    for range in unused(file, head, pixels_at, colors_end)? {
        let bytes = out.get_mut(range).unwrap_or_default();
        if bytes.iter().any(|byte| *byte != 0) {
            removed.add(Kinds::OTHER);
            bytes.fill(0);
        }
    }
    // The fifth version of the header has a profile, at an offset from the header's begin.
    if head >= 124 {
        let kind = le32(file, 14 + 56)?;
        let (at, size) = (le32(file, 14 + 112)? as usize, le32(file, 14 + 116)? as usize);
        let profile = at
            .checked_add(14)
            .filter(|at| *at >= end)
            .and_then(|at| slice(file, at, size));
        let stripped = profile.filter(|_| kind == EMBEDDED).map(icc::strip);
        if let Some((_, gone)) = &stripped {
            removed.add(*gone);
            end = at + 14 + size;
        }
        match (kind, stripped) {
            (EMBEDDED, Some((Some(profile), _))) => {
                let (place, size) = ((out.len() - 14) as u32, profile.len() as u32);
                let places = [place.to_le_bytes(), size.to_le_bytes()].concat();
                out.get_mut(14 + 112..14 + 120)?.copy_from_slice(&places);
                out.extend(&*profile);
            }
            (EMBEDDED | LINKED, _) => {
                removed.add(Kinds::OTHER);
                out.get_mut(14 + 56..14 + 60)?
                    .copy_from_slice(&SRGB.to_le_bytes());
                out.get_mut(14 + 112..14 + 120)?.fill(0);
            }
            _ => {}
        }
    }
    removed.add(trailer(file.get(end..).unwrap_or_default()));
    // Length of the file, and two reserved numbers.
    let length = out.len() as u32;
    out.get_mut(2..6)?.copy_from_slice(&length.to_le_bytes());
    out.get_mut(6..10)?.fill(0);
    Some((out, removed))
}

/// Bytes within the headers, the colors and the pixels that no decoder reads.
fn unused(file: &[u8], head: usize, pixels_at: usize, colors_end: usize) -> Option<Vec<Range<usize>>> {
    let mut unused = Vec::new();
    // Primaries and gamma, which only a calibrated color space (0) has; a reserved number.
    if head >= 108 && le32(file, 14 + 56)? != 0 {
        unused.push(14 + 60..14 + 108);
    }
    if head >= 124 {
        unused.push(14 + 120..14 + 124);
    }
    // The fourth byte of a color.
    let (bits, compression) = match head {
        0..40 => (le16(file, 24)?, 0),
        _ => (le16(file, 28)?, le32(file, 30)?),
    };
    if head >= 40 && bits <= 8 {
        let first = 14 + head + masks(head, compression);
        unused.extend((first..colors_end).skip(3).step_by(4).map(|at| at..at + 1));
    }
    // Rows are filled up to four bytes.
    let (row_used, row) = row(file, head)?;
    if !is_compressed(compression) && row_used < row {
        let rows = (pixels_at..file.len()).step_by(row);
        unused.extend(rows.map(|at| at + row_used..(at + row).min(file.len())));
        unused.retain(|range| range.start < range.end);
    }
    Some(unused)
}

/// Bytes of a row that hold pixels, and all of them.
fn row(file: &[u8], head: usize) -> Option<(usize, usize)> {
    let (width, bits) = match head {
        0..40 => (u32::from(le16(file, 18)?), le16(file, 24)?),
        _ => (le32(file, 18)?, le16(file, 28)?),
    };
    let bits = u64::from(width) * u64::from(bits);
    let (used, row) = (bits.div_ceil(8), bits.div_ceil(32) * 4);
    Some((usize::try_from(used).ok()?, usize::try_from(row).ok()?))
}

/// Runs, or another format's data.
fn is_compressed(compression: u32) -> bool {
    matches!(compression, 1 | 2 | 4 | 5)
}

/// Bytes of the masks of colors between header and table.
fn masks(head: usize, compression: u32) -> usize {
    match (head, compression) {
        (40, 3) => 12,
        (40, 6) => 16,
        _ => 0,
    }
}

/// Bytes of masks and table of colors behind the header.
fn colors(file: &[u8], head: usize) -> Option<usize> {
    if head < 40 {
        let bits = u32::from(le16(file, 24)?);
        return Some(if bits <= 8 { 3usize << bits } else { 0 });
    }
    let (bits, compression, used) = (le16(file, 28)?, le32(file, 30)?, le32(file, 46)? as usize);
    // Pictures of more bits need no table; one that they have is a hint for old screens.
    let colors = match (bits, used) {
        (1..=8, 0) => 1usize << bits,
        (1..=8, used) => used.min(1 << bits),
        _ => 0,
    };
    Some(colors * 4 + masks(head, compression))
}

/// Bytes of the pixels.
fn pixels(file: &[u8], head: usize) -> Option<usize> {
    let (height, compression) = match head {
        0..40 => (u32::from(le16(file, 20)?), 0),
        // A height below 0 says that the rows begin at the top.
        _ => (le32(file, 22)?.cast_signed().unsigned_abs(), le32(file, 30)?),
    };
    if is_compressed(compression) {
        return Some(le32(file, 34)? as usize);
    }
    row(file, head)?.1.checked_mul(usize::try_from(height).ok()?)
}
