//! Test images that are training images, under other names and in other files.

use super::*;

#[test]
fn copies_of_training_images_are_in_every_result_and_refused_above_the_share() {
    let fixture = Fixture::new();
    let train = Dataset::synthetic(12, 10, 10, 3, 1);
    let new = Dataset::synthetic(6, 10, 10, 3, 2);
    let names = train.class_names().to_vec();
    let record = |at: usize| data::Record {
        key: format!("under-another-name-{at}"),
        ..if at < 4 { &train } else { &new }.read(at).unwrap()
    };
    let test = Dataset::from_records((0..6).map(record).collect(), names);
    let job = fixture.job(Dataset::synthetic(12, 10, 10, 3, 1), test);
    let knn: Vec<&str> = CONFIG.split("[[protocols]]").take(2).collect();
    let mut config: Config = toml::from_str(&knn.join("[[protocols]]")).unwrap();
    let expected = crate::Overlap {
        compared: crate::Compared::Images,
        test_records: 6,
        test_in_training: 4,
        test_repeated: 0,
        by_pixels: Some(crate::ByPixels {
            test_in_training: 4,
            test_repeated: 0,
        }),
        pretraining: crate::Pretraining::NotStated,
        pretraining_sample: None,
    };
    for _ in 0..2 {
        let outcomes = run(&config, &job, &mut |_| {}).unwrap();
        assert_eq!(
            outcomes,
            read_results(&fixture.out.path().join("result.json")).unwrap()
        );
        assert!(outcomes.len() > 1);
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.overlap == Some(expected.clone()))
        );
    }
    config.max_shared_fraction = Some(0.5);
    let error = run(&config, &job, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.starts_with("4 of 6 test images lie in the training set too (`under-another-name-0` is `synthetic-00000000` there)"),
        "{error}"
    );
    config.max_shared_fraction = Some(0.7);
    run(&config, &job, &mut |_| {}).unwrap();
}

/// The picture as a BMP: rows from the bottom, blue before red, each padded to four bytes.
fn bmp(image: &data::RgbImage) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    for number in [0, 0, 54, 40, image.width, image.height] {
        file.extend(number.to_le_bytes());
    }
    file.extend([1, 0, 24, 0]);
    file.extend([0; 24]);
    let row_bytes = 3 * image.width as usize;
    for row in image.pixels.chunks(row_bytes).rev() {
        file.extend(
            row.as_chunks::<3>()
                .0
                .iter()
                .flat_map(|[red, green, blue]| [blue, green, red]),
        );
        file.extend(vec![0; row_bytes.next_multiple_of(4) - row_bytes]);
    }
    file
}

#[test]
fn copies_of_training_images_in_other_files_are_found_by_the_pixels_that_the_encoder_sees() {
    let fixture = Fixture::new();
    let train = Dataset::synthetic(12, 10, 10, 3, 1);
    let new = Dataset::synthetic(6, 10, 10, 3, 2);
    let names = train.class_names().to_vec();
    // The same pixels without compression.
    let record = |at: usize| {
        let mut record = if at < 4 { &train } else { &new }.read(at).unwrap();
        let image = data::decode(&record.image, &data::DecodeLimits::default()).unwrap();
        record.key = format!("in-another-format-{at}");
        record.image = bmp(&image);
        record
    };
    let job = fixture.job(
        Dataset::synthetic(12, 10, 10, 3, 1),
        Dataset::from_records((0..6).map(record).collect(), names),
    );
    let knn: Vec<&str> = CONFIG.split("[[protocols]]").take(2).collect();
    let mut config: Config = toml::from_str(&knn.join("[[protocols]]")).unwrap();
    config.max_shared_fraction = Some(0.5);
    let error = run(&config, &job, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.starts_with("4 of 6 test images lie in the training set too (`in-another-format-0` has the pixels of `synthetic-00000000` there)"),
        "{error}"
    );
    config.max_shared_fraction = None;
    for _ in 0..2 {
        let outcomes = run(&config, &job, &mut |_| {}).unwrap();
        let overlap = outcomes[0].overlap.clone().unwrap();
        assert_eq!((overlap.test_in_training, overlap.test_repeated), (0, 0));
        let by_pixels = overlap.by_pixels.unwrap();
        assert_eq!((by_pixels.test_in_training, by_pixels.test_repeated), (4, 0));
    }
    // The stored scores know it too.
    config.max_shared_fraction = Some(0.5);
    assert!(run(&config, &job, &mut |_| {}).is_err());
}
