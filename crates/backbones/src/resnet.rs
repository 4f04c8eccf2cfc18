//! Residual networks with 18, 34, 50 or 101 layers, with torchvision's parameter names.
//!
//! He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, 2016, table 1. As in torchvision (its
//! "ResNet v1.5"), a bottleneck strides in its 3×3 convolution; the paper strides in the first 1×1, as a key has it.

use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::init::Init;
use crate::layers::{BatchNorm, Conv2d, Conv2dConfig, global_average_pool, max_pool};
use crate::parameters::change_value;

/// A residual network, as `[backbone.resnet]` in a config file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Layers with weights: 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
    pub depth: u32,
    /// Channels of the first stage; each further stage doubles them. The paper has 64. With 128 it is SwAV's
    /// RN50w2, with 4096 features: all channels are doubled, while torchvision's `wide_resnet50_2` widens
    /// only the 3×3 convolutions.
    pub width: usize,
    /// The layers before the first stage.
    pub stem: Stem,
    /// Initialize the last norm of each residual block to scale 0 instead of 1, so that blocks start as the
    /// identity (torchvision's argument of this name; [Goyal et al. 2017](https://arxiv.org/abs/1706.02677),
    /// 5.1). Absent: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero_init_residual: bool,
    /// A bottleneck strides in its first 1×1 convolution, as in the paper and in networks from Caffe (MSRA's, and so most of
    /// detectron2's), in place of its 3×3 one. No tensor's shape shows it. Absent: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stride_in_1x1: bool,
}

/// The layers before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// 7×7 at stride 2, then pooling: a quarter of the image's side. For 160 px and more.
    Imagenet,
    /// 3×3 at stride 1, no pooling: the image's own side. For 28 to 64 px.
    Small,
}

/// A part of the network with a readable output, by the names of Caffe2 and VISSL, in which linear probes of
/// several stages are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResNetStage {
    /// The first convolution, normalized and rectified, before the stem's pooling.
    Conv1,
    /// `layer1` in torchvision.
    Res2,
    /// `layer2` in torchvision.
    Res3,
    /// `layer3` in torchvision.
    Res4,
    /// `layer4` in torchvision.
    Res5,
}

impl ResNetStage {
    /// All of them, from the image to the output.
    pub const ALL: [Self; 5] = [Self::Conv1, Self::Res2, Self::Res3, Self::Res4, Self::Res5];

    /// `conv1`, `res2` …
    pub fn name(self) -> &'static str {
        match self {
            Self::Conv1 => "conv1",
            Self::Res2 => "res2",
            Self::Res3 => "res3",
            Self::Res4 => "res4",
            Self::Res5 => "res5",
        }
    }
}

