//! Fine-tuning for classification, and semi-supervised fine-tuning: the one kind of protocol in which the encoder learns.
//!
//! ```text
//! encoder ── backbone ── linear classifier ── cross-entropy with the batch's labels (soft, where mixed or smoothed)
//! ```
//!
//! It runs in the `training` crate's loop, so checkpoints, resume, `metrics.jsonl`, precision and
//! micro-batches are those of pretraining. [`Keep::BestOnValidation`] chooses the epoch on records held out
//! of the training set. The test set is read once, after the last step.
//!
//! [`detection`] fine-tunes detectors in the same loop.
//!
//! - `finetune`: all training labels. BEiT (Bao et al. 2022), MAE (He et al. 2022): layer-wise rates, mixup, CutMix,
//!   RandAugment. DeiT, MoCo-v3: the same without layer-wise rates.
//! - `semi-supervised-1`, `semi-supervised-10`: 1 or 10 percent of the labels (SimCLR 2020, SwAV 2020).

mod classification;
mod curve;
pub mod detection;
mod mixing;
mod objective;
#[cfg(test)]
mod parity;
mod run;
mod start;
mod subset;

pub use classification::{ValidationLine, run};
pub use mixing::Config as Mixing;
pub use run::{FinetuneEvent, FinetuneResult, Job, Recipe};
pub use start::{LoadedDetector, Start};
pub use subset::{Choice, SemiSupervised, Validation};

use backbones::BackboneConfig;
use backbones::vit::Pooling;
use data::{Transform, ViewGroup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Count, DataConfig, ObjectiveSection, OptimizerConfig, ScheduleConfig, TrainingConfig};

/// One fine-tuning: a pretraining config whose objective is [`Settings`] and whose backbone defaults to the
/// encoder's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of the classifier's weights, order, augmentation, mixing and drop path.
    pub seed: u64,
    /// How records become batches. `normalize` must match the encoder's training.
    pub data: DataConfig,
    /// One view group of one view: the augmentation of the training images.
    pub views: Vec<ViewGroup>,
    /// The network. Absent: the encoder's; required without an encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<BackboneConfig>,
    /// Classifier, loss, splits.
    pub objective: Settings,
    /// The optimizer of backbone and classifier.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule.
    pub schedule: ScheduleConfig,
    /// Length, batch statistics, checkpoints and log.
    pub training: TrainingConfig,
}

/// `[objective]`: the settings that fine-tuning adds to a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `"finetune"`, or `{ semi_supervised = { percent = 1, choice = { seed = 0 } } }`.
    pub protocol: Protocol,
    /// The encoder's hash, which the program writes into the run's config; users never set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Drop path of a vision transformer; replaces the backbone's own. BEiT-B, MAE-B: 0.1; L: 0.2. ResNets:
    /// 0.
    pub drop_path: f64,
    /// Pooling of a vision transformer; absent: the backbone's own. BEiT, MAE: `"mean_then_norm"`, whose norm
    /// is initialized anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// The classifier's initial weights.
    pub head: HeadInit,
    /// The classifier's learning rate as a multiple of the backbone's; absent: the same. SwAV: 20 for 10 percent of the
    /// labels, 250 for 1 percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_learning_rate_factor: Option<f64>,
    /// Share of each target that is spread evenly over all classes, 0 to below 1. BEiT, MAE, DeiT: 0.1.
    pub label_smoothing: f64,
    /// mixup and CutMix; absent: neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixing: Option<Mixing>,
    /// Exponential moving average (EMA) of the network, which is then scored; absent: the network itself is
    /// scored. timm: about 0.9998.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Average>,
    /// Records held out of the training records and scored after every epoch; absent: none, and no validation
    /// curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Which epoch is scored on the test set.
    pub keep: Keep,
    /// Largest share (0 to 1) of the test images that may lie among the training records too, compared by content.
    /// Absent: any share with a warning, unless it is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shared_fraction: Option<f64>,
    /// Transforms of validation and test images; none is random.
    pub test_transforms: Vec<Transform>,
}

