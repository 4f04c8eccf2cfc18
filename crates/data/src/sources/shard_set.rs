//! Several tar shards as one sequence of records: which shard a position is in, and reading at its offset.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::{self, HashedKeys, Identity, Keys};
use super::index_file::IndexStore;
use super::license_column::LicenseColumn;
use super::part::{Layout, Shards};
use super::pass_metadata::PassMetadata;
use super::source::{Opened, Source};
use super::table::Table;
use super::{files, names, tar_shard};
use crate::content;
use crate::contents::content_of;
use crate::error::Error;
use crate::hint::Hint;
use crate::listing::{Listing, Reason};
use crate::record::{Label, Metadata};

/// Shards kept open at once; with more, each read reopens its shard, because systems limit open files.
const MOST_OPEN_SHARDS: usize = 256;

/// Shards per thread whose indexes are read before their hashes are put behind the others', so that few are held twice.
const TOGETHER: usize = 16;

/// `kind = "shards"`: a folder of WebDataset shards, one `.tar`, or a brace pattern.
pub(crate) const SHARDS: Layout = Layout {
    name: "shards",
    keys: &[],
    required: &[],
    in_folder: false,
    shards: Some(shards_of),
    open: |place, store| {
        let shards = shards_of(&place.path)?;
        if shards.paths.is_empty() {
            let instead = shards.listing.instead();
            let hint = (shards.listing.count(Reason::CompressedShard) > 0).then_some(Hint::UnpackShards);
            return Err(Error::Unreadable {
                spec: place.path.display().to_string(),
                reason: match instead {
                    Some(instead) => format!("no shard in it; expected .tar files (it has {instead})"),
                    None => "no shard in it; expected .tar files".to_string(),
                },
                hint,
            });
        }
        open(shards, place.part.classes.clone().unwrap_or_default(), store)
    },
};

/// Shards in order, with at least one record in all.
#[derive(Debug)]
struct ShardSet {
    shards: Vec<Shard>,
    pass: Option<PassMetadata>,
    store: IndexStore,
}

/// One tar, with the position of its first record in the data set.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    table: Table,
    first: usize,
    keep_open: bool,
    file: OnceLock<File>,
}

/// Opens the shards, several at a time, and indexes those that are not indexed yet.
pub(crate) fn open(
    shards: impl Into<Shards>,
    class_names: Vec<String>,
    store: &IndexStore,
) -> Result<Opened, Error> {
    let Shards { paths, mut listing } = shards.into();
    let pass = paths[0].parent().and_then(PassMetadata::find);
    let keep_open = paths.len() <= MOST_OPEN_SHARDS;
    let count = paths.len();
    let together = rayon::current_num_threads() * TOGETHER;
    let mut shards: Vec<Shard> = Vec::with_capacity(count);
    let (mut hashes, mut order) = (Vec::new(), Vec::new());
    let mut first = 0;
    for paths in paths.chunks(together) {
        let tables: Vec<(Table, Vec<u32>)> = paths
            .par_iter()
            .map(|path| {
                let table = shard_table(path, store)?;
                let order = fingerprint::order(&Keys::of_shard(&table), &table.hashes);
                Ok((table, order))
            })
            .collect::<Result<_, Error>>()?;
        for (path, (mut table, order_in_shard)) in paths.iter().zip(tables) {
            listing.merge(table.listing.as_ref().unwrap_or(&Listing::default()));
            hashes.append(&mut table.take_hashes());
            order.extend(order_in_shard);
            let next = first + table.len();
            shards.push(Shard {
                path: path.clone(),
                table,
                first,
                keep_open,
                file: OnceLock::new(),
            });
            first = next;
        }
        // Most shards are of one size: without copies of what came before.
        let missing = first / shards.len() * (count - shards.len());
        hashes.reserve(missing);
        order.reserve(missing);
    }
    if first == 0 {
        return Err(no_record(shards.swap_remove(0).path, &listing));
    }
    let parts: Vec<HashedKeys<'_>> = shards
        .iter()
        .map(|shard| {
            let rows = shard.first..shard.first + shard.table.len();
            HashedKeys::of_shard(&shard.table, &hashes[rows.clone()], &order[rows])
        })
        .collect();
    let identity = Identity::of(&parts, &mut listing);
    drop(parts);
    Ok(Opened {
        source: Box::new(ShardSet {
            shards,
            pass,
            store: store.clone(),
        }),
        class_names,
        identity,
        listing,
        objects: None,
    })
}

