//! A YOLOX network from the operations of an ONNX file: those that the project's exports contain, whatever
//! their names and order.

use std::collections::HashMap;

use burn::tensor::Device;
use weights::format::{OnnxGraph, OnnxNode, OnnxTensor, OnnxValues};

use super::graph::{Builder, Graph, Operation, Shape, Slot};
use crate::tensors::{convolution, depthwise};

/// Why a file gives no network.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its input is not one image of a fixed size.
    Input(String),
    /// An operation that is none of YOLOX's, or does not fit.
    Operation(String),
}

/// The network, for images of the size that the file states.
///
/// # Errors
/// The first fault.
pub(super) fn graph(file: &OnnxGraph, device: &Device) -> Result<Graph, Fault> {
    let [input] = file.inputs.as_slice() else {
        return Err(Fault::Input(format!(
            "its input must be one [1, 3, height, width], got {}",
            file.inputs.len()
        )));
    };
    let sides = sides(input.shape.as_deref()).map_err(Fault::Input)?;
    of_nodes(file, &input.name, sides, device).map_err(Fault::Operation)
}

fn of_nodes<'a>(
    file: &'a OnnxGraph,
    input: &'a str,
    [height, width]: [usize; 2],
    device: &'a Device,
) -> Result<Graph, String> {
    let mut reader = Reader {
        file,
        device,
        builder: Builder::new(height, width),
        slots: HashMap::from([(input, Builder::INPUT)]),
        sigmoids: HashMap::new(),
    };
    for node in &file.nodes {
        reader.add(node).map_err(|fault| {
            let name = match node.name.is_empty() {
                true => node.outputs.first().map_or("", String::as_str),
                false => &node.name,
            };
            format!("its operation `{}` (`{name}`): {fault}", node.operator)
        })?;
    }
    let [output] = file.outputs.as_slice() else {
        return Err(format!("it has {} outputs, expected 1", file.outputs.len()));
    };
    let output = reader.slot(output)?;
    reader.builder.finish(output)
}

/// Height and width of an input `[1, 3, height, width]`.
fn sides(shape: Option<&[Option<usize>]>) -> Result<[usize; 2], String> {
    match shape {
        Some(&[_, Some(3), Some(height), Some(width)]) => Ok([height, width]),
        _ => Err(format!(
            "its input must be [1, 3, height, width] of a fixed size, got {}",
            shape.map_or("no shape".to_owned(), |shape| {
                let sizes = shape.iter().map(|size| match size {
                    Some(size) => size.to_string(),
                    None => "?".to_owned(),
                });
                format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
            })
        )),
    }
}

struct Reader<'a> {
    file: &'a OnnxGraph,
    device: &'a Device,
    builder: Builder,
    /// The places of values by their names.
    slots: HashMap<&'a str, Slot>,
    /// The input of each sigmoid by the place of its output: `x · sigmoid(x)` becomes one step.
    sigmoids: HashMap<Slot, Slot>,
}

impl<'a> Reader<'a> {
    fn slot(&self, name: &str) -> Result<Slot, String> {
        self.slots
            .get(name)
            .copied()
            .ok_or_else(|| format!("nothing computes `{name}`"))
    }

    fn add(&mut self, node: &'a OnnxNode) -> Result<(), String> {
        let [output] = node.outputs.as_slice() else {
            return Err(format!("it has {} outputs, expected 1", node.outputs.len()));
        };
        let inputs = |reader: &Self| {
            let inputs = node.inputs.iter().map(|name| reader.slot(name));
            inputs.collect::<Result<Vec<_>, _>>()
        };
        let first = |reader: &Self| reader.slot(node.inputs.first().map_or("", String::as_str));
        let slot = match node.operator.as_str() {
            "Conv" => {
                let operation = self.convolution(node)?;
                self.builder.add(operation, &[first(self)?])?
            }
            "Sigmoid" => {
                let input = first(self)?;
                let slot = self.builder.add(Operation::Sigmoid, &[input])?;
                self.sigmoids.insert(slot, input);
                slot
            }
            "Mul" => {
                let inputs = inputs(self)?;
                let silu = match inputs.as_slice() {
                    [x, gate] if self.sigmoids.get(gate) == Some(x) => Some(*x),
                    [gate, x] if self.sigmoids.get(gate) == Some(x) => Some(*x),
                    _ => None,
                };
                match silu {
                    Some(x) => self.builder.add(Operation::Silu, &[x])?,
                    None => self.builder.add(Operation::Multiply, &inputs)?,
                }
            }
            "Relu" => self.builder.add(Operation::Relu, &[first(self)?])?,
            "LeakyRelu" => {
                let slope = f64::from(node.float("alpha", 0.01));
                self.builder.add(Operation::LeakyRelu(slope), &[first(self)?])?
            }
            "Add" => self.builder.add(Operation::Add, &inputs(self)?)?,
            "Concat" => {
                let inputs = inputs(self)?;
                let rank = inputs.first().map_or(0, |slot| self.rank(*slot));
                let axis = axis(node.int("axis", 1), rank)?;
                self.builder.add(Operation::Concatenate(axis), &inputs)?
            }
            "MaxPool" => {
                let kernel = square(node.ints("kernel_shape"), 1)?;
                let same = square(node.ints("strides"), 1)? == 1 && square(node.ints("dilations"), 1)? == 1;
                if !same || kernel % 2 == 0 || border(node)? != kernel / 2 {
                    return Err(
                        "only windows of an odd side at stride 1 that keep the size are known".to_owned(),
                    );
                }
                self.builder.add(Operation::MaxPool(kernel), &[first(self)?])?
            }
            "Resize" | "Upsample" => {
                let input = first(self)?;
                let factor = self.factor(node, input)?;
                self.builder.add(Operation::Upsample(factor), &[input])?
            }
            "Slice" => self.slice(node, first(self)?)?,
            "Reshape" => {
                let input = first(self)?;
                self.flattens(node, input)?;
                self.builder.add(Operation::Flatten, &[input])?
            }
            "Transpose" => {
                if node.ints("perm") != [0, 2, 1] {
                    return Err(format!("the order {:?} of axes", node.ints("perm")));
                }
                self.builder.add(Operation::Transpose, &[first(self)?])?
            }
            "Identity" => first(self)?,
            _ => return Err("no operation of YOLOX".to_owned()),
        };
        self.slots.insert(output, slot);
        Ok(())
    }

