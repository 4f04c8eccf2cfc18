//! `clustering`: k-means without labels, then how far its clusters agree with the classes: NMI, AMI, ARI, and accuracy
//! under the best one-to-one assignment.

use crate::agreement::{Agreement, agreement};
use crate::error::Error;
use crate::features::Matrix;
use crate::kmeans::{Search, assign, kmeans};
use crate::progress::Event;
use crate::result::{Score, over_seeds};
use crate::task::{Part, Scaling, Task, column_means, subtract};
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROTOCOL: &str = "clustering";

/// k-means on stored features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is done to the features first. `"l2"` makes it spherical k-means' relative, as most papers do.
    pub scaling: Scaling,
    /// Which records k-means sees: `"train"`, with test records given to the nearest centre, or `"test"`, which clusters
    /// the scored records themselves (deep clustering's habit). The score is over the test records either way.
    pub fit: Part,
    /// How many clusters: `"classes"`, as many as there are classes in the set that `fit` names, or `{ count = 1000 }`.
    pub clusters: Clusters,
    /// Starts by k-means++; the one with the smallest inertia is kept. scikit-learn's `n_init`, 10 as a rule.
    pub restarts: usize,
    /// Lloyd's iterations at most. scikit-learn: 300.
    pub max_iterations: usize,
    /// The search ends when the centres' squared movement is below this, times the mean variance of the features' columns.
    /// scikit-learn: 1e-4.
    pub tolerance: f64,
    /// One search a seed; the score is their mean.
    pub seeds: Vec<u64>,
}

/// A number of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clusters {
    /// As many as the set has classes that k-means sees.
    Classes,
    /// This many.
    Count(usize),
}

impl Config {
    /// Refuses numbers that cannot be run, whatever the data.
    pub fn validate(&self) -> Result<(), String> {
        if self.restarts == 0 || self.max_iterations == 0 || self.seeds.is_empty() {
            return Err(format!(
                "`{PROTOCOL}` needs at least 1 of `restarts`, `max_iterations` and `seeds`, got {}, {} and {:?}",
                self.restarts, self.max_iterations, self.seeds
            ));
        }
        if self.clusters == Clusters::Count(0) {
            return Err(format!("`{PROTOCOL}.clusters.count` must be at least 1, got 0"));
        }
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return Err(format!(
                "`{PROTOCOL}.tolerance` must be 0 or above, got {}",
                self.tolerance
            ));
        }
        Ok(())
    }
}

/// Clusters without labels and scores the test rows' clusters against their classes: NMI, AMI, ARI, accuracy.
pub fn clustering(
    config: &Config,
    task: Task<'_>,
    progress: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Score>, Error> {
    let clusters = match config.clusters {
        Clusters::Classes => task.classes.count(),
        Clusters::Count(count) => count,
    };
    let records = match config.fit {
        Part::Train => task.train.rows,
        Part::Test => task.test.rows,
    };
    check_clusters(clusters, config.fit, records)?;
    let task = task.scaled(config.scaling);
    let mean = match config.fit {
        Part::Train => column_means(&task.train),
        Part::Test => column_means(&task.test),
    };
    // Distances are the same, and lose fewer digits in f32.
    let centred = |mut rows: Matrix| {
        subtract(&mut rows, &mean);
        rows
    };
    let test = centred(task.test.into_owned());
    let train = match config.fit {
        Part::Train => Some(centred(task.train.into_owned())),
        Part::Test => None,
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
            assign(&test, &found.centres, &mut assignments);
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

/// Refuses more clusters than there are records.
pub(crate) fn check_clusters(clusters: usize, fit: Part, records: usize) -> Result<(), Error> {
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
    use crate::features::POOLED;
    use crate::kmeans::lloyd;
    use crate::parity::{Fixture, relative_error};
    use crate::task::tests::features;

    fn config(fit: Part, clusters: Clusters) -> Config {
        Config {
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
        for fit in [Part::Train, Part::Test] {
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
        let fixture = Fixture(include_bytes!("../fixtures/clustering.safetensors"));
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
            let centres = found.centres.values.iter().map(|value| f64::from(*value));
            let error = relative_error(centres, &fixture.values(&stored("centres")));
            assert!(error < 1e-6, "{name}: centres off by {error:e}");
        }
    }

    #[test]
    fn agreement_is_scikit_learns_and_scipys() {
        let fixture = Fixture(include_bytes!("../fixtures/clustering.safetensors"));
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
            refused(Part::Train, Clusters::Count(4)),
            "clustering: 4 clusters asked for, but the training set has 3 records"
        );
        assert_eq!(
            refused(Part::Test, Clusters::Classes),
            "clustering: 2 clusters asked for, but the test set has 1 records"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let good = config(Part::Test, Clusters::Classes);
        assert!(good.validate().is_ok());
        let refused = |config: Config| config.validate().unwrap_err();
        assert!(
            refused(Config {
                restarts: 0,
                ..good.clone()
            })
            .contains("`restarts`")
        );
        assert!(
            refused(Config {
                tolerance: -1.0,
                ..good.clone()
            })
            .contains("got -1")
        );
        assert!(refused(config(Part::Test, Clusters::Count(0))).contains("clusters.count"));
    }
}
