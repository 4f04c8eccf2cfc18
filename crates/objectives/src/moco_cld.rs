//! MoCo-v2 with CLD, cross-level instance-group discrimination: an image must identify its key in the queue,
//! and also its group among the groups of the other view's images.
//!
//! Wang, Liu, Yu, *Unsupervised feature learning by cross-level instance-group discrimination*,
//! [2021](https://arxiv.org/abs/2008.03813), on top of MoCo (`moco.rs`). PASS released a network trained with
//! it.
//!
//! ```text
//! view 0 ── student ─┬ instance ── q0 ─ InfoNCE with k and queue ─┐
//!                    └ group ───── g0 ─┐                          │
//!                                      ├─ CLD: g0 against g2's ───┼─ mean of the two InfoNCE + weight · CLD
//!                    ┌ group ───── g2 ─┘  centroids, and back     │
//! view 2 ── student ─┴ instance ── q2 ─ InfoNCE with k and queue ─┘
//! view 1 ── teacher ── instance ── k
//! ```
//!
//! Details that the paper leaves open follow its authors' program (MIT): centroids are plain means, through
//! which gradients pass; a cluster without members has its centroid at 0; k-means starts at the first rows.

use crate::checks;
use crate::head::{l2_normalize, spread};
use crate::method::{
    Change, DataShape, Footprint, Invalid, MethodConfig, RunShape, StepShape, VALUES_PER_LOGIT, advice,
    queue_for_data,
};
use crate::moco::{info_nce, keys, new_queue, push};
use crate::parameter_budget::{mlp, product};
use crate::teacher;
use backbones::init::trained;
use backbones::layers::{Linear, relu};
use backbones::{Backbone, BackboneConfig, Context, Init, Paper, RunPosition, ema, independent_copy};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Batch, Cause, Count, Loss, Objective, Remedy, ViewCount};

/// `[objective.moco_cld]`. The reference's values are those for ImageNet with ResNet-50.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `"norm_mlp"` or `"mlp"`; the paper reports 70.0 and 69.2, respectively.
    pub head: Head,
    /// Width of both embeddings. Reference: 128.
    pub embedding_width: usize,
    /// Keys in the queue; a multiple of `data.batch_images`. Reference: 65,536.
    pub queue_images: usize,
    /// Teacher momentum per step, 0..1. Reference: 0.999.
    pub momentum: f64,
    /// Softmax temperature of InfoNCE, above 0. Reference: 0.2.
    pub temperature: f64,
    /// Shuffle the keys among the parts that share batch statistics. Reference: true.
    pub shuffle: bool,
    /// Number of k-means groups among images that are clustered together. Reference: 120 in 2021 (its issue
    /// 11), 100 in the current script. With at least as many groups as images, every image is a group: the
    /// authors state in that issue that they used the largest possible number for ImageNet.
    pub clusters: usize,
    /// Images that are clustered together; must divide `data.batch_images`; absent: the whole batch.
    /// Reference: those of one of its eight GPUs, 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_images: Option<usize>,
    /// Rounds of k-means, at least 1. Reference: 5.
    pub cluster_iterations: usize,
    /// Softmax temperature of CLD, above 0. Reference: 0.4.
    pub cluster_temperature: f64,
    /// Weight of CLD relative to InfoNCE, at least 0. Reference: 0.25.
    pub cluster_weight: f64,
}

/// The head: linear and ReLU, then one layer for each embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The last layers are linear.
    Mlp,
    /// The last layers are linear without bias, with L2-normalized inputs and rows (the paper's NormMLP).
    NormMlp,
}

