//! IPTC's records (IIM) and the resources of Photoshop around them: a fresh block is written with the fields
//! of a list and their values, byte for byte.

use super::bytes::{be16, be32, shown, slice};
use super::{FileMetadata, Kinds, Part, exif, xmp};
use crate::photo::is_private_address;

/// Longest value that stays, bytes.
const LONGEST: usize = 4096;

/// The resource that holds IPTC's records.
const RECORDS: u16 = 0x0404;
/// The resources of a copyright: its flag, one byte, and its address.
const COPYRIGHT_FLAG: u16 = 0x040A;
const COPYRIGHT_URL: u16 = 0x040B;

/// The resources of Photoshop without what `level` removes.
pub(super) fn strip_resources(block: &[u8], level: FileMetadata) -> Part {
    let mut part = Part::default();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < block.len() {
        let Some((id, data, next)) = resource(block, at) else {
            // Padding at the end.
            if block.iter().skip(at).any(|byte| *byte != 0) {
                part.removed.add(Kinds::UNREADABLE);
            }
            break;
        };
        at = next;
        match id {
            RECORDS => {
                let records = strip(data, level);
                part.removed.add(records.removed);
                part.credit.or(records.credit);
                if let Some(records) = records.kept {
                    write_resource(&mut kept, id, &records);
                }
            }
            COPYRIGHT_FLAG if level == FileMetadata::StripPrivate && data.len() == 1 => {
                write_resource(&mut kept, id, data);
            }
            COPYRIGHT_URL if level == FileMetadata::StripPrivate && is_public_address(data) => {
                write_resource(&mut kept, id, data);
            }
            0x0409 | 0x040C => part.removed.add(Kinds::THUMBNAIL),
            0x0422 | 0x0423 => part
                .removed
                .add(exif::strip(data, FileMetadata::StripAll).removed),
            0x0424 => part
                .removed
                .add(xmp::strip(&[data], FileMetadata::StripAll).removed),
            _ => part.removed.add(Kinds::OTHER),
        }
    }
    part.kept = Some(kept).filter(|kept| !kept.is_empty());
    part
}

/// Whether bytes are a public address and nothing else.
fn is_public_address(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data).unwrap_or_default();
    !text.is_empty() && data.len() <= LONGEST && !text.contains('\0') && !is_private_address(text)
}

/// Number and data of the resource at a place, and where the next one begins.
fn resource(block: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let head = slice(block, at, 7)?;
    if !head.starts_with(b"8BIM") {
        return None;
    }
    let id = be16(block, at + 4)?;
    // Its name: a length and the letters, padded to an even number.
    let name = 1 + usize::from(*head.last()?);
    let size_at = at + 6 + name + name % 2;
    let size = be32(block, size_at)? as usize;
    let data = slice(block, size_at + 4, size)?;
    Some((id, data, size_at + 4 + size + size % 2))
}

fn write_resource(out: &mut Vec<u8>, id: u16, data: &[u8]) {
    out.extend(b"8BIM");
    out.extend(id.to_be_bytes());
    out.extend([0, 0]);
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out.extend(&[0][..data.len() % 2]);
}

/// IPTC's records without what `level` removes.
pub(super) fn strip(records: &[u8], level: FileMetadata) -> Part {
    let mut part = Part::default();
    let (mut kept, mut has_credit) = (Vec::new(), false);
    let mut at = 0;
    while at < records.len() {
        let Some((record, field, value)) = field(records, at) else {
            if records.iter().skip(at).any(|byte| *byte != 0) {
                part.removed.add(Kinds::UNREADABLE);
            }
            break;
        };
        at += 5 + value.len();
        let stays = match (record, field) {
            // The character set, and the version of the record.
            (1, 90) | (2, 0) => Some(false),
            // By-line, credit, source, copyright notice.
            (2, 80 | 110 | 115 | 116) => Some(true),
            _ => None,
        };
        match stays {
            Some(is_credit) if level == FileMetadata::StripPrivate && value.len() <= LONGEST => {
                has_credit |= is_credit;
                match field {
                    80 => part.credit.creator = part.credit.creator.take().or_else(|| super::text(value)),
                    116 => part.credit.notice = part.credit.notice.take().or_else(|| super::text(value)),
                    _ => {}
                }
                let value_shown = if is_credit {
                    &value[..shown(value, 1, 1)]
                } else {
                    value
                };
                if value_shown.len() < value.len() {
                    part.removed.add(Kinds::OTHER);
                }
                kept.extend([0x1C, record, field]);
                kept.extend((value_shown.len() as u16).to_be_bytes());
                kept.extend(value_shown);
            }
            _ => part.removed.add(kind_of(record, field)),
        }
    }
    part.kept = Some(kept).filter(|_| has_credit);
    part
}

/// Record, field and value at a place; `None` also for values over 32 KiB, which have lengths of their own kind.
fn field(records: &[u8], at: usize) -> Option<(u8, u8, &[u8])> {
    let [0x1C, record, field, ..] = *slice(records, at, 5)? else {
        return None;
    };
    let length = be16(records, at + 3)?;
    let value = slice(records, at + 5, usize::from(length))?;
    (length < 0x8000).then_some((record, field, value))
}

fn kind_of(record: u8, field: u8) -> Kinds {
    match (record, field) {
        // Content location, city, sublocation, province, country.
        (2, 26 | 27 | 90 | 92 | 95 | 100 | 101) => Kinds::POSITION,
        // Contact.
        (2, 118) => Kinds::OWNER,
        // Unique number of the object.
        (1, 100) => Kinds::SERIAL,
        // Title, keywords, instructions, headline, caption and its writer.
        (2, 5 | 25 | 40 | 105 | 120 | 122) => Kinds::COMMENT,
        // A preview.
        (2, 200..=202) => Kinds::THUMBNAIL,
        _ => Kinds::OTHER,
    }
}
