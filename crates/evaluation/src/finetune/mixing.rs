//! mixup and CutMix as in timm, and the cross-entropy with their soft targets.
//!
//! Zhang, Cisse, Dauphin, Lopez-Paz, *mixup*, 2018; Yun et al., *CutMix*, 2019; timm's `Mixup` in its mode
//! `batch`: one draw per group; image `i` of `n` is mixed with image `n - 1 - i`, counted within the group.

use backbones::draws::{below_32, uniform};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;
use rand_distr::{Beta, Distribution};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[objective.mixing]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Parameter of Beta(alpha, alpha), mixup's distribution of lambda; 0: no mixup. BEiT, MAE, DeiT: 0.8.
    pub mixup_alpha: f64,
    /// The same for CutMix. BEiT, MAE, DeiT: 1.
    pub cutmix_alpha: f64,
    /// Probability that a group of images is mixed at all. 1 in all references.
    pub probability: f64,
    /// Probability of CutMix if both are on. timm: 0.5.
    pub switch_probability: f64,
    /// Images that share one draw and are mixed among each other: the reference's batch on one GPU. Must
    /// divide the batch and the micro-batch, and divide a rank's images or be a multiple of them; absent: the whole batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
}

impl Config {
    /// Gives an error for invalid parameters of the draws, and for groups that do not divide the batch.
    pub(super) fn validate(
        &self,
        batch_images: usize,
        micro_batch_images: Option<usize>,
    ) -> Result<(), String> {
        for (key, alpha) in [
            ("mixup_alpha", self.mixup_alpha),
            ("cutmix_alpha", self.cutmix_alpha),
        ] {
            if !(alpha.is_finite() && alpha >= 0.0) {
                return Err(format!(
                    "`objective.mixing.{key}` must be at least 0, got {alpha}"
                ));
            }
        }
        if self.mixup_alpha == 0.0 && self.cutmix_alpha == 0.0 {
            return Err("`objective.mixing` needs `mixup_alpha` or `cutmix_alpha` above 0; leave the table out for neither".into());
        }
        for (key, share) in [
            ("probability", self.probability),
            ("switch_probability", self.switch_probability),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`objective.mixing.{key}` must be in 0..1, got {share}"));
            }
        }
        if let Some(images) = self.images {
            let together = micro_batch_images.unwrap_or(batch_images);
            if images < 2 || !together.is_multiple_of(images) {
                return Err(format!(
                    "`objective.mixing.images` must be at least 2 and divide the {together} images that go through the network together, got {images}"
                ));
            }
        }
        Ok(())
    }

    /// Gives an error for groups that do not fit to the `images` that each of several ranks sends through the network.
    pub(super) fn check_ranks(&self, images: usize) -> Result<(), String> {
        match self.images {
            Some(group) if !images.is_multiple_of(group) && !group.is_multiple_of(images) => Err(format!(
                "`objective.mixing.images` must divide the {images} images of a rank, or be a multiple of them, got {group}"
            )),
            _ => Ok(()),
        }
    }

    /// The mix of one group of images of this size; `None` leaves the group unchanged.
    pub(super) fn draw(&self, [height, width]: [usize; 2], rng: &mut impl Rng) -> Option<Mix> {
        if uniform(rng) >= self.probability {
            return None;
        }
        let cut = match (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0) {
            (true, true) => uniform(rng) < self.switch_probability,
            (mixup, _) => !mixup,
        };
        let alpha = if cut { self.cutmix_alpha } else { self.mixup_alpha };
        let lambda = Beta::new(alpha, alpha).ok()?.sample(rng);
        if !cut {
            return Some(Mix { lambda, cut: None });
        }
        let middle = [below_32(rng, height), below_32(rng, width)];
        let patch = Cut::around(lambda, [height, width], middle);
        Some(Mix {
            lambda: patch.share_left([height, width]),
            cut: Some(patch),
        })
    }
}

/// A rectangle copied from the other image: rows `top..bottom`, columns `left..right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) top: usize,
    pub(super) bottom: usize,
    pub(super) left: usize,
    pub(super) right: usize,
}

impl Cut {
    /// A rectangle around a pixel with the image's aspect ratio and a share 1 - `lambda` of its area, clipped
    /// to the image.
    pub(super) fn around(lambda: f64, [height, width]: [usize; 2], [y, x]: [usize; 2]) -> Self {
        let ratio = (1.0 - lambda).sqrt();
        let side = |length: usize| (length as f64 * ratio) as usize;
        let ends = |length: usize, middle: usize| {
            let side = side(length);
            (
                middle.saturating_sub(side / 2),
                (middle + side.div_ceil(2)).min(length),
            )
        };
        let ((top, bottom), (left, right)) = (ends(height, y), ends(width, x));
        Self {
            top,
            bottom,
            left,
            right,
        }
    }

    /// The share of the image's own pixels after the cut.
    pub(super) fn share_left(&self, [height, width]: [usize; 2]) -> f64 {
        let area = (self.bottom - self.top) * (self.right - self.left);
        1.0 - area as f64 / (height * width) as f64
    }
}

/// How a group is mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mix {
    /// Weight of an image's own class in its target.
    pub(super) lambda: f64,
    /// CutMix's rectangle; `None`: mixup.
    pub(super) cut: Option<Cut>,
}

