//! Hashes of files.

use sha2::{Digest, Sha256};

/// A SHA-256.
pub(crate) type Content = [u8; 32];

/// SHA-256 of a file.
pub(crate) fn sha256(file: &[u8]) -> Content {
    Sha256::digest(file).into()
}
