//! Heads and losses that several methods share: multi-layer perceptrons, L2-normalized embeddings, and predictions between
//! views.

use backbones::layers::{BatchNorm, Linear, cross_entropies, log_sum_exp, relu};
use backbones::{Backbone, BackboneConfig, Context, Init};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use training::{Batch, ViewGroupTensor};

/// The shape of an [`Mlp`].
#[derive(Clone, Debug)]
pub struct MlpShape {
    /// Width of the input.
    pub inputs: usize,
    /// Widths of the hidden layers, each followed by a norm (if any) and ReLU.
    pub hidden: Vec<usize>,
    /// Width of the output.
    pub outputs: usize,
    /// Whether hidden layers are followed by batch normalization.
    pub norm: bool,
    /// Whether hidden layers have a bias; before a norm it changes nothing.
    pub hidden_bias: bool,
    /// Whether the last layer has a bias.
    pub output_bias: bool,
    /// The norm after the last layer.
    pub output_norm: OutputNorm,
}

/// The norm after the last layer of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNorm {
    /// None.
    None,
    /// Batch normalization with scale and shift.
    Affine,
    /// Batch normalization without scale and shift.
    Plain,
}

/// Linear layers with batch normalization and ReLU between them. Projectors and predictors use it.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Hidden layers and the last one.
    pub layers: Vec<Linear>,
    /// Norms of the hidden layers; empty if there are none.
    pub norms: Vec<BatchNorm>,
    /// The norm after the last layer.
    pub output_norm: Option<BatchNorm>,
}

impl Mlp {
    /// Initial weights of `torch.nn.Linear`.
    pub fn new(init: &Init, shape: &MlpShape) -> Self {
        let mut widths = vec![shape.inputs];
        widths.extend(&shape.hidden);
        widths.push(shape.outputs);
        let last = shape.hidden.len();
        let layer = |index: usize| {
            let at = init.at("layers").at(&index.to_string());
            let (inputs, outputs) = (widths[index], widths[index + 1]);
            let bias = if index == last {
                shape.output_bias
            } else {
                shape.hidden_bias
            };
            if bias {
                Linear::new(&at, inputs, outputs)
            } else {
                Linear::without_bias(&at, inputs, outputs)
            }
        };
        let norm = |index: usize| BatchNorm::new(&init.at("norms").at(&index.to_string()), widths[index + 1]);
        let at = init.at("output_norm");
        Self {
            layers: (0..=last).map(layer).collect(),
            norms: (0..if shape.norm { last } else { 0 }).map(norm).collect(),
            output_norm: match shape.output_norm {
                OutputNorm::None => None,
                OutputNorm::Affine => Some(BatchNorm::new(&at, shape.outputs)),
                OutputNorm::Plain => Some(BatchNorm::without_affine(&at, shape.outputs)),
            },
        }
    }

    /// # Shapes
    /// - `x`: `[images, inputs]`
    /// - output: `[images, outputs]`
    pub fn forward(&self, x: Tensor<2>, context: &Context) -> Tensor<2> {
        let mut x = x;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if index + 1 == self.layers.len() {
                break;
            }
            x = match self.norms.get(index) {
                Some(norm) => norm.forward_relu(x, context),
                None => relu(x),
            };
        }
        match &self.output_norm {
            Some(norm) => norm.forward(x, context),
            None => x,
        }
    }
}

/// Backbone and projector: the embedding network of most methods.
#[derive(Module, Debug)]
pub struct Encoder {
    /// The network under study.
    pub backbone: Backbone,
    /// Maps features to the embedding.
    pub projector: Mlp,
}

impl Encoder {
    /// Initial weights at `backbone` and `projector` below `init`'s path.
    pub fn new(init: &Init, backbone: &BackboneConfig, projector: &MlpShape) -> Self {
        Self {
            backbone: backbone.init(&init.at("backbone")),
            projector: Mlp::new(&init.at("projector"), projector),
        }
    }

    /// The embeddings of images of one size.
    ///
    /// # Shapes
    /// - images: `[images, 3, height, width]`
    /// - output: `[images, outputs]`
    pub fn embed(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        self.projector
            .forward(self.backbone.forward(images, context), context)
    }

    /// The embeddings of every view of the batch. Views of one size go through the backbone together, and all features
    /// through the projector.
    ///
    /// # Shapes
    /// - output: `[views * images, outputs]`, all images of view 0 first
    pub fn forward(&self, batch: &Batch, context: &Context) -> Tensor<2> {
        let features = features_of_views(&self.backbone, &batch.views, context);
        self.projector.forward(features, context)
    }
}

