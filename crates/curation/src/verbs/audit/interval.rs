//! A confidence interval for a share: Clopper and Pearson, *The use of confidence or fiducial limits
//! illustrated in the case of the binomial*, Biometrika 1934. It covers the true share with at least the
//! stated confidence, also with no hits.

/// The interval for `found` of `all` at a confidence such as 0.95: from 0 to 1 each.
pub fn clopper_pearson(found: u64, all: u64, confidence: f64) -> [f64; 2] {
    let (found, missed) = (found as f64, all.saturating_sub(found) as f64);
    let tail = (1.0 - confidence) / 2.0;
    // Quantiles of beta distributions.
    let low = match found > 0.0 {
        true => beta_quantile(tail, found, missed + 1.0),
        false => 0.0,
    };
    let high = match missed > 0.0 {
        true => beta_quantile(1.0 - tail, found + 1.0, missed),
        false => 1.0,
    };
    [low, high]
}

/// The point at which the beta distribution reaches `p`, by bisection: the function rises.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        match beta_share(middle, a, b) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    f64::midpoint(low, high)
}

/// The regularized incomplete beta function, by its continued fraction on the side where that converges fast
/// (Numerical Recipes, section 6.4; Lentz's method).
fn beta_share(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // x^a (1 - x)^b over the beta function, arranged so that no two large logarithms cancel.
    let powers = a * ((x / a) * (a + b)).ln() + b * ((-x).ln_1p() + (a / b).ln_1p());
    let rest = stirling_rest(a + b) - stirling_rest(a) - stirling_rest(b);
    let front = (a * b / (a + b) / (2.0 * std::f64::consts::PI)).sqrt() * (powers + rest).exp();
    match x < (a + 1.0) / (a + b + 2.0) {
        true => front * fraction(x, a, b) / a,
        false => 1.0 - front * fraction(1.0 - x, b, a) / b,
    }
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for step in 1..100_000 {
        let m = f64::from(step);
        for numerator in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / away_from_zero(1.0 + numerator * d);
            c = away_from_zero(1.0 + numerator / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function less Stirling's formula: his series above 15, the recurrence below.
fn stirling_rest(x: f64) -> f64 {
    let formula = |x: f64| (x - 0.5) * x.ln() - x;
    let (mut large, mut product) = (x, 1.0);
    while large < 15.0 {
        product *= large;
        large += 1.0;
    }
    let square = 1.0 / (large * large);
    let series = (1.0 / 12.0
        - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))))
        / large;
    match large > x {
        true => series + formula(large) - f64::ln(product) - formula(x),
        false => series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scripts/parity/intervals.py`: `scipy.stats.binomtest(...).proportion_ci(method="exact")`, with
    /// statsmodels' beside it.
    #[test]
    fn intervals_are_those_of_scipy() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../../testdata/intervals.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            let [low, high] =
                clopper_pearson(number("found") as u64, number("all") as u64, number("confidence"));
            for (ours, theirs) in [(low, number("low")), (high, number("high"))] {
                let error = (ours - theirs).abs() / theirs.abs().max(1e-300);
                assert!(ours == theirs || error < 1e-9, "{case}: {low} to {high}");
            }
        }
    }

    #[test]
    fn nothing_found_is_not_nothing_there() {
        let [low, high] = clopper_pearson(0, 300, 0.95);
        // 1 - 0.025^(1/300): near the "rule of three" for one side.
        assert_eq!(low, 0.0);
        assert!((high - (1.0 - 0.025f64.powf(1.0 / 300.0))).abs() < 1e-12);
        assert_eq!(clopper_pearson(5, 5, 0.95)[1], 1.0);
    }
}
