//! Checks that photos decode, have a valid size and are not of a single color; hashes their content and notes
//! the private metadata within them in the same pass.

use image::RgbImage as ImageBuffer;
use image_hasher::{HashAlg, Hasher, HasherConfig};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::near::{HASH_BYTES, Hash};
use super::{Files, Stage, Work, decode_reason, panicked};
use crate::embedded::{self, Kinds};
use crate::error::Error;
use crate::ledger::{Decision, ImageFacts};
use crate::photo::Photo;

/// The requirements on a photo.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntegrityConfig {
    /// Shorter side, px; at least this.
    pub min_side_px: u32,
    /// Longer side, px; at most this.
    pub max_side_px: u32,
    /// Pixels of the whole image, at most; checked against the header, before memory is allocated.
    pub max_pixels: u64,
    /// A photo is blank if no color channel spans more than this many of its 256 levels (0: exactly one
    /// color).
    #[serde(rename = "single_colour_levels")]
    pub single_color_levels: u8,
    /// Hex SHA-256 of placeholder files for missing photos, such as a host's "no longer available" picture.
    pub placeholders: Vec<String>,
    /// What becomes of animations, of which every stage looks at the first frame alone. Absent: they are kept.
    /// Either way they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub animated: Option<Unseen>,
    /// What becomes of pictures with transparent pixels, which stages look at as if these were opaque, so that a shape
    /// in the transparency alone goes unseen. Absent: they are kept. Either way they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transparent: Option<Unseen>,
}

/// What becomes of pictures with a part that no stage looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    /// They are dropped.
    Drop,
    /// They are kept, with a remark.
    Keep,
}

/// Reason, or remark on a kept photo: an animation.
pub(crate) const ANIMATED: &str = "animated";
/// Reason, or remark on a kept photo: transparent pixels.
pub(crate) const TRANSPARENT: &str = "transparent";

/// Photos decoded between two transactions.
const BATCH: usize = 256;

impl IntegrityConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.min_side_px > self.max_side_px {
            let reason = format!(
                "must be at most `max_side_px` = {}, got {}",
                self.max_side_px, self.min_side_px
            );
            return Err(Error::config("stages.integrity.min_side_px", reason));
        }
        let least = u64::from(self.min_side_px).pow(2);
        if self.max_pixels > 0 && self.max_pixels < least {
            let reason = format!(
                "must be at least {least}, the square of `min_side_px`, got {}: every photo would be too small or too large",
                self.max_pixels
            );
            return Err(Error::config("stages.integrity.max_pixels", reason));
        }
        if self.max_pixels == 0 || self.max_side_px == 0 {
            let name = if self.max_pixels == 0 {
                "max_pixels"
            } else {
                "max_side_px"
            };
            let key = format!("stages.integrity.{name}");
            return Err(Error::config(&key, "must be at least 1, got 0"));
        }
        let wrong = |hash: &&String| {
            hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match self.placeholders.iter().find(wrong) {
            None => Ok(()),
            Some(hash) => {
                let reason = format!("must be 64 lowercase hex digits each, got `{hash}`");
                Err(Error::config("stages.integrity.placeholders", reason))
            }
        }
    }

    /// The decision on a photo, and the facts about its file if the gate lets it through.
    fn look(&self, photo: &Photo, files: &Files<'_>, hasher: &Hasher) -> (Decision, Option<ImageFacts>) {
        let file = match files.read(photo) {
            Ok(file) => file,
            Err(decision) => return (decision, None),
        };
        let mut facts = ImageFacts {
            photo: photo.id,
            sha256: file.content,
            bytes: file.bytes.len(),
            size_px: None,
            hash: None,
            embedded: Kinds::NONE,
        };
        let decision = self.judge(photo.id, &file.bytes, &mut facts, hasher);
        (decision.of_file(file.content), Some(facts))
    }

    fn judge(&self, photo: i64, file: &[u8], facts: &mut ImageFacts, hasher: &Hasher) -> Decision {
        if self.placeholders.contains(&data::hex(&facts.sha256)) {
            return Decision::dropped(photo, "placeholder");
        }
        let limits = data::DecodeLimits {
            side_px: self.max_side_px,
            pixels: self.max_pixels,
        };
        let judged = data::decode_and(file, &limits, |image| {
            facts.size_px = Some((image.width, image.height));
            let short = image.width.min(image.height);
            let levels = channel_span(&image.pixels);
            if short < self.min_side_px {
                let detail = format!(
                    "{} x {} px: a side must be at least {} px",
                    image.width, image.height, self.min_side_px
                );
                return Decision::dropped(photo, "too_small")
                    .score(f64::from(short))
                    .detail(detail);
            }
            if levels <= self.single_color_levels {
                let detail = format!(
                    "no color channel spans more than {levels} of 256 levels, and `single_colour_levels` is {}",
                    self.single_color_levels
                );
                return Decision::dropped(photo, "single_colour")
                    .score(f64::from(levels))
                    .detail(detail);
            }
            facts.hash = perceptual_hash(hasher, image);
            Decision::kept(photo)
        });
        let broken = |error: data::DecodeError| {
            Decision::dropped(photo, decode_reason(&error)).detail(error.to_string())
        };
        let decision = judged.unwrap_or_else(broken);
        if !decision.kept {
            return decision;
        }
        let frames = data::frames(file);
        let is_transparent = match data::is_transparent(file, &limits) {
            Ok(is_transparent) => is_transparent,
            Err(error) => return broken(error),
        };
        let unseen = [
            (
                ANIMATED,
                self.animated,
                (frames > 1).then(|| format!("{frames} frames, of which stages look at the first")),
            ),
            (
                TRANSPARENT,
                self.transparent,
                is_transparent.then(|| {
                    "pixels are transparent, and stages look at them as if they were not".to_string()
                }),
            ),
        ];
        let (mut remark, mut details) = (None, Vec::new());
        for (name, setting, detail) in unseen {
            let Some(detail) = detail else { continue };
            if setting == Some(Unseen::Drop) {
                return Decision::dropped(photo, name).detail(detail);
            }
            remark = remark.or(Some(name));
            details.push(detail);
        }
        facts.embedded = embedded::scan(file).unwrap_or(Kinds::UNREADABLE);
        let kinds: Vec<&str> = facts.embedded.names().map(|(kind, _)| kind).collect();
        if !kinds.is_empty() {
            details.push(format!("embeds {}", kinds.join(", ")));
        }
        let decision = match remark {
            Some(remark) => decision.remark(remark),
            None => decision,
        };
        match details.is_empty() {
            true => decision,
            false => decision.detail(details.join("; ")),
        }
    }
}

