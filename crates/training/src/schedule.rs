//! The learning rate over a run.

use crate::counts::Count;
use crate::course::cosine;
use backbones::RunPosition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The learning rate schedule, relative to the optimizer's peak. TOML: one table, e.g.
/// `[schedule.cosine_per_epoch]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// After the warmup, `end + 0.5 (peak - end) (1 + cos(pi e / E))`, where `e` counts completed epochs of
    /// the `E` remaining ones: constant within an epoch, as in MoCo v2.
    CosinePerEpoch {
        /// A linear warmup to the peak; absent: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        warmup: Option<Warmup>,
        /// The final learning rate of the cosine; the batch size does not scale it; absent: 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        end_learning_rate: Option<f64>,
    },
    /// The same with `e / E` counted in steps, as in SwAV, DINO and MoCo-v3.
    CosinePerStep {
        /// A linear warmup to the peak; absent: none. DINO and SwAV: 10 epochs.
        #[serde(skip_serializing_if = "Option::is_none")]
        warmup: Option<Warmup>,
        /// The final learning rate of the cosine; the batch size does not scale it; absent: 0. DINO: 1e-6.
        #[serde(skip_serializing_if = "Option::is_none")]
        end_learning_rate: Option<f64>,
    },
    /// Multiplied by `factor` at each milestone, as in MoCo v1 (0.1 at 120 and 160 of 200 epochs).
    Steps {
        /// Completed epochs at which the factor applies again, in ascending order.
        milestones_epochs: Vec<usize>,
        /// Multiplier at each milestone, above 0 and at most 1.
        factor: f64,
    },
    /// Multiplied by `factor` at each milestone, counted in steps, and linearly more in a warmup: the schedule of
    /// detectron2 and of torchvision's detection references.
    Milestones {
        /// Steps after which the factor applies again, in ascending order. COCO's 1x schedule: 60,000 and 80,000 of
        /// 90,000.
        milestones_steps: Vec<usize>,
        /// Multiplier at each milestone, above 0 and at most 1. 0.1 in both references.
        factor: f64,
        /// A warmup of the factor; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warmup: Option<FactorWarmup>,
    },
    /// The peak rate between a warmup and a decay that takes the end of the run, so that a run can be made longer until the
    /// decay begins: Hu et al., *MiniCPM*, [2024](https://arxiv.org/abs/2404.06395), §4; Hägele et al., *Scaling laws and
    /// compute-optimal training beyond fixed training durations*, [2024](https://arxiv.org/abs/2405.18392), §3.
    WarmupStableDecay {
        /// A linear warmup to the peak; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warmup: Option<Warmup>,
        /// Share of the run's steps in which the rate decays, above 0 and below 1. MiniCPM: 0.1; Hägele et al.: 0.2.
        decay_fraction: f64,
        /// The decay's shape.
        decay: Decay,
        /// The learning rate that the decay ends at; the batch size does not scale it; absent: 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end_learning_rate: Option<f64>,
    },
    /// The peak rate throughout.
    Constant {},
}

/// The shape of a decay, of which a share `d` from 0 to 1 is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// `1 - d`.
    Linear,
    /// `1 - sqrt(d)`: lower losses than the linear one in Hägele et al., §3.
    OneMinusSquareRoot,
}

impl Decay {
    /// The share of the way from the end to the peak.
    fn left(self, done: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - done,
            Self::OneMinusSquareRoot => 1.0 - done.sqrt(),
        }
    }
}

/// A warmup in which the learning rate is multiplied by `start_factor + (1 - start_factor) · step / steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactorWarmup {
    /// Length in steps, at least 1. Both references: 1,000.
    pub steps: usize,
    /// The factor of the first step, 0 to 1. Both references: 0.001.
    pub start_factor: f64,
}

/// A linear warmup of the learning rate, step by step (or epoch by epoch under `cosine_per_epoch`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Length in epochs, at least 1. DINO, SwAV: 10; MoCo-v3's and MAE's ViT: 40.
    pub epochs: usize,
    /// The first step's learning rate; the batch size does not scale it. SwAV: 0.3; elsewhere 0.
    pub start_learning_rate: f64,
    /// The step at which the line reaches the peak.
    pub reaches_peak: ReachesPeak,
}

/// The step at which a warmup reaches the peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReachesPeak {
    /// In the warmup's last step: numpy's `linspace`, as in DINO and SwAV.
    AtItsLastStep,
    /// In the step after the warmup: `peak * step / steps`, as in MoCo-v3 and MAE.
    AfterIt,
}

