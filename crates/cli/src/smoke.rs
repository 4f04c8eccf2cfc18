//! `--smoke`: two steps on synthetic images of the config's shapes, for a user's own CI.

use objectives::ObjectiveConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::Config;

/// Photographs in a step of a smoke test.
const IMAGES: usize = 4;

/// Epochs in f16, of two steps each: its loss scale starts at a value where gradients overflow and is halved
/// at each skipped step, so the first two steps alone may train nothing.
const F16_EPOCHS: usize = 6;

/// A temporary run directory, removed however the test ends.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Chooses its path; the run creates it.
    pub(crate) fn new() -> Self {
        Self(std::env::temp_dir().join(format!("passer-smoke-{}", std::process::id())))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: the result of the run matters more.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Shrinks a config to two steps of four images (in f16 to twelve steps): networks, views and all else stay.
/// Returns the synthetic data.
pub(crate) fn shrink(config: &mut Config<ObjectiveConfig>) -> Arc<data::Dataset> {
    config.data.batch_images = IMAGES;
    let epochs = match config.training.precision {
        backbones::Precision::F16 => F16_EPOCHS,
        _ => 1,
    };
    config.training.for_smoke_test(epochs, IMAGES);
    config.schedule.for_smoke_test();
    config.objective.for_smoke_test(IMAGES);
    if let Some(start) = &mut config.start {
        start.freeze_backbone_epochs = 0;
    }
    let (width, height) = training::dataset_views(&config.views)
        .first()
        .copied()
        .unwrap_or((32, 32));
    Arc::new(data::Dataset::synthetic(
        2 * IMAGES,
        width.max(32) * 5 / 4,
        height.max(32) * 5 / 4,
        2,
        config.seed,
    ))
}
