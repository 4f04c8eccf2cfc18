//! A network of fixed input size as a list of steps, whose shapes are checked when it is built: so running it
//! cannot fail.

use backbones::layers::{
    Conv2d, DepthwiseConv2d, leaky_relu, max_pool_same, relu, sigmoid, silu, upsample_nearest,
};
use burn::tensor::{Slice, Tensor};

/// Most numbers of one value for one image: a damaged file may ask for any. YOLOX-x at 1280 px has 33 million.
const MAX_ELEMENTS: usize = 1 << 28;

/// What one step computes.
#[derive(Debug)]
pub(super) enum Operation {
    /// A convolution over all channels, and its numbers of inputs and outputs, kernel, stride.
    Convolution(Conv2d, [usize; 4]),
    /// A convolution of each channel: their number, kernel, stride.
    Depthwise(DepthwiseConv2d, [usize; 3]),
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// With the slope of negative values.
    LeakyRelu(f64),
    /// The sum of two inputs.
    Add,
    /// The product of two inputs.
    Multiply,
    /// All inputs along one axis.
    Concatenate(usize),
    /// The largest of each window of an odd number of pixels, at stride 1.
    MaxPool(usize),
    /// Each pixel repeated, in both directions.
    Upsample(usize),
    /// Every `step`-th index of an axis.
    Slice {
        axis: usize,
        start: usize,
        end: usize,
        step: usize,
    },
    /// `[images, channels, height, width]` to `[images, channels, height · width]`.
    Flatten,
    /// The last two axes of a flattened map exchanged.
    Transpose,
}

/// A value's shape without the axis of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Channels, height, width.
    Map([usize; 3]),
    /// Channels and places, or the reverse.
    Flat([usize; 2]),
}

/// A value that a step gave.
#[derive(Clone, Debug)]
enum Value {
    Map(Tensor<4>),
    Flat(Tensor<3>),
}

/// The place of a value: the input's is 0, each step's the next.
pub(super) type Slot = usize;

#[derive(Debug)]
struct Step {
    operation: Operation,
    inputs: Vec<Slot>,
    output: Slot,
    /// The inputs that no later step needs.
    last: Vec<bool>,
}

/// A network that is ready to run.
#[derive(Debug)]
pub(super) struct Graph {
    steps: Vec<Step>,
    slots: usize,
    output: Slot,
    /// Height and width of the input, which has three channels.
    pub(super) input: [usize; 2],
    /// Places and values of each in the output.
    pub(super) outputs: [usize; 2],
}

/// A network as it is built, step by step.
#[derive(Debug)]
pub(super) struct Builder {
    steps: Vec<Step>,
    shapes: Vec<Shape>,
    input: [usize; 2],
}

impl Builder {
    /// The place of the network's input.
    pub(super) const INPUT: Slot = 0;

    /// A network over images of three channels.
    pub(super) fn new(height: usize, width: usize) -> Self {
        Self {
            steps: Vec::new(),
            shapes: vec![Shape::Map([3, height, width])],
            input: [height, width],
        }
    }

    /// Height and width of the input.
    pub(super) fn input_sides(&self) -> [usize; 2] {
        self.input
    }

    /// The shape of a value.
    pub(super) fn shape(&self, slot: Slot) -> Shape {
        self.shapes[slot]
    }

