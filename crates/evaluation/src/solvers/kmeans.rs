//! k-means in f32 on the host: Lloyd's iterations from greedy k-means++ starts, the best of several.
//!
//! The algorithm is scikit-learn's `KMeans(algorithm="lloyd")`, step by step: greedy k-means++ (Arthur and
//! Vassilvitskii 2007, with `2 + ln k` trials per center), empty clusters moved to the rows farthest from
//! their centers, an end when no assignment changes or the centers hardly move. Only the random draws differ.
//! Distances come from one matrix product per panel, so rows should be centered first: that keeps `|x|^2 - 2
//! x c + |c|^2` from canceling. Sums are f64 and in a fixed order: the result is the same for any number of
//! threads.

use crate::features::{Matrix, column_means};
use backbones::Draws;
use backbones::draws::uniform;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

/// Rows multiplied at a time, scikit-learn's chunk: their products with the centers stay in the cache.
const PANEL_ROWS: usize = 256;

/// The settings of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    pub(crate) clusters: usize,
    /// Number of starts; the one that ends with the smallest inertia is kept.
    pub(crate) restarts: usize,
    pub(crate) max_iterations: usize,
    /// The search ends when the centers' squared movement is below this, times the mean variance of the
    /// columns.
    pub(crate) tolerance: f64,
    pub(crate) seed: u64,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// `[clusters, width]`.
    pub centers: Matrix,
    /// The nearest center of each row; ties go to the lower.
    pub assignments: Vec<u32>,
    /// Sum of the squared distances of all rows to their centers.
    pub inertia: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Whether it converged before `max_iterations`.
    pub converged: bool,
}

/// The best of several starts. There must be at least as many rows as clusters.
///
/// `done` receives the number of finished starts.
pub(crate) fn kmeans(rows: &Matrix, search: &Search, mut done: impl FnMut(usize)) -> Partition {
    let tolerance = search.tolerance * mean_variance(rows);
    let mut restart = |index: usize| {
        let start = plus_plus(rows, search.clusters, &Draws::new(search.seed, index as u64));
        let found = lloyd(rows, start, search.max_iterations, tolerance);
        done(index + 1);
        found
    };
    let mut best = restart(0);
    for index in 1..search.restarts {
        let next = restart(index);
        if next.inertia < best.inertia {
            best = next;
        }
    }
    best
}

/// Lloyd's iterations from the given centers. `tolerance` is absolute.
pub fn lloyd(rows: &Matrix, start: Matrix, max_iterations: usize, tolerance: f64) -> Partition {
    let mut centers = start;
    let mut assignments = vec![u32::MAX; rows.rows];
    let (mut iterations, mut converged) = (0, false);
    let mut settled = false;
    while iterations < max_iterations && !converged {
        iterations += 1;
        let before = assignments.clone();
        assign(rows, &centers, &mut assignments);
        let next = means(rows, &centers, &assignments);
        let moved = squared_distance(&next.values, &centers.values);
        centers = next;
        settled = assignments == before;
        converged = settled || moved <= tolerance;
    }
    if !settled {
        // The centers moved once more after the last assignment.
        assign(rows, &centers, &mut assignments);
    }
    Partition {
        inertia: inertia(rows, &centers, &assignments),
        centers,
        assignments,
        iterations,
        converged,
    }
}

/// The nearest center of each row; ties go to the lower.
pub(crate) fn assign(rows: &Matrix, centers: &Matrix, assignments: &mut [u32]) {
    // argmin |x - c|^2 = argmax x c - |c|^2 / 2.
    let half_norms: Vec<f32> = (0..centers.rows)
        .map(|center| (0.5 * squared_norm(centers.row(center))) as f32)
        .collect();
    rows.values
        .par_chunks(PANEL_ROWS * rows.width)
        .zip(assignments.par_chunks_mut(PANEL_ROWS))
        .for_each_init(
            || vec![0.0; PANEL_ROWS * centers.rows],
            |products, (values, assignments)| {
                multiply(values, centers, products);
                for (assignment, products) in assignments.iter_mut().zip(products.chunks_exact(centers.rows))
                {
                    let mut best = (f32::NEG_INFINITY, 0);
                    for (center, (product, half_norm)) in products.iter().zip(&half_norms).enumerate() {
                        let score = product - half_norm;
                        if score > best.0 {
                            best = (score, center as u32);
                        }
                    }
                    *assignment = best.1;
                }
            },
        );
}

/// `values` `[rows, width]` times the centers transposed, into the first rows of `products`, `[rows, clusters]`.
fn multiply(values: &[f32], centers: &Matrix, products: &mut [f32]) {
    let rows = values.len() / centers.width;
    let products = &mut products[..rows * centers.rows];
    let values = ArrayView2::from_shape((rows, centers.width), values).expect("whole rows");
    let center_values =
        ArrayView2::from_shape((centers.rows, centers.width), &centers.values).expect("a matrix");
    let mut products = ArrayViewMut2::from_shape((rows, centers.rows), products).expect("cut to size");
    general_mat_mul(1.0, &values, &center_values.t(), 0.0, &mut products);
}

