//! Durable files and folders: under its name, each is either whole or absent.
//!
//! Everything is written next to its final path under a name that begins with [`PARTIAL`], synced to the
//! disk, and renamed. A reader never sees half a file, a full disk leaves the old file in place, and a crash
//! leaves at most a hidden leftover, which the next write of the same name replaces.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::file_error::FileError;
use crate::sha256::sha256_of;

/// Prefix of the names of unfinished files and folders; the dot hides them from readers of folders.
pub const PARTIAL: &str = ".partial-";

/// Suffix of the name, behind [`PARTIAL`], of a folder whose place another one is taking. [`remove_folder`] uses another
/// suffix, because what it removes may be half gone.
const REPLACED: &str = "-replaced";
/// The suffix of a folder that is being removed.
const REMOVED: &str = "-old";

/// Bytes that a [`Writer`] collects before it writes them.
const BUFFER_BYTES: usize = 1 << 18;
/// Longest file name that its temporary name contains unchanged, bytes: most systems allow 255 for both.
const LONGEST_NAME: usize = 200;

/// Writes `bytes` to `path`, replacing an existing file.
///
/// # Errors
/// [`FileError`] names `path`; the old file stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut writer = Writer::create(path)?;
    writer.write_all(bytes).map_err(FileError::new("write", path))?;
    writer.finish()
}

/// Gives a file another name in its folder, replacing a file of that name.
///
/// # Errors
/// [`FileError`] names `from`, which keeps its name, or the folder whose change is not known to be on the disk.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))?;
    to.parent().map_or(Ok(()), sync_folder)
}

/// [`write()`] for a value as indented JSON with a final newline.
///
/// # Errors
/// Those of [`write()`], and a value that JSON cannot represent.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(io::Error::from)
        .map_err(FileError::new("write", path))?;
    text.push(b'\n');
    write(path, &text)
}

/// A file being written, buffered. [`Writer::finish`] gives it its name; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    aside: PathBuf,
    /// `None` after `finish`.
    file: Option<BufWriter<File>>,
}

impl Writer {
    /// Begins the file that becomes `path`. Its folder must exist.
    ///
    /// # Errors
    /// [`FileError`] names `path`.
    pub fn create(path: &Path) -> Result<Writer, FileError> {
        let (aside, file) = open_aside(path).map_err(FileError::new("write", path))?;
        Ok(Writer {
            path: path.to_path_buf(),
            aside,
            file: Some(BufWriter::with_capacity(BUFFER_BYTES, file)),
        })
    }

    /// Another handle to the same file, for libraries that own their sink. Drop it before [`Writer::finish`],
    /// and write to only one of the two.
    ///
    /// # Errors
    /// [`FileError`] names the file's path.
    pub fn handle(&self) -> Result<File, FileError> {
        match &self.file {
            Some(file) => file.get_ref().try_clone(),
            None => Err(finished_already()),
        }
        .map_err(FileError::new("write", &self.path))
    }

    /// Syncs the file to the disk and gives it its name, replacing an existing file.
    ///
    /// # Errors
    /// [`FileError`] names the file's path; the old file stays.
    pub fn finish(self) -> Result<(), FileError> {
        self.close(true)
    }

    /// [`Writer::finish`] without waiting for the disk: for many small files whose loss in a power failure is
    /// detected and repaired. A killed process leaves no half file either way.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish_unsynced(self) -> Result<(), FileError> {
        self.close(false)
    }

    fn close(mut self, sync: bool) -> Result<(), FileError> {
        let path = self.path.clone();
        self.rename(sync).map_err(FileError::new("write", &path))?;
        match path.parent() {
            Some(parent) if sync => sync_folder(parent),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, sync: bool) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(finished_already)?;
        file.flush()?;
        if sync {
            file.get_ref().sync_all()?;
        }
        // On Unix the file stays open and locked until it has its name: see `open_aside`. Windows renames
        // only closed files.
        if cfg!(windows) {
            self.file = None;
        }
        if let Err(error) = fs::rename(&self.aside, &self.path) {
            // The error that matters is this one.
            let _ = fs::remove_file(&self.aside);
            self.file = None;
            return Err(error);
        }
        self.file = None;
        Ok(())
    }
}

