//! Test images that the encoder or the classifier has seen in training: counted by content, reported, refused
//! above a share.
//!
//! A copy of a training image under another name is recognized before an image is read, since the hashes of all
//! images are in the indexes. A copy whose file differs (other metadata, a PNG in another container) is recognized once
//! both sets have features, by the hashes of the pixels that the encoder saw. A picture that was scaled, compressed
//! again with losses, or decoded by another program has other pixels and is not.

use crate::encoder::PretrainedOn;
use crate::error::Error;
use crate::features::{Features, Matrix, Records};
use data::Shared;
use data::terminal::escape;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// How far a test set is new to what is evaluated, as `result.json` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// What was compared.
    pub compared: Compared,
    /// Test records that were compared.
    pub test_records: usize,
    /// Test records that lie in the training set too.
    pub test_in_training: usize,
    /// Test records that repeat an earlier test record.
    pub test_repeated: usize,
    /// The same two counts by the pixels that the encoder saw; absent where they are not known of both sets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by_pixels: Option<ByPixels>,
    /// The data that the encoder was pretrained on, as far as its file says.
    pub pretraining: Pretraining,
    /// Test images among these data; absent where the file holds no sample of them, or they are one of the two
    /// sets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pretraining_sample: Option<PretrainingSample>,
}

impl Overlap {
    /// What the test data say about the scores, a sentence each; empty where all test images are new.
    pub(crate) fn of_data(&self) -> Vec<String> {
        let (shared, repeated, records) = (self.test_in_training, self.test_repeated, self.test_records);
        let sentences = match self.compared {
            Compared::Images => [
                (
                    shared,
                    format!("{shared} of {records} test images lie in the training set too"),
                ),
                (
                    repeated,
                    format!("{repeated} of {records} test images repeat another one of the test set"),
                ),
            ],
            Compared::Features => [
                (
                    shared,
                    format!("{shared} of {records} test rows are equal to training rows to the bit"),
                ),
                (
                    repeated,
                    format!("{repeated} of {records} test rows are equal to other test rows to the bit"),
                ),
            ],
        };
        let told = sentences.into_iter().filter(|(count, _)| *count > 0);
        let by_pixels = self.by_pixels.map(|by_pixels| by_pixels.in_words(self));
        told.map(|(_, sentence)| sentence)
            .chain(by_pixels.unwrap_or_default())
            .collect()
    }

    /// Test records of this comparison that are known to be the images of others: by content, not by their features.
    fn known(&self) -> (usize, usize) {
        match self.compared {
            Compared::Images => (self.test_in_training, self.test_repeated),
            Compared::Features => (0, 0),
        }
    }

    /// Compares the pixels that the encoder saw, as far as the features of both sets hold their hashes: counts, warns
    /// of images that the comparison so far has missed, and gives an error above the share that the config allows.
    ///
    /// # Errors
    /// [`Error::SharedRecords`], if anything learns from the training set (`learns`).
    pub(crate) fn compare_pixels(
        &mut self,
        train: &Features,
        test: &Features,
        most: Option<f64>,
        learns: bool,
        warn: impl Fn(String),
    ) -> Result<(), Error> {
        let (Some(of_train), Some(of_test)) = (&train.pixel_hashes, &test.pixel_hashes) else {
            return Ok(());
        };
        let (shared, repeated) = equal(of_train.iter().copied(), of_test.iter().copied());
        self.by_pixels = Some(ByPixels {
            test_in_training: shared.records,
            test_repeated: repeated.records,
        });
        let named = |features: &Features, row: usize| escape(&features.keys[row]);
        let (known, known_repeated) = self.known();
        let records = test.records();
        if let Some((row, other)) = shared.first
            && learns
            && shared.records > known
        {
            let count = Count {
                shared,
                records,
                example: format!(
                    "`{}` has the pixels of `{}` there",
                    named(test, row),
                    named(train, other)
                ),
            };
            count.check(most)?;
            count.warning().into_iter().for_each(&warn);
        }
        if let Some((row, first)) = repeated.first
            && repeated.records > known_repeated
        {
            warn(format!(
                "{} of {records} test images have the pixels of another one of the test set, such as `{}` and `{}`: each counts",
                repeated.records,
                named(test, row),
                named(test, first)
            ));
        }
        Ok(())
    }

