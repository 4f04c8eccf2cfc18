//! PNG: chunks. Texts with a credit stay; so do chunks of pixels, color and resolution.

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::bytes::{be32, slice};
use super::idat::{self, Rows};
use super::png_chunk::{Chunk, chunk, chunk_at, crc};
use super::{Credit, FileMetadata, Findings, Kinds, Part, apng, exif, icc, iptc, trailer, xmp};

/// Most bytes that a compressed text may unpack to.
const LARGEST: u64 = 16 << 20;
/// Longest credit that stays, bytes.
const LONGEST: usize = 4096;

const XMP: &str = "XML:com.adobe.xmp";
/// ImageMagick's way to store blocks that PNG had no chunk for: hexadecimal in a text.
const RAW_PROFILE: &str = "Raw profile type ";

/// Chunks of pixels, color, transparency and the frames of an animation.
const KEPT: [&[u8; 4]; 16] = [
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"cICP",
    b"mDCV", b"cLLI", b"acTL", b"fcTL", b"fdAT",
];

/// Most bytes of a chunk that comes once.
fn longest(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"sRGB" => 1,
        b"gAMA" | b"sBIT" | b"cICP" => 4,
        b"bKGD" => 6,
        b"cLLI" => 8,
        b"pHYs" => 9,
        b"mDCV" => 24,
        b"cHRM" => 32,
        b"tRNS" => 256,
        b"PLTE" => 768,
        b"iCCP" => usize::MAX,
        _ => return None,
    })
}

/// The file without what `level` removes; `None` if it breaks before its first pixels, or has some at two places.
pub(super) fn strip(file: &[u8], level: FileMetadata) -> Option<(Vec<u8>, Findings)> {
    let (mut out, mut removed) = (file.get(..8)?.to_vec(), Findings::default());
    let (mut at, mut has_pixels) = (8, false);
    // Packets of XMP and EXIF come once; only the first counts.
    let (mut has_exif, mut has_xmp) = (false, false);
    // Frames are shown only where a chunk before the pixels announces them.
    let (mut announced, mut frames) = (0, 0);
    let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
    // Whether a chunk behind the pixels went and none is left: decoders know by the next one that pixels are whole.
    let mut is_open = false;
    // The data of the picture's first run of chunks, and where these lie in `out`.
    let (mut rows, mut rows_at, mut header): (Vec<&[u8]>, std::ops::Range<usize>, &[u8]) =
        (Vec::new(), 0..0, &[]);
    while at < file.len() {
        let Some(Chunk {
            name,
            data,
            sum,
            whole: bytes,
        }) = chunk_at(file, at)
        else {
            // The file ends within a chunk.
            let is_pixels = slice(file, at + 4, 4).is_some_and(|name| name == b"IDAT");
            if is_pixels {
                out.extend(file.get(at..).unwrap_or_default());
                return Some((out, removed));
            }
            removed.add(Kinds::OTHER);
            is_open |= has_pixels;
            at = file.len();
            break;
        };
        at += bytes.len();
        has_pixels |= name == b"IDAT";
        match name {
            b"IHDR" if header.is_empty() => header = data,
            b"IDAT" if rows.is_empty() || rows_at.end == out.len() => {
                if rows.is_empty() {
                    rows_at.start = out.len();
                }
                rows.push(data);
                rows_at.end = out.len() + bytes.len();
            }
            // Pixels behind another chunk: some decoders read on there, and some do not.
            b"IDAT" => return None,
            b"acTL" if !has_pixels && data.len() == 8 && !seen.contains(name) => {
                announced = be32(data, 0).unwrap_or(0);
            }
            b"fcTL" => frames += 1,
            _ => {}
        }
        let is_hidden = match name {
            b"IHDR" => data.len() > 13 || seen.contains(name),
            b"acTL" => announced == 0 || seen.contains(name),
            b"fcTL" if data.len() > 26 => true,
            b"fcTL" | b"fdAT" => announced == 0 || frames > announced,
            _ => longest(name).is_some_and(|longest| data.len() > longest || seen.contains(name)),
        };
        seen.insert(name);
        if is_hidden {
            removed.add(match name {
                b"fdAT" => Kinds::THUMBNAIL,
                _ => Kinds::OTHER,
            });
            is_open |= has_pixels;
            continue;
        }
        if name == b"IEND" {
            if !data.is_empty() {
                removed.add(Kinds::OTHER);
            }
            chunk(&mut out, name, &[]);
            is_open = false;
            break;
        }
        if KEPT.iter().any(|kept| kept.as_slice() == name)
            || (name == b"pHYs" && level == FileMetadata::StripPrivate)
        {
            out.extend(bytes);
            is_open = false;
            continue;
        }
        let part = match name {
            _ if crc(name, data) != sum => Part::gone(Kinds::UNREADABLE),
            b"eXIf" if !has_exif => {
                has_exif = true;
                exif::strip(data, level)
            }
            b"iCCP" => profile(data),
            b"tEXt" | b"zTXt" | b"iTXt" => text(name, data, bytes.len(), level, &mut has_xmp),
            _ => Part::gone(Kinds::OTHER),
        };
        let is_xmp = data.starts_with(XMP.as_bytes());
        let kept = match is_xmp {
            true => removed.take_xmp(part),
            false => removed.take(part),
        };
        is_open |= has_pixels;
        if let Some(data) = kept {
            chunk(&mut out, name, &data);
            is_open = false;
        }
    }
    if is_open {
        chunk(&mut out, b"IEND", &[]);
    }
    removed.add(trailer(file.get(at..).unwrap_or_default()));
    let alone = match idat::rows(header, &rows) {
        Rows::Alone => None,
        Rows::Followed(length) => Some(rows.concat().into_iter().take(length).collect()),
        Rows::Longer(rows) => Some(rows),
    };
    if let Some(alone) = alone {
        removed.add(Kinds::THUMBNAIL);
        let mut chunks = Vec::new();
        chunk(&mut chunks, b"IDAT", &alone);
        out.splice(rows_at, chunks);
    }
    if seen.contains(&b"fdAT"[..])
        && let Some(cut) = apng::cut(&out)
    {
        removed.add(Kinds::THUMBNAIL);
        out = cut;
    }
    has_pixels.then_some((out, removed))
}

