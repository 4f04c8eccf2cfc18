//! ONNX's operators by their definitions (onnx/docs/Operators.md, opset 17), in f64: a file and images in, outputs out.

use std::collections::BTreeMap;

use half::f16;
use prost::Message;

use crate::format::messages::{ModelProto, NodeProto, TensorProto, tensor_type};

/// A tensor of floats or integers.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Value {
    pub(crate) fn new(shape: Vec<usize>, values: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { shape, values }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(
            self.shape.clone(),
            self.values.iter().map(|value| f(*value)).collect(),
        )
    }

    fn integers(&self) -> Vec<i64> {
        self.values.iter().map(|value| *value as i64).collect()
    }

    /// A value by its indices.
    fn at(&self, index: &[usize]) -> f64 {
        let place = index
            .iter()
            .zip(&self.shape)
            .fold(0, |place, (i, size)| place * size + i);
        self.values[place]
    }

    /// A value of this shape from a function of its indices.
    fn from_fn(shape: Vec<usize>, f: impl Fn(&[usize]) -> f64) -> Self {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|mut place| {
            let mut index = vec![0; shape.len()];
            for (at, size) in shape.iter().enumerate().rev() {
                (index[at], place) = (place % size, place / size);
            }
            f(&index)
        });
        let values = values.collect();
        Self::new(shape, values)
    }

    /// Rows along the last dimension, each replaced by `f`.
    fn rows(&self, f: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        let width = *self.shape.last().unwrap();
        let values = self.values.chunks_exact(width).flat_map(f).collect();
        Self::new(self.shape.clone(), values)
    }
}

fn constant(tensor: &TensorProto) -> Value {
    let raw = &tensor.raw_data;
    let values = match tensor.data_type {
        tensor_type::FLOAT => raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
            .collect(),
        tensor_type::FLOAT16 => raw
            .as_chunks::<2>()
            .0
            .iter()
            .map(|bytes| f16::from_le_bytes(*bytes).to_f64())
            .collect(),
        tensor_type::INT64 => raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes) as f64)
            .collect(),
        other => panic!("type {other}"),
    };
    Value::new(tensor.dims.iter().map(|size| *size as usize).collect(), values)
}

/// The outputs by name.
pub(crate) fn run(bytes: &[u8], images: Value) -> BTreeMap<String, Value> {
    let graph = ModelProto::decode(bytes).unwrap().graph.unwrap();
    let mut values = graph
        .initializer
        .iter()
        .map(|tensor| (tensor.name.clone(), constant(tensor)))
        .collect::<BTreeMap<_, _>>();
    values.insert(graph.input[0].name.clone(), images);
    for node in &graph.node {
        let inputs = node.input.iter().map(|name| &values[name]).collect::<Vec<_>>();
        let outputs = operation(node, &inputs);
        assert_eq!(outputs.len(), node.output.len());
        for (name, value) in node.output.iter().zip(outputs) {
            assert!(
                values.insert(name.clone(), value).is_none(),
                "`{name}` is written twice"
            );
        }
    }
    let outputs = graph.output.iter().map(|output| {
        let value = values.remove(&output.name).unwrap();
        // As declared, where a size is declared.
        let tensor = output.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
        for (size, declared) in value.shape.iter().zip(&tensor.shape.as_ref().unwrap().dim) {
            assert!(
                declared.value == 0 || declared.value == *size as i64,
                "{output:?}"
            );
        }
        (output.name.clone(), value)
    });
    outputs.collect()
}

fn ints(node: &NodeProto, name: &str) -> Vec<i64> {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
    attribute.map_or(vec![], |attribute| attribute.ints.clone())
}

fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == name);
    attribute.map_or(default, |attribute| attribute.i.unwrap())
}

