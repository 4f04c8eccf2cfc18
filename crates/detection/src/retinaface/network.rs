//! The network: MobileNet, feature pyramid, context modules, heads. Every batch norm is folded into its
//! convolution at load time, because nothing here is trained.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use backbones::Init;
use backbones::init::trained;
use backbones::layers::{Conv2d, Conv2dConfig, DepthwiseConv2d, leaky_relu, relu, upsample_nearest};
use burn::tensor::{Device, Tensor, TensorData};
use weights::format::{Entry, TensorInfo};
use weights::{Checkpoint, Mismatch};

use crate::error::DetectionError;

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
        let root = match checkpoint.root.at("state_dict") {
            Some(entry @ Entry::Dict(_)) => entry,
            _ => &checkpoint.root,
        };
        let mut tensors = Tensors {
            init: Init::empty(device),
            left: BTreeMap::new(),
            mismatch: Mismatch::default(),
            source,
        };
        for (name, tensor) in root.tensors() {
            let name = name.strip_prefix("module.").unwrap_or(&name);
            if !name.ends_with(".num_batches_tracked") {
                tensors.left.insert(name.to_owned(), tensor);
            }
        }
        let network = Self::build(&mut tensors)?;
        let Tensors {
            left, mut mismatch, ..
        } = tensors;
        mismatch.unexpected = left.into_keys().map(|name| (name, None)).collect();
        if mismatch.is_empty() {
            return Ok(network);
        }
        Err(DetectionError::Mismatch {
            network: "RetinaFace with MobileNet x0.25",
            difference: Box::new(mismatch),
        })
    }

    fn build<R: Read + Seek>(tensors: &mut Tensors<'_, R>) -> Result<Self, DetectionError> {
        let stem = tensors.unit("body.stage1.0", (3, 8), 3, 2, true)?;
        let mut channels = 8;
        let mut stages = Vec::new();
        for (stage, blocks) in STAGES.iter().enumerate() {
            let mut built = Vec::new();
            for (index, (outputs, stride)) in blocks.iter().enumerate() {
                // The stem is the first entry of the first stage.
                let index = if stage == 0 { index + 1 } else { index };
                let name = format!("body.stage{}.{index}", stage + 1);
                built.push(tensors.block(&name, channels, *outputs, *stride)?);
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
            lateral.push(tensors.unit(&format!("fpn.output{number}"), (inputs, PYRAMID), 1, 1, true)?);
            if number < STAGES.len() {
                merge.push(tensors.unit(&format!("fpn.merge{number}"), (PYRAMID, PYRAMID), 3, 1, true)?);
            }
            let (half, quarter) = (PYRAMID / 2, PYRAMID / 4);
            let mut part = |name: &str, inputs, outputs, leaky| {
                tensors.unit(&format!("ssh{number}.{name}"), (inputs, outputs), 3, 1, leaky)
            };
            context.push(ContextModule {
                window_3: part("conv3X3", PYRAMID, half, false)?,
                shared: part("conv5X5_1", PYRAMID, quarter, true)?,
                window_5: part("conv5X5_2", quarter, quarter, false)?,
                second: part("conv7X7_2", quarter, quarter, true)?,
                window_7: part("conv7x7_3", quarter, quarter, false)?,
            });
            heads.push(tensors.heads(map)?);
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

/// The tensors of a file that no layer has taken yet.
struct Tensors<'a, R> {
    init: Init,
    left: BTreeMap<String, &'a TensorInfo>,
    mismatch: Mismatch,
    source: &'a mut R,
}

impl<R: Read + Seek> Tensors<'_, R> {
    /// A tensor's values; zeros, and an entry in the mismatch, if it does not fit.
    fn take(&mut self, name: String, shape: &[usize]) -> Result<Vec<f64>, DetectionError> {
        let zeros = vec![0.0; shape.iter().product()];
        let Some(tensor) = self.left.remove(&name) else {
            self.mismatch.missing.push(name);
            return Ok(zeros);
        };
        if tensor.shape != shape {
            let shapes = (name, shape.to_vec(), tensor.shape.clone());
            self.mismatch.shapes.push(shapes);
            return Ok(zeros);
        }
        if !tensor.dtype.is_weight() {
            let found = (name, tensor.dtype.name().to_owned());
            self.mismatch.types.push(found);
            return Ok(zeros);
        }
        Ok(tensor.read(self.source)?.iter::<f64>().collect())
    }

    /// A convolution's weight, as `[outputs][…]`, and its bias, with the following norm folded in: the norm's
    /// scale over its deviation multiplies the weight.
    fn folded(
        &mut self,
        conv: String,
        norm: String,
        shape: [usize; 4],
    ) -> Result<(Vec<f64>, Vec<f64>), DetectionError> {
        let outputs = [shape[0]];
        let mut weight = self.take(format!("{conv}.weight"), &shape)?;
        let scale = self.take(format!("{norm}.weight"), &outputs)?;
        let mut bias = self.take(format!("{norm}.bias"), &outputs)?;
        let mean = self.take(format!("{norm}.running_mean"), &outputs)?;
        let variance = self.take(format!("{norm}.running_var"), &outputs)?;
        let taps = shape[1..].iter().product::<usize>();
        for (output, weights) in weight.chunks_exact_mut(taps).enumerate() {
            let factor = scale[output] / (variance[output] + EPSILON).sqrt();
            bias[output] -= mean[output] * factor;
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
        Ok((weight, bias))
    }

    /// `name.0`, a convolution, and `name.1`, its norm.
    fn unit(
        &mut self,
        name: &str,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
        leaky: bool,
    ) -> Result<Unit, DetectionError> {
        self.conv(name, (0, 1), (inputs, outputs), (kernel, stride), leaky)
    }

    fn conv(
        &mut self,
        name: &str,
        (conv, norm): (usize, usize),
        (inputs, outputs): (usize, usize),
        (kernel, stride): (usize, usize),
        leaky: bool,
    ) -> Result<Unit, DetectionError> {
        let shape = [outputs, inputs, kernel, kernel];
        let (weight, bias) = self.folded(format!("{name}.{conv}"), format!("{name}.{norm}"), shape)?;
        Ok(Unit {
            conv: self.layer(shape, stride, weight, bias),
            leaky,
        })
    }

    fn layer(&self, shape: [usize; 4], stride: usize, weight: Vec<f64>, bias: Vec<f64>) -> Conv2d {
        let [outputs, inputs, kernel, _] = shape;
        let config = Conv2dConfig {
            bias: true,
            ..Conv2dConfig::same(inputs, outputs, kernel, stride)
        };
        let mut layer = config.init(&self.init);
        layer.weight = trained(self.tensor(weight, shape));
        layer.bias = Some(trained(self.tensor(bias, [outputs])));
        layer
    }

    fn tensor<const D: usize>(&self, values: Vec<f64>, shape: [usize; D]) -> Tensor<D> {
        let values = values.into_iter().map(|value| value as f32).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, shape), self.init.device())
    }

    /// `name.0` and `name.1`, depthwise; `name.3` and `name.4`, pointwise.
    fn block(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        stride: usize,
    ) -> Result<Block, DetectionError> {
        let shape = [inputs, 1, 3, 3];
        let (weight, bias) = self.folded(format!("{name}.0"), format!("{name}.1"), shape)?;
        let mut depthwise = DepthwiseConv2d::same(&self.init, inputs, 3, stride, true);
        depthwise.weight = trained(self.tensor(weight, shape));
        depthwise.bias = Some(trained(self.tensor(bias, [inputs])));
        Ok(Block {
            depthwise,
            pointwise: self.conv(name, (3, 4), (inputs, outputs), (1, 1), true)?,
        })
    }

    /// The three heads of a map combined.
    fn heads(&mut self, map: usize) -> Result<Unit, DetectionError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (head, numbers) in [("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)] {
            let outputs = PRIORS_A_PLACE * numbers;
            let name = format!("{head}.{map}.conv1x1");
            weight.extend(self.take(format!("{name}.weight"), &[outputs, PYRAMID, 1, 1])?);
            bias.extend(self.take(format!("{name}.bias"), &[outputs])?);
        }
        Ok(Unit {
            conv: self.layer([OUTPUTS, PYRAMID, 1, 1], 1, weight, bias),
            leaky: false,
        })
    }
}
