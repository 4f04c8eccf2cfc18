//! Numbers within a file, read without ever reaching beyond its end.

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, at)?))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(array(bytes, at)?))
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(array(bytes, at)?))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(array(bytes, at)?))
}

/// `length` bytes from `at` on.
pub(super) fn slice(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    slice(bytes, at, N)?.try_into().ok()
}

/// Whether a text holds nothing to read: zeros and blanks.
pub(super) fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte == 0 || byte.is_ascii_whitespace())
}

/// Bytes of a text of `texts` parts, each ended by a zero of `width` bytes, that readers show; what is behind the last
/// zero is seen by nobody. All bytes where nothing but zeros and blanks follow.
pub(super) fn shown(value: &[u8], width: usize, texts: usize) -> usize {
    let mut ends = value
        .chunks(width)
        .enumerate()
        .filter(|(_, letter)| letter.iter().all(|byte| *byte == 0))
        .map(|(at, _)| (at + 1) * width);
    let end = ends
        .nth(texts.saturating_sub(1))
        .unwrap_or(value.len())
        .min(value.len());
    match value.get(end..).is_none_or(is_blank) {
        true => value.len(),
        false => end,
    }
}
