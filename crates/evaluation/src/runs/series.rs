//! Numbers over a run: runs in, samples on three axes out, thinned to a picture's columns without losing a peak.

use super::directory::TrainingRun;
use std::collections::BTreeMap;

/// The horizontal axes: their key in the page and their name.
pub(super) const AXES: [(&str, &str); 3] = [
    ("steps", "steps"),
    ("epochs", "epochs"),
    ("hours", "hours of training"),
];

/// A value at a place: of one run, or of several with the same config.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Steps, epochs, hours; NaN where unknown.
    pub(super) at: [f64; 3],
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Whether lines of the log are missing between the sample before and this one.
    pub(super) after_gap: bool,
}

/// Every series of a run by its name; values that are not finite are left out.
pub(super) fn of_run(run: &TrainingRun) -> BTreeMap<String, Vec<Sample>> {
    let mut found = BTreeMap::<String, Vec<Sample>>::new();
    let mut add = |name: String, at: [f64; 3], value: f64, after_gap: bool| {
        if value.is_finite() {
            found.entry(name).or_default().push(Sample {
                at,
                mean: value,
                low: value,
                high: value,
                after_gap,
            });
        }
    };
    let places = run.places();
    let first_behind = |last: usize| run.lines.iter().position(|line| line.step > last);
    let behind_gaps: Vec<usize> = run
        .missing
        .iter()
        .filter_map(|gap| first_behind(gap.last))
        .collect();
    for (place, (line, at)) in run.lines.iter().zip(&places).enumerate() {
        let after_gap = place > 0 && behind_gaps.contains(&place);
        for (name, value) in line.scalars() {
            // It is the axis itself.
            if name != "train/epoch" {
                add(name, *at, value, after_gap);
            }
        }
    }
    for (step, numbers) in &run.validation {
        for (name, value) in numbers {
            add(name.clone(), between(&places, *step as f64), *value, false);
        }
    }
    found
}

/// The place of a step between those of lines.
fn between(places: &[[f64; 3]], step: f64) -> [f64; 3] {
    let after = places.partition_point(|at| at[0] < step);
    let (before, after) = match (after.checked_sub(1), places.get(after)) {
        (before, Some(after)) => (before.map_or([0.0; 3], |before| places[before]), *after),
        (Some(last), None) => ([0.0; 3], places[last]),
        (None, None) => return [step, f64::NAN, f64::NAN],
    };
    let share = (step - before[0]) / (after[0] - before[0]).max(1.0);
    std::array::from_fn(|axis| match axis {
        0 => step,
        axis => before[axis] + share * (after[axis] - before[axis]),
    })
}

/// One series of several runs: at each step the mean, the lowest and the highest of those that have it.
pub(super) fn merged(series: &[&[Sample]]) -> Vec<Sample> {
    let mut by_step = BTreeMap::<u64, Vec<&Sample>>::new();
    for sample in series.iter().copied().flatten() {
        by_step.entry(sample.at[0] as u64).or_default().push(sample);
    }
    let merge = |samples: Vec<&Sample>| {
        let count = samples.len() as f64;
        let mean =
            |value: &dyn Fn(&Sample) -> f64| samples.iter().map(|sample| value(sample)).sum::<f64>() / count;
        Sample {
            at: std::array::from_fn(|axis| mean(&|sample| sample.at[axis])),
            mean: mean(&|sample| sample.mean),
            low: samples
                .iter()
                .map(|sample| sample.low)
                .fold(f64::INFINITY, f64::min),
            high: samples
                .iter()
                .map(|sample| sample.high)
                .fold(f64::NEG_INFINITY, f64::max),
            after_gap: samples.iter().all(|sample| sample.after_gap),
        }
    };
    by_step.into_values().map(merge).collect()
}

/// The one of `columns` equal parts of `[first, last]` that a place lies in.
pub(super) fn column(place: f64, [first, last]: [f64; 2], columns: usize) -> usize {
    let width = (last - first).max(f64::MIN_POSITIVE);
    // A last place belongs to the last column.
    (((place - first) / width * columns as f64) as usize).min(columns - 1)
}

