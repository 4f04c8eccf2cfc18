//! timm's RandAugment: some of fifteen operations with a common magnitude (`rand-m9-mstd0.5-inc1`).
//!
//! Cubuk, Zoph, Shlens, Le, *RandAugment*, 2020. timm differs from the paper: each chosen operation is
//! applied with probability 0.5, its magnitude is drawn around the common one, and with `inc1` every
//! operation changes the picture more the larger the magnitude. The pixels are Pillow's.

use rand_chacha::ChaCha8Rng;

use super::affine::{self, Sampling};
use super::color;
use crate::randomness::{below, gaussian, happens, uniform};

/// An operation with its drawn amount.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    /// Each channel stretched to 0 to 255.
    AutoContrast,
    /// Equalizes each channel's histogram.
    Equalize,
    /// 255 minus the value.
    Invert,
    /// Degrees counter-clockwise.
    Rotate(f64, Sampling),
    /// Bits of each value that are kept.
    Posterize(u32),
    /// Values from here upwards are inverted; 256 inverts none.
    Solarize(u16),
    /// Added to values below 128.
    SolarizeAdd(u8),
    /// Saturation by a factor.
    Color(f64),
    /// Contrast by a factor.
    Contrast(f64),
    /// Brightness by a factor.
    Brightness(f64),
    /// Sharpness by a factor.
    Sharpness(f64),
    /// Columns of shift per row.
    ShearX(f64, Sampling),
    /// Rows of shift per column.
    ShearY(f64, Sampling),
    /// Share of the width.
    TranslateX(f64, Sampling),
    /// Share of the height.
    TranslateY(f64, Sampling),
}

/// The number of kinds.
const KINDS: u64 = 15;
/// The magnitude at which the ranges end.
pub(crate) const LARGEST_MAGNITUDE: f64 = 10.0;

/// Draws the operations for one picture, in order; fewer where the probability drops some.
pub(crate) fn draw(
    operations: usize,
    magnitude: f64,
    magnitude_std: f64,
    probability: f64,
    generator: &mut ChaCha8Rng,
) -> Vec<Operation> {
    let mut drawn = vec![];
    for _ in 0..operations {
        let kind = below(generator, KINDS);
        if !happens(generator, probability) {
            continue;
        }
        let level = (magnitude + magnitude_std * gaussian(generator)).clamp(0.0, LARGEST_MAGNITUDE);
        drawn.push(of_kind(kind, level / LARGEST_MAGNITUDE, generator));
    }
    drawn
}

/// An operation by its position in timm's `inc1` list, at a level of 0 to 1.
fn of_kind(kind: u64, level: f64, generator: &mut ChaCha8Rng) -> Operation {
    let mut sign = || if happens(generator, 0.5) { -1.0 } else { 1.0 };
    match kind {
        0 => Operation::AutoContrast,
        1 => Operation::Equalize,
        2 => Operation::Invert,
        4 => Operation::Posterize(4 - (level * 4.0) as u32),
        5 => Operation::Solarize(256 - (level * 256.0) as u16),
        6 => Operation::SolarizeAdd((level * 110.0) as u8),
        7..=10 => {
            let factor = (1.0 + sign() * level * 0.9).max(0.1);
            match kind {
                7 => Operation::Color(factor),
                8 => Operation::Contrast(factor),
                9 => Operation::Brightness(factor),
                _ => Operation::Sharpness(factor),
            }
        }
        _ => {
            let amount = sign() * level;
            let sampling = if happens(generator, 0.5) {
                Sampling::Bilinear
            } else {
                Sampling::Bicubic
            };
            match kind {
                3 => Operation::Rotate(amount * 30.0, sampling),
                11 => Operation::ShearX(amount * 0.3, sampling),
                12 => Operation::ShearY(amount * 0.3, sampling),
                13 => Operation::TranslateX(amount * 0.45, sampling),
                _ => Operation::TranslateY(amount * 0.45, sampling),
            }
        }
    }
}

impl Operation {
    /// Applies it to planes `[3, height, width]`. `fill` is the color outside the image, `copy` a reused
    /// buffer.
    pub(crate) fn apply(self, planes: &mut [u8], width: usize, fill: [u8; 3], copy: &mut Vec<u8>) {
        let height = planes.len() / 3 / width;
        let mut see = |map: affine::Affine, sampling| {
            affine::transform(planes, width, &map, sampling, fill, copy);
        };
        match self {
            Self::Rotate(degrees, sampling) => see(affine::rotation(degrees, width, height), sampling),
            Self::ShearX(factor, sampling) => see([1.0, factor, 0.0, 0.0, 1.0, 0.0], sampling),
            Self::ShearY(factor, sampling) => see([1.0, 0.0, 0.0, factor, 1.0, 0.0], sampling),
            Self::TranslateX(share, sampling) => {
                see([1.0, 0.0, share * width as f64, 0.0, 1.0, 0.0], sampling);
            }
            Self::TranslateY(share, sampling) => {
                see([1.0, 0.0, 0.0, 0.0, 1.0, share * height as f64], sampling);
            }
            Self::AutoContrast => by_histogram(planes, stretched),
            Self::Equalize => by_histogram(planes, equalized),
            Self::Invert => planes.iter_mut().for_each(|value| *value = 255 - *value),
            Self::Posterize(bits) => {
                let mask = if bits >= 8 { 255 } else { !(255u8 >> bits) };
                planes.iter_mut().for_each(|value| *value &= mask);
            }
            Self::Solarize(threshold) => planes
                .iter_mut()
                .filter(|value| u16::from(**value) >= threshold)
                .for_each(|value| *value = 255 - *value),
            Self::SolarizeAdd(added) => planes
                .iter_mut()
                .filter(|value| **value < 128)
                .for_each(|value| *value = value.saturating_add(added)),
            Self::Color(factor) => color::adjust_saturation(planes, factor),
            Self::Contrast(factor) => color::adjust_contrast(planes, factor),
            Self::Brightness(factor) => color::adjust_brightness(planes, factor),
            Self::Sharpness(factor) => sharpen(planes, width, factor, copy),
        }
    }
}

