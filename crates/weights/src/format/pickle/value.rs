//! The output of a pickle: values that refer to shared nodes by index, and the tensors among them.

use std::rc::Rc;
use std::sync::Arc;

use crate::format::dtype::Dtype;
use crate::format::error::CheckpointError;

/// A value on the machine's stack: small, or the index of a [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    /// `module.name`, which the pickle would make Python import.
    Name(Rc<str>),
    Node(usize),
}

/// An object that others may share.
#[derive(Debug)]
pub(crate) enum Node {
    /// A list, tuple or set.
    List(Vec<Value>),
    /// In the order of assignment; the last of equal keys wins.
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Box<View>),
    Bytes(Bytes),
    Array(Array),
    /// The type of an array's numbers: numpy's short name, and its state if the pickle gives one.
    ArrayType {
        name: Rc<str>,
        state: Option<Value>,
    },
    /// An ignored object: its class, and its attributes if the pickle gives them.
    Object {
        class: Rc<str>,
        state: Option<Value>,
    },
}

/// Bytes of a pickle.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    /// Where they lie, from the pickle's first byte.
    At { start: u64, length: u64 },
    /// A few that the pickle holds in another form.
    Copy(Arc<[u8]>),
}

/// An array of numpy's.
#[derive(Debug)]
pub(crate) enum Array {
    /// Before its state.
    Empty,
    /// Its state as a tuple.
    State(Value),
    /// Shape, type, order, bytes.
    Buffer(Box<[Value; 4]>),
}

/// The output of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Value,
}

/// A run of values in the file, shared by the tensors that view it.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    /// Its name in the container.
    pub(crate) key: Rc<str>,
    pub(crate) dtype: Dtype,
    /// Its length in elements of its type.
    pub(crate) elements: u64,
    /// Start of a view in the storage (early legacy files).
    pub(crate) first: u64,
}

/// A tensor: a window into a storage. Offset and strides count elements of `dtype`.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) storage: Storage,
    pub(crate) dtype: Dtype,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<u64>,
}

/// The result of a call.
pub(crate) enum Made {
    Node(Node),
    Value(Value),
}

/// The meaning of a persistent id.
pub(crate) enum Persistent {
    Storage(Storage),
    Value(Value),
}

/// Handles a function call of a pickle: the name and the arguments in, the result out.
type Call = fn(&[Node], &Rc<str>, &[Value]) -> Result<Made, CheckpointError>;

/// The meaning of the names in a pickle. The machine itself knows no names.
pub(crate) struct Names {
    /// Whether the module and name are forbidden in a pickle.
    pub(crate) is_forbidden: fn(&str, &str) -> bool,
    /// An object of a class, created without arguments.
    pub(crate) instance: fn(Rc<str>) -> Node,
    /// The result of a function call with these arguments.
    pub(crate) call: Call,
    /// The meaning of a persistent id.
    pub(crate) persistent: fn(&[Node], &Value) -> Result<Persistent, CheckpointError>,
}