impl ScheduleConfig {
    /// Gives an error for milestones that do not ascend, rates below 0, and a warmup as long as the run, whose epochs
    /// are known only with the data if it counts steps.
    pub fn validate(&self, table: &str, epochs: Option<usize>) -> Result<(), String> {
        let factor_is_valid = |key: &str, factor: f64| match factor > 0.0 && factor <= 1.0 {
            true => Ok(()),
            false => Err(format!(
                "`{table}.{key}.factor` must be above 0 and at most 1, got {factor}"
            )),
        };
        match self {
            Self::Constant {} => Ok(()),
            Self::CosinePerEpoch {
                warmup,
                end_learning_rate,
            }
            | Self::CosinePerStep {
                warmup,
                end_learning_rate,
            } => {
                let name = format!("{table}.{}", self.name());
                check_end(&name, *end_learning_rate)?;
                check_warmup(&name, warmup.as_ref(), epochs)
            }
            Self::WarmupStableDecay {
                warmup,
                decay_fraction,
                end_learning_rate,
                ..
            } => {
                let name = format!("{table}.{}", self.name());
                if !(*decay_fraction > 0.0 && *decay_fraction < 1.0) {
                    return Err(format!(
                        "`{name}.decay_fraction` must be above 0 and below 1, got {decay_fraction}"
                    ));
                }
                check_end(&name, *end_learning_rate)?;
                check_warmup(&name, warmup.as_ref(), epochs)?;
                let risen = warmup.as_ref().map_or(0, |warmup| warmup.epochs);
                if let Some(epochs) =
                    epochs.filter(|epochs| *epochs < epochs_before_decay(risen, *decay_fraction))
                {
                    return Err(format!(
                        "`{name}.warmup.epochs` must leave the last {:.1} of the run's {epochs} epochs to the decay, got {risen}",
                        epochs as f64 * decay_fraction
                    ));
                }
                Ok(())
            }
            Self::Steps {
                milestones_epochs,
                factor,
            } => {
                if !milestones_epochs.is_sorted_by(|a, b| a < b) {
                    return Err(format!(
                        "`{table}.steps.milestones_epochs` must rise, got {milestones_epochs:?}"
                    ));
                }
                factor_is_valid("steps", *factor)
            }
            Self::Milestones {
                milestones_steps,
                factor,
                warmup,
            } => {
                if !milestones_steps.is_sorted_by(|a, b| a < b) {
                    return Err(format!(
                        "`{table}.milestones.milestones_steps` must rise, got {milestones_steps:?}"
                    ));
                }
                factor_is_valid("milestones", *factor)?;
                let Some(warmup) = warmup else { return Ok(()) };
                if warmup.steps == 0 {
                    return Err(format!(
                        "`{table}.milestones.warmup.steps` must be at least 1, got 0"
                    ));
                }
                if !(0.0..=1.0).contains(&warmup.start_factor) {
                    return Err(format!(
                        "`{table}.milestones.warmup.start_factor` must be from 0 to 1, got {}",
                        warmup.start_factor
                    ));
                }
                Ok(())
            }
        }
    }

