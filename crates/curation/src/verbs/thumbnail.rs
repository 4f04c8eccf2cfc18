//! Small pictures for pages: the review's grid and the audit's contact sheet.

use data::DecodeLimits;
use data::thumbnail::{thumbnail, to_jpeg};

/// A small picture of a file, upright, JPEG, its longer side at most `side_px`; or the reason why the file
/// does not decode.
pub(crate) fn small_jpeg(file: &[u8], side_px: u32) -> Result<Vec<u8>, String> {
    let jpeg = data::decode_and(file, &DecodeLimits::DEFAULT, |image| {
        to_jpeg(&thumbnail(&image, side_px), 85)
    });
    let jpeg = jpeg.map_err(|error| error.to_string())?;
    match jpeg.is_empty() {
        true => Err("its sides are too long for a small picture".to_string()),
        false => Ok(jpeg),
    }
}

/// The media type of a file that a browser shows; or the reason why it cannot be shown. `decodes`: whether it
/// is known to decode.
pub(crate) fn media_type(file: &[u8], decodes: bool) -> Result<&'static str, String> {
    let kind = match image::guess_format(file) {
        Ok(image::ImageFormat::Jpeg) => "image/jpeg",
        Ok(image::ImageFormat::Png) => "image/png",
        Ok(image::ImageFormat::WebP) => "image/webp",
        Ok(image::ImageFormat::Gif) => "image/gif",
        Ok(image::ImageFormat::Bmp) => "image/bmp",
        _ => return Err("browsers do not show its format".to_string()),
    };
    if !decodes {
        // A browser shows the upper part of a truncated file as if it were the picture.
        data::decode_and(file, &DecodeLimits::DEFAULT, |_| ()).map_err(|error| error.to_string())?;
    }
    Ok(kind)
}
