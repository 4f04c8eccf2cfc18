//! `--smoke`: two steps on synthetic images of the config's shapes, for a user's own CI.

use objectives::ObjectiveConfig;
use std::sync::Arc;
use training::Config;

/// Photographs in a smoke test's step.
const IMAGES: usize = 4;

/// Shrinks a config to two steps of four images: networks, views and everything else stay. Returns the synthetic data.
pub(crate) fn shrink(config: &mut Config<ObjectiveConfig>) -> Arc<data::Dataset> {
    config.data.batch_images = IMAGES;
    config.training.epochs = 1;
    config.training.checkpoint_every_epochs = 1;
    config.training.log_every_steps = 1;
    if config.training.batch_norm_images.is_some() {
        config.training.batch_norm_images = Some(IMAGES / 2);
    }
    if config.training.micro_batch_images.is_some() {
        config.training.micro_batch_images = Some(IMAGES / 2);
    }
    config.schedule.for_smoke_test();
    config.objective.for_smoke_test(IMAGES);
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
