//! EXIF, a small TIFF file: a fresh one is written with the tags of a list and their values, byte for byte.

use image::metadata::Orientation;

use super::bytes::{be16, be32, is_blank, le16, le32, shown, slice};
use super::{Credit, FileMetadata, Kinds, Part, xmp};

/// Longest value that stays, bytes: a credit in the languages of the world.
const LONGEST: usize = 4096;

const ORIENTATION: u16 = 0x0112;
const EXIF: u16 = 0x8769;
const GPS: u16 = 0x8825;
const INTEROPERABILITY: u16 = 0xA005;
const EXIF_VERSION: u16 = 0x9000;
const COPYRIGHT: u16 = 0x8298;
const XP_AUTHOR: u16 = 0x9C9D;

// Types of values.
const BYTE: u16 = 1;
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const RATIONAL: u16 = 5;
const UNDEFINED: u16 = 7;
const UTF8: u16 = 129;

/// A directory of tags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directory {
    Main,
    Exif,
    Interoperability,
}

/// A tag that stays.
struct Rule {
    directory: Directory,
    tag: u16,
    kinds: &'static [u16],
    /// Values, at most.
    count: usize,
    /// Whether it stays if only orientation and color do.
    needed: bool,
}

const fn rule(directory: Directory, tag: u16, kinds: &'static [u16], count: usize, needed: bool) -> Rule {
    Rule {
        directory,
        tag,
        kinds,
        count,
        needed,
    }
}

const KEPT: &[Rule] = &[
    rule(Directory::Main, ORIENTATION, &[SHORT], 1, true),
    // Resolution.
    rule(Directory::Main, 0x011A, &[RATIONAL], 1, false),
    rule(Directory::Main, 0x011B, &[RATIONAL], 1, false),
    rule(Directory::Main, 0x0128, &[SHORT], 1, false),
    // Color: transfer function, white point, primaries, YCbCr, reference black and white.
    rule(Directory::Main, 0x012D, &[SHORT], 768, true),
    rule(Directory::Main, 0x013E, &[RATIONAL], 2, true),
    rule(Directory::Main, 0x013F, &[RATIONAL], 6, true),
    rule(Directory::Main, 0x0211, &[RATIONAL], 3, true),
    rule(Directory::Main, 0x0212, &[SHORT], 2, true),
    rule(Directory::Main, 0x0213, &[SHORT], 1, true),
    rule(Directory::Main, 0x0214, &[RATIONAL], 6, true),
    // Credit: Artist, Copyright, Windows' author.
    rule(Directory::Main, 0x013B, &[ASCII, UTF8], LONGEST, false),
    rule(Directory::Main, COPYRIGHT, &[ASCII, UTF8], LONGEST, false),
    rule(Directory::Main, XP_AUTHOR, &[BYTE], LONGEST, false),
    // The version of EXIF, color space, gamma; Photographer of EXIF 3.
    rule(Directory::Exif, EXIF_VERSION, &[UNDEFINED], 4, true),
    rule(Directory::Exif, 0xA001, &[SHORT], 1, true),
    rule(Directory::Exif, 0xA500, &[RATIONAL], 1, true),
    rule(Directory::Exif, 0xA437, &[ASCII, UTF8], LONGEST, false),
    // `R03` is Adobe RGB.
    rule(Directory::Interoperability, 0x0001, &[ASCII], 4, true),
    rule(Directory::Interoperability, 0x0002, &[UNDEFINED], 4, true),
];

/// A tag with its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    tag: u16,
    kind: u16,
    count: u32,
    /// As it lies in the file: the bytes of `count` values of the type `kind`.
    value: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry without what is behind the end of its text, such as the rest of a longer one that was there before.
    fn shown(self) -> Entry<'a> {
        let (width, texts) = match (self.tag, self.kind) {
            (XP_AUTHOR, _) => (2, 1),
            // The photographer's, then the editor's.
            (COPYRIGHT, ASCII | UTF8) => (1, 2),
            (_, ASCII | UTF8) => (1, 1),
            _ => return self,
        };
        let value = &self.value[..shown(self.value, width, texts)];
        Entry {
            count: value.len() as u32,
            value,
            ..self
        }
    }
}

/// The tags of a directory; one whose value cannot be read is `None`.
type Tags<'a> = Vec<(u16, Option<Entry<'a>>)>;

