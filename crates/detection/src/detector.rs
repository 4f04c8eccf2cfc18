//! The trait of detectors: photos in, detections out.

use data::targets::{BoundingBox, Rle};

use crate::error::DetectionError;
use crate::parts::{Paste, pasted_rle};

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
    /// Checks that the number of pixels is positive and matches the sides.
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

/// One detection.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Its box, in pixels of the original photo. Parts may be outside the photo.
    pub bounds: BoundingBox,
    /// Its class, in the detector's own numbering: with COCO's classes 0 is a person; a face detector has
    /// only 0.
    pub class: usize,
    /// The score, from 0 to 1.
    pub score: f32,
    /// Its landmarks, in pixels `[x, y]`. For a face: the eyes, the tip of the nose and the corners of the
    /// mouth, each pair from the photo's left. Empty if the detector gives none.
    pub landmarks: Vec<[f32; 2]>,
    /// Its mask, if the detector gives one.
    pub mask: Option<InstanceMask>,
}

/// A mask as a network gives it: small, within the box of its detection.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceMask {
    /// Probabilities, `[side · side]`, rows from the top.
    pub probabilities: Vec<f32>,
    /// Height and width.
    pub side: usize,
    /// How it is enlarged to its box.
    pub paste: Paste,
}

impl Detection {
    /// The pixels of the photo that belong to the object with a probability above 0.5, if there is a mask. The photo
    /// may be a resized one, with `bounds` scaled to it.
    pub fn segmentation(&self, bounds: &BoundingBox, width: u32, height: u32) -> Option<Rle> {
        let mask = self.mask.as_ref()?;
        let size = [height as usize, width as usize];
        Some(pasted_rle(
            &mask.probabilities,
            mask.side,
            bounds,
            size,
            mask.paste,
        ))
    }
}

/// Detects objects in photos.
pub trait Detector: Send + Sync {
    /// The detections of each photo, by descending score, above the detector's candidate score. Photos may
    /// have any sizes, and the detections of one do not depend on the others.
    ///
    /// # Errors
    /// [`DetectionError::Photo`] if sides and bytes of a photo do not match; [`DetectionError::Onnx`] if the
    /// user's network fails.
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError>;
}

/// The highest score; 0 without detections. A filter drops a photo if this is above its threshold.
pub fn top_score(detections: &[Detection]) -> f32 {
    detections.iter().map(|found| found.score).fold(0.0, f32::max)
}