    /// Adds a step and returns the place of its value.
    ///
    /// # Errors
    /// The reason why the operation does not fit its inputs.
    pub(super) fn add(&mut self, operation: Operation, inputs: &[Slot]) -> Result<Slot, String> {
        let shapes = inputs.iter().map(|slot| self.shapes[*slot]).collect::<Vec<_>>();
        let shape = operation
            .shape(&shapes)
            .ok_or_else(|| format!("{} does not fit inputs of shape {shapes:?}", operation.name()))?;
        let elements = shape
            .sizes()
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(format!(
                "{} gives {shape:?}, which is too large",
                operation.name()
            ));
        }
        let output = self.shapes.len();
        self.shapes.push(shape);
        self.steps.push(Step {
            operation,
            inputs: inputs.to_vec(),
            output,
            last: vec![false; inputs.len()],
        });
        Ok(output)
    }

    /// The network up to the value `output`, `[images, places, values]`, without steps that it does not need.
    ///
    /// # Errors
    /// The reason, if that value has another rank.
    pub(super) fn finish(self, output: Slot) -> Result<Graph, String> {
        let Shape::Flat(outputs) = self.shapes[output] else {
            return Err(format!(
                "its output must be [1, places, 5 + classes], got {:?}",
                self.shapes[output]
            ));
        };
        let slots = self.shapes.len();
        let mut needed = vec![false; slots];
        needed[output] = true;
        let mut steps = Vec::with_capacity(self.steps.len());
        for mut step in self.steps.into_iter().rev() {
            if !needed[step.output] {
                continue;
            }
            // Of an input that is named twice, the second is the last use.
            for (last, slot) in step.last.iter_mut().zip(&step.inputs).rev() {
                *last = !std::mem::replace(&mut needed[*slot], true);
            }
            steps.push(step);
        }
        steps.reverse();
        Ok(Graph {
            steps,
            slots,
            output,
            input: self.input,
            outputs,
        })
    }
}

impl Graph {
    /// # Shapes
    /// - `images`: `[images, 3, height, width]` with the sides of `input`
    /// - output: `[images, places, values]`, the sizes of `outputs`
    pub(super) fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let mut values = vec![None; self.slots];
        values[Builder::INPUT] = Some(Value::Map(images));
        for step in &self.steps {
            let inputs = step.inputs.iter().zip(&step.last);
            let inputs = inputs.map(|(slot, last)| match last {
                true => values[*slot].take(),
                false => values[*slot].clone(),
            });
            let inputs = inputs.flatten().collect::<Vec<_>>();
            values[step.output] = Some(step.operation.run(inputs));
        }
        match values[self.output].take() {
            Some(Value::Flat(output)) => output,
            _ => unreachable!("`finish` checked the rank of the output"),
        }
    }
}

impl Operation {
    /// The shape of the value for inputs of these shapes; `None` if they do not fit.
    fn shape(&self, inputs: &[Shape]) -> Option<Shape> {
        use Shape::{Flat, Map};
        let strided = |size: usize, stride: usize| size.div_ceil(stride);
        Some(match (self, inputs) {
            (Self::Convolution(_, [channels, outputs, _, stride]), [Map([found, height, width])])
                if channels == found =>
            {
                Map([*outputs, strided(*height, *stride), strided(*width, *stride)])
            }
            (Self::Depthwise(_, [channels, _, stride]), [Map([found, height, width])])
                if channels == found =>
            {
                Map([*channels, strided(*height, *stride), strided(*width, *stride)])
            }
            (Self::Sigmoid | Self::Silu | Self::Relu | Self::LeakyRelu(_), [shape]) => *shape,
            (Self::MaxPool(kernel), [shape @ Map(_)]) if kernel % 2 == 1 => *shape,
            (Self::Add | Self::Multiply, [a, b]) if a == b => *a,
            (Self::Concatenate(axis), [first, ..]) => {
                let rank = first.sizes().len();
                let others = |shape: &Shape| {
                    let sizes = shape.sizes();
                    let same = |index: usize| index + 1 == *axis || sizes[index] == first.sizes()[index];
                    sizes.len() == rank && (0..rank).all(same)
                };
                if *axis == 0 || *axis > rank || !inputs.iter().all(others) {
                    return None;
                }
                first.with(*axis, inputs.iter().map(|shape| shape.sizes()[axis - 1]).sum())
            }
            (Self::Upsample(factor), [Map([channels, height, width])]) => Map([
                *channels,
                height.checked_mul(*factor)?,
                width.checked_mul(*factor)?,
            ]),
            (
                Self::Slice {
                    axis,
                    start,
                    end,
                    step,
                },
                [shape @ Map(sizes)],
            ) if (1..=3).contains(axis) && start < end && *end <= sizes[axis - 1] && *step > 0 => {
                shape.with(*axis, (end - start).div_ceil(*step))
            }
            (Self::Flatten, [Map([channels, height, width])]) => Flat([*channels, height * width]),
            (Self::Transpose, [Flat([first, second])]) => Flat([*second, *first]),
            _ => return None,
        })
    }

