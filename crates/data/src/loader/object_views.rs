//! A picture and its objects in, one view of its own size with its targets out; and such views of many pictures
//! joined to padded micro-batches.

use serde::{Deserialize, Serialize};

use super::Views;
use crate::decode::{DecodeLimits, RGB_BYTES, RgbImage};
use crate::error::DecodeError;
use crate::randomness::{Purpose, below, generator, happens};
use crate::targets::{ImageTargets, ResizeRule};
use crate::transforms::geometry::{self, CropBox, Resampler, pixels};
use crate::transforms::{Filter, bilinear};

/// Longest side of a view, px; a larger value in a config is a typing error.
const LONGEST_PX: u32 = 16_384;

/// How pictures with objects become views: one per picture, resized as a whole, perhaps mirrored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectViews {
    /// Lengths of the shorter side, px; one is drawn for each picture and epoch. One value in evaluations.
    pub shorter_px: Vec<u32>,
    /// No side gets longer than this, px, and the shorter one stays below its length instead.
    pub longest_px: u32,
    /// Whose rule the resize follows.
    pub rule: ResizeRule,
    /// Probability that a picture is mirrored left and right; 0 in evaluations.
    pub flip_probability: f64,
    /// Whether targets have masks, which take time to resize; boxes alone need none.
    pub masks: bool,
    /// Sides of a micro-batch are rounded up to a multiple of this, px; 32 where a network halves its maps five
    /// times.
    pub multiple_px: u32,
    /// Micro-batches hold pictures that are all wider than high or none, so that less is padded. Not for
    /// evaluations.
    pub by_aspect: bool,
}

impl ObjectViews {
    /// Checks every number. `key`: the config's key of a field.
    ///
    /// # Errors
    /// A sentence that names the key: `` `detection.views.flip_probability` must be …, got … ``.
    pub fn validate(&self, key: impl Fn(&'static str) -> String) -> Result<(), String> {
        if self.shorter_px.is_empty() {
            return Err(format!(
                "`{}` must list at least one length, got none",
                key("shorter_px")
            ));
        }
        let lengths = self.shorter_px.iter().map(|length| ("shorter_px", *length));
        for (field, length) in
            lengths.chain([("longest_px", self.longest_px), ("multiple_px", self.multiple_px)])
        {
            if !(1..=LONGEST_PX).contains(&length) {
                return Err(format!(
                    "`{}` must be in 1..{LONGEST_PX}, got {length}",
                    key(field)
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.flip_probability) {
            return Err(format!(
                "`{}` must be in 0..1, got {}",
                key("flip_probability"),
                self.flip_probability
            ));
        }
        Ok(())
    }

    /// Bytes that making a view takes at most, beside the picture of this size.
    ///
    /// # Errors
    /// [`DecodeError::ResizedTooLarge`] where the view would have more pixels than a picture may have.
    pub(super) fn room_bytes(&self, width: u32, height: u32) -> Result<u64, DecodeError> {
        let mut most = 0;
        for shorter in &self.shorter_px {
            let (across, down) = self.rule.size((width, height), *shorter, self.longest_px);
            let limit = DecodeLimits::DEFAULT.pixels;
            if pixels(across, down) > limit {
                return Err(DecodeError::ResizedTooLarge {
                    transform: "shorter_px",
                    width: across,
                    height: down,
                    limit,
                });
            }
            // The rows are resized first; then the view, as a picture and as planes.
            most = most.max(pixels(across, height) + 2 * pixels(across, down));
        }
        Ok(most * RGB_BYTES)
    }
}

/// The targets of one picture of a batch, and what leads back to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewTargets {
    /// Objects in the view. Its sides are the true ones: they fill the upper left of the padded view, and the rest
    /// is padding.
    pub targets: ImageTargets,
    /// Width of the picture before the resize, px.
    pub original_width: u32,
    /// Height of the picture before the resize, px.
    pub original_height: u32,
    /// Whether the view is mirrored.
    pub is_flipped: bool,
}

/// One picture's view, before it is padded.
#[derive(Debug)]
pub(super) struct ObjectView {
    /// Planes of red, green and blue, of the targets' sides.
    planes: Vec<u8>,
    pub(super) targets: ViewTargets,
}

impl ObjectView {
    /// Draws the size and the flip by (seed, epoch, position), and makes the view.
    ///
    /// torchvision mirrors before it resizes, detectron2 after; nearest neighbor is not symmetric, so masks of
    /// pixels differ.
    pub(super) fn draw(
        picture: &RgbImage,
        mut targets: ImageTargets,
        views: &ObjectViews,
        (seed, epoch, position): (u64, u64, u64),
        resampler: &mut Resampler,
    ) -> ObjectView {
        let mut draws = generator(seed, Purpose::View, epoch, position, 0);
        let drawn = below(&mut draws, views.shorter_px.len() as u64) as usize;
        let is_flipped = happens(&mut draws, views.flip_probability);
        let original = (picture.width, picture.height);
        let size = views
            .rule
            .size(original, views.shorter_px[drawn], views.longest_px);

        let mut resized = RgbImage::default();
        match views.rule {
            ResizeRule::Torchvision => bilinear::resize(picture, size, &mut resized),
            ResizeRule::Detectron2 => resampler.crop_and_resize(
                picture,
                CropBox::whole(picture),
                size.0,
                size.1,
                Filter::Bilinear,
                &mut resized,
            ),
        }
        let mut planes = vec![0; resized.pixels.len()];
        geometry::to_planes(&resized.pixels, &mut planes);
        if is_flipped {
            geometry::flip_horizontally(&mut planes, size.0 as usize);
        }
        if !views.masks {
            for object in &mut targets.objects {
                object.segmentation = None;
            }
        }
        let targets = match (is_flipped, views.rule) {
            (false, rule) => targets.resized(size, rule),
            (true, rule @ ResizeRule::Torchvision) => targets.flipped().resized(size, rule),
            (true, rule @ ResizeRule::Detectron2) => targets.resized(size, rule).flipped(),
        };
        ObjectView {
            planes,
            targets: ViewTargets {
                targets,
                original_width: original.0,
                original_height: original.1,
                is_flipped,
            },
        }
    }
}

/// The views of a micro-batch in one array, each in the upper left of a black one of the largest sides, rounded up
/// to a multiple. At least one view.
pub(super) fn padded(views: &[ObjectView], multiple_px: u32) -> Views {
    let largest = |side: fn(&ImageTargets) -> u32| {
        let sides = views.iter().map(|view| side(&view.targets.targets));
        sides.max().unwrap_or(1).next_multiple_of(multiple_px) as usize
    };
    let (width, height) = (largest(|view| view.width), largest(|view| view.height));
    let mut pixels = vec![0; views.len() * 3 * height * width];
    for (view, place) in views.iter().zip(pixels.chunks_exact_mut(3 * height * width)) {
        let (own_width, own_height) = (
            view.targets.targets.width as usize,
            view.targets.targets.height as usize,
        );
        for (plane, place) in view
            .planes
            .chunks_exact(own_width * own_height)
            .zip(place.chunks_exact_mut(width * height))
        {
            for (row, place) in plane.chunks_exact(own_width).zip(place.chunks_exact_mut(width)) {
                place[..own_width].copy_from_slice(row);
            }
        }
    }
    Views {
        pixels,
        count: 1,
        images: views.len(),
        channels: 3,
        height,
        width,
    }
}
