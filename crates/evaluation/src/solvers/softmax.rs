//! The softmax regression's objective in f64 on the host: mean cross-entropy, penalty and gradient.
//!
//! On the host because wgpu's GPUs have no f64, and the optimum needs more digits than f32 has.

use crate::features::Matrix;
use crate::result::rank_of;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

/// Rows converted to f64 and multiplied at a time: their f64 copy stays in the cache.
const PANEL_ROWS: usize = 128;
/// Chunks whose gradients are computed in parallel and added in order, so that the sum is the same for any
/// number of threads.
const PARTS: usize = 32;

/// Mean cross-entropy plus `penalty ||W||^2 / 2`, and its gradient.
pub(crate) fn objective(
    rows: &Matrix,
    labels: &[u32],
    classes: usize,
    penalty: f64,
    point: &[f64],
    gradient: &mut [f64],
) -> f64 {
    let part_rows = rows.rows.div_ceil(PARTS).max(PANEL_ROWS);
    let parts: Vec<(f64, Vec<f64>)> = rows
        .values
        .par_chunks(part_rows * rows.width)
        .zip(labels.par_chunks(part_rows))
        .map(|(values, labels)| {
            let mut gradient = vec![0.0; point.len()];
            let loss = add_losses(values, labels, rows.width, classes, point, &mut gradient);
            (loss, gradient)
        })
        .collect();

    gradient.fill(0.0);
    let mut loss = 0.0;
    for (part_loss, part_gradient) in parts {
        loss += part_loss;
        gradient
            .iter_mut()
            .zip(part_gradient)
            .for_each(|(sum, part)| *sum += part);
    }
    let scale = 1.0 / rows.rows as f64;
    gradient.iter_mut().for_each(|sum| *sum *= scale);
    let weights = &point[..classes * rows.width];
    gradient
        .iter_mut()
        .zip(weights)
        .for_each(|(sum, weight)| *sum += penalty * weight);
    loss * scale + 0.5 * penalty * weights.iter().map(|weight| weight * weight).sum::<f64>()
}

/// Sum of the cross-entropies of some rows; adds their gradient to `gradient`.
fn add_losses(
    values: &[f32],
    labels: &[u32],
    width: usize,
    classes: usize,
    point: &[f64],
    gradient: &mut [f64],
) -> f64 {
    let (weight_gradient, intercept_gradient) = gradient.split_at_mut(classes * width);
    let mut weight_gradient =
        ArrayViewMut2::from_shape((classes, width), weight_gradient).expect("split at classes * width");
    let mut loss = 0.0;
    for_panels(values, width, classes, point, |panel, features, mut logits| {
        let labels = &labels[panel * PANEL_ROWS..];
        for (mut logits, label) in logits.rows_mut().into_iter().zip(labels) {
            // Softmax relative to the largest logit, minus one at the true class: the gradient by the logits.
            let label = *label as usize;
            let most = logits.fold(f64::NEG_INFINITY, |most, logit| most.max(*logit));
            let own = logits[label] - most;
            logits.mapv_inplace(|logit| (logit - most).exp());
            let sum = logits.sum();
            loss += sum.ln() - own;
            logits.mapv_inplace(|exp| exp / sum);
            logits[label] -= 1.0;
        }
        general_mat_mul(1.0, &logits.t(), &features, 1.0, &mut weight_gradient);
        for (sum, column) in intercept_gradient.iter_mut().zip(logits.axis_iter(Axis(1))) {
            *sum += column.sum();
        }
    });
    loss
}

/// Calls `with(panel, features, logits)` for each panel of rows: features in f64 `[rows, width]`, logits `[rows, classes]`.
fn for_panels(
    values: &[f32],
    width: usize,
    classes: usize,
    point: &[f64],
    mut with: impl FnMut(usize, ArrayView2<'_, f64>, ArrayViewMut2<'_, f64>),
) {
    let (weights, intercepts) = point.split_at(classes * width);
    let weights = ArrayView2::from_shape((classes, width), weights).expect("split at classes * width");
    let mut features = Array2::zeros((PANEL_ROWS, width));
    let mut logits = Array2::zeros((PANEL_ROWS, classes));
    for (panel, values) in values.chunks(PANEL_ROWS * width).enumerate() {
        let rows = values.len() / width;
        let mut features = features.slice_axis_mut(Axis(0), Slice::from(..rows));
        let mut logits = logits.slice_axis_mut(Axis(0), Slice::from(..rows));
        features
            .iter_mut()
            .zip(values)
            .for_each(|(to, from)| *to = f64::from(*from));
        logits.rows_mut().into_iter().for_each(|mut row| {
            row.iter_mut()
                .zip(intercepts)
                .for_each(|(logit, intercept)| *logit = *intercept);
        });
        general_mat_mul(1.0, &features, &weights.t(), 1.0, &mut logits);
        with(panel, features.view(), logits);
    }
}

/// The true class's rank in the prediction for each row.
pub(crate) fn ranks(point: &[f64], rows: &Matrix, labels: &[u32], classes: usize) -> Vec<u32> {
    let part = PANEL_ROWS * 8;
    let parts: Vec<Vec<u32>> = rows
        .values
        .par_chunks(part * rows.width)
        .zip(labels.par_chunks(part))
        .map(|(values, labels)| {
            let mut ranks = Vec::with_capacity(labels.len());
            for_panels(values, rows.width, classes, point, |panel, _, logits| {
                for (logits, label) in logits.rows().into_iter().zip(&labels[panel * PANEL_ROWS..]) {
                    ranks.push(rank_of(
                        *label,
                        logits.as_slice().expect("a row of a standard array"),
                    ));
                }
            });
            ranks
        })
        .collect();
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::task::Task;
    use crate::testing::clouds;

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let train = clouds(300, 0);
        let task = Task::new(&train, &train, POOLED).unwrap();
        let point: Vec<f64> = (0..9).map(|index| (f64::from(index) * 0.7).sin()).collect();
        let value = |point: &[f64], gradient: &mut [f64]| {
            objective(&task.train, &task.train_classes, 3, 0.01, point, gradient)
        };
        let mut gradient = vec![0.0; 9];
        value(&point, &mut gradient);
        for index in 0..9 {
            let at = |by: f64| {
                let mut moved = point.clone();
                moved[index] += by;
                value(&moved, &mut [0.0; 9])
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (difference - gradient[index]).abs() < 1e-8,
                "{index}: {difference} {}",
                gradient[index]
            );
        }
    }
}
