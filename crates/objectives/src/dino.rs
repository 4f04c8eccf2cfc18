//! DINO, self-distillation without labels: from any view, a student predicts a slowly moving teacher's
//! assignment of the global views to prototypes.
//!
//! [Caron et al. 2021](https://arxiv.org/abs/2104.14294).
//!
//! ```text
//! view v ── student ── head ── logits_v ── softmax(· / student_temperature) ────────── p_v ─┐
//!                                                                                           ├─ −q_i · log p_v
//! view i ── teacher ── head ── logits_i ── softmax((· − center) / teacher_temperature) ─ q_i ─┘   (i global, v ≠ i any view)
//!                         teacher <- momentum teacher + (1 − momentum) student
//! ```
//!
//! Two mechanisms keep the teacher's targets from collapsing. The center, a moving average of the teacher's
//! logits, keeps one prototype from dominating. A low temperature keeps the prototypes from becoming equally
//! likely. `teacher_entropy` and `kl` in the log show when one mechanism dominates (section 5.3 of the
//! paper): a divergence of 0, with an entropy of 0 or of the logarithm of `head.prototypes`, is a collapse.
//!
//! Two additions of DINOv2 ([Oquab et al. 2023](https://arxiv.org/abs/2304.07193)) are optional:
//! Sinkhorn–Knopp instead of the center, and KoLeo, which spreads the features of a batch.

#[cfg(test)]
pub(crate) mod tests;

mod for_data;
mod koleo;
mod released;

pub use koleo::koleo;
pub(crate) use koleo::koleo_of_views;

use crate::checks;
use crate::head::{GLOBAL_VIEWS, cross_view_prediction, entropy, features_of_views, l2_normalize, spread};
use crate::memory;
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, advice, where_needed,
};
use crate::parameter_budget::{mlp, product};
use crate::swav::sinkhorn;
use crate::teacher;
use backbones::init::{buffer, trained};
use backbones::layers::{BatchNorm, Linear, gelu};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, Precision, Replicas, RunPosition};
use backbones::{change_value, ema, independent_copy};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Released, Remedy, ViewCount};

/// `[objective.dino]`. The paper's values are those for ImageNet with ViT-S/16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Softmax temperature of the student, above 0. Paper: 0.1.
    pub student_temperature: f64,
    /// Softmax temperature of the teacher, above 0. Paper: 0.04, and 0.07 for longer training.
    pub teacher_temperature: f64,
    /// Warmup of the teacher's temperature; absent: constant. Paper: from 0.04 over 30 epochs to 0.07.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_temperature_warmup: Option<TemperatureWarmup>,
    /// Keeps the teacher from preferring one prototype.
    pub centering: Centering,
    /// Epochs at the start in which the head's last layer is frozen. Paper: 1.
    pub freeze_last_layer_epochs: usize,
    /// Teacher momentum per step, 0..1, at the start. Paper: 0.996; 0.9995 is advised for 256 images.
    pub momentum: f64,
    /// The same at the end, reached by a cosine over all steps; absent: constant. Paper: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_end: Option<f64>,
    /// Weight of KoLeo on the student's features of the global views; absent: none. DINOv2: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub koleo_weight: Option<f64>,
    /// The projection head from features to logits.
    pub head: HeadConfig,
}

/// The warmup of a teacher's temperature: constant within an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemperatureWarmup {
    /// Temperature of the first epoch, above 0. Paper: 0.04.
    pub start: f64,
    /// Epochs of the linear warmup; its last epoch has the final temperature (numpy's `linspace`), which
    /// needs at least 2. Paper: 30; ViT-B and ResNet-50: 50.
    pub epochs: usize,
}

/// Keeps the teacher from preferring one prototype. TOML: `centering = { mean = { momentum = 0.9 } }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Centering {
    /// Subtracts a moving average of the logits from them (eq. 4 of the paper).
    Mean {
        /// Momentum of the average per step, 0..1. Paper: 0.9.
        momentum: f64,
    },
    /// Sinkhorn–Knopp spreads a batch's targets evenly over the prototypes (DINOv2, section 4), over all
    /// global views together.
    Sinkhorn {
        /// Iterations, at least 1. DINOv2: 3.
        iterations: usize,
    },
}

