//! A linear classifier on a frozen encoder, trained on freshly augmented images every epoch: the common code
//! of `linear-moco`, `linear-swav`, `linear-dino` and `linear-moco-v3`. Their settings differ and their
//! scores differ by points, so each has its own name.
//!
//! - `linear-moco`: He et al. 2020, section 4.1, `main_lincls.py`.
//! - `linear-swav`: Caron et al. 2020, `eval_linear.py`: rate 0.3 for 256 images, weight decay 1e-6, cosine by epoch, 100 epochs.
//! - `linear-dino`: Caron et al. 2021, `eval_linear.py`: rate 0.001 for 256 images, no weight decay, cosine by epoch, 100 epochs;
//!   class tokens of the last four blocks (small), or of the last one and the mean of its patches (base).
//! - `linear-moco-v3`: Chen et al. 2021, `main_lincls.py`: rate 3 (transformers) or 0.1 (ResNet-50) for 256 images, batches of
//!   1,024, no weight decay, cosine by epoch, 90 epochs.
//!
//! In all of them the encoder is in evaluation mode, weights start N(0, 0.01) and biases 0, and the optimizer
//! is SGD with momentum 0.9. The score is the last epoch's: the references also keep the best epoch by test
//! accuracy, which would choose by the test set. The loader's training orders drop an epoch's last,
//! incomplete batch.

use super::protocol::{Bench, Needs, Pipeline, Protocol, Scored};
use crate::encoder::{Encoder, Input, Tap};
use crate::error::Error;
use crate::features::{Matrix, class_labels, view_group};
use crate::progress::Event;
use crate::result::seeds_scores;
use crate::solvers::{Classifier, Head};
use crate::split::{TEST, TRAIN};
use crate::task::{Classes, check_rows};
use backbones::RunPosition;
use burn::tensor::Tensor;
use data::{Dataset, Loader, LoaderConfig, Order, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use training::{Count, OptimizerConfig, ScheduleConfig, check_epochs};

/// A linear probe on images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The classifier's input: `"pooled"`, or class tokens of a transformer's last blocks.
    pub input: Input,
    /// Augmentation of the training images. All of them: `random_resized_crop` to 224 px (area 0.08 to 1, torchvision's default)
    /// and `horizontal_flip`.
    pub train_transforms: Vec<Transform>,
    /// Images per step: 256 (SwAV), 1,024 (DINO, MoCo v3).
    pub batch_images: usize,
    /// Order of the training records.
    pub order: Order,
    /// Passes over the training set: 100, and 90 for MoCo v3.
    pub epochs: usize,
    /// SGD with momentum 0.9; the rates are above.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule: cosine by epoch.
    pub schedule: ScheduleConfig,
    /// One classifier per seed (initial weights, order, augmentation); the score is their mean.
    pub seeds: Vec<u64>,
}

/// `linear-swav`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LinearSwav(pub Settings);

/// `linear-dino`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LinearDino(pub Settings);

/// `linear-moco-v3`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LinearMocoV3(pub Settings);

/// The three differ only in their names.
macro_rules! named {
    ($($probe:ident = $name:literal),*) => {$(
        impl Protocol for $probe {
            const NAME: &'static str = $name;

            fn validate(&self, table: &str) -> Result<(), String> {
                self.0.validate(table)
            }

            fn needs(&self) -> Needs<'_> {
                Needs::train_images(&self.0.train_transforms).at(self.0.input.taps())
            }

            fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
                self.0.train($name, bench)
            }
        }
    )*};
}

named!(
    LinearSwav = "linear-swav",
    LinearDino = "linear-dino",
    LinearMocoV3 = "linear-moco-v3"
);