/// Maps each channel through a table made from its histogram.
fn by_histogram(planes: &mut [u8], table: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) {
    let pixels = planes.len() / 3;
    for plane in planes.chunks_exact_mut(pixels.max(1)) {
        let mut counts = [0u32; 256];
        plane.iter().for_each(|value| counts[usize::from(*value)] += 1);
        if let Some(table) = table(&counts) {
            plane
                .iter_mut()
                .for_each(|value| *value = table[usize::from(*value)]);
        }
    }
}

/// `ImageOps.autocontrast`.
fn stretched(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let low = counts.iter().position(|count| *count > 0)?;
    let high = counts.iter().rposition(|count| *count > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    Some(std::array::from_fn(|value| (value as f64 * scale + offset) as u8))
}

/// `ImageOps.equalize`.
fn equalized(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let used = counts.iter().filter(|count| **count > 0);
    if used.clone().count() <= 1 {
        return None;
    }
    let last = used.clone().next_back()?;
    let step = (used.sum::<u32>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut sum = step / 2;
    Some(std::array::from_fn(|value| {
        let level = sum / step;
        sum += counts[value];
        level.min(255) as u8
    }))
}

/// `ImageEnhance.Sharpness`: away from (or towards) the picture under `ImageFilter.SMOOTH`, which leaves the
/// border unchanged.
fn sharpen(planes: &mut [u8], width: usize, factor: f64, copy: &mut Vec<u8>) {
    copy.clear();
    copy.extend_from_slice(planes);
    let pixels = planes.len() / 3;
    let height = pixels / width;
    for (plane, before) in planes.chunks_exact_mut(pixels).zip(copy.chunks_exact(pixels)) {
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                let rows = [at - width, at, at + width];
                let sum: u32 = rows
                    .iter()
                    .flat_map(|row| &before[row - 1..=row + 1])
                    .map(|value| u32::from(*value))
                    .sum();
                let smooth = (2 * (sum + 4 * u32::from(before[at])) + 13) / 26;
                plane[at] = color::blend(smooth as u8, before[at], factor as f32);
            }
        }
    }
}

/// A rectangle of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Attempts to find a patch that fits, as in timm.
const PATCH_TRIES: usize = 10;

/// Draws the rectangle that random erasing covers; `None` where ten draws did not fit.
///
/// `area` is the smallest and largest share of the picture, `aspect` height by width, whose logarithm is
/// drawn uniformly.
pub(crate) fn draw_patch(
    [width, height]: [usize; 2],
    area: [f64; 2],
    aspect: [f64; 2],
    generator: &mut ChaCha8Rng,
) -> Option<Patch> {
    for _ in 0..PATCH_TRIES {
        let target = uniform(generator, area[0], area[1]) * (width * height) as f64;
        let ratio = uniform(generator, aspect[0].ln(), aspect[1].ln()).exp();
        let patch_height = (target * ratio).sqrt().round_ties_even() as usize;
        let patch_width = (target / ratio).sqrt().round_ties_even() as usize;
        if patch_width < width && patch_height < height {
            return Some(Patch {
                top: below(generator, (height - patch_height) as u64 + 1) as usize,
                left: below(generator, (width - patch_width) as u64 + 1) as usize,
                width: patch_width,
                height: patch_height,
            });
        }
    }
    None
}

/// Sets each value of a patch; `value` gets the channel.
pub(crate) fn cover(planes: &mut [u8], width: usize, patch: Patch, mut value: impl FnMut(usize) -> u8) {
    let pixels = planes.len() / 3;
    for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
        for row in plane.chunks_exact_mut(width).skip(patch.top).take(patch.height) {
            row[patch.left..patch.left + patch.width]
                .iter_mut()
                .for_each(|place| *place = value(channel));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_by_hand() {
        let mut counts = [0; 256];
        (counts[100], counts[150]) = (10, 10);
        let table = stretched(&counts).unwrap();
        assert_eq!((table[100], table[125], table[150], table[90]), (0, 127, 255, 0));
        counts[150] = 0;
        assert_eq!(stretched(&counts), None, "one value cannot be stretched");
        assert_eq!(equalized(&counts), None);
    }

    #[test]
    fn a_magnitude_of_nothing_changes_nothing_but_what_has_no_magnitude() {
        use crate::randomness::{Purpose, generator};
        let picture: Vec<u8> = (0..3 * 8 * 6).map(|i| (i * 37 % 251) as u8).collect();
        for kind in 3..KINDS {
            let mut source = generator(0, Purpose::View, 0, kind, 0);
            let mut planes = picture.clone();
            of_kind(kind, 0.0, &mut source).apply(&mut planes, 8, [0; 3], &mut vec![]);
            // Posterize keeps four bits at the least magnitude.
            let same = kind != 4;
            assert_eq!(planes == picture, same, "{kind}");
        }
    }
}
