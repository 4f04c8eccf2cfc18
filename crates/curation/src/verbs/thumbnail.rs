//! Small pictures for pages: the review's grid and the audit's contact sheet.

use data::DecodeLimits;
use data::thumbnail::{thumbnail, to_jpeg};

/// A small picture of a file, upright, JPEG, its longer side at most `side_px`; `None` if the file does not
/// decode.
pub(crate) fn small_jpeg(file: &[u8], side_px: u32) -> Option<Vec<u8>> {
    let jpeg = data::decode_and(file, &DecodeLimits::DEFAULT, |image| {
        to_jpeg(&thumbnail(&image, side_px), 85)
    });
    let jpeg = jpeg.ok()?;
    (!jpeg.is_empty()).then_some(jpeg)
}
