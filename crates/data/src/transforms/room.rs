//! A view group and a picture's size in, the memory that its views need out, before any of it is allocated.
//!
//! The size of most results is the config's. `resize` alone makes pictures as long as the picture is thin, so
//! its result is checked against the limit of pixels.

use super::geometry::{WHOLE_PIXELS, pixels, shorter_side_size};
use super::{Transform, ViewGroup};
use crate::decode::{DecodeLimits, RGB_BYTES};
use crate::error::DecodeError;

/// Bytes that making the views of a group takes at most, beside the picture of this size and the views.
///
/// # Errors
/// [`DecodeError::ResizedTooLarge`] where a step makes more pixels than a picture may have.
pub(crate) fn room_bytes(group: &ViewGroup, width: u32, height: u32) -> Result<u64, DecodeError> {
    let (mut width, mut height) = (width, height);
    // Pixels that the steps so far made and that are still there; the picture itself is not among them.
    let mut made = 0;
    let mut most = 0;
    let mut steps = group.transforms.iter().peekable();
    while let Some(transform) = steps.next() {
        // Rows are resized first, so a picture of the new width and the old height lies between.
        let between = |to: u32| check(transform, to, height).map(|()| pixels(to, height));
        let before = pixels(width, height);
        let (size, between) = match *transform {
            Transform::RandomResizedCrop { size_px, .. } => ((size_px, size_px), between(size_px)?),
            Transform::ResizeExact {
                width_px, height_px, ..
            } => ((width_px, height_px), between(width_px)?),
            Transform::Resize { shorter_px, .. } => {
                let size = shorter_side_size(width, height, shorter_px);
                match steps.peek() {
                    // Only the center of the result is made, or a small result.
                    Some(Transform::CenterCrop { size_px }) => {
                        let rows = pixels(*size_px, height);
                        let whole = WHOLE_PIXELS.min(pixels(size.0, size.1));
                        let size_px = *size_px;
                        steps.next();
                        ((size_px, size_px), rows.max(whole))
                    }
                    _ => {
                        check(transform, size.0, size.1)?;
                        (
                            size,
                            pixels(size.0, height).min(pixels(size.0, size.1).max(before)),
                        )
                    }
                }
            }
            Transform::CenterCrop { size_px } => ((size_px, size_px), 0),
            // Its planes; the result is a copy of the picture.
            _ => ((width, height), before),
        };
        (width, height) = size;
        let result = pixels(width, height);
        most = most.max(made + between + result);
        made = result;
    }
    Ok(most * RGB_BYTES)
}

/// Gives an error for a result of more pixels than a decoded picture may have.
fn check(transform: &Transform, width: u32, height: u32) -> Result<(), DecodeError> {
    let limit = DecodeLimits::DEFAULT.pixels;
    if pixels(width, height) <= limit {
        return Ok(());
    }
    Err(DecodeError::ResizedTooLarge {
        transform: transform.name(),
        width,
        height,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::Filter;

    fn group(transforms: Vec<Transform>) -> ViewGroup {
        ViewGroup { count: 1, transforms }
    }

    fn resize(shorter_px: u32) -> Transform {
        Transform::Resize {
            shorter_px,
            filter: Filter::Bilinear,
        }
    }

    #[test]
    fn a_resize_is_refused_by_the_pixels_of_its_result() {
        let exact = Transform::ResizeExact {
            width_px: 32,
            height_px: 32,
            filter: Filter::Bilinear,
        };
        let resized = group(vec![resize(256), exact.clone()]);
        // 256 x 698,880 px are allowed; one more pixel of length is too much.
        assert!(room_bytes(&resized, 1, 2_730).is_ok());
        let error = room_bytes(&resized, 1, 2_731).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`resize` would make 256 x 699136 px of it, over the limit of 178956970 px"
        );
        assert!(room_bytes(&resized, 60_000, 1).is_err());
        assert!(room_bytes(&group(vec![exact]), 60_000, 1).is_ok());
    }

    #[test]
    fn a_center_crop_needs_the_memory_of_what_it_keeps() {
        let cropped = group(vec![resize(256), Transform::CenterCrop { size_px: 224 }]);
        for (width, height) in [(1, 60_000), (60_000, 1), (65_535, 65_535), (4_000, 3_000)] {
            let bytes = room_bytes(&cropped, width, height).unwrap();
            assert!(bytes < 64 << 20, "{width} x {height}: {bytes}");
        }
    }
}
