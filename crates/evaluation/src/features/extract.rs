//! Runs a data set through a frozen encoder once: features, labels and keys in the data set's order.

use super::labels::{labels, labels_hash};
use super::matrix::{Features, Matrix, Origin, SeenInPretraining};
use super::resumable::{ResumableFeatures, Unfinished};
use super::slice::Slice;
use super::stored;
use super::work::{FeatureType, Work};
use crate::encoder::{Encoder, Tap};
use crate::error::{Error, io};
use crate::progress::Event;
use burn::tensor::Device;
use data::{Dataset, Loader, LoaderConfig, Order, Sampled, Transform, ViewGroup};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A feature extraction from a data set.
#[derive(Clone, Copy, Debug)]
pub struct Extraction<'a> {
    /// The encoder that computes the features.
    pub encoder: &'a Encoder,
    /// All of its records are read, in order.
    pub dataset: &'a Arc<Dataset>,
    /// Transforms of a decoded image; all images must come out at one size.
    pub transforms: &'a [Transform],
    /// Taps, all read in one pass.
    pub taps: &'a [Tap],
    /// How records become batches.
    pub data: &'a LoaderConfig,
    /// A plain device, without autodiff, that holds the encoder's weights.
    pub device: &'a Device,
}

/// A features file after writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows of each tap.
    pub records: usize,
    /// Width of each tap.
    pub widths: Vec<(String, usize)>,
    /// Records that could not be read and have no row.
    pub bad_records: usize,
    /// Whether an earlier call had written them: a slice that is there is not made again.
    pub was_there: bool,
}

/// How features are written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    /// Number format.
    pub feature_type: FeatureType,
    /// What to do with unfinished features of other work.
    pub unfinished: Unfinished,
    /// Name of the data set in errors: "training", "test" or "data".
    pub set: &'static str,
}