impl MethodConfig for Config {
    const NAME: &'static str = "moco_cld";
    const PAPERS: &'static [Paper] = &[
        Paper {
            authors: "Wang, Liu, Yu",
            title: "Unsupervised Feature Learning by Cross-Level Instance-Group Discrimination",
            year: 2021,
            arxiv: "2008.03813",
        },
        Paper {
            authors: "Chen, Fan, Girshick, He",
            title: "Improved Baselines with Momentum Contrastive Learning",
            year: 2020,
            arxiv: "2003.04297",
        },
    ];

    type Objective = MocoCld;

    fn objective(self, backbone: BackboneConfig) -> MocoCld {
        MocoCld {
            config: self,
            backbone,
        }
    }

    fn validate(&self, run: &RunShape<'_>) -> Result<(), Invalid> {
        let positive = [
            ("embedding_width", self.embedding_width),
            ("clusters", self.clusters),
            ("cluster_iterations", self.cluster_iterations),
        ];
        checks::sizes(&positive)?;
        let batch_images = run.batch_images;
        checks::queue_images("queue_images", self.queue_images, batch_images)?;
        if let Some(images) = self.cluster_images
            && (images == 0 || !batch_images.is_multiple_of(images))
        {
            return Err(Invalid::key(
                "cluster_images",
                format!("must divide `data.batch_images` ({batch_images}), got {images}"),
            ));
        }
        checks::momenta(&[("momentum", self.momentum)])?;
        let temperatures = [
            ("temperature", self.temperature),
            ("cluster_temperature", self.cluster_temperature),
        ];
        checks::temperatures(&temperatures)?;
        checks::weights(&[("cluster_weight", self.cluster_weight)])
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
            values_per_image: 2.0 * VALUES_PER_LOGIT * (self.queue_images + 1) as f64,
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
        self.cluster_images = self.cluster_images.map(|_| batch_images / 2);
    }

    fn for_data(&mut self, data: &DataShape) -> Vec<Change> {
        let queue = queue_for_data("queue_images", &mut self.queue_images, data);
        let momentum = teacher::for_data(&mut self.momentum, data);
        let mut changes: Vec<Change> = queue.into_iter().chain(momentum).collect();
        if let Some(images) = &mut self.cluster_images {
            let before = *images;
            let divides = |images: &usize| data.batch_images.is_multiple_of(*images);
            *images = (1..=before).rev().find(divides).unwrap_or(1);
            if *images != before {
                changes.push(Change::new(
                    "cluster_images",
                    format!("in place of {before}: it divides the batch"),
                ));
            }
        }
        changes
    }
}

/// Backbone and a head of two branches.
#[derive(Module, Debug)]
pub struct Encoder {
    /// The network under study.
    pub backbone: Backbone,
    /// A layer as wide as the features, before both branches.
    pub hidden: Linear,
    /// Maps to the embedding in which images are discriminated.
    pub instance: Linear,
    /// Maps to the embedding that is clustered.
    pub group: Linear,
    /// Whether the branches are the paper's NormLinear.
    normed: bool,
}

impl Encoder {
    fn init(config: &Config, backbone: &BackboneConfig, init: &Init) -> Self {
        let (inputs, outputs) = (backbone.features(), config.embedding_width);
        let branch = |name: &str| {
            let at = init.at(name);
            match config.head {
                Head::Mlp => Linear::new(&at, inputs, outputs),
                Head::NormMlp => {
                    let mut layer = Linear::without_bias(&at, inputs, outputs);
                    layer.weight = trained(l2_normalize(at.at("weight").uniform([outputs, inputs], 1.0)));
                    layer
                }
            }
        };
        Self {
            backbone: backbone.init(&init.at("backbone")),
            hidden: Linear::new(&init.at("hidden"), inputs, inputs),
            instance: branch("instance"),
            group: branch("group"),
            normed: config.head == Head::NormMlp,
        }
    }

    fn hidden(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        let x = relu(self.hidden.forward(self.backbone.forward(images, context)));
        if self.normed { l2_normalize(x) } else { x }
    }

    /// A branch's embeddings, `[images, embedding_width]`, of length 1 each.
    fn embed(&self, branch: &Linear, hidden: Tensor<2>) -> Tensor<2> {
        l2_normalize(if self.normed {
            hidden.matmul(l2_normalize(branch.weight.val()).transpose())
        } else {
            branch.forward(hidden)
        })
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
    /// Keys of earlier batches, `[queue_images, embedding_width]`, each of length 1.
    pub queue: Param<Tensor<2>>,
}

/// The objective.
#[derive(Clone, Debug)]
pub struct MocoCld {
    config: Config,
    backbone: BackboneConfig,
}

impl Objective for MocoCld {
    type Student = Student;
    type State = State;
    /// The keys of a step.
    type Pending = Tensor<2>;

    fn views(&self) -> ViewCount {
        ViewCount::Exactly(3)
    }

