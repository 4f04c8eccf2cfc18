//! Functions of each number on the CPU and their gradients, vectorized and on all cores: Burn's process one
//! number at a time on one core.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::exponential::exp_of_negative;
use crate::simd::vectorized;

/// Values per task: at most a few hundred microseconds' work, and enough for a task's overhead.
const TASK: usize = 16 * 1024;

/// A function of each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointwise {
    /// The exact GELU, `x · Φ(x)`, `Φ` the cumulative distribution of the standard normal.
    Gelu,
    /// `x · sigmoid(x)`.
    Silu,
}

/// The function of each number.
pub(crate) fn forward(function: Pointwise, x: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; x.len()];
    let tasks = output.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    match function {
        Pointwise::Gelu => tasks.for_each(|(output, x)| vectorized(Forward::<Gelu>::new(x, output))),
        Pointwise::Silu => tasks.for_each(|(output, x)| vectorized(Forward::<Silu>::new(x, output))),
    }
    output
}

/// [`forward`] in place, if no other tensor shares the input.
pub(crate) fn forward_in_place(function: Pointwise, x: &mut [f32]) {
    let tasks = x.par_chunks_mut(TASK);
    match function {
        Pointwise::Gelu => tasks.for_each(|x| vectorized(InPlace::<Gelu>(x, PhantomData))),
        Pointwise::Silu => tasks.for_each(|x| vectorized(InPlace::<Silu>(x, PhantomData))),
    }
}

/// The gradient at `x`: `gradient` of the output times the slope there.
pub(crate) fn backward(function: Pointwise, x: &[f32], gradient: &mut [f32]) {
    let tasks = gradient.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    match function {
        Pointwise::Gelu => tasks.for_each(|(gradient, x)| vectorized(Gradient::<Gelu>::new(x, gradient))),
        Pointwise::Silu => tasks.for_each(|(gradient, x)| vectorized(Gradient::<Silu>::new(x, gradient))),
    }
}

/// A function and its slope, without branches and with only operations that every vector unit has: the
/// compiler vectorizes the loops below, as wide as the function that they are inlined into allows.
trait Function {
    fn value(x: f32) -> f32;
    fn slope(x: f32) -> f32;
}

struct Gelu;

struct Silu;

impl Function for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * normal(x).0
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let (cumulative, density) = normal(x);
        cumulative + x * density
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoids(x).0
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        // `1 − sigmoid(x)` as `sigmoid(−x)`: the difference would lose the digits of a small one.
        let (share, rest) = sigmoids(x);
        share * (1.0 + x * rest)
    }
}

struct Forward<'a, F> {
    x: &'a [f32],
    output: &'a mut [f32],
    function: PhantomData<F>,
}

struct InPlace<'a, F>(&'a mut [f32], PhantomData<F>);

struct Gradient<'a, F> {
    x: &'a [f32],
    gradient: &'a mut [f32],
    function: PhantomData<F>,
}

impl<'a, F> Forward<'a, F> {
    fn new(x: &'a [f32], output: &'a mut [f32]) -> Self {
        Self {
            x,
            output,
            function: PhantomData,
        }
    }
}

impl<'a, F> Gradient<'a, F> {
    fn new(x: &'a [f32], gradient: &'a mut [f32]) -> Self {
        Self {
            x,
            gradient,
            function: PhantomData,
        }
    }
}

impl<F: Function> WithSimd for Forward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (output, x) in self.output.iter_mut().zip(self.x) {
            *output = F::value(*x);
        }
    }
}

impl<F: Function> WithSimd for InPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.0 {
            *x = F::value(*x);
        }
    }
}

impl<F: Function> WithSimd for Gradient<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (gradient, x) in self.gradient.iter_mut().zip(self.x) {
            *gradient *= F::slope(*x);
        }
    }
}

/// `1 / (1 + e⁻ˣ)` of `x` and of `−x`.
#[inline(always)]
fn sigmoids(x: f32) -> (f32, f32) {
    let tail = exp_of_negative(-x.abs());
    let high = 1.0 / (1.0 + tail);
    let low = tail * high;
    if x > 0.0 { (high, low) } else { (low, high) }
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
        let y = forward(Pointwise::Gelu, &x);
        assert_eq!((y[0], y[2], y[4]), (f32::INFINITY, 1e6, 0.0));
        assert!(y[1].abs() < 1e-30 && y[3].is_nan());
        let mut gradient = [1.0; 5];
        backward(Pointwise::Gelu, &x[1..3], &mut gradient[1..3]);
        assert!(gradient[1].abs() < 1e-30 && gradient[2] == 1.0);
    }

    #[test]
    fn tasks_and_single_numbers_agree() {
        let x = (0..TASK + 37).map(|i| (i as f32).sin() * 4.0).collect::<Vec<_>>();
        let output = forward(Pointwise::Gelu, &x);
        let mut in_place = x.clone();
        forward_in_place(Pointwise::Gelu, &mut in_place);
        assert_eq!(output, in_place);
        let mut gradient = vec![2.0; x.len()];
        backward(Pointwise::Gelu, &x, &mut gradient);
        for (index, x) in x.iter().enumerate().step_by(101) {
            let (cumulative, density) = normal(*x);
            assert!((output[index] - x * cumulative).abs() < 1e-6);
            assert!((gradient[index] - 2.0 * (cumulative + x * density)).abs() < 1e-6);
        }
    }

    /// Compared with f64, and at the ends of the line.
    #[test]
    fn silu_is_right_to_a_few_roundings() {
        let x = (-2000..=2000).map(|i| i as f32 / 100.0).collect::<Vec<_>>();
        let (y, mut slope) = (forward(Pointwise::Silu, &x), vec![1.0; x.len()]);
        backward(Pointwise::Silu, &x, &mut slope);
        for ((x, y), slope) in x.iter().zip(y).zip(slope) {
            let x = f64::from(*x);
            let share = 1.0 / (1.0 + (-x).exp());
            assert!(
                (f64::from(y) - x * share).abs() <= 1e-6 * (x * share).abs(),
                "{x}: {y}"
            );
            let expected = share * (1.0 + x * (1.0 - share));
            assert!((f64::from(slope) - expected).abs() < 1e-6, "{x}: {slope}");
        }
        let ends = forward(Pointwise::Silu, &[f32::INFINITY, -1e3, 1e6, f32::NAN, 0.0]);
        assert_eq!((ends[0], ends[2], ends[4]), (f32::INFINITY, 1e6, 0.0));
        assert!(ends[1].abs() < 1e-30 && ends[3].is_nan());
    }
}
