//! A file's table of contents: entries by name, and the offset of each tensor's values.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use burn::tensor::{Shape, TensorData};
use serde::Serialize;

use super::dtype::Dtype;
use super::error::{CheckpointError, damaged, unreadable};
use crate::description::Description;

/// A file's table of contents.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The kind of file.
    pub format: Format,
    /// Its entries by name.
    pub root: Entry,
    /// Metadata texts of a safetensors file.
    pub metadata: BTreeMap<String, String>,
    /// The file's length.
    pub bytes: u64,
    /// The facts of the `config.json` that belongs to it, which the caller adds.
    pub description: Option<Description>,
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// PyTorch's zip archive (since 1.6).
    Zip,
    /// PyTorch's stream of pickles (before 1.6, and `_use_new_zipfile_serialization=False`).
    Legacy,
    /// Safetensors.
    Safetensors,
    /// One pickle of numpy's arrays, as detectron2's `.pkl`.
    Numpy,
}

/// One entry of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A tensor.
    Tensor(TensorInfo),
    /// A dictionary; a list's entries are named `0`, `1` and so on.
    Dict(BTreeMap<String, Entry>),
    /// Any other entry, in words: a number, a text, an ignored object.
    Value(String),
}

/// A range of the file.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// CRC-32 of these bytes, if the file states it.
    pub(crate) crc: Option<u32>,
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its type.
    pub dtype: Dtype,
    /// Its size in each dimension.
    pub shape: Vec<usize>,
    /// Steps between elements; `None` if they are contiguous.
    pub(crate) strides: Option<Vec<u64>>,
    /// The first byte.
    pub(crate) start: u64,
    /// Bytes from the first element to the last.
    pub(crate) bytes: u64,
    /// CRC-32 of these bytes, if the file states it.
    pub(crate) crc: Option<u32>,
    /// These bytes themselves, where the file holds them in another form; `start` means nothing then.
    pub(crate) inline: Option<Arc<[u8]>>,
}

impl Checkpoint {
    /// All tensors by their dotted path from the root, sorted.
    pub fn tensors(&self) -> Vec<(String, &TensorInfo)> {
        self.root.tensors()
    }
}

impl Entry {
    /// The entry under a path of keys joined by `/`; the empty path is the entry itself.
    pub fn at(&self, path: &str) -> Option<&Entry> {
        path.split('/')
            .filter(|key| !key.is_empty())
            .try_fold(self, |entry, key| match entry {
                Entry::Dict(entries) => entries.get(key),
                _ => None,
            })
    }

    /// All tensors below by their dotted path, in the order of keys.
    pub fn tensors(&self) -> Vec<(String, &TensorInfo)> {
        fn walk<'a>(entry: &'a Entry, name: &str, found: &mut Vec<(String, &'a TensorInfo)>) {
            match entry {
                Entry::Tensor(tensor) => found.push((name.to_owned(), tensor)),
                Entry::Dict(entries) => {
                    for (key, entry) in entries {
                        let name = if name.is_empty() {
                            key.clone()
                        } else {
                            format!("{name}.{key}")
                        };
                        walk(entry, &name, found);
                    }
                }
                Entry::Value(_) => {}
            }
        }
        let mut found = vec![];
        walk(self, "", &mut found);
        found
    }
}

impl TensorInfo {
    /// Number of elements; the largest `u64` on overflow.
    pub fn elements(&self) -> u64 {
        self.shape
            .iter()
            .fold(1, |count: u64, &size| count.saturating_mul(size as u64))
    }

    /// Reads the tensor in its own type from its file.
    ///
    /// # Errors
    /// A type that Burn lacks; bytes that are missing or fail their checksum; a view that expands to more
    /// than 64 MiB by repetition.
    pub fn read<R: Read + Seek>(&self, source: &mut R) -> Result<TensorData, CheckpointError> {
        const REPEATED: u64 = 64 << 20;
        let dtype = self
            .dtype
            .burn()
            .ok_or_else(|| unreadable(format!("a tensor of type {}", self.dtype.name())))?;
        let size = self.elements().saturating_mul(self.dtype.bytes());
        if size > self.bytes.max(REPEATED) {
            return Err(CheckpointError::Limit(format!(
                "a tensor of shape {:?} repeats {} bytes",
                self.shape, self.bytes
            )));
        }
        let mut bytes = vec![];
        match &self.inline {
            Some(inline) => bytes.extend_from_slice(inline),
            None => {
                source.seek(SeekFrom::Start(self.start))?;
                source.take(self.bytes).read_to_end(&mut bytes)?;
            }
        }
        if bytes.len() as u64 != self.bytes {
            return Err(damaged(format!(
                "the file ends in a tensor of shape {:?}",
                self.shape
            )));
        }
        if self.crc.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
            return Err(damaged(format!(
                "a tensor of shape {:?} does not have its checksum: the file was changed or badly copied",
                self.shape
            )));
        }
        if let Some(strides) = &self.strides {
            bytes = gathered(
                &bytes,
                self.elements(),
                &self.shape,
                strides,
                self.dtype.bytes() as usize,
            );
        }
        Ok(TensorData::from_bytes_vec(
            bytes,
            Shape::from(self.shape.clone()),
            dtype,
        ))
    }
}

/// The elements of a view in the order of its shape.
fn gathered(bytes: &[u8], elements: u64, shape: &[usize], strides: &[u64], size: usize) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(elements as usize * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..elements {
        gathered.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        // Advances to the next element; the last dimension varies fastest.
        for dimension in (0..shape.len()).rev() {
            let stride = strides[dimension] as usize;
            index[dimension] += 1;
            at += stride;
            if index[dimension] < shape[dimension] {
                break;
            }
            at -= stride * index[dimension];
            index[dimension] = 0;
        }
    }
    gathered
}
