//! Keys of a config that count epochs, steps or images in, the settings that cannot take effect in a run out.
//!
//! A warmup that is longer than the run never ends, and a queue that is larger than the data holds every image
//! twice. Each section of a config lists its keys as [`Count`]s, and this file alone holds them against the
//! run's length and the data's size. What the method's paper means is lost: an error. It takes effect, but
//! less than the value says: a warning.

use crate::course::cosine;
use data::{counted, percent};

/// A key that counts, with the condition under which it takes effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    key: String,
    needs: Needs,
    /// What happens otherwise: `the last layer would never learn`.
    otherwise: &'static str,
}

/// The condition.
#[derive(Clone, Debug, PartialEq)]
enum Needs {
    /// At most this many epochs less than the run has: 0 for a course that arrives in its last epoch, 1 for a
    /// phase that must be over by then. It begins after `from` epochs.
    Epochs { value: usize, from: usize, less: usize },
    /// One of these epochs is in the run; a later one is in vain.
    OneOfEpochs(Vec<usize>),
    /// One of these steps is in the run; a later one is in vain.
    OneOfSteps(Vec<usize>),
    /// An interval of at most the run's epochs.
    EveryEpochs(usize),
    /// An interval of at most the run's steps.
    EverySteps(usize),
    /// A queue of at most the data less a batch, filled within the run from this epoch on.
    Queue {
        images: usize,
        from_epoch: usize,
        /// Whether it is used only once it is full.
        when_full: bool,
    },
    /// A moving average that leaves its first value within the run, by this momentum at the start and, if it
    /// changes, at the end.
    Momentum { start: f64, end: Option<f64> },
}

/// The run's length and the data's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLength {
    /// Passes over the data, a last one that is cut short included.
    pub epochs: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Optimizer steps per pass.
    pub steps_per_epoch: usize,
    /// Records of the data set.
    pub records: usize,
    /// Images per optimizer step.
    pub batch_images: usize,
}

impl Count {
    /// A phase of the first `value` epochs that must be over before the run's last epoch.
    pub fn phase(key: &str, value: usize, otherwise: &'static str) -> Self {
        Self::of(
            key,
            otherwise,
            Needs::Epochs {
                value,
                from: 0,
                less: 1,
            },
        )
    }

    /// A course over `value` epochs, after `from` others, whose end must be reached.
    pub fn course(key: &str, value: usize, from: usize, otherwise: &'static str) -> Self {
        Self::of(key, otherwise, Needs::Epochs { value, from, less: 0 })
    }

    /// Epochs at which something happens, of which the run must reach one.
    pub fn milestones(key: &str, epochs: &[usize], otherwise: &'static str) -> Self {
        Self::of(key, otherwise, Needs::OneOfEpochs(epochs.to_vec()))
    }

    /// Steps at which something happens, of which the run must reach one.
    pub fn milestones_steps(key: &str, steps: &[usize], otherwise: &'static str) -> Self {
        Self::of(key, otherwise, Needs::OneOfSteps(steps.to_vec()))
    }

    /// Epochs between two events.
    pub fn every_epochs(key: &str, value: usize, otherwise: &'static str) -> Self {
        Self::of(key, otherwise, Needs::EveryEpochs(value))
    }

    /// Steps between two events.
    pub fn every_steps(key: &str, value: usize, otherwise: &'static str) -> Self {
        Self::of(key, otherwise, Needs::EverySteps(value))
    }

    /// A queue of the keys or embeddings of earlier images, used from the first step on. `otherwise` says what
    /// an image meets in a queue that is larger than the data.
    pub fn queue(key: &str, images: usize, otherwise: &'static str) -> Self {
        let needs = Needs::Queue {
            images,
            from_epoch: 0,
            when_full: false,
        };
        Self::of(key, otherwise, needs)
    }

    /// The same, filled after `from_epoch` epochs and used once it is full.
    pub fn queue_when_full(key: &str, images: usize, from_epoch: usize, otherwise: &'static str) -> Self {
        let needs = Needs::Queue {
            images,
            from_epoch,
            when_full: true,
        };
        Self::of(key, otherwise, needs)
    }

