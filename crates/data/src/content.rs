//! What a file is by its first bytes: an image, a picture in an unsupported format, an archive, a placeholder
//! of another program. Names are not read here.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::hint::Compression;

/// First bytes that decide; the mark of a tar ends at byte 262.
pub(crate) const START_BYTES: usize = 512;

/// What the first bytes of a file say that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// JPEG, PNG, WebP, BMP or GIF.
    Image,
    /// A picture in a format that is not read, by the extension that it usually has.
    UnreadPicture(&'static str),
    /// A compressed file.
    Compressed(Compression),
    /// An archive that is no tar, by its usual extension.
    Archive(&'static str),
    /// A tar.
    Tar,
    /// The text that Git LFS keeps in place of a file.
    GitLfsPointer,
    /// A page of a web site, as a failed download leaves.
    WebPage,
    /// The resource fork that macOS keeps beside a file, as `._name`.
    AppleDouble,
    /// No bytes at all.
    Empty,
    /// Anything else.
    Other,
}

impl Content {
    /// For messages about a file that should be something else.
    pub(crate) fn words(self) -> Option<&'static str> {
        Some(match self {
            Content::Image => "an image",
            Content::UnreadPicture(_) => "a picture in an unsupported format",
            Content::Compressed(_) => "a compressed file",
            Content::Archive(_) => "an archive of another kind than tar",
            Content::Tar => "a tar",
            Content::GitLfsPointer => "Git LFS's pointer to the file, not the file itself",
            Content::WebPage => "a web page",
            Content::AppleDouble => "macOS's notes on another file",
            Content::Empty => "an empty file",
            Content::Other => return None,
        })
    }
}

/// What the first bytes say; [`START_BYTES`] of them are enough, fewer decide less.
pub(crate) fn content_of(start: &[u8]) -> Content {
    // First, because a tar begins with a name, which may be anything.
    if start.get(257..262) == Some(b"ustar") {
        return Content::Tar;
    }
    if let Some(compression) = compression_of(start) {
        return Content::Compressed(compression);
    }
    if is_image(start) {
        return Content::Image;
    }
    if let Some(format) = unread_picture(start) {
        return Content::UnreadPicture(format);
    }
    match start {
        [] => Content::Empty,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Content::Archive("zip"),
        [b'7', b'z', 0xBC, 0xAF, ..] => Content::Archive("7z"),
        [b'R', b'a', b'r', b'!', ..] => Content::Archive("rar"),
        [0x00, 0x05, 0x16, 0x07 | 0x00, 0, ..] => Content::AppleDouble,
        _ if start.starts_with(b"version https://git-lfs") => Content::GitLfsPointer,
        _ if is_web_page(start) => Content::WebPage,
        _ => Content::Other,
    }
}

/// The first bytes of a file on disk.
pub(crate) fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    start(File::open(path)?)
}

/// The first bytes of a stream.
pub(crate) fn start(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(START_BYTES);
    reader.take(START_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// The compression, if the first bytes are those of one.
pub(crate) fn compression_of(start: &[u8]) -> Option<Compression> {
    match start {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        _ => None,
    }
}

fn is_image(start: &[u8]) -> bool {
    match start {
        [0xff, 0xd8, 0xff, ..] => true,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => true,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => true,
        // Two letters begin many texts: the length of the second header decides.
        [b'B', b'M', ..] => {
            matches!(
                start.get(14..18),
                Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
            )
        }
        _ => start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP"),
    }
}

fn unread_picture(start: &[u8]) -> Option<&'static str> {
    let brand = start
        .get(4..8)
        .filter(|kind| kind == b"ftyp")
        .and(start.get(8..12));
    if let Some(brand) = brand {
        return match brand {
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => Some("heic"),
            b"avif" | b"avis" => Some("avif"),
            b"crx " => Some("cr3"),
            // Videos.
            _ => None,
        };
    }
    match start {
        [b'I', b'I', 0x2a, 0, ..] | [b'M', b'M', 0, 0x2a, ..] => Some("tiff"),
        [b'I', b'I', 0x2b, 0, ..] | [b'M', b'M', 0, 0x2b, ..] => Some("tiff"),
        [b'I', b'I', b'R', b'O' | b'S', ..] => Some("orf"),
        [b'I', b'I', b'U', 0, ..] => Some("rw2"),
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => Some("jxl"),
        [0, 0, 0, 0x0c, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Some("jp2"),
        [b'8', b'B', b'P', b'S', ..] => Some("psd"),
        [0x76, 0x2f, 0x31, 0x01, ..] => Some("exr"),
        [b'q', b'o', b'i', b'f', ..] => Some("qoi"),
        [
            b'P',
            b'1'..=b'7',
            b' ' | b'\n' | b'\r' | b'\t',
            b'0'..=b'9' | b'#' | b'W',
            ..,
        ] => Some("pnm"),
        _ if start.starts_with(b"FUJIFILMCCD-RAW") => Some("raf"),
        _ if start.starts_with(b"#?RADIANCE") => Some("hdr"),
        _ => None,
    }
}

fn is_web_page(start: &[u8]) -> bool {
    let text = start.trim_ascii_start();
    let begins = |tag: &[u8]| text.len() >= tag.len() && text[..tag.len()].eq_ignore_ascii_case(tag);
    begins(b"<!doctype html") || begins(b"<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        let bmp = crate::Dataset::synthetic(1, 4, 4, 0, 0).read(0).unwrap().image;
        assert_eq!(content_of(&bmp), Content::Image);
        for (start, expected) in [
            (&b""[..], Content::Empty),
            (b"\xff\xd8\xff\xe0", Content::Image),
            (b"BMW is a car, and this is a text", Content::Other),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Content::Image),
            (b"RIFF\x10\0\0\0WAVEfmt ", Content::Other),
            (b"\0\0\0\x18ftypheic\0\0\0\0", Content::UnreadPicture("heic")),
            (b"\0\0\0\x18ftypqt  \0\0\0\0", Content::Other),
            (b"II*\0\x08\0\0\0", Content::UnreadPicture("tiff")),
            (b"\x1f\x8b\x08\0", Content::Compressed(Compression::Gzip)),
            (b"BZh91AY&SY", Content::Compressed(Compression::Bzip2)),
            (b"\x28\xb5\x2f\xfd\0", Content::Compressed(Compression::Zstd)),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                Content::GitLfsPointer,
            ),
            (b"\n<!DOCTYPE HTML>", Content::WebPage),
            (b"\0\x05\x16\x07\0\x02\0\0", Content::AppleDouble),
            (b"PK\x03\x04", Content::Archive("zip")),
        ] {
            assert_eq!(content_of(start), expected, "{start:?}");
        }
    }
}
