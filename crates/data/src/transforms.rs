//! The augmentations of a view group: their TOML form, their checks, and drawing one view of an image.
//!
//! Every transform has the meaning of torchvision's transform of the same name, computed as Pillow computes
//! it, because the published recipes were tuned on those pictures. The submodules do the arithmetic; this
//! file holds the config.

mod affine;
pub(crate) mod bilinear;
mod blur;
mod color;
pub(crate) mod geometry;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod parity_timm;
mod pipeline;
mod rand_augment;
mod room;
mod simd;
mod window;

pub use geometry::CropBox;
pub(crate) use pipeline::ViewMaker;
pub(crate) use room::room_bytes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of views that are all drawn with the same recipe (`[[views]]` in a config).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewGroup {
    /// Views of each image, at least 1. MoCo: 2. DINO: 2 in the first group and 8 or 10 in the second.
    pub count: usize,
    /// Transforms of the decoded image, in this order.
    pub transforms: Vec<Transform>,
}

/// Interpolation of a resize, always with antialiasing, as Pillow's.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle filter; torchvision's default.
    Bilinear,
    /// Cubic filter with a = -0.5, Pillow's; DINO and most evaluation of vision transformers.
    Bicubic,
}

/// One step of an augmentation recipe. Probabilities are in 0 to 1; `1.0` means always.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// A random part of the image, resized to a square.
    RandomResizedCrop {
        /// Side of the result, px.
        size_px: u32,
        /// Smallest and largest share of the image's area, within 0 to 1. MoCo: 0.2 to 1.
        scale: [f64; 2],
        /// Smallest and largest width divided by height; its logarithm is drawn uniformly. Everywhere 3/4 to
        /// 4/3.
        ratio: [f64; 2],
        /// Interpolation.
        filter: Filter,
    },
    /// Resizes the shorter side to a length, and the other in proportion (torchvision's `Resize(int)`).
    Resize {
        /// Length of the shorter side, px.
        shorter_px: u32,
        /// Interpolation.
        filter: Filter,
    },
    /// Resizes both sides to a length, regardless of the proportions.
    ResizeExact {
        /// Width of the result, px.
        width_px: u32,
        /// Height of the result, px.
        height_px: u32,
        /// Interpolation.
        filter: Filter,
    },
    /// The center of the image; black is added where the image is smaller.
    CenterCrop {
        /// Side of the result, px.
        size_px: u32,
    },
    /// Mirrors left and right.
    HorizontalFlip {
        /// Probability.
        probability: f64,
    },
    /// Changes brightness, contrast, saturation and hue by random amounts, in random order.
    ColorJitter {
        /// Probability of the whole step. MoCo-v1: 1; MoCo-v2: 0.8.
        probability: f64,
        /// The factor is drawn from max(0, 1 - brightness) to 1 + brightness; 0 disables it.
        brightness: f64,
        /// The same for contrast.
        contrast: f64,
        /// The same for saturation.
        saturation: f64,
        /// The hue is rotated by -hue to hue of the full circle, at most 0.5; 0 disables it.
        hue: f64,
    },
    /// Replaces colors by their luma (ITU-R 601), in all three channels.
    Grayscale {
        /// Probability. 0.2 in all recipes.
        probability: f64,
    },
    /// Pillow's `GaussianBlur(radius = sigma)`: three box blurs of that standard deviation.
    GaussianBlur {
        /// Probability. MoCo-v2: 0.5.
        probability: f64,
        /// Smallest and largest standard deviation, px; drawn uniformly. 0.1 to 2 in all recipes.
        sigma: [f64; 2],
    },
    /// Inverts values from the threshold upwards.
    Solarize {
        /// Probability. BYOL and DINO: 0.2 on the second global view.
        probability: f64,
        /// 0 to 255; 128 in all recipes.
        threshold: u8,
    },
    /// Some of fifteen operations of a common strength, chosen and computed as timm's
    /// `rand-mM-nN-mstdS-inc1`.
    RandAugment {
        /// Operations chosen per image, independently. timm: 2.
        operations: usize,
        /// Probability that a chosen operation is applied. timm: 0.5.
        probability: f64,
        /// Strength, 0 to 10. BEiT, MAE, DeiT: 9.
        magnitude: f64,
        /// Standard deviation of each operation's strength around it. BEiT, MAE, DeiT: 0.5.
        magnitude_std: f64,
        /// The fill color of rotations and shifts, 0 to 255. timm: the mean of `[data.normalize]`, times 255.
        fill: [u8; 3],
    },
    /// Random erasing of rectangles, as in timm. It belongs at the end: timm erases images that are already
    /// normalized.
    RandomErasing {
        /// Probability. MAE, DeiT: 0.25.
        probability: f64,
        /// Smallest and largest share of the image's area, over all patches. timm: 0.02 to 1/3.
        area: [f64; 2],
        /// Smallest and largest height divided by width; its logarithm is drawn uniformly. timm: 0.3 to
        /// 1/0.3.
        aspect: [f64; 2],
        /// Number of patches. timm: 1.
        patches: usize,
        /// The fill of an erased rectangle.
        fill: ErasingFill,
    },
}