    /// The momentum per step of an average of weights, at the start and, if it changes by a cosine, at the end.
    pub fn momentum(key: &str, start: f64, end: Option<f64>) -> Self {
        Self::of(
            key,
            "are still its initial weights",
            Needs::Momentum { start, end },
        )
    }

    fn of(key: &str, otherwise: &'static str, needs: Needs) -> Self {
        let key = key.to_owned();
        Self {
            key,
            needs,
            otherwise,
        }
    }

    /// The same key, in a table of the config.
    pub fn within(self, table: &str) -> Self {
        Self {
            key: format!("{table}.{}", self.key),
            ..self
        }
    }

    /// Epochs that a run needs at least for the key to be what it says, whatever the data.
    pub fn epochs_needed(&self) -> usize {
        match &self.needs {
            Needs::Epochs { value, from, less } => value + from + less,
            Needs::OneOfEpochs(milestones) => milestones.iter().min().map_or(0, |first| first + 1),
            _ => 0,
        }
    }

    /// Gives an error if a run of this many epochs cannot be what the key says, whatever the data.
    fn check_epochs(&self, epochs: usize) -> Result<(), String> {
        let Self { key, otherwise, .. } = self;
        match &self.needs {
            Needs::Epochs { value, from, less } if value + from + less > epochs => {
                let bound = match (from, less) {
                    (0, 0) => format!("at most the run's {}", counted(epochs, "epoch")),
                    (0, _) => format!("less than the run's {}", counted(epochs, "epoch")),
                    (from, _) => format!(
                        "at most {}, what the run's {epochs} epochs leave after {from}",
                        epochs.saturating_sub(*from)
                    ),
                };
                Err(format!("`{key}` must be {bound}, got {value}: {otherwise}"))
            }
            Needs::OneOfEpochs(milestones)
                if milestones.iter().min().is_some_and(|first| *first >= epochs) =>
            {
                Err(format!(
                    "`{key}` must have one below the run's {}, got {milestones:?}: {otherwise}",
                    counted(epochs, "epoch")
                ))
            }
            _ => Ok(()),
        }
    }

    /// Gives an error as [`check_epochs`](Self::check_epochs) does and for a queue that is never used, or the
    /// warnings.
    fn check(&self, run: &RunLength) -> Result<Vec<String>, String> {
        self.check_epochs(run.epochs)?;
        let Self { key, otherwise, .. } = self;
        let steps = run.steps;
        let mut warnings = Vec::new();
        match &self.needs {
            Needs::Epochs { .. } => {}
            Needs::OneOfEpochs(milestones) => warnings.extend(in_vain(key, milestones, run.epochs, "epoch")),
            Needs::OneOfSteps(milestones) => {
                if milestones.iter().min().is_some_and(|first| *first >= steps) {
                    return Err(format!(
                        "`{key}` must have one below the run's {}, got {milestones:?}: {otherwise}",
                        counted(steps, "step")
                    ));
                }
                warnings.extend(in_vain(key, milestones, steps, "step"));
            }
            Needs::EveryEpochs(every) if *every > run.epochs => {
                warnings.push(format!(
                    "`{key}` = {every} is more than the run's {}: {otherwise}",
                    counted(run.epochs, "epoch")
                ));
            }
            Needs::EverySteps(every) if *every > steps => {
                warnings.push(format!(
                    "`{key}` = {every} is more than the run's {}: {otherwise}",
                    counted(steps, "step")
                ));
            }
            Needs::EveryEpochs(_) | Needs::EverySteps(_) => {}
            Needs::Queue {
                images,
                from_epoch,
                when_full,
            } => {
                let pushed = steps.saturating_sub(from_epoch * run.steps_per_epoch) * run.batch_images;
                if *when_full && *images >= pushed {
                    return Err(format!(
                        "`{key}` must be less than the {pushed} images of the run's {} epochs from epoch {from_epoch} on, got \
                         {images}: the queue is used once it is full, and never would be",
                        run.epochs
                    ));
                }
                let others = run.records.saturating_sub(run.batch_images);
                if *images > others {
                    warnings.push(format!(
                        "`{key}` = {images} is more than the data set's {} records less a batch of {}: {otherwise}",
                        run.records, run.batch_images
                    ));
                }
                if *images > pushed {
                    warnings.push(format!(
                        "`{key}` = {images} is more than the {pushed} images of the whole run: the queue never loses the last of \
                         the random vectors that it starts with"
                    ));
                }
            }
            Needs::Momentum { start, end } => {
                let share = left_of_the_first(*start, *end, steps);
                if share > MOST_INITIAL {
                    warnings.push(format!(
                        "`{key}` = {start} is slow for the run's {}: at its end, {} of the average {otherwise}",
                        counted(steps, "step"),
                        percent(share, 0)
                    ));
                }
            }
        }
        Ok(warnings)
    }
}

