//! A vision transformer's last map in, maps of five resolutions with the same channels out.

use backbones::layers::{
    Conv2d, Conv2dConfig, LayerNorm, TransposedConv2d, every_second, gelu, halve_by_maximum,
};
use backbones::{Context, Init, Vit, VitConfig};
use burn::module::Module;
use burn::tensor::Tensor;

use super::config::PyramidConfig;

/// A pyramid from one map alone, without a top-down path.
///
/// Li et al., *Exploring plain vision transformer backbones for object detection*, 2022, §3, "Simple feature pyramid", and
/// §A.2.
#[derive(Module, Debug)]
pub struct SimplePyramid {
    /// Four times, twice, once and half the map's resolution.
    levels: Vec<Level>,
}

/// One resolution: the map enlarged or reduced, then a 1×1 and a 3×3 convolution with norms.
#[derive(Module, Debug)]
struct Level {
    /// Each doubles the resolution and halves the channels.
    up: Vec<TransposedConv2d>,
    /// Between two of them, before GELU.
    up_norm: Option<LayerNorm>,
    inner: Conv2d,
    inner_norm: Option<LayerNorm>,
    layer: Conv2d,
    layer_norm: Option<LayerNorm>,
    halves: bool,
}

impl SimplePyramid {
    /// PyTorch's initial weights of convolutions. `width`: channels of the transformer's map, a multiple of 4.
    pub(super) fn new(init: &Init, width: usize, config: PyramidConfig) -> Self {
        let levels = [(2, false), (1, false), (0, false), (0, true)]
            .into_iter()
            .enumerate();
        let levels = levels.map(|(level, (doublings, halves))| {
            let init = init.at("levels").at(&level.to_string());
            let norm = |name: &str| {
                let norm = || LayerNorm::new(&init.at(name), config.channels);
                config.norm.then(norm)
            };
            let convolution = |name: &str, inputs: usize, kernel: usize| {
                let convolution = Conv2dConfig {
                    bias: !config.norm,
                    ..Conv2dConfig::same(inputs, config.channels, kernel, 1)
                };
                convolution.init_pytorch(&init.at(name))
            };
            let up = (0..doublings).map(|number| {
                let init = init.at("up").at(&number.to_string());
                TransposedConv2d::uniform(&init, width >> number, width >> (number + 1), 2)
            });
            Level {
                up: up.collect(),
                up_norm: (doublings > 1).then(|| LayerNorm::new(&init.at("up_norm"), width / 2)),
                inner: convolution("inner", width >> doublings, 1),
                inner_norm: norm("inner_norm"),
                layer: convolution("layer", config.channels, 3),
                layer_norm: norm("layer_norm"),
                halves,
            }
        });
        Self {
            levels: levels.collect(),
        }
    }

    /// # Shapes
    /// - `map`: the transformer's, `[images, width, height, width]`
    /// - output: four, two, one, half and a quarter times its height and width, finest first
    pub fn forward(&self, map: Tensor<4>) -> Vec<Tensor<4>> {
        let levels = self.levels.iter();
        let mut maps: Vec<Tensor<4>> = levels.map(|level| level.forward(map.clone())).collect();
        if let Some(last) = maps.last() {
            maps.push(every_second(last.clone()));
        }
        maps
    }
}

impl Level {
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        if self.halves {
            x = halve_by_maximum(x);
        }
        for (number, up) in self.up.iter().enumerate() {
            x = up.forward(x);
            if let (0, Some(norm)) = (number, &self.up_norm) {
                x = gelu(over_channels(norm, x));
            }
        }
        let x = normalized(&self.inner_norm, self.inner.forward(x));
        normalized(&self.layer_norm, self.layer.forward(x))
    }
}

fn normalized(norm: &Option<LayerNorm>, x: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => over_channels(norm, x),
        None => x,
    }
}

/// Layer normalization of each position over its channels.
fn over_channels(norm: &LayerNorm, x: Tensor<4>) -> Tensor<4> {
    norm.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

/// A vision transformer and its pyramid.
#[derive(Module, Debug)]
pub struct VitAndPyramid {
    /// The transformer. Its last norm is not used, and not trained.
    pub body: Vit,
    /// The pyramid.
    pub pyramid: SimplePyramid,
}

impl VitAndPyramid {
    pub(super) fn new(init: &Init, vit: &VitConfig, pyramid: PyramidConfig) -> Self {
        Self {
            body: vit.init(&init.at("body")),
            pyramid: SimplePyramid::new(&init.at("pyramid"), vit.width, pyramid),
        }
    }

    /// `[images, 3, height, width]` to the pyramid's five maps, finest first.
    pub(super) fn forward(&self, images: Tensor<4>, context: &Context) -> Vec<Tensor<4>> {
        self.pyramid.forward(self.body.patch_map(images, context))
    }
}