    /// The warning that the pretraining of the `network` ("encoder" or "detector") has seen test images.
    ///
    /// # Errors
    /// [`Error::PretrainedOnTest`] above the share that the config allows.
    fn check_pretraining(&self, network: &str, most: Option<f64>) -> Result<Option<String>, Error> {
        let Some(seen) = self.seen_by(network) else {
            return Ok(None);
        };
        let records = self.test_records;
        let share = self
            .pretraining_sample
            .map_or(1.0, |sample| sample.share(records));
        match most {
            Some(most) if share > most => Err(Error::PretrainedOnTest { seen, most }),
            _ => Ok(Some(format!("{seen}: its scores are higher than on new images"))),
        }
    }

    /// What the encoder's pretraining says about the scores; `None` where no test image is known to be in it.
    pub(crate) fn of_encoder(&self) -> Option<String> {
        self.seen_by("encoder")
    }

    fn seen_by(&self, network: &str) -> Option<String> {
        let of_images = match (self.pretraining, self.pretraining_sample) {
            (Pretraining::TestSet, _) => "the images of this test set".to_string(),
            (_, Some(sample)) if sample.test_in_pretraining > 0 => sample.in_words(self.test_records),
            _ => return None,
        };
        let trained = if network == "detector" {
            "trained"
        } else {
            "pretrained"
        };
        Some(format!("the {network} was {trained} on {of_images}"))
    }
}

/// Test images whose pixels were compared as the encoder sees them, decoded and transformed: copies of one picture in
/// files that differ are one. Pictures of one color may be one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByPixels {
    /// Test records with the pixels of a training record.
    pub test_in_training: usize,
    /// Test records with the pixels of an earlier test record.
    pub test_repeated: usize,
}

impl ByPixels {
    /// Checks stored counts of a test set of `records`.
    ///
    /// # Errors
    /// [`Error::SharedRecords`] above the share that the config allows.
    pub(crate) fn check(self, records: usize, most: Option<f64>) -> Result<(), Error> {
        let shared = Shared {
            records: self.test_in_training,
            ..Shared::default()
        };
        let example = "they have the pixels of training images".to_string();
        let count = Count {
            shared,
            records,
            example,
        };
        count.check(most)
    }

    /// What these counts add to those of `overlap`.
    fn in_words(self, overlap: &Overlap) -> Vec<String> {
        let ((shared, repeated), records) = (overlap.known(), overlap.test_records);
        let mut sentences = vec![];
        if self.test_in_training > shared {
            sentences.push(format!(
                "{} of {records} test images have the pixels of a training image",
                self.test_in_training
            ));
        }
        if self.test_repeated > repeated {
            sentences.push(format!(
                "{} of {records} test images have the pixels of another one of the test set",
                self.test_repeated
            ));
        }
        sentences
    }
}

/// Test images compared with the sample of pretraining images in an encoder file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PretrainingSample {
    /// Test records that could be compared: all of them for a small pretraining set, else a fair sample.
    pub test_compared: usize,
    /// Those among them that were in the pretraining.
    pub test_in_pretraining: usize,
}

impl PretrainingSample {
    /// The share of a test set of `records` that was in the pretraining: of a sample of too few images only as
    /// much as is sure.
    fn share(self, records: usize) -> f64 {
        const ENOUGH: usize = 30;
        let of = match self.test_compared >= ENOUGH {
            true => self.test_compared,
            false => records,
        };
        self.test_in_pretraining as f64 / of.max(1) as f64
    }

    fn in_words(self, records: usize) -> String {
        let (seen, compared) = (self.test_in_pretraining, self.test_compared);
        match compared == records {
            true => format!("{seen} of the {compared} test images"),
            false => {
                format!(
                    "{seen} of the {compared} test images that its sample of the pretraining data can show"
                )
            }
        }
    }
}

/// What is the same in two records that are counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The bytes of the images.
    Images,
    /// The rows of features, from features files, which hold no hashes of images. A device that rounds
    /// otherwise from batch to batch gives one image two rows, so copies may be missed.
    Features,
}

