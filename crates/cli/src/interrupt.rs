//! Ctrl-C and a scheduler's signals: the first one ends the run after a checkpoint, a second one at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Signals that come within this time of the first one ask for the same thing: `timeout` sends each signal to the process
/// and to its group, a scheduler to a job and to its steps, and mpirun passes both on.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// Tells a second request to end from an echo of the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<Option<Instant>>>);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    First,
    Echo,
    Second,
}

impl Requests {
    /// What a signal that arrives now asks for.
    pub(crate) fn next(&self, now: Instant) -> Request {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *first {
            None => {
                *first = Some(now);
                Request::First
            }
            Some(first) if now.duration_since(first) < ONE_REQUEST => Request::Echo,
            Some(_) => Request::Second,
        }
    }
}

/// A flag that turns true at the first Ctrl-C, at SIGTERM, which job schedulers send some time before they
/// kill, at SIGUSR1, or at SIGHUP, when a terminal closes.
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    flag_saying("ending after this step with a checkpoint; press again to end at once")
}

/// [`flag`] for other work, with the message of the first Ctrl-C.
pub(crate) fn flag_saying(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let requests = Requests::default();
    let (seen, asked) = (Arc::clone(&flag), requests.clone());
    ctrlc::set_handler(move || ask(&seen, &asked, 130, message))?;
    #[cfg(unix)]
    terminated(Arc::clone(&flag), requests, message)?;
    Ok(flag)
}

/// The first request raises the flag, the second ends the process with this status.
fn ask(flag: &AtomicBool, requests: &Requests, status: i32, message: &str) {
    match requests.next(Instant::now()) {
        Request::First => {
            flag.store(true, Ordering::Relaxed);
            eprintln!("\n{message}");
        }
        Request::Echo => {}
        Request::Second => std::process::exit(status),
    }
}

/// SIGTERM, SIGUSR1 and SIGHUP. With `ctrlc`'s feature for both, a closed terminal would end a run under `nohup`.
#[cfg(unix)]
fn terminated(flag: Arc<AtomicBool>, requests: Requests, message: &'static str) -> anyhow::Result<()> {
    let wanted = signals()
        .into_iter()
        .filter(|signal| *signal != signal_hook::consts::SIGINT);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            ask(&flag, &requests, 143, message);
        }
    });
    Ok(())
}

/// The signals that ask a run to end: Ctrl-C, SIGTERM, SIGUSR1, and SIGHUP unless `nohup` has it ignored.
#[cfg(unix)]
pub(crate) fn signals() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    // SIGUSR1: what Slurm sends with `--signal`, and the only signal that Open MPI's mpirun passes on without killing.
    let mut signals = vec![SIGINT, SIGTERM, SIGUSR1];
    if !ignores_hangup() {
        signals.push(SIGHUP);
    }
    signals
}

/// Whether the program was started with SIGHUP ignored, as `nohup` does; true where the system does not
/// report it.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_none_or(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run under `timeout` got its signal twice, and ended at once without a checkpoint.
    #[test]
    fn an_echo_of_a_signal_is_no_second_request() {
        let requests = Requests::default();
        let start = Instant::now();
        let at = |ms| requests.next(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 0, 3, 999, 1000, 1001].map(at),
            [
                Request::First,
                Request::Echo,
                Request::Echo,
                Request::Echo,
                Request::Second,
                Request::Second
            ]
        );
    }
}
