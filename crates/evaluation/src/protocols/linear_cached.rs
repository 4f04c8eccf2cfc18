//! A linear classifier trained by SGD on features stored once: a fast variant of `linear-moco`.
//!
//! It sees each image in one view only, so it overfits sooner and its scores differ from MoCo's. Hence its
//! own name.

use super::linear_probe::check_schedule;
use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::features::{Matrix, Scaling};
use crate::progress::Event;
use crate::result::{Score, seeds_scores};
use crate::solvers::{Classifier, Head};
use crate::task::Task;
use backbones::{Draws, RunPosition};
use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use training::{OptimizerConfig, ScheduleConfig};

const PROTOCOL: &str = "linear-cached";

/// A linear classifier on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearCached {
    /// Scaling of the features. With `"none"` the learning rate must fit their scale.
    pub scaling: Scaling,
    /// Records per step. An epoch's last, smaller batch is kept.
    pub batch_records: usize,
    /// Passes over the training features.
    pub epochs: usize,
    /// SGD; its `weight_decay` is the L2 penalty.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule.
    pub schedule: ScheduleConfig,
    /// One classifier per seed (initial weights and order of the records); the score is their mean.
    pub seeds: Vec<u64>,
}

impl Protocol for LinearCached {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.batch_records == 0 || self.epochs == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{table}` needs at least 1 of `batch_records`, `epochs` and `seeds`, got {}, {} and {:?}",
                self.batch_records, self.epochs, self.seeds
            ));
        }
        self.optimizer.validate(&format!("{table}.optimizer"))?;
        check_schedule(table, &self.schedule, self.epochs)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(LabelsRead::Both)?;
        let classes = task.classes.count();
        let scores = linear_cached(self, task, bench.device, bench.progress)?;
        Ok(Scored::new(scores, classes))
    }
}

/// Trains a classifier for each seed and scores the test rows after the last epoch: top-1, and top-5 with
/// more than five classes.
fn linear_cached(
    config: &LinearCached,
    task: Task<'_>,
    device: &Device,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let task = task.scaled(config.scaling);
    let total = config.epochs * config.seeds.len();
    let (mut ranks, mut losses) = (vec![], vec![]);
    for (run, &seed) in config.seeds.iter().enumerate() {
        let mut head = head(config, &task, seed, device);
        let order = |epoch| epoch_order(task.train.rows, seed, epoch);
        let loss = train(&mut head, config, &task, order, device, &mut |epochs| {
            progress(Event {
                stage: PROTOCOL,
                done: run * config.epochs + epochs,
                total,
                unit: "epochs",
            });
        })?;
        losses.push(loss);
        ranks.push(head.ranks(&task.test, &task.test_classes, device));
    }
    let details = serde_json::Map::from_iter([("last_batch_losses".to_string(), json!(losses))]);
    Ok(seeds_scores(
        &config.seeds,
        &ranks,
        &task.test_classes,
        task.classes.count(),
        &details,
    ))
}

pub(crate) fn head(config: &LinearCached, task: &Task<'_>, seed: u64, device: &Device) -> Head {
    let steps_per_epoch = task.train.rows.div_ceil(config.batch_records);
    Head::new(
        Classifier::plain([task.train.width, task.classes.count()], seed, device),
        config.optimizer.peak_learning_rate(config.batch_records),
        &config.optimizer,
        &config.schedule,
        RunPosition::at(0, steps_per_epoch, steps_per_epoch * config.epochs),
    )
}

/// Runs all epochs in the order that `order(epoch)` gives; returns the last batch's loss.
pub(crate) fn train(
    head: &mut Head,
    config: &LinearCached,
    task: &Task<'_>,
    order: impl Fn(usize) -> Vec<usize>,
    device: &Device,
    after_epoch: &mut dyn FnMut(usize),
) -> Result<f64, Error> {
    let mut loss = 0.0;
    for epoch in 0..config.epochs {
        for rows in order(epoch).chunks(config.batch_records) {
            let classes: Vec<u32> = rows.iter().map(|row| task.train_classes[*row]).collect();
            head.step(upload(task.train.select(rows), device), &classes);
        }
        loss = head.last_loss(PROTOCOL)?;
        after_epoch(epoch + 1);
    }
    Ok(loss)
}

/// The rows of one epoch in their order: a function of seed and epoch alone.
fn epoch_order(rows: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Draws::new(seed, epoch as u64).shuffle("linear_cached.order", 0, &mut order);
    order
}

fn upload(rows: Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(rows.values, [rows.rows, rows.width]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::testing::features;

    fn config() -> LinearCached {
        LinearCached {
            scaling: Scaling::Standardize,
            batch_records: 32,
            epochs: 20,
            optimizer: OptimizerConfig::Sgd {
                learning_rate_per_256: 4.0,
                momentum: 0.9,
                weight_decay: 0.0,
                nesterov: false,
            },
            schedule: ScheduleConfig::CosinePerEpoch {
                warmup: None,
                end_learning_rate: None,
            },
            seeds: vec![0, 1, 2],
        }
    }

    /// Two classes on either side of a line through the plane; the wide column is 100 times the other.
    fn halves(rows: usize, shift: usize) -> crate::features::Features {
        let value = |index: usize| ((index + shift) * 7919 % 1009) as f32 / 1009.0 - 0.5;
        let points: Vec<[f32; 2]> = (0..rows)
            .map(|row| [value(2 * row), value(2 * row + 1)])
            .collect();
        let labels = points.iter().map(|[x, y]| i64::from(x + y > 0.0)).collect();
        features(
            2,
            points.iter().flat_map(|[x, y]| [*x, 100.0 * y]).collect(),
            labels,
        )
    }

    #[test]
    fn a_line_is_learned_and_the_seeds_agree() {
        let (train, test) = (halves(300, 0), halves(200, 4000));
        let task = || Task::new(&train, &test, POOLED).unwrap();
        let mut events = vec![];
        let mut progress = |event: Event<'_>| events.push((event.done, event.total));
        let scores = linear_cached(&config(), task(), &Device::flex(), &mut progress).unwrap();
        assert_eq!((events.len(), events[59]), (60, (60, 60)));
        assert_eq!(scores.len(), 2);
        let spread = scores[0].spread.as_ref().unwrap();
        assert_eq!(spread.values.len(), 3);
        assert!(scores[0].value > 0.95, "{scores:?}");

        let again = linear_cached(&config(), task(), &Device::flex(), &mut |_| {}).unwrap();
        assert_eq!(again, scores, "same seeds, same scores");
    }

    #[test]
    fn one_step_by_hand() {
        // Zero features: only the biases learn. Shares 2/3 and 1/3 against 1/2 each: gradient -1/6 and +1/6.
        let train = features(1, vec![0.0; 3], vec![0, 0, 1]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let config = LinearCached {
            scaling: Scaling::None,
            epochs: 1,
            batch_records: 256,
            optimizer: OptimizerConfig::Sgd {
                learning_rate_per_256: 30.0,
                momentum: 0.9,
                weight_decay: 0.0,
                nesterov: false,
            },
            ..config()
        };
        let mut head = head(&config, &task, 0, &Device::flex());
        let loss = train_all(&mut head, &config, &task);
        assert!((loss - 2f64.ln()).abs() < 1e-6);
        let bias = head
            .trained()
            .layer
            .bias
            .unwrap()
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(
            (bias[0] - 5.0).abs() < 1e-5 && (bias[1] + 5.0).abs() < 1e-5,
            "{bias:?}"
        );
    }

    fn train_all(head: &mut Head, config: &LinearCached, task: &Task<'_>) -> f64 {
        let order = |epoch| epoch_order(task.train.rows, 0, epoch);
        train(head, config, task, order, &Device::flex(), &mut |_| {}).unwrap()
    }

    #[test]
    fn a_loss_that_is_no_number_stops_with_step_and_rate() {
        // Huge and contradictory: each step is huge, and no step fits both rows.
        let train = features(1, vec![3e38, 3e38], vec![0, 1]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let config = LinearCached {
            scaling: Scaling::None,
            epochs: 3,
            ..config()
        };
        let error = linear_cached(&config, task, &Device::flex(), &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("linear-cached: the loss became"), "{text}");
        assert!(
            matches!(error.hint(), Some(crate::Hint::Text(text)) if text.contains("learning_rate_per_256"))
        );
    }

    #[test]
    fn the_order_is_a_permutation_by_seed_and_epoch() {
        let order = epoch_order(100, 1, 2);
        assert_eq!(order, epoch_order(100, 1, 2));
        assert_ne!(order, epoch_order(100, 1, 3));
        assert_ne!(order, epoch_order(100, 2, 2));
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(
            LinearCached {
                seeds: vec![],
                ..config()
            }
            .validate("protocols.0.x")
            .unwrap_err()
            .contains("`seeds`")
        );
        assert!(config().validate("protocols.0.x").is_ok());
    }
}