/// The warning for milestones that the run does not reach.
fn in_vain(key: &str, milestones: &[usize], length: usize, unit: &str) -> Option<String> {
    let vain: Vec<usize> = milestones.iter().copied().filter(|at| *at >= length).collect();
    let length = counted(length, unit);
    let warning = format!("`{key}`: {vain:?} are not below the run's {length} and have no effect");
    (!vain.is_empty()).then_some(warning)
}

/// Share of its first value in an average, above which a run is too short for the average's momentum.
const MOST_INITIAL: f64 = 0.5;

/// Steps at which a changing momentum is looked at, at most; it changes slowly.
const SAMPLES: usize = 10_000;

/// The share of its first value that an average keeps over `steps` steps.
fn left_of_the_first(start: f64, end: Option<f64>, steps: usize) -> f64 {
    let samples = steps.clamp(1, SAMPLES);
    let logarithms = match end {
        None => start.ln(),
        Some(end) => {
            let at = |sample: usize| cosine(start, end, sample as f64 / samples as f64).ln();
            (0..samples).map(at).sum::<f64>() / samples as f64
        }
    };
    (logarithms * steps as f64).exp()
}

/// Gives an error if a run of this many epochs is too short for one of the keys, whatever the data.
///
/// # Errors
/// The key, its valid range, its value, and what would happen.
pub fn check_epochs(counts: &[Count], epochs: usize) -> Result<(), String> {
    counts.iter().try_for_each(|count| count.check_epochs(epochs))
}

