//! Configs that fine-tune a classifier.

use super::{Config, SMOKE_IMAGES};
use crate::configs::Kind;
use crate::failure::Failure;
use burn::tensor::Device;
use data::Dataset;
use evaluation::finetune::{self, LoadedDetector, Recipe, Start, ValidationLine};
use std::path::Path;

impl Config for finetune::Config {
    const KIND: Kind = Kind::FineTuning;

    fn describe(&self) -> String {
        self.protocol()
    }

    fn open(data: &str) -> Result<Dataset, data::Error> {
        Dataset::open(data)
    }

    fn read_detector(&self, _: &Path, _: &Device) -> anyhow::Result<LoadedDetector> {
        Err(
            Failure::new("`--detector` is for configs with `[detection]`; use `--encoder` for the others")
                .into(),
        )
    }

    fn synthetic(&mut self, start: Start<'_>) -> anyhow::Result<[Dataset; 2]> {
        if matches!(start, Start::Scratch) && self.backbone.is_none() {
            return Err(Failure::new(
                "the config has no `[backbone]`, so a smoke test needs `--encoder` to know the network",
            )
            .into());
        }
        self.for_smoke_test(SMOKE_IMAGES);
        let (width, height) = training::dataset_views(&self.views)
            .first()
            .copied()
            .unwrap_or((32, 32));
        let (width, height) = (width.max(32) * 5 / 4, height.max(32) * 5 / 4);
        let records = |seed| Dataset::synthetic(3 * SMOKE_IMAGES, width, height, 2, seed);
        Ok([records(self.seed), records(self.seed + 1)])
    }

    fn note(line: &ValidationLine) -> (usize, String) {
        let note = format!(
            "epoch {} validation top1 {}",
            line.epoch,
            data::percent(line.top1, 2)
        );
        (line.step, note)
    }
}
