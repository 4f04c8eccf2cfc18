//! MoCo-v3, momentum contrast without a queue: a query must identify its key among those of the batch's other
//! images.
//!
//! Chen, Xie, He, *An empirical study of training self-supervised vision transformers*,
//! [2021](https://arxiv.org/abs/2104.02057), algorithm 1.
//!
//! ```text
//! view 0 ── student ── predictor ── q0 ─┐  ┌─ k1 ── teacher ── view 1
//!                                       ├──┤         InfoNCE(q0, k1) + InfoNCE(q1, k0), each times 2 temperature
//! view 1 ── student ── predictor ── q1 ─┘  └─ k0 ── teacher ── view 0
//! ```
//!
//! The paper's base encoder is our student without its predictor, its momentum encoder our teacher.
//! Views go through the networks separately, so batch statistics are per view.
//!
//! **Frozen patch embedding** (the paper's trick for stability): a vision transformer's accuracy dips when
//! the gradients of its first layer spike, so that layer keeps its initial weights.

use crate::checks;
use crate::head::{Encoder, Mlp, MlpShape, OutputNorm, l2_normalize, log_sums, spread};
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice,
    where_needed,
};
use crate::parameter_budget::{mlp, product};
use crate::teacher;
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, RunPosition, ema, independent_copy};
use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Remedy, ViewCount};

/// `[objective.moco_v3]`. The paper's values are those for ImageNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Linear layers of the projector; batch normalization without scale and shift follows the last one.
    /// Paper: 2 for ResNet-50, 3 for vision transformers.
    pub projector_layers: usize,
    /// Width of the hidden layers of projector and predictor. Paper: 4096.
    pub hidden_width: usize,
    /// Width of the embedding in which queries and keys are compared. Paper: 256.
    pub embedding_width: usize,
    /// Batch normalization without scale and shift after the predictor (two linear layers). Paper: true for
    /// vision transformers, false for ResNet-50.
    pub predictor_output_norm: bool,
    /// Softmax temperature, above 0. Paper: 0.2 for vision transformers, 1 for ResNet-50.
    pub temperature: f64,
    /// Teacher momentum per step, 0..1. Paper: 0.99, and 0.996 for ResNet-50 in 1,000 epochs.
    pub momentum: f64,
    /// Final value of `momentum`, reached by a cosine over all steps; absent: constant. Paper: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_end: Option<f64>,
    /// Keep a vision transformer's patch embedding at its initial weights. Paper: true; a ResNet has none to
    /// freeze.
    pub freeze_patch_embedding: bool,
}

impl MethodConfig for Config {
    const NAME: &'static str = "moco_v3";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Chen, Xie, He",
        title: "An Empirical Study of Training Self-Supervised Vision Transformers",
        year: 2021,
        arxiv: "2104.02057",
    }];

    type Objective = MocoV3;

    fn objective(self, backbone: BackboneConfig) -> MocoV3 {
        MocoV3 {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        let positive = [
            ("projector_layers", self.projector_layers),
            ("hidden_width", self.hidden_width),
            ("embedding_width", self.embedding_width),
        ];
        checks::sizes(&positive)?;
        if run.batch_images < 2 {
            return Err(Invalid::Run(format!(
                "`data.batch_images` must be at least 2 for `objective.moco_v3`, whose negatives are the other images, got {}",
                run.batch_images
            )));
        }
        checks::temperatures(&[("temperature", self.temperature)])?;
        teacher::check(self.momentum, self.momentum_end)?;
        if self.freeze_patch_embedding && !matches!(run.backbone, BackboneConfig::Vit(_)) {
            let reason = format!(
                "must be false for {}, which has no patch embedding; it is for `[backbone.vit]`",
                run.backbone.name()
            );
            return Err(Invalid::key("freeze_patch_embedding", reason));
        }
        Ok(())
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            (
                "hidden_width",
                mlp(features, self.projector_layers, self.hidden_width),
            ),
            (
                "embedding_width",
                product(self.embedding_width, self.hidden_width),
            ),
        ]
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        // A view's queries meet the other view's keys of the whole batch.
        Footprint {
            has_teacher: true,
            has_batch_norm: true,
            values_per_image: VALUES_PER_LOGIT * product(step.views, step.images),
            ..Footprint::default()
        }
    }

    fn counts(&self) -> Vec<Count> {
        vec![teacher::count(self.momentum, self.momentum_end)]
    }

    fn for_smoke_test(&mut self, _: usize) {
        teacher::for_smoke_test(&mut self.momentum, Some(&mut self.momentum_end));
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        teacher::for_data(&mut self.momentum, data).into_iter().collect()
    }
}

