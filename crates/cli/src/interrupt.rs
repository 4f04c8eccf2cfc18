//! Ctrl-C: the first one asks for an end after a checkpoint, the second one ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that turns true at the first Ctrl-C (or SIGTERM, which job schedulers send).
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    flag_saying("ending after this step with a checkpoint; once more to end at once")
}

/// [`flag`] for other work: what the first Ctrl-C says.
pub(crate) fn flag_saying(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\n{message}");
    })?;
    Ok(flag)
}
