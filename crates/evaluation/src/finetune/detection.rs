//! Fine-tuning for detection and instance segmentation: Faster, Mask and Cascade R-CNN from an encoder, or from a whole detector.
//!
//! ```text
//! pictures, boxes, masks ── resize, flip ── Rcnn ── five losses, their sum is minimized
//! ```
//!
//! It runs in the `training` crate's loop, as classification does: checkpoints, resume, precision, micro-batches and
//! ranks are those of pretraining. Lengths, milestones and intervals are counted in steps, as the references do. The
//! scores are COCO's average precision, or Pascal VOC's.

mod line;
mod objective;
mod page;
mod precise;
mod report;
mod results;
mod run;
mod score;
mod start;
#[cfg(test)]
mod tests;

pub use line::EvaluationLine;
pub use run::run;

use super::{FinetuneEvent, FinetuneResult, Job, Keep, Recipe};
use data::{ObjectViews, Order};
use detection::rcnn::RcnnConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{
    Count, DataConfig, Normalize, ObjectiveSection, OptimizerConfig, ScheduleConfig, TrainingConfig,
};

/// Shorter side of the pictures of a smoke test, px.
const SMOKE_PX: usize = 128;

/// Regions of each picture in a smoke test.
const SMOKE_REGIONS: usize = 16;

/// One fine-tuning of a detector: a complete TOML file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of new weights, order, sizes, flips, and of the sampled anchors and regions.
    pub seed: u64,
    /// How records become batches. How pixels are normalized is a key of the network, `detection.network.input`.
    pub data: Records,
    /// The detector, its views and its evaluation.
    pub detection: Settings,
    /// The optimizer of the whole detector.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule.
    pub schedule: ScheduleConfig,
    /// Length, batch statistics, checkpoints and log.
    pub training: TrainingConfig,
}

/// How records become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// Pictures per optimizer step. MoCo, detectron2, torchvision: 16.
    pub batch_images: usize,
    /// Threads that decode and resize; 0 does it in the training thread. The views do not depend on the number.
    pub workers: usize,
    /// `"global"`, or `{ blocks = N }` for storage with slow seeks.
    pub order: Order,
    /// The run stops when more than this fraction (0 to 1) of the records cannot be decoded.
    pub max_bad_fraction: f64,
}

/// `[detection]`: what fine-tuning a detector adds to a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Hash of the encoder or detector that the run starts from, which the program writes into the run's config; users
    /// never set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Sizes and flips of the training pictures.
    pub views: TrainingViews,
    /// Whether weight decay applies to the weights and biases of norms too. torchvision: true; detectron2, MoCo: false.
    pub decay_norms: bool,
    /// The metric, and its headline.
    pub metric: Metric,
    /// Steps between evaluations; absent: after the last step only. detectron2's `EVAL_PERIOD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate_every_steps: Option<usize>,
    /// Records held out of the training records, on which evaluations are made; absent: they are made on the test set,
    /// and choose nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<HeldOut>,
    /// Which step's detector is scored on the test set.
    pub keep: Keep,
    /// Pictures per forward pass in evaluations. Both references: 1, which pads nothing but up to a multiple.
    pub evaluation_images: usize,
    /// Before each evaluation, batch statistics are estimated again as a mean over this many training batches (precise
    /// batch normalization); absent: the running ones are used. MoCo: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precise_statistics_batches: Option<usize>,
    /// Bootstrap intervals of the scores, for small test sets; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// Largest share (0 to 1) of the test images that may lie among the training records too, compared by content.
    /// Absent: any share with a warning, unless it is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shared_fraction: Option<f64>,
    /// Every number of the detector. `configs/evaluate/detection-*.toml` are complete.
    pub network: RcnnConfig,
}

/// Sizes and flips of the training pictures. Longest side, rounding and padding are those of `network.input`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingViews {
    /// Lengths of the shorter side, px; one is drawn for each picture and epoch. COCO: 640 to 800 in steps of 32.
    pub shorter_px: Vec<u32>,
    /// Probability that a picture is mirrored left and right. Both references: 0.5.
    pub flip_probability: f64,
    /// Whether micro-batches hold pictures that are all wider than high or none, so that less is padded. Both references:
    /// true.
    pub by_aspect: bool,
}

