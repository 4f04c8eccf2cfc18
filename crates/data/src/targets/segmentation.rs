//! The mask of one object, as the data set has it, and its transforms.

use super::polygon::Polygon;
use super::rle::Rle;
use crate::transforms::CropBox;

/// The mask of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// Outlines, at least one; the mask is all of their insides.
    Polygons(Vec<Polygon>),
    /// Pixels.
    Rle(Rle),
}

impl Segmentation {
    /// The pixels of the mask in its picture of `width` x `height` px.
    ///
    /// # Panics
    /// If a mask of pixels is of another size, which readers give an error for.
    pub fn to_rle(&self, width: u32, height: u32) -> Rle {
        match self {
            Segmentation::Rle(rle) => {
                assert!(
                    (rle.width(), rle.height()) == (width, height),
                    "a mask of {} x {} px in a picture of {width} x {height} px",
                    rle.width(),
                    rle.height()
                );
                rle.clone()
            }
            Segmentation::Polygons(polygons) => polygons
                .iter()
                .map(|polygon| polygon.to_rle(width, height))
                .reduce(|one, other| one.union(&other).expect("both were made of one size"))
                .unwrap_or_else(|| Rle::empty(width, height)),
        }
    }

    /// Mirrored left and right, in a picture of this width, px.
    pub(super) fn flipped(self, width: u32) -> Segmentation {
        match self {
            Segmentation::Polygons(polygons) => {
                let flipped = polygons
                    .into_iter()
                    .map(|polygon| polygon.flipped(f64::from(width)));
                Segmentation::Polygons(flipped.collect())
            }
            Segmentation::Rle(rle) => Segmentation::Rle(rle.flipped()),
        }
    }

    /// The part within a crop of its picture; `None` where nothing is.
    pub(super) fn cropped(self, (width, height): (u32, u32), part: CropBox) -> Option<Segmentation> {
        debug_assert!(part.left + part.width <= width && part.top + part.height <= height);
        match self {
            Segmentation::Polygons(polygons) => {
                let cropped: Vec<Polygon> = polygons
                    .into_iter()
                    .filter_map(|polygon| polygon.cropped(part))
                    .collect();
                (!cropped.is_empty()).then_some(Segmentation::Polygons(cropped))
            }
            Segmentation::Rle(rle) => {
                let cropped = rle.cropped(part);
                (cropped.area() > 0).then_some(Segmentation::Rle(cropped))
            }
        }
    }
}
