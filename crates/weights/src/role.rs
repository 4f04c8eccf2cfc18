//! The choice between a method's two networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The choice between a method's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The network that the optimizer updated: MoCo's query encoder, MoCo-v3's base encoder.
    Student,
    /// The moving average of the student: MoCo's key encoder, MoCo-v3's momentum encoder.
    Teacher,
}

impl Role {
    /// `student` or `teacher`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Student => "student",
            Self::Teacher => "teacher",
        }
    }
}