/// What is known of an encoder's pretraining data. An encoder file holds a fingerprint of all of them, which
/// says whether two sets are the same, and a sample of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pretraining {
    /// This training set.
    TrainingSet,
    /// This test set.
    TestSet,
    /// Another set, which may contain test images; the sample shows whether.
    OtherData,
    /// The file does not say, or there is none.
    NotStated,
}

impl Pretraining {
    /// Compares fingerprints; that of the pretraining data is empty where it is unknown.
    fn of(fingerprint: &str, train: &str, test: &str) -> Self {
        match fingerprint {
            "" => Self::NotStated,
            // Before the training set: where both are one set, this is what matters.
            known if known == test => Self::TestSet,
            known if known == train => Self::TrainingSet,
            _ => Self::OtherData,
        }
    }
}

/// Two sets to compare.
pub(crate) struct Comparison<'a> {
    pub(crate) train: &'a Records,
    pub(crate) test: &'a Records,
    /// Fingerprint of the whole training set, of which `train` may be a part.
    pub(crate) train_fingerprint: &'a str,
    /// What the encoder's file says of its pretraining data.
    pub(crate) pretrained_on: &'a PretrainedOn,
    /// `max_shared_fraction` of the config.
    pub(crate) most: Option<f64>,
    /// Whether anything learns from the training set's labels: else it may well be the test set.
    pub(crate) learns: bool,
}

impl Comparison<'_> {
    /// Counts, warns, and gives an error above the share that the config allows.
    ///
    /// # Errors
    /// [`Error::SharedRecords`], [`Error::PretrainedOnTest`], and images that cannot be read.
    pub(crate) fn check(&self) -> Result<Overlap, Error> {
        let (train, test) = (self.train, self.test);
        let shared = test.shared_with(train)?;
        let repeated = test.repeated()?;
        let named = |records: &Records, position: usize| -> Result<String, Error> {
            Ok(escape(&records.key(position)?))
        };
        let count = Count {
            shared,
            records: test.len(),
            example: match shared.first {
                Some((of_test, of_train)) => {
                    format!(
                        "`{}` is `{}` there",
                        named(test, of_test)?,
                        named(train, of_train)?
                    )
                }
                None => String::new(),
            },
        };
        if self.learns {
            count.check(self.most)?;
            if let Some(warning) = count.warning() {
                test.warn_once(warning);
            }
        }
        if let Some((position, first)) = repeated.first {
            test.warn_once(format!(
                "{} of {} test images repeat another one of the test set byte for byte, such as `{}` and `{}`: each counts",
                repeated.records,
                test.len(),
                named(test, position)?,
                named(test, first)?
            ));
        }
        let known = self.pretrained_on;
        let pretraining = Pretraining::of(&known.fingerprint, self.train_fingerprint, test.fingerprint());
        let sample = match pretraining {
            Pretraining::OtherData if !known.sample.is_empty() => Some(test.compare(&known.sample)?),
            _ => None,
        };
        let overlap = Overlap {
            compared: Compared::Images,
            test_records: test.len(),
            test_in_training: shared.records,
            test_repeated: repeated.records,
            by_pixels: None,
            pretraining,
            pretraining_sample: sample.map(|sampled| PretrainingSample {
                test_compared: sampled.compared,
                test_in_pretraining: sampled.shared,
            }),
        };
        if let Some(warning) = overlap.check_pretraining(known.network, self.most)? {
            test.warn_once(warning);
        }
        Ok(overlap)
    }
}

/// Shared records of a test set.
struct Count {
    shared: Shared,
    records: usize,
    /// One of them, in words.
    example: String,
}

impl Count {
    fn check(&self, most: Option<f64>) -> Result<(), Error> {
        let share = self.shared.records as f64 / self.records.max(1) as f64;
        // Without the key, only a test set without any new image is refused.
        let is_refused = match most {
            Some(most) => share > most,
            None => self.records > 0 && self.shared.records == self.records,
        };
        match is_refused {
            false => Ok(()),
            true => Err(Error::SharedRecords {
                shared: self.shared.records,
                records: self.records,
                example: self.example.clone(),
                limit: most.map_or(String::new(), |most| {
                    format!(", more than `max_shared_fraction` = {most} allows")
                }),
            }),
        }
    }

