//! The contract of detectors: photos in, detections out.

use crate::boxes::BoundingBox;
use crate::error::DetectionError;

/// A picture of three 8-bit channels, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Photo<'a> {
    /// Width, px.
    pub width: u32,
    /// Height, px.
    pub height: u32,
    /// Red, green, blue of each pixel, rows from the top: `[height, width, 3]`.
    pub pixels: &'a [u8],
}

impl Photo<'_> {
    /// Whether there are pixels, as many as the sides say.
    pub(crate) fn check(&self, position: usize) -> Result<(), DetectionError> {
        let bytes = (self.width as usize)
            .checked_mul(self.height as usize)
            .and_then(|pixels| pixels.checked_mul(3));
        if bytes == Some(self.pixels.len()) && bytes != Some(0) {
            return Ok(());
        }
        Err(DetectionError::Photo {
            position,
            width: self.width,
            height: self.height,
            bytes: self.pixels.len(),
        })
    }
}

/// Something that a detector found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Where, in pixels of the original photo. Parts may lie outside it.
    pub bounds: BoundingBox,
    /// Its class, by the detector's own numbers: with COCO's classes 0 is a person; a face detector has only 0.
    pub class: usize,
    /// The score, from 0 to 1.
    pub score: f32,
    /// Points of it, in pixels `[x, y]`: of a face the eyes, the tip of the nose and the corners of the mouth, those at the
    /// photo's left first. Empty where the detector gives none.
    pub landmarks: Vec<[f32; 2]>,
}

/// Finds things in photos.
pub trait Detector: Send + Sync {
    /// The detections of each photo, by falling score, above the detector's candidate score. Photos may have any sizes; the
    /// detections of one do not depend on the others.
    ///
    /// # Errors
    /// [`DetectionError::Photo`] where sides and bytes of a photo do not match; [`DetectionError::Onnx`] where a network of
    /// the user's fails.
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError>;
}

/// The highest score; 0 where nothing was seen. A filter drops a photo where this is above its threshold.
pub fn top_score(detections: &[Detection]) -> f32 {
    detections.iter().map(|found| found.score).fold(0.0, f32::max)
}