/// The data of a chunk of text without what `level` removes.
fn text(name: &[u8], data: &[u8], size: usize, level: FileMetadata, has_xmp: &mut bool) -> Part {
    let gone = Part::gone;
    let Some(end) = data.iter().position(|byte| *byte == 0) else {
        return gone(Kinds::UNREADABLE);
    };
    let (keyword, rest) = data.split_at(end);
    let keyword = String::from_utf8_lossy(keyword);
    if keyword == XMP && name == b"iTXt" {
        let Some(packet) = unpacked(name, rest).filter(|_| !*has_xmp) else {
            return gone(Kinds::UNREADABLE);
        };
        *has_xmp = true;
        let part = xmp::strip(&[&packet], level);
        // Not compressed, and without a language.
        let head = [XMP.as_bytes(), &[0; 5]].concat();
        return Part {
            kept: part.kept.map(|packet| [head, packet].concat()),
            removed: part.removed,
            credit: part.credit,
        };
    }
    if let Some(kind) = keyword.strip_prefix(RAW_PROFILE) {
        let Some(part) = unpacked(name, rest).and_then(|text| raw_profile(kind, &text, level)) else {
            return gone(Kinds::UNREADABLE);
        };
        let profile = part.kept.filter(|_| name != b"iTXt").map(|block| {
            let text = in_hexadecimal(kind, &block);
            let head = [keyword.as_bytes(), &[0]].concat();
            match name {
                b"zTXt" => [head, vec![0], packed(&text)].concat(),
                _ => [head, text].concat(),
            }
        });
        return Part {
            kept: profile,
            removed: part.removed,
            credit: part.credit,
        };
    }
    match &*keyword {
        "Author" | "Copyright" if level == FileMetadata::StripPrivate => match unpacked(name, rest) {
            Some(text) if text.len() <= LONGEST && size <= 2 * LONGEST => credit(name, &keyword, data, &text),
            _ => gone(Kinds::UNREADABLE),
        },
        "Comment" | "Description" | "Title" | "Warning" => gone(Kinds::COMMENT),
        "Thumb::Image" => gone(Kinds::THUMBNAIL),
        _ => gone(Kinds::OTHER),
    }
}

/// A text with a credit: as it was, to the byte, but for a keyword in words of somebody's own, and for bytes that no
/// reader shows, behind a zero or behind the end of the compressed text.
fn credit(name: &[u8], keyword: &str, data: &[u8], text: &[u8]) -> Part {
    let rest = data.get(keyword.len()..).unwrap_or_default();
    let shown = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let credit = match keyword {
        "Author" => Credit {
            creator: super::text(shown),
            ..Credit::default()
        },
        _ => Credit {
            notice: super::text(shown),
            ..Credit::default()
        },
    };
    let has_own_words = name == b"iTXt" && has_own_words(rest);
    if !has_own_words && shown.len() == text.len() && !is_followed(name, rest) {
        return Part {
            kept: Some(data.to_vec()),
            removed: Kinds::NONE,
            credit,
        };
    }
    let head = keyword.as_bytes();
    Part {
        kept: Some(match name {
            b"tEXt" => [head, &[0], shown].concat(),
            b"zTXt" => [head, &[0, 0], &packed(shown)].concat(),
            // Not compressed, and without a language.
            _ => [head, &[0; 5], shown].concat(),
        }),
        removed: Kinds::OTHER,
        credit,
    }
}

