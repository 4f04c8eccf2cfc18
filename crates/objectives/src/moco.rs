//! MoCo, momentum contrast: a query must identify its key in a queue of older keys.
//!
//! Version 1: [He et al. 2019](https://arxiv.org/abs/1911.05722); version 2 adds an MLP head, stronger augmentation and
//! a cosine schedule: [Chen et al. 2020](https://arxiv.org/abs/2003.04297).
//!
//! ```text
//! view 0 ── student ── q ─┐
//!                         ├─ InfoNCE (q·k against q·queue)          k ── queue
//! view 1 ── teacher ── k ─┘      teacher <- momentum teacher + (1 - momentum) student
//! ```
//!
//! The papers' query encoder is our student, their key encoder our teacher.
//!
//! **Shuffled batch normalization** (section 3.3 of the first paper): batch statistics reveal which images
//! share them, and a network that reads them solves the task without learning. So the statistics must cover
//! parts of the batch (`batch_norm_images` in `[training]`, 32 as on one of the papers' GPUs), and keys are
//! shuffled among the parts before the teacher. On one device this needs no communication: a permutation of
//! the batch is enough.

use crate::checks;
use crate::head::{l2_normalize, spread};
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice,
    queue_for_data, where_needed,
};
use crate::parameter_budget::{mlp, product};
use crate::teacher;
use backbones::init::buffer;
use backbones::layers::{Linear, log_sum_exp, relu};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, RunPosition, ema, independent_copy};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Released, Remedy, ViewCount};

/// `[objective.moco]`. The papers' values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `"mlp"` (version 2: linear, ReLU, linear) or `"linear"` (version 1).
    pub head: Head,
    /// Width of the embedding in which queries and keys are compared. Papers: 128.
    pub embedding_width: usize,
    /// Keys in the queue; a multiple of `data.batch_images`. Papers: 65,536.
    pub queue_images: usize,
    /// Teacher momentum per step, 0..1. Papers: 0.999; with 0.9 and below version 1 degrades.
    pub momentum: f64,
    /// Softmax temperature, above 0. Version 1: 0.07; version 2: 0.2.
    pub temperature: f64,
    /// Shuffle the keys among the parts that share batch statistics. Papers: true; otherwise the loss falls
    /// fast and the representation stays poor.
    pub shuffle: bool,
}

/// The projection from features to embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// One linear layer.
    Linear,
    /// Linear (as wide as the features), ReLU, linear.
    Mlp,
}

impl MethodConfig for Config {
    const NAME: &'static str = "moco";
    const PAPERS: &'static [Paper] = &[
        Paper {
            authors: "He, Fan, Wu, Xie, Girshick",
            title: "Momentum Contrast for Unsupervised Visual Representation Learning",
            year: 2019,
            arxiv: "1911.05722",
        },
        Paper {
            authors: "Chen, Fan, Girshick, He",
            title: "Improved Baselines with Momentum Contrastive Learning",
            year: 2020,
            arxiv: "2003.04297",
        },
    ];

    type Objective = Moco;

    fn objective(self, backbone: BackboneConfig) -> Moco {
        Moco {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        checks::sizes(&[("embedding_width", self.embedding_width)])?;
        checks::queue_images("queue_images", self.queue_images, run.batch_images)?;
        checks::momenta(&[("momentum", self.momentum)])?;
        checks::temperatures(&[("temperature", self.temperature)])
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            ("embedding_width", mlp(features, 1, self.embedding_width)),
            ("queue_images", product(self.queue_images, self.embedding_width)),
        ]
    }

    fn footprint(&self, _: &StepShape) -> Footprint {
        Footprint {
            has_teacher: true,
            student_views: Some(1),
            values_per_image: VALUES_PER_LOGIT * (self.queue_images + 1) as f64,
            ..Footprint::default()
        }
    }

    fn counts(&self) -> Vec<Count> {
        let otherwise = "once it is full, every image meets earlier keys of its own among its negatives";
        vec![
            Count::queue("queue_images", self.queue_images, otherwise),
            teacher::count(self.momentum, None),
        ]
    }

    fn for_smoke_test(&mut self, batch_images: usize) {
        self.queue_images = batch_images;
        teacher::for_smoke_test(&mut self.momentum, None);
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        let queue = queue_for_data("queue_images", &mut self.queue_images, data);
        queue
            .into_iter()
            .chain(teacher::for_data(&mut self.momentum, data))
            .collect()
    }
}