/// The directories that stay.
#[derive(Default)]
struct Kept<'a> {
    main: Vec<Entry<'a>>,
    exif: Vec<Entry<'a>>,
    interoperability: Vec<Entry<'a>>,
}

impl<'a> Kept<'a> {
    fn of(&mut self, directory: Directory) -> &mut Vec<Entry<'a>> {
        match directory {
            Directory::Main => &mut self.main,
            Directory::Exif => &mut self.exif,
            Directory::Interoperability => &mut self.interoperability,
        }
    }
}

/// A TIFF file and its byte order.
#[derive(Clone, Copy)]
struct Tiff<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Tiff<'a> {
    fn open(bytes: &'a [u8]) -> Option<Tiff<'a>> {
        match bytes.get(..4)? {
            b"II*\0" => Some(Tiff { bytes, big: false }),
            b"MM\0*" => Some(Tiff { bytes, big: true }),
            _ => None,
        }
    }

    fn short(self, at: usize) -> Option<u16> {
        match self.big {
            true => be16(self.bytes, at),
            false => le16(self.bytes, at),
        }
    }

    fn long(self, at: usize) -> Option<u32> {
        match self.big {
            true => be32(self.bytes, at),
            false => le32(self.bytes, at),
        }
    }

    /// The tags of the directory at an offset, and the offset of the next one.
    fn directory(self, at: usize) -> Option<(Tags<'a>, usize)> {
        let count = usize::from(self.short(at)?);
        let end = at.checked_add(2 + 12 * count)?;
        slice(self.bytes, at, 2 + 12 * count)?;
        let entries = (0..count).filter_map(|number| {
            let at = at + 2 + 12 * number;
            let (tag, kind, count) = (self.short(at)?, self.short(at + 2)?, self.long(at + 4)?);
            Some((tag, self.entry(at, tag, kind, count)))
        });
        // Some programs leave out the last offset.
        let next = self.long(end).unwrap_or(0);
        Some((entries.collect(), next as usize))
    }

    fn entry(self, at: usize, tag: u16, kind: u16, count: u32) -> Option<Entry<'a>> {
        let size = match kind {
            1 | 2 | 6 | 7 | 129 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 => 8,
            _ => return None,
        };
        let size = usize::try_from(u64::from(count) * size).ok()?;
        let value = match size {
            0..=4 => slice(self.bytes, at + 8, size)?,
            _ => slice(self.bytes, self.long(at + 8)? as usize, size)?,
        };
        Some(Entry {
            tag,
            kind,
            count,
            value,
        })
    }

    /// The offset that an entry holds.
    fn pointer(self, entry: &Entry<'_>) -> Option<usize> {
        let value = Tiff {
            bytes: entry.value,
            big: self.big,
        };
        value.long(0).map(|offset| offset as usize)
    }
}

/// EXIF without what `level` removes. The orientation stays also where the rest cannot be read.
pub(super) fn strip(bytes: &[u8], level: FileMetadata) -> Part {
    let mut removed = Kinds::NONE;
    let orientation = Orientation::from_exif_chunk(bytes);
    let mut credit = Credit::default();
    let kept = Tiff::open(bytes).and_then(|tiff| {
        let kept = read(tiff, level, &mut removed)?;
        credit = credit_of(&kept);
        Some(write(&kept, tiff.big))
    });
    if kept.is_none() {
        removed.add(Kinds::UNREADABLE);
    }
    let kept = kept.unwrap_or_default();
    if Orientation::from_exif_chunk(&kept) == orientation {
        let kept = Some(kept).filter(|kept| !kept.is_empty());
        return Part {
            kept,
            removed,
            credit,
        };
    }
    // Decoders read the orientation of a file whose other tags are broken.
    let value = orientation.map(|orientation| [0, orientation.to_exif()]);
    let main = value.as_ref().map(|value| Entry {
        tag: ORIENTATION,
        kind: SHORT,
        count: 1,
        value,
    });
    let kept = Kept {
        main: main.into_iter().collect(),
        ..Kept::default()
    };
    let kept = Some(write(&kept, true)).filter(|kept| !kept.is_empty());
    Part {
        kept,
        removed,
        credit,
    }
}

