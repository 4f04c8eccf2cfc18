//! SimCLR: a view must identify the other view of the same photograph among all views in the batch.
//!
//! [Chen, Kornblith, Norouzi, Hinton 2020](https://arxiv.org/abs/2002.05709).
//!
//! ```text
//! view 0 ─┐                          ┌─ z0 ─┐
//!         ├─ backbone ── projector ──┤      ├─ NT-Xent over all 2 N views
//! view 1 ─┘                          └─ z1 ─┘
//! ```
//!
//! **Batch statistics** cover both views of the whole batch, as in the authors' code, which processes them as
//! one batch. Many reimplementations (lightly, solo-learn) process view after view: for their statistics set
//! `batch_norm_images` in `[training]` to the batch's number of photographs.

use crate::checks;
use crate::head::{Encoder, MlpShape, OutputNorm, halves, l2_normalize, log_sums, spread};
use crate::method::{
    Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice, where_needed,
};
use crate::parameter_budget::{mlp, product};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Loss, Objective, Remedy, ViewCount};

/// `[objective.simclr]`. The paper's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Linear layers of the projector, with ReLU between them: 2 or 3. Paper: 2; SimCLR v2: 3.
    pub projector_layers: usize,
    /// Width of the projector's hidden layers. Paper: that of the features, 2,048.
    pub projector_width: usize,
    /// Positions of batch normalization in the projector.
    pub projector_norm: ProjectorNorm,
    /// Width of the embedding. Paper: 128.
    pub embedding_width: usize,
    /// Softmax temperature, above 0. Paper: 0.1; on CIFAR-10 0.5.
    pub temperature: f64,
}

/// Batch normalization in the projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectorNorm {
    /// None: the paper's text and figures, VISSL, solo-learn. Layers have a bias.
    None,
    /// After every layer but the last.
    Hidden,
    /// After every layer, as in the authors' code (whose last norm has no shift) and lightly. No layer has a
    /// bias.
    HiddenAndOutput,
}

