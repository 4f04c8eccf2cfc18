//! `clustering`: k-means without labels, then how far its clusters agree with the classes: NMI, AMI, ARI, and accuracy
//! under the best one-to-one assignment.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::features::{Matrix, Scaling, column_means, subtract};
use crate::progress::Event;
use crate::result::{Score, over_seeds};
use crate::solvers::{Agreement, Search, agreement, assign, kmeans};
use crate::split::Split;
use crate::task::{Splits, Task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "clustering";

/// k-means on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Clustering {
    /// Scaling of the features. `"l2"` comes close to spherical k-means, and is used by most papers.
    pub scaling: Scaling,
    /// Records that k-means is fitted to: `"train"`, where test records go to the nearest center, or
    /// `"test"`, which clusters the scored records themselves (usual in deep clustering). Either way the test
    /// records are scored.
    pub fit: Split,
    /// Number of clusters: `"classes"`, the number of classes in the set that `fit` names, or `{ count = 1000
    /// }`.
    pub clusters: Clusters,
    /// Starts by k-means++; the one with the smallest inertia is kept. scikit-learn's `n_init`, usually 10.
    pub restarts: usize,
    /// Maximum of Lloyd's iterations. scikit-learn: 300.
    pub max_iterations: usize,
    /// The search ends when the centers' squared movement is below this, times the mean variance of the features' columns.
    /// scikit-learn: 1e-4.
    pub tolerance: f64,
    /// One search per seed; the score is their mean.
    pub seeds: Vec<u64>,
}

/// A number of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clusters {
    /// The number of classes in the set that k-means is fitted to.
    Classes,
    /// This many.
    Count(usize),
}