/// The projection head. TOML: `[objective.dino.head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the two hidden layers. Paper: 2,048.
    pub hidden_width: usize,
    /// Width of the embedding that is compared with the prototypes. Paper: 256.
    pub bottleneck_width: usize,
    /// Number of prototypes and of logits; the paper's K. Paper: 65,536 (60,000 in the longest run of
    /// ResNet-50).
    pub prototypes: usize,
    /// Batch normalization after the hidden layers. Paper: false for vision transformers, true in the longest run of
    /// ResNet-50.
    pub batch_norm: bool,
    /// Keep the prototypes at length 1. Paper: true; false is better with ViT-S/16, but less stable.
    pub norm_last_layer: bool,
}

impl MethodConfig for Config {
    const NAME: &'static str = "dino";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin",
        title: "Emerging Properties in Self-Supervised Vision Transformers",
        year: 2021,
        arxiv: "2104.14294",
    }];

    type Objective = Dino;

    fn objective(self, backbone: BackboneConfig) -> Dino {
        Dino {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        self.head.validate().map_err(|invalid| invalid.within("head"))?;
        let teacher = self.teacher_temperature;
        let temperatures = [
            ("student_temperature", self.student_temperature),
            ("teacher_temperature", teacher),
        ];
        checks::temperatures(&temperatures)?;
        if let Some(warmup) = &self.teacher_temperature_warmup {
            let within = |invalid: Invalid| invalid.within("teacher_temperature_warmup");
            warmup.validate().map_err(within)?;
        }
        self.centering.validate([
            Some(teacher),
            self.teacher_temperature_warmup.as_ref().map(|w| w.start),
        ])?;
        teacher::check(self.momentum, self.momentum_end)?;
        check_koleo(self.koleo_weight, Self::NAME, run.batch_images)
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        let keys = ["head.hidden_width", "head.bottleneck_width", "head.prototypes"];
        keys.into_iter().zip(self.head.numbers(features)).collect()
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        Footprint {
            has_teacher: true,
            has_batch_norm: self.head.batch_norm,
            values_per_image: step.views as f64
                * memory::values_of_head(self.head.prototypes, self.head.hidden_width),
            ..Footprint::default()
        }
    }

    fn counts(&self) -> Vec<Count> {
        let mut counts = vec![
            frozen_last_layer(self.freeze_last_layer_epochs),
            teacher::count(self.momentum, self.momentum_end),
        ];
        if let Some(warmup) = &self.teacher_temperature_warmup {
            counts.push(warmup.count("teacher_temperature_warmup", 0));
        }
        counts
    }

    fn for_smoke_test(&mut self, _: usize) {
        self.freeze_last_layer_epochs = 0;
        self.teacher_temperature_warmup = None;
        teacher::for_smoke_test(&mut self.momentum, Some(&mut self.momentum_end));
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        for_data::adapt(self, data)
    }
}

/// The epochs of a frozen last layer as a key.
pub(crate) fn frozen_last_layer(epochs: usize) -> Count {
    Count::phase(
        "freeze_last_layer_epochs",
        epochs,
        "the head's last layer would never learn",
    )
}

impl Config {
    fn temperature(&self, progress: &RunPosition) -> f64 {
        let warmup = self.teacher_temperature_warmup.as_ref();
        temperature(self.teacher_temperature, warmup, progress.epoch())
    }
}

impl HeadConfig {
    /// Parameter counts by key, for features of this width: the hidden layers', the bottleneck's, the
    /// prototypes'.
    pub(crate) fn numbers(&self, features: f64) -> [f64; 3] {
        [
            mlp(features, 2, self.hidden_width),
            product(self.bottleneck_width, self.hidden_width),
            product(self.prototypes, self.bottleneck_width),
        ]
    }

    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        checks::sizes(&[
            ("hidden_width", self.hidden_width),
            ("bottleneck_width", self.bottleneck_width),
        ])?;
        if self.prototypes < 2 {
            return Err(Invalid::key(
                "prototypes",
                format!("must be at least 2, got {}", self.prototypes),
            ));
        }
        Ok(())
    }
}

