//! t-SNE of a few hundred to a few thousand rows, with all pairs and no approximation (van der Maaten and
//! Hinton 2008). It starts from principal components (Kobak and Berens 2019), so that the same features
//! always give the same map.
//!
//! Step sizes and phases are scikit-learn's: perplexity 30, exaggeration 12 for 250 of 1,000 steps, momentum
//! 0.5 and then 0.8, gains, rate `max(rows / 48, 50)`. Implemented here because existing t-SNE crates sum
//! over threads in no fixed order, and t-SNE amplifies such differences until they are visible.

use crate::features::Matrix;
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Effective number of neighbors of a row.
const PERPLEXITY: f64 = 30.0;
/// Total steps, and those with exaggerated similarities.
const STEPS: usize = 1000;
const EXAGGERATED_STEPS: usize = 250;
const EXAGGERATION: f64 = 12.0;
/// Standard deviation of the start's first coordinate.
const START_DEVIATION: f64 = 1e-4;
/// Rounds of the power iteration for the start; a slightly wrong direction is an equally good start.
const POWER_ROUNDS: usize = 100;
/// Keeps logarithms and quotients finite.
const TINY: f64 = f64::EPSILON;

/// A position in the plane for each row; empty for fewer than four rows. Distances are Euclidean.
pub(crate) fn tsne(rows: &Matrix) -> Vec<[f64; 2]> {
    if rows.rows < 4 {
        return vec![];
    }
    // Small sets have fewer than thirty neighbors; scikit-learn advises at most a third of the rows.
    let perplexity = PERPLEXITY.min((rows.rows - 1) as f64 / 3.0);
    let similarities = similarities(&squared_distances(rows), rows.rows, perplexity);
    descend(&similarities, principal_start(rows))
}

/// `[rows, rows]`, row after row.
fn squared_distances(rows: &Matrix) -> Vec<f64> {
    let mut distances = vec![0.0; rows.rows * rows.rows];
    distances
        .par_chunks_mut(rows.rows)
        .enumerate()
        .for_each(|(row, distances)| {
            for (other, distance) in distances.iter_mut().enumerate() {
                let pairs = rows.row(row).iter().zip(rows.row(other));
                *distance = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
            }
        });
    distances
}

/// The joint similarities p, whose sum is 1: for each row a Gaussian whose width gives the perplexity,
/// symmetrized.
fn similarities(distances: &[f64], rows: usize, perplexity: f64) -> Vec<f64> {
    let mut conditional = vec![0.0; rows * rows];
    conditional
        .par_chunks_mut(rows)
        .zip(distances.par_chunks(rows))
        .enumerate()
        .for_each(|(row, (shares, distances))| conditional_row(row, distances, perplexity, shares));
    let total = 2.0 * rows as f64;
    let mut joint = vec![0.0; rows * rows];
    joint.par_chunks_mut(rows).enumerate().for_each(|(row, joint)| {
        for (other, joint) in joint.iter_mut().enumerate() {
            let both = conditional[row * rows + other] + conditional[other * rows + row];
            *joint = if row == other {
                0.0
            } else {
                (both / total).max(TINY)
            };
        }
    });
    joint
}

/// One row's shares, `exp(-beta d)` over their sum, with the beta for which the exponential of their entropy
/// is the perplexity.
fn conditional_row(row: usize, distances: &[f64], perplexity: f64, shares: &mut [f64]) {
    let others = || distances.iter().enumerate().filter(|(other, _)| *other != row);
    // Relative to the nearest, so that no exponential underflows.
    let nearest = others()
        .map(|(_, distance)| *distance)
        .fold(f64::INFINITY, f64::min);
    let wanted = perplexity.ln();
    let (mut beta, mut low, mut high) = (1.0f64, 0.0f64, f64::INFINITY);
    for _ in 0..200 {
        let (mut sum, mut moment) = (0.0, 0.0);
        for (other, distance) in others() {
            let share = (-beta * (distance - nearest)).exp();
            shares[other] = share;
            sum += share;
            moment += share * (distance - nearest);
        }
        shares.iter_mut().for_each(|share| *share /= sum);
        let entropy = sum.ln() + beta * moment / sum;
        if (entropy - wanted).abs() < 1e-10 {
            break;
        }
        if entropy > wanted {
            low = beta;
            beta = if high.is_finite() {
                0.5 * (low + high)
            } else {
                2.0 * beta
            };
        } else {
            high = beta;
            beta = 0.5 * (low + high);
        }
    }
}