/// The error of shards without a single record: what they hold instead, and the cure.
fn no_record(path: PathBuf, listing: &Listing) -> Error {
    const EXPECTED: &str = "no record in it; expected members such as KEY.jpg or KEY.png";
    let has = |reason| listing.count(reason) > 0;
    let hint = if has(Reason::Archive) {
        Some(Hint::UnpackInner)
    } else if has(Reason::OtherName) {
        Some(Hint::NameImages)
    } else {
        None
    };
    match (listing.instead(), hint) {
        (Some(instead), hint) => Error::Unreadable {
            spec: path.display().to_string(),
            reason: format!("{EXPECTED} (it has {instead})"),
            hint,
        },
        (None, _) => Error::Empty {
            path,
            reason: EXPECTED.to_string(),
        },
    }
}

impl Source for ShardSet {
    fn len(&self) -> usize {
        self.shards
            .last()
            .map_or(0, |shard| shard.first + shard.table.len())
    }

    fn is_labeled(&self) -> bool {
        self.shards.iter().any(|shard| shard.table.has_labels())
    }

    fn key(&self, position: usize) -> String {
        let (shard, row) = self.find(position);
        shard.table.key(row)
    }

    fn label(&self, position: usize) -> Option<Label> {
        let (shard, row) = self.find(position);
        shard.table.label(row)
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        let (shard, row) = self.find(position);
        shard.read(shard.table.image_offset(row), shard.table.image_bytes[row], image)
    }

    fn image_bytes(&self, position: usize) -> u64 {
        let (shard, row) = self.find(position);
        u64::from(shard.table.image_bytes[row])
    }

    /// The content of `KEY.json`, or of the row of PASS's table.
    fn metadata(&self, position: usize) -> Result<Metadata, Error> {
        let (shard, row) = self.find(position);
        if let Some((offset, bytes)) = shard.table.json(row) {
            let mut text = Vec::new();
            shard.read(offset, bytes, &mut text)?;
            return serde_json::from_slice(&text).map_err(|error| Error::Record {
                key: shard.table.key(row),
                reason: format!(
                    "its .json in shard `{}` is no metadata: {error}",
                    shard.path.display()
                ),
            });
        }
        match &self.pass {
            Some(pass) => pass.of_key(&shard.table.key(row)),
            None => Ok(Metadata::default()),
        }
    }

    fn licenses(&self) -> Result<LicenseColumn, Error> {
        // A release has both, and then the table is not needed.
        let lacks_metadata =
            |shard: &Shard| (0..shard.table.len()).any(|row| shard.table.json(row).is_none());
        let of_pass = match &self.pass {
            Some(pass) if self.shards.iter().any(lacks_metadata) => Some(pass.licenses()?),
            _ => None,
        };
        let is_old = |shard: &Shard| shard.table.licenses.is_none();
        let old = self.shards.iter().filter(|shard| is_old(shard)).count();
        if old > 0 {
            tracing::info!(
                shards = old,
                "reading the licenses of shards whose indexes were made by version 0.1"
            );
        }
        let read: Vec<Option<LicenseColumn>> = self
            .shards
            .par_iter()
            .map(|shard| is_old(shard).then(|| self.complete(shard)).transpose())
            .collect::<Result<_, Error>>()?;
        let mut all = LicenseColumn::default();
        for (shard, read) in self.shards.iter().zip(&read) {
            let Some(column) = shard.table.licenses.as_ref().or(read.as_ref()) else {
                continue;
            };
            let stated = column.of_first(shard.table.len());
            for (row, stated) in stated.into_iter().enumerate() {
                // A record's own metadata take precedence over the table's row, as in `metadata`.
                let license = match &of_pass {
                    Some(pass) if shard.table.json(row).is_none() => pass.of_key(&shard.table.key(row)),
                    _ => stated,
                };
                all.push(shard.first + row, license);
            }
        }
        Ok(all)
    }