impl TemperatureWarmup {
    /// The key of its length, below `table`; it begins after `from` epochs.
    pub(crate) fn count(&self, table: &str, from: usize) -> Count {
        let otherwise = "the teacher's temperature would not arrive";
        Count::course("epochs", self.epochs, from, otherwise).within(table)
    }

    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        checks::temperatures(&[("start", self.start)])?;
        if self.epochs < 2 {
            let reason = format!(
                "must be at least 2 (leave the key out for a constant temperature), got {}",
                self.epochs
            );
            return Err(Invalid::key("epochs", reason));
        }
        Ok(())
    }
}

impl Centering {
    /// `temperatures`: the teacher's at both ends of its warmup.
    pub(crate) fn validate(&self, temperatures: [Option<f64>; 2]) -> Result<(), Invalid> {
        match self {
            Self::Mean { momentum } => checks::momenta(&[("centering.mean.momentum", *momentum)]),
            Self::Sinkhorn { iterations: 0 } => Err(Invalid::key(
                "centering.sinkhorn.iterations",
                "must be at least 1, got 0",
            )),
            Self::Sinkhorn { .. } => match temperatures.into_iter().flatten().find(|t| *t < 0.02) {
                // Below it exp(logit / temperature) overflows f32.
                Some(low) => Err(Invalid::key(
                    "centering.sinkhorn",
                    format!("must go with a teacher's temperature of at least 0.02, got {low}"),
                )),
                None => Ok(()),
            },
        }
    }

    /// A center of zeros, if there is one.
    pub(crate) fn init(&self, init: &Init, prototypes: usize) -> Option<Param<Tensor<2>>> {
        match self {
            Self::Mean { .. } => Some(buffer(init.zeros([1, prototypes]).without_autodiff())),
            Self::Sinkhorn { .. } => None,
        }
    }

    /// The student's targets; each row sums to 1 (eq. 1 of the paper with eq. 4, or Sinkhorn–Knopp).
    ///
    /// # Shapes
    /// - logits: `[rows, prototypes]`, without a graph
    /// - center: `[1, prototypes]`
    /// - output: the shape of `logits`
    pub(crate) fn targets(
        &self,
        logits: Tensor<2>,
        center: Option<&Param<Tensor<2>>>,
        temperature: f64,
        replicas: &Replicas,
    ) -> Tensor<2> {
        match self {
            Self::Mean { .. } => {
                let logits = match center {
                    Some(center) => logits - center.val(),
                    None => logits,
                };
                softmax(logits / temperature, 1)
            }
            Self::Sinkhorn { iterations } => {
                // Cosines are at most 1, as the function requires; trained lengths can exceed that.
                // One value a replica: iBOT's hidden patches are not equally many on each.
                let largest = replicas.gather(logits.clone().max_dim(1).max_dim(0)).max_dim(0);
                sinkhorn(logits - largest + 1.0, temperature, *iterations, replicas)
            }
        }
    }

    /// The mean of the logits over rows and replicas, which updates the center: `[1, prototypes]`.
    pub(crate) fn mean_logits(&self, logits: Tensor<2>, replicas: &Replicas) -> Option<Tensor<2>> {
        match self {
            Self::Mean { .. } => Some(replicas.mean(logits.mean_dim(0))),
            Self::Sinkhorn { .. } => None,
        }
    }

