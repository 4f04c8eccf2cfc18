//! The meaning of the names in a checkpoint's pickle: PyTorch's tensors, numpy's arrays, plain containers, and ignored
//! objects.
//!
//! [`call`] knows every function that a checkpoint of weights calls and builds its result; any other call is
//! an error with the function's name. Instances of unknown classes (a user's config) are not calls: they
//! become empty objects.

use std::rc::Rc;

use super::value::{Array, Bytes, Made, Names, Node, Persistent, Storage, Value, View};
use crate::format::dtype::Dtype;
use crate::format::error::{CheckpointError, MAX_RANK, cut, damaged, unreadable, unsupported};
use crate::hint::SaveAs;

/// The machine's table of names.
pub(super) const NAMES: Names = Names {
    is_forbidden,
    instance,
    call,
    persistent,
};

/// Longest key of a storage: a number.
const MAX_KEY: usize = 64;

/// Maximum entries of the dictionary attached to a tensor; PyTorch has two (`neg`, `conj`).
const MAX_FLAGS: usize = 64;

/// Most bytes stored as text that are decoded.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// Names of `builtins` that are data types.
const BUILTIN_TYPES: [&str; 15] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
];

/// Modules that a checkpoint of weights never mentions.
const FORBIDDEN: [&str; 22] = [
    "_operator",
    "_pickle",
    "bdb",
    "cPickle",
    "ctypes",
    "imp",
    "importlib",
    "marshal",
    "nt",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "webbrowser",
];

/// Functions whose results hold no weights: the module and the start of the name.
const PASSED_OVER: [(&str, &str); 31] = [
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("builtins", "bytearray"),
    ("builtins", "bytes"),
    ("builtins", "complex"),
    ("builtins", "object"),
    ("builtins", "range"),
    ("builtins", "slice"),
    ("collections", "deque"),
    ("datetime", ""),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("functools", "partial"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy.random._pickle", ""),
    ("pathlib", ""),
    ("pathlib._local", ""),
    ("timm.layers.format", "Format"),
    ("torch", "device"),
    ("torch._tensor", "_rebuild_"),
    ("torch._utils", "_rebuild_"),
    ("torch.serialization", "_get_layout"),
    ("types", "SimpleNamespace"),
    ("uuid", "UUID"),
];

/// Whether the name is forbidden in a pickle.
fn is_forbidden(module: &str, name: &str) -> bool {
    let package = module.split('.').next().unwrap_or(module);
    match package {
        "builtins" | "__builtin__" => !BUILTIN_TYPES.contains(&name) && name != "xrange",
        "types" => name != "SimpleNamespace",
        "torch" => {
            matches!(module, "torch.hub" | "torch.utils.cpp_extension")
                || (module == "torch" && name == "load")
        }
        _ => FORBIDDEN.contains(&package),
    }
}

/// An object of a class, created without arguments.
fn instance(class: Rc<str>) -> Node {
    if is_dict(&class) {
        Node::Dict(vec![])
    } else {
        Node::Object { class, state: None }
    }
}

fn is_dict(class: &str) -> bool {
    matches!(
        class,
        "collections.OrderedDict"
            | "collections.defaultdict"
            | "collections.Counter"
            | "builtins.dict"
            | "__builtin__.dict"
    )
}

/// The result of a call of the function `name`.
///
/// # Errors
/// [`CheckpointError::Hostile`] for a function outside the list; damaged arguments.
fn call(nodes: &[Node], name: &Rc<str>, arguments: &[Value]) -> Result<Made, CheckpointError> {
    let (module, function) = name.rsplit_once('.').unwrap_or(("", name));
    match (module, function) {
        _ if is_dict(name) => Ok(Made::Node(dict(nodes, arguments)?)),
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => {
            match arguments {
                [] => Ok(Made::Node(Node::List(vec![]))),
                [items] => Ok(Made::Value(items.clone())),
                _ => Err(damaged(format!(
                    "{name} takes one argument, got {}",
                    arguments.len()
                ))),
            }
        }
        ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__") => match arguments.first() {
            Some(Value::Name(class)) => Ok(Made::Node(instance(class.clone()))),
            _ => Err(damaged("the pickle makes an object of no class")),
        },
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
            let view = view(nodes, function, arguments)?;
            Ok(Made::Node(Node::Tensor(Box::new(view))))
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match arguments.first() {
            Some(data @ Value::Node(index)) if matches!(nodes[*index], Node::Tensor(_)) => {
                Ok(Made::Value(data.clone()))
            }
            _ => Err(damaged("a parameter of the pickle has no tensor")),
        },
        ("torch._utils", _) if function.starts_with("_rebuild_sparse") => {
            Err(unsupported("a sparse tensor", SaveAs::Dense))
        }
        ("torch._utils", "_rebuild_meta_tensor_no_storage") => Err(unsupported(
            "a tensor on the `meta` device, which has a shape and no numbers",
            SaveAs::Loaded,
        )),
        // (function, type, arguments, attributes): a subclass of Tensor.
        ("torch._tensor", "_rebuild_from_type_v2") => match arguments {
            [Value::Name(inner), _, Value::Node(index), _] if inner.starts_with("torch._utils._rebuild_") => {
                match &nodes[*index] {
                    Node::List(arguments) => call(nodes, inner, arguments),
                    _ => Err(damaged("arguments of a call are no tuple")),
                }
            }
            _ => Err(damaged("a tensor of the pickle cannot be read")),
        },
        // Python 3's bytes in protocol 2: one character for each.
        ("_codecs", "encode") => Ok(Made::Node(match arguments {
            [Value::Text(text), Value::Text(encoding)]
                if matches!(&**encoding, "latin1" | "latin-1") && text.len() <= MAX_TEXT_BYTES =>
            {
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
                let bytes = bytes.collect::<Result<Vec<u8>, _>>();
                let bytes = bytes.map_err(|_| damaged("a text of the pickle is not Latin-1"))?;
                Node::Bytes(Bytes::Copy(bytes.into()))
            }
            _ => Node::Object {
                class: name.clone(),
                state: None,
            },
        })),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") if matches!(arguments, [Value::Name(class), ..] if &**class == "numpy.ndarray") => {
            Ok(Made::Node(Node::Array(Array::Empty)))
        }
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => match arguments {
            [data, dtype, shape, order, ..] => {
                let parts = [shape, dtype, order, data].map(Value::clone);
                Ok(Made::Node(Node::Array(Array::Buffer(Box::new(parts)))))
            }
            _ => Err(damaged("an array of the pickle cannot be read")),
        },
        ("numpy", "dtype") => match arguments {
            [Value::Text(type_name), ..] => Ok(Made::Node(Node::ArrayType {
                name: type_name.clone(),
                state: None,
            })),
            _ => Ok(Made::Node(Node::Object {
                class: name.clone(),
                state: None,
            })),
        },
        _ if PASSED_OVER.iter().any(|(known, start)| {
            let module = if module == "__builtin__" {
                "builtins"
            } else {
                module
            };
            *known == module && function.starts_with(start)
        }) =>
        {
            Ok(Made::Node(Node::Object {
                class: name.clone(),
                state: None,
            }))
        }
        _ => Err(CheckpointError::Hostile(format!("`{name}`"))),
    }
}

