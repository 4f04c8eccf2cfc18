//! iBOT, an image BERT with an online tokenizer: DINO, whose student also predicts the teacher's targets for
//! hidden patches.
//!
//! Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, [2021](https://arxiv.org/abs/2111.07832).
//!
//! ```text
//! global view, some patches hidden ── student ── class ──── head ── DINO's loss, with the local views
//!                                        └───── hidden ──── head ── p ─┐
//!                                                                      ├─ −q · log p, for each hidden patch
//! the same view, whole ────────────── teacher ─ patches ─── head ── q ─┘
//! ```
//!
//! The teacher's targets for patches have their own temperature and center. With `centering.sinkhorn`,
//! `koleo_weight` and a `patch_head` this is the loss of DINOv2 ([Oquab et al.
//! 2023](https://arxiv.org/abs/2304.07193)).

#[cfg(test)]
pub(crate) mod tests;

use crate::checks;
use crate::dino::{
    Centering, Head, HeadConfig, Network, TemperatureWarmup, check_koleo, frozen_last_layer, koleo_of_views,
    temperature, whole_batch,
};
use crate::head::{GLOBAL_VIEWS, cross_view_prediction, entropies, entropy, spread};
use crate::memory;
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, needs_vit, prototypes_for_data,
    warmup_for_data,
};
use crate::parameter_budget::product;
use crate::teacher;
use backbones::init::trained;
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, RunPosition, draws, ema, independent_copy};
use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Remedy, ViewCount};

/// `[objective.ibot]`. The paper's values are those for ImageNet with ViT-S/16 and multi-crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Softmax temperature of the student, above 0. Paper: 0.1.
    pub student_temperature: f64,
    /// Softmax temperature of the teacher's targets for whole images, above 0. Paper: 0.07.
    pub teacher_temperature: f64,
    /// Its warmup; absent: constant. Paper: from 0.04 over 30 epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_temperature_warmup: Option<TemperatureWarmup>,
    /// Softmax temperature of the teacher's targets for patches, above 0. Paper: 0.07.
    pub patch_teacher_temperature: f64,
    /// Its warmup, from `mask.from_epoch` on; absent: constant. Paper: from 0.04 over 30 epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_teacher_temperature_warmup: Option<TemperatureWarmup>,
    /// Keeps the teacher from preferring one prototype, for images and for patches separately. Paper: a mean
    /// with momentum 0.9 for both.
    pub centering: Centering,
    /// Epochs at the start in which the heads' last layers are frozen. Paper: 1.
    pub freeze_last_layer_epochs: usize,
    /// Teacher momentum per step, 0..1, at the start. Paper: 0.996.
    pub momentum: f64,
    /// The same at the end, reached by a cosine over all steps; absent: constant. Paper: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_end: Option<f64>,
    /// Weight of KoLeo on the student's class tokens of the global views; absent: none. DINOv2: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub koleo_weight: Option<f64>,
    /// Weight of the patch loss relative to the image loss. Paper: 1.
    pub patch_weight: f64,
    /// The choice of hidden patches.
    pub mask: MaskConfig,
    /// Maps class tokens to logits, and patch tokens too if `patch_head` is absent.
    pub head: HeadConfig,
    /// Maps patch tokens to logits; absent: `head` does it. Paper: absent; DINOv2's large models: as `head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_head: Option<HeadConfig>,
}

/// The choice of the global views' patches to hide from the student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    /// Shape of the hidden region. Paper: `"block"`.
    pub shape: MaskShape,
    /// Probability that a global view hides any patches, above 0 and at most 1. Paper: 0.5, drawn for each
    /// view separately.
    pub probability: f64,
    /// Smallest and largest share of a view's hidden patches, within 0..1; drawn uniformly. Paper: 0.1 to 0.5
    /// (0.3 ± 0.2).
    pub ratio: [f64; 2],
    /// Completed epochs before masking starts. Paper: 0 for vision transformers.
    pub from_epoch: usize,
}

/// Shape of a view's hidden region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskShape {
    /// Rectangles of 1/0.3 to 0.3 times as many rows as columns, added until they cover the share or no more
    /// fits: Bao et al., *BEiT*, [2021](https://arxiv.org/abs/2106.08254), algorithm 1.
    Block,
    /// Single patches.
    Random,
}

