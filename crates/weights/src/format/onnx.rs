//! ONNX files: a network's operations and its constants, as plain values.
//!
//! What an operation computes is its reader's matter.

pub(crate) mod messages;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use prost::Message;

use super::error::{CheckpointError, cut, damaged, unreadable};
use messages::tensor_type::{FLOAT, INT64};
use messages::{
    AttributeProto, DimensionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute_type,
};

/// Largest file: protobuf's own limit of a message, 2 GiB.
const MAX_BYTES: u64 = 2 << 30;

/// A graph of operations in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxGraph {
    /// The operations.
    pub nodes: Vec<OnnxNode>,
    /// Constants by name.
    pub constants: HashMap<String, OnnxTensor>,
    /// The inputs that are no constants.
    pub inputs: Vec<OnnxInput>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
}

/// One operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxNode {
    /// The operator, such as `Conv`; with its domain before it if that is not ONNX's own.
    pub operator: String,
    /// The name; often empty.
    pub name: String,
    /// Names of the inputs; an empty one is an input left out.
    pub inputs: Vec<String>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, OnnxAttribute>,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxAttribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Anything else.
    Other,
}

/// An input and its shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxInput {
    /// The name.
    pub name: String,
    /// The size in each dimension, `None` for one that the file leaves open; `None` if it states no shape.
    pub shape: Option<Vec<Option<usize>>>,
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxTensor {
    /// The size in each dimension.
    pub shape: Vec<usize>,
    /// The values, row by row.
    pub values: OnnxValues,
}

/// Values of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxValues {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Values of another type, by ONNX's number of it: not read.
    Other(i32),
}

impl OnnxNode {
    /// An integer attribute, or `default` where it is absent or of another kind.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// A list of integers, or an empty one.
    pub fn ints(&self, name: &str) -> &[i64] {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Ints(values)) => values,
            _ => &[],
        }
    }

    /// A text, or `default`.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Text(text)) => text,
            _ => default,
        }
    }

    /// A float, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(OnnxAttribute::Float(value)) => *value,
            _ => default,
        }
    }
}

impl OnnxGraph {
    /// Reads a file. Nodes `Constant` become constants.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] for another kind of file, one that is cut, or a constant whose values do
    /// not fill its shape; [`CheckpointError::Unsupported`] for weights in other files;
    /// [`CheckpointError::Limit`] for more than 2 GiB.
    pub fn read<R: Read>(source: &mut R) -> Result<Self, CheckpointError> {
        let mut bytes = Vec::new();
        source.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(CheckpointError::Limit(
                "an ONNX file of more than 2 GiB".to_owned(),
            ));
        }
        let model = ModelProto::decode(bytes.as_slice())
            .map_err(|error| damaged(format!("not an ONNX file, or a part of one ({error})")))?;
        let graph = model
            .graph
            .ok_or_else(|| damaged("not an ONNX file: it has no graph"))?;
        drop(bytes);
        let mut read = Self::default();
        for tensor in graph.initializer {
            let name = tensor.name.clone();
            read.constants.insert(name, tensor.try_into()?);
        }
        for node in graph.node {
            read.add(node)?;
        }
        for input in graph.input {
            if !read.constants.contains_key(&input.name) {
                read.inputs.push(input.into());
            }
        }
        read.outputs = graph.output.into_iter().map(|output| output.name).collect();
        Ok(read)
    }

    fn add(&mut self, node: NodeProto) -> Result<(), CheckpointError> {
        let mut attributes = BTreeMap::new();
        for attribute in node.attribute {
            if let (Some(tensor), "Constant", "value", [output]) = (
                &attribute.t,
                node.op_type.as_str(),
                attribute.name.as_str(),
                node.output.as_slice(),
            ) {
                self.constants.insert(output.clone(), tensor.clone().try_into()?);
                return Ok(());
            }
            attributes.insert(attribute.name.clone(), attribute.into());
        }
        self.nodes.push(OnnxNode {
            operator: match node.domain.as_str() {
                "" | "ai.onnx" => node.op_type,
                domain => format!("{domain}.{}", node.op_type),
            },
            name: node.name,
            inputs: node.input,
            outputs: node.output,
            attributes,
        });
        Ok(())
    }
}

