//! SimSiam: predicts, from one view, the projection of the other, without negatives and without a teacher.
//! Only the stopped gradient of the prediction's target keeps the network from collapsing.
//!
//! [Chen, He 2021](https://arxiv.org/abs/2011.10566).
//!
//! ```text
//! view 0 ─┐            ┌─ z0 ── predictor ── p0 ── D(p0, stop(z1)) ─┐
//!         ├─ encoder ──┤                                            ├─ mean
//! view 1 ─┘            └─ z1 ── predictor ── p1 ── D(p1, stop(z0)) ─┘
//! ```
//!
//! Batch statistics are per view; `training.batch_norm_images` splits a view further.

use crate::checks;
use crate::head::{Encoder, Mlp, MlpShape, OutputNorm, halves, l2_normalize, spread};
use crate::method::{Footprint, Invalid, MethodConfig, RunShape, StepShape, advice, where_needed};
use crate::parameter_budget::{mlp, product};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper};
use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Loss, Objective, ParameterRule, Released, Remedy, ViewCount};

/// `[objective.simsiam]`. The paper's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Linear layers of the projector: 2 or 3. Batch normalization follows each, without scale and shift
    /// after the last. Paper: 3; on CIFAR-10 2.
    pub projector_layers: usize,
    /// Width of the projector's hidden layers. Paper: 2,048.
    pub projector_width: usize,
    /// Width of projection and prediction. Paper: 2,048.
    pub embedding_width: usize,
    /// Width of the predictor's hidden layer, a bottleneck. Paper: 512, a quarter of `embedding_width`.
    pub predictor_width: usize,
    /// Whether the predictor's learning rate stays at the peak instead of following the schedule. Paper: true (its
    /// table 1: 68.1 instead of 67.7).
    pub predictor_rate_at_peak: bool,
}

impl MethodConfig for Config {
    const NAME: &'static str = "simsiam";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Chen, He",
        title: "Exploring Simple Siamese Representation Learning",
        year: 2021,
        arxiv: "2011.10566",
    }];

    type Objective = Simsiam;

    fn objective(self, backbone: BackboneConfig) -> Simsiam {
        Simsiam {
            config: self,
            backbone,
        }
    }

    fn validate(&self, _: &RunShape<'_>) -> Result<(), Invalid> {
        checks::projector_layers(self.projector_layers)?;
        checks::sizes(&[
            ("projector_width", self.projector_width),
            ("embedding_width", self.embedding_width),
            ("predictor_width", self.predictor_width),
        ])
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            (
                "projector_width",
                mlp(features, self.projector_layers, self.projector_width),
            ),
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
            has_batch_norm: true,
            ..Footprint::default()
        }
    }
}

impl Config {
    fn projector(&self, inputs: usize) -> MlpShape {
        MlpShape {
            inputs,
            hidden: vec![self.projector_width; self.projector_layers - 1],
            outputs: self.embedding_width,
            norm: true,
            hidden_bias: false,
            output_bias: false,
            output_norm: OutputNorm::Plain,
        }
    }

    fn predictor(&self) -> MlpShape {
        MlpShape {
            inputs: self.embedding_width,
            hidden: vec![self.predictor_width],
            outputs: self.embedding_width,
            norm: true,
            hidden_bias: false,
            output_bias: true,
            output_norm: OutputNorm::None,
        }
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// Backbone and projector: the paper's encoder.
    pub encoder: Encoder,
    /// Maps a projection to that of the other view.
    pub predictor: Mlp,
}

/// No further state.
#[derive(Module, Debug)]
pub struct State {}

/// The objective.
#[derive(Clone, Debug)]
pub struct Simsiam {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Simsiam {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let projector = self.config.projector(self.backbone.features());
        let init = init.at("student");
        let student = Student {
            encoder: Encoder::new(&init, &self.backbone, &projector),
            predictor: Mlp::new(&init.at("predictor"), &self.config.predictor()),
        };
        (student, State {})
    }

