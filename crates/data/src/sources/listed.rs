//! Pictures in a folder with labels in a separate file. Pascal VOC, COCO's JSON and tables each make a
//! [`Listing`]; the rest, from hashing to keys, is shared.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use walkdir::WalkDir;

use super::files;
use super::fingerprint::Identity;
use super::folder::{self, Folder, HashIndex};
use super::index_file::IndexStore;
use super::names::{self as names_of_files, Kind};
use super::objects::Annotations;
use super::source::Opened;
use super::table::Row;
use crate::content;
use crate::error::Error;
use crate::listing::{Listing as LeftOut, Reason};
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
    /// Paths of pictures that the labels name too, and that are no record of this part, such as those of other
    /// splits.
    pub(crate) others: HashSet<String>,
    /// Boxes and masks of the records, whose places among its pictures are those of `records`.
    pub(crate) objects: Option<Annotations>,
}

/// The readers' error for an invalid file.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: reason.into(),
        hint: None,
    }
}

/// Words for the file that a name probably means: one of another spelling or case, or with an ending.
fn found_instead(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let files = fs::read_dir(path.parent()?).ok()?.flatten();
    let mut files: Vec<String> = files
        .filter_map(|file| file.file_name().into_string().ok())
        .collect();
    files.sort_unstable();
    if files
        .iter()
        .any(|file| names::composed(file) == names::composed(name))
    {
        return Some("a file there has this name in another Unicode spelling".to_string());
    }
    let is_close = |file: &&String| {
        let (file, name) = (file.to_lowercase(), name.to_lowercase());
        let ending = file.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
        file == name || ending.is_some_and(names_of_files::is_image_extension)
    };
    let file = files.iter().find(is_close)?;
    Some(format!("a file there is called `{file}`"))
}

/// The pictures in the folder that the labels do not name, of whatever format. Other files are nobody's records.
fn not_listed(root: &Path, is_named: impl Fn(&str) -> bool) -> LeftOut {
    let mut left_out = LeftOut::default();
    let is_searched = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        !entry.file_type().is_dir() || names_of_files::skipped_folder(&name).is_none()
    };
    let walk = WalkDir::new(root)
        .min_depth(1)
        .follow_links(true)
        .sort_by_file_name();
    // No record needs these files, so those that cannot be read give no error.
    for entry in walk.into_iter().filter_entry(is_searched).flatten() {
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let below = below.to_string_lossy().replace('\\', "/");
        if !entry.file_type().is_file() || is_named(&below) {
            continue;
        }
        let name = entry.file_name().to_string_lossy();
        let kind = match names_of_files::kind(&name, || content::start_of(entry.path())) {
            Ok(Kind::Image) => names_of_files::kind_of_files(&name),
            Ok(Kind::ImageByContent(kind) | Kind::LeftOut(Reason::UnsupportedFormat, kind)) => kind,
            _ => continue,
        };
        left_out.add(Reason::NotListed, &kind, || below);
    }
    left_out
}

/// Counts classes that are others joined by a sign, as tables write sets of classes: `cat|dog` beside `cat`, `dog`. So
/// are lists as Python prints them, `['cat', 'dog']`.
fn joined_classes(classes: &[String], left_out: &mut LeftOut) {
    let known: HashSet<&str> = classes.iter().map(|class| bare(class)).collect();
    for class in classes {
        let names = bare(class);
        let is_list = names.len() < class.trim().len() && names.contains(',');
        let is_joined = ['|', ';', ',']
            .into_iter()
            .any(|sign| names.contains(sign) && names.split(sign).all(|part| known.contains(unquoted(part))));
        if is_list || is_joined {
            left_out.add(Reason::JoinedClasses, "", || class.clone());
        }
    }
}

/// The names in a list as Python prints it; other names as they are.
fn bare(class: &str) -> &str {
    let class = class.trim();
    let inner = [('[', ']'), ('{', '}'), ('(', ')')]
        .into_iter()
        .find_map(|(open, close)| class.strip_prefix(open)?.strip_suffix(close));
    match inner {
        Some(names) if names.trim_start().starts_with(['\'', '"']) => unquoted(names),
        _ => class,
    }
}

fn unquoted(name: &str) -> &str {
    name.trim().trim_matches(['\'', '"'])
}

/// Finds every picture on disk; `beside` is where the index of their hashes is stored.
pub(crate) fn open(
    root: &Path,
    listing: Listing,
    beside: &Path,
    store: &IndexStore,
) -> Result<Opened, Error> {
    let mut records: Vec<(usize, Listed)> = listing.records.into_iter().enumerate().collect();
    if records.is_empty() {
        return Err(Error::Empty {
            path: beside.to_path_buf(),
            reason: "no record in it".to_string(),
        });
    }
    // One order, independent of the file's; and keeping folders together saves memory.
    records.sort_by(|(_, one), (_, two)| one.path.cmp(&two.path));
    let (places, records): (Vec<usize>, Vec<Listed>) = records.into_iter().unzip();
    if let Some(pair) = records.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(wrong(beside, format!("`{}` is listed twice", pair[0].path)));
    }
    let mut left_out = not_listed(root, |path| {
        let at = records.binary_search_by(|record| record.path.as_str().cmp(path));
        at.is_ok() || listing.others.contains(path)
    });
    if records
        .iter()
        .any(|record| matches!(record.label, Some(Label::Class(_))))
    {
        joined_classes(&listing.classes, &mut left_out);
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
            let reason = found_instead(&path).unwrap_or_else(|| error.to_string());
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
    let identity = Identity::of_folder(&mut table, &mut left_out);
    let objects = listing
        .objects
        .map(|objects| objects.into_table(root, &places, &table, &mut left_out));
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
        identity,
        listing: left_out,
        objects,
    })
}
