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

    /// Gives an error if lines of the `earlier` evaluations before `step` are lost: a worse network would be kept as the best.
    ///
    /// # Errors
    /// Fewer lines.
    pub(super) fn check_earlier(&self, earlier: usize, step: usize, path: &Path) -> Result<(), Error> {
        if self.lines.len() >= earlier {
            return Ok(());
        }
        let reason = format!(
            "it must have the {earlier} evaluations before step {step}, got {}: without the others the best network may be another \
             one. Put a copy of the file back, or start a new run",
            self.lines.len()
        );
        Err(io("read", path)(std::io::Error::other(reason)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize)]
    struct Line {
        step: usize,
    }

    impl CurveLine for Line {
        fn step(&self) -> usize {
            self.step
        }

        fn score(&self) -> Option<f64> {
            None
        }
    }

    #[test]
    fn a_curve_that_lost_evaluations_chooses_no_network() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("validation.jsonl");
        std::fs::write(&path, "{\"step\":4}\n{\"step\":8}\n").unwrap();
        let curve = Curve::<Line>::read(&path, 12).unwrap();
        curve.check_earlier(2, 12, &path).unwrap();
        let error = curve.check_earlier(3, 16, &path).unwrap_err().to_string();
        assert!(
            error.contains("must have the 3 evaluations before step 16, got 2") && error.contains("copy"),
            "{error}"
        );
    }
}
