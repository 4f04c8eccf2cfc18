//! Converts a pickle's values to a tree of named entries, and checks every tensor against the available
//! bytes.

use std::collections::BTreeMap;

use super::checkpoint::{Entry, Extent, TensorInfo};
use super::error::{CheckpointError, MAX_ENTRIES, MAX_NAME, cut, damaged, long_name, many_entries};
use super::numpy;
use super::pickle::{Node, Pickle, Storage, Value, View};

/// Deepest nesting of dictionaries and lists.
const MAX_DEPTH: usize = 64;

/// Maximum total bytes of all dotted paths: a shared key, and every level above it, counts in many paths.
const MAX_PATHS: usize = 64 << 20;

/// Maximum items visited in lists and attributes that are not shown: they too may be shared.
const MAX_LOOKS: usize = 64 << 20;

/// Most bytes of arrays that are no range of the file: one such array may be an entry many times.
const MAX_INLINE: usize = 64 << 20;

/// Longest list of plain values to show.
const SHOWN: usize = 8;

/// The pickle's root as a tree; `locate` returns the position of a storage.
pub(super) fn tree(
    pickle: &Pickle,
    locate: impl Fn(&Storage) -> Result<Extent, CheckpointError>,
) -> Result<Entry, CheckpointError> {
    walked(pickle, false, locate)
}

/// The same of a file that is one pickle, whose arrays lie in it.
pub(super) fn tree_of_arrays(pickle: &Pickle) -> Result<Entry, CheckpointError> {
    walked(pickle, true, |storage| {
        Err(damaged(format!("the file holds no storage {}", storage.key)))
    })
}

fn walked(
    pickle: &Pickle,
    with_arrays: bool,
    locate: impl Fn(&Storage) -> Result<Extent, CheckpointError>,
) -> Result<Entry, CheckpointError> {
    let mut walk = Walk {
        nodes: &pickle.nodes,
        locate,
        with_arrays,
        inline: 0,
        path: vec![],
        entries: 0,
        name: 0,
        names: 0,
        looks: 0,
    };
    walk.entry(&pickle.root)
}

struct Walk<'a, L> {
    nodes: &'a [Node],
    locate: L,
    /// Whether the pickle is the file, so that its arrays can be found in it.
    with_arrays: bool,
    /// Bytes of arrays that were copied so far.
    inline: usize,
    /// The nodes from the root to here.
    path: Vec<usize>,
    entries: usize,
    /// Bytes of the dotted path to here, and of all paths so far.
    name: usize,
    names: usize,
    /// Items visited so far.
    looks: usize,
}

