//! `svm-low-shot`: VISSL's low-shot benchmark (Goyal et al. 2019): the SVMs of `svm-voc07`, trained on k
//! records of a class and `(classes - 1) k` others, over several samples.
//!
//! VISSL quotes, for each k, the best cost on the test set. Here the cost is fixed, or chosen on the training
//! records outside the sample; test labels never affect it.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use super::svm_voc07::{in_parallel, validate_machines};
use crate::encoder::POOLED;
use crate::error::Error;
use crate::features::Scaling;
use crate::progress::Event;
use crate::result::{Score, over_seeds};
use crate::solvers::{
    Machine, Problem, Stop, average_precision, decisions, fit, interpolated_average_precision,
};
use crate::split::TRAIN;
use crate::task::{OneVsRest, Splits};
use backbones::Draws;
use backbones::draws::sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "svm-low-shot";

/// Linear SVMs on few records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SvmLowShot {
    /// Scaling of the features. VISSL: `"l2"`.
    pub scaling: Scaling,
    /// Records of the class, k, each scored. VISSL: 1, 2, 4, 8, 16, 32, 64, 96.
    pub positives: Vec<usize>,
    /// The k of the headline metric.
    pub headline_positives: usize,
    /// One sample per seed, drawn for each class separately; the score is their mean. VISSL: five samples.
    pub seeds: Vec<u64>,
    /// The cost C of each k.
    pub cost: Cost,
    /// Weight of the loss of positive records. VISSL: 2.
    pub positive_weight: f64,
    /// A machine has converged when its objective is within this of the optimum, relative to its value.
    pub tolerance: f64,
    /// Maximum Newton steps; about ten are usual.
    pub max_iterations: usize,
}

/// Source of the cost C.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// This cost, for every k.
    Fixed(f64),
    /// For each k the candidate with the best mean average precision on the training records outside the
    /// samples; ties go to the smallest.
    HeldOut(Vec<f64>),
}

impl Protocol for SvmLowShot {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.positives.contains(&0) || !self.positives.contains(&self.headline_positives) {
            return Err(format!(
                "`{table}.positives` must be at least 1 and contain `headline_positives` {}, got {:?}",
                self.headline_positives, self.positives
            ));
        }
        if self.seeds.is_empty() {
            return Err(format!("`{table}.seeds` must hold at least 1 seed, got none"));
        }
        validate_machines(
            table,
            match &self.cost {
                Cost::Fixed(cost) => ("cost.fixed", std::slice::from_ref(cost)),
                Cost::HeldOut(costs) => ("cost.held_out", costs.as_slice()),
            },
            self.positive_weight,
            self.tolerance,
            self.max_iterations,
        )
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check_records(self, &splits.one_vs_rest(POOLED)?)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.one_vs_rest()?;
        let classes = task.labels.len();
        Ok(Scored::new(svm_low_shot(self, task, bench.progress)?, classes))
    }

    fn variant(&self) -> Option<String> {
        Some(format!("k {}", self.headline_positives))
    }
}

impl SvmLowShot {
    fn costs(&self) -> &[f64] {
        match &self.cost {
            Cost::Fixed(cost) => std::slice::from_ref(cost),
            Cost::HeldOut(costs) => costs,
        }
    }

    fn stop(&self) -> Stop {
        Stop {
            tolerance: self.tolerance,
            max_iterations: self.max_iterations,
        }
    }
}

/// Mean average precision for each k.
fn svm_low_shot(
    config: &SvmLowShot,
    task: OneVsRest<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let task = task.scaled(config.scaling);
    let classes = task.labels.len();
    check_records(config, &task)?;
    let mut costs = config.costs().to_vec();
    costs.sort_by(f64::total_cmp);

    // Each k has a machine for every sample and class, and two if costs are chosen.
    let jobs = config.seeds.len() * classes;
    let rounds = if costs.len() > 1 { 2 } else { 1 };
    let total = config.positives.len() * rounds * jobs;
    let mut before = 0;
    let mut report = |done: usize, before: usize| {
        progress(Event {
            stage: PROTOCOL,
            done: before + done,
            total,
            unit: "machines",
        })
    };
    let mut scores = vec![];
    for &positives in &config.positives {
        let sampled = |job: usize| Sample::draw(&task, job % classes, positives, config.seeds[job / classes]);
        let mut details = serde_json::Map::new();
        let mut cost = costs[0];
        if costs.len() > 1 {
            let held_out = in_parallel(
                jobs,
                |job| held_out_precision(config, &task, &sampled(job), &costs),
                |done| report(done, before),
            );
            before += jobs;
            let means = means(&held_out, costs.len()).ok_or(Error::NothingHeldOut { positives })?;
            let best = (1..costs.len()).fold(
                0,
                |best, next| if means[next] > means[best] { next } else { best },
            );
            cost = costs[best];
            details.insert(
                "held_out_average_precisions".into(),
                json!(costs.iter().zip(means).collect::<Vec<_>>()),
            );
            details.insert(
                "cost_chosen_on".into(),
                json!("training records outside the samples"),
            );
        }
        let scored = in_parallel(
            jobs,
            |job| {
                let sample = sampled(job);
                let machine = fit(&sample.problem(config, &task), cost, None, config.stop());
                let decided = decisions(&task.test, &[&machine]).swap_remove(0);
                let (decided, is) = task.decided_test(sample.class, decided);
                interpolated_average_precision(&decided, &is)
            },
            |done| report(done, before),
        );
        before += jobs;
        let values: Vec<f64> = scored
            .chunks_exact(classes)
            .map(|classes| {
                let known: Vec<f64> = classes.iter().copied().flatten().collect();
                known.iter().sum::<f64>() / known.len() as f64
            })
            .collect();
        let extreme = |better: fn(f64, f64) -> f64| values.iter().copied().reduce(better);
        details.insert("positives".into(), json!(positives));
        details.insert("negatives".into(), json!((classes - 1) * positives));
        details.insert("cost_used".into(), json!(cost));
        details.insert("min".into(), json!(extreme(f64::min)));
        details.insert("max".into(), json!(extreme(f64::max)));
        details.insert(
            "classes_without_test_records".into(),
            json!(
                scored[..classes]
                    .iter()
                    .filter(|precision| precision.is_none())
                    .count()
            ),
        );
        let headline = positives == config.headline_positives;
        scores.push(over_seeds("map", headline, &config.seeds, values, &details));
    }
    Ok(scores)
}

