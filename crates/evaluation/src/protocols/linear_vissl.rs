//! VISSL's linear probe: a classifier on each of several stages of a frozen ResNet, all trained in one pass over freshly augmented
//! images.
//!
//! Goyal et al. 2019, section 6.1, and facebookresearch/vissl,
//! `configs/config/benchmark/linear_image_classification`, `eval_mlp`
//! (`vissl/models/heads/linear_eval_mlp.py`). A stage's output is averaged to about 9,000 values
//! (`stage_pooling.rs`). Batch normalization with scale and shift gives each channel unit variance by the
//! batch's statistics, and a linear layer with PyTorch's default initialization follows. SGD at rate 0.01 for
//! 256 images, Nesterov momentum 0.9, weight decay 5e-4 except on the normalization. ImageNet: 28 epochs, a
//! tenth of the rate at epochs 8, 16 and 24; Places205: 14 epochs, at 4, 8 and 12. The encoder is in
//! evaluation mode.
//!
//! The score is the last epoch's, and the headline stage is set in advance: papers often quote the best
//! stage, which chooses it by the test set. An epoch's last, incomplete batch is dropped; VISSL's loader
//! keeps it.

use super::linear_probe::{Probed, Probes, check_images, check_schedule};
use super::protocol::{Bench, Needs, Pipeline, Protocol, Scored};
use crate::encoder::{Encoder, POOLED, Tap};
use crate::error::Error;
use crate::features::{class_labels, in_order, view_group};
use crate::progress::Event;
use crate::result::{Score, seeds_scores};
use crate::solvers::{Classifier, Head};
use crate::split::{TEST, TRAIN};
use crate::task::{Classes, check_rows};
use backbones::{ResNetStage, RunPosition};
use burn::tensor::Device;
use data::{Order, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use training::{OptimizerConfig, ScheduleConfig};

const PROTOCOL: &str = "linear-vissl";

/// VISSL's linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearVissl {
    /// Taps of the classifiers. VISSL: `conv1` and `res2` to `res5` for ImageNet and Places205, `res5avg` for
    /// small data sets.
    pub taps: Vec<Place>,
    /// The tap of the headline metric.
    pub headline_tap: Place,
    /// Augmentation of the training images. VISSL: `random_resized_crop` to 224 px (area 0.08 to 1, torchvision's default) and
    /// `horizontal_flip`.
    pub train_transforms: Vec<Transform>,
    /// Images per step, which share batch statistics. VISSL: 256 (32 on each of 8 GPUs, synchronized).
    pub batch_images: usize,
    /// Order of the training records.
    pub order: Order,
    /// Passes over the training set. VISSL: 28 (ImageNet, small data sets), 14 (Places205), 84 (iNaturalist 2018).
    pub epochs: usize,
    /// SGD. VISSL: rate 0.01 for 256 images, momentum 0.9, Nesterov, weight decay 5e-4, except on the
    /// normalization.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule. VISSL: a tenth at 2/7, 4/7 and 6/7 of the epochs.
    pub schedule: ScheduleConfig,
    /// One set of classifiers per seed (initial weights, order, augmentation); scores are their means.
    pub seeds: Vec<u64>,
}

/// The tap of a classifier, by VISSL's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The first convolution, normalized and rectified.
    Conv1,
    /// The first stage of residual blocks.
    Res2,
    /// The second one.
    Res3,
    /// The third one.
    Res4,
    /// The last one.
    Res5,
    /// The network's output after global average pooling.
    Res5avg,
}

impl Place {
    fn tap(self) -> Tap {
        match self {
            Self::Conv1 => Tap::Stage(ResNetStage::Conv1),
            Self::Res2 => Tap::Stage(ResNetStage::Res2),
            Self::Res3 => Tap::Stage(ResNetStage::Res3),
            Self::Res4 => Tap::Stage(ResNetStage::Res4),
            Self::Res5 => Tap::Stage(ResNetStage::Res5),
            Self::Res5avg => Tap::Pooled,
        }
    }

    fn name(self) -> &'static str {
        match self.tap() {
            Tap::Stage(stage) => stage.name(),
            _ => "res5avg",
        }
    }
}

