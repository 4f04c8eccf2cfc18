//! The network: MobileNet, feature pyramid, context modules, heads. Every batch norm is folded into its
//! convolution at load time, because nothing here is trained.

use std::io::{Read, Seek};

use backbones::layers::{Conv2d, DepthwiseConv2d, leaky_relu, relu, upsample_nearest};
use burn::tensor::{Device, Tensor};
use weights::Checkpoint;

use crate::error::DetectionError;
use crate::tensors::{Folded, Tensors, convolution, narrow};

/// Priors at each position of a feature map.
pub(super) const PRIORS_A_PLACE: usize = 2;

/// Values that the heads give for each position: for each prior two scores, four of a box, ten of five
/// points.
pub(super) const OUTPUTS: usize = PRIORS_A_PLACE * (2 + 4 + 10);

/// Channels of the pyramid's maps.
const PYRAMID: usize = 64;

/// Slope of the activation for negative values.
const SLOPE: f64 = 0.1;

/// Epsilon of batch norms: PyTorch's.
const EPSILON: f64 = 1e-5;

/// The blocks of MobileNet ×0.25 as (outputs, stride), by the stage at whose end a pyramid map starts. The
/// first block is [`Network::stem`].
const STAGES: [&[(usize, usize)]; 3] = [
    &[(16, 1), (32, 2), (32, 1), (64, 2), (64, 1)],
    &[(128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)],
    &[(256, 2), (256, 1)],
];

/// A convolution with its norm folded in, and its activation.
#[derive(Debug)]
struct Unit {
    conv: Conv2d,
    leaky: bool,
}

impl Unit {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv.forward(x);
        if self.leaky { leaky_relu(x, SLOPE) } else { x }
    }
}

/// MobileNet's block: depthwise, then pointwise.
#[derive(Debug)]
struct Block {
    depthwise: DepthwiseConv2d,
    pointwise: Unit,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.pointwise
            .forward(leaky_relu(self.depthwise.forward(x), SLOPE))
    }
}

/// Widens the receptive field: windows of 3, 5 and 7; the larger ones are chains of small ones. (Najibi et
/// al., *SSH: Single stage headless face detector*, 2017, §3.2.)
#[derive(Debug)]
struct ContextModule {
    window_3: Unit,
    shared: Unit,
    window_5: Unit,
    second: Unit,
    window_7: Unit,
}

impl ContextModule {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shared = self.shared.forward(x.clone());
        let parts = vec![
            self.window_3.forward(x),
            self.window_5.forward(shared.clone()),
            self.window_7.forward(self.second.forward(shared)),
        ];
        relu(Tensor::cat(parts, 1))
    }
}

/// Maps normalized photos to the scores, boxes and points of every prior.
#[derive(Debug)]
pub(super) struct Network {
    stem: Unit,
    stages: Vec<Vec<Block>>,
    /// Maps to the pyramid's channels, finest map first.
    lateral: Vec<Unit>,
    /// Applied after adding a coarser map, finest first: the coarsest map has none.
    merge: Vec<Unit>,
    context: Vec<ContextModule>,
    /// Scores, boxes and points of a map in one convolution.
    heads: Vec<Unit>,
}

impl Network {
    /// Builds the network from a file's tensors.
    pub(super) fn read<R: Read + Seek>(
        checkpoint: &Checkpoint,
        source: &mut R,
        device: &Device,
    ) -> Result<Self, DetectionError> {
        let mut tensors = Tensors::new(checkpoint, &["state_dict"], EPSILON, source, device);
        let network = Self::build(&mut tensors, device)?;
        tensors.finish("RetinaFace with MobileNet x0.25")?;
        Ok(network)
    }