impl From<AttributeProto> for OnnxAttribute {
    fn from(attribute: AttributeProto) -> Self {
        match attribute.r#type {
            attribute_type::FLOAT => Self::Float(attribute.f.unwrap_or_default()),
            attribute_type::INT => Self::Int(attribute.i.unwrap_or_default()),
            attribute_type::STRING => Self::Text(String::from_utf8_lossy(&attribute.s).into_owned()),
            attribute_type::FLOATS => Self::Floats(attribute.floats),
            attribute_type::INTS => Self::Ints(attribute.ints),
            _ => Self::Other,
        }
    }
}

impl From<ValueInfoProto> for OnnxInput {
    fn from(info: ValueInfoProto) -> Self {
        let shape = info
            .r#type
            .and_then(|kind| kind.tensor_type)
            .and_then(|tensor| tensor.shape);
        let size = |dimension: DimensionProto| usize::try_from(dimension.value).ok().filter(|size| *size > 0);
        Self {
            name: info.name,
            shape: shape.map(|shape| shape.dim.into_iter().map(size).collect()),
        }
    }
}

/// ONNX's number for values in another file.
const EXTERNAL: i32 = 1;

impl TryFrom<TensorProto> for OnnxTensor {
    type Error = CheckpointError;

    fn try_from(tensor: TensorProto) -> Result<Self, CheckpointError> {
        if tensor.data_location == EXTERNAL {
            return Err(unreadable(
                "this ONNX file keeps its weights in other files beside it",
            ));
        }
        let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
        let shape = sizes.collect::<Option<Vec<_>>>();
        let elements = shape.as_ref().and_then(|shape| {
            shape
                .iter()
                .try_fold(1usize, |product, size| product.checked_mul(*size))
        });
        let (Some(shape), Some(elements)) = (shape, elements) else {
            return Err(damaged(format!(
                "the constant `{}` has the shape {:?}",
                cut(&tensor.name),
                tensor.dims
            )));
        };
        let values = match tensor.data_type {
            FLOAT => OnnxValues::F32(of_bytes(&tensor.raw_data, tensor.float_data, f32::from_le_bytes)),
            INT64 => OnnxValues::I64(of_bytes(&tensor.raw_data, tensor.int64_data, i64::from_le_bytes)),
            other => OnnxValues::Other(other),
        };
        let found = match &values {
            OnnxValues::F32(values) => values.len(),
            OnnxValues::I64(values) => values.len(),
            OnnxValues::Other(_) => elements,
        };
        if found != elements {
            return Err(damaged(format!(
                "the constant `{}` of shape {shape:?} has {found} values",
                cut(&tensor.name)
            )));
        }
        Ok(Self { shape, values })
    }
}

