//! L-BFGS for smooth convex functions in f64, to a gradient tolerance.
//!
//! The two-loop recursion of Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4, with a line search by
//! bisection to the weak Wolfe conditions (Lewis and Overton 2013, algorithm 4.6), which keeps every curvature positive.

use std::collections::VecDeque;

/// Pairs of steps and gradient changes to keep, as in SciPy.
const MEMORY: usize = 10;
/// Sufficient decrease and curvature, as Nocedal and Wright advise for quasi-Newton steps.
const DECREASE: f64 = 1e-4;
const CURVATURE: f64 = 0.9;
/// Maximum trials of one line search; after these the function counts as flat to rounding.
const TRIALS: usize = 50;

/// The result of the search.
#[derive(Clone, Debug)]
pub(crate) struct Minimum {
    pub(crate) point: Vec<f64>,
    pub(crate) value: f64,
    /// Largest absolute entry of the gradient.
    pub(crate) gradient: f64,
    pub(crate) iterations: usize,
    /// Whether `gradient` is within the tolerance.
    pub(crate) converged: bool,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// `1 / (step . change)`, positive.
    scale: f64,
}

/// Minimizes `function`, which returns its value at a point and fills in the gradient there.
pub(crate) fn minimize(
    start: Vec<f64>,
    tolerance: f64,
    max_iterations: usize,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let mut point = start;
    let mut gradient = vec![0.0; point.len()];
    let mut value = function(&point, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);

    let mut iterations = 0;
    while largest(&gradient) > tolerance && iterations < max_iterations {
        let direction = descent(&gradient, &pairs);
        let slope = dot(&gradient, &direction);
        // The first step has no curvature information: a unit step downhill.
        let first = if pairs.is_empty() {
            1.0 / dot(&gradient, &gradient).sqrt().max(1.0)
        } else {
            1.0
        };

        let (mut low, mut high, mut length) = (0.0, f64::INFINITY, first);
        let mut found = None;
        for _ in 0..TRIALS {
            let trial: Vec<f64> = point
                .iter()
                .zip(&direction)
                .map(|(at, by)| at + length * by)
                .collect();
            let mut trial_gradient = vec![0.0; point.len()];
            let trial_value = function(&trial, &mut trial_gradient);
            // Close to the minimum, rounding hides the decrease, so only slopes are reliable.
            let rounding = 4.0 * f64::EPSILON * value.abs();
            // Written so that NaN counts as too far.
            let decreased = trial_value <= value + DECREASE * length * slope + rounding;
            if !decreased {
                high = length;
            } else if dot(&trial_gradient, &direction) < CURVATURE * slope {
                low = length;
            } else {
                found = Some((trial, trial_gradient, trial_value));
                break;
            }
            length = if high.is_finite() {
                0.5 * (low + high)
            } else {
                2.0 * length
            };
        }
        let Some((next, next_gradient, next_value)) = found else {
            break;
        };

        let step: Vec<f64> = next.iter().zip(&point).map(|(to, from)| to - from).collect();
        let change: Vec<f64> = next_gradient
            .iter()
            .zip(&gradient)
            .map(|(to, from)| to - from)
            .collect();
        let curvature = dot(&step, &change);
        if curvature > 0.0 {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back(Pair {
                step,
                change,
                scale: 1.0 / curvature,
            });
        }
        (point, gradient, value) = (next, next_gradient, next_value);
        iterations += 1;
    }
    let gradient = largest(&gradient);
    Minimum {
        point,
        value,
        gradient,
        iterations,
        converged: gradient <= tolerance,
    }
}

/// Minus the inverse Hessian's estimate times the gradient.
fn descent(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let weight = pair.scale * dot(&pair.step, &direction);
        add(&mut direction, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(newest) = pairs.back() {
        let scale = 1.0 / (newest.scale * dot(&newest.change, &newest.change));
        direction.iter_mut().for_each(|entry| *entry *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights.into_iter().rev()) {
        let correction = weight - pair.scale * dot(&pair.change, &direction);
        add(&mut direction, correction, &pair.step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut()
        .zip(what)
        .for_each(|(to, what)| *to += factor * what);
}

fn largest(values: &[f64]) -> f64 {
    // NaN must not count as converged.
    values.iter().fold(0.0, |most: f64, value| {
        if value.abs() > most || value.is_nan() {
            value.abs()
        } else {
            most
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badly_scaled_quadratic_is_solved() {
        // sum c_i (x_i - i)^2 with c from 1 to 6,310: minimum 0 at x_i = i. SciPy's L-BFGS-B takes 552 iterations.
        let scales: Vec<f64> = (0..20).map(|index| 10f64.powf(f64::from(index) / 5.0)).collect();
        let minimum = minimize(vec![0.0; 20], 1e-9, 1000, |point, gradient| {
            let mut value = 0.0;
            for (index, scale) in scales.iter().enumerate() {
                let off = point[index] - index as f64;
                value += scale * off * off;
                gradient[index] = 2.0 * scale * off;
            }
            value
        });
        assert!(minimum.converged && minimum.iterations < 600, "{minimum:?}");
        assert!(
            minimum
                .point
                .iter()
                .enumerate()
                .all(|(index, at)| (at - index as f64).abs() < 1e-8)
        );
    }

    #[test]
    fn rosenbrock_is_solved_though_it_is_not_convex() {
        let minimum = minimize(vec![-1.2, 1.0], 1e-8, 200, |point, gradient| {
            let (x, y) = (point[0], point[1]);
            gradient[0] = -2.0 * (1.0 - x) - 400.0 * x * (y - x * x);
            gradient[1] = 200.0 * (y - x * x);
            (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2)
        });
        assert!(minimum.converged && minimum.iterations < 60, "{minimum:?}");
        assert!((minimum.point[0] - 1.0).abs() < 1e-6 && (minimum.point[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_did_not_converge_says_so() {
        let square = |point: &[f64], gradient: &mut [f64]| {
            gradient[0] = 4.0 * point[0].powi(3);
            point[0].powi(4)
        };
        let minimum = minimize(vec![3.0], 1e-12, 2, square);
        assert!(!minimum.converged && minimum.iterations == 2);
        let nan = minimize(vec![1.0], 1e-6, 10, |_, gradient| {
            gradient[0] = f64::NAN;
            f64::NAN
        });
        assert!(!nan.converged);
    }
}
