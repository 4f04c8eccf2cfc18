//! Files of weights that other programs wrote: `.pth`, `.pt` and `.pth.tar` (zip or legacy), `.pkl` of numpy's arrays, and
//! safetensors.
//!
//! [`Checkpoint::open`] reads a file's table of contents: names, types, shapes, and the offset of each
//! tensor. [`TensorInfo::read`] then reads one tensor, so a file of several networks needs memory for only
//! one. These formats store a tensor's values contiguously at some offset of the file, so nothing else is
//! read. [`OnnxGraph::read`] reads the operations and constants of an ONNX file.
//! The bytes come from the caller's `Read + Seek`: this crate opens no file.
//!
//! A `.pth` or `.pkl` holds a pickle, which Python would execute. This crate executes none of it; see
//! `format/pickle/machine.rs`.

mod archive;
mod checkpoint;
mod dtype;
mod entries;
mod error;
mod legacy;
mod numpy;
mod onnx;
mod pickle;
mod safetensors;
mod shards;
mod storages;
#[cfg(test)]
mod tests;
mod zip;

pub(crate) use self::safetensors::with_metadata;
pub use checkpoint::{Checkpoint, Entry, Format, TensorInfo};
pub use dtype::Dtype;
pub use error::CheckpointError;
pub(crate) use onnx::messages;
pub use onnx::{OnnxAttribute, OnnxGraph, OnnxInput, OnnxNode, OnnxTensor, OnnxValues};
pub use shards::{ShardIndex, Shards};

use std::io::{Read, Seek, SeekFrom};

use crate::hint::{Detector, Hint, SaveAs};

impl Checkpoint {
    /// Reads a file's table of contents.
    ///
    /// # Errors
    /// Every fault of an unknown, damaged or hostile file.
    pub fn open<R: Read + Seek>(source: &mut R) -> Result<Self, CheckpointError> {
        let length = source.seek(SeekFrom::End(0))?;
        source.rewind()?;
        let mut start = vec![];
        source.by_ref().take(512).read_to_end(&mut start)?;
        source.rewind()?;
        let header = start
            .first_chunk::<8>()
            .map_or(u64::MAX, |first| u64::from_le_bytes(*first));
        if start.starts_with(b"PK\x03\x04") {
            zip::open(source, length)
        } else if header <= self::safetensors::MAX_HEADER && start.get(8) == Some(&b'{') {
            self::safetensors::open(source, length, header)
        } else if start.starts_with(&[0x80])
            || start.starts_with(legacy::MAGIC_TEXT)
            || old_protocol(&start) == Some(1)
        {
            legacy::open(source, length)
        } else if old_protocol(&start) == Some(0) {
            Err(error::unsupported(
                "a pickle of protocol 0, the oldest",
                SaveAs::Tensors,
            ))
        } else if start.get(257..262) == Some(b"ustar") {
            Err(error::unsupported(
                "a tar of PyTorch before 0.1.10 (2017)",
                SaveAs::Default,
            ))
        } else {
            Err(unknown(&start))
        }
    }
}

/// The error for a file without weights. Its start often shows a failed download.
fn unknown(start: &[u8]) -> CheckpointError {
    let text = start.trim_ascii_start();
    let (found, hint) = if text.starts_with(b"{") {
        (": it is JSON", Some(Hint::GiveFolder))
    } else if start.is_empty() {
        (": it is empty", None)
    } else if text.starts_with(b"<") {
        (": it is a web page or XML", Some(Hint::DownloadAgain))
    } else if text.starts_with(b"version https://git-lfs") {
        (": it is Git LFS's pointer to one", Some(Hint::FetchFromGitLfs))
    } else if COMPRESSED.iter().any(|mark| start.starts_with(mark)) {
        (": it is compressed", Some(Hint::Unpack))
    } else if start.starts_with(b"GGUF") {
        (": it is a GGUF file, as llama.cpp reads", None)
    } else if start.starts_with(b"\x89HDF\r\n\x1a\n") {
        (": it is an HDF5 file, as Keras writes", None)
    } else if start.starts_with(b"\x93NUMPY") {
        (": it is one array of NumPy's", None)
    } else if start.get(4..8) == Some(b"TFL3") {
        (": it is a TensorFlow Lite file", None)
    } else if is_onnx(start) {
        (": it is an ONNX file", Some(Hint::UseToDetect(Detector::Onnx)))
    } else {
        ("", None)
    };
    CheckpointError::Unknown { found, hint }
}

/// How files begin that gzip, zstd, xz, bzip2 and 7-Zip compressed.
const COMPRESSED: [&[u8]; 5] = [
    &[0x1f, 0x8b],
    &[0x28, 0xb5, 0x2f, 0xfd],
    b"\xfd7zXZ\0",
    b"BZh",
    b"7z\xbc\xaf\x27\x1c",
];

/// The protocol of a file that begins as a dictionary, a list or an object in a pickle of protocol 0 or 1, which have no
/// mark: those of Python 2, and of `pickle.dump` there without a protocol.
fn old_protocol(start: &[u8]) -> Option<u8> {
    // A place in the memory is a line behind `p`, and from protocol 1 on a byte behind `q`.
    let objects: [&[u8]; 4] = [
        b"(d",
        b"(l",
        b"ccollections\nOrderedDict\n",
        b"ccopy_reg\n_reconstructor\n",
    ];
    let behind = objects.iter().find_map(|mark| start.strip_prefix(*mark));
    match behind {
        Some([b'p', ..]) => Some(0),
        Some([b'q', ..]) => Some(1),
        _ if start.starts_with(b"}q") || start.starts_with(b"]q") => Some(1),
        _ => None,
    }
}

/// Whether a file begins as an ONNX model does: field 1, a small version number, and then the text of another field of
/// the model (producer, domain, documentation) or its graph.
fn is_onnx(start: &[u8]) -> bool {
    const VERSION: u8 = 0x08;
    const TEXTS_AND_GRAPH: [u8; 6] = [0x12, 0x1a, 0x22, 0x32, 0x3a, 0x42];
    matches!(start, [VERSION, 1..=31, next, ..] if TEXTS_AND_GRAPH.contains(next))
}
