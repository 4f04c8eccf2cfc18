//! `svm-voc07`: VISSL's linear SVM benchmark (Goyal et al. 2019): one machine per class against the rest on
//! frozen features. Cross-validation on the training set chooses its cost, and mean average precision scores
//! it.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::encoder::POOLED;
use crate::error::Error;
use crate::features::Scaling;
use crate::progress::Event;
use crate::result::Score;
use crate::solvers::{Problem, Stop, average_precision, decisions, fit, interpolated_average_precision};
use crate::task::{OneVsRest, Splits};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "svm-voc07";

/// Linear SVMs on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SvmVoc07 {
    /// Scaling of the features. VISSL: `"l2"` (with 1e-5 added to each length, which changes no score).
    pub scaling: Scaling,
    /// Candidate costs C, chosen for each class separately. VISSL: 0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100,
    /// 1000.
    pub costs: Vec<f64>,
    /// Folds of the training set, each held out once for the choice. VISSL: 3.
    pub folds: usize,
    /// Weight of the loss of positive records. VISSL: 2.
    pub positive_weight: f64,
    /// A machine has converged when its objective is within this of the optimum, relative to its value. 1e-12
    /// fixes average precisions to six digits; 1e-6 takes a little over half of the time and fixes three.
    /// VISSL stops liblinear by another rule, at 1e-4 or 2,000 iterations.
    pub tolerance: f64,
    /// Maximum Newton steps; about ten are usual.
    pub max_iterations: usize,
}

impl Protocol for SvmVoc07 {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.folds < 2 {
            return Err(format!("`{table}.folds` must be at least 2, got {}", self.folds));
        }
        validate_machines(
            table,
            ("costs", self.costs.as_slice()),
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
        Ok(Scored::new(svm_voc07(self, task, bench.progress)?, classes))
    }
}

/// Checks of settings that both SVM protocols share.
pub(crate) fn validate_machines(
    table: &str,
    (key, costs): (&str, &[f64]),
    positive_weight: f64,
    tolerance: f64,
    max_iterations: usize,
) -> Result<(), String> {
    let positive = |value: &f64| value.is_finite() && *value > 0.0;
    if costs.is_empty() || !costs.iter().all(positive) {
        return Err(format!("`{table}.{key}` must hold values above 0, got {costs:?}"));
    }
    if !positive(&positive_weight) || !positive(&tolerance) || max_iterations == 0 {
        return Err(format!(
            "`{table}` needs `positive_weight` and `tolerance` above 0 and at least 1 of `max_iterations`, got \
             {positive_weight}, {tolerance} and {max_iterations}"
        ));
    }
    Ok(())
}

/// Calls `job` for 0..count on all cores; results keep that order. Reports progress between batches of jobs.
pub(crate) fn in_parallel<T: Send>(
    count: usize,
    job: impl Fn(usize) -> T + Sync,
    mut done: impl FnMut(usize),
) -> Vec<T> {
    let batch = 4 * rayon::current_num_threads();
    let mut results = Vec::with_capacity(count);
    while results.len() < count {
        let next = results.len()..count.min(results.len() + batch);
        results.par_extend(next.into_par_iter().map(&job));
        done(results.len());
    }
    results
}

/// Checks that every class has a positive and a negative record for each fold.
fn check_records(config: &SvmVoc07, task: &OneVsRest<'_>) -> Result<(), Error> {
    for class in 0..task.labels.len() {
        let positive = task.train_is(class);
        let fewest = positive.iter().filter(|positive| **positive).count();
        let fewest = fewest.min(positive.len() - fewest);
        if fewest < config.folds {
            return Err(Error::Folds {
                class: task.name(class),
                records: fewest,
                folds: config.folds,
            });
        }
    }
    Ok(())
}