/// The labels to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Labels of all training records.
    Finetune,
    /// Labels of a subset; the other labels are not read.
    SemiSupervised(SemiSupervised),
}

impl Protocol {
    /// Its name in results: `finetune`, `semi-supervised-1`.
    pub fn name(&self) -> String {
        match self {
            Self::Finetune => "finetune".into(),
            Self::SemiSupervised(part) => format!("semi-supervised-{}", part.percent),
        }
    }
}

/// The distribution of the classifier's initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadInit {
    /// Weight and bias uniform on ±1/√width, PyTorch's default for `torch.nn.Linear`. Used by torchvision's
    /// ResNets and SwAV's semi-supervised code.
    Uniform,
    /// Weight normal with this standard deviation, bias 0. MoCo, SimCLR: 0.01.
    Normal(f64),
    /// The same normal truncated at ±2. MAE: 2e-5; BEiT: 2e-5 (0.02 times its `init_scale` of 0.001); DeiT:
    /// 0.02.
    TruncatedNormal(f64),
}

/// An average of weights and running statistics like timm's `ModelEmaV3`: `a ← decay · a + (1 - decay) · w`
/// after each step; the first step copies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// Weight of the old average at each step, 0 to 1.
    pub decay: f64,
    /// A warmup of the decay; absent: the decay is constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<AverageWarmup>,
}

/// `1 - (1 + step / gamma)^-power`, while below the decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AverageWarmup {
    /// Above 0. timm: 1.
    pub gamma: f64,
    /// Above 0. timm: 2/3.
    pub power: f64,
}

/// Which epoch's network is scored on the test set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The last epoch's.
    Last,
    /// That of the best top-1 on the validation split; ties go to the earliest.
    BestOnValidation,
}

impl Settings {
    fn keeps_best(&self) -> bool {
        self.keep == Keep::BestOnValidation
    }

    fn check(&self, batch_images: usize, micro_batch_images: Option<usize>) -> Result<(), String> {
        let fraction = |key: &str, value: f64, end: bool| {
            if (0.0..1.0).contains(&value) || (end && value == 1.0) {
                return Ok(());
            }
            let below = if end { "at most 1" } else { "below 1" };
            Err(format!(
                "`objective.{key}` must be at least 0 and {below}, got {value}"
            ))
        };
        let above_zero = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(format!(
                "`objective.{key}` must be finite and above 0, got {value}"
            ))
        };
        if let Protocol::SemiSupervised(part) = &self.protocol
            && !(part.percent > 0.0 && part.percent <= 100.0)
        {
            return Err(format!(
                "`objective.protocol.semi_supervised.percent` must be above 0 and at most 100, got {}",
                part.percent
            ));
        }
        fraction("drop_path", self.drop_path, false)?;
        fraction("label_smoothing", self.label_smoothing, false)?;
        match self.head {
            HeadInit::Uniform => {}
            HeadInit::Normal(std) => above_zero("head.normal", std)?,
            HeadInit::TruncatedNormal(std) => above_zero("head.truncated_normal", std)?,
        }
        if let Some(factor) = self.head_learning_rate_factor {
            above_zero("head_learning_rate_factor", factor)?;
        }
        if let Some(mixing) = &self.mixing {
            mixing.validate(batch_images, micro_batch_images)?;
        }
        if let Some(average) = &self.average {
            fraction("average.decay", average.decay, true)?;
            if let Some(warmup) = &average.warmup {
                above_zero("average.warmup.gamma", warmup.gamma)?;
                above_zero("average.warmup.power", warmup.power)?;
            }
        }
        match &self.validation {
            Some(validation) => {
                above_zero("validation.fraction", validation.fraction)?;
                fraction("validation.fraction", validation.fraction, false)?;
            }
            None if self.keeps_best() => {
                return Err(
                    "`objective.keep = \"best_on_validation\"` needs `[objective.validation]`: test labels choose no epoch"
                        .into(),
                );
            }
            None => {}
        }
        crate::config::check_shared("objective.max_shared_fraction", self.max_shared_fraction)?;
        crate::config::check_test_transforms("objective.test_transforms", &self.test_transforms)
    }
}