impl ResNetConfig {
    /// Checks that such a network exists; the message names the field.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        if self.stages().is_none() {
            return Err(format!(
                "`{table}.depth` must be 18, 34, 50 or 101, got {}",
                self.depth
            ));
        }
        if self.width == 0 {
            return Err(format!(
                "`{table}.width` must be at least 1 (the paper has 64), got 0"
            ));
        }
        if self.stride_in_1x1 && self.depth < 50 {
            return Err(format!(
                "`{table}.stride_in_1x1` must be false for depth {}, whose blocks have no 1×1 convolution, got true",
                self.depth
            ));
        }
        Ok(())
    }

    /// Blocks in each stage, and the ratio of a block's output channels to its width.
    fn stages(&self) -> Option<([usize; 4], usize)> {
        match self.depth {
            18 => Some(([2, 2, 2, 2], 1)),
            34 => Some(([3, 4, 6, 3], 1)),
            50 => Some(([3, 4, 6, 3], 4)),
            101 => Some(([3, 4, 23, 3], 4)),
            _ => None,
        }
    }

    /// Strides of a block's first two convolutions; the third's is 1.
    pub fn strides(&self, of_block: usize) -> [usize; 2] {
        match self.stages() {
            Some((_, expansion)) if expansion > 1 && !self.stride_in_1x1 => [1, of_block],
            _ => [of_block, 1],
        }
    }

    /// Width of the pooled output: 512 for ResNet-18 and 2048 for ResNet-50 at width 64.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) rejects the depth.
    pub fn features(&self) -> usize {
        let (_, expansion) = self.stages().expect("the depth was checked by validate");
        self.width * 8 * expansion
    }

    /// Approximate parameter count; allocates no memory.
    pub fn parameter_count(&self) -> f64 {
        let of_width_64 = match self.depth {
            18 => 11.2e6,
            34 => 21.3e6,
            50 => 23.6e6,
            _ => 42.6e6,
        };
        of_width_64 * (self.width as f64 / 64.0).powi(2)
    }

    /// `resnet18`, or `resnet18-w16-small`, `resnet50-caffe` if width, stem or strides differ from torchvision's.
    pub fn name(&self) -> String {
        let mut name = format!("resnet{}", self.depth);
        if self.width != 64 {
            name += &format!("-w{}", self.width);
        }
        if self.stem == Stem::Small {
            name += "-small";
        }
        if self.stride_in_1x1 {
            name += "-caffe";
        }
        name
    }

    /// The network with torchvision's initial weights.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) rejects the config.
    pub fn init(&self, init: &Init) -> ResNet {
        let (blocks, expansion) = self.stages().expect("the depth was checked by validate");
        let (kernel, stride) = match self.stem {
            Stem::Imagenet => (7, 2),
            Stem::Small => (3, 1),
        };
        let mut inputs = self.width;
        let mut stage = |number: usize, width: usize| {
            let init = init.at(&format!("layer{number}"));
            let stride = if number == 1 { 1 } else { 2 };
            (0..blocks[number - 1])
                .map(|block| {
                    let stride = if block == 0 { stride } else { 1 };
                    let at = init.at(&block.to_string());
                    let mut made = Block::new(&at, [inputs, width, expansion], self.strides(stride));
                    if self.zero_init_residual {
                        made = made.passing_through();
                    }
                    inputs = width * expansion;
                    made
                })
                .collect::<Vec<_>>()
        };
        ResNet {
            layer1: stage(1, self.width),
            layer2: stage(2, self.width * 2),
            layer3: stage(3, self.width * 4),
            layer4: stage(4, self.width * 8),
            conv1: Conv2dConfig::same(3, self.width, kernel, stride).init(&init.at("conv1")),
            bn1: BatchNorm::new(&init.at("bn1"), self.width),
            pool: self.stem == Stem::Imagenet,
            features: self.features(),
        }
    }
}

/// A residual network without its classifier.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    pool: bool,
    features: usize,
}

impl ResNet {
    /// The network with another value under the root of its norms: torchvision's detectors of the first versions have 0.
    pub fn with_norm_epsilon(mut self, epsilon: f64) -> Self {
        self.bn1.epsilon = epsilon;
        let stages = [
            &mut self.layer1,
            &mut self.layer2,
            &mut self.layer3,
            &mut self.layer4,
        ];
        for block in stages.into_iter().flatten() {
            let projection = block.downsample.as_mut().map(|(_, norm)| norm);
            let norms = [
                Some(&mut block.bn1),
                Some(&mut block.bn2),
                block.bn3.as_mut(),
                projection,
            ];
            norms
                .into_iter()
                .flatten()
                .for_each(|norm| norm.epsilon = epsilon);
        }
        self
    }

    /// Pooled features of normalized images.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, features]`
    pub fn forward(&self, images: Tensor<4>, context: &Context) -> Tensor<2> {
        self.forward_seeing(images, context, |_, _| {})
    }

    /// The same pass; `see` receives each stage's output as soon as it is computed, so that only one is kept
    /// at a time.
    ///
    /// # Shapes
    /// - maps passed to `see`: `[images, channels, height, width]` as in
    ///   [`stage_shapes`](Self::stage_shapes), in 16 bits if the network computes in 16 bits
    pub fn forward_seeing(
        &self,
        images: Tensor<4>,
        context: &Context,
        see: impl FnMut(ResNetStage, &Tensor<4>),
    ) -> Tensor<2> {
        global_average_pool(self.forward_until(ResNetStage::Res5, images, context, see))
    }

