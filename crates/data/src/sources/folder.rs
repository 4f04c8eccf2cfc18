//! Image folders on disk: `CLASS/name.jpg`, a flat folder, or an unpacked PASS release.
//!
//! Each opening walks the folder, because files are added and removed. The content hashes, which require
//! reading every file, are kept in the index and reused for files whose length and time have not changed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::files;
use super::index_file::{IndexStore, Origin};
use super::license_column::LicenseColumn;
use super::part::Layout;
use super::pass_metadata::PassMetadata;
use super::source::{Opened, Source};
use super::table::{Row, Table};
use crate::error::Error;
use crate::hint::Hint;
use crate::record::{Label, Metadata};

/// `kind = "folder"`: class folders.
pub(crate) const FOLDER: Layout = Layout {
    name: "folder",
    keys: &[],
    required: &[],
    in_folder: true,
    shards: None,
    open: |place, store| open(&place.path, Labels::Folders, place.part.classes.as_deref(), store),
};

/// `kind = "flat"`: images at any depth, without labels.
pub(crate) const FLAT: Layout = Layout {
    name: "flat",
    keys: &[],
    required: &[],
    in_folder: true,
    shards: None,
    open: |place, store| open(&place.path, Labels::Absent, None, store),
};

/// Whether the folders below the root are classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labels {
    /// If there are any, and the root is not a PASS release.
    Detect,
    /// Each folder below the root is a class; images are at any depth within (as torchvision's
    /// `ImageFolder`).
    Folders,
    /// No; images are at any depth.
    Absent,
}

/// Image files below a root.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    pub(crate) table: Table,
    /// Classes for which a record is neither an example nor a counterexample, for the few records that have
    /// any.
    pub(crate) undecided: HashMap<usize, Vec<u32>>,
    pub(crate) pass: Option<PassMetadata>,
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.table.len()
    }

    fn is_labeled(&self) -> bool {
        self.table.has_labels()
    }

    fn key(&self, position: usize) -> String {
        self.table.key(position)
    }

    fn label(&self, position: usize) -> Option<Label> {
        self.table.label(position)
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        let path = self
            .root
            .join(self.table.folder(position))
            .join(self.table.name(position));
        image.clear();
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        file.read_to_end(image).map_err(Error::io("read", &path))?;
        Ok(())
    }

    fn image_bytes(&self, position: usize) -> u64 {
        u64::from(self.table.image_bytes[position])
    }

    fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        match &self.pass {
            Some(pass) => pass.of_key(&self.key(position)),
            None => Ok(Metadata::default()),
        }
    }

    fn licenses(&self) -> Result<LicenseColumn, Error> {
        let mut all = LicenseColumn::default();
        if let Some(pass) = &self.pass {
            let pass = pass.licenses()?;
            for position in 0..self.len() {
                all.push(position, pass.of_key(&self.key(position)));
            }
        }
        Ok(all)
    }

    fn undecided(&self, position: usize) -> &[u32] {
        self.undecided.get(&position).map_or(&[], Vec::as_slice)
    }

    fn tables(&self) -> Vec<(&Path, &Table)> {
        vec![(&self.root, &self.table)]
    }
}

/// Opens an image folder, hashing files that the stored index does not know.
///
/// `classes` fixes the names and their numbers; otherwise they are the class folders in byte order.
pub(crate) fn open(
    root: &Path,
    labels: Labels,
    classes: Option<&[String]>,
    store: &IndexStore,
) -> Result<Opened, Error> {
    let mut listed = list_images(root)?;
    let labels = settle(root, labels, &listed)?;
    let class_names = match (labels, classes) {
        (Labels::Folders, None) => class_folders(root, &listed)?,
        (_, given) => given.unwrap_or_default().to_vec(),
    };
    if labels == Labels::Folders {
        label(root, &mut listed, &class_names)?;
    }
    let mut table = with_hashes(root, listed, store, None)?;
    let hashed = vec![table.take_hashed_keys()];
    let source = Folder {
        root: root.to_path_buf(),
        table,
        undecided: HashMap::new(),
        pass: PassMetadata::find(root).or_else(|| PassMetadata::find(root.parent()?)),
    };
    Ok(Opened {
        source: Box::new(source),
        class_names,
        hashed,
    })
}

