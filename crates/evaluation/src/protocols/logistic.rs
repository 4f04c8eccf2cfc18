//! Multinomial logistic regression with an L2 penalty, solved to its unique optimum: the probe for small data, where
//! SGD's settings would decide more than the features do.
//!
//! The objective is scikit-learn's: `C sum_i loss_i + ||W||^2 / 2`, with an unpenalized intercept. C is
//! fixed, or chosen on held-out training records; test labels never affect it.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::features::{Matrix, Scaling};
use crate::progress::Event;
use crate::result::{Score, scores_of, share_within};
use crate::solvers::softmax::{objective, ranks};
use crate::solvers::{Minimum, minimize};
use crate::task::{Splits, Task, hold_out};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "logistic-regression";

/// Regularized logistic regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogisticRegression {
    /// Scaling of the features. The penalty depends on their scale, so `"standardize"` or `"l2"` are usual.
    pub scaling: Scaling,
    /// Inverse strength of the penalty, C.
    pub strength: Strength,
    /// The search ends when every entry of the mean loss's gradient is at most this; scikit-learn's `tol`,
    /// 1e-4 there.
    pub tolerance: f64,
    /// Maximum iterations; if they run out, the result has `converged: false`.
    pub max_iterations: usize,
}

/// Inverse strength of the penalty, C: the larger, the less regularized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// This C. scikit-learn's default: 1.0.
    Fixed(f64),
    /// The C with the best accuracy on held-out training records; ties go to the smallest.
    Sweep(Sweep),
}

/// The choice of C.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Values of C to try.
    pub candidates: Vec<f64>,
    /// Share of each class's training records to hold out, above 0 and below 1. The winner is refitted to all
    /// of them.
    pub validation_fraction: f64,
    /// Seed of the split.
    pub seed: u64,
}

impl Protocol for LogisticRegression {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        let strengths = match &self.strength {
            Strength::Fixed(c) => std::slice::from_ref(c),
            Strength::Sweep(sweep) => {
                if !(sweep.validation_fraction > 0.0 && sweep.validation_fraction < 1.0) {
                    return Err(format!(
                        "`{table}.strength.sweep.validation_fraction` must be above 0 and below 1, got {}",
                        sweep.validation_fraction
                    ));
                }
                &sweep.candidates
            }
        };
        if strengths.is_empty() || !strengths.iter().all(positive) {
            return Err(format!(
                "`{table}.strength` must hold values of C above 0, got {strengths:?}"
            ));
        }
        if !positive(&self.tolerance) || self.max_iterations == 0 {
            return Err(format!(
                "`{table}` needs a `tolerance` above 0 and at least 1 of `max_iterations`, got {} and {}",
                self.tolerance, self.max_iterations
            ));
        }
        Ok(())
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check_records(self, &LabelsRead::Both.task(splits)?)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(LabelsRead::Both)?;
        let classes = task.classes.count();
        Ok(Scored::new(
            logistic_regression(self, task, bench.progress)?,
            classes,
        ))
    }
}

/// Fits the regression to the training rows and scores the test rows: top-1, and top-5 with more than five
/// classes.
///
/// Progress counts fits: one for each candidate of a sweep, and the last one.
fn logistic_regression(
    config: &LogisticRegression,
    task: Task<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let task = task.scaled(config.scaling);
    let classes = task.classes.count();
    let total = match &config.strength {
        Strength::Fixed(_) => 1,
        Strength::Sweep(sweep) => sweep.candidates.len() + 1,
    };
    let mut fitted = |done| {
        progress(Event {
            stage: PROTOCOL,
            done,
            total,
            unit: "fits",
        })
    };
    let mut details = serde_json::Map::new();
    let c = match &config.strength {
        Strength::Fixed(c) => *c,
        Strength::Sweep(sweep) => {
            let accuracies = sweep_accuracies(config, sweep, &task, &mut fitted)?;
            let (c, accuracy) = best(&accuracies);
            details.insert("validation_accuracy".into(), json!(accuracy));
            details.insert("validation_accuracies".into(), json!(accuracies));
            details.insert(
                "c_chosen_on".into(),
                json!("records held out of the training set"),
            );
            c
        }
    };
    let fit = fit(&task.train, &task.train_classes, classes, c, config, None);
    fitted(total);
    details.insert("c".into(), json!(c));
    details.insert("iterations".into(), json!(fit.iterations));
    details.insert("converged".into(), json!(fit.converged));
    details.insert("objective".into(), json!(fit.value * c * task.train.rows as f64));
    let ranks = ranks(&fit.point, &task.test, &task.test_classes, classes);
    Ok(scores_of(&ranks, &task.test_classes, classes, &details))
}