    fn warning(&self) -> Option<String> {
        (self.shared.records > 0).then(|| {
            format!(
                "{} of {} test images lie in the training set too ({}): scores are higher than on new images",
                self.shared.records, self.records, self.example
            )
        })
    }
}

/// The same for features files: the pixels that the encoder saw, where both hold their hashes, and rows of one tap
/// that are equal to the bit. Without the key rows alone are no error.
///
/// # Errors
/// [`Error::SharedRecords`].
pub(crate) fn of_features(
    train: &Features,
    test: &Features,
    most: Option<f64>,
    learns: bool,
) -> Result<Overlap, Error> {
    let taps = test.taps.iter();
    // The widest tap tells pictures apart best.
    let widest = taps
        .filter(|(name, rows)| {
            train
                .taps
                .get(*name)
                .is_some_and(|other| other.width == rows.width)
        })
        .max_by_key(|(_, rows)| rows.width);
    let (shared, repeated) = match widest {
        Some((name, rows)) => equal(bits(&train.taps[name]), bits(rows)),
        None => Default::default(),
    };
    let mut overlap = Overlap {
        compared: Compared::Features,
        test_records: test.records(),
        test_in_training: shared.records,
        test_repeated: repeated.records,
        by_pixels: None,
        pretraining: test.seen.as_ref().map_or(Pretraining::NotStated, |seen| {
            Pretraining::of(
                &seen.fingerprint,
                &train.origin.fingerprint,
                &test.origin.fingerprint,
            )
        }),
        pretraining_sample: None,
    };
    if let Some(seen) = test.seen.as_ref().filter(|seen| seen.compared > 0)
        && overlap.pretraining == Pretraining::OtherData
    {
        overlap.pretraining_sample = Some(PretrainingSample {
            test_compared: seen.compared,
            test_in_pretraining: seen.in_pretraining,
        });
    }
    if let Some(warning) = overlap.check_pretraining("encoder", most)? {
        tracing::warn!("{warning}");
    }
    overlap.compare_pixels(train, test, most, learns, |warning| tracing::warn!("{warning}"))?;
    let explained = overlap
        .by_pixels
        .map_or(0, |by_pixels| by_pixels.test_in_training);
    let count = Count {
        shared,
        records: test.records(),
        example: match shared.first {
            Some((row, other)) => {
                let [one, two] = [&test.keys[row], &train.keys[other]].map(|key| escape(key));
                format!("the features of `{one}` are those of `{two}` there")
            }
            None => String::new(),
        },
    };
    if learns && shared.records > explained {
        // Equal rows may come from a collapsed encoder as well, so only the key makes them an error.
        if most.is_some() {
            count.check(most)?;
        }
        tracing::warn!(
            "{} of {} test rows are equal to training rows to the bit ({}): the same images, or images that the encoder does not tell apart",
            count.shared.records,
            count.records,
            count.example
        );
    }
    Ok(overlap)
}

/// The rows of a matrix as bits, which can be compared.
fn bits(matrix: &Matrix) -> impl Iterator<Item = Vec<u32>> + Clone {
    (0..matrix.rows).map(move |row| matrix.row(row).iter().map(|value| value.to_bits()).collect())
}

/// Test records that are equal to a training record, and those that are equal to an earlier one.
fn equal<T: Eq + Hash>(
    train: impl Iterator<Item = T>,
    test: impl Iterator<Item = T> + Clone,
) -> (Shared, Shared) {
    let mut places: HashMap<T, (usize, Option<usize>)> = HashMap::new();
    let mut repeated = Shared::default();
    for (row, value) in test.clone().enumerate() {
        match places.entry(value) {
            Entry::Occupied(place) => {
                repeated.records += 1;
                repeated.first.get_or_insert((row, place.get().0));
            }
            Entry::Vacant(place) => {
                place.insert((row, None));
            }
        }
    }
    for (row, value) in train.enumerate() {
        if let Some((_, place)) = places.get_mut(&value) {
            place.get_or_insert(row);
        }
    }
    let mut shared = Shared::default();
    for (row, value) in test.enumerate() {
        if let Some((_, Some(place))) = places.get(&value) {
            shared.records += 1;
            shared.first.get_or_insert((row, *place));
        }
    }
    (shared, repeated)
}

#[cfg(test)]
mod tests;
