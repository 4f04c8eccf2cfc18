//! MoCo's linear probe: a linear classifier on a frozen encoder, trained on freshly augmented images every epoch.
//!
//! He et al. 2020, section 4.1 and `main_lincls.py`: the encoder in evaluation mode even while the classifier trains,
//! weights N(0, 0.01), bias 0, SGD with learning rate 30 for 256 images, momentum 0.9, no weight decay, 100 epochs, a tenth
//! of the rate at epochs 60 and 80; random resized crop and flip in training, one centre crop in the test. The score is
//! the last epoch's: the reference also keeps the best epoch by test accuracy, which would choose by the test set.
//!
//! Differs from the reference: an epoch's last, incomplete batch is dropped, since the loader's training orders do so.

use crate::encoder::Encoder;
use crate::error::Error;
use crate::extract::DataConfig;
use crate::features::{Features, POOLED};
use crate::head::Head;
use crate::progress::Event;
use crate::result::{Score, seeds_scores};
use crate::task::{Classes, TRAIN, check_rows};
use backbones::Progress;
use burn::tensor::Device;
use data::{Dataset, Label, Loader, LoaderConfig, Order, Transform, ViewGroup};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use training::{OptimizerConfig, ScheduleConfig};

const PROTOCOL: &str = "linear-moco";

/// MoCo's linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Augmentation of the training images. MoCo: `random_resized_crop` to 224 px (area 0.08 to 1, torchvision's default)
    /// and `horizontal_flip`.
    pub train_transforms: Vec<Transform>,
    /// Images in a step. MoCo: 256.
    pub batch_images: usize,
    /// Order of the training records.
    pub order: Order,
    /// Passes over the training set. MoCo: 100.
    pub epochs: usize,
    /// SGD. MoCo: learning rate 30 for 256 images, momentum 0.9, weight decay 0. Rates as high as this suit features that
    /// are small; the classifier has to reach logits of some size from weights of 0.01.
    pub optimizer: OptimizerConfig,
    /// The learning rate's course. MoCo: a tenth at epochs 60 and 80.
    pub schedule: ScheduleConfig,
    /// One classifier a seed (initial weights, order, augmentation); the score is their mean.
    pub seeds: Vec<u64>,
}

impl Config {
    /// Refuses numbers that cannot be run, whatever the data.
    pub fn validate(&self) -> Result<(), String> {
        if self.batch_images == 0 || self.epochs == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{PROTOCOL}` needs at least 1 of `batch_images`, `epochs` and `seeds`, got {}, {} and {:?}",
                self.batch_images, self.epochs, self.seeds
            ));
        }
        if self.order == Order::Sequential {
            return Err(format!(
                "`{PROTOCOL}.order` must shuffle: `\"global\"` or `{{ blocks = N }}`"
            ));
        }
        self.view_group()
            .validate()
            .map_err(|reason| format!("`{PROTOCOL}.train_transforms`: {reason}"))?;
        self.optimizer.validate()?;
        self.schedule.validate(self.epochs)
    }

    fn view_group(&self) -> ViewGroup {
        ViewGroup {
            count: 1,
            transforms: self.train_transforms.clone(),
        }
    }
}

/// What a probe on images found, and how much it learned from.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Top-1, and top-5 where there are more classes.
    pub scores: Vec<Score>,
    /// Distinct classes among the training records.
    pub classes: usize,
    /// Training records that could not be read and were replaced by others.
    pub bad_records: usize,
}

