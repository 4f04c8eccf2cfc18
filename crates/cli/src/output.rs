//! Output that does not end the program when it cannot be written: a closed pipe or a full disk behind
//! standard output must not lose a night's training. An error at the end reports the lost output.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a line of results was lost for another reason than a reader that closed the pipe.
static LOST: AtomicBool = AtomicBool::new(false);

/// Text of results, on standard output.
pub(crate) fn result(text: Arguments<'_>) {
    let written = std::io::stdout().lock().write_fmt(text);
    if written.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Whether only warnings and errors go to standard error: `--quiet`.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether the last note was a warning, whose list may follow in indented lines.
static WARNED: AtomicBool = AtomicBool::new(false);

/// Drops all notes to come but warnings, or shows them again: an error is reported in full.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether notes are dropped.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Text about the work, on standard error; its loss is ignored.
pub(crate) fn note(text: Arguments<'_>) {
    if is_quiet() {
        let text = text.to_string();
        let belongs_to_a_warning = text.starts_with("  ") && WARNED.load(Ordering::Relaxed);
        let is_warning = text.starts_with("warning:") || belongs_to_a_warning;
        WARNED.store(is_warning, Ordering::Relaxed);
        if !is_warning {
            return;
        }
    }
    let _ = std::io::stderr().lock().write_fmt(text);
}

/// Whether results were lost.
pub(crate) fn lost() -> bool {
    let flushed = std::io::stdout().flush();
    LOST.load(Ordering::Relaxed) || flushed.is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

pub(crate) use data::counted;

/// A word quoted so that a shell reads it back unchanged.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:=@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The lines of a text; words longer than a line have one of their own.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// Replaces the standard library's macro, which panics where it cannot write.
macro_rules! print {
    ($($text:tt)*) => { $crate::output::result(format_args!($($text)*)) };
}

/// Like [`print`].
macro_rules! println {
    () => { $crate::output::result(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::result(format_args!("{}\n", format_args!($($text)*))) };
}

/// Like [`print`].
macro_rules! eprintln {
    () => { $crate::output::note(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::note(format_args!("{}\n", format_args!($($text)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_they_may_be() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible one", 5), ["incomprehensible", "one"]);
        assert!(wrapped("", 5).is_empty());
    }
}
