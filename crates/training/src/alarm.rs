//! Rules over the lines of the log: a line in, the alarms that begin with it out.
//!
//! A rule looks at signals alone, so that the lines of a run say again what they said before: a resumed run reads them and goes on
//! where it was. Each rule must hold for several lines and a number of steps on end, because healthy runs touch most limits for a
//! moment. The limits are ours: papers give end points only. `docs/watching.md` shows runs on both sides of each.

use crate::cause::{Cause, Remedy};
use crate::log_line::LogLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An alarm, a line of `alarms.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What was found.
    pub alarm: Cause,
    /// The step of the line of the log that completed it.
    pub step: usize,
    /// The epoch of that line, from 0.
    pub epoch: usize,
    /// The first step of the lines that show it without a break.
    pub since_step: usize,
    /// The signal, as in the log; `loss` and `loss_scale` are the line's own.
    pub signal: String,
    /// Its value in that line.
    pub value: f64,
    /// The limit that it is beyond.
    pub limit: f64,
    /// What it means, in a sentence.
    pub meaning: String,
    /// What to do about it, the method's own advice first.
    pub remedies: Vec<Remedy>,
    /// When it was found, seconds since 1970-01-01 UTC.
    pub unix_seconds: f64,
}

/// A limit that a line is beyond.
struct Beyond {
    signal: &'static str,
    value: f64,
    limit: f64,
}

/// Lines on end that show a cause.
#[derive(Clone, Copy, Debug)]
struct Streak {
    lines: usize,
    since_step: usize,
}

/// What the rules know of a run besides its lines.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) steps_per_epoch: usize,
    pub(crate) batch_images: usize,
    /// Those of the method, if it has any.
    pub(crate) prototypes: Option<usize>,
}

/// Lines on end that a rule needs at least.
const LINES: usize = 3;

/// The rules of a run, and what the lines until now showed.
#[derive(Debug)]
pub(crate) struct Rules {
    setting: Setting,
    streaks: BTreeMap<Cause, Streak>,
    /// The loss and the gradient norm of the lines before a possible divergence.
    calm: Calm,
}

/// A finding that has lasted, without its words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) cause: Cause,
    pub(crate) signal: &'static str,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    pub(crate) since_step: usize,
}

impl Rules {
    pub(crate) fn new(setting: Setting) -> Self {
        Self {
            setting,
            streaks: BTreeMap::new(),
            calm: Calm::default(),
        }
    }

    /// Takes a line; returns the causes that it and those before it show for long enough, also those that they showed before.
    pub(crate) fn take(&mut self, line: &LogLine) -> Vec<Finding> {
        let mut found = vec![];
        for cause in Cause::ALL {
            let Some(beyond) = self.beyond(cause, line) else {
                self.streaks.remove(&cause);
                continue;
            };
            let patience = self.patience(cause);
            let streak = self.streaks.entry(cause).or_insert(Streak {
                lines: 0,
                since_step: line.step,
            });
            streak.lines += 1;
            if streak.lines >= LINES && line.step - streak.since_step >= patience {
                found.push(Finding {
                    cause,
                    signal: beyond.signal,
                    value: beyond.value,
                    limit: beyond.limit,
                    since_step: streak.since_step,
                });
            }
        }
        self.calm.take(line);
        found
    }

    /// Steps on end that a cause must show for.
    fn patience(&self, cause: Cause) -> usize {
        let epoch = self.setting.steps_per_epoch;
        match cause {
            // The first epochs of healthy runs rest there too.
            Cause::ChanceLoss => (3 * epoch / 2).clamp(60, 10_000),
            Cause::Diverging | Cause::LossScale => 5,
            Cause::Collapse | Cause::LowRank | Cause::DeadPrototypes => (epoch / 4).clamp(20, 1_000),
        }
    }

    /// The limit of a cause that a line is beyond.
    fn beyond(&self, cause: Cause, line: &LogLine) -> Option<Beyond> {
        let of = |signal: &'static str| line.signals.get(signal).map(|value| f64::from(*value));
        let below = |signal: &'static str, value: f64, limit: f64| {
            (value < limit).then_some(Beyond { signal, value, limit })
        };
        let above = |signal: &'static str, value: f64, limit: f64| {
            (value > limit).then_some(Beyond { signal, value, limit })
        };
        let of_representation = matches!(cause, Cause::Collapse | Cause::LowRank | Cause::DeadPrototypes);
        // Initial weights, above all of vision transformers, give all images nearly the same features.
        if of_representation && line.step <= self.setting.steps_per_epoch.clamp(40, 5_000) {
            return None;
        }
        match cause {
            // VICReg's embeddings have a scale: its variance term is 1 if they are one point, also where rounding spreads the
            // directions of what is left.
            Cause::Collapse => match of("variance") {
                Some(variance) if variance > 0.95 => above("variance", variance, 0.95),
                _ => below("embedding_spread", of("embedding_spread")?, 0.05),
            },
            Cause::LowRank => below("embedding_rank", of("embedding_rank")?, 1.6),
            Cause::DeadPrototypes => {
                // No more prototypes can be in use than the averaged steps have images.
                let prototypes = self.setting.prototypes?.min(10 * self.setting.batch_images);
                below(
                    "prototypes_used",
                    of("prototypes_used")?,
                    (prototypes as f64 / 64.0).max(2.0),
                )
            }
            Cause::ChanceLoss => {
                let value = of("loss_over_chance")?;
                let near = (value - 1.0).abs() < CHANCE;
                near.then_some(Beyond {
                    signal: "loss_over_chance",
                    value,
                    limit: 1.0 - CHANCE,
                })
            }
            Cause::Diverging => match (of("loss_over_chance"), self.calm.norm()) {
                (Some(value), _) if self.calm.near_chance && value > 1.25 => {
                    above("loss_over_chance", value, 1.25)
                }
                (_, Some(calm)) => above("gradient_norm", of("gradient_norm")?, 100.0 * calm),
                _ => None,
            },
            Cause::LossScale => {
                let scale = line.loss_scale?;
                below("loss_scale", scale, 1.0)
            }
        }
    }
}

/// How near the chance value a loss counts as resting there, as a share of it.
const CHANCE: f64 = 0.005;

/// Lines that say what is usual.
const CALM_LINES: usize = 10;

/// What the first lines of a run were like.
#[derive(Debug, Default)]
struct Calm {
    norms: Vec<f64>,
    /// Whether the loss has come down to its chance value: MAE's begins far above it.
    near_chance: bool,
}

impl Calm {
    fn take(&mut self, line: &LogLine) {
        let over_chance = line.signals.get("loss_over_chance");
        self.near_chance |= over_chance.is_some_and(|value| *value < 1.2);
        if let Some(norm) = line
            .signals
            .get("gradient_norm")
            .filter(|_| self.norms.len() < CALM_LINES)
        {
            self.norms.push(f64::from(*norm));
        }
    }

    /// The median gradient norm.
    fn norm(&self) -> Option<f64> {
        if self.norms.len() < CALM_LINES {
            return None;
        }
        let mut norms = self.norms.clone();
        norms.sort_unstable_by(f64::total_cmp);
        Some(norms[norms.len() / 2])
    }
}

#[cfg(test)]
mod tests;