/// At most one point for each of `columns` equal parts of `[first, last]` on an axis: its samples' mean place and mean, their
/// lowest and their highest.
pub(super) fn thinned(
    samples: &[Sample],
    axis: usize,
    across: [f64; 2],
    columns: usize,
) -> Vec<(f64, Sample)> {
    let column = |sample: &Sample| column(sample.at[axis], across, columns);
    let known: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.at[axis].is_finite())
        .collect();
    let parts = known.chunk_by(|a, b| column(a) == column(b));
    let point = |part: &[&Sample]| {
        let mean = |value: &dyn Fn(&Sample) -> f64| {
            part.iter().map(|sample| value(sample)).sum::<f64>() / part.len() as f64
        };
        let point = Sample {
            at: std::array::from_fn(|axis| mean(&|sample| sample.at[axis])),
            mean: mean(&|sample| sample.mean),
            low: part.iter().map(|sample| sample.low).fold(f64::INFINITY, f64::min),
            high: part
                .iter()
                .map(|sample| sample.high)
                .fold(f64::NEG_INFINITY, f64::max),
            after_gap: part.iter().any(|sample| sample.after_gap),
        };
        (point.at[axis], point)
    };
    parts.map(point).collect()
}

/// Round values within a range, about so many of them, and the digits behind the point that they need.
pub(super) fn ticks([low, high]: [f64; 2], about: usize) -> Vec<f64> {
    let rough = (high - low) / about.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil();
    (0..)
        .map(|count| (first + f64::from(count)) * step)
        .take_while(|tick| *tick <= high + step * 1e-9)
        // 3 · 0.1 is not 0.3.
        .map(|tick| (tick / power).round() * power)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(step: f64, value: f64) -> Sample {
        Sample {
            at: [step, step / 10.0, f64::NAN],
            mean: value,
            low: value,
            high: value,
            after_gap: false,
        }
    }

    #[test]
    fn a_single_peak_stays_in_its_column() {
        let mut samples: Vec<Sample> = (0..10_000).map(|step| sample(f64::from(step), 1.0)).collect();
        samples[4321].high = 9.0;
        samples[4321].mean = 9.0;
        let points = thinned(&samples, 0, [0.0, 10_000.0], 100);
        assert_eq!(points.len(), 100);
        let (place, peak) = points[43];
        assert_eq!((peak.low, peak.high), (1.0, 9.0));
        assert!((peak.mean - 1.08).abs() < 1e-12 && (place - 4349.5).abs() < 1e-9);
        assert!(
            points
                .iter()
                .enumerate()
                .all(|(at, (_, point))| at == 43 || point.high == 1.0)
        );
        // An axis that is not known has no points.
        assert!(thinned(&samples, 2, [0.0, 1.0], 100).is_empty());
    }

    #[test]
    fn runs_are_merged_step_by_step() {
        let one = [sample(10.0, 1.0), sample(20.0, 2.0)];
        let other = [sample(10.0, 3.0)];
        let both = merged(&[&one, &other]);
        let read: Vec<_> = both
            .iter()
            .map(|at| (at.at[0], at.mean, at.low, at.high))
            .collect();
        assert_eq!(read, [(10.0, 2.0, 1.0, 3.0), (20.0, 2.0, 2.0, 2.0)]);
    }

    #[test]
    fn ticks_are_round_and_lie_within() {
        for (range, expected) in [
            ([0.0, 10.0], vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            ([0.13, 0.47], vec![0.2, 0.3, 0.4]),
            ([-3.0, 900.0], vec![0.0, 200.0, 400.0, 600.0, 800.0]),
            ([5.0, 5.0], vec![5.0]),
        ] {
            assert_eq!(ticks(range, 5), expected);
        }
    }

    #[test]
    fn evaluations_lie_between_the_lines() {
        let places = [[10.0, 1.0, 0.5], [20.0, 2.0, 1.5]];
        assert_eq!(between(&places, 15.0), [15.0, 1.5, 1.0]);
        assert_eq!(between(&places, 5.0), [5.0, 0.5, 0.25]);
        assert_eq!(between(&places, 40.0), [40.0, 4.0, 3.0]);
        assert!(between(&[], 5.0)[1].is_nan());
    }
}