    fn rank(&self, slot: Slot) -> usize {
        match self.builder.shape(slot) {
            Shape::Map(_) => 4,
            Shape::Flat(_) => 3,
        }
    }

    fn constant(&self, node: &OnnxNode, input: usize) -> Result<Option<&'a OnnxTensor>, String> {
        match node.inputs.get(input).map(String::as_str) {
            None | Some("") => Ok(None),
            Some(name) => match self.file.constants.get(name) {
                Some(tensor) => Ok(Some(tensor)),
                None => Err(format!("its input `{name}` is no constant")),
            },
        }
    }

    /// A list of integers: an input, or an attribute as before opset 10.
    fn integers(
        &self,
        node: &'a OnnxNode,
        input: usize,
        attribute: &str,
    ) -> Result<Option<&'a [i64]>, String> {
        match self.constant(node, input)? {
            Some(OnnxTensor {
                values: OnnxValues::I64(values),
                ..
            }) => Ok(Some(values)),
            Some(_) => Err(format!("its `{attribute}` are no integers")),
            None => Ok(Some(node.ints(attribute)).filter(|values| !values.is_empty())),
        }
    }

    fn floats(&self, node: &OnnxNode, input: usize) -> Result<Option<&'a OnnxTensor>, String> {
        match self.constant(node, input)? {
            Some(OnnxTensor {
                values: OnnxValues::F32(values),
                ..
            }) if values.iter().any(|value| !value.is_finite()) => {
                Err("its values are not all finite".to_owned())
            }
            Some(tensor) if matches!(tensor.values, OnnxValues::F32(_)) => Ok(Some(tensor)),
            Some(_) => Err("its values are no 32-bit floats".to_owned()),
            None => Ok(None),
        }
    }

    fn convolution(&self, node: &OnnxNode) -> Result<Operation, String> {
        let Some(OnnxTensor {
            shape,
            values: OnnxValues::F32(weight),
        }) = self.floats(node, 1)?
        else {
            return Err("it has no weight".to_owned());
        };
        let &[outputs, inputs, kernel, other] = shape.as_slice() else {
            return Err(format!("a weight of shape {shape:?}"));
        };
        let bias = match self.floats(node, 2)? {
            None => vec![0.0; outputs],
            Some(OnnxTensor {
                values: OnnxValues::F32(bias),
                ..
            }) if bias.len() == outputs => bias.clone(),
            Some(bias) => return Err(format!("a bias of shape {:?} for {outputs} outputs", bias.shape)),
        };
        let stride = square(node.ints("strides"), 1)?;
        let simple = kernel == other
            && kernel % 2 == 1
            && stride > 0
            && border(node)? == kernel / 2
            && square(node.ints("dilations"), 1)? == 1
            && matches!(node.text("auto_pad", "NOTSET"), "NOTSET" | "");
        if !simple {
            return Err(
                "only square kernels of an odd side with a border of half of it, without dilation, are known"
                    .to_owned(),
            );
        }
        let groups = node.int("group", 1);
        if groups == 1 {
            let layer = convolution(
                [outputs, inputs, kernel, kernel],
                stride,
                weight.clone(),
                bias,
                self.device,
            );
            return Ok(Operation::Convolution(layer, [inputs, outputs, kernel, stride]));
        }
        if inputs == 1 && usize::try_from(groups) == Ok(outputs) {
            let numbers = [outputs, kernel, stride];
            let layer = depthwise(numbers, weight.clone(), bias, self.device);
            return Ok(Operation::Depthwise(layer, numbers));
        }
        Err(format!("{groups} groups over {outputs} outputs"))
    }

    /// The whole factor of an upsampling to nearest pixels.
    fn factor(&self, node: &OnnxNode, input: Slot) -> Result<usize, String> {
        if node.text("mode", "nearest") != "nearest" {
            return Err(format!("the mode `{}`", node.text("mode", "nearest")));
        }
        // For whole factors these pairs choose the same pixels: no coordinate lies half-way between two.
        let nearest = node.text("nearest_mode", "round_prefer_floor");
        let coordinates = match node.operator.as_str() {
            "Upsample" => "asymmetric",
            _ => node.text("coordinate_transformation_mode", "half_pixel"),
        };
        let known = match coordinates {
            "asymmetric" => node.operator == "Upsample" || nearest == "floor",
            "half_pixel" | "pytorch_half_pixel" => nearest.starts_with("round_prefer"),
            _ => false,
        };
        if !known {
            return Err(format!("`{coordinates}` coordinates with `{nearest}`"));
        }
        let scales = match node.operator.as_str() {
            "Upsample" => 1,
            _ if node.inputs.len() == 2 => 1,
            _ => 2,
        };
        let scales = match self.floats(node, scales)? {
            Some(OnnxTensor {
                values: OnnxValues::F32(scales),
                ..
            }) if !scales.is_empty() => scales.clone(),
            _ => {
                let sizes = self.integers(node, 3, "sizes")?.unwrap_or_default();
                let (Shape::Map([_, height, width]), &[_, _, new_height, new_width]) =
                    (self.builder.shape(input), sizes)
                else {
                    return Err("it states no scales".to_owned());
                };
                vec![
                    1.0,
                    1.0,
                    new_height as f32 / height as f32,
                    new_width as f32 / width as f32,
                ]
            }
        };
        match scales.as_slice() {
            [1.0, 1.0, down, across] if down == across && *down >= 1.0 && down.fract() == 0.0 => {
                Ok(*down as usize)
            }
            _ => Err(format!("the scales {scales:?}")),
        }
    }

    fn slice(&mut self, node: &'a OnnxNode, input: Slot) -> Result<Slot, String> {
        let starts = self.integers(node, 1, "starts")?.unwrap_or_default();
        let ends = self.integers(node, 2, "ends")?.unwrap_or_default();
        let all = (0..starts.len() as i64).collect::<Vec<_>>();
        let axes = self.integers(node, 3, "axes")?.unwrap_or(&all);
        let ones = vec![1; starts.len()];
        let steps = self.integers(node, 4, "steps")?.unwrap_or(&ones);
        if starts.is_empty() || [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err("starts, ends, axes and steps of different numbers".to_owned());
        }
        let mut slot = input;
        for (((start, end), at), step) in starts.iter().zip(ends).zip(axes).zip(steps) {
            let Shape::Map(sizes) = self.builder.shape(slot) else {
                return Err("a flattened map".to_owned());
            };
            let axis = axis(*at, 4)?;
            let Some(size) = axis.checked_sub(1).map(|index| sizes[index]) else {
                return Err("a part of the images".to_owned());
            };
            let place = |index: i64| {
                let from_end = if index < 0 { size as i64 } else { 0 };
                index.saturating_add(from_end).clamp(0, size as i64) as usize
            };
            let operation = Operation::Slice {
                axis,
                start: place(*start),
                end: place(*end),
                step: usize::try_from(*step).map_err(|_| format!("the step {step}"))?,
            };
            slot = self.builder.add(operation, &[slot])?;
        }
        Ok(slot)
    }

    /// Checks that a node reshapes `[1, c, h, w]` to `[1, c, h · w]`.
    fn flattens(&self, node: &'a OnnxNode, input: Slot) -> Result<(), String> {
        let target = self.integers(node, 1, "shape")?.unwrap_or_default();
        if let (Shape::Map([channels, height, width]), &[_, kept, places]) =
            (self.builder.shape(input), target)
            && (kept == channels as i64 || kept == 0)
            && (places == -1 || places == (height * width) as i64)
        {
            return Ok(());
        }
        Err(format!("to the shape {target:?}"))
    }
}

/// An axis from 0 on.
fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_end = if axis < 0 { rank as i64 } else { 0 };
    usize::try_from(axis + from_end)
        .ok()
        .filter(|axis| *axis < rank)
        .ok_or_else(|| format!("the axis {axis}"))
}

/// The one number of both sides, or `default` for none.
fn square(numbers: &[i64], default: usize) -> Result<usize, String> {
    let same = match numbers {
        [] => Some(default),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => usize::try_from(*first).ok(),
        _ => None,
    };
    same.ok_or_else(|| format!("sides of {numbers:?}"))
}

/// Zeros on each side.
fn border(node: &OnnxNode) -> Result<usize, String> {
    square(node.ints("pads"), 0)
}