    /// The center after a step whose micro-batches had these mean logits (eq. 4 of the paper).
    pub(crate) fn moved(
        &self,
        center: Option<Param<Tensor<2>>>,
        means: Vec<Option<Tensor<2>>>,
    ) -> Option<Param<Tensor<2>>> {
        let (center, Self::Mean { momentum }) = (center?, self) else {
            return None;
        };
        let means: Vec<Tensor<2>> = means.into_iter().flatten().collect();
        if means.is_empty() {
            return Some(center);
        }
        let mean = Tensor::cat(means, 0).mean_dim(0).without_autodiff();
        Some(change_value(center, |center| {
            center * *momentum + mean * (1.0 - momentum)
        }))
    }
}

/// The temperature of an epoch: on the warmup's line, or `end`.
pub(crate) fn temperature(end: f64, warmup: Option<&TemperatureWarmup>, epoch: usize) -> f64 {
    match warmup {
        Some(warmup) if epoch < warmup.epochs => {
            let part = epoch as f64 / (warmup.epochs - 1).max(1) as f64;
            warmup.start + (end - warmup.start) * part
        }
        _ => end,
    }
}

/// Gives an error for a negative KoLeo weight in `method`, and for batches without a second image.
pub(crate) fn check_koleo(weight: Option<f64>, method: &str, batch_images: usize) -> Result<(), Invalid> {
    let Some(weight) = weight else { return Ok(()) };
    checks::weights(&[("koleo_weight", weight)])?;
    if batch_images < 2 {
        return Err(Invalid::Run(format!(
            "`data.batch_images` must be at least 2 for `objective.{method}.koleo_weight`, which pushes neighbors apart, got {batch_images}"
        )));
    }
    Ok(())
}

/// An MLP of three layers with GELU; its L2-normalized output is compared with L2-normalized prototypes
/// (section 3.1 of the paper).
#[derive(Module, Debug)]
pub struct Head {
    /// Two hidden layers and the bottleneck.
    pub layers: Vec<Linear>,
    /// Norms of the hidden layers; empty if there are none.
    pub norms: Vec<BatchNorm>,
    /// Maps the bottleneck to the logits.
    pub last_layer: Prototypes,
}

/// A linear layer without bias whose rows are split into length and direction: Salimans, Kingma, *Weight
/// normalization*, 2016, eq. 2.
#[derive(Module, Debug)]
pub struct Prototypes {
    /// Lengths, `[prototypes, 1]`: 1, and trained only without `norm_last_layer`. Two dimensions, as in
    /// PyTorch, so that weight decay treats them as a weight.
    pub weight_g: Param<Tensor<2>>,
    /// Directions, `[prototypes, bottleneck_width]`, of any length.
    pub weight_v: Param<Tensor<2>>,
    #[module(skip)]
    precision: Precision,
}

impl Head {
    /// Linear layers normal with standard deviation 0.02; directions of the prototypes like
    /// `torch.nn.Linear`'s weight, as in the paper's code: their length determines how fast they turn.
    pub fn new(init: &Init, config: &HeadConfig, features: usize) -> Self {
        let (hidden, bottleneck) = (config.hidden_width, config.bottleneck_width);
        let widths = [features, hidden, hidden, bottleneck];
        let layer = |index: usize| {
            let at = init.at("layers").at(&index.to_string());
            Linear::truncated_normal(&at, widths[index], widths[index + 1], 0.02)
        };
        let norm = |index: usize| BatchNorm::new(&init.at("norms").at(&index.to_string()), hidden);
        let at = init.at("last_layer");
        let ones = at.at("weight_g").ones([config.prototypes, 1]);
        let bound = 1.0 / (bottleneck as f64).sqrt();
        Self {
            layers: (0..3).map(layer).collect(),
            norms: (0..if config.batch_norm { 2 } else { 0 }).map(norm).collect(),
            last_layer: Prototypes {
                weight_g: if config.norm_last_layer {
                    buffer(ones.without_autodiff())
                } else {
                    trained(ones)
                },
                weight_v: trained(at.at("weight_v").uniform([config.prototypes, bottleneck], bound)),
                precision: init.precision(),
            },
        }
    }

