//! A data set opened for reading: where its records are, and reading any one of them by position.

mod objects;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use crate::content::{self, Content, content_of};
use crate::contents::{ContentSample, Contents};
use crate::error::Error;
use crate::hex::hex;
use crate::hint::Hint;
use crate::licenses::Licenses;
use crate::listing::{Listing, Reason};
use crate::names;
use crate::record::{Label, Metadata, Record};
use crate::sources::description::{self, About, resolve, split_of};
use crate::sources::files;
use crate::sources::fingerprint::Identity;
use crate::sources::folder::{self, Labels};
use crate::sources::index_file::IndexStore;
use crate::sources::memory::Memory;
use crate::sources::objects::ObjectTable;
use crate::sources::part::{Place, Shards};
use crate::sources::shard_set::{self, expand, shards_in, shards_of};
use crate::sources::source::{Opened, Source};
use crate::sources::subset::Subset;
use crate::sources::synthetic::Synthetic;
use crate::sources::table::Table;

/// Records at positions 0 to `len() - 1`, opened and indexed. Cheap to share between threads.
#[derive(Debug)]
pub struct Dataset {
    source: Arc<dyn Source>,
    class_names: Vec<String>,
    fingerprint: String,
    /// Some of the images, taken when the data were indexed; those of a part at the first request.
    sample: OnceLock<ContentSample>,
    /// Counted at the first request.
    licenses: OnceLock<Licenses>,
    listing: Listing,
    /// Boxes and masks, where the data set was opened with them.
    objects: Option<ObjectTable>,
}

impl Dataset {
    /// Opens a data set and indexes the shards or files that are not indexed yet.
    ///
    /// `spec` is a directory of shards, one `.tar`, a brace pattern such as `train-{000000..000143}.tar`, an
    /// image folder (`CLASS/name.jpg` or flat), the PASS tars, or a data-set description (`.toml`, with
    /// `#split` where it has splits). The first opening reads everything once, to hash it; later ones take
    /// less than a second for a million records.
    ///
    /// What became no record, or became one by a guess, is counted ([`Dataset::listing`]) and warned of.
    ///
    /// # Errors
    /// [`Error`] where the data are not found, empty, of another kind, or damaged.
    pub fn open(spec: &str) -> Result<Dataset, Error> {
        let dataset = Self::reopen(spec)?;
        dataset.warn(spec);
        Ok(dataset)
    }

    /// Warns of what became no record, or became one by a guess, and of names that are easily confused.
    fn warn(&self, spec: &str) {
        self.listing.warn(spec);
        // Those that differ in case alone are in the listing.
        if self.listing.count(Reason::ClassesEqualButForCase) == 0
            && let Some([one, other]) = names::twins(&self.class_names)
        {
            tracing::warn!(
                "classes `{}` and `{}` are two classes whose names differ in case, spaces or signs alone",
                one.escape_debug(),
                other.escape_debug()
            );
        }
    }

    /// [`Dataset::open`] without its warnings, for data that were opened before.
    ///
    /// # Errors
    /// As for [`Dataset::open`].
    pub fn reopen(spec: &str) -> Result<Dataset, Error> {
        Self::open_with(spec, &IndexStore::from_environment())
    }

    pub(crate) fn open_with(spec: &str, store: &IndexStore) -> Result<Dataset, Error> {
        Self::open_reading(spec, store, false)
    }

    /// Opens a data set, with its boxes and masks where they are asked for and its layout has them in files of
    /// their own.
    fn open_reading(spec: &str, store: &IndexStore, with_objects: bool) -> Result<Dataset, Error> {
        if let Some((scheme, _)) = spec.split_once("://") {
            return Err(Error::Unreadable {
                spec: spec.to_string(),
                reason: format!(
                    "an address (`{scheme}:`), and only files on this machine are read; download them first"
                ),
                hint: None,
            });
        }
        let (spec, split) = split_of(spec);
        let path = Path::new(spec);
        if let Some(described) = description::at(path) {
            return Self::open_described(&described, split, store, with_objects);
        }
        if path.is_dir() {
            let shards = shards_in(path)?;
            if shards.paths.is_empty() {
                return Ok(Self::of(folder::open(path, Labels::Detect, None, store)?));
            }
            return Ok(Self::of(shard_set::open(shards, Vec::new(), store)?));
        }
        if path.is_file() {
            let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
            if extension == "tar" {
                return Ok(Self::of(shard_set::open(
                    vec![path.to_path_buf()],
                    Vec::new(),
                    store,
                )?));
            }
            return Err(no_data_file(path));
        }
        if spec.contains('{') {
            return Ok(Self::of(shard_set::open(expand(spec)?, Vec::new(), store)?));
        }
        Err(not_found(path))
    }

