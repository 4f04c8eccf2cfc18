//! `few-shot`: many small classification tasks (episodes) of N classes with K labeled records each, solved in
//! closed form on frozen features; reports the mean accuracy with its 95 % confidence interval.
//!
//! Nearest centroid is Snell et al. 2017 (Prototypical Networks) without training, and with `scaling =
//! "center_l2"` SimpleShot (Wang et al. 2019, "CL2N"). Ridge regression on one-hot targets is Bertinetto et
//! al. 2019 (R2D2) without training, with an unpenalized intercept as in scikit-learn's `RidgeClassifier`.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::features::{Matrix, Scaling};
use crate::progress::Event;
use crate::result::{Score, rank_of};
use crate::split::Split;
use crate::task::{Splits, Task};
use backbones::Draws;
use backbones::draws::sample;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "few-shot";
/// Episodes between two reports of progress.
const REPORT_EPISODES: usize = 200;
/// 95 % of a normal distribution is within this many standard deviations.
const NORMAL_95: f64 = 1.959_963_984_540_054;

/// Episodes on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FewShot {
    /// Scaling of the features, with statistics of the training set.
    pub scaling: Scaling,
    /// Source of the labeled records: `"train"`, or `"test"` if the test classes are new. The queries are
    /// always test records outside the support.
    pub support: Split,
    /// Classes in an episode, N. Usual: 5.
    pub ways: usize,
    /// Labeled records of each class, K. Usual: 1 and 5.
    pub shots: usize,
    /// Records of each class to classify. Usual: 15.
    pub queries: usize,
    /// Number of episodes. Usual: 600; SimpleShot 10,000.
    pub episodes: usize,
    /// The classifier of an episode.
    pub classifier: Classifier,
    /// Seed of the episodes.
    pub seed: u64,
}

/// A classifier in closed form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Classifier {
    /// The class whose mean is nearest by Euclidean distance.
    NearestCentroid,
    /// Ridge regression on one-hot targets.
    Ridge(Ridge),
}

/// Ridge regression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ridge {
    /// Factor of the squared weights, above 0; scikit-learn's `alpha`, 1.0 there. Its effect depends on the
    /// features' scale, hence `"l2"`, `"center_l2"` or `"standardize"`.
    pub penalty: f64,
}

impl Protocol for FewShot {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.ways < 2 {
            return Err(format!("`{table}.ways` must be at least 2, got {}", self.ways));
        }
        if self.shots == 0 || self.queries == 0 || self.episodes < 2 {
            return Err(format!(
                "`{table}` needs at least 1 of `shots` and `queries` and 2 of `episodes`, got {}, {} and {}",
                self.shots, self.queries, self.episodes
            ));
        }
        match self.classifier {
            Classifier::Ridge(Ridge { penalty }) if !(penalty.is_finite() && penalty > 0.0) => Err(format!(
                "`{table}.classifier.ridge.penalty` must be finite and above 0, got {penalty}"
            )),
            _ => Ok(()),
        }
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::of(self.support))
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check_records(self, &self.needs().labels.task(splits)?)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(self.needs().labels)?;
        let classes = task.classes.count();
        Ok(Scored::new(few_shot(self, task, bench.progress)?, classes))
    }

    fn variant(&self) -> Option<String> {
        Some(format!("{}-way {}-shot", self.ways, self.shots))
    }
}

/// Mean accuracy over the episodes.
fn few_shot(
    config: &FewShot,
    task: Task<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let task = task.scaled(config.scaling);
    let records = Records::new(config, &task)?;
    let mut accuracies: Vec<f64> = Vec::with_capacity(config.episodes);
    while accuracies.len() < config.episodes {
        let next = accuracies.len()..config.episodes.min(accuracies.len() + REPORT_EPISODES);
        accuracies.par_extend(
            next.into_par_iter()
                .map(|episode| accuracy(config, &task, &records.draw(config, episode))),
        );
        progress(Event {
            stage: PROTOCOL,
            done: accuracies.len(),
            total: config.episodes,
            unit: "episodes",
        });
    }
    let (mean, interval) = confidence(&accuracies);
    let details = serde_json::Map::from_iter([
        ("confidence_95".to_string(), json!(interval)),
        ("eligible_classes".to_string(), json!(records.classes.len())),
    ]);
    Ok(vec![Score {
        metric: "top1",
        value: mean,
        headline: true,
        spread: None,
        details,
    }])
}

