//! COCO's precision–recall curve of one class at one overlap, and the numbers that it is made of.

/// Overlaps (IoU) from which on a result is right, 0.50 to 0.95. The digits are those of NumPy's
/// `linspace(0.5, 0.95, 10)`, which pycocotools compares with.
pub const THRESHOLDS: [f64; 10] = [
    0.5,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.85,
    0.8999999999999999,
    0.95,
];

/// Points of recall on a curve: 0, 0.01, …, 1.
pub const RECALL_POINTS: usize = 101;

/// A result by descending score: it finds an object, or is a false alarm.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// How often it counts; 0 to leave it out.
    pub(super) times: u32,
    /// Whether it finds an object.
    pub(super) is_hit: bool,
}

/// Precision at each point of recall: the largest at this recall or a higher one; 0 beyond the highest.
/// `truths` must be at least 1. Results that COCO ignores are not among the steps, because they change neither
/// recall nor precision.
pub(super) fn curve(steps: impl Iterator<Item = Step>, truths: u64) -> [f64; RECALL_POINTS] {
    let (mut hits, mut counted) = (0u64, 0u64);
    // Recall and precision behind each hit. The largest precision from a place on lies behind a hit.
    let mut reached: Vec<[f64; 2]> = Vec::new();
    for Step { times, is_hit } in steps {
        counted += u64::from(times);
        if is_hit && times > 0 {
            hits += u64::from(times);
            reached.push([
                hits as f64 / truths as f64,
                hits as f64 / (counted as f64 + f64::EPSILON),
            ]);
        }
    }
    let mut largest = 0.0f64;
    for [_, precision] in reached.iter_mut().rev() {
        largest = largest.max(*precision);
        *precision = largest;
    }
    let mut points = [0.0; RECALL_POINTS];
    let mut at = 0;
    for (number, point) in points.iter_mut().enumerate() {
        let recall = number as f64 * 0.01;
        while reached.get(at).is_some_and(|[before, _]| *before < recall) {
            at += 1;
        }
        *point = reached.get(at).map_or(0.0, |[_, precision]| *precision);
    }
    points
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(hits: &[bool]) -> impl Iterator<Item = Step> {
        hits.iter().map(|is_hit| Step {
            times: 1,
            is_hit: *is_hit,
        })
    }

    #[test]
    fn precision_is_the_largest_at_this_recall_or_above() {
        // Precision 1 at recall 1/4, 1/2 and 2/3 at recalls 2/4 and 3/4; a false alarm between.
        let points = curve(steps(&[true, false, false, true, true, true]), 8);
        let at = |recall: usize| points[recall];
        let near = |got: f64, expected: f64| (got - expected).abs() < 1e-15;
        assert!(near(at(0), 1.0) && near(at(12), 1.0));
        // 2/4, 3/5 and 4/6 after the other hits: the last is the largest.
        assert!(near(at(13), 4.0 / 6.0) && near(at(50), 4.0 / 6.0));
        assert_eq!(at(51), 0.0);
        assert_eq!(curve(steps(&[]), 3), [0.0; RECALL_POINTS]);
        assert_eq!(curve(steps(&[false, false]), 3), [0.0; RECALL_POINTS]);
    }

    #[test]
    fn thresholds_have_the_digits_of_numpy() {
        for (at, threshold) in THRESHOLDS.into_iter().enumerate().take(9) {
            assert_eq!(threshold, 0.5 + at as f64 * ((0.95 - 0.5) / 9.0));
        }
        assert_eq!(THRESHOLDS[9], 0.95);
    }

    #[test]
    fn counting_twice_is_standing_twice() {
        let twice = [
            (2, true),
            (0, true),
            (1, false),
            (3, true),
            (2, false),
            (1, true),
            (0, false),
        ];
        let weighted = twice.iter().map(|(times, is_hit)| Step {
            times: *times,
            is_hit: *is_hit,
        });
        let written_out: Vec<bool> = twice
            .iter()
            .flat_map(|(times, is_hit)| vec![*is_hit; *times as usize])
            .collect();
        assert_eq!(curve(weighted, 7), curve(steps(&written_out), 7));
    }
}
