//! k nearest neighbors by cosine with weighted votes: no training, one matrix product, one selection.
//!
//! Each test row gets the votes of its `k` most similar training rows: row `i` gives its class `exp(cosine_i
//! / temperature)` votes. DINO (Caron et al. 2021, appendix; after Wu et al. 2018, section 3.4) and VISSL use
//! the same formula with other numbers. Their scores differ by points, so each has its own name.
//!
//! Products run on the given device in blocks; the selection runs on the host. A GPU may compute the products
//! in TF32, which shifts cosines by about 1e-3 and the score's last digits.

use super::protocol::{Bench, LabelsRead, Needs, Protocol, Scored};
use crate::error::Error;
use crate::result::{Score, scores_of};
use crate::solvers::{Voting, nearest, rank_among_votes};
use crate::task::{Splits, Task};
use burn::tensor::Device;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// kNN as in DINO's `eval_knn.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KnnDino {
    /// Numbers of neighbors, each scored. The paper: 10, 20, 100, 200.
    pub neighbors: Vec<usize>,
    /// The number of neighbors of the headline metric. The paper found 20 best throughout.
    pub headline_neighbors: usize,
    /// Temperature of the votes, above 0. The paper: 0.07.
    pub temperature: f64,
}

/// kNN as in VISSL (and lightly).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KnnVissl {
    /// Number of neighbors. VISSL: 200.
    pub neighbors: usize,
    /// Temperature of the votes, above 0. VISSL: 0.1.
    pub temperature: f64,
}

impl Protocol for KnnDino {
    const NAME: &'static str = "knn-dino";

    fn validate(&self, table: &str) -> Result<(), String> {
        if !self.neighbors.contains(&self.headline_neighbors) {
            return Err(format!(
                "`{table}.headline_neighbors` must be one of `neighbors` {:?}, got {}",
                self.neighbors, self.headline_neighbors
            ));
        }
        validate(table, &self.neighbors, self.temperature)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check(Self::NAME, &self.neighbors, splits)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(LabelsRead::Both)?;
        Ok(Scored::new(
            knn_dino(self, &task, bench.device)?,
            task.classes.count(),
        ))
    }

    fn variant(&self) -> Option<String> {
        Some(format!("k {}", self.headline_neighbors))
    }

    fn voting(&self) -> Option<Voting> {
        Some(Voting {
            neighbors: self.headline_neighbors,
            temperature: self.temperature,
        })
    }
}

impl Protocol for KnnVissl {
    const NAME: &'static str = "knn-vissl";

    fn validate(&self, table: &str) -> Result<(), String> {
        validate(table, &[self.neighbors], self.temperature)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::features(LabelsRead::Both)
    }

    fn check(&self, splits: Splits<'_>) -> Result<(), Error> {
        check(Self::NAME, &[self.neighbors], splits)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        let task = bench.task(LabelsRead::Both)?;
        Ok(Scored::new(
            knn_vissl(self, &task, bench.device)?,
            task.classes.count(),
        ))
    }

    fn variant(&self) -> Option<String> {
        Some(format!("k {}", self.neighbors))
    }

    fn voting(&self) -> Option<Voting> {
        Some(Voting {
            neighbors: self.neighbors,
            temperature: self.temperature,
        })
    }
}

fn validate(table: &str, neighbors: &[usize], temperature: f64) -> Result<(), String> {
    if neighbors.contains(&0) {
        return Err(format!(
            "`{table}.neighbors` must be at least 1, got {neighbors:?}"
        ));
    }
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(format!(
            "`{table}.temperature` must be finite and above 0, got {temperature}"
        ));
    }
    Ok(())
}

/// Checks that there are labels, and at least as many training records as the largest number of neighbors.
fn check(protocol: &'static str, neighbors: &[usize], splits: Splits<'_>) -> Result<(), Error> {
    let most = neighbors.iter().copied().max().unwrap_or(0);
    check_count(protocol, most, splits.train.records())?;
    LabelsRead::Both.task(splits).map(|_| ())
}

fn check_count(protocol: &'static str, neighbors: usize, records: usize) -> Result<(), Error> {
    match neighbors > records {
        true => Err(Error::Neighbors {
            protocol,
            neighbors,
            records,
        }),
        false => Ok(()),
    }
}

/// DINO's kNN: top-1 and top-5 for each number of neighbors.
///
/// Differs from `eval_knn.py` in one respect. If fewer than five classes have a vote, `eval_knn.py` fills its
/// top-5 with classes in sort order; here a class without a vote never counts as predicted.
fn knn_dino(config: &KnnDino, task: &Task<'_>, device: &Device) -> Result<Vec<Score>, Error> {
    score(
        "knn-dino",
        &config.neighbors,
        config.headline_neighbors,
        config.temperature,
        task,
        device,
    )
}

/// VISSL's kNN: top-1 and top-5.
fn knn_vissl(config: &KnnVissl, task: &Task<'_>, device: &Device) -> Result<Vec<Score>, Error> {
    score(
        "knn-vissl",
        &[config.neighbors],
        config.neighbors,
        config.temperature,
        task,
        device,
    )
}

