//! WebP: chunks in RIFF. The extended header says which metadata follow, so its flags change with them.

use super::bytes::{le32, slice};
use super::{FileMetadata, Findings, Kinds, exif, trailer, xmp};

const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;
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
    let (mut header, mut flags, mut has_pixels) = (None, 0, false);
    let (mut has_exif, mut has_xmp) = (false, false);
    let mut at = 0;
    while let Some((name, data)) = chunk(inside, at) {
        at += 8 + data.len() + data.len() % 2;
        match name {
            b"VP8X" if header.is_none() => {
                header = Some(out.len() + 8);
                // What is behind the fields of the header means nothing.
                write(&mut out, name, data.get(..10).unwrap_or(data));
            }
            b"VP8 " | b"VP8L" => {
                has_pixels = true;
                write(&mut out, name, data);
            }
            b"ALPH" | b"ANIM" | b"ICCP" => write(&mut out, name, data),
            b"ANMF" => {
                has_pixels = true;
                write(&mut out, name, &frame(data, &mut removed));
            }
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
    }
    // A last chunk that the file ends in.
    if let Some(rest) = inside.get(at..).filter(|rest| rest.len() >= 8) {
        match rest.get(..4)? {
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANMF" => {
                has_pixels = true;
                out.extend(rest);
            }
            _ => removed.add(Kinds::UNREADABLE),
        }
    }
    if let Some(place) = header.and_then(|header| out.get_mut(header)) {
        *place = (*place & !(EXIF_FLAG | XMP_FLAG)) | flags;
    }
    let length = (out.len() - 8) as u32;
    out.get_mut(4..8)?.copy_from_slice(&length.to_le_bytes());
    has_pixels.then_some((out, removed))
}

/// A frame of an animation with its chunks of pixels alone.
fn frame(data: &[u8], removed: &mut Findings) -> Vec<u8> {
    let mut out = data.get(..FRAME_HEAD).unwrap_or(data).to_vec();
    let inside = data.get(FRAME_HEAD..).unwrap_or_default();
    let mut at = 0;
    while let Some((name, data)) = chunk(inside, at) {
        at += 8 + data.len() + data.len() % 2;
        match name {
            b"VP8 " | b"VP8L" | b"ALPH" => write(&mut out, name, data),
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