impl MethodConfig for Config {
    const NAME: &'static str = "ibot";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Zhou, Wei, Wang, Shen, Xie, Yuille, Kong",
        title: "iBOT: Image BERT Pre-Training with Online Tokenizer",
        year: 2021,
        arxiv: "2111.07832",
    }];

    type Objective = Ibot;

    fn objective(self, backbone: BackboneConfig) -> Ibot {
        Ibot {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        needs_vit(run, Self::NAME, "whose patches can be hidden")?;
        let heads = [
            ("head", Some(&self.head)),
            ("patch_head", self.patch_head.as_ref()),
        ];
        for (key, head) in heads {
            let Some(head) = head else { continue };
            head.validate().map_err(|invalid| invalid.within(key))?;
            if head.batch_norm {
                let reason =
                    "must be false, got true: as many patches as happen to be hidden would share statistics";
                return Err(Invalid::key("batch_norm", reason).within(key));
            }
        }
        checks::temperatures(&[("student_temperature", self.student_temperature)])?;
        let courses = [
            (
                "teacher_temperature",
                self.teacher_temperature,
                &self.teacher_temperature_warmup,
            ),
            (
                "patch_teacher_temperature",
                self.patch_teacher_temperature,
                &self.patch_teacher_temperature_warmup,
            ),
        ];
        for (key, end, warmup) in courses {
            checks::temperatures(&[(key, end)])?;
            if let Some(warmup) = warmup {
                let within = |invalid: Invalid| invalid.within(&format!("{key}_warmup"));
                warmup.validate().map_err(within)?;
            }
            self.centering
                .validate([Some(end), warmup.as_ref().map(|warmup| warmup.start)])?;
        }
        teacher::check(self.momentum, self.momentum_end)?;
        check_koleo(self.koleo_weight, Self::NAME, run.batch_images)?;
        checks::weights(&[("patch_weight", self.patch_weight)])?;
        self.mask.validate().map_err(|invalid| invalid.within("mask"))
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        let keys = ["head.hidden_width", "head.bottleneck_width", "head.prototypes"];
        let mut parts: Vec<_> = keys.into_iter().zip(self.head.numbers(features)).collect();
        if let Some(head) = &self.patch_head {
            let keys = [
                "patch_head.hidden_width",
                "patch_head.bottleneck_width",
                "patch_head.prototypes",
            ];
            parts.extend(keys.into_iter().zip(head.numbers(features)));
        }
        parts
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        let [least, most] = self.mask.ratio;
        let share = self.mask.probability * (least + most) / 2.0;
        let hidden = share * product(GLOBAL_VIEWS, step.patches);
        let of_patches = self.patch_head.as_ref().unwrap_or(&self.head);
        Footprint {
            has_teacher: true,
            values_per_image: step.views as f64
                * memory::values_of_head(self.head.prototypes, self.head.hidden_width)
                + hidden * memory::values_of_head(of_patches.prototypes, of_patches.hidden_width),
            ..Footprint::default()
        }
    }

    fn counts(&self) -> Vec<Count> {
        let from = self.mask.from_epoch;
        let mut counts = vec![
            frozen_last_layer(self.freeze_last_layer_epochs),
            teacher::count(self.momentum, self.momentum_end),
            Count::phase("mask.from_epoch", from, "no patch would ever be hidden"),
        ];
        if let Some(warmup) = &self.teacher_temperature_warmup {
            counts.push(warmup.count("teacher_temperature_warmup", 0));
        }
        if let Some(warmup) = &self.patch_teacher_temperature_warmup {
            counts.push(warmup.count("patch_teacher_temperature_warmup", from));
        }
        counts
    }

    fn for_smoke_test(&mut self, _: usize) {
        self.freeze_last_layer_epochs = 0;
        self.mask.from_epoch = 0;
        self.teacher_temperature_warmup = None;
        self.patch_teacher_temperature_warmup = None;
        teacher::for_smoke_test(&mut self.momentum, Some(&mut self.momentum_end));
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        let mut changes: Vec<Change> = teacher::for_data(&mut self.momentum, data).into_iter().collect();
        let patch_head = self.patch_head.as_mut().map(|head| ("patch_head", head));
        for (table, head) in [("head", &mut self.head)].into_iter().chain(patch_head) {
            let key = format!("{table}.prototypes");
            changes.extend(prototypes_for_data(&key, &mut head.prototypes, 256, data));
        }
        let warmups = [
            (
                "teacher_temperature_warmup.epochs",
                &mut self.teacher_temperature_warmup,
            ),
            (
                "patch_teacher_temperature_warmup.epochs",
                &mut self.patch_teacher_temperature_warmup,
            ),
        ];
        for (key, warmup) in warmups {
            let warmup = warmup.as_mut();
            changes.extend(warmup.and_then(|warmup| warmup_for_data(key, &mut warmup.epochs, data)));
        }
        changes
    }
}

