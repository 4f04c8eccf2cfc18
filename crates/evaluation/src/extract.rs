//! A data set through a frozen encoder, once: features, labels and keys in the data set's order.

use crate::encoder::Encoder;
use crate::error::Error;
use crate::features::{Features, Labels, Matrix, Origin, POOLED, UNDECIDED};
use crate::partial::{FeatureType, Partial, Unfinished, Work};
use crate::progress::Event;
use crate::taps::Tap;
use burn::tensor::Device;
use data::{Dataset, Label, Loader, LoaderConfig, Order, Transform, ViewGroup};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Features of all readable records of a data set.
///
/// `device` is a plain one, without autodiff, on which the encoder's weights lie. `transforms` must bring every image to
/// one size.
///
/// # Errors
/// [`Error::Config`] where the transforms make images that the encoder does not take, [`Error::Data`] where the data set
/// cannot be read or too much of it is broken, [`Error::MixedLabels`] where only some records are labelled.
pub fn extract(
    encoder: &Encoder,
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    config: &LoaderConfig,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Features, Error> {
    extract_taps(
        encoder,
        dataset,
        transforms,
        &[Tap::Pooled],
        config,
        device,
        progress,
    )
}

/// The same at several places of the network, in one pass.
///
/// # Errors
/// As [`extract`], and [`Error::Config`] where the network lacks one of the places.
pub fn extract_taps(
    encoder: &Encoder,
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    taps: &[Tap],
    config: &LoaderConfig,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Features, Error> {
    let loader = checked(encoder, dataset, transforms, taps, config)?;
    let total = dataset.len();
    let mut values: Vec<Vec<f32>> = vec![vec![]; taps.len()];
    let mut widths = vec![0; taps.len()];
    let mut positions: Vec<usize> = Vec::with_capacity(total);
    for rows in batches_of_rows(encoder, &loader, 0, taps, device) {
        let (at, rows) = rows?;
        positions.extend(at);
        for ((rows, values), width) in rows.into_iter().zip(&mut values).zip(&mut widths) {
            if *width == 0 {
                *width = rows.0;
                values.reserve_exact(total * *width);
            }
            values.extend_from_slice(&rows.1);
        }
        progress(event(positions.len(), total));
    }
    let taps = taps.iter().zip(widths).zip(values);
    Ok(Features {
        taps: taps
            .map(|((tap, width), values)| (tap.name(), Matrix::new(positions.len(), width, values)))
            .collect(),
        ..about(
            dataset,
            &positions,
            origin(encoder, dataset, labels_hash(dataset)?, transforms),
        )?
    })
}

/// A features file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows of each tap.
    pub records: usize,
    /// Numbers in a row of each tap.
    pub widths: Vec<(String, usize)>,
    /// Records that could not be read and have no row.
    pub bad_records: usize,
}

/// What becomes of features on their way to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    /// How numbers are kept.
    pub feature_type: FeatureType,
    /// What becomes of unfinished features of something else.
    pub unfinished: Unfinished,
    /// What errors call the data set: "training", "test" or "data".
    pub set: &'static str,
}

/// The same to the features file `path`, batch by batch, in memory that does not grow with the records but for their keys and
/// labels. Goes on where an earlier call for the same file was killed or failed: the file is that of an undisturbed run, to the bit.
///
/// # Errors
/// As [`extract_taps`]; NaN and infinity, none of the records readable, numbers above f16's largest, and what writing says.
#[allow(clippy::too_many_arguments)]
pub fn extract_to_file(
    encoder: &Encoder,
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    taps: &[Tap],
    config: &LoaderConfig,
    device: &Device,
    path: &Path,
    writing: Writing,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Written, Error> {
    let loader = checked(encoder, dataset, transforms, taps, config)?;
    let total = dataset.len();
    let origin = origin(encoder, dataset, labels_hash(dataset)?, transforms);
    let work = Work {
        origin: origin.clone(),
        taps: taps.iter().map(Tap::name).collect(),
        feature_type: writing.feature_type,
        batch_images: config.batch_images,
        records: total,
    };
    let mut partial = Partial::open(path, work, writing.unfinished)?;
    if partial.rows() > 0 {
        tracing::info!(path = %path.display(), rows = partial.rows(), "going on with unfinished features");
        progress(event(partial.rows(), total));
    }
    loader.count_bad_records_before(partial.bad_records());
    let first = partial.batches();
    for rows in batches_of_rows(encoder, &loader, first, taps, device) {
        let pushed = rows.and_then(|(positions, rows)| {
            partial.push(&positions, &rows, writing.set, |position| {
                Ok(dataset.key(position)?)
            })
        });
        match pushed {
            Ok(()) => progress(event(partial.rows(), total)),
            // They would be the same again.
            Err(error @ (Error::NotFinite { .. } | Error::AboveF16 { .. })) => {
                partial.discard();
                return Err(error);
            }
            Err(error) => {
                // Best effort: the error that matters is the first one.
                let _ = partial.keep();
                return Err(error);
            }
        }
    }
    if partial.rows() == 0 {
        partial.discard();
        return Err(Error::Empty { set: writing.set });
    }
    let features = about(dataset, &partial.positions()?, origin)?;
    Ok(Written {
        records: features.records(),
        bad_records: features.bad_records,
        widths: partial.finish(&features)?,
    })
}

fn event(done: usize, total: usize) -> Event<'static> {
    Event {
        stage: "features",
        done,
        total,
        unit: "images",
    }
}

