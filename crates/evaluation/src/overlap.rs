//! Test images that the encoder or the classifier has seen in training: counted by content, reported, refused
//! above a share.
//!
//! A copy of a training image under another name is recognized, since the hashes of all images are in the
//! indexes. A picture that was scaled or compressed again has other bytes and is not.

use crate::encoder::PretrainedOn;
use crate::error::Error;
use crate::features::{Features, Matrix, Records};
use data::Shared;
use data::terminal::escape;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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
        told.map(|(_, sentence)| sentence).collect()
    }

    /// What the encoder's pretraining says about the scores; `None` where no test image is known to be in it.
    pub(crate) fn of_encoder(&self) -> Option<String> {
        let of_images = match (self.pretraining, self.pretraining_sample) {
            (Pretraining::TestSet, _) => "the images of this test set".to_string(),
            (_, Some(sample)) if sample.test_in_pretraining > 0 => sample.in_words(self.test_records),
            _ => return None,
        };
        Some(format!("the encoder was pretrained on {of_images}"))
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
            pretraining,
            pretraining_sample: sample.map(|sampled| PretrainingSample {
                test_compared: sampled.compared,
                test_in_pretraining: sampled.shared,
            }),
        };
        if let Some(seen) = overlap.of_encoder() {
            let share = overlap
                .pretraining_sample
                .map_or(1.0, |sample| sample.share(test.len()));
            if let Some(most) = self.most
                && share > most
            {
                return Err(Error::PretrainedOnTest { seen, most });
            }
            test.warn_once(format!("{seen}: its scores are higher than on new images"));
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

/// The same for features files: rows of one tap that are equal to the bit. Without the key none is refused.
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
        Some((name, rows)) => equal_rows(&train.taps[name], rows),
        None => Default::default(),
    };
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
    if learns && shared.records > 0 {
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
    Ok(Overlap {
        compared: Compared::Features,
        test_records: test.records(),
        test_in_training: shared.records,
        test_repeated: repeated,
        pretraining: Pretraining::NotStated,
        pretraining_sample: None,
    })
}