impl ObjectiveSection for Settings {
    fn validate(config: &training::Config<Self>) -> Result<(), String> {
        config
            .objective
            .check(config.data.batch_images, config.training.micro_batch_images)
    }

    fn counts(&self) -> Vec<Count> {
        match &self.average {
            // Under a warmup the first weights are forgotten at once.
            Some(Average { decay, warmup: None }) => {
                vec![Count::momentum("objective.average.decay", *decay, None)]
            }
            _ => vec![],
        }
    }
}

impl Config {
    /// The complete, validated training config with this network.
    fn with_backbone(&self, backbone: &BackboneConfig) -> Result<training::Config<Settings>, String> {
        let mut backbone = backbone.clone();
        match &mut backbone {
            BackboneConfig::Vit(vit) => {
                vit.drop_path = self.objective.drop_path;
                vit.pooling = self.objective.pooling.unwrap_or(vit.pooling);
            }
            BackboneConfig::Resnet(_) if self.objective.drop_path > 0.0 => {
                return Err(format!(
                    "`objective.drop_path` must be 0 for a ResNet, got {}",
                    self.objective.drop_path
                ));
            }
            BackboneConfig::Resnet(_) if self.objective.pooling.is_some() => {
                return Err(
                    "`objective.pooling` is for vision transformers: leave it out for a ResNet".into(),
                );
            }
            BackboneConfig::Resnet(_) => {}
        }
        let config = training::Config {
            start: None,
            seed: self.seed,
            data: self.data.clone(),
            views: self.views.clone(),
            backbone,
            objective: self.objective.clone(),
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            training: self.training.clone(),
        };
        config.validate()?;
        if let Some((width, height)) = self.test_view().output_px() {
            config
                .backbone
                .check_input(height as usize, width as usize)
                .map_err(|reason| format!("`objective.test_transforms`: {reason}"))?;
        }
        Ok(config)
    }

    fn test_view(&self) -> ViewGroup {
        ViewGroup {
            count: 1,
            transforms: self.objective.test_transforms.clone(),
        }
    }
}

impl Recipe for Config {
    type Line = ValidationLine;

    fn validate(&self) -> Result<(), String> {
        match &self.backbone {
            Some(backbone) => self.with_backbone(backbone).map(|_| ()),
            None => self
                .objective
                .check(self.data.batch_images, self.training.micro_batch_images),
        }
    }

    fn validate_length(&self) -> Result<(), String> {
        let epochs = self.training.epochs;
        epochs.map_or(Ok(()), |epochs| {
            training::check_epochs(&self.schedule.counts(), epochs)
        })
    }

    fn epochs_needed(&self) -> usize {
        self.schedule.epochs_needed()
    }

    fn training(&self) -> &TrainingConfig {
        &self.training
    }

    fn batch_images(&self) -> usize {
        self.data.batch_images
    }

    fn divisors(&self) -> Vec<(&'static str, Option<usize>)> {
        let mixing = self.objective.mixing.as_ref();
        vec![("objective.mixing.images", mixing.and_then(|mixing| mixing.images))]
    }

    fn protocol(&self) -> String {
        self.objective.protocol.name()
    }

    fn for_smoke_test(&mut self, batch_images: usize) {
        self.data.batch_images = batch_images;
        self.training.for_smoke_test(1, batch_images);
        self.schedule.for_smoke_test();
        if let Some(average) = &mut self.objective.average {
            average.decay = average.decay.min(0.5);
        }
        if let Some(mixing) = &mut self.objective.mixing {
            mixing.images = mixing.images.map(|_| batch_images / 2);
        }
        if let Protocol::SemiSupervised(part) = &mut self.objective.protocol {
            // One percent of a few synthetic images rounds to none.
            part.percent = 100.0;
            part.choice = Choice::Seed(self.seed);
        }
    }

    fn run(
        &self,
        job: &Job<'_>,
        observe: &mut dyn FnMut(FinetuneEvent<'_, ValidationLine>),
    ) -> Result<FinetuneResult, crate::error::Error> {
        run(self, job, observe)
    }
}