    fn run(&self, inputs: Vec<Value>) -> Value {
        let each =
            |map: fn(Tensor<4>) -> Tensor<4>, flat: fn(Tensor<3>) -> Tensor<3>, value: Value| match value {
                Value::Map(x) => Value::Map(map(x)),
                Value::Flat(x) => Value::Flat(flat(x)),
            };
        let mut inputs = inputs.into_iter();
        let (first, second) = (inputs.next(), inputs.next());
        match (self, first, second) {
            (Self::Convolution(layer, _), Some(Value::Map(x)), _) => Value::Map(layer.forward(x)),
            (Self::Depthwise(layer, _), Some(Value::Map(x)), _) => Value::Map(layer.forward(x)),
            (Self::Sigmoid, Some(x), _) => each(sigmoid, sigmoid, x),
            (Self::Silu, Some(x), _) => each(silu, silu, x),
            (Self::Relu, Some(x), _) => each(relu, relu, x),
            (Self::LeakyRelu(slope), Some(Value::Map(x)), _) => Value::Map(leaky_relu(x, *slope)),
            (Self::LeakyRelu(slope), Some(Value::Flat(x)), _) => Value::Flat(leaky_relu(x, *slope)),
            (Self::Add, Some(Value::Map(a)), Some(Value::Map(b))) => Value::Map(a + b),
            (Self::Add, Some(Value::Flat(a)), Some(Value::Flat(b))) => Value::Flat(a + b),
            (Self::Multiply, Some(Value::Map(a)), Some(Value::Map(b))) => Value::Map(a * b),
            (Self::Multiply, Some(Value::Flat(a)), Some(Value::Flat(b))) => Value::Flat(a * b),
            (Self::Concatenate(axis), Some(first @ Value::Map(_)), second) => {
                let all = std::iter::once(first).chain(second).chain(inputs);
                let maps = all.filter_map(|value| match value {
                    Value::Map(x) => Some(x),
                    Value::Flat(_) => None,
                });
                Value::Map(Tensor::cat(maps.collect(), *axis))
            }
            (Self::Concatenate(axis), Some(first), second) => {
                let all = std::iter::once(first).chain(second).chain(inputs);
                let flat = all.filter_map(|value| match value {
                    Value::Flat(x) => Some(x),
                    Value::Map(_) => None,
                });
                Value::Flat(Tensor::cat(flat.collect(), *axis))
            }
            (Self::MaxPool(kernel), Some(Value::Map(x)), _) => Value::Map(max_pool_same(x, *kernel)),
            (Self::Upsample(factor), Some(Value::Map(x)), _) => {
                let [_, _, height, width] = x.dims();
                Value::Map(upsample_nearest(x, [height * factor, width * factor]))
            }
            (
                Self::Slice {
                    axis,
                    start,
                    end,
                    step,
                },
                Some(Value::Map(x)),
                _,
            ) => {
                let mut ranges = [Slice::full(); 4];
                ranges[*axis] = Slice::new(*start as isize, Some(*end as isize), *step as isize);
                Value::Map(x.slice(ranges))
            }
            (Self::Flatten, Some(Value::Map(x)), _) => {
                let [images, channels, height, width] = x.dims();
                Value::Flat(x.reshape([images, channels, height * width]))
            }
            (Self::Transpose, Some(Value::Flat(x)), _) => Value::Flat(x.swap_dims(1, 2)),
            _ => unreachable!("`Builder::add` checked the inputs"),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Convolution(..) => "a convolution",
            Self::Depthwise(..) => "a depthwise convolution",
            Self::Sigmoid => "a sigmoid",
            Self::Silu => "a SiLU",
            Self::Relu => "a ReLU",
            Self::LeakyRelu(_) => "a leaky ReLU",
            Self::Add => "a sum",
            Self::Multiply => "a product",
            Self::Concatenate(_) => "a concatenation",
            Self::MaxPool(_) => "a max pooling",
            Self::Upsample(_) => "an upsampling",
            Self::Slice { .. } => "a slice",
            Self::Flatten => "a flattening",
            Self::Transpose => "a transposition",
        }
    }
}

