//! What goes wrong in a run without an error, by name, and what to do about it.

use serde::{Deserialize, Serialize};

/// What an alarm found. The names stand in `alarms.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// All images have nearly the same embedding.
    Collapse,
    /// Embeddings lie in a few of their dimensions.
    LowRank,
    /// Nearly all images are assigned to the same few prototypes.
    DeadPrototypes,
    /// The loss rests at the value of a network that has learned nothing.
    ChanceLoss,
    /// The loss is far above the values that it had.
    Diverging,
    /// The gradients overflow f16 at ever smaller loss scales.
    LossScale,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 6] = [
        Self::Collapse,
        Self::LowRank,
        Self::DeadPrototypes,
        Self::ChanceLoss,
        Self::Diverging,
        Self::LossScale,
    ];

    /// What it means for the run, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Collapse => {
                "all images have nearly the same embedding, so the network tells them apart no more"
            }
            Self::LowRank => {
                "the embeddings lie in one or two of their dimensions, so most of the network is of no use"
            }
            Self::DeadPrototypes => "nearly all images are assigned to the same few prototypes",
            Self::ChanceLoss => "the loss rests at the value of a network that has learned nothing",
            Self::Diverging => "the training diverges: loss or gradients are far above those of its start",
            Self::LossScale => {
                "gradients overflow f16 at ever smaller loss scales, so ever more steps are skipped"
            }
        }
    }

    /// Advice for any method, with this optimizer.
    pub(crate) fn general_remedies(self, optimizer: &str) -> Vec<Remedy> {
        let rate = format!("optimizer.{optimizer}.learning_rate_per_256");
        let warmup = Remedy::new("schedule", "warm the learning rate up over more epochs", GOYAL);
        let lower = |source| Remedy::new(&rate, "lower it, by a factor of 3 to 10", source);
        match self {
            Self::Collapse | Self::LowRank | Self::DeadPrototypes | Self::ChanceLoss => {
                vec![lower(GOYAL), warmup]
            }
            Self::Diverging => vec![
                lower(GOYAL),
                warmup,
                Remedy::new(
                    "training.clip_gradients",
                    "clip gradients, as in `{ per_parameter_norm = 3.0 }`",
                    "Caron et al. 2021, arXiv:2104.14294",
                ),
            ],
            Self::LossScale => vec![
                Remedy::new(
                    "training.precision",
                    "use \"bf16\", or leave the key out",
                    "Micikevicius et al. 2018, arXiv:1710.03740, section 3",
                ),
                lower(GOYAL),
            ],
        }
    }

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collapse => "collapse",
            Self::LowRank => "low_rank",
            Self::DeadPrototypes => "dead_prototypes",
            Self::ChanceLoss => "chance_loss",
            Self::Diverging => "diverging",
            Self::LossScale => "loss_scale",
        }
    }
}

/// On the learning rate of large batches, its sections 2.1 and 2.2.
const GOYAL: &str = "Goyal et al. 2017, arXiv:1706.02677";

/// Advice against a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// The config key to turn, with its full name.
    pub key: String,
    /// How to turn it, as an imperative: `lower it to 0.04`.
    pub advice: String,
    /// The paper or issue that gives it.
    pub source: String,
}

impl Remedy {
    /// Advice on a key with its full name.
    pub fn new(key: impl Into<String>, advice: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            advice: advice.into(),
            source: source.into(),
        }
    }
}
