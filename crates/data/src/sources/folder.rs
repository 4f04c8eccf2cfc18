//! Image folders on disk: `CLASS/name.jpg`, a flat folder, or an unpacked PASS release.
//!
//! Each opening walks the folder, because files are added and removed. The content hashes, which require
//! reading every file, are kept in the index and reused for files whose length and time have not changed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::files;
use super::fingerprint::Identity;
use super::index_file::{IndexStore, Origin};
use super::license_column::LicenseColumn;
use super::part::Layout;
use super::pass_metadata::PassMetadata;
use super::source::{Opened, Source, contents_by_reading};
use super::table::{Row, Table};
use super::walk::Walk;
use crate::error::Error;
use crate::hint::Hint;
use crate::listing::{Listing, Reason};
use crate::names;
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
    /// Where the hashes are kept.
    pub(crate) index: HashIndex,
}

/// The place of a folder's index.
#[derive(Clone, Debug)]
pub(crate) struct HashIndex {
    pub(crate) store: IndexStore,
    /// The root, or the file that lists the images.
    pub(crate) source: PathBuf,
}

impl HashIndex {
    /// The stored table, if there is one.
    fn load(&self, root: &Path) -> Option<Table> {
        let is_folder = self.source == root || self.source.is_dir();
        self.store.load(&self.source, is_folder).map(|(_, table)| table)
    }
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

    fn contents(&self) -> Result<Vec<u128>, Error> {
        match self
            .index
            .load(&self.root)
            .and_then(|stored| self.table.contents_in(&stored))
        {
            Some(contents) => Ok(contents),
            None => contents_by_reading(self),
        }
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
    let (mut listed, mut listing) = list_images(root)?;
    let labels = settle(root, labels, &listed)?;
    let class_names = match (labels, classes) {
        (Labels::Folders, None) => class_folders(root, &listed)?,
        (_, given) => given.unwrap_or_default().to_vec(),
    };
    if labels == Labels::Folders {
        label(root, &mut listed, &class_names)?;
        if classes.is_none() {
            let has_deeper = listed.iter().any(|row| row.folder.matches('/').count() > 1);
            doubtful_classes(&class_names, has_deeper, &mut listing);
        }
    }
    companions(&listed, &mut listing);
    let mut table = with_hashes(root, listed, store, None)?;
    let identity = Identity::of_folder(&mut table, &mut listing);
    let source = Folder {
        root: root.to_path_buf(),
        table,
        undecided: HashMap::new(),
        pass: PassMetadata::find(root).or_else(|| PassMetadata::find(root.parent()?)),
        index: HashIndex {
            store: store.clone(),
            source: root.to_path_buf(),
        },
    };
    Ok(Opened {
        source: Box::new(source),
        class_names,
        identity,
        listing,
        objects: None,
    })
}

/// Counts class names that are a guess: a folder around everything, splits, names that differ in case alone.
///
/// `has_deeper` says whether classes have folders with images in them.
pub(crate) fn doubtful_classes(names: &[String], has_deeper: bool, listing: &mut Listing) {
    const SPLITS: [&str; 12] = [
        "train",
        "training",
        "test",
        "testing",
        "val",
        "valid",
        "validation",
        "eval",
        "dev",
        "unlabeled",
        "unlabelled",
        "trainval",
    ];
    /// What lies beside photos, and the photos.
    const PARTS: [&str; 14] = [
        "images",
        "imgs",
        "photos",
        "jpegimages",
        "masks",
        "labels",
        "annotations",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "depth",
        "thumbnails",
        "thumbs",
    ];
    if let [only] = names {
        let reason = match has_deeper {
            true => Reason::WrapperFolder,
            false => Reason::OnlyClass,
        };
        listing.add(reason, "", || only.clone());
        return;
    }
    let has_word = |name: &String, words: &[&str]| {
        let mut parts = name.split(|letter: char| !letter.is_alphabetic() && letter != ' ');
        parts.any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
    };
    let all = |is_it: &dyn Fn(&String) -> bool| !names.is_empty() && names.iter().all(is_it);
    // `train2017` and `test_images` too.
    if all(&|name| has_word(name, &SPLITS)) {
        listing.add_many(Reason::SplitsAsClasses, "", names.len() as u64, || {
            names[0].clone()
        });
    } else if all(&|name| PARTS.iter().any(|part| name.eq_ignore_ascii_case(part))) {
        listing.add_many(Reason::PartsAsClasses, "", names.len() as u64, || {
            names[0].clone()
        });
    }
    let mut by_letters: HashMap<String, &String> = HashMap::new();
    for name in names {
        if let Some(first) = by_letters.insert(name.trim().to_lowercase(), name) {
            listing.add(Reason::ClassesEqualButForCase, "", || format!("{first}, {name}"));
        }
    }
}

/// Counts images called like another one of their folder with an ending of masks or small copies: `a_mask.png` beside
/// `a.jpg`.
fn companions(rows: &[Row], listing: &mut Listing) {
    const ENDINGS: [&str; 10] = [
        "mask",
        "masks",
        "seg",
        "segmentation",
        "label",
        "gt",
        "depth",
        "thumb",
        "thumbnail",
        "preview",
    ];
    let stem = |row: &Row| row.name.rfind('.').map_or(row.name.len(), |dot| dot);
    let others = |row: &Row| -> Option<String> {
        let name = row.name.get(..stem(row))?;
        let (first, ending) = name.rsplit_once(['_', '-', '.', ' '])?;
        let is_ending = ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known));
        (is_ending && !first.is_empty()).then(|| first.to_string())
    };
    let candidates: Vec<(&Row, String)> = rows.iter().filter_map(|row| Some((row, others(row)?))).collect();
    if candidates.is_empty() {
        return;
    }
    let names: HashSet<(&str, &str)> = rows
        .iter()
        .filter_map(|row| Some((row.folder.as_str(), row.name.get(..stem(row))?)))
        .collect();
    for (row, first) in candidates {
        if names.contains(&(row.folder.as_str(), first.as_str())) {
            listing.add(Reason::Companion, "", || format!("{}{}", row.folder, row.name));
        }
    }
}

