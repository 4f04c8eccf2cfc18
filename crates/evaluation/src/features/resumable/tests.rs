//! Features whose extraction is interrupted, resumed, damaged, or of other work.

use super::*;
use crate::encoder::{Encoder, Tap};
use crate::features::{Extraction, FeatureType, Origin, Writing, Written};
use crate::testing::{DATA, NORMALIZE, backbone, resize};
use backbones::ResNetStage;
use burn::tensor::Device;
use data::{Dataset, Label, LoaderConfig, Metadata, Record};
use std::sync::Arc;

const TAPS: [Tap; 2] = [Tap::Pooled, Tap::Stage(ResNetStage::Res4)];

/// Fifty records, of which three are broken: two in the middle, one at the end of a batch.
fn records() -> Arc<Dataset> {
    let images = Dataset::synthetic(50, 10, 10, 3, 7);
    let records = (0..50).map(|position| Record {
        key: format!("photo-{position}"),
        image: match position {
            20 | 33 | 47 => b"no image".to_vec(),
            _ => images.read(position).unwrap().image,
        },
        label: Some(Label::Class(position as u32 % 3)),
        metadata: Metadata::default(),
    });
    Arc::new(Dataset::from_records(records.collect(), vec![]))
}

fn encoder() -> Encoder {
    Encoder::new("small", "hash", &backbone(0, &Device::flex()), NORMALIZE)
}

/// Extracts to `path`; also returns how many rows existed at the start.
fn write(
    path: &Path,
    encoder: &Encoder,
    config: &LoaderConfig,
    feature_type: FeatureType,
    unfinished: Unfinished,
) -> (Result<Written, Error>, Option<usize>) {
    let writing = Writing {
        feature_type,
        unfinished,
        set: "data",
    };
    let mut first = None;
    let extraction = Extraction {
        encoder,
        dataset: &records(),
        transforms: &resize(8),
        taps: &TAPS,
        data: config,
        device: &Device::flex(),
    };
    let written = extraction.write(path, writing, &mut |event| {
        first.get_or_insert(event.done);
    });
    (written, first)
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_holds_what_memory_would() {
    let folder = tempfile::tempdir().unwrap();
    let (path, memory) = (folder.path().join("x"), folder.path().join("memory"));
    let (written, _) = write(&path, &encoder(), &DATA, FeatureType::F32, Unfinished::Refuse);
    let written = written.unwrap();
    assert_eq!((written.records, written.bad_records), (47, 3));
    assert_eq!(written.widths[0], ("pooled".to_string(), 32));
    let extraction = Extraction {
        encoder: &encoder(),
        dataset: &records(),
        transforms: &resize(8),
        taps: &TAPS,
        data: &DATA,
        device: &Device::flex(),
    };
    let features = extraction.features(&mut |_| {});
    features.unwrap().save(&memory).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(memory).unwrap());

    let half = folder.path().join("half");
    write(&half, &encoder(), &DATA, FeatureType::F16, Unfinished::Refuse)
        .0
        .unwrap();
    let [whole, half] = [&path, &half].map(|path| Features::load(path).unwrap());
    for (tap, matrix) in &whole.taps {
        let pairs = matrix.values.iter().zip(&half.taps[tap].values);
        // Half of f16's spacing at this value.
        assert!(
            pairs
                .clone()
                .all(|(a, b)| (a - b).abs() <= a.abs() / 2048.0 + 3e-8)
        );
        assert!(pairs.clone().any(|(a, b)| a != b));
    }
    assert_eq!((&whole.keys, &whole.labels), (&half.keys, &half.labels));
    assert_eq!(files(folder.path()).len(), 3, "nothing else is left");
}

#[test]
fn work_goes_on_where_it_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    write(&whole, &encoder(), &DATA, FeatureType::F32, Unfinished::Refuse)
        .0
        .unwrap();
    let path = folder.path().join("x");
    let config = |max_bad_fraction| LoaderConfig {
        max_bad_fraction,
        workers: 2,
        ..DATA
    };
    let write = |allowed| {
        write(
            &path,
            &encoder(),
            &config(allowed),
            FeatureType::F32,
            Unfinished::Refuse,
        )
    };
    // No broken record allowed, then one: two stops, at the batches with records 20 and 33.
    let (error, first) = write(0.0);
    assert!(matches!(error.unwrap_err(), Error::Data(_)));
    assert_eq!(first, Some(8));
    let unfinished = folder.path().join("x.partial");
    let pooled = unfinished.join("pooled");
    assert_eq!(fs::metadata(&pooled).unwrap().len(), 16 * 32 * 4);
    // Bytes after the last saved state are truncated.
    let mut file = OpenOptions::new().append(true).open(&pooled).unwrap();
    file.write_all(b"half a row").unwrap();
    let (error, first) = write(0.02);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("2 of 50 records"),
        "broken ones of both calls count: {error}"
    );
    assert_eq!(first, Some(16));
    let (written, first) = write(0.06);
    assert_eq!((written.unwrap().bad_records, first), (3, Some(31)));
    assert_eq!(fs::read(&path).unwrap(), fs::read(&whole).unwrap());
    assert!(!unfinished.exists());
}

