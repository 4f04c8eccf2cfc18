//! PyTorch's zip archives: the pickle and the storages as members of [`Archive`].

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use super::archive::Archive;
use super::checkpoint::{Checkpoint, Format};
use super::entries;
use super::error::{CheckpointError, damaged, unreadable, unsupported};
use super::pickle::{self, Input, Storage};
use super::storages::{big_endian, storage_bytes};
use crate::hint::SaveAs;

/// Longest `byteorder` entry to read.
const SHORT_ENTRY: u64 = 64;

/// A zip archive, as PyTorch has written since 1.6: the pickle in `NAME/data.pkl`, storages in
/// `NAME/data/KEY`.
pub(super) fn open<R: Read + Seek>(source: &mut R, length: u64) -> Result<Checkpoint, CheckpointError> {
    let archive = Archive::open(source, length)?;
    let folders = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut folders =
        folders.filter(|folder| folder.is_empty() || folder.find('/') == Some(folder.len() - 1));
    let folder = folders
        .next()
        .map(str::to_owned)
        .ok_or_else(|| unreadable("a zip archive without `data.pkl`, which no PyTorch checkpoint lacks"))?;
    if folders.next().is_some() {
        return Err(damaged("its zip archive holds two `data.pkl`"));
    }
    if archive.has(&format!("{folder}constants.pkl")) {
        return Err(unsupported("a TorchScript program", SaveAs::StateDict));
    }
    let byteorder = format!("{folder}byteorder");
    if archive.has(&byteorder) {
        let extent = archive.member(&byteorder)?;
        let mut order = vec![];
        source.seek(SeekFrom::Start(extent.start))?;
        source
            .take(extent.bytes.min(SHORT_ENTRY))
            .read_to_end(&mut order)?;
        if order.trim_ascii() != b"little" {
            return Err(big_endian());
        }
    }
    let pickled = archive.member(&format!("{folder}data.pkl"))?;
    let mut bytes = vec![];
    source.seek(SeekFrom::Start(pickled.start))?;
    source
        .take(pickled.bytes.min(pickle::MAX_BYTES + 1))
        .read_to_end(&mut bytes)?;
    if pickled.bytes <= pickle::MAX_BYTES && pickled.crc.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
        return Err(damaged(
            "its pickle does not have its checksum: the file was changed or badly copied",
        ));
    }
    let pickle = pickle::read(&mut Input::new(bytes.as_slice(), pickled.bytes))?;
    let locate = |storage: &Storage| {
        let extent = archive.member(&format!("{folder}data/{}", storage.key))?;
        let declared = storage_bytes(storage)?;
        if declared != extent.bytes {
            return Err(damaged(format!(
                "storage {} holds {} bytes, its pickle says {declared}",
                storage.key, extent.bytes
            )));
        }
        Ok(extent)
    };
    Ok(Checkpoint {
        format: Format::Zip,
        root: entries::tree(&pickle, locate)?,
        metadata: BTreeMap::new(),
        bytes: length,
        description: None,
    })
}
