//! The exponential of non-positive numbers, in a form that the compiler can vectorize.

/// `exp(x)` for `x ≤ 0`, to about one rounding; below −87, the limit of floats, it equals exp(−87). NaN stays
/// NaN.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // 2^n · exp(r) with |r| ≤ ½·ln 2; ln 2 is split in two so that n · ln 2 is exact enough.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves a whole number in the low bits.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let power = (shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    p * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_right_to_a_rounding() {
        let worst = (0..=87_000)
            .map(|i| -(i as f32) / 1000.0)
            .map(|x| (f64::from(exp_of_negative(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        // The error of the polynomial and of the split ln 2, and a few roundings.
        assert!(worst < 4e-7, "{worst:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }
}
