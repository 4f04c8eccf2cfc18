//! Durable writes under the names that other crates call.

use crate::error::Error;
use data::durable;
use std::path::Path;

/// [`durable::write`].
///
/// # Errors
/// Files that cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Ok(durable::write(path, bytes)?)
}

/// [`durable::write_json`].
///
/// # Errors
/// Files that cannot be written.
pub fn write_json_atomically<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    Ok(durable::write_json(path, value)?)
}