impl MethodConfig for Config {
    const NAME: &'static str = "simclr";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Chen, Kornblith, Norouzi, Hinton",
        title: "A Simple Framework for Contrastive Learning of Visual Representations",
        year: 2020,
        arxiv: "2002.05709",
    }];

    type Objective = Simclr;

    fn objective(self, backbone: BackboneConfig) -> Simclr {
        Simclr {
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
        checks::temperatures(&[("temperature", self.temperature)])
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        vec![
            (
                "projector_width",
                mlp(features, self.projector_layers, self.projector_width),
            ),
            (
                "embedding_width",
                product(self.embedding_width, self.projector_width),
            ),
        ]
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        // Every view meets every view of the batch.
        Footprint {
            has_batch_norm: true,
            values_per_image: VALUES_PER_LOGIT * product(step.views, step.views * step.images),
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
            norm: self.projector_norm != ProjectorNorm::None,
            hidden_bias: self.projector_norm == ProjectorNorm::None,
            output_bias: self.projector_norm != ProjectorNorm::HiddenAndOutput,
            output_norm: match self.projector_norm {
                ProjectorNorm::HiddenAndOutput => OutputNorm::Affine,
                ProjectorNorm::None | ProjectorNorm::Hidden => OutputNorm::None,
            },
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
pub struct Simclr {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for Simclr {
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
        let embeddings = l2_normalize(student.encoder.forward(batch, context));
        let spread = spread(&embeddings);
        let (first, second) = halves(embeddings);
        let watched = first.clone();
        let similarity = (first.clone().detach() * second.clone().detach())
            .sum_dim(1)
            .mean_dim(0)
            .reshape([1]);
        let loss = nt_xent(
            context.replicas.gather(first),
            context.replicas.gather(second),
            self.config.temperature,
        );
        let signals = vec![("embedding_std", spread), ("positive_similarity", similarity)];
        (Loss::new(loss, signals).with_embeddings(&watched), ())
    }

    fn commit(&self, student: Student, state: State, _: Vec<()>, _: &Context) -> (Student, State) {
        (student, state)
    }

    fn whole_batch(&self) -> Option<&'static str> {
        Some("SimCLR's negatives are all other views of the batch, so parts of it have another loss")
    }

    fn chance_loss(&self, batch_images: usize) -> Option<f64> {
        // All other views of the batch, equally similar.
        (batch_images > 1).then(|| ((2 * batch_images - 1) as f64).ln())
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::ChanceLoss | Cause::Collapse => where_needed([(
                self.config.temperature > 0.1,
                advice(
                    "temperature",
                    "lower it: 0.1 to 0.5",
                    "Chen et al. 2020, arXiv:2002.05709, table 5",
                ),
            )]),
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// NT-Xent, eq. 1 of [Chen et al. 2020](https://arxiv.org/abs/2002.05709), as the mean over both views of every image:
/// `-log(exp(a·p / temperature) / Σ exp(a·k / temperature))`, where `p` is the anchor's other view and `k` runs over all
/// views but the anchor. (The authors' code adds the means of the two views, which is twice that.)
///
/// # Shapes
/// - first, second: `[images, width]`, rows of length 1; row i of both shows image i
/// - output: `[1]`
pub fn nt_xent(first: Tensor<2>, second: Tensor<2>, temperature: f64) -> Tensor<1> {
    let positive = (first.clone() * second.clone()).sum_dim(1) / temperature; // [images, 1]
    let views = Tensor::cat(vec![first, second], 0); // [2 images, width]
    let count = views.dims()[0];
    let itself = Tensor::<2, Bool>::diag_mask([count, count], 0, &views.device()).bool_not();
    // Far below any logit, and finite: shaders may assume that infinity never occurs.
    let logits = (views.clone() / temperature)
        .matmul(views.transpose())
        .mask_fill(itself, -1e9);
    let log_sum = log_sums(logits); // [2 images, 1]
    (log_sum.mean_dim(0) - positive.mean_dim(0)).reshape([1])
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
            projector_layers: 2,
            projector_width: 16,
            projector_norm: ProjectorNorm::None,
            embedding_width: 8,
            temperature: 0.5,
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for (projector_layers, projector_norm) in [
            (2, ProjectorNorm::None),
            (2, ProjectorNorm::Hidden),
            (3, ProjectorNorm::HiddenAndOutput),
        ] {
            let config = Config {
                projector_layers,
                projector_norm,
                ..config()
            };
            let objective = config.clone().objective(conformance::resnet());
            assert!(objective.whole_batch().unwrap().contains("negatives"));
            suite.check(&Case {
                config,
                views: vec![(2, 16)],
                teacher: None,
                independent_images: false,
            });
        }
    }

    #[test]
    fn views_of_two_sizes_are_embedded_in_order() {
        OneDevice.check(&Case {
            config: config(),
            views: vec![(1, 16), (1, 24)],
            teacher: None,
            independent_images: false,
        });
    }

    #[test]
    fn nt_xent_agrees_with_pytorch_and_lightly() {
        grid::check("nt_xent", |case, inputs| {
            let (first, second) = halves(l2_normalize(inputs));
            nt_xent(first, second, case.parameter("temperature"))
        });
    }

    #[test]
    fn nt_xent_by_hand_and_far_outside_exp() {
        let device = Device::flex();
        let rows = |values: [[f32; 2]; 2]| Tensor::<2>::from_floats(values, &device);
        let value = |temperature| {
            nt_xent(
                rows([[1.0, 0.0], [0.0, 1.0]]),
                rows([[1.0, 0.0], [0.0, 1.0]]),
                temperature,
            )
            .into_scalar::<f32>()
        };
        // Each anchor: its positive at 1, two others at 0: -ln(e^2 / (e^2 + 2)) at temperature 0.5.
        assert!((value(0.5) - (1.0 + 2.0 * (-2.0f32).exp()).ln()).abs() < 1e-6);
        // Logits of 1,000 overflow a plain exp in f32.
        assert!(value(0.001).is_finite());
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/simclr.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |_, state| state);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let layers = error(Config {
            projector_layers: 1,
            ..config()
        });
        assert!(layers.contains("`objective.simclr.projector_layers` must be 2 or 3, got 1"));
        let width = error(Config {
            embedding_width: 0,
            ..config()
        });
        assert!(width.contains("`objective.simclr.embedding_width` must be at least 1"));
        let temperature = error(Config {
            temperature: f64::NAN,
            ..config()
        });
        assert!(temperature.contains("`objective.simclr.temperature` must be finite and above 0, got NaN"));
    }
}