/// The records in order, if the encoder can take them.
fn checked(
    encoder: &Encoder,
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    taps: &[Tap],
    config: &LoaderConfig,
) -> Result<Loader, Error> {
    encoder.check_transforms("the transforms", transforms)?;
    encoder.check_taps("features", taps)?;
    in_order(dataset, transforms, config)
}

/// Positions of a batch's readable records, and of each tap the width and their rows.
type Rows = (Vec<usize>, Vec<(usize, Vec<f32>)>);

/// Batch by batch from the batch `first` on; those without a readable record are passed over.
fn batches_of_rows(
    encoder: &Encoder,
    loader: &Loader,
    first: usize,
    taps: &[Tap],
    device: &Device,
) -> impl Iterator<Item = Result<Rows, Error>> {
    loader
        .batches(first, loader.batches_per_epoch())
        .map(move |batch| {
            let batch = batch?;
            let mut rows = vec![];
            // Evaluation has one group of one view.
            for views in batch.views {
                let features = encoder.taps(encoder.normalize.tensor(views, device), taps)?;
                rows.extend(features.into_iter().map(|features| {
                    let width = features.dims()[1];
                    (
                        width,
                        features.into_data().try_into_vec().expect("backbones return f32"),
                    )
                }));
            }
            let positions = batch.positions.iter().map(|position| *position as usize);
            Ok((positions.collect(), rows))
        })
}

/// All of features but the rows.
fn about(dataset: &Dataset, positions: &[usize], origin: Origin) -> Result<Features, Error> {
    let keys = positions.iter().map(|position| dataset.key(*position));
    Ok(Features {
        taps: BTreeMap::new(),
        labels: labels(dataset, positions)?,
        class_names: dataset.class_names().to_vec(),
        keys: keys.collect::<Result<_, _>>()?,
        bad_records: dataset.len() - positions.len(),
        origin,
    })
}

/// All readable records in the data set's order, by transforms that draw nothing.
pub(crate) fn in_order(
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    config: &LoaderConfig,
) -> Result<Loader, Error> {
    let group = ViewGroup {
        count: 1,
        transforms: transforms.to_vec(),
    };
    // Evaluation transforms draw nothing, so any seed will do.
    Ok(Loader::new(
        Arc::clone(dataset),
        vec![group],
        *config,
        Order::Sequential,
        0,
    )?)
}

/// Features of no width with keys and, if asked for, labels of all records, from the index: enough for every check of
/// labels.
pub(crate) fn index_features(dataset: &Dataset, with_labels: bool) -> Result<Features, Error> {
    let positions: Vec<usize> = (0..dataset.len()).collect();
    let keys = positions.iter().map(|position| dataset.key(*position));
    Ok(Features {
        taps: BTreeMap::from([(POOLED.to_string(), Matrix::new(positions.len(), 0, vec![]))]),
        labels: match with_labels {
            true => labels(dataset, &positions)?,
            false => None,
        },
        class_names: dataset.class_names().to_vec(),
        keys: keys.collect::<Result<_, _>>()?,
        bad_records: 0,
        origin: Origin::default(),
    })
}

/// What features of this data set by this encoder would come from; `labels` is [`labels_hash`] of it.
pub(crate) fn origin(
    encoder: &Encoder,
    dataset: &Dataset,
    labels: String,
    transforms: &[Transform],
) -> Origin {
    Origin {
        encoder: encoder.hash.clone(),
        encoder_name: encoder.name.clone(),
        fingerprint: dataset.fingerprint().to_string(),
        labels,
        transforms: json!(transforms),
        normalize: json!(encoder.normalize),
    }
}

