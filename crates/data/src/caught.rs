//! One record's work in, its result or the message of its panic out.
//!
//! No input should make this program panic, but a run over millions of files from strangers must not end on
//! the one file that does: its record is broken, counted and named like any other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`. What it shares with later work must be as good as new after a panic.
///
/// # Errors
/// The message of a panic in `work`.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "without a message",
    };
    // A failed `assert_eq!` has several lines.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        let empty: Vec<u8> = Vec::new();
        let error = caught(|| empty[7]).unwrap_err();
        assert!(error.contains("index out of bounds"), "{error}");
        let error = caught(|| assert_eq!(1, 2, "sides")).unwrap_err();
        assert_eq!(error, "assertion `left == right` failed: sides left: 1 right: 2");
        assert_eq!(
            caught(|| std::panic::panic_any(7)).unwrap_err(),
            "without a message"
        );
    }
}
