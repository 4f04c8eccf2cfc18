//! Barlow Twins: every component of an embedding must agree between two views and be independent of all others.
//!
//! [Zbontar, Jing, Misra, LeCun, Deny 2021](https://arxiv.org/abs/2103.03230).
//!
//! ```text
//! view 0 ─┐                          ┌─ z0 ─┐
//!         ├─ backbone ── projector ──┤      ├─ cross-correlation over the batch, towards the identity
//! view 1 ─┘                          └─ z1 ─┘
//! ```
//!
//! Batch statistics within the networks are per view; `training.batch_norm_images` splits a view further. The
//! embeddings are always normalized over the whole batch, because their correlation is over the batch.

use crate::checks;
use crate::head::{Encoder, MlpShape, OutputNorm, halves, l2_normalize, spread};
use crate::method::{
    Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice, where_needed,
};
use crate::parameter_budget::{mlp, product};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, Replicas};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Loss, Objective, Remedy, ViewCount};

/// Added to the variance of a component, as batch normalization does in the authors' code.
const EPSILON: f64 = 1e-5;

/// `[objective.barlow_twins]`. The paper's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Linear layers of the projector, with batch normalization and ReLU between them: 2 or 3. Paper: 3.
    pub projector_layers: usize,
    /// Width of the projector's hidden layers. Paper: 8,192.
    pub projector_width: usize,
    /// Width of the embedding: the correlation has its square of entries. Paper: 8,192.
    pub embedding_width: usize,
    /// Weight of the redundancy term, the paper's λ. Paper: 0.005; its code: 0.0051.
    pub redundancy_weight: f64,
}

impl MethodConfig for Config {
    const NAME: &'static str = "barlow_twins";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Zbontar, Jing, Misra, LeCun, Deny",
        title: "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        year: 2021,
        arxiv: "2103.03230",
    }];

    type Objective = BarlowTwins;

    fn objective(self, backbone: BackboneConfig) -> BarlowTwins {
        BarlowTwins {
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
        checks::weights(&[("redundancy_weight", self.redundancy_weight)])
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            (
                "projector_width",
                mlp(features, self.projector_layers, self.projector_width),
            ),
            // Their correlations.
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
        // The correlations are values as logits are.
        Footprint {
            has_batch_norm: true,
            values: VALUES_PER_LOGIT * product(self.embedding_width, self.embedding_width),
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
pub struct BarlowTwins {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for BarlowTwins {
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
        let (invariance, redundancy) = terms(first, second, &context.replicas);
        let signals = vec![
            ("embedding_std", spread),
            ("invariance", invariance.clone().detach()),
            ("redundancy", redundancy.clone().detach()),
        ];
        let total = invariance + redundancy * self.config.redundancy_weight;
        (Loss::new(total, signals).with_embeddings(&watched), ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    fn whole_batch(&self) -> Option<&'static str> {
        Some("Barlow Twins' correlations are over the whole batch, so parts of it have another loss")
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::Collapse | Cause::LowRank => where_needed([(
                self.config.redundancy_weight < 0.005,
                advice(
                    "redundancy_weight",
                    "raise it (0.005)",
                    "Zbontar et al. 2021, arXiv:2103.03230",
                ),
            )]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// The two terms of eq. 1 of [Zbontar et al. 2021](https://arxiv.org/abs/2103.03230), with C the cross-correlation of the
/// two views' components over the batch (eq. 2): invariance `Σᵢ (1 - Cᵢᵢ)²` and redundancy `Σᵢ Σⱼ≠ᵢ Cᵢⱼ²`.
///
/// # Shapes
/// - first, second: `[images, width]`; row i of both shows image i
/// - output: `[1]` each
pub fn terms(first: Tensor<2>, second: Tensor<2>, replicas: &Replicas) -> (Tensor<1>, Tensor<1>) {
    let images = first.dims()[0] as f64;
    let (first, second) = (standardized(first, replicas), standardized(second, replicas));
    let correlation = replicas.mean(first.transpose().matmul(second) / images);
    let width = correlation.dims()[0];
    let others = Tensor::<2, Bool>::diag_mask([width, width], 0, &correlation.device());
    let square_sum = |x: Tensor<2>| -> Tensor<1> { x.powi_scalar(2).sum_dim(1).sum_dim(0).reshape([1]) };
    let redundancy = square_sum(correlation.clone().mask_fill(others.clone().bool_not(), 0.0));
    let invariance = square_sum((correlation - 1.0).mask_fill(others, 0.0));
    (invariance, redundancy)
}

/// Each column with mean 0 and variance 1 over the whole batch (the biased variance, as in eq. 2, so that a
/// component's correlation with itself is 1).
fn standardized(rows: Tensor<2>, replicas: &Replicas) -> Tensor<2> {
    let centered = rows.clone() - replicas.mean(rows.mean_dim(0));
    let variance = replicas.mean(centered.clone().powi_scalar(2).mean_dim(0));
    centered / (variance + EPSILON).sqrt()
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
            redundancy_weight: 0.0051,
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
        grid::check("barlow_twins", |case, inputs| {
            let (first, second) = halves(inputs);
            let (invariance, redundancy) = terms(first, second, &Replicas::single());
            invariance + redundancy * case.parameter("redundancy_weight")
        });
    }

    #[test]
    fn terms_by_hand() {
        let device = Device::flex();
        let rows = |values: [[f32; 2]; 4]| Tensor::<2>::from_floats(values, &device);
        // Components ±1 in all four combinations: uncorrelated with each other, so views that agree cost nothing.
        let first = rows([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]);
        let value = |second| {
            let (invariance, redundancy) = terms(first.clone(), second, &Replicas::single());
            (invariance.into_scalar::<f32>(), redundancy.into_scalar::<f32>())
        };
        let (invariance, redundancy) = value(first.clone() * 5.0 + 3.0);
        assert!(
            invariance < 1e-9 && redundancy < 1e-9,
            "{invariance} {redundancy}"
        );
        // Components swapped: C is 0 on its diagonal and 1 elsewhere.
        let swapped = rows([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]);
        let (invariance, redundancy) = value(swapped);
        assert!((invariance - 2.0).abs() < 1e-4 && (redundancy - 2.0).abs() < 1e-4);
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/barlow_twins.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |_, state| state);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let width = error(Config {
            embedding_width: 0,
            ..config()
        });
        assert!(width.contains("`objective.barlow_twins.embedding_width` must be at least 1"));
        let weight = error(Config {
            redundancy_weight: -1.0,
            ..config()
        });
        assert!(weight.contains("`objective.barlow_twins.redundancy_weight` must be at least 0, got -1"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