    fn largest_class(&self) -> Option<u32> {
        self.shards
            .iter()
            .filter_map(|shard| shard.table.largest_class())
            .max()
    }

    fn contents(&self) -> Result<Vec<u128>, Error> {
        let of_shards: Vec<Vec<u128>> = self
            .shards
            .par_iter()
            .map(|shard| shard.contents(&self.store))
            .collect::<Result<_, Error>>()?;
        Ok(of_shards.concat())
    }

    fn tables(&self) -> Vec<(&Path, &Table)> {
        self.shards
            .iter()
            .map(|shard| (shard.path.as_path(), &shard.table))
            .collect()
    }
}

impl ShardSet {
    /// The licenses of a shard whose index is of version 0.1; the index is completed with them.
    fn complete(&self, shard: &Shard) -> Result<LicenseColumn, Error> {
        let licenses =
            tar_shard::licenses_of(&shard.path, &shard.table).map_err(Error::io("read", &shard.path))?;
        if let Some((origin, mut stored)) = self.store.load(&shard.path, false)
            && stored.len() == shard.table.len()
        {
            stored.licenses = Some(licenses.clone());
            if stored.skipped_count == 0 {
                stored.listing.get_or_insert_default();
            }
            self.store.save(&shard.path, false, &origin, &stored);
        }
        Ok(licenses)
    }

    fn find(&self, position: usize) -> (&Shard, usize) {
        let at = self.shards.partition_point(|shard| shard.first <= position) - 1;
        (&self.shards[at], position - self.shards[at].first)
    }
}

impl Shard {
    /// The hashes in its index, or those of its images where the index could not be stored or is of another
    /// state of the shard.
    fn contents(&self, store: &IndexStore) -> Result<Vec<u128>, Error> {
        let stored = store.load(&self.path, false);
        if let Some((_, stored)) = stored.filter(|(_, stored)| stored.has_records_of(&self.table)) {
            return Ok(stored.hashes.iter().map(content_of).collect());
        }
        let (mut image, table) = (Vec::new(), &self.table);
        let hash = |row| {
            self.read(table.image_offset(row), table.image_bytes[row], &mut image)?;
            Ok(content_of(&Sha256::digest(&image).into()))
        };
        (0..table.len()).map(hash).collect()
    }

    fn read(&self, offset: u64, bytes: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        let opened;
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
                if self.keep_open {
                    // Another thread may have been faster; both files are equivalent.
                    self.file.get_or_init(|| file)
                } else {
                    opened = file;
                    &opened
                }
            }
        };
        // Old contents are overwritten anyway; only a growing buffer is filled with zeros.
        out.resize(bytes as usize, 0);
        files::read_at(file, out, offset).map_err(|error| match error.kind() {
            // It had the length of its index when it was opened.
            ErrorKind::UnexpectedEof => Error::Unreadable {
                spec: self.path.display().to_string(),
                reason: format!(
                    "ends before byte {}: it became shorter after it was opened",
                    offset + u64::from(bytes)
                ),
                hint: None,
            },
            _ => Error::io("read", &self.path)(error),
        })
    }
}

