//! Numbers in, their text out: with significant digits, so that a small number does not read as zero.

/// A number rounded to so many significant digits, at least 1, without zeros at its end: `0.12`, `3.1e-5`,
/// `1234567`. Digits before the point are never rounded away.
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = digits.max(1);
    let scientific = format!("{value:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific
        .split_once('e')
        .and_then(|(mantissa, exponent)| Some((mantissa, exponent.parse::<i32>().ok()?)))
    else {
        return scientific;
    };
    if !(-4..15).contains(&exponent) {
        return format!("{}e{exponent}", without_zeros(mantissa));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    without_zeros(&format!("{value:.decimals$}")).to_owned()
}

/// A share of 0 to 1 in percent with so many decimals, or as many more as it needs not to read as none or all where it is
/// neither: `29.17 %`, `99.996 %`, `0.003 %`.
pub fn percent(share: f64, decimals: usize) -> String {
    const MOST: usize = 15;
    let is_between = share > 0.0 && share < 1.0;
    let text = |decimals: usize| format!("{:.decimals$}", 100.0 * share);
    let says_so =
        |text: &String| !is_between || text.parse().is_ok_and(|read: f64| read > 0.0 && read < 100.0);
    let texts = (decimals..=MOST).map(text);
    let text = texts.clone().find(says_so).or_else(|| texts.clone().next());
    format!("{} %", text.unwrap_or_default())
}

/// A number with its noun: `1 step`, `2 steps`, `2 batches`.
pub fn counted(count: usize, noun: &str) -> String {
    // Not `epochs`, whose `ch` is spoken as a k.
    let ending = if noun.ends_with("tch") || noun.ends_with('s') {
        "es"
    } else {
        "s"
    };
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}{ending}"),
    }
}

/// An amount of memory or of a file: `1.91 MiB`, `0.0371 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", significant(bytes as f64 / (1u64 << 20) as f64, 3))
}

fn without_zeros(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_not_all_does_not_read_as_all() {
        for (share, decimals, text) in [
            (0.2917, 2, "29.17 %"),
            (0.999_930_002, 0, "99.99 %"),
            (0.999_96, 2, "99.996 %"),
            (0.000_03, 2, "0.003 %"),
            (0.004, 0, "0.4 %"),
            (0.87, 0, "87 %"),
            (1.0, 2, "100.00 %"),
            (0.0, 2, "0.00 %"),
            (1.5, 0, "150 %"),
            (f64::NAN, 2, "NaN %"),
        ] {
            assert_eq!(percent(share, decimals), text);
        }
    }

    #[test]
    fn nouns_are_plural_where_there_are_several() {
        assert_eq!(counted(1, "epoch"), "1 epoch");
        assert_eq!(counted(0, "epoch"), "0 epochs");
        assert_eq!(counted(2, "batch"), "2 batches");
        assert_eq!(counted(3, "class"), "3 classes");
    }

    #[test]
    fn small_and_large_numbers_keep_their_digits() {
        for (value, digits, text) in [
            (3.125e-5, 2, "3.1e-5"),
            (3.125e-5, 4, "3.125e-5"),
            (0.000_123_456, 4, "0.0001235"),
            (0.12, 4, "0.12"),
            (2.412_345, 5, "2.4123"),
            (0.999_96, 4, "1"),
            (-0.000_021, 3, "-2.1e-5"),
            (0.31, 3, "0.31"),
            (1234.5, 3, "1234"),
            (1_234_567.0, 3, "1234567"),
            (1e20, 3, "1e20"),
            (0.0, 4, "0"),
            (f64::NAN, 4, "NaN"),
        ] {
            assert_eq!(significant(value, digits), text);
        }
        assert_eq!(mebibytes(2_000_000), "1.91 MiB");
        assert_eq!(mebibytes(38_912), "0.0371 MiB");
        assert_eq!(mebibytes(5 << 40), "5242880 MiB");
    }
}
