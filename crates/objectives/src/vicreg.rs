//! VICReg, variance-invariance-covariance regularization: embeddings of two views must be close, while every
//! component keeps its variance over the batch and is uncorrelated with the others.
//!
//! [Bardes, Ponce, LeCun 2022](https://arxiv.org/abs/2105.04906).
//!
//! ```text
//! view 0 ─┐                          ┌─ z0 ─┐
//!         ├─ backbone ── projector ──┤      ├─ distance; and of each view: spread, covariance
//! view 1 ─┘                          └─ z1 ─┘
//! ```
//!
//! The paper's expander is our projector. Batch statistics within the networks are per view;
//! `training.batch_norm_images` splits a view further. The loss is always over the whole batch.

use crate::checks;
use crate::head::{Encoder, MlpShape, OutputNorm, halves, l2_normalize, spread};
use crate::method::{
    Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice, where_needed,
};
use crate::parameter_budget::{mlp, product};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, Replicas};
use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Bool, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Loss, Objective, Remedy, ViewCount};

/// Added to a component's variance under the root (the paper's ε).
const EPSILON: f64 = 1e-4;
/// The target standard deviation of a component (the paper's γ).
const SPREAD: f64 = 1.0;

/// `[objective.vicreg]`. The paper's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Linear layers of the projector, with batch normalization and ReLU between them: 2 or 3. Paper: 3.
    pub projector_layers: usize,
    /// Width of the projector's hidden layers. Paper: 8,192.
    pub projector_width: usize,
    /// Width of the embedding: the covariance has its square of entries. Paper: 8,192.
    pub embedding_width: usize,
    /// Weight of the distance between the views, the paper's λ. Paper: 25.
    pub invariance_weight: f64,
    /// Weight of the mean of both views' variance terms, the paper's μ. Paper: 25.
    pub variance_weight: f64,
    /// Weight of the sum of both views' covariance terms, the paper's ν. Paper: 1.
    pub covariance_weight: f64,
}

impl MethodConfig for Config {
    const NAME: &'static str = "vicreg";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Bardes, Ponce, LeCun",
        title: "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
        year: 2022,
        arxiv: "2105.04906",
    }];

    type Objective = Vicreg;

    fn objective(self, backbone: BackboneConfig) -> Vicreg {
        Vicreg {
            config: self,
            backbone,
        }
    }

    fn validate(&self, _: &RunShape<'_>) -> Result<(), Invalid> {
        checks::projector_layers(self.projector_layers)?;
        checks::sizes(&[
            ("projector_width", self.projector_width),
            ("embedding_width", self.embedding_width),
        ])?;
        checks::weights(&[
            ("invariance_weight", self.invariance_weight),
            ("variance_weight", self.variance_weight),
            ("covariance_weight", self.covariance_weight),
        ])
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            (
                "projector_width",
                mlp(features, self.projector_layers, self.projector_width),
            ),
            // Their covariances.
            (
                "embedding_width",
                product(
                    self.embedding_width,
                    self.embedding_width.max(self.projector_width),
                ),
            ),
        ]
    }

    fn footprint(&self, _: &StepShape) -> Footprint {
        // The covariances of both views are values as logits are.
        Footprint {
            has_batch_norm: true,
            values: 2.0 * VALUES_PER_LOGIT * product(self.embedding_width, self.embedding_width),
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
            output_norm: OutputNorm::None,
        }
    }
}

/// Everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// Backbone and projector.
    pub encoder: Encoder,
}

/// No further state.
#[derive(Module, Debug)]
pub struct State {}

/// The objective.
#[derive(Clone, Debug)]
pub struct Vicreg {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Vicreg {
    type Student = Student;
    type State = State;
    type Pending = ();

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(2)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let projector = self.config.projector(self.backbone.features());
        let encoder = Encoder::new(&init.at("student"), &self.backbone, &projector);
        (Student { encoder }, State {})
    }

