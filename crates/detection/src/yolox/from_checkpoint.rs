//! A YOLOX network from a `.pth` of its authors: depth, width and classes are read from the tensors' shapes.
//!
//! CSPDarknet (with a focus stem), PAFPN and the decoupled head of Ge, Liu, Wang, Li, Sun, *YOLOX: Exceeding YOLO
//! series in 2021*, 2021, under the names of the state dicts that go with it. Every convolution but the three
//! predictions' has a norm and a SiLU. The variant on Darknet-53 has other names and is refused.

use std::io::{Read, Seek};

use burn::tensor::Device;
use weights::Checkpoint;

use super::graph::{Builder, Graph, Operation, Slot};
use crate::error::DetectionError;
use crate::tensors::{Folded, Tensors};

/// Epsilon of its batch norms.
const EPSILON: f64 = 1e-3;

/// Most blocks of one stage: YOLOX-x has 12.
const MAX_BLOCKS: usize = 64;

/// Most channels of a stem and most classes to believe in: YOLOX-x has 80 channels.
const MAX_OUTPUTS: usize = 1024;

/// Side of the images for the narrow networks (nano, tiny) and for the others, px: YOLOX's test sizes.
const SIDES: [usize; 2] = [416, 640];

/// The stem's channels from which on a network is not narrow; YOLOX-s: 32.
const NOT_NARROW: usize = 32;

/// The network, for square images of the size at which its authors test it.
///
/// # Errors
/// [`DetectionError::Mismatch`] for other tensors than YOLOX's; tensors that cannot be read.
pub(super) fn graph<R: Read + Seek>(
    checkpoint: &Checkpoint,
    source: &mut R,
    device: &Device,
) -> Result<Graph, DetectionError> {
    of_side(checkpoint, source, device, None)
}

/// As [`graph`], for images of another side.
pub(super) fn of_side<R: Read + Seek>(
    checkpoint: &Checkpoint,
    source: &mut R,
    device: &Device,
    side: Option<usize>,
) -> Result<Graph, DetectionError> {
    let tensors = Tensors::new(checkpoint, &["model", "state_dict"], EPSILON, source, device);
    // Numbers beyond all of YOLOX's, which a damaged file may have, are left to the comparison of shapes.
    let outputs = |name: &str| {
        let first = tensors.shape(name).and_then(|shape| shape.first().copied());
        first.filter(|outputs| (1..=MAX_OUTPUTS).contains(outputs))
    };
    let width = outputs("backbone.backbone.stem.conv.conv.weight").unwrap_or(NOT_NARROW);
    let side = side.unwrap_or(SIDES[usize::from(width >= NOT_NARROW)]);
    let mut network = Network {
        classes: outputs("head.cls_preds.0.weight").unwrap_or(80),
        depthwise: tensors.any(|name| name.contains(".dconv.")),
        width,
        builder: Builder::new(side, side),
        tensors,
    };
    let output = network.build()?;
    let Network { builder, tensors, .. } = network;
    tensors.finish("YOLOX")?;
    builder.finish(output).map_err(misfit)
}

struct Network<'a, R> {
    tensors: Tensors<'a, R>,
    builder: Builder,
    /// Channels of the stem.
    width: usize,
    classes: usize,
    /// Whether windows of 3 are depthwise and pointwise convolutions.
    depthwise: bool,
}

