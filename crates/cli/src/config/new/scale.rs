//! Shipped configs and the size of other data in, a scaled config with the reason of each change out.

use super::Config;
use crate::failure::Failure;
use backbones::{BackboneConfig, Stem};
use data::{Transform, ViewGroup};
use objectives::DataShape;
use std::collections::BTreeMap;
use training::{Normalize, OptimizerConfig, ScheduleConfig};

/// A batch that is not the recipe's.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) images: usize,
    /// Why, after "in place of N: ".
    pub(super) reason: String,
}

impl Batch {
    pub(super) fn new(images: usize, reason: impl Into<String>) -> Self {
        Self {
            images,
            reason: reason.into(),
        }
    }
}

/// What is wanted.
#[derive(Clone)]
pub(super) struct Size {
    pub(super) images: usize,
    /// Side of the largest views.
    pub(super) px: u32,
    /// Absent: the recipe's, at most what one device holds.
    pub(super) batch: Option<Batch>,
    pub(super) epochs: Option<usize>,
}

/// The shipped configs that parts come from, with their paths.
pub(super) struct Parts<'c> {
    /// Method, optimizer, schedule.
    pub(super) recipe: (&'c Config, String),
    /// Length of the run, and the images of its data.
    pub(super) length: (&'c Config, String, usize),
    /// Crops and augmentations.
    pub(super) views: (&'c Config, String),
    /// Optimizer and schedule, where the recipe's are for another family of networks.
    pub(super) borrowed: Option<(&'c Config, String)>,
}

/// The config, the reasons of its keys by path, and where its parts come from.
pub(super) struct Scaled {
    pub(super) config: Config,
    pub(super) reasons: BTreeMap<String, String>,
    pub(super) notes: Vec<String>,
    /// The estimate of its memory, where it was asked for.
    pub(super) memory: Vec<String>,
}

/// Images per step at most, unless the user says more: one device, and enough for every method.
const MOST_IMAGES: usize = 256;
/// Steps of an epoch at least, where the images are few.
const LEAST_STEPS: usize = 8;
/// Epochs at most: after them, few images have been seen as often as any recipe does.
const MOST_EPOCHS: usize = 2000;
/// Threads of the loader at most, as in the shipped configs.
const MOST_WORKERS: usize = 16;
/// Checkpoints of a run, about.
const CHECKPOINTS: usize = 20;

/// Side of a config's largest views, px.
pub(super) fn px(config: &Config) -> u32 {
    let views = training::dataset_views(&config.views);
    views
        .into_iter()
        .map(|(width, height)| width.max(height))
        .max()
        .unwrap_or(224)
}

/// The scaled config.
pub(super) fn scaled(parts: &Parts<'_>, backbone: BackboneConfig, size: &Size) -> anyhow::Result<Scaled> {
    let (recipe, from) = &parts.recipe;
    let mut made = Scaled {
        config: (*recipe).clone(),
        reasons: BTreeMap::new(),
        notes: vec![format!("{from}: method, heads, optimizer, schedule.")],
        memory: vec![],
    };
    made.network(recipe, backbone, size)?;
    if let Some((borrowed, path)) = &parts.borrowed {
        (made.config.optimizer, made.config.schedule) =
            (borrowed.optimizer.clone(), borrowed.schedule.clone());
        made.notes.push(format!(
            "{path}: optimizer and schedule, because no paper trains this method on such a network: verify them."
        ));
    }
    made.views(&parts.views, size);
    made.data(recipe, size);
    let steps_per_epoch = (size.images / made.config.data.batch_images).max(1);
    let epochs = made.length(parts, size);
    let (schedule, epochs_before) = match &parts.borrowed {
        Some((borrowed, _)) => (&borrowed.schedule, borrowed.training.epochs),
        None => (&recipe.schedule, recipe.training.epochs),
    };
    made.schedule(schedule, epochs, epochs_before.unwrap_or(epochs));
    let shape = DataShape {
        images: size.images,
        batch_images: made.config.data.batch_images,
        steps: steps_per_epoch * epochs,
        epochs,
        epochs_before: recipe.training.epochs.unwrap_or(epochs),
    };
    for change in made.config.objective.for_data(&shape) {
        made.reasons.insert(change.key, change.reason);
    }
    made.rates(parts);
    made.training(epochs, steps_per_epoch);
    Ok(made)
}

impl Scaled {
    pub(super) fn why(&mut self, key: &str, reason: impl Into<String>) {
        self.reasons.insert(key.into(), reason.into());
    }

    fn network(&mut self, recipe: &Config, backbone: BackboneConfig, size: &Size) -> anyhow::Result<()> {
        self.config.backbone = match (backbone, &recipe.backbone) {
            (BackboneConfig::Vit(mut vit), of_recipe) => {
                let patch = vit.patch_px as u32;
                if !size.px.is_multiple_of(patch) || size.px < 4 * patch {
                    return Err(Failure::new(format!(
                        "`--image-px` must be a multiple of the network's patches of {patch} px, and at least {} px, got {}",
                        4 * patch,
                        size.px
                    ))
                    .hint("name a network with smaller patches, such as `vit_small_patch4`, or another size")
                    .into());
                }
                // What its name leaves open is the method's, where its paper has a ViT.
                if let BackboneConfig::Vit(known) = of_recipe {
                    let (width, depth, heads) = (vit.width, vit.depth, vit.heads);
                    let is_of_method = (known.width, known.depth) == (width, depth);
                    let (patch_px, registers) = (vit.patch_px, vit.registers);
                    vit = backbones::VitConfig {
                        width,
                        depth,
                        heads: if is_of_method { known.heads } else { heads },
                        patch_px,
                        registers,
                        ..known.clone()
                    };
                }
                vit.image_px = size.px as usize;
                self.why("backbone.vit.image_px", "the side of the largest views");
                BackboneConfig::Vit(vit)
            }
            (BackboneConfig::Resnet(mut resnet), of_recipe) => {
                if let BackboneConfig::Resnet(known) = of_recipe {
                    resnet.zero_init_residual = known.zero_init_residual;
                }
                if size.px <= super::SMALL_PX && resnet.stem == Stem::Imagenet {
                    resnet.stem = Stem::Small;
                    let reason = format!(
                        "in place of `imagenet`: at {} px its pooling would leave a few pixels",
                        size.px
                    );
                    self.why("backbone.resnet.stem", reason);
                }
                BackboneConfig::Resnet(resnet)
            }
        };
        Ok(())
    }

    /// Crops of the wanted size; smaller views in proportion.
    fn views(&mut self, (views, path): &(&Config, String), size: &Size) {
        let before = px(views);
        let patch = match &self.config.backbone {
            BackboneConfig::Vit(vit) => vit.patch_px as u32,
            BackboneConfig::Resnet(_) => 1,
        };
        let scaled = |side: u32| match side == before {
            true => size.px,
            false => {
                let side = f64::from(side) * f64::from(size.px) / f64::from(before);
                ((side / f64::from(patch)).round() as u32).max(1) * patch
            }
        };
        self.config.views = views.views.iter().map(|group| resized(group, scaled)).collect();
        match self
            .notes
            .first_mut()
            .filter(|note| note.starts_with(path.as_str()))
        {
            Some(note) => *note = format!("{}, crops, augmentations.", note.trim_end_matches('.')),
            None => self.notes.push(format!("{path}: crops and augmentations.")),
        }
        if size.px != before {
            let reason = format!(
                "crops of {} px in place of {before}, smaller ones in proportion",
                size.px
            );
            self.why("views", reason);
        }
    }

    fn data(&mut self, recipe: &Config, size: &Size) {
        let before = recipe.data.batch_images;
        let data = &mut self.config.data;
        let most = most_images(before.min(MOST_IMAGES), size.images);
        data.batch_images = size.batch.as_ref().map_or(most, |batch| batch.images).max(2);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        data.workers = threads.min(MOST_WORKERS);
        data.normalize = Normalize {
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        };
        if data.batch_images != before {
            let reason = match &size.batch {
                Some(batch) => format!("in place of {before}: {}", batch.reason),
                None if size.images / LEAST_STEPS < before.min(MOST_IMAGES) => {
                    format!("in place of {before}: {}", few_images(size.images))
                }
                None => format!(
                    "in place of {before}: what one device holds; more is better for the method where it fits"
                ),
            };
            self.why("data.batch_images", reason);
        }
        self.why("data.workers", "the threads of this machine");
        self.why(
            "data.normalize.mean",
            "ImageNet's channel statistics, as photographs usually have them",
        );
    }

    /// The epochs: more for fewer images, so that the run is not shorter by as much as the data.
    fn length(&mut self, parts: &Parts<'_>, size: &Size) -> usize {
        let (length, path, images) = &parts.length;
        let before = length.training.epochs.unwrap_or(100);
        let (epochs, reason) = match size.epochs {
            Some(epochs) => (epochs, "as asked for".to_string()),
            None if size.images >= *images => (
                before,
                format!("those of {path}, whose data have {images} images"),
            ),
            None => {
                let factor = (*images as f64 / size.images as f64).sqrt();
                let epochs = two_digits(before as f64 * factor).min(MOST_EPOCHS);
                let reason = format!(
                    "{before} for the {images} images of {path}; more by the root of the ratio of images, at most {MOST_EPOCHS}: \
                     a run of fewer images needs more passes and still fewer steps"
                );
                (epochs.max(2), reason)
            }
        };
        self.config.training.epochs = Some(epochs);
        self.config.training.steps = None;
        self.why("training.epochs", reason);
        epochs
    }

    /// Warmups and milestones at the same share of the run.
    fn schedule(&mut self, before: &ScheduleConfig, epochs: usize, epochs_before: usize) {
        let share = |of: usize| {
            let share = of as f64 * epochs as f64 / epochs_before.max(1) as f64;
            (share.round() as usize).clamp(1, epochs.saturating_sub(1).max(1))
        };
        let mut schedule = before.clone();
        let mut reasons = vec![];
        match &mut schedule {
            ScheduleConfig::CosinePerEpoch {
                warmup: Some(warmup), ..
            } => {
                reasons.push(("cosine_per_epoch.warmup", warmup.epochs));
                warmup.epochs = share(warmup.epochs);
            }
            ScheduleConfig::CosinePerStep {
                warmup: Some(warmup), ..
            } => {
                reasons.push(("cosine_per_step.warmup", warmup.epochs));
                warmup.epochs = share(warmup.epochs);
            }
            ScheduleConfig::Steps {
                milestones_epochs, ..
            } => {
                reasons.push((
                    "steps.milestones_epochs",
                    milestones_epochs.first().copied().unwrap_or(0),
                ));
                milestones_epochs.iter_mut().for_each(|at| *at = share(*at));
                milestones_epochs.dedup();
            }
            _ => {}
        }
        for (key, was) in reasons {
            self.why(
                &format!("schedule.{key}"),
                format!("the same share of the run as {was} of {epochs_before} epochs"),
            );
        }
        self.config.schedule = schedule;
    }

    /// Rates are for 256 images, so that the batch scales them; rates that it does not scale are scaled here.
    fn rates(&mut self, parts: &Parts<'_>) {
        let (source, path) = match &parts.borrowed {
            Some((config, path)) => (*config, path),
            None => (parts.recipe.0, &parts.recipe.1),
        };
        let (images, before) = (self.config.data.batch_images, source.data.batch_images);
        let significant = |rate: f64| data::significant(rate, 3);
        let peak = self.config.optimizer.peak_learning_rate(images);
        let of_source = source.optimizer.peak_learning_rate(before);
        let optimizer = match &self.config.optimizer {
            OptimizerConfig::Sgd { .. } => "sgd",
            OptimizerConfig::Adamw { .. } => "adamw",
            OptimizerConfig::Lars { .. } => "lars",
        };
        self.why(
            &format!("optimizer.{optimizer}.learning_rate_per_256"),
            format!(
                "linear scaling (Goyal et al. 2017): the peak is rate × batch / 256 = {} for {images} images; {path} has {} for {before}",
                significant(peak),
                significant(of_source)
            ),
        );
        let ratio = images as f64 / before as f64;
        let end = match &mut self.config.schedule {
            ScheduleConfig::CosinePerEpoch {
                end_learning_rate, ..
            } => ("cosine_per_epoch", end_learning_rate),
            ScheduleConfig::CosinePerStep {
                end_learning_rate, ..
            } => ("cosine_per_step", end_learning_rate),
            _ => return,
        };
        // LARS's recipes end at a share of their peak; AdamW's at a rate of its own.
        if let (schedule, Some(rate)) = end
            && optimizer == "lars"
            && images != before
        {
            let was = *rate;
            *rate *= ratio;
            self.why(
                &format!("schedule.{schedule}.end_learning_rate"),
                format!("in place of {was}: the same share of the peak as in {path}"),
            );
        }
    }

    fn training(&mut self, epochs: usize, steps_per_epoch: usize) {
        let batch = self.config.data.batch_images;
        let is_vit = matches!(self.config.backbone, BackboneConfig::Vit(_));
        let training = &mut self.config.training;
        training.checkpoint_every_steps = None;
        training.checkpoint_every_epochs = Some((epochs / CHECKPOINTS).max(1));
        training.keep_checkpoints = 3;
        training.log_every_steps = training.log_every_steps.min(steps_per_epoch).max(1);
        // Its gradients are the same; it is for a batch that the device does not hold.
        training.micro_batch_images = training
            .micro_batch_images
            .filter(|images| *images < batch && batch.is_multiple_of(*images));
        let group = training.batch_norm_images;
        training.batch_norm_images = match group {
            Some(_) if is_vit => None,
            Some(group) => (2..=group.min(batch / 2))
                .rev()
                .find(|group| batch.is_multiple_of(*group)),
            None => None,
        };
        let now = training.batch_norm_images;
        if let (Some(before), Some(_)) = (group, now)
            && group != now
        {
            let reason =
                format!("in place of {before}: keys are shuffled among at least two parts of the batch");
            self.why("training.batch_norm_images", reason);
        }
        let every = epochs / CHECKPOINTS;
        if every > 1 {
            self.why(
                "training.checkpoint_every_epochs",
                format!("about {CHECKPOINTS} in the run"),
            );
        }
    }
}

/// Images per step, at most `most`, such that an epoch of so many images has enough steps.
pub(super) fn most_images(most: usize, images: usize) -> usize {
    let few = (images / LEAST_STEPS).max(2);
    most.min(1 << few.ilog2())
}

/// Why a batch is that of [`most_images`].
pub(super) fn few_images(images: usize) -> String {
    format!("an epoch of {images} images has at least {LEAST_STEPS} steps")
}

/// A view group whose crops have other sides.
fn resized(group: &ViewGroup, scaled: impl Fn(u32) -> u32) -> ViewGroup {
    let transforms = group.transforms.iter().cloned().map(|mut transform| {
        match &mut transform {
            Transform::RandomResizedCrop { size_px, .. } | Transform::CenterCrop { size_px } => {
                *size_px = scaled(*size_px);
            }
            Transform::Resize { shorter_px, .. } => *shorter_px = scaled(*shorter_px),
            _ => {}
        }
        transform
    });
    ViewGroup {
        count: group.count,
        transforms: transforms.collect(),
    }
}

/// A number of epochs with two digits: 1013 is 1000.
fn two_digits(epochs: f64) -> usize {
    let unit = 10f64.powf((epochs.max(1.0).log10().floor() - 1.0).max(0.0));
    ((epochs / unit).round() * unit) as usize
}
