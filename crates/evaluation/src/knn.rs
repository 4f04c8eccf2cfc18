//! k nearest neighbours by cosine, with weighted votes: no training, one matrix product, one selection.
//!
//! Each test row asks its `k` most similar training rows; row `i` gives its class `exp(cosine_i / temperature)` votes.
//! DINO (Caron et al. 2021, appendix; after Wu et al. 2018, section 3.4) and VISSL use the same formula with other
//! numbers, and their scores differ by points, so each has a name of its own.
//!
//! Products run on the given device in blocks; the selection runs on the host. A GPU may compute the products in TF32,
//! which moves cosines by some 1e-3 and with them the score's last digits.

use crate::error::Error;
use crate::features::Matrix;
use crate::result::{Score, scores_of};
use crate::task::{Task, normalize_rows};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::cmp::Ordering;

/// Test rows a block. With [`TRAIN_BLOCK`] it makes a block of cosines 4 MiB: of the shapes tried the fastest on `flex`.
const TEST_BLOCK: usize = 256;
/// Training rows a block.
const TRAIN_BLOCK: usize = 4096;

/// kNN as in DINO's `eval_knn.py`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DinoConfig {
    /// Numbers of neighbours, each scored. The paper: 10, 20, 100, 200.
    pub neighbors: Vec<usize>,
    /// The one of them to quote. The paper found 20 best throughout.
    pub headline_neighbors: usize,
    /// Temperature of the votes, above 0. The paper: 0.07.
    pub temperature: f64,
}

/// kNN as in VISSL (and lightly).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisslConfig {
    /// Number of neighbours. VISSL: 200.
    pub neighbors: usize,
    /// Temperature of the votes, above 0. VISSL: 0.1.
    pub temperature: f64,
}

impl DinoConfig {
    /// Refuses numbers that cannot be run, whatever the data.
    pub fn validate(&self) -> Result<(), String> {
        if !self.neighbors.contains(&self.headline_neighbors) {
            return Err(format!(
                "`knn-dino.headline_neighbors` must be one of `neighbors` {:?}, got {}",
                self.neighbors, self.headline_neighbors
            ));
        }
        validate("knn-dino", &self.neighbors, self.temperature)
    }
}

impl VisslConfig {
    /// Refuses numbers that cannot be run, whatever the data.
    pub fn validate(&self) -> Result<(), String> {
        validate("knn-vissl", &[self.neighbors], self.temperature)
    }
}

fn validate(protocol: &str, neighbors: &[usize], temperature: f64) -> Result<(), String> {
    if neighbors.contains(&0) {
        return Err(format!(
            "`{protocol}.neighbors` must be at least 1, got {neighbors:?}"
        ));
    }
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(format!(
            "`{protocol}.temperature` must be finite and above 0, got {temperature}"
        ));
    }
    Ok(())
}

