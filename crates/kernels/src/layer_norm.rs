//! Layer normalization and its gradients on the CPU: rows are read twice, vectorized and on all cores, where
//! Burn's composition passes over memory a dozen times on one.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::{sum_of_pairs, vectorized};
use crate::uninitialized::uninitialized;

/// Values per task, in whole rows; sums over rows are computed task by task, so that they are the same for
/// any number of threads.
const TASK: usize = 16 * 1024;

/// Each row of `weight.len()` numbers with mean 0 and (biased) variance 1, scaled and shifted.
pub(crate) fn forward(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let row = weight.len();
    let task = TASK.div_ceil(row) * row;
    let mut output = uninitialized(x.len());
    output
        .par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .for_each(|(output, x)| {
            vectorized(Forward {
                x,
                output,
                weight,
                bias,
                epsilon,
            });
        });
    output
}

/// The gradients of weight and bias; `gradient` of the output becomes that of `x`.
pub(crate) fn backward(
    x: &[f32],
    weight: &[f32],
    gradient: &mut [f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let row = weight.len();
    let task = TASK.div_ceil(row) * row;
    let parts: Vec<_> = gradient
        .par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .map(|(gradient, x)| {
            let (mut of_weight, mut of_bias) = (vec![0.0; row], vec![0.0; row]);
            vectorized(Backward {
                x,
                gradient,
                weight,
                of_weight: &mut of_weight,
                of_bias: &mut of_bias,
                epsilon,
            });
            (of_weight, of_bias)
        })
        .collect();
    let (mut of_weight, mut of_bias) = (vec![0.0; row], vec![0.0; row]);
    for (part_of_weight, part_of_bias) in parts {
        for (sums, part) in [(&mut of_weight, part_of_weight), (&mut of_bias, part_of_bias)] {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    (of_weight, of_bias)
}

/// Mean of a row, and one over the root of its variance.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32) -> (f32, f32) {
    let scale = 1.0 / x.len() as f32;
    let mean = sum_of_pairs(x, x, |x, _| x) * scale;
    let variance = sum_of_pairs(x, x, |x, _| (x - mean) * (x - mean)) * scale;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

struct Forward<'a> {
    x: &'a [f32],
    output: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let row = self.weight.len();
        for (x, output) in self.x.chunks_exact(row).zip(self.output.chunks_exact_mut(row)) {
            let (mean, scale) = statistics(x, self.epsilon);
            let affine = self.weight.iter().zip(self.bias);
            for ((output, x), (weight, bias)) in output.iter_mut().zip(x).zip(affine) {
                *output = (x - mean) * scale * weight + bias;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gradient: &'a mut [f32],
    weight: &'a [f32],
    of_weight: &'a mut [f32],
    of_bias: &'a mut [f32],
    epsilon: f32,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let row = self.weight.len();
        let share = 1.0 / row as f32;
        for (x, gradient) in self.x.chunks_exact(row).zip(self.gradient.chunks_exact_mut(row)) {
            let (mean, scale) = statistics(x, self.epsilon);
            let sums = self.of_weight.iter_mut().zip(self.of_bias.iter_mut());
            let rows = gradient.iter_mut().zip(x).zip(self.weight);
            for (((gradient, x), weight), (of_weight, of_bias)) in rows.zip(sums) {
                *of_weight += *gradient * ((x - mean) * scale);
                *of_bias += *gradient;
                *gradient *= weight;
            }
            // The parts that the mean and the deviation subtract.
            let of_mean = sum_of_pairs(gradient, x, |gradient, _| gradient) * share;
            let of_deviation =
                sum_of_pairs(gradient, x, |gradient, x| gradient * ((x - mean) * scale)) * share;
            for (gradient, x) in gradient.iter_mut().zip(x) {
                *gradient = scale * (*gradient - of_mean - (x - mean) * scale * of_deviation);
            }
        }
    }
}
