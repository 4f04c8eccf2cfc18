//! A device's memory in, the largest batch of a recipe whose estimate fits out: whole, in micro-batches where the method allows them,
//! or smaller than the recipe's.

use super::Config;
use super::scale::{self, Batch, Parts, Scaled, Size};
use crate::failure::Failure;
use backbones::BackboneConfig;
use objectives::memory::{StepBytes, one_pass_only, step_bytes};

/// Bytes of a GB.
const GB: f64 = 1e9;

/// Images per step at least.
const LEAST_IMAGES: usize = 2;

/// A size in GB from the command line.
pub(super) fn gigabytes(typed: &str) -> Result<f64, String> {
    let number: f64 = typed
        .parse()
        .map_err(|_| format!("must be a number, got `{typed}`"))?;
    match number > 0.0 && number.is_finite() {
        true => Ok(number),
        false => Err(format!("must be above 0, got {typed}")),
    }
}

/// The config with the largest batch that fits. `wanted` is the batch that the user asks for, which is never made smaller.
pub(super) fn fitted(
    gigabytes: f64,
    wanted: Option<usize>,
    parts: &Parts<'_>,
    backbone: &BackboneConfig,
    size: &Size,
) -> anyhow::Result<Scaled> {
    let of_recipe = parts.recipe.0.data.batch_images;
    let whole = match wanted {
        Some(images) => Batch::new(images, "as asked for"),
        None => Batch::new(
            scale::most_images(of_recipe, size.images),
            scale::few_images(size.images),
        ),
    };
    let images = whole.images;
    let with = |batch: Batch| {
        let size = Size {
            batch: Some(batch),
            ..size.clone()
        };
        scale::scaled(parts, backbone.clone(), &size)
    };
    let mut smallest = f64::INFINITY;
    let mut fits = |config: &Config| {
        let bytes = step_bytes(config);
        let is_valid = config.validate().is_ok();
        if is_valid {
            smallest = smallest.min(bytes.total());
        }
        (is_valid && bytes.total() <= gigabytes * GB).then_some(bytes)
    };

    let mut made = with(whole)?;
    made.config.training.micro_batch_images = None;
    if let Some(bytes) = fits(&made.config) {
        made.memory = lines(&made.config, &bytes, gigabytes);
        return Ok(made);
    }
    let one_pass = one_pass_only(&made.config);
    if one_pass.is_none() {
        for part in (1..images).rev().filter(|part| images.is_multiple_of(*part)) {
            made.config.training.micro_batch_images = Some(part);
            if let Some(bytes) = fits(&made.config) {
                let reason = format!(
                    "gradients of {} passes are summed, because one pass of {images} images does not fit in {gigabytes} GB",
                    images / part
                );
                made.why("training.micro_batch_images", reason);
                made.memory = lines(&made.config, &bytes, gigabytes);
                return Ok(made);
            }
        }
    }
    let mut power = images.next_power_of_two() / 2;
    while wanted.is_none() && power >= LEAST_IMAGES {
        let reason = match &one_pass {
            Some(reason) => format!(
                "the largest power of two that fits in {gigabytes} GB. Micro-batches would not give the same step: {reason}"
            ),
            None => format!("the largest power of two that fits in {gigabytes} GB, even in micro-batches"),
        };
        let mut made = with(Batch::new(power, reason))?;
        made.config.training.micro_batch_images = None;
        if let Some(bytes) = fits(&made.config) {
            made.memory = lines(&made.config, &bytes, gigabytes);
            return Ok(made);
        }
        power /= 2;
    }
    if smallest.is_infinite() {
        // No batch is valid: the check of the whole config says why.
        made.config.training.micro_batch_images = None;
        return Ok(made);
    }
    // Upward, so that the figure that is named is enough.
    let least = (smallest / GB * 100.0).ceil() / 100.0;
    Err(Failure::new(format!(
        "`--memory-gb` must be at least {least} for this method, network and size, got {gigabytes}"
    ))
    .hint("name a smaller network, or smaller crops with `--image-px`")
    .into())
}

/// What was reckoned, for the head of the config.
fn lines(config: &Config, bytes: &StepBytes, gigabytes: f64) -> Vec<String> {
    let gb = |bytes: f64| format!("{:.2}", bytes / GB);
    let images = config.pass_images(1);
    vec![
        format!(
            "about {} of {gigabytes} GB: weights {}, gradients {}, optimizer {}, teacher and queue {}, program {};",
            gb(bytes.total()),
            gb(bytes.weights),
            gb(bytes.gradients),
            gb(bytes.optimizer),
            gb(bytes.state),
            gb(bytes.program),
        ),
        format!(
            "activations of {images} images {}, buffers {}, views of the loader and on the device {}. All f32; an estimate, not a bound.",
            gb(bytes.activations),
            gb(bytes.buffers),
            gb(bytes.views)
        ),
    ]
}
