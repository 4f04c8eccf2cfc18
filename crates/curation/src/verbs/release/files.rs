//! The place of a release, and the files in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::Ledger;

/// The fact that names a release just before it is renamed to its final place.
pub(super) const BEING_MADE: &str = "release_being_made";

/// Name of the checksums, as `sha256sum --check` reads them.
pub(super) const CHECKSUMS: &str = "SHA256SUMS";

/// The identity of a release that is about to be renamed, to recognize it among other folders.
pub(super) fn token(folder: &Path, version: &str) -> Result<String, Error> {
    let sums = data::sha256_of_file(&folder.join(CHECKSUMS))?;
    Ok(format!("{version} {}", sums.hex()))
}

/// Makes sure that the place of a release is empty. It removes only the remains of a killed run: another
/// folder there may be the only copy of a release that an older copy of the ledger does not know.
pub(super) fn make_way(ledger: &Ledger, place: &Path) -> Result<(), Error> {
    if place.symlink_metadata().is_err() {
        return Ok(());
    }
    let version = place.file_name().unwrap_or_default().to_string_lossy();
    let ours = ledger
        .fact(BEING_MADE)?
        .is_some_and(|ours| token(place, &version).is_ok_and(|found| found == ours));
    if ours {
        return Ok(data::durable::remove_folder(place)?);
    }
    Err(Error::Release {
        reason: format!(
            "`{}` is there already, and the ledger knows of no such release",
            place.display()
        ),
        hint: Some(Hint::RestoreLedgerOrMoveRelease),
    })
}

/// One file of a release.
pub(super) struct Checksum {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Checksum {
    pub(super) fn of(name: String, path: &Path) -> Result<Checksum, Error> {
        let sum = data::sha256_of_file(path)?;
        Ok(Checksum {
            name,
            bytes: sum.bytes,
            sha256: sum.hex(),
        })
    }
}

/// Writes a small file.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io("write", path))
}

/// The files of a folder, sorted by name.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Removes the indexes that opening the shards has made.
pub(super) fn remove_indexes(folder: &Path) -> Result<(), Error> {
    for path in list(folder)? {
        if path.extension().is_some_and(|extension| extension == "idx") {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}
