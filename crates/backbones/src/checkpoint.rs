//! Files of weights that other programs wrote: `.pth`, `.pt` and `.pth.tar` (zip or legacy) and safetensors.
//!
//! [`Checkpoint::open`] reads a file's table of contents: names, types, shapes, and where each tensor lies.
//! [`TensorInfo::read`] then reads one tensor, so a file of several networks costs the memory of the one that is wanted.
//! The bytes come from a `Read + Seek` of the caller: this crate opens no file.
//!
//! A `.pth` holds a pickle, which Python would execute. Nothing of it is executed here; see `checkpoint/pickle.rs`.

mod archive;
mod containers;
mod entries;
mod pickle;
#[cfg(test)]
mod tests;
mod torch;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use burn::tensor::{BoolStore, DType, Shape, TensorData};
use serde::Serialize;

use crate::weights::METADATA_KEY;

/// Most entries of a file: objects that a pickle shares are counted each time that they are met.
const MAX_ENTRIES: usize = 1 << 18;

/// Longest name: an entry's dotted path, a class, in bytes. What a pickle names once it can show a million times.
const MAX_NAME: usize = 1024;

/// A file's table of contents.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What kind of file it is.
    pub format: Format,
    /// Its entries by name.
    pub root: Entry,
    /// Texts beside the tensors of a safetensors file.
    pub metadata: BTreeMap<String, String>,
    /// The file's length.
    pub bytes: u64,
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
}

/// One entry of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A tensor.
    Tensor(TensorInfo),
    /// A dictionary; a list's entries are called `0`, `1` and so on.
    Dict(BTreeMap<String, Entry>),
    /// Anything else, in words: a number, a text, an object that is passed over.
    Value(String),
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its type.
    pub dtype: Dtype,
    /// Its size in each dimension.
    pub shape: Vec<usize>,
    /// Steps between elements; `None` if they lie in order.
    strides: Option<Vec<u64>>,
    /// The first byte.
    start: u64,
    /// Bytes from the first element to the last.
    bytes: u64,
    /// CRC-32 of these bytes, where the file says it.
    crc: Option<u32>,
}

/// Why a file of weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// None of the known kinds.
    #[error("neither a PyTorch checkpoint (zip or legacy) nor a safetensors file{0}")]
    Unknown(&'static str),
    /// Bytes that contradict each other.
    #[error("damaged, or made by hand: {0}")]
    Damaged(String),
    /// A pickle that wants something called or imported.
    #[error(
        "its pickle asks for {0}, which weights do not need: refused, and nothing of it was run; hint: if you trust the \
         file's author, load it with PyTorch and save its `state_dict()` alone"
    )]
    Hostile(String),
    /// Sound, but not read here.
    #[error("this file cannot be read: {0}")]
    Unsupported(String),
    /// More than a file of weights needs.
    #[error("beyond what a file of weights needs: {0}")]
    Limit(String),
    /// The bytes cannot be had.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

fn damaged(what: impl Into<String>) -> CheckpointError {
    CheckpointError::Damaged(what.into())
}

fn long_name() -> CheckpointError {
    CheckpointError::Limit(format!("a name in it is longer than {MAX_NAME} bytes"))
}

fn many_entries() -> CheckpointError {
    CheckpointError::Limit(format!("it holds more than {MAX_ENTRIES} entries"))
}