/// SHA-256 over class names and labels, which a data set's fingerprint leaves out: relabelled images keep their features,
/// but not their labels.
pub(crate) fn labels_hash(dataset: &Dataset) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    for name in dataset.class_names() {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
    }
    for position in 0..dataset.len() {
        let classes = match dataset.label(position)? {
            None => vec![],
            Some(Label::Class(class)) => vec![class],
            // Told apart from one class by a number that is none.
            Some(Label::Classes(classes)) => [classes, vec![u32::MAX]].concat(),
        };
        hasher.update((classes.len() as u64).to_le_bytes());
        classes
            .iter()
            .for_each(|class| hasher.update(class.to_le_bytes()));
        // Nothing where there are none, so that other data sets keep their hash.
        for class in dataset.undecided(position) {
            hasher.update(u64::MAX.to_le_bytes());
            hasher.update(class.to_le_bytes());
        }
    }
    Ok(data::hex(&hasher.finalize()))
}

/// Labels of the records named, which must all be of one kind.
fn labels(dataset: &Dataset, positions: &[usize]) -> Result<Option<Labels>, Error> {
    let labels = positions
        .iter()
        .map(|position| dataset.label(*position))
        .collect::<Result<Vec<_>, _>>()?;
    let kind = |label: &Option<Label>| match label {
        None => "no label",
        Some(Label::Class(_)) => "one class",
        Some(Label::Classes(_)) => "a set of classes",
    };
    let Some(first) = labels.first() else {
        return Ok(None);
    };
    if let Some(row) = labels.iter().position(|label| kind(label) != kind(first)) {
        return Err(Error::MixedLabels {
            key: dataset.key(positions[row])?,
            got: kind(&labels[row]),
            expected: kind(first),
        });
    }
    let mut single = Vec::with_capacity(labels.len());
    let mut sets = vec![];
    for label in labels.into_iter().flatten() {
        match label {
            Label::Class(class) => single.push(i64::from(class)),
            Label::Classes(classes) => sets.push(classes),
        }
    }
    if !single.is_empty() {
        return Ok(Some(Labels::Classes(single)));
    }
    if sets.is_empty() {
        return Ok(None);
    }
    let largest = sets.iter().flatten().max().map_or(0, |class| *class as usize + 1);
    let undecided = |position: &usize| dataset.undecided(*position).iter().map(|class| *class as usize);
    let largest = positions
        .iter()
        .flat_map(undecided)
        .map(|class| class + 1)
        .max()
        .unwrap_or(0)
        .max(largest);
    let classes = largest.max(dataset.class_names().len());
    let mut multi_hot = vec![0; sets.len() * classes];
    for (row, position) in positions.iter().enumerate() {
        undecided(position).for_each(|class| multi_hot[row * classes + class] = UNDECIDED);
    }
    for (row, set) in sets.iter().enumerate() {
        set.iter()
            .for_each(|class| multi_hot[row * classes + *class as usize] = 1);
    }
    Ok(Some(Labels::Sets { classes, multi_hot }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::tests::{NORMALIZE, backbone};
    use backbones::{BackboneConfig, Init};
    use data::{Filter, Metadata, Record};

    pub(crate) const DATA: LoaderConfig = LoaderConfig {
        batch_images: 8,
        workers: 0,
        max_bad_fraction: 0.5,
    };

    pub(crate) fn resize(side: u32) -> Vec<Transform> {
        vec![Transform::ResizeExact {
            width_px: side,
            height_px: side,
            filter: Filter::Bilinear,
        }]
    }

    fn extracted(encoder: &Encoder, dataset: Dataset, config: &LoaderConfig) -> Result<Features, Error> {
        extract(
            encoder,
            &Arc::new(dataset),
            &resize(8),
            config,
            &Device::flex(),
            &mut |_| {},
        )
    }

    #[test]
    fn rows_follow_the_data_set_whatever_the_batch_and_the_workers() {
        let device = Device::flex();
        let encoder = Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
        let dataset = || Dataset::synthetic(21, 12, 10, 3, 7);
        let one = extracted(&encoder, dataset(), &DATA).unwrap();
        assert_eq!(
            (one.records(), one.taps[POOLED].rows, one.taps[POOLED].width),
            (21, 21, 32)
        );
        assert_eq!(one.keys[20], dataset().key(20).unwrap());
        assert!(matches!(&one.labels, Some(Labels::Classes(classes)) if classes.len() == 21));

        let two = extracted(
            &encoder,
            dataset(),
            &LoaderConfig {
                batch_images: 5,
                workers: 2,
                ..DATA
            },
        )
        .unwrap();
        assert_eq!(
            (&one.keys, &one.labels, &one.origin),
            (&two.keys, &two.labels, &two.origin)
        );
        let largest = |a: &Matrix, b: &Matrix| {
            a.values
                .iter()
                .zip(&b.values)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max)
        };
        assert!(largest(&one.taps[POOLED], &two.taps[POOLED]) < 1e-5);
    }

    #[test]
    fn images_that_the_encoder_cannot_take_are_refused_before_one_is_read() {
        let config: BackboneConfig = serde_json::from_value(serde_json::json!({ "vit": {
            "width": 8, "depth": 1, "heads": 1, "patch_px": 5, "image_px": 10, "position": "learned",
            "interpolation": "antialiased", "registers": 0, "drop_path": 0.0, "pooling": "class_token",
            "initialization": "truncated_normal"
        } }))
        .unwrap();
        let backbone = config.init(&Init::new(0, &Device::flex()));
        let encoder = Encoder::new(config.name(), "", &backbone, NORMALIZE);
        let error = extracted(&encoder, Dataset::synthetic(3, 8, 8, 2, 0), &DATA).unwrap_err();
        assert_eq!(
            error.to_string(),
            "evaluation config: the transforms and `vit-w8-d1-h1-p5`: images of 8×8 px cannot be cut into patches of 5 \
             px; 5×5 px can"
        );
    }

    #[test]
    fn pixels_are_normalised_and_flattened() {
        let pixels = extracted(
            &Encoder::pixels(NORMALIZE),
            Dataset::synthetic(3, 8, 8, 2, 0),
            &DATA,
        )
        .unwrap();
        let image = Dataset::synthetic(3, 8, 8, 2, 0).read(1).unwrap().image;
        let image = data::decode(&image, &data::DecodeLimits::default()).unwrap();
        let row = pixels.taps[POOLED].row(1);
        assert_eq!(row.len(), 192);
        // Second channel, pixel 5: planes of 64 in the features, triples in the image.
        let expected = (f32::from(image.pixels[5 * 3 + 1]) / 255.0 - 0.5) / 0.25;
        assert!((row[64 + 5] - expected).abs() < 1e-5);
    }

    fn record(key: &str, image: Vec<u8>, label: Option<Label>) -> Record {
        Record {
            key: key.into(),
            image,
            label,
            metadata: Metadata::default(),
        }
    }

    #[test]
    fn broken_records_are_left_out_and_counted() {
        let good = |position| Dataset::synthetic(4, 8, 8, 2, 0).read(position).unwrap().image;
        let class = |class| Some(Label::Class(class));
        let dataset = || {
            Dataset::from_records(
                vec![
                    record("a", good(0), class(4)),
                    record("broken", b"no image".to_vec(), class(5)),
                    record("c", good(2), class(6)),
                ],
                vec![],
            )
        };
        let features = extracted(&Encoder::pixels(NORMALIZE), dataset(), &DATA).unwrap();
        assert_eq!(features.keys, ["a", "c"]);
        assert_eq!(features.labels, Some(Labels::Classes(vec![4, 6])));
        assert_eq!((features.bad_records, features.taps[POOLED].rows), (1, 2));

        let strict = LoaderConfig {
            max_bad_fraction: 0.1,
            ..DATA
        };
        assert!(matches!(
            extracted(&Encoder::pixels(NORMALIZE), dataset(), &strict),
            Err(Error::Data(_))
        ));
    }

    #[test]
    fn labels_are_kept_as_they_are_and_never_mixed() {
        let image = Dataset::synthetic(1, 8, 8, 2, 0).read(0).unwrap().image;
        let extracted = |labels: [Option<Label>; 2]| {
            let [one, two] = labels;
            let records = vec![
                record("one", image.clone(), one),
                record("two", image.clone(), two),
            ];
            extracted(
                &Encoder::pixels(NORMALIZE),
                Dataset::from_records(records, vec![]),
                &DATA,
            )
        };
        assert_eq!(extracted([None, None]).unwrap().labels, None);
        let sets = extracted([Some(Label::Classes(vec![0, 2])), Some(Label::Classes(vec![]))]).unwrap();
        assert_eq!(
            sets.labels,
            Some(Labels::Sets {
                classes: 3,
                multi_hot: vec![1, 0, 1, 0, 0, 0]
            })
        );
        assert_eq!(
            extracted([Some(Label::Class(0)), None]).unwrap_err().to_string(),
            "record `two` has no label, unlike the records before it, which have one class"
        );
    }

    #[test]
    fn other_labels_are_another_origin() {
        let encoder = Encoder::pixels(NORMALIZE);
        let image = Dataset::synthetic(1, 8, 8, 2, 0).read(0).unwrap().image;
        let origin = |class| {
            let records = vec![record("one", image.clone(), Some(Label::Class(class)))];
            let dataset = Dataset::from_records(records, vec![]);
            origin(&encoder, &dataset, labels_hash(&dataset).unwrap(), &resize(8))
        };
        assert_eq!(origin(0), origin(0));
        assert_eq!(origin(0).fingerprint, origin(1).fingerprint);
        assert_ne!(origin(0), origin(1));
    }
}
