//! Lines of a log in; the steps that none of them counts out.
//!
//! A log has a line for each window of `training.log_every_steps`. Windows without one were written once: something cut or
//! removed the file, or damaged their lines.

use crate::log_line::LogLine;
use std::fmt;

/// Steps of a run that no line of its log counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSteps {
    /// The first, counted from 1.
    pub first: usize,
    /// The last.
    pub last: usize,
}

impl fmt::Display for MissingSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// Until where a log must have its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Until {
    /// Steps that are done.
    pub(crate) step: usize,
    /// Steps of a window: `training.log_every_steps`.
    pub(crate) every: usize,
    /// In f16: steps skipped since the run's start.
    pub(crate) skipped: usize,
}

/// The windows of `every` steps between lines, and before the first one, that have none; in their order.
pub fn missing_steps(lines: &[LogLine], every: usize) -> Vec<MissingSteps> {
    missing_until(
        lines,
        Until {
            step: 0,
            every,
            skipped: 0,
        },
    )
}

/// The same with those behind the last line.
pub(crate) fn missing_until(lines: &[LogLine], until: Until) -> Vec<MissingSteps> {
    let every = until.every.max(1);
    let mut missing = vec![];
    let (mut covered, mut skipped_before) = (0, 0);
    let ends = lines.iter().map(|line| {
        let start = line.step.saturating_sub(1) / every * every;
        (start, start + every, line.skipped_steps)
    });
    let end = until.step / every * every;
    for (start, covers, skipped) in ends.chain([(end, end, Some(until.skipped))]) {
        let skipped = skipped.unwrap_or(0);
        // f16 writes no line for a window whose steps were all skipped.
        let without_line = skipped.saturating_sub(skipped_before);
        if start.saturating_sub(covered) > without_line {
            missing.push(MissingSteps {
                first: covered + 1,
                last: start,
            });
        }
        covered = covered.max(covers);
        skipped_before = skipped;
    }
    missing
}

/// `steps 5 to 8 and 13 to 20 of metrics.jsonl are missing`; `None` if none is.
pub fn missing_in_words(missing: &[MissingSteps]) -> Option<String> {
    /// Most ranges that are named.
    const NAMED: usize = 3;
    if missing.is_empty() {
        return None;
    }
    let named: Vec<String> = missing.iter().take(NAMED).map(MissingSteps::to_string).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more ranges"),
    };
    Some(format!(
        "steps {}{more} of {} are missing",
        named.join(", "),
        crate::log_line::METRICS
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn lines(steps: &[(usize, Option<usize>)]) -> Vec<LogLine> {
        let line = |(step, skipped_steps): &(usize, Option<usize>)| LogLine {
            step: *step,
            epoch: 0,
            loss: 1.0,
            learning_rate: 0.1,
            signals: BTreeMap::new(),
            loss_scale: None,
            skipped_steps: *skipped_steps,
            images_per_second: 8.0,
            data_wait: 0.5,
            device_memory_mib: None,
            device_busy: None,
            unix_seconds: None,
        };
        steps.iter().map(line).collect()
    }

    fn missing(steps: &[usize], until: Until) -> Vec<(usize, usize)> {
        let steps: Vec<_> = steps.iter().map(|step| (*step, None)).collect();
        let missing = missing_until(&lines(&steps), until);
        missing.iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn windows_without_a_line_are_missing_wherever_they_are() {
        let until = |step| Until {
            step,
            every: 4,
            skipped: 0,
        };
        assert_eq!(missing(&[4, 8, 12], until(12)), []);
        // The open window has no line yet.
        assert_eq!(missing(&[4, 8, 12], until(15)), []);
        assert_eq!(missing(&[4, 8], until(16)), [(9, 16)]);
        assert_eq!(missing(&[], until(16)), [(1, 16)]);
        assert_eq!(missing(&[8, 20], until(20)), [(1, 4), (9, 16)]);
        // The last line of a run that ended within a window, and was made longer.
        assert_eq!(missing(&[4, 8, 10, 12, 16], until(16)), []);
        assert_eq!(missing(&[], until(0)), []);
    }

    #[test]
    fn windows_whose_steps_f16_skipped_have_no_line() {
        let until = Until {
            step: 20,
            every: 4,
            skipped: 9,
        };
        // Steps 5 to 12 were skipped, and then one more.
        let all = lines(&[(4, Some(0)), (16, Some(8)), (20, Some(9))]);
        assert_eq!(missing_until(&all, until), []);
        let cut = lines(&[(4, Some(0)), (20, Some(2))]);
        let range = MissingSteps { first: 5, last: 16 };
        assert_eq!(missing_until(&cut, until), [range]);
        assert_eq!(missing_steps(&cut, 4), [range]);
        assert_eq!(
            missing_in_words(&[range, range]).unwrap(),
            "steps 5 to 16, 5 to 16 of metrics.jsonl are missing"
        );
    }
}
