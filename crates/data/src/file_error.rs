//! The error of one file or folder: the action, the path, and the system's reason.

use std::io;
use std::path::{Path, PathBuf};

/// A file or folder that could not be read, written, listed or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {source}", path.display())]
pub struct FileError {
    /// The action, as a verb: `read`, `write`, `list`.
    pub action: &'static str,
    /// The file or folder that the caller named, never a temporary one beside it.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: the error of `action` on `path`.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError { action, path, source }
    }

    /// Whether the disk is full, which the user can fix.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}
