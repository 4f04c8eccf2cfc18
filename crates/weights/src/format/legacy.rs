//! PyTorch's older files: consecutive pickles, then the storages; and a lone pickle of numpy's arrays.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read, Seek, SeekFrom};

use super::checkpoint::{Checkpoint, Extent, Format};
use super::entries;
use super::error::{CheckpointError, cut, damaged, unreadable, unsupported};
use super::pickle::{self, Input, Node, Pickle, Storage, Value};
use super::storages::{big_endian, storage_bytes};
use crate::hint::SaveAs;

/// `1950a86a20f9469cfc6c`: the first pickle of a legacy file.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The same in pickle protocols 0 and 1, as text.
pub(super) const MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n";

/// The only version of the legacy format.
const VERSION: i128 = 1001;

/// A file of one pickle, a dictionary with arrays of numpy's somewhere in it, as detectron2's `.pkl`. `taken`: its bytes.
fn of_arrays(pickle: &Pickle, taken: u64, length: u64) -> Result<Option<Checkpoint>, CheckpointError> {
    let is_dict = matches!(pickle.root, Value::Node(root) if matches!(pickle.nodes[root], Node::Dict(_)));
    if !is_dict || !pickle.nodes.iter().any(|node| matches!(node, Node::Array(_))) {
        return Ok(None);
    }
    if taken != length {
        return Err(damaged(format!("{} bytes follow its pickle", length - taken)));
    }
    Ok(Some(Checkpoint {
        format: Format::Numpy,
        root: entries::tree_of_arrays(pickle)?,
        metadata: BTreeMap::new(),
        bytes: length,
        description: None,
    }))
}

/// Consecutive pickles, as PyTorch wrote from 0.1.10 to 1.5: magic, version, machine, the object, the
/// storages' keys; then each storage, prefixed with its length.
pub(super) fn open<R: Read + Seek>(source: &mut R, length: u64) -> Result<Checkpoint, CheckpointError> {
    let mut input = Input::new(BufReader::new(&mut *source), length);
    let not_torch = || {
        unsupported(
            "a pickle that PyTorch did not write (it lacks PyTorch's mark) and that holds no dictionary of numpy's arrays",
            SaveAs::Tensors,
        )
    };
    let first = pickle::read(&mut input)?;
    if first.root != Value::Int(MAGIC) {
        return match of_arrays(&first, input.taken(), length)? {
            Some(checkpoint) => Ok(checkpoint),
            None => Err(not_torch()),
        };
    }
    if pickle::read(&mut input)?.root != Value::Int(VERSION) {
        return Err(unreadable("a legacy checkpoint of an unknown version"));
    }
    let machine = pickle::read(&mut input)?;
    let Value::Node(machine_index) = machine.root else {
        return Err(damaged("the legacy checkpoint does not describe its machine"));
    };
    if let Node::Dict(facts) = &machine.nodes[machine_index] {
        let is = |key: &Value, name: &str| matches!(key, Value::Text(key) if &**key == name);
        if facts
            .iter()
            .any(|(key, value)| is(key, "little_endian") && *value == Value::Bool(false))
        {
            return Err(big_endian());
        }
    }
    let pickle = pickle::read(&mut input)?;
    let keys = pickle::read(&mut input)?;
    let mut at = input.taken();
    drop(input);

    let mut declared = HashMap::new();
    for node in &pickle.nodes {
        if let Node::Storage(storage) = node {
            let bytes = storage_bytes(storage)?;
            let before = declared.insert(storage.key.clone(), (storage.elements, bytes));
            if before.is_some_and(|before| before != (storage.elements, bytes)) {
                return Err(damaged(format!("storage {} has two lengths", storage.key)));
            }
        }
    }
    let keys = match &keys.root {
        Value::Node(index) => match &keys.nodes[*index] {
            Node::List(keys) => keys.as_slice(),
            _ => return Err(damaged("the legacy checkpoint lists no storages")),
        },
        _ => return Err(damaged("the legacy checkpoint lists no storages")),
    };
    let mut extents = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else {
            return Err(damaged("a storage is not named by a text"));
        };
        let Some(&(elements, bytes)) = declared.get(key) else {
            return Err(damaged(format!(
                "storage {} belongs to no tensor",
                cut(key).escape_default()
            )));
        };
        source.seek(SeekFrom::Start(at))?;
        let mut count = [0; 8];
        source
            .read_exact(&mut count)
            .map_err(|_| damaged(format!("the file ends before storage {key}")))?;
        if u64::from_le_bytes(count) != elements {
            return Err(damaged(format!(
                "storage {key} holds {} numbers, its pickle says {elements}",
                i64::from_le_bytes(count)
            )));
        }
        let start = at + 8;
        let end = start.checked_add(bytes).filter(|&end| end <= length);
        at = end.ok_or_else(|| damaged(format!("the file ends in storage {key}")))?;
        extents.insert(
            key.clone(),
            Extent {
                start,
                bytes,
                crc: None,
            },
        );
    }
    let locate = |storage: &Storage| {
        let extent = extents.get(&storage.key).cloned();
        extent.ok_or_else(|| damaged(format!("the file holds no storage {}", storage.key)))
    };
    Ok(Checkpoint {
        format: Format::Legacy,
        root: entries::tree(&pickle, locate)?,
        metadata: BTreeMap::new(),
        bytes: length,
        description: None,
    })
}
