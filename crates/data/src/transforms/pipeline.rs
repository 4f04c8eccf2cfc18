//! Drawing one view: the transforms of a group, in order, with numbers drawn from the view's own generator.
//!
//! Geometry works on interleaved pixels, as they come from the decoder; everything else on planes, as a batch wants them.
//! So the picture is turned into planes once, behind its last geometric transform, and finished in its place in the batch.

use rand_chacha::ChaCha8Rng;

use super::geometry::{self, CropBox, Resampler};
use super::{Transform, ViewGroup, blur::Blur, color};
use crate::decode::RgbImage;
use crate::randomness::{happens, shuffle, uniform};

/// Draws views, with memory that is used again from view to view. One for each thread.
#[derive(Debug, Default)]
pub(crate) struct ViewMaker {
    resampler: Resampler,
    blur: Blur,
    current: RgbImage,
    next: RgbImage,
    planes: Vec<u8>,
}

impl ViewMaker {
    /// Draws one view of an image into `out`, planes `[3, height, width]` of the size that the group gives.
    ///
    /// The group must have passed [`ViewGroup::validate`].
    pub(crate) fn make(
        &mut self,
        image: &RgbImage,
        group: &ViewGroup,
        generator: &mut ChaCha8Rng,
        out: &mut [u8],
    ) {
        let geometric = group
            .transforms
            .iter()
            .rposition(is_geometric)
            .map_or(0, |last| last + 1);
        let (before, after) = group.transforms.split_at(geometric);
        let mut is_source = true;
        for transform in before {
            let picture = if is_source { image } else { &self.current };
            if is_geometric(transform) {
                reshape(transform, picture, &mut self.resampler, generator, &mut self.next);
                std::mem::swap(&mut self.current, &mut self.next);
            } else {
                // Rare: recipes crop first. The picture goes to planes and back.
                self.planes.resize(picture.pixels.len(), 0);
                geometry::to_planes(&picture.pixels, &mut self.planes);
                let width = picture.width as usize;
                if is_source {
                    self.current = image.clone();
                }
                repaint(transform, &mut self.planes, width, &mut self.blur, generator);
                geometry::from_planes(&self.planes, &mut self.current.pixels);
            }
            is_source = false;
        }
        let picture = if is_source { image } else { &self.current };
        assert_eq!(
            picture.pixels.len(),
            out.len(),
            "a view has the size that its group announces"
        );
        geometry::to_planes(&picture.pixels, out);
        let width = picture.width as usize;
        for transform in after {
            repaint(transform, out, width, &mut self.blur, generator);
        }
    }
}

fn is_geometric(transform: &Transform) -> bool {
    matches!(
        transform,
        Transform::RandomResizedCrop { .. }
            | Transform::Resize { .. }
            | Transform::ResizeExact { .. }
            | Transform::CenterCrop { .. }
    )
}

fn reshape(
    transform: &Transform,
    picture: &RgbImage,
    resampler: &mut Resampler,
    generator: &mut ChaCha8Rng,
    out: &mut RgbImage,
) {
    let whole = CropBox::whole(picture);
    match *transform {
        Transform::RandomResizedCrop {
            size_px,
            scale,
            ratio,
            filter,
        } => {
            let part = geometry::random_crop_box(picture.width, picture.height, scale, ratio, generator);
            resampler.crop_and_resize(picture, part, size_px, size_px, filter, out);
        }
        Transform::Resize { shorter_px, filter } => {
            let (width, height) = geometry::shorter_side_size(picture.width, picture.height, shorter_px);
            resampler.crop_and_resize(picture, whole, width, height, filter, out);
        }
        Transform::ResizeExact {
            width_px,
            height_px,
            filter,
        } => {
            resampler.crop_and_resize(picture, whole, width_px, height_px, filter, out);
        }
        Transform::CenterCrop { size_px } => geometry::center_crop(picture, size_px, size_px, out),
        _ => unreachable!("only geometric transforms reshape"),
    }
}

fn repaint(
    transform: &Transform,
    planes: &mut [u8],
    width: usize,
    blur: &mut Blur,
    generator: &mut ChaCha8Rng,
) {
    match *transform {
        Transform::HorizontalFlip { probability } => {
            if happens(generator, probability) {
                geometry::flip_horizontally(planes, width);
            }
        }
        Transform::ColorJitter {
            probability,
            brightness,
            contrast,
            saturation,
            hue,
        } => {
            if happens(generator, probability) {
                for step in jitter_steps([brightness, contrast, saturation, hue], generator) {
                    step.apply(planes);
                }
            }
        }
        Transform::Grayscale { probability } => {
            if happens(generator, probability) {
                color::to_grayscale(planes);
            }
        }
        Transform::GaussianBlur { probability, sigma } => {
            if happens(generator, probability) {
                blur.gaussian(planes, width, uniform(generator, sigma[0], sigma[1]));
            }
        }
        Transform::Solarize {
            probability,
            threshold,
        } => {
            if happens(generator, probability) {
                color::solarize(planes, threshold);
            }
        }
        _ => unreachable!("geometric transforms do not repaint"),
    }
}

/// One of the four changes of a colour jitter, with its drawn amount.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum JitterStep {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

impl JitterStep {
    fn apply(self, planes: &mut [u8]) {
        match self {
            JitterStep::Brightness(factor) => color::adjust_brightness(planes, factor),
            JitterStep::Contrast(factor) => color::adjust_contrast(planes, factor),
            JitterStep::Saturation(factor) => color::adjust_saturation(planes, factor),
            JitterStep::Hue(turn) => color::adjust_hue(planes, turn),
        }
    }
}

/// Amounts and order of a colour jitter with strengths for brightness, contrast, saturation and hue; strength 0 leaves a
/// change out, as in torchvision.
pub(super) fn jitter_steps(
    [brightness, contrast, saturation, hue]: [f64; 4],
    generator: &mut ChaCha8Rng,
) -> impl Iterator<Item = JitterStep> {
    let mut factor = |strength: f64| {
        (strength > 0.0).then(|| uniform(generator, (1.0 - strength).max(0.0), 1.0 + strength))
    };
    let mut steps = [
        factor(brightness).map(JitterStep::Brightness),
        factor(contrast).map(JitterStep::Contrast),
        factor(saturation).map(JitterStep::Saturation),
        (hue > 0.0).then(|| JitterStep::Hue(uniform(generator, -hue, hue))),
    ];
    shuffle(&mut steps, generator);
    steps.into_iter().flatten()
}