/// The mean at each cost over all machines with held-out positives.
fn means(precisions: &[Option<Vec<f64>>], costs: usize) -> Option<Vec<f64>> {
    let known: Vec<&Vec<f64>> = precisions.iter().flatten().collect();
    (!known.is_empty()).then(|| {
        (0..costs)
            .map(|cost| known.iter().map(|precisions| precisions[cost]).sum::<f64>() / known.len() as f64)
            .collect()
    })
}

/// Checks that every class has enough records with it and without it.
fn check_records(config: &SvmLowShot, task: &OneVsRest<'_>) -> Result<(), Error> {
    let positives = config.positives.iter().copied().max().unwrap_or(0);
    let classes = task.labels.len();
    if classes < 2 {
        return Err(Error::TooFewClasses { set: TRAIN, classes });
    }
    for class in 0..classes {
        let is = task.train_is(class);
        let with = is.iter().filter(|is| **is).count();
        for (kind, records, needed) in [
            ("with", with, positives),
            ("without", is.len() - with, (classes - 1) * positives),
        ] {
            if records < needed {
                return Err(Error::Shots {
                    class: task.name(class),
                    kind,
                    records,
                    needed,
                    positives,
                });
            }
        }
    }
    Ok(())
}

/// The training records of one machine.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    class: usize,
    /// Rows of the class, then others.
    rows: Vec<u32>,
    positives: usize,
}

impl Sample {
    /// `positives` rows of the class and `(classes - 1) positives` others: a function of seed, k and class alone.
    fn draw(task: &OneVsRest<'_>, class: usize, positives: usize, seed: u64) -> Self {
        let is = task.train_is(class);
        let mut rng = Draws::new(seed, positives as u64).rng("svm_low_shot.sample", class as u64);
        let mut rows = vec![];
        let negatives = (task.labels.len() - 1) * positives;
        for (kind, count) in [(true, positives), (false, negatives)] {
            let candidates: Vec<u32> = (0..is.len())
                .filter(|row| is[*row] == kind)
                .map(|row| row as u32)
                .collect();
            rows.extend(
                sample(&mut rng, candidates.len(), count)
                    .into_iter()
                    .map(|place| candidates[place]),
            );
        }
        Self {
            class,
            rows,
            positives,
        }
    }

    fn problem<'a>(&self, config: &SvmLowShot, task: &'a OneVsRest<'_>) -> Problem<'a> {
        Problem {
            rows: &task.train,
            selected: self.rows.clone(),
            positive: (0..self.rows.len()).map(|place| place < self.positives).collect(),
            positive_weight: config.positive_weight,
        }
    }
}

