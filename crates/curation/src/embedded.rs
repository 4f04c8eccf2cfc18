//! Metadata that are embedded in the files of photos: EXIF, XMP, IPTC, comments, thumbnails and data behind
//! the picture. An encoded photo comes in; which private kinds it holds, and the photo without them, go out.
//!
//! Nothing is encoded again: pixels, orientation and color profile are the same bytes as before. A release compares them, and
//! where it cannot tell, it compares what decoders show. (A PNG with rows behind its last one is packed again, without loss.)
//! Everything else must be on a list of what stays, so that a field that no list knows is removed. Metadata that cannot be read
//! are removed whole. A second pass over the result finds nothing.
//!
//! The credit that a file gives itself can be read on the way.

mod apng;
mod bmp;
mod bytes;
mod exif;
mod gif;
mod icc;
mod idat;
mod iptc;
mod jpeg;
mod lzw;
mod png;
mod png_chunk;
#[cfg(test)]
mod tests;
mod webp;
mod xmp;

use std::borrow::Cow;

use image::ImageFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of the embedded metadata a release keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileMetadata {
    /// All: the files stay as they are, byte for byte.
    Keep,
    /// Orientation, resolution, color and the photographer's credit.
    StripPrivate,
    /// Orientation and color.
    StripAll,
}

/// Kinds of embedded data, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(crate) const NONE: Kinds = Kinds(0);
    /// Where the photo was taken, or what place it shows.
    pub(crate) const POSITION: Kinds = Kinds(1);
    /// Name, address or computer of the camera's owner.
    pub(crate) const OWNER: Kinds = Kinds(1 << 1);
    /// Serial numbers of camera and lens, and identifiers of the picture.
    pub(crate) const SERIAL: Kinds = Kinds(1 << 2);
    /// Names of people that it shows, and where in it they are.
    pub(crate) const PEOPLE: Kinds = Kinds(1 << 3);
    /// Comments, descriptions, titles and keywords.
    pub(crate) const COMMENT: Kinds = Kinds(1 << 4);
    /// Thumbnails, and other pictures and videos within the file.
    pub(crate) const THUMBNAIL: Kinds = Kinds(1 << 5);
    /// The camera maker's own block, which may hold any of the others.
    pub(crate) const MAKER_NOTE: Kinds = Kinds(1 << 6);
    /// All else: camera, software, time, editing history, unknown blocks.
    pub(crate) const OTHER: Kinds = Kinds(1 << 7);
    /// Metadata that could not be read.
    pub(crate) const UNREADABLE: Kinds = Kinds(1 << 8);

    const ALL: [(Kinds, &str, &str); 9] = [
        (Kinds::POSITION, "position", "a place"),
        (Kinds::OWNER, "owner", "the camera's owner"),
        (Kinds::SERIAL, "serial", "serial numbers or identifiers"),
        (Kinds::PEOPLE, "people", "names of people shown"),
        (Kinds::COMMENT, "comment", "comments, descriptions or keywords"),
        (
            Kinds::THUMBNAIL,
            "thumbnail",
            "thumbnails or other pictures within the file",
        ),
        (Kinds::MAKER_NOTE, "maker_note", "a block of the camera's maker"),
        (
            Kinds::OTHER,
            "other",
            "other fields, such as camera, software, time or editing history",
        ),
        (Kinds::UNREADABLE, "unreadable", "metadata that cannot be read"),
    ];

    /// The kinds in it by their names in the ledger, and in words.
    pub(crate) fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let inside = move |(kind, name, words): (Kinds, _, _)| self.has(kind).then_some((name, words));
        Kinds::ALL.into_iter().filter_map(inside)
    }

    /// A kind of the ledger in words.
    pub(crate) fn in_words(name: &str) -> &str {
        let known = Kinds::ALL.iter().find(|(_, known, _)| *known == name);
        known.map_or(name, |(_, _, words)| words)
    }

    pub(crate) fn has(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Kinds::NONE
    }

    fn add(&mut self, kinds: Kinds) {
        self.0 |= kinds.0;
    }
}