    fn loss(&self, student: &Student, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let context = &context.per_view(batch.images);
        let projections = student.encoder.forward(batch, context);
        let targets = projections.clone().detach();
        // The paper's sign of collapse: 1 / sqrt(width) in healthy training, 0 if all views map to one point.
        let spread = spread(&l2_normalize(targets.clone()));
        let predictions = student.predictor.forward(projections, context);
        let (first, second) = halves(targets);
        let watched = first.clone();
        let other_views = Tensor::cat(vec![second, first], 0);
        // The mean over the rows of both directions equals eq. 4, which takes half of each.
        let loss = negative_cosine(predictions, other_views);
        let similarity = loss.clone().detach().neg();
        let signals = vec![("embedding_std", spread), ("positive_similarity", similarity)];
        (Loss::new(loss, signals).with_embeddings(&watched), ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    fn parameter_rules(&self) -> Vec<ParameterRule> {
        vec![ParameterRule {
            follows_schedule: !self.config.predictor_rate_at_peak,
            ..ParameterRule::of("predictor")
        }]
    }

    /// The names of the authors' checkpoints: linear layer, norm, ReLU, with `fc` of the ResNet as the projector. Its last bias, which
    /// its authors do not train, has no effect before a norm.
    fn released(&self) -> Vec<Released> {
        let projector = (
            "encoder.projector",
            "encoder.fc",
            self.config.projector_layers,
            false,
        );
        let mut all = vec![];
        for (ours, theirs, layers, has_bias) in [projector, ("predictor", "predictor", 2, true)] {
            for index in 0..layers {
                let layer = Released::layer(
                    &format!("{ours}.layers.{index}"),
                    "",
                    &format!("{theirs}.{}", 3 * index),
                );
                let keeps_bias = has_bias && index + 1 == layers;
                all.extend(
                    layer
                        .into_iter()
                        .filter(|part| keeps_bias || part.ours.ends_with("weight")),
                );
            }
            for index in 0..layers - 1 {
                all.extend(Released::layer(
                    &format!("{ours}.norms.{index}"),
                    "",
                    &format!("{theirs}.{}", 3 * index + 1),
                ));
            }
        }
        all
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::Collapse | Cause::LowRank => where_needed([
                (
                    !self.config.predictor_rate_at_peak,
                    advice(
                        "predictor_rate_at_peak",
                        "set it to true: the predictor must follow the representations",
                        "Chen, He 2021, arXiv:2011.10566, section 4.2",
                    ),
                ),
                (
                    4 * self.config.predictor_width > self.config.embedding_width,
                    advice(
                        "predictor_width",
                        "make it a bottleneck: a quarter of `embedding_width`",
                        "Chen, He 2021, arXiv:2011.10566, section 3",
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

/// Eq. 1 of [Chen, He 2021](https://arxiv.org/abs/2011.10566), as the mean over rows: minus the cosine of prediction and
/// target. The caller detaches the targets (eq. 3).
///
/// # Shapes
/// - predictions, targets: `[rows, width]`
/// - output: `[1]`, from -1 to 1
pub fn negative_cosine(predictions: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let cosine = (l2_normalize(predictions) * l2_normalize(targets)).sum_dim(1);
    cosine.mean_dim(0).reshape([1]).neg()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow};
    use crate::grid;
    use backbones::parameters;
    use burn::tensor::Device;

    fn objective(config: Config) -> Simsiam {
        let backbone = conformance::resnet();
        config.objective(backbone)
    }

    fn config() -> Config {
        Config {
            projector_layers: 3,
            projector_width: 16,
            embedding_width: 16,
            predictor_width: 4,
            predictor_rate_at_peak: true,
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for projector_layers in [2, 3] {
            suite.check(&Case {
                config: Config {
                    projector_layers,
                    ..config()
                },
                views: vec![(2, 16)],
                teacher: None,
                independent_images: true,
            });
        }
    }

    #[test]
    fn negative_cosine_agrees_with_pytorch_and_lightly() {
        grid::check("simsiam", |_, inputs| {
            let (predictions, targets) = halves(inputs);
            negative_cosine(predictions, targets.detach())
        });
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/simsiam.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |_, state| state);
    }

    #[test]
    fn the_predictor_alone_keeps_the_peak_rate() {
        let objective = objective(config());
        let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let at_peak = ParameterRule {
            follows_schedule: false,
            ..ParameterRule::of("predictor")
        };
        assert_eq!(objective.parameter_rules(), [at_peak]);
        let named = |parameter: &&backbones::Parameter| parameter.path.starts_with("predictor.");
        let kept = parameters(&student).iter().filter(named).count();
        // Two weights, a bias, scale and shift, and two running statistics.
        assert_eq!(kept, 7);
        let other = Config {
            predictor_rate_at_peak: false,
            ..config()
        };
        let rules = self::objective(other).parameter_rules();
        assert_eq!(rules, [ParameterRule::of("predictor")]);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let layers = error(Config {
            projector_layers: 4,
            ..config()
        });
        assert!(layers.contains("`objective.simsiam.projector_layers` must be 2 or 3, got 4"));
        let width = error(Config {
            predictor_width: 0,
            ..config()
        });
        assert!(width.contains("`objective.simsiam.predictor_width` must be at least 1"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