/// Test rows that are equal to a training row, and test rows that are equal to an earlier one.
fn equal_rows(train: &Matrix, test: &Matrix) -> (Shared, usize) {
    let bits = |matrix: &Matrix, row: usize| -> Vec<u32> {
        matrix.row(row).iter().map(|value| value.to_bits()).collect()
    };
    let mut places: HashMap<Vec<u32>, Option<usize>> = HashMap::with_capacity(test.rows);
    let mut repeated = 0;
    for row in 0..test.rows {
        repeated += usize::from(places.insert(bits(test, row), None).is_some());
    }
    for row in 0..train.rows {
        if let Some(place) = places.get_mut(&bits(train, row)) {
            place.get_or_insert(row);
        }
    }
    let mut shared = Shared::default();
    for row in 0..test.rows {
        if let Some(Some(place)) = places.get(&bits(test, row)) {
            shared.records += 1;
            shared.first.get_or_insert((row, *place));
        }
    }
    (shared, repeated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::features;
    use data::{ContentSample, Dataset, Record};

    /// Records with these images, named by their places.
    fn records(prefix: &str, images: &[u8]) -> Records {
        let record = |(place, image): (usize, &u8)| Record {
            key: format!("{prefix}{place}"),
            image: vec![*image],
            label: None,
            metadata: data::Metadata::default(),
        };
        Dataset::from_records(images.iter().enumerate().map(record).collect(), vec![]).into()
    }

    fn check(train: &Records, test: &Records, most: Option<f64>) -> Result<Overlap, Error> {
        Comparison {
            train,
            test,
            train_fingerprint: train.fingerprint(),
            pretrained_on: &PretrainedOn::default(),
            most,
            learns: true,
        }
        .check()
    }

    #[test]
    fn copies_under_other_names_are_counted_and_refused_above_the_share() {
        let (train, test) = (records("a", &[1, 2, 3, 4]), records("b", &[9, 2, 2, 4]));
        let overlap = check(&train, &test, None).unwrap();
        assert_eq!((overlap.test_in_training, overlap.test_repeated), (3, 1));
        assert_eq!(overlap.compared, Compared::Images);
        check(&train, &test, Some(0.75)).unwrap();
        assert_eq!(
            check(&train, &test, Some(0.7)).unwrap_err().to_string(),
            "3 of 4 test images lie in the training set too (`b1` is `a1` there), more than `max_shared_fraction` = 0.7 allows"
        );
    }

    #[test]
    fn a_test_set_without_a_new_image_is_refused_by_default() {
        let (train, test) = (records("a", &[1, 2, 3, 4]), records("b", &[3, 2]));
        let error = check(&train, &test, None).unwrap_err().to_string();
        assert!(error.starts_with("2 of 2 test images"), "{error}");
        assert_eq!(check(&train, &test, Some(1.0)).unwrap().test_in_training, 2);
        // Without labels to learn from, the training set may be the test set.
        let unlearned = Comparison {
            train: &train,
            test: &test,
            train_fingerprint: train.fingerprint(),
            pretrained_on: &PretrainedOn::default(),
            most: Some(0.0),
            learns: false,
        };
        assert_eq!(unlearned.check().unwrap().test_in_training, 2);
        assert_eq!(
            check(&train, &records("b", &[7, 8]), Some(0.0))
                .unwrap()
                .test_in_training,
            0
        );
    }

    #[test]
    fn what_an_encoder_was_pretrained_on_is_told_as_far_as_its_file_says() {
        let (train, test) = (records("a", &[1, 2]), records("b", &[3, 4, 5, 6]));
        // Images of both, and of neither.
        let others = records("c", &[2, 3, 4, 9]);
        let of = |fingerprint: &str, sample: &ContentSample, most| {
            let comparison = Comparison {
                train: &train,
                test: &test,
                train_fingerprint: train.fingerprint(),
                pretrained_on: &PretrainedOn {
                    fingerprint: fingerprint.to_string(),
                    sample: sample.clone(),
                },
                most,
                learns: true,
            };
            let overlap = comparison.check()?;
            let sample = overlap.pretraining_sample;
            let sample = sample.map(|sample| (sample.test_compared, sample.test_in_pretraining));
            Ok::<_, Error>((overlap.pretraining, sample))
        };
        let none = ContentSample::default();
        assert_eq!(of("", &none, Some(0.0)).unwrap(), (Pretraining::NotStated, None));
        assert_eq!(
            of("00ff", &none, Some(0.0)).unwrap(),
            (Pretraining::OtherData, None)
        );
        assert_eq!(
            of(train.fingerprint(), train.sample(), Some(0.0)).unwrap(),
            (Pretraining::TrainingSet, None)
        );
        assert_eq!(
            of(test.fingerprint(), test.sample(), None).unwrap(),
            (Pretraining::TestSet, None)
        );
        let error = of(test.fingerprint(), &none, Some(0.5)).unwrap_err().to_string();
        assert_eq!(
            error,
            "the encoder was pretrained on the images of this test set, more than `max_shared_fraction` = 0.5 allows"
        );
        // A part of the test set among other pictures.
        assert_eq!(
            of(others.fingerprint(), others.sample(), Some(0.5)).unwrap(),
            (Pretraining::OtherData, Some((4, 2)))
        );
        let error = of(others.fingerprint(), others.sample(), Some(0.4))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("pretrained on 2 of the 4 test images, more than"),
            "{error}"
        );
    }

    #[test]
    fn a_small_sample_gives_a_share_that_is_sure() {
        let sample = |test_compared, test_in_pretraining| PretrainingSample {
            test_compared,
            test_in_pretraining,
        };
        // One image of three says that at least one of 1,000 was seen; forty tell the share.
        assert_eq!(sample(3, 1).share(1000), 0.001);
        assert_eq!(sample(40, 10).share(1000), 0.25);
    }

    #[test]
    fn readers_of_a_report_are_told_what_is_not_new() {
        let new = Overlap {
            compared: Compared::Images,
            test_records: 50,
            test_in_training: 0,
            test_repeated: 0,
            pretraining: Pretraining::OtherData,
            pretraining_sample: None,
        };
        assert_eq!((new.of_data(), new.of_encoder()), (vec![], None));
        let sampled = |test_compared, test_in_pretraining| Overlap {
            pretraining_sample: Some(PretrainingSample {
                test_compared,
                test_in_pretraining,
            }),
            ..new.clone()
        };
        assert_eq!(sampled(50, 0).of_encoder(), None);
        assert_eq!(
            sampled(50, 7).of_encoder().unwrap(),
            "the encoder was pretrained on 7 of the 50 test images"
        );
        assert_eq!(
            sampled(40, 7).of_encoder().unwrap(),
            "the encoder was pretrained on 7 of the 40 test images that its sample of the pretraining data can show"
        );
        let all = Overlap {
            test_in_training: 9,
            test_repeated: 2,
            pretraining: Pretraining::TestSet,
            ..new
        };
        assert_eq!(
            all.of_data(),
            [
                "9 of 50 test images lie in the training set too",
                "2 of 50 test images repeat another one of the test set",
            ]
        );
        assert_eq!(
            all.of_encoder().unwrap(),
            "the encoder was pretrained on the images of this test set"
        );
    }

    #[test]
    fn equal_rows_of_features_are_counted() {
        let train = features(2, vec![1.0, 2.0, 3.0, 4.0], vec![0, 1]);
        let test = features(2, vec![3.0, 4.0, 3.0, 5.0, 3.0, 4.0], vec![0, 1, 1]);
        let overlap = of_features(&train, &test, None, true).unwrap();
        assert_eq!(
            (overlap.test_in_training, overlap.test_repeated, overlap.compared),
            (2, 1, Compared::Features)
        );
        let error = of_features(&train, &test, Some(0.5), true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the features of `record-0` are those of `record-1` there"),
            "{error}"
        );
    }
}