/// The table of one shard, from its index if that is valid, rebuilt otherwise.
fn shard_table(path: &Path, store: &IndexStore) -> Result<Table, Error> {
    let now = tar_shard::origin(path)?;
    if let Some((stored, mut table)) = store.load(path, false) {
        let is_same = (stored.bytes, stored.modified) == (now.bytes, now.modified);
        // An index of version 0.2 or earlier says how many members were skipped, and not why.
        if is_same && (table.listing.is_some() || table.skipped_count == 0) {
            table.listing.get_or_insert_default();
            return Ok(table);
        }
        match is_same {
            true => {
                tracing::info!(shard = %path.display(), "indexing it again, to count skipped members by reason")
            }
            false => {
                tracing::info!(shard = %path.display(), "changed since it was indexed; indexing it again")
            }
        }
    }
    let (origin, table) = tar_shard::scan(path)?;
    store.save(path, false, &origin, &table);
    Ok(table)
}

/// Extensions of compressed shards, lower case.
const COMPRESSED: [&str; 8] = ["gz", "tgz", "bz2", "tbz2", "zst", "tzst", "xz", "txz"];

/// `.tar` files in a folder, by name, and the count of what else is there. Without a shard there, nothing is
/// counted: it is no folder of shards.
pub(crate) fn shards_in(folder: &Path) -> Result<Shards, Error> {
    let mut shards = Shards::default();
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_shard =
            names::extension(&name).eq_ignore_ascii_case("tar") && names::skipped_file(&name).is_none();
        match is_shard && !entry.path().is_dir() {
            true => shards.paths.push(entry.path()),
            false => others.push((name, entry)),
        }
    }
    shards.paths.sort_unstable();
    others.sort_unstable_by(|one, two| one.0.cmp(&two.0));
    let is_compressed = |name: &str| {
        let extension = names::extension(name).to_ascii_lowercase();
        COMPRESSED.contains(&extension.as_str())
    };
    let has_compressed = others.iter().any(|(name, _)| is_compressed(name));
    if shards.paths.is_empty() && !has_compressed {
        return Ok(shards);
    }
    for (name, entry) in others {
        let (reason, kind) = beside_shards(&name, &entry, is_compressed(&name))?;
        if let Some(reason) = reason {
            shards.listing.add(reason, &kind, || name.clone());
        }
    }
    Ok(shards)
}

/// Why something beside shards is no record, and its kind; no reason for this program's own files.
fn beside_shards(
    name: &str,
    entry: &std::fs::DirEntry,
    is_compressed: bool,
) -> Result<(Option<Reason>, String), Error> {
    let path = entry.path();
    if path.is_dir() {
        return Ok(match names::skipped_folder(name) {
            Some(reason) => (Some(reason), String::new()),
            None => (Some(Reason::BesideShards), "folders".to_string()),
        });
    }
    if is_compressed {
        return Ok((Some(Reason::CompressedShard), names::kind_of_files(name)));
    }
    if !path.is_file() {
        return Ok((Some(Reason::NotAFile), String::new()));
    }
    let kind = names::kind(name, || content::start_of(&path)).map_err(Error::io("read", &path))?;
    Ok(match kind {
        names::Kind::Image | names::Kind::ImageByContent(_) => {
            (Some(Reason::BesideShards), names::kind_of_files(name))
        }
        names::Kind::LeftOut(reason, kind) => (Some(reason), kind),
        names::Kind::Own => (None, String::new()),
    })
}

/// The shards in a folder, the one shard, or the shards of a brace pattern.
pub(crate) fn shards_of(path: &Path) -> Result<Shards, Error> {
    match (path.is_dir(), path.is_file()) {
        (true, _) => shards_in(path),
        (_, true) => Ok(vec![path.to_path_buf()].into()),
        _ => Ok(expand(&path.to_string_lossy())?.into()),
    }
}

/// The shards of a brace pattern, all of which must exist.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let names = webdataset::braceexpand::braceexpand(pattern).map_err(|error| Error::Unreadable {
        spec: pattern.to_string(),
        reason: format!("not a brace pattern: {error}"),
        hint: None,
    })?;
    let paths: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(Error::NotFound {
            spec: missing.display().to_string(),
        }),
        None => Ok(paths),
    }
}
