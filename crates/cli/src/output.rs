//! Lines for the user that do not end the program where nobody can take them: a closed pipe or a full disk behind standard
//! output is no reason to lose a night's training. An error at the end reports what could not be written.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a line of results was lost, other than by a reader who has seen enough.
static LOST: AtomicBool = AtomicBool::new(false);

/// Text of results, on standard output.
pub(crate) fn result(text: Arguments<'_>) {
    let written = std::io::stdout().lock().write_fmt(text);
    if written.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Text about the work, on standard error, whose loss changes nothing.
pub(crate) fn note(text: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_fmt(text);
}

/// Whether results were lost.
pub(crate) fn lost() -> bool {
    let flushed = std::io::stdout().flush();
    LOST.load(Ordering::Relaxed) || flushed.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

/// `1 step`, `2 steps`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// In the place of the standard library's, which panics where it cannot write.
macro_rules! print {
    ($($text:tt)*) => { $crate::output::result(format_args!($($text)*)) };
}

/// As [`print`].
macro_rules! println {
    () => { $crate::output::result(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::result(format_args!("{}\n", format_args!($($text)*))) };
}

/// As [`print`].
macro_rules! eprintln {
    () => { $crate::output::note(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::note(format_args!("{}\n", format_args!($($text)*))) };
}