    /// # Shapes
    /// - `x`: `[rows, features]`
    /// - output: `[rows, bottleneck_width]`, each of length 1
    pub fn embed(&self, x: Tensor<2>, context: &Context) -> Tensor<2> {
        let mut x = x;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if index + 1 < self.layers.len() {
                if let Some(norm) = self.norms.get(index) {
                    x = norm.forward(x, context);
                }
                x = gelu(x);
            }
        }
        l2_normalize(x)
    }

    /// # Shapes
    /// - `embeddings`: `[rows, bottleneck_width]`
    /// - output: `[rows, prototypes]`
    pub fn logits(&self, embeddings: Tensor<2>) -> Tensor<2> {
        let weight = l2_normalize(self.last_layer.weight_v.val()) * self.last_layer.weight_g.val();
        self.last_layer.precision.product(embeddings, weight.transpose())
    }
}

/// Backbone and head: everything that the optimizer updates, and what the teacher averages.
#[derive(Module, Debug)]
pub struct Network {
    /// The network under study.
    pub backbone: Backbone,
    /// The projection head from features to logits.
    pub head: Head,
}

impl Network {
    /// Initial weights at `backbone` and `head` below `init`'s path.
    pub fn new(init: &Init, backbone: &BackboneConfig, head: &HeadConfig) -> Self {
        Self {
            backbone: backbone.init(&init.at("backbone")),
            head: Head::new(&init.at("head"), head, backbone.features()),
        }
    }
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// The moving average of the student.
    pub teacher: Network,
    /// The moving average of the teacher's logits, `[1, prototypes]`; absent with `centering.sinkhorn`. The
    /// spelling matches checkpoints.
    pub centre: Option<Param<Tensor<2>>>,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct Dino {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Dino {
    type Student = Network;
    type State = State;
    /// The mean of the teacher's logits, `[1, prototypes]`.
    type Pending = Option<Tensor<2>>;

    fn views(&self) -> ViewCount {
        ViewCount::GlobalAndLocal {
            global: GLOBAL_VIEWS,
            least_local: 0,
        }
    }

    fn init(&self, init: &Init) -> (Network, State) {
        let head = &self.config.head;
        let student = Network::new(&init.at("student"), &self.backbone, head);
        let teacher = independent_copy(&student);
        let center = self.config.centering.init(init, head.prototypes);
        (
            student,
            State {
                teacher,
                centre: center,
            },
        )
    }

    fn loss(
        &self,
        student: &Network,
        state: &State,
        batch: &Batch,
        context: &Context,
    ) -> (Loss, Option<Tensor<2>>) {
        let config = &self.config;
        let features = features_of_views(&student.backbone, &batch.views, context);
        let koleo = config.koleo_weight.map(|weight| {
            let global = features.clone().narrow(0, 0, GLOBAL_VIEWS * batch.images);
            (weight, koleo_of_views(&global, &context.replicas))
        });
        // The head processes all views at once, so its batch statistics cover all of them, as in the paper's
        // code.
        let embeddings = student.head.embed(features, context);
        let logits = student.head.logits(embeddings.clone());
        let views = logits.dims()[0] / batch.images;

        let own = context.teacher();
        let global = batch.views[0].images.clone();
        let features = state.teacher.backbone.forward(global, &own);
        let head = &state.teacher.head;
        let of_teacher = head.logits(head.embed(features, &own)).detach();
        let pending = config
            .centering
            .mean_logits(of_teacher.clone(), &context.replicas);
        let temperature = config.temperature(&context.progress);
        let targets =
            config
                .centering
                .targets(of_teacher, state.centre.as_ref(), temperature, &context.replicas);

        let mut total = cross_view_prediction(logits, targets.clone(), views, config.student_temperature);
        let entropy = entropy(targets.clone());
        let mut signals = vec![
            ("kl", total.clone().detach() - entropy.clone()),
            ("teacher_entropy", entropy),
            (
                "embedding_std",
                spread(&embeddings.clone().narrow(0, 0, GLOBAL_VIEWS * batch.images)),
            ),
        ];
        if let Some((weight, koleo)) = koleo {
            signals.push(("koleo", koleo.clone().detach()));
            total = total + koleo * weight;
        }
        let loss = Loss::new(total, signals)
            .with_embeddings(&embeddings.narrow(0, 0, batch.images))
            .with_assignments(&targets);
        (loss, pending)
    }

    fn commit(
        &self,
        student: Network,
        mut state: State,
        pending: Vec<Option<Tensor<2>>>,
        context: &Context,
    ) -> (Network, State) {
        let config = &self.config;
        let momentum = teacher::momentum(config.momentum, config.momentum_end, &context.progress);
        state.teacher = ema(state.teacher, &student, momentum);
        state.centre = self.config.centering.moved(state.centre, pending);
        (student, state)
    }

    fn frozen(&self, progress: &RunPosition) -> Vec<&'static str> {
        if progress.epoch() < self.config.freeze_last_layer_epochs {
            vec!["head.last_layer"]
        } else {
            vec![]
        }
    }

    fn whole_batch(&self) -> Option<&'static str> {
        whole_batch(&self.config.centering, self.config.koleo_weight)
    }

