//! Which records of two data sets hold the same image, byte for byte: hashes of both in, a count out.
//!
//! The hashes are those of the index, so no photo is read again where an index is stored.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

/// The first half of a SHA-256, which is enough to recognize an image.
pub(crate) fn content_of(hash: &[u8; 32]) -> u128 {
    hash.first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

/// The first half of the SHA-256 of each image, in the order of the records. Two images that differ agree in
/// it with a probability of 2⁻¹²⁸.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents(pub(crate) Vec<u128>);

/// Records of one data set whose images are in another one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// How many records of the first set.
    pub records: usize,
    /// Position of the first of them, and of its image's first record in the other set.
    pub first: Option<(usize, usize)>,
}

impl Contents {
    /// Records of this set whose images are in `other` too.
    pub fn shared_with(&self, other: &Contents) -> Shared {
        let mut places: HashMap<u128, Option<usize>> = self.0.iter().map(|hash| (*hash, None)).collect();
        for (position, hash) in other.0.iter().enumerate() {
            if let Some(place) = places.get_mut(hash) {
                place.get_or_insert(position);
            }
        }
        let mut shared = Shared::default();
        for (position, hash) in self.0.iter().enumerate() {
            if let Some(Some(place)) = places.get(hash) {
                shared.records += 1;
                shared.first.get_or_insert((position, *place));
            }
        }
        shared
    }

    /// A sample of the images.
    pub fn sample(&self) -> ContentSample {
        ContentSample::of(self.0.iter().map(first_half))
    }

    /// Records whose images are in an earlier record of the same set.
    pub fn repeated(&self) -> Shared {
        let mut places: HashMap<u128, usize> = HashMap::with_capacity(self.0.len());
        let mut repeated = Shared::default();
        for (position, hash) in self.0.iter().enumerate() {
            let first = *places.entry(*hash).or_insert(position);
            if first < position {
                repeated.records += 1;
                repeated.first.get_or_insert((position, first));
            }
        }
        repeated
    }
}

/// The images of a data set with the smallest hashes, few enough for the header of an encoder file.
///
/// Since hashes are as good as random, it is a fair sample of the images; and since both sides take the
/// smallest ones, the same images of another set can be compared with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentSample {
    /// The first 64 bits of each image's SHA-256, ascending.
    hashes: Vec<u64>,
    /// Whether these are all images.
    is_whole: bool,
}

/// The first 64 bits of a hash of which half is known.
fn first_half(hash: &u128) -> u64 {
    (hash >> 64) as u64
}

/// Most images in a sample: 32 KiB as text.
const SAMPLED: usize = 2048;

/// How many records were compared with a sample, and how many of them are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Records whose images would be in the sample if they were in its data set: all of them where the sample
    /// has all images of its data set.
    pub compared: usize,
    /// Records whose images are in it.
    pub shared: usize,
}

impl ContentSample {
    /// The sample of a data set's images, by the first 64 bits of their hashes.
    pub(crate) fn of(hashes: impl Iterator<Item = u64>) -> Self {
        Self::of_at_most(SAMPLED, hashes)
    }

    fn of_at_most(most: usize, hashes: impl Iterator<Item = u64>) -> Self {
        let mut smallest = BTreeSet::new();
        let mut is_whole = true;
        let mut limit = u64::MAX;
        for hash in hashes {
            if hash > limit {
                is_whole = false;
                continue;
            }
            smallest.insert(hash);
            if smallest.len() > most {
                smallest.pop_last();
                is_whole = false;
            }
            if smallest.len() == most {
                limit = smallest.last().copied().unwrap_or(u64::MAX);
            }
        }
        Self {
            hashes: smallest.into_iter().collect(),
            is_whole,
        }
    }

    /// How many images it has.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether nothing is known, as of files of earlier versions.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// As text: `all` or `some`, and 16 hex digits an image.
    pub fn to_text(&self) -> String {
        let mut text = if self.is_whole { "all " } else { "some " }.to_string();
        for hash in &self.hashes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{hash:016x}");
        }
        text
    }

    /// Reads [`ContentSample::to_text`]; `None` for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once(' ')?;
        let hashes: Vec<u64> = digits
            .as_bytes()
            .chunks(16)
            .map(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
            .collect::<Option<_>>()?;
        let is_valid = hashes.is_sorted() && digits.len() % 16 == 0 && matches!(kind, "all" | "some");
        is_valid.then_some(Self {
            hashes,
            is_whole: kind == "all",
        })
    }

    /// Compares the images of a set with the sample.
    pub fn compare(&self, contents: &Contents) -> Sampled {
        let limit = match (self.is_whole, self.hashes.last()) {
            (true, _) => u64::MAX,
            (false, Some(last)) => *last,
            (false, None) => return Sampled::default(),
        };
        let hashes = contents.0.iter().map(first_half);
        let mut sampled = Sampled::default();
        for hash in hashes.filter(|hash| *hash <= limit) {
            sampled.compared += 1;
            sampled.shared += usize::from(self.hashes.binary_search(&hash).is_ok());
        }
        sampled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_repeated_records_are_counted_once_each() {
        let test = Contents(vec![7, 1, 2, 2, 9, 1]);
        let train = Contents(vec![5, 2, 1, 1, 8, 2]);
        assert_eq!(
            test.shared_with(&train),
            Shared {
                records: 4,
                first: Some((1, 2))
            }
        );
        assert_eq!(train.shared_with(&test).records, 4);
        assert_eq!(test.shared_with(&Contents(vec![])), Shared::default());
        assert_eq!(
            test.repeated(),
            Shared {
                records: 2,
                first: Some((3, 2))
            }
        );
    }

    #[test]
    fn a_sample_has_the_smallest_hashes_and_tells_how_many_it_compared() {
        let hashes = [50, 10, 40, 10, 30, 20];
        let whole = ContentSample::of_at_most(5, hashes.into_iter());
        assert_eq!(
            (whole.hashes.as_slice(), whole.is_whole),
            (&[10, 20, 30, 40, 50][..], true)
        );
        let part = ContentSample::of_at_most(3, hashes.into_iter());
        assert_eq!(
            (part.hashes.as_slice(), part.is_whole),
            (&[10, 20, 30][..], false)
        );
        // 45 and 60 are past the sample of three; 25 would be in it.
        let test = Contents([20, 25, 45, 60, 10, 20].map(|hash: u128| hash << 64).to_vec());
        let sampled = |compared, shared| Sampled { compared, shared };
        assert_eq!(part.compare(&test), sampled(4, 3));
        assert_eq!(whole.compare(&test), sampled(6, 3));
        for sample in [whole, part] {
            assert_eq!(ContentSample::from_text(&sample.to_text()), Some(sample));
        }
        for text in [
            "",
            "all",
            "some 12",
            "none 0000000000000001",
            "all 00000000000000020000000000000001",
        ] {
            assert_eq!(ContentSample::from_text(text), None, "{text}");
        }
        assert!(ContentSample::default().is_empty());
        assert_eq!(ContentSample::default().compare(&test), Sampled::default());
    }
}