fn operation(node: &NodeProto, inputs: &[&Value]) -> Vec<Value> {
    let x = inputs[0];
    let one = match node.op_type.as_str() {
        "Cast" => x.clone(),
        "Relu" => x.map(|value| value.max(0.0)),
        "Erf" => x.map(erf),
        "Add" => broadcast(x, inputs[1], |a, b| a + b),
        "Sub" => broadcast(x, inputs[1], |a, b| a - b),
        "Mul" => broadcast(x, inputs[1], |a, b| a * b),
        "Div" => broadcast(x, inputs[1], |a, b| a / b),
        "Conv" => convolution(node, x, inputs[1], inputs.get(2).copied()),
        "MaxPool" => max_pool(node, x),
        "GlobalAveragePool" => {
            let places = x.shape[2] * x.shape[3];
            let means = x
                .values
                .chunks_exact(places)
                .map(|map| map.iter().sum::<f64>() / places as f64);
            Value::new(vec![x.shape[0], x.shape[1], 1, 1], means.collect())
        }
        "Flatten" => {
            assert_eq!(int(node, "axis", 1), 1);
            Value::new(vec![x.shape[0], x.shape[1..].iter().product()], x.values.clone())
        }
        "Reshape" => {
            let shape = inputs[1].integers().into_iter().enumerate();
            let shape = shape.map(|(at, size)| if size == 0 { x.shape[at] } else { size as usize });
            Value::new(shape.collect(), x.values.clone())
        }
        "Transpose" => {
            let order = ints(node, "perm")
                .into_iter()
                .map(|at| at as usize)
                .collect::<Vec<_>>();
            let shape = order.iter().map(|at| x.shape[*at]).collect();
            Value::from_fn(shape, |index| {
                let mut theirs = vec![0; index.len()];
                for (from, to) in order.iter().zip(index) {
                    theirs[*from] = *to;
                }
                x.at(&theirs)
            })
        }
        "Pad" => {
            let pads = inputs[1].integers();
            let sizes = x.shape.iter().enumerate();
            let shape = sizes.map(|(at, size)| size + (pads[at] + pads[at + x.shape.len()]) as usize);
            Value::from_fn(shape.collect(), |index| {
                let inner = index.iter().enumerate().map(|(at, i)| *i as i64 - pads[at]);
                let inner = inner.collect::<Vec<_>>();
                let inside = inner
                    .iter()
                    .zip(&x.shape)
                    .all(|(i, size)| (0..*size as i64).contains(i));
                match inside {
                    true => x.at(&inner.iter().map(|i| *i as usize).collect::<Vec<_>>()),
                    false => 0.0,
                }
            })
        }
        "Split" => {
            let axis = int(node, "axis", 0) as usize;
            let mut first = 0;
            let parts = inputs[1].integers().into_iter().map(|size| {
                let mut shape = x.shape.clone();
                shape[axis] = size as usize;
                let part = Value::from_fn(shape, |index| {
                    let mut theirs = index.to_vec();
                    theirs[axis] += first;
                    x.at(&theirs)
                });
                first += size as usize;
                part
            });
            return parts.collect();
        }
        "MatMul" => matmul(x, inputs[1]),
        "Softmax" => x.rows(|row| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers = row
                .iter()
                .map(|value| (value - largest).exp())
                .collect::<Vec<_>>();
            let sum = powers.iter().sum::<f64>();
            powers.into_iter().map(|power| power / sum).collect()
        }),
        "LayerNormalization" => {
            let epsilon = node
                .attribute
                .iter()
                .find(|attribute| attribute.name == "epsilon");
            let epsilon = f64::from(epsilon.unwrap().f.unwrap());
            assert_eq!(int(node, "axis", 0), -1);
            x.rows(|row| {
                let mean = row.iter().sum::<f64>() / row.len() as f64;
                let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / row.len() as f64;
                let scaled = row
                    .iter()
                    .map(|value| (value - mean) / (variance + epsilon).sqrt());
                let (scale, shift) = (&inputs[1].values, &inputs[2].values);
                scaled
                    .zip(scale)
                    .zip(shift)
                    .map(|((value, scale), shift)| value * scale + shift)
                    .collect()
            })
        }
        "Gather" => {
            assert_eq!((int(node, "axis", 0), inputs[1].shape.len()), (1, 0));
            let index = inputs[1].values[0] as usize;
            let shape = vec![x.shape[0], x.shape[2]];
            Value::from_fn(shape, |at| x.at(&[at[0], index, at[1]]))
        }
        "Slice" => {
            assert_eq!(
                (inputs[2].integers(), inputs[3].integers()),
                (vec![i64::MAX], vec![1])
            );
            let first = inputs[1].values[0] as usize;
            let shape = vec![x.shape[0], x.shape[1] - first, x.shape[2]];
            Value::from_fn(shape, |at| x.at(&[at[0], at[1] + first, at[2]]))
        }
        "ReduceMean" => {
            assert_eq!((ints(node, "axes"), int(node, "keepdims", 1)), (vec![1], 0));
            Value::from_fn(vec![x.shape[0], x.shape[2]], |at| {
                (0..x.shape[1])
                    .map(|token| x.at(&[at[0], token, at[1]]))
                    .sum::<f64>()
                    / x.shape[1] as f64
            })
        }
        other => panic!("operator {other}"),
    };
    vec![one]
}

