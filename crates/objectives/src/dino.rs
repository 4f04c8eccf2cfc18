//! DINO, self-distillation with no labels: every view predicts what a slowly moving teacher makes of a global view.
//!
//! [Caron et al. 2021](https://arxiv.org/abs/2104.14294).
//!
//! ```text
//! all views    ── student ── scores ── softmax(· / student temperature) ── p_s ─┐
//!                                                                               ├─ −q_t · log p_s   (s ≠ t)
//! global views ── teacher ── scores − centre ── softmax(· / teacher temp.) ─ q_t ┘
//!                    teacher <- momentum teacher + (1 - momentum) student
//! ```
//!
//! Two forces hold each other: the centre, a moving average of the teacher's scores, keeps one dimension from winning
//! everywhere, and the teacher's low temperature keeps its answers from becoming uniform.

use crate::checks;
use crate::head::{GLOBAL_VIEWS, cross_view_prediction, entropy, features_of_views, spread, unit_rows};
use backbones::init::{buffer, trained};
use backbones::layers::{BatchNorm, Linear, gelu};
use backbones::{Backbone, BackboneConfig, Context, Init, Progress, change_value, ema, independent_copy};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use serde::{Deserialize, Serialize};
use training::{Batch, Loss, Objective, ViewCount, cosine};

/// Standard deviation of the head's initial weights.
const INITIAL_STD: f64 = 0.02;

/// `[objective.dino]`. The paper's values are those for ImageNet with ViT-S/16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Width of the head's two hidden layers. Paper: 2,048.
    pub hidden_width: usize,
    /// Width behind the hidden layers, where embeddings have length 1. Paper: 256.
    pub bottleneck_width: usize,
    /// Scores of an image, the paper's K. Paper: 65,536; for ResNet-50 60,000 as PASS's authors ran it.
    pub prototypes: usize,
    /// Batch normalisation behind the hidden layers. Paper: false for ViTs, true for ResNets.
    pub head_norm: bool,
    /// Whether the last layer's rows keep length 1. Paper: true for short runs; false for the best long ones of ViT-S.
    pub norm_last_layer: bool,
    /// Softmax temperature of the student, above 0. Paper: 0.1.
    pub student_temperature: f64,
    /// Softmax temperature of the teacher, above 0 and below the student's. Paper: 0.04; for long runs 0.07.
    pub teacher_temperature: f64,
    /// The teacher's temperature in the first epoch, from which it moves in a line. Paper: 0.04.
    pub teacher_temperature_start: f64,
    /// Epochs of that line; 0 for none. Paper: 0; with 0.07 it is 30.
    pub teacher_temperature_epochs: usize,
    /// How much of the centre stays at each step, 0..1. Paper: 0.9.
    pub centre_momentum: f64,
    /// How much of the teacher stays at each step, 0..1, at the start. Paper: 0.996; for 256 images 0.9995.
    pub momentum: f64,
    /// The same at the end, reached by a cosine over all steps; absent: it stays. Paper: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum_end: Option<f64>,
    /// Epochs at the start in which the last layer stands still. Paper: 1.
    pub freeze_last_layer_epochs: usize,
}

impl Config {
    /// Refuses numbers with which the method makes no sense, naming the key.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_width", self.hidden_width),
            ("bottleneck_width", self.bottleneck_width),
            ("prototypes", self.prototypes),
        ];
        checks::sizes("dino", &sizes)?;
        checks::temperatures(
            "dino",
            &[
                ("student_temperature", self.student_temperature),
                ("teacher_temperature", self.teacher_temperature),
                ("teacher_temperature_start", self.teacher_temperature_start),
            ],
        )?;
        let end = self.momentum_end.unwrap_or(self.momentum);
        checks::momenta(
            "dino",
            &[
                ("centre_momentum", self.centre_momentum),
                ("momentum", self.momentum),
                ("momentum_end", end),
            ],
        )
    }

    /// The teacher's temperature in this epoch: numpy's `linspace` over the first epochs, then constant.
    fn teacher_temperature(&self, progress: &Progress) -> f64 {
        let (epoch, epochs) = (progress.epoch(), self.teacher_temperature_epochs);
        if epoch >= epochs {
            return self.teacher_temperature;
        }
        let done = epoch as f64 / (epochs - 1).max(1) as f64;
        self.teacher_temperature_start + (self.teacher_temperature - self.teacher_temperature_start) * done
    }
}