/// The rows' first two principal components, scaled; positions on a line if all rows are equal.
fn principal_start(rows: &Matrix) -> Vec<[f64; 2]> {
    let values: Vec<f64> = rows.values.iter().map(|value| f64::from(*value)).collect();
    let on_a_line = || {
        (0..rows.rows)
            .map(|row| [START_DEVIATION * (row as f64 / rows.rows as f64 - 0.5), 0.0])
            .collect()
    };
    let Ok(values) = ArrayView2::from_shape((rows.rows, rows.width), &values) else {
        return on_a_line();
    };
    let Some(mean) = values.mean_axis(Axis(0)) else {
        return on_a_line();
    };
    let centered = &values - &mean;
    let gram = centered.dot(&centered.t());
    // Two directions that are unlikely to be orthogonal to any data.
    let mut basis = Array2::from_shape_fn((rows.rows, 2), |(row, column)| {
        let angle = (row * (column + 2)) as f64;
        (angle * 0.7548).sin() + 0.1
    });
    for _ in 0..POWER_ROUNDS {
        basis = gram.dot(&basis);
        if !orthonormal(&mut basis) {
            return on_a_line();
        }
    }
    // Scores are the directions times the singular values; the largest entry fixes the signs.
    let scores = gram.dot(&basis);
    let singular: Vec<f64> = (0..2)
        .map(|column| scores.column(column).dot(&basis.column(column)).max(0.0).sqrt())
        .collect();
    let deviation = singular[0] / (rows.rows as f64).sqrt();
    if !(deviation.is_finite() && deviation > 0.0) {
        return on_a_line();
    }
    let sign = |column: usize| {
        let largest = basis.column(column).iter().copied().fold(0.0f64, |most, value| {
            if value.abs() > most.abs() { value } else { most }
        });
        1.0f64.copysign(largest)
    };
    let scale = [0, 1].map(|column| sign(column) * singular[column] * START_DEVIATION / deviation);
    basis
        .rows()
        .into_iter()
        .map(|row| [row[0] * scale[0], row[1] * scale[1]])
        .collect()
}

/// Gram-Schmidt on two columns; false if the first is zero.
fn orthonormal(basis: &mut Array2<f64>) -> bool {
    let norm = |column: ndarray::ArrayView1<'_, f64>| column.dot(&column).sqrt();
    let first = norm(basis.column(0));
    if !(first.is_finite() && first > 0.0) {
        return false;
    }
    basis.column_mut(0).mapv_inplace(|value| value / first);
    let along = basis.column(0).dot(&basis.column(1));
    for row in 0..basis.nrows() {
        basis[[row, 1]] -= along * basis[[row, 0]];
    }
    let second = norm(basis.column(1));
    if second > 1e-300 {
        basis.column_mut(1).mapv_inplace(|value| value / second);
    } else {
        basis.column_mut(1).fill(0.0);
    }
    true
}

/// The gradient of the divergence, and (where `exaggeration` is 1) the divergence itself.
fn gradient(similarities: &[f64], places: &[[f64; 2]], exaggeration: f64) -> Vec<[f64; 2]> {
    let rows = places.len();
    // Each row separately, summed in order: the same for any number of threads.
    let forces: Vec<([f64; 2], [f64; 2], f64)> = places
        .par_iter()
        .zip(similarities.par_chunks(rows))
        .map(|(place, similarities)| {
            let (mut pull, mut push, mut sum) = ([0.0; 2], [0.0; 2], 0.0);
            for (other, similarity) in places.iter().zip(similarities) {
                let (x, y) = (place[0] - other[0], place[1] - other[1]);
                let near = 1.0 / (1.0 + x * x + y * y);
                let pulled = similarity * near;
                let pushed = near * near;
                pull[0] += pulled * x;
                pull[1] += pulled * y;
                push[0] += pushed * x;
                push[1] += pushed * y;
                sum += near;
            }
            // Without the row itself.
            (pull, push, sum - 1.0)
        })
        .collect();
    let total = forces.iter().map(|(_, _, sum)| sum).sum::<f64>().max(TINY);
    forces
        .into_iter()
        .map(|(pull, push, _)| [0, 1].map(|axis| 4.0 * (exaggeration * pull[axis] - push[axis] / total)))
        .collect()
}

