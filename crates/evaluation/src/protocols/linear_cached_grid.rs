//! DINOv2's grid of linear classifiers on features stored once: a fast variant of `linear-dinov2`.
//!
//! It sees each image in one view only, so its scores differ from DINOv2's. Hence its own name.

use super::inputs::Inputs;
use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::encoder::Input;
use crate::error::Error;
use crate::progress::Event;
use crate::result::{Score, scores_of, share_within};
use crate::solvers::{HeadGrid, upload};
use crate::split::{TEST, TRAIN};
use crate::task::{Splits, Task, hold_out};
use backbones::Draws;
use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "linear-cached-grid";

/// A grid of linear classifiers on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearCachedGrid {
    /// The classifiers' inputs; each is combined with every learning rate.
    pub inputs: Vec<Input>,
    /// Learning rates for a batch of 256; scaled linearly for others.
    pub learning_rates_per_256: Vec<f64>,
    /// SGD's momentum.
    pub momentum: f64,
    /// Records per step; an epoch's last, smaller batch is dropped.
    pub batch_records: usize,
    /// Total steps; the rate decays to 0 over them by a cosine.
    pub steps: usize,
    /// How the best classifier is chosen.
    pub choice: Choice,
    /// Seed of initial weights and order.
    pub seed: u64,
}

/// Training records held out to choose among classifiers; the rest is trained on. The reference chooses on
/// the same set that it then quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Share of every class that is held out, between 0 and 1.
    pub validation_fraction: f64,
    /// Seed of that draw.
    pub seed: u64,
}

impl Choice {
    pub(crate) fn validate(&self, table: &str) -> Result<(), String> {
        match self.validation_fraction > 0.0 && self.validation_fraction < 1.0 {
            true => Ok(()),
            false => Err(format!(
                "`{table}.choice.validation_fraction` must be above 0 and below 1, got {}",
                self.validation_fraction
            )),
        }
    }

    /// Training rows to learn from and to hold out.
    pub(crate) fn split(
        &self,
        protocol: &'static str,
        task: &Task<'_>,
    ) -> Result<(Vec<usize>, Vec<usize>), Error> {
        let (rows, classes) = (&task.train_classes, &task.classes);
        hold_out(
            rows,
            classes,
            self.validation_fraction,
            self.seed,
            "linear_grid.split",
        )
        .map_err(|class| Error::HoldOut { protocol, class })
    }
}

/// Gives an error for a grid that cannot be trained on any data.
pub(crate) fn check_grid(table: &str, inputs: &[Input], rates: &[f64], momentum: f64) -> Result<(), String> {
    if inputs.is_empty() || rates.is_empty() {
        return Err(format!(
            "`{table}` needs at least 1 of `inputs` and `learning_rates_per_256`, got {} and {}",
            inputs.len(),
            rates.len()
        ));
    }
    if let Some(rate) = rates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
        return Err(format!(
            "`{table}.learning_rates_per_256` must be finite and above 0, got {rate}"
        ));
    }
    if !(0.0..1.0).contains(&momentum) {
        return Err(format!(
            "`{table}.momentum` must be at least 0 and below 1, got {momentum}"
        ));
    }
    let mut inputs = inputs.iter().enumerate();
    inputs.try_for_each(|(place, input)| input.validate(&format!("{table}.inputs.{place}")))
}

impl Protocol for LinearCachedGrid {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.batch_records == 0 || self.steps == 0 {
            return Err(format!(
                "`{table}` needs at least 1 of `batch_records` and `steps`, got {} and {}",
                self.batch_records, self.steps
            ));
        }
        self.choice.validate(table)?;
        check_grid(table, &self.inputs, &self.learning_rates_per_256, self.momentum)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both).at(Inputs::new(&self.inputs).taps)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        self.choice
            .split(PROTOCOL, &LabelsRead::Both.task(splits)?)
            .map(|_| ())
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(LabelsRead::Both)?;
        let scores = linear_cached_grid(self, &task, bench.splits, bench.device, bench.progress)?;
        Ok(Scored::new(scores, task.classes.count()))
    }
}

