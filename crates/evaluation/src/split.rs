//! The two splits of a data set: train and test.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the train split in errors.
pub(crate) const TRAIN: &str = "training";
/// Name of the test split in errors.
pub(crate) const TEST: &str = "test";

/// One of the two splits, for protocols that may use either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The records to learn from.
    Train,
    /// The records to score on.
    Test,
}

impl Split {
    /// The split's name in errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => TRAIN,
            Self::Test => TEST,
        }
    }
}
