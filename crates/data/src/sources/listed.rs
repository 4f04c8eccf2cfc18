//! Pictures in a folder with labels in a separate file. Pascal VOC, COCO's JSON and tables each make a
//! [`Listing`]; the rest, from hashing to keys, is shared.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::files;
use super::folder::{self, Folder, HashIndex};
use super::index_file::IndexStore;
use super::source::Opened;
use super::table::Row;
use crate::error::Error;
use crate::listing::Listing as LeftOut;
use crate::names;
use crate::record::Label;

/// A picture, before it is known to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path below the folder of the pictures, with `/`.
    pub(crate) path: String,
    pub(crate) label: Option<Label>,
    /// Classes for which it is neither an example nor a counterexample (VOC's `difficult`).
    pub(crate) undecided: Vec<u32>,
}

/// The result of a reader.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) records: Vec<Listed>,
    pub(crate) classes: Vec<String>,
}

/// The readers' error for an invalid file.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: reason.into(),
        hint: None,
    }
}

/// Whether a missing file is there under its name in another Unicode spelling, as where the table and the
/// pictures come from two systems.
fn is_spelled_otherwise(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let beside = path.parent().and_then(|folder| fs::read_dir(folder).ok());
    let is_same = |found: &str| names::composed(found) == names::composed(name);
    let mut found = beside.into_iter().flatten().flatten();
    found.any(|entry| entry.file_name().to_str().is_some_and(is_same))
}

/// Finds every picture on disk; `beside` is where the index of their hashes is stored.
pub(crate) fn open(
    root: &Path,
    listing: Listing,
    beside: &Path,
    store: &IndexStore,
) -> Result<Opened, Error> {
    let mut records = listing.records;
    if records.is_empty() {
        return Err(Error::Empty {
            path: beside.to_path_buf(),
            reason: "no record in it".to_string(),
        });
    }
    // One order, independent of the file's; and keeping folders together saves memory.
    records.sort_by(|one, two| one.path.cmp(&two.path));
    if let Some(pair) = records.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(wrong(beside, format!("`{}` is listed twice", pair[0].path)));
    }
    let mut undecided = HashMap::new();
    let mut rows = Vec::with_capacity(records.len());
    for (position, record) in records.into_iter().enumerate() {
        if record.path.starts_with('/') || record.path.split('/').any(|part| part == "..") {
            return Err(wrong(
                beside,
                format!("`{}` leads out of `{}`", record.path, root.display()),
            ));
        }
        let path = root.join(&record.path);
        let metadata = fs::metadata(&path).map_err(|error| {
            let reason = match is_spelled_otherwise(&path) {
                true => "a file there has this name in another Unicode spelling".to_string(),
                false => error.to_string(),
            };
            wrong(
                beside,
                format!(
                    "lists `{}`, which is not in `{}`: {reason}",
                    record.path,
                    root.display()
                ),
            )
        })?;
        let (folder, name) = record
            .path
            .split_at(record.path.rfind('/').map_or(0, |slash| slash + 1));
        if !record.undecided.is_empty() {
            undecided.insert(position, record.undecided);
        }
        rows.push(Row {
            folder: folder.to_string(),
            name: name.to_string(),
            image_bytes: u32::try_from(metadata.len()).map_err(|_| wrong(&path, "larger than 4 GiB"))?,
            label: record.label,
            modified: Some(files::modified_ns(&metadata)),
            ..Row::default()
        });
    }
    let mut table = folder::with_hashes(root, rows, store, Some(beside))?;
    let hashed = vec![table.take_hashed_keys()];
    let source = Folder {
        root: root.to_path_buf(),
        table,
        undecided,
        pass: None,
        index: HashIndex {
            store: store.clone(),
            source: beside.to_path_buf(),
        },
    };
    Ok(Opened {
        source: Box::new(source),
        class_names: listing.classes,
        hashed,
        listing: LeftOut::default(),
    })
}
