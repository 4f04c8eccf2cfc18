//! Ctrl-C: the first one ends the run after a checkpoint, the second one at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that turns true at the first Ctrl-C, at SIGTERM, which job schedulers send some time before they
/// kill, at SIGUSR1, or at SIGHUP, when a terminal closes.
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    flag_saying("ending after this step with a checkpoint; press again to end at once")
}

/// [`flag`] for other work, with the message of the first Ctrl-C.
pub(crate) fn flag_saying(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || ask(&seen, 130, message))?;
    #[cfg(unix)]
    terminated(Arc::clone(&flag), message)?;
    Ok(flag)
}

/// The first time raises the flag, the second time ends the process with this status.
fn ask(flag: &AtomicBool, status: i32, message: &str) {
    if flag.swap(true, Ordering::Relaxed) {
        std::process::exit(status);
    }
    eprintln!("\n{message}");
}

/// SIGTERM, SIGUSR1 and SIGHUP. With `ctrlc`'s feature for both, a closed terminal would end a run under `nohup`.
#[cfg(unix)]
fn terminated(flag: Arc<AtomicBool>, message: &'static str) -> anyhow::Result<()> {
    let wanted = signals()
        .into_iter()
        .filter(|signal| *signal != signal_hook::consts::SIGINT);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    std::thread::spawn(move || signals.forever().for_each(|_| ask(&flag, 143, message)));
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
