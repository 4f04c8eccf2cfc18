//! Photos that decode, are of good size and show something; their content hashes on the way.

use std::collections::{HashMap, HashSet};

use image::RgbImage as ImageBuffer;
use image_hasher::{HashAlg, Hasher, HasherConfig};
use rayon::prelude::*;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::contents::{self, Content};
use crate::error::Error;
use crate::ledger::Decision;
use crate::near::{HASH_BYTES, Hash};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::stage::{Stage, Work};

/// What a photo must be to be used.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IntegrityConfig {
    /// Shorter side at least, px.
    pub min_side_px: u32,
    /// Longer side at most, px.
    pub max_side_px: u32,
    /// All pixels at most; refused from the header, before memory is taken.
    pub max_pixels: u64,
    /// A photo whose every colour channel spans at most so many of its 256 levels shows nothing (0: exactly one colour).
    pub single_colour_levels: u8,
    /// Hex SHA-256 of files that stand for missing photos, such as a host's "no longer available" picture.
    pub placeholders: Vec<String>,
}

/// Photos decoded between two transactions.
const BATCH: usize = 256;

/// What was found out about one file.
struct Found {
    decision: Decision,
    sha256: Content,
    bytes: usize,
    size_px: Option<(u32, u32)>,
    hash: Option<Hash>,
}

impl IntegrityConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.min_side_px > self.max_side_px {
            let reason = format!(
                "expected at most max_side_px = {}, found {}",
                self.max_side_px, self.min_side_px
            );
            return Err(Error::config("stages.integrity.min_side_px", reason));
        }
        if self.max_pixels == 0 || self.max_side_px == 0 {
            let name = if self.max_pixels == 0 {
                "max_pixels"
            } else {
                "max_side_px"
            };
            let key = format!("stages.integrity.{name}");
            return Err(Error::config(&key, "expected at least 1, found 0"));
        }
        let wrong = |hash: &&String| {
            hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match self.placeholders.iter().find(wrong) {
            None => Ok(()),
            Some(hash) => {
                let reason = format!("expected 64 lowercase hex digits, found `{hash}`");
                Err(Error::config("stages.integrity.placeholders", reason))
            }
        }
    }

    fn look(
        &self,
        photo: &Photo,
        photos: &Photos,
        hasher: &Hasher,
        noted: &HashMap<i64, Content>,
        taken_down: &HashSet<Content>,
    ) -> Result<Found, Decision> {
        let file = photos
            .read(photo)
            .map_err(|error| Decision::dropped(photo.id, "unreadable").detail(chain(&error)))?;
        let mut found = Found {
            decision: Decision::kept(photo.id),
            sha256: contents::sha256(&file),
            bytes: file.len(),
            size_px: None,
            hash: None,
        };
        if let Some(refused) = contents::refusal(photo.id, &found.sha256, noted, taken_down) {
            found.decision = refused;
            return Ok(found);
        }
        if self.placeholders.contains(&data::hex(&found.sha256)) {
            found.decision = Decision::dropped(photo.id, "placeholder");
            return Ok(found);
        }
        let limits = data::DecodeLimits {
            side_px: self.max_side_px,
            pixels: self.max_pixels,
        };
        let image = match data::decode(&file, &limits) {
            Ok(image) => image,
            Err(error) => {
                found.decision = Decision::dropped(photo.id, decode_reason(&error)).detail(error.to_string());
                return Ok(found);
            }
        };
        found.size_px = Some((image.width, image.height));
        let short = image.width.min(image.height);
        let levels = channel_span(&image.pixels);
        if short < self.min_side_px {
            found.decision = Decision::dropped(photo.id, "too_small").score(f64::from(short));
        } else if levels <= self.single_colour_levels {
            found.decision = Decision::dropped(photo.id, "single_colour").score(f64::from(levels));
        } else {
            found.hash = perceptual_hash(hasher, image);
        }
        Ok(found)
    }
}

impl Stage for IntegrityConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let hasher = hasher();
        let taken_down = contents::taken_down(work.ledger)?;
        loop {
            let batch = work.next(BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            let photos = work.photos;
            let noted = contents::noted(work.ledger, &batch)?;
            let stage = work.stage;
            let found: Vec<Result<Found, Decision>> = batch
                .par_iter()
                .map(|photo| self.look(photo, photos, &hasher, &noted, &taken_down))
                .collect();
            let decisions: Vec<Decision> = found
                .iter()
                .map(|found| {
                    found
                        .as_ref()
                        .map_or_else(Clone::clone, |found| found.decision.clone())
                })
                .collect();
            work.decide_with(&decisions, |ledger| {
                for found in found.iter().flatten() {
                    ledger.sql(|db| {
                        db.prepare_cached("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)")?
                            .execute(params![
                                found.decision.photo,
                                found.sha256,
                                found.bytes as i64,
                                found.size_px.map(|size| size.0),
                                found.size_px.map(|size| size.1),
                                found.hash,
                            ])
                    })?;
                }
                let seen = found
                    .iter()
                    .flatten()
                    .map(|found| (found.decision.photo, found.sha256));
                contents::note(ledger, stage, seen)
            })?;
            work.remove_taken_down(&batch, &decisions)?;
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

/// A perceptual hash of 256 bits: signs of the low frequencies of a cosine transform of the grey picture about their
/// median, so about half of the bits are set whatever the picture shows.
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

/// Why a file does not decode, as a reason of the ledger.
pub(crate) fn decode_reason(error: &data::DecodeError) -> &'static str {
    match error {
        data::DecodeError::Empty => "empty_file",
        data::DecodeError::Format { .. } => "not_an_image",
        data::DecodeError::TooLarge { .. } => "too_large",
        data::DecodeError::Truncated { .. } => "truncated",
        _ => "broken_image",
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_of_the_widest_channel() {
        assert_eq!(channel_span(&[10, 20, 30, 10, 25, 30]), 5);
        assert_eq!(channel_span(&[7, 7, 7]), 0);
    }

    #[test]
    fn the_hash_is_the_same_for_another_size_and_far_for_another_picture() {
        // Patches of drawn levels: detail at all scales, as photos have. (A picture of slow waves alone has coefficients
        // near zero, whose signs are noise.)
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
            crate::near::distance(&first, &hash(smaller)),
            crate::near::distance(&first, &hash(patches(2))),
        );
        assert!(near <= 8, "{near}");
        assert!(far > 80, "{far}");
    }
}
