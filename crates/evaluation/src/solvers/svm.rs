//! A linear support vector machine of two classes with squared hinge loss and L2 penalty, solved to its
//! unique optimum in f64: the limit of liblinear's `LinearSVC(loss="squared_hinge", penalty="l2")`.
//!
//! Minimizes `|w|^2 / 2 + sum_i C_i max(0, 1 - y_i w x_i)^2`, where each `x_i` has a last column of ones, so
//! that the intercept is penalized like any weight (as in liblinear with `intercept_scaling = 1`). The loss
//! is quadratic as long as the set of rows within the margin stays the same. Newton steps by conjugate
//! gradients with an exact line search (Keerthi and DeCoste 2005) reach the optimum in about ten steps, at
//! any C.

use crate::features::Matrix;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, Slice};
use rayon::prelude::*;
use training::{LANES, dot};

/// Rows converted to f64 and multiplied at a time.
const PANEL_ROWS: usize = 128;
/// Maximum conjugate-gradient iterations in one Newton step.
const INNER_ITERATIONS: usize = 1000;

/// Rows of two classes.
#[derive(Clone, Debug)]
pub(crate) struct Problem<'a> {
    /// Features; only the selected rows are used.
    pub(crate) rows: &'a Matrix,
    /// The selected rows.
    pub(crate) selected: Vec<u32>,
    /// Whether each of them is of the class.
    pub(crate) positive: Vec<bool>,
    /// Weight of a positive row's loss.
    pub(crate) positive_weight: f64,
}

/// Stopping criteria of the search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// The search ends when the objective is within this of the optimum, relative to its value.
    pub(crate) tolerance: f64,
    /// Maximum Newton steps.
    pub(crate) max_iterations: usize,
}

/// The result of the search.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// `width` weights, then the intercept.
    pub(crate) weights: Vec<f64>,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "what the comparison with liblinear compares")
    )]
    pub(crate) objective: f64,
    pub(crate) converged: bool,
}

/// The optimum at cost `C`, searched from `start` (zeros if absent); the optimum itself does not depend on
/// it.
pub(crate) fn fit(problem: &Problem<'_>, cost: f64, start: Option<&Machine>, stop: Stop) -> Machine {
    let width = problem.rows.width;
    let mut weights = start.map_or_else(|| vec![0.0; width + 1], |machine| machine.weights.clone());
    let rows: Vec<&[f32]> = problem
        .selected
        .iter()
        .map(|row| problem.rows.row(*row as usize))
        .collect();
    let signs: Vec<f64> = problem
        .positive
        .iter()
        .map(|positive| if *positive { 1.0 } else { -1.0 })
        .collect();
    let costs: Vec<f64> = problem
        .positive
        .iter()
        .map(|positive| {
            if *positive {
                cost * problem.positive_weight
            } else {
                cost
            }
        })
        .collect();
    let mut outputs: Vec<f64> = rows.iter().map(|row| output(row, &weights)).collect();

    let mut iteration = 0;
    loop {
        // Rows within the margin, and their part of the loss's derivative.
        let mut active: Vec<(&[f32], f64)> = vec![];
        let mut gradient = weights.clone();
        let mut objective = 0.5 * dot(&weights, &weights);
        for (index, row) in rows.iter().enumerate() {
            let lack = 1.0 - signs[index] * outputs[index];
            if lack > 0.0 {
                objective += costs[index] * lack * lack;
                add_row(&mut gradient, -2.0 * costs[index] * signs[index] * lack, row);
                active.push((row, 2.0 * costs[index]));
            }
        }
        // The objective minus |w|^2 / 2 is convex, so the optimum is at most this far below.
        let gap = 0.5 * dot(&gradient, &gradient);
        let converged = gap <= stop.tolerance * objective;
        if converged || iteration == stop.max_iterations {
            return Machine {
                weights,
                objective,
                converged,
            };
        }
        iteration += 1;
        let accuracy = (gap / objective).sqrt().clamp(1e-4, 0.1);
        let direction = newton_direction(&active, &gradient, accuracy);
        let slopes: Vec<f64> = rows.iter().map(|row| output(row, &direction)).collect();
        let length = line_search(&Line {
            first: dot(&weights, &direction),
            second: dot(&direction, &direction),
            outputs: &outputs,
            slopes: &slopes,
            signs: &signs,
            costs: &costs,
        });
        add(&mut weights, length, &direction);
        add(&mut outputs, length, &slopes);
    }
}

