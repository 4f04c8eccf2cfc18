//! A data set opened for reading: where its records lie, and reading any one of them by position.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::hex::hex;
use crate::record::{Label, Metadata, Record};
use crate::sources::description::{self, About, Kind, Part, resolve, split_of};
use crate::sources::files;
use crate::sources::fingerprint::{HashedKeys, fingerprint};
use crate::sources::folder::{self, Layout};
use crate::sources::index_file::IndexStore;
use crate::sources::listed::{self, Opened};
use crate::sources::pass::PassMetadata;
use crate::sources::raster::{self, Raster};
use crate::sources::shard_set::{ShardSet, expand, shards_in, shards_of};
use crate::sources::synthetic::Synthetic;
use crate::sources::table::Table;

/// Records at positions 0 to `len() - 1`, opened and indexed. Cheap to share between threads.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
    class_names: Vec<String>,
    fingerprint: String,
    pass: Option<PassMetadata>,
    /// Classes of which a record is neither an example nor a counterexample, for the few that have any.
    undecided: HashMap<usize, Vec<u32>>,
}

#[derive(Debug)]
enum Source {
    Shards(ShardSet),
    Folder {
        root: PathBuf,
        table: Box<Table>,
    },
    Raster(Raster),
    Memory(Vec<Record>),
    Synthetic(Synthetic),
    Part {
        whole: Arc<Dataset>,
        positions: Vec<u32>,
    },
}

impl Dataset {
    /// Opens a data set and indexes what is not indexed yet.
    ///
    /// `spec` is a directory of shards, one `.tar`, a brace pattern such as `train-{000000..000143}.tar`, an image folder
    /// (`CLASS/name.jpg` or flat), the PASS tars, or a data-set description (`.toml`, with `#split` where it has splits). The first opening reads everything once,
    /// to hash it; later ones take less than a second for a million records.
    ///
    /// # Errors
    /// [`Error`] where the data are not found, empty, of another kind, or damaged.
    pub fn open(spec: &str) -> Result<Dataset, Error> {
        Self::open_with(spec, &IndexStore::from_environment())
    }

    pub(crate) fn open_with(spec: &str, store: &IndexStore) -> Result<Dataset, Error> {
        let (spec, split) = split_of(spec);
        let path = Path::new(spec);
        if path.is_dir() {
            let described = path.join(description::FILE_NAME);
            if described.is_file() {
                return Self::open_described(&described, None, store);
            }
            let shards = shards_in(path)?;
            if shards.is_empty() {
                return Self::open_folder(path, Layout::Detect, None, store);
            }
            return Self::open_shards(shards, Vec::new(), store);
        }
        if path.is_file() {
            let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
            if extension == "toml" {
                return Self::open_described(path, split, store);
            }
            if extension == "tar" {
                return Self::open_shards(vec![path.to_path_buf()], Vec::new(), store);
            }
            return Err(no_data_file(path));
        }
        if spec.contains('{') {
            return Self::open_shards(expand(spec)?, Vec::new(), store);
        }
        Err(not_found(path))
    }

    /// Records drawn from (`seed`, position): smooth random pictures of `width` x `height` px in `classes` classes, or
    /// without labels where `classes` is 0. Nothing is stored; each read makes its picture again.
    pub fn synthetic(records: usize, width: u32, height: u32, classes: u32, seed: u64) -> Dataset {
        let source = Synthetic {
            records,
            width,
            height,
            classes,
            seed,
        };
        Dataset {
            class_names: (0..classes).map(|class| format!("class {class}")).collect(),
            fingerprint: source.fingerprint(),
            source: Source::Synthetic(source),
            pass: None,
            undecided: HashMap::new(),
        }
    }

