//! Precise batch normalization: statistics as means over training batches in place of moving averages.
//!
//! Wu and Johnson, *Rethinking "Batch" in BatchNorm*, 2021, section 3.

use super::Settings;
use super::objective::losses_of;
use crate::error::Error;
use backbones::layers::BatchNorm;
use backbones::{Context, Draws, RunPosition, independent_copy};
use burn::tensor::{Device, TensorData};
use data::Loader;
use detection::rcnn::{Norm, Rcnn, replace_state, state_dict};
use std::collections::BTreeMap;
use training::Normalize;

/// A copy of the network, which is on a device without autodiff, with the mean of the statistics of the loader's first
/// `batches` batches. Frozen norms keep theirs.
pub(super) fn with_precise_statistics(
    network: &Rcnn,
    settings: &Settings,
    loader: &Loader,
    batches: usize,
    (seed, device): (u64, &Device),
) -> Result<Rcnn, Error> {
    let copy = independent_copy(network);
    let scaled = |network: &Rcnn, factor: f32| -> BTreeMap<String, TensorData> {
        let is_ours = |name: &str| {
            let frozen = settings.network.backbone_norm == Norm::Frozen && name.starts_with("backbone.body.");
            !frozen && (name.ends_with(".running_mean") || name.ends_with(".running_var"))
        };
        let all = state_dict(network).into_iter().filter(|(name, _)| is_ours(name));
        let times = |data: TensorData| {
            let values: Vec<f32> = data.iter::<f32>().map(|value| value * factor).collect();
            TensorData::new(values, data.shape().clone())
        };
        all.map(|(name, data)| (name, times(data))).collect()
    };
    // From zero, the parts that micro-batches of one step add are the momentum times their mean.
    let copy = replace_state(copy.clone(), scaled(&copy, 0.0));
    let normalize: Normalize = settings.normalize();
    for (index, batch) in loader.batches(0, batches).enumerate() {
        let batch = training::Batch::upload(batch?, &normalize, device);
        let progress = RunPosition::at(0, 1, 1);
        let context = Context::training(progress, Draws::new(seed, 0)).micro_batch(index, batches);
        losses_of(&copy, &batch, &context);
    }
    Ok(replace_state(
        copy.clone(),
        scaled(&copy, 1.0 / BatchNorm::MOMENTUM as f32),
    ))
}
