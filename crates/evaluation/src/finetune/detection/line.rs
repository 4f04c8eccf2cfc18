//! A line of a detector's `validation.jsonl`.

use crate::finetune::curve::CurveLine;
use serde::{Deserialize, Serialize};

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

impl CurveLine for EvaluationLine {
    fn step(&self) -> usize {
        self.step
    }

    fn score(&self) -> Option<f64> {
        self.box_ap
    }
}