    /// A data set of records that are in memory already, such as images bundled with the program.
    pub fn from_records(records: Vec<Record>, class_names: Vec<String>) -> Dataset {
        let hashes: Vec<[u8; 32]> = records
            .par_iter()
            .map(|record| Sha256::digest(&record.image).into())
            .collect();
        let hashed = HashedKeys::sorted(records.iter().map(|record| &record.key).zip(hashes));
        Dataset {
            fingerprint: fingerprint(&[hashed]),
            source: Source::Memory(records),
            class_names,
            pass: None,
            undecided: HashMap::new(),
        }
    }

    /// The records of `whole` at these positions, in this order: a split, or a subset. Nothing is copied. Its fingerprint is a
    /// hash of the whole's and of the keys.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn part(whole: &Arc<Dataset>, positions: Vec<u32>) -> Result<Dataset, Error> {
        let mut hasher = Sha256::new();
        hasher.update(whole.fingerprint());
        for position in &positions {
            let key = whole.key(*position as usize)?;
            hasher.update((key.len() as u64).to_le_bytes());
            hasher.update(key);
        }
        let undecided = positions.iter().enumerate().filter_map(|(position, of_whole)| {
            let classes = whole.undecided.get(&(*of_whole as usize))?;
            Some((position, classes.clone()))
        });
        Ok(Dataset {
            class_names: whole.class_names.clone(),
            fingerprint: hex(&hasher.finalize()),
            undecided: undecided.collect(),
            source: Source::Part {
                whole: Arc::clone(whole),
                positions,
            },
            pass: None,
        })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Shards(shards) => shards.len(),
            Source::Folder { table, .. } => table.len(),
            Source::Raster(raster) => raster.len(),
            Source::Memory(records) => records.len(),
            Source::Synthetic(synthetic) => synthetic.records,
            Source::Part { positions, .. } => positions.len(),
        }
    }

    /// Whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the classes in the order of their numbers; empty where there are no labels or only numbers are known.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Whether at least one record has a label.
    pub fn is_labelled(&self) -> bool {
        match &self.source {
            Source::Shards(shards) => shards.tables().any(|(_, table)| table.has_labels()),
            Source::Folder { table, .. } => table.has_labels(),
            Source::Raster(raster) => raster.is_labelled(),
            Source::Memory(records) => records.iter().any(|record| record.label.is_some()),
            Source::Synthetic(synthetic) => synthetic.classes > 0,
            Source::Part { whole, .. } => whole.is_labelled(),
        }
    }

    /// Hex SHA-256 over the sorted (key, content hash) pairs of all records, taken when the data were indexed.
    ///
    /// It does not depend on how the records are spread over shards: a folder and the shards packed from it agree.
    /// (For [`Dataset::synthetic`] it is a hash of the arguments.)
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Key of a record.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn key(&self, position: usize) -> Result<String, Error> {
        self.check(position)?;
        Ok(match &self.source {
            Source::Shards(shards) => shards.key(position),
            Source::Folder { table, .. } => table.key(position),
            Source::Raster(raster) => raster.key(position),
            Source::Memory(records) => records[position].key.clone(),
            Source::Synthetic(synthetic) => synthetic.key(position),
            Source::Part { whole, positions } => whole.key(positions[position] as usize)?,
        })
    }

    /// Label of a record, from the index: nothing is read.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn label(&self, position: usize) -> Result<Option<Label>, Error> {
        self.check(position)?;
        Ok(match &self.source {
            Source::Shards(shards) => shards.label(position),
            Source::Folder { table, .. } => table.label(position),
            Source::Raster(raster) => raster.label(position),
            Source::Memory(records) => records[position].label.clone(),
            Source::Synthetic(synthetic) => synthetic.label(position),
            Source::Part { whole, positions } => whole.label(positions[position] as usize)?,
        })
    }

    /// A whole record.
    ///
    /// # Errors
    /// [`Error`] where the record cannot be read, or its metadata are no JSON object.
    pub fn read(&self, position: usize) -> Result<Record, Error> {
        self.check(position)?;
        match &self.source {
            Source::Memory(records) => Ok(records[position].clone()),
            Source::Synthetic(synthetic) => Ok(synthetic.read(position)),
            Source::Part { whole, positions } => whole.read(positions[position] as usize),
            Source::Shards(_) | Source::Folder { .. } | Source::Raster(_) => {
                let mut image = Vec::new();
                self.read_image(position, &mut image)?;
                Ok(Record {
                    key: self.key(position)?,
                    image,
                    label: self.label(position)?,
                    metadata: self.metadata(position)?,
                })
            }
        }
    }

    /// The encoded image of a record, into a buffer that is used again.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read.
    pub fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        self.check(position)?;
        match &self.source {
            Source::Shards(shards) => shards.read_image(position, image),
            Source::Folder { root, table } => {
                use std::io::Read;
                let path = folder::file_path(root, table, position);
                image.clear();
                let mut file = File::open(&path).map_err(Error::io("read", &path))?;
                file.read_to_end(image).map_err(Error::io("read", &path))?;
                Ok(())
            }
            Source::Raster(raster) => {
                raster.image(position, image);
                Ok(())
            }
            Source::Memory(records) => {
                image.clear();
                image.extend_from_slice(&records[position].image);
                Ok(())
            }
            Source::Synthetic(synthetic) => {
                *image = synthetic.read(position).image;
                Ok(())
            }
            Source::Part { whole, positions } => whole.read_image(positions[position] as usize, image),
        }
    }

    /// What is known of a record's origin: its `KEY.json`, or its row of `pass_metadata.csv`.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read or is no JSON object.
    pub fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        self.check(position)?;
        if let Source::Shards(shards) = &self.source
            && let Some(metadata) = shards.metadata(position)?
        {
            return Ok(metadata);
        }
        if let Source::Memory(records) = &self.source {
            return Ok(records[position].metadata.clone());
        }
        if let Source::Part { whole, positions } = &self.source {
            return whole.metadata(positions[position] as usize);
        }
        let Some(pass) = &self.pass else {
            return Ok(Metadata::default());
        };
        let key = self.key(position)?;
        let name = key.rsplit('/').next().unwrap_or(&key);
        let found = pass.get(name).map_err(|reason| Error::Record {
            key: key.clone(),
            reason,
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Heap memory that the index of the records takes, bytes.
    pub fn index_bytes(&self) -> usize {
        match &self.source {
            Source::Shards(shards) => shards.tables().map(|(_, table)| table.heap_bytes()).sum(),
            Source::Folder { table, .. } => table.heap_bytes(),
            Source::Raster(_) | Source::Memory(_) | Source::Synthetic(_) => 0,
            Source::Part { positions, .. } => 4 * positions.len(),
        }
    }

    fn check(&self, position: usize) -> Result<(), Error> {
        let records = self.len();
        if position < records {
            Ok(())
        } else {
            Err(Error::Position { position, records })
        }
    }

    fn open_described(path: &Path, split: Option<&str>, store: &IndexStore) -> Result<Dataset, Error> {
        let part = description::read_part(path, split)?;
        let data = resolve(path, &part.path)?;
        let labels = part
            .labels
            .as_ref()
            .map(|labels| resolve(path, labels))
            .transpose()?;
        let classes = part.classes.clone();
        let is_image_folder = !matches!(part.kind, Kind::Shards | Kind::Pass | Kind::Idx);
        if is_image_folder && !data.is_dir() {
            return Err(Error::Description {
                path: path.to_path_buf(),
                reason: format!("path `{}` is not a folder", data.display()),
            });
        }
        let opened = match part.kind {
            Kind::Folder => Self::open_folder(&data, Layout::Classes, classes.as_deref(), store),
            Kind::Flat => Self::open_folder(&data, Layout::Unlabelled, None, store),
            Kind::Shards | Kind::Pass => {
                let shards = shards_of(&data)?;
                match part.kind {
                    Kind::Pass if shards.is_empty() => {
                        Self::open_folder(&data, Layout::Unlabelled, None, store)
                    }
                    _ if shards.is_empty() => Err(Error::Empty {
                        path: data,
                        reason: "no shard in it; expected .tar files".to_string(),
                    }),
                    _ => Self::open_shards(shards, classes.unwrap_or_default(), store),
                }
            }
            Kind::Voc => Ok(Self::of_listed(listed::open_voc(&data, &part, store)?)),
            // Both have `labels`, or the description would have been refused.
            Kind::Coco => Ok(Self::of_listed(listed::open_coco(
                &data,
                &labels.unwrap_or_default(),
                &part,
                store,
            )?)),
            Kind::Csv => Ok(Self::of_listed(listed::open_csv(
                &data,
                &labels.unwrap_or_default(),
                &part,
                store,
            )?)),
            Kind::Cifar10 | Kind::Cifar100 | Kind::Idx => Self::open_raster(&data, labels.as_deref(), &part),
        }?;
        opened.check_classes(path)?;
        Ok(opened)
    }

    fn of_listed(opened: Opened) -> Dataset {
        let mut table = opened.table;
        let hashed = table.take_hashed_keys();
        Dataset {
            source: Source::Folder {
                root: opened.root,
                table: Box::new(table),
            },
            class_names: opened.classes,
            fingerprint: fingerprint(&[hashed]),
            pass: None,
            undecided: opened.undecided,
        }
    }

    fn open_raster(data: &Path, labels: Option<&Path>, part: &Part) -> Result<Dataset, Error> {
        let files = part.files.as_deref().unwrap_or_default();
        let (raster, found) = match part.kind {
            Kind::Cifar10 => (
                raster::cifar(data, files, 1, 10)?,
                raster::cifar_names(data, false),
            ),
            Kind::Cifar100 => (
                raster::cifar(data, files, 2, 100)?,
                raster::cifar_names(data, true),
            ),
            _ => (raster::idx(data, labels)?, None),
        };
        if raster.len() == 0 {
            return Err(Error::Empty {
                path: data.to_path_buf(),
                reason: "no record in it".to_string(),
            });
        }
        Ok(Dataset {
            class_names: part.classes.clone().or(found).unwrap_or_default(),
            fingerprint: fingerprint(&[raster.hashed_keys()]),
            source: Source::Raster(raster),
            pass: None,
            undecided: HashMap::new(),
        })
    }

    /// What the description of a data set says beside where its records are: name, usual metric and resize, downloads.
    /// Nothing for data without one.
    ///
    /// # Errors
    /// [`Error`] where the description does not say what it should.
    pub fn about(spec: &str) -> Result<About, Error> {
        let (path, _) = split_of(spec);
        match path.ends_with(".toml") && Path::new(path).is_file() {
            true => description::read_about(Path::new(path)),
            false => Ok(About::default()),
        }
    }

    /// Classes of which a record is neither an example nor a counterexample: VOC's `difficult`. Ascending.
    pub fn undecided(&self, position: usize) -> &[u32] {
        self.undecided.get(&position).map_or(&[], Vec::as_slice)
    }

    /// A class number without a name would be found out only deep in an evaluation.
    fn check_classes(&self, description: &Path) -> Result<(), Error> {
        let names = self.class_names.len() as u32;
        if names == 0 {
            return Ok(());
        }
        // Absent labels are stored as the largest number.
        let is_beyond = |class: &u32| *class >= names && *class != u32::MAX;
        let beyond = match &self.source {
            Source::Shards(shards) => shards
                .tables()
                .find_map(|(_, table)| table.label_values.iter().copied().find(is_beyond)),
            Source::Raster(raster) => raster.largest_class().filter(is_beyond),
            _ => None,
        };
        match beyond {
            None => Ok(()),
            Some(class) => Err(Error::Description {
                path: description.to_path_buf(),
                reason: format!("names {names} classes, but a record is of class {class}"),
            }),
        }
    }

    fn open_folder(
        root: &Path,
        layout: Layout,
        classes: Option<&[String]>,
        store: &IndexStore,
    ) -> Result<Dataset, Error> {
        let (mut table, class_names) = folder::open(root, layout, classes, store)?;
        let hashed = table.take_hashed_keys();
        let pass = PassMetadata::find(root).or_else(|| PassMetadata::find(root.parent()?));
        Ok(Dataset {
            source: Source::Folder {
                root: root.to_path_buf(),
                table: Box::new(table),
            },
            class_names,
            fingerprint: fingerprint(&[hashed]),
            pass,
            undecided: HashMap::new(),
        })
    }

    fn open_shards(
        paths: Vec<PathBuf>,
        class_names: Vec<String>,
        store: &IndexStore,
    ) -> Result<Dataset, Error> {
        let pass = paths[0].parent().and_then(PassMetadata::find);
        let (shards, hashed) = ShardSet::open(paths, store)?;
        Ok(Dataset {
            source: Source::Shards(shards),
            class_names,
            fingerprint: fingerprint(&hashed),
            pass,
            undecided: HashMap::new(),
        })
    }

    /// The shards that a specification means; none where it means a folder.
    pub(crate) fn shard_paths(spec: &str) -> Result<Vec<PathBuf>, Error> {
        let (spec, split) = split_of(spec);
        let path = Path::new(spec);
        let described = if path.is_dir() {
            path.join(description::FILE_NAME)
        } else {
            path.to_path_buf()
        };
        if described.extension().is_some_and(|extension| extension == "toml") && described.is_file() {
            let part = description::read_part(&described, split)?;
            return match part.kind {
                Kind::Shards | Kind::Pass => shards_of(&resolve(&described, &part.path)?),
                _ => Ok(Vec::new()),
            };
        }
        let is_tar = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("tar"));
        if path.is_file() && !is_tar {
            return Err(no_data_file(path));
        }
        if !path.exists() && !spec.contains('{') {
            return Err(not_found(path));
        }
        shards_of(path)
    }

    /// Shards with their tables, for `inspect`.
    pub(crate) fn shard_tables(&self) -> Vec<(&Path, &Table)> {
        match &self.source {
            Source::Shards(shards) => shards.tables().collect(),
            Source::Folder { root, table } => vec![(root.as_path(), &**table)],
            Source::Raster(_) | Source::Memory(_) | Source::Synthetic(_) | Source::Part { .. } => Vec::new(),
        }
    }
}

