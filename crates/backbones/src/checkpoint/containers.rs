//! The files that hold tensors: PyTorch's zip archives, its older streams of pickles, and safetensors.
//!
//! All three keep a tensor's numbers as they are at some offset of the file, so opening one reads its table of contents
//! alone.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read, Seek, SeekFrom};

use safetensors::tensor::Metadata;

use super::archive::Archive;
use super::entries::{self, Extent};
use super::pickle::{self, Input, Node, Value};
use super::torch::{MAX_RANK, Storage};
use super::{
    Checkpoint, CheckpointError, Dtype, Entry, Format, MAX_ENTRIES, MAX_NAME, TensorInfo, cut, damaged,
    long_name, many_entries,
};

/// `1950a86a20f9469cfc6c`: the first pickle of a legacy file.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The same in pickle protocols 0 and 1, as a text.
const LEGACY_MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n";

/// The one version of the legacy format.
const LEGACY_VERSION: i128 = 1001;

/// Longest header of a safetensors file, as in the format's own library.
const SAFETENSORS_HEADER: u64 = 100_000_000;

/// Longest `byteorder` entry that is read.
const SHORT_ENTRY: u64 = 64;

/// Opens any of the three.
pub(super) fn open<R: Read + Seek>(source: &mut R) -> Result<Checkpoint, CheckpointError> {
    let length = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut start = vec![];
    source.by_ref().take(512).read_to_end(&mut start)?;
    source.rewind()?;
    let header = start
        .first_chunk::<8>()
        .map_or(u64::MAX, |first| u64::from_le_bytes(*first));
    if start.starts_with(b"PK\x03\x04") {
        zip(source, length)
    } else if header <= SAFETENSORS_HEADER && start.get(8) == Some(&b'{') {
        safetensors(source, length, header)
    } else if start.starts_with(&[0x80]) || start.starts_with(LEGACY_MAGIC_TEXT) {
        legacy(source, length)
    } else if start.get(257..262) == Some(b"ustar") {
        Err(CheckpointError::Unsupported(
            "a tar of PyTorch before 0.1.10 (2017); load it with PyTorch and save it again".to_owned(),
        ))
    } else {
        Err(CheckpointError::Unknown(other(&start)))
    }
}

/// What a file is that holds no weights, where its start tells: mostly a download that went wrong.
fn other(start: &[u8]) -> &'static str {
    let text = start.trim_ascii_start();
    if start.is_empty() {
        ": it is empty"
    } else if text.starts_with(b"<") {
        ": it is a web page or XML; hint: such is what a failed download leaves: fetch it again"
    } else if text.starts_with(b"version https://git-lfs") {
        ": it is Git LFS's pointer to one; hint: `git lfs pull` fetches the file itself"
    } else if start.starts_with(&[0x1f, 0x8b]) {
        ": it is compressed; hint: unpack it with gzip"
    } else {
        ""
    }
}

/// A zip archive, as PyTorch has written since 1.6: the pickle in `NAME/data.pkl`, storages in `NAME/data/KEY`.
fn zip<R: Read + Seek>(source: &mut R, length: u64) -> Result<Checkpoint, CheckpointError> {
    let archive = Archive::open(source, length)?;
    let folders = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut folders =
        folders.filter(|folder| folder.is_empty() || folder.find('/') == Some(folder.len() - 1));
    let folder = folders.next().map(str::to_owned).ok_or_else(|| {
        CheckpointError::Unsupported(
            "a zip archive without `data.pkl`, which no PyTorch checkpoint lacks".to_owned(),
        )
    })?;
    if folders.next().is_some() {
        return Err(damaged("its zip archive holds two `data.pkl`"));
    }
    if archive.has(&format!("{folder}constants.pkl")) {
        return Err(CheckpointError::Unsupported(
            "a TorchScript program; load it with PyTorch and save its `state_dict()`".to_owned(),
        ));
    }
    let byteorder = format!("{folder}byteorder");
    if archive.has(&byteorder) {
        let extent = archive.member(&byteorder)?;
        let mut order = vec![];
        source.seek(SeekFrom::Start(extent.start))?;
        source
            .take(extent.bytes.min(SHORT_ENTRY))
            .read_to_end(&mut order)?;
        if order.trim_ascii() != b"little" {
            return Err(big_endian());
        }
    }
    let pickled = archive.member(&format!("{folder}data.pkl"))?;
    let mut bytes = vec![];
    source.seek(SeekFrom::Start(pickled.start))?;
    source
        .take(pickled.bytes.min(pickle::MAX_BYTES + 1))
        .read_to_end(&mut bytes)?;
    if pickled.bytes <= pickle::MAX_BYTES && pickled.crc.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
        return Err(damaged(
            "its pickle does not have its checksum: the file was changed or badly copied",
        ));
    }
    let pickle = pickle::read(&mut Input::new(bytes.as_slice(), pickled.bytes))?;
    let locate = |storage: &Storage| {
        let extent = archive.member(&format!("{folder}data/{}", storage.key))?;
        let declared = storage_bytes(storage)?;
        if declared != extent.bytes {
            return Err(damaged(format!(
                "storage {} holds {} bytes, its pickle says {declared}",
                storage.key, extent.bytes
            )));
        }
        Ok(extent)
    };
    Ok(Checkpoint {
        format: Format::Zip,
        root: entries::tree(&pickle, locate)?,
        metadata: BTreeMap::new(),
        bytes: length,
    })
}