/// A photo without a part of its embedded metadata.
pub(crate) struct Stripped<'a> {
    /// The file; borrowed if it is the same as before.
    pub(crate) file: Cow<'a, [u8]>,
    /// The kinds of data that were removed.
    pub(crate) removed: Kinds,
    /// Whether all that decoders show is known to be as before. Where it is not, the file, or a frame of it, does not
    /// decode.
    pub(crate) is_compared: bool,
}

/// A file whose parts cannot be told apart, so that nothing can be removed from it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(String);

/// The credit that a file gives itself, as it is written there. What of it denotes a license is for the caller to
/// judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    /// Who made the picture: `dc:creator`, the by-line, Artist.
    pub(crate) creator: Option<String>,
    /// `cc:license`, which is a license by its definition: mostly its address.
    pub(crate) license: Option<String>,
    /// Address of a statement of ownership and rights: `xmpRights:WebStatement`.
    pub(crate) statement: Option<String>,
    /// Terms of use: `xmpRights:UsageTerms`.
    pub(crate) terms: Option<String>,
    /// The copyright notice (`dc:rights`, IPTC's, EXIF's), where people write licenses too.
    pub(crate) notice: Option<String>,
    /// Who owns the rights: `xmpRights:Owner`.
    pub(crate) owner: Option<String>,
}

impl Credit {
    /// Adds what is not known yet.
    fn or(&mut self, other: Credit) {
        for (known, other) in [
            (&mut self.creator, other.creator),
            (&mut self.license, other.license),
            (&mut self.statement, other.statement),
            (&mut self.terms, other.terms),
            (&mut self.notice, other.notice),
            (&mut self.owner, other.owner),
        ] {
            *known = known.take().or(other);
        }
    }
}

/// What is left of one block of metadata.
#[derive(Default)]
struct Part {
    /// The block; `None` where nothing of it stays.
    kept: Option<Vec<u8>>,
    removed: Kinds,
    credit: Credit,
}

impl Part {
    /// A block of which nothing stays.
    fn gone(removed: Kinds) -> Part {
        Part {
            removed,
            ..Part::default()
        }
    }
}

/// What was found in the parts of a file. Credits of XMP come before those of IPTC, EXIF and texts.
#[derive(Default)]
struct Findings {
    removed: Kinds,
    xmp: Credit,
    iptc: Credit,
    other: Credit,
    /// Whether something went that a decoder may take notice of: a block among or behind the pixels' data, or bytes
    /// that belong to none.
    near_pixels: bool,
}

impl Findings {
    fn add(&mut self, kinds: Kinds) {
        self.removed.add(kinds);
    }

    /// Notes what a block held; returns what stays of it.
    fn take(&mut self, part: Part) -> Option<Vec<u8>> {
        self.add(part.removed);
        self.other.or(part.credit);
        part.kept
    }

    fn take_xmp(&mut self, mut part: Part) -> Option<Vec<u8>> {
        self.xmp.or(std::mem::take(&mut part.credit));
        self.take(part)
    }

    fn take_iptc(&mut self, mut part: Part) -> Option<Vec<u8>> {
        self.iptc.or(std::mem::take(&mut part.credit));
        self.take(part)
    }

    fn merge(&mut self, other: Findings) {
        self.add(other.removed);
        self.xmp.or(other.xmp);
        self.iptc.or(other.iptc);
        self.other.or(other.other);
    }

    fn credit(self) -> Credit {
        let mut credit = self.xmp;
        credit.or(self.iptc);
        credit.or(self.other);
        credit
    }
}

/// The kinds of private data in a photo: those that [`strip`] removes with [`FileMetadata::StripPrivate`].
///
/// Pixels are compared only where something near them would go, because nearly all files of a source are searched
/// and few are released.
///
/// # Errors
/// As [`strip`].
pub(crate) fn scan(file: &[u8]) -> Result<Kinds, Unreadable> {
    let (stripped, findings) = parts(file, FileMetadata::StripPrivate)?;
    if stripped == file {
        return Ok(Kinds::NONE);
    }
    if findings.near_pixels {
        shows_the_same(file, &stripped)?;
    }
    Ok(removed(&findings, file, &stripped))
}