fn score(
    protocol: &'static str,
    neighbors: &[usize],
    headline: usize,
    temperature: f64,
    task: &Task<'_>,
    device: &Device,
) -> Result<Vec<Score>, Error> {
    let most = neighbors.iter().copied().max().unwrap_or(0);
    check_count(protocol, most, task.train.rows)?;
    let nearest = nearest(&task.train, &task.test, most, device);
    let scores = neighbors.iter().flat_map(|&count| {
        let ranks: Vec<u32> = nearest
            .par_iter()
            .zip(&task.test_classes)
            .map(|(row, class)| rank_among_votes(&row[..count], &task.train_classes, *class, temperature))
            .collect();
        let details = serde_json::Map::from_iter([("neighbors".to_string(), json!(count))]);
        let mut scores = scores_of(&ranks, &task.test_classes, task.classes.count(), &details);
        scores
            .iter_mut()
            .for_each(|score| score.headline &= count == headline);
        scores
    });
    Ok(scores.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::testing::features;

    fn dino(neighbors: &[usize], temperature: f64) -> KnnDino {
        KnnDino {
            neighbors: neighbors.to_vec(),
            headline_neighbors: neighbors[0],
            temperature,
        }
    }

    #[test]
    fn votes_by_hand() {
        // Unit vectors at 0°, 60°, 90° and 180° of classes 0, 1, 1, 2; the test row is at 0°, so that cosines
        // are 1, 1/2, 0, -1. At temperature 1 class 0 has e, class 1 has sqrt(e) + 1 = 2.649: 0 wins narrowly
        // (2.718).
        let train = features(
            2,
            vec![2.0, 0.0, 0.5, 0.75f32.sqrt(), 0.0, 3.0, -1.0, 0.0],
            vec![0, 1, 1, 2],
        );
        let top1 = |temperature, neighbors, class| {
            let test = features(2, vec![5.0, 0.0], vec![class]);
            let task = Task::new(&train, &test, POOLED).unwrap();
            knn_dino(&dino(&[neighbors], temperature), &task, &Device::flex()).unwrap()[0].value
        };
        assert_eq!(top1(1.0, 3, 0), 1.0);
        // Hotter votes are more equal: at temperature 2 class 0 has 1.649, class 1 has 1.284 + 1 = 2.284.
        assert_eq!(top1(2.0, 3, 0), 0.0);
        assert_eq!(top1(2.0, 3, 1), 1.0);
        assert_eq!(
            top1(1e-6, 4, 0),
            1.0,
            "the smallest temperature is the nearest neighbor"
        );
        assert_eq!(top1(2.0, 1, 1), 0.0);
    }

    #[test]
    fn top5_counts_classes_that_got_a_vote() {
        // Six classes at six angles; the test rows are at the first.
        let angle = |row: usize| (row as f32 * 0.1).sin_cos();
        let train = features(
            2,
            (0..6).flat_map(|row| [angle(row).1, angle(row).0]).collect(),
            (0..6).collect(),
        );
        let test = features(2, [1.0, 0.0].repeat(6), (0..6).collect());
        let task = Task::new(&train, &test, POOLED).unwrap();
        let config = KnnDino {
            neighbors: vec![2, 6],
            headline_neighbors: 6,
            temperature: 0.07,
        };
        let scores = knn_dino(&config, &task, &Device::flex()).unwrap();
        let read: Vec<_> = scores
            .iter()
            .map(|score| (score.metric, score.value, score.headline))
            .collect();
        let sixth = 1.0 / 6.0;
        assert_eq!(
            read,
            [
                ("top1", sixth, false),
                ("top5", 2.0 / 6.0, false),
                ("mean_class", sixth, false),
                ("top1", sixth, true),
                ("top5", 5.0 / 6.0, false),
                ("mean_class", sixth, false)
            ]
        );
        assert_eq!(scores[3].details["neighbors"], 6);
    }

    #[test]
    fn a_row_of_zeros_is_like_nobody() {
        let train = features(2, vec![0.0, 0.0, 1.0, 0.0], vec![0, 1]);
        let test = features(2, vec![1.0, 0.0], vec![1]);
        let task = Task::new(&train, &test, POOLED).unwrap();
        assert_eq!(
            knn_dino(&dino(&[2], 0.07), &task, &Device::flex()).unwrap()[0].value,
            1.0
        );
    }

    #[test]
    fn more_neighbors_than_records_is_an_error_that_names_both() {
        let train = features(1, vec![1.0, 2.0], vec![0, 1]);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let config = KnnVissl {
            neighbors: 200,
            temperature: 0.1,
        };
        assert_eq!(
            knn_vissl(&config, &task, &Device::flex())
                .unwrap_err()
                .to_string(),
            "knn-vissl: `neighbors` must be at most the 2 training records, got 200"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(
            dino(&[0], 0.1)
                .validate("protocols.0.x")
                .unwrap_err()
                .contains("at least 1")
        );
        assert!(
            dino(&[1], 0.0)
                .validate("protocols.0.x")
                .unwrap_err()
                .contains("temperature")
        );
        assert!(
            KnnDino {
                headline_neighbors: 20,
                ..dino(&[10], 0.1)
            }
            .validate("protocols.0.x")
            .unwrap_err()
            .contains("[10], got 20")
        );
    }
}
