//! JPEG: segments up to the scans, the scans between them, and whatever follows the end of the image.

use std::borrow::Cow;

use super::bytes::{be16, be32, slice};
use super::{FileMetadata, Findings, Kinds, exif, icc, iptc, trailer, xmp};

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Before 32 letters of a hash, the length of all parts and the offset of this one.
const XMP_PART: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
const XMP_PART_HEAD: usize = 32 + 4 + 4;
const PHOTOSHOP: &[u8] = b"Photoshop 3.0\0";
const ICC: &[u8] = b"ICC_PROFILE\0";
/// The number of a part of a profile, from 1, and how many there are.
const ICC_PART_HEAD: usize = 2;
/// Most bytes of a profile in one segment.
const ICC_PART: usize = 65_000;

/// A piece of a file.
enum Piece<'a> {
    /// Bytes that stay as they are: entropy-coded data.
    Same(&'a [u8]),
    /// A table, or the header of a frame or scan, without marker and length.
    Table(u8, &'a [u8]),
    /// A segment of `APPn` or a comment, without marker and length.
    Segment(u8, &'a [u8]),
}

/// The file without what `level` removes; `None` if it breaks before its first scan.
pub(super) fn strip(file: &[u8], level: FileMetadata) -> Option<(Vec<u8>, Findings)> {
    let mut removed = Findings::default();
    let (mut pieces, end, mut gaps) = pieces(file)?;
    // Conditions of arithmetic coding in a file that has none.
    let is_arithmetic = |piece: &Piece<'_>| matches!(piece, Piece::Table(0xC9..=0xCB | 0xCD..=0xCF, _));
    if !pieces.iter().any(is_arithmetic) {
        let before = pieces.len();
        pieces.retain(|piece| !matches!(piece, Piece::Table(0xCC, _)));
        if pieces.len() < before {
            gaps.add(Kinds::OTHER);
        }
    }
    removed.add(gaps);
    removed.near_pixels = !gaps.is_empty();
    let mut behind_scan = pieces.iter().skip_while(|piece| !is_scan(piece));
    removed.near_pixels |= behind_scan.any(|piece| segment_of(piece).is_some());
    removed.add(trailer(file.get(end..).unwrap_or_default()));

    let blocks = Blocks::of(&pieces, level);
    removed.merge(blocks.removed);
    let Blocks {
        mut exif,
        mut xmp,
        mut photoshop,
        mut icc,
        ..
    } = blocks;
    let mut out = vec![0xFF, 0xD8];
    for piece in &pieces {
        let (mark, data) = match piece {
            Piece::Same(bytes) => {
                out.extend(*bytes);
                continue;
            }
            Piece::Table(mark, data) => {
                segment(&mut out, *mark, &[data]);
                continue;
            }
            Piece::Segment(mark, data) => (*mark, *data),
        };
        // A block of several segments is written where the first of them was.
        match mark {
            0xE0 if data.starts_with(b"JFIF\0") && data.len() >= 14 => {
                let (width, height) = (data.get(12).copied(), data.get(13).copied());
                if width != Some(0) && height != Some(0) {
                    removed.add(Kinds::THUMBNAIL);
                } else if data.len() > 14 {
                    removed.add(Kinds::OTHER);
                }
                segment(&mut out, mark, &[data.get(..12).unwrap_or_default(), &[0, 0]]);
            }
            0xE0 if data.starts_with(b"JFXX\0") => removed.add(Kinds::THUMBNAIL),
            0xE1 if data.starts_with(EXIF) => {
                if let Some(exif) = exif.take() {
                    segment(&mut out, mark, &[EXIF, &exif]);
                }
            }
            0xE1 if data.starts_with(XMP) || data.starts_with(XMP_PART) => {
                if let Some(xmp) = xmp.take() {
                    segment(&mut out, mark, &[XMP, &xmp]);
                }
            }
            0xE2 if data.starts_with(ICC) => match &mut icc {
                Profile::Same => segment(&mut out, mark, &[data]),
                Profile::New(profile) => {
                    let profile = std::mem::take(profile);
                    let parts = profile.chunks(ICC_PART);
                    let count = parts.len() as u8;
                    for (at, part) in parts.enumerate() {
                        segment(&mut out, mark, &[ICC, &[at as u8 + 1, count], part]);
                    }
                }
                Profile::None => {}
            },
            0xED if data.starts_with(PHOTOSHOP) => {
                if let Some(photoshop) = photoshop.take() {
                    segment(&mut out, mark, &[PHOTOSHOP, &photoshop]);
                }
            }
            // Says how the colors are to be read.
            0xEE if data.starts_with(b"Adobe") && data.len() >= 12 => {
                if data.len() > 12 {
                    removed.add(Kinds::OTHER);
                }
                segment(&mut out, mark, &[data.get(..12).unwrap_or_default()]);
            }
            0xFE => removed.add(Kinds::COMMENT),
            _ => removed.add(Kinds::OTHER),
        }
    }
    Some((out, removed))
}

/// The color profile.
enum Profile {
    /// Its segments stay as they are.
    Same,
    /// It is written anew.
    New(Vec<u8>),
    /// There is none, or its segments hold something else.
    None,
}

/// The blocks of metadata, each from all of its segments.
struct Blocks {
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
    photoshop: Option<Vec<u8>>,
    icc: Profile,
    removed: Findings,
}

impl Blocks {
    fn of(pieces: &[Piece<'_>], level: FileMetadata) -> Blocks {
        let mut removed = Findings::default();
        let segments: Vec<(u8, &[u8])> = pieces.iter().filter_map(segment_of).collect();
        let with = |mark: u8, head: &'static [u8]| {
            let of_mark = segments.iter().filter(move |(found, _)| *found == mark);
            of_mark.filter_map(move |(_, data)| data.strip_prefix(head))
        };
        // Decoders take the orientation from the last one before the first scan.
        let before_scan = pieces.iter().take_while(|piece| !is_scan(piece));
        let last = before_scan.filter_map(|piece| match piece {
            Piece::Segment(0xE1, data) => data.strip_prefix(EXIF).filter(|exif| !exif.is_empty()),
            _ => None,
        });
        let last = last.last();
        for exif in with(0xE1, EXIF).filter(|exif| last.is_none_or(|last| !std::ptr::eq(*exif, last))) {
            removed.add(exif::strip(exif, FileMetadata::StripAll).removed);
            removed.add(Kinds::OTHER);
        }
        let exif = last.and_then(|exif| removed.take(exif::strip(exif, level)));

        let mut packets: Vec<&[u8]> = with(0xE1, XMP).collect();
        let mut parts: Vec<(u32, &[u8])> = with(0xE1, XMP_PART)
            .filter_map(|data| {
                let offset = be32(data, XMP_PART_HEAD - 4)?;
                Some((offset, data.get(XMP_PART_HEAD..)?))
            })
            .collect();
        parts.sort_by_key(|(offset, _)| *offset);
        let extension: Vec<u8> = parts.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        if !extension.is_empty() {
            packets.push(&extension);
            // The segments go, whatever they hold.
            removed.add(Kinds::OTHER);
        }
        let xmp = match packets.is_empty() {
            true => None,
            false => removed.take_xmp(xmp::strip(&packets, level)),
        };

        let resources: Vec<u8> = with(0xED, PHOTOSHOP).flatten().copied().collect();
        let resources = removed.take_iptc(iptc::strip_resources(&resources, level));
        let fits = resources.as_ref().is_none_or(|block| block.len() <= 65_000);
        if !fits {
            removed.add(Kinds::UNREADABLE);
        }
        let mut parts: Vec<&[u8]> = with(0xE2, ICC).collect();
        parts.sort_by_key(|part| part.first().copied());
        let joined: Vec<u8> = parts
            .iter()
            .flat_map(|part| part.get(ICC_PART_HEAD..).unwrap_or_default())
            .copied()
            .collect();
        let icc = match parts.is_empty() {
            true => Profile::None,
            false => {
                let (profile, gone) = icc::strip(&joined);
                removed.add(gone);
                match profile {
                    Some(Cow::Borrowed(same)) if same.len() == joined.len() => Profile::Same,
                    Some(profile) => Profile::New(profile.into_owned()),
                    None => Profile::None,
                }
            }
        };
        Blocks {
            exif,
            xmp,
            photoshop: resources.filter(|_| fits),
            icc,
            removed,
        }
    }
}

fn segment_of<'a>(piece: &Piece<'a>) -> Option<(u8, &'a [u8])> {
    match piece {
        Piece::Segment(mark, data) => Some((*mark, data)),
        Piece::Same(_) | Piece::Table(..) => None,
    }
}

fn is_scan(piece: &Piece<'_>) -> bool {
    matches!(piece, Piece::Table(0xDA, _))
}

/// The pieces behind the start-of-image mark, where the image ends, and whether bytes lie between its segments.
fn pieces(file: &[u8]) -> Option<(Vec<Piece<'_>>, usize, Kinds)> {
    let (mut pieces, mut gaps) = (Vec::new(), Kinds::NONE);
    let (mut at, mut in_scan) = (2, false);
    if !file.starts_with(&[0xFF, 0xD8]) {
        return None;
    }
    loop {
        // Where the data before the next mark end, and the mark.
        let (data_end, mark_at) = next_mark(file, at);
        let Some(mark) = mark_at.and_then(|mark_at| file.get(mark_at).copied()) else {
            // A file without an end: all there is of its scan stays.
            if in_scan {
                pieces.push(Piece::Same(file.get(at..).unwrap_or_default()));
            }
            return in_scan.then_some((pieces, file.len(), gaps));
        };
        let mark_at = mark_at?;
        match (in_scan, data_end > at) {
            (true, true) => pieces.push(Piece::Same(slice(file, at, data_end - at)?)),
            (false, true) => gaps.add(Kinds::OTHER),
            _ => {}
        }
        let behind = mark_at + 1;
        match mark {
            0xD9 => {
                pieces.push(Piece::Same(&[0xFF, 0xD9]));
                return in_scan.then_some((pieces, behind, gaps));
            }
            // Before the scans, some decoders skip a segment there and some read on within it.
            0x01 | 0xD0..=0xD8 if !in_scan => return None,
            // A second picture within an unfinished one.
            0xD8 => return None,
            // Marks without a length.
            0x01 | 0xD0..=0xD7 => {
                pieces.push(Piece::Same(slice(file, data_end, behind - data_end)?));
                at = behind;
            }
            _ => {
                let length = be16(file, behind).map(usize::from).filter(|length| *length >= 2);
                let Some(data) = length.and_then(|length| slice(file, behind + 2, length - 2)) else {
                    // The file ends within a segment.
                    if in_scan {
                        pieces.push(Piece::Same(file.get(data_end..).unwrap_or_default()));
                    }
                    return in_scan.then_some((pieces, file.len(), gaps));
                };
                at = behind + 2 + data.len();
                match mark {
                    0xE0..=0xEF | 0xFE => pieces.push(Piece::Segment(mark, data)),
                    // Tables, frames, scans, restart intervals, line counts.
                    0xC0..=0xC7 | 0xC9..=0xCF | 0xDA..=0xDD => {
                        let used = data.get(..used(mark, data)).unwrap_or(data);
                        if used.len() < data.len() {
                            gaps.add(Kinds::OTHER);
                        }
                        pieces.push(Piece::Table(mark, used));
                        in_scan |= mark == 0xDA;
                    }
                    // Reserved, and two of hierarchical files, which no decoder reads.
                    _ => gaps.add(Kinds::OTHER),
                }
            }
        }
    }
}

/// Bytes of a table or header that mean something; those of a broken one, all.
fn used(mark: u8, data: &[u8]) -> usize {
    let byte = |at: usize| data.get(at).copied().map(usize::from);
    // Several tables in one segment, of so many bytes each.
    let tables = |bytes_at: &dyn Fn(usize) -> Option<usize>| {
        let mut at = 0;
        while let Some(end) = bytes_at(at)
            .map(|bytes| at + bytes)
            .filter(|end| *end <= data.len())
        {
            at = end;
        }
        Some(at).filter(|at| *at > 0)
    };
    let used = match mark {
        // Quantization: 64 numbers of one byte or two.
        0xDB => tables(&|at| Some(1 + 64 * (1 + usize::from(byte(at)? >> 4 > 0)))),
        // Huffman codes: how many of each length, and their symbols.
        0xC4 => tables(&|at| {
            let counts = data.get(at + 1..at + 17)?;
            Some(17 + counts.iter().copied().map(usize::from).sum::<usize>())
        }),
        // Arithmetic coding: a condition of two bytes for each of 16 and 16 places.
        0xCC => Some(64),
        0xDA => byte(0).map(|components| 1 + 2 * components + 3),
        0xDC | 0xDD => Some(2),
        _ => byte(5).map(|components| 6 + 3 * components),
    };
    used.map_or(data.len(), |used| used.min(data.len()))
}

/// Where the data from `at` on end, and the place of the mark's second byte; fill bytes lie between the two.
fn next_mark(file: &[u8], at: usize) -> (usize, Option<usize>) {
    let mut from = at;
    while let Some(found) = file
        .get(from..)
        .and_then(|rest| rest.iter().position(|byte| *byte == 0xFF))
    {
        let data_end = from + found;
        let mut mark = data_end + 1;
        while file.get(mark) == Some(&0xFF) {
            mark += 1;
        }
        match file.get(mark) {
            // A byte 0xFF of the data.
            Some(0) => from = mark + 1,
            Some(_) => return (data_end, Some(mark)),
            None => break,
        }
    }
    (file.len(), None)
}

fn segment(out: &mut Vec<u8>, mark: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend([0xFF, mark]);
    out.extend((length as u16 + 2).to_be_bytes());
    parts.iter().for_each(|part| out.extend(*part));
}
