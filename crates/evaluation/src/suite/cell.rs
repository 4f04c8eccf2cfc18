//! One cell of a suite's table: an encoder, a data set and a protocol, with its scores or the reason why they are missing.

use crate::result::Outcome;
use serde::Serialize;
use std::collections::HashSet;

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

/// What is not new in the test images of the data sets, a line each: first what holds for all encoders.
pub(super) fn remarks(cells: &[Cell]) -> Vec<String> {
    let (mut of_data, mut of_encoders) = (vec![], vec![]);
    for cell in cells {
        let overlaps = cell
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.overlap.as_ref());
        for overlap in overlaps {
            let lines = overlap.of_data().into_iter();
            of_data.extend(lines.map(|line| format!("Not new on {}: {line}", cell.data_set)));
            let line = overlap.of_encoder();
            let place = format!("{} on {}", cell.encoder, cell.data_set);
            of_encoders.extend(line.map(|line| format!("Not new to {place}: {line}")));
        }
    }
    let mut seen = HashSet::new();
    of_data.extend(of_encoders);
    of_data.retain(|line| seen.insert(line.clone()));
    of_data
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
