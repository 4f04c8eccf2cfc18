//! The nearest training rows of each test row by cosine, and the votes of their classes.
//!
//! Products run on the given device in blocks; the selection runs on the host. A GPU may compute the products
//! in TF32, which shifts cosines by about 1e-3 and the score's last digits.

use crate::features::{Matrix, normalize_rows};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use std::cmp::Ordering;

/// Test rows per block. With [`TRAIN_BLOCK`] a block of cosines takes 4 MiB, the fastest shape measured on
/// `flex`.
const TEST_BLOCK: usize = 256;
/// Training rows per block.
const TRAIN_BLOCK: usize = 4096;

/// Votes of neighbors: row `i` of the `neighbors` nearest gives its class `exp(cosine_i / temperature)`
/// votes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Voting {
    pub(crate) neighbors: usize,
    pub(crate) temperature: f64,
}

/// A training row near a test row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// Cosine similarity.
    pub cosine: f32,
    /// The training row.
    pub row: u32,
}

/// Most similar first; ties rank the lower row first.
fn nearer(a: &Neighbor, b: &Neighbor) -> Ordering {
    b.cosine.total_cmp(&a.cosine).then(a.row.cmp(&b.row))
}

/// The `count` nearest training rows of every test row, nearest first.
pub fn nearest(train: &Matrix, test: &Matrix, count: usize, device: &Device) -> Vec<Vec<Neighbor>> {
    // Block by block, so that only one normalized copy of the rows exists besides the features.
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
    // The training rows stay on the device, cut into blocks and transposed once: `[width, rows of the
    // block]`.
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

/// The nearest `count` of a stream of neighbors in ascending row order, in linear time: candidates accumulate
/// to twice `count`, then the worse half is dropped.
#[derive(Clone, Debug)]
struct Selection {
    count: usize,
    /// Candidates must have a higher cosine: an equal one has a higher row than the candidate that set the
    /// bar.
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

/// The votes of each class that has any, by class. Relative to the nearest neighbor's vote, so that small
/// temperatures cannot overflow; the ranking stays the same.
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

/// The class with the most votes (ties go to the lower) and its share of them.
pub(crate) fn winner(neighbors: &[Neighbor], train_classes: &[u32], temperature: f64) -> (u32, f64) {
    let votes = votes(neighbors, train_classes, temperature);
    let all: f64 = votes.iter().map(|(_, votes)| votes).sum();
    let most = votes
        .into_iter()
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .unwrap_or((0, 0.0));
    (most.0, most.1 / all)
}

/// The number of classes with more votes than the true one; ties rank the lower class first. A class without
/// votes has rank `u32::MAX`.
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
        // More than one block of rows on both sides; values by formula, with many equal rows among them.
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
}
