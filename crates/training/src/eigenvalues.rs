//! Eigenvalues of a symmetric matrix in f64, without its eigenvectors: Householder's reduction to a tridiagonal matrix, then
//! implicit QL steps on that (Wilkinson and Reinsch 1971; Golub and Van Loan, *Matrix Computations*, sections 8.3.1, 8.3.3).
//!
//! Implemented here because the maintained linear algebra crates would enable features of crates that Burn's
//! matrix products use.

use rayon::prelude::*;

/// Maximum QL steps per eigenvalue; two are usual.
const STEPS: usize = 60;

/// Least rows of a thread: fewer cost more to hand over than to compute.
const ROWS: usize = 64;

/// Parallel sums of [`dot`].
pub const LANES: usize = 8;

/// The scalar product of two vectors of one length: sums in lanes, which compilers vectorize, in a fixed order.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a_lanes
        .remainder()
        .iter()
        .zip(b_lanes.remainder())
        .map(|(a, b)| a * b)
        .sum();
    let mut sums = [0.0; LANES];
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// RankMe: the exponential of the entropy of the shares of the singular values, which are the roots of these eigenvalues of the
/// Gram matrix (Garrido, Balestriero, Najman, LeCun, *RankMe*, 2023, equation 1, with its epsilon of 1e-7).
pub fn rank_me(eigenvalues: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = eigenvalues
        .into_iter()
        .map(|value| value.max(0.0).sqrt())
        .collect();
    let sum = values.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let entropy: f64 = values
        .iter()
        .map(|value| {
            let share = value / sum + RANKME_EPSILON;
            -share * share.ln()
        })
        .sum();
    entropy.exp()
}

/// RankMe's epsilon, for f32 features.
const RANKME_EPSILON: f64 = 1e-7;

/// All eigenvalues of a symmetric matrix of `size` rows, row by row; the largest first.
///
/// # Panics
/// If `matrix` has not `size` times `size` values.
pub fn symmetric_eigenvalues(matrix: Vec<f64>, size: usize) -> Vec<f64> {
    assert_eq!(matrix.len(), size * size, "the matrix must be square");
    let (mut diagonal, beside) = tridiagonal(matrix, size);
    implicit_ql(&mut diagonal, beside);
    diagonal.sort_unstable_by(|a, b| b.total_cmp(a));
    diagonal
}

/// Diagonal and subdiagonal (with a last 0) of a tridiagonal matrix with the same eigenvalues.
fn tridiagonal(mut values: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (vec![0.0; size], vec![0.0; size]);
    for step in 0..size {
        diagonal[step] = values[step * size + step];
        let first = step + 1;
        if first == size {
            break;
        }
        // The reflection H = 1 - scale v v' that leaves only the first entry of the column below the diagonal.
        let mut reflector: Vec<f64> = values[step * size + first..(step + 1) * size].to_vec();
        let norm = dot(&reflector, &reflector).sqrt();
        let head = -norm.copysign(reflector[0]);
        beside[step] = head;
        reflector[0] -= head;
        let square = dot(&reflector, &reflector);
        if square == 0.0 {
            // The column is already zero.
            continue;
        }
        let scale = 2.0 / square;
        // H A H = A - v w' - w v', where p = scale A v and w = p - (scale / 2) (p v) v.
        let rest = &mut values[first * size..];
        let mut other: Vec<f64> = rest
            .par_chunks(size)
            .with_min_len(ROWS)
            .map(|row| scale * dot(&row[first..], &reflector))
            .collect();
        let share = 0.5 * scale * dot(&other, &reflector);
        other
            .iter_mut()
            .zip(&reflector)
            .for_each(|(other, reflector)| *other -= share * reflector);
        let rows = rest.par_chunks_mut(size).with_min_len(ROWS).enumerate();
        rows.for_each(|(index, row)| {
            let (a, b) = (reflector[index], other[index]);
            for ((value, reflector), other) in row[first..].iter_mut().zip(&reflector).zip(&other) {
                *value -= a * other + b * reflector;
            }
        });
    }
    (diagonal, beside)
}