    /// The output of the stage `last`; `see` as in [`forward_seeing`](Self::forward_seeing).
    pub fn forward_until(
        &self,
        last: ResNetStage,
        images: Tensor<4>,
        context: &Context,
        mut see: impl FnMut(ResNetStage, &Tensor<4>),
    ) -> Tensor<4> {
        let mut x = self.bn1.forward_relu(self.conv1.forward(images), context);
        see(ResNetStage::Conv1, &x);
        for stage in ResNetStage::ALL
            .into_iter()
            .skip(1)
            .filter(|stage| *stage <= last)
        {
            if self.pool && stage == ResNetStage::Res2 {
                x = max_pool(x);
            }
            x = self.forward_stage(stage, x, context);
            see(stage, &x);
        }
        x
    }

    /// One stage after the stem: `[images, channels, height, width]` of the stage before to its own output. The stage
    /// `Conv1` returns its input.
    pub fn forward_stage(&self, stage: ResNetStage, x: Tensor<4>, context: &Context) -> Tensor<4> {
        let blocks: &[Block] = match stage {
            ResNetStage::Conv1 => &[],
            ResNetStage::Res2 => &self.layer1,
            ResNetStage::Res3 => &self.layer2,
            ResNetStage::Res4 => &self.layer3,
            ResNetStage::Res5 => &self.layer4,
        };
        blocks.iter().fold(x, |x, block| block.forward(x, context))
    }

    /// Channels, height and width of each stage's output for images of this size.
    pub fn stage_shapes(&self, height: usize, width: usize) -> [(ResNetStage, [usize; 3]); 5] {
        let [stem, ..] = self.conv1.weight.dims();
        let last = self.features;
        // All strides are 2, with a border that rounds up.
        let map = |channels: usize, halvings: u32| {
            let side = |px: usize| px.div_ceil(1 << halvings);
            [channels, side(height), side(width)]
        };
        let halved = if self.pool { 1 } else { 0 };
        [
            (ResNetStage::Conv1, map(stem, halved)),
            (ResNetStage::Res2, map(last / 8, 2 * halved)),
            (ResNetStage::Res3, map(last / 4, 2 * halved + 1)),
            (ResNetStage::Res4, map(last / 2, 2 * halved + 2)),
            (ResNetStage::Res5, map(last, 2 * halved + 3)),
        ]
    }

    /// Width of the pooled output.
    pub fn features(&self) -> usize {
        self.features
    }
}

