//! DINOv2's linear probe: a grid of learning rates and inputs, all trained in one pass over augmented images.
//!
//! Oquab et al. 2024, `dinov2/eval/linear.py`: 13 rates from 1e-5 to 0.1 for 256 images, on the class tokens of the last block and of
//! the last four, each with and without the mean of the last block's patches; batches of 1,024 (128 on each of 8 GPUs), 12,500
//! steps, SGD with momentum 0.9 and no weight decay, a cosine to 0 by step.
//!
//! Differs from the reference: the classifier is chosen on held-out training records, which are not trained
//! on; the reference chooses by the accuracy on the set that it quotes.

use super::inputs::Inputs;
use super::linear_cached_grid::{Choice, check_grid, chosen, factor};
use super::linear_probe::{check_images, loader, unchanged};
use super::protocol::{Bench, LabelsRead, Needs, Pipeline, Protocol, Scored};
use crate::encoder::Input;
use crate::error::Error;
use crate::features::{Extraction, class_labels};
use crate::progress::Event;
use crate::solvers::HeadGrid;
use crate::split::{TEST, TRAIN};
use crate::task::{Classes, Splits, hold_out};
use data::{Dataset, Order, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const PROTOCOL: &str = "linear-dinov2";

/// DINOv2's linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearDinov2 {
    /// Augmentation of the training images. DINOv2: `random_resized_crop` to 224 px, bicubic, and `horizontal_flip`.
    pub train_transforms: Vec<Transform>,
    /// Images per step. DINOv2: 1,024.
    pub batch_images: usize,
    /// Order of the training records.
    pub order: Order,
    /// Total steps. DINOv2: 12,500.
    pub steps: usize,
    /// The classifiers' inputs; each is combined with every learning rate. DINOv2: 1 and 4 blocks, without
    /// and with the patches.
    pub inputs: Vec<Input>,
    /// Learning rates for a batch of 256. DINOv2: 1e-5, 2e-5, 5e-5 … 0.1.
    pub learning_rates_per_256: Vec<f64>,
    /// SGD's momentum. DINOv2: 0.9.
    pub momentum: f64,
    /// How the best classifier is chosen.
    pub choice: Choice,
    /// Seed of initial weights, order and augmentation.
    pub seed: u64,
}

impl Protocol for LinearDinov2 {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.batch_images == 0 || self.steps == 0 {
            return Err(format!(
                "`{table}` needs at least 1 of `batch_images` and `steps`, got {} and {}",
                self.batch_images, self.steps
            ));
        }
        check_images(table, self.order, &self.train_transforms)?;
        self.choice.validate(table)?;
        check_grid(table, &self.inputs, &self.learning_rates_per_256, self.momentum)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::train_images(&self.train_transforms).at(Inputs::new(&self.inputs).taps)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        self.choice
            .split(PROTOCOL, &LabelsRead::Both.task(splits)?)
            .map(|_| ())
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        linear_dinov2(self, bench)
    }
}

/// Trains the grid on the training images and scores the classifier that is best on the held-out records.
///
/// # Errors
/// As the other probes on images, and classes of one record.
fn linear_dinov2(config: &LinearDinov2, bench: &mut Bench<'_>) -> Result<Scored, Error> {
    let Pipeline {
        encoder,
        train,
        test_transforms,
        data,
        ..
    } = bench.pipeline(PROTOCOL)?;
    let (test, device) = (bench.splits.test, bench.device);
    let labels = class_labels(train, TRAIN)?;
    let classes = Classes::of(&labels, TRAIN)?.named(train.class_names());
    let test_classes = classes.places_of_test(train.class_names(), test)?;
    let train_classes: Vec<u32> = labels.iter().filter_map(|label| classes.place(*label)).collect();
    let Choice {
        validation_fraction,
        seed,
    } = config.choice;
    let (kept, held_out) = hold_out(
        &train_classes,
        &classes,
        validation_fraction,
        seed,
        "linear_grid.split",
    )
    .map_err(|class| Error::HoldOut {
        protocol: PROTOCOL,
        class,
    })?;
    let part = |positions: &[usize]| {
        let positions = positions.iter().map(|position| *position as u32).collect();
        Dataset::part(train, positions).map(Arc::new)
    };
    let (kept_set, held_out_set) = (part(&kept)?, part(&held_out)?);
    let inputs = Inputs::new(&config.inputs);
    let test_parts = inputs.rows(test, TEST)?;
    let widths: Vec<usize> = test_parts.iter().map(|part| part.width).collect();

    let before = encoder.weights_hash();
    let extraction = Extraction {
        encoder,
        dataset: &held_out_set,
        transforms: test_transforms,
        taps: &inputs.taps,
        data,
        device,
    };
    let validation = extraction.features(&mut |event| {
        (bench.progress)(Event {
            stage: "features of the records held out",
            ..event
        });
    })?;
    let loader = loader(
        &kept_set,
        &config.train_transforms,
        config.batch_images,
        config.seed,
        config.order,
        data,
    )?;
    let scale = config.batch_images as f64 / 256.0;
    let rates: Vec<f64> = config
        .learning_rates_per_256
        .iter()
        .map(|rate| rate * scale)
        .collect();
    let count = classes.count();
    let mut grid = HeadGrid::new(
        &widths,
        inputs.places(),
        &rates,
        count,
        config.momentum,
        config.seed,
        device,
    );
    for (step, batch) in loader.batches(0, config.steps).enumerate() {
        let batch = batch?;
        let truth: Vec<u32> = batch
            .positions
            .iter()
            .map(|position| train_classes[kept[*position as usize]])
            .collect();
        for views in batch.views {
            let parts = encoder.taps(encoder.normalize.tensor(views, device), &inputs.taps)?;
            grid.step(&parts, &truth, factor(step, config.steps));
        }
        let done = step + 1;
        if done % 50 == 0 || done == config.steps {
            grid.losses(PROTOCOL, step, factor(step, config.steps))?;
            (bench.progress)(Event {
                stage: PROTOCOL,
                done,
                total: config.steps,
                unit: "steps",
            });
        }
    }
    unchanged(encoder, before)?;
    let validation_classes = classes.places_of_test(train.class_names(), &validation)?;
    let validated = grid.ranks(&inputs.rows(&validation, TRAIN)?, &validation_classes, device);
    let tested = grid.ranks(&test_parts, &test_classes, device);
    Ok(Scored {
        scores: chosen(
            &inputs.inputs,
            &config.learning_rates_per_256,
            &validated,
            &tested,
            &test_classes,
            count,
        ),
        classes: count,
        train_bad_records: Some(loader.bad_records().count + validation.bad_records),
    })
}
