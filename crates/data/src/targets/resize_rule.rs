//! The two conventions of a multi-scale resize: the size of the result, and what becomes of boxes and masks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boxes::BoundingBox;
use super::rle::Rle;
use super::segmentation::Segmentation;
use crate::decode::RgbImage;
use crate::transforms::{Filter, bilinear, geometry};

/// Whose rule a resize to a shorter side follows, where no side may get longer than a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeRule {
    /// torchvision's detectors: one scale in f64, sides rounded down (480 x 640 px at 800 becomes 800 x 1066; as
    /// TorchScript, whose scale is f32, torchvision loses a pixel of some sides),
    /// bilinear without antialiasing, boxes scaled in f32 by the sides' true ratios, masks as pixels by nearest
    /// neighbor.
    Torchvision,
    /// detectron2: f64, sides rounded (800 x 1067), Pillow's antialiased bilinear, polygons stay polygons, masks of
    /// pixels by Pillow's nearest neighbor.
    Detectron2,
}

impl ResizeRule {
    /// Width and height of the result, px: the shorter side becomes `shorter`, or less so that no side is over
    /// `longest`. All must be at least 1.
    pub fn size(self, (width, height): (u32, u32), shorter: u32, longest: u32) -> (u32, u32) {
        let (short, long) = (width.min(height), width.max(height));
        match self {
            ResizeRule::Torchvision => {
                let ratio = |of: u32, to: u32| f64::from(to) / f64::from(of);
                let scale = ratio(short, shorter).min(ratio(long, longest));
                let side = |side: u32| (f64::from(side) * scale).floor().max(1.0) as u32;
                (side(width), side(height))
            }
            ResizeRule::Detectron2 => {
                let (shorter, longest) = (f64::from(shorter), f64::from(longest));
                let scale = shorter / f64::from(short);
                let mut sides = match height < width {
                    true => (scale * f64::from(width), shorter),
                    false => (shorter, scale * f64::from(height)),
                };
                let now = sides.0.max(sides.1);
                if now > longest {
                    let shrink = longest / now;
                    sides = (sides.0 * shrink, sides.1 * shrink);
                }
                let side = |side: f64| (side + 0.5).floor().max(1.0) as u32;
                (side(sides.0), side(sides.1))
            }
        }
    }

    /// The pixels of a picture resized to the sides `to`, row by row: red, green, blue from 0 to 255, which detectron2
    /// rounds and torchvision does not. `pixels` is `[height, width, 3]` of a picture of the sides `from`, and all
    /// sides are at least 1.
    pub fn each_pixel(self, pixels: &[u8], from: (u32, u32), to: (u32, u32), mut put: impl FnMut([f32; 3])) {
        match self {
            ResizeRule::Torchvision => bilinear::each_pixel(pixels, from, to, put),
            ResizeRule::Detectron2 => {
                let image = RgbImage {
                    width: from.0,
                    height: from.1,
                    pixels: pixels.to_vec(),
                };
                let resized = geometry::resize(&image, to.0, to.1, Filter::Bilinear);
                for pixel in resized.pixels.as_chunks::<3>().0 {
                    put(pixel.map(f32::from));
                }
            }
        }
    }

    pub(super) fn scale_box(self, of: BoundingBox, from: (u32, u32), to: (u32, u32)) -> BoundingBox {
        match self {
            ResizeRule::Torchvision => of.scaled(to.0 as f32 / from.0 as f32, to.1 as f32 / from.1 as f32),
            ResizeRule::Detectron2 => {
                let (across, down) = ratios(from, to);
                let scaled = |edge: f32, ratio: f64| (f64::from(edge) * ratio) as f32;
                BoundingBox {
                    left: scaled(of.left, across),
                    top: scaled(of.top, down),
                    right: scaled(of.right, across),
                    bottom: scaled(of.bottom, down),
                }
            }
        }
    }

    pub(super) fn resize_mask(self, mask: Segmentation, from: (u32, u32), to: (u32, u32)) -> Segmentation {
        match (self, mask) {
            (ResizeRule::Torchvision, mask) => {
                Segmentation::Rle(self.resample(&mask.to_rle(from.0, from.1), to))
            }
            (ResizeRule::Detectron2, Segmentation::Rle(rle)) => Segmentation::Rle(self.resample(&rle, to)),
            (ResizeRule::Detectron2, Segmentation::Polygons(polygons)) => {
                let (across, down) = ratios(from, to);
                let scaled = polygons.into_iter().map(|polygon| polygon.scaled(across, down));
                Segmentation::Polygons(scaled.collect())
            }
        }
    }

    /// Nearest neighbor: PyTorch's takes the pixel at a result pixel's edge, Pillow's that at its center.
    fn resample(self, mask: &Rle, to: (u32, u32)) -> Rle {
        let picked = |from: u32, to: u32| -> Vec<u32> {
            let (scale, step) = (from as f32 / to as f32, f64::from(from) / f64::from(to));
            // Pillow adds up its steps, roundings included.
            let mut center = step * 0.5;
            let places = (0..to).map(|at| {
                let place = match self {
                    ResizeRule::Torchvision => (at as f32 * scale).floor() as u32,
                    ResizeRule::Detectron2 => center as u32,
                };
                center += step;
                place.min(from - 1)
            });
            places.collect()
        };
        mask.resampled(&picked(mask.width(), to.0), &picked(mask.height(), to.1))
    }
}

/// New sides by old ones.
fn ratios(from: (u32, u32), to: (u32, u32)) -> (f64, f64) {
    (
        f64::from(to.0) / f64::from(from.0),
        f64::from(to.1) / f64::from(from.1),
    )
}