/// Backbone and projection head: the papers' encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    /// The network under study.
    pub backbone: Backbone,
    /// Linear layers with ReLU between them.
    pub head: Vec<Linear>,
}

impl Encoder {
    fn init(config: &Config, backbone: &BackboneConfig, init: &Init) -> Self {
        let width = backbone.features();
        let layer = |index: usize, out| Linear::new(&init.at(&format!("head.{index}")), width, out);
        let head = match config.head {
            Head::Linear => vec![layer(0, config.embedding_width)],
            Head::Mlp => vec![layer(0, width), layer(1, config.embedding_width)],
        };
        Self {
            backbone: backbone.init(&init.at("backbone")),
            head,
        }
    }

    /// # Shapes
    /// - images: `[images, 3, height, width]`
    /// - output: `[images, embedding_width]`, of length 1 each
    fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        let mut x = self.backbone.forward(images, context);
        for (index, layer) in self.head.iter().enumerate() {
            x = layer.forward(if index == 0 { x } else { relu(x) });
        }
        l2_normalize(x)
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// The query encoder.
    pub encoder: Encoder,
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// The key encoder.
    pub teacher: Encoder,
    /// Keys of earlier batches, `[queue_images, embedding_width]`, each of length 1. The step determines the
    /// next rows to overwrite: see `push`.
    pub queue: Param<Tensor<2>>,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct Moco {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Moco {
    type Student = Student;
    type State = State;
    /// The keys of a micro-batch.
    type Pending = Tensor<2>;

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let student = Student {
            encoder: Encoder::init(&self.config, &self.backbone, &init.at("student")),
        };
        let teacher = independent_copy(&student.encoder);
        let queue = new_queue(init, self.config.queue_images, self.config.embedding_width);
        (student, State { teacher, queue })
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, Tensor<2>) {
        let queries = student.encoder.forward(batch.view(0), context);
        let keys = keys(batch.view(1), self.config.shuffle, context, |images| {
            state.teacher.forward(images, &context.teacher())
        });
        let loss = info_nce(
            queries.clone(),
            keys.clone(),
            state.queue.val(),
            self.config.temperature,
        );
        let spread = spread(&queries);
        let similarity = (queries.clone().detach() * keys.clone())
            .sum_dim(1)
            .mean_dim(0)
            .reshape([1]);
        let signals = vec![("embedding_std", spread), ("positive_similarity", similarity)];
        let loss = Loss::new(loss, signals).with_embeddings(&queries);
        (loss, context.replicas.gather(keys))
    }

    // Differs from the papers' listing, which updates the teacher before each key is computed: here it is
    // updated after the optimizer's step. The listing's first update mixes equal weights, so the arithmetic
    // is the same.
    fn commit(
        &self,
        student: Student,
        mut state: State,
        pending: Vec<Tensor<2>>,
        context: &Context,
    ) -> (Student, State) {
        state.teacher = ema(state.teacher, &student.encoder, self.config.momentum);
        state.queue = push(state.queue, pending, &context.progress);
        (student, state)
    }

    fn chance_loss(&self, _: usize) -> Option<f64> {
        // The key and the queue, all equally similar.
        Some(((self.config.queue_images + 1) as f64).ln())
    }

    fn in_force(&self, position: &RunPosition, batch_images: usize) -> Vec<(&'static str, f64)> {
        teacher::in_force_with_queue(
            self.config.momentum,
            self.config.queue_images,
            position,
            batch_images,
        )
    }

    fn measured(&self, student: &Student, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(&student.encoder, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        remedies(Config::NAME, cause, self.config.momentum)
    }

    fn released(&self) -> Vec<Released> {
        let layers: &[&str] = match self.config.head {
            Head::Linear => &["fc"],
            Head::Mlp => &["fc.0", "fc.2"],
        };
        // Keys are columns there.
        let queue = Released {
            ours: "queue".into(),
            within: "",
            theirs: "queue".into(),
            transposed: true,
        };
        let mut all = vec![queue];
        for (ours, theirs) in [("encoder", "encoder_q"), ("teacher", "encoder_k")] {
            for (index, layer) in layers.iter().enumerate() {
                let ours = format!("{ours}.head.{index}");
                all.extend(Released::layer(&ours, "", &format!("{theirs}.{layer}")));
            }
        }
        all
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// What the paper advises against a cause of an alarm; keys are those of `method`, which has MoCo's queue and a teacher with
/// this momentum.
pub(crate) fn remedies(method: &str, cause: Cause, momentum: f64) -> Vec<Remedy> {
    const ENOUGH: f64 = 0.99;
    let advice = |key, text, source| advice(method, key, text, source);
    match cause {
        Cause::ChanceLoss => where_needed([(
            momentum < ENOUGH,
            advice(
                "momentum",
                "raise it, to 0.99 or more: with 0 the loss does not converge",
                "He et al. 2020, arXiv:1911.05722, section 4.1",
            ),
        )]),
        Cause::Collapse | Cause::LowRank => vec![advice(
            "training.batch_norm_images",
            "set it to a part of the batch (32), with `shuffle = true`",
            "He et al. 2020, arXiv:1911.05722, section 3.3",
        )],
        _ => vec![],
    }
}

/// The initial queue: normal draws, each L2-normalized.
pub(crate) fn new_queue(init: &Init, queue_images: usize, width: usize) -> Param<Tensor<2>> {
    let queue = init.at("queue").normal([queue_images, width], 1.0);
    buffer(l2_normalize(queue).without_autodiff())
}

/// The keys of a view, without gradients: shuffles the images of all replicas, runs `forward`, and restores the
/// order of the keys.
pub(crate) fn keys(
    view: Tensor<4>,
    shuffled: bool,
    context: &Context,
    forward: impl FnOnce(Tensor<4>) -> Tensor<2>,
) -> Tensor<2> {
    if !shuffled {
        return forward(view).detach();
    }
    let replicas = &context.replicas;
    let (order, back) = shuffle(view.dims()[0] * replicas.count(), context);
    let keys = forward(replicas.permute(view, &order));
    replicas.permute(keys, &back)
}

/// The queue with a step's keys in place of the oldest. Rows are overwritten in turn, so the step determines
/// their position.
pub(crate) fn push(
    queue: Param<Tensor<2>>,
    keys: Vec<Tensor<2>>,
    progress: &RunPosition,
) -> Param<Tensor<2>> {
    let images: usize = keys.iter().map(|keys| keys.dims()[0]).sum();
    let mut row = progress.step * images % queue.dims()[0];
    let mut queue = queue;
    for keys in keys {
        let [count, width] = keys.dims();
        queue = queue.map(|queue| queue.slice_assign([row..row + count, 0..width], keys));
        row += count;
    }
    queue
}

/// The permutation of this step's keys and its inverse.
pub fn shuffle(images: usize, context: &Context) -> (Vec<i32>, Vec<i32>) {
    let mut order: Vec<i32> = (0..images as i32).collect();
    context.common_draws().shuffle("moco.shuffle", 0, &mut order);
    let mut back = vec![0; images];
    for (place, image) in order.iter().enumerate() {
        back[*image as usize] = place as i32;
    }
    (order, back)
}

/// InfoNCE with a queue, eq. 1 of [He et al. 2019](https://arxiv.org/abs/1911.05722), as the mean over queries:
/// `-log(exp(q·k / temperature) / (exp(q·k / temperature) + Σ exp(q·queue / temperature)))`.
///
/// # Shapes
/// - queries, keys: `[images, width]`, rows of length 1
/// - queue: `[queue_images, width]`
/// - output: `[1]`
pub fn info_nce(queries: Tensor<2>, keys: Tensor<2>, queue: Tensor<2>, temperature: f64) -> Tensor<1> {
    // Scaling the queries instead of the logits touches width values per query instead of queue_images.
    let queries = queries / temperature;
    let positive = (queries.clone() * keys).sum_dim(1); // [images, 1]
    let negative = queries.matmul(queue.transpose()); // [images, queue_images]
    // The largest logit is subtracted before exp; it cancels, so it needs no gradient.
    let above = |others: Tensor<2>| others.detach().max_pair(positive.clone().detach());
    let (largest, others) = match log_sum_exp(&negative) {
        Some(log_sum) => {
            let largest = above(log_sum.clone());
            (largest.clone(), (log_sum - largest).exp())
        }
        None => {
            let largest = above(negative.clone().detach().max_dim(1));
            (largest.clone(), (negative - largest).exp().sum_dim(1))
        }
    };
    let own = (positive.clone() - largest.clone()).exp();
    let log_sum = (others + own).log() + largest;
    (log_sum - positive).mean_dim(0).reshape([1])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{relative, u, views};
    use backbones::Draws;
    use burn::tensor::{Device, TensorData};
    use training::Rates;

    fn config() -> Config {
        Config {
            head: Head::Mlp,
            embedding_width: 8,
            queue_images: 32,
            momentum: 0.9,
            temperature: 0.2,
            shuffle: true,
        }
    }

    fn backbone() -> BackboneConfig {
        conformance::resnet()
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for (head, shuffle) in [(Head::Mlp, true), (Head::Linear, false)] {
            suite.check(&Case {
                config: Config {
                    head,
                    shuffle,
                    ..config()
                },
                views: vec![(2, 16)],
                teacher: Some(("teacher", "encoder", 0.9)),
                independent_images: !shuffle,
            });
        }
    }

    /// The formula of `scripts/parity/infonce.py`.
    fn noise(rows: usize, width: usize, phase: f64) -> Vec<f64> {
        let value = |index: usize| {
            let value = 43758.5453 * (12.9898 * (index as f64 + 1.0) + phase).sin();
            2.0 * (value - value.floor()) - 1.0
        };
        (0..rows * width).map(value).collect()
    }

    #[test]
    fn info_nce_agrees_with_pytorch_in_value_and_gradient() {
        let text = include_str!("../fixtures/infonce.json");
        let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
        let tolerance = fixture["tolerance"].as_f64().unwrap();
        let device = Device::flex().autodiff();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            let size = |name: &str| case[name].as_u64().unwrap() as usize;
            let (images, width, queue) = (size("queries"), size("width"), size("queue"));
            let temperature = case["temperature"].as_f64().unwrap();
            let tensor = |values: Vec<f64>, rows| {
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                Tensor::<2>::from_data(TensorData::new(values, [rows, width]), &device)
            };
            let query = noise(images, width, 0.0);
            let key = query
                .iter()
                .zip(noise(images, width, 1.0))
                .map(|(a, b)| a / 2.0 + b)
                .collect();
            let query = tensor(query, images).require_grad();
            let keys = l2_normalize(tensor(key, images));
            let queue = l2_normalize(tensor(noise(queue, width, 2.0), queue));
            let loss = info_nce(l2_normalize(query.clone()), keys, queue, temperature);
            let value = f64::from(loss.clone().into_data().try_to_vec::<f32>().unwrap()[0]);
            let expected = case["loss"].as_f64().unwrap();
            assert!(
                (value - expected).abs() <= tolerance * expected,
                "{case}: loss {value}"
            );
            let gradient = query
                .grad(&loss.backward())
                .unwrap()
                .into_data()
                .try_to_vec::<f32>()
                .unwrap();
            let gradient: Vec<f64> = gradient
                .into_iter()
                .step_by(size("stride"))
                .map(f64::from)
                .collect();
            let expected: Vec<f64> = case["gradient"]
                .as_array()
                .unwrap()
                .iter()
                .map(|value| value.as_f64().unwrap())
                .collect();
            assert_eq!(gradient.len(), expected.len());
            let error = relative(&gradient, &expected);
            assert!(
                error <= tolerance,
                "{images}x{width}, queue {}: gradient error {error:e}",
                size("queue")
            );
        }
    }

    /// 20 steps compared with PyTorch: weights, queue and views by the formulas of
    /// `scripts/parity/moco_training.py`.
    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/moco_training.json")).unwrap();
        let moco = Config {
            embedding_width: 16,
            queue_images: 64,
            momentum: 0.99,
            ..config()
        };
        let objective = moco.objective(backbone());
        let device = Device::flex();
        let (mut student, mut state) = objective.init(&Init::new(0, &device.clone().autodiff()));
        student.encoder = by_formula(student.encoder);
        state.teacher = independent_copy(&student.encoder);
        let queue = Tensor::from_data(TensorData::new(u(1000, 64 * 16), [64, 16]), &device);
        state.queue = buffer(l2_normalize(queue));
        let config = training::OptimizerConfig::Sgd {
            learning_rate_per_256: 0.001,
            momentum: 0.9,
            weight_decay: 1e-4,
            nesterov: false,
        };
        let mut optimizer = config.init();
        for step in 0..20 {
            let progress = RunPosition::at(step, 20, 20);
            let context = Context {
                batch_norm_images: Some(8),
                ..Context::training(progress, Draws::new(7, step as u64))
            };
            // Draws are part of the meaning of a seed: they must not change between versions.
            assert_eq!(
                serde_json::json!(shuffle(16, &context).0),
                fixture["orders"][step],
                "shuffle of step {step}"
            );
            let (loss, pending) = objective.loss(&student, &state, &views(step, &[(2, 16)], 16), &context);
            let value = f64::from(loss.total.clone().into_data().try_to_vec::<f32>().unwrap()[0]);
            let expected = fixture["losses"][step].as_f64().unwrap();
            // In such a small network, one ReLU input that rounds to the other side of zero changes the loss
            // by about 1e-4: PyTorch's own float32 is up to 1e-2 from its float64 at learning rates around
            // this one.
            let tolerance = if step < 10 { 1e-4 } else { 1e-3 };
            assert!(
                (value - expected).abs() <= tolerance * expected,
                "step {step}: {value}, PyTorch {expected}"
            );
            let grads = burn::optim::GradientsParams::from_grads(loss.total.backward(), &student);
            let rates = Rates::constant(0.001, 1e-4);
            student = optimizer.step(&rates, student, grads);
            (student, state) = objective.commit(student, state, vec![pending], &context);
        }
    }

    fn by_formula(encoder: Encoder) -> Encoder {
        let scaled = |tensor, shape: &[usize]| {
            let scale = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            u(tensor, shape.iter().product())
                .into_iter()
                .map(|value| value * scale)
                .collect::<Vec<f32>>()
        };
        let mut weights = backbones::state_dict(&encoder.backbone);
        let tensors = weights.len();
        for (number, data) in weights.values_mut().enumerate() {
            let shape = data.shape().to_vec();
            if shape.len() > 1 {
                *data = TensorData::new(scaled(number, &shape), shape);
            }
        }
        let backbone = backbones::replace_state(encoder.backbone, weights);
        let mut head = encoder.head;
        for (index, layer) in head.iter_mut().enumerate() {
            let [out, width] = layer.weight.val().dims();
            let device = layer.weight.val().device();
            // Sorted names: `head.0.bias`, `head.0.weight`, `head.2.bias`, `head.2.weight` after the encoder's.
            let weight = TensorData::new(scaled(tensors + 2 * index + 1, &[out, width]), [out, width]);
            layer.weight = Param::from_tensor(Tensor::from_data(weight, &device));
            layer.bias = Some(Param::from_tensor(Tensor::zeros([out], &device)));
        }
        Encoder { backbone, head }
    }

    #[test]
    fn info_nce_by_hand_and_far_outside_exp() {
        let device = Device::flex();
        let row = |values: [f32; 2]| Tensor::<2>::from_floats([values], &device);
        let value = |temperature: f64| {
            info_nce(row([1.0, 0.0]), row([0.6, 0.8]), row([0.0, 1.0]), temperature)
                .into_data()
                .try_to_vec::<f32>()
                .unwrap()[0]
        };
        // -ln(e^1.2 / (e^1.2 + e^0)) = ln(1 + e^-1.2)
        assert!((value(0.5) - (1.0 + (-1.2f32).exp()).ln()).abs() < 1e-6);
        // Logits of 600 overflow a plain exp in f32.
        assert!(value(0.001).is_finite());
    }

    #[test]
    fn shuffle_is_undone_and_differs_from_step_to_step() {
        let context = |step| {
            let progress = RunPosition::at(step, 10, 20);
            Context::training(progress, Draws::new(3, step as u64))
        };
        let (order, back) = shuffle(64, &context(0));
        assert!((0..64).all(|image| order[back[image] as usize] == image as i32));
        assert_ne!(order, shuffle(64, &context(1)).0);
        assert_eq!(order, shuffle(64, &context(0)).0);
        assert_ne!(order, (0..64).collect::<Vec<i32>>());
    }

    #[test]
    fn the_queue_turns_and_forgets_the_oldest() {
        let objective = config().objective(backbone());
        let device = Device::flex().autodiff();
        let (mut student, mut state) = objective.init(&Init::new(0, &device));
        let rows = |state: &State| state.queue.val().into_data().try_to_vec::<f32>().unwrap();
        let first = rows(&state);
        assert!(
            first
                .chunks(8)
                .all(|key| (key.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5)
        );
        for step in 0..5 {
            let keys = Tensor::<2>::full([8, 8], step as f64, &Device::flex());
            let progress = RunPosition::at(step, 10, 20);
            let context = Context::training(progress, Draws::new(0, step as u64));
            // Two micro-batches of four, as with gradient accumulation.
            let pending = keys.chunk(2, 0);
            (student, state) = objective.commit(student, state, pending, &context);
        }
        // Steps 0 to 3 fill 32 rows; step 4 overwrites step 0's.
        let last = rows(&state);
        assert!(last[..64].iter().all(|value| *value == 4.0));
        assert!(last[64..128].iter().all(|value| *value == 1.0));
        assert!(last[192..].iter().all(|value| *value == 3.0));
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        assert!(
            error(Config {
                queue_images: 20,
                ..config()
            })
            .contains("multiple of `data.batch_images` (8), got 20")
        );
        assert!(
            error(Config {
                temperature: 0.0,
                ..config()
            })
            .contains("temperature")
        );
        assert!(
            error(Config {
                momentum: 1.5,
                ..config()
            })
            .contains("momentum")
        );
        assert!(conformance::checked(&config(), &conformance::resnet(), 8).is_ok());
    }

    #[test]
    fn what_is_in_force_is_no_cure() {
        assert!(remedies("moco", Cause::ChanceLoss, 0.99).is_empty());
        let [remedy] = &remedies("moco", Cause::ChanceLoss, 0.9)[..] else {
            panic!("one remedy");
        };
        assert_eq!(remedy.key, "objective.moco.momentum");
    }
}
