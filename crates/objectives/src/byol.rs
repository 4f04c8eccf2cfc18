//! BYOL, bootstrap your own latent: predicts, from one view, a slowly moving teacher's embedding of the
//! other.
//!
//! [Grill et al. 2020](https://arxiv.org/abs/2006.07733).
//!
//! ```text
//! view 0 ── student ── predictor ── q0 ─┐      ┌─ z1 ── teacher ── view 1
//!                                       ├ loss ┤
//! view 1 ── student ── predictor ── q1 ─┘      └─ z0 ── teacher ── view 0
//!                          teacher <- momentum teacher + (1 - momentum) student
//! ```
//!
//! The paper's online network is our student, its target network our teacher. Each has its own batch
//! statistics per view (`training.batch_norm_images` splits a view further); the teacher's running statistics
//! are not averages of the student's.

use crate::checks;
use crate::head::{Encoder, Mlp, MlpShape, OutputNorm, halves, l2_normalize, spread};
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, advice, where_needed,
};
use crate::parameter_budget::{mlp, product};
use crate::teacher;
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, RunPosition, ema, independent_copy};
use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Remedy, ViewCount};

/// `[objective.byol]`. The paper's values are those for 1,000 epochs of ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Width of the projector's hidden layer. Paper: 4,096.
    pub projector_width: usize,
    /// Width of projection and prediction. Paper: 256.
    pub embedding_width: usize,
    /// Width of the predictor's hidden layer. Paper: 4,096.
    pub predictor_width: usize,
    /// Teacher momentum per step, 0..1, at the start. Paper: 0.996; for 300 epochs 0.99.
    pub momentum: f64,
    /// The same at the end, reached by a cosine over all steps; absent: constant. Paper: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_end: Option<f64>,
}

