//! Intervals of AP by the bootstrap: images are drawn again, matches are not made again.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::Serialize;

use data::targets::ImageTargets;

use super::curve::{RECALL_POINTS, Step, THRESHOLDS, curve, mean};
use super::error::MetricsError;
use super::matching::{ClassMatches, Matches};
use super::results::{ImageResults, Kind};

/// Intervals of 95 % from resampled images; `None` where the truth has no object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Intervals {
    /// Of AP.
    pub ap: Option<Interval>,
    /// Of AP50.
    pub ap50: Option<Interval>,
}

/// The middle 95 % of the resamples, moved so that their mean is the score; within 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Intervals of COCO's AP and AP50.
///
/// Each of `resamples` draws as many images as the truth has, with replacement (Efron and Tibshirani 1993,
/// chapter 13), and repeats the evaluation without matching again. Draws are a function of seed and resample, so
/// they depend on no thread. An image that is drawn twice stands next to itself among equal scores.
///
/// The interval is that of the percentiles 2.5 and 97.5, interpolated as `numpy.percentile` does it, less the
/// difference between the resamples' mean and the score. Repeated images lift AP, because its precision is the
/// largest from a recall on; on large sets the score itself would else lie below its interval (`docs/detection.md`).
///
/// # Errors
/// Those of [`Matches::new`].
pub fn bootstrap(
    truth: &[ImageTargets],
    results: &[ImageResults],
    classes: usize,
    kind: Kind,
    resamples: usize,
    seed: u64,
) -> Result<Intervals, MetricsError> {
    let matches = Matches::new(truth, results, classes, kind)?;
    Ok(matches.bootstrap(resamples, seed))
}

impl Matches {
    /// As [`bootstrap`].
    pub fn bootstrap(&self, resamples: usize, seed: u64) -> Intervals {
        let values: Vec<Option<[f64; 2]>> = (0..resamples as u64)
            .into_par_iter()
            .map(|resample| self.resampled(&times_drawn(self.images, seed, resample)))
            .collect();
        let score = self.resampled(&vec![1; self.images]);
        let of = |number: usize| {
            let values = values.iter().flatten().map(|numbers| numbers[number]);
            interval(values.collect(), score?[number])
        };
        Intervals {
            ap: of(0),
            ap50: of(1),
        }
    }

    /// AP and AP50 with each image counted so often.
    pub(super) fn resampled(&self, times: &[u32]) -> Option<[f64; 2]> {
        let classes = self.classes.iter();
        let precisions: Vec<[f64; THRESHOLDS.len()]> = classes
            .filter_map(|class| resampled_class(class, times))
            .collect();
        let ap = mean(precisions.iter().flatten().copied())?;
        let ap50 = mean(precisions.iter().map(|precisions| precisions[0]))?;
        Some([ap, ap50])
    }
}

fn resampled_class(class: &ClassMatches, times: &[u32]) -> Option<[f64; THRESHOLDS.len()]> {
    let truths = class.truths.iter();
    let truths: u64 = truths
        .map(|(image, counts)| u64::from(times[*image as usize]) * u64::from(counts[0]))
        .sum();
    (truths > 0).then(|| {
        std::array::from_fn(|threshold| {
            let found = class.found.iter();
            let counted = found.filter(|found| !found.is_ignored(0, threshold));
            let steps = counted.map(|found| Step {
                times: times[found.image as usize],
                is_hit: found.is_hit(0, threshold),
            });
            curve(steps, truths).iter().sum::<f64>() / RECALL_POINTS as f64
        })
    })
}

/// The purpose of these draws in their key; never change or reuse it.
const PURPOSE: u64 = 1;

/// How often each image is drawn.
pub(super) fn times_drawn(images: usize, seed: u64, resample: u64) -> Vec<u32> {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, PURPOSE, resample, 0]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut generator = ChaCha8Rng::from_seed(key);
    let mut times = vec![0; images];
    for _ in 0..images {
        // Off by 2⁻⁴⁰ at most for data sets of 16 million images.
        let product = u128::from(generator.next_u64()) * images as u128;
        times[(product >> 64) as usize] += 1;
    }
    times
}

/// `None` without resamples.
fn interval(mut values: Vec<f64>, score: f64) -> Option<Interval> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let lift = mean(values.iter().copied())? - score;
    let percentile = |percent: f64| {
        let place = last as f64 * percent / 100.0;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        values[below] + (values[above] - values[below]) * place.fract()
    };
    Some(Interval {
        low: (percentile(2.5) - lift).clamp(0.0, 1.0),
        high: (percentile(97.5) - lift).clamp(0.0, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_resample_alone() {
        let times = times_drawn(50, 3, 8);
        assert_eq!(times.iter().sum::<u32>(), 50);
        assert_eq!(times, times_drawn(50, 3, 8));
        assert_ne!(times, times_drawn(50, 3, 9));
        assert_ne!(times, times_drawn(50, 4, 8));
        // Each image is drawn once on average: 4 standard deviations of 2000 draws.
        let mut sums = [0; 20];
        for resample in 0..2000 {
            let times = times_drawn(20, 1, resample);
            sums.iter_mut().zip(times).for_each(|(sum, times)| *sum += times);
        }
        let off = 4.0 * (2000.0f64 * 0.95).sqrt();
        assert!(
            sums.iter().all(|sum| (f64::from(*sum) - 2000.0).abs() < off),
            "{sums:?}"
        );
        assert!(times_drawn(0, 0, 0).is_empty());
    }

    #[test]
    fn the_interval_is_that_of_numpy_around_the_score() {
        // numpy.percentile([0.1, 0.2, 0.4, 0.8], [2.5, 97.5]); their mean is 0.375. Scores end at 0.
        for (score, low, high) in [(0.375, 0.1075, 0.77), (0.325, 0.0575, 0.72), (0.1, 0.0, 0.495)] {
            let interval = interval(vec![0.8, 0.1, 0.4, 0.2], score).unwrap();
            assert!((interval.low - low).abs() < 1e-12 && (interval.high - high).abs() < 1e-12);
        }
        assert_eq!(interval(vec![0.3], 0.2), Some(Interval { low: 0.2, high: 0.2 }));
        assert_eq!(interval(vec![], 0.2), None);
    }
}