/// The mean of each cluster's rows; centers of empty clusters move to the rows that are farthest from their
/// centers.
fn means(rows: &Matrix, centers: &Matrix, assignments: &[u32]) -> Matrix {
    let mut members = members(assignments, centers.rows);
    let empty: Vec<usize> = (0..centers.rows)
        .filter(|cluster| members[*cluster].is_empty())
        .collect();
    if !empty.is_empty() {
        let mut far: Vec<(f64, u32)> = (0..rows.rows)
            .into_par_iter()
            .map(|row| {
                let center = centers.row(assignments[row] as usize);
                (squared_distance(rows.row(row), center), row as u32)
            })
            .collect();
        far.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (cluster, (distance, row)) in empty.into_iter().zip(far) {
            if distance == 0.0 {
                // Fewer distinct rows than clusters: every row is at its center, and the cluster stays empty.
                break;
            }
            members[assignments[row as usize] as usize].retain(|member| *member != row);
            members[cluster].push(row);
        }
    }
    let mut means = Matrix::new(centers.rows, centers.width, vec![0.0; centers.values.len()]);
    means
        .values
        .par_chunks_mut(centers.width)
        .zip(&members)
        .enumerate()
        .for_each(|(cluster, (mean, members))| {
            if members.is_empty() {
                mean.copy_from_slice(centers.row(cluster));
                return;
            }
            let mut sum = vec![0.0; mean.len()];
            for member in members {
                let row = rows.row(*member as usize);
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let count = members.len() as f64;
            mean.iter_mut()
                .zip(sum)
                .for_each(|(mean, sum)| *mean = (sum / count) as f32);
        });
    means
}

/// The rows of each cluster, in ascending order.
fn members(assignments: &[u32], clusters: usize) -> Vec<Vec<u32>> {
    let mut members = vec![vec![]; clusters];
    for (row, cluster) in assignments.iter().enumerate() {
        members[*cluster as usize].push(row as u32);
    }
    members
}

/// Sum of the squared distances of the rows to the centers that they are assigned to.
pub(crate) fn inertia(rows: &Matrix, centers: &Matrix, assignments: &[u32]) -> f64 {
    let panels: Vec<f64> = assignments
        .par_chunks(PANEL_ROWS)
        .enumerate()
        .map(|(panel, assignments)| {
            let distance = |(offset, cluster): (usize, &u32)| {
                let row = rows.row(panel * PANEL_ROWS + offset);
                squared_distance(row, centers.row(*cluster as usize))
            };
            assignments.iter().enumerate().map(distance).sum()
        })
        .collect();
    panels.iter().sum()
}

/// Greedy k-means++: `2 + ln k` candidate rows are drawn by their squared distance to the existing centers,
/// and the next center is the one that reduces the sum of these distances most.
fn plus_plus(rows: &Matrix, clusters: usize, draws: &Draws) -> Matrix {
    let mut rng = draws.rng("kmeans.start", 0);
    let trials = 2 + (clusters as f64).ln() as usize;
    let norms: Vec<f64> = (0..rows.rows)
        .into_par_iter()
        .map(|row| squared_norm(rows.row(row)))
        .collect();

    let first = (uniform(&mut rng) * rows.rows as f64) as usize;
    let mut chosen = vec![first.min(rows.rows - 1)];
    let mut nearest = vec![f64::INFINITY; rows.rows];
    nearest = closer(rows, &norms, &nearest, &chosen).swap_remove(0).0;
    while chosen.len() < clusters {
        let ends: Vec<f64> = nearest
            .iter()
            .scan(0.0, |sum, distance| {
                *sum += distance;
                Some(*sum)
            })
            .collect();
        let potential = ends[rows.rows - 1];
        let candidates: Vec<usize> = (0..trials)
            .map(|_| {
                let drawn = uniform(&mut rng) * potential;
                ends.partition_point(|end| *end < drawn).min(rows.rows - 1)
            })
            .collect();
        let mut tried = closer(rows, &norms, &nearest, &candidates);
        let mut best = 0;
        for trial in 1..trials {
            if tried[trial].1 < tried[best].1 {
                best = trial;
            }
        }
        nearest = tried.swap_remove(best).0;
        chosen.push(candidates[best]);
    }
    rows.select(&chosen)
}

/// For each candidate row: every row's squared distance to the nearest center with the candidate included,
/// and their sum.
fn closer(rows: &Matrix, norms: &[f64], nearest: &[f64], candidates: &[usize]) -> Vec<(Vec<f64>, f64)> {
    let centers = rows.select(candidates);
    let count = candidates.len();
    let panels: Vec<Vec<f64>> = rows
        .values
        .par_chunks(PANEL_ROWS * rows.width)
        .enumerate()
        .map_init(
            || vec![0.0; PANEL_ROWS * count],
            |products, (panel, values)| {
                multiply(values, &centers, products);
                let first = panel * PANEL_ROWS;
                let length = values.len() / rows.width;
                let mut distances = Vec::with_capacity(length * count);
                for (trial, candidate) in candidates.iter().enumerate() {
                    distances.extend((0..length).map(|offset| {
                        let row = first + offset;
                        let product = f64::from(products[offset * count + trial]);
                        let distance = match row == *candidate {
                            true => 0.0,
                            false => (norms[row] + norms[*candidate] - 2.0 * product).max(0.0),
                        };
                        distance.min(nearest[row])
                    }));
                }
                distances
            },
        )
        .collect();
    let trial = |trial: usize| {
        let mut distances = Vec::with_capacity(rows.rows);
        for panel in &panels {
            let length = panel.len() / count;
            distances.extend_from_slice(&panel[trial * length..(trial + 1) * length]);
        }
        let potential = distances.iter().sum();
        (distances, potential)
    };
    (0..count).map(trial).collect()
}

/// The mean of the columns' variances.
fn mean_variance(rows: &Matrix) -> f64 {
    let count = rows.rows as f64;
    let mean = column_means(rows);
    let total: f64 = rows
        .values
        .chunks_exact(rows.width)
        .map(|row| {
            let squares = row
                .iter()
                .zip(&mean)
                .map(|(value, mean)| (f64::from(*value) - mean).powi(2));
            squares.sum::<f64>()
        })
        .sum();
    total / (count * rows.width as f64)
}

fn squared_norm(row: &[f32]) -> f64 {
    row.iter().map(|value| f64::from(*value).powi(2)).sum()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(clusters: usize) -> Search {
        Search {
            clusters,
            restarts: 3,
            max_iterations: 100,
            tolerance: 1e-4,
            seed: 0,
        }
    }

    #[test]
    fn two_pairs_by_hand() {
        // 0 and 1, 10 and 12: centers 0.5 and 11, inertia 2 * 0.25 + 2 * 1.
        let rows = Matrix::new(4, 1, vec![0.0, 10.0, 1.0, 12.0]);
        let mut starts = vec![];
        let found = kmeans(&rows, &search(2), |done| starts.push(done));
        assert_eq!(starts, [1, 2, 3]);
        assert_eq!(found.inertia, 2.5);
        assert!(found.converged);
        assert_eq!(found.assignments[0], found.assignments[2]);
        assert_eq!(found.assignments[1], found.assignments[3]);
        assert_ne!(found.assignments[0], found.assignments[1]);
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_row() {
        // No row is near 100, so that center moves to the row farthest from its own: 9.
        let rows = Matrix::new(3, 1, vec![0.0, 1.0, 9.0]);
        let found = lloyd(&rows, Matrix::new(2, 1, vec![0.0, 100.0]), 100, 0.0);
        assert_eq!(found.centers.values, [0.5, 9.0]);
        assert_eq!(found.assignments, [0, 0, 1]);
    }

    #[test]
    fn as_many_clusters_as_rows_and_equal_rows_are_no_trouble() {
        let rows = Matrix::new(5, 2, (0..10u8).map(|value| f32::from(value * value)).collect());
        assert_eq!(kmeans(&rows, &search(5), |_| {}).inertia, 0.0);
        let same = Matrix::new(4, 2, vec![3.0; 8]);
        let found = kmeans(&same, &search(2), |_| {});
        assert_eq!((found.inertia, found.converged), (0.0, true));
    }

    #[test]
    fn a_search_that_was_cut_short_says_so_and_its_assignments_fit_its_centers() {
        let rows = Matrix::new(
            600,
            2,
            (0..1200usize)
                .map(|index| (index * 7919 % 1009) as f32 / 100.0)
                .collect(),
        );
        let short = Search {
            max_iterations: 1,
            restarts: 1,
            ..search(7)
        };
        let found = kmeans(&rows, &short, |_| {});
        assert!(!found.converged);
        let mut again = vec![0; 600];
        assign(&rows, &found.centers, &mut again);
        assert_eq!(again, found.assignments);
        assert!(kmeans(&rows, &search(7), |_| {}).inertia < found.inertia);
    }

    #[test]
    fn the_same_seed_is_the_same_clustering_for_any_number_of_threads() {
        let rows = Matrix::new(
            700,
            3,
            (0..2100usize)
                .map(|index| ((index * 7919 % 1009) as f32).sin())
                .collect(),
        );
        let found = kmeans(&rows, &search(9), |_| {});
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| kmeans(&rows, &search(9), |_| {})), found);
        let other = Search { seed: 1, ..search(9) };
        assert_ne!(kmeans(&rows, &other, |_| {}).assignments, found.assignments);
    }
}