impl Config {
    /// The teacher's momentum for the step after the one in `progress`: the teacher is updated with it at the
    /// end of the current step.
    ///
    /// The paper's teacher is updated before each of its forward passes, with that step's momentum; the
    /// update before the first pass mixes equal weights. So no step is missing here, and the last update,
    /// after which no pass follows, has momentum `momentum_end`.
    fn next_momentum(&self, progress: &RunPosition) -> f64 {
        let next = RunPosition {
            step: progress.step + 1,
            ..*progress
        };
        teacher::momentum(self.momentum, self.momentum_end, &next)
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// The base encoder.
    pub encoder: Encoder,
    /// Maps embedding to embedding; keys bypass it.
    pub predictor: Mlp,
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// The momentum encoder.
    pub teacher: Encoder,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct MocoV3 {
    config: Config,
    backbone: BackboneConfig,
}

impl MocoV3 {
    /// `layers` linear layers without biases, batch normalization and ReLU between them.
    fn mlp(&self, inputs: usize, layers: usize, output_norm: OutputNorm) -> MlpShape {
        MlpShape {
            inputs,
            hidden: vec![self.config.hidden_width; layers - 1],
            outputs: self.config.embedding_width,
            norm: true,
            hidden_bias: false,
            output_bias: false,
            output_norm,
        }
    }
}

impl Objective for MocoV3 {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let init = init.at("student");
        let layers = self.config.projector_layers;
        let projector = self.mlp(self.backbone.features(), layers, OutputNorm::Plain);
        let encoder = Encoder::new(&init.at("encoder"), &self.backbone, &projector);
        let output_norm = if self.config.predictor_output_norm {
            OutputNorm::Plain
        } else {
            OutputNorm::None
        };
        let width = self.config.embedding_width;
        let predictor = Mlp::new(&init.at("predictor"), &self.mlp(width, 2, output_norm));
        let teacher = independent_copy(&encoder);
        (Student { encoder, predictor }, State { teacher })
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let embed = |view: usize| {
            let context = context.part(view as u64);
            let projected = student.encoder.embed(batch.view(view), &context);
            let queries = l2_normalize(student.predictor.forward(projected, &context));
            let keys = state.teacher.embed(batch.view(view), &context.teacher());
            (queries, l2_normalize(keys).detach())
        };
        let ((q0, k0), (q1, k1)) = (embed(0), embed(1));
        let side = |queries: &Tensor<2>, keys: &Tensor<2>| {
            let all = context.replicas.gather(keys.clone());
            contrast(queries.clone(), keys.clone(), all, self.config.temperature)
        };
        let total = side(&q0, &k1) + side(&q1, &k0);
        let spread = (spread(&q0) + spread(&q1)) / 2.0;
        let similarity = |queries: Tensor<2>, keys: Tensor<2>| {
            (queries.detach() * keys).sum_dim(1).mean_dim(0).reshape([1])
        };
        let similarity: Tensor<1> = (similarity(q0.clone(), k1) + similarity(q1, k0)) / 2.0;
        let signals = vec![("embedding_std", spread), ("positive_similarity", similarity)];
        (Loss::new(total, signals).with_embeddings(&q0), ())
    }

    fn commit(&self, student: Student, mut state: State, _: Vec<()>, context: &Context) -> (Student, State) {
        let momentum = self.config.next_momentum(&context.progress);
        state.teacher = ema(state.teacher, &student.encoder, momentum);
        (student, state)
    }

    fn frozen(&self, _: &RunPosition) -> Vec<&'static str> {
        if self.config.freeze_patch_embedding {
            vec![PATCH_EMBEDDING]
        } else {
            vec![]
        }
    }