/// Average precision by the rules of one benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// COCO's twelve numbers of boxes, and of masks if the network has them; the headline is the boxes' AP.
    Coco,
    /// Pascal VOC 2007's eleven points, at IoU 0.5, 0.75 and over 0.5 to 0.95; the headline is the last, AP.
    Voc2007,
    /// The same by the area under the curve, as from 2010 on.
    Voc2012,
}

/// Records held out of the training records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Their share, above 0 and below 1; at least one record.
    pub fraction: f64,
    /// Seed of the choice.
    pub seed: u64,
}

/// 95 % intervals by the bootstrap's percentiles: test images drawn with replacement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Drawn sets, at least 100.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Settings {
    fn keeps_best(&self) -> bool {
        self.keep == Keep::BestOnValidation
    }

    fn check(&self) -> Result<(), String> {
        self.network.validate("detection.network")?;
        let input = &self.network.input;
        let among = |values: [f32; 3], least: f32| values.iter().all(|value| (least..=255.0).contains(value));
        if !among(input.mean, 0.0) {
            return Err(format!(
                "`detection.network.input.mean` must be from 0 to 255, got {:?}",
                input.mean
            ));
        }
        if !among(input.std, f32::MIN_POSITIVE) {
            return Err(format!(
                "`detection.network.input.std` must be above 0 and at most 255, got {:?}",
                input.std
            ));
        }
        // Views are made of keys of two tables.
        let key = |shorter_px: &'static str| {
            move |field: &'static str| {
                let key = match field {
                    "shorter_px" => shorter_px,
                    "longest_px" => "network.input.long_side_px",
                    "multiple_px" => "network.input.multiple_of_px",
                    _ => "views.flip_probability",
                };
                format!("detection.{key}")
            }
        };
        self.training_views().validate(key("views.shorter_px"))?;
        self.test_views().validate(key("network.input.short_side_px"))?;
        let at_least_one = [
            ("evaluate_every_steps", self.evaluate_every_steps),
            ("evaluation_images", Some(self.evaluation_images)),
            ("precise_statistics_batches", self.precise_statistics_batches),
        ];
        for (key, value) in at_least_one {
            if value == Some(0) {
                return Err(format!("`detection.{key}` must be at least 1, got 0"));
            }
        }
        if let Some(bootstrap) = &self.bootstrap
            && bootstrap.resamples < 100
        {
            return Err(format!(
                "`detection.bootstrap.resamples` must be at least 100, got {}",
                bootstrap.resamples
            ));
        }
        if self.bootstrap.is_some() && self.metric != Metric::Coco {
            return Err("`detection.bootstrap` is for the metric `coco`: leave the table out".into());
        }
        match &self.validation {
            Some(held_out) if !(held_out.fraction > 0.0 && held_out.fraction < 1.0) => {
                return Err(format!(
                    "`detection.validation.fraction` must be above 0 and below 1, got {}",
                    held_out.fraction
                ));
            }
            None if self.keeps_best() => {
                return Err(
                    "`detection.keep = \"best_on_validation\"` needs `[detection.validation]`: the test set chooses no step"
                        .into(),
                );
            }
            _ => {}
        }
        if self.metric != Metric::Coco && self.network.masks.is_some() {
            return Err(
                "`detection.metric` must be `coco` for a network with `masks`: Pascal VOC's metrics are of boxes".into(),
            );
        }
        crate::config::check_shared("detection.max_shared_fraction", self.max_shared_fraction)
    }

    /// The views of training pictures.
    fn training_views(&self) -> ObjectViews {
        ObjectViews {
            shorter_px: self.views.shorter_px.clone(),
            flip_probability: self.views.flip_probability,
            by_aspect: self.views.by_aspect,
            ..self.test_views()
        }
    }

    /// The views of pictures that are scored.
    fn test_views(&self) -> ObjectViews {
        let input = &self.network.input;
        let px = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        ObjectViews {
            shorter_px: vec![px(input.short_side_px)],
            longest_px: px(input.long_side_px),
            rule: input.resize,
            flip_probability: 0.0,
            masks: self.network.masks.is_some(),
            multiple_px: px(input.multiple_of_px),
            by_aspect: false,
        }
    }

    /// Channel statistics for pixels of 0 to 1.
    fn normalize(&self) -> Normalize {
        let input = &self.network.input;
        Normalize {
            mean: input.mean.map(|value| value / 255.0),
            std: input.std.map(|value| value / 255.0),
        }
    }

    /// The name of the protocol in results: `detection-coco`.
    pub fn protocol(&self) -> &'static str {
        match self.metric {
            Metric::Coco => "detection-coco",
            Metric::Voc2007 => "detection-voc07",
            Metric::Voc2012 => "detection-voc12",
        }
    }
}

