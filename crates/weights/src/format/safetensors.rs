//! Safetensors files: their table of contents in, and metadata into a file.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use safetensors::tensor::Metadata;

use super::checkpoint::{Checkpoint, Entry, Format, TensorInfo};
use super::dtype::Dtype;
use super::error::{CheckpointError, MAX_ENTRIES, MAX_NAME, MAX_RANK, damaged, long_name, many_entries};

/// Longest header of a safetensors file, as in the format's own library.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// The length of a header, the header (JSON), the tensors.
pub(super) fn open<R: Read + Seek>(
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
            inline: None,
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
        description: None,
    })
}

/// Gives an error for a safetensors header that would take many times its length in memory: arrays longer
/// than any tensor shape, and more keys than a quarter of a million tensors have.
fn check_header(json: &[u8]) -> Result<(), CheckpointError> {
    /// A tensor's name, type, sizes and offsets; and one more for metadata texts.
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

/// A safetensors file with metadata. The `safetensors` crate takes a `HashMap`, whose random order would
/// change the file's hash from run to run.
pub(crate) fn with_metadata(file: &[u8], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a header's length");
    let length = u64::from_le_bytes(*length) as usize;
    let (header, data) = rest.split_at(length);
    let metadata = serde_json::to_vec(metadata).expect("strings have a JSON form");

    let mut merged = br#"{"__metadata__":"#.to_vec();
    merged.extend(metadata);
    merged.push(b',');
    merged.extend(&header.trim_ascii()[1..]);
    // The format requires data aligned to 8 bytes.
    merged.resize(merged.len().next_multiple_of(8), b' ');

    let mut bytes = Vec::with_capacity(8 + merged.len() + data.len());
    bytes.extend((merged.len() as u64).to_le_bytes());
    bytes.extend(merged);
    bytes.extend(data);
    bytes
}