/// Turns the diagonal of a tridiagonal matrix into its eigenvalues.
fn implicit_ql(diagonal: &mut [f64], mut beside: Vec<f64>) {
    let size = diagonal.len();
    for low in 0..size {
        for _ in 0..STEPS {
            // The block from `low` to the next negligible subdiagonal entry.
            let negligible = |at: &usize| {
                beside[*at].abs() <= f64::EPSILON * (diagonal[*at].abs() + diagonal[at + 1].abs())
            };
            let high = (low..size - 1).find(negligible).unwrap_or(size - 1);
            if high == low {
                break;
            }
            // Wilkinson's shift, then rotations that chase the bulge from the block's end to its start.
            let ratio = (diagonal[low + 1] - diagonal[low]) / (2.0 * beside[low]);
            let root = ratio.hypot(1.0).copysign(ratio);
            let mut bulge = diagonal[high] - diagonal[low] + beside[low] / (ratio + root);
            let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
            let mut split = false;
            for at in (low..high).rev() {
                let along = sine * beside[at];
                let across = cosine * beside[at];
                let length = along.hypot(bulge);
                beside[at + 1] = length;
                if length == 0.0 {
                    // The block splits here.
                    diagonal[at + 1] -= shift;
                    beside[high] = 0.0;
                    split = true;
                    break;
                }
                sine = along / length;
                cosine = bulge / length;
                let level = diagonal[at + 1] - shift;
                let turned = (diagonal[at] - level) * sine + 2.0 * cosine * across;
                shift = sine * turned;
                diagonal[at + 1] = level + shift;
                bulge = cosine * turned - across;
            }
            if !split {
                diagonal[low] -= shift;
                beside[low] = bulge;
                beside[high] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(size: usize, value: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        (0..size * size).map(|at| value(at / size, at % size)).collect()
    }

    fn check(matrix: Vec<f64>, expected: &[f64]) {
        let most = expected[0].abs().max(1.0);
        let found = symmetric_eigenvalues(matrix, expected.len());
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-13 * most, "{found} {expected}");
        }
    }

    #[test]
    fn small_matrices_by_hand() {
        check(vec![3.0], &[3.0]);
        check(vec![2.0, 1.0, 1.0, 2.0], &[3.0, 1.0]);
        let diagonal = [1.0, 5.0, -2.0];
        let of = |row: usize, column: usize| if row == column { diagonal[row] } else { 0.0 };
        check(matrix(3, of), &[5.0, 1.0, -2.0]);
        check(vec![0.0; 16], &[0.0; 4]);
        // All ones: one eigenvalue, equal to the size.
        let mut expected = [0.0; 30];
        expected[0] = 30.0;
        check(vec![1.0; 900], &expected);
    }

    #[test]
    fn the_second_difference_has_eigenvalues_in_closed_form() {
        let size = 200;
        let second = matrix(size, |row, column| match row.abs_diff(column) {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        });
        let angle = |index: usize| std::f64::consts::PI * (size - index) as f64 / (size + 1) as f64;
        let expected: Vec<f64> = (0..size).map(|index| 2.0 - 2.0 * angle(index).cos()).collect();
        check(second.clone(), &expected);
        // The same after a change of basis by a reflection, which fills the matrix.
        let vector: Vec<f64> = (0..size).map(|index| (index as f64 * 0.7).sin()).collect();
        let scale = 2.0 / dot(&vector, &vector);
        let reflection = matrix(size, |row, column| {
            f64::from(u8::from(row == column)) - scale * vector[row] * vector[column]
        });
        let product = |a: &[f64], b: &[f64]| {
            matrix(size, |row, column| {
                (0..size)
                    .map(|at| a[row * size + at] * b[at * size + column])
                    .sum()
            })
        };
        check(product(&product(&reflection, &second), &reflection), &expected);
    }

    #[test]
    fn rank_me_counts_equal_directions() {
        assert!((rank_me([4.0; 5]) - 5.0).abs() < 1e-4);
        assert!((rank_me([9.0, 0.0, 0.0, 0.0]) - 1.0).abs() < 1e-4);
    }
}