impl Config {
    fn temperature(&self, progress: &RunPosition) -> f64 {
        let warmup = self.teacher_temperature_warmup.as_ref();
        temperature(self.teacher_temperature, warmup, progress.epoch())
    }

    fn patch_temperature(&self, progress: &RunPosition) -> f64 {
        let warmup = self.patch_teacher_temperature_warmup.as_ref();
        let epoch = progress.epoch().saturating_sub(self.mask.from_epoch);
        temperature(self.patch_teacher_temperature, warmup, epoch)
    }
}

impl MaskConfig {
    fn validate(&self) -> Result<(), Invalid> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return Err(Invalid::key(
                "probability",
                format!("must be above 0 and at most 1, got {}", self.probability),
            ));
        }
        let [least, most] = self.ratio;
        if !(0.0 <= least && least <= most && 0.0 < most && most <= 1.0) {
            return Err(Invalid::key(
                "ratio",
                format!("must be two numbers that rise within 0..1, got [{least}, {most}]"),
            ));
        }
        Ok(())
    }

    /// The hidden patches of one view, row by row.
    fn draw(&self, [rows, columns]: [usize; 2], rng: &mut impl Rng) -> Vec<bool> {
        let masked = uniform(rng, 0.0, 1.0) < self.probability;
        let ratio = uniform(rng, self.ratio[0], self.ratio[1]);
        let mut hidden = vec![false; rows * columns];
        if !masked {
            return hidden;
        }
        let wanted = ratio * (rows * columns) as f64;
        match self.shape {
            MaskShape::Block => blocks(&mut hidden, [rows, columns], wanted, rng),
            MaskShape::Random => {
                let mut order: Vec<usize> = (0..rows * columns).collect();
                let count = wanted as usize;
                draws::choose(rng, &mut order, count);
                order[..count].iter().for_each(|place| hidden[*place] = true);
            }
        }
        hidden
    }
}

/// Hides rectangles until `wanted` patches are hidden or ten tries in a row failed, as in the paper's code.
/// The smallest area of a try is a square of a third of the grid's shorter side. A rectangle that would hide
/// too many patches is rejected.
fn blocks(hidden: &mut [bool], [rows, columns]: [usize; 2], wanted: f64, rng: &mut impl Rng) {
    let least = (rows.min(columns) / 3).pow(2) as f64;
    let mut count = 0;
    while (count as f64) < wanted {
        let left = wanted - count as f64;
        let found = (0..10).find_map(|_| {
            let area = uniform(rng, least, left);
            let aspect = uniform(rng, 0.3f64.ln(), (1.0 / 0.3f64).ln()).exp();
            let height = (area * aspect).sqrt().round_ties_even() as usize;
            let width = (area / aspect).sqrt().round_ties_even() as usize;
            if height >= rows || width >= columns {
                return None;
            }
            let top = draws::below(rng, rows - height + 1);
            let left_edge = draws::below(rng, columns - width + 1);
            let places: Vec<usize> = (top..top + height)
                .flat_map(|row| (left_edge..left_edge + width).map(move |column| row * columns + column))
                .filter(|place| !hidden[*place])
                .collect();
            (!places.is_empty() && places.len() as f64 <= left).then_some(places)
        });
        let Some(places) = found else { break };
        count += places.len();
        places.into_iter().for_each(|place| hidden[place] = true);
    }
}

/// Uniform between two numbers given in either order.
fn uniform(rng: &mut impl Rng, from: f64, to: f64) -> f64 {
    from + (to - from) * draws::uniform(rng)
}

/// The hidden patches in the global views of a (micro-)batch.
struct Mask {
    /// `[2 * images, patches]`: true where a patch is hidden.
    hidden: Tensor<2, Bool>,
    /// The hidden patches' indices, counted over all global views; at least one, with weight 0 if none is
    /// hidden.
    places: Tensor<1, Int>,
    /// Weight of each, `[places, 1]`: an image's weights sum to 1 / (2 images) for any number of hidden
    /// patches.
    weights: Tensor<2>,
    /// The share of hidden patches, `[1]`.
    share: Tensor<1>,
}