/// Artist or photographer, and copyright.
fn credit_of(kept: &Kept<'_>) -> Credit {
    let of = |entries: &[Entry<'_>], tag| {
        let entry = entries.iter().find(|entry| entry.tag == tag)?;
        super::text(entry.value)
    };
    Credit {
        creator: of(&kept.main, 0x013B).or_else(|| of(&kept.exif, 0xA437)),
        notice: of(&kept.main, COPYRIGHT),
        ..Credit::default()
    }
}

/// The tags that stay; `None` where there is no directory.
fn read<'a>(tiff: Tiff<'a>, level: FileMetadata, removed: &mut Kinds) -> Option<Kept<'a>> {
    let mut kept = Kept::default();
    let (entries, next) = tiff.directory(tiff.long(4)? as usize)?;
    let exif = take(Directory::Main, tiff, entries, level, &mut kept, removed);
    let mut interoperability = None;
    if let Some(at) = exif {
        match tiff.directory(at) {
            Some((entries, _)) => {
                interoperability = take(Directory::Exif, tiff, entries, level, &mut kept, removed);
            }
            None => removed.add(Kinds::UNREADABLE),
        }
    }
    if let Some(at) = interoperability {
        match tiff.directory(at) {
            Some((entries, _)) => {
                take(
                    Directory::Interoperability,
                    tiff,
                    entries,
                    level,
                    &mut kept,
                    removed,
                );
            }
            None => removed.add(Kinds::UNREADABLE),
        }
    }
    if next != 0 {
        // The directory of the thumbnail: a JPEG, or strips of pixels.
        let entries = tiff
            .directory(next)
            .map(|(entries, _)| entries)
            .unwrap_or_default();
        let is_picture = entries.iter().any(|(tag, _)| [0x0201, 0x0111].contains(tag));
        removed.add(if is_picture {
            Kinds::THUMBNAIL
        } else {
            Kinds::OTHER
        });
    }
    if kept.exif.iter().all(|entry| entry.tag == EXIF_VERSION) {
        kept.exif.clear();
    }
    Some(kept)
}

/// Sorts the tags of a directory into those that stay and those that do not. Returns the offset of the
/// directory that belongs to it.
fn take<'a>(
    directory: Directory,
    tiff: Tiff<'a>,
    entries: Tags<'a>,
    level: FileMetadata,
    kept: &mut Kept<'a>,
    removed: &mut Kinds,
) -> Option<usize> {
    let mut below = None;
    for (tag, entry) in entries {
        let Some(entry) = entry else {
            removed.add(Kinds::UNREADABLE);
            continue;
        };
        match (directory, tag) {
            (Directory::Main, EXIF) | (Directory::Exif, INTEROPERABILITY) if below.is_none() => {
                below = tiff.pointer(&entry);
                continue;
            }
            (_, GPS) => {
                let entries = tiff.pointer(&entry).and_then(|at| tiff.directory(at));
                let entries = entries.map(|(entries, _)| entries).unwrap_or_default();
                // Tag 0 is the version, which cameras without a receiver write too.
                let placed = entries.iter().any(|(tag, _)| *tag != 0);
                removed.add(if placed { Kinds::POSITION } else { Kinds::OTHER });
                continue;
            }
            _ => {}
        }
        let rule = KEPT
            .iter()
            .find(|rule| rule.directory == directory && rule.tag == tag);
        let stays = rule.is_some_and(|rule| {
            (rule.needed || level == FileMetadata::StripPrivate)
                && rule.kinds.contains(&entry.kind)
                && (1..=rule.count).contains(&(entry.count as usize))
        });
        let place = kept.of(directory);
        match stays && place.iter().all(|known| known.tag != tag) {
            true => {
                let entry_shown = entry.shown();
                if entry_shown.value.len() < entry.value.len() {
                    removed.add(Kinds::OTHER);
                }
                place.push(entry_shown);
            }
            false => removed.add(kind_of(directory, &entry)),
        }
    }
    kept.of(directory).sort_by_key(|entry| entry.tag);
    below
}

