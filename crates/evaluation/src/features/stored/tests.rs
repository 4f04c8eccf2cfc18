//! Features that are read back: from files, from slices, and from what is neither.

use super::*;
use crate::encoder::{Encoder, Tap};
use crate::features::file::tests::example;
use crate::features::file::{Bytes, TensorPart};
use crate::features::{Extraction, FeatureCache, Unfinished, Writing, Written};
use crate::testing::{DATA, NORMALIZE, backbone, resize};
use burn::tensor::Device;
use data::{Dataset, Label, LoaderConfig, Metadata, Record};
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::fs;
use std::sync::Arc;

/// More than one piece of conversion.
const WIDTH: usize = 1 << 16;

#[test]
fn what_is_saved_is_read_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    for labels in [
        None,
        Some(Labels::Classes(vec![1, 0, 1])),
        Some(Labels::Sets {
            classes: 2,
            multi_hot: vec![0, 1, 1, 1, 0, 0],
        }),
    ] {
        let features = example(labels);
        features.save(&path).unwrap();
        assert_eq!(Features::load(&path).unwrap(), features);
        assert_eq!(Features::read_origin(&path).unwrap(), features.origin);
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "the temporary file is gone"
    );
}

#[test]
fn half_as_wide_numbers_are_read_as_well_and_taps_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    let features = example(None);
    // More than one piece.
    let rows: Vec<f16> = (0..3 * WIDTH).map(|i| f16::from_f32(i as f32 * 0.25)).collect();
    let part = |name, rows| TensorPart {
        name,
        dtype: Dtype::F16,
        shape: vec![3, WIDTH],
        bytes: Bytes::Memory(rows),
    };
    let bytes = bytemuck::cast_slice(rows.reinterpret_cast());
    features
        .save_with(&path, vec![part("a", bytes), part("b", bytes)], None)
        .unwrap();
    let stored = Stored::open(&path).unwrap();
    assert_eq!(
        (stored.taps(), stored.origin()),
        (vec!["a".into(), "b".into()], &features.origin)
    );
    let read = stored.read(&["b".to_string()]).unwrap();
    assert_eq!(read.taps.len(), 1);
    assert!(
        read.taps["b"]
            .values
            .iter()
            .zip(&rows)
            .all(|(read, row)| *read == row.to_f32())
    );
    assert_eq!(read.keys, features.keys);
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    let load = || Features::load(&path).unwrap_err().to_string();
    assert!(load().starts_with("cannot read"), "a missing file names itself");

    example(Some(Labels::Classes(vec![1, 0, 1]))).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(load().starts_with("features file"), "cut at {length}");
        assert!(
            length > 8 || Features::read_origin(&path).is_err(),
            "cut at {length}"
        );
    }
    let foreign = safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap();
    fs::write(&path, foreign).unwrap();
    assert!(load().contains("no `passer_features`"));
}

/// Fifty records of which three are broken, and labeled as `label` says.
fn records(seed: u64, label: fn(usize) -> Option<Label>) -> Arc<Dataset> {
    let images = Dataset::synthetic(50, 10, 10, 3, seed);
    let records = (0..50).map(|position| Record {
        key: format!("photo-{position}"),
        image: match position {
            20 | 33 | 47 => b"no image".to_vec(),
            _ => images.read(position).unwrap().image,
        },
        label: label(position),
        metadata: Metadata::default(),
    });
    Arc::new(Dataset::from_records(records.collect(), vec![]))
}

fn classes(position: usize) -> Option<Label> {
    Some(Label::Class(position as u32 % 3))
}

/// One extraction, whole or of a slice; batches of 8 images unless changed.
struct Call {
    encoder: Encoder,
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    taps: Vec<Tap>,
    feature_type: FeatureType,
    side: u32,
}

impl Call {
    fn new() -> Self {
        Self {
            encoder: Encoder::new("small", "hash", &backbone(0, &Device::flex()), NORMALIZE),
            dataset: records(7, classes),
            config: DATA,
            taps: vec![Tap::Pooled, Tap::named("res4").unwrap()],
            feature_type: FeatureType::F32,
            side: 8,
        }
    }

