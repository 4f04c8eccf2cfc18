//! Images in, maps of five resolutions with the same channels out.

use backbones::layers::{Conv2dConfig, every_second, upsample_nearest};
use backbones::{Backbone, BackboneConfig, Context, Init, ResNet, ResNetConfig, ResNetStage};
use burn::module::Module;
use burn::tensor::Tensor;

use super::block::{Block, block, forward};
use super::config::{Neck, Norm, RcnnConfig};
use super::simple_pyramid::VitAndPyramid;

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

/// What images pass through before the heads: a residual network with its pyramid, if it has one, or a vision transformer
/// with its own.
///
/// The parts of one kind are there. (An enum would add its variants to the names of parameters, which are torchvision's.)
#[derive(Module, Debug)]
pub struct BodyAndPyramid {
    /// The residual network.
    body: Option<ResNet>,
    /// Its pyramid; without one, the last stage is the head on regions.
    fpn: Option<FeaturePyramid>,
    /// The transformer and its pyramid.
    vit: Option<VitAndPyramid>,
}

impl BodyAndPyramid {
    /// # Panics
    /// For a transformer without a pyramid, which [`RcnnConfig::validate`] refuses.
    pub(super) fn new(config: &RcnnConfig, init: &Init) -> Self {
        match &config.backbone {
            BackboneConfig::Resnet(resnet) => Self::of_resnet(config, resnet, init),
            BackboneConfig::Vit(vit) => {
                let Neck::Pyramid(pyramid) = config.neck else {
                    panic!("a detector on a vision transformer has a pyramid");
                };
                Self {
                    body: None,
                    fpn: None,
                    vit: Some(VitAndPyramid::new(&init.at("vit"), vit, pyramid)),
                }
            }
        }
    }

    fn of_resnet(config: &RcnnConfig, resnet: &ResNetConfig, init: &Init) -> Self {
        let body = resnet.init(&init.at("body"));
        let body = body.with_norm_epsilon(config.backbone_norm_epsilon);
        let last = resnet.features();
        let inputs = [last / 8, last / 4, last / 2, last];
        Self {
            body: Some(body),
            fpn: match config.neck {
                Neck::Pyramid(pyramid) => Some(FeaturePyramid::new(
                    &init.at("fpn"),
                    &inputs,
                    pyramid.channels,
                    pyramid.norm,
                )),
                Neck::C4(_) => None,
            },
            vit: None,
        }
    }

    /// `[images, 3, height, width]` to the pyramid's five maps, finest first, or to the third stage's.
    pub(super) fn forward(&self, images: Tensor<4>, norm: Norm, context: &Context) -> Vec<Tensor<4>> {
        if let Some(vit) = &self.vit {
            return vit.forward(images, context);
        }
        // The pyramid's norms are new, and therefore never frozen.
        let context = of_norm(norm, context);
        let frozen = frozen_if(norm, &context);
        let Some(pyramid) = &self.fpn else {
            let map = self
                .resnet()
                .forward_until(ResNetStage::Res4, images, &frozen, |_, _| {});
            return vec![map];
        };
        let mut maps = vec![];
        self.resnet()
            .forward_until(ResNetStage::Res5, images, &frozen, |stage, map| {
                if stage != ResNetStage::Conv1 {
                    maps.push(map.clone());
                }
            });
        pyramid.forward(maps, &context)
    }

    /// The last stage on pooled regions: `[regions, channels, side, side]`, the side halved.
    pub(super) fn last_stage(&self, regions: Tensor<4>, norm: Norm, context: &Context) -> Tensor<4> {
        let context = frozen_if(norm, &of_norm(norm, context));
        self.resnet().forward_stage(ResNetStage::Res5, regions, &context)
    }

    /// The network below, as an encoder.
    pub fn encoder(&self) -> Backbone {
        match &self.vit {
            Some(vit) => Backbone::Vit(vit.body.clone()),
            None => Backbone::ResNet(self.resnet().clone()),
        }
    }

    fn resnet(&self) -> &ResNet {
        match &self.body {
            Some(body) => body,
            None => unreachable!("a transformer's detector has its own forward pass, and a pyramid"),
        }
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