/// Average precision at each cost on the training records outside the sample; `None` without positives there.
fn held_out_precision(
    config: &SvmLowShot,
    task: &OneVsRest<'_>,
    sample: &Sample,
    costs: &[f64],
) -> Option<Vec<f64>> {
    let is = task.train_is(sample.class);
    let mut held_out = vec![true; is.len()];
    sample.rows.iter().for_each(|row| held_out[*row as usize] = false);
    let kept = |row: &usize| held_out[*row];
    let truth: Vec<bool> = (0..is.len()).filter(kept).map(|row| is[row]).collect();
    if !truth.contains(&true) {
        return None;
    }
    let problem = sample.problem(config, task);
    let mut machines: Vec<Machine> = Vec::with_capacity(costs.len());
    for cost in costs {
        let machine = fit(&problem, *cost, machines.last(), config.stop());
        machines.push(machine);
    }
    let decided = decisions(&task.train, &machines.iter().collect::<Vec<_>>());
    decided
        .iter()
        .map(|decided| {
            let decided: Vec<f64> = (0..is.len()).filter(kept).map(|row| decided[row]).collect();
            average_precision(&decided, &truth)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::Features;
    use crate::testing::{features, with_sets};

    fn config() -> SvmLowShot {
        SvmLowShot {
            scaling: Scaling::None,
            positives: vec![1, 4],
            headline_positives: 4,
            seeds: vec![0, 1, 2],
            cost: Cost::HeldOut(vec![10.0, 0.1]),
            positive_weight: 2.0,
            tolerance: 1e-8,
            max_iterations: 100,
        }
    }

    /// Three overlapping classes on a circle.
    fn circle(rows: usize) -> Features {
        let value = |row: usize| {
            let angle = (row % 3) as f32 * 2.1 + ((row * 7919 % 101) as f32 / 101.0 - 0.5) * 2.5;
            [angle.cos(), angle.sin()]
        };
        features(
            2,
            (0..rows).flat_map(value).collect(),
            (0..rows).map(|row| row as i64 % 3).collect(),
        )
    }

    #[test]
    fn more_records_are_better_and_every_k_is_scored() {
        let (train, test) = (circle(90), circle(60));
        let task = || OneVsRest::new(&train, &test, POOLED).unwrap();
        let mut events = vec![];
        let mut progress = |event: Event<'_>| events.push((event.done, event.total));
        let scores = svm_low_shot(&config(), task(), &mut progress).unwrap();
        assert_eq!(events.last(), Some(&(36, 36)));
        assert!(events.is_sorted());
        assert_eq!(scores.len(), 2);
        for (score, positives) in scores.iter().zip([1, 4]) {
            assert_eq!((score.metric, score.headline), ("map", positives == 4));
            assert_eq!(score.details["positives"], positives);
            assert_eq!(score.details["negatives"], 2 * positives);
            assert_eq!(
                score.details["cost_chosen_on"],
                "training records outside the samples"
            );
            let spread = score.spread.as_ref().unwrap();
            assert_eq!(spread.values.len(), 3);
            let most = spread.values.iter().copied().fold(0.0, f64::max);
            assert_eq!(score.details["max"], most);
        }
        assert!(scores[1].value > scores[0].value, "{scores:?}");
        assert_eq!(svm_low_shot(&config(), task(), &mut |_| {}).unwrap(), scores);

        let fixed = SvmLowShot {
            cost: Cost::Fixed(1.0),
            ..config()
        };
        let scores = svm_low_shot(&fixed, task(), &mut |_| {}).unwrap();
        assert_eq!(scores[0].details["cost_used"], 1.0);
        assert!(!scores[0].details.contains_key("cost_chosen_on"));
    }

    #[test]
    fn samples_have_k_of_the_class_and_others_by_seed() {
        let set = with_sets(
            1,
            vec![0.0; 8],
            &[&[0], &[0, 1], &[1], &[], &[0], &[1], &[], &[0]],
            2,
        );
        let task = OneVsRest::new(&set, &set, POOLED).unwrap();
        let drawn = Sample::draw(&task, 0, 3, 5);
        assert_eq!(drawn, Sample::draw(&task, 0, 3, 5));
        assert_ne!(drawn, Sample::draw(&task, 0, 3, 6));
        let is = task.train_is(0);
        assert_eq!(
            drawn.rows.iter().map(|row| is[*row as usize]).collect::<Vec<_>>(),
            [true, true, true, false, false, false]
        );
    }

    #[test]
    fn too_few_records_are_named() {
        let (train, test) = (circle(90), circle(60));
        let refused = |positives: Vec<usize>| {
            let task = OneVsRest::new(&train, &test, POOLED).unwrap();
            let config = SvmLowShot {
                headline_positives: positives[0],
                positives,
                ..config()
            };
            svm_low_shot(&config, task, &mut |_| {}).unwrap_err().to_string()
        };
        assert_eq!(
            refused(vec![1, 40]),
            "svm-low-shot: k = 40 needs 40 training records with class 0, and there are 30"
        );
        assert_eq!(
            refused(vec![30]),
            "svm-low-shot: with k = 30 no training record is left to choose the cost on"
        );
        let few = with_sets(1, vec![0.0; 3], &[&[0, 1], &[0], &[0, 1]], 2);
        let task = OneVsRest::new(&few, &few, POOLED).unwrap();
        assert_eq!(
            svm_low_shot(&config(), task, &mut |_| {})
                .unwrap_err()
                .to_string(),
            "svm-low-shot: k = 4 needs 4 training records with class 0, and there are 3"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(config().validate("protocols.0.x").is_ok());
        let refused = |config: SvmLowShot| config.validate("protocols.0.x").unwrap_err();
        let headline = SvmLowShot {
            headline_positives: 2,
            ..config()
        };
        assert!(refused(headline).contains("`headline_positives` 2, got [1, 4]"));
        assert!(
            refused(SvmLowShot {
                seeds: vec![],
                ..config()
            })
            .contains("seeds")
        );
        let cost = Cost::HeldOut(vec![]);
        assert!(refused(SvmLowShot { cost, ..config() }).contains("`protocols.0.x.cost.held_out`"));
    }
}