/// Mean, and half the width of its 95 % confidence interval.
fn confidence(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, NORMAL_95 * (squares / (count - 1.0) / count).sqrt())
}

/// The rows of each class that an episode can draw: support and queries.
struct Records {
    /// One entry per class with enough of both; if the support is test records, the first list is empty.
    classes: Vec<(Vec<usize>, Vec<usize>)>,
}

/// One episode: support rows of the training or test set, and query rows of the test set, class after class.
#[derive(Debug, PartialEq)]
struct Episode {
    support: Vec<usize>,
    queries: Vec<usize>,
}

impl Records {
    fn new(config: &FewShot, task: &Task<'_>) -> Result<Self, Error> {
        let mut classes = vec![(vec![], vec![]); task.classes.count()];
        if config.support == Split::Train {
            for (row, class) in task.train_classes.iter().enumerate() {
                classes[*class as usize].0.push(row);
            }
        }
        for (row, class) in task.test_classes.iter().enumerate() {
            classes[*class as usize].1.push(row);
        }
        let from_test = match config.support {
            Split::Train => config.queries,
            Split::Test => config.shots + config.queries,
        };
        classes.retain(|(train, test)| {
            test.len() >= from_test && (config.support == Split::Test || train.len() >= config.shots)
        });
        if classes.len() < config.ways {
            return Err(Error::Episodes {
                ways: config.ways,
                shots: config.shots,
                queries: config.queries,
                classes: classes.len(),
            });
        }
        Ok(Self { classes })
    }

    /// A function of seed and episode alone.
    fn draw(&self, config: &FewShot, episode: usize) -> Episode {
        let mut rng = Draws::new(config.seed, episode as u64).rng("few_shot.episode", 0);
        let (mut support, mut queries) = (vec![], vec![]);
        for class in sample(&mut rng, self.classes.len(), config.ways) {
            let (train, test) = &self.classes[class];
            match config.support {
                Split::Train => {
                    let rows = sample(&mut rng, train.len(), config.shots);
                    support.extend(rows.into_iter().map(|place| train[place]));
                    let rows = sample(&mut rng, test.len(), config.queries);
                    queries.extend(rows.into_iter().map(|place| test[place]));
                }
                Split::Test => {
                    let rows = sample(&mut rng, test.len(), config.shots + config.queries);
                    let (first, rest) = rows.split_at(config.shots);
                    support.extend(first.iter().map(|place| test[*place]));
                    queries.extend(rest.iter().map(|place| test[*place]));
                }
            }
        }
        Episode { support, queries }
    }
}

/// Whether enough classes have enough records.
fn check_records(config: &FewShot, task: &Task<'_>) -> Result<(), Error> {
    Records::new(config, task).map(|_| ())
}

/// Share of an episode's queries that are classified correctly.
fn accuracy(config: &FewShot, task: &Task<'_>, episode: &Episode) -> f64 {
    let from = match config.support {
        Split::Train => &task.train,
        Split::Test => &task.test,
    };
    let support = from.select(&episode.support);
    let queries = task.test.select(&episode.queries);
    let scores = scores(config.classifier, &support, config.ways, &queries);
    let right = scores
        .rows()
        .into_iter()
        .enumerate()
        .filter(|(query, scores)| {
            let class = (query / config.queries) as u32;
            rank_of(class, scores.as_slice().expect("rows of a standard array")) == 0
        })
        .count();
    right as f64 / queries.rows as f64
}

/// Scores of each query for each class, `[queries, ways]`; higher is more likely. `support` holds the same
/// number of rows of each class, class after class.
fn scores(classifier: Classifier, support: &Matrix, ways: usize, queries: &Matrix) -> Array2<f64> {
    let (mut support, mut queries) = (to_f64(support), to_f64(queries));
    // Centered on the support's mean: distances and the ridge's weights stay the same, and no digits cancel.
    let mean: Array1<f64> = support.sum_axis(Axis(0)) / support.nrows() as f64;
    support -= &mean;
    queries -= &mean;
    match classifier {
        Classifier::NearestCentroid => {
            let shots = support.nrows() / ways;
            let centroids: Vec<Array1<f64>> = support
                .axis_chunks_iter(Axis(0), shots)
                .map(|rows| rows.sum_axis(Axis(0)) / shots as f64)
                .collect();
            Array2::from_shape_fn((queries.nrows(), ways), |(query, way)| {
                let distance = queries.row(query).into_iter().zip(&centroids[way]);
                -distance.map(|(a, b)| (a - b).powi(2)).sum::<f64>()
            })
        }
        Classifier::Ridge(Ridge { penalty }) => ridge(penalty, &support, ways, &queries),
    }
}

