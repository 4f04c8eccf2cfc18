//! The objects of a picture as plain memory: boxes, masks and classes, and their transforms.
//!
//! Loader threads make them beside the picture's pixels, so they live here and know no tensor. Every transform
//! returns new targets for the picture of the same transform: [`ImageTargets::flipped`],
//! [`ImageTargets::resized`], [`ImageTargets::cropped`].

mod boxes;
mod compressed;
mod polygon;
mod rasterize;
mod resize_rule;
mod rle;
mod segmentation;
#[cfg(test)]
mod tests;

pub use boxes::BoundingBox;
pub use polygon::{Polygon, PolygonError};
pub use resize_rule::ResizeRule;
pub use rle::{Rle, RleError};
pub use segmentation::Segmentation;

use crate::transforms::CropBox;

/// The objects of one picture, in the data set's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageTargets {
    /// The data set's number of the picture: COCO's `id`, or else the record's position.
    pub image_id: u64,
    /// Width of the picture that the boxes and masks are in, px.
    pub width: u32,
    /// Height of the picture that the boxes and masks are in, px.
    pub height: u32,
    /// The objects; empty for a picture that shows none.
    pub objects: Vec<Object>,
}

/// One object of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The data set's number of the annotation, at least 1 and unique in the data set, as COCO's metrics need it.
    pub id: u64,
    /// Class, from 0 without gaps; [`Dataset::category_id`](crate::Dataset::category_id) leads back to the
    /// data set's own number.
    pub class: u32,
    /// The box, within the picture and with sides above 0.
    pub bounding_box: BoundingBox,
    /// The mask, where the data set has one.
    pub segmentation: Option<Segmentation>,
    /// Area that the data set states, or else that of the mask or box, px² of the *original* picture. Metrics
    /// sort objects into small, medium and large by it; transforms leave it as it is.
    pub area: f64,
    /// A group of objects under one mask (COCO's `iscrowd`): never trained on, ignored by metrics.
    pub is_crowd: bool,
    /// Hard to recognize (VOC's `difficult`): trained on, ignored by VOC's metrics.
    pub is_difficult: bool,
}

impl Object {
    /// Whether a detector is trained on it: it is no crowd.
    pub fn is_trained_on(&self) -> bool {
        !self.is_crowd
    }
}

impl ImageTargets {
    /// Targets of the picture mirrored left and right: `x` becomes `width - x`.
    #[must_use]
    pub fn flipped(self) -> ImageTargets {
        let width = self.width;
        self.map(|object| {
            let edge = width as f32;
            object.bounding_box = object.bounding_box.flipped(edge);
            object.segmentation = object.segmentation.take().map(|mask| mask.flipped(width));
            true
        })
    }

    /// Targets of the picture resized to `width` x `height` px, both at least 1.
    ///
    /// [`ResizeRule`] says how: with torchvision's rule boxes are scaled in f32 and masks are pixels, resampled
    /// by nearest neighbor; with detectron2's, boxes and polygons are scaled in f64.
    #[must_use]
    pub fn resized(self, (width, height): (u32, u32), rule: ResizeRule) -> ImageTargets {
        let from = (self.width, self.height);
        let mut resized = self.map(|object| {
            object.bounding_box = rule.scale_box(object.bounding_box, from, (width, height));
            let mask = object.segmentation.take();
            object.segmentation = mask.map(|mask| rule.resize_mask(mask, from, (width, height)));
            true
        });
        (resized.width, resized.height) = (width, height);
        resized
    }

    /// Targets of a part of the picture, which must lie within it. Boxes and masks are cut at its edges; objects
    /// of which nothing is left are dropped.
    #[must_use]
    pub fn cropped(self, part: CropBox) -> ImageTargets {
        let size = (self.width, self.height);
        let mut cropped = self.map(|object| {
            let moved = object.bounding_box.moved(-(part.left as f32), -(part.top as f32));
            object.bounding_box = moved.clipped(part.width as f32, part.height as f32);
            let mask = object.segmentation.take();
            let had_mask = mask.is_some();
            object.segmentation = mask.and_then(|mask| mask.cropped(size, part));
            !object.bounding_box.is_empty() && object.segmentation.is_some() == had_mask
        });
        (cropped.width, cropped.height) = (part.width, part.height);
        cropped
    }

    /// Boxes become those of the masks, as after a crop that leaves less of an object than of its box. Objects
    /// without a mask keep their box; those whose mask has no pixel are dropped.
    #[must_use]
    pub fn with_boxes_of_masks(self) -> ImageTargets {
        let (width, height) = (self.width, self.height);
        self.map(|object| {
            let Some(mask) = &object.segmentation else {
                return true;
            };
            let found = mask.to_rle(width, height).bounding_box();
            found.is_some_and(|found| {
                object.bounding_box = found;
                true
            })
        })
    }

    /// Changes every object, and drops those for which `change` returns false.
    fn map(mut self, mut change: impl FnMut(&mut Object) -> bool) -> ImageTargets {
        self.objects.retain_mut(|object| change(object));
        self
    }
}
