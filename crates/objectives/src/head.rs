//! What stands on top of a backbone in most methods: multi-layer perceptrons, and embeddings of length 1.

use backbones::layers::{BatchNorm, Linear, relu};
use backbones::{Context, Init};
use burn::module::Module;
use burn::tensor::Tensor;

/// The shape of an [`Mlp`].
#[derive(Clone, Debug)]
pub struct MlpShape {
    /// Width of the input.
    pub inputs: usize,
    /// Widths of the hidden layers, each followed by a norm (if any) and ReLU.
    pub hidden: Vec<usize>,
    /// Width of the output.
    pub outputs: usize,
    /// Whether hidden layers are followed by batch normalisation.
    pub norm: bool,
    /// Whether hidden layers have a bias; before a norm it changes nothing.
    pub hidden_bias: bool,
    /// Whether the last layer has a bias.
    pub output_bias: bool,
    /// What follows the last layer.
    pub output_norm: OutputNorm,
}

/// What follows the last layer of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNorm {
    /// Nothing.
    None,
    /// Batch normalisation with scale and shift.
    Affine,
    /// Batch normalisation without.
    Plain,
}

/// Linear layers with batch normalisation and ReLU between them. Projectors and predictors are made of it.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Hidden layers and the last one.
    pub layers: Vec<Linear>,
    /// Norms of the hidden layers; empty if there are none.
    pub norms: Vec<BatchNorm>,
    /// The norm behind the last layer.
    pub output_norm: Option<BatchNorm>,
}

impl Mlp {
    /// Initial weights as `torch.nn.Linear`'s.
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

/// Each row divided by its length, as `torch.nn.functional.normalize` (lengths below 1e-12 count as 1e-12).
pub fn unit_rows(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().powi_scalar(2).sum_dim(1).sqrt().clamp_min(1e-12);
    x / length
}

/// The standard deviation of each column over the rows, averaged: `[1]`, detached. For embeddings of length 1 it is
/// 1 / sqrt(width) when they spread evenly over the sphere and 0 when they collapse.
pub fn spread(embeddings: &Tensor<2>) -> Tensor<1> {
    let embeddings = embeddings.clone().detach();
    embeddings.var(0).sqrt().mean_dim(1).reshape([1])
}