impl Mask {
    /// Draws depend on the view's index in the step, so a micro-batch hides the same patches as the whole
    /// batch.
    fn draw(
        config: &MaskConfig,
        images: usize,
        grid: [usize; 2],
        context: &Context,
        device: &Device,
    ) -> Self {
        let of_view = |number: usize| {
            if context.progress.epoch() < config.from_epoch {
                return vec![false; grid[0] * grid[1]];
            }
            let (view, image) = (number / images, number % images);
            let index = (context.place() * images + image) * GLOBAL_VIEWS + view;
            let mut rng = context.draws.whole_step().rng("ibot.mask", index as u64);
            config.draw(grid, &mut rng)
        };
        let views: Vec<Vec<bool>> = (0..GLOBAL_VIEWS * images).map(of_view).collect();
        Self::new(&views, device)
    }

    /// From the hidden patches of each view, all images of view 0 first.
    fn new(views: &[Vec<bool>], device: &Device) -> Self {
        let (mut places, mut weights) = (vec![], vec![]);
        for (number, view) in views.iter().enumerate() {
            let numbers = view.iter().enumerate().filter(|(_, hidden)| **hidden);
            let of_view: Vec<i32> = numbers
                .map(|(place, _)| (number * view.len() + place) as i32)
                .collect();
            let weight = 1.0 / (of_view.len().max(1) * views.len()) as f64;
            weights.extend(std::iter::repeat_n(weight as f32, of_view.len()));
            places.extend(of_view);
        }
        let hidden = views.concat();
        let share = places.len() as f32 / hidden.len() as f32;
        if places.is_empty() {
            // Some backends do not support empty tensors.
            (places, weights) = (vec![0], vec![0.0]);
        }
        let (count, patches) = (places.len(), hidden.len() / views.len());
        Self {
            hidden: Tensor::from_data(TensorData::new(hidden, [views.len(), patches]), device),
            places: Tensor::from_data(TensorData::new(places, [count]), device),
            weights: Tensor::from_data(TensorData::new(weights, [count, 1]), device),
            share: Tensor::from_floats([share], device),
        }
    }

    /// The tokens of hidden patches: `[2 * images, patches, width]` to `[places, width]`.
    fn of(&self, tokens: Tensor<3>) -> Tensor<2> {
        let [views, patches, width] = tokens.dims();
        self.of_rows(tokens.reshape([views * patches, width]))
    }

    fn of_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        rows.select(0, self.places.clone())
    }

    /// The weighted sum of one value per hidden patch, `[places, 1]` to `[1]`.
    fn sum(&self, each: Tensor<2>) -> Tensor<1> {
        (each * self.weights.clone()).sum_dim(0).reshape([1])
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// Backbone and head.
    pub encoder: Network,
    /// The patches' head, if it is separate.
    pub patch_head: Option<Head>,
    /// The token that replaces every hidden patch, `[1, width]`. Two dimensions, as in the paper's code, so
    /// that weight decay treats it as a weight.
    pub mask_token: Param<Tensor<2>>,
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// The moving average of the student's backbone and head.
    pub teacher: Network,
    /// The moving average of the patches' head.
    pub patch_teacher: Option<Head>,
    /// The moving average of the teacher's logits of class tokens, `[1, prototypes]`; absent with
    /// `centering.sinkhorn`. The spelling matches checkpoints.
    pub centre: Option<Param<Tensor<2>>>,
    /// The same for all patches, hidden or not.
    pub patch_centre: Option<Param<Tensor<2>>>,
}

/// The mean logits of class tokens and of patches, `[1, prototypes]` each.
pub type Means = (Option<Tensor<2>>, Option<Tensor<2>>);

/// The objective.
#[derive(Clone, Debug)]
pub struct Ibot {
    config: Config,
    backbone: BackboneConfig,
}

/// The student's targets for a batch, and the means that update the centers.
struct Targets {
    class: Tensor<2>,
    patches: Tensor<2>,
    means: Means,
}