/// Ridge regression of one-hot targets on centered rows, by the smaller of its two normal equations:
/// `W = X' (X X' + p I)^-1 Y = (X' X + p I)^-1 X' Y`.
fn ridge(penalty: f64, support: &Array2<f64>, ways: usize, queries: &Array2<f64>) -> Array2<f64> {
    let (rows, width) = support.dim();
    let share = 1.0 / ways as f64;
    // The same number of rows per class: every class's mean target is 1 / ways, and so is every intercept.
    let targets = Array2::from_shape_fn((rows, ways), |(row, way)| {
        f64::from(u8::from(row / (rows / ways) == way)) - share
    });
    let regularized = |mut products: Array2<f64>| {
        products.diag_mut().mapv_inplace(|entry| entry + penalty);
        products
    };
    let scores = if rows <= width {
        let solution = solve(regularized(support.dot(&support.t())), targets);
        queries.dot(&support.t()).dot(&solution)
    } else {
        let solution = solve(regularized(support.t().dot(support)), support.t().dot(&targets));
        queries.dot(&solution)
    };
    scores + share
}

/// Solves `matrix x = right` for a symmetric positive definite matrix by Cholesky's decomposition.
fn solve(mut matrix: Array2<f64>, mut right: Array2<f64>) -> Array2<f64> {
    let size = matrix.nrows();
    // The lower triangle becomes the factor.
    for column in 0..size {
        for row in column..size {
            let (a, b) = (matrix.row(row), matrix.row(column));
            let products = a.iter().zip(b).take(column);
            let rest = matrix[[row, column]] - products.map(|(a, b)| a * b).sum::<f64>();
            matrix[[row, column]] = if row == column {
                rest.sqrt()
            } else {
                rest / matrix[[column, column]]
            };
        }
    }
    for mut values in right.columns_mut() {
        for row in 0..size {
            let known: f64 = (0..row).map(|other| matrix[[row, other]] * values[other]).sum();
            values[row] = (values[row] - known) / matrix[[row, row]];
        }
        for row in (0..size).rev() {
            let known: f64 = (row + 1..size)
                .map(|other| matrix[[other, row]] * values[other])
                .sum();
            values[row] = (values[row] - known) / matrix[[row, row]];
        }
    }
    right
}

