//! The display of long work: a bar on a terminal, plain lines in a pipe. Both on stderr.

use indicatif::{MultiProgress, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// All bars, so that log lines and other output can be written above them.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// One long piece of work.
pub(crate) struct ProgressBar {
    bar: Option<indicatif::ProgressBar>,
    what: String,
    /// 0 where it is unknown, as while a list is read.
    total: u64,
    started: Instant,
    first: u64,
    shown: Instant,
}

impl ProgressBar {
    /// Work of `total` units, of which `done` are already done; a total of 0 is unknown.
    pub(crate) fn new(what: &str, done: u64, total: u64) -> Self {
        let bar = (std::io::stderr().is_terminal() && !crate::output::is_quiet()).then(|| {
            let template = match total {
                0 => "{prefix} {spinner} {pos} {msg}",
                _ => "{prefix} {bar:30} {pos}/{len} {msg} {eta} left",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = match total {
                0 => indicatif::ProgressBar::no_length(),
                _ => indicatif::ProgressBar::new(total),
            };
            let bar = bars().add(bar.with_style(style).with_prefix(what.to_string()));
            bar.set_position(done);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            what: what.to_string(),
            total,
            started: now,
            first: done,
            shown: now,
        }
    }

    /// Reports the progress; in a pipe at most every ten seconds.
    pub(crate) fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.shown.elapsed() >= Duration::from_secs(10) => {
                self.line(done, "");
            }
            None => {}
        }
    }

    /// Shows a message about the work beside its count.
    pub(crate) fn note(&mut self, done: u64, note: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(note.to_string()),
            None => self.line(done, note),
        }
    }

    fn line(&mut self, done: u64, note: &str) {
        self.shown = Instant::now();
        let since = done.saturating_sub(self.first);
        let left = match since {
            0 => None,
            since => {
                let seconds = self.started.elapsed().as_secs_f64() / since as f64
                    * (self.total.saturating_sub(done)) as f64;
                Some(seconds)
            }
        };
        eprintln!("{} {} {note}", self.what, amount(done, self.total, left));
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `40/100, 3 s left`; only the count where the total is unknown.
fn amount(done: u64, total: u64, seconds_left: Option<f64>) -> String {
    match (total, seconds_left) {
        (0, _) => done.to_string(),
        (_, None) => format!("{done}/{total}"),
        (_, Some(seconds)) => format!("{done}/{total}, {} left", duration(seconds)),
    }
}

/// Seconds in a readable form.
pub(crate) fn duration(seconds: f64) -> String {
    if (f64::MIN_POSITIVE..0.95).contains(&seconds) {
        return format!("{} s", data::significant(seconds, 1));
    }
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

static MUTED: AtomicBool = AtomicBool::new(false);

/// Drops all log lines to come, of a process whose log another one writes.
pub(crate) fn mute_log() {
    MUTED.store(true, Ordering::Relaxed);
}

/// The output of log lines: stderr, above the bars.
#[derive(Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if MUTED.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        bars().suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_read_well() {
        assert_eq!(super::duration(9.4), "9 s");
        assert_eq!(super::duration(75.0), "1 min 15 s");
        assert_eq!(super::duration(0.0), "0 s");
        assert_eq!(super::duration(0.0063), "0.006 s");
        assert_eq!(super::duration(0.97), "1 s");
        assert_eq!(super::duration(3720.0), "1 h 02 min");
    }

    #[test]
    fn an_unknown_total_is_not_told() {
        assert_eq!(super::amount(339, 0, Some(0.0)), "339");
        assert_eq!(super::amount(40, 100, None), "40/100");
        assert_eq!(super::amount(40, 100, Some(3.2)), "40/100, 3 s left");
    }
}