    /// Its key in configs.
    fn name(&self) -> &'static str {
        match self {
            Self::CosinePerEpoch { .. } => "cosine_per_epoch",
            Self::CosinePerStep { .. } => "cosine_per_step",
            Self::Steps { .. } => "steps",
            Self::Milestones { .. } => "milestones",
            Self::WarmupStableDecay { .. } => "warmup_stable_decay",
            Self::Constant {} => "constant",
        }
    }

    /// The keys that count epochs or steps.
    pub fn counts(&self) -> Vec<Count> {
        let otherwise = "the learning rate would never fall";
        match self {
            Self::Steps {
                milestones_epochs, ..
            } => vec![Count::milestones(
                "schedule.steps.milestones_epochs",
                milestones_epochs,
                otherwise,
            )],
            Self::Milestones {
                milestones_steps,
                warmup,
                ..
            } => {
                let milestones = Count::milestones_steps(
                    "schedule.milestones.milestones_steps",
                    milestones_steps,
                    otherwise,
                );
                let warmup = warmup.as_ref().map(|warmup| {
                    Count::every_steps(
                        "schedule.milestones.warmup.steps",
                        warmup.steps,
                        "the learning rate never reaches its peak",
                    )
                });
                std::iter::once(milestones).chain(warmup).collect()
            }
            // A warmup's length is checked above.
            Self::CosinePerEpoch { .. }
            | Self::CosinePerStep { .. }
            | Self::WarmupStableDecay { .. }
            | Self::Constant {} => vec![],
        }
    }

    /// The learning rate at the step in `progress`.
    pub fn learning_rate(&self, peak: f64, progress: &RunPosition) -> f64 {
        match self {
            Self::CosinePerEpoch {
                warmup,
                end_learning_rate,
            } => warmed_cosine(
                peak,
                end_learning_rate.unwrap_or(0.0),
                warmup.as_ref(),
                1,
                progress.epoch(),
                progress.epochs(),
            ),
            Self::CosinePerStep {
                warmup,
                end_learning_rate,
            } => warmed_cosine(
                peak,
                end_learning_rate.unwrap_or(0.0),
                warmup.as_ref(),
                progress.steps_per_epoch,
                progress.step,
                progress.steps,
            ),
            Self::Steps {
                milestones_epochs,
                factor,
            } => {
                let passed = milestones_epochs
                    .iter()
                    .filter(|epoch| progress.epoch() >= **epoch)
                    .count();
                peak * factor.powi(passed as i32)
            }
            Self::Milestones {
                milestones_steps,
                factor,
                warmup,
            } => {
                let step = progress.step;
                let passed = milestones_steps.iter().filter(|at| step >= **at).count();
                let risen = warmup.as_ref().filter(|warmup| step < warmup.steps);
                let rising = risen.map_or(1.0, |warmup| {
                    let start = warmup.start_factor;
                    start + (1.0 - start) * step as f64 / warmup.steps as f64
                });
                peak * factor.powi(passed as i32) * rising
            }
            Self::WarmupStableDecay {
                warmup,
                decay_fraction,
                decay,
                end_learning_rate,
            } => {
                let (step, steps) = (progress.step, progress.steps);
                let rising = warmup
                    .as_ref()
                    .map_or(0, |warmup| warmup.epochs * progress.steps_per_epoch);
                if let Some(warmup) = warmup.as_ref().filter(|_| step < rising) {
                    return warmup.learning_rate(peak, step, rising);
                }
                let stable = stable_steps(*decay_fraction, steps);
                if step <= stable {
                    return peak;
                }
                let done = (step - stable) as f64 / (steps - stable).max(1) as f64;
                let end = end_learning_rate.unwrap_or(0.0);
                end + (peak - end) * decay.left(done.min(1.0))
            }
            Self::Constant {} => peak,
        }
    }

    /// Steps before the decay at the end of a run of so many, where a run can still be made longer or shorter; `None` for
    /// schedules without such a place.
    pub(crate) fn steps_before_decay(&self, steps: usize) -> Option<usize> {
        match self {
            Self::WarmupStableDecay { decay_fraction, .. } => Some(stable_steps(*decay_fraction, steps)),
            _ => None,
        }
    }

    /// Epochs that a run needs at least for the warmup to end and a milestone to come.
    pub fn epochs_needed(&self) -> usize {
        let of_milestones = self.counts().iter().map(Count::epochs_needed).max().unwrap_or(0);
        match self {
            Self::CosinePerEpoch { warmup, .. } | Self::CosinePerStep { warmup, .. } => {
                let of_warmup = warmup
                    .as_ref()
                    .map_or(0, |warmup| warmup.epochs.saturating_add(1));
                of_milestones.max(of_warmup)
            }
            Self::WarmupStableDecay {
                warmup: Some(warmup),
                decay_fraction,
                ..
            } => epochs_before_decay(warmup.epochs, *decay_fraction).max(warmup.epochs.saturating_add(1)),
            Self::WarmupStableDecay { .. } => of_milestones,
            Self::Steps { .. } | Self::Milestones { .. } | Self::Constant {} => of_milestones,
        }
    }

    /// Removes the warmup and the milestones, which would not fit into a smoke test's one epoch.
    pub fn for_smoke_test(&mut self) {
        match self {
            Self::CosinePerEpoch { warmup, .. }
            | Self::CosinePerStep { warmup, .. }
            | Self::WarmupStableDecay { warmup, .. } => *warmup = None,
            Self::Steps {
                milestones_epochs, ..
            } => milestones_epochs.clear(),
            Self::Milestones {
                milestones_steps,
                warmup,
                ..
            } => {
                milestones_steps.clear();
                *warmup = None;
            }
            Self::Constant {} => {}
        }
    }
}

impl Warmup {
    /// The rate after `done` of its `rising` units.
    fn learning_rate(&self, peak: f64, done: usize, rising: usize) -> f64 {
        let line = match self.reaches_peak {
            ReachesPeak::AtItsLastStep => rising.saturating_sub(1).max(1),
            ReachesPeak::AfterIt => rising,
        };
        let start = self.start_learning_rate;
        start + (peak - start) * done as f64 / line as f64
    }
}