    fn whole_batch(&self) -> Option<&'static str> {
        Some("moco_v3's negatives are all other images of the batch")
    }

    fn chance_loss(&self, batch_images: usize) -> Option<f64> {
        // Two directions, each times twice the temperature.
        (batch_images > 1).then(|| 4.0 * self.config.temperature * (batch_images as f64).ln())
    }

    fn in_force(&self, position: &RunPosition, _: usize) -> Vec<(&'static str, f64)> {
        vec![("teacher_momentum", self.config.next_momentum(position))]
    }

    fn measured(&self, student: &Student, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(&student.encoder, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::Diverging | Cause::Collapse => where_needed([(
                !self.config.freeze_patch_embedding,
                advice(
                    "freeze_patch_embedding",
                    "set it to true for vision transformers",
                    "Chen, Xie, He 2021, arXiv:2104.02057, section 4.2",
                ),
            )]),
            Cause::ChanceLoss => where_needed([(
                self.config.temperature > 0.2,
                advice(
                    "temperature",
                    "lower it towards 0.2",
                    "Chen, Xie, He 2021, arXiv:2104.02057",
                ),
            )]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// Path of a vision transformer's patch embedding in the student.
const PATCH_EMBEDDING: &str = "encoder.backbone.Vit.patch_embed";

/// InfoNCE with the batch's own keys, eq. 1 of [Chen et al. 2021](https://arxiv.org/abs/2104.02057), as the mean over
/// queries and times `2 temperature` as in its algorithm 1:
/// `-2 temperature log(exp(q·k / temperature) / Σ exp(q·all / temperature))`.
///
/// # Shapes
/// - queries, keys: `[images, width]`, rows of length 1; a query's key has its row
/// - all: `[all_images, width]`, the keys of all replicas, `keys` among them
/// - output: `[1]`
pub fn contrast(queries: Tensor<2>, keys: Tensor<2>, all: Tensor<2>, temperature: f64) -> Tensor<1> {
    let queries = queries / temperature;
    let positive = (queries.clone() * keys).sum_dim(1); // [images, 1]
    let logits = queries.matmul(all.transpose()); // [images, all_images]
    let log_sum = log_sums(logits);
    (log_sum - positive).mean_dim(0).reshape([1]) * (2.0 * temperature)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow, relative, u};
    use backbones::vit::{Initialization, Interpolation, Position};
    use backbones::{VitConfig, parameters};
    use burn::tensor::{Device, TensorData};

    fn config() -> Config {
        Config {
            projector_layers: 2,
            hidden_width: 16,
            embedding_width: 8,
            predictor_output_norm: false,
            temperature: 1.0,
            momentum: 0.9,
            momentum_end: None,
            freeze_patch_embedding: false,
        }
    }

    fn of_vits() -> Config {
        Config {
            projector_layers: 3,
            predictor_output_norm: true,
            temperature: 0.2,
            freeze_patch_embedding: true,
            ..config()
        }
    }

    fn vit() -> BackboneConfig {
        BackboneConfig::Vit(VitConfig {
            position: Position::SineCosine,
            interpolation: Interpolation::Antialiased,
            drop_path: 0.0,
            initialization: Initialization::MocoV3,
            ..conformance::vit()
        })
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        let case = |config| Case {
            config,
            views: vec![(2, 16)],
            teacher: Some(("teacher", "encoder", 0.9)),
            independent_images: false,
        };
        suite.check(&case(config()));
        suite.check_on(&case(of_vits()), &vit());
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        for text in [
            include_str!("../fixtures/moco_v3_resnet.json"),
            include_str!("../fixtures/moco_v3_vit.json"),
        ] {
            let fixture = Fixture::new(text);
            let objective = fixture.objective::<Config>().objective(fixture.backbone());
            follow(&objective, &fixture, |student, _| State {
                teacher: independent_copy(&student.encoder),
            });
        }
    }

    #[test]
    fn the_loss_agrees_with_pytorch_and_lightly_in_value_and_gradient() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/moco_v3_contrast.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 12);
        let device = Device::flex().autodiff();
        for case in cases {
            let size = |name: &str| case[name].as_u64().unwrap() as usize;
            let (images, width, others) = (size("images"), size("width"), size("others"));
            let rows = |tensor, rows: usize| {
                Tensor::<2>::from_data(TensorData::new(u(tensor, rows * width), [rows, width]), &device)
            };
            let queries = rows(1, images).require_grad();
            let keys = l2_normalize(rows(1, images) / 2.0 + rows(2, images));
            let mut all = keys.clone();
            if others > 0 {
                all = Tensor::cat(vec![all, l2_normalize(rows(3, others))], 0);
            }
            let temperature = case["temperature"].as_f64().unwrap();
            let loss = contrast(l2_normalize(queries.clone()), keys, all, temperature);
            let value = f64::from(loss.clone().into_scalar::<f32>());
            let gradient = queries.grad(&loss.backward()).unwrap().into_data();
            let stride = (images * width / 64).max(1);
            let gradient: Vec<f64> = gradient.iter::<f64>().step_by(stride).take(64).collect();
            let expected: Vec<f64> = serde_json::from_value(case["gradient"].clone()).unwrap();
            assert_eq!(gradient.len(), expected.len());
            let bound = |name: &str| (3.0 * case["torch_float32_error"][name].as_f64().unwrap()).max(1e-5);
            let error = relative(&[value], &[case["loss"].as_f64().unwrap()]);
            assert!(error <= bound("loss"), "{case}: loss {value}");
            let error = relative(&gradient, &expected);
            assert!(error <= bound("gradient"), "{case}: gradient {error:e} off");
        }
    }

    #[test]
    fn logits_far_outside_exp_are_no_trouble() {
        let device = Device::flex();
        let row = |values: [f32; 2]| Tensor::<2>::from_floats([values], &device);
        let keys = Tensor::cat(vec![row([0.6, 0.8]), row([0.0, 1.0])], 0);
        let value = |temperature| {
            contrast(row([1.0, 0.0]), row([0.6, 0.8]), keys.clone(), temperature).into_scalar::<f32>()
        };
        // 2 · 0.5 · ln(1 + e^-1.2)
        assert!((value(0.5) - (1.0 + (-1.2f32).exp()).ln()).abs() < 1e-6);
        assert!(value(0.001).is_finite());
    }

    #[test]
    fn the_patch_embedding_stays_as_it_was_drawn() {
        let objective = of_vits().objective(vit());
        let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let below = format!("{PATCH_EMBEDDING}.");
        let paths: Vec<String> = parameters(&student)
            .into_iter()
            .filter_map(|parameter| Some(parameter.path.strip_prefix(&below)?.to_string()))
            .collect();
        assert_eq!(paths, ["proj.weight", "proj.bias"]);
        let progress = RunPosition::at(0, 1, 1);
        assert_eq!(objective.frozen(&progress), [PATCH_EMBEDDING]);
        assert!(config().objective(vit()).frozen(&progress).is_empty());
    }

    #[test]
    fn the_teacher_moves_with_the_next_steps_momentum() {
        let at = |step| RunPosition::at(step, 2, 4);
        let moving = Config {
            momentum: 0.99,
            momentum_end: Some(1.0),
            ..config()
        };
        // 1 - 0.005 (1 + cos(π t / 4)) at t = 1, 2, 3, 4.
        let root = 0.5f64.sqrt();
        for (step, wanted) in [1.0 - 0.005 * (1.0 + root), 0.995, 1.0 - 0.005 * (1.0 - root), 1.0]
            .into_iter()
            .enumerate()
        {
            let momentum = moving.next_momentum(&at(step));
            assert!((momentum - wanted).abs() < 1e-12, "step {step}: {momentum}");
        }
        assert_eq!(config().next_momentum(&at(2)), 0.9);
    }

    #[test]
    fn bad_numbers_are_named() {
        let refused = |change: &dyn Fn(&mut Config), backbone: &BackboneConfig, images: usize| {
            let mut config = config();
            change(&mut config);
            conformance::checked(&config, backbone, images).unwrap_err()
        };
        let number = |change: &dyn Fn(&mut Config)| refused(change, &vit(), 8);
        assert!(number(&|c| c.projector_layers = 0).contains("projector_layers"));
        assert!(number(&|c| c.hidden_width = 0).contains("hidden_width"));
        assert!(number(&|c| c.embedding_width = 0).contains("embedding_width"));
        assert!(number(&|c| c.temperature = f64::NAN).contains("temperature"));
        assert!(number(&|c| c.momentum = -0.1).contains("`objective.moco_v3.momentum`"));
        assert!(number(&|c| c.momentum_end = Some(1.5)).contains("momentum_end"));
        assert!(refused(&|_| (), &vit(), 1).contains("batch_images"));
        let error = refused(&|c| c.freeze_patch_embedding = true, &conformance::resnet(), 8);
        assert!(
            error.contains("resnet18-w4-small") && error.contains("[backbone.vit]"),
            "{error}"
        );
        assert!(conformance::checked(&config(), &conformance::resnet(), 8).is_ok());
        assert!(conformance::checked(&of_vits(), &vit(), 8).is_ok());
    }
}
