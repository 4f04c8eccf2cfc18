//! A transformer's block, and the initial weights of its linear layers.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Initialization, VitConfig};
use crate::context::Context;
use crate::init::Init;
use crate::layers::{Attention, DropPath, LayerNorm, LayerScale, Linear, gelu};

/// Attention and an MLP, each with a norm before it and added to its input.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
    number: usize,
    /// Probability of dropping a branch for an image.
    drop_path: f64,
}

/// Two linear maps with a GELU between them and a hidden width of four times the input.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// The `number`-th block, from 0, of the network in `config`, which sets width, heads, LayerScale,
    /// initial weights and drop path.
    pub fn new(config: &VitConfig, init: &Init, number: usize) -> Self {
        let (width, hidden) = (config.width, 4 * config.width);
        let linear = |name: &str, inputs, outputs, fans| {
            let init = init.at(name);
            match config.initialization {
                Initialization::TruncatedNormal => Linear::truncated_normal(&init, inputs, outputs, 0.02),
                Initialization::MocoV3 => Linear::xavier_uniform(&init, inputs, outputs, fans),
                Initialization::Mae => Linear::xavier_uniform(&init, inputs, outputs, inputs + outputs),
            }
        };
        let scale = |name: &str| {
            config
                .layer_scale
                .map(|value| LayerScale::new(&init.at(name), width, value))
        };
        Self {
            norm1: LayerNorm::new(&init.at("norm1"), width).with_epsilon(config.epsilon()),
            attn: Attention::new(
                // Three layers in one: MoCo-v3 counts one layer's outputs.
                linear("attn.qkv", width, 3 * width, 2 * width),
                linear("attn.proj", width, width, 2 * width),
                config.heads,
            ),
            ls1: scale("ls1"),
            norm2: LayerNorm::new(&init.at("norm2"), width).with_epsilon(config.epsilon()),
            mlp: Mlp {
                fc1: linear("mlp.fc1", width, hidden, width + hidden),
                fc2: linear("mlp.fc2", hidden, width, width + hidden),
            },
            ls2: scale("ls2"),
            number,
            // From 0 in the first block to the whole rate in the last.
            drop_path: config.drop_path * number as f64 / (config.depth - 1).max(1) as f64,
        }
    }

    /// `[images, tokens, width]` to the same.
    pub fn forward(&self, x: Tensor<3>, context: &Context) -> Tensor<3> {
        let drop_path = DropPath::draw(self.drop_path, self.number, 2, &x, context);
        let scaled = |scale: &Option<LayerScale>, x| match scale {
            Some(scale) => scale.forward(x),
            None => x,
        };
        let branch = scaled(&self.ls1, self.attn.forward(self.norm1.forward(x.clone())));
        let x = x + drop_path.apply(0, branch);
        let branch = scaled(&self.ls2, self.mlp.forward(self.norm2.forward(x.clone())));
        x + drop_path.apply(1, branch)
    }

    /// The attention of this block, `[images, heads, tokens, tokens]`.
    pub fn attention_map(&self, x: Tensor<3>) -> Tensor<4> {
        self.attn.weights(self.norm1.forward(x))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(gelu(self.fc1.forward_low(x)))
    }
}