impl Ibot {
    fn targets(&self, state: &State, images: Tensor<4>, mask: &Mask, context: &Context) -> Targets {
        let context = &context.teacher();
        let (centering, replicas) = (&self.config.centering, &context.replicas);
        let tokens = vit(&state.teacher.backbone).tokens(images, None, context);
        let head = &state.teacher.head;
        let class = head.logits(head.embed(tokens.class, context)).detach();

        let head = state.patch_teacher.as_ref().unwrap_or(head);
        let (patches, mean) = match centering {
            // The center covers all patches. The last layer is linear: the mean of logits is the logit of the
            // mean.
            Centering::Mean { .. } => {
                let [views, patches, width] = tokens.patches.dims();
                let all = head.embed(tokens.patches.reshape([views * patches, width]), context);
                let mean = replicas.mean(head.logits(all.clone().mean_dim(0)));
                (head.logits(mask.of_rows(all)), Some(mean.detach()))
            }
            Centering::Sinkhorn { .. } => {
                let hidden = head.embed(mask.of(tokens.patches), context);
                (head.logits(hidden), None)
            }
        };
        let means = (centering.mean_logits(class.clone(), replicas), mean);
        let progress = &context.progress;
        let temperature = self.config.temperature(progress);
        let patch_temperature = self.config.patch_temperature(progress);
        let centers = [state.centre.as_ref(), state.patch_centre.as_ref()];
        Targets {
            class: centering.targets(class, centers[0], temperature, replicas),
            patches: centering.targets(patches.detach(), centers[1], patch_temperature, replicas),
            means,
        }
    }
}

/// The backbone as the vision transformer that the config requires.
fn vit(backbone: &Backbone) -> &backbones::Vit {
    let Some(vit) = backbone.as_vit() else {
        unreachable!("`Config::validate` refuses other networks")
    };
    vit
}

impl Objective for Ibot {
    type Student = Student;
    type State = State;
    type Pending = Means;

    fn views(&self) -> ViewCount {
        ViewCount::GlobalAndLocal {
            global: GLOBAL_VIEWS,
            least_local: 0,
        }
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let config = &self.config;
        let at = init.at("student");
        let width = self.backbone.features();
        let student = Student {
            encoder: Network::new(&at.at("encoder"), &self.backbone, &config.head),
            patch_head: config
                .patch_head
                .as_ref()
                .map(|head| Head::new(&at.at("patch_head"), head, width)),
            // Zeros, as in the paper's code.
            mask_token: trained(at.zeros([1, width])),
        };
        let of_patches = config.patch_head.as_ref().unwrap_or(&config.head);
        let state = State {
            teacher: independent_copy(&student.encoder),
            patch_teacher: student.patch_head.as_ref().map(independent_copy),
            centre: config.centering.init(init, config.head.prototypes),
            patch_centre: config.centering.init(init, of_patches.prototypes),
        };
        (student, state)
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, Means) {
        let config = &self.config;
        let global = batch.views[0].images.clone();
        let [_, _, height, width] = global.dims();
        let network = vit(&student.encoder.backbone);
        let grid = [height / network.patch_px(), width / network.patch_px()];
        let mask = Mask::draw(&config.mask, batch.images, grid, context, &global.device());

        let token = student.mask_token.val().reshape([-1]);
        let hidden = Some((mask.hidden.clone(), token));
        let seen = network.tokens(global.clone(), hidden, &context.part(0));
        let mut class = vec![seen.class.clone()];
        for (size, group) in batch.views.iter().enumerate().skip(1) {
            let context = context.part(size as u64);
            class.push(network.tokens(group.images.clone(), None, &context).class);
        }
        let class = Tensor::cat(class, 0);
        let rows = class.dims()[0];
        let views = rows / batch.images;
        let hidden = mask.of(seen.patches);
        let head = &student.encoder.head;
        let (embeddings, logits, patch_logits) = match &student.patch_head {
            Some(patch_head) => {
                let embeddings = head.embed(class, context);
                let patches = patch_head.logits(patch_head.embed(hidden, context));
                (embeddings.clone(), head.logits(embeddings), patches)
            }
            None => {
                let embeddings = head.embed(Tensor::cat(vec![class, hidden], 0), context);
                let logits = head.logits(embeddings.clone());
                let patches = logits.dims()[0] - rows;
                (
                    embeddings,
                    logits.clone().narrow(0, 0, rows),
                    logits.narrow(0, rows, patches),
                )
            }
        };

        let targets = self.targets(state, global, &mask, context);
        let class_loss =
            cross_view_prediction(logits, targets.class.clone(), views, config.student_temperature);
        let of_patches = cross_entropies(patch_logits, targets.patches.clone(), config.student_temperature);
        let patch_loss = mask.sum(of_patches);
        let mut total = class_loss.clone() + patch_loss.clone() * config.patch_weight;

        let (class_loss, patch_loss) = (class_loss.detach(), patch_loss.detach());
        let class_entropy = entropy(targets.class.clone());
        let mut signals = vec![
            ("kl", class_loss - class_entropy.clone()),
            ("teacher_entropy", class_entropy),
            (
                "patch_kl",
                patch_loss - mask.sum(entropies(targets.patches.clone())),
            ),
            ("patch_teacher_entropy", entropy(targets.patches)),
            ("hidden_patches", mask.share),
            (
                "embedding_std",
                spread(&embeddings.clone().narrow(0, 0, GLOBAL_VIEWS * batch.images)),
            ),
        ];
        if let Some(weight) = config.koleo_weight {
            let koleo = koleo_of_views(&seen.class, &context.replicas);
            signals.push(("koleo", koleo.clone().detach()));
            total = total + koleo * weight;
        }
        let loss = Loss::new(total, signals)
            .with_embeddings(&embeddings.narrow(0, 0, batch.images))
            .with_assignments(&targets.class);
        (loss, targets.means)
    }