impl<R: Read + Seek> Network<'_, R> {
    fn build(&mut self) -> Result<Slot, DetectionError> {
        let w = self.width;
        let x = self.focus()?;
        let x = self.unit("backbone.backbone.stem.conv", x, (12, w), 3, 1)?;
        let x = self.window("backbone.backbone.dark2.0", x, (w, 2 * w), 2)?;
        let x = self.stage("backbone.backbone.dark2.1", x, (2 * w, 2 * w), true)?;
        let x = self.window("backbone.backbone.dark3.0", x, (2 * w, 4 * w), 2)?;
        let fine = self.stage("backbone.backbone.dark3.1", x, (4 * w, 4 * w), true)?;
        let x = self.window("backbone.backbone.dark4.0", fine, (4 * w, 8 * w), 2)?;
        let middle = self.stage("backbone.backbone.dark4.1", x, (8 * w, 8 * w), true)?;
        let x = self.window("backbone.backbone.dark5.0", middle, (8 * w, 16 * w), 2)?;
        let x = self.pyramid_pooling("backbone.backbone.dark5.1", x, 16 * w)?;
        let coarse = self.stage("backbone.backbone.dark5.2", x, (16 * w, 16 * w), false)?;

        // Down from the coarsest map, then up again.
        let lateral_0 = self.unit("backbone.lateral_conv0", coarse, (16 * w, 8 * w), 1, 1)?;
        let x = self.upsampled_with(lateral_0, middle)?;
        let x = self.stage("backbone.C3_p4", x, (16 * w, 8 * w), false)?;
        let lateral_1 = self.unit("backbone.reduce_conv1", x, (8 * w, 4 * w), 1, 1)?;
        let x = self.upsampled_with(lateral_1, fine)?;
        let fine = self.stage("backbone.C3_p3", x, (8 * w, 4 * w), false)?;
        let x = self.window("backbone.bu_conv2", fine, (4 * w, 4 * w), 2)?;
        let x = self.add(Operation::Concatenate(1), &[x, lateral_1])?;
        let middle = self.stage("backbone.C3_n3", x, (8 * w, 8 * w), false)?;
        let x = self.window("backbone.bu_conv1", middle, (8 * w, 8 * w), 2)?;
        let x = self.add(Operation::Concatenate(1), &[x, lateral_0])?;
        let coarse = self.stage("backbone.C3_n4", x, (16 * w, 16 * w), false)?;

        let mut levels = Vec::new();
        for (level, (map, inputs)) in [(fine, 4 * w), (middle, 8 * w), (coarse, 16 * w)]
            .into_iter()
            .enumerate()
        {
            levels.push(self.head(level, map, inputs)?);
        }
        let all = self.add(Operation::Concatenate(2), &levels)?;
        self.add(Operation::Transpose, &[all])
    }

    fn add(&mut self, operation: Operation, inputs: &[Slot]) -> Result<Slot, DetectionError> {
        self.builder.add(operation, inputs).map_err(misfit)
    }

    /// Every second pixel as a channel of its own: the four neighbors, columns first.
    fn focus(&mut self) -> Result<Slot, DetectionError> {
        let mut parts = Vec::new();
        for (column, row) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut part = Builder::INPUT;
            for (axis, start) in [(2, row), (3, column)] {
                let end = self.builder.input_sides()[axis - 2];
                let operation = Operation::Slice {
                    axis,
                    start,
                    end,
                    step: 2,
                };
                part = self.add(operation, &[part])?;
            }
            parts.push(part);
        }
        self.add(Operation::Concatenate(1), &parts)
    }

    /// A convolution with its norm, then SiLU: `name.conv`, `name.bn`.
    fn unit(
        &mut self,
        name: &str,
        x: Slot,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Result<Slot, DetectionError> {
        let shape = [outputs, inputs, kernel, kernel];
        let layer = self.tensors.convolution(&with_norm(name), shape, stride)?;
        let x = self.add(
            Operation::Convolution(layer, [inputs, outputs, kernel, stride]),
            &[x],
        )?;
        self.add(Operation::Silu, &[x])
    }

    /// A window of 3: a unit, or in depthwise networks `name.dconv`, then `name.pconv`.
    fn window(
        &mut self,
        name: &str,
        x: Slot,
        (inputs, outputs): (usize, usize),
        stride: usize,
    ) -> Result<Slot, DetectionError> {
        if !self.depthwise {
            return self.unit(name, x, (inputs, outputs), 3, stride);
        }
        let names = with_norm(&format!("{name}.dconv"));
        let layer = self.tensors.depthwise(&names, inputs, 3, stride)?;
        let x = self.add(Operation::Depthwise(layer, [inputs, 3, stride]), &[x])?;
        let x = self.add(Operation::Silu, &[x])?;
        self.unit(&format!("{name}.pconv"), x, (inputs, outputs), 1, 1)
    }

    /// A cross-stage partial layer: half of the channels through blocks, half past them.
    fn stage(
        &mut self,
        name: &str,
        x: Slot,
        (inputs, outputs): (usize, usize),
        shortcut: bool,
    ) -> Result<Slot, DetectionError> {
        let half = outputs / 2;
        let mut deep = self.unit(&format!("{name}.conv1"), x, (inputs, half), 1, 1)?;
        let past = self.unit(&format!("{name}.conv2"), x, (inputs, half), 1, 1)?;
        // At least one, so that a file without any names what is missing.
        let blocks = (1..MAX_BLOCKS).find(|block| {
            let start = format!("{name}.m.{block}.");
            !self.tensors.any(|name| name.starts_with(&start))
        });
        for block in 0..blocks.unwrap_or(MAX_BLOCKS) {
            let input = deep;
            deep = self.unit(&format!("{name}.m.{block}.conv1"), deep, (half, half), 1, 1)?;
            deep = self.window(&format!("{name}.m.{block}.conv2"), deep, (half, half), 1)?;
            if shortcut {
                deep = self.add(Operation::Add, &[deep, input])?;
            }
        }
        let both = self.add(Operation::Concatenate(1), &[deep, past])?;
        self.unit(&format!("{name}.conv3"), both, (2 * half, outputs), 1, 1)
    }

    /// Windows of 5, 9 and 13 beside the map itself.
    fn pyramid_pooling(&mut self, name: &str, x: Slot, channels: usize) -> Result<Slot, DetectionError> {
        let x = self.unit(&format!("{name}.conv1"), x, (channels, channels / 2), 1, 1)?;
        let mut maps = vec![x];
        for kernel in [5, 9, 13] {
            maps.push(self.add(Operation::MaxPool(kernel), &[x])?);
        }
        let maps = self.add(Operation::Concatenate(1), &maps)?;
        self.unit(&format!("{name}.conv2"), maps, (2 * channels, channels), 1, 1)
    }

    fn upsampled_with(&mut self, coarse: Slot, fine: Slot) -> Result<Slot, DetectionError> {
        let coarse = self.add(Operation::Upsample(2), &[coarse])?;
        self.add(Operation::Concatenate(1), &[coarse, fine])
    }

    /// The values of one map's places: box, objectness, classes.
    fn head(&mut self, level: usize, x: Slot, inputs: usize) -> Result<Slot, DetectionError> {
        let channels = 4 * self.width;
        let x = self.unit(&format!("head.stems.{level}"), x, (inputs, channels), 1, 1)?;
        let mut branches = Vec::new();
        for branch in ["cls_convs", "reg_convs"] {
            let mut y = x;
            for index in 0..2 {
                y = self.window(
                    &format!("head.{branch}.{level}.{index}"),
                    y,
                    (channels, channels),
                    1,
                )?;
            }
            branches.push(y);
        }
        let classes = self.prediction("cls", level, branches[0], self.classes)?;
        let classes = self.add(Operation::Sigmoid, &[classes])?;
        let bounds = self.prediction("reg", level, branches[1], 4)?;
        let objects = self.prediction("obj", level, branches[1], 1)?;
        let objects = self.add(Operation::Sigmoid, &[objects])?;
        let all = self.add(Operation::Concatenate(1), &[bounds, objects, classes])?;
        self.add(Operation::Flatten, &[all])
    }

    fn prediction(
        &mut self,
        what: &str,
        level: usize,
        x: Slot,
        outputs: usize,
    ) -> Result<Slot, DetectionError> {
        let inputs = 4 * self.width;
        let names = Folded {
            conv: format!("head.{what}_preds.{level}"),
            norm: None,
        };
        let layer = self.tensors.convolution(&names, [outputs, inputs, 1, 1], 1)?;
        self.add(Operation::Convolution(layer, [inputs, outputs, 1, 1]), &[x])
    }
}

fn with_norm(name: &str) -> Folded {
    Folded {
        conv: format!("{name}.conv"),
        norm: Some(format!("{name}.bn")),
    }
}

/// Maps that do not fit together, as with an odd number of channels, which no YOLOX has.
fn misfit(reason: String) -> DetectionError {
    DetectionError::Layers {
        network: "YOLOX",
        reason,
    }
}
