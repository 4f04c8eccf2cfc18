//! Scaling of rows before a classifier: L2 norms, means and deviations.

use super::matrix::Matrix;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Scales both sets, with statistics of the training rows alone.
pub(crate) fn scale(train: &mut Cow<'_, Matrix>, test: &mut Cow<'_, Matrix>, scaling: Scaling) {
    match scaling {
        Scaling::None => {}
        Scaling::CenterL2 => {
            let mean = column_means(train);
            for rows in [train.to_mut(), test.to_mut()] {
                subtract(rows, &mean);
                normalize_rows(rows);
            }
        }
        Scaling::L2 => {
            normalize_rows(train.to_mut());
            normalize_rows(test.to_mut());
        }
        Scaling::Standardize => {
            let (mean, deviation) = column_statistics(train);
            for rows in [train.to_mut(), test.to_mut()] {
                rows.values.par_chunks_mut(rows.width.max(1)).for_each(|row| {
                    for ((value, mean), deviation) in row.iter_mut().zip(&mean).zip(&deviation) {
                        *value = ((f64::from(*value) - mean) / deviation) as f32;
                    }
                });
            }
        }
    }
}

/// Scaling of stored features before a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Nothing.
    None,
    /// Each column to mean 0 and standard deviation 1 over the training records (scikit-learn's `StandardScaler`).
    Standardize,
    /// Each row to length 1.
    L2,
    /// The training records' mean subtracted, then each row to length 1 (SimpleShot's "CL2N").
    CenterL2,
}

/// L2-normalizes each row. A row of zeros stays zero, so that its cosine with any row is 0.
pub(crate) fn normalize_rows(matrix: &mut Matrix) {
    matrix.values.par_chunks_mut(matrix.width.max(1)).for_each(|row| {
        let length = row
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt();
        // PyTorch's `F.normalize` has this lower bound.
        let scale = 1.0 / length.max(1e-12);
        row.iter_mut()
            .for_each(|value| *value = (f64::from(*value) * scale) as f32);
    });
}

/// Subtracts the same row from every row.
pub(crate) fn subtract(matrix: &mut Matrix, what: &[f64]) {
    matrix.values.par_chunks_mut(matrix.width.max(1)).for_each(|row| {
        row.iter_mut()
            .zip(what)
            .for_each(|(value, what)| *value = (f64::from(*value) - what) as f32);
    });
}

/// The mean of each column.
pub(crate) fn column_means(rows: &Matrix) -> Vec<f64> {
    let mut mean = vec![0.0; rows.width];
    for row in rows.values.chunks_exact(rows.width.max(1)) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    mean.iter_mut().for_each(|sum| *sum /= rows.rows as f64);
    mean
}

/// Mean and (biased) standard deviation of each column; a constant column has deviation 1, as in scikit-learn.
fn column_statistics(matrix: &Matrix) -> (Vec<f64>, Vec<f64>) {
    let rows = matrix.rows as f64;
    let mean = column_means(matrix);
    // A second pass around the mean: sums of squares would cancel if the mean is large.
    let mut variance = vec![0.0; matrix.width];
    for row in matrix.values.chunks_exact(matrix.width.max(1)) {
        for ((sum, value), mean) in variance.iter_mut().zip(row).zip(&mean) {
            *sum += (f64::from(*value) - mean).powi(2);
        }
    }
    let deviation = variance.iter().zip(&mean).map(|(sum, mean)| {
        let deviation = (sum / rows).sqrt();
        // Rounding leaves a constant column a deviation of about 1e-8 of its value; dividing by that would
        // amplify noise.
        if deviation > 1e-7 * mean.abs() {
            deviation
        } else {
            1.0
        }
    });
    let deviation = deviation.collect();
    (mean, deviation)
}
