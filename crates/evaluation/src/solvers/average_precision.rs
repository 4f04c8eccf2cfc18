//! Average precision: how well scores rank the records of a class above the others.
//!
//! Two definitions, which differ by about a point on VOC07. scikit-learn's sums precision at each recall
//! reached. VISSL's (and the PASCAL devkit's from 2010 on) first makes precision monotone: each becomes the
//! best at that or any higher recall. The 11-point mean of the 2007 devkit is a third definition. Equal
//! scores form one threshold, so the order of the records has no effect.

/// `sum_n (R_n - R_(n-1)) P_n` over falling thresholds: scikit-learn's `average_precision_score`. `None` without positives.
pub(crate) fn average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let curve = curve(scores, positive)?;
    Some(area(&curve))
}

/// The same with `P_n` the best precision at that recall or a higher one: VISSL's `calculate_ap`. `None` without positives.
pub(crate) fn interpolated_average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let mut curve = curve(scores, positive)?;
    let mut best = 0.0f64;
    for (_, precision) in curve.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    Some(area(&curve))
}

fn area(curve: &[(f64, f64)]) -> f64 {
    let mut before = 0.0;
    let mut area = 0.0;
    for (recall, precision) in curve {
        area += (recall - before) * precision;
        before = *recall;
    }
    area
}

/// Recall and precision at each threshold, the highest first.
fn curve(scores: &[f64], positive: &[bool]) -> Option<Vec<(f64, f64)>> {
    let total = positive.iter().filter(|positive| **positive).count();
    if total == 0 {
        return None;
    }
    let mut order: Vec<(f64, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut seen) = (0, 0);
    let curve = order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|threshold| {
            found += threshold.iter().filter(|(_, positive)| *positive).count();
            seen += threshold.len();
            (found as f64 / total as f64, found as f64 / seen as f64)
        })
        .collect();
    Some(curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Ranked: no, yes, yes, no, yes. Precision 0, 1/2, 2/3, 1/2, 3/5; recall steps at 2, 3 and 5.
        let scores = [0.5, 0.4, 0.3, 0.2, 0.1];
        let positive = [false, true, true, false, true];
        let plain = (0.5 + 2.0 / 3.0 + 0.6) / 3.0;
        assert!((average_precision(&scores, &positive).unwrap() - plain).abs() < 1e-12);
        // The best precision to the right: 2/3, 2/3, 3/5.
        let interpolated = (2.0 / 3.0 + 2.0 / 3.0 + 0.6) / 3.0;
        assert!((interpolated_average_precision(&scores, &positive).unwrap() - interpolated).abs() < 1e-12);
    }

    #[test]
    fn equal_scores_are_one_threshold() {
        for positive in [[true, false, false, true], [false, true, true, false]] {
            assert_eq!(average_precision(&[1.0; 4], &positive), Some(0.5));
            assert_eq!(interpolated_average_precision(&[1.0; 4], &positive), Some(0.5));
        }
    }

    #[test]
    fn without_positives_there_is_none() {
        assert_eq!(average_precision(&[1.0, 2.0], &[false, false]), None);
        assert_eq!(interpolated_average_precision(&[], &[]), None);
    }
}
