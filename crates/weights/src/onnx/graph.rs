//! A graph of operations under construction: operations and constants in, ONNX's message out. A value has the name of the
//! operation that computes it.

use half::f16;

use crate::error::WeightsError;
use crate::format::messages::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, attribute_type, tensor_type,
};

/// A size of an input or output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    Of(usize),
    /// Left open, under this name.
    Open(&'static str),
}

/// The graph.
pub(super) struct Graph {
    half: bool,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    outputs: Vec<ValueInfoProto>,
    /// The first constant that f16 cannot hold.
    overflow: Option<String>,
}

impl Graph {
    pub(super) fn new(half: bool) -> Self {
        Self {
            half,
            nodes: vec![],
            constants: vec![],
            outputs: vec![],
            overflow: None,
        }
    }

    /// An operation of one output; returns its name, which is `name`.
    pub(super) fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes,
            domain: String::new(),
        });
        name.to_owned()
    }

    /// A tensor cut into three equal parts of `width` along its last dimension.
    pub(super) fn thirds(&mut self, name: &str, input: &str, width: usize) -> [String; 3] {
        let sizes = self.integers(&format!("{name}.sizes"), &[width as i64; 3]);
        let outputs = ["query", "key", "value"].map(|part| format!("{name}.{part}"));
        self.nodes.push(NodeProto {
            input: vec![input.to_owned(), sizes],
            output: outputs.to_vec(),
            name: name.to_owned(),
            op_type: "Split".to_owned(),
            attribute: vec![int("axis", 2)],
            domain: String::new(),
        });
        outputs
    }

    /// A constant in the graph's floats.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let (data_type, raw_data) = if self.half {
            let halves = values.iter().map(|value| f16::from_f32(*value));
            let mut bytes = Vec::with_capacity(values.len() * 2);
            for (half, value) in halves.zip(values) {
                if half.is_infinite() && value.is_finite() && self.overflow.is_none() {
                    self.overflow = Some(name.to_owned());
                }
                bytes.extend(half.to_le_bytes());
            }
            (tensor_type::FLOAT16, bytes)
        } else {
            (tensor_type::FLOAT, le_bytes(values))
        };
        self.constant(name, shape, data_type, raw_data)
    }

    /// A constant of integers in one dimension.
    pub(super) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len()], tensor_type::INT64, bytes)
    }

    /// An integer without dimensions.
    pub(super) fn integer(&mut self, name: &str, value: i64) -> String {
        self.constant(name, &[], tensor_type::INT64, value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, name: &str, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        self.constants.push(TensorProto {
            dims: shape.iter().map(|size| *size as i64).collect(),
            data_type,
            name: name.to_owned(),
            raw_data,
            ..Default::default()
        });
        name.to_owned()
    }

    /// Images from 0 to 1, normalized in f32.
    pub(super) fn normalized(&mut self, images: &str, mean: [f32; 3], std: [f32; 3]) -> String {
        let mean = self.constant("mean", &[1, 3, 1, 1], tensor_type::FLOAT, le_bytes(&mean));
        let std = self.constant("std", &[1, 3, 1, 1], tensor_type::FLOAT, le_bytes(&std));
        let centered = self.node("Sub", "centered", &[images, &mean], vec![]);
        self.node("Div", "normalized", &[&centered, &std], vec![])
    }

    /// An f32 value in the graph's floats.
    pub(super) fn lowered(&mut self, value: &str) -> String {
        if !self.half {
            return value.to_owned();
        }
        let to = vec![int("to", i64::from(tensor_type::FLOAT16))];
        self.node("Cast", "lowered", &[value], to)
    }

    /// The name under which a network writes the value of an output: that of the output, or one that is cast to f32.
    pub(super) fn name_of_output(&self, output: &str) -> String {
        if self.half {
            format!("{output}.f16")
        } else {
            output.to_owned()
        }
    }

    /// Declares an output, whose value has the name of [`Self::name_of_output`].
    pub(super) fn output(&mut self, name: &str, shape: &[Size]) {
        if self.half {
            let value = self.name_of_output(name);
            self.node(
                "Cast",
                name,
                &[&value],
                vec![int("to", i64::from(tensor_type::FLOAT))],
            );
        }
        self.outputs.push(value_info(name, shape));
    }

    /// The graph with its one input.
    ///
    /// # Errors
    /// A weight that f16 cannot hold.
    pub(super) fn finish(
        self,
        name: String,
        input: &str,
        shape: &[Size],
    ) -> Result<GraphProto, WeightsError> {
        if let Some(weight) = self.overflow {
            return Err(WeightsError::Export {
                reason: format!("`{weight}` has numbers above 65,504, the largest of f16"),
                hint: None,
            });
        }
        Ok(GraphProto {
            node: self.nodes,
            name,
            initializer: self.constants,
            input: vec![value_info(input, shape)],
            output: self.outputs,
        })
    }
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn value_info(name: &str, shape: &[Size]) -> ValueInfoProto {
    let dim = shape.iter().map(|size| match size {
        Size::Of(size) => DimensionProto {
            value: *size as i64,
            parameter: String::new(),
        },
        Size::Open(name) => DimensionProto {
            value: 0,
            parameter: (*name).to_owned(),
        },
    });
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: tensor_type::FLOAT,
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            }),
        }),
    }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: attribute_type::INT,
        ..Default::default()
    }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: attribute_type::INTS,
        ..Default::default()
    }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: attribute_type::FLOAT,
        ..Default::default()
    }
}
