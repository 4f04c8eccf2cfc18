//! Arrays of numpy's in a pickle: their described parts in, tensors out.
//!
//! numpy pickles an array as an empty one and a state: version, shape, type, whether the first dimension varies fastest
//! (Fortran's order), and the values' bytes. With protocol 5 it calls `_frombuffer` with the same parts. Nothing is called here:
//! the parts are read.

use std::sync::Arc;

use super::checkpoint::TensorInfo;
use super::dtype::Dtype;
use super::error::{CheckpointError, MAX_RANK, damaged, unsupported};
use super::pickle::{Array, Bytes, Node, Value};
use super::storages::big_endian;
use crate::hint::SaveAs;

/// An array's tensor; `None` for one of Python objects, texts or records, which holds no numbers.
///
/// # Errors
/// Parts that contradict each other, and numbers that this program cannot read.
pub(super) fn tensor(nodes: &[Node], array: &Array) -> Result<Option<TensorInfo>, CheckpointError> {
    let wrong = || damaged("an array of its pickle cannot be read");
    let items = |value: &Value| match value {
        Value::Node(index) => match &nodes[*index] {
            Node::List(items) => Some(items.as_slice()),
            _ => None,
        },
        _ => None,
    };
    let [shape, dtype, order, data] = match array {
        Array::Empty => return Err(damaged("an array of its pickle has no contents")),
        Array::State(state) => match items(state).ok_or_else(wrong)? {
            [_, parts @ ..] if parts.len() == 4 => [0, 1, 2, 3].map(|part| &parts[part]),
            // Before there were versions.
            [shape, dtype, order, data] => [shape, dtype, order, data],
            _ => return Err(wrong()),
        },
        Array::Buffer(parts) => parts.each_ref(),
    };
    let shape = items(shape).ok_or_else(wrong)?;
    if shape.len() > MAX_RANK {
        return Err(damaged(format!("an array of more than {MAX_RANK} dimensions")));
    }
    let size = |size: &Value| match size {
        Value::Int(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    let shape = shape
        .iter()
        .map(size)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(wrong)?;
    let Some(dtype) = dtype_of(nodes, dtype)? else {
        return Ok(None);
    };
    let is_fortran = match order {
        Value::Bool(value) => *value,
        Value::Int(value) => *value != 0,
        Value::Text(order) if matches!(&**order, "C" | "F") => &**order == "F",
        _ => return Err(wrong()),
    };
    let elements = shape
        .iter()
        .try_fold(1u64, |count, size| count.checked_mul(*size as u64));
    let bytes = elements.and_then(|elements| elements.checked_mul(dtype.bytes()));
    let bytes = bytes.ok_or_else(|| damaged(format!("an array of shape {shape:?} is impossibly long")))?;
    let (start, held, inline) = match data {
        Value::Node(index) => match &nodes[*index] {
            Node::Bytes(Bytes::At { start, length }) => (*start, *length, None),
            Node::Bytes(Bytes::Copy(copy)) => (0, copy.len() as u64, Some(copy.clone())),
            Node::Object { class, .. } if &**class == "_codecs.encode" => {
                return Err(unsupported(
                    "an array whose bytes are stored as text (protocol 2 of Python 3's pickle)",
                    SaveAs::Tensors,
                ));
            }
            _ => return Err(wrong()),
        },
        // Python 2's `str`, whose bytes happen to be UTF-8.
        Value::Text(text) => (0, text.len() as u64, Some(Arc::from(text.as_bytes()))),
        _ => return Err(wrong()),
    };
    if held != bytes {
        return Err(damaged(format!(
            "an array of shape {shape:?} has {held} bytes, expected {bytes}"
        )));
    }
    let strides = is_fortran.then(|| {
        let mut step = 1u64;
        let each = shape.iter().map(|size| {
            let stride = step;
            step = step.saturating_mul(*size as u64);
            stride
        });
        each.collect()
    });
    Ok(Some(TensorInfo {
        dtype,
        shape,
        strides,
        start,
        bytes,
        crc: None,
        inline,
    }))
}

/// A type by numpy's short name (`f4`), little-endian; `None` for what holds no numbers.
fn dtype_of(nodes: &[Node], value: &Value) -> Result<Option<Dtype>, CheckpointError> {
    let wrong = || damaged("a type of an array in its pickle cannot be read");
    let Value::Node(index) = value else {
        return Err(wrong());
    };
    let Node::ArrayType { name, state } = &nodes[*index] else {
        return Err(wrong());
    };
    let dtype = match &**name {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        "c8" => Dtype::C64,
        "c16" => Dtype::C128,
        _ => return Ok(None),
    };
    // (version, order of bytes, …); without a state it is the machine's own, which is little-endian wherever numpy writes
    // no state.
    let order = match state {
        None => None,
        Some(Value::Node(state)) => match &nodes[*state] {
            Node::List(parts) => match parts.get(1) {
                Some(Value::Text(order)) => Some(order),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        },
        Some(_) => return Err(wrong()),
    };
    match order.map(|order| &**order) {
        None | Some("<" | "|" | "=") => Ok(Some(dtype)),
        Some(">") => Err(big_endian()),
        Some(_) => Err(wrong()),
    }
}