fn list_images(root: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut unread: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let walk = WalkDir::new(root)
        .min_depth(1)
        .follow_links(true)
        .sort_by_file_name();
    let visible = |entry: &walkdir::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
    for entry in walk.into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| unlisted(root, error))?;
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
        // Keys are UTF-8, and a lossy conversion could name another file.
        if below.to_str().is_none() {
            return Err(Error::Unreadable {
                spec: root.display().to_string(),
                reason: format!("the name `{}` is not UTF-8", below.display()),
                hint: Some(Hint::Rename),
            });
        }
        let name = entry.file_name().to_string_lossy();
        let extension = name.rfind('.').map_or("", |dot| &name[dot + 1..]);
        if !entry.file_type().is_dir()
            && let Some(format) = files::unread_picture(&name)
        {
            let (count, first) = unread.entry(format).or_insert((0, String::new()));
            if *count == 0 {
                *first = below.display().to_string();
            }
            *count += 1;
        }
        if entry.file_type().is_dir() || !files::is_image_extension(extension) {
            continue;
        }
        let metadata = entry.metadata().map_err(std::io::Error::from);
        let metadata = metadata.map_err(Error::io("read", entry.path()))?;
        let Ok(image_bytes) = u32::try_from(metadata.len()) else {
            tracing::warn!(file = %entry.path().display(), "skipped: larger than 4 GiB");
            continue;
        };
        // Keys use `/` on every system, so that a fingerprint does not depend on the system.
        let folder: String = below
            .parent()
            .into_iter()
            .flat_map(|parent| parent.components())
            .map(|part| format!("{}/", part.as_os_str().to_string_lossy()))
            .collect();
        let modified = Some(files::modified_ns(&metadata));
        rows.push(Row {
            folder,
            name: name.into_owned(),
            image_bytes,
            modified,
            ..Row::default()
        });
    }
    let unread = unread_formats(&unread);
    if rows.is_empty() {
        let but = unread.map_or(String::new(), |unread| format!(" (it has {unread})"));
        return Err(Error::Empty {
            path: root.to_path_buf(),
            reason: format!(
                "no image in it; expected .jpg, .jpeg, .png, .webp, .bmp or .gif files, or .tar shards{but}"
            ),
        });
    }
    if let Some(unread) = unread {
        tracing::warn!(
            "`{}`: pictures in unsupported formats were skipped: {unread}; convert them to JPEG or PNG",
            root.display()
        );
    }
    Ok(rows)
}

/// `3 .heic (such as `a/b.heic`), 1 .tiff (such as …)`; `None` where there are none.
fn unread_formats(skipped: &BTreeMap<&str, (usize, String)>) -> Option<String> {
    let parts: Vec<String> = skipped
        .iter()
        .map(|(format, (count, first))| format!("{count} .{format} (such as `{first}`)"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The reason why a folder could not be walked to its end.
fn unlisted(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_path_buf();
    let link = match error.loop_ancestor() {
        Some(ancestor) => Some(format!(
            "a symbolic link back to `{}`, the folder that it lies in",
            ancestor.display()
        )),
        None => files::broken_link(&path),
    };
    match link {
        Some(link) => Error::Unreadable {
            spec: root.display().to_string(),
            reason: format!("`{}` is {link}", path.display()),
            hint: Some(Hint::RestoreLink),
        },
        None => Error::io("list", &path)(error.into()),
    }
}

fn settle(root: &Path, labels: Labels, rows: &[Row]) -> Result<Labels, Error> {
    let loose = rows.iter().find(|row| row.folder.is_empty());
    let inside = rows.iter().find(|row| !row.folder.is_empty());
    match (labels, loose, inside) {
        (Labels::Absent, _, _) => Ok(Labels::Absent),
        (_, None, _)
            if labels == Labels::Folders || root.file_name().is_none_or(|name| name != "PASS_dataset") =>
        {
            Ok(Labels::Folders)
        }
        // A PASS release has numbered folders for the file system's sake; they are not classes.
        (Labels::Detect, None, _) | (Labels::Detect, Some(_), None) => Ok(Labels::Absent),
        (_, Some(loose), inside) => Err(Error::Unreadable {
            spec: root.display().to_string(),
            reason: match inside {
                Some(inside) => format!(
                    "`{}` lies beside folders that hold images, such as `{}`; expected class folders or a flat folder",
                    loose.name, inside.folder
                ),
                None => format!("`{}` lies in no class folder", loose.name),
            },
            hint: Some(Hint::DescribeAsFlat),
        }),
        (_, None, _) => Ok(Labels::Folders),
    }
}

fn class_of(folder: &str) -> &str {
    &folder[..folder.find('/').unwrap_or(folder.len())]
}

fn class_folders(root: &Path, rows: &[Row]) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        if names.last().is_none_or(|last| last != class_of(&row.folder)) {
            names.push(class_of(&row.folder).to_string());
        }
    }
    names.sort_unstable();
    names.dedup();
    // An empty class folder would shift the numbers of all later classes relative to another split of the
    // same data.
    for path in files::list(root)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && names.binary_search(&name).is_err() {
            return Err(Error::Unreadable {
                spec: root.display().to_string(),
                reason: format!(
                    "folder `{name}` holds no image, so it is unclear whether it counts as a class"
                ),
                hint: Some(Hint::NameClasses),
            });
        }
    }
    Ok(names)
}