    fn loss(&self, student: &Student, _: &State, batch: &Batch, context: &Context) -> (Loss, ()) {
        let embeddings = student.encoder.forward(batch, &context.per_view(batch.images));
        let spread = spread(&l2_normalize(embeddings.clone().detach()));
        let (first, second) = halves(embeddings);
        let watched = first.clone();
        let terms = terms(first, second, &context.replicas);
        let signals = vec![
            ("embedding_std", spread),
            ("invariance", terms.invariance.clone().detach()),
            ("variance", terms.variance.clone().detach()),
            ("covariance", terms.covariance.clone().detach()),
        ];
        let total = terms.invariance * self.config.invariance_weight
            + terms.variance * self.config.variance_weight
            + terms.covariance * self.config.covariance_weight;
        (Loss::new(total, signals).with_embeddings(&watched), ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    fn whole_batch(&self) -> Option<&'static str> {
        Some("VICReg's variances and covariances are over the whole batch, so parts of it have another loss")
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::Collapse => where_needed([(
                self.config.variance_weight < self.config.invariance_weight,
                advice(
                    "variance_weight",
                    "raise it to that of `invariance_weight` (25)",
                    "Bardes, Ponce, LeCun 2022, arXiv:2105.04906",
                ),
            )]),
            Cause::LowRank => where_needed([(
                self.config.covariance_weight < 1.0,
                advice(
                    "covariance_weight",
                    "raise it (1)",
                    "Bardes, Ponce, LeCun 2022, arXiv:2105.04906",
                ),
            )]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// The terms of the loss, `[1]` each.
#[derive(Debug)]
pub struct Terms {
    /// The mean squared difference of the two views, over images and components.
    pub invariance: Tensor<1>,
    /// The shortfall of components' standard deviations below 1, averaged over components and views.
    pub variance: Tensor<1>,
    /// The squared covariances of different components, summed and divided by the width; over both views.
    pub covariance: Tensor<1>,
}

/// The terms of eq. 6 of [Bardes et al. 2022](https://arxiv.org/abs/2105.04906).
///
/// Two factors follow the authors' code (and lightly's) instead of the paper's equations, because the
/// published weights of 25, 25 and 1 belong to them: the invariance is a mean over components where eq. 5 has
/// a sum, and the variance is the mean of both views where eq. 6 has their sum.
///
/// # Shapes
/// - first, second: `[images, width]`; row i of both shows image i
pub fn terms(first: Tensor<2>, second: Tensor<2>, replicas: &Replicas) -> Terms {
    let difference = first.clone() - second.clone();
    let invariance = difference.powi_scalar(2).mean_dim(1).mean_dim(0).reshape([1]);
    let (first, second) = (
        regularity(replicas.gather(first)),
        regularity(replicas.gather(second)),
    );
    Terms {
        invariance: replicas.mean(invariance),
        variance: (first.0 + second.0) / 2.0,
        covariance: first.1 + second.1,
    }
}

/// For one view, `[images, width]`: the variance term (eq. 1 and 2) and the covariance term (eq. 3 and 4).
fn regularity(rows: Tensor<2>) -> (Tensor<1>, Tensor<1>) {
    let [images, width] = rows.dims();
    let degrees = images as f64 - 1.0;
    let centered = rows.clone() - rows.mean_dim(0);
    let deviation = (centered.clone().powi_scalar(2).sum_dim(0) / degrees + EPSILON).sqrt(); // [1, width]
    let variance = relu(SPREAD - deviation).mean_dim(1).reshape([1]);
    let covariance = centered.clone().transpose().matmul(centered) / degrees;
    let itself = Tensor::<2, Bool>::diag_mask([width, width], 0, &covariance.device()).bool_not();
    let others = covariance.mask_fill(itself, 0.0).powi_scalar(2);
    let covariance = others.sum_dim(1).sum_dim(0).reshape([1]) / width as f64;
    (variance, covariance)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow};
    use crate::grid;

    use burn::tensor::Device;

    fn config() -> Config {
        Config {
            projector_layers: 3,
            projector_width: 16,
            embedding_width: 8,
            invariance_weight: 25.0,
            variance_weight: 25.0,
            covariance_weight: 1.0,
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for projector_layers in [2, 3] {
            let config = Config {
                projector_layers,
                ..config()
            };
            let objective = config.clone().objective(conformance::resnet());
            assert!(objective.whole_batch().unwrap().contains("whole batch"));
            suite.check(&Case {
                config,
                views: vec![(2, 16)],
                teacher: None,
                independent_images: false,
            });
        }
    }

    #[test]
    fn the_loss_agrees_with_pytorch_and_lightly() {
        grid::check("vicreg", |case, inputs| {
            let (first, second) = halves(inputs);
            let terms = terms(first, second, &Replicas::single());
            terms.invariance * case.parameter("invariance_weight")
                + terms.variance * case.parameter("variance_weight")
                + terms.covariance * case.parameter("covariance_weight")
        });
    }

    #[test]
    fn terms_by_hand() {
        let device = Device::flex();
        let rows = |values: [[f32; 2]; 2]| Tensor::<2>::from_floats(values, &device);
        // First view: both components ±0.1 together, so variance 0.02 each and covariance 0.02. Second view:
        // ±1 in opposite directions, so variance 2, no shortfall, and covariance -2.
        let first = rows([[0.1, 0.1], [-0.1, -0.1]]);
        let second = rows([[1.0, -1.0], [-1.0, 1.0]]);
        let terms = terms(first, second, &Replicas::single());
        let near = |tensor: Tensor<1>, expected: f64| {
            let value = f64::from(tensor.into_scalar::<f32>());
            assert!((value - expected).abs() < 1e-6, "{value}, expected {expected}");
        };
        near(terms.invariance, (0.81 + 1.21) / 2.0);
        near(terms.variance, (1.0 - (0.02f64 + 1e-4).sqrt()) / 2.0);
        near(terms.covariance, (2.0 * 0.0004 + 2.0 * 4.0) / 2.0);
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/vicreg.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |_, state| state);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let layers = error(Config {
            projector_layers: 0,
            ..config()
        });
        assert!(layers.contains("`objective.vicreg.projector_layers` must be 2 or 3, got 0"));
        let weight = error(Config {
            covariance_weight: f64::INFINITY,
            ..config()
        });
        assert!(weight.contains("`objective.vicreg.covariance_weight` must be at least 0, got inf"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