/// Pickles end to end, as PyTorch wrote from 0.1.10 to 1.5: magic, version, machine, the object, the storages' keys; then
/// each storage, its length first.
fn legacy<R: Read + Seek>(source: &mut R, length: u64) -> Result<Checkpoint, CheckpointError> {
    let mut input = Input::new(BufReader::new(&mut *source), length);
    let not_torch = || {
        CheckpointError::Unsupported(
            "a pickle that PyTorch did not write (it lacks PyTorch's mark), such as one of numpy's arrays; load it with \
             Python and save its arrays as tensors, with safetensors or `torch.save`"
                .to_owned(),
        )
    };
    match pickle::read(&mut input).map(|pickle| pickle.root) {
        Ok(Value::Int(LEGACY_MAGIC)) => {}
        Ok(_) => return Err(not_torch()),
        Err(error) => return Err(error),
    }
    if pickle::read(&mut input)?.root != Value::Int(LEGACY_VERSION) {
        return Err(CheckpointError::Unsupported(
            "a legacy checkpoint of an unknown version".to_owned(),
        ));
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
    })
}

/// The length of a header, the header (JSON), the tensors.
fn safetensors<R: Read + Seek>(
    source: &mut R,
    length: u64,
    header: u64,
) -> Result<Checkpoint, CheckpointError> {
    source.seek(SeekFrom::Start(8))?;
    let mut text = vec![];
    source.take(header).read_to_end(&mut text)?;
    let data = 8 + header;
    check_header(&text)?;
    let header = serde_json::from_slice::<Metadata>(&text)
        .map_err(|error| damaged(format!("the header of its safetensors cannot be read: {error}")))?;
    let expected = data.checked_add(header.data_len() as u64);
    if expected != Some(length) {
        return Err(damaged(format!(
            "its safetensors header describes {} bytes, the file has {length}",
            expected.unwrap_or(u64::MAX)
        )));
    }
    let tensors = header.tensors();
    if tensors.len() > MAX_ENTRIES {
        return Err(many_entries());
    }
    if tensors.keys().any(|name| name.len() > MAX_NAME) {
        return Err(long_name());
    }
    let tensor = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let tensor = TensorInfo {
            dtype: Dtype::of_safetensors(info.dtype),
            shape: info.shape.clone(),
            strides: None,
            start: data + start as u64,
            bytes: (end - start) as u64,
            crc: None,
        };
        (name, Entry::Tensor(tensor))
    };
    Ok(Checkpoint {
        format: Format::Safetensors,
        root: Entry::Dict(tensors.into_iter().map(tensor).collect()),
        metadata: header
            .metadata()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        bytes: length,
    })
}

/// Refuses a safetensors header that would take many times its length in memory: arrays longer than a tensor's sizes can
/// be, and more keys than a quarter of a million tensors have.
fn check_header(json: &[u8]) -> Result<(), CheckpointError> {
    /// A tensor's name, type, sizes and offsets; and one more for texts beside them.
    const KEYS: usize = 5 * MAX_ENTRIES;
    let (mut depth, mut items, mut keys, mut quoted) = (0usize, 0, 0, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            _ if quoted => {}
            b'[' => {
                items = if depth == 0 { 1 } else { items + 1 };
                depth += 1;
            }
            b']' => depth = depth.saturating_sub(1),
            b',' if depth > 0 => items += 1,
            b':' => keys += 1,
            _ => {}
        }
        if items > MAX_RANK {
            return Err(CheckpointError::Limit(format!(
                "its safetensors header describes a tensor of more than {MAX_RANK} dimensions"
            )));
        }
        if keys > KEYS {
            return Err(many_entries());
        }
    }
    Ok(())
}

fn storage_bytes(storage: &Storage) -> Result<u64, CheckpointError> {
    let bytes = storage.elements.checked_mul(storage.dtype.bytes());
    bytes.ok_or_else(|| damaged(format!("storage {} is impossibly long", storage.key)))
}

fn big_endian() -> CheckpointError {
    CheckpointError::Unsupported(
        "written on a big-endian machine; load it with PyTorch on a little-endian one and save it again"
            .to_owned(),
    )
}