/// Number of global views in methods that predict between views: they come first, and the other views predict
/// their targets.
pub const GLOBAL_VIEWS: usize = 2;

/// The features of views, size by size: views of one size share a forward pass, and each size has its own
/// draws.
///
/// # Shapes
/// - output: `[views * images, features]`, all images of view 0 first
pub fn features_of_views(backbone: &Backbone, views: &[ViewGroupTensor], context: &Context) -> Tensor<2> {
    let of_size = |(size, group): (usize, &ViewGroupTensor)| {
        backbone.forward(group.images.clone(), &context.part(size as u64))
    };
    Tensor::cat(views.iter().enumerate().map(of_size).collect(), 0)
}

/// The first half of the rows and the second: the outputs of two views that shared a forward pass.
pub fn halves(rows: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let images = rows.dims()[0] / 2;
    (rows.clone().narrow(0, 0, images), rows.narrow(0, images, images))
}

/// Each row divided by its length, as in `torch.nn.functional.normalize` (lengths below 1e-12 count as
/// 1e-12).
pub fn l2_normalize(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().powi_scalar(2).sum_dim(1).sqrt().clamp_min(1e-12);
    x / length
}

/// The standard deviation of each column over the rows, averaged: `[1]`, detached. For L2-normalized
/// embeddings it is 1 / sqrt(width) if they spread evenly over the sphere and 0 if they collapse.
pub fn spread(embeddings: &Tensor<2>) -> Tensor<1> {
    let embeddings = embeddings.clone().detach();
    embeddings.var(0).sqrt().mean_dim(1).reshape([1])
}

/// Cross-entropy between views: `−q_t · log softmax(logits_s / temperature)`, averaged over images, over the views `s ≠ t`, and over
/// the two global views `t` (SwAV's eq. 2 summed over views, DINO's eq. 3).
///
/// # Shapes
/// - logits: `[views * images, prototypes]`, the two global views first
/// - targets: `[2 * images, prototypes]`, the `q` of the global views, rows summing to 1, without a graph
/// - output: `[1]`
///
/// # Panics
/// If the targets have a graph.
pub fn cross_view_prediction(
    logits: Tensor<2>,
    targets: Tensor<2>,
    views: usize,
    temperature: f64,
) -> Tensor<1> {
    assert!(
        !targets.is_tracked(),
        "targets must be a constant, got ones that hold a graph"
    );
    let [rows, prototypes] = logits.dims();
    let images = rows / views;
    let scale = 1.0 / ((views - 1) * GLOBAL_VIEWS) as f64;
    // A view's targets are the sum of the others': those of the global views, then one sum for all local views.
    let of_view = |view: usize| targets.clone().narrow(0, view * images, images);
    let of_others = || {
        let global = [of_view(1), of_view(0)].into_iter();
        let local = (views > GLOBAL_VIEWS).then(|| of_view(0) + of_view(1));
        Tensor::cat(global.chain(local).collect(), 0)
    };
    if let Some(each) = cross_entropies(&logits, of_others, images, temperature) {
        return each.sum() * (scale / images as f64);
    }
    let log_p = log_softmax(logits / temperature, 1).reshape([views, images, prototypes]);
    let q = targets.reshape([GLOBAL_VIEWS, images, prototypes]);
    // Σ_{s ≠ t} log p_s = Σ_s log p_s − log p_t: no loop over pairs.
    let others = log_p.clone().sum_dim(0) - log_p.narrow(0, 0, GLOBAL_VIEWS);
    let each = (q * others).sum_dim(2); // [2, images, 1]
    each.sum_dim(0).mean_dim(1).reshape([1]) * -scale
}

/// `log Σ exp(logits)` of each row: `[rows, classes]` to `[rows, 1]`.
pub(crate) fn log_sums(logits: Tensor<2>) -> Tensor<2> {
    log_sum_exp(&logits).unwrap_or_else(|| {
        // The largest logit is subtracted before exp; it cancels, so it needs no gradient.
        let largest = logits.clone().detach().max_dim(1);
        (logits - largest.clone()).exp().sum_dim(1).log() + largest
    })
}

/// The entropy of each row of probabilities, averaged over the rows: `[1]`, detached. For the log.
pub fn entropy(probabilities: Tensor<2>) -> Tensor<1> {
    entropies(probabilities).mean_dim(0).reshape([1])
}

/// The entropy of each row of probabilities: `[rows, classes]` to `[rows, 1]`, detached. For the log.
pub fn entropies(probabilities: Tensor<2>) -> Tensor<2> {
    let probabilities = probabilities.detach();
    (probabilities.clone() * probabilities.clamp_min(1e-12).log())
        .sum_dim(1)
        .neg()
}