impl<L: Fn(&Storage) -> Result<Extent, CheckpointError>> Walk<'_, L> {
    fn entry(&mut self, value: &Value) -> Result<Entry, CheckpointError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(many_entries());
        }
        let Value::Node(index) = value else {
            return Ok(Entry::Value(plain(value)));
        };
        if self.path.contains(index) {
            return Err(damaged("an object of its pickle contains itself"));
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(CheckpointError::Limit(format!(
                "its pickle nests deeper than {MAX_DEPTH}"
            )));
        }
        self.path.push(*index);
        let nodes = self.nodes;
        self.looks += match &nodes[*index] {
            Node::List(items) => items.len(),
            Node::Object {
                state: Some(Value::Node(state)),
                ..
            } => match &nodes[*state] {
                Node::Dict(attributes) => attributes.len(),
                _ => 0,
            },
            _ => 0,
        };
        if self.looks > MAX_LOOKS {
            return Err(CheckpointError::Limit(format!(
                "its lists and objects hold more than {MAX_LOOKS} items"
            )));
        }
        let entry = match &nodes[*index] {
            Node::Tensor(view) => Entry::Tensor(self.tensor(view)?),
            Node::Storage(_) => Entry::Value("a storage".to_owned()),
            Node::Bytes(_) => Entry::Value("an object of bytes, passed over".to_owned()),
            Node::ArrayType { .. } => Entry::Value("an object of numpy.dtype, passed over".to_owned()),
            Node::Array(array) if self.with_arrays => match numpy::tensor(nodes, array)? {
                Some(tensor) => {
                    self.inline += tensor.inline.as_ref().map_or(0, |bytes| bytes.len());
                    if self.inline > MAX_INLINE {
                        return Err(CheckpointError::Limit(format!(
                            "its arrays hold more than {} MiB of text",
                            MAX_INLINE >> 20
                        )));
                    }
                    Entry::Tensor(tensor)
                }
                None => Entry::Value("an array of no numbers, passed over".to_owned()),
            },
            Node::Array(_) => Entry::Value("an array of numpy's, passed over".to_owned()),
            Node::Dict(pairs) => {
                let mut entries = BTreeMap::new();
                for (key, value) in pairs {
                    let key = match key {
                        Value::Text(key) if key.len() > MAX_NAME => return Err(long_name()),
                        Value::Text(key) => key.to_string(),
                        other => plain(other),
                    };
                    // As in Python, the last assignment to a key wins.
                    let entry = self.child(&key, value)?;
                    entries.insert(key, entry);
                }
                Entry::Dict(entries)
            }
            Node::List(items) if items.iter().any(|item| matches!(item, Value::Node(_))) => {
                let mut entries = BTreeMap::new();
                for (position, item) in items.iter().enumerate() {
                    let key = position.to_string();
                    let entry = self.child(&key, item)?;
                    entries.insert(key, entry);
                }
                Entry::Dict(entries)
            }
            Node::List(items) if items.len() <= SHOWN => {
                let items = items.iter().map(plain).collect::<Vec<_>>();
                Entry::Value(format!("[{}]", items.join(", ")))
            }
            Node::List(items) => Entry::Value(format!("a list of {}", items.len())),
            Node::Object { class, state } => match self.module_tables(state.as_ref()) {
                Some(tables) => self.module(&tables)?,
                None => Entry::Value(format!("an object of {class}, passed over")),
            },
        };
        self.path.pop();
        Ok(entry)
    }

    /// The entry under a key of the current entry.
    fn child(&mut self, key: &str, value: &Value) -> Result<Entry, CheckpointError> {
        let outer = self.name;
        self.name += key.len() + 1;
        self.names += self.name;
        if self.name > MAX_NAME {
            return Err(long_name());
        }
        if self.names > MAX_PATHS {
            return Err(CheckpointError::Limit(format!(
                "the names of its entries are longer than {} MiB",
                MAX_PATHS >> 20
            )));
        }
        let entry = self.entry(value);
        self.name = outer;
        entry
    }

    /// The parts of a pickled `torch.nn.Module` that form its state dict: parameters, buffers, modules.
    fn module_tables(&self, state: Option<&Value>) -> Option<[Value; 3]> {
        let Some(Value::Node(state)) = state else {
            return None;
        };
        let Node::Dict(attributes) = &self.nodes[*state] else {
            return None;
        };
        let table = |name: &str| {
            let found = attributes
                .iter()
                .rfind(|(key, _)| matches!(key, Value::Text(key) if &**key == name));
            found.map(|(_, value)| value.clone())
        };
        Some([table("_parameters")?, table("_buffers")?, table("_modules")?])
    }

    /// The entries of the module's `state_dict()`, plus its non-persistent buffers.
    fn module(&mut self, tables: &[Value]) -> Result<Entry, CheckpointError> {
        let mut all = BTreeMap::new();
        for table in tables {
            let Entry::Dict(entries) = self.entry(table)? else {
                return Err(damaged("a pickled module holds no dictionary of its parameters"));
            };
            // `None` means an absent bias.
            all.extend(
                entries
                    .into_iter()
                    .filter(|(_, entry)| !matches!(entry, Entry::Value(_))),
            );
        }
        Ok(Entry::Dict(all))
    }

    fn tensor(&self, view: &View) -> Result<TensorInfo, CheckpointError> {
        let storage = (self.locate)(&view.storage)?;
        let size = view.dtype.bytes();
        let span = span(view).and_then(|elements| {
            // Its start in the storage; the view may begin at `first`.
            let start = view.storage.first.checked_mul(view.storage.dtype.bytes())?;
            let start = start.checked_add(view.offset.checked_mul(size)?)?;
            let bytes = elements.checked_mul(size)?;
            let end = start.checked_add(bytes)?;
            (end <= storage.bytes || bytes == 0).then_some((start, bytes))
        });
        let (start, bytes) = span.ok_or_else(|| {
            damaged(format!(
                "a tensor of shape {:?} reaches beyond its storage {} of {} bytes",
                view.shape, view.storage.key, storage.bytes
            ))
        })?;
        Ok(TensorInfo {
            inline: None,
            dtype: view.dtype,
            strides: (!is_contiguous(view)).then(|| {
                let steps = view.shape.iter().zip(&view.strides);
                // A dimension of one element takes no steps, so its stride may be any number.
                steps
                    .map(|(&size, &stride)| if size == 1 { 0 } else { stride })
                    .collect()
            }),
            shape: view.shape.clone(),
            start: storage.start.saturating_add(start),
            bytes,
            // A checksum covers the whole storage.
            crc: storage.crc.filter(|_| start == 0 && bytes == storage.bytes),
        })
    }
}

/// Elements from the first to the last that the view covers; `None` on overflow.
fn span(view: &View) -> Option<u64> {
    if view.shape.contains(&0) {
        return Some(0);
    }
    let last = view
        .shape
        .iter()
        .zip(&view.strides)
        .try_fold(0u64, |last, (&size, &stride)| {
            last.checked_add((size as u64 - 1).checked_mul(stride)?)
        })?;
    last.checked_add(1)
}

/// Whether the elements are in the tensor's own order in the file.
fn is_contiguous(view: &View) -> bool {
    let mut expected = 1u64;
    for (&size, &stride) in view.shape.iter().zip(&view.strides).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        match expected.checked_mul(size as u64) {
            Some(next) => expected = next,
            // Only a view that repeats elements can be this large.
            None => return false,
        }
    }
    true
}

fn plain(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => cut(text),
        Value::Name(name) => name.to_string(),
        Value::Node(_) => "an object".to_owned(),
    }
}
