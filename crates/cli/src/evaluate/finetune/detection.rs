//! Configs that fine-tune a detector.

use super::{Config, SMOKE_IMAGES};
use crate::configs::Kind;
use ::detection::rcnn::Norm;
use burn::tensor::Device;
use data::{Dataset, Metadata, Record};
use evaluation::finetune::detection::{self, EvaluationLine};
use evaluation::finetune::{LoadedDetector, Recipe, Start};
use std::path::Path;

impl Config for detection::Config {
    const KIND: Kind = Kind::Detection;

    fn describe(&self) -> String {
        format!("{}: {}", self.protocol(), self.detection.network.describe())
    }

    fn open(data: &str) -> Result<Dataset, data::Error> {
        Dataset::open_with_objects(data)
    }

    fn read_detector(&self, path: &Path, device: &Device) -> anyhow::Result<LoadedDetector> {
        Ok(LoadedDetector::read(path, &self.detection.network, device)?)
    }

    fn synthetic(&mut self, start: Start<'_>) -> anyhow::Result<[Dataset; 2]> {
        self.for_smoke_test(SMOKE_IMAGES);
        if let Start::Scratch = start {
            // What is frozen would have weights of a file, which the smoke test of a config alone has not.
            let network = &mut self.detection.network;
            network.frozen_stages = 0;
            if network.backbone_norm == Norm::Frozen {
                network.backbone_norm = Norm::Trained;
            }
        }
        Ok([pictures(self, self.seed)?, pictures(self, self.seed + 1)?])
    }

    fn note(line: &EvaluationLine) -> (usize, String) {
        let percent = |value: Option<f64>| value.map_or("none".into(), |value| data::percent(value, 2));
        let mut note = format!(
            "{}: box AP {} AP50 {}",
            line.on,
            percent(line.box_ap),
            percent(line.box_ap50)
        );
        if line.mask_ap.is_some() {
            note += &format!(", mask AP {}", percent(line.mask_ap));
        }
        (line.step, note)
    }
}

/// Synthetic pictures with an object each: the left upper quarter.
fn pictures(config: &detection::Config, seed: u64) -> anyhow::Result<Dataset> {
    const PX: u32 = 160;
    let pictures = Dataset::synthetic(3 * SMOKE_IMAGES, PX, PX, 2, seed);
    let record = |position: usize| -> anyhow::Result<Record> {
        let record = pictures.read(position)?;
        let mut object = serde_json::json!({ "class": 0, "bbox": [0, 0, PX / 2, PX / 2] });
        if config.detection.network.masks.is_some() {
            let half = PX / 2;
            object["segmentation"] = serde_json::json!([[0, 0, half, 0, half, half, 0, half]]);
        }
        let listed = [
            ("width", PX.into()),
            ("height", PX.into()),
            ("objects", vec![object].into()),
        ];
        let other = listed.map(|(key, value): (&str, serde_json::Value)| (key.to_owned(), value));
        Ok(Record {
            label: None,
            metadata: Metadata {
                other: other.into_iter().collect(),
                ..Metadata::default()
            },
            ..record
        })
    };
    let records: Vec<Record> = (0..pictures.len()).map(record).collect::<Result<_, _>>()?;
    Ok(Dataset::from_records(records, vec![]).with_listed_objects()?)
}