/// From features to scores: three linear layers with GELU, length 1, and a last layer whose rows have length `weight_g`.
#[derive(Module, Debug)]
pub struct Head {
    /// Two hidden layers and the bottleneck.
    pub layers: Vec<Linear>,
    /// Norms of the hidden layers; empty if there are none.
    pub norms: Vec<BatchNorm>,
    /// The scores' layer.
    pub last_layer: WeightNormed,
}

/// A linear layer without bias, whose rows are `weight_g · weight_v / ‖weight_v‖`:
/// [Salimans, Kingma 2016](https://arxiv.org/abs/1602.07868).
#[derive(Module, Debug)]
pub struct WeightNormed {
    /// Length of each row, `[outputs, 1]`.
    pub weight_g: Param<Tensor<2>>,
    /// Direction of each row, `[outputs, inputs]`.
    pub weight_v: Param<Tensor<2>>,
}

impl Head {
    fn new(init: &Init, config: &Config, inputs: usize) -> Self {
        let widths = [
            inputs,
            config.hidden_width,
            config.hidden_width,
            config.bottleneck_width,
        ];
        let layer = |index: usize| {
            let at = init.at("layers").at(&index.to_string());
            Linear::truncated_normal(&at, widths[index], widths[index + 1], INITIAL_STD)
        };
        let norm = |index: usize| BatchNorm::new(&init.at("norms").at(&index.to_string()), widths[index + 1]);
        let at = init.at("last_layer");
        let lengths = at.at("weight_g").ones([config.prototypes, 1]);
        // As `torch.nn.Linear` starts: the head's normal weights do not reach a weight-normed layer.
        let bound = 1.0 / (config.bottleneck_width as f64).sqrt();
        let directions = at
            .at("weight_v")
            .uniform([config.prototypes, config.bottleneck_width], bound);
        Self {
            layers: (0..3).map(layer).collect(),
            norms: (0..if config.head_norm { 2 } else { 0 }).map(norm).collect(),
            last_layer: WeightNormed {
                weight_g: if config.norm_last_layer {
                    buffer(lengths.without_autodiff())
                } else {
                    trained(lengths)
                },
                weight_v: trained(directions),
            },
        }
    }

    /// # Shapes
    /// - `x`: `[images, features]`
    /// - output: embeddings of length 1 `[images, bottleneck_width]`, scores `[images, prototypes]`
    fn forward(&self, x: Tensor<2>, context: &Context) -> (Tensor<2>, Tensor<2>) {
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
        let embeddings = unit_rows(x);
        let weight = unit_rows(self.last_layer.weight_v.val()) * self.last_layer.weight_g.val();
        let scores = embeddings.clone().matmul(weight.transpose());
        (embeddings, scores)
    }
}

/// Backbone and head.
#[derive(Module, Debug)]
pub struct Encoder {
    /// The network under study.
    pub backbone: Backbone,
    /// From features to scores.
    pub head: Head,
}

impl Encoder {
    /// Embeddings and scores of the first `sizes` sizes of views, view by view. The head sees them all at once, as in the
    /// paper's code.
    fn forward(&self, batch: &Batch, sizes: usize, context: &Context) -> (Tensor<2>, Tensor<2>) {
        let features = features_of_views(&self.backbone, &batch.views[..sizes], context);
        self.head.forward(features, context)
    }
}

/// All that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// Backbone and head.
    pub encoder: Encoder,
}

