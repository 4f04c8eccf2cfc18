//! SwAV, swapping assignments between views: each view predicts another view's assignment to prototypes.
//!
//! [Caron et al. 2020](https://arxiv.org/abs/2006.09882).
//!
//! ```text
//! view s ── student ── z_s ── prototypes ── logits_s ── softmax ── p_s ─┐
//!                                                                       ├─ −q_t · log p_s
//! view t ── student ── z_t ── prototypes ── logits_t ── Sinkhorn ── q_t ─┘     (t global, s ≠ t any view)
//! ```
//!
//! There is no teacher: assignments come from the same network without gradients. Sinkhorn's iterations
//! spread the images of a batch evenly over the prototypes, which keeps the network from assigning all of
//! them to one. If batches are small relative to the number of prototypes, embeddings of earlier batches are
//! assigned with them (`queue`).

use crate::checks;
use crate::head::{
    GLOBAL_VIEWS, Mlp, MlpShape, OutputNorm, cross_view_prediction, entropy, features_of_views, l2_normalize,
    spread,
};
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice,
    prototypes_for_data, queue_for_data, warmup_for_data, where_needed,
};
use crate::parameter_budget::{mlp, product};
use crate::teacher;
use backbones::init::buffer;
use backbones::layers::Linear;
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, Replicas, RunPosition, change_value};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Remedy, ViewCount};

/// `[objective.swav]`. The paper's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Width of the projector's hidden layer. Paper: 2,048.
    pub hidden_width: usize,
    /// Width of the embedding that is compared with the prototypes. Paper: 128.
    pub embedding_width: usize,
    /// Number of prototypes. Paper: 3,000.
    pub prototypes: usize,
    /// Softmax temperature of the predictions, above 0. Paper: 0.1.
    pub temperature: f64,
    /// Sinkhorn's regularization, at least 0.01: smaller values give harder assignments. Paper: 0.05; 0.03 if
    /// training collapses (a loss that stays at the logarithm of `prototypes`).
    pub sinkhorn_epsilon: f64,
    /// Sinkhorn's iterations. Paper: 3.
    pub sinkhorn_iterations: usize,
    /// Epochs at the start in which the prototypes are frozen. Paper: 1.
    pub freeze_prototypes_epochs: usize,
    /// Embeddings of earlier batches, for small batches; absent: none. Paper: none for 4,096 images; for 256
    /// images 3,840 embeddings from epoch 15 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

/// Embeddings of earlier batches that are assigned together with the batch's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Embeddings kept for each global view; a multiple of `data.batch_images`. Paper: 3,840.
    pub images: usize,
    /// Completed epochs before the queue starts to fill; it is used once it is full. Paper: 15.
    pub from_epoch: usize,
}

