//! Features of other programs, and protocols that cannot run on features.

use super::*;
use crate::encoder::POOLED;
use crate::features::{Labels, Matrix, Origin};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};

/// Two classes, separated by the sign of the first value.
fn rows(records: usize, seed: usize) -> (Vec<f32>, Vec<i64>) {
    let classes: Vec<i64> = (0..records).map(|row| (row * 7 + seed) as i64 % 2).collect();
    let rows = classes
        .iter()
        .enumerate()
        .flat_map(|(row, class)| [1.0 - 2.0 * *class as f32, (row * 13 + seed) as f32 % 5.0 / 10.0]);
    (rows.collect(), classes)
}

/// Features as this program would make them.
fn features(records: usize, seed: usize) -> Features {
    let (values, classes) = rows(records, seed);
    Features {
        taps: BTreeMap::from([(POOLED.to_string(), Matrix::new(records, 2, values))]),
        labels: Some(Labels::Classes(classes)),
        keys: (0..records).map(|row| format!("{seed}-{row}")).collect(),
        origin: Origin {
            encoder: "e".into(),
            encoder_name: "encoder".into(),
            fingerprint: seed.to_string(),
            ..Origin::default()
        },
        ..Features::default()
    }
}

fn config(protocol: &str) -> Config {
    let text = format!(
        "test_transforms = [{{ resize_exact = {{ width_px = 8, height_px = 8, filter = \"bilinear\" }} }}]\n[data]\n\
         batch_images = 8\nworkers = 0\nmax_bad_fraction = 0.0\n[[protocols]]\n{protocol}"
    );
    toml::from_str(&text).unwrap()
}

const KNN: &str = "[protocols.knn-vissl]\nneighbors = 3\ntemperature = 0.1";

fn ask(config: &Config, train: &Features, test: &Features) -> Result<FeaturesScores, Error> {
    let out = tempfile::tempdir().unwrap();
    let job = FeaturesJob {
        train,
        test,
        out: out.path(),
        device: &Device::flex(),
        provenance: Provenance::default(),
    };
    run_on_features(config, &job, &mut |_| {})
}

#[test]
fn what_became_no_record_is_in_the_results() {
    let note = |reason, count| data::Note {
        reason,
        kind: String::new(),
        count,
        example: "x".into(),
    };
    let listed = |seed, note| Features {
        listing: [note].into_iter().collect(),
        ..features(20, seed)
    };
    let train = listed(1, note(data::Reason::HiddenFile, 3));
    let test = listed(2, note(data::Reason::Archive, 1));
    let scores = ask(&config(KNN), &train, &test).unwrap();
    let outcome = &scores.outcomes[0];
    assert_eq!(outcome.train_listing, train.listing);
    assert_eq!(outcome.test_listing.count(data::Reason::Archive), 1);
    assert_eq!(outcome.test_listing.notes().len(), 1);
}

