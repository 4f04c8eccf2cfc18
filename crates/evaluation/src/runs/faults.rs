//! The files of a run directory in, their contents out; what is missing or damaged is noted in words, without the folder's path.

use crate::result::{Outcome, read_results};
use data::{EncoderHeader, FileError};
use std::collections::BTreeMap;
use std::path::Path;
use training::CheckpointDir;

/// Steps, and the numbers of an evaluation after each.
pub(super) type Evaluations = Vec<(usize, BTreeMap<String, f64>)>;

/// Scores, with the file that holds them.
pub(super) type Results = Vec<(&'static str, Vec<Outcome>)>;

pub(super) const LOG: &str = "metrics.jsonl";
pub(super) const FACTS: &str = "run.json";
pub(super) const ENCODER: &str = "encoder.safetensors";
const VALIDATION: &str = "validation.jsonl";

/// What was found missing or damaged while a run was read.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<String>);

impl Faults {
    pub(super) fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    /// What was read, or its default.
    pub(super) fn of_file<T: Default>(&mut self, read: Result<T, FileError>) -> T {
        read.unwrap_or_else(|error| {
            self.add(without_folder(&error));
            T::default()
        })
    }

    /// `run.json`.
    pub(super) fn facts(&mut self, run: &Path) -> serde_json::Map<String, serde_json::Value> {
        let unknown = "device, command, data and length of the run are not known";
        let facts = match self.of_file(read_if_present(&run.join(FACTS))) {
            None => {
                self.add(format!("there is no {FACTS}: {unknown}"));
                return serde_json::Map::new();
            }
            Some(text) => serde_json::from_slice(&text),
        };
        facts.unwrap_or_else(|error| {
            self.add(format!("{FACTS} is damaged ({error}): {unknown}"));
            serde_json::Map::new()
        })
    }

    /// What the encoder file says of the data: that of the finished run, or of its newest checkpoint.
    pub(super) fn header(&mut self, run: &Path, checkpoint: Option<&CheckpointDir>) -> EncoderHeader {
        let own = run.join(ENCODER);
        let (name, path) = match (own.exists(), checkpoint) {
            (true, _) => (ENCODER.to_owned(), own),
            (false, Some(CheckpointDir { step, path })) => (
                format!("{ENCODER} of the checkpoint of step {step}"),
                path.join(ENCODER),
            ),
            (false, None) => return EncoderHeader::default(),
        };
        let whole = std::fs::File::open(&path)
            .map_err(|error| error.to_string())
            .and_then(|mut file| weights::Checkpoint::open(&mut file).map_err(|error| error.to_string()));
        let header = EncoderHeader::read(&path).ok().flatten();
        match (whole, header) {
            (Ok(_), Some(header)) => return header,
            (Ok(_), None) => self.add(format!("{name} is no encoder file of this program")),
            (Err(reason), _) => {
                self.add(format!(
                    "{name} cannot be read: {}",
                    data::terminal::escape(&reason)
                ));
            }
        }
        EncoderHeader::default()
    }

    pub(super) fn results(&mut self, run: &Path) -> Results {
        let mut results = vec![];
        for name in ["result.json", "evaluation/result.json"] {
            let path = run.join(name);
            if !path.exists() {
                continue;
            }
            match read_results(&path) {
                Ok(outcomes) => results.push((name, outcomes)),
                Err(_) => self.add(format!("{name} cannot be read, and its scores are not shown")),
            }
        }
        results
    }

    /// Every number of each line of a `validation.jsonl` but step, epoch and records, as `validation/NAME`; the last line may be
    /// half written.
    pub(super) fn validation(&mut self, run: &Path) -> Evaluations {
        let text = self
            .of_file(read_if_present(&run.join(VALIDATION)))
            .unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let (mut evaluations, mut damaged) = (vec![], 0);
        for line in text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match evaluation(line) {
                Some(evaluation) => evaluations.push(evaluation),
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            self.add(format!(
                "{damaged} of the {} lines of {VALIDATION} cannot be read",
                damaged + evaluations.len()
            ));
        }
        evaluations
    }
}

/// The step of a line of `validation.jsonl`, and its numbers.
fn evaluation(line: &[u8]) -> Option<(usize, BTreeMap<String, f64>)> {
    let line: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    let step = line.get("step")?.as_u64()?;
    let counts = ["step", "epoch", "records", "images"];
    let others = line
        .into_iter()
        .filter(|(name, _)| !counts.contains(&name.as_str()));
    let numbers = others.filter_map(|(name, value)| Some((format!("validation/{name}"), value.as_f64()?)));
    Some((step as usize, numbers.collect()))
}

/// A file's error with its name in place of its path.
pub(super) fn without_folder(error: &FileError) -> String {
    let name = error.path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name} cannot be read: {}", error.source)
}

/// The bytes of a file; `None` if there is none.
pub(super) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", path)(error)),
    }
}