/// The start of a text that a file may make as long as it likes.
fn cut(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Checkpoint {
    /// Reads the table of contents.
    ///
    /// # Errors
    /// Every way in which a file can be unknown, damaged or hostile.
    pub fn open<R: Read + Seek>(source: &mut R) -> Result<Self, CheckpointError> {
        containers::open(source)
    }

    /// Whether Passer wrote it.
    pub fn is_ours(&self) -> bool {
        self.metadata.contains_key(METADATA_KEY)
    }

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
    /// Number of elements; the largest number where that overflows.
    pub fn elements(&self) -> u64 {
        self.shape
            .iter()
            .fold(1, |count: u64, &size| count.saturating_mul(size as u64))
    }

    /// Reads the tensor in its own type from the file that it was found in.
    ///
    /// # Errors
    /// A type that Burn has not; bytes that are missing or do not have their checksum; a view that repeats its numbers
    /// into more than 64 MiB.
    pub fn read<R: Read + Seek>(&self, source: &mut R) -> Result<TensorData, CheckpointError> {
        const REPEATED: u64 = 64 << 20;
        let dtype = self
            .dtype
            .burn()
            .ok_or_else(|| CheckpointError::Unsupported(format!("a tensor of type {}", self.dtype.name())))?;
        let wanted = self.elements().saturating_mul(self.dtype.bytes());
        if wanted > self.bytes.max(REPEATED) {
            return Err(CheckpointError::Limit(format!(
                "a tensor of shape {:?} repeats {} bytes",
                self.shape, self.bytes
            )));
        }
        source.seek(SeekFrom::Start(self.start))?;
        let mut bytes = vec![];
        source.take(self.bytes).read_to_end(&mut bytes)?;
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
        // To the next element: the last dimension runs fastest.
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

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain float.
    Bf16,
    /// An 8-bit float of any kind.
    F8,
    /// A pair of 64-bit floats.
    C128,
    /// A pair of 32-bit floats.
    C64,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A type of less than a byte (safetensors).
    Packed,
}

/// Type, name, bytes, PyTorch's storage (without `Storage`) and dtype.
const DTYPES: [(Dtype, &str, u64, &str, &str); 17] = [
    (Dtype::F64, "f64", 8, "Double", "float64"),
    (Dtype::F32, "f32", 4, "Float", "float32"),
    (Dtype::F16, "f16", 2, "Half", "float16"),
    (Dtype::Bf16, "bf16", 2, "BFloat16", "bfloat16"),
    (Dtype::F8, "f8", 1, "", "float8"),
    (Dtype::C128, "c128", 16, "ComplexDouble", "complex128"),
    (Dtype::C64, "c64", 8, "ComplexFloat", "complex64"),
    (Dtype::I64, "i64", 8, "Long", "int64"),
    (Dtype::I32, "i32", 4, "Int", "int32"),
    (Dtype::I16, "i16", 2, "Short", "int16"),
    (Dtype::I8, "i8", 1, "Char", "int8"),
    (Dtype::U64, "u64", 8, "", "uint64"),
    (Dtype::U32, "u32", 4, "", "uint32"),
    (Dtype::U16, "u16", 2, "", "uint16"),
    (Dtype::U8, "u8", 1, "Byte", "uint8"),
    (Dtype::Bool, "bool", 1, "Bool", "bool"),
    (Dtype::Packed, "packed", 0, "", ""),
];

impl Dtype {
    fn row(self) -> &'static (Self, &'static str, u64, &'static str, &'static str) {
        DTYPES.iter().find(|row| row.0 == self).unwrap_or(&DTYPES[0])
    }

    /// `f32`, `bf16`, `i64`, …
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.row().2
    }

    /// Whether weights can be made of it.
    pub fn is_weight(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    fn burn(self) -> Option<DType> {
        Some(match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 => DType::I16,
            Self::I8 => DType::I8,
            Self::U64 => DType::U64,
            Self::U32 => DType::U32,
            Self::U16 => DType::U16,
            Self::U8 => DType::U8,
            Self::Bool => DType::Bool(BoolStore::U8),
            Self::F8 | Self::C128 | Self::C64 | Self::Packed => return None,
        })
    }

    /// By the name of PyTorch's storage, without `Storage`.
    fn of_storage(name: &str) -> Option<Self> {
        if name == "Untyped" {
            return Some(Self::U8);
        }
        DTYPES
            .iter()
            .find(|row| row.3 == name && !name.is_empty())
            .map(|row| row.0)
    }

    /// By the name of PyTorch's dtype, without `torch.`.
    fn of_torch(name: &str) -> Option<Self> {
        if name.starts_with("float8_") {
            return Some(Self::F8);
        }
        DTYPES
            .iter()
            .find(|row| row.4 == name && !name.is_empty())
            .map(|row| row.0)
    }

    fn of_safetensors(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as Theirs;
        match dtype {
            Theirs::F64 => Self::F64,
            Theirs::F32 => Self::F32,
            Theirs::F16 => Self::F16,
            Theirs::BF16 => Self::Bf16,
            Theirs::C64 => Self::C64,
            Theirs::I64 => Self::I64,
            Theirs::I32 => Self::I32,
            Theirs::I16 => Self::I16,
            Theirs::I8 => Self::I8,
            Theirs::U64 => Self::U64,
            Theirs::U32 => Self::U32,
            Theirs::U16 => Self::U16,
            Theirs::U8 => Self::U8,
            Theirs::BOOL => Self::Bool,
            other if other.bitsize() == 8 => Self::F8,
            _ => Self::Packed,
        }
    }
}
