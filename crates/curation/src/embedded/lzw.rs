//! The pixels of a frame of a GIF: blocks of one compressed stream. Data behind its last pixel, which no decoder shows,
//! go.

use super::bytes::le16;

/// Bits of the longest code.
const LONGEST: u32 = 12;

/// The compressed bytes of a frame up to its end code or last pixel; `None` where nothing is behind them, or where the
/// stream breaks before. `frame` begins with the image descriptor; `head` is the place of the code size, before the
/// blocks.
pub(super) fn used_blocks(frame: &[u8], head: usize) -> Option<Vec<u8>> {
    let pixels = usize::from(le16(frame, 5)?) * usize::from(le16(frame, 7)?);
    let first_bits = u32::from(*frame.get(head)?);
    let (mut data, mut at) = (Vec::new(), head + 1);
    loop {
        match usize::from(*frame.get(at)?) {
            0 => break,
            length => data.extend(frame.get(at + 1..at + 1 + length)?),
        }
        at += 1 + usize::from(*frame.get(at)?);
    }
    let used = used(first_bits, &data, pixels)?;
    (used < data.len()).then(|| {
        data.truncate(used);
        data
    })
}

/// How many bytes of a stream hold the codes of so many pixels, with the end code if that follows. Only the lengths of
/// the codes' texts are kept.
fn used(first_bits: u32, data: &[u8], pixels: usize) -> Option<usize> {
    if !(1..LONGEST).contains(&first_bits) {
        return None;
    }
    let clear = 1usize << first_bits;
    let end = clear + 1;
    let start = || -> (Vec<usize>, u32) { (vec![1; end + 1], first_bits + 1) };
    let ((mut lengths, mut bits), mut before) = (start(), None);
    let (mut read, mut written) = (0usize, 0usize);
    let code_at = |read: usize, bits: u32| -> Option<usize> {
        let byte = |at: usize| data.get(at).copied().map_or(0, u32::from);
        let at = read / 8;
        let three = byte(at) | (byte(at + 1) << 8) | (byte(at + 2) << 16);
        let is_there = read + bits as usize <= 8 * data.len();
        is_there.then_some(((three >> (read % 8)) & ((1 << bits) - 1)) as usize)
    };
    loop {
        let code = code_at(read, bits);
        if written >= pixels && code != Some(end) && code != Some(clear) {
            return Some(read.div_ceil(8));
        }
        let code = code?;
        read += bits as usize;
        if code == end {
            return Some(read.div_ceil(8));
        }
        if code == clear {
            ((lengths, bits), before) = (start(), None);
            continue;
        }
        let length = match (lengths.get(code), before) {
            (Some(length), _) => *length,
            (None, Some(before)) if code == lengths.len() => before + 1,
            _ => return None,
        };
        written += length;
        if let Some(before) = before
            && lengths.len() < 1 << LONGEST
        {
            lengths.push(before + 1);
            if lengths.len() == 1 << bits && bits < LONGEST {
                bits += 1;
            }
        }
        before = Some(length);
    }
}
