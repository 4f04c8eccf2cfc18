//! What a pickle builds: values that refer to shared nodes by number, and the tensors among them.

use std::rc::Rc;

use crate::format::dtype::Dtype;
use crate::format::error::CheckpointError;

/// A value on the machine's stack: small, or the number of a [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    /// `module.name`, as the pickle asks Python to import it.
    Name(Rc<str>),
    Node(usize),
}

/// An object that others may share.
#[derive(Debug)]
pub(crate) enum Node {
    /// A list, tuple or set.
    List(Vec<Value>),
    /// In the order of assignment; the last of equal keys counts.
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Box<View>),
    /// An object that is ignored: its class, and its attributes where the pickle gives them.
    Object {
        class: Rc<str>,
        state: Option<Value>,
    },
}

/// What a pickle builds.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Value,
}

/// A run of numbers in the file, shared by the tensors that view it.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    /// What the container knows it by.
    pub(crate) key: Rc<str>,
    pub(crate) dtype: Dtype,
    /// Its length, of its own type.
    pub(crate) elements: u64,
    /// Where a view of a storage starts in it (early legacy files).
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

/// What a call returns.
pub(crate) enum Made {
    Node(Node),
    Value(Value),
}

/// What a persistent id stands for.
pub(crate) enum Persistent {
    Storage(Storage),
    Value(Value),
}

/// A function that a pickle calls, its name, and what it is called with; what it returns.
type Call = fn(&[Node], &Rc<str>, &[Value]) -> Result<Made, CheckpointError>;

/// The meaning of the names in a pickle. The machine itself knows none.
pub(crate) struct Names {
    /// Whether the pickle may not even name this: the module and the name.
    pub(crate) is_forbidden: fn(&str, &str) -> bool,
    /// An object of a class, made without arguments.
    pub(crate) instance: fn(Rc<str>) -> Node,
    /// What calling a function with these arguments returns.
    pub(crate) call: Call,
    /// What a persistent id stands for.
    pub(crate) persistent: fn(&[Node], &Value) -> Result<Persistent, CheckpointError>,
}