impl Settings {
    /// Gives an error for settings that cannot run on any data; it names the key, in the config's `table`.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        if self.batch_images == 0 || self.epochs == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{table}` needs at least 1 of `batch_images`, `epochs` and `seeds`, got {}, {} and {:?}",
                self.batch_images, self.epochs, self.seeds
            ));
        }
        check_images(table, self.order, &self.train_transforms)?;
        self.input.validate(&format!("{table}.input"))?;
        self.optimizer.validate(&format!("{table}.optimizer"))?;
        check_schedule(table, &self.schedule, self.epochs)
    }

    /// Trains a classifier for each seed on the training images, and scores it on the test features after the last epoch.
    ///
    /// The encoder is frozen, so the test features are computed only once.
    ///
    /// # Errors
    /// Missing labels, test classes that the training set lacks, a NaN or infinite loss, unreadable data; and
    /// [`Error::EncoderChanged`], the counterpart of MoCo's `sanity_check`.
    pub(super) fn train(&self, protocol: &'static str, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let train = bench.pipeline(protocol)?.train;
        let (test, device) = (bench.splits.test, bench.device);
        let labels = class_labels(train, TRAIN)?;
        let classes = Classes::of(&labels, TRAIN)?;
        let test_classes = classes.places_of_test(train.class_names(), test)?;
        let taps = self.input.taps();
        let parts = taps.iter().map(|tap| check_rows(test, &tap.name(), TEST));
        let test_rows = side_by_side(&parts.collect::<Result<Vec<_>, _>>()?);
        let train_classes: Vec<u32> = labels.iter().filter_map(|label| classes.place(*label)).collect();

        let probes = Probes {
            protocol,
            taps: &taps,
            train_classes: &train_classes,
            transforms: &self.train_transforms,
            batch_images: self.batch_images,
            order: self.order,
            epochs: self.epochs,
            seeds: &self.seeds,
        };
        let trained = probes.train(
            bench,
            |seed, progress| {
                let classifier = Classifier::plain([test_rows.width, classes.count()], seed, device);
                let peak = self.optimizer.peak_learning_rate(self.batch_images);
                vec![Head::new(
                    classifier,
                    peak,
                    &self.optimizer,
                    &self.schedule,
                    progress,
                )]
            },
            |features| vec![Tensor::cat(features, 1)],
            |heads| heads[0].ranks(&test_rows, &test_classes, device),
        )?;
        let losses = trained.losses.concat();
        let details = serde_json::Map::from_iter([("last_batch_losses".to_string(), json!(losses))]);
        let scores = seeds_scores(
            &self.seeds,
            &trained.of_seeds,
            &test_classes,
            classes.count(),
            &details,
        );
        Ok(Scored {
            scores,
            classes: classes.count(),
            train_bad_records: Some(trained.bad_records),
        })
    }
}

/// Classifiers that learn from freshly augmented images of a frozen encoder, for each seed anew.
pub(crate) struct Probes<'a> {
    pub(crate) protocol: &'static str,
    pub(crate) taps: &'a [Tap],
    /// The class of each training record.
    pub(crate) train_classes: &'a [u32],
    pub(crate) transforms: &'a [Transform],
    pub(crate) batch_images: usize,
    pub(crate) order: Order,
    pub(crate) epochs: usize,
    pub(crate) seeds: &'a [u64],
}

/// Classifiers after their last epoch.
pub(crate) struct Probed<T> {
    /// What was asked of the heads of each seed.
    pub(crate) of_seeds: Vec<T>,
    /// The loss in the last batch, of each head of each seed.
    pub(crate) losses: Vec<Vec<f64>>,
    /// Training records that could not be read.
    pub(crate) bad_records: usize,
}