impl MethodConfig for Config {
    const NAME: &'static str = "swav";
    const PAPERS: &'static [Paper] = &[Paper {
        authors: "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin",
        title: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
        year: 2020,
        arxiv: "2006.09882",
    }];

    type Objective = Swav;

    fn objective(self, backbone: BackboneConfig) -> Swav {
        Swav {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        let sizes = [
            ("hidden_width", self.hidden_width),
            ("embedding_width", self.embedding_width),
            ("sinkhorn_iterations", self.sinkhorn_iterations),
        ];
        checks::sizes(&sizes)?;
        if self.prototypes < 2 {
            return Err(Invalid::key(
                "prototypes",
                format!("must be at least 2, got {}", self.prototypes),
            ));
        }
        checks::temperatures(&[("temperature", self.temperature)])?;
        // Below it exp(logit / epsilon) overflows f32.
        if !(self.sinkhorn_epsilon.is_finite() && self.sinkhorn_epsilon >= 0.01) {
            return Err(Invalid::key(
                "sinkhorn_epsilon",
                format!("must be at least 0.01, got {}", self.sinkhorn_epsilon),
            ));
        }
        match &self.queue {
            Some(queue) => checks::queue_images("queue.images", queue.images, run.batch_images),
            None => Ok(()),
        }
    }

    fn parameter_budget(&self, features: f64) -> Vec<(&'static str, f64)> {
        let mut parts = vec![
            ("hidden_width", mlp(features, 1, self.hidden_width)),
            (
                "embedding_width",
                product(self.embedding_width, self.hidden_width),
            ),
            ("prototypes", product(self.prototypes, self.embedding_width)),
        ];
        if let Some(queue) = &self.queue {
            let numbers = product(queue.images, self.embedding_width);
            parts.push(("queue.images", numbers));
        }
        parts
    }

    fn footprint(&self, step: &StepShape) -> Footprint {
        Footprint {
            has_batch_norm: true,
            values_per_image: VALUES_PER_LOGIT * product(step.views, self.prototypes),
            ..Footprint::default()
        }
    }

    fn counts(&self) -> Vec<Count> {
        let frozen = Count::phase(
            "freeze_prototypes_epochs",
            self.freeze_prototypes_epochs,
            "the prototypes would never learn",
        );
        let mut counts = vec![frozen];
        if let Some(queue) = &self.queue {
            let never = "the queue would never be used";
            counts.push(Count::phase("queue.from_epoch", queue.from_epoch, never));
            let otherwise = "images are assigned together with earlier embeddings of their own";
            let (images, from) = (queue.images, queue.from_epoch);
            counts.push(Count::queue_when_full("queue.images", images, from, otherwise));
        }
        counts
    }

    fn for_smoke_test(&mut self, batch_images: usize) {
        self.freeze_prototypes_epochs = 0;
        if let Some(queue) = &mut self.queue {
            queue.images = batch_images;
            queue.from_epoch = 0;
        }
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        let prototypes = prototypes_for_data("prototypes", &mut self.prototypes, 32, data);
        let mut changes: Vec<Change> = prototypes.into_iter().collect();
        if let Some(queue) = &mut self.queue {
            changes.extend(queue_for_data("queue.images", &mut queue.images, data));
            changes.extend(warmup_for_data("queue.from_epoch", &mut queue.from_epoch, data));
        }
        changes
    }
}

/// Backbone, projector and prototypes: everything that the optimizer updates.
#[derive(Module, Debug)]
pub struct Student {
    /// The network under study.
    pub backbone: Backbone,
    /// Linear, batch norm, ReLU, linear.
    pub projector: Mlp,
    /// `[prototypes, embedding_width]`, rows of length 1, without bias.
    pub prototypes: Linear,
}

impl Student {
    /// L2-normalized embeddings, and their logits against the prototypes, of all views, view by view.
    ///
    /// # Shapes
    /// - output: `[views * images, embedding_width]`, `[views * images, prototypes]`
    fn forward(&self, batch: &Batch, context: &Context) -> (Tensor<2>, Tensor<2>) {
        let features = features_of_views(&self.backbone, &batch.views, context);
        // The projector processes all views at once, so its batch statistics cover all of them, as in the
        // paper's code.
        let embeddings = l2_normalize(self.projector.forward(features, context));
        let logits = self.prototypes.forward(embeddings.clone());
        (embeddings, logits)
    }
}

/// The remaining saved state.
#[derive(Module, Debug)]
pub struct State {
    /// Embeddings of earlier batches, `[2, queue.images, embedding_width]`; the step determines the next rows
    /// to overwrite.
    pub queue: Option<Param<Tensor<3>>>,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct Swav {
    config: Config,
    backbone: BackboneConfig,
}

impl Swav {
    /// Number of embeddings pushed before this step, `images` in each over all replicas; `None` before the queue's
    /// first epoch.
    fn pushed(&self, progress: &RunPosition, images: usize) -> Option<usize> {
        let queue = self.config.queue.as_ref()?;
        let first = queue.from_epoch * progress.steps_per_epoch;
        progress.step.checked_sub(first).map(|steps| steps * images)
    }

    /// The queue, if it is already full.
    fn full_queue(&self, state: &State, progress: &RunPosition, images: usize) -> Option<Tensor<3>> {
        let (queue, kept) = (state.queue.as_ref()?, self.config.queue.as_ref()?);
        (self.pushed(progress, images)? >= kept.images).then(|| queue.val())
    }

