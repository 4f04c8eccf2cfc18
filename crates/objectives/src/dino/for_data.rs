//! DINO's settings for other data than a config was written for.

use super::Config;
use crate::method::{Change, DataShape, prototypes_for_data, warmup_for_data};
use crate::teacher;

/// Adapts momentum, prototypes and the warmup of the teacher's temperature, and says why each changed.
pub(super) fn adapt(config: &mut Config, data: &DataShape) -> Vec<Change> {
    let mut changes = vec![];
    // The reference's advice for 256 images per step.
    if data.batch_images <= 256 && (0.996..0.9995).contains(&config.momentum) {
        let reason = format!("in place of {}: advised for 256 images per step", config.momentum);
        config.momentum = 0.9995;
        changes.push(Change::new("momentum", reason));
    }
    if let Some(change) = teacher::for_data(&mut config.momentum, data) {
        changes = vec![change];
    }
    let prototypes = &mut config.head.prototypes;
    changes.extend(prototypes_for_data("head.prototypes", prototypes, 256, data));
    if let Some(warmup) = &mut config.teacher_temperature_warmup {
        let key = "teacher_temperature_warmup.epochs";
        changes.extend(warmup_for_data(key, &mut warmup.epochs, data));
    }
    changes
}