impl Mix {
    /// Each image mixed with the other one of its place: image `n - 1 - i` of its group.
    ///
    /// # Shapes
    /// - `images`, `others` and output: `[images, 3, height, width]`
    pub(super) fn images(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<4> {
        let Some(cut) = self.cut else {
            return images * self.lambda + others * (1.0 - self.lambda);
        };
        if cut.top == cut.bottom || cut.left == cut.right {
            return images;
        }
        let [count, channels, _, _] = images.dims();
        let part = [0..count, 0..channels, cut.top..cut.bottom, cut.left..cut.right];
        images.slice_assign(part.clone(), others.slice(part))
    }
}

/// Targets of a group, `[images, classes]` flattened: `1 - smoothing + smoothing / classes` for the class and
/// `smoothing / classes` for the others, mixed like the images. `of` holds the class of each image, `others` that of the one
/// that it is mixed with.
pub(super) fn targets(
    of: &[u32],
    others: &[u32],
    classes: usize,
    smoothing: f64,
    mix: Option<&Mix>,
) -> Vec<f32> {
    let off = smoothing / classes as f64;
    let on = 1.0 - smoothing + off;
    let lambda = mix.map_or(1.0, |mix| mix.lambda);
    let mut targets = Vec::with_capacity(of.len() * classes);
    for (own, other) in of.iter().zip(others) {
        let value = |class: u32, of: u32| if class == of { on } else { off };
        targets.extend(
            (0..classes as u32)
                .map(|class| (value(class, *own) * lambda + value(class, *other) * (1.0 - lambda)) as f32),
        );
    }
    targets
}

/// The targets on a device.
pub(super) fn target_tensor(targets: Vec<f32>, classes: usize, device: &Device) -> Tensor<2> {
    let rows = targets.len() / classes;
    Tensor::from_data(TensorData::new(targets, [rows, classes]), device)
}

/// The mean over images of `-Σ target · log softmax(logits)`, `[1]`: timm's `SoftTargetCrossEntropy`. With
/// targets that are only smoothed it equals timm's `LabelSmoothingCrossEntropy`.
///
/// # Shapes
/// - `logits`, `targets`: `[images, classes]`
pub(super) fn soft_target_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (log_softmax(logits, 1) * targets)
        .sum_dim(1)
        .mean_dim(0)
        .neg()
        .reshape([1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use backbones::Draws;

    const BOTH: Config = Config {
        mixup_alpha: 0.8,
        cutmix_alpha: 1.0,
        probability: 1.0,
        switch_probability: 0.5,
        images: None,
    };

    #[test]
    fn images_and_targets_are_mixed_with_the_mirrored_place() {
        let images = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0], &Device::flex()).reshape([2, 1, 1, 2]);
        let values = |mix: Mix| {
            mix.images(images.clone(), images.clone().flip([0]))
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()
        };
        let mixup = Mix {
            lambda: 0.75,
            cut: None,
        };
        assert_eq!(values(mixup), [0.5, 1.5, 1.5, 2.5]);
        let cut = Cut {
            top: 0,
            bottom: 1,
            left: 1,
            right: 2,
        };
        let cutmix = Mix {
            lambda: cut.share_left([1, 2]),
            cut: Some(cut),
        };
        assert_eq!(values(cutmix), [0.0, 3.0, 2.0, 1.0]);
        assert_eq!(cutmix.lambda, 0.5);
        // Smoothing 0.3 over 3 classes: 0.8 and 0.1; classes 2 and 0 weigh three quarters and one quarter.
        let soft = targets(&[2, 0], &[0, 2], 3, 0.3, Some(&mixup));
        let expected = [0.275, 0.1, 0.625, 0.625, 0.1, 0.275];
        assert!(
            soft.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{soft:?}"
        );
        assert_eq!(targets(&[1], &[1], 2, 0.0, None), [0.0, 1.0]);
    }

    #[test]
    fn draws_are_those_of_the_config() {
        let draw = |config: &Config, index| config.draw([32, 32], &mut Draws::new(0, 0).rng("mix", index));
        let all: Vec<Mix> = (0..2000).filter_map(|index| draw(&BOTH, index)).collect();
        assert_eq!(all.len(), 2000);
        let cut = all.iter().filter(|mix| mix.cut.is_some()).count();
        assert!((900..1100).contains(&cut), "{cut}");
        assert!(all.iter().all(|mix| (0.0..=1.0).contains(&mix.lambda)));
        let half = Config {
            probability: 0.5,
            cutmix_alpha: 0.0,
            ..BOTH
        };
        let some: Vec<Mix> = (0..2000).filter_map(|index| draw(&half, index)).collect();
        assert!((900..1100).contains(&some.len()) && some.iter().all(|mix| mix.cut.is_none()));
        // Beta(0.8, 0.8): mean 0.5, variance 1 / (4 · 2.6).
        let mean = some.iter().map(|mix| mix.lambda).sum::<f64>() / some.len() as f64;
        let square = some.iter().map(|mix| (mix.lambda - 0.5).powi(2)).sum::<f64>() / some.len() as f64;
        assert!(
            (mean - 0.5).abs() < 0.04 && (square - 1.0 / 10.4).abs() < 0.01,
            "{mean} {square}"
        );
    }

    #[test]
    fn bad_numbers_are_named() {
        let refused = |config: Config| config.validate(8, Some(4)).unwrap_err();
        assert_eq!(BOTH.validate(8, None), Ok(()));
        let nothing = Config {
            mixup_alpha: 0.0,
            cutmix_alpha: 0.0,
            ..BOTH
        };
        assert!(refused(nothing).contains("above 0"));
        let often = Config {
            probability: 1.5,
            ..BOTH
        };
        assert!(refused(often).contains("objective.mixing.probability"));
        let groups = Config {
            images: Some(8),
            ..BOTH
        };
        assert!(refused(groups.clone()).contains("divide the 4 images"));
        assert_eq!(groups.validate(8, None), Ok(()));
        assert_eq!(groups.check_ranks(4), Ok(()));
        assert_eq!(groups.check_ranks(16), Ok(()));
        assert!(
            groups
                .check_ranks(12)
                .unwrap_err()
                .contains("the 12 images of a rank")
        );
    }
}
