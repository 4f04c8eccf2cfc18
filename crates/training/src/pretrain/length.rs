//! Another length for a run that is resumed: its steps before and from now on in, whether the steps done are still those of such
//! a run out.
//!
//! No schedule is known here: the rates of every step that is done are computed with both lengths and compared.

use super::plan::Plan;
use crate::checkpoint::CheckpointDir;
use crate::error::Error;
use crate::objective::Objective;
use backbones::RunPosition;
use data::significant;
use std::collections::BTreeSet;
use std::path::Path;
use toml::{Table, Value};

/// A length that a run gets where it is resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLength {
    /// Optimizer steps of the whole run before.
    pub before: usize,
    /// Optimizer steps of the whole run from now on.
    pub steps: usize,
    /// Optimizer steps done.
    pub done: usize,
    /// What jumps between the newest step and the next one; `None` if all steps are those of a run that had the new length from
    /// its start.
    pub jump: Option<String>,
}

/// Keys of `[training]` that give the length.
const KEYS: [&str; 2] = ["epochs", "steps"];

/// The config with the length of `other`.
pub(super) fn with_length_of(mut config: Table, other: &Table) -> Table {
    let of_other = |key: &str| other.get("training").and_then(|training| training.get(key));
    if let Some(training) = config.get_mut("training").and_then(Value::as_table_mut) {
        for key in KEYS {
            match of_other(key) {
                Some(value) => training.insert(key.into(), value.clone()),
                None => training.remove(key),
            };
        }
    }
    config
}

/// The optimizer steps of a config's run; `None` if it gives no length.
pub(super) fn steps_of(config: &Table, steps_per_epoch: usize) -> Option<usize> {
    let training = config.get("training")?;
    let [epochs, steps] = KEYS.map(|key| {
        let value = training.get(key).and_then(Value::as_integer);
        value.and_then(|value| usize::try_from(value).ok())
    });
    steps.or_else(|| epochs.map(|epochs| epochs.saturating_mul(steps_per_epoch)))
}

impl<O: Objective, C> Plan<'_, O, C> {
    /// What becomes of a run of `before` steps, with these checkpoints, under this plan.
    ///
    /// # Errors
    /// Fewer steps than are done; and, unless it is allowed, steps that a run of the new length would have done with other rates.
    pub(super) fn new_length(
        &self,
        before: usize,
        checkpoints: &[CheckpointDir],
        run: &Path,
    ) -> Result<NewLength, Error> {
        let done = checkpoints.last().map_or(0, |newest| newest.step);
        if self.steps <= done {
            return Err(Error::Config(format!(
                "`training.epochs` or `training.steps` must be more than the {done} steps that `{}` has done, got {} steps",
                run.display(),
                self.steps
            )));
        }
        let other = (0..done).find(|step| self.course(*step, before) != self.course(*step, self.steps));
        let jump = other.map(|first| self.jump(first, before, done));
        if let (Some(jump), false) = (&jump, self.options.allow_jump) {
            let unspoiled = checkpoints
                .iter()
                .rfind(|checkpoint| other.is_some_and(|first| checkpoint.step <= first));
            return Err(Error::ResumeLength {
                path: run.to_owned(),
                before,
                steps: self.steps,
                done,
                jump: jump.clone(),
                unspoiled: unspoiled.map(|checkpoint| checkpoint.path.clone()),
            });
        }
        Ok(NewLength {
            before,
            steps: self.steps,
            done,
            jump,
        })
    }

    /// Everything that changes over a run, in this step of a run of `steps`.
    fn course(&self, step: usize, steps: usize) -> Vec<(&'static str, f64)> {
        let position = RunPosition::at(step, self.steps_per_epoch, steps);
        let rates = self.rates(&position);
        let mut course = vec![
            ("learning_rate", rates.learning_rate),
            ("weight_decay", rates.weight_decay),
        ];
        course.extend(self.objective.in_force(&position, self.config.data.batch_images));
        course
    }

    /// What of the course depends on the length, and where it goes from the newest step to the next one.
    fn jump(&self, first: usize, before: usize, done: usize) -> String {
        let newest = done.saturating_sub(1);
        let differ = |step: usize| {
            let both = self
                .course(step, before)
                .into_iter()
                .zip(self.course(step, self.steps));
            both.filter(|(old, new)| old != new).map(|((name, _), _)| name)
        };
        let names: BTreeSet<&str> = differ(first).chain(differ(newest)).collect();
        let both = self
            .course(newest, before)
            .into_iter()
            .zip(self.course(done, self.steps));
        let jumps: Vec<String> = both
            .filter(|((name, _), _)| names.contains(name))
            .map(|((name, old), (_, new))| {
                format!("`{name}` from {} to {}", significant(old, 4), significant(new, 4))
            })
            .collect();
        format!("from step {done} to step {} {}", done + 1, jumps.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_and_replaced_in_epochs_and_in_steps() {
        let config = |text: &str| text.parse::<Table>().unwrap();
        let epochs = config("seed = 1\n[training]\nepochs = 4\nkeep_checkpoints = 2");
        let steps = config("seed = 2\n[training]\nsteps = 30");
        assert_eq!(
            (steps_of(&epochs, 10), steps_of(&steps, 10)),
            (Some(40), Some(30))
        );
        assert_eq!(steps_of(&config("seed = 1"), 10), None);
        let expected = config("seed = 1\n[training]\nsteps = 30\nkeep_checkpoints = 2");
        assert_eq!(with_length_of(epochs, &steps), expected);
    }
}
