//! How far two annotators agree beyond chance: Cohen, *A coefficient of agreement for nominal scales*, 1960.

/// Cohen's kappa of two annotators' verdicts on the same photos, `[first, second]` each: 1 is full agreement, 0 what chance
/// gives. None where it is not defined: no photo, or both always said the same one thing.
pub fn cohens_kappa(verdicts: &[[bool; 2]]) -> Option<f64> {
    let count = verdicts.len() as f64;
    let share =
        |said: fn(&[bool; 2]) -> bool| verdicts.iter().filter(|pair| said(pair)).count() as f64 / count;
    let (first, second) = (share(|pair| pair[0]), share(|pair| pair[1]));
    let observed = share(|pair| pair[0] == pair[1]);
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