/// `OrderedDict([(key, value), …])`, `defaultdict(factory)`, `dict(other)`.
fn dict(nodes: &[Node], arguments: &[Value]) -> Result<Node, CheckpointError> {
    // A factory of default values comes first. A tuple of any length may be passed a million times.
    let source = arguments.iter().take(2).find_map(|argument| match argument {
        Value::Node(index) => Some(&nodes[*index]),
        _ => None,
    });
    let entries = match source {
        None => vec![],
        Some(Node::Dict(entries)) => entries.clone(),
        Some(Node::List(items)) => {
            let pair = |item: &Value| match item {
                Value::Node(index) => match &nodes[*index] {
                    Node::List(pair) => match pair.as_slice() {
                        [key, value] => Some((key.clone(), value.clone())),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            };
            let pairs = items.iter().map(pair).collect::<Option<Vec<_>>>();
            pairs.ok_or_else(|| damaged("a dictionary of the pickle is not made of pairs"))?
        }
        Some(_) => return Err(damaged("a dictionary of the pickle is not made of pairs")),
    };
    Ok(Node::Dict(entries))
}

/// `_rebuild_tensor(storage, offset, size, stride, …)`; the third version adds the type after gradient and hooks.
fn view(nodes: &[Node], function: &str, arguments: &[Value]) -> Result<View, CheckpointError> {
    let wrong = || damaged("a tensor of the pickle cannot be read");
    let [storage, offset, shape, strides, rest @ ..] = arguments else {
        return Err(wrong());
    };
    let storage = match storage {
        Value::Node(index) => match &nodes[*index] {
            Node::Storage(storage) => storage.clone(),
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    let dtype = match (function, rest) {
        ("_rebuild_tensor_v3", [_, _, Value::Name(dtype), ..]) => {
            let name = dtype.strip_prefix("torch.").unwrap_or(dtype);
            Dtype::of_torch(name).ok_or_else(|| unreadable(format!("a tensor of type {name}")))?
        }
        ("_rebuild_tensor_v3", _) => return Err(wrong()),
        _ => storage.dtype,
    };
    // PyTorch stores the sign of `-x` and of a conjugate outside the values.
    let flags = rest.get(if function == "_rebuild_tensor_v3" { 3 } else { 2 });
    if let Some(Value::Node(index)) = flags
        && let Node::Dict(flags) = &nodes[*index]
    {
        // All tensors may share one dictionary.
        if flags.len() > MAX_FLAGS {
            return Err(CheckpointError::Limit(format!(
                "{} flags of a tensor, expected at most {MAX_FLAGS}",
                flags.len()
            )));
        }
        if flags.iter().any(|(key, value)| {
            matches!(key, Value::Text(key) if matches!(&**key, "neg" | "conj")) && *value == Value::Bool(true)
        }) {
            return Err(unsupported(
                "a tensor whose numbers are still to be negated or conjugated",
                SaveAs::Resolved,
            ));
        }
    }
    let (shape, strides) = (whole_numbers(nodes, shape)?, whole_numbers(nodes, strides)?);
    if shape.len() != strides.len() {
        return Err(wrong());
    }
    let sizes = shape
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<_, _>>();
    Ok(View {
        dtype,
        offset: whole_number(offset)?,
        shape: sizes.map_err(|_| wrong())?,
        strides,
        storage,
    })
}

fn whole_number(value: &Value) -> Result<u64, CheckpointError> {
    match value {
        Value::Int(number) => u64::try_from(*number),
        _ => return Err(damaged("a size in the pickle is no number")),
    }
    .map_err(|_| damaged("a size in the pickle is negative or too large"))
}

fn whole_numbers(nodes: &[Node], value: &Value) -> Result<Vec<u64>, CheckpointError> {
    match value {
        Value::Node(index) => match &nodes[*index] {
            Node::List(items) if items.len() <= MAX_RANK => items.iter().map(whole_number).collect(),
            Node::List(_) => Err(damaged(format!("a tensor of more than {MAX_RANK} dimensions"))),
            _ => Err(damaged("a shape in the pickle is no tuple")),
        },
        _ => Err(damaged("a shape in the pickle is no tuple")),
    }
}

/// `("storage", torch.FloatStorage, key, location, elements[, view])`; legacy files also keep a module's source:
/// `("module", class, file, source)`.
fn persistent(nodes: &[Node], id: &Value) -> Result<Persistent, CheckpointError> {
    let wrong = || damaged("a storage of the pickle cannot be read");
    let parts = match id {
        Value::Node(index) => match &nodes[*index] {
            Node::List(parts) => parts.as_slice(),
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    let (kind, rest) = match parts {
        [Value::Text(kind), rest @ ..] => (&**kind, rest),
        _ => return Err(wrong()),
    };
    match (kind, rest) {
        ("module", [class, ..]) => Ok(Persistent::Value(class.clone())),
        ("storage", [Value::Name(class), Value::Text(key), _, elements, view @ ..]) => {
            let kind = class.rsplit('.').next().unwrap_or(class);
            let kind = kind.strip_suffix("Storage").ok_or_else(wrong)?;
            let dtype =
                Dtype::of_storage(kind).ok_or_else(|| unreadable(format!("a storage of type {class}")))?;
            let first = match view {
                [] | [Value::None] => 0,
                [Value::Node(index)] => match &nodes[*index] {
                    Node::List(view) => match view.as_slice() {
                        [_, offset, _] => whole_number(offset)?,
                        _ => return Err(wrong()),
                    },
                    _ => return Err(wrong()),
                },
                _ => return Err(wrong()),
            };
            // Check its length first: a text of megabytes may be the key of a million storages.
            if key.len() > MAX_KEY
                || !key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            {
                let key = cut(key);
                return Err(damaged(format!("a storage called {key:?}, expected a number")));
            }
            Ok(Persistent::Storage(Storage {
                key: key.clone(),
                dtype,
                elements: whole_number(elements)?,
                first,
            }))
        }
        _ => Err(wrong()),
    }
}