    /// Records drawn from (`seed`, position): smooth random pictures of `width` x `height` px in `classes`
    /// classes, or without labels where `classes` is 0. Nothing is stored; each read generates its picture
    /// again.
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
            // Pictures that nobody has.
            sample: ContentSample::default().into(),
            source: Arc::new(source),
            licenses: OnceLock::new(),
            listing: Listing::default(),
            objects: None,
        }
    }

    /// A data set of records that are already in memory, such as images bundled with the program.
    pub fn from_records(records: Vec<Record>, class_names: Vec<String>) -> Dataset {
        let source = Memory { records };
        let mut listing = Listing::default();
        let identity = Identity::of(&[source.hashed_keys()], &mut listing);
        Self::of(Opened {
            source: Box::new(source),
            class_names,
            identity,
            listing,
            objects: None,
        })
    }

    /// The records of `whole` at these positions, in this order: a split, or a subset. Nothing is copied. Its
    /// fingerprint is a hash of the whole data set's fingerprint and of the keys.
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
        Ok(Dataset {
            class_names: whole.class_names.clone(),
            fingerprint: hex(&hasher.finalize()),
            sample: match whole.sample.get() {
                Some(sample) if sample.is_empty() => sample.clone().into(),
                _ => OnceLock::new(),
            },
            licenses: OnceLock::new(),
            listing: whole.listing.clone(),
            objects: whole.objects.as_ref().map(|objects| objects.picked(&positions)),
            source: Arc::new(Subset {
                whole: Arc::clone(&whole.source),
                positions,
            }),
        })
    }

    /// A data set of a source of a test's own.
    #[cfg(test)]
    pub(crate) fn of_source(source: Box<dyn Source>) -> Dataset {
        Self::of(Opened {
            source,
            class_names: Vec::new(),
            identity: Identity::default(),
            listing: Listing::default(),
            objects: None,
        })
    }

    fn of(opened: Opened) -> Dataset {
        Dataset {
            source: Arc::from(opened.source),
            class_names: opened.class_names,
            fingerprint: opened.identity.fingerprint,
            sample: opened.identity.sample.into(),
            licenses: OnceLock::new(),
            listing: opened.listing,
            objects: opened.objects,
        }
    }

    /// What lies in the data and became no record, or became one by a guess; of the whole data set where this
    /// is a part of one.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the classes in the order of their numbers; empty where there are no labels or only numbers
    /// are known.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Whether at least one record has a label.
    pub fn is_labeled(&self) -> bool {
        self.source.is_labeled()
    }

    /// Hex SHA-256 over the sorted (key, content hash) pairs of all records, taken when the data were
    /// indexed.
    ///
    /// It does not depend on how the records are spread over shards: a folder and the shards packed from it
    /// agree. (For [`Dataset::synthetic`] it is a hash of the arguments.)
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Key of a record.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn key(&self, position: usize) -> Result<String, Error> {
        self.check(position)?;
        Ok(self.source.key(position))
    }

    /// Label of a record, from the index: nothing is read.
    ///
    /// # Errors
    /// [`Error::Position`] past the end.
    pub fn label(&self, position: usize) -> Result<Option<Label>, Error> {
        self.check(position)?;
        Ok(self.source.label(position))
    }

    /// A whole record.
    ///
    /// # Errors
    /// [`Error`] where the record cannot be read, or its metadata are no JSON object.
    pub fn read(&self, position: usize) -> Result<Record, Error> {
        let mut image = Vec::new();
        self.read_image(position, &mut image)?;
        Ok(Record {
            key: self.source.key(position),
            image,
            label: self.source.label(position),
            metadata: self.source.metadata(position)?,
        })
    }

    /// Reads the encoded image of a record into a reused buffer.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read.
    pub fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        self.check(position)?;
        self.source.read_image(position, image)
    }

    /// Bytes of the encoded image of a record, 0 where they are not known before it is read.
    pub(crate) fn image_bytes(&self, position: usize) -> u64 {
        match position < self.len() {
            true => self.source.image_bytes(position),
            false => 0,
        }
    }

    /// The provenance of a record: its `KEY.json`, or its row of `pass_metadata.csv`.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read or is no JSON object.
    pub fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        self.check(position)?;
        self.source.metadata(position)
    }

    /// The licenses of the records with the number of records each, counted once: from the index, which
    /// stores them with the data of each `KEY.json`, or from one pass over `pass_metadata.csv`.
    ///
    /// # Errors
    /// [`Error`] where that table cannot be read.
    pub fn licenses(&self) -> Result<&Licenses, Error> {
        if let Some(licenses) = self.licenses.get() {
            return Ok(licenses);
        }
        let counted = self.source.licenses()?.counted(self.len());
        Ok(self.licenses.get_or_init(|| counted))
    }

    /// Hashes of all images, to compare with another data set's: from the stored indexes, in a time linear in
    /// the records. Images whose index could not be stored are read once more.
    ///
    /// # Errors
    /// [`Error`] where such an image cannot be read.
    pub fn contents(&self) -> Result<Contents, Error> {
        Ok(Contents(self.source.contents()?))
    }

    /// A sample of the images, for the header of an encoder that is trained on them. Empty for synthetic data.
    ///
    /// # Errors
    /// [`Error`] as of [`contents`](Self::contents), for a part of a data set.
    pub fn sample(&self) -> Result<&ContentSample, Error> {
        if let Some(sample) = self.sample.get() {
            return Ok(sample);
        }
        let sample = self.contents()?.sample();
        Ok(self.sample.get_or_init(|| sample))
    }

    /// Heap memory that the index of the records takes, bytes.
    pub fn index_bytes(&self) -> usize {
        self.source.index_bytes()
    }

    fn check(&self, position: usize) -> Result<(), Error> {
        let records = self.len();
        if position < records {
            Ok(())
        } else {
            Err(Error::Position { position, records })
        }
    }

    fn open_described(
        path: &Path,
        split: Option<&str>,
        store: &IndexStore,
        with_objects: bool,
    ) -> Result<Dataset, Error> {
        let part = description::read_part(path, split)?;
        let labels = part.labels.as_ref().map(|labels| resolve(path, labels));
        let place = Place {
            path: resolve(path, &part.path)?,
            labels: labels.transpose()?.unwrap_or_default(),
            part: &part,
            with_objects,
        };
        if part.kind.in_folder && !place.path.is_dir() {
            let reason = format!("path `{}` is not a folder", place.path.display());
            return Err(Error::description(path, reason));
        }
        let dataset = Self::of((part.kind.open)(&place, store)?);
        dataset.check_classes(path)?;
        Ok(dataset)
    }

    /// The description of a data set without its records: name, headline metric, transforms, downloads. Empty
    /// for data without one.
    ///
    /// # Errors
    /// [`Error`] where the description is invalid.
    pub fn about(spec: &str) -> Result<About, Error> {
        match description::at(Path::new(split_of(spec).0)) {
            Some(described) => description::read_about(&described),
            None => Ok(About::default()),
        }
    }

    /// Classes for which a record is neither an example nor a counterexample: VOC's `difficult`. Ascending.
    pub fn undecided(&self, position: usize) -> &[u32] {
        match position < self.len() {
            true => self.source.undecided(position),
            false => &[],
        }
    }

    /// Gives an error for class numbers without a name, which would otherwise surface only in an evaluation.
    fn check_classes(&self, description: &Path) -> Result<(), Error> {
        let names = self.class_names.len();
        match self.source.largest_class() {
            Some(class) if names > 0 && class as usize >= names => {
                let reason = format!("names {names} classes, but a record is of class {class}");
                Err(Error::description(description, reason))
            }
            _ => Ok(()),
        }
    }

    /// The shards that a specification names; none where it names a folder.
    pub(crate) fn shard_paths(spec: &str) -> Result<Shards, Error> {
        let (spec, split) = split_of(spec);
        let path = Path::new(spec);
        if let Some(described) = description::at(path) {
            let part = description::read_part(&described, split)?;
            return match part.kind.shards {
                Some(shards) => shards(&resolve(&described, &part.path)?),
                None => Ok(Shards::default()),
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

    /// Shards with their tables.
    pub(crate) fn shard_tables(&self) -> Vec<(&Path, &Table)> {
        self.source.tables()
    }
}

/// A file that is neither a shard nor a description: its content says what it is.
fn no_data_file(path: &Path) -> Error {
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let content = content::start_of(path).map_or(Content::Other, |start| content_of(&start));
    let (is, hint) = match content {
        Content::Image | Content::UnreadPicture(_) => {
            (Some("one picture is no data set"), Some(Hint::GiveFolder))
        }
        Content::Compressed(_) => (None, Some(Hint::PackArchive)),
        Content::Tar => (Some("a tar that is not called so"), Some(Hint::RenameTar)),
        Content::Archive(_) => (
            Some("an archive of another kind than tar"),
            Some(Hint::UnpackArchives),
        ),
        Content::GitLfsPointer => (content.words(), Some(Hint::FetchFromGitLfs)),
        Content::WebPage | Content::Empty => (content.words(), Some(Hint::DownloadAgain)),
        Content::AppleDouble | Content::Other => (None, None),
    };
    let file = match is {
        Some(is) => is.to_string(),
        None if extension.is_empty() => "a file without an extension".to_string(),
        None => format!("a file ending in `.{extension}`"),
    };
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: format!("{file}; expected a `.tar`, a data-set description (`.toml`) or a folder"),
        hint,
    }
}

/// The path does not exist, or is a broken link.
fn not_found(path: &Path) -> Error {
    let spec = path.display().to_string();
    match files::broken_link(path) {
        Some(link) => Error::Unreadable {
            spec,
            reason: link,
            hint: Some(Hint::RestoreLink),
        },
        None => Error::NotFound { spec },
    }
}

#[allow(dead_code)]
const fn assert_shareable<T: Send + Sync>() {}
const _: () = assert_shareable::<Dataset>();

#[cfg(test)]
mod tests;