fn finished_already() -> io::Error {
    io::Error::other("the file is finished")
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().ok_or_else(finished_already)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().ok_or_else(finished_already)?.flush()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Best effort; buffered bytes are dropped. On Unix the file is removed while it is locked, before
            // another writer can take it for a leftover. Windows removes only closed files.
            let (file, _) = file.into_parts();
            let open = (!cfg!(windows)).then_some(file);
            let _ = fs::remove_file(&self.aside);
            drop(open);
        }
    }
}

/// Opens the temporary file next to `path` that is later renamed to it.
///
/// Its name is always the same, so that a crash's leftover is overwritten. Where another writer has it, which is known by
/// its lock, or another user owns it, this one takes a name of its own, and the last to finish wins.
fn open_aside(path: &Path) -> io::Result<(PathBuf, File)> {
    let usual = aside(path, "")?;
    let open = |aside: &Path| {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(aside)
    };
    match open(&usual) {
        // Another user's, who writes it now or left it in a shared folder.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
        Ok(file) => {
            let is_free = match file.try_lock() {
                Err(TryLockError::WouldBlock) => false,
                // Between opening and locking it, the writer before may have renamed it: then it is that writer's finished
                // file.
                Ok(()) => is_the_file_at(&file, &usual),
                // Some network file systems have no locks.
                Err(TryLockError::Error(_)) => true,
            };
            if is_free {
                file.set_len(0)?;
                return Ok((usual, file));
            }
        }
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unshared = aside(path, &format!("-{}-{number}", std::process::id()))?;
    let file = open(&unshared)?;
    file.set_len(0)?;
    Ok((unshared, file))
}

#[cfg(unix)]
fn is_the_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_the_file_at(_file: &File, _path: &Path) -> bool {
    // Windows does not rename open files.
    true
}

/// The hidden temporary name next to `path`.
fn aside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut hidden = OsString::from(PARTIAL);
    if name.len() <= LONGEST_NAME {
        hidden.push(name);
    } else {
        hidden.push(sha256_of(name.as_encoded_bytes())?.hex());
    }
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// The name that a leftover would have got: `a.idx` of `.partial-a.idx`, of `.partial-a.idx-12-0` by one of several writers, and
/// of a folder on its way in or out. `None` for other names. Of a name of more than 200 bytes a leftover has only a hash.
pub fn final_name(leftover: &str) -> Option<&str> {
    let name = leftover.strip_prefix(PARTIAL)?;
    if let Some(name) = [REPLACED, REMOVED]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
    {
        return Some(name);
    }
    // Process and number of a writer that found the usual name in use.
    let without_number = |name: &str| {
        let (rest, number) = name.rsplit_once('-')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some(rest.len())
    };
    let process = without_number(name).and_then(|end| without_number(&name[..end]));
    Some(process.map_or(name, |end| &name[..end]))
}

/// The leftover that a crash while `path` was written leaves in its usual place.
///
/// # Errors
/// A path that names no file.
pub fn leftover_of(path: &Path) -> io::Result<PathBuf> {
    aside(path, "")
}

/// A folder being made. [`Folder::finish`] gives it its name, with everything in it; dropped before, it
/// leaves nothing. For folders whose parent one process writes to (see [`FolderLock`](crate::FolderLock)).
#[derive(Debug)]
pub struct Folder {
    final_path: PathBuf,
    aside: PathBuf,
    is_finished: bool,
}

impl Folder {
    /// Begins the folder that becomes `path`, creating its parents and removing the leftover of an earlier
    /// crash.
    ///
    /// # Errors
    /// [`FileError`] names `path`.
    pub fn create(path: &Path) -> Result<Folder, FileError> {
        let begin = || {
            let aside = aside(path, "")?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            remove_any(&aside)?;
            fs::create_dir(&aside)?;
            Ok(aside)
        };
        Ok(Folder {
            aside: begin().map_err(FileError::new("make", path))?,
            final_path: path.to_path_buf(),
            is_finished: false,
        })
    }

    /// Where to write the files until then. They need not be synced.
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Syncs everything in the folder to the disk and gives the folder its name.
    ///
    /// # Errors
    /// [`FileError`] names the folder's path; one cause is that the path exists already.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.sync()?;
        if self.final_path.symlink_metadata().is_ok() {
            // Renaming would silently replace an empty folder.
            let taken = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(FileError::new("make", &self.final_path)(taken));
        }
        self.rename()
    }

    /// [`Folder::finish`] in place of an older folder of that name, if there is one. The old one is renamed first and
    /// removed last; after a crash between the two renames, [`remove_leftovers`] gives it its name back.
    ///
    /// # Errors
    /// [`FileError`] names the folder's path.
    pub fn replace(mut self) -> Result<(), FileError> {
        self.sync()?;
        if self.final_path.symlink_metadata().is_err() {
            return self.rename();
        }
        let replaced = || {
            let old = aside(&self.final_path, REPLACED)?;
            remove_any(&old)?;
            fs::rename(&self.final_path, &old)?;
            Ok(old)
        };
        let old = replaced().map_err(FileError::new("replace", &self.final_path))?;
        if let Err(error) = self.rename() {
            // The old one is better than none.
            let _ = fs::rename(&old, &self.final_path);
            return Err(error);
        }
        remove_any(&old).map_err(FileError::new("remove", &old))
    }

    fn sync(&self) -> Result<(), FileError> {
        sync_tree(&self.aside).map_err(FileError::new("make", &self.final_path))
    }

    fn rename(&mut self) -> Result<(), FileError> {
        fs::rename(&self.aside, &self.final_path).map_err(FileError::new("make", &self.final_path))?;
        self.is_finished = true;
        self.final_path.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_finished {
            // Best effort: it frees space, and the actual error has been reported.
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

/// Removes a folder with everything in it. It is renamed first, so that a crash leaves no half folder under
/// its name.
///
/// # Errors
/// [`FileError`] names `path`.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    let removed = || {
        let old = aside(path, REMOVED)?;
        remove_any(&old)?;
        fs::rename(path, &old)?;
        fs::remove_dir_all(&old)
    };
    removed().map_err(FileError::new("remove", path))
}

/// Removes the leftovers of crashes in a folder: files and folders whose names begin with [`PARTIAL`]. For folders that
/// one process writes to, before it begins. A missing folder holds none. A folder that a crash of [`Folder::replace`] left
/// without its name gets it back.
///
/// # Errors
/// [`FileError`] names the folder or the leftover.
pub fn remove_leftovers(folder: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(FileError::new("list", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(FileError::new("list", folder))?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let replaced = name.to_str().filter(|name| name.ends_with(REPLACED));
        let replaced = replaced.and_then(final_name);
        match replaced.map(|name| folder.join(name)) {
            Some(lost) if lost.symlink_metadata().is_err() => {
                fs::rename(&path, &lost).map_err(FileError::new("restore", &lost))?;
            }
            _ => remove_any(&path).map_err(FileError::new("remove", &path))?,
        }
    }
    Ok(())
}

/// Makes renames and removals in a folder durable. An empty path is the current folder.
///
/// # Errors
/// [`FileError`] names the folder.
fn sync_folder(path: &Path) -> Result<(), FileError> {
    // Windows cannot open folders; there the rename alone must suffice.
    if cfg!(windows) {
        return Ok(());
    }
    let folder = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot sync folders, and a drop folder may be written to but not opened.
        Err(error) if is_unsupported(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(FileError::new("sync", folder)),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

/// Syncs the files of a folder and of its subfolders, then the folders.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            // Windows syncs only files that are open for writing.
            let file = File::options()
                .read(true)
                .write(cfg!(windows))
                .open(entry.path())?;
            file.sync_all()?;
        }
    }
    sync_folder(folder).map_err(|error| error.source)
}

/// Removes a file, a link or a whole folder; does nothing if it does not exist.
fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests;