    fn build<R: Read + Seek>(tensors: &mut Tensors<'_, R>, device: &Device) -> Result<Self, DetectionError> {
        let stem = unit(tensors, "body.stage1.0", (3, 8), 3, 2)?;
        let mut channels = 8;
        let mut stages = Vec::new();
        for (stage, blocks) in STAGES.iter().enumerate() {
            let mut built = Vec::new();
            for (index, (outputs, stride)) in blocks.iter().enumerate() {
                // The stem is the first entry of the first stage.
                let index = if stage == 0 { index + 1 } else { index };
                let name = format!("body.stage{}.{index}", stage + 1);
                built.push(block(tensors, &name, channels, *outputs, *stride)?);
                channels = *outputs;
            }
            stages.push(built);
        }
        let mut lateral = Vec::new();
        let mut merge = Vec::new();
        let mut context = Vec::new();
        let mut heads = Vec::new();
        for (map, blocks) in STAGES.iter().enumerate() {
            let inputs = blocks.last().map_or(0, |(outputs, _)| *outputs);
            let number = map + 1;
            lateral.push(unit(
                tensors,
                &format!("fpn.output{number}"),
                (inputs, PYRAMID),
                1,
                1,
            )?);
            if number < STAGES.len() {
                merge.push(unit(
                    tensors,
                    &format!("fpn.merge{number}"),
                    (PYRAMID, PYRAMID),
                    3,
                    1,
                )?);
            }
            let (half, quarter) = (PYRAMID / 2, PYRAMID / 4);
            let mut part = |name: &str, inputs, outputs, leaky| {
                let unit = unit(tensors, &format!("ssh{number}.{name}"), (inputs, outputs), 3, 1)?;
                Ok::<_, DetectionError>(Unit { leaky, ..unit })
            };
            context.push(ContextModule {
                window_3: part("conv3X3", PYRAMID, half, false)?,
                shared: part("conv5X5_1", PYRAMID, quarter, true)?,
                window_5: part("conv5X5_2", quarter, quarter, false)?,
                second: part("conv7X7_2", quarter, quarter, true)?,
                window_7: part("conv7x7_3", quarter, quarter, false)?,
            });
            heads.push(self::heads(tensors, map, device)?);
        }
        Ok(Self {
            stem,
            stages,
            lateral,
            merge,
            context,
            heads,
        })
    }

    /// # Shapes
    /// - `x`: `[images, 3, height, width]`: blue, green, red, means subtracted
    /// - output: `[images, OUTPUTS, places]`: places of the finest map first, row by row
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let mut x = self.stem.forward(x);
        let mut maps = Vec::new();
        for (blocks, lateral) in self.stages.iter().zip(&self.lateral) {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            maps.push(lateral.forward(x.clone()));
        }
        // Coarser maps are added to finer ones, coarsest first; each is merged before it is passed on.
        for finer in (0..self.merge.len()).rev() {
            let [_, _, height, width] = maps[finer].dims();
            let coarser = upsample_nearest(maps[finer + 1].clone(), [height, width]);
            maps[finer] = self.merge[finer].forward(maps[finer].clone() + coarser);
        }
        let outputs = maps.into_iter().zip(&self.context).zip(&self.heads);
        let outputs = outputs.map(|((map, context), head)| {
            let output = head.forward(context.forward(map));
            let [images, channels, height, width] = output.dims();
            output.reshape([images, channels, height * width])
        });
        Tensor::cat(outputs.collect(), 2)
    }
}

/// `name.0`, a convolution, and `name.1`, its norm.
fn unit<R: Read + Seek>(
    tensors: &mut Tensors<'_, R>,
    name: &str,
    (inputs, outputs): (usize, usize),
    kernel: usize,
    stride: usize,
) -> Result<Unit, DetectionError> {
    Ok(Unit {
        conv: tensors.convolution(&pair(name, 0), [outputs, inputs, kernel, kernel], stride)?,
        leaky: true,
    })
}

/// `name.0` and `name.1`, depthwise; `name.3` and `name.4`, pointwise.
fn block<R: Read + Seek>(
    tensors: &mut Tensors<'_, R>,
    name: &str,
    inputs: usize,
    outputs: usize,
    stride: usize,
) -> Result<Block, DetectionError> {
    Ok(Block {
        depthwise: tensors.depthwise(&pair(name, 0), inputs, 3, stride)?,
        pointwise: Unit {
            conv: tensors.convolution(&pair(name, 3), [outputs, inputs, 1, 1], 1)?,
            leaky: true,
        },
    })
}

/// A convolution at an index of a module, and its norm at the next.
fn pair(name: &str, index: usize) -> Folded {
    Folded {
        conv: format!("{name}.{index}"),
        norm: Some(format!("{name}.{}", index + 1)),
    }
}

/// The three heads of a map combined.
fn heads<R: Read + Seek>(
    tensors: &mut Tensors<'_, R>,
    map: usize,
    device: &Device,
) -> Result<Unit, DetectionError> {
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for (head, numbers) in [("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)] {
        let outputs = PRIORS_A_PLACE * numbers;
        let name = format!("{head}.{map}.conv1x1");
        weight.extend(tensors.take(format!("{name}.weight"), &[outputs, PYRAMID, 1, 1])?);
        bias.extend(tensors.take(format!("{name}.bias"), &[outputs])?);
    }
    let shape = [OUTPUTS, PYRAMID, 1, 1];
    Ok(Unit {
        conv: convolution(shape, 1, narrow(weight), narrow(bias), device),
        leaky: false,
    })
}