impl ObjectiveSection for Settings {
    fn validate(config: &training::Config<Self>) -> Result<(), String> {
        config.objective.check()
    }

    fn counts(&self) -> Vec<Count> {
        let every = self.evaluate_every_steps.map(|steps| {
            Count::every_steps(
                "detection.evaluate_every_steps",
                steps,
                "the only evaluation is that after the last step",
            )
        });
        every.into_iter().collect()
    }

    fn object_views(&self) -> Option<ObjectViews> {
        Some(self.training_views())
    }

    fn evaluate_every_steps(&self) -> Option<usize> {
        // The evaluation after the last step is that of the test set.
        Some(self.evaluate_every_steps.unwrap_or(usize::MAX))
    }
}

impl Config {
    /// The complete config of the training loop.
    fn to_training(&self) -> training::Config<Settings> {
        training::Config {
            start: None,
            seed: self.seed,
            data: DataConfig {
                batch_images: self.data.batch_images,
                workers: self.data.workers,
                order: self.data.order,
                max_bad_fraction: self.data.max_bad_fraction,
                normalize: self.detection.normalize(),
            },
            views: vec![],
            backbone: self.detection.network.backbone.clone(),
            objective: self.detection.clone(),
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            training: self.training.clone(),
        }
    }
}

impl Recipe for Config {
    type Line = EvaluationLine;

    fn validate(&self) -> Result<(), String> {
        // First, because it names the keys of the network as this config has them.
        self.detection.check()?;
        self.to_training().validate()
    }

    fn validate_length(&self) -> Result<(), String> {
        self.to_training().validate_length()
    }

    fn epochs_needed(&self) -> usize {
        self.to_training().epochs_needed()
    }

    fn training(&self) -> &TrainingConfig {
        &self.training
    }

    fn batch_images(&self) -> usize {
        self.data.batch_images
    }

    fn divisors(&self) -> Vec<(&'static str, Option<usize>)> {
        vec![]
    }

    fn protocol(&self) -> String {
        self.detection.protocol().into()
    }

    fn for_smoke_test(&mut self, batch_images: usize) {
        self.data.batch_images = batch_images;
        self.training.for_smoke_test(1, batch_images);
        self.schedule.for_smoke_test();
        self.detection.evaluate_every_steps = None;
        self.detection.precise_statistics_batches = self.detection.precise_statistics_batches.map(|_| 1);
        self.detection.views.shorter_px = vec![SMOKE_PX as u32];
        let network = &mut self.detection.network;
        network.input.short_side_px = SMOKE_PX;
        network.input.long_side_px = 2 * SMOKE_PX;
        for count in [
            &mut network.proposals.before_nms_training,
            &mut network.proposals.before_nms,
            &mut network.proposals.after_nms_training,
            &mut network.proposals.after_nms,
            &mut network.proposals.sampler.per_image,
            &mut network.boxes.sampler.per_image,
        ] {
            *count = SMOKE_REGIONS.min(*count);
        }
    }

    fn run(
        &self,
        job: &Job<'_>,
        observe: &mut dyn FnMut(FinetuneEvent<'_, EvaluationLine>),
    ) -> Result<FinetuneResult, crate::error::Error> {
        run(self, job, observe)
    }
}
