//! The share of a run that is done in, a value on its way from a start to an end out.

use std::f64::consts::PI;

/// Half a cosine from `start` to `end`: `end + 0.5 (start - end) (1 + cos(pi done))` with `done` from 0 to 1.
pub fn cosine(start: f64, end: f64, done: f64) -> f64 {
    end + 0.5 * (start - end) * (1.0 + (PI * done).cos())
}