#[test]
fn files_of_other_programs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let (values, classes) = rows(20, 1);
    let halves: Vec<u8> = values
        .iter()
        .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
        .collect();
    let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).unwrap();
    let save = |labels: TensorView<'_>| {
        let pooled = view(Dtype::F16, vec![20, 2], &halves);
        let file = safetensors::serialize([(POOLED, pooled), ("labels", labels)], None::<HashMap<_, _>>);
        std::fs::write(&path, file.unwrap()).unwrap();
        read_features(&path, &config(KNN), Split::Test)
    };
    let read = save(view(Dtype::I64, vec![20], bytemuck::cast_slice(&classes))).unwrap();
    assert_eq!(read.classes("test").unwrap(), classes);
    assert_eq!((read.records(), read.keys[19].as_str()), (20, "19"));
    assert!((read.taps[POOLED].values[3] - values[3]).abs() < 1e-3);
    assert_eq!(read.origin.fingerprint.len(), 64);
    assert!(Features::load(&path).is_err(), "it is not taken for one of ours");

    let scores = ask(&config(KNN), &read, &{
        let mut test = read.clone();
        test.origin.fingerprint = "another".into();
        test
    });
    let top1 = &scores.unwrap().outcomes[0];
    assert_eq!(
        (top1.metric.as_str(), top1.value, top1.train_records),
        ("top1", 1.0, 20)
    );

    let short = save(view(Dtype::I64, vec![19], bytemuck::cast_slice(&classes[1..])));
    let error = short.unwrap_err().to_string();
    assert!(
        error.ends_with("`labels` is I64 [19], expected I64 [20] or U8 [20, classes]"),
        "{error}"
    );
    let mut unlabeled = classes.clone();
    unlabeled[4] = -1;
    let error = save(view(Dtype::I64, vec![20], bytemuck::cast_slice(&unlabeled)));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`labels` holds -1 in row 4 (record `4`)"),
        "{error}"
    );
    let mut counts = vec![1; 40];
    counts[7] = 255;
    let error = save(view(Dtype::U8, vec![20, 2], &counts))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`labels` holds 255 in row 3 (record `3`), class 1"),
        "{error}"
    );
    // A shape with many elements on paper and no bytes.
    let empty = TensorView::new(Dtype::F32, vec![1 << 62, 0], &[]).unwrap();
    let file = safetensors::serialize([(POOLED, empty)], None::<HashMap<_, _>>).unwrap();
    std::fs::write(&path, &file).unwrap();
    let error = read_features(&path, &config(KNN), Split::Train)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected F32 or F16 [records, width]"), "{error}");
    std::fs::write(&path, &file[..20]).unwrap();
    let error = read_features(&path, &config(KNN), Split::Train)
        .unwrap_err()
        .to_string();
    assert!(error.contains("it was cut off"), "{error}");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let error = read_features(&empty, &config(KNN), Split::Train)
        .unwrap_err()
        .to_string();
    assert!(error.contains("it holds no slices of features"), "{error}");
    let flat = TensorView::new(Dtype::F32, vec![40], bytemuck::cast_slice(&values)).unwrap();
    let file = safetensors::serialize([(POOLED, flat)], None::<HashMap<_, _>>).unwrap();
    std::fs::write(&path, file).unwrap();
    let read = || {
        read_features(&path, &config(KNN), Split::Train)
            .unwrap_err()
            .to_string()
    };
    let error = read();
    assert!(
        error.ends_with("tap `pooled` is F32 [40], expected F32 or F16 [records, width]"),
        "{error}"
    );
    let other = TensorView::new(Dtype::F32, vec![20, 2], bytemuck::cast_slice(&values)).unwrap();
    let file = safetensors::serialize([("features", other)], None::<HashMap<_, _>>).unwrap();
    std::fs::write(&path, file).unwrap();
    let error = read();
    assert!(
        error.contains("no tap `pooled`") && error.contains("features"),
        "{error}"
    );
}

#[test]
fn what_features_cannot_answer_is_refused() {
    let (train, test) = (features(20, 0), features(10, 1));
    let refused = |config: &Config, train: &Features, test: &Features| {
        ask(config, train, test).unwrap_err().to_string()
    };
    let knn = config(KNN);
    assert!(ask(&knn, &train, &test).is_ok());
    assert_eq!(
        refused(&knn, &train, &train),
        "training and test set are the same 20 records"
    );
    let views = config(
        "[protocols.view-diagnostics]\nset = \"test\"\nimages = 4\nviews = 2\ntransforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = \"bilinear\" } }, \
         { horizontal_flip = { probability = 0.5 } }]\n\
         delta = 1e-4\nalpha = 2.0\nseed = 0",
    );
    assert_eq!(
        refused(&views, &train, &test),
        "view-diagnostics needs the encoder and its images, not features alone"
    );
    let with = |change: &dyn Fn(&mut Origin)| {
        let mut changed = test.clone();
        change(&mut changed.origin);
        changed
    };
    let other = with(&|origin| origin.encoder = "other".into());
    assert!(refused(&knn, &train, &other).contains("were made by encoder"));
    let other = with(&|origin| origin.transforms = serde_json::json!([1]));
    assert!(refused(&knn, &train, &other).contains("different transforms"));
    let mut unlabeled = test.clone();
    unlabeled.labels = None;
    assert!(refused(&knn, &train, &unlabeled).contains("the test set has no labels"));
    let mut wide = test.clone();
    wide.taps = BTreeMap::from([("features".to_string(), Matrix::new(10, 2, vec![0.0; 20]))]);
    assert!(refused(&knn, &train, &wide).contains("no tap `pooled`"));
}