/// Whether bytes lie behind the end of a compressed text.
fn is_followed(name: &[u8], rest: &[u8]) -> bool {
    let stream = match name {
        b"zTXt" => rest.get(2..),
        b"iTXt" if rest.get(1) != Some(&0) => {
            let mut parts = rest.get(3..).unwrap_or_default().splitn(3, |byte| *byte == 0);
            parts.nth(2)
        }
        _ => None,
    };
    stream.is_some_and(|stream| {
        let mut decoder = ZlibDecoder::new(stream);
        let read = std::io::copy(&mut decoder.by_ref().take(LARGEST), &mut std::io::sink());
        read.is_ok() && (decoder.total_in() as usize) < stream.len()
    })
}

/// Whether an international text has a keyword in another language, or a language of somebody's own.
fn has_own_words(rest: &[u8]) -> bool {
    let mut parts = rest.get(3..).unwrap_or_default().splitn(3, |byte| *byte == 0);
    let language = parts.next().unwrap_or_default();
    let is_language = language.is_empty() || std::str::from_utf8(language).is_ok_and(xmp::is_language);
    !is_language || parts.next().is_none_or(|keyword| !keyword.is_empty())
}

/// A color profile with its name: to the byte as it was, or packed anew.
fn profile(data: &[u8]) -> Part {
    let gone = || Part::gone(Kinds::UNREADABLE);
    // The name's closing zero, and the method, of which there is one.
    let head = data.iter().position(|byte| *byte == 0).map(|end| end + 2);
    let Some((head, packed_profile)) = head.and_then(|head| data.split_at_checked(head)) else {
        return gone();
    };
    let mut decoder = ZlibDecoder::new(packed_profile);
    let mut unpacked = Vec::new();
    let read = decoder.by_ref().take(LARGEST).read_to_end(&mut unpacked);
    let used = decoder.total_in() as usize;
    if read.is_err() || unpacked.len() as u64 == LARGEST {
        return gone();
    }
    let (profile, mut removed) = icc::strip(&unpacked);
    let Some(profile) = profile else {
        return gone();
    };
    let is_followed = packed_profile.iter().skip(used).any(|byte| *byte != 0);
    if is_followed {
        removed.add(Kinds::OTHER);
    }
    let kept = match removed.is_empty() {
        true => data.to_vec(),
        false => [head, &packed(&profile)].concat(),
    };
    Part {
        kept: Some(kept),
        removed,
        ..Part::default()
    }
}

/// The text of a chunk, from the zero behind its keyword on.
fn unpacked(name: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    let inflated = |data: &[u8]| {
        let mut text = Vec::new();
        let read = ZlibDecoder::new(data).take(LARGEST).read_to_end(&mut text);
        read.ok().map(|_| text)
    };
    match name {
        b"tEXt" => rest.get(1..).map(<[u8]>::to_vec),
        b"zTXt" => inflated(rest.get(2..)?),
        _ => {
            // Whether it is compressed and how, its language, and its keyword in that language.
            let mut parts = rest.get(3..)?.splitn(3, |byte| *byte == 0);
            let text = parts.nth(2)?;
            match rest.get(1)? {
                0 => Some(text.to_vec()),
                _ => inflated(text),
            }
        }
    }
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::ZlibEncoder::new(text, flate2::Compression::default());
    let mut out = Vec::new();
    // Reading from memory does not fail.
    let _ = encoder.read_to_end(&mut out);
    out
}

/// A block in ImageMagick's text: a line break, its kind, its length, lines of hexadecimal digits.
fn raw_profile(kind: &str, text: &[u8], level: FileMetadata) -> Option<Part> {
    let mut lines = text.strip_prefix(b"\n")?.splitn(3, |byte| *byte == b'\n');
    lines.next()?;
    let length: usize = std::str::from_utf8(lines.next()?).ok()?.trim().parse().ok()?;
    let digits: Vec<u32> = lines
        .next()?
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16))
        .collect::<Option<_>>()?;
    let block: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| ((pair[0] << 4) | pair[1]) as u8)
        .collect();
    if block.len() != length {
        return None;
    }
    let prefixed = |prefix: &[u8], part: Part| Part {
        kept: part.kept.map(|kept| [prefix, &kept].concat()),
        removed: part.removed,
        credit: part.credit,
    };
    Some(match kind {
        "exif" | "APP1" if block.starts_with(b"Exif\0\0") => {
            prefixed(b"Exif\0\0", exif::strip(block.get(6..)?, level))
        }
        "exif" => exif::strip(&block, level),
        "iptc" if block.starts_with(b"8BIM") => iptc::strip_resources(&block, level),
        "iptc" => iptc::strip(&block, level),
        "8bim" => iptc::strip_resources(&block, level),
        "xmp" | "APP1" => {
            let packet = block
                .strip_prefix(b"http://ns.adobe.com/xap/1.0/\0")
                .unwrap_or(&block);
            xmp::strip(&[packet], level)
        }
        _ => Part::gone(Kinds::OTHER),
    })
}

fn in_hexadecimal(kind: &str, block: &[u8]) -> Vec<u8> {
    let lines: Vec<String> = block.chunks(36).map(data::hex).collect();
    format!("\n{kind}\n{:8}\n{}\n", block.len(), lines.join("\n")).into_bytes()
}
