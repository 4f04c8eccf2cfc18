//! ICC color profiles: the profile stays to the byte but for texts that identify a display or a measurement, and bytes
//! behind its end. Bytes that are no profile go.

use std::borrow::Cow;

use super::Kinds;
use super::bytes::{be32, slice};

/// Header, and number of tags.
const LEAST: usize = 132;
/// Signature and offset and size of a tag.
const ENTRY: usize = 12;
/// Where the header says that it is a profile.
const SIGNATURE: (usize, &[u8]) = (36, b"acsp");
/// The hash of the profile in its header; zeros say that there is none.
const HASH: std::ops::Range<usize> = 84..100;
/// A tag's type and four reserved bytes, before its content.
const TYPE: usize = 8;

/// Tags that say nothing of colors: make, model and serial number of a display (Apple), a list of anything
/// (a display's serial number, written by calibration programs), measurements with instrument and date.
const GONE: [(&[u8; 4], Kinds); 3] = [
    (b"mmod", Kinds::SERIAL),
    (b"meta", Kinds::SERIAL),
    (b"targ", Kinds::OTHER),
];

/// What stays of a profile, borrowed if it is the same, and the kinds of data that went.
pub(super) fn strip(profile: &[u8]) -> (Option<Cow<'_, [u8]>>, Kinds) {
    let is_profile = slice(profile, SIGNATURE.0, SIGNATURE.1.len()) == Some(SIGNATURE.1);
    let size = be32(profile, 0).unwrap_or(0) as usize;
    if !is_profile || profile.len() < LEAST || size < LEAST {
        return (None, Kinds::UNREADABLE);
    }
    let mut removed = Kinds::NONE;
    let mut kept = Cow::Borrowed(profile);
    // Readers use nothing behind the size that the header gives.
    if profile.iter().skip(size).any(|byte| *byte != 0) {
        removed.add(Kinds::OTHER);
        kept = Cow::Borrowed(&profile[..size]);
    }
    let tags = tags(&kept);
    for (name, place) in &tags {
        let Some((_, kind)) = GONE.iter().find(|(gone, _)| gone.as_slice() == *name) else {
            continue;
        };
        // Tags may share their content.
        let is_shared = tags.iter().any(|(other, others)| {
            GONE.iter().all(|(gone, _)| gone.as_slice() != *other)
                && others.start < place.end
                && place.start < others.end
        });
        let is_blank = |content: &[u8]| content.iter().all(|byte| *byte == 0);
        if is_shared || kept.get(place.clone()).is_none_or(is_blank) {
            continue;
        }
        removed.add(*kind);
        let kept = kept.to_mut();
        for range in [place.clone(), HASH] {
            if let Some(content) = kept.get_mut(range) {
                content.fill(0);
            }
        }
    }
    (Some(kept), removed)
}

/// The tags' signatures and the places of their contents.
fn tags(profile: &[u8]) -> Vec<([u8; 4], std::ops::Range<usize>)> {
    let count = be32(profile, LEAST - 4).unwrap_or(0) as usize;
    let entries = profile.get(LEAST..).unwrap_or_default().chunks_exact(ENTRY);
    let tag = |entry: &[u8]| {
        let name = entry.get(..4)?.try_into().ok()?;
        let (at, size) = (be32(entry, 4)? as usize, be32(entry, 8)? as usize);
        let end = at.checked_add(size)?.min(profile.len());
        Some((name, at + TYPE.min(size)..end))
    };
    entries.take(count).filter_map(tag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile of these tags, with some bytes behind its end.
    fn profile(tags: &[(&[u8; 4], &[u8])], behind: &[u8]) -> Vec<u8> {
        let mut out = vec![0; LEAST];
        out[36..40].copy_from_slice(b"acsp");
        out[HASH].fill(7);
        out[128..].copy_from_slice(&(tags.len() as u32).to_be_bytes());
        let mut at = LEAST + ENTRY * tags.len();
        for (name, content) in tags {
            out.extend(*name);
            out.extend((at as u32).to_be_bytes());
            out.extend((content.len() as u32).to_be_bytes());
            at += content.len();
        }
        tags.iter().for_each(|(_, content)| out.extend(*content));
        let size = out.len() as u32;
        out[..4].copy_from_slice(&size.to_be_bytes());
        out.extend(behind);
        out
    }

    #[test]
    fn a_displays_serial_number_goes_and_colors_stay() {
        let color: (&[u8; 4], &[u8]) = (b"rXYZ", b"XYZ \0\0\0\0\0\0\x6f\xa2");
        let secret: (&[u8; 4], &[u8]) = (b"mmod", b"mmod\0\0\0\0\0\0\x06\x10SECRET!!");
        let list: (&[u8; 4], &[u8]) = (b"meta", b"dict\0\0\0\0SECRET");
        let plain = profile(&[color], b"");
        let (kept, removed) = strip(&plain);
        assert!(matches!(kept, Some(Cow::Borrowed(_))) && removed.is_empty());
        let whole = profile(&[color, secret, list], b"SECRET");
        let (kept, removed) = strip(&whole);
        let kept = kept.unwrap().into_owned();
        assert_eq!(
            removed.names().map(|(name, _)| name).collect::<Vec<_>>(),
            ["serial", "other"]
        );
        assert_eq!(kept.len(), whole.len() - 6);
        assert!(!kept.windows(6).any(|bytes| bytes == b"SECRET"));
        assert!(kept.windows(12).any(|bytes| bytes == color.1) && kept[HASH] == [0; 16]);
        let (again, removed) = strip(&kept);
        assert!(matches!(again, Some(Cow::Borrowed(_))) && removed.is_empty());
        // Padding stays.
        let padded = profile(&[color], b"\0\0");
        assert!(matches!(strip(&padded).0, Some(Cow::Borrowed(same)) if same == padded));
    }

    #[test]
    fn bytes_that_are_no_profile_go() {
        let long = [b'S'; 4000];
        let mut short = profile(&[], b"SECRET");
        short[..4].copy_from_slice(&12u32.to_be_bytes());
        for none in [&b""[..], b"SECRET", &long, &short] {
            let (kept, removed) = strip(none);
            assert!(kept.is_none() && removed.has(Kinds::UNREADABLE));
        }
    }
}
