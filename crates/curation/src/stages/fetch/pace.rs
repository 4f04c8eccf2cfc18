//! The request rate of each host.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Hands out evenly spaced times at which a request may go to a host.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<HashMap<String, Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: f64) -> Pace {
        Pace {
            interval: Duration::from_secs_f64(1.0 / per_second),
            next: Mutex::new(HashMap::new()),
        }
    }

    /// Waits for this host's next free slot; false if `stopped` cut the wait short.
    pub(super) fn wait(&self, host: &str, stopped: &dyn Fn() -> bool) -> bool {
        sleep_until(self.slot(host, Instant::now()), stopped)
    }

    /// This host's next free slot, which is then taken.
    fn slot(&self, host: &str, now: Instant) -> Instant {
        let mut next = self
            .next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Strangers' rows name the hosts: a list that only grows would be a leak.
        if next.len() > 10_000 {
            next.retain(|_, moment| *moment > now);
        }
        let moment = next.get(host).copied().unwrap_or(now).max(now);
        next.insert(host.to_string(), moment + self.interval);
        moment
    }

    /// Sends no request to this host before `pause` has passed.
    pub(super) fn hold(&self, host: &str, pause: Duration) {
        self.hold_until(host, Instant::now() + pause);
    }

    fn hold_until(&self, host: &str, until: Instant) {
        let mut next = self
            .next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let moment = next.entry(host.to_string()).or_insert(until);
        *moment = (*moment).max(until);
    }
}

/// Sleeps, checking `stopped` from time to time; false if it turned true.
pub(super) fn sleep_until(moment: Instant, stopped: &dyn Fn() -> bool) -> bool {
    loop {
        if stopped() {
            return false;
        }
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_host_are_evenly_spaced_and_those_of_others_their_own() {
        let pace = Pace::new(20.0);
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        for request in 0..4 {
            assert_eq!(pace.slot("a", start), ms(50 * request));
        }
        assert_eq!(pace.slot("b", start), start);
        // Unused slots are not saved up.
        assert_eq!(pace.slot("a", ms(1000)), ms(1000));
        assert_eq!(pace.slot("a", ms(1000)), ms(1050));
        pace.hold_until("a", ms(3000));
        pace.hold_until("a", ms(2000));
        assert_eq!(pace.slot("a", ms(1100)), ms(3000));
        assert_eq!(pace.slot("a", ms(1100)), ms(3050));
    }
}