/// Chooses costs, trains on the whole training set, scores the test rows: mean average precision over the classes.
fn svm_voc07(
    config: &SvmVoc07,
    task: OneVsRest<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let task = task.scaled(config.scaling);
    let classes = task.labels.len();
    let mut costs = config.costs.clone();
    costs.sort_by(f64::total_cmp);
    let stop = Stop {
        tolerance: config.tolerance,
        max_iterations: config.max_iterations,
    };

    check_records(config, &task)?;
    let folds: Vec<_> = (0..classes)
        .map(|class| stratified_folds(&task.train_is(class), config.folds))
        .collect();

    let jobs = classes * config.folds;
    let total = jobs + classes;
    let mut report = |done| {
        progress(Event {
            stage: PROTOCOL,
            done,
            total,
            unit: "machines",
        })
    };
    let held_out = in_parallel(
        jobs,
        |job| {
            let (class, fold) = (job / config.folds, job % config.folds);
            held_out_precision(config, &task, class, &folds[class], fold, &costs, stop)
        },
        &mut report,
    );
    // Mean over the folds; ties go to the smallest cost.
    let chosen: Vec<(f64, Vec<f64>)> = held_out
        .chunks_exact(config.folds)
        .map(|folds| {
            let means: Vec<f64> = (0..costs.len())
                .map(|cost| folds.iter().map(|fold| fold[cost]).sum::<f64>() / config.folds as f64)
                .collect();
            let best = (1..costs.len()).fold(
                0,
                |best, next| if means[next] > means[best] { next } else { best },
            );
            (costs[best], means)
        })
        .collect();

    let scored = in_parallel(
        classes,
        |class| {
            let positive = task.train_is(class);
            let problem = Problem {
                rows: &task.train,
                selected: (0..positive.len() as u32).collect(),
                positive,
                positive_weight: config.positive_weight,
            };
            let machine = fit(&problem, chosen[class].0, None, stop);
            let decided = decisions(&task.test, &[&machine]).swap_remove(0);
            let (decided, is) = task.decided_test(class, decided);
            let precision = interpolated_average_precision(&decided, &is);
            (precision, machine.converged)
        },
        |done| report(jobs + done),
    );
    let precisions: Vec<f64> = scored.iter().filter_map(|(precision, _)| *precision).collect();
    let details = serde_json::Map::from_iter([
        ("class_labels".to_string(), json!(task.labels)),
        (
            "class_average_precisions".to_string(),
            json!(scored.iter().map(|(precision, _)| precision).collect::<Vec<_>>()),
        ),
        (
            "class_costs".to_string(),
            json!(chosen.iter().map(|(cost, _)| cost).collect::<Vec<_>>()),
        ),
        (
            "held_out_average_precisions".to_string(),
            json!(chosen.iter().map(|(_, means)| means).collect::<Vec<_>>()),
        ),
        (
            "cost_chosen_on".to_string(),
            json!("parts of the training set, held out in turn"),
        ),
        (
            "classes_without_test_records".to_string(),
            json!(classes - precisions.len()),
        ),
        (
            "converged".to_string(),
            json!(scored.iter().all(|(_, converged)| *converged)),
        ),
    ]);
    Ok(vec![Score {
        metric: "map",
        value: precisions.iter().sum::<f64>() / precisions.len() as f64,
        headline: true,
        spread: None,
        details,
    }])
}

/// Average precision (scikit-learn's, as in VISSL's choice) at each cost on one fold, trained on the others.
fn held_out_precision(
    config: &SvmVoc07,
    task: &OneVsRest<'_>,
    class: usize,
    folds: &[usize],
    fold: usize,
    costs: &[f64],
    stop: Stop,
) -> Vec<f64> {
    let positive = task.train_is(class);
    let (mut kept, mut held_out) = (vec![], vec![]);
    for (row, part) in folds.iter().enumerate() {
        if *part == fold {
            held_out.push(row);
        } else {
            kept.push(row as u32);
        }
    }
    let problem = Problem {
        rows: &task.train,
        positive: kept.iter().map(|row| positive[*row as usize]).collect(),
        selected: kept,
        positive_weight: config.positive_weight,
    };
    let mut machines = Vec::with_capacity(costs.len());
    for cost in costs {
        // Starts at the previous cost's optimum, which is closer than zero.
        let machine = fit(&problem, *cost, machines.last(), stop);
        machines.push(machine);
    }
    let truth: Vec<bool> = held_out.iter().map(|row| positive[*row]).collect();
    let decided = decisions(
        &task.train.select(&held_out),
        &machines.iter().collect::<Vec<_>>(),
    );
    decided
        .iter()
        .map(|decided| average_precision(decided, &truth).unwrap_or(0.0))
        .collect()
}