/// Both extended to one shape, aligned at their last dimensions.
fn broadcast(a: &Value, b: &Value, f: impl Fn(f64, f64) -> f64) -> Value {
    let rank = a.shape.len().max(b.shape.len());
    let size = |value: &Value, at: usize| {
        let missing = rank - value.shape.len();
        if at < missing {
            1
        } else {
            value.shape[at - missing]
        }
    };
    let shape = (0..rank)
        .map(|at| size(a, at).max(size(b, at)))
        .collect::<Vec<_>>();
    let read = |value: &Value, index: &[usize]| {
        let own = &index[rank - value.shape.len()..];
        let own = own
            .iter()
            .zip(&value.shape)
            .map(|(i, size)| if *size == 1 { 0 } else { *i });
        value.at(&own.collect::<Vec<_>>())
    };
    Value::from_fn(shape, |index| f(read(a, index), read(b, index)))
}

fn matmul(a: &Value, b: &Value) -> Value {
    let rank = a.shape.len();
    let inner = a.shape[rank - 1];
    let mut shape = a.shape.clone();
    shape[rank - 1] = *b.shape.last().unwrap();
    assert_eq!(b.shape[b.shape.len() - 2], inner);
    Value::from_fn(shape, |index| {
        let (row, column) = (&index[..rank - 1], index[rank - 1]);
        // A matrix alone is the same for the whole batch.
        let batch = &index[..b.shape.len() - 2];
        let products = (0..inner).map(|k| {
            let left = [row, &[k]].concat();
            let right = [batch, &[k, column]].concat();
            a.at(&left) * b.at(&right)
        });
        products.sum()
    })
}

/// First place and stride of a window: `[output row, column]` to the input's, which may lie in the border.
fn window(node: &NodeProto) -> ([i64; 2], [i64; 2], [i64; 2]) {
    let two = |name: &str, default| {
        let values = ints(node, name);
        [0, 1].map(|at| values.get(at).copied().unwrap_or(default))
    };
    (two("kernel_shape", 0), two("pads", 0), two("strides", 1))
}

fn sides(x: &Value, (kernel, pads, strides): ([i64; 2], [i64; 2], [i64; 2])) -> [usize; 2] {
    // Pads are equal on both sides here.
    [0, 1].map(|at| ((x.shape[2 + at] as i64 + 2 * pads[at] - kernel[at]) / strides[at] + 1) as usize)
}

fn convolution(node: &NodeProto, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
    let at @ (kernel, pads, strides) = window(node);
    let [height, width] = sides(x, at);
    let shape = vec![x.shape[0], weight.shape[0], height, width];
    Value::from_fn(shape, |index| {
        let mut sum = bias.map_or(0.0, |bias| bias.values[index[1]]);
        for channel in 0..weight.shape[1] {
            for (row, column) in
                (0..kernel[0]).flat_map(|row| (0..kernel[1]).map(move |column| (row, column)))
            {
                let y = index[2] as i64 * strides[0] + row - pads[0];
                let z = index[3] as i64 * strides[1] + column - pads[1];
                let inside = (0..x.shape[2] as i64).contains(&y) && (0..x.shape[3] as i64).contains(&z);
                if inside {
                    sum += x.at(&[index[0], channel, y as usize, z as usize])
                        * weight.at(&[index[1], channel, row as usize, column as usize]);
                }
            }
        }
        sum
    })
}

fn max_pool(node: &NodeProto, x: &Value) -> Value {
    let at @ (kernel, pads, strides) = window(node);
    let [height, width] = sides(x, at);
    Value::from_fn(vec![x.shape[0], x.shape[1], height, width], |index| {
        let mut largest = f64::NEG_INFINITY;
        for (row, column) in (0..kernel[0]).flat_map(|row| (0..kernel[1]).map(move |column| (row, column))) {
            let y = index[2] as i64 * strides[0] + row - pads[0];
            let z = index[3] as i64 * strides[1] + column - pads[1];
            if (0..x.shape[2] as i64).contains(&y) && (0..x.shape[3] as i64).contains(&z) {
                largest = largest.max(x.at(&[index[0], index[1], y as usize, z as usize]));
            }
        }
        largest
    })
}

/// `2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!`, whose terms have one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}
