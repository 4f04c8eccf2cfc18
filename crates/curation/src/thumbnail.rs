//! Small pictures for pages: the review's grid and the audit's contact sheet.

use std::io::Cursor;

use data::DecodeLimits;

/// A small picture of a file, upright, JPEG, its longer side at most so many px; none if the file does not decode.
pub(crate) fn small_jpeg(file: &[u8], side_px: u32) -> Option<Vec<u8>> {
    let image = data::decode(file, &DecodeLimits::DEFAULT).ok()?;
    let longer = image.width.max(image.height).max(1);
    let scaled = |side: u32| (u64::from(side) * u64::from(side_px) / u64::from(longer)).max(1) as u32;
    let (width, height) = (scaled(image.width), scaled(image.height));
    let picture = image::RgbImage::from_raw(image.width, image.height, image.pixels)?;
    let picture = match longer > side_px {
        true => image::imageops::thumbnail(&picture, width, height),
        false => picture,
    };
    let mut jpeg = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(Cursor::new(&mut jpeg), 85);
    picture.write_with_encoder(encoder).ok()?;
    Some(jpeg)
}