/// Solves `(1 + sum_active 2 C_i x_i x_i') d = -gradient` until the residual is `accuracy` of the gradient.
fn newton_direction(active: &[(&[f32], f64)], gradient: &[f64], accuracy: f64) -> Vec<f64> {
    let mut direction = vec![0.0; gradient.len()];
    let mut residual: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut search = residual.clone();
    let mut norm = dot(&residual, &residual);
    let enough = accuracy * accuracy * norm;
    for _ in 0..INNER_ITERATIONS {
        if norm <= enough {
            break;
        }
        let mut product = search.clone();
        for (row, weight) in active {
            add_row(&mut product, weight * output(row, &search), row);
        }
        let step = norm / dot(&search, &product);
        add(&mut direction, step, &search);
        add(&mut residual, -step, &product);
        let next = dot(&residual, &residual);
        let keep = next / norm;
        search
            .iter_mut()
            .zip(&residual)
            .for_each(|(search, residual)| *search = residual + keep * *search);
        norm = next;
    }
    direction
}

/// The objective along a direction.
struct Line<'a> {
    /// `w d`, `d d`.
    first: f64,
    second: f64,
    outputs: &'a [f64],
    /// Change of the outputs along the direction.
    slopes: &'a [f64],
    signs: &'a [f64],
    costs: &'a [f64],
}

impl Line<'_> {
    /// First and second derivative at a distance.
    fn derivatives(&self, length: f64) -> (f64, f64) {
        let mut derivatives = (self.first + length * self.second, self.second);
        for index in 0..self.outputs.len() {
            let slope = self.slopes[index];
            let lack = 1.0 - self.signs[index] * (self.outputs[index] + length * slope);
            if lack > 0.0 {
                derivatives.0 -= 2.0 * self.costs[index] * self.signs[index] * slope * lack;
                derivatives.1 += 2.0 * self.costs[index] * slope * slope;
            }
        }
        derivatives
    }
}

/// The minimum of the objective along a line: its derivative is piecewise linear and increasing, so Newton's
/// steps find the root, bracketed by lengths known to be too short and too long.
fn line_search(line: &Line<'_>) -> f64 {
    let (mut near, mut far) = (0.0, f64::INFINITY);
    let mut length = 1.0;
    for _ in 0..50 {
        let (slope, curvature) = line.derivatives(length);
        if slope > 0.0 {
            far = length;
        } else {
            near = length;
        }
        let mut next = length - slope / curvature;
        if next <= near || next >= far {
            // Newton's step would leave the bracket.
            next = match far.is_finite() {
                true => 0.5 * (near + far),
                false => 2.0 * length,
            };
        }
        if (next - length).abs() <= 1e-12 * length {
            return next;
        }
        length = next;
    }
    length
}

/// The decision value of each machine for each row: one vector per machine.
pub(crate) fn decisions(rows: &Matrix, machines: &[&Machine]) -> Vec<Vec<f64>> {
    let width = rows.width;
    let weights = Array2::from_shape_fn((machines.len(), width), |(machine, column)| {
        machines[machine].weights[column]
    });
    let panels: Vec<Array2<f64>> = rows
        .values
        .par_chunks(PANEL_ROWS * 8 * width)
        .map(|values| {
            let count = values.len() / width;
            let mut products = Array2::from_shape_fn((machines.len(), count), |(machine, _)| {
                machines[machine].weights[width]
            });
            for (panel, values) in values.chunks(PANEL_ROWS * width).enumerate() {
                let values = ArrayView2::from_shape((values.len() / width, width), values)
                    .expect("whole rows")
                    .mapv(f64::from);
                let first = panel * PANEL_ROWS;
                let mut products =
                    products.slice_axis_mut(Axis(1), Slice::from(first..first + values.nrows()));
                general_mat_mul(1.0, &weights, &values.t(), 1.0, &mut products);
            }
            products
        })
        .collect();
    (0..machines.len())
        .map(|machine| {
            let row = |panel: &Array2<f64>| panel.row(machine).to_vec();
            panels.iter().flat_map(row).collect()
        })
        .collect()
}

/// `row` times the weights, plus the intercept, the last entry.
fn output(row: &[f32], weights: &[f64]) -> f64 {
    let (rows, weight_lanes) = (row.chunks_exact(LANES), weights.chunks_exact(LANES));
    let mut sums = [0.0; LANES];
    let rest = rows.remainder();
    for (row, weights) in rows.zip(weight_lanes) {
        for lane in 0..LANES {
            sums[lane] += f64::from(row[lane]) * weights[lane];
        }
    }
    let tail = &weights[row.len() - rest.len()..];
    let rest: f64 = rest
        .iter()
        .zip(tail)
        .map(|(value, weight)| f64::from(*value) * weight)
        .sum();
    sums.iter().sum::<f64>() + rest + weights[row.len()]
}

