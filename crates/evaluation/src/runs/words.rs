//! Names, numbers and times as people read them, and the order of the numbers on the page.

use data::significant;

/// A whole number with a comma between groups of three digits.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    match value <= -0.5 {
        true => format!("-{text}"),
        false => text,
    }
}

/// The name of a number for people: `signals/positive_similarity` is `positive similarity`.
pub(super) fn label(name: &str) -> String {
    match name {
        "speed/images_per_second" => "images per second".into(),
        "speed/data_wait" => "share of time waiting for data".into(),
        "device/busy" => "share of time the GPU computes".into(),
        "device/memory_mib" => "GPU memory in use, MiB".into(),
        "train/loss" => "loss".into(),
        name => {
            let (group, rest) = name.split_once('/').unwrap_or(("", name));
            let rest = rest.replace('_', " ");
            match group {
                "validation" => format!("{rest} (evaluation)"),
                _ => rest,
            }
        }
    }
}

/// The place of a chart on the page.
pub(super) fn rank(name: &str) -> usize {
    let groups = [
        "train/loss",
        "validation/",
        "signals/",
        "train/",
        "speed/",
        "device/",
        "f16/",
    ];
    groups
        .iter()
        .position(|group| name.starts_with(group))
        .unwrap_or(groups.len())
}

/// `3 h 20 min`, `12 min`, `40 s`.
pub(super) fn duration(hours: f64) -> String {
    let seconds = (hours * 3600.0).round();
    match seconds {
        ..120.0 => format!("{seconds} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!(
            "{:.0} h {:.0} min",
            (seconds / 3600.0).floor(),
            (seconds % 3600.0 / 60.0).floor()
        ),
    }
}

/// `12 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", significant(share * 100.0, 2))
}

/// A moment as `2026-11-30 14:05 UTC`.
pub fn utc(unix_seconds: f64) -> String {
    let minutes = (unix_seconds / 60.0).floor() as i64;
    let (day, minute) = (minutes.div_euclid(1440), minutes.rem_euclid(1440));
    // Days since 1 March of the year 0 (proleptic Gregorian calendar): a year then ends with its leap day.
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02} UTC",
        minute / 60,
        minute % 60
    )
}

/// A remark with a capital letter and a full stop.
pub(super) fn sentence(remark: &str) -> String {
    let mut letters = remark.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    format!("{}{}.", first.collect::<String>(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 1_234_567.0, -1000.0].map(grouped),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
        assert_eq!([0.01, 0.5, 3.5].map(duration), ["36 s", "30 min", "3 h 30 min"]);
        // GNU date's.
        assert_eq!(utc(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399.0), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_796_046_390.5), "2026-11-30 13:46 UTC");
        assert_eq!(sentence("one thing"), "One thing.");
        assert_eq!(label("signals/positive_similarity"), "positive similarity");
    }
}