/// The values: as bytes where there are any, otherwise as the list of numbers.
fn of_bytes<T, const N: usize>(bytes: &[u8], listed: Vec<T>, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    if bytes.is_empty() {
        return listed;
    }
    let (whole, _) = bytes.as_chunks::<N>();
    whole.iter().map(|bytes| read(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::messages::{GraphProto, TensorShapeProto, TensorTypeProto, TypeProto};
    use super::*;

    fn model() -> ModelProto {
        let tensor = |name: &str, dims: Vec<i64>| TensorProto {
            name: name.to_owned(),
            dims,
            ..Default::default()
        };
        let dimension = |value| DimensionProto {
            value,
            ..Default::default()
        };
        let input = |name: &str, shape: Vec<i64>| ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorTypeProto {
                    shape: Some(TensorShapeProto {
                        dim: shape.into_iter().map(dimension).collect(),
                    }),
                    ..Default::default()
                }),
            }),
        };
        let graph = GraphProto {
            node: vec![
                NodeProto {
                    op_type: "Constant".to_owned(),
                    output: vec!["shape".to_owned()],
                    attribute: vec![AttributeProto {
                        name: "value".to_owned(),
                        r#type: 4,
                        t: Some(TensorProto {
                            data_type: INT64,
                            int64_data: vec![1, -1],
                            ..tensor("", vec![2])
                        }),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                NodeProto {
                    op_type: "Conv".to_owned(),
                    name: "Conv_1".to_owned(),
                    input: vec!["images".to_owned(), "weight".to_owned()],
                    output: vec!["y".to_owned()],
                    attribute: vec![
                        AttributeProto {
                            name: "strides".to_owned(),
                            r#type: attribute_type::INTS,
                            ints: vec![2, 2],
                            ..Default::default()
                        },
                        AttributeProto {
                            name: "group".to_owned(),
                            r#type: attribute_type::INT,
                            i: Some(3),
                            ..Default::default()
                        },
                    ],
                    ..Default::default()
                },
            ],
            initializer: vec![TensorProto {
                data_type: FLOAT,
                raw_data: [0.5f32, -2.0]
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
                ..tensor("weight", vec![2, 1, 1, 1])
            }],
            // Old exports list constants as inputs too; a size of 0 is an open one.
            input: vec![
                input("images", vec![0, 3, 32, 64]),
                input("weight", vec![2, 1, 1, 1]),
            ],
            output: vec![input("y", vec![])],
            ..Default::default()
        };
        ModelProto {
            graph: Some(graph),
            ..Default::default()
        }
    }

    #[test]
    fn nodes_constants_and_shapes_are_read() {
        let read = OnnxGraph::read(&mut model().encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.nodes.len(), 1, "a `Constant` is no operation");
        let node = &read.nodes[0];
        assert_eq!((node.operator.as_str(), node.name.as_str()), ("Conv", "Conv_1"));
        assert_eq!((node.ints("strides"), node.ints("pads")), (&[2, 2][..], &[][..]));
        assert_eq!((node.int("group", 1), node.int("ceil_mode", 7)), (3, 7));
        assert_eq!(read.constants["shape"].values, OnnxValues::I64(vec![1, -1]));
        assert_eq!(read.constants["weight"].values, OnnxValues::F32(vec![0.5, -2.0]));
        assert_eq!(read.constants["weight"].shape, [2, 1, 1, 1]);
        let images = OnnxInput {
            name: "images".to_owned(),
            shape: Some(vec![None, Some(3), Some(32), Some(64)]),
        };
        assert_eq!((read.inputs, read.outputs), (vec![images], vec!["y".to_owned()]));
    }

    #[test]
    fn damaged_files_are_named_and_none_panics() {
        let error = |bytes: &[u8]| OnnxGraph::read(&mut { bytes }).unwrap_err().to_string();
        assert!(error(b"not an onnx file").contains("not an ONNX file"));
        assert!(error(b"").contains("it has no graph"));
        let whole = model().encode_to_vec();
        for cut in 0..whole.len() {
            // Most cuts are errors; none may panic.
            let _ = OnnxGraph::read(&mut &whole[..cut]);
        }
        let mut short = model();
        short.graph.as_mut().unwrap().initializer[0].raw_data.truncate(4);
        assert!(error(&short.encode_to_vec()).contains("`weight` of shape [2, 1, 1, 1] has 1 values"));
        let mut huge = model();
        huge.graph.as_mut().unwrap().initializer[0].dims = vec![i64::MAX, i64::MAX];
        assert!(error(&huge.encode_to_vec()).contains("`weight` has the shape"));
        let mut elsewhere = model();
        elsewhere.graph.as_mut().unwrap().initializer[0].data_location = EXTERNAL;
        assert!(error(&elsewhere.encode_to_vec()).contains("other files beside it"));
    }
}
