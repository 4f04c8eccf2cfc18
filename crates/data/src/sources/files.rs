//! Small file operations that the standard library lacks.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::names;
use crate::error::Error;

/// The reason why an expected path is missing, if it is a symbolic link.
pub(crate) fn broken_link(path: &Path) -> Option<String> {
    let link = fs::symlink_metadata(path).ok()?;
    if !link.is_symlink() {
        return None;
    }
    let error = fs::metadata(path).err()?;
    let target = fs::read_link(path).unwrap_or_default();
    Some(match error.kind() {
        io::ErrorKind::NotFound => format!("a symbolic link to `{}`, which does not exist", target.display()),
        // The name of this kind of error is not yet stable in Rust.
        _ if error.to_string().contains("levels of symbolic links") => {
            "a symbolic link that leads back to itself".to_string()
        }
        _ => format!("a symbolic link to `{}`: {error}", target.display()),
    })
}

/// Time of last change, ns since 1970; 0 where the file system has none.
pub(crate) fn modified_ns(metadata: &Metadata) -> i64 {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    modified
        .and_then(|time| i64::try_from(time.as_nanos()).ok())
        .unwrap_or(0)
}

/// Reads `buffer.len()` bytes at an offset, without moving a file position that other threads use.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads `buffer.len()` bytes at an offset, regardless of the file's position.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Paths in a folder, sorted by bytes, without files and folders of other programs and hidden ones.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && names::skipped_folder(&name).is_none() {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}