/// DINO's kNN: top-1 and top-5 for each number of neighbours.
///
/// Differs from `eval_knn.py` in one thing: where fewer than five classes got a vote, its top-5 is filled up with
/// whichever classes sorting leaves next; here a class without a vote is never counted as predicted.
pub fn knn_dino(config: &DinoConfig, task: &Task<'_>, device: &Device) -> Result<Vec<Score>, Error> {
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
pub fn knn_vissl(config: &VisslConfig, task: &Task<'_>, device: &Device) -> Result<Vec<Score>, Error> {
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
    if most > task.train.rows {
        return Err(Error::Neighbors {
            protocol,
            neighbors: most,
            records: task.train.rows,
        });
    }
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

/// A training row as a test row sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Neighbor {
    pub(crate) cosine: f32,
    pub(crate) row: u32,
}

/// Most similar first; of equally similar rows the lower one.
fn nearer(a: &Neighbor, b: &Neighbor) -> Ordering {
    b.cosine.total_cmp(&a.cosine).then(a.row.cmp(&b.row))
}

/// The `count` nearest training rows of every test row, nearest first.
pub(crate) fn nearest(train: &Matrix, test: &Matrix, count: usize, device: &Device) -> Vec<Vec<Neighbor>> {
    // Block by block, so that there is one copy of the rows beside the features.
    let unit_block = |values: &[f32]| {
        let mut block = Matrix {
            rows: values.len() / train.width.max(1),
            width: train.width,
            values: values.to_vec(),
        };
        normalize_rows(&mut block);
        let shape = [block.rows, block.width];
        Tensor::<2>::from_data(TensorData::new(block.values, shape), device)
    };
    // The training rows stay on the device, cut and transposed once: `[width, rows of the block]`.
    let train_blocks: Vec<Tensor<2>> = train
        .values
        .chunks(TRAIN_BLOCK * train.width)
        .map(|block| unit_block(block).transpose())
        .collect();

    let mut all = Vec::with_capacity(test.rows);
    for test_block in test.values.chunks(TEST_BLOCK * test.width) {
        let rows = test_block.len() / test.width;
        let test_block = unit_block(test_block);
        let mut selections = vec![Selection::new(count); rows];
        for (index, train_block) in train_blocks.iter().enumerate() {
            let first_row = (index * TRAIN_BLOCK) as u32;
            let width = train_block.dims()[1];
            let cosines = test_block.clone().matmul(train_block.clone()).into_data();
            let cosines: Vec<f32> = cosines.try_into_vec().expect("a product of f32 tensors is f32");
            selections
                .par_iter_mut()
                .zip(cosines.par_chunks_exact(width))
                .for_each(|(selection, cosines)| selection.offer(first_row, cosines));
        }
        all.par_extend(selections.into_par_iter().map(Selection::finish));
    }
    all
}

/// The nearest `count` of a stream of neighbours in ascending row order, in linear time: candidates pile up to twice
/// `count`, then the worse half goes.
#[derive(Clone, Debug)]
struct Selection {
    count: usize,
    /// Nobody below it gets in. Nobody equal to it either: whoever set it came earlier and has the lower row.
    bar: f32,
    candidates: Vec<Neighbor>,
}

impl Selection {
    fn new(count: usize) -> Self {
        Self {
            count,
            bar: f32::NEG_INFINITY,
            candidates: Vec::with_capacity(2 * count),
        }
    }

    fn offer(&mut self, first_row: u32, cosines: &[f32]) {
        for (offset, &cosine) in cosines.iter().enumerate() {
            if cosine > self.bar {
                self.candidates.push(Neighbor {
                    cosine,
                    row: first_row + offset as u32,
                });
                if self.candidates.len() == 2 * self.count {
                    self.cut();
                }
            }
        }
    }

    fn cut(&mut self) {
        let (_, worst, _) = self.candidates.select_nth_unstable_by(self.count - 1, nearer);
        self.bar = worst.cosine;
        self.candidates.truncate(self.count);
    }

    fn finish(mut self) -> Vec<Neighbor> {
        self.candidates.sort_unstable_by(nearer);
        self.candidates.truncate(self.count);
        self.candidates
    }
}

/// The votes of each class that got any, by class: see the head of this file. Relative to the nearest neighbour's, so that the
/// ranking is the same and small temperatures cannot overflow.
fn votes(neighbors: &[Neighbor], train_classes: &[u32], temperature: f64) -> Vec<(u32, f64)> {
    let nearest = f64::from(neighbors[0].cosine);
    let mut votes: Vec<(u32, f64)> = neighbors
        .iter()
        .map(|neighbor| {
            let vote = ((f64::from(neighbor.cosine) - nearest) / temperature).exp();
            (train_classes[neighbor.row as usize], vote)
        })
        .collect();
    // A stable sort, so that the votes of a class are added nearest first.
    votes.sort_by_key(|(class, _)| *class);
    let total = |votes: &[(u32, f64)]| votes.iter().map(|(_, vote)| vote).sum::<f64>();
    votes
        .chunk_by(|a, b| a.0 == b.0)
        .map(|votes| (votes[0].0, total(votes)))
        .collect()
}

/// The class with the most votes (of equals the lower one) and its share of them.
pub(crate) fn winner(neighbors: &[Neighbor], train_classes: &[u32], temperature: f64) -> (u32, f64) {
    let votes = votes(neighbors, train_classes, temperature);
    let all: f64 = votes.iter().map(|(_, votes)| votes).sum();
    let most = votes
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or((0, 0.0));
    (most.0, most.1 / all)
}

/// How many classes got more votes than the true one; of equal votes the lower class stands first. A class without any
/// vote has rank `u32::MAX`.
pub(crate) fn rank_among_votes(
    neighbors: &[Neighbor],
    train_classes: &[u32],
    class: u32,
    temperature: f64,
) -> u32 {
    let votes = votes(neighbors, train_classes, temperature);
    let Some((_, own)) = votes.iter().find(|(other, _)| *other == class) else {
        return u32::MAX;
    };
    let before = |(other, votes): &&(u32, f64)| votes > own || (votes == own && *other < class);
    votes.iter().filter(before).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::POOLED;
    use crate::task::tests::features;

    fn dino(neighbors: &[usize], temperature: f64) -> DinoConfig {
        DinoConfig {
            neighbors: neighbors.to_vec(),
            headline_neighbors: neighbors[0],
            temperature,
        }
    }

    #[test]
    fn votes_by_hand() {
        // Unit vectors at 0°, 60°, 90° and 180° of classes 0, 1, 1, 2; the test row lies at 0°, so that cosines are
        // 1, 1/2, 0, -1. At temperature 1 class 0 has e, class 1 has sqrt(e) + 1 = 2.649: 0 wins narrowly (2.718).
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
            "the smallest temperature is the nearest neighbour"
        );
        assert_eq!(top1(2.0, 1, 1), 0.0);
    }

    #[test]
    fn top5_counts_classes_that_got_a_vote() {
        // Six classes at six angles; the test rows lie on the first.
        let angle = |row: usize| (row as f32 * 0.1).sin_cos();
        let train = features(
            2,
            (0..6).flat_map(|row| [angle(row).1, angle(row).0]).collect(),
            (0..6).collect(),
        );
        let test = features(2, [1.0, 0.0].repeat(6), (0..6).collect());
        let task = Task::new(&train, &test, POOLED).unwrap();
        let config = DinoConfig {
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
    fn equal_cosines_go_to_the_lower_row_and_equal_votes_to_the_lower_class() {
        let neighbors = [Neighbor { cosine: 0.5, row: 1 }, Neighbor { cosine: 0.5, row: 0 }];
        assert_eq!(rank_among_votes(&neighbors, &[3, 1], 1, 0.1), 0);
        assert_eq!(rank_among_votes(&neighbors, &[3, 1], 3, 0.1), 1);
        assert_eq!(rank_among_votes(&neighbors, &[3, 1], 2, 0.1), u32::MAX);

        let mut selection = Selection::new(2);
        selection.offer(0, &[0.1, 0.5, 0.5]);
        selection.offer(3, &[0.5, 0.5, 0.2, 0.5]);
        let rows: Vec<u32> = selection.finish().iter().map(|neighbor| neighbor.row).collect();
        assert_eq!(rows, [1, 2]);
    }

    #[test]
    fn blocks_find_what_a_full_sort_finds() {
        // More rows than one block on both sides; values by formula, with many equal rows among them.
        let value = |index: usize| ((index * 7919 % 1013) as f32 * 0.37).sin();
        let train = Matrix::new(5000, 3, (0..15_000).map(|index| value(index % 9000)).collect());
        let test = Matrix::new(300, 3, (0..900).map(|index| value(index * 31 + 5)).collect());
        let found = nearest(&train, &test, 7, &Device::flex());

        let unit = |row: &[f32]| {
            let length = row
                .iter()
                .map(|value| f64::from(*value).powi(2))
                .sum::<f64>()
                .sqrt();
            row.iter()
                .map(|value| f64::from(*value) / length)
                .collect::<Vec<_>>()
        };
        for (row, found) in found.iter().enumerate() {
            let own = unit(test.row(row));
            let mut all: Vec<f64> = (0..train.rows)
                .map(|other| unit(train.row(other)).iter().zip(&own).map(|(a, b)| a * b).sum())
                .collect();
            all.sort_by(|a, b| b.total_cmp(a));
            for (place, neighbor) in found.iter().enumerate() {
                assert!(
                    (f64::from(neighbor.cosine) - all[place]).abs() < 1e-5,
                    "row {row}, place {place}"
                );
            }
            assert!(found.is_sorted_by(|a, b| nearer(a, b) == Ordering::Less));
        }
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
        let config = VisslConfig {
            neighbors: 200,
            temperature: 0.1,
        };
        assert_eq!(
            knn_vissl(&config, &task, &Device::flex())
                .unwrap_err()
                .to_string(),
            "knn-vissl: 200 neighbors asked for, but the training set has 2 records"
        );
    }

    #[test]
    fn bad_settings_are_named() {
        assert!(dino(&[0], 0.1).validate().unwrap_err().contains("at least 1"));
        assert!(dino(&[1], 0.0).validate().unwrap_err().contains("temperature"));
        assert!(
            DinoConfig {
                headline_neighbors: 20,
                ..dino(&[10], 0.1)
            }
            .validate()
            .unwrap_err()
            .contains("[10], got 20")
        );
    }

    /// Speed on this machine: `cargo test --release --lib -p evaluation -p cli knn_speed -- --nocapture`.
    #[test]
    fn knn_speed() {
        let size = if std::env::var_os("PASSER_SPEED").is_some() {
            10_000
        } else {
            500
        };
        let value = |index: usize| ((index * 7919 % 100_003) as f32 * 0.37).sin();
        let matrix = |shift| {
            Matrix::new(
                size,
                128,
                (0..size * 128).map(|index| value(index + shift)).collect(),
            )
        };
        let (train, test) = (matrix(0), matrix(12_345));
        let start = std::time::Instant::now();
        let found = nearest(&train, &test, 200, &Device::flex());
        eprintln!(
            "kNN of {size} x {size} x 128, 200 neighbors: {:.2?}",
            start.elapsed()
        );
        assert_eq!(found.len(), size);
    }
}