/// What else must be saved.
#[derive(Module, Debug)]
pub struct State {
    /// The moving average of the student.
    pub teacher: Encoder,
    /// The moving average of the teacher's scores, `[1, prototypes]`.
    pub centre: Param<Tensor<2>>,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct Dino {
    config: Config,
    backbone: BackboneConfig,
}

impl Dino {
    /// An objective from configs that were validated.
    pub fn new(config: Config, backbone: BackboneConfig) -> Self {
        Self { config, backbone }
    }
}

impl Objective for Dino {
    type Student = Student;
    type State = State;
    /// The mean of the teacher's scores over the (micro-)batch, `[1, prototypes]`.
    type Pending = Tensor<2>;

    fn views(&self) -> ViewCount {
        ViewCount::GlobalAndLocal {
            global: GLOBAL_VIEWS,
            least_local: 0,
        }
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let at = init.at("student");
        let encoder = Encoder {
            backbone: self.backbone.init(&at.at("backbone")),
            head: Head::new(&at.at("head"), &self.config, self.backbone.features()),
        };
        let teacher = independent_copy(&encoder);
        let centre = init.zeros([1, self.config.prototypes]).without_autodiff();
        let state = State {
            teacher,
            centre: buffer(centre),
        };
        (Student { encoder }, state)
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, Tensor<2>) {
        let (embeddings, scores) = student.encoder.forward(batch, batch.views.len(), context);
        let (_, targets) = state.teacher.forward(batch, 1, &context.teacher());
        let targets = targets.detach();
        let centred = targets.clone() - state.centre.val();
        let answers = softmax(centred / self.config.teacher_temperature(&context.progress), 1);

        let views = scores.dims()[0] / batch.images;
        let total = cross_view_prediction(scores, answers.clone(), views, self.config.student_temperature);
        let global = embeddings.narrow(0, 0, GLOBAL_VIEWS * batch.images);
        let signals = vec![
            ("embedding_std", spread(&global)),
            // Near 0: one dimension wins; near the logarithm of `prototypes`: uniform. Both are collapse.
            ("teacher_entropy", entropy(answers)),
        ];
        let mean = context.replicas.mean(targets.mean_dim(0));
        (Loss { total, signals }, mean)
    }

    fn commit(
        &self,
        student: Student,
        mut state: State,
        pending: Vec<Tensor<2>>,
        context: &Context,
    ) -> (Student, State) {
        let parts = pending.len() as f64;
        let mean = Tensor::cat(pending, 0).sum_dim(0).without_autodiff() / parts;
        let kept = self.config.centre_momentum;
        state.centre = change_value(state.centre, |centre| centre * kept + mean * (1.0 - kept));

        let start = self.config.momentum;
        let end = self.config.momentum_end.unwrap_or(start);
        let momentum = cosine(start, end, context.progress.fraction());
        state.teacher = ema(state.teacher, &student.encoder, momentum);
        (student, state)
    }

    fn frozen(&self, progress: &Progress) -> Vec<&'static str> {
        if progress.epoch() < self.config.freeze_last_layer_epochs {
            vec!["encoder.head.last_layer"]
        } else {
            vec![]
        }
    }

    fn encoder<'a>(&self, _: &'a Student, state: &'a State) -> &'a Backbone {
        &state.teacher.backbone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Case};
    use crate::formula::{self, Fixture, u};
    use backbones::vit::{Initialization, Interpolation, Pooling, Position};
    use backbones::{ResNetConfig, Stem, VitConfig};
    use burn::tensor::{Device, TensorData};

    fn config() -> Config {
        Config {
            hidden_width: 16,
            bottleneck_width: 8,
            prototypes: 24,
            head_norm: false,
            norm_last_layer: true,
            student_temperature: 0.1,
            teacher_temperature: 0.07,
            teacher_temperature_start: 0.04,
            teacher_temperature_epochs: 2,
            centre_momentum: 0.9,
            momentum: 0.9,
            momentum_end: None,
            freeze_last_layer_epochs: 0,
        }
    }