impl Probes<'_> {
    /// Trains the heads that `start` gives for each seed, on what `inputs` makes for each of them from the features of all
    /// taps, and asks `end` of them.
    ///
    /// # Errors
    /// A NaN or infinite loss, unreadable data, and an encoder that was changed.
    pub(crate) fn train<T>(
        &self,
        bench: &mut Bench<'_>,
        start: impl Fn(u64, RunPosition) -> Vec<Head>,
        inputs: impl Fn(Vec<Tensor<2>>) -> Vec<Tensor<2>>,
        end: impl Fn(&[Head]) -> T,
    ) -> Result<Probed<T>, Error> {
        let (protocol, device) = (self.protocol, bench.device);
        let Pipeline {
            encoder, train, data, ..
        } = bench.pipeline(protocol)?;
        let last_losses = |heads: &[Head]| -> Result<Vec<f64>, Error> {
            heads.iter().map(|head| head.last_loss(protocol)).collect()
        };
        let before = encoder.weights_hash();
        let mut trained = Probed {
            of_seeds: vec![],
            losses: vec![],
            bad_records: 0,
        };
        for (run, &seed) in self.seeds.iter().enumerate() {
            let loader = loader(train, self.transforms, self.batch_images, seed, self.order, data)?;
            let steps_per_epoch = loader.batches_per_epoch();
            let steps = steps_per_epoch * self.epochs;
            let mut heads = start(seed, RunPosition::at(0, steps_per_epoch, steps));
            for (step, batch) in loader.batches(0, steps).enumerate() {
                let batch = batch?;
                let positions = batch.positions.iter();
                let truth: Vec<u32> = positions
                    .map(|position| self.train_classes[*position as usize])
                    .collect();
                for views in batch.views {
                    let features = encoder.taps(encoder.normalize.tensor(views, device), self.taps)?;
                    for (head, features) in heads.iter_mut().zip(inputs(features)) {
                        head.step(features, &truth);
                    }
                }
                if (step + 1) % steps_per_epoch == 0 {
                    let losses = last_losses(&heads)?;
                    let epoch = (step + 1) / steps_per_epoch;
                    tracing::info!(seed, epoch, ?losses, protocol);
                    (bench.progress)(Event {
                        stage: protocol,
                        done: run * self.epochs + epoch,
                        total: self.epochs * self.seeds.len(),
                        unit: "epochs",
                    });
                }
            }
            trained.losses.push(last_losses(&heads)?);
            trained.of_seeds.push(end(&heads));
            trained.bad_records = trained.bad_records.max(loader.bad_records().count);
        }
        unchanged(encoder, before)?;
        Ok(trained)
    }
}

/// Gives an error for a schedule that a run of this many epochs cannot have, or whose milestones it never reaches.
pub(crate) fn check_schedule(table: &str, schedule: &ScheduleConfig, epochs: usize) -> Result<(), String> {
    schedule.validate(&format!("{table}.schedule"), Some(epochs))?;
    let counts = schedule.counts().into_iter();
    let counts: Vec<Count> = counts.map(|count| count.within(table)).collect();
    check_epochs(&counts, epochs)
}

/// Gives an error for an order that does not shuffle, and for transforms that give no batch.
pub(crate) fn check_images(table: &str, order: Order, transforms: &[Transform]) -> Result<(), String> {
    if order == Order::Sequential {
        return Err(format!(
            "`{table}.order` must shuffle: `\"global\"` or `{{ blocks = N }}`"
        ));
    }
    view_group(transforms).validate_at("count", &format!("{table}.train_transforms"))
}

/// Augmented images in batches.
pub(crate) fn loader(
    train: &Arc<Dataset>,
    transforms: &[Transform],
    batch_images: usize,
    seed: u64,
    order: Order,
    data: &LoaderConfig,
) -> Result<Loader, Error> {
    let config = LoaderConfig {
        batch_images,
        ..*data
    };
    Ok(Loader::new(
        Arc::clone(train),
        vec![view_group(transforms)],
        config,
        order,
        seed,
    )?)
}

/// An error if the encoder's weights no longer have the hash `before`.
pub(crate) fn unchanged(encoder: &Encoder, before: String) -> Result<(), Error> {
    let after = encoder.weights_hash();
    match after == before {
        true => Ok(()),
        false => Err(Error::EncoderChanged { before, after }),
    }
}

/// Concatenates matrices of the same rows by columns.
fn side_by_side(parts: &[&Matrix]) -> Matrix {
    let rows = parts.first().map_or(0, |part| part.rows);
    let width = parts.iter().map(|part| part.width).sum();
    let values = (0..rows)
        .flat_map(|row| parts.iter().flat_map(move |part| part.row(row)))
        .copied()
        .collect();
    Matrix::new(rows, width, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_the_order_of_their_parts() {
        let (one, two) = (
            Matrix::new(2, 1, vec![1.0, 2.0]),
            Matrix::new(2, 2, vec![3.0, 4.0, 5.0, 6.0]),
        );
        assert_eq!(
            side_by_side(&[&one, &two]),
            Matrix::new(2, 3, vec![1.0, 3.0, 4.0, 2.0, 5.0, 6.0])
        );
    }
}