/// Accuracy of each candidate (ascending) on the held-out part of the training rows.
fn sweep_accuracies(
    config: &LogisticRegression,
    sweep: &Sweep,
    task: &Task<'_>,
    fitted: &mut dyn FnMut(usize),
) -> Result<Vec<(f64, f64)>, Error> {
    let (kept, held_out) = split(sweep, task)?;
    let part = |rows: &[usize]| {
        let classes: Vec<u32> = rows.iter().map(|row| task.train_classes[*row]).collect();
        (task.train.select(rows), classes)
    };
    let ((train, train_classes), (validation, validation_classes)) = (part(&kept), part(&held_out));
    let mut candidates = sweep.candidates.clone();
    candidates.sort_by(f64::total_cmp);
    let mut start = None;
    let classes = task.classes.count();
    let accuracies = candidates.into_iter().enumerate().map(|(index, c)| {
        // Starts at the optimum of the previous C, which is closer than zero; the optimum itself does not
        // depend on the start.
        let fit = fit(&train, &train_classes, classes, c, config, start.take());
        let accuracy = share_within(&ranks(&fit.point, &validation, &validation_classes, classes), 1);
        start = Some(fit.point);
        fitted(index + 1);
        (c, accuracy)
    });
    Ok(accuracies.collect())
}

/// The most accurate candidate; ties go to the first, which regularizes most.
fn best(accuracies: &[(f64, f64)]) -> (f64, f64) {
    let better = |best: (f64, f64), next: &(f64, f64)| if next.1 > best.1 { *next } else { best };
    accuracies[1..].iter().fold(accuracies[0], better)
}

/// Checks that the choice of C can hold out a record of every class.
fn check_records(config: &LogisticRegression, task: &Task<'_>) -> Result<(), Error> {
    match &config.strength {
        Strength::Sweep(sweep) => split(sweep, task).map(|_| ()),
        Strength::Fixed(_) => Ok(()),
    }
}

fn split(sweep: &Sweep, task: &Task<'_>) -> Result<(Vec<usize>, Vec<usize>), Error> {
    let purpose = "logistic_regression.split";
    hold_out(
        &task.train_classes,
        &task.classes,
        sweep.validation_fraction,
        sweep.seed,
        purpose,
    )
    .map_err(|class| Error::ValidationSplit { class })
}