/// The warnings about keys that take less effect in this run than their values say.
///
/// # Errors
/// As [`check_epochs`], and a queue that the run never fills and so never uses.
pub fn check_counts(counts: &[Count], run: &RunLength) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    for count in counts {
        warnings.extend(count.check(run)?);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 records in batches of 10.
    fn run(epochs: usize) -> RunLength {
        RunLength {
            epochs,
            steps: 10 * epochs,
            steps_per_epoch: 10,
            records: 100,
            batch_images: 10,
        }
    }

    fn warned(count: Count, epochs: usize) -> Vec<String> {
        check_counts(&[count.within("table")], &run(epochs)).unwrap()
    }

    fn refused(count: Count, epochs: usize) -> String {
        let count = [count.within("table")];
        check_counts(&count, &run(epochs)).unwrap_err()
    }

    #[test]
    fn a_phase_must_end_and_a_course_must_arrive_within_the_run() {
        let phase = || Count::phase("frozen", 5, "it never learns");
        assert_eq!(
            refused(phase(), 5),
            "`table.frozen` must be less than the run's 5 epochs, got 5: it never learns"
        );
        assert!(warned(phase(), 6).is_empty());
        assert_eq!(phase().epochs_needed(), 6);
        let course = || Count::course("warm", 5, 0, "it never arrives");
        assert_eq!(
            refused(course(), 4),
            "`table.warm` must be at most the run's 4 epochs, got 5: it never arrives"
        );
        assert!(warned(course(), 5).is_empty());
        let later = || Count::course("warm", 5, 3, "it never arrives");
        assert_eq!(
            refused(later(), 7),
            "`table.warm` must be at most 4, what the run's 7 epochs leave after 3, got 5: it never arrives"
        );
        assert!(warned(later(), 8).is_empty());
        assert_eq!((course().epochs_needed(), later().epochs_needed()), (5, 8));
        // The epochs alone are enough for these errors, before the data are opened.
        assert!(check_epochs(&[phase()], 5).is_err() && check_epochs(&[phase()], 6).is_ok());
    }

    #[test]
    fn one_milestone_must_come_and_those_in_vain_are_named() {
        let milestones = || Count::milestones("at", &[6, 8, 12], "the rate never falls");
        assert!(refused(milestones(), 6).contains("got [6, 8, 12]: the rate never falls"));
        assert_eq!(
            warned(milestones(), 8),
            ["`table.at`: [8, 12] are not below the run's 8 epochs and have no effect"]
        );
        assert!(warned(milestones(), 13).is_empty());
        assert_eq!(milestones().epochs_needed(), 7);
        assert!(warned(Count::milestones("at", &[], ""), 1).is_empty());
    }

    #[test]
    fn intervals_longer_than_the_run_are_named() {
        let epochs = || Count::every_epochs("every", 3, "none before the end");
        assert_eq!(
            warned(epochs(), 1),
            ["`table.every` = 3 is more than the run's 1 epoch: none before the end"]
        );
        assert_eq!(
            warned(epochs(), 2),
            ["`table.every` = 3 is more than the run's 2 epochs: none before the end"]
        );
        assert!(warned(epochs(), 3).is_empty());
        let steps = || Count::every_steps("every", 20, "one line");
        assert_eq!(warned(steps(), 1).len(), 1);
        assert!(warned(steps(), 2).is_empty());
    }

    #[test]
    fn a_queue_holds_no_more_than_the_data_less_a_batch_and_is_filled() {
        let queue = |images| Count::queue("images", images, "an image meets its own keys");
        assert!(warned(queue(90), 1).is_empty());
        assert_eq!(
            warned(queue(100), 1),
            [
                "`table.images` = 100 is more than the data set's 100 records less a batch of 10: an image meets its own keys"
            ]
        );
        // The run has 200 images.
        assert_eq!(warned(queue(210), 2).len(), 2);
        assert_eq!(warned(queue(200), 2).len(), 1);

        let late = |images, from| Count::queue_when_full("images", images, from, "its own embeddings");
        // Full after 9 of the 10 steps, used in the last one.
        assert!(warned(late(90, 1), 2).is_empty());
        assert_eq!(
            refused(late(100, 1), 2),
            "`table.images` must be less than the 100 images of the run's 2 epochs from epoch 1 on, got 100: the queue is used \
             once it is full, and never would be"
        );
        assert!(check_counts(&[late(10, 5)], &run(2)).is_err());
    }

    #[test]
    fn an_average_that_hardly_moves_is_named() {
        // 0.99^10 = 0.904, 0.99^70 = 0.495.
        let constant = || Count::momentum("momentum", 0.99, None);
        let warning = &warned(constant(), 1)[0];
        assert!(
            warning.contains("the run's 10 steps: at its end, 90 % of the average"),
            "{warning}"
        );
        assert!(warned(constant(), 7).is_empty());
        // Towards 1 it moves less: the mean of ln m is about half as large.
        assert_eq!(warned(Count::momentum("momentum", 0.99, Some(1.0)), 7).len(), 1);
        assert!(warned(Count::momentum("momentum", 0.99, Some(1.0)), 15).is_empty());
        // No average at all, and one that never moves.
        assert!(warned(Count::momentum("momentum", 0.0, None), 1).is_empty());
        assert!(warned(Count::momentum("momentum", 1.0, None), 1_000_000)[0].contains("100 %"));
        // Nearly all is not all.
        assert!(warned(Count::momentum("momentum", 0.999_99, None), 1)[0].contains(" 99.99 % of"));
    }
}