impl Stage for IntegrityConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let hasher = hasher();
        loop {
            let batch = work.next(BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            let files = work.files(&batch)?;
            let (decisions, images): (Vec<Decision>, Vec<Option<ImageFacts>>) = batch
                .par_iter()
                .map(|photo| {
                    data::caught(|| self.look(photo, &files, &hasher))
                        .unwrap_or_else(|message| (panicked(photo.id, message), None))
                })
                .unzip();
            let images: Vec<ImageFacts> = images.into_iter().flatten().collect();
            work.decide_with(&decisions, |ledger| ledger.add_images(&images))?;
        }
    }
}

/// The widest span of levels of any channel of RGB pixels, 0 to 255.
fn channel_span(pixels: &[u8]) -> u8 {
    let (mut low, mut high) = ([255u8; 3], [0u8; 3]);
    for pixel in pixels.chunks_exact(3) {
        for channel in 0..3 {
            low[channel] = low[channel].min(pixel[channel]);
            high[channel] = high[channel].max(pixel[channel]);
        }
    }
    (0..3)
        .map(|channel| high[channel].saturating_sub(low[channel]))
        .max()
        .unwrap_or(0)
}

/// A perceptual hash of 256 bits. Each bit says whether a low frequency of the gray picture's cosine
/// transform is above their median, so about half of the bits are set in any picture.
fn hasher() -> Hasher {
    HasherConfig::new()
        .hash_size(16, 16)
        .hash_alg(HashAlg::Median)
        .preproc_dct()
        .to_hasher()
}

