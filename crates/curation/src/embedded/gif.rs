//! GIF: frames and extensions. The number of repetitions and the color profile stay.

use super::bytes::slice;
use super::{FileMetadata, Findings, Kinds, icc, lzw, trailer, xmp};

/// The application extension of XMP. Its packet lies there as it is, not in blocks; the bytes behind it lead a
/// reader of blocks to the end.
const XMP: &[u8] = b"XMP DataXMP";
/// The application extension of a color profile.
const ICC: &[u8] = b"ICCRGBG1012";
/// The application extensions of repetition.
const LOOPS: [&[u8]; 2] = [b"NETSCAPE2.0", b"ANIMEXTS1.0"];

/// The file without what `level` removes; `None` if it breaks before its first frame.
pub(super) fn strip(file: &[u8], level: FileMetadata) -> Option<(Vec<u8>, Findings)> {
    let mut removed = Findings::default();
    // Signature and screen, then the global colors.
    let mut at = 13 + colors(*file.get(10)?);
    let mut out = file.get(..at)?.to_vec();
    let (mut has_frame, mut has_xmp) = (false, false);
    // Where the last frame ends in `out`: decoders know by the next block that it is whole.
    let (mut frame_end, mut at_frame_end) = (0, 0);
    // How the next frame is shown.
    let mut control: &[u8] = &[];
    while let Some(mark) = file.get(at) {
        match mark {
            0x3B => {
                out.push(0x3B);
                removed.add(trailer(file.get(at + 1..).unwrap_or_default()));
                return has_frame.then_some((out, removed));
            }
            0x2C => {
                let head = 10 + colors(file.get(at + 9).copied().unwrap_or(0));
                // The size of the codes is one byte before the blocks.
                let end = blocks_end(file, at + head + 1);
                out.extend(std::mem::take(&mut control));
                let frame = file.get(at..end)?;
                match lzw::used_blocks(frame, head) {
                    Some(used) => {
                        removed.add(Kinds::THUMBNAIL);
                        out.extend(frame.get(..head + 1)?);
                        write_blocks(&mut out, &used);
                    }
                    None => out.extend(frame),
                }
                has_frame = true;
                frame_end = out.len();
                at = end;
                at_frame_end = end;
            }
            0x21 => {
                let label = *file.get(at + 1)?;
                let end = blocks_end(file, at + 2);
                let block = file.get(at..end)?;
                match label {
                    0xF9 if block.len() == 8 => control = block,
                    0xFE => removed.add(Kinds::COMMENT),
                    // A text that is shown as a frame; decoders ignore it.
                    0x01 => {
                        control = &[];
                        removed.add(Kinds::COMMENT);
                    }
                    0xFF => application(block, level, &mut out, &mut has_xmp, &mut removed),
                    _ => removed.add(Kinds::OTHER),
                }
                at = end;
            }
            // Padding between blocks.
            0 => at += 1,
            _ => {
                removed.add(Kinds::UNREADABLE);
                at = file.len();
                break;
            }
        }
    }
    // What was behind the last frame went.
    if has_frame && out.len() == frame_end && at_frame_end != at {
        out.push(0x3B);
    }
    has_frame.then_some((out, removed))
}

/// Writes what stays of an application extension.
fn application(
    block: &[u8],
    level: FileMetadata,
    out: &mut Vec<u8>,
    has_xmp: &mut bool,
    removed: &mut Findings,
) {
    // With a block of another length, its name is none that decoders know.
    let name = match block.get(2) {
        Some(11) => slice(block, 3, 11).unwrap_or_default(),
        _ => &[],
    };
    let data = block.get(14..).unwrap_or_default();
    match name {
        _ if LOOPS.contains(&name) => match data {
            [3, 1, _, _, 0] => out.extend(block),
            [3, 1, low, high, ..] => {
                removed.add(Kinds::OTHER);
                out.extend(block.get(..14).unwrap_or_default());
                out.extend([3, 1, *low, *high, 0]);
            }
            _ => removed.add(Kinds::OTHER),
        },
        ICC => {
            let joined = blocks(data);
            let (profile, gone) = icc::strip(&joined);
            removed.add(gone);
            match profile {
                Some(profile) if gone.is_empty() && profile.len() == joined.len() => out.extend(block),
                Some(profile) => {
                    out.extend(block.get(..14).unwrap_or_default());
                    write_blocks(out, &profile);
                }
                None => {}
            }
        }
        XMP if !*has_xmp => {
            *has_xmp = true;
            // The magic bytes: 1, then 255 down to 0, then the end.
            let packet = data.get(..data.len().saturating_sub(258)).unwrap_or_default();
            let part = xmp::strip(&[packet], level);
            if let Some(packet) = removed.take_xmp(part) {
                out.extend(block.get(..14).unwrap_or_default());
                out.extend(packet);
                out.push(1);
                out.extend((0..=255u8).rev());
                out.push(0);
            }
        }
        _ => removed.add(Kinds::OTHER),
    }
}

/// Where blocks that begin at a place end, behind the block of length 0; at most the end of the file.
fn blocks_end(file: &[u8], mut at: usize) -> usize {
    while let Some(length) = file.get(at) {
        at += 1 + usize::from(*length);
        if *length == 0 {
            return at;
        }
    }
    file.len()
}

/// The content of blocks, each with its length before it.
fn blocks(data: &[u8]) -> Vec<u8> {
    let (mut content, mut at) = (Vec::new(), 0);
    while let Some(length) = data
        .get(at)
        .copied()
        .map(usize::from)
        .filter(|length| *length > 0)
    {
        content.extend(data.iter().skip(at + 1).take(length));
        at += 1 + length;
    }
    content
}

fn write_blocks(out: &mut Vec<u8>, content: &[u8]) {
    content.chunks(255).for_each(|block| {
        out.push(block.len() as u8);
        out.extend(block);
    });
    out.push(0);
}

/// Bytes of a table of colors.
fn colors(flags: u8) -> usize {
    match flags & 0x80 {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    }
}