    fn resnet() -> BackboneConfig {
        BackboneConfig::Resnet(ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Small,
        })
    }

    fn vit() -> BackboneConfig {
        BackboneConfig::Vit(VitConfig {
            width: 8,
            depth: 2,
            heads: 2,
            patch_px: 4,
            image_px: 16,
            position: Position::Learned,
            interpolation: Interpolation::Offset,
            registers: 0,
            layer_scale: None,
            drop_path: 0.1,
            pooling: Pooling::ClassToken,
            initialization: Initialization::TruncatedNormal,
        })
    }

    #[test]
    fn passes_the_conformance_suite() {
        for (config, backbone, views) in [
            (config(), resnet(), vec![(2, 16), (3, 8)]),
            (
                Config {
                    head_norm: true,
                    norm_last_layer: false,
                    ..config()
                },
                resnet(),
                vec![(2, 16)],
            ),
            (config(), vit(), vec![(2, 16), (2, 8)]),
        ] {
            let drops_paths = matches!(backbone, BackboneConfig::Vit(_));
            conformance::check(&Case {
                objective: Dino::new(config, backbone),
                views,
                teacher: Some(("teacher", "encoder", 0.9)),
                // Micro-batches drop other paths.
                independent_images: !drops_paths,
            });
        }
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        for text in [
            include_str!("../fixtures/dino_resnet.json"),
            include_str!("../fixtures/dino_vit.json"),
        ] {
            let fixture = Fixture::new(text);
            let objective = Dino::new(fixture.objective(), fixture.backbone());
            formula::follow(&objective, &fixture, |student, mut state| {
                state.teacher = independent_copy(&student.encoder);
                state
            });
        }
    }

    #[test]
    fn the_loss_is_the_papers_in_value_and_gradient() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/dino_loss.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 10);
        let device = Device::flex().autodiff();
        for case in cases {
            let size = |name: &str| case[name].as_u64().unwrap() as usize;
            let number = |name: &str| case[name].as_f64().unwrap();
            let (images, views, prototypes) = (size("images"), size("views"), size("prototypes"));
            let matrix = |seed, rows: usize| {
                let values = u(seed, rows * prototypes);
                Tensor::<2>::from_data(TensorData::new(values, [rows, prototypes]), &device)
            };
            let scores = matrix(size("seed"), views * images).require_grad();
            let targets = matrix(300 + size("seed"), GLOBAL_VIEWS * images);
            let centre = matrix(600 + size("seed"), 1) * 0.1;
            let answers = softmax((targets - centre) / number("teacher_temperature"), 1);
            let loss = cross_view_prediction(scores.clone(), answers, views, number("student_temperature"));
            formula::check_loss(case, &scores, loss);
        }
    }

    #[test]
    fn temperature_and_freezing_follow_the_epoch() {
        let at = |epoch: usize| Progress {
            step: epoch * 10,
            steps_per_epoch: 10,
            steps: 1000,
        };
        let config = Config {
            teacher_temperature_epochs: 4,
            freeze_last_layer_epochs: 1,
            ..config()
        };
        for (epoch, expected) in [(0, 0.04), (1, 0.05), (2, 0.06), (3, 0.07), (4, 0.07)] {
            assert!((config.teacher_temperature(&at(epoch)) - expected).abs() < 1e-12);
        }
        let objective = Dino::new(config, resnet());
        assert_eq!(objective.frozen(&at(0)), ["encoder.head.last_layer"]);
        assert!(objective.frozen(&at(1)).is_empty());
        let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let below = backbones::parameters(&student)
            .into_iter()
            .filter(|p| p.path.starts_with("encoder.head.last_layer."));
        assert_eq!(below.count(), 2);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| config.validate().unwrap_err();
        let zero = Config {
            prototypes: 0,
            ..config()
        };
        assert!(error(zero).contains("`objective.dino.prototypes` must be at least 1"));
        let cold = Config {
            teacher_temperature: 0.0,
            ..config()
        };
        assert!(error(cold).contains("teacher_temperature` must be above 0"));
        let far = Config {
            momentum_end: Some(1.1),
            ..config()
        };
        assert!(error(far).contains("momentum_end` must be in 0..1, got 1.1"));
        assert_eq!(config().validate(), Ok(()));
    }
}