fn perceptual_hash(hasher: &Hasher, image: data::RgbImage) -> Option<Hash> {
    let picture = ImageBuffer::from_raw(image.width, image.height, image.pixels)?;
    let hash = hasher.hash_image(&picture);
    let mut bytes = [0; HASH_BYTES];
    (hash.as_bytes().len() == HASH_BYTES).then(|| {
        bytes.copy_from_slice(hash.as_bytes());
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(animated: Option<Unseen>, transparent: Option<Unseen>) -> IntegrityConfig {
        IntegrityConfig {
            min_side_px: 1,
            max_side_px: 100,
            max_pixels: 10_000,
            single_color_levels: 0,
            placeholders: Vec::new(),
            animated,
            transparent,
        }
    }

    fn judged(config: &IntegrityConfig, file: &[u8]) -> (bool, String, String) {
        let mut facts = ImageFacts {
            photo: 1,
            sha256: [0; 32],
            bytes: file.len(),
            size_px: None,
            hash: None,
            embedded: Kinds::NONE,
        };
        let decision = config.judge(1, file, &mut facts, &hasher());
        (
            decision.kept,
            decision.reason.unwrap_or_default(),
            decision.detail.unwrap_or_default(),
        )
    }

    fn picture(seed: u8, alpha: u8) -> image::RgbaImage {
        image::RgbaImage::from_fn(24, 16, |x, y| {
            image::Rgba([x as u8 * 9, y as u8 * 13, seed, alpha])
        })
    }

    #[test]
    fn animations_are_dropped_or_counted() {
        let gif = |count: u8| {
            let mut file = Vec::new();
            let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
            let frames = (0..count).map(|seed| image::Frame::new(picture(seed, 255)));
            encoder.encode_frames(frames).unwrap();
            drop(encoder);
            file
        };
        let seen = "3 frames, of which stages look at the first";
        for keep in [None, Some(Unseen::Keep)] {
            let (kept, remark, detail) = judged(&config(keep, None), &gif(3));
            assert_eq!((kept, remark.as_str(), detail.as_str()), (true, ANIMATED, seen));
        }
        let drop = config(Some(Unseen::Drop), Some(Unseen::Drop));
        let (kept, reason, detail) = judged(&drop, &gif(3));
        assert_eq!((kept, reason.as_str(), detail.as_str()), (false, ANIMATED, seen));
        assert_eq!(judged(&drop, &gif(1)), (true, String::new(), String::new()));
    }

    #[test]
    fn pictures_with_transparency_are_dropped_or_counted() {
        let png = |alpha: u8| {
            let mut file = std::io::Cursor::new(Vec::new());
            picture(1, alpha)
                .write_to(&mut file, image::ImageFormat::Png)
                .unwrap();
            file.into_inner()
        };
        let drop = config(Some(Unseen::Drop), Some(Unseen::Drop));
        let (kept, reason, _) = judged(&drop, &png(200));
        assert_eq!((kept, reason.as_str()), (false, TRANSPARENT));
        assert!(judged(&drop, &png(255)).0);
        let (kept, remark, detail) = judged(&config(None, None), &png(200));
        assert_eq!((kept, remark.as_str()), (true, TRANSPARENT));
        assert_eq!(
            detail,
            "pixels are transparent, and stages look at them as if they were not"
        );
    }

    #[test]
    fn spans_are_of_the_widest_channel() {
        assert_eq!(channel_span(&[10, 20, 30, 10, 25, 30]), 5);
        assert_eq!(channel_span(&[7, 7, 7]), 0);
    }

    #[test]
    fn the_hash_is_the_same_for_another_size_and_far_for_another_picture() {
        // Patches of drawn levels: detail at all scales, as photos have. (A picture of slow waves alone has
        // coefficients near zero, whose signs are noise.)
        let patches = |seed: u64| {
            ImageBuffer::from_fn(208, 208, |x, y| {
                let level = |size: u32| {
                    let place = format!("{}-{}", x / size, y / size);
                    crate::draws::fraction(crate::draws::draw(seed, "patch", &[&size.to_string(), &place]))
                        * 85.0
                };
                image::Rgb([(level(52) + level(26) + level(13)) as u8; 3])
            })
        };
        let hash = |picture: ImageBuffer| {
            let (width, height) = picture.dimensions();
            let pixels = picture.into_raw();
            perceptual_hash(
                &hasher(),
                data::RgbImage {
                    width,
                    height,
                    pixels,
                },
            )
            .unwrap()
        };
        let smaller = image::imageops::resize(&patches(1), 131, 131, image::imageops::FilterType::Triangle);
        let first = hash(patches(1));
        let (near, far) = (
            super::super::near::distance(&first, &hash(smaller)),
            super::super::near::distance(&first, &hash(patches(2))),
        );
        assert!(near <= 8, "{near}");
        assert!(far > 80, "{far}");
    }
}