/// The fold of each record: scikit-learn's `StratifiedKFold` without shuffling. Folds have as equal numbers
/// of both kinds as possible, and are runs of records in their order.
fn stratified_folds(positive: &[bool], folds: usize) -> Vec<usize> {
    // The kind that comes first is dealt first; the other continues where it ended.
    let first_kind = positive[0];
    let first_count = positive.iter().filter(|kind| **kind == first_kind).count();
    let dealt = |places: std::ops::Range<usize>| {
        let mut counts = vec![0; folds];
        places.for_each(|place| counts[place % folds] += 1);
        counts
    };
    let mut left = [dealt(0..first_count), dealt(first_count..positive.len())];
    let mut current = [0, 0];
    positive
        .iter()
        .map(|kind| {
            let kind = usize::from(*kind != first_kind);
            while left[kind][current[kind]] == 0 {
                current[kind] += 1;
            }
            left[kind][current[kind]] -= 1;
            current[kind]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::testing::{Fixture, features, with_sets};

    fn config() -> SvmVoc07 {
        SvmVoc07 {
            scaling: Scaling::None,
            costs: vec![100.0, 0.01, 1.0],
            folds: 3,
            positive_weight: 2.0,
            tolerance: 1e-8,
            max_iterations: 100,
        }
    }

    #[test]
    fn folds_by_hand() {
        // Five positives (first) are dealt 2, 2, 1; the two others continue with folds 2 and 0.
        let positive = [true, true, false, true, true, false, true];
        assert_eq!(stratified_folds(&positive, 3), [0, 0, 0, 1, 1, 2, 2]);
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (scikit-learn 1.9.1).
    #[test]
    fn costs_are_chosen_as_scikit_learns_cross_validation_does() {
        let fixture = Fixture(include_bytes!("../../fixtures/svm.safetensors"));
        let (train, test) = (fixture.features("train"), fixture.features("test"));
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        let mut events = vec![];
        let mut progress = |event: Event<'_>| events.push((event.done, event.total));
        let scores = svm_voc07(&config(), task, &mut progress).unwrap();
        assert_eq!(events.last(), Some(&(8, 8)));
        let details = &scores[0].details;
        assert_eq!(details["class_labels"], json!([-1, 1]));
        let ours = details["held_out_average_precisions"][1].as_array().unwrap();
        let reference = fixture.values("held_out_average_precisions");
        for (ours, reference) in ours.iter().zip(&reference) {
            assert!(
                (ours.as_f64().unwrap() - reference).abs() < 1e-6,
                "{ours} {reference}"
            );
        }
        assert!(
            reference[2] > reference[1],
            "the largest cost is best in the fixture"
        );
        assert_eq!(details["class_costs"][1], 100.0);
        let ours = details["class_average_precisions"][1].as_f64().unwrap();
        assert!((ours - fixture.values("interpolated_100")[0]).abs() < 1e-6);
        assert_eq!(details["converged"], true);
    }

    #[test]
    fn several_classes_a_record() {
        // Class 0 is on the right, class 1 at the top; a record may be both or neither.
        let value = |row: usize| [(row % 2) as f32 * 2.0 - 1.0, (row / 2 % 2) as f32 * 2.0 - 1.0];
        let sets: Vec<Vec<usize>> = (0..16)
            .map(|row| (0..2).filter(|class| value(row)[*class] > 0.0).collect())
            .collect();
        let sets: Vec<&[usize]> = sets.iter().map(Vec::as_slice).collect();
        let set = with_sets(2, (0..16).flat_map(value).collect(), &sets, 2);
        let task = OneVsRest::new(&set, &set, POOLED).unwrap();
        let scores = svm_voc07(&config(), task, &mut |_| {}).unwrap();
        assert_eq!((scores[0].metric, scores[0].value), ("map", 1.0));
        // All costs score the same, so the smallest wins.
        assert_eq!(scores[0].details["class_costs"], json!([0.01, 0.01]));
    }

    #[test]
    fn a_class_without_test_records_is_left_out_and_counted() {
        let train = features(
            1,
            (0..9u8).map(f32::from).collect(),
            vec![0, 0, 0, 1, 1, 1, 2, 2, 2],
        );
        let test = features(1, vec![0.0, 8.0], vec![0, 2]);
        let task = OneVsRest::new(&train, &test, POOLED).unwrap();
        let scores = svm_voc07(&config(), task, &mut |_| {}).unwrap();
        assert_eq!(scores[0].value, 1.0);
        assert_eq!(scores[0].details["classes_without_test_records"], 1);
        assert_eq!(scores[0].details["class_average_precisions"][1], json!(null));
    }

    #[test]
    fn classes_too_small_for_the_folds_are_named() {
        let train = features(1, vec![0.0; 5], vec![4, 4, 4, 9, 9]);
        let task = OneVsRest::new(&train, &train, POOLED).unwrap();
        assert_eq!(
            svm_voc07(&config(), task, &mut |_| {}).unwrap_err().to_string(),
            "svm-voc07: class 4 has only 2 training records with it or without it, fewer than the 3 folds"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(config().validate("protocols.0.x").is_ok());
        let refused = |config: SvmVoc07| config.validate("protocols.0.x").unwrap_err();
        assert!(refused(SvmVoc07 { folds: 1, ..config() }).contains("folds"));
        assert!(
            refused(SvmVoc07 {
                costs: vec![0.0],
                ..config()
            })
            .contains("costs")
        );
        assert!(
            refused(SvmVoc07 {
                tolerance: 0.0,
                ..config()
            })
            .contains("`tolerance`")
        );
    }
}