/// Trains a classifier for each seed on the training images, and scores it on the test features after the last epoch.
///
/// `test` are features of the test set by the same encoder; it is frozen, so they need to be made only once.
///
/// # Errors
/// Missing labels, test classes that the training set lacks, a loss that is no number, unreadable data; and
/// [`Error::EncoderChanged`], which the reference's `sanity_check` guards against too.
pub fn linear_moco(
    config: &Config,
    encoder: &Encoder,
    train: &Arc<Dataset>,
    test: &Features,
    data: &DataConfig,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Probe, Error> {
    let labels = class_labels(train)?;
    let classes = Classes::of(&labels, TRAIN)?;
    let test_classes = classes.places_of_test(train.class_names(), test)?;
    let test_rows = check_rows(test, POOLED, "test")?;
    let train_classes: Vec<u32> = labels.iter().filter_map(|label| classes.place(*label)).collect();

    let weights_before = encoder.weights_hash();
    let total = config.epochs * config.seeds.len();
    let (mut ranks, mut losses, mut bad_records) = (vec![], vec![], 0);
    for (run, &seed) in config.seeds.iter().enumerate() {
        let loader = Loader::new(
            Arc::clone(train),
            vec![config.view_group()],
            LoaderConfig {
                batch_images: config.batch_images,
                workers: data.workers,
                seed,
                order: config.order,
                max_bad_fraction: data.max_bad_fraction,
            },
        )?;
        let steps_per_epoch = loader.batches_per_epoch();
        let steps = steps_per_epoch * config.epochs;
        let mut head = Head::new(
            [test_rows.width, classes.count()],
            seed,
            config.optimizer.peak_learning_rate(config.batch_images),
            &config.optimizer,
            &config.schedule,
            Progress {
                step: 0,
                steps_per_epoch,
                steps,
            },
            device,
        );
        for (step, batch) in loader.batches(0, steps).enumerate() {
            let batch = batch?;
            let batch_classes: Vec<u32> = batch
                .positions
                .iter()
                .map(|position| train_classes[*position as usize])
                .collect();
            for views in batch.views {
                head.step(
                    encoder.forward(encoder.normalize.tensor(views, device)),
                    &batch_classes,
                );
            }
            if (step + 1) % steps_per_epoch == 0 {
                let loss = head.last_loss(PROTOCOL)?;
                let done = run * config.epochs + (step + 1) / steps_per_epoch;
                tracing::info!(seed, epoch = done - run * config.epochs, loss, "linear-moco");
                progress(Event {
                    stage: PROTOCOL,
                    done,
                    total,
                    unit: "epochs",
                });
            }
        }
        losses.push(head.last_loss(PROTOCOL)?);
        ranks.push(head.ranks(test_rows, &test_classes, device));
        bad_records = bad_records.max(loader.bad_records().count);
    }
    let weights_after = encoder.weights_hash();
    if weights_after != weights_before {
        return Err(Error::EncoderChanged {
            before: weights_before,
            after: weights_after,
        });
    }
    let details = serde_json::Map::from_iter([("last_batch_losses".to_string(), json!(losses))]);
    let scores = seeds_scores(&config.seeds, &ranks, &test_classes, classes.count(), &details);
    Ok(Probe {
        scores,
        classes: classes.count(),
        bad_records,
    })
}

/// One class for every training record, from the index.
fn class_labels(train: &Dataset) -> Result<Vec<i64>, Error> {
    let label = |position| match train.label(position)? {
        Some(Label::Class(class)) => Ok(i64::from(class)),
        Some(Label::Classes(_)) => Err(Error::LabelSets { set: "training" }),
        None => Err(Error::Unlabelled { set: "training" }),
    };
    (0..train.len()).map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tests::{NORMALIZE, backbone};
    use crate::extract::extract;
    use crate::extract::tests::{DATA, resize};
    use data::{Filter, Metadata, Record};

    fn config() -> Config {
        Config {
            train_transforms: vec![
                Transform::RandomResizedCrop {
                    size_px: 8,
                    scale: [0.5, 1.0],
                    ratio: [0.75, 4.0 / 3.0],
                    filter: Filter::Bilinear,
                },
                Transform::HorizontalFlip { probability: 0.5 },
            ],
            batch_images: 16,
            order: Order::Global,
            epochs: 10,
            optimizer: OptimizerConfig::Sgd {
                learning_rate_per_256: 10.0,
                momentum: 0.9,
                weight_decay: 0.0,
                nesterov: false,
            },
            schedule: ScheduleConfig::Steps {
                milestones_epochs: vec![6, 8],
                factor: 0.1,
            },
            seeds: vec![0, 1],
        }
    }

    /// Plain pictures, reddish or bluish by class, as uncompressed BMP.
    fn tinted(records: usize, shift: u8) -> Arc<Dataset> {
        let bitmap = |class: usize, shade: u8| {
            let mut file = b"BM".to_vec();
            let header: [u32; 13] = [54 + 192, 0, 54, 40, 8, 8, 1 | 24 << 16, 0, 192, 0, 0, 0, 0];
            header.iter().for_each(|word| file.extend(word.to_le_bytes()));
            let (red, blue) = if class == 0 { (200, 60) } else { (60, 200) };
            (0..64u8).for_each(|pixel| file.extend([blue + pixel % 8, shade, red + pixel / 8]));
            file
        };
        let record = |index: usize| Record {
            key: format!("tinted-{index}"),
            image: bitmap(index % 2, (index * 37 % 200) as u8 + shift),
            label: Some(Label::Class((index % 2) as u32)),
            metadata: Metadata::default(),
        };
        Arc::new(Dataset::from_records((0..records).map(record).collect(), vec![]))
    }

    fn features(encoder: &Encoder, dataset: &Arc<Dataset>) -> Features {
        extract(encoder, dataset, &resize(8), &DATA, &Device::flex(), &mut |_| {}).unwrap()
    }

    #[test]
    fn a_probe_learns_what_a_random_network_shows() {
        let device = Device::flex();
        let encoder = Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
        let (train, test) = (tinted(64, 0), tinted(32, 5));
        let test_features = features(&encoder, &test);
        let mut epochs = vec![];
        let probe = |workers, progress: &mut dyn FnMut(Event<'_>)| {
            let data = DataConfig { workers, ..DATA };
            linear_moco(
                &config(),
                &encoder,
                &train,
                &test_features,
                &data,
                &device,
                progress,
            )
            .unwrap()
        };
        let one = probe(0, &mut |event| epochs.push((event.done, event.total)));
        assert_eq!((epochs.len(), epochs[19]), (20, (20, 20)));
        assert_eq!((one.classes, one.bad_records, one.scores.len()), (2, 0, 2));
        assert_eq!(one.scores[0].spread.as_ref().unwrap().seeds, [0, 1]);
        assert!(one.scores[0].value > 0.9, "{:?}", one.scores);
        assert_eq!(probe(2, &mut |_| {}), one, "the same for any number of workers");
    }

    #[test]
    fn labels_are_needed_before_anything_is_trained() {
        let device = Device::flex();
        let encoder = Encoder::pixels(NORMALIZE);
        let test = features(&encoder, &tinted(8, 0));
        let probe =
            |train| linear_moco(&config(), &encoder, &train, &test, &DATA, &device, &mut |_| {}).unwrap_err();
        let unlabelled = Arc::new(Dataset::synthetic(32, 8, 8, 0, 0));
        assert!(matches!(probe(unlabelled), Error::Unlabelled { set: "training" }));
        // 32 records of which the first half are of classes that the test set does not share.
        let record = |index: usize| Record {
            label: Some(Label::Class(7 + index as u32 % 2)),
            ..tinted(32, 0).read(index).unwrap()
        };
        let others = Arc::new(Dataset::from_records((0..32).map(record).collect(), vec![]));
        assert!(matches!(probe(others), Error::UnknownClass { .. }));
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |config: Config| config.validate().unwrap_err();
        assert!(
            refused(Config {
                order: Order::Sequential,
                ..config()
            })
            .contains("must shuffle")
        );
        assert!(
            refused(Config {
                epochs: 0,
                ..config()
            })
            .contains("`epochs`")
        );
        assert!(
            refused(Config {
                train_transforms: vec![],
                ..config()
            })
            .contains("train_transforms")
        );
        assert!(config().validate().is_ok());
    }
}