impl MethodConfig for Config {
    const NAME: &'static str = "byol";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Grill et al.",
        title: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
        year: 2020,
        arxiv: "2006.07733",
    }];

    type Objective = Byol;

    fn objective(self, backbone: BackboneConfig) -> Byol {
        Byol {
            config: self,
            backbone,
        }
    }

    fn validate(&self, _: &RunShape<'_>) -> Result<(), Invalid> {
        checks::sizes(&[
            ("projector_width", self.projector_width),
            ("embedding_width", self.embedding_width),
            ("predictor_width", self.predictor_width),
        ])?;
        teacher::check(self.momentum, self.momentum_end)
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            ("projector_width", mlp(features, 1, self.projector_width)),
            (
                "embedding_width",
                product(
                    self.embedding_width,
                    self.projector_width.max(self.predictor_width),
                ),
            ),
            (
                "predictor_width",
                product(self.predictor_width, self.embedding_width),
            ),
        ]
    }

    fn footprint(&self, _: &StepShape) -> Footprint {
        Footprint {
            has_teacher: true,
            has_batch_norm: true,
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
    /// Linear, batch normalization, ReLU, linear without bias: projector and predictor alike.
    fn head(&self, inputs: usize, hidden: usize) -> MlpShape {
        MlpShape {
            inputs,
            hidden: vec![hidden],
            outputs: self.embedding_width,
            norm: true,
            hidden_bias: false,
            output_bias: false,
            output_norm: OutputNorm::None,
        }
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// Backbone and projector.
    pub encoder: Encoder,
    /// Maps a projection to the teacher's projection of the other view.
    pub predictor: Mlp,
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// The moving average of the student's backbone and projector.
    pub teacher: Encoder,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct Byol {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Byol {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    // Differs from the authors' code, whose teacher starts from other random weights: here it is a copy of
    // the student, as in the paper's text. The authors report no difference.
    fn init(&self, init: &Init) -> (Student, State) {
        let config = &self.config;
        let projector = config.head(self.backbone.features(), config.projector_width);
        let predictor = config.head(config.embedding_width, config.predictor_width);
        let init = init.at("student");
        let encoder = Encoder::new(&init, &self.backbone, &projector);
        let teacher = independent_copy(&encoder);
        let predictor = Mlp::new(&init.at("predictor"), &predictor);
        (Student { encoder, predictor }, State { teacher })
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let context = &context.per_view(batch.images);
        let projections = student.encoder.forward(batch, context);
        let spread = spread(&l2_normalize(projections.clone().detach()));
        let watched = halves(projections.clone()).0;
        let predictions = student.predictor.forward(projections, context);
        let targets = state.teacher.forward(batch, &context.teacher()).detach();
        let (first, second) = halves(targets);
        let other_views = Tensor::cat(vec![second, first], 0);
        // The mean over both directions, doubled: the paper's sum.
        let loss = regression(predictions, other_views) * 2.0;
        let similarity = 1.0 - loss.clone().detach() / 4.0;
        let signals = vec![("embedding_std", spread), ("positive_similarity", similarity)];
        (Loss::new(loss, signals).with_embeddings(&watched), ())
    }

    fn commit(&self, student: Student, mut state: State, _: Vec<()>, context: &Context) -> (Student, State) {
        let config = &self.config;
        let momentum = teacher::momentum(config.momentum, config.momentum_end, &context.progress);
        state.teacher = ema(state.teacher, &student.encoder, momentum);
        (student, state)
    }

    fn in_force(&self, position: &RunPosition, _: usize) -> Vec<(&'static str, f64)> {
        let momentum = teacher::momentum(self.config.momentum, self.config.momentum_end, position);
        vec![("teacher_momentum", momentum)]
    }

    fn measured(&self, student: &Student, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(&student.encoder, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::Collapse | Cause::LowRank => where_needed([
                (
                    self.config.momentum < 0.999,
                    advice(
                        "momentum",
                        "raise it: 0.99 to 0.999",
                        "Grill et al. 2020, arXiv:2006.07733, table 5",
                    ),
                ),
                (
                    true,
                    advice(
                        "predictor_width",
                        "widen it: the predictor keeps the targets apart",
                        "Grill et al. 2020, arXiv:2006.07733, table 5",
                    ),
                ),
            ]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// Eq. 2 of [Grill et al. 2020](https://arxiv.org/abs/2006.07733), as the mean over rows: the squared
/// distance of L2-normalized prediction and target, which equals 2 - 2 cos.
///
/// # Shapes
/// - predictions, targets: `[rows, width]`
/// - output: `[1]`, from 0 to 4
pub fn regression(predictions: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    // Computed as a distance, because near 0 the cosine has lost its digits.
    let distance = l2_normalize(predictions) - l2_normalize(targets);
    distance.powi_scalar(2).sum_dim(1).mean_dim(0).reshape([1])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow};
    use crate::grid;
    use backbones::Draws;
    use burn::tensor::Device;

    fn objective(config: Config) -> Byol {
        let backbone = conformance::resnet();
        config.objective(backbone)
    }

    fn config() -> Config {
        Config {
            projector_width: 16,
            embedding_width: 8,
            predictor_width: 12,
            momentum: 0.9,
            momentum_end: None,
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for momentum_end in [None, Some(1.0)] {
            suite.check(&Case {
                config: Config {
                    momentum_end,
                    ..config()
                },
                views: vec![(2, 16)],
                teacher: Some(("teacher", "encoder", 0.9)),
                independent_images: true,
            });
        }
    }

    #[test]
    fn regression_agrees_with_pytorch_and_lightly() {
        grid::check("byol", |_, inputs| {
            let (predictions, targets) = halves(inputs);
            regression(predictions, targets.detach())
        });
    }

    #[test]
    fn regression_by_hand() {
        let device = Device::flex();
        let rows = |values: [[f32; 2]; 2]| Tensor::<2>::from_floats(values, &device);
        // Lengths do not matter: a right angle gives 2, opposite directions 4.
        let value = regression(rows([[3.0, 0.0], [0.0, 2.0]]), rows([[0.0, 5.0], [0.0, -1.0]]));
        assert!((value.into_scalar::<f32>() - 3.0).abs() < 1e-6);
    }

    #[test]
    fn momentum_follows_a_cosine_to_its_end() {
        let objective = objective(Config {
            momentum: 0.5,
            momentum_end: Some(1.0),
            ..config()
        });
        let weight = |encoder: &Encoder| {
            let weight = encoder.projector.layers[0].weight.val().into_data();
            weight.iter::<f64>().next().unwrap()
        };
        // Halfway between 0.5 and 1 in the middle of the run, and 1 at its end.
        for (step, momentum) in [(0, 0.5), (5, 0.75), (10, 1.0)] {
            let init = |seed| objective.init(&Init::new(seed, &Device::flex().autodiff()));
            let (student, mut state) = init(1);
            state.teacher = independent_copy(&init(2).0.encoder);
            let expected = momentum * weight(&state.teacher) + (1.0 - momentum) * weight(&student.encoder);
            let progress = RunPosition::at(step, 5, 10);
            let context = Context::training(progress, Draws::new(0, step as u64));
            let (_, state) = objective.commit(student, state, vec![()], &context);
            assert!((weight(&state.teacher) - expected).abs() < 1e-7, "step {step}");
        }
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/byol.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |student, mut state| {
            state.teacher = independent_copy(&student.encoder);
            state
        });
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let width = error(Config {
            predictor_width: 0,
            ..config()
        });
        assert!(width.contains("`objective.byol.predictor_width` must be at least 1"));
        let momentum = error(Config {
            momentum: -0.1,
            ..config()
        });
        assert!(momentum.contains("`objective.byol.momentum` must be in 0..1, got -0.1"));
        let end = error(Config {
            momentum_end: Some(1.5),
            ..config()
        });
        assert!(end.contains("`objective.byol.momentum_end` must be in 0..1, got 1.5"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
