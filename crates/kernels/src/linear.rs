//! A linear layer with bias and its gradients on the CPU: the product starts from the bias, and the bias's
//! gradient is summed on all cores.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::matrix::{Output, Threads, View, product};
use crate::simd::vectorized;
use crate::uninitialized::uninitialized;

/// Rows per task that sums columns; fixed, so that sums are the same for any number of threads.
const ROWS: usize = 64;

/// `x · weightᵀ + bias`: `[rows, inputs]` and `[outputs, inputs]` to `[rows, outputs]`.
pub(crate) fn forward(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let rows = x.len() / inputs;
    let mut output = uninitialized(rows * outputs);
    output.par_chunks_mut(ROWS * outputs).for_each(|rows| {
        rows.chunks_exact_mut(outputs)
            .for_each(|row| row.copy_from_slice(bias))
    });
    let weight = View::rows(weight, outputs, inputs, inputs).transposed();
    let sum = Output {
        values: &mut output,
        add: true,
    };
    product(
        sum,
        View::rows(x, rows, inputs, inputs),
        weight,
        1.0,
        Threads::All,
    );
    output
}

/// The gradient of `x`.
pub(crate) fn of_input(weight: &[f32], gradient: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let rows = gradient.len() / outputs;
    let mut x_gradient = uninitialized(rows * inputs);
    let output = Output {
        values: &mut x_gradient,
        add: false,
    };
    let gradient = View::rows(gradient, rows, outputs, outputs);
    product(
        output,
        gradient,
        View::rows(weight, outputs, inputs, inputs),
        1.0,
        Threads::All,
    );
    x_gradient
}

/// The gradient of the weight, `[outputs, inputs]`.
pub(crate) fn of_weight(x: &[f32], gradient: &[f32], inputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs;
    let outputs = gradient.len() / rows;
    let mut weight_gradient = uninitialized(outputs * inputs);
    let output = Output {
        values: &mut weight_gradient,
        add: false,
    };
    let gradient = View::rows(gradient, rows, outputs, outputs).transposed();
    product(
        output,
        gradient,
        View::rows(x, rows, inputs, inputs),
        1.0,
        Threads::All,
    );
    weight_gradient
}

/// The gradient of the bias: the sum of each of `outputs` columns.
pub(crate) fn of_bias(gradient: &[f32], outputs: usize) -> Vec<f32> {
    let parts: Vec<_> = gradient
        .par_chunks(ROWS * outputs)
        .map(|rows| {
            let mut sums = vec![0.0; outputs];
            vectorized(Columns {
                rows,
                sums: &mut sums,
            });
            sums
        })
        .collect();
    let mut sums = vec![0.0; outputs];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

struct Columns<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            self.sums
                .iter_mut()
                .zip(row)
                .for_each(|(sum, value)| *sum += value);
        }
    }
}
