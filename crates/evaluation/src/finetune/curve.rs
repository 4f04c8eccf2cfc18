//! `validation.jsonl`: a line for each evaluation during training. Resumes keep earlier lines to the byte.

use crate::error::{Error, io};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// What the curve's file holds in each line.
pub(super) trait CurveLine: Serialize + DeserializeOwned {
    /// Optimizer steps done before the evaluation.
    fn step(&self) -> usize;

    /// What is compared to choose the best network; `None` is below all numbers.
    fn score(&self) -> Option<f64>;
}

/// The lines of a file, as text too: numbers that are read and written again can change their last digit.
#[derive(Debug)]
pub(super) struct Curve<L> {
    text: String,
    pub(super) lines: Vec<L>,
}

impl<L: CurveLine> Curve<L> {
    /// Lines of evaluations before `step`; empty without a file.
    pub(super) fn read(path: &Path, step: usize) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io("read", path)(error)),
        };
        let mut kept = Self {
            text: String::new(),
            lines: vec![],
        };
        for (place, text) in text.lines().enumerate() {
            // Without it, the best evaluation may be another one.
            let line: L = serde_json::from_str(text).map_err(|error| {
                let reason = format!("line {} is no evaluation: {error}", place + 1);
                io("read", path)(std::io::Error::other(reason))
            })?;
            if line.step() < step {
                kept.add(text, line);
            }
        }
        Ok(kept)
    }

    /// The line of the highest score, of equal ones the first.
    pub(super) fn best(&self) -> Option<&L> {
        let better = |best, line| {
            if L::score(line) > L::score(best) {
                line
            } else {
                best
            }
        };
        self.lines.iter().reduce(better)
    }

    /// Adds a line and writes all of them atomically.
    pub(super) fn push(&mut self, line: L, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string(&line).map_err(|error| io("write", path)(error.into()))?;
        self.add(&text, line);
        Ok(data::durable::write(path, self.text.as_bytes())?)
    }

    fn add(&mut self, text: &str, line: L) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(line);
    }
}