/// The images below the root, and the count of everything else.
fn list_images(root: &Path) -> Result<(Vec<Row>, Listing), Error> {
    let mut rows = Vec::new();
    let mut walk = Walk::new(root);
    let mut too_large = Listing::default();
    while let Some(found) = walk.next_picture()? {
        if found.unsupported.is_some() {
            continue;
        }
        let below = &found.relative;
        // Keys are UTF-8, and a lossy conversion could name another file.
        let (Some(name), Some(text)) = (below.file_name().and_then(|name| name.to_str()), below.to_str())
        else {
            return Err(Error::Unreadable {
                spec: root.display().to_string(),
                reason: format!("the name `{}` is not UTF-8", below.display()),
                hint: Some(Hint::Rename),
            });
        };
        let metadata = found.metadata()?;
        let Ok(image_bytes) = u32::try_from(metadata.len()) else {
            too_large.add(Reason::TooLarge, "", || text.to_string());
            continue;
        };
        // Keys use `/` on every system, so that a fingerprint does not depend on the system.
        let folder: String = below
            .parent()
            .into_iter()
            .flat_map(|parent| parent.components())
            .map(|part| format!("{}/", part.as_os_str().to_string_lossy()))
            .collect();
        rows.push(Row {
            folder,
            name: name.to_string(),
            image_bytes,
            modified: Some(files::modified_ns(&metadata)),
            ..Row::default()
        });
    }
    let mut listing = walk.into_listing();
    listing.merge(&too_large);
    if rows.is_empty() {
        return Err(no_image(root, &listing));
    }
    Ok((rows, listing))
}

/// The error of a folder in which nothing is an image.
fn no_image(root: &Path, listing: &Listing) -> Error {
    let reason = match listing.instead() {
        None => "no image in it: nothing is there; expected images, class folders of images, or .tar shards"
            .to_string(),
        Some(instead) => format!(
            "no image in it; expected .jpg, .jpeg, .png, .webp, .bmp or .gif files, or .tar shards (it has {instead})"
        ),
    };
    let is_packed =
        |kind: &str| [".gz", ".tgz", ".bz2", ".tbz2", ".zst", ".tzst", ".xz", ".txz"].contains(&kind);
    let archives = || {
        listing
            .notes()
            .iter()
            .filter(|note| note.reason == Reason::Archive)
    };
    let hint = if archives().any(|note| note.kind == ".tar") {
        Some(Hint::GiveFolderOfShards)
    } else if archives().any(|note| is_packed(&note.kind)) {
        Some(Hint::UnpackShards)
    } else if archives().next().is_some() {
        Some(Hint::UnpackArchives)
    } else {
        None
    };
    match hint {
        None => Error::Empty {
            path: root.to_path_buf(),
            reason,
        },
        hint => Error::Unreadable {
            spec: root.display().to_string(),
            reason,
            hint,
        },
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
    let names = names::of_folders(root, rows.iter().map(|row| class_of(&row.folder)))?;
    // An empty class folder would shift the numbers of all later classes relative to another split of the
    // same data.
    for path in files::list(root)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && names.binary_search(&names::composed(&name).into_owned()).is_err() {
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

fn label(root: &Path, rows: &mut [Row], classes: &[String]) -> Result<(), Error> {
    let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    for row in rows {
        let class = class_of(&row.folder);
        let number = numbers
            .get(names::composed(class).as_ref())
            .ok_or_else(|| names::unknown_class(root, &format!("folder `{class}`"), classes))?;
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
    // Several lists may share a file, such as the splits of a table: rows of the others stay in the index.
    let mut of_others = vec![listed_by.is_some(); old.len()];
    let missing: Vec<usize> = (0..rows.len())
        .filter(|&at| {
            let row = &mut rows[at];
            let indexed = known
                .get(&(row.folder.as_str(), row.name.as_str()))
                .copied()
                .inspect(|&position| of_others[position] = false)
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
    let gone = listed_by.is_none() && old.len() != rows.len();
    let is_changed = !missing.is_empty() || gone;
    for (at, hash) in missing.into_iter().zip(hashes) {
        rows[at].hash = hash;
    }
    let others = (0..old.len()).filter(|&position| of_others[position]);
    let others: Vec<Row> = others.map(|position| old.file(position)).collect();
    if is_changed && !others.is_empty() {
        let stored = table_of(root, rows.iter().cloned().chain(others))?;
        store.save(source, is_folder, &Origin::default(), &stored);
        return table_of(root, rows);
    }
    let table = table_of(root, rows)?;
    if is_changed {
        store.save(source, is_folder, &Origin::default(), &table);
    }
    Ok(table)
}

fn table_of(root: &Path, rows: impl IntoIterator<Item = Row>) -> Result<Table, Error> {
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
    Ok(table)
}
