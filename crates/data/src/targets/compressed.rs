//! COCO's compressed run lengths: text in and out.
//!
//! Each length is written as groups of five bits from the lowest on, 48 added to each to make a printable
//! character; bit 0x20 says that more follow, and bit 0x10 of the last group is the sign. From the fourth length
//! on, the difference to the length two before is written.

use super::rle::{Rle, RleError};

impl Rle {
    /// From COCO's compressed run lengths.
    ///
    /// # Errors
    /// [`RleError`] for text that is no such list, or does not cover the picture.
    pub fn from_compressed(width: u32, height: u32, text: &str) -> Result<Rle, RleError> {
        let mut lengths: Vec<u32> = Vec::new();
        let mut letters = text.chars();
        while let Some(first) = letters.next() {
            let (mut value, mut bits, mut letter) = (0i64, 0, first);
            loop {
                let group = u32::from(letter)
                    .checked_sub(48)
                    .filter(|group| *group < 64)
                    .ok_or(RleError::Character(letter))?;
                if bits > 35 {
                    return Err(RleError::Number);
                }
                value |= i64::from(group & 0x1f) << bits;
                bits += 5;
                if group & 0x20 == 0 {
                    if group & 0x10 != 0 {
                        value |= -1 << bits;
                    }
                    break;
                }
                letter = letters.next().ok_or(RleError::Number)?;
            }
            if lengths.len() > 2 {
                value += i64::from(lengths[lengths.len() - 2]);
            }
            lengths.push(u32::try_from(value).map_err(|_| RleError::Number)?);
        }
        Rle::new(width, height, lengths)
    }

    /// COCO's compressed run lengths.
    pub fn to_compressed(&self) -> String {
        let mut text = String::new();
        let runs = self.runs();
        for (at, run) in runs.iter().enumerate() {
            let before = if at > 2 { runs[at - 2] } else { 0 };
            let mut value = i64::from(*run) - i64::from(before);
            loop {
                let group = (value & 0x1f) as u8;
                value >>= 5;
                // All that is left is the sign of this group's highest bit.
                let is_last = value == if group & 0x10 != 0 { -1 } else { 0 };
                let more = if is_last { 0 } else { 0x20 };
                text.push(char::from((group | more) + 48));
                if is_last {
                    break;
                }
            }
        }
        text
    }
}