/// `to += factor * (row, 1)`.
fn add_row(to: &mut [f64], factor: f64, row: &[f32]) {
    to.iter_mut()
        .zip(row)
        .for_each(|(to, value)| *to += factor * f64::from(*value));
    to[row.len()] += factor;
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut()
        .zip(what)
        .for_each(|(to, what)| *to += factor * what);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::solvers::{average_precision, interpolated_average_precision};
    use crate::testing::{Fixture, relative_error};

    pub(crate) const EXACT: Stop = Stop {
        tolerance: 1e-12,
        max_iterations: 100,
    };

    #[test]
    fn the_optimum_by_hand() {
        // x = 1 positive, x = -1 negative, intercept unused: w^2 / 2 + 2 C (1 - w)^2, so w = 4 C / (1 + 4 C).
        let rows = Matrix::new(2, 1, vec![1.0, -1.0]);
        let problem = Problem {
            rows: &rows,
            selected: vec![0, 1],
            positive: vec![true, false],
            positive_weight: 1.0,
        };
        for cost in [0.01, 1.0, 1000.0] {
            let machine = fit(&problem, cost, None, EXACT);
            let weight = 4.0 * cost / (1.0 + 4.0 * cost);
            assert!(machine.converged);
            assert!((machine.weights[0] - weight).abs() < 1e-6 && machine.weights[1].abs() < 1e-9);
            let objective = 0.5 * weight * weight + 2.0 * cost * (1.0 - weight).powi(2);
            assert!((machine.objective / objective - 1.0).abs() < 1e-10);
        }
    }

    #[test]
    fn the_intercept_is_penalized_and_positives_weigh_more() {
        // Features carry no information: b^2 / 2 + C (2 (1 - b)^2 + (1 + b)^2) with C = 1, so b = 2 / 7.
        let rows = Matrix::new(2, 1, vec![0.0, 0.0]);
        let problem = Problem {
            rows: &rows,
            selected: vec![0, 1],
            positive: vec![true, false],
            positive_weight: 2.0,
        };
        let machine = fit(&problem, 1.0, None, EXACT);
        assert!((machine.weights[1] - 2.0 / 7.0).abs() < 1e-9);
        let decided = decisions(&rows, &[&machine, &machine]);
        assert_eq!(
            decided,
            [vec![machine.weights[1]; 2], vec![machine.weights[1]; 2]]
        );
    }

    #[test]
    fn a_search_that_was_cut_short_says_so() {
        let fixture = Fixture(include_bytes!("../../fixtures/svm.safetensors"));
        let rows = fixture.matrix("train");
        let problem = problem(&rows, &fixture);
        let short = Stop {
            max_iterations: 1,
            ..EXACT
        };
        assert!(!fit(&problem, 100.0, None, short).converged);
    }

    pub(crate) fn problem<'a>(rows: &'a Matrix, fixture: &Fixture) -> Problem<'a> {
        Problem {
            rows,
            selected: (0..rows.rows as u32).collect(),
            positive: fixture
                .values("train_labels")
                .into_iter()
                .map(|label| label > 0.0)
                .collect(),
            positive_weight: 2.0,
        }
    }

    /// `scripts/parity/frozen_protocols.py` made the fixture (scikit-learn 1.9.1).
    #[test]
    fn the_optimum_and_its_precision_are_liblinears() {
        let fixture = Fixture(include_bytes!("../../fixtures/svm.safetensors"));
        let (train, test) = (fixture.matrix("train"), fixture.matrix("test"));
        let problem = problem(&train, &fixture);
        let truth: Vec<bool> = fixture
            .values("test_labels")
            .into_iter()
            .map(|label| label > 0.0)
            .collect();
        let mut before: Option<Machine> = None;
        for cost in ["0.01", "1", "100"] {
            let stored = |what: &str| fixture.values(&format!("{what}_{cost}"));
            let number = cost.parse().unwrap();
            let stop = Stop {
                tolerance: 1e-8,
                ..EXACT
            };
            for start in [None, before.as_ref()] {
                let machine = fit(&problem, number, start, stop);
                assert!(machine.converged);
                let objective = stored("objective")[0];
                assert!(
                    (machine.objective / objective - 1.0).abs() < 1e-8,
                    "C {cost}: {} {objective}",
                    machine.objective
                );
                let exact = fit(&problem, number, start, EXACT);
                let error = relative_error(exact.weights.iter().copied(), &stored("weights"));
                assert!(error < 1e-5, "C {cost}: weights off by {error:e}");

                let decided = decisions(&test, &[&machine]).swap_remove(0);
                for (ours, reference) in [
                    (average_precision(&decided, &truth), "average_precision"),
                    (interpolated_average_precision(&decided, &truth), "interpolated"),
                ] {
                    let reference = stored(reference)[0];
                    assert!(
                        (ours.unwrap() - reference).abs() < 1e-6,
                        "C {cost}: {ours:?} {reference}"
                    );
                }
            }
            before = Some(fit(&problem, number, None, EXACT));
        }
    }
}