    fn init(&self, init: &Init) -> (Student, State) {
        let encoder = Encoder::init(&self.config, &self.backbone, &init.at("student").at("encoder"));
        let teacher = independent_copy(&encoder);
        let queue = new_queue(init, self.config.queue_images, self.config.embedding_width);
        (Student { encoder }, State { teacher, queue })
    }

    fn loss(&self, student: &Student, state: &State, batch: &Batch, context: &Context) -> (Loss, Tensor<2>) {
        let config = &self.config;
        let embed = |view: usize, part: u64| {
            let encoder = &student.encoder;
            let hidden = encoder.hidden(batch.view(view), &context.part(part));
            let queries = encoder.embed(&encoder.instance, hidden.clone());
            (queries, encoder.embed(&encoder.group, hidden))
        };
        let ((first, first_group), (second, second_group)) = (embed(0, 0), embed(2, 1));
        let keys = keys(batch.view(1), config.shuffle, context, |images| {
            let teacher = &state.teacher;
            teacher.embed(&teacher.instance, teacher.hidden(images, &context.teacher()))
        });
        let contrast =
            |queries: Tensor<2>| info_nce(queries, keys.clone(), state.queue.val(), config.temperature);
        let instances = (contrast(first.clone()) + contrast(second)) / 2.0;

        let all = batch.images * context.replicas.count();
        let together = config.cluster_images.unwrap_or(all);
        let parts = |x: Tensor<2>| {
            // Clusters of images of one replica need no others.
            let x = if batch.images.is_multiple_of(together) {
                x
            } else {
                context.replicas.gather(x)
            };
            let [images, width] = x.dims();
            x.reshape([images / together, together, width])
        };
        let groups = cross_level(
            parts(first_group),
            parts(second_group),
            config.clusters,
            config.cluster_iterations,
            config.cluster_temperature,
        );
        let similarity = (first.clone().detach() * keys.clone())
            .sum_dim(1)
            .mean_dim(0)
            .reshape([1]);
        let signals = vec![
            ("cld", groups.clone().detach()),
            ("embedding_std", spread(&first)),
            ("positive_similarity", similarity),
        ];
        let total = instances + groups * config.cluster_weight;
        let loss = Loss::new(total, signals).with_embeddings(&first);
        (loss, context.replicas.gather(keys))
    }

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

    fn whole_batch(&self) -> Option<&'static str> {
        Some("moco_cld clusters the images of a batch")
    }

    fn chance_loss(&self, batch_images: usize) -> Option<f64> {
        let config = &self.config;
        let together = config.cluster_images.unwrap_or(batch_images);
        let groups = config.clusters.min(together) as f64;
        Some(((config.queue_images + 1) as f64).ln() + config.cluster_weight * groups.ln())
    }

    fn in_force(&self, position: &RunPosition, batch_images: usize) -> Vec<(&'static str, f64)> {
        let Config {
            momentum,
            queue_images,
            ..
        } = self.config;
        teacher::in_force_with_queue(momentum, queue_images, position, batch_images)
    }

    fn measured(&self, student: &Student, state: &State) -> Vec<(&'static str, Tensor<1>)> {
        teacher::measured(&student.encoder, &state.teacher)
    }

    fn remedies(&self, cause: Cause) -> Vec<Remedy> {
        let mut remedies = crate::moco::remedies(Config::NAME, cause, self.config.momentum);
        if matches!(cause, Cause::Collapse | Cause::LowRank) {
            remedies.push(advice(
                Config::NAME,
                "cluster_weight",
                "lower it",
                "Wang et al. 2021, arXiv:2008.03813",
            ));
        }
        remedies
    }

    fn encoder(&self, student: &Student, _: &State) -> Backbone {
        student.encoder.backbone.clone()
    }
}

/// Clusters of points.
struct Clusters {
    /// `[parts, points, clusters]`: 1 at a point's cluster, else 0; without gradients.
    members: Tensor<3>,
    /// Means of the members, `[parts, clusters, width]`, through which gradients pass; 0 for empty clusters.
    centroids: Tensor<3>,
}

