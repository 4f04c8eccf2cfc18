//! Softmax over rows and its gradient on the CPU: computed from its output alone, where Burn's composition
//! keeps three arrays of the size of its input.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::exponential::exp_of_negative;
use crate::simd::{LANES, sum_of_pairs, vectorized};

/// Values per task, in whole rows.
const TASK: usize = 16 * 1024;

/// [`forward`] on this thread alone.
pub(crate) fn forward_here(x: &mut [f32], row: usize) {
    vectorized(Forward { x, row });
}

/// [`backward`] on this thread alone.
pub(crate) fn backward_here(y: &[f32], gradient: &mut [f32], row: usize) {
    vectorized(Backward { y, gradient, row });
}

/// `exp(x) / Σ exp(x)` over each run of `row` numbers, in place.
pub(crate) fn forward(x: &mut [f32], row: usize) {
    x.par_chunks_mut(TASK.div_ceil(row) * row)
        .for_each(|x| vectorized(Forward { x, row }));
}

/// The gradient of the input, `y · (g − Σ g·y)`, where `y` was the output; it overwrites `gradient`, that of
/// the output.
pub(crate) fn backward(y: &[f32], gradient: &mut [f32], row: usize) {
    let task = TASK.div_ceil(row) * row;
    gradient
        .par_chunks_mut(task)
        .zip(y.par_chunks(task))
        .for_each(|(gradient, y)| vectorized(Backward { y, gradient, row }));
}

struct Forward<'a> {
    x: &'a mut [f32],
    row: usize,
}

struct Backward<'a> {
    y: &'a [f32],
    gradient: &'a mut [f32],
    row: usize,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.x.chunks_exact_mut(self.row) {
            let largest = largest(x);
            x.iter_mut().for_each(|x| *x = exp_of_negative(*x - largest));
            let scale = 1.0 / sum_of_pairs(x, x, |x, _| x);
            x.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.y.chunks_exact(self.row);
        for (y, gradient) in rows.zip(self.gradient.chunks_exact_mut(self.row)) {
            let mean = sum_of_pairs(y, gradient, |y, gradient| y * gradient);
            for (gradient, y) in gradient.iter_mut().zip(y) {
                *gradient = y * (*gradient - mean);
            }
        }
    }
}

/// The largest of a row, in `LANES` chains.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut chains = [f32::NEG_INFINITY; LANES];
    let runs = x.chunks_exact(LANES);
    for (chain, x) in chains.iter_mut().zip(runs.remainder()) {
        *chain = larger(*chain, *x);
    }
    for x in runs {
        for lane in 0..LANES {
            chains[lane] = larger(chains[lane], x[lane]);
        }
    }
    chains.into_iter().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: exp of 0, ln 2, ln 3 is 1, 2, 3.
    #[test]
    fn rows_are_shares_of_their_sum() {
        let (two, three) = (2f32.ln(), 3f32.ln());
        let mut x = [0.0, two, three, 100.0, 100.0 + two, 100.0 + three];
        forward(&mut x, 3);
        for (ours, expected) in x.iter().zip([1.0, 2.0, 3.0, 1.0, 2.0, 3.0]) {
            assert!((ours - expected / 6.0).abs() < 1e-6, "{x:?}");
        }
        // y = 1/6, 1/3, 1/2 and g = 6, 0, 2: Σ g·y = 2, so (6 − 2)/6, −2/3 and 0.
        let y = [1.0 / 6.0, 1.0 / 3.0, 0.5];
        let mut gradient = [6.0, 0.0, 2.0];
        backward(&y, &mut gradient, 3);
        for (ours, expected) in gradient.iter().zip([4.0 / 6.0, -2.0 / 3.0, 0.0]) {
            assert!((ours - expected).abs() < 1e-6, "{gradient:?}");
        }
    }

    #[test]
    fn long_rows_in_several_tasks_agree_with_plain_sums() {
        let row = 1000;
        let x = (0..20 * row)
            .map(|i| (i as f32 * 0.7).sin() * 9.0)
            .collect::<Vec<_>>();
        let mut y = x.clone();
        forward(&mut y, row);
        for (x, y) in x.chunks(row).zip(y.chunks(row)) {
            let sum = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>();
            for (x, y) in x.iter().zip(y) {
                let expected = f64::from(*x).exp() / sum;
                assert!((f64::from(*y) / expected - 1.0).abs() < 2e-6);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_seen() {
        let mut x = [0.0, f32::NAN, 1.0];
        forward(&mut x, 3);
        assert!(x.iter().all(|x| x.is_nan()));
        let mut masked = [0.0, f32::NEG_INFINITY];
        forward(&mut masked, 2);
        assert!(masked[0] == 1.0 && masked[1] < 1e-30);
    }
}
