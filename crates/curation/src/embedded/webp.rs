//! WebP: chunks in RIFF. The extended header says which metadata follow, so its flags change with them.

use std::collections::BTreeSet;

use super::bytes::{le32, slice};
use super::{FileMetadata, Findings, Kinds, exif, icc, trailer, xmp};

const PROFILE_FLAG: u8 = 0x20;
const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;
const ANIMATION_FLAG: u8 = 0x02;
/// Some programs write the head of JPEG's segment before EXIF.
const EXIF: &[u8] = b"Exif\0\0";
/// Bytes of a frame before its chunks.
const FRAME_HEAD: usize = 16;

/// The file without what `level` removes; `None` if it breaks before its pixels.
pub(super) fn strip(file: &[u8], level: FileMetadata) -> Option<(Vec<u8>, Findings)> {
    let end = 8 + le32(file, 4)? as usize;
    let inside = file.get(12..end.min(file.len()))?;
    let mut removed = Findings::default();
    removed.add(trailer(file.get(end..).unwrap_or_default()));
    let mut out = file.get(..12)?.to_vec();
    let (mut header, mut flags, mut is_animated, mut has_pixels) = (None, 0, false, false);
    let (mut has_exif, mut has_xmp) = (false, false);
    let mut flags_gone = EXIF_FLAG | XMP_FLAG;
    // Decoders take the first chunk of a name.
    let mut seen: BTreeSet<[u8; 4]> = BTreeSet::new();
    let mut at = 0;
    while let Some((name, data)) = chunk(inside, at) {
        let is_first = seen.insert(*name);
        match name {
            b"VP8X" if at == 0 => {
                header = Some(out.len() + 8);
                is_animated = data.first().is_some_and(|flags| flags & ANIMATION_FLAG != 0);
                // What is behind the fields of the header means nothing.
                write(&mut out, name, data.get(..10).unwrap_or(data));
            }
            b"VP8 " | b"VP8L" if !has_pixels && !is_animated => {
                has_pixels = true;
                write(&mut out, name, data);
            }
            b"ALPH" if header.is_some() && is_first => write(&mut out, name, data),
            b"ICCP" if header.is_some() && is_first => {
                let (profile, gone) = icc::strip(data);
                removed.add(gone);
                match profile {
                    Some(profile) => write(&mut out, name, &profile),
                    None => flags_gone |= PROFILE_FLAG,
                }
            }
            // Color of the background and number of repetitions.
            b"ANIM" if is_animated && is_first => write(&mut out, name, data.get(..6).unwrap_or(data)),
            b"ANMF" if is_animated => {
                has_pixels = true;
                write(&mut out, name, &frame(data, &mut removed));
            }
            // Pictures that no decoder shows.
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANMF" => removed.add(Kinds::THUMBNAIL),
            // Without an extended header, decoders do not look for metadata.
            b"EXIF" if header.is_some() && !has_exif => {
                has_exif = true;
                let (head, exif) = match data.strip_prefix(EXIF) {
                    Some(exif) => (EXIF, exif),
                    None => (&[][..], data),
                };
                let part = exif::strip(exif, level);
                if let Some(exif) = removed.take(part) {
                    flags |= EXIF_FLAG;
                    write(&mut out, name, &[head, &exif].concat());
                }
            }
            b"XMP " if header.is_some() && !has_xmp => {
                has_xmp = true;
                let part = xmp::strip(&[data], level);
                if let Some(xmp) = removed.take_xmp(part) {
                    flags |= XMP_FLAG;
                    write(&mut out, name, &xmp);
                }
            }
            b"EXIF" => {
                removed.add(exif::strip(data, FileMetadata::StripAll).removed);
                removed.add(Kinds::OTHER);
            }
            b"XMP " => {
                removed.add(xmp::strip(&[data], FileMetadata::StripAll).removed);
                removed.add(Kinds::OTHER);
            }
            _ => removed.add(Kinds::OTHER),
        }
        at += 8 + data.len() + data.len() % 2;
    }
    // A last chunk that the file ends in.
    if let Some(rest) = inside.get(at..).filter(|rest| rest.len() >= 8) {
        match rest.get(..4)? {
            b"VP8 " | b"VP8L" if !has_pixels && !is_animated => {
                has_pixels = true;
                out.extend(rest);
            }
            b"ANMF" if is_animated => {
                has_pixels = true;
                out.extend(rest);
            }
            _ => removed.add(Kinds::UNREADABLE),
        }
    }
    if let Some(place) = header.and_then(|header| out.get_mut(header)) {
        *place = (*place & !flags_gone) | flags;
    }
    let length = (out.len() - 8) as u32;
    out.get_mut(4..8)?.copy_from_slice(&length.to_le_bytes());
    has_pixels.then_some((out, removed))
}

/// A frame of an animation with its chunks of pixels alone.
fn frame(data: &[u8], removed: &mut Findings) -> Vec<u8> {
    let mut out = data.get(..FRAME_HEAD).unwrap_or(data).to_vec();
    let inside = data.get(FRAME_HEAD..).unwrap_or_default();
    let (mut at, mut has_alpha, mut has_pixels) = (0, false, false);
    while let Some((name, data)) = chunk(inside, at) {
        at += 8 + data.len() + data.len() % 2;
        match name {
            b"ALPH" if !has_alpha && !has_pixels => {
                has_alpha = true;
                write(&mut out, name, data);
            }
            b"VP8 " | b"VP8L" if !has_pixels => {
                has_pixels = true;
                write(&mut out, name, data);
            }
            b"VP8 " | b"VP8L" | b"ALPH" => removed.add(Kinds::THUMBNAIL),
            _ => removed.add(Kinds::OTHER),
        }
    }
    out
}

fn chunk(inside: &[u8], at: usize) -> Option<(&[u8; 4], &[u8])> {
    let name = slice(inside, at, 4)?.try_into().ok()?;
    let length = le32(inside, at + 4)? as usize;
    Some((name, slice(inside, at + 8, length)?))
}

fn write(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend(name);
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out.extend(&[0][..data.len() % 2]);
}