impl Protocol for LinearVissl {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        // A single image has no batch statistics where a map has one position.
        if self.batch_images < 2 || self.epochs == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{table}` needs at least 2 `batch_images` and 1 of `epochs` and `seeds`, got {}, {} and {:?}",
                self.batch_images, self.epochs, self.seeds
            ));
        }
        if !self.taps.contains(&self.headline_tap) {
            return Err(format!(
                "`{table}.headline_tap` must be one of `taps`, got `{}`",
                self.headline_tap.name()
            ));
        }
        let twice = |(at, tap): (usize, &Place)| self.taps[..at].contains(tap).then(|| tap.name());
        if let Some(name) = self.taps.iter().enumerate().find_map(twice) {
            return Err(format!("`{table}.taps` names `{name}` twice"));
        }
        check_images(table, self.order, &self.train_transforms)?;
        self.optimizer.validate(&format!("{table}.optimizer"))?;
        check_schedule(table, &self.schedule, self.epochs)
    }

    fn needs(&self) -> Needs<'_> {
        Needs {
            // Its test images go through the network once more, because the outputs of all stages would fill
            // the memory.
            stored_taps: vec![Tap::Pooled],
            ..Needs::train_images(&self.train_transforms).at(self.taps())
        }
    }

    fn check_encoder(&self, encoder: &Encoder) -> Result<(), Error> {
        encoder.check_resnet(PROTOCOL)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        linear_vissl(self, bench)
    }
}

impl LinearVissl {
    /// The places as taps, in their order.
    pub(crate) fn taps(&self) -> Vec<Tap> {
        self.taps.iter().map(|place| place.tap()).collect()
    }

    /// The classifiers of one seed, before their first step.
    fn heads(
        &self,
        shapes: &[[usize; 2]],
        classes: usize,
        seed: u64,
        progress: RunPosition,
        device: &Device,
    ) -> Vec<Head> {
        let head = |shape: &[usize; 2]| {
            Head::new(
                Classifier::normalizing(*shape, classes, seed, device),
                self.optimizer.peak_learning_rate(self.batch_images),
                &self.optimizer,
                &self.schedule,
                progress,
            )
        };
        shapes.iter().map(head).collect()
    }
}

/// Trains the classifiers of each seed on the training images, then scores all of them in one pass over the test images.
///
/// The stored test features are pooled ones, checked to be readable and finite. Stage features are never
/// stored: ImageNet's take 9 GB.
///
/// # Errors
/// As the other probes on images.
fn linear_vissl(config: &LinearVissl, bench: &mut Bench<'_>) -> Result<Scored, Error> {
    let Pipeline {
        encoder,
        train,
        test,
        test_transforms,
        data,
    } = bench.pipeline(PROTOCOL)?;
    let device = bench.device;
    check_rows(bench.splits.test, POOLED, TEST)?;
    let labels = class_labels(train, TRAIN)?;
    let classes = Classes::of(&labels, TRAIN)?;
    // Classes of all test records, in the order of the index.
    let test_classes = classes.places_of_test(train.class_names(), test.index(true)?)?;
    let train_classes: Vec<u32> = labels.iter().filter_map(|label| classes.place(*label)).collect();
    let taps = config.taps();
    let group = view_group(&config.train_transforms);
    let (width, height) = group.output_px().ok_or_else(|| {
        Error::Config(format!(
            "`{PROTOCOL}.train_transforms` must bring every image to one size"
        ))
    })?;
    let size = [height as usize, width as usize];
    let shapes = taps.iter().map(|tap| encoder.tap_shape(*tap, size));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;

    let probes = Probes {
        protocol: PROTOCOL,
        taps: &taps,
        train_classes: &train_classes,
        transforms: &config.train_transforms,
        batch_images: config.batch_images,
        order: config.order,
        epochs: config.epochs,
        seeds: &config.seeds,
    };
    let Probed {
        of_seeds: trained,
        losses,
        bad_records,
    } = probes.train(
        bench,
        |seed, start| config.heads(&shapes, classes.count(), seed, start, device),
        |features| features,
        |heads| heads.iter().map(Head::trained).collect::<Vec<_>>(),
    )?;

    // [tap][seed][record]
    let mut ranks = vec![vec![Vec::with_capacity(test.len()); trained.len()]; taps.len()];
    let mut tested: Vec<u32> = Vec::with_capacity(test.len());
    let loader = in_order(test, test_transforms, data)?;
    for batch in loader.batches(0, loader.batches_per_epoch()) {
        let batch = batch?;
        let positions = batch.positions.iter();
        let truth: Vec<u32> = positions
            .map(|position| test_classes[*position as usize])
            .collect();
        for views in batch.views {
            let features = encoder.taps(encoder.normalize.tensor(views, device), &taps)?;
            for (tap, features) in features.into_iter().enumerate() {
                for (seed, classifiers) in trained.iter().enumerate() {
                    ranks[tap][seed].extend(classifiers[tap].ranks(features.clone(), &truth));
                }
            }
        }
        tested.extend(truth);
        (bench.progress)(Event {
            stage: "test images",
            done: tested.len(),
            total: test.len(),
            unit: "images",
        });
    }

    let mut scores = vec![];
    for (tap, place) in config.taps.iter().enumerate() {
        let of_tap: Vec<f64> = losses.iter().map(|losses: &Vec<f64>| losses[tap]).collect();
        let details = serde_json::Map::from_iter([
            ("tap".to_string(), json!(place.name())),
            ("features".to_string(), json!(shapes[tap][0] * shapes[tap][1])),
            ("last_batch_losses".to_string(), json!(of_tap)),
        ]);
        let of_tap = seeds_scores(&config.seeds, &ranks[tap], &tested, classes.count(), &details);
        scores.extend(of_tap.into_iter().map(|score| Score {
            headline: score.headline && *place == config.headline_tap,
            ..score
        }));
    }
    Ok(Scored {
        scores,
        classes: classes.count(),
        train_bad_records: Some(bad_records),
    })
}

#[cfg(test)]
mod tests;