    fn commit(
        &self,
        student: Student,
        mut state: State,
        pending: Vec<Means>,
        context: &Context,
    ) -> (Student, State) {
        let config = &self.config;
        let momentum = teacher::momentum(config.momentum, config.momentum_end, &context.progress);
        state.teacher = ema(state.teacher, &student.encoder, momentum);
        state.patch_teacher = match (state.patch_teacher, &student.patch_head) {
            (Some(teacher), Some(head)) => Some(ema(teacher, head, momentum)),
            (teacher, _) => teacher,
        };
        let (class, patches) = pending.into_iter().unzip();
        state.centre = self.config.centering.moved(state.centre, class);
        state.patch_centre = self.config.centering.moved(state.patch_centre, patches);
        (student, state)
    }

    fn frozen(&self, progress: &RunPosition) -> Vec<&'static str> {
        if progress.epoch() < self.config.freeze_last_layer_epochs {
            vec!["encoder.head.last_layer", "patch_head.last_layer"]
        } else {
            vec![]
        }
    }

    fn whole_batch(&self) -> Option<&'static str> {
        whole_batch(&self.config.centering, self.config.koleo_weight)
    }

    fn chance_loss(&self, _: usize) -> Option<f64> {
        let config = &self.config;
        let patch_head = config.patch_head.as_ref().unwrap_or(&config.head);
        let [class, patch] = [&config.head, patch_head].map(|head| (head.prototypes as f64).ln());
        // Of the views, as many as `probability` hide patches.
        let chance = class + config.patch_weight * config.mask.probability * patch;
        (config.mask.from_epoch == 0 && chance > 0.0).then_some(chance)
    }

    fn in_force(&self, position: &RunPosition, _: usize) -> Vec<(&'static str, f64)> {
        let config = &self.config;
        vec![
            (
                "teacher_momentum",
                teacher::momentum(config.momentum, config.momentum_end, position),
            ),
            ("teacher_temperature", config.temperature(position)),
            ("patch_teacher_temperature", config.patch_temperature(position)),
        ]
    }

    fn prototypes(&self) -> Option<usize> {
        Some(self.config.head.prototypes)
    }

    fn measured(&self, student: &Student, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(&student.encoder, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let Config {
            teacher_temperature,
            freeze_last_layer_epochs,
            ..
        } = self.config;
        crate::dino::remedies(Config::NAME, cause, teacher_temperature, freeze_last_layer_epochs)
    }

    fn encoder(&self, _: &Student, state: &State) -> Backbone {
        state.teacher.backbone.clone()
    }
}

/// `−q · log softmax(logits / temperature)` of each row: the paper's L_MIM for one patch.
///
/// # Shapes
/// - logits, targets: `[rows, prototypes]`, the student's and the teacher's; rows of the targets sum to 1
/// - output: `[rows, 1]`
pub fn cross_entropies(logits: Tensor<2>, targets: Tensor<2>, temperature: f64) -> Tensor<2> {
    let rows = targets.dims()[0];
    backbones::layers::cross_entropies(&logits, || targets.clone(), rows, temperature)
        .unwrap_or_else(|| (log_softmax(logits / temperature, 1) * targets).sum_dim(1).neg())
}
