//! The files of a finished run: `result.json`, `detector.safetensors`, and what was found as COCO's results files.

use super::Settings;
use super::score::{BoxScores, EvaluationSet, Found, Scores};
use crate::error::Error;
use crate::result::Score;
use data::{Dataset, durable};
use detection::metrics::{CocoScores, Interval, Intervals, Kind, results_json};
use detection::rcnn::{Rcnn, RcnnConfig, TrainedOn, to_safetensors};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The detector with torchvision's names, which [`LoadedDetector`](crate::finetune::LoadedDetector) and `passer detect objects` read.
pub(super) const DETECTOR: &str = "detector.safetensors";

/// Writes [`DETECTOR`] and the results files, of boxes and of masks.
pub(super) fn write_files(
    out: &Path,
    network: &Rcnn,
    train: &Dataset,
    found: &Found,
    set: &EvaluationSet,
) -> Result<(), Error> {
    let names = train.class_names();
    let trained_on = TrainedOn {
        fingerprint: train.fingerprint().to_string(),
        sample: train.sample()?.clone(),
    };
    durable::write(&out.join(DETECTOR), &to_safetensors(network, names, &trained_on))?;
    let mut kinds = vec![("detections-boxes.json", Kind::Boxes)];
    if network.config().masks.is_some() {
        kinds.push(("detections-masks.json", Kind::Masks));
    }
    let category_id = |class: u32| set.category_ids[class as usize];
    for (name, kind) in kinds {
        let text = results_json(&found.results, kind, category_id, names)?;
        durable::write(&out.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The numbers of `result.json`; those without an object of their size are left out. `details` belong to each, and the
/// settings of `network` to the first one.
pub(super) fn scores(
    scores: &Scores,
    names: &[String],
    details: &Map<String, Value>,
    network: &RcnnConfig,
) -> Vec<Score> {
    let (of_boxes, of_masks) = match &scores.intervals {
        Some((boxes, masks)) => (Some(boxes), masks.as_ref()),
        None => (None, None),
    };
    let mut all = vec![];
    let mut push = |metric: &'static str, value: Option<f64>, interval: Option<Interval>, classes: Value| {
        let Some(value) = value else { return };
        let mut details = details.clone();
        if all.is_empty() {
            details.insert("network".into(), json!(network));
        }
        if let Some(interval) = interval {
            details.insert("interval_95".into(), json!([interval.low, interval.high]));
            details.insert(
                "confidence_95".into(),
                json!((interval.high - interval.low) / 2.0),
            );
        }
        if !classes.is_null() {
            details.insert("classes".into(), classes);
        }
        all.push(Score {
            metric,
            value,
            headline: metric == "box_ap",
            spread: None,
            details,
        });
    };
    match &scores.boxes {
        BoxScores::Voc(voc) => {
            let each = voc
                .classes
                .iter()
                .map(|class| (class.ap, class.truths, class.detections));
            let classes = by_class(each, names);
            push("box_ap", voc.ap, None, classes);
            push("box_ap50", voc.ap50, None, Value::Null);
            push("box_ap75", voc.ap75, None, Value::Null);
        }
        BoxScores::Coco(coco) => push_coco(coco, &BOXES, of_boxes, names, &mut push),
    }
    if let Some(masks) = &scores.masks {
        push_coco(masks, &MASKS, of_masks, names, &mut push);
    }
    all
}

/// AP, objects and results of each class, for `result.json`.
fn by_class(each: impl Iterator<Item = (Option<f64>, usize, usize)>, names: &[String]) -> Value {
    let line = |(class, (ap, truths, detections))| json!({ "name": names.get::<usize>(class), "ap": ap, "objects": truths, "detections": detections });
    each.enumerate().map(line).collect()
}

/// The names of COCO's twelve numbers, in its order.
const BOXES: [&str; 12] = [
    "box_ap",
    "box_ap50",
    "box_ap75",
    "box_ap_small",
    "box_ap_medium",
    "box_ap_large",
    "box_ar1",
    "box_ar10",
    "box_ar100",
    "box_ar_small",
    "box_ar_medium",
    "box_ar_large",
];

const MASKS: [&str; 12] = [
    "mask_ap",
    "mask_ap50",
    "mask_ap75",
    "mask_ap_small",
    "mask_ap_medium",
    "mask_ap_large",
    "mask_ar1",
    "mask_ar10",
    "mask_ar100",
    "mask_ar_small",
    "mask_ar_medium",
    "mask_ar_large",
];

fn push_coco(
    scores: &CocoScores,
    metrics: &[&'static str; 12],
    intervals: Option<&Intervals>,
    names: &[String],
    push: &mut dyn FnMut(&'static str, Option<f64>, Option<Interval>, Value),
) {
    let each = scores
        .classes
        .iter()
        .map(|class| (class.numbers.ap, class.truths, class.detections));
    let classes = by_class(each, names);
    for (index, (name, value)) in metrics.iter().zip(scores.mean.all()).enumerate() {
        let interval = match index {
            0 => intervals.and_then(|intervals| intervals.ap),
            1 => intervals.and_then(|intervals| intervals.ap50),
            _ => None,
        };
        let classes = if index == 0 { classes.clone() } else { Value::Null };
        push(name, value, interval, classes);
    }
}

/// Every setting of the run but the network's, for `result.json`.
pub(super) fn details(config: &training::Config<Settings>) -> Map<String, Value> {
    let mut details = match json!(config.objective) {
        Value::Object(details) => details,
        _ => Map::new(),
    };
    details.remove("network");
    for (key, value) in [
        ("seed", json!(config.seed)),
        ("batch_images", json!(config.data.batch_images)),
        ("optimizer", json!(config.optimizer)),
        ("schedule", json!(config.schedule)),
        ("training", json!(config.training)),
    ] {
        details.insert(key.into(), value);
    }
    details
}