    fn extraction(
        &self,
        run: impl FnOnce(&Extraction<'_>, Writing) -> Result<Written, Error>,
    ) -> Result<Written, Error> {
        let writing = Writing {
            feature_type: self.feature_type,
            unfinished: Unfinished::Refuse,
            set: "data",
        };
        run(
            &Extraction {
                encoder: &self.encoder,
                dataset: &self.dataset,
                transforms: &resize(self.side),
                taps: &self.taps,
                data: &self.config,
                device: &Device::flex(),
            },
            writing,
        )
    }

    fn whole(&self, path: &Path) -> Written {
        self.extraction(|work, writing| work.write(path, writing, &mut |_| {}))
            .unwrap()
    }

    fn slice(&self, folder: &Path, number: usize, count: usize) -> Result<Written, Error> {
        let slice = Slice::new(number, count).unwrap();
        self.extraction(|work, writing| work.write_slice(folder, slice, writing, &mut |_| {}))
    }
}

fn slice_path(folder: &Path, number: usize, count: usize) -> PathBuf {
    folder.join(Slice::new(number, count).unwrap().file_name())
}

#[test]
fn slices_are_read_as_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    // Sets whose largest class is in one slice only, and one class each, and none.
    let sets: fn(usize) -> Option<Label> = |position| {
        let classes = (0..position as u32 / 10).collect();
        Some(Label::Classes(classes))
    };
    let labels: [fn(usize) -> Option<Label>; 3] = [classes, sets, |_| None];
    for (index, label) in labels.into_iter().enumerate() {
        for feature_type in [FeatureType::F32, FeatureType::F16] {
            let call = Call {
                dataset: records(7, label),
                feature_type,
                ..Call::new()
            };
            let name = format!("{index}-{feature_type:?}");
            let (whole, slices) = (folder.path().join(&name), folder.path().join(name + "-slices"));
            call.whole(&whole);
            // In any order; seven batches in four slices.
            let mut written = [3, 1, 4, 2].map(|number| call.slice(&slices, number, 4).unwrap());
            written.sort_by_key(|written| written.records);
            assert_eq!(written.iter().map(|written| written.records).sum::<usize>(), 47);
            assert_eq!(
                written.iter().map(|written| written.bad_records).sum::<usize>(),
                3
            );
            let one = Features::load(&slices).unwrap();
            assert_eq!(one, Features::load(&whole).unwrap());
            assert_eq!((one.records(), one.bad_records), (47, 3));
            assert_eq!(Features::read_origin(&slices).unwrap(), one.origin);

            // To the byte of every tensor: the slices' rows one after the other are the whole file's.
            let bytes = |path: &Path, tap: &str| {
                let file = fs::read(path).unwrap();
                let tensors = SafeTensors::deserialize(&file).unwrap();
                tensors.tensor(tap).unwrap().data().to_vec()
            };
            for tap in ["pooled", "res4", "keys"] {
                let slices = (1..=4).flat_map(|number| bytes(&slice_path(&slices, number, 4), tap));
                assert!(slices.eq(bytes(&whole, tap)), "{tap}");
            }
        }
    }
}

#[test]
fn a_finished_slice_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let call = Call::new();
    assert!(!call.slice(folder.path(), 2, 4).unwrap().was_there);
    let path = slice_path(folder.path(), 2, 4);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let again = call.slice(folder.path(), 2, 4).unwrap();
    assert!(again.was_there);
    assert_eq!((again.records, again.bad_records), (15, 1));
    assert_eq!(again.widths[0], ("pooled".to_string(), 32));
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn broken_records_of_a_slice_count_against_its_own_records() {
    let folder = tempfile::tempdir().unwrap();
    let call = |max_bad_fraction| Call {
        config: LoaderConfig {
            max_bad_fraction,
            ..DATA
        },
        ..Call::new()
    };
    // 6 % of 50 records are three; slice 2 has 16 records, and one of them is broken.
    let error = call(0.06).slice(folder.path(), 2, 4).unwrap_err().to_string();
    assert!(error.contains("1 of 16 records"), "{error}");
    assert_eq!(call(0.07).slice(folder.path(), 2, 4).unwrap().bad_records, 1);
}