/// The fill of a patch that random erasing covers. Means and deviations are shares of 255 and should equal
/// those of `[data.normalize]`: timm erases normalized images, while ours are not yet normalized. Values are
/// rounded to 8 bits and clipped at black and white, where timm's are not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ErasingFill {
    /// Normal noise, drawn per pixel and channel (timm: `pixel`).
    Noise {
        /// Mean of each channel.
        mean: [f64; 3],
        /// Standard deviation of each channel.
        std: [f64; 3],
    },
    /// One color, drawn per patch (timm: `rand`).
    Color {
        /// Mean of each channel.
        mean: [f64; 3],
        /// Standard deviation of each channel.
        std: [f64; 3],
    },
    /// This color, 0 to 255 (timm: `const`, the mean).
    Constant([u8; 3]),
}

/// Longest side of a view, px; a larger value in a config is a typing error.
const MAX_VIEW_PX: u32 = 16_384;

impl ViewGroup {
    /// Gives an error for a group that makes no views, or views of several sizes.
    ///
    /// # Errors
    /// The key within the group, its valid range and its value.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_at("count", "transforms")
    }

    /// [`ViewGroup::validate`] with the full names of the two keys.
    ///
    /// # Errors
    /// The full key, its valid range and its value.
    pub fn validate_at(&self, count: &str, transforms: &str) -> Result<(), String> {
        if !(1..=usize::from(u8::MAX)).contains(&self.count) {
            return Err(format!("`{count}` must be in 1..{}, got {}", u8::MAX, self.count));
        }
        for (position, transform) in self.transforms.iter().enumerate() {
            let at = |(key, reason)| format!("`{transforms}.{position}.{}.{key}` {reason}", transform.name());
            transform.validate().map_err(at)?;
        }
        if self.output_px().is_none() {
            return Err(format!(
                "`{transforms}` must give one size for every image: end with `random_resized_crop`, `resize_exact` or \
                 `center_crop`"
            ));
        }
        Ok(())
    }

    /// Width and height of every view of the group, px, or `None` where they depend on the image.
    pub fn output_px(&self) -> Option<(u32, u32)> {
        let mut size = None;
        for transform in &self.transforms {
            match transform {
                Transform::RandomResizedCrop { size_px, .. } | Transform::CenterCrop { size_px } => {
                    size = Some((*size_px, *size_px));
                }
                Transform::ResizeExact {
                    width_px, height_px, ..
                } => size = Some((*width_px, *height_px)),
                Transform::Resize { shorter_px, .. } => {
                    // A known size stays known: torchvision's rule depends only on the size.
                    size =
                        size.map(|(width, height)| geometry::shorter_side_size(width, height, *shorter_px));
                }
                _ => {}
            }
        }
        size
    }
}

impl Transform {
    /// The name in a config.
    pub fn name(&self) -> &'static str {
        match self {
            Transform::RandomResizedCrop { .. } => "random_resized_crop",
            Transform::Resize { .. } => "resize",
            Transform::ResizeExact { .. } => "resize_exact",
            Transform::CenterCrop { .. } => "center_crop",
            Transform::HorizontalFlip { .. } => "horizontal_flip",
            Transform::ColorJitter { .. } => "color_jitter",
            Transform::Grayscale { .. } => "grayscale",
            Transform::GaussianBlur { .. } => "gaussian_blur",
            Transform::Solarize { .. } => "solarize",
            Transform::RandAugment { .. } => "rand_augment",
            Transform::RandomErasing { .. } => "random_erasing",
        }
    }

    /// What is wrong with which key.
    fn validate(&self) -> Result<(), Wrong> {
        match self {
            Transform::RandomResizedCrop {
                size_px,
                scale,
                ratio,
                ..
            } => {
                side("size_px", *size_px)?;
                range("scale", *scale, 0.0, 1.0)?;
                if scale[1] == 0.0 {
                    return Err(("scale", "must reach above 0, got [0, 0]".to_string()));
                }
                range("ratio", *ratio, 1e-3, 1e3)
            }
            Transform::Resize { shorter_px, .. } => side("shorter_px", *shorter_px),
            Transform::ResizeExact {
                width_px, height_px, ..
            } => {
                side("width_px", *width_px)?;
                side("height_px", *height_px)
            }
            Transform::CenterCrop { size_px } => side("size_px", *size_px),
            Transform::HorizontalFlip { probability: p } | Transform::Grayscale { probability: p } => {
                probability(*p)
            }
            Transform::Solarize { probability: p, .. } => probability(*p),
            Transform::ColorJitter {
                probability: p,
                brightness,
                contrast,
                saturation,
                hue,
            } => {
                probability(*p)?;
                within("brightness", *brightness, 0.0, 100.0)?;
                within("contrast", *contrast, 0.0, 100.0)?;
                within("saturation", *saturation, 0.0, 100.0)?;
                within("hue", *hue, 0.0, 0.5)
            }
            Transform::GaussianBlur {
                probability: p,
                sigma,
            } => {
                probability(*p)?;
                range("sigma", *sigma, 0.0, 1000.0)
            }
            Transform::RandAugment {
                operations,
                probability: p,
                magnitude,
                magnitude_std,
                ..
            } => {
                count("operations", *operations)?;
                probability(*p)?;
                within("magnitude", *magnitude, 0.0, rand_augment::LARGEST_MAGNITUDE)?;
                within("magnitude_std", *magnitude_std, 0.0, 100.0)
            }
            Transform::RandomErasing {
                probability: p,
                area,
                aspect,
                patches,
                fill,
            } => {
                probability(*p)?;
                range("area", *area, 0.0, 1.0)?;
                range("aspect", *aspect, 1e-3, 1e3)?;
                count("patches", *patches)?;
                let (ErasingFill::Noise { mean, std } | ErasingFill::Color { mean, std }) = fill else {
                    return Ok(());
                };
                mean.iter()
                    .chain(std)
                    .try_for_each(|value| within("fill", *value, 0.0, 1.0))
            }
        }
    }
}

