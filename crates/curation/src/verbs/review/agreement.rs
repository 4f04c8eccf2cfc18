//! How far two annotators agree beyond chance: Cohen, *A coefficient of agreement for nominal scales*, 1960.

/// Cohen's kappa of two annotators' verdicts on the same photos, `[first, second]` each: 1 is full agreement,
/// 0 the agreement expected by chance. `None` where it is undefined: no photo, or both always gave the same
/// single verdict.
pub fn cohens_kappa(verdicts: &[[bool; 2]]) -> Option<f64> {
    let mut counts = [0; 4];
    for [first, second] in verdicts {
        counts[2 * usize::from(*first) + usize::from(*second)] += 1;
    }
    kappa_of(counts)
}

/// [`cohens_kappa`] from counts: the photos that neither, only the second, only the first, and both marked.
pub(super) fn kappa_of(counts: [u64; 4]) -> Option<f64> {
    let count = counts.iter().sum::<u64>() as f64;
    let [neither, second, first, both] = counts.map(|photos| photos as f64 / count);
    let observed = neither + both;
    let (first, second) = (first + both, second + both);
    let chance = first * second + (1.0 - first) * (1.0 - second);
    // NaN without photos.
    (chance < 1.0).then(|| (observed - chance) / (1.0 - chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_is_agreement_beyond_chance() {
        let pairs = |yes: usize, first: usize, second: usize, no: usize| {
            [
                vec![[true, true]; yes],
                vec![[true, false]; first],
                vec![[false, true]; second],
                vec![[false, false]; no],
            ]
            .concat()
        };
        // Observed 35 / 50; chance (25 * 30 + 25 * 20) / 2500 = 1 / 2: kappa 0.4.
        let kappa = cohens_kappa(&pairs(20, 5, 10, 15)).unwrap();
        assert!((kappa - 0.4).abs() < 1e-12, "{kappa}");
        assert_eq!(cohens_kappa(&pairs(3, 0, 0, 2)), Some(1.0));
        assert_eq!(cohens_kappa(&pairs(0, 1, 1, 0)), Some(-1.0));
        assert_eq!(cohens_kappa(&pairs(0, 0, 0, 9)), None);
        assert_eq!(cohens_kappa(&[]), None);
    }
}