/// k-means in each part separately, by Lloyd's rounds from the first `clusters` points.
fn k_means(points: &Tensor<3>, clusters: usize, iterations: usize) -> Clusters {
    let fixed = points.clone().without_autodiff();
    let [parts, count, _] = fixed.dims();
    let numbers = Tensor::<1, Int>::arange(0..clusters as i64, &fixed.device());
    let numbers = numbers.reshape([1, 1, clusters]).expand([parts, count, clusters]);
    // Assignment of each point: squared distances without the point's own square, which all clusters share.
    let members = |centroids: Tensor<3>| {
        let squares = centroids.clone().powi_scalar(2).sum_dim(2).swap_dims(1, 2);
        let distances = squares - fixed.clone().matmul(centroids.swap_dims(1, 2)) * 2.0;
        let nearest = distances.argmin(2).expand([parts, count, clusters]);
        nearest.equal(numbers.clone()).float()
    };
    let means = |members: &Tensor<3>, points: Tensor<3>| {
        let sizes = members.clone().sum_dim(1).clamp_min(1.0);
        (members.clone() / sizes).swap_dims(1, 2).matmul(points)
    };
    let mut belongs = members(fixed.clone().narrow(1, 0, clusters.min(count)));
    for _ in 1..iterations {
        belongs = members(means(&belongs, fixed.clone()));
    }
    Clusters {
        centroids: means(&belongs, points.clone()),
        members: belongs,
    }
}

