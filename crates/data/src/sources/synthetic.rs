//! Smooth random pictures, generated for smoke runs and tests: no file, no download, any number of records.

use image::{ExtendedColorType, ImageEncoder};
use rand::RngExt;
use sha2::{Digest, Sha256};

use super::source::Source;
use crate::decode::RgbImage;
use crate::error::Error;
use crate::hex::hex;
use crate::randomness::{Purpose, generator};
use crate::record::Label;
use crate::transforms::{Filter, geometry};

/// Side of the coarse random picture that is enlarged; a larger one would be less smooth.
const GRID: u32 = 4;

/// A data set computed from a formula.
#[derive(Clone, Debug)]
pub(crate) struct Synthetic {
    pub(crate) records: usize,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) classes: u32,
    pub(crate) seed: u64,
}

impl Source for Synthetic {
    fn len(&self) -> usize {
        self.records
    }

    fn is_labeled(&self) -> bool {
        self.classes > 0
    }

    fn key(&self, position: usize) -> String {
        format!("synthetic-{position:08}")
    }

    fn label(&self, position: usize) -> Option<Label> {
        // Classes alternate, so that every stretch of the data set is balanced.
        (self.classes > 0).then(|| Label::Class((position % self.classes as usize) as u32))
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        *image = self.bmp(position);
        Ok(())
    }
}

impl Synthetic {
    /// Generating all records for a hash would be wasteful: the arguments that determine them are hashed
    /// instead.
    pub(crate) fn fingerprint(&self) -> String {
        let Synthetic {
            records,
            width,
            height,
            classes,
            seed,
        } = self;
        hex(&Sha256::digest(format!(
            "synthetic 1 {records} {width} {height} {classes} {seed}"
        )))
    }

    /// The picture of a record: half its class's colors, half its own.
    fn picture(&self, position: usize) -> RgbImage {
        let class = position as u64 % u64::from(self.classes.max(1));
        let mut of_class = generator(self.seed, Purpose::Synthetic, 0, class, 0);
        let mut of_record = generator(self.seed, Purpose::Synthetic, 1, position as u64, 0);
        let pixels = (0..GRID * GRID * 3)
            .map(|_| ((u16::from(of_class.random::<u8>()) + u16::from(of_record.random::<u8>())) / 2) as u8)
            .collect();
        let coarse = RgbImage {
            width: GRID,
            height: GRID,
            pixels,
        };
        geometry::resize(&coarse, self.width, self.height, Filter::Bilinear)
    }

    fn bmp(&self, position: usize) -> Vec<u8> {
        let picture = self.picture(position);
        let mut encoded = Vec::with_capacity(picture.pixels.len() + 64);
        // BMP, because it is cheap to write and to read; only sizes beyond 4 GiB could fail.
        image::codecs::bmp::BmpEncoder::new(&mut encoded)
            .write_image(
                &picture.pixels,
                picture.width,
                picture.height,
                ExtendedColorType::Rgb8,
            )
            .expect("a BMP of a picture that fits in memory can be written to memory");
        encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeLimits, decode};

    #[test]
    fn pictures_are_repeatable_distinct_and_of_their_class() {
        let data = Synthetic {
            records: 100,
            width: 31,
            height: 20,
            classes: 4,
            seed: 5,
        };
        let picture = |position| decode(&data.bmp(position), &DecodeLimits::DEFAULT).unwrap();
        let first = picture(0);
        assert_eq!((first.width, first.height), (31, 20));
        assert_eq!(first, picture(0));
        assert_ne!(first, picture(4));
        assert_eq!(data.label(6), Some(Label::Class(2)));
        let distance = |a: &RgbImage, b: &RgbImage| -> f64 {
            a.pixels
                .iter()
                .zip(&b.pixels)
                .map(|(a, b)| f64::from(a.abs_diff(*b)))
                .sum()
        };
        // On average, records of one class are nearer to each other than to another class.
        let (mut same, mut other) = (0.0, 0.0);
        for at in 0..20 {
            same += distance(&picture(4 * at), &picture(4 * at + 4));
            other += distance(&picture(4 * at), &picture(4 * at + 5));
        }
        assert!(same < 0.9 * other, "{same} {other}");
    }
}