/// A photo with the embedded metadata of `level` alone. Pixels, orientation and color profile do not change: the coded
/// picture of a changed file, or what decoders show of it, is compared with what it was.
///
/// # Errors
/// A format that is not JPEG, PNG, WebP, GIF or BMP, a file that is broken before its pixels, and one whose pixels
/// would change.
pub(crate) fn strip(file: &[u8], level: FileMetadata) -> Result<Stripped<'_>, Unreadable> {
    let unchanged = Stripped {
        file: Cow::Borrowed(file),
        removed: Kinds::NONE,
        is_compared: true,
    };
    if level == FileMetadata::Keep {
        return Ok(unchanged);
    }
    let (stripped, findings) = parts(file, level)?;
    if stripped == file {
        return Ok(unchanged);
    }
    Ok(Stripped {
        is_compared: shows_the_same(file, &stripped)?,
        removed: removed(&findings, file, &stripped),
        file: Cow::Owned(stripped),
    })
}

/// The kinds of data that a changed file lost.
fn removed(findings: &Findings, before: &[u8], after: &[u8]) -> Kinds {
    let mut removed = findings.removed;
    // Bytes went that belong to no block: gaps, padding.
    if removed.is_empty() && after.len() < before.len() {
        removed.add(Kinds::OTHER);
    }
    removed
}

/// The credit that a file gives itself, in XMP, IPTC, EXIF or texts; empty where there is none or it cannot be
/// read.
pub(crate) fn credit(file: &[u8]) -> Credit {
    let found = parts(file, FileMetadata::StripPrivate);
    found.map(|(_, findings)| findings.credit()).unwrap_or_default()
}

/// What stays of a file, and what was found in it.
fn parts(file: &[u8], level: FileMetadata) -> Result<(Vec<u8>, Findings), Unreadable> {
    let (name, stripped) = match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => ("JPEG", jpeg::strip(file, level)),
        Ok(ImageFormat::Png) => ("PNG", png::strip(file, level)),
        Ok(ImageFormat::WebP) => ("WebP", webp::strip(file, level)),
        Ok(ImageFormat::Gif) => ("GIF", gif::strip(file, level)),
        Ok(ImageFormat::Bmp) => ("BMP", bmp::strip(file)),
        _ => {
            let reason = "no format whose metadata are known (JPEG, PNG, WebP, GIF, BMP)";
            return Err(Unreadable(reason.to_string()));
        }
    };
    stripped.ok_or_else(|| Unreadable(format!("the {name} file ends or breaks before its pixels")))
}

/// Whether decoders are known to show the same of two files, because the same bytes code their picture or because both
/// were decoded; `false` where the first, or a frame of it, does not decode.
///
/// # Errors
/// Files of which they show something else, such as one whose pixels' data end early: decoders go on with whatever
/// comes next.
fn shows_the_same(before: &[u8], after: &[u8]) -> Result<bool, Unreadable> {
    let limits = data::DecodeLimits::DEFAULT;
    // Nearly all photos of cameras: decoding each twice would take longer than all else in a release.
    if data::same_coded_picture(before, after, &limits) {
        return Ok(true);
    }
    let Ok(before) = data::shown(before, &limits) else {
        return Ok(false);
    };
    match data::shown(after, &limits) {
        Ok(after) if after.hash == before.hash => Ok(before.is_whole),
        _ => {
            let reason = "it is damaged among its pixels' data, and what decoders show there would change";
            Err(Unreadable(reason.to_string()))
        }
    }
}

/// The text of bytes in UTF-8 or, where they are not, in Latin-1, up to the first zero; `None` if it is blank.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    };
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// What bytes behind the end of a picture are: a second picture, a video, or something else.
fn trailer(bytes: &[u8]) -> Kinds {
    let holds = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
    match bytes {
        _ if bytes.iter().all(|byte| *byte == 0) => Kinds::NONE,
        _ if holds(b"\xFF\xD8\xFF") || holds(b"ftyp") || holds(b"\x89PNG") => Kinds::THUMBNAIL,
        _ => Kinds::OTHER,
    }
}
