//! Ctrl-C: the first one asks for an end after a checkpoint, the second one ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that turns true at the first Ctrl-C or SIGTERM, which job schedulers send some time before they kill.
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    flag_saying("ending after this step with a checkpoint; once more to end at once")
}

/// [`flag`] for other work: what the first Ctrl-C says.
pub(crate) fn flag_saying(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || ask(&seen, 130, message))?;
    #[cfg(unix)]
    terminated(Arc::clone(&flag), message)?;
    Ok(flag)
}

/// The first time asks for an end, the second time ends with this status.
fn ask(flag: &AtomicBool, status: i32, message: &str) {
    if flag.swap(true, Ordering::Relaxed) {
        std::process::exit(status);
    }
    eprintln!("\n{message}");
}

/// SIGTERM by itself: `ctrlc`'s feature for it takes SIGHUP too, and a run under `nohup` would end with its terminal.
#[cfg(unix)]
fn terminated(flag: Arc<AtomicBool>, message: &'static str) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || signals.forever().for_each(|_| ask(&flag, 143, message)));
    Ok(())
}
