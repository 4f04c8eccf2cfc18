//! What two sets share, counted and told.

use super::*;
use crate::features::SeenInPretraining;
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
                network: "encoder",
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
        of(train.fingerprint(), train.sample().unwrap(), Some(0.0)).unwrap(),
        (Pretraining::TrainingSet, None)
    );
    assert_eq!(
        of(test.fingerprint(), test.sample().unwrap(), None).unwrap(),
        (Pretraining::TestSet, None)
    );
    let error = of(test.fingerprint(), &none, Some(0.5)).unwrap_err().to_string();
    assert_eq!(
        error,
        "the encoder was pretrained on the images of this test set, more than `max_shared_fraction` = 0.5 allows"
    );
    // A part of the test set among other pictures.
    assert_eq!(
        of(others.fingerprint(), others.sample().unwrap(), Some(0.5)).unwrap(),
        (Pretraining::OtherData, Some((4, 2)))
    );
    let error = of(others.fingerprint(), others.sample().unwrap(), Some(0.4))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pretrained on 2 of the 4 test images, more than"),
        "{error}"
    );
}

#[test]
fn what_a_detector_was_trained_on_is_told_of_the_detector() {
    let (train, test) = (records("a", &[1, 2]), records("b", &[3, 4]));
    let comparison = Comparison {
        train: &train,
        test: &test,
        train_fingerprint: train.fingerprint(),
        pretrained_on: &PretrainedOn {
            network: "detector",
            fingerprint: "00ff".into(),
            sample: records("c", &[4, 9]).sample().unwrap().clone(),
        },
        most: Some(0.4),
        learns: true,
    };
    assert_eq!(
        comparison.check().unwrap_err().to_string(),
        "the detector was trained on 1 of the 2 test images, more than `max_shared_fraction` = 0.4 allows"
    );
}

#[test]
fn features_know_what_their_encoder_was_pretrained_on() {
    let train = features(1, vec![1.0, 2.0], vec![0, 1]);
    let mut test = features(1, vec![3.0, 4.0, 5.0, 6.0], vec![0, 1, 0, 1]);
    let of = |test: &Features, most| of_features(&train, test, most, true);
    assert_eq!(of(&test, None).unwrap().pretraining, Pretraining::NotStated);
    test.seen = Some(SeenInPretraining {
        fingerprint: "00ff".into(),
        compared: 4,
        in_pretraining: 3,
    });
    test.origin.fingerprint = "0f".into();
    let overlap = of(&test, None).unwrap();
    assert_eq!(
        (overlap.pretraining, overlap.pretraining_sample),
        (
            Pretraining::OtherData,
            Some(PretrainingSample {
                test_compared: 4,
                test_in_pretraining: 3,
            })
        )
    );
    assert_eq!(
        of(&test, Some(0.5)).unwrap_err().to_string(),
        "the encoder was pretrained on 3 of the 4 test images, more than `max_shared_fraction` = 0.5 allows"
    );
    // The test set itself.
    test.origin.fingerprint = "00ff".into();
    assert_eq!(of(&test, None).unwrap().pretraining, Pretraining::TestSet);
    assert!(of(&test, Some(0.5)).is_err());
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
        by_pixels: None,
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

#[test]
fn pixels_show_copies_whose_files_differ() {
    let hashed = |hashes: &[u64]| Features {
        pixel_hashes: Some(hashes.to_vec()),
        ..features(
            1,
            hashes.iter().map(|hash| *hash as f32).collect(),
            vec![0; hashes.len()],
        )
    };
    let (train, test) = (hashed(&[1, 2, 3]), hashed(&[9, 2, 2, 4]));
    let mut overlap = of_features(&train, &test, None, true).unwrap();
    let by_pixels = ByPixels {
        test_in_training: 2,
        test_repeated: 1,
    };
    assert_eq!(overlap.by_pixels, Some(by_pixels));
    let error = of_features(&train, &test, Some(0.4), true)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 of 4 test images lie in the training set too (`record-1` has the pixels of `record-1` there), more than"),
        "{error}"
    );
    // Without labels to learn from, the training set may be the test set.
    of_features(&train, &test, Some(0.0), false).unwrap();
    // A test set without a new image.
    let error = of_features(&train, &hashed(&[3, 1]), None, true).unwrap_err();
    assert!(matches!(error, Error::SharedRecords { shared: 2, .. }), "{error}");
    // Files of an earlier version.
    let old = Features {
        pixel_hashes: None,
        ..test.clone()
    };
    assert_eq!(of_features(&train, &old, None, true).unwrap().by_pixels, None);
    // Beside copies of files, which are known already, only more of them are told.
    overlap.compared = Compared::Images;
    assert_eq!(
        overlap.of_data(),
        [
            "2 of 4 test images lie in the training set too",
            "1 of 4 test images repeat another one of the test set",
        ]
    );
    (overlap.test_in_training, overlap.test_repeated) = (1, 0);
    assert_eq!(
        overlap.of_data()[1..],
        [
            "2 of 4 test images have the pixels of a training image",
            "1 of 4 test images have the pixels of another one of the test set",
        ]
    );
}