/// A key, and what is wrong with it.
type Wrong = (&'static str, String);

fn probability(value: f64) -> Result<(), Wrong> {
    within("probability", value, 0.0, 1.0)
}

fn count(field: &'static str, value: usize) -> Result<(), Wrong> {
    if (1..=100).contains(&value) {
        Ok(())
    } else {
        Err((field, format!("must be in 1..100, got {value}")))
    }
}

fn within(field: &'static str, value: f64, low: f64, high: f64) -> Result<(), Wrong> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err((field, format!("must be in {low}..{high}, got {value}")))
    }
}

fn range(field: &'static str, value: [f64; 2], low: f64, high: f64) -> Result<(), Wrong> {
    within(field, value[0], low, high)?;
    within(field, value[1], low, high)?;
    if value[0] > value[1] {
        let reason = format!("must be [smallest, largest], got [{}, {}]", value[0], value[1]);
        return Err((field, reason));
    }
    Ok(())
}

fn side(field: &'static str, value: u32) -> Result<(), Wrong> {
    if (1..=MAX_VIEW_PX).contains(&value) {
        Ok(())
    } else {
        Err((field, format!("must be in 1..{MAX_VIEW_PX}, got {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(transforms: &str) -> Result<ViewGroup, toml::de::Error> {
        toml::from_str(&format!("count = 2\ntransforms = [{transforms}]"))
    }

    #[test]
    fn the_moco_v2_recipe_reads_and_checks() {
        let text = r#"
            { random_resized_crop = { size_px = 224, scale = [0.2, 1.0], ratio = [0.75, 1.3333333333333333], filter = "bilinear" } },
            { color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 } },
            { grayscale = { probability = 0.2 } },
            { gaussian_blur = { probability = 0.5, sigma = [0.1, 2.0] } },
            { horizontal_flip = { probability = 0.5 } },
        "#;
        let views = group(text).unwrap();
        assert_eq!(views.validate(), Ok(()));
        assert_eq!(views.output_px(), Some((224, 224)));
        let back: ViewGroup = toml::from_str(&toml::to_string(&views).unwrap()).unwrap();
        assert_eq!(back, views);
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        assert!(group("{ grayscale = { probability = 0.2, chance = 1 } }").is_err());
        assert!(group("{ grayscale = {} }").is_err());
        assert!(group("{ greyscale = { probability = 0.2 } }").is_err());
        assert!(toml::from_str::<ViewGroup>("count = 1\ntransforms = []\nsize = 3").is_err());
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let cases = [
            (
                "{ center_crop = { size_px = 0 } }",
                "size_px` must be in 1..16384, got 0",
            ),
            (
                "{ horizontal_flip = { probability = 1.5 } }",
                "probability` must be in 0..1, got 1.5",
            ),
            (
                "{ random_resized_crop = { size_px = 8, scale = [0.9, 0.2], ratio = [1, 1], filter = \"bicubic\" } }",
                "scale` must be [smallest, largest]",
            ),
            (
                "{ color_jitter = { probability = 1, brightness = 0, contrast = 0, saturation = 0, hue = 0.6 } }",
                "hue` must be in 0..0.5, got 0.6",
            ),
            (
                "{ resize = { shorter_px = 256, filter = \"bilinear\" } }",
                "`transforms` must give one size",
            ),
            ("", "`transforms` must give one size"),
        ];
        for (text, expected) in cases {
            let found = group(text).unwrap().validate().unwrap_err();
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_resize_keeps_a_known_size_known() {
        let views = group(
            "{ resize_exact = { width_px = 40, height_px = 20, filter = \"bilinear\" } }, { resize = { shorter_px = 10, filter = \"bilinear\" } }",
        )
        .unwrap();
        assert_eq!(views.output_px(), Some((20, 10)));
    }
}