fn descend(similarities: &[f64], mut places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let rate = (places.len() as f64 / EXAGGERATION / 4.0).max(50.0);
    let mut speeds = vec![[0.0; 2]; places.len()];
    let mut gains = vec![[1.0f64; 2]; places.len()];
    for step in 0..STEPS {
        let (exaggeration, momentum) = match step < EXAGGERATED_STEPS {
            true => (EXAGGERATION, 0.5),
            false => (1.0, 0.8),
        };
        let gradient = gradient(similarities, &places, exaggeration);
        for (row, gradient) in gradient.iter().enumerate() {
            for axis in 0..2 {
                let gain = &mut gains[row][axis];
                let turns = speeds[row][axis] * gradient[axis] < 0.0;
                *gain = if turns {
                    *gain + 0.2
                } else {
                    (*gain * 0.8).max(0.01)
                };
                speeds[row][axis] = momentum * speeds[row][axis] - rate * *gain * gradient[axis];
                places[row][axis] += speeds[row][axis];
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// scikit-learn's map of 60 points: `scripts/parity/tsne.py`.
    #[derive(Deserialize)]
    struct Reference {
        width: usize,
        points: Vec<f32>,
        places: Vec<[f64; 2]>,
        perplexity: f64,
        similarities: Vec<f64>,
        gradient: Vec<[f64; 2]>,
        divergence_after_tsne: f64,
    }

    fn reference() -> Reference {
        serde_json::from_str(include_str!("../../fixtures/tsne.json")).unwrap()
    }

    fn points(reference: &Reference) -> Matrix {
        let rows = reference.points.len() / reference.width;
        Matrix::new(rows, reference.width, reference.points.clone())
    }

    fn difference(ours: impl Iterator<Item = f64>, theirs: impl Iterator<Item = f64>) -> f64 {
        let (mut off, mut all) = (0.0, 0.0);
        ours.zip(theirs).for_each(|(ours, theirs)| {
            off += (ours - theirs).powi(2);
            all += theirs.powi(2);
        });
        (off / all).sqrt()
    }

    fn divergence(similarities: &[f64], places: &[[f64; 2]]) -> f64 {
        let rows = places.len();
        let near = |a: usize, b: usize| {
            let (x, y) = (places[a][0] - places[b][0], places[a][1] - places[b][1]);
            1.0 / (1.0 + x * x + y * y)
        };
        let pairs = || {
            (0..rows * rows)
                .map(|pair| (pair / rows, pair % rows))
                .filter(|(a, b)| a != b)
        };
        let total: f64 = pairs().map(|(a, b)| near(a, b)).sum();
        pairs()
            .map(|(a, b)| {
                let p = similarities[a * rows + b];
                p * (p / (near(a, b) / total).max(TINY)).ln()
            })
            .sum()
    }

    #[test]
    fn similarities_and_gradient_are_scikit_learns() {
        let reference = reference();
        let points = points(&reference);
        let ours = similarities(&squared_distances(&points), points.rows, reference.perplexity);
        let off = difference(ours.iter().copied(), reference.similarities.iter().copied());
        // scikit-learn searches for the widths to 1e-5 of the entropy.
        assert!(off < 1e-4, "similarities are {off:e} off");
        let flat = |pairs: &[[f64; 2]]| pairs.iter().flatten().copied().collect::<Vec<_>>();
        let ours = gradient(&reference.similarities, &reference.places, 1.0);
        let off = difference(flat(&ours).into_iter(), flat(&reference.gradient).into_iter());
        assert!(off < 1e-6, "the gradient is {off:e} off");
    }

    #[test]
    fn the_map_is_as_good_as_scikit_learns_and_always_the_same() {
        let reference = reference();
        let points = points(&reference);
        let map = tsne(&points);
        let perplexity = (points.rows - 1) as f64 / 3.0;
        let joint = similarities(&squared_distances(&points), points.rows, perplexity);
        let ours = divergence(&joint, &map);
        let theirs = reference.divergence_after_tsne;
        assert!(ours < 1.02 * theirs, "divergence {ours}, scikit-learn's {theirs}");
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| tsne(&points)), map);
    }

    #[test]
    fn few_or_equal_rows_give_no_map_or_finite_places() {
        assert!(tsne(&Matrix::new(3, 2, vec![0.0; 6])).is_empty());
        let places = tsne(&Matrix::new(5, 2, vec![1.0; 10]));
        assert_eq!(places.len(), 5);
        assert!(places.iter().flatten().all(|value| value.is_finite()));
    }
}
