//! How the learning rate moves over a run.

use backbones::Progress;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The learning rate's schedule, as a factor of the peak rate. TOML: one table, e.g. `[schedule.cosine_per_epoch]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// `0.5 (1 + cos(pi e / E))` with `e` the completed epochs: constant within an epoch, as MoCo v2 has it.
    CosinePerEpoch {},
    /// The same with `e / E` counted in steps, as SwAV and DINO have it.
    CosinePerStep {},
    /// Multiplied by `factor` at each milestone, as MoCo v1 (0.1 at 120 and 160 of 200 epochs).
    Steps {
        /// Completed epochs from which the next factor holds, rising.
        milestones_epochs: Vec<usize>,
        /// Multiplier at each milestone, above 0 and at most 1.
        factor: f64,
    },
    /// The peak rate throughout.
    Constant {},
}

impl ScheduleConfig {
    /// Refuses milestones that do not rise and factors outside 0..1.
    pub fn validate(&self) -> Result<(), String> {
        let Self::Steps {
            milestones_epochs,
            factor,
        } = self
        else {
            return Ok(());
        };
        if !milestones_epochs.is_sorted_by(|a, b| a < b) {
            return Err(format!(
                "`schedule.steps.milestones_epochs` must rise, got {milestones_epochs:?}"
            ));
        }
        if !(*factor > 0.0 && *factor <= 1.0) {
            return Err(format!(
                "`schedule.steps.factor` must be above 0 and at most 1, got {factor}"
            ));
        }
        Ok(())
    }

    /// The factor on the peak rate during the step that `progress` names.
    pub fn factor(&self, progress: &Progress) -> f64 {
        let cosine = |done: f64| 0.5 * (1.0 + (PI * done).cos());
        match self {
            Self::CosinePerEpoch {} => cosine(progress.epoch() as f64 / progress.epochs() as f64),
            Self::CosinePerStep {} => cosine(progress.step as f64 / progress.steps as f64),
            Self::Steps {
                milestones_epochs,
                factor,
            } => {
                let passed = milestones_epochs
                    .iter()
                    .filter(|epoch| progress.epoch() >= **epoch)
                    .count();
                factor.powi(passed as i32)
            }
            Self::Constant {} => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: usize) -> Progress {
        Progress {
            step,
            steps_per_epoch: 10,
            steps: 2000,
        }
    }

    #[test]
    fn cosine_per_epoch_stands_still_within_an_epoch() {
        let schedule = ScheduleConfig::CosinePerEpoch {};
        assert_eq!(schedule.factor(&at(0)), 1.0);
        assert_eq!(schedule.factor(&at(9)), 1.0);
        assert_eq!(schedule.factor(&at(10)), 0.5 * (1.0 + (PI / 200.0).cos()));
        assert!((schedule.factor(&at(1000)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn steps_multiply_at_each_milestone() {
        let schedule = ScheduleConfig::Steps {
            milestones_epochs: vec![120, 160],
            factor: 0.1,
        };
        assert_eq!(schedule.factor(&at(1199)), 1.0);
        assert_eq!(schedule.factor(&at(1200)), 0.1);
        assert!((schedule.factor(&at(1600)) - 0.01).abs() < 1e-15);
        assert!(
            ScheduleConfig::Steps {
                milestones_epochs: vec![5, 5],
                factor: 0.1
            }
            .validate()
            .is_err()
        );
    }
}