/// What a batch gives.
struct Rows {
    /// Positions of its readable records.
    positions: Vec<usize>,
    /// The hashes of their pixels.
    pixel_hashes: Vec<u64>,
    /// For each tap the width and the rows.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Extraction<'_> {
    /// Features of all readable records.
    ///
    /// # Errors
    /// [`Error::Config`] if the encoder does not accept the images that the transforms give, or lacks a tap;
    /// [`Error::Data`] if the data set cannot be read or too many of its records are broken;
    /// [`Error::MixedLabels`] if only some records are labeled.
    pub fn features(&self, progress: &mut dyn FnMut(Event<'_>)) -> Result<Features, Error> {
        let loader = self.checked()?;
        let total = self.dataset.len();
        let mut values: Vec<Vec<f32>> = vec![vec![]; self.taps.len()];
        let mut widths = vec![0; self.taps.len()];
        let mut positions: Vec<usize> = Vec::with_capacity(total);
        let mut pixel_hashes = Vec::with_capacity(total);
        for rows in self.batches_of_rows(&loader, 0..loader.batches_per_epoch()) {
            let rows = rows?;
            positions.extend(rows.positions);
            pixel_hashes.extend(rows.pixel_hashes);
            for ((rows, values), width) in rows.taps.into_iter().zip(&mut values).zip(&mut widths) {
                if *width == 0 {
                    *width = rows.0;
                    values.reserve_exact(total * *width);
                }
                values.extend_from_slice(&rows.1);
            }
            progress(event(positions.len(), total));
        }
        let taps = self.taps.iter().zip(widths).zip(values);
        Ok(Features {
            taps: taps
                .map(|((tap, width), values)| (tap.name(), Matrix::new(positions.len(), width, values)))
                .collect(),
            pixel_hashes: Some(pixel_hashes),
            seen: self.seen()?,
            ..about(self.dataset, &positions, total - positions.len(), self.origin()?)?
        })
    }

    /// Writes the features to the file `path`, batch by batch: only keys and labels of all records are in
    /// memory. Resumes where an earlier call for the same file was killed or failed; the result equals that
    /// of an uninterrupted run to the bit.
    ///
    /// # Errors
    /// As [`features`](Self::features); NaN and infinity, no readable record, values above f16's largest, and
    /// write errors.
    pub fn write(
        &self,
        path: &Path,
        writing: Writing,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Written, Error> {
        let loader = self.checked()?;
        let work = self.work(writing, None)?;
        self.write_work(path, work, &loader, writing, progress)
    }

    /// Writes one slice of the features to its file in `folder`, which is created if missing, as [`write`](Self::write) does. All
    /// slices together have the bits of the file that `write` makes. A slice that is there is left as it is.
    ///
    /// `max_bad_fraction` holds for the slice's own records.
    ///
    /// # Errors
    /// As `write`; [`Error::TooManySlices`], and [`Error::Slices`] if the folder holds slices of other work.
    pub fn write_slice(
        &self,
        folder: &Path,
        slice: Slice,
        writing: Writing,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Written, Error> {
        let loader = self.checked()?;
        let work = self.work(writing, Some(slice))?;
        let batches = loader.batches_per_epoch();
        if slice.count() > batches {
            return Err(Error::TooManySlices {
                records: work.records,
                batches,
                batch_images: work.batch_images,
                count: slice.count(),
            });
        }
        let path = folder.join(slice.file_name());
        if let Some(there) = stored::slice_there(folder, slice, &work)? {
            return Ok(Written {
                records: there.records,
                widths: there.widths,
                bad_records: there.bad_records,
                was_there: true,
            });
        }
        std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        let loader = loader.bounded_by(work.batches());
        self.write_work(&path, work, &loader, writing, progress)
    }

    fn work(&self, writing: Writing, slice: Option<Slice>) -> Result<Work, Error> {
        Ok(Work {
            origin: self.origin()?,
            taps: self.taps.iter().map(Tap::name).collect(),
            feature_type: writing.feature_type,
            batch_images: self.data.batch_images,
            records: self.dataset.len(),
            slice,
        })
    }

    fn write_work(
        &self,
        path: &Path,
        work: Work,
        loader: &Loader,
        writing: Writing,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Written, Error> {
        let (batches, origin) = (work.batches(), work.origin.clone());
        let total = work.records_of(batches.clone());
        let mut partial = ResumableFeatures::open(path, work, writing.unfinished)?;
        if partial.rows() > 0 {
            tracing::info!(path = %path.display(), rows = partial.rows(), "going on with unfinished features");
            progress(event(partial.rows(), total));
        }
        loader.count_bad_records_before(partial.bad_records());
        for rows in self.batches_of_rows(loader, partial.next_batch()..batches.end) {
            let pushed = rows.and_then(|rows| {
                let (positions, hashes) = (&rows.positions, &rows.pixel_hashes);
                partial.push(positions, hashes, &rows.taps, writing.set, |position| {
                    Ok(self.dataset.key(position)?)
                })
            });
            match pushed {
                Ok(()) => progress(event(partial.rows(), total)),
                // A retry would give the same error.
                Err(error @ (Error::NotFinite { .. } | Error::AboveF16 { .. })) => {
                    partial.discard();
                    return Err(error);
                }
                Err(error) => {
                    // Best effort: the first error is the one to report.
                    let _ = partial.keep();
                    return Err(error);
                }
            }
        }
        if partial.rows() == 0 {
            partial.discard();
            return Err(Error::Empty { set: writing.set });
        }
        let positions = partial.positions()?;
        let bad_records = total - positions.len();
        let features = Features {
            pixel_hashes: partial.pixel_hashes()?,
            seen: self.seen()?,
            ..about(self.dataset, &positions, bad_records, origin)?
        };
        Ok(Written {
            records: features.records(),
            bad_records,
            widths: partial.finish(&features)?,
            was_there: false,
        })
    }

    /// A loader of the records in order, if the encoder accepts them.
    fn checked(&self) -> Result<Loader, Error> {
        self.encoder.check_transforms("the transforms", self.transforms)?;
        self.encoder.check_taps("features", self.taps)?;
        Ok(in_order(self.dataset, self.transforms, self.data)?.with_pixel_hashes())
    }

    /// The data set beside the data of the encoder's pretraining.
    fn seen(&self) -> Result<Option<SeenInPretraining>, Error> {
        let known = &self.encoder.pretrained_on;
        if known.fingerprint.is_empty() {
            return Ok(None);
        }
        let sampled = match known.sample.is_empty() {
            true => Sampled::default(),
            false => known.sample.compare(&self.dataset.contents()?),
        };
        Ok(Some(SeenInPretraining {
            fingerprint: known.fingerprint.clone(),
            compared: sampled.compared,
            in_pretraining: sampled.shared,
        }))
    }

    fn origin(&self) -> Result<Origin, Error> {
        let labels = labels_hash(self.dataset)?;
        Ok(origin(self.encoder, self.dataset, labels, self.transforms))
    }

    /// These batches; batches without a readable record are skipped.
    fn batches_of_rows(
        &self,
        loader: &Loader,
        batches: Range<usize>,
    ) -> impl Iterator<Item = Result<Rows, Error>> {
        loader.batches(batches.start, batches.end).map(move |batch| {
            let batch = batch?;
            let mut rows = vec![];
            // Evaluation has one view group of one view.
            for views in batch.views {
                let images = self.encoder.normalize.tensor(views, self.device);
                let features = self.encoder.taps(images, self.taps)?;
                rows.extend(features.into_iter().map(|features| {
                    let width = features.dims()[1];
                    (
                        width,
                        features.into_data().try_into_vec().expect("backbones return f32"),
                    )
                }));
            }
            let positions = batch.positions.iter().map(|position| *position as usize);
            Ok(Rows {
                positions: positions.collect(),
                pixel_hashes: batch.pixel_hashes.unwrap_or_default(),
                taps: rows,
            })
        })
    }
}

fn event(done: usize, total: usize) -> Event<'static> {
    Event {
        stage: "features",
        done,
        total,
        unit: "images",
    }
}

/// All fields of the features except the rows.
fn about(
    dataset: &Dataset,
    positions: &[usize],
    bad_records: usize,
    origin: Origin,
) -> Result<Features, Error> {
    let keys = positions.iter().map(|position| dataset.key(*position));
    Ok(Features {
        taps: BTreeMap::new(),
        labels: labels(dataset, positions)?,
        class_names: dataset.class_names().to_vec(),
        keys: keys.collect::<Result<_, _>>()?,
        pixel_hashes: None,
        bad_records,
        listing: dataset.listing().clone(),
        seen: None,
        origin,
    })
}

/// One view of each image.
pub(crate) fn view_group(transforms: &[Transform]) -> ViewGroup {
    ViewGroup {
        count: 1,
        transforms: transforms.to_vec(),
    }
}

/// All readable records in the data set's order, with deterministic transforms.
pub(crate) fn in_order(
    dataset: &Arc<Dataset>,
    transforms: &[Transform],
    config: &LoaderConfig,
) -> Result<Loader, Error> {
    // Evaluation transforms are deterministic, so the seed has no effect.
    Ok(Loader::new(
        Arc::clone(dataset),
        vec![view_group(transforms)],
        *config,
        Order::Sequential,
        0,
    )?)
}

/// The origin of features of this data set by this encoder; `labels` is the data set's [`labels_hash`].
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::Labels;
    use crate::testing::{DATA, NORMALIZE, backbone, extract, resize};
    use backbones::{BackboneConfig, Init};
    use data::{Label, Metadata, Record};

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
    fn features_say_how_many_images_the_encoder_was_pretrained_on() {
        let device = Device::flex();
        let encoder = || Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
        let dataset = |seeds: &[u64]| {
            let record = |seed: &u64| Dataset::synthetic(1, 9, 9, 0, *seed).read(0).unwrap();
            Dataset::from_records(seeds.iter().map(record).collect(), vec![])
        };
        let seen = |encoder: &Encoder| extracted(encoder, dataset(&[3, 4, 5]), &DATA).unwrap().seen;
        assert_eq!(seen(&encoder()), None);
        let pretrained_on = |sample: data::ContentSample| crate::PretrainedOn {
            fingerprint: "00ff".into(),
            sample,
            ..Default::default()
        };
        let known = dataset(&[5, 6]).sample().unwrap().clone();
        for (sample, compared, in_pretraining) in [(known, 3, 1), (data::ContentSample::default(), 0, 0)] {
            let encoder = encoder().pretrained_on(pretrained_on(sample));
            let expected = SeenInPretraining {
                fingerprint: "00ff".into(),
                compared,
                in_pretraining,
            };
            assert_eq!(seen(&encoder), Some(expected));
        }
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
    fn pixels_are_normalized_and_flattened() {
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
