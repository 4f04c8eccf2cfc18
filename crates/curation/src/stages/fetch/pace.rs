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
        let moment = {
            let mut next = self
                .next
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            // Strangers' rows name the hosts: a list that only grows would be a leak.
            if next.len() > 10_000 {
                next.retain(|_, moment| *moment > now);
            }
            let moment = next.get(host).copied().unwrap_or(now).max(now);
            next.insert(host.to_string(), moment + self.interval);
            moment
        };
        sleep_until(moment, stopped)
    }

    /// Sends no request to this host before `pause` has passed.
    pub(super) fn hold(&self, host: &str, pause: Duration) {
        let mut next = self
            .next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let until = Instant::now() + pause;
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