fn to_f64(rows: &Matrix) -> Array2<f64> {
    let view = ArrayView2::from_shape((rows.rows, rows.width), &rows.values).expect("a matrix");
    view.mapv(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::Features;
    use crate::testing::{Fixture, features, relative_error};

    const RIDGE: Classifier = Classifier::Ridge(Ridge { penalty: 1.0 });

    fn config(support: Split, classifier: Classifier) -> FewShot {
        FewShot {
            scaling: Scaling::None,
            support,
            ways: 3,
            shots: 2,
            queries: 4,
            episodes: 50,
            classifier,
            seed: 0,
        }
    }

    /// Five well-separated classes, so that every episode is solved.
    fn far_apart(rows: usize) -> Features {
        let value = |row: usize| {
            let angle = (row % 5) as f32;
            [10.0 * angle.cos(), 10.0 * angle.sin() + 0.01 * row as f32]
        };
        features(
            2,
            (0..rows).flat_map(value).collect(),
            (0..rows).map(|row| row as i64 % 5).collect(),
        )
    }

    #[test]
    fn easy_episodes_are_solved_from_either_set() {
        let (train, test) = (far_apart(15), far_apart(40));
        for support in [Split::Train, Split::Test] {
            for classifier in [Classifier::NearestCentroid, RIDGE] {
                let task = Task::new(&train, &test, POOLED).unwrap();
                let mut events = vec![];
                let mut progress = |event: Event<'_>| events.push((event.done, event.total));
                let scores = few_shot(&config(support, classifier), task, &mut progress).unwrap();
                assert_eq!(events, [(50, 50)]);
                assert_eq!(
                    (scores.len(), scores[0].metric, scores[0].value),
                    (1, "top1", 1.0)
                );
                assert_eq!(scores[0].details["confidence_95"], 0.0);
                assert_eq!(scores[0].details["eligible_classes"], 5);
            }
        }
    }

    #[test]
    fn episodes_are_drawn_without_repetition_and_by_seed() {
        let test = far_apart(40);
        let task = Task::new(&test, &test, POOLED).unwrap();
        let config = config(Split::Test, RIDGE);
        let records = Records::new(&config, &task).unwrap();
        for episode in 0..20 {
            let drawn = records.draw(&config, episode);
            assert_eq!(drawn, records.draw(&config, episode));
            let class = |row: &usize| row % 5;
            assert!(
                drawn
                    .support
                    .chunks(2)
                    .all(|rows| rows.iter().all(|row| class(row) == class(&rows[0])))
            );
            let classes: Vec<_> = drawn.support.iter().step_by(2).map(class).collect();
            let asked: Vec<_> = drawn.queries.iter().step_by(4).map(class).collect();
            assert_eq!(classes, asked);
            let mut all = [drawn.support, drawn.queries].concat();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 3 * (2 + 4), "nobody twice");
        }
        assert_ne!(records.draw(&config, 0), records.draw(&config, 1));
        let other = FewShot { seed: 1, ..config };
        assert_ne!(records.draw(&other, 0), records.draw(&config, 0));
    }

    #[test]
    fn confidence_by_hand() {
        // Mean 0.6, sample deviation 0.2 of four values: 1.96 * 0.1.
        let (mean, interval) = confidence(&[0.4, 0.8, 0.6 + 0.02f64.sqrt(), 0.6 - 0.02f64.sqrt()]);
        assert!((mean - 0.6).abs() < 1e-12);
        assert!((interval - 0.196).abs() < 1e-4, "{interval}");
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (scikit-learn 1.9.1).
    #[test]
    fn both_classifiers_are_scikit_learns() {
        let fixture = Fixture(include_bytes!("../../fixtures/few_shot.safetensors"));
        for name in ["wide", "tall"] {
            let support = fixture.matrix(&format!("{name}_support"));
            let queries = fixture.matrix(&format!("{name}_queries"));
            let predicted = |scores: Array2<f64>| -> Vec<u32> {
                let best = |row: ndarray::ArrayView1<'_, f64>| {
                    (0..5).find(|way| rank_of(*way, row.as_slice().unwrap()) == 0)
                };
                scores.rows().into_iter().map(|row| best(row).unwrap()).collect()
            };
            let centroid = scores(Classifier::NearestCentroid, &support, 5, &queries);
            assert_eq!(
                predicted(centroid),
                fixture.indices(&format!("{name}_centroid")),
                "{name}"
            );
            for penalty in [0.1, 10.0] {
                let ridge = scores(Classifier::Ridge(Ridge { penalty }), &support, 5, &queries);
                // scikit-learn's targets are -1 and 1.
                let ours = ridge.iter().map(|score| 2.0 * score - 1.0);
                let error = relative_error(ours, &fixture.values(&format!("{name}_ridge_{penalty}")));
                assert!(error < 1e-9, "{name}, penalty {penalty}: off by {error:e}");
            }
        }
    }

    #[test]
    fn too_few_classes_is_an_error_that_says_what_was_asked() {
        let (train, test) = (far_apart(15), far_apart(12));
        let task = Task::new(&train, &test, POOLED).unwrap();
        // Of twelve records, classes 0 and 1 have three each, the others two.
        assert_eq!(
            few_shot(
                &FewShot {
                    queries: 3,
                    ..config(Split::Train, RIDGE)
                },
                task,
                &mut |_| {}
            )
            .unwrap_err()
            .to_string(),
            "few-shot: 3 classes with 2 labeled and 3 other records each are needed, and 2 have them"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let good = config(Split::Train, RIDGE);
        assert!(good.validate("protocols.0.x").is_ok());
        let refused = |config: FewShot| config.validate("protocols.0.x").unwrap_err();
        assert!(
            refused(FewShot {
                ways: 1,
                ..good.clone()
            })
            .contains("ways")
        );
        assert!(
            refused(FewShot {
                shots: 0,
                ..good.clone()
            })
            .contains("`shots`")
        );
        let ridge = Classifier::Ridge(Ridge { penalty: 0.0 });
        assert!(refused(config(Split::Train, ridge)).contains("penalty"));
    }
}