    /// Assignments of the global views' images, computed together with the queue once it is full.
    ///
    /// # Shapes
    /// - logits: `[views * images, prototypes]`, the two global views first, without a graph
    /// - output: `[2 * images, prototypes]`, rows summing to 1, without a graph
    fn assignments(
        &self,
        student: &Student,
        state: &State,
        logits: Tensor<2>,
        images: usize,
        context: &Context,
    ) -> Tensor<2> {
        let config = &self.config;
        let replicas = &context.replicas;
        // Each replica enters its share of the queue, so that the sums over replicas count each row once.
        let queue = self
            .full_queue(state, &context.progress, images * replicas.count())
            .map(|queue| replicas.share(queue, 1));
        // With `detach` alone, a parameter would still require its gradient.
        let prototypes = student.prototypes.weight.val().without_autodiff();
        let of_view = |view: usize| {
            let of_batch = logits.clone().narrow(0, view * images, images);
            let all = match &queue {
                Some(queue) => {
                    let [_, kept, width] = queue.dims();
                    let queue = queue.clone().narrow(0, view, 1).reshape([kept, width]);
                    Tensor::cat(vec![of_batch, queue.matmul(prototypes.clone().transpose())], 0)
                }
                None => of_batch,
            };
            let plan = sinkhorn(all, config.sinkhorn_epsilon, config.sinkhorn_iterations, replicas);
            plan.narrow(0, 0, images)
        };
        Tensor::cat((0..GLOBAL_VIEWS).map(of_view).collect(), 0)
    }
}

impl Objective for Swav {
    type Student = Student;
    type State = State;
    /// Embeddings of the global views of all replicas, `[2, images, embedding_width]`.
    type Pending = Tensor<3>;

    fn views(&self) -> ViewCount {
        ViewCount::GlobalAndLocal {
            global: GLOBAL_VIEWS,
            least_local: 0,
        }
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let at = init.at("student");
        let width = self.backbone.features();
        let shape = MlpShape {
            inputs: width,
            hidden: vec![self.config.hidden_width],
            outputs: self.config.embedding_width,
            norm: true,
            hidden_bias: true,
            output_bias: true,
            output_norm: OutputNorm::None,
        };
        let student = Student {
            backbone: self.backbone.init(&at.at("backbone")),
            projector: Mlp::new(&at.at("projector"), &shape),
            prototypes: with_normalized_rows(Linear::without_bias(
                &at.at("prototypes"),
                self.config.embedding_width,
                self.config.prototypes,
            )),
        };
        let queue = self.config.queue.as_ref().map(|queue| {
            let empty = init.zeros([GLOBAL_VIEWS, queue.images, self.config.embedding_width]);
            buffer(empty.without_autodiff())
        });
        (student, State { queue })
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, Tensor<3>) {
        let images = batch.images;
        let (embeddings, logits) = student.forward(batch, context);
        let views = logits.dims()[0] / images;

        let assignments =
            self.assignments(student, state, logits.clone().without_autodiff(), images, context);

        let predictions = logits
            .clone()
            .without_autodiff()
            .narrow(0, 0, GLOBAL_VIEWS * images);
        let predictions = softmax(predictions / self.config.temperature, 1);
        let total = cross_view_prediction(logits, assignments.clone(), views, self.config.temperature);
        let global = embeddings.narrow(0, 0, GLOBAL_VIEWS * images);
        let signals = vec![
            ("embedding_std", spread(&global)),
            ("assignment_entropy", entropy(assignments)),
        ];
        // Sinkhorn balances the assignments, so that a prototype which is of no use shows in the predictions alone.
        let loss = Loss::new(total, signals)
            .with_embeddings(&global.clone().narrow(0, 0, images))
            .with_assignments(&predictions);
        let width = self.config.embedding_width;
        let of_images = global
            .detach()
            .reshape([GLOBAL_VIEWS, images, width])
            .swap_dims(0, 1);
        let pending = context.replicas.gather(of_images).swap_dims(0, 1);
        (loss, pending)
    }

    fn commit(
        &self,
        mut student: Student,
        mut state: State,
        pending: Vec<Tensor<3>>,
        context: &Context,
    ) -> (Student, State) {
        student.prototypes = with_normalized_rows(student.prototypes);
        for embeddings in pending {
            let [_, images, width] = embeddings.dims();
            let (Some(queue), Some(kept)) = (&mut state.queue, &self.config.queue) else {
                continue;
            };
            if let Some(pushed) = self.pushed(&context.progress, images) {
                let row = pushed % kept.images;
                let rows = [0..GLOBAL_VIEWS, row..row + images, 0..width];
                *queue = change_value(queue.clone(), |queue| {
                    queue.slice_assign(rows, embeddings.without_autodiff())
                });
            }
        }
        (student, state)
    }

