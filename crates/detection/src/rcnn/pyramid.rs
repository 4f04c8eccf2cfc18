//! Images in, maps of five resolutions with the same channels out.

use backbones::layers::{Conv2dConfig, every_second, upsample_nearest};
use backbones::{Context, Init, ResNet, ResNetStage};
use burn::module::Module;
use burn::tensor::Tensor;

use super::block::{Block, block, forward};
use super::config::{Neck, Norm, RcnnConfig};

/// A top-down path over a backbone's maps.
///
/// Lin et al., *Feature pyramid networks*, 2017, §3.
#[derive(Module, Debug)]
pub struct FeaturePyramid {
    /// 1×1, finest first.
    inner_blocks: Vec<Block>,
    /// 3×3, finest first.
    layer_blocks: Vec<Block>,
}

impl FeaturePyramid {
    /// Weights uniform on ±√(3 / fan-in), biases 0.
    pub(super) fn new(init: &Init, inputs: &[usize], channels: usize, norm: bool) -> Self {
        let blocks = |name: &str, shapes: Vec<[usize; 3]>| {
            let init = init.at(name);
            let numbered = shapes.into_iter().enumerate();
            let each = numbered.map(|(index, shape)| {
                let draw = |config: Conv2dConfig, init: &Init| config.init_uniform(init);
                block(&init.at(&index.to_string()), shape, norm, draw)
            });
            each.collect::<Vec<_>>()
        };
        Self {
            inner_blocks: blocks("inner_blocks", inputs.iter().map(|c| [*c, channels, 1]).collect()),
            layer_blocks: blocks("layer_blocks", vec![[channels, channels, 3]; inputs.len()]),
        }
    }

    /// # Shapes
    /// - `maps`: the backbone's, `[images, channels, height, width]` each, finest first
    /// - output: one map for each, of its size, and a fifth of half the last one's size
    pub fn forward(&self, maps: Vec<Tensor<4>>, context: &Context) -> Vec<Tensor<4>> {
        let mut outputs = vec![];
        let mut coarser: Option<Tensor<4>> = None;
        for (map, (inner, layer)) in maps
            .into_iter()
            .zip(self.inner_blocks.iter().zip(&self.layer_blocks))
            .rev()
        {
            let mut x = forward(inner, map, context);
            if let Some(coarser) = coarser {
                let [_, _, height, width] = x.dims();
                x = x + upsample_nearest(coarser, [height, width]);
            }
            outputs.push(forward(layer, x.clone(), context));
            coarser = Some(x);
        }
        outputs.reverse();
        if let Some(last) = outputs.last() {
            outputs.push(every_second(last.clone()));
        }
        outputs
    }
}

/// A residual network, and its pyramid if it has one.
#[derive(Module, Debug)]
pub struct BodyAndPyramid {
    /// The network.
    pub body: ResNet,
    /// The pyramid; without one, the last stage is the head on regions.
    pub fpn: Option<FeaturePyramid>,
}

impl BodyAndPyramid {
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        let body = config.backbone.init(&init.at("body"));
        let body = body.with_norm_epsilon(config.backbone_norm_epsilon);
        let last = config.backbone.features();
        let inputs = [last / 8, last / 4, last / 2, last];
        Self {
            body,
            fpn: match config.neck {
                Neck::Pyramid(pyramid) => Some(FeaturePyramid::new(
                    &init.at("fpn"),
                    &inputs,
                    pyramid.channels,
                    pyramid.norm,
                )),
                Neck::C4(_) => None,
            },
        }
    }

    /// `[images, 3, height, width]` to the pyramid's five maps, finest first, or to the third stage's.
    pub(super) fn forward(&self, images: Tensor<4>, norm: Norm, context: &Context) -> Vec<Tensor<4>> {
        // The pyramid's norms are new, and therefore never frozen.
        let context = of_norm(norm, context);
        let body = frozen_if(norm, &context);
        let Some(pyramid) = &self.fpn else {
            return vec![
                self.body
                    .forward_until(ResNetStage::Res4, images, &body, |_, _| {}),
            ];
        };
        let mut maps = vec![];
        self.body
            .forward_until(ResNetStage::Res5, images, &body, |stage, map| {
                if stage != ResNetStage::Conv1 {
                    maps.push(map.clone());
                }
            });
        pyramid.forward(maps, &context)
    }

    /// The last stage on pooled regions: `[regions, channels, side, side]`, the side halved.
    pub(super) fn last_stage(&self, regions: Tensor<4>, norm: Norm, context: &Context) -> Tensor<4> {
        let context = frozen_if(norm, &of_norm(norm, context));
        self.body.forward_stage(ResNetStage::Res5, regions, &context)
    }
}

/// The context of norms whose statistics are those of one or of all replicas.
pub(super) fn of_norm(norm: Norm, context: &Context) -> Context {
    let replicas = match norm {
        Norm::Synchronized => context.replicas.count(),
        Norm::Frozen | Norm::Trained => 1,
    };
    Context {
        batch_norm_replicas: replicas,
        ..context.clone()
    }
}

fn frozen_if(norm: Norm, context: &Context) -> Context {
    Context {
        training: context.training && norm != Norm::Frozen,
        ..context.clone()
    }
}
