//! The exact GELU and its gradient on the CPU, vectorized and on all cores: Burn's process one number at a
//! time on one core.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::exponential::exp_of_negative;
use crate::simd::vectorized;

/// Values per task: at most a few hundred microseconds' work, and enough for a task's overhead.
const TASK: usize = 16 * 1024;

/// `x · Φ(x)` for each number, `Φ` the cumulative distribution of the standard normal.
pub(crate) fn forward(x: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; x.len()];
    output
        .par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .for_each(|(output, x)| vectorized(Forward { x, output }));
    output
}

/// [`forward`] in place, if no other tensor shares the input.
pub(crate) fn forward_in_place(x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| vectorized(InPlace { x }));
}

/// The gradient at `x`: `gradient` of the output times `Φ(x) + x · φ(x)`.
pub(crate) fn backward(x: &[f32], gradient: &mut [f32]) {
    gradient
        .par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .for_each(|(gradient, x)| vectorized(Gradient { x, gradient }));
}

struct Forward<'a> {
    x: &'a [f32],
    output: &'a mut [f32],
}

struct InPlace<'a> {
    x: &'a mut [f32],
}

struct Gradient<'a> {
    x: &'a [f32],
    gradient: &'a mut [f32],
}

// These loops have no branches and only operations that every vector unit has: the compiler vectorizes them,
// as wide as the function that they are inlined into allows.
impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (output, x) in self.output.iter_mut().zip(self.x) {
            *output = x * normal(*x).0;
        }
    }
}

impl WithSimd for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.x {
            *x *= normal(*x).0;
        }
    }
}

impl WithSimd for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (gradient, x) in self.gradient.iter_mut().zip(self.x) {
            let (cumulative, density) = normal(*x);
            *gradient *= cumulative + x * density;
        }
    }
}

/// `Φ(x)` and `φ(x)`.
///
/// In the form of Abramowitz and Stegun's 7.1.26, `Φ(−u) = exp(−u²/2) · p(t)` with `t = 1 / (1 + 0.3·u)`, and
/// our own polynomial, fitted by the largest relative error on 0 ≤ u ≤ 14: 1.5e-7, about one rounding.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const P: [f32; 8] = [
        0.119_629_264,
        0.120_754_48,
        0.099_910_21,
        0.128_572_45,
        -0.053_704_076,
        0.206_375_65,
        -0.157_215_9,
        0.035_677_84,
    ];
    const ROOT: f32 = 0.398_942_3; // 1 / √(2π)
    let u = x.abs();
    let t = 1.0 / (1.0 + 0.3 * u);
    let bell = exp_of_negative(-0.5 * x * x);
    let mut p = P[7];
    for coefficient in [P[6], P[5], P[4], P[3], P[2], P[1], P[0]] {
        p = p * t + coefficient;
    }
    let tail = bell * p * t;
    let cumulative = if x > 0.0 { 1.0 - tail } else { tail };
    (cumulative, ROOT * bell)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ(1), Φ(2), Φ(−3) and Φ(−5) from tables.
    #[test]
    fn the_normal_is_that_of_the_tables() {
        for (x, expected) in [
            (0.0f32, 0.5),
            (1.0, 0.841_344_746_068_543),
            (2.0, 0.977_249_868_051_821),
            (-3.0, 0.001_349_898_031_630_095),
            (-5.0, 2.866_515_718_791_939e-7),
        ] {
            let (cumulative, density) = normal(x);
            let relative = (f64::from(cumulative) / expected - 1.0).abs();
            assert!(relative < 5e-7, "{x}: {cumulative}");
            let expected = (-0.5 * f64::from(x).powi(2)).exp() / std::f64::consts::TAU.sqrt();
            assert!(
                (f64::from(density) / expected - 1.0).abs() < 5e-7,
                "{x}: {density}"
            );
        }
    }

    #[test]
    fn the_ends_of_the_line_are_kept() {
        let x = [f32::INFINITY, -1e6, 1e6, f32::NAN, -0.0];
        let y = forward(&x);
        assert_eq!((y[0], y[2], y[4]), (f32::INFINITY, 1e6, 0.0));
        assert!(y[1].abs() < 1e-30 && y[3].is_nan());
        let mut gradient = [1.0; 5];
        backward(&x[1..3], &mut gradient[1..3]);
        assert!(gradient[1].abs() < 1e-30 && gradient[2] == 1.0);
    }

    #[test]
    fn tasks_and_single_numbers_agree() {
        let x = (0..TASK + 37).map(|i| (i as f32).sin() * 4.0).collect::<Vec<_>>();
        let output = forward(&x);
        let mut in_place = x.clone();
        forward_in_place(&mut in_place);
        assert_eq!(output, in_place);
        let mut gradient = vec![2.0; x.len()];
        backward(&x, &mut gradient);
        for (index, x) in x.iter().enumerate().step_by(101) {
            let (cumulative, density) = normal(*x);
            assert!((output[index] - x * cumulative).abs() < 1e-6);
            assert!((gradient[index] - 2.0 * (cumulative + x * density)).abs() < 1e-6);
        }
    }
}