    fn chance_loss(&self, _: usize) -> Option<f64> {
        let prototypes = self.config.head.prototypes;
        (prototypes > 1).then(|| (prototypes as f64).ln())
    }

    fn in_force(&self, position: &RunPosition, _: usize) -> Vec<(&'static str, f64)> {
        let config = &self.config;
        vec![
            (
                "teacher_momentum",
                teacher::momentum(config.momentum, config.momentum_end, position),
            ),
            ("teacher_temperature", config.temperature(position)),
        ]
    }

    fn prototypes(&self) -> Option<usize> {
        Some(self.config.head.prototypes)
    }

    fn released(&self) -> Vec<Released> {
        released::names(&self.config)
    }

    fn measured(&self, student: &Network, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(student, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let Config {
            teacher_temperature,
            freeze_last_layer_epochs,
            ..
        } = self.config;
        remedies(Config::NAME, cause, teacher_temperature, freeze_last_layer_epochs)
    }

    fn encoder(&self, _: &Network, state: &State) -> Backbone {
        state.teacher.backbone.clone()
    }
}

/// What the paper advises against a cause of an alarm; keys are those of `method`, which distils itself as DINO does, with
/// this temperature of the teacher, and the last layer frozen for so many epochs.
pub(crate) fn remedies(method: &str, cause: Cause, temperature: f64, frozen_epochs: usize) -> Vec<Remedy> {
    let advice = |key, text, source| advice(method, key, text, source);
    match cause {
        Cause::DeadPrototypes | Cause::Collapse | Cause::LowRank => vec![
            advice(
                "centering",
                "center the teacher: `{ mean = { momentum = 0.9 } }`, or `{ sinkhorn = { iterations = 3 } }`",
                "Caron et al. 2021, arXiv:2104.14294, section 5.3",
            ),
            advice(
                "freeze_last_layer_epochs",
                match frozen_epochs {
                    0 => "freeze the last layer for one epoch or longer",
                    _ => "freeze the last layer for longer",
                },
                "Caron et al. 2021, arXiv:2104.14294, section 5.3",
            ),
        ],
        Cause::ChanceLoss => where_needed([(
            temperature > 0.04,
            advice(
                "teacher_temperature",
                "lower it to 0.04: a teacher without sharpening predicts all prototypes alike",
                "Caron et al. 2021, arXiv:2104.14294, section 5.3; facebookresearch/dino#43",
            ),
        )]),
        _ => vec![],
    }
}

/// Reason why these options need the whole batch at once.
pub(crate) fn whole_batch(centering: &Centering, koleo_weight: Option<f64>) -> Option<&'static str> {
    match (centering, koleo_weight) {
        (Centering::Sinkhorn { .. }, _) => {
            Some("`centering.sinkhorn` assigns all images of the batch to prototypes together")
        }
        (_, Some(_)) => Some("`koleo_weight` compares each image with all others of the batch"),
        _ => None,
    }
}
