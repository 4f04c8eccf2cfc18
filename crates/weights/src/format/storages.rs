//! Checks that both of PyTorch's formats make of their storages.

use super::error::{CheckpointError, damaged, unsupported};
use super::pickle::Storage;
use crate::hint::SaveAs;

/// The length that a pickle gives a storage.
pub(super) fn storage_bytes(storage: &Storage) -> Result<u64, CheckpointError> {
    let bytes = storage.elements.checked_mul(storage.dtype.bytes());
    bytes.ok_or_else(|| damaged(format!("storage {} is impossibly long", storage.key)))
}

/// A file whose numbers have their bytes in the other order.
pub(super) fn big_endian() -> CheckpointError {
    unsupported("written on a big-endian machine", SaveAs::LittleEndian)
}
