//! Metrics of detectors: true objects and results in, COCO's and VOC's average precision out.
//!
//! [`coco`] gives COCO's twelve numbers for boxes or masks, with the digits of pycocotools 2.0.11. [`voc`] gives
//! Pascal VOC's average precision as detectron2 evaluates it. [`bootstrap`] gives intervals of AP and AP50, and
//! [`results_json`] the results as a file that other evaluators read. Nothing here needs a tensor or opens a file
//! (`docs/decisions/0019-coco-metrics.md`).

mod bootstrap;
mod check;
mod coco;
mod curve;
mod error;
mod json;
mod matching;
mod overlap;
#[cfg(test)]
mod parity;
mod results;
mod voc;

pub use bootstrap::{Interval, Intervals, bootstrap};
pub use coco::{ClassScores, CocoNumbers, CocoScores, coco};
pub use curve::{RECALL_POINTS, THRESHOLDS};
pub use error::MetricsError;
pub use json::results_json;
pub use matching::Matches;
pub use results::{ImageResults, Kind, Scored};
pub use voc::{VocClassScores, VocScores, VocYear, voc};