/// The optimum for one C: weights `[classes, width]`, then intercepts `[classes]`. Its value is the mean loss
/// with the penalty `||W||^2 / (2 C rows)`, i.e. scikit-learn's objective divided by `C rows`.
pub(crate) fn fit(
    rows: &Matrix,
    labels: &[u32],
    classes: usize,
    c: f64,
    config: &LogisticRegression,
    start: Option<Vec<f64>>,
) -> Minimum {
    // For two classes scikit-learn has one weight vector `w`; softmax has two that differ by `w`. The optimum
    // has W = (-w/2, w/2), so that ||W||^2 is half of ||w||^2: twice the penalty gives the same classifier.
    let binary = if classes == 2 { 2.0 } else { 1.0 };
    let penalty = binary / (c * rows.rows as f64);
    let start = start.unwrap_or_else(|| vec![0.0; classes * (rows.width + 1)]);
    let fit = minimize(
        start,
        config.tolerance,
        config.max_iterations,
        |point, gradient| objective(rows, labels, classes, penalty, point, gradient),
    );
    if !fit.converged {
        tracing::warn!(
            c,
            iterations = fit.iterations,
            gradient = fit.gradient,
            "logistic regression stopped before its gradient tolerance"
        );
    }
    fit
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::testing::{clouds, features};

    fn config(strength: Strength) -> LogisticRegression {
        LogisticRegression {
            scaling: Scaling::None,
            strength,
            tolerance: 1e-9,
            max_iterations: 1000,
        }
    }

    #[test]
    fn the_optimum_by_hand() {
        // Two rows, x = 1 of class 1 and x = -1 of class 0; by symmetry no intercept, and scikit-learn's binary form
        // minimizes 2 C log(1 + exp(-w)) + w^2 / 2, hence w (1 + exp(w)) = 2 C. C = (1 + e) / 2 gives w = 1.
        let train = features(1, vec![1.0, -1.0], vec![1, 0]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let c = (1.0 + std::f64::consts::E) / 2.0;
        let fit = fit(
            &task.train,
            &task.train_classes,
            2,
            c,
            &config(Strength::Fixed(c)),
            None,
        );
        assert!(fit.converged);
        assert!(
            (fit.point[1] - fit.point[0] - 1.0).abs() < 1e-8,
            "{:?}",
            fit.point
        );
        assert!((fit.point[3] - fit.point[2]).abs() < 1e-8);
        let objective = 2.0 * c * (1.0 + (-1.0f64).exp()).ln() + 0.5;
        assert!((fit.value * c * 2.0 - objective).abs() < 1e-12);
    }

    #[test]
    fn the_intercepts_are_not_penalized() {
        // Features carry no information, so the optimum predicts the classes' shares, 3 : 1, at any penalty.
        let train = features(1, vec![0.0; 4], vec![0, 0, 0, 1]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let fit = fit(
            &task.train,
            &task.train_classes,
            2,
            1e-6,
            &config(Strength::Fixed(1e-6)),
            None,
        );
        assert!((fit.point[2] - fit.point[3] - 3f64.ln()).abs() < 1e-7);
    }

    #[test]
    fn the_sweep_takes_the_smallest_of_the_best_and_says_where_it_was_chosen() {
        let (train, test) = (clouds(400, 0), clouds(200, 5000));
        let sweep = Sweep {
            candidates: vec![10.0, 0.01, 1.0],
            validation_fraction: 0.25,
            seed: 3,
        };
        let task = Task::new(&train, &test, POOLED).unwrap();
        let mut fits = vec![];
        let scores = logistic_regression(&config(Strength::Sweep(sweep)), task, &mut |event| {
            fits.push((event.done, event.total));
        })
        .unwrap();
        assert_eq!(fits, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        assert_eq!(scores.len(), 2, "no top-5 among three classes");
        assert!(scores[0].value > 0.6, "{scores:?}");
        let details = &scores[0].details;
        assert_eq!(details["c_chosen_on"], "records held out of the training set");
        assert_eq!(details["validation_accuracies"].as_array().unwrap().len(), 3);
        assert_eq!(best(&[(0.1, 0.5), (1.0, 0.7), (10.0, 0.7)]), (1.0, 0.7));
    }

    #[test]
    fn the_split_holds_out_a_share_of_every_class() {
        let train = features(
            1,
            vec![0.0; 15],
            vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2],
        );
        let task = Task::new(&train, &train, POOLED).unwrap();
        let sweep = |seed| Sweep {
            candidates: vec![1.0],
            validation_fraction: 0.2,
            seed,
        };
        let (kept, held_out) = split(&sweep(0), &task).unwrap();
        let count = |rows: &[usize], class| {
            rows.iter()
                .filter(|row| task.train_classes[**row] == class)
                .count()
        };
        assert_eq!([0, 1, 2].map(|class| count(&held_out, class)), [2, 1, 1]);
        assert_eq!([0, 1, 2].map(|class| count(&kept, class)), [8, 2, 1]);
        assert_eq!(split(&sweep(0), &task).unwrap(), (kept, held_out.clone()));
        assert_ne!(split(&sweep(1), &task).unwrap().1, held_out);

        let train = features(1, vec![0.0; 3], vec![0, 0, 9]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        assert!(
            split(&sweep(0), &task)
                .unwrap_err()
                .to_string()
                .contains("class 9 has 1 training record")
        );
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(
            config(Strength::Fixed(0.0))
                .validate("protocols.0.x")
                .unwrap_err()
                .contains("C above 0, got [0.0]")
        );
        let sweep = Sweep {
            candidates: vec![],
            validation_fraction: 0.2,
            seed: 0,
        };
        assert!(
            config(Strength::Sweep(sweep.clone()))
                .validate("protocols.0.x")
                .unwrap_err()
                .contains("got []")
        );
        let sweep = Sweep {
            candidates: vec![1.0],
            validation_fraction: 1.0,
            seed: 0,
        };
        assert!(
            config(Strength::Sweep(sweep))
                .validate("protocols.0.x")
                .unwrap_err()
                .contains("validation_fraction")
        );
        assert!(
            LogisticRegression {
                max_iterations: 0,
                ..config(Strength::Fixed(1.0))
            }
            .validate("protocols.0.x")
            .is_err()
        );
    }
}