/// The rate's factor at a step: `CosineAnnealingLR` to 0.
pub(crate) fn factor(step: usize, steps: usize) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos())
}

/// Trains every classifier of the grid at once, chooses one on the held-out records, and scores it on the
/// test rows.
///
/// # Errors
/// Features that lack a tap, classes of one record, and a NaN or infinite loss in every classifier.
fn linear_cached_grid(
    config: &LinearCachedGrid,
    task: &Task<'_>,
    splits: Splits<'_>,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let inputs = Inputs::new(&config.inputs);
    let (train_parts, test_parts) = (inputs.rows(splits.train, TRAIN)?, inputs.rows(splits.test, TEST)?);
    let (mut kept, held_out) = config.choice.split(PROTOCOL, task)?;
    let batch = config.batch_records.min(kept.len());
    let scale = batch as f64 / 256.0;
    let rates: Vec<f64> = config
        .learning_rates_per_256
        .iter()
        .map(|rate| rate * scale)
        .collect();
    let widths: Vec<usize> = train_parts.iter().map(|part| part.width).collect();
    let classes = task.classes.count();
    let mut grid = HeadGrid::new(
        &widths,
        inputs.places(),
        &rates,
        classes,
        config.momentum,
        config.seed,
        device,
    );
    let per_epoch = kept.len() / batch;
    let sorted = kept.clone();
    for step in 0..config.steps {
        let (epoch, place) = (step / per_epoch, step % per_epoch);
        if place == 0 {
            // Start from the sorted rows, so that an epoch's order is a function of seed and epoch alone.
            kept.clone_from(&sorted);
            let draws = Draws::new(config.seed, epoch as u64);
            draws.shuffle("linear_cached_grid.order", 0, &mut kept);
        }
        let rows = &kept[place * batch..(place + 1) * batch];
        let parts: Vec<Tensor<2>> = train_parts
            .iter()
            .map(|part| upload(part, rows, device))
            .collect();
        let truth: Vec<u32> = rows.iter().map(|row| task.train_classes[*row]).collect();
        grid.step(&parts, &truth, factor(step, config.steps));
        let done = step + 1;
        if done % 100 == 0 || done == config.steps {
            grid.losses(PROTOCOL, step, factor(step, config.steps))?;
            progress(Event {
                stage: PROTOCOL,
                done,
                total: config.steps,
                unit: "steps",
            });
        }
    }
    let validation: Vec<_> = train_parts.iter().map(|part| part.select(&held_out)).collect();
    let validation_classes: Vec<u32> = held_out.iter().map(|row| task.train_classes[*row]).collect();
    let validated = grid.ranks(
        &validation.iter().collect::<Vec<_>>(),
        &validation_classes,
        device,
    );
    let tested = grid.ranks(&test_parts, &task.test_classes, device);
    Ok(chosen(
        &inputs.inputs,
        &config.learning_rates_per_256,
        &validated,
        &tested,
        &task.test_classes,
        classes,
    ))
}