/// Gives an error for a last learning rate below 0; `name` is the schedule's table.
fn check_end(name: &str, end: Option<f64>) -> Result<(), String> {
    match end {
        Some(end) if !(end.is_finite() && end >= 0.0) => Err(format!(
            "`{name}.end_learning_rate` must be at least 0, got {end}"
        )),
        _ => Ok(()),
    }
}

/// Gives an error for a warmup as long as the run, and for a first rate below 0; `name` is the schedule's table.
fn check_warmup(name: &str, warmup: Option<&Warmup>, epochs: Option<usize>) -> Result<(), String> {
    let Some(warmup) = warmup else { return Ok(()) };
    let epochs = epochs.unwrap_or(usize::MAX);
    if epochs < 2 {
        return Err(format!(
            "`{name}.warmup` needs a run of at least 2 epochs, and this one has {epochs}"
        ));
    }
    if warmup.epochs == 0 || warmup.epochs >= epochs {
        return Err(format!(
            "`{name}.warmup.epochs` must be at least 1 and less than the run's {epochs} epochs, got {}",
            warmup.epochs
        ));
    }
    if !(warmup.start_learning_rate.is_finite() && warmup.start_learning_rate >= 0.0) {
        return Err(format!(
            "`{name}.warmup.start_learning_rate` must be at least 0, got {}",
            warmup.start_learning_rate
        ));
    }
    Ok(())
}

/// Steps of a run before a decay that takes this share of them, and at least its last step.
fn stable_steps(decay_fraction: f64, steps: usize) -> usize {
    let decaying = (decay_fraction * steps as f64).round() as usize;
    steps - decaying.clamp(1.min(steps), steps)
}

/// Epochs of the shortest run whose decay begins after `warmup` epochs.
fn epochs_before_decay(warmup: usize, decay_fraction: f64) -> usize {
    // Less than a rounding error.
    (warmup as f64 / (1.0 - decay_fraction) - 1e-9).ceil().max(0.0) as usize
}

