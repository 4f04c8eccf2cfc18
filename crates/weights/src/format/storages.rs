//! Checks that both PyTorch formats need for their storages.

use super::error::{CheckpointError, damaged, unsupported};
use super::pickle::Storage;
use crate::hint::SaveAs;

/// The length of a storage according to the pickle.
pub(super) fn storage_bytes(storage: &Storage) -> Result<u64, CheckpointError> {
    let bytes = storage.elements.checked_mul(storage.dtype.bytes());
    bytes.ok_or_else(|| damaged(format!("storage {} is impossibly long", storage.key)))
}

/// The error for a file with big-endian values.
pub(super) fn big_endian() -> CheckpointError {
    unsupported("written on a big-endian machine", SaveAs::LittleEndian)
}