/// The scores of the classifier that is best on the held-out records (ties go to the first), with every
/// classifier's held-out accuracy.
pub(crate) fn chosen(
    inputs: &[Input],
    rates: &[f64],
    validated: &[Vec<u32>],
    tested: &[Vec<u32>],
    test_classes: &[u32],
    classes: usize,
) -> Vec<Score> {
    let accuracies: Vec<f64> = validated.iter().map(|ranks| share_within(ranks, 1)).collect();
    let best = (0..accuracies.len()).fold(0, |best, next| {
        if accuracies[next] > accuracies[best] {
            next
        } else {
            best
        }
    });
    let name = |place: usize| (inputs[place / rates.len()].name(), rates[place % rates.len()]);
    let all: Vec<serde_json::Value> = accuracies
        .iter()
        .enumerate()
        .map(|(place, accuracy)| {
            let (input, rate) = name(place);
            json!({ "input": input, "learning_rate_per_256": rate, "validation_top1": accuracy })
        })
        .collect();
    let (input, rate) = name(best);
    let details = serde_json::Map::from_iter([
        ("input".to_string(), json!(input)),
        ("learning_rate_per_256".to_string(), json!(rate)),
        ("validation_top1".to_string(), json!(accuracies[best])),
        ("validation_records".to_string(), json!(validated[best].len())),
        (
            "chosen_on".to_string(),
            json!("records held out of the training set"),
        ),
        ("classifiers".to_string(), json!(all)),
    ]);
    scores_of(&tested[best], test_classes, classes, &details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::{Features, Matrix};
    use crate::testing::features;

    fn config() -> LinearCachedGrid {
        LinearCachedGrid {
            inputs: vec![
                Input::Pooled,
                Input::Tokens {
                    blocks: 1,
                    patch_mean: true,
                },
            ],
            learning_rates_per_256: vec![1e-4, 4.0],
            momentum: 0.9,
            batch_records: 32,
            steps: 300,
            choice: Choice {
                validation_fraction: 0.2,
                seed: 0,
            },
            seed: 0,
        }
    }

    /// Noise as `pooled`; only class token and patches together separate the two classes.
    fn set(rows: usize, shift: usize) -> Features {
        let value = |index: usize| ((index + shift) * 7919 % 1009) as f32 / 1009.0 - 0.5;
        let labels = (0..rows)
            .map(|row| i64::from(value(2 * row) + value(2 * row + 1) > 0.0))
            .collect();
        let mut features = features(1, (0..rows).map(|row| value(3 * row + 5)).collect(), labels);
        for (name, offset) in [("class_token_1", 0), ("patch_mean", 1)] {
            let values = (0..rows).map(|row| value(2 * row + offset)).collect();
            features.taps.insert(name.into(), Matrix::new(rows, 1, values));
        }
        features
    }

    #[test]
    fn the_right_input_and_rate_are_chosen_on_records_held_out() {
        let (train, test) = (set(300, 0), set(200, 4000));
        let splits = Splits {
            train: &train,
            test: &test,
        };
        let task = splits.task(POOLED).unwrap();
        let mut events = vec![];
        let run = |progress: &mut dyn FnMut(Event<'_>)| {
            linear_cached_grid(&config(), &task, splits, &Device::flex(), progress).unwrap()
        };
        let scores = run(&mut |event| events.push((event.done, event.total)));
        assert_eq!(events, [(100, 300), (200, 300), (300, 300)]);
        assert!(scores[0].value > 0.95, "{scores:?}");
        let details = &scores[0].details;
        assert_eq!(details["input"], "1 block + patches");
        assert_eq!(details["learning_rate_per_256"], 4.0);
        assert_eq!(details["validation_records"], 60);
        assert_eq!(details["classifiers"].as_array().unwrap().len(), 4);
        assert_eq!(run(&mut |_| {}), scores);
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |change: fn(&mut LinearCachedGrid)| {
            let mut config = config();
            change(&mut config);
            config.validate("protocols.0.x").unwrap_err()
        };
        assert!(refused(|config| config.steps = 0).contains("`steps`"));
        assert!(refused(|config| config.inputs.clear()).contains("`inputs`"));
        assert!(refused(|config| config.momentum = 1.0).contains("momentum"));
        assert!(refused(|config| config.learning_rates_per_256 = vec![0.0]).contains("above 0"));
        assert!(refused(|config| config.choice.validation_fraction = 1.0).contains("validation_fraction"));
        assert!(config().validate("protocols.0.x").is_ok());
        let (train, test) = (set(40, 0), features(1, vec![0.0], vec![0]));
        let splits = Splits {
            train: &train,
            test: &test,
        };
        let task = splits.task(POOLED).unwrap();
        let error = linear_cached_grid(&config(), &task, splits, &Device::flex(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("no tap `class_token_1`"), "{error}");
    }
}