    fn frozen(&self, progress: &RunPosition) -> Vec<&'static str> {
        if progress.epoch() < self.config.freeze_prototypes_epochs {
            vec!["prototypes"]
        } else {
            vec![]
        }
    }

    fn whole_batch(&self) -> Option<&'static str> {
        Some("SwAV assigns all images of the batch to prototypes together")
    }

    fn chance_loss(&self, _: usize) -> Option<f64> {
        (self.config.prototypes > 1).then(|| (self.config.prototypes as f64).ln())
    }

    fn in_force(&self, position: &RunPosition, batch_images: usize) -> Vec<(&'static str, f64)> {
        let Some(queue) = &self.config.queue else {
            return vec![];
        };
        let pushed = self.pushed(position, 1).map_or(0, |pushes| pushes + 1);
        vec![teacher::queue_age(queue.images, batch_images, pushed)]
    }

    fn prototypes(&self) -> Option<usize> {
        Some(self.config.prototypes)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let advice = |key, text, source| advice(Config::NAME, key, text, source);
        match cause {
            Cause::ChanceLoss | Cause::DeadPrototypes | Cause::Collapse => {
                let source = "facebookresearch/swav#69 and its README";
                where_needed([
                    (
                        self.config.sinkhorn_epsilon > 0.03,
                        advice("sinkhorn_epsilon", "lower it to 0.03", source),
                    ),
                    (
                        true,
                        advice(
                            "freeze_prototypes_epochs",
                            match self.config.freeze_prototypes_epochs {
                                0 => "freeze the prototypes for the first epoch or longer",
                                _ => "freeze the prototypes for longer",
                            },
                            source,
                        ),
                    ),
                    (
                        self.config.queue.is_some(),
                        advice("queue.from_epoch", "begin the queue later", source),
                    ),
                ])
            }
            _ => vec![],
        }
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.backbone.clone()
    }
}

/// Prototypes L2-normalized, as before every forward pass (appendix A of the paper).
fn with_normalized_rows(mut prototypes: Linear) -> Linear {
    prototypes.weight = change_value(prototypes.weight, l2_normalize);
    prototypes
}

