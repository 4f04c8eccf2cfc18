//! Weights of a patch embedding in, those for patches of another size out.
//!
//! Beyer et al., *FlexiViT: One model for all patch sizes*, 2023, §3.4: the new weights give tokens that are nearest to the old
//! ones when images are resized with the patch. For larger patches the tokens are equal.

use super::{Interpolation, positions};

/// The weights `[filters, from, from]` for patches of side `to`: `(Bᵀ)⁺ w`, where B resizes a patch (bicubic, antialiased).
/// B acts on rows and columns alike, and so does its pseudo-inverse.
pub(crate) fn resampled(weights: &[f32], [from, to]: [usize; 2]) -> Vec<f32> {
    let inverse = pseudo_inverse(from, to);
    let mut all = Vec::with_capacity(weights.len() / (from * from) * to * to);
    for filter in weights.chunks_exact(from * from) {
        // [from, to]: columns first.
        let mut over_columns = vec![0.0; from * to];
        for (row, sums) in filter.chunks_exact(from).zip(over_columns.chunks_exact_mut(to)) {
            for (place, sum) in sums.iter_mut().enumerate() {
                let factors = &inverse[place * from..(place + 1) * from];
                *sum = row
                    .iter()
                    .zip(factors)
                    .map(|(value, factor)| f64::from(*value) * factor)
                    .sum();
            }
        }
        for place in 0..to {
            let factors = &inverse[place * from..(place + 1) * from];
            for column in 0..to {
                let of_rows = over_columns.iter().skip(column).step_by(to);
                let sum: f64 = of_rows.zip(factors).map(|(value, factor)| value * factor).sum();
                all.push(sum as f32);
            }
        }
    }
    all
}

/// `(Bᵀ)⁺`, `[to, from]`, of the matrix B `[to, from]` that resizes one side. B has full rank.
fn pseudo_inverse(from: usize, to: usize) -> Vec<f64> {
    let resize = positions::weights(from, to, Interpolation::Antialiased);
    let at = |row: usize, column: usize| resize[row * from + column];
    if to >= from {
        // B (Bᵀ B)⁻¹, the transpose of the solution of (Bᵀ B) X = Bᵀ.
        let gram = square(from, |i, j| (0..to).map(|row| at(row, i) * at(row, j)).sum());
        let transposed: Vec<f64> = (0..from * to).map(|index| at(index % to, index / to)).collect();
        let solved = solve(gram, transposed, from);
        (0..to * from)
            .map(|index| solved[index % from * to + index / from])
            .collect()
    } else {
        // (B Bᵀ)⁻¹ B.
        let gram = square(to, |i, j| {
            (0..from).map(|column| at(i, column) * at(j, column)).sum()
        });
        solve(gram, resize, to)
    }
}

fn square(side: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..side * side)
        .map(|index| at(index / side, index % side))
        .collect()
}

/// The solution X of `matrix · X = right`, `[side, …]`, by elimination; the matrix is symmetric and positive definite.
fn solve(mut matrix: Vec<f64>, mut right: Vec<f64>, side: usize) -> Vec<f64> {
    let width = right.len() / side;
    for pivot in 0..side {
        let scale = 1.0 / matrix[pivot * side + pivot];
        matrix[pivot * side..(pivot + 1) * side]
            .iter_mut()
            .for_each(|value| *value *= scale);
        right[pivot * width..(pivot + 1) * width]
            .iter_mut()
            .for_each(|value| *value *= scale);
        for row in (0..side).filter(|row| *row != pivot) {
            let factor = matrix[row * side + pivot];
            for column in 0..side {
                matrix[row * side + column] -= factor * matrix[pivot * side + column];
            }
            for column in 0..width {
                right[row * width + column] -= factor * right[pivot * width + column];
            }
        }
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|index| (index as f32 * step).sin()).collect()
    }

    /// A patch resized to another side, by rows and columns.
    fn resized(patch: &[f32], [from, to]: [usize; 2]) -> Vec<f64> {
        let weights = positions::weights(from, to, Interpolation::Antialiased);
        let mut all = vec![0.0; to * to];
        for (index, value) in all.iter_mut().enumerate() {
            for row in 0..from {
                for column in 0..from {
                    let factor = weights[index / to * from + row] * weights[index % to * from + column];
                    *value += factor * f64::from(patch[row * from + column]);
                }
            }
        }
        all
    }

    fn product(filter: &[f32], patch: &[f64]) -> f64 {
        filter.iter().zip(patch).map(|(a, b)| f64::from(*a) * b).sum()
    }

    #[test]
    fn larger_patches_give_the_same_tokens_of_resized_images() {
        for [from, to] in [[4, 8], [8, 14], [14, 16], [16, 32], [7, 7]] {
            let (filters, patch) = (wave(2 * from * from, 0.37), wave(from * from, 0.71));
            let ours = resampled(&filters, [from, to]);
            assert_eq!(ours.len(), 2 * to * to);
            let plain: Vec<f64> = patch.iter().map(|value| f64::from(*value)).collect();
            for (old, new) in filters.chunks_exact(from * from).zip(ours.chunks_exact(to * to)) {
                let (expected, found) = (product(old, &plain), product(new, &resized(&patch, [from, to])));
                assert!(
                    (expected - found).abs() < 1e-4 * (1.0 + expected.abs()),
                    "{from} {to}: {expected} {found}"
                );
            }
        }
    }

    /// The four conditions of Moore and Penrose, for smaller patches too.
    #[test]
    fn the_inverse_is_the_pseudo_inverse() {
        for (from, to) in [(16, 8), (14, 7), (16, 14), (4, 8)] {
            let resize = positions::weights(from, to, Interpolation::Antialiased);
            let inverse = pseudo_inverse(from, to);
            // A = Bᵀ, [from, to]; its inverse is [to, from].
            let a = |i: usize, j: usize| resize[j * from + i];
            let plus = |i: usize, j: usize| inverse[i * from + j];
            let left = square(from, |i, j| (0..to).map(|k| a(i, k) * plus(k, j)).sum());
            let right = square(to, |i, j| (0..from).map(|k| plus(i, k) * a(k, j)).sum());
            for i in 0..from {
                for j in 0..to {
                    let again: f64 = (0..from).map(|k| left[i * from + k] * a(k, j)).sum();
                    assert!((again - a(i, j)).abs() < 1e-9, "{from} {to}");
                }
            }
            let is_symmetric = |matrix: &[f64], side: usize| {
                (0..side * side)
                    .all(|index| (matrix[index] - matrix[index % side * side + index / side]).abs() < 1e-9)
            };
            assert!(
                is_symmetric(&left, from) && is_symmetric(&right, to),
                "{from} {to}"
            );
        }
    }
}
