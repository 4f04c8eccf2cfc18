//! One cell of a suite's table: an encoder, a data set and a protocol, with its scores or the reason why they are missing.

use crate::result::Outcome;
use serde::Serialize;

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Name of the encoder.
    pub encoder: String,
    /// Name of the data set.
    pub data_set: String,
    /// The protocol's name, with what distinguishes it from others of the same protocol.
    pub column: String,
    /// The data set's headline metric, if its description names one.
    pub metric: Option<String>,
    /// The scores; empty if they are missing.
    pub outcomes: Vec<Outcome>,
    /// Reason why the scores are missing.
    pub missing: Option<String>,
}

impl Cell {
    /// The score to show: the data set's headline metric if the protocol has it, else the protocol's.
    pub fn quoted(&self) -> Option<&Outcome> {
        let by_metric = |outcome: &&Outcome| Some(&outcome.metric) == self.metric.as_ref();
        let own = self.outcomes.iter().find(|outcome| outcome.headline);
        // Among several of that metric (the k of a sweep) choose the one with the headline's settings.
        let same = self.outcomes.iter().filter(by_metric);
        let variant = own.and_then(Outcome::variant);
        same.clone()
            .find(|outcome| outcome.variant() == variant)
            .or_else(|| self.outcomes.iter().find(by_metric))
            .or(own)
    }
}