/// Assignments of images to prototypes; each image's sum to 1, and prototypes are used evenly: Sinkhorn–Knopp
/// on `exp(logits / epsilon)` (eq. 3 to 5 of the paper; [Cuturi 2013](https://arxiv.org/abs/1306.0895)).
///
/// # Shapes
/// - logits: `[images, prototypes]`, cosines in −1..1, without a graph
/// - output: `[images, prototypes]`
pub fn sinkhorn(logits: Tensor<2>, epsilon: f64, iterations: usize, replicas: &Replicas) -> Tensor<2> {
    let prototypes = logits.dims()[1];
    // exp never overflows, because logits are at most 1. The subtracted constant cancels in the first
    // normalization.
    let mut plan = ((logits - 1.0) / epsilon).exp();
    for _ in 0..iterations {
        let of_prototype = replicas.sum(plan.clone().sum_dim(0));
        plan = plan / (of_prototype.clamp_min(1e-30) * prototypes as f64);
        let of_image = plan.clone().sum_dim(1);
        plan = plan / of_image.clamp_min(1e-30);
    }
    plan
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{self, Fixture, u};
    use backbones::Draws;
    use burn::tensor::{Device, TensorData};

    fn config() -> Config {
        Config {
            hidden_width: 16,
            embedding_width: 8,
            prototypes: 12,
            temperature: 0.1,
            sinkhorn_epsilon: 0.05,
            sinkhorn_iterations: 3,
            freeze_prototypes_epochs: 0,
            queue: Some(Queue {
                images: 16,
                from_epoch: 0,
            }),
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        for (queue, views) in [(config().queue, vec![(2, 16), (3, 8)]), (None, vec![(2, 16)])] {
            suite.check(&Case {
                config: Config { queue, ..config() },
                views,
                teacher: None,
                independent_images: false,
            });
        }
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/swav.json"));
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        let (student, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let mut student = formula::by_formula(student);
        student.prototypes = with_normalized_rows(student.prototypes);
        formula::follow_from(&objective, &fixture, student, state);
    }

    #[test]
    fn the_loss_is_the_papers_in_value_and_gradient() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/swav_loss.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 10);
        let device = Device::flex().autodiff();
        for case in cases {
            let size = |name: &str| case[name].as_u64().unwrap() as usize;
            let number = |name: &str| case[name].as_f64().unwrap();
            let (images, views, prototypes, queue) =
                (size("images"), size("views"), size("prototypes"), size("queue"));
            let matrix = |seed, rows: usize| {
                let values = u(seed, rows * prototypes);
                Tensor::<2>::from_data(TensorData::new(values, [rows, prototypes]), &device)
            };
            let logits = matrix(size("seed"), views * images).require_grad();
            let assignments = (0..GLOBAL_VIEWS).map(|view| {
                let own = logits.clone().without_autodiff().narrow(0, view * images, images);
                let all = if queue > 0 {
                    Tensor::cat(vec![own, matrix(500 + view, queue).without_autodiff()], 0)
                } else {
                    own
                };
                sinkhorn(all, number("epsilon"), size("iterations"), &Replicas::single()).narrow(0, 0, images)
            });
            let assignments = Tensor::cat(assignments.collect(), 0);
            let of_images: Vec<f64> = assignments.clone().sum_dim(1).into_data().iter::<f64>().collect();
            assert!(of_images.iter().all(|sum| (sum - 1.0).abs() < 1e-5));
            let loss = cross_view_prediction(logits.clone(), assignments, views, number("temperature"));
            formula::check_loss(case, &logits, loss);
        }
    }

    #[test]
    fn sinkhorn_uses_prototypes_evenly() {
        // Every image prefers prototype 0; even use still spreads them.
        let logits =
            Tensor::<2>::from_floats([[0.9, 0.1], [0.8, 0.1], [0.9, 0.2], [0.9, 0.6]], &Device::flex());
        let plan = sinkhorn(logits, 0.1, 50, &Replicas::single());
        let of_prototype: Vec<f32> = plan.sum_dim(0).into_data().iter::<f32>().collect();
        assert!(
            of_prototype.iter().all(|sum| (sum - 2.0).abs() < 1e-3),
            "{of_prototype:?}"
        );
        // One iteration by hand: columns to 1/2, rows to 1.
        let logits = Tensor::<2>::from_floats([[1.0, 0.5], [0.5, 0.5]], &Device::flex());
        let plan = sinkhorn(logits, 0.5, 1, &Replicas::single());
        let e = (-1f64).exp();
        let (a, b) = (1.0 / (1.0 + e) / 2.0, 0.25);
        let expected = a / (a + b);
        let got = f64::from(plan.into_data().iter::<f32>().next().unwrap());
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
    }

    /// Sinkhorn's iterations are not differentiated, for logits of the batch and of the queue.
    #[test]
    fn assignments_hold_no_graph() {
        let objective = config().objective(conformance::resnet());
        let (student, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let logits = Tensor::<2>::zeros([16, 12], &Device::flex());
        for (step, full) in [(1, false), (2, true)] {
            let progress = RunPosition::at(step, 4, 4);
            let context = Context::training(progress, Draws::new(0, step as u64));
            assert_eq!(objective.full_queue(&state, &progress, 8).is_some(), full);
            let assignments = objective.assignments(&student, &state, logits.clone(), 8, &context);
            assert!(!assignments.is_tracked(), "step {step}");
        }
    }

    #[test]
    fn the_queue_is_used_once_it_is_full() {
        let backbone = conformance::resnet();
        let queue = Some(Queue {
            images: 16,
            from_epoch: 1,
        });
        let objective = Config { queue, ..config() }.objective(backbone);
        let (_, state) = objective.init(&Init::new(0, &Device::flex().autodiff()));
        let used = |step| {
            let progress = RunPosition::at(step, 3, 9);
            objective.full_queue(&state, &progress, 8).is_some()
        };
        // Filled by steps 3 and 4.
        assert_eq!([2, 3, 4, 5, 6].map(used), [false, false, false, true, true]);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |config: Config| conformance::checked(&config, &conformance::resnet(), 8).unwrap_err();
        let queue = Some(Queue {
            images: 20,
            from_epoch: 0,
        });
        assert!(error(Config { queue, ..config() }).contains("queue.images` must be a multiple of"));
        let small = Config {
            sinkhorn_epsilon: 0.001,
            ..config()
        };
        assert!(error(small).contains("sinkhorn_epsilon"));
        let one = Config {
            prototypes: 1,
            ..config()
        };
        assert!(error(one).contains("prototypes` must be at least 2"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