fn label(root: &Path, rows: &mut [Row], names: &[String]) -> Result<(), Error> {
    let numbers: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    for row in rows {
        let class = class_of(&row.folder);
        let number = numbers.get(class).ok_or_else(|| Error::Unreadable {
            spec: root.display().to_string(),
            reason: format!(
                "folder `{class}` is none of the {} classes of the data-set description",
                names.len()
            ),
            hint: None,
        })?;
        row.label = Some(Label::Class(*number));
    }
    Ok(())
}

/// The table of these files below the root. Their hashes are kept beside the root, or beside the file that
/// lists them.
pub(crate) fn with_hashes(
    root: &Path,
    mut rows: Vec<Row>,
    store: &IndexStore,
    listed_by: Option<&Path>,
) -> Result<Table, Error> {
    let (source, is_folder) = listed_by.map_or((root, true), |list| (list, list.is_dir()));
    let old = store
        .load(source, is_folder)
        .map(|(_, table)| table)
        .unwrap_or_default();
    let mut known: HashMap<(&str, &str), usize> = HashMap::with_capacity(old.len());
    for position in 0..old.len() {
        known.insert((old.folder(position), old.name(position)), position);
    }
    let missing: Vec<usize> = (0..rows.len())
        .filter(|&at| {
            let row = &mut rows[at];
            let indexed = known
                .get(&(row.folder.as_str(), row.name.as_str()))
                .copied()
                .filter(|&position| {
                    old.image_bytes[position] == row.image_bytes
                        && old.modified.get(position).copied() == row.modified
                });
            if let Some(position) = indexed {
                row.hash = old.hashes[position];
            }
            indexed.is_none()
        })
        .collect();
    if !missing.is_empty() {
        tracing::info!(folder = %root.display(), files = missing.len(), "hashing new or changed images");
    }
    let hashes: Vec<[u8; 32]> = missing
        .par_iter()
        .map(|&at| {
            let path = root.join(&rows[at].folder).join(&rows[at].name);
            let content = fs::read(&path).map_err(Error::io("read", &path))?;
            Ok(Sha256::digest(content).into())
        })
        .collect::<Result<_, Error>>()?;
    let is_changed = !missing.is_empty() || old.len() != rows.len();
    for (at, hash) in missing.into_iter().zip(hashes) {
        rows[at].hash = hash;
    }
    let mut table = Table::default();
    for row in rows {
        if !table.push(row) {
            return Err(Error::Unreadable {
                spec: root.display().to_string(),
                reason: "more than 4 GiB of file names".to_string(),
                hint: Some(Hint::PackFolder),
            });
        }
    }
    if is_changed {
        store.save(source, is_folder, &Origin::default(), &table);
    }
    Ok(table)
}
