//! The number and rate of each annotator's answers: counted once when the server starts, then kept up to
//! date.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::ledger::Ledger;

/// The time window of the rate.
const WINDOW: Duration = Duration::from_secs(600);
/// The number of the ledger's last answers that the server reads at its start.
const RECENT_ROWS: i64 = 20_000;

/// The pace of each annotator in one sample.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<i64, Pace>);

/// The pace of one annotator.
#[derive(Debug, Default)]
struct Pace {
    /// Valid answers.
    answers: u64,
    /// Times of recent answers with their counts, oldest first, within [`WINDOW`].
    recent: VecDeque<(Instant, u64)>,
}

impl Paces {
    pub(super) fn read(ledger: &Ledger, sample: i64, now: Instant) -> Result<Paces, Error> {
        let mut paces = Paces::default();
        for (annotator, answers) in ledger.answers_by_annotator(sample)? {
            paces.0.entry(annotator).or_default().answers = answers;
        }
        for (annotator, seconds) in ledger.recent_answers(sample, RECENT_ROWS)? {
            let ago = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
            if let Some(given) = now.checked_sub(ago).filter(|_| ago < WINDOW) {
                paces.0.entry(annotator).or_default().recent.push_back((given, 1));
            }
        }
        Ok(paces)
    }

    /// Records answers that were given together, `new` of which replace none.
    pub(super) fn gave(&mut self, annotator: i64, answers: u64, new: u64, now: Instant) {
        let pace = self.0.entry(annotator).or_default();
        pace.answers += new;
        pace.forget(now);
        pace.recent.push_back((now, answers));
    }

    /// Records that the last answers were undone, `gone` of which leave no earlier answer.
    pub(super) fn took_back(&mut self, annotator: i64, answers: u64, gone: u64) {
        let pace = self.0.entry(annotator).or_default();
        pace.answers = pace.answers.saturating_sub(gone);
        let mut left = answers;
        while let Some((_, last)) = pace.recent.back_mut().filter(|_| left > 0) {
            let taken = left.min(*last);
            *last -= taken;
            left -= taken;
            if *last == 0 {
                pace.recent.pop_back();
            }
        }
    }

    /// The number of an annotator's valid answers, and their answers per minute within [`WINDOW`], counted
    /// from the first answer in it.
    pub(super) fn of(&mut self, annotator: i64, now: Instant) -> (u64, f64) {
        let pace = self.0.entry(annotator).or_default();
        pace.forget(now);
        let count: u64 = pace.recent.iter().map(|(_, answers)| answers).sum();
        // A burst at the start is not a rate.
        let minutes = pace.recent.front().map_or(1.0, |(first, _)| {
            now.saturating_duration_since(*first).as_secs_f64() / 60.0
        });
        (pace.answers, count as f64 / minutes.max(0.5))
    }
}

impl Pace {
    fn forget(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|(given, _)| now.saturating_duration_since(*given) >= WINDOW)
        {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_ten_minutes() {
        let start = Instant::now();
        let minute = |minutes: f64| start + Duration::from_secs_f64(60.0 * minutes);
        let mut paces = Paces::default();
        assert_eq!(paces.of(1, start), (0, 0.0));
        paces.gave(1, 20, 20, start);
        // At least half a minute.
        assert_eq!(paces.of(1, minute(0.1)), (20, 40.0));
        paces.gave(1, 10, 8, minute(4.0));
        assert_eq!(paces.of(1, minute(5.0)), (28, 6.0));
        paces.took_back(1, 10, 8);
        assert_eq!(paces.of(1, minute(5.0)), (20, 4.0));
        paces.gave(1, 3, 3, minute(9.0));
        assert_eq!(paces.of(1, minute(10.0)), (23, 3.0));
        assert_eq!(paces.of(1, minute(30.0)), (23, 0.0));
        // More answers than the window holds.
        paces.took_back(1, 99, 99);
        assert_eq!(paces.of(1, minute(30.0)), (0, 0.0));
    }
}
