//! ICC color profiles: the profile stays to the byte but for the contents of tags that no list knows, and bytes that
//! belong to no tag. Bytes that are no profile go.

use std::borrow::Cow;
use std::ops::Range;

use super::Kinds;
use super::bytes::{be32, slice};

/// Header, and number of tags.
const LEAST: usize = 132;
/// Signature and offset and size of a tag.
const ENTRY: usize = 12;
/// Where the header says that it is a profile.
const SIGNATURE: (usize, &[u8]) = (36, b"acsp");
/// The hash of the profile in its header; zeros say that there is none.
const HASH: Range<usize> = 84..100;
/// A tag's type and four reserved bytes, before its content.
const TYPE: usize = 8;

/// Most tags; the most used reader, Little CMS, refuses a profile of more.
const MOST_TAGS: usize = 100;

/// Tags of ICC's specifications (versions 2 and 4), of Apple's displays and of Windows, that say how colors look, or
/// name and describe the profile.
const KEPT: &[&[u8; 4]] = &[
    b"A2B0", b"A2B1", b"A2B2", b"A2B3", b"B2A0", b"B2A1", b"B2A2", b"B2A3", b"B2D0", b"B2D1", b"B2D2",
    b"B2D3", b"D2B0", b"D2B1", b"D2B2", b"D2B3", b"A2M0", b"M2A0", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC",
    b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"chad", b"chrm", b"cicp", b"clro", b"clrt", b"clot",
    b"ciis", b"colr", b"cprt", b"desc", b"dscm", b"dmnd", b"dmdd", b"devs", b"gamt", b"gbd0", b"gbd1",
    b"gbd2", b"gbd3", b"lumi", b"meas", b"ncl2", b"ncol", b"pre0", b"pre1", b"pre2", b"ps2i", b"ps2s",
    b"psd0", b"psd1", b"psd2", b"psd3", b"pseq", b"psid", b"resp", b"rig0", b"rig2", b"scrd", b"scrn",
    b"tech", b"bfd ", b"vued", b"view", b"vcgt", b"ndin", b"vcgp",
];

/// Tags that identify a display: make, model and serial number (Apple), a list of anything (calibration programs
/// write the serial number there).
const SERIAL: &[&[u8; 4]] = &[b"mmod", b"meta"];

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
    let count = be32(profile, LEAST - 4).unwrap_or(0) as usize;
    let first = LEAST + ENTRY * count;
    if count > MOST_TAGS || first > kept.len() {
        return (None, Kinds::UNREADABLE);
    }
    let tags = tags(&kept, count);
    // Behind the table of tags only what belongs to a known one stays, and the types of the others. Tags may share
    // their content.
    let is_known = |name: &[u8; 4]| KEPT.contains(&name);
    let mut stays: Vec<Range<usize>> = Vec::with_capacity(tags.len() + 2);
    stays.push(0..first);
    stays.push(kept.len()..kept.len());
    stays.extend(tags.iter().map(|(name, place)| match is_known(name) {
        true => place.clone(),
        false => place.start..place.end.min(place.start + TYPE),
    }));
    stays.sort_by_key(|range| range.start);
    let mut at = 0;
    let mut gaps: Vec<Range<usize>> = Vec::new();
    for range in stays {
        gaps.extend((range.start > at).then_some(at..range.start));
        at = at.max(range.end);
    }
    let is_blank = |content: &[u8]| content.iter().all(|byte| *byte == 0);
    gaps.retain(|gap| kept.get(gap.clone()).is_some_and(|content| !is_blank(content)));
    for gap in &gaps {
        let of_display = tags
            .iter()
            .any(|(name, place)| SERIAL.contains(&name) && place.start < gap.end && gap.start < place.end);
        removed.add(if of_display { Kinds::SERIAL } else { Kinds::OTHER });
    }
    for range in gaps.iter().cloned().chain((!gaps.is_empty()).then_some(HASH)) {
        if let Some(content) = kept.to_mut().get_mut(range) {
            content.fill(0);
        }
    }
    (Some(kept), removed)
}

/// The tags' signatures and places.
fn tags(profile: &[u8], count: usize) -> Vec<([u8; 4], Range<usize>)> {
    let entries = profile.get(LEAST..).unwrap_or_default().chunks_exact(ENTRY);
    let tag = |entry: &[u8]| {
        let name = entry.get(..4)?.try_into().ok()?;
        let (at, size) = (be32(entry, 4)? as usize, be32(entry, 8)? as usize);
        let end = at.checked_add(size)?.min(profile.len());
        Some((name, at.min(end)..end))
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
    fn contents_of_unknown_tags_and_bytes_of_no_tag_go() {
        let color: (&[u8; 4], &[u8]) = (b"rXYZ", b"XYZ \0\0\0\0\0\0\x6f\xa2");
        let own: (&[u8; 4], &[u8]) = (b"PRIV", b"text\0\0\0\0SECRET own");
        let mut whole = profile(&[own, color], b"SECRET gap");
        let size = whole.len() as u32;
        whole[..4].copy_from_slice(&size.to_be_bytes());
        let (kept, removed) = strip(&whole);
        let kept = kept.unwrap().into_owned();
        assert_eq!(removed, Kinds::OTHER);
        assert_eq!(kept.len(), whole.len());
        assert!(!kept.windows(6).any(|bytes| bytes == b"SECRET"));
        assert!(kept.windows(12).any(|bytes| bytes == color.1));
        assert!(matches!(strip(&kept), (Some(Cow::Borrowed(_)), Kinds::NONE)));
        // A table of tags that would cover all.
        whole[128..132].copy_from_slice(&9999u32.to_be_bytes());
        assert!(strip(&whole).0.is_none());
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