/// The kind of a tag that is removed.
fn kind_of(directory: Directory, entry: &Entry<'_>) -> Kinds {
    // A user comment begins with eight bytes that name its character set.
    let text = match entry.tag {
        0x9286 => entry.value.get(8..).unwrap_or_default(),
        _ => entry.value,
    };
    let kind = match (directory, entry.tag) {
        // Descriptions, Windows' title, comment, keywords and subject; user comment, title of EXIF 3.
        (Directory::Main, 0x010E | 0x9C9B | 0x9C9C | 0x9C9E | 0x9C9F) => Kinds::COMMENT,
        (Directory::Exif, 0x9286 | 0xA436) => Kinds::COMMENT,
        // The computer's name; the camera's owner.
        (Directory::Main, 0x013C) | (Directory::Exif, 0xA430) => Kinds::OWNER,
        // Of the camera, its body, its lens, the picture.
        (Directory::Main, 0xC62F | 0xC65D) | (Directory::Exif, 0xA420 | 0xA431 | 0xA435) => Kinds::SERIAL,
        (Directory::Exif, 0x927C) => Kinds::MAKER_NOTE,
        (Directory::Main, 0x014A) => Kinds::THUMBNAIL,
        // XMP within EXIF.
        (Directory::Main, 0x02BC) => {
            let mut kinds = xmp::strip(&[entry.value], FileMetadata::StripAll).removed;
            kinds.add(Kinds::OTHER);
            return kinds;
        }
        _ => Kinds::OTHER,
    };
    match is_blank(text) {
        true => Kinds::OTHER,
        false => kind,
    }
}

/// Writes a TIFF file; nothing where no tag stays.
fn write(kept: &Kept<'_>, big: bool) -> Vec<u8> {
    let has_interoperability = !kept.interoperability.is_empty();
    let has_exif = !kept.exif.is_empty() || has_interoperability;
    if kept.main.is_empty() && !has_exif {
        return Vec::new();
    }
    let exif_at = 8 + size(&kept.main, has_exif);
    let interoperability_at = exif_at + size(&kept.exif, has_interoperability);
    let mut out = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
    long(&mut out, 8, big);
    directory(&mut out, &kept.main, has_exif.then_some((EXIF, exif_at)), big);
    if has_exif {
        let below = has_interoperability.then_some((INTEROPERABILITY, interoperability_at));
        directory(&mut out, &kept.exif, below, big);
    }
    if has_interoperability {
        directory(&mut out, &kept.interoperability, None, big);
    }
    out
}

/// Bytes of a directory with its values.
fn size(entries: &[Entry<'_>], has_below: bool) -> usize {
    let values = entries.iter().map(|entry| entry.value.len());
    let values: usize = values.filter(|size| *size > 4).map(|size| size + size % 2).sum();
    2 + 12 * (entries.len() + usize::from(has_below)) + 4 + values
}

/// Writes a directory with its values at the end of `out`, and a tag that points to the directory below it.
fn directory(out: &mut Vec<u8>, entries: &[Entry<'_>], below: Option<(u16, usize)>, big: bool) {
    let count = entries.len() + usize::from(below.is_some());
    let mut values: Vec<u8> = Vec::new();
    let values_at = out.len() + 2 + 12 * count + 4;
    short(out, count as u16, big);
    let head = |out: &mut Vec<u8>, tag, kind, count| {
        short(out, tag, big);
        short(out, kind, big);
        long(out, count, big);
    };
    let mut below = below;
    let mut pointer = |out: &mut Vec<u8>, before: u16| {
        if let Some((tag, at)) = below.take_if(|(tag, _)| *tag < before) {
            head(out, tag, 4, 1);
            long(out, at as u32, big);
        }
    };
    for entry in entries {
        pointer(out, entry.tag);
        head(out, entry.tag, entry.kind, entry.count);
        if entry.value.len() <= 4 {
            let mut inline = [0; 4];
            for (place, byte) in inline.iter_mut().zip(entry.value) {
                *place = *byte;
            }
            out.extend(inline);
        } else {
            long(out, (values_at + values.len()) as u32, big);
            values.extend(entry.value);
            values.extend(&[0][..entry.value.len() % 2]);
        }
    }
    pointer(out, u16::MAX);
    long(out, 0, big);
    out.extend(values);
}

fn short(out: &mut Vec<u8>, value: u16, big: bool) {
    out.extend(if big {
        value.to_be_bytes()
    } else {
        value.to_le_bytes()
    });
}

fn long(out: &mut Vec<u8>, value: u32, big: bool) {
    out.extend(if big {
        value.to_be_bytes()
    } else {
        value.to_le_bytes()
    });
}
