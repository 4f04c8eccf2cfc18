//! One process at a time in a folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::file_error::FileError;
use crate::terminal;

/// Name of the file that is locked.
const FILE_NAME: &str = ".lock";
/// Longest description of a holder that is read, bytes.
const LONGEST_HOLDER: u64 = 256;

/// Keeps other processes out of a folder until it is dropped.
///
/// The system releases the lock however a process ends, so the file that a killed process leaves behind locks
/// nobody out.
#[derive(Debug)]
#[must_use = "the lock is released when it is dropped"]
pub struct FolderLock {
    _file: File,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, holds the lock.
    #[error("`{}` is in use by {holder}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The holder: `process 4711 on atlas`, or `another process` where that is unknown.
        holder: String,
    },
    /// The folder or the lock file could not be created.
    #[error(transparent)]
    File(#[from] FileError),
}

impl FolderLock {
    /// Creates the folder if it is missing, and locks it. Where the file system has no locks (some network
    /// file systems), it logs a warning instead.
    ///
    /// # Errors
    /// [`LockError::InUse`] where another process holds it, and files that cannot be created.
    pub fn take(folder: &Path) -> Result<FolderLock, LockError> {
        fs::create_dir_all(folder).map_err(FileError::new("make", folder))?;
        let path = folder.join(FILE_NAME);
        // Not truncated on opening: the content is the holder's name.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::new("write", &path))?;
        match file.try_lock() {
            Ok(()) => {
                // The name only serves another process's message: a lock without a name works as well.
                let named = file
                    .set_len(0)
                    .and_then(|()| file.write_all(this_process().as_bytes()));
                if let Err(error) = named {
                    tracing::debug!("`{}` could not be written: {error}", path.display());
                }
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::InUse {
                    folder: folder.to_path_buf(),
                    holder: holder(&mut file).unwrap_or_else(|| "another process".to_string()),
                });
            }
            Err(TryLockError::Error(error)) => tracing::warn!(
                "`{}` cannot be locked ({error}): start no second process in it",
                folder.display()
            ),
        }
        Ok(FolderLock { _file: file })
    }
}

/// Number and host of this process: folders on network file systems are locked across machines.
fn this_process() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok());
    let process = format!("process {}", std::process::id());
    match host.as_deref().map(str::trim).filter(|host| !host.is_empty()) {
        Some(host) => format!("{process} on {host}"),
        None => process,
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LONGEST_HOLDER).read_to_string(&mut text).ok()?;
    let text = terminal::one_line(&text);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out_and_told_by_whom() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("made/on the way");
        let lock = FolderLock::take(&folder).unwrap();
        let error = FolderLock::take(&folder).unwrap_err();
        let LockError::InUse {
            folder: named,
            holder,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(*named, folder);
        assert!(
            holder.starts_with(&format!("process {}", std::process::id())),
            "{holder}"
        );
        assert!(error.to_string().contains("on the way` is in use by process "));
        // A failed attempt does not erase the holder's name.
        let again = FolderLock::take(&folder).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        drop(lock);
        let _lock = FolderLock::take(&folder).unwrap();
    }

    #[test]
    fn a_file_left_behind_locks_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(FILE_NAME),
            "process 1 on a machine that is gone, with a long name",
        )
        .unwrap();
        let _lock = FolderLock::take(folder.path()).unwrap();
        // The new name replaces the old one completely.
        let name = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        assert!(name.starts_with(&format!("process {}", std::process::id())) && !name.contains("gone"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let error = FolderLock::take(&file.join("below")).unwrap_err();
        let expected = format!("cannot make `{}`", file.join("below").display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
