//! Drawing one view: the transforms of a group, in order, with numbers drawn from the view's own generator.
//!
//! Geometry works on interleaved pixels, as the decoder returns them; all else on planes, the layout of a
//! batch. So the picture is converted to planes once, after its last geometric transform, and finished in its
//! place in the batch.

use rand_chacha::ChaCha8Rng;

use super::geometry::{self, CropBox, Resampler};
use super::room::room_bytes;
use super::{ErasingFill, Transform, ViewGroup, blur::Blur, color, rand_augment};
use crate::decode::RgbImage;
use crate::error::DecodeError;
use crate::randomness::{gaussian, happens, shuffle, uniform};

/// Draws views, with memory that is reused between views. One per thread.
#[derive(Debug, Default)]
pub(crate) struct ViewMaker {
    resampler: Resampler,
    blur: Blur,
    current: RgbImage,
    next: RgbImage,
    /// A resized picture before its center is cut out.
    spare: RgbImage,
    planes: Vec<u8>,
    copy: Vec<u8>,
}

impl ViewMaker {
    /// Draws one view of an image into `out`, planes `[3, height, width]` of the group's size.
    ///
    /// The group must have passed [`ViewGroup::validate`].
    ///
    /// # Errors
    /// [`DecodeError::ResizedTooLarge`], before the memory is allocated.
    pub(crate) fn make(
        &mut self,
        image: &RgbImage,
        group: &ViewGroup,
        generator: &mut ChaCha8Rng,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        room_bytes(group, image.width, image.height)?;
        let geometric = group
            .transforms
            .iter()
            .rposition(is_geometric)
            .map_or(0, |last| last + 1);
        let (before, after) = group.transforms.split_at(geometric);
        let mut is_source = true;
        let mut steps = before.iter().peekable();
        while let Some(transform) = steps.next() {
            let picture = if is_source { image } else { &self.current };
            if let Transform::Resize { shorter_px, filter } = *transform
                && let Some(Transform::CenterCrop { size_px }) = steps.peek()
            {
                let resize = (shorter_px, filter);
                let (spare, out) = (&mut self.spare, &mut self.next);
                self.resampler
                    .resize_and_center_crop(picture, resize, *size_px, spare, out);
                std::mem::swap(&mut self.current, &mut self.next);
                steps.next();
            } else if is_geometric(transform) {
                reshape(transform, picture, &mut self.resampler, generator, &mut self.next);
                std::mem::swap(&mut self.current, &mut self.next);
            } else {
                // Rare: recipes crop first. The picture is converted to planes and back.
                self.planes.resize(picture.pixels.len(), 0);
                geometry::to_planes(&picture.pixels, &mut self.planes);
                let width = picture.width as usize;
                if is_source {
                    self.current = image.clone();
                }
                let Self {
                    planes, blur, copy, ..
                } = self;
                repaint(transform, planes, width, blur, copy, generator);
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
            repaint(transform, out, width, &mut self.blur, &mut self.copy, generator);
        }
        Ok(())
    }

    /// Bytes of memory that it keeps for the next view.
    pub(crate) fn kept_bytes(&self) -> usize {
        let pictures = [&self.current, &self.next, &self.spare].map(|picture| picture.pixels.capacity());
        pictures.iter().sum::<usize>()
            + self.planes.capacity()
            + self.copy.capacity()
            + self.resampler.kept_bytes()
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
    copy: &mut Vec<u8>,
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
        Transform::RandAugment {
            operations,
            probability,
            magnitude,
            magnitude_std,
            fill,
        } => {
            let drawn = rand_augment::draw(operations, magnitude, magnitude_std, probability, generator);
            for operation in drawn {
                operation.apply(planes, width, fill, copy);
            }
        }
        Transform::RandomErasing {
            probability,
            area,
            aspect,
            patches,
            ref fill,
        } => {
            if happens(generator, probability) {
                let of_one = area.map(|area| area / patches as f64);
                for _ in 0..patches {
                    erase(planes, width, of_one, aspect, fill, generator);
                }
            }
        }
        _ => unreachable!("geometric transforms do not repaint"),
    }
}

/// Covers one patch.
fn erase(
    planes: &mut [u8],
    width: usize,
    area: [f64; 2],
    aspect: [f64; 2],
    fill: &ErasingFill,
    generator: &mut ChaCha8Rng,
) {
    let sides = [width, planes.len() / 3 / width];
    let Some(patch) = rand_augment::draw_patch(sides, area, aspect, generator) else {
        return;
    };
    // `as` clips to 0 and 255.
    let value = |mean: f64, std: f64, generator: &mut ChaCha8Rng| {
        ((mean + std * gaussian(generator)) * 255.0).round() as u8
    };
    match fill {
        ErasingFill::Noise { mean, std } => rand_augment::cover(planes, width, patch, |channel| {
            value(mean[channel], std[channel], generator)
        }),
        ErasingFill::Color { mean, std } => {
            let color: [u8; 3] = std::array::from_fn(|channel| value(mean[channel], std[channel], generator));
            rand_augment::cover(planes, width, patch, |channel| color[channel]);
        }
        ErasingFill::Constant(color) => rand_augment::cover(planes, width, patch, |channel| color[channel]),
    }
}

/// One of the four changes of a color jitter, with its drawn amount.
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

/// Amounts and order of a color jitter with strengths for brightness, contrast, saturation and hue; strength
/// 0 skips a change, as in torchvision.
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
