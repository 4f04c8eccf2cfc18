//! Panics as errors: a device's failure by name, with its cure; anything else as what it is, a bug.
//!
//! Libraries return errors. Burn panics where a value is read from a device that ran out of memory or failed, in the middle of any
//! verb.

use crate::failure::Failure;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use training::{device_reason, ran_out_of_memory};

/// Runs the program's work. A panic on this thread is returned as an error instead of ending the process.
pub(crate) fn as_errors(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let here = std::thread::current().id();
    let last: Arc<Mutex<Option<String>>> = Arc::default();
    let usual = Arc::new(take_hook());
    set_hook(Box::new({
        let (usual, last) = (usual.clone(), last.clone());
        move |panic| on_panic(panic, here, &last, &*usual)
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(Box::new(move |panic| usual(panic)));
    match result {
        Ok(result) => result,
        Err(_) => {
            let message = last.lock().unwrap_or_else(PoisonError::into_inner).take();
            Err(error_of(&message.unwrap_or_default()).into())
        }
    }
}

/// Keeps the message of a panic on the main thread for its error. Panics of other threads are printed as usual: whoever joins the
/// thread decides what they mean.
fn on_panic(
    panic: &PanicHookInfo<'_>,
    here: ThreadId,
    last: &Mutex<Option<String>>,
    usual: &dyn Fn(&PanicHookInfo<'_>),
) {
    let place = panic
        .location()
        .map_or(String::new(), |place| format!(" ({place})"));
    let message = panic.payload_as_str().unwrap_or("panic without a message");
    let thread = std::thread::current();
    // Burn's threads of a device catch their own: a candidate of the tuner that fails, or an operation whose result is an error.
    if thread
        .name()
        .is_some_and(|name| name.starts_with("DSD-") || name.starts_with("DSU-"))
    {
        return tracing::debug!("a panic that Burn catches: {message}{place}");
    }
    if thread.id() != here {
        return usual(panic);
    }
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{message}{place}"));
}

/// The error of a panic's message.
fn error_of(message: &str) -> Failure {
    if ran_out_of_memory(message) {
        return Failure::new(format!(
            "the device ran out of memory: {}",
            device_reason(message)
        ))
        .hint(LESS_MEMORY);
    }
    Failure::new(format!("internal error: {message}"))
        .hint("this is a bug in Passer, or a device that failed: please report it with the command and this message")
}

/// Keys and flags that need less memory, by verb.
const LESS_MEMORY: &str = "pretraining and fine-tuning: lower `data.batch_images`, or set `training.micro_batch_images` (the same step \
                           with less memory) or `training.precision = \"bf16\"`; features: lower `--batch-images`; end other programs \
                           that use the device";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let failed = as_errors(|| panic!("broken invariant")).unwrap_err().to_string();
        assert!(
            failed.starts_with("internal error: broken invariant ("),
            "{failed}"
        );
        as_errors(|| Ok(())).unwrap();
    }

    #[test]
    fn the_end_of_the_memory_is_named() {
        let message =
            "Failed to read\nCaused by:\n  out of device memory allocating 8589934592 bytes\n  0: backtrace";
        assert_eq!(
            error_of(message).to_string(),
            "the device ran out of memory: out of device memory allocating 8589934592 bytes"
        );
        assert!(!ran_out_of_memory("an illegal address"));
    }
}