#[test]
fn more_slices_than_batches_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = Call::new().slice(folder.path(), 8, 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "50 records make 7 batches of 8 images, too few for 8 slices"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The error of reading a folder of four slices after `change`.
fn refused(change: impl FnOnce(&Path)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let slices = folder.path().join("slices");
    for number in 1..=4 {
        Call::new().slice(&slices, number, 4).unwrap();
    }
    change(&slices);
    Features::load(&slices).unwrap_err()
}

fn fault(error: &Error) -> &SliceFault {
    match error {
        Error::Slices { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn missing_and_doubled_slices_are_named() {
    let error = refused(|slices| fs::remove_file(slice_path(slices, 3, 4)).unwrap());
    assert!(
        error.to_string().ends_with("slices`: slice 3 of 4 is missing"),
        "{error}"
    );
    let error = refused(|slices| {
        for number in [1, 4] {
            fs::remove_file(slice_path(slices, number, 4)).unwrap();
        }
    });
    assert_eq!(fault(&error).to_string(), "slices 1, 4 of 4 are missing");
    let error = refused(|slices| {
        fs::copy(slice_path(slices, 2, 4), slices.join("copy.safetensors")).unwrap();
    });
    assert_eq!(
        fault(&error).to_string(),
        "slice 2 of 4 is there twice, as `copy.safetensors` and `features-00002-of-00004.safetensors`"
    );
    // One under another's name.
    let error = refused(|slices| {
        fs::copy(slice_path(slices, 2, 4), slice_path(slices, 3, 4)).unwrap();
    });
    assert!(
        matches!(fault(&error), SliceFault::Doubled { number: 2, .. }),
        "{error}"
    );
    let error = refused(|slices| {
        for number in 1..=4 {
            fs::remove_file(slice_path(slices, number, 4)).unwrap();
        }
    });
    assert_eq!(fault(&error), &SliceFault::None);
    let error = refused(|slices| {
        example(None).save(&slices.join("whole.safetensors")).unwrap();
    });
    assert_eq!(fault(&error).to_string(), "`whole.safetensors` in it is no slice");
}

#[test]
fn slices_of_other_work_are_named() {
    /// A change of a slice's call.
    type Change = Box<dyn Fn(&mut Call)>;
    let changes: Vec<(&str, Change)> = vec![
        (
            "another encoder, `other`",
            Box::new(|call| {
                call.encoder = Encoder::new("other", "x", &backbone(1, &Device::flex()), NORMALIZE)
            }),
        ),
        (
            "other records",
            Box::new(|call| call.dataset = records(8, classes)),
        ),
        (
            "the same records with other labels",
            Box::new(|call| call.dataset = records(7, |_| Some(Label::Class(0)))),
        ),
        (
            "other taps: `pooled`",
            Box::new(|call| call.taps = vec![Tap::Pooled]),
        ),
        (
            "another number type",
            Box::new(|call| call.feature_type = FeatureType::F16),
        ),
        (
            "batches of 5 images",
            Box::new(|call| call.config.batch_images = 5),
        ),
        (
            "other transforms or another normalization",
            Box::new(|call| call.side = 16),
        ),
    ];
    for (difference, change) in changes {
        let folder = tempfile::tempdir().unwrap();
        let (slices, elsewhere) = (folder.path().join("slices"), folder.path().join("elsewhere"));
        for number in [1, 2, 4] {
            Call::new().slice(&slices, number, 4).unwrap();
        }
        let mut other = Call::new();
        change(&mut other);
        // A call that starts later notices.
        let error = other.slice(&slices, 3, 4).unwrap_err();
        let of_other = |error: &Error, what: &str| {
            let message = fault(error).to_string();
            assert!(message.starts_with(what), "{message}");
        };
        of_other(
            &error,
            "slice 1 of 4 (`features-00001-of-00004.safetensors`) is of ",
        );
        assert!(!slice_path(&slices, 3, 4).exists());
        // One that ran at the same time, or elsewhere, is noticed by whoever reads.
        other.slice(&elsewhere, 3, 4).unwrap();
        fs::copy(slice_path(&elsewhere, 3, 4), slice_path(&slices, 3, 4)).unwrap();
        let error = Features::load(&slices).unwrap_err();
        of_other(
            &error,
            &format!(
                "slice 3 of 4 (`features-00003-of-00004.safetensors`) is of {difference}, unlike slice 1"
            ),
        );
        // Repeating the right call over the wrong slice does not take it for its own.
        let error = Call::new().slice(&slices, 3, 4).unwrap_err();
        of_other(
            &error,
            "slice 3 of 4 (`features-00003-of-00004.safetensors`) is of ",
        );
    }
}

#[test]
fn slices_of_two_divisions_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    Call::new().slice(folder.path(), 1, 4).unwrap();
    let error = Call::new().slice(folder.path(), 2, 3).unwrap_err();
    assert_eq!(
        fault(&error).to_string(),
        "slice 1 of 4 (`features-00001-of-00004.safetensors`) is of a division into 4 slices, not 3"
    );
    let error = refused(|slices| {
        let elsewhere = slices.with_file_name("elsewhere");
        Call::new().slice(&elsewhere, 2, 3).unwrap();
        fs::copy(slice_path(&elsewhere, 2, 3), slice_path(slices, 2, 3)).unwrap();
    });
    assert_eq!(
        fault(&error).to_string(),
        "slice 2 of 3 (`features-00002-of-00003.safetensors`) is of a division into 3 slices, not 4, unlike slice 1"
    );
}

#[test]
fn an_evaluation_takes_slices_in_the_place_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let slices = folder.path().join("features-train.safetensors");
    for number in 1..=4 {
        Call::new().slice(&slices, number, 4).unwrap();
    }
    let all = Features::load(&slices).unwrap();
    let store = FeatureCache::new(folder.path());
    let get = |wanted: &Origin| {
        store.get("features-train.safetensors", wanted, &[Tap::Pooled], |_, _| {
            unreachable!("slices are never replaced")
        })
    };
    assert_eq!(get(&all.origin).unwrap().taps["pooled"], all.taps["pooled"]);
    let other = Origin {
        encoder: "another".into(),
        encoder_name: "other".into(),
        ..all.origin
    };
    let error = get(&other).unwrap_err().to_string();
    assert!(
        error.ends_with("holds slices of other features, and this is an evaluation of `other` with pooled"),
        "{error}"
    );
}

#[test]
fn a_slice_alone_is_not_taken_for_all_records() {
    let folder = tempfile::tempdir().unwrap();
    Call::new().slice(folder.path(), 2, 4).unwrap();
    let path = slice_path(folder.path(), 2, 4);
    for error in [
        Features::load(&path).unwrap_err(),
        Features::read_origin(&path).unwrap_err(),
        Stored::of_anyone(&path).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                Error::OneSlice {
                    number: 2,
                    count: 4,
                    ..
                }
            ),
            "{error}"
        );
    }
}