/// Cross-level discrimination of [Wang et al. 2021](https://arxiv.org/abs/2008.03813): the cross-entropy of
/// each view's points against the other view's centroids. The target is the centroid of the cluster that
/// holds the other view's point. The result is the mean over points and over both directions.
///
/// # Shapes
/// - first, second: `[parts, points, width]`, points of length 1; each part is clustered separately
/// - output: `[1]`
pub fn cross_level(
    first: Tensor<3>,
    second: Tensor<3>,
    clusters: usize,
    iterations: usize,
    temperature: f64,
) -> Tensor<1> {
    let of_first = k_means(&first, clusters, iterations);
    let of_second = k_means(&second, clusters, iterations);
    let side = |points: Tensor<3>, other: Clusters| {
        let logits = (points / temperature).matmul(other.centroids.swap_dims(1, 2));
        // The largest logit is subtracted first: it cancels, and small losses keep their digits.
        let largest = logits.clone().detach().max_dim(2);
        let logits = logits - largest;
        let log_sum = logits.clone().exp().sum_dim(2).log();
        let own = (logits * other.members).sum_dim(2);
        (log_sum - own).mean_dim(1).mean_dim(0).reshape([1])
    };
    (side(first, of_second) + side(second, of_first)) / 2.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::conformance::{self, Case, OneDevice, Suite};
    use crate::formula::{Fixture, follow, relative, u};
    use backbones::init::buffer;

    use burn::tensor::{Device, TensorData};

    fn config() -> Config {
        Config {
            head: Head::NormMlp,
            embedding_width: 8,
            queue_images: 32,
            momentum: 0.9,
            temperature: 0.2,
            shuffle: true,
            clusters: 3,
            cluster_images: Some(4),
            cluster_iterations: 5,
            cluster_temperature: 0.4,
            cluster_weight: 0.25,
        }
    }

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    #[test]
    fn passes_the_conformance_suite() {
        conforms(&OneDevice);
    }

    pub(crate) fn conforms(suite: &impl Suite) {
        // Fewer clusters than images, and more.
        for (head, clusters, cluster_images) in [(Head::NormMlp, 3, Some(4)), (Head::Mlp, 12, None)] {
            let config = Config {
                head,
                clusters,
                cluster_images,
                ..config()
            };
            suite.check(&Case {
                config,
                views: vec![(3, 16)],
                teacher: Some(("teacher", "encoder", 0.9)),
                independent_images: false,
            });
        }
    }

    #[test]
    fn twenty_steps_follow_pytorch() {
        let fixture = Fixture::new(include_str!("../fixtures/moco_cld.json"));
        let config: Config = fixture.objective();
        let shape = [config.queue_images, config.embedding_width];
        let objective = config.objective(fixture.backbone());
        follow(&objective, &fixture, |student, _| State {
            teacher: independent_copy(&student.encoder),
            queue: buffer(l2_normalize(tensor(
                u(1000, shape[0] * shape[1]),
                shape,
                &Device::flex(),
            ))),
        });
    }

    #[test]
    fn groups_agree_with_pytorch_and_scikit_learn_in_value_and_gradients() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../fixtures/moco_cld_groups.json")).unwrap();
        let device = Device::flex().autodiff();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let size = |name: &str| case[name].as_u64().unwrap() as usize;
            let (parts, points, width) = (size("parts"), size("points"), size("width"));
            let count = parts * points * width;
            let (one, two, centers) = (u(1, count), u(2, count), u(3, 5 * width));
            let center = |at: usize| 2.0 * centers[at / width % 5 * width + at % width];
            let first = (0..count).map(|at| one[at] + center(at)).collect();
            let second = (0..count)
                .map(|at| two[at] / 2.0 + one[at] / 2.0 + center(at))
                .collect();
            let rows = |values: Vec<f32>| tensor(values, [parts * points, width], &device).require_grad();
            let (first, second) = (rows(first), rows(second));
            let unit = |rows: &Tensor<2>| l2_normalize(rows.clone()).reshape([parts, points, width]);
            let loss = cross_level(
                unit(&first),
                unit(&second),
                size("clusters"),
                size("iterations"),
                case["temperature"].as_f64().unwrap(),
            );
            let bound = |name: &str| (3.0 * case["torch_float32_error"][name].as_f64().unwrap()).max(1e-5);
            let value = f64::from(loss.clone().into_scalar::<f32>());
            let error = relative(&[value], &[case["loss"].as_f64().unwrap()]);
            assert!(error <= bound("loss"), "{case}: loss {value}");
            let gradients = loss.backward();
            let expected: Vec<Vec<f64>> = serde_json::from_value(case["gradients"].clone()).unwrap();
            for (points, expected) in [first, second].into_iter().zip(expected) {
                let gradient = points.grad(&gradients).unwrap().into_data();
                let stride = (count / 32).max(1);
                let gradient: Vec<f64> = gradient.iter::<f64>().step_by(stride).take(32).collect();
                assert_eq!(gradient.len(), expected.len());
                let error = relative(&gradient, &expected);
                assert!(error <= bound("gradient"), "{case}: gradient {error:e} off");
            }
        }
    }

    /// Points on a line: 0, 1, 10, 11, clustered from 0 and 1.
    #[test]
    fn k_means_by_hand() {
        let device = Device::flex();
        let points = tensor(vec![0.0, 1.0, 10.0, 11.0], [1, 4, 1], &device);
        let centroids = |rounds| {
            let made = k_means(&points, 2, rounds).centroids.into_data();
            made.iter::<f32>().collect::<Vec<_>>()
        };
        assert_eq!(centroids(1), [0.0, 22.0 / 3.0]);
        assert_eq!(centroids(2), [0.5, 10.5]);
        assert_eq!(centroids(5), [0.5, 10.5]);
        // More clusters than points: each point is its own cluster, the others are empty.
        let more = k_means(&points, 6, 3);
        let found: Vec<f32> = more.centroids.into_data().iter::<f32>().collect();
        assert_eq!(found, [0.0, 1.0, 10.0, 11.0, 0.0, 0.0]);
        let members: Vec<f32> = more.members.into_data().iter::<f32>().collect();
        assert_eq!(members.iter().sum::<f32>(), 4.0);
    }

    #[test]
    fn bad_numbers_are_named() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            conformance::checked(&config, &conformance::resnet(), 8).unwrap_err()
        };
        assert!(refused(&|c| c.embedding_width = 0).contains("embedding_width"));
        assert!(refused(&|c| c.clusters = 0).contains("`objective.moco_cld.clusters`"));
        assert!(refused(&|c| c.cluster_iterations = 0).contains("cluster_iterations"));
        assert!(refused(&|c| c.queue_images = 20).contains("multiple of `data.batch_images` (8), got 20"));
        assert!(
            refused(&|c| c.cluster_images = Some(3)).contains("must divide `data.batch_images` (8), got 3")
        );
        assert!(refused(&|c| c.momentum = 2.0).contains("momentum"));
        assert!(refused(&|c| c.temperature = 0.0).contains("`objective.moco_cld.temperature`"));
        assert!(refused(&|c| c.cluster_temperature = -1.0).contains("cluster_temperature"));
        assert!(refused(&|c| c.cluster_weight = f64::NAN).contains("cluster_weight"));
        assert_eq!(conformance::checked(&config(), &conformance::resnet(), 8), Ok(()));
    }
}
