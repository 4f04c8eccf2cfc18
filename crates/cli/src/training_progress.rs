//! The events of a training loop in, a bar and lines on stderr out.

use crate::on_event::EventCommand;
use crate::output::counted;
use crate::progress::ProgressBar;
use data::significant;
use std::path::Path;
use training::{Alarm, Event, LogLine, NewLength, Summary};

/// The display of one run.
pub(crate) struct TrainingProgress<'a> {
    out: &'a Path,
    bar: Option<ProgressBar>,
    command: EventCommand,
}

impl<'a> TrainingProgress<'a> {
    /// The display of a run in this directory, and the command that is run at its events.
    pub(crate) fn new(out: &'a Path, command: EventCommand) -> Self {
        Self {
            out,
            bar: None,
            command,
        }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &Event<'_>) {
        self.command.pass(event);
        match event {
            Event::NewLength(new) => {
                let NewLength {
                    before,
                    steps,
                    done,
                    jump,
                } = new;
                let now = format!("the run gets {} in place of {before}", counted(*steps, "step"));
                match jump {
                    None => eprintln!("{now}: its {done} steps so far are those of a run of that length"),
                    Some(jump) => tracing::warn!(
                        "{now}; a run of that length would have had other rates in the {done} steps so far: {jump}"
                    ),
                }
            }
            Event::Start {
                step,
                steps,
                steps_per_epoch,
                peak_learning_rate,
            } => {
                let from = match step {
                    0 => String::new(),
                    step => format!(" from step {step}"),
                };
                eprintln!(
                    "{}{from} ({steps_per_epoch} an epoch), peak learning rate {}, run directory `{}`",
                    counted(*steps, "step"),
                    significant(*peak_learning_rate, 4),
                    self.out.display()
                );
                self.bar = Some(ProgressBar::new("step", *step as u64, *steps as u64));
            }
            Event::Step { step } => {
                if let Some(bar) = &mut self.bar {
                    bar.at(*step as u64);
                }
            }
            Event::Log(line) => self.note(
                line.step,
                &format!(
                    "epoch {} loss {} lr {} {} images/s{}{}",
                    line.epoch + 1,
                    significant(line.loss.into(), 5),
                    significant(line.learning_rate, 4),
                    significant(line.images_per_second, 3),
                    on_device(line),
                    skipped(line.skipped_steps.unwrap_or(0))
                ),
            ),
            Event::Alarm(alarm) => tracing::warn!("{}", in_words(alarm)),
            Event::Checkpoint(checkpoint) => tracing::info!("checkpoint `{}`", checkpoint.path.display()),
        }
    }

    /// A line about the run at a step.
    pub(crate) fn note(&mut self, step: usize, note: &str) {
        if let Some(bar) = &mut self.bar {
            bar.note(step as u64, note);
        }
    }

    /// Ends the bar; more events are not shown.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    /// Ends the display of a run that ended so.
    pub(crate) fn end<E: std::fmt::Display>(mut self, result: Result<&Summary, &E>) {
        self.finish();
        self.command.end(result);
    }
}

/// An alarm for people: what it is, what shows it, and what to do, each on a line.
pub(crate) fn in_words(alarm: &Alarm) -> String {
    let beyond = if alarm.value < alarm.limit {
        "below"
    } else {
        "above"
    };
    let mut text = format!(
        "alarm `{}` at step {}: {}\n  {} is {}, {beyond} {} since step {}",
        alarm.alarm.name(),
        alarm.step,
        alarm.meaning,
        alarm.signal,
        significant(alarm.value, 3),
        significant(alarm.limit, 3),
        alarm.since_step
    );
    for remedy in &alarm.remedies {
        text += &format!("\n  try: `{}`: {} ({})", remedy.key, remedy.advice, remedy.source);
    }
    text
}

/// `, GPU 87% busy, 3.0 GiB`: what the device's driver reports; empty if it reports nothing.
fn on_device(line: &LogLine) -> String {
    let busy = line
        .device_busy
        .map(|share| format!("{:.0}% busy", share * 100.0));
    let memory = line
        .device_memory_mib
        .map(|mib| format!("{:.1} GiB", mib as f64 / 1024.0));
    let known: Vec<String> = busy.into_iter().chain(memory).collect();
    match known.is_empty() {
        true => String::new(),
        false => format!(", GPU {}", known.join(", ")),
    }
}

/// The steps that f16's loss scale skipped since the run's start, for a progress line; empty if there are
/// none.
pub(crate) fn skipped(steps: usize) -> String {
    match steps {
        0 => String::new(),
        steps => format!(", {} skipped (loss scale)", counted(steps, "step")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_says_what_the_devices_driver_reports() {
        let text = r#"{"step":1,"epoch":0,"loss":1,"learning_rate":1,"signals":{},"images_per_second":1,"data_wait":0}"#;
        let mut line: LogLine = serde_json::from_str(text).unwrap();
        assert_eq!(on_device(&line), "");
        line.device_memory_mib = Some(3072);
        assert_eq!(on_device(&line), ", GPU 3.0 GiB");
        line.device_busy = Some(0.87);
        assert_eq!(on_device(&line), ", GPU 87% busy, 3.0 GiB");
    }
}