impl Shape {
    /// Sizes from axis 1 on.
    fn sizes(&self) -> &[usize] {
        match self {
            Self::Map(sizes) => sizes,
            Self::Flat(sizes) => sizes,
        }
    }

    /// This shape with another size of `axis`, counted from 1.
    fn with(mut self, axis: usize, size: usize) -> Self {
        match &mut self {
            Self::Map(sizes) => sizes[axis - 1] = size,
            Self::Flat(sizes) => sizes[axis - 1] = size,
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn steps_run_in_order_and_values_are_kept_until_their_last_use() {
        let mut builder = Builder::new(2, 4);
        // Every second column, twice as a sum with itself, beside its ReLU.
        let half = Operation::Slice {
            axis: 3,
            start: 1,
            end: 4,
            step: 2,
        };
        let half = builder.add(half, &[Builder::INPUT]).unwrap();
        builder.add(Operation::Sigmoid, &[half]).unwrap();
        let double = builder.add(Operation::Add, &[half, half]).unwrap();
        let positive = builder.add(Operation::Relu, &[half]).unwrap();
        let both = builder
            .add(Operation::Concatenate(1), &[double, positive])
            .unwrap();
        assert_eq!(builder.shape(both), Shape::Map([6, 2, 2]));
        let flat = builder.add(Operation::Flatten, &[both]).unwrap();
        let output = builder.add(Operation::Transpose, &[flat]).unwrap();
        let graph = builder.finish(output).unwrap();
        assert_eq!(graph.outputs, [4, 6]);
        assert_eq!(graph.steps.len(), 6, "the sigmoid leads nowhere");
        let images = Tensor::<1, burn::tensor::Int>::arange(0..48, &Device::flex()).float() - 10.0;
        let found = graph.forward(images.reshape([2, 3, 2, 4]));
        assert_eq!(found.dims(), [2, 4, 6]);
        let found = found.into_data().iter::<f32>().collect::<Vec<_>>();
        // The first place is column 1 of row 0: -9, -1 and 7 in the three channels.
        assert_eq!(found[..6], [-18.0, -2.0, 14.0, 0.0, 0.0, 7.0]);
        // The last of the second image: column 3 of row 1: 21, 29, 37.
        assert_eq!(found[42..], [42.0, 58.0, 74.0, 21.0, 29.0, 37.0]);
    }

    #[test]
    fn a_step_that_does_not_fit_is_an_error() {
        let mut builder = Builder::new(2, 4);
        let half = Operation::Slice {
            axis: 2,
            start: 0,
            end: 2,
            step: 2,
        };
        let half = builder.add(half, &[Builder::INPUT]).unwrap();
        let error = builder.add(Operation::Add, &[Builder::INPUT, half]).unwrap_err();
        assert_eq!(
            error,
            "a sum does not fit inputs of shape [Map([3, 2, 4]), Map([3, 1, 4])]"
        );
        assert!(
            builder
                .add(Operation::Concatenate(1), &[Builder::INPUT, half])
                .is_err()
        );
        assert!(builder.add(Operation::Concatenate(4), &[half, half]).is_err());
        assert!(builder.add(Operation::MaxPool(2), &[half]).is_err());
        assert!(builder.add(Operation::Transpose, &[half]).is_err());
        assert!(builder.finish(half).unwrap_err().contains("its output must be"));
    }
}