impl Protocol for Clustering {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        if self.restarts == 0 || self.max_iterations == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{table}` needs at least 1 of `restarts`, `max_iterations` and `seeds`, got {}, {} and {:?}",
                self.restarts, self.max_iterations, self.seeds
            ));
        }
        if self.clusters == Clusters::Count(0) {
            return Err(format!("`{table}.clusters.count` must be at least 1, got 0"));
        }
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return Err(format!(
                "`{table}.tolerance` must be 0 or above, got {}",
                self.tolerance
            ));
        }
        Ok(())
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::of(self.fit))
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        self.needs().labels.task(splits)?;
        match self.clusters {
            Clusters::Count(count) => check_clusters(count, self.fit, splits.of(self.fit).records()),
            Clusters::Classes => Ok(()),
        }
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(self.needs().labels)?;
        let classes = task.classes.count();
        Ok(Scored::new(clustering(self, task, bench.progress)?, classes))
    }
}

/// Clusters without labels and scores the test rows' clusters against their classes: NMI, AMI, ARI, accuracy.
fn clustering(
    config: &Clustering,
    task: Task<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let clusters = match config.clusters {
        Clusters::Classes => task.classes.count(),
        Clusters::Count(count) => count,
    };
    let records = match config.fit {
        Split::Train => task.train.rows,
        Split::Test => task.test.rows,
    };
    check_clusters(clusters, config.fit, records)?;
    let task = task.scaled(config.scaling);
    let mean = match config.fit {
        Split::Train => column_means(&task.train),
        Split::Test => column_means(&task.test),
    };
    // Centering keeps the distances, and they lose fewer digits in f32.
    let centered = |mut rows: Matrix| {
        subtract(&mut rows, &mean);
        rows
    };
    let test = centered(task.test.into_owned());
    let train = match config.fit {
        Split::Train => Some(centered(task.train.into_owned())),
        Split::Test => None,
    };

    let total = config.seeds.len() * config.restarts;
    let (mut scores, mut inertias, mut iterations, mut converged) = (vec![], vec![], vec![], vec![]);
    for (run, seed) in config.seeds.iter().enumerate() {
        let search = Search {
            clusters,
            restarts: config.restarts,
            max_iterations: config.max_iterations,
            tolerance: config.tolerance,
            seed: *seed,
        };
        let found = kmeans(train.as_ref().unwrap_or(&test), &search, |restarts| {
            progress(Event {
                stage: PROTOCOL,
                done: run * config.restarts + restarts,
                total,
                unit: "starts",
            });
        });
        inertias.push(found.inertia);
        iterations.push(found.iterations);
        converged.push(found.converged);
        let mut assignments = found.assignments;
        if train.is_some() {
            assignments = vec![0; test.rows];
            assign(&test, &found.centers, &mut assignments);
        }
        scores.push(agreement(&task.test_classes, &assignments));
    }

    let details = serde_json::Map::from_iter([
        ("cluster_count".to_string(), json!(clusters)),
        ("inertias".to_string(), json!(inertias)),
        ("iterations".to_string(), json!(iterations)),
        ("converged".to_string(), json!(converged)),
    ]);
    let score = |metric, value: fn(&Agreement) -> f64| {
        let values = scores.iter().map(value).collect();
        over_seeds(metric, metric == "nmi", &config.seeds, values, &details)
    };
    Ok(vec![
        score("nmi", |found| found.nmi),
        score("ami", |found| found.ami),
        score("ari", |found| found.ari),
        score("accuracy", |found| found.accuracy),
    ])
}

/// Gives an error for more clusters than records.
fn check_clusters(clusters: usize, fit: Split, records: usize) -> Result<(), Error> {
    match clusters > records {
        true => Err(Error::Clusters {
            clusters,
            set: fit.name(),
            records,
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::solvers::lloyd;
    use crate::testing::{Fixture, features, relative_error};

    fn config(fit: Split, clusters: Clusters) -> Clustering {
        Clustering {
            scaling: Scaling::None,
            fit,
            clusters,
            restarts: 4,
            max_iterations: 300,
            tolerance: 1e-4,
            seeds: vec![0, 1],
        }
    }

    #[test]
    fn clusters_that_are_classes_are_found_in_either_set() {
        // Classes around 0, 100 and 200; four of each in training, two in the test.
        let near = |row: usize| (row % 3) as f32 * 100.0 + (row / 3) as f32;
        let set = |rows: usize| {
            features(
                1,
                (0..rows).map(near).collect(),
                (0..rows).map(|row| row as i64 % 3).collect(),
            )
        };
        let (train, test) = (set(12), set(6));
        for fit in [Split::Train, Split::Test] {
            let task = Task::new(&train, &test, POOLED).unwrap();
            let mut starts = vec![];
            let mut progress = |event: Event<'_>| starts.push((event.done, event.total));
            let scores = clustering(&config(fit, Clusters::Classes), task, &mut progress).unwrap();
            assert_eq!((starts.len(), starts[7]), (8, (8, 8)));
            let read: Vec<_> = scores
                .iter()
                .map(|score| (score.metric, score.headline))
                .collect();
            assert_eq!(
                read,
                [("nmi", true), ("ami", false), ("ari", false), ("accuracy", false)]
            );
            for score in &scores {
                assert!((score.value - 1.0).abs() < 1e-12, "{score:?}");
                assert_eq!(score.spread.as_ref().unwrap().seeds, [0, 1]);
                assert_eq!(score.details["cluster_count"], 3);
            }
        }
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (scikit-learn 1.9.1, SciPy 1.17).
    #[test]
    fn kmeans_from_the_same_start_is_scikit_learns() {
        let fixture = Fixture(include_bytes!("../../fixtures/clustering.safetensors"));
        let points = fixture.matrix("points");
        for name in ["six", "forty", "empty"] {
            let stored = |what: &str| format!("{name}_{what}");
            let found = lloyd(&points, fixture.matrix(&stored("start")), 300, 0.0);
            assert_eq!(
                found.assignments,
                fixture.indices(&stored("assignments")),
                "{name}"
            );
            assert_eq!(
                found.iterations as f64,
                fixture.values(&stored("iterations"))[0],
                "{name}"
            );
            let inertia = fixture.values(&stored("inertia"))[0];
            assert!(
                (found.inertia / inertia - 1.0).abs() < 1e-6,
                "{name}: {} {inertia}",
                found.inertia
            );
            let centers = found.centers.values.iter().map(|value| f64::from(*value));
            let error = relative_error(centers, &fixture.values(&stored("centres")));
            assert!(error < 1e-6, "{name}: centers off by {error:e}");
        }
    }

    #[test]
    fn agreement_is_scikit_learns_and_scipys() {
        let fixture = Fixture(include_bytes!("../../fixtures/clustering.safetensors"));
        for name in [
            "found",
            "fine",
            "coarse",
            "random",
            "lopsided",
            "one_cluster",
            "singletons",
            "all_singletons",
            "trivial",
        ] {
            let pair = fixture.indices(&format!("{name}_pair"));
            let (classes, clusters) = pair.split_at(pair.len() / 2);
            let found = agreement(classes, clusters);
            let scores = fixture.values(&format!("{name}_scores"));
            for (ours, reference) in [found.nmi, found.ami, found.ari, found.accuracy]
                .into_iter()
                .zip(scores)
            {
                assert!((ours - reference).abs() < 1e-9, "{name}: {ours} {reference}");
            }
        }
    }

    #[test]
    fn more_clusters_than_records_is_an_error_that_names_both() {
        let (train, test) = (
            features(1, vec![0.0, 1.0, 2.0], vec![0, 1, 1]),
            features(1, vec![0.0], vec![0]),
        );
        let refused = |fit, clusters| {
            let task = Task::new(&train, &test, POOLED).unwrap();
            clustering(&config(fit, clusters), task, &mut |_| {})
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(Split::Train, Clusters::Count(4)),
            "clustering: `clusters` must be at most the 3 records of the training set, got 4"
        );
        assert_eq!(
            refused(Split::Test, Clusters::Classes),
            "clustering: `clusters` must be at most the 1 records of the test set, got 2"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let good = config(Split::Test, Clusters::Classes);
        assert!(good.validate("protocols.0.x").is_ok());
        let refused = |config: Clustering| config.validate("protocols.0.x").unwrap_err();
        assert!(
            refused(Clustering {
                restarts: 0,
                ..good.clone()
            })
            .contains("`restarts`")
        );
        assert!(
            refused(Clustering {
                tolerance: -1.0,
                ..good.clone()
            })
            .contains("got -1")
        );
        assert!(refused(config(Split::Test, Clusters::Count(0))).contains("clusters.count"));
    }
}
