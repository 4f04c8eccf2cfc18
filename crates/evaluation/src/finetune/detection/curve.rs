//! `validation.jsonl`: one line for each evaluation during training.

use crate::error::{Error, io};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The scores of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationLine {
    /// Optimizer steps done.
    pub step: usize,
    /// Whole epochs done.
    pub epoch: usize,
    /// `"validation"` or `"test"`: the records that were scored.
    pub on: String,
    /// Mean AP of boxes over IoU 0.5 to 0.95; absent where there is no object.
    pub box_ap: Option<f64>,
    /// At IoU 0.5.
    pub box_ap50: Option<f64>,
    /// At IoU 0.75.
    pub box_ap75: Option<f64>,
    /// AP of masks, of a network that has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_ap: Option<f64>,
    /// Pictures.
    pub records: usize,
}

/// Lines of evaluations before `step`; empty without a file.
pub(super) fn read_lines(path: &Path, step: usize) -> Result<Vec<EvaluationLine>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(io("read", path)(error)),
    };
    let parse = |line: &str| serde_json::from_str(line).map_err(|error| io("read", path)(error.into()));
    let lines: Vec<EvaluationLine> = text.lines().map(parse).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line.step < step).collect())
}