#[test]
fn what_is_damaged_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let strict = LoaderConfig {
        max_bad_fraction: 0.0,
        ..DATA
    };
    let write = |config| write(&path, &encoder(), config, FeatureType::F32, Unfinished::Refuse);
    let unfinished = folder.path().join("x.partial");
    let damages: [&dyn Fn(); 3] = [
        &|| fs::write(unfinished.join(STATE), b"{}").unwrap(),
        &|| fs::write(unfinished.join("res4"), b"too few").unwrap(),
        &|| fs::remove_file(unfinished.join(POSITIONS)).unwrap(),
    ];
    for damage in damages {
        write(&strict).0.unwrap_err();
        damage();
        let (written, first) = write(&DATA);
        assert_eq!((written.unwrap().records, first), (47, Some(8)));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn work_that_an_earlier_version_began_is_resumed_without_hashes_of_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let strict = LoaderConfig {
        max_bad_fraction: 0.0,
        ..DATA
    };
    let write = |config| write(&path, &encoder(), config, FeatureType::F32, Unfinished::Refuse);
    write(&strict).0.unwrap_err();
    fs::remove_file(folder.path().join("x.partial").join(PIXEL_HASHES)).unwrap();
    let (written, first) = write(&DATA);
    assert_eq!((written.unwrap().records, first), (47, Some(16)));
    assert_eq!(Features::load(&path).unwrap().pixel_hashes, None);
    fs::remove_file(&path).unwrap();
    write(&strict).0.unwrap_err();
    write(&DATA).0.unwrap();
    let hashes = Features::load(&path).unwrap().pixel_hashes;
    assert_eq!(hashes.map(|hashes| hashes.len()), Some(47));
}

#[test]
fn other_work_is_refused_or_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let strict = LoaderConfig {
        max_bad_fraction: 0.0,
        ..DATA
    };
    let refuse = Unfinished::Refuse;
    write(&path, &encoder(), &strict, FeatureType::F32, refuse)
        .0
        .unwrap_err();
    let message = |(written, _): (Result<Written, Error>, _)| written.unwrap_err().to_string();
    let halves = message(write(&path, &encoder(), &DATA, FeatureType::F16, refuse));
    assert!(
        halves.ends_with("x.partial` holds unfinished features of another number type"),
        "{halves}"
    );
    let batches = LoaderConfig {
        batch_images: 5,
        ..DATA
    };
    let batches = message(write(&path, &encoder(), &batches, FeatureType::F32, refuse));
    assert!(
        batches.ends_with("unfinished features of batches of 8 images"),
        "{batches}"
    );
    let other = Encoder::new("other", "another hash", &backbone(1, &Device::flex()), NORMALIZE);
    let encoders = message(write(&path, &other, &DATA, FeatureType::F32, refuse));
    assert!(
        encoders.ends_with("unfinished features of another encoder, `small`"),
        "{encoders}"
    );
    // Under another name it is still the same encoder.
    let renamed = Encoder::new("moved", "hash", &backbone(0, &Device::flex()), NORMALIZE);
    assert_eq!(
        write(&path, &renamed, &strict, FeatureType::F32, refuse).1,
        Some(16)
    );
    let (written, first) = write(&path, &other, &DATA, FeatureType::F32, Unfinished::Discard);
    assert_eq!((written.unwrap().records, first), (47, Some(8)));
    assert_eq!(Features::load(&path).unwrap().origin.encoder, "another hash");
}

#[test]
fn two_processes_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let work = Work {
        origin: Origin::default(),
        taps: vec!["pooled".into()],
        feature_type: FeatureType::F32,
        batch_images: 8,
        records: 50,
        slice: None,
    };
    let first = ResumableFeatures::open(&path, work.clone(), Unfinished::Discard).unwrap();
    let second = ResumableFeatures::open(&path, work, Unfinished::Discard);
    assert!(matches!(second, Err(Error::Lock(data::LockError::InUse { .. }))));
    drop(first);
}

#[test]
fn numbers_that_cannot_be_kept_name_their_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let push = |value: f32, feature_type| {
        let work = Work {
            origin: Origin::default(),
            taps: vec!["pooled".into()],
            feature_type,
            batch_images: 8,
            records: 50,
            slice: None,
        };
        let mut partial = ResumableFeatures::open(&path, work, Unfinished::Discard).unwrap();
        let rows = [(2, vec![0.0, 1.0, 2.0, value])];
        let pushed = partial.push(&[3, 5], &[8, 9], &rows, "data", |position| {
            Ok(format!("photo-{position}"))
        });
        pushed.map_err(|error| error.to_string())
    };
    push(65504.0, FeatureType::F16).unwrap();
    push(1e30, FeatureType::F32).unwrap();
    assert_eq!(
        push(70000.0, FeatureType::F16).unwrap_err(),
        "features of record `photo-5` at `pooled` must be within ±65504 for f16, got 70000"
    );
    let error = push(f32::NAN, FeatureType::F32).unwrap_err();
    assert!(error.contains("row 1 (record `photo-5`) holds NaN"), "{error}");
}
