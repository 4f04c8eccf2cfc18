//! The two splits of a data set: the one to learn from and the one to be scored on.

use serde::{Deserialize, Serialize};

/// What errors call the train split.
pub(crate) const TRAIN: &str = "training";
/// What errors call the test split.
pub(crate) const TEST: &str = "test";

/// One of the two splits, where a protocol may use either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The records to learn from.
    Train,
    /// The records to be scored on.
    Test,
}

impl Split {
    /// What errors call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => TRAIN,
            Self::Test => TEST,
        }
    }
}