/// `done` of `all` units, with `per_epoch` units per epoch.
fn warmed_cosine(
    peak: f64,
    end: f64,
    warmup: Option<&Warmup>,
    per_epoch: usize,
    done: usize,
    all: usize,
) -> f64 {
    let rising = warmup.map_or(0, |warmup| warmup.epochs * per_epoch);
    if let Some(warmup) = warmup
        && done < rising
    {
        return warmup.learning_rate(peak, done, rising);
    }
    let left = all.saturating_sub(rising).max(1);
    cosine(peak, end, (done - rising) as f64 / left as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    fn at(step: usize) -> RunPosition {
        RunPosition::at(step, 10, 2000)
    }

    #[test]
    fn cosine_per_epoch_stands_still_within_an_epoch() {
        let schedule = ScheduleConfig::CosinePerEpoch {
            warmup: None,
            end_learning_rate: None,
        };
        assert_eq!(schedule.learning_rate(1.0, &at(0)), 1.0);
        assert_eq!(schedule.learning_rate(1.0, &at(9)), 1.0);
        assert_eq!(
            schedule.learning_rate(1.0, &at(10)),
            0.5 * (1.0 + (PI / 200.0).cos())
        );
        assert!((schedule.learning_rate(1.0, &at(1000)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn steps_multiply_at_each_milestone() {
        let schedule = ScheduleConfig::Steps {
            milestones_epochs: vec![120, 160],
            factor: 0.1,
        };
        assert_eq!(schedule.learning_rate(1.0, &at(1199)), 1.0);
        assert_eq!(schedule.learning_rate(1.0, &at(1200)), 0.1);
        assert!((schedule.learning_rate(1.0, &at(1600)) - 0.01).abs() < 1e-15);
        assert!(
            ScheduleConfig::Steps {
                milestones_epochs: vec![5, 5],
                factor: 0.1
            }
            .validate("schedule", Some(10))
            .is_err()
        );
    }

    #[test]
    fn milestones_count_steps_and_rise_from_a_factor() {
        let schedule = ScheduleConfig::Milestones {
            milestones_steps: vec![60, 80],
            factor: 0.1,
            warmup: Some(FactorWarmup {
                steps: 20,
                start_factor: 0.001,
            }),
        };
        // torch.optim.lr_scheduler.LinearLR(start_factor=0.001, total_iters=20) times MultiStepLR.
        for (step, expected) in [
            (0, 0.02 * 0.001),
            (10, 0.02 * 0.5005),
            (20, 0.02),
            (59, 0.02),
            (60, 0.002),
            (80, 0.0002),
        ] {
            let rate = schedule.learning_rate(0.02, &at(step));
            assert!((rate - expected).abs() < 1e-15, "{step}: {rate}");
        }
        assert_eq!(schedule.validate("schedule", None), Ok(()));
    }

    fn warmed(reaches_peak: ReachesPeak) -> ScheduleConfig {
        ScheduleConfig::CosinePerStep {
            warmup: Some(Warmup {
                epochs: 10,
                start_learning_rate: 0.25,
                reaches_peak,
            }),
            end_learning_rate: Some(0.125),
        }
    }

    #[test]
    fn warm_ups_meet_the_peak_where_they_say() {
        // 10 epochs of 10 steps: step 99 is the warmup's last.
        let dino = warmed(ReachesPeak::AtItsLastStep);
        let moco = warmed(ReachesPeak::AfterIt);
        for schedule in [&dino, &moco] {
            assert_eq!(schedule.learning_rate(1.25, &at(0)), 0.25);
            assert_eq!(schedule.learning_rate(1.25, &at(100)), 1.25);
            // Half of the remaining 1,900 steps.
            let half = schedule.learning_rate(1.25, &at(1050));
            assert!((half - (0.125 + 1.125 / 2.0)).abs() < 1e-12);
        }
        assert_eq!(dino.learning_rate(1.25, &at(99)), 1.25);
        assert!((moco.learning_rate(1.25, &at(99)) - (0.25 + 0.99)).abs() < 1e-12);
        let error = dino.validate("schedule", Some(10)).unwrap_err();
        assert!(error.contains("less than the run's 10 epochs"), "{error}");
        assert_eq!(dino.validate("schedule", Some(11)), Ok(()));
    }

    fn stable(decay: Decay) -> ScheduleConfig {
        ScheduleConfig::WarmupStableDecay {
            warmup: Some(Warmup {
                epochs: 10,
                start_learning_rate: 0.0,
                reaches_peak: ReachesPeak::AfterIt,
            }),
            decay_fraction: 0.2,
            decay,
            end_learning_rate: Some(0.25),
        }
    }

    #[test]
    fn a_stable_rate_decays_over_the_last_share_of_the_run() {
        // 2,000 steps: 100 of warmup, 1,500 of the peak, 400 of decay.
        for (decay, quarter) in [(Decay::Linear, 0.75), (Decay::OneMinusSquareRoot, 0.5)] {
            let schedule = stable(decay);
            assert_eq!(schedule.validate("schedule", Some(200)), Ok(()));
            assert_eq!(schedule.learning_rate(1.25, &at(50)), 1.25 * 0.5);
            for step in [100, 1000, 1600] {
                assert_eq!(schedule.learning_rate(1.25, &at(step)), 1.25);
            }
            assert_eq!(schedule.learning_rate(1.25, &at(1700)), 0.25 + quarter);
            assert_eq!(schedule.learning_rate(1.25, &at(2000)), 0.25);
            assert_eq!(schedule.steps_before_decay(2000), Some(1600));
            // Until the decay, no step knows the length of the run.
            for step in 0..=1600 {
                let longer = RunPosition::at(step, 10, 9000);
                assert_eq!(
                    schedule.learning_rate(1.25, &at(step)),
                    schedule.learning_rate(1.25, &longer)
                );
            }
        }
        assert_eq!(stable(Decay::Linear).steps_before_decay(1), Some(0));
    }

    #[test]
    fn a_warmup_ends_before_the_decay_begins() {
        let schedule = stable(Decay::Linear);
        assert_eq!(schedule.epochs_needed(), 13);
        assert_eq!(schedule.validate("schedule", Some(13)), Ok(()));
        let error = schedule.validate("schedule", Some(12)).unwrap_err();
        assert_eq!(
            error,
            "`schedule.warmup_stable_decay.warmup.epochs` must leave the last 2.4 of the run's 12 epochs to the decay, got 10"
        );
        for decay_fraction in [0.0, 1.0, f64::NAN] {
            let schedule = ScheduleConfig::WarmupStableDecay {
                warmup: None,
                decay_fraction,
                decay: Decay::Linear,
                end_learning_rate: None,
            };
            let error = schedule.validate("schedule", None).unwrap_err();
            assert!(
                error.contains("decay_fraction` must be above 0 and below 1"),
                "{error}"
            );
        }
    }
}