/// A residual block: two 3×3 convolutions, or 1×1, 3×3 and 1×1 (a bottleneck) if `conv3` is present.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    /// Projects the input to the output's shape. A tuple, because torchvision names its parts `0` and `1`.
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(init: &Init, [inputs, width, expansion]: [usize; 3], strides: [usize; 2]) -> Self {
        let conv = |name: &str, inputs, outputs, kernel, stride| {
            Conv2dConfig::same(inputs, outputs, kernel, stride).init(&init.at(name))
        };
        let norm = |name: &str, channels| BatchNorm::new(&init.at(name), channels);
        let outputs = width * expansion;
        let bottleneck = expansion > 1;
        let [first, second] = strides;
        let stride = first * second;
        Self {
            conv1: conv("conv1", inputs, width, if bottleneck { 1 } else { 3 }, first),
            bn1: norm("bn1", width),
            conv2: conv("conv2", width, width, 3, second),
            bn2: norm("bn2", width),
            conv3: bottleneck.then(|| conv("conv3", width, outputs, 1, 1)),
            bn3: bottleneck.then(|| norm("bn3", outputs)),
            downsample: (stride != 1 || inputs != outputs).then(|| {
                (
                    conv("downsample.0", inputs, outputs, 1, stride),
                    norm("downsample.1", outputs),
                )
            }),
        }
    }

    /// The block with its last norm at scale 0.
    fn passing_through(mut self) -> Self {
        let last = self.bn3.as_mut().unwrap_or(&mut self.bn2);
        last.weight = last
            .weight
            .take()
            .map(|weight| change_value(weight, |weight| weight.zeros_like()));
        self
    }

    fn forward(&self, x: Tensor<4>, context: &Context) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv.forward(x.clone()), context),
            None => x.clone(),
        };
        let x = self.bn1.forward_relu(self.conv1.forward(x), context);
        let x = self.conv2.forward(x);
        match (&self.conv3, &self.bn3) {
            (Some(conv), Some(norm)) => {
                let x = conv.forward(self.bn2.forward_relu(x, context));
                norm.forward_add_relu(x, shortcut, context)
            }
            _ => self.bn2.forward_add_relu(x, shortcut, context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_channels_follow_the_width() {
        let config = ResNetConfig {
            depth: 50,
            width: 128,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: false,
        };
        assert_eq!(
            (config.features(), config.name().as_str()),
            (4096, "resnet50-w128")
        );
        // At a quarter of the width, channels are a quarter of those.
        let narrow = ResNetConfig { width: 32, ..config };
        let network = narrow.init(&Init::empty(&burn::tensor::Device::flex()));
        assert_eq!(network.conv1.weight.dims(), [32, 3, 7, 7]);
        assert_eq!(network.layer1[1].conv1.weight.dims(), [32, 128, 1, 1]);
        let last = &network.layer4[2];
        assert_eq!(last.conv2.weight.dims(), [256, 256, 3, 3]);
        assert_eq!(
            last.conv3.as_ref().map(|conv| conv.weight.dims()),
            Some([1024, 256, 1, 1])
        );
    }

    #[test]
    fn stages_have_the_shapes_that_are_told() {
        let device = burn::tensor::Device::flex();
        for (depth, stem, [height, width]) in [(18, Stem::Small, [13, 9]), (50, Stem::Imagenet, [45, 64])] {
            let config = ResNetConfig {
                depth,
                width: 4,
                stem,
                zero_init_residual: false,
                stride_in_1x1: false,
            };
            let network = config.init(&Init::new(0, &device));
            let images = Tensor::<4>::ones([2, 3, height, width], &device);
            let mut seen = vec![];
            let features = network.forward_seeing(images.clone(), &Context::evaluation(), |stage, map| {
                let [_, channels, height, width] = map.dims();
                seen.push((stage, [channels, height, width]));
            });
            assert_eq!(seen, network.stage_shapes(height, width));
            assert_eq!(
                seen.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(),
                ResNetStage::ALL
            );
            let plain = network.forward(images, &Context::evaluation());
            features.into_data().assert_eq(&plain.into_data(), true);
        }
    }

    #[test]
    fn strides_of_bottlenecks_are_in_their_first_convolution_where_the_config_says_so() {
        let config = ResNetConfig {
            depth: 50,
            width: 4,
            stem: Stem::Small,
            zero_init_residual: false,
            stride_in_1x1: true,
        };
        assert_eq!(config.name(), "resnet50-w4-small-caffe");
        assert_eq!((config.strides(2), config.strides(1)), ([2, 1], [1, 1]));
        let plain = ResNetConfig {
            stride_in_1x1: false,
            ..config.clone()
        };
        assert_eq!(plain.strides(2), [1, 2]);
        let basic = ResNetConfig { depth: 18, ..plain };
        assert_eq!(basic.strides(2), [2, 1]);
        let wrong = ResNetConfig { depth: 18, ..config };
        assert_eq!(
            wrong.validate("backbone.resnet"),
            Err(
                "`backbone.resnet.stride_in_1x1` must be false for depth 18, whose blocks have no 1×1 convolution, got true"
                    .to_owned()
            )
        );
    }

    #[test]
    fn blocks_pass_their_input_on_where_the_config_says_so() {
        let device = burn::tensor::Device::flex();
        for depth in [18, 50] {
            let config = ResNetConfig {
                depth,
                width: 4,
                stem: Stem::Small,
                zero_init_residual: true,
                stride_in_1x1: false,
            };
            let network = config.init(&Init::new(0, &device));
            let block = &network.layer1[1];
            let channels = network.layer1[0].conv1.weight.dims()[0] * if depth == 50 { 4 } else { 1 };
            let x = Tensor::<4>::ones([2, channels, 5, 5], &device) * 0.3;
            let out = block.forward(x.clone(), &Context::evaluation());
            out.into_data().assert_eq(&x.into_data(), true);
        }
    }
}