/// A file that is neither a shard nor a description.
fn no_data_file(path: &Path) -> Error {
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let hint = if files::is_image_extension(&extension) {
        Some("give the folder that the picture lies in".to_string())
    } else if ["gz", "tgz"]
        .iter()
        .any(|packed| extension.eq_ignore_ascii_case(packed))
    {
        Some("make shards of it first with `passer shards pack`".to_string())
    } else {
        None
    };
    let what = match files::is_image_extension(&extension) {
        true => "one picture is no data set".to_string(),
        _ if extension.is_empty() => "a file without an extension".to_string(),
        _ => format!("a file ending in `.{extension}`"),
    };
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: format!("{what}; expected a `.tar`, a data-set description (`.toml`) or a folder"),
        hint,
    }
}

/// Nothing lies there, or a link leads nowhere.
fn not_found(path: &Path) -> Error {
    let spec = path.display().to_string();
    match files::broken_link(path) {
        Some(link) => Error::Unreadable {
            spec,
            reason: link,
            hint: Some("remove the link, or bring back what it points to".to_string()),
        },
        None => Error::NotFound { spec },
    }
}

#[allow(dead_code)]
const fn assert_shareable<T: Send + Sync>() {}
const _: () = assert_shareable::<Dataset>();

#[cfg(test)]
mod tests;
