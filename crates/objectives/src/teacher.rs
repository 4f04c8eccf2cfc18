//! The momentum of a teacher: its valid range in configs, and its value in a step.

use crate::checks;
use crate::method::{Change, DataShape, Invalid};
use backbones::{RunPosition, relative_distance};
use burn::module::Module;
use burn::tensor::Tensor;
use training::{Count, cosine};

/// Gives an error if `momentum`, or `momentum_end` if present, is outside 0 to 1.
pub(crate) fn check(start: f64, end: Option<f64>) -> Result<(), Invalid> {
    checks::momenta(&[("momentum", start), ("momentum_end", end.unwrap_or(start))])
}

/// Teacher momentum in this step: from `start` to `end` by a cosine over all steps, or constant `start`.
pub(crate) fn momentum(start: f64, end: Option<f64>, progress: &RunPosition) -> f64 {
    end.map_or(start, |end| cosine(start, end, progress.fraction()))
}

/// The teacher's distance from its counterpart in the student, for the log.
pub(crate) fn measured<M: Module>(student: &M, teacher: &M) -> Vec<(&'static str, Tensor<1>)> {
    vec![("teacher_distance", relative_distance(student, teacher))]
}

/// The age of the oldest of `kept` images in a queue that each step fills with `images` more, in steps, after so many pushes.
pub(crate) fn queue_age(kept: usize, images: usize, pushes: usize) -> (&'static str, f64) {
    ("queue_age_steps", pushes.min(kept / images.max(1)) as f64)
}

/// What changes over a run with a teacher of one momentum and MoCo's queue.
pub(crate) fn in_force_with_queue(
    momentum: f64,
    queue_images: usize,
    position: &RunPosition,
    batch_images: usize,
) -> Vec<(&'static str, f64)> {
    vec![
        ("teacher_momentum", momentum),
        queue_age(queue_images, batch_images, position.step + 1),
    ]
}

/// Adapts the momentum to a run of so many steps: its average then covers at most a tenth of the run.
pub(crate) fn for_data(momentum: &mut f64, data: &DataShape) -> Option<Change> {
    const OF_THE_RUN: f64 = 10.0;
    let before = *momentum;
    let most = 1.0 - OF_THE_RUN / data.steps.max(1) as f64;
    // Four digits, as the papers write it.
    let most = ((most * 1e4).floor() / 1e4).max(SMOKE_MOMENTUM);
    *momentum = before.min(most);
    let reason = format!(
        "in place of {before}: the average covers a tenth of the run's {} steps",
        data.steps
    );
    (*momentum != before).then(|| Change::new("momentum", reason))
}

/// Momenta as low as a smoke test's two steps need them to be for the teacher to move.
pub(crate) fn for_smoke_test(momentum: &mut f64, momentum_end: Option<&mut Option<f64>>) {
    *momentum = momentum.min(SMOKE_MOMENTUM);
    if let Some(Some(end)) = momentum_end {
        *end = end.min(SMOKE_MOMENTUM);
    }
}

const SMOKE_MOMENTUM: f64 = 0.5;

/// The momentum as a key that counts steps.
pub(crate) fn count(start: f64, end: Option<f64>) -> Count {
    Count::momentum("momentum", start, end)
}
