//! The events of a training loop in, a bar and lines on stderr out.

use crate::output::counted;
use crate::progress::ProgressBar;
use data::significant;
use std::path::Path;
use training::Event;

/// The display of one run.
pub(crate) struct TrainingProgress<'a> {
    out: &'a Path,
    bar: Option<ProgressBar>,
}

impl<'a> TrainingProgress<'a> {
    /// The display of a run in this directory.
    pub(crate) fn new(out: &'a Path) -> Self {
        Self { out, bar: None }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &Event<'_>) {
        match event {
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
                    "epoch {} loss {} lr {} {} images/s{}",
                    line.epoch + 1,
                    significant(line.loss.into(), 5),
                    significant(line.learning_rate, 4),
                    significant(line.images_per_second, 3),
                    skipped(line.skipped_steps.unwrap_or(0))
                ),
            ),
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
}

/// The steps that f16's loss scale skipped since the run's start, for a progress line; empty if there are
/// none.
pub(crate) fn skipped(steps: usize) -> String {
    match steps {
        0 => String::new(),
        steps => format!(", {} skipped (loss scale)", counted(steps, "step")),
    }
}
