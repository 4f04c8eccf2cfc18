//! Inspecting shards: rebuild their indexes, summarize them, and check every image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{OnProgress, checksums};
use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, decode_and};
use crate::error::Error;
use crate::hex::hex;
use crate::hint::Hint;
use crate::in_flight::FILES;
use crate::listing::{Listing, Reason};
use crate::record::{Label, Metadata};
use crate::sources::index_file::{IndexStore, Origin};
use crate::sources::part::Shards;
use crate::sources::table::Table;
use crate::sources::{files, tar_shard};

/// The content of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Records in all.
    pub records: usize,
    /// Bytes of their images.
    pub image_bytes: u64,
    /// Hex SHA-256 over the sorted (key, content hash) pairs.
    pub fingerprint: String,
    /// Memory that the opened index takes.
    pub index_bytes: usize,
    /// Records of each class, by number.
    pub classes: Vec<ClassCount>,
    /// Shards in order; for an image folder, one entry for the folder.
    pub shards: Vec<ShardSummary>,
    /// What lies in the data and became no record, or became one by a guess.
    pub listing: Listing,
}

/// Records of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class's number.
    pub class: u32,
    /// Its name, where known.
    pub name: Option<String>,
    /// Records of this class.
    pub records: usize,
}

/// The content of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardSummary {
    /// The shard.
    pub path: PathBuf,
    /// Its records.
    pub records: usize,
    /// Records with `KEY.json`.
    pub with_metadata: usize,
    /// Bytes of its images.
    pub image_bytes: u64,
    /// Members that belong to no record, the first hundred.
    pub skipped: Vec<SkippedMember>,
}

/// A member or file that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedMember {
    /// Its name.
    pub name: String,
    /// The reason.
    pub reason: String,
}

/// A shard that cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedShard {
    /// The shard.
    pub path: PathBuf,
    /// Where and how it is damaged.
    pub reason: String,
    /// Whole records before the damage.
    pub readable_records: usize,
    /// The cure, where one is known.
    #[serde(skip)]
    pub hint: Option<Hint>,
}

/// The outcome of [`verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Records that were found.
    pub records: usize,
    /// Keys of images that cannot be decoded, with the reason.
    pub broken: Vec<SkippedMember>,
    /// Keys of images whose content differs from the index, although size and time of the shard match.
    pub changed: Vec<SkippedMember>,
    /// Keys of images whose bytes are not those of the `content_hash` in their metadata.
    pub altered: Vec<SkippedMember>,
    /// Files that are missing, altered or not listed, where the folder has a `SHA256SUMS`.
    pub files: Vec<SkippedMember>,
    /// Members that belong to no record.
    pub skipped: Vec<SkippedMember>,
    /// Keys that an earlier record already has, with its place.
    pub repeated: Vec<SkippedMember>,
    /// Truncated or damaged shards.
    pub damaged: Vec<DamagedShard>,
    /// What lies in the data and became no record, or became one by a guess.
    pub listing: Listing,
}

impl Verification {
    /// Whether nothing is wrong; members outside records are not a fault.
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty()
            && self.changed.is_empty()
            && self.altered.is_empty()
            && self.files.is_empty()
            && self.repeated.is_empty()
            && self.damaged.is_empty()
    }
}

/// Rebuilds the indexes of a data set, in any state, and summarizes it.
///
/// # Errors
/// As for [`Dataset::open`].
pub fn index(spec: &str) -> Result<Inspection, Error> {
    let store = IndexStore::from_environment();
    let shards = Dataset::shard_paths(spec)?;
    shards.paths.par_iter().try_for_each(|path| {
        let (origin, table) = tar_shard::scan(path)?;
        store.save(path, false, &origin, &table);
        Ok::<(), Error>(())
    })?;
    inspect(spec)
}

/// Summarizes a data set from its index.
///
/// # Errors
/// As for [`Dataset::open`].
pub fn inspect(spec: &str) -> Result<Inspection, Error> {
    let dataset = Dataset::open(spec)?;
    let mut classes: BTreeMap<u32, usize> = BTreeMap::new();
    for position in 0..dataset.len() {
        match dataset.label(position)? {
            Some(Label::Class(class)) => *classes.entry(class).or_default() += 1,
            Some(Label::Classes(set)) => set
                .into_iter()
                .for_each(|class| *classes.entry(class).or_default() += 1),
            None => {}
        }
    }
    let shards: Vec<ShardSummary> = dataset
        .shard_tables()
        .into_iter()
        .map(|(path, table)| summarize(path, table))
        .collect();
    let classes = classes.into_iter().map(|(class, records)| {
        let name = dataset.class_names().get(class as usize).cloned();
        ClassCount { class, name, records }
    });
    Ok(Inspection {
        records: dataset.len(),
        image_bytes: shards.iter().map(|shard| shard.image_bytes).sum(),
        fingerprint: dataset.fingerprint().to_string(),
        index_bytes: dataset.index_bytes(),
        classes: classes.collect(),
        shards,
        listing: dataset.listing().clone(),
    })
}

fn summarize(path: &Path, table: &Table) -> ShardSummary {
    ShardSummary {
        path: path.to_path_buf(),
        records: table.len(),
        with_metadata: table.json_bytes.iter().filter(|bytes| **bytes > 0).count(),
        image_bytes: table.image_bytes.iter().map(|bytes| u64::from(*bytes)).sum(),
        skipped: skipped_members(table),
    }
}

pub(super) fn skipped_members(table: &Table) -> Vec<SkippedMember> {
    let member = |(name, reason): &(String, String)| SkippedMember {
        name: name.clone(),
        reason: reason.clone(),
    };
    table.skipped.iter().map(member).collect()
}

/// Reads everything, decodes every image, and compares it with the index and with the `content_hash` of its
/// metadata, and all files with the folder's `SHA256SUMS`. It reports damage instead of returning an error.
///
/// # Errors
/// [`Error`] where there are no data to check or they cannot be read at all.
pub fn verify(spec: &str, progress: OnProgress) -> Result<Verification, Error> {
    let Shards { paths, listing } = Dataset::shard_paths(spec)?;
    if paths.is_empty() {
        let mut outcome = verify_folder(&Dataset::open(spec)?, progress)?;
        outcome.files = wrong_files(&[Path::new(spec)])?;
        return Ok(outcome);
    }
    let store = IndexStore::from_environment();
    let mut outcome = Verification {
        listing,
        ..Verification::default()
    };
    let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
    outcome.files = wrong_files(&folders.into_iter().collect::<Vec<_>>())?;
    // One shard alone: the others may be elsewhere.
    if let [only] = paths.as_slice()
        && only.as_path() == Path::new(spec)
    {
        let name = only.file_name().unwrap_or_default().to_string_lossy();
        outcome.files.retain(|file| file.name == name);
    }
    let mut keys: HashMap<String, usize> = HashMap::new();
    for (done, path) in paths.iter().enumerate() {
        let (table, origin) = tar_shard::scan_what_can_be(path);
        let mut damaged = |reason: String, hint: Option<Hint>| {
            outcome.damaged.push(DamagedShard {
                path: path.clone(),
                reason,
                readable_records: table.len(),
                hint,
            });
        };
        match origin {
            Ok(origin) if !origin.ends_properly => damaged(
                "no end-of-archive mark: cut between two members, or written by a program that leaves it out"
                    .to_string(),
                Some(Hint::CopyArchive),
            ),
            Ok(origin) => {
                let stored = store.load(path, false);
                let is_same =
                    |stored: &Origin| (stored.bytes, stored.modified) == (origin.bytes, origin.modified);
                if let Some((_, indexed)) = stored.filter(|(stored, _)| is_same(stored)) {
                    outcome.changed.extend(differences(&indexed, &table));
                }
            }
            Err(Error::DamagedShard { reason, .. }) => damaged(reason, Some(Hint::CopyArchive)),
            Err(Error::Label { reason, hint, .. }) => damaged(reason, hint),
            // Such as a web page among shards.
            Err(Error::Unreadable { reason, hint, .. }) if paths.len() > 1 => damaged(reason, hint),
            Err(error) => return Err(error),
        }
        let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
        let wrong: Vec<Wrong> = (0..table.len())
            .into_par_iter()
            .map(|row| {
                let _held = FILES.reserve(u64::from(table.image_bytes[row]));
                let mut image = vec![0; table.image_bytes[row] as usize];
                files::read_at(&file, &mut image, table.image_offset(row))
                    .map_err(Error::io("read", path))?;
                let mut json = Vec::new();
                if let Some((offset, bytes)) = table.json(row) {
                    json.resize(bytes as usize, 0);
                    files::read_at(&file, &mut json, offset).map_err(Error::io("read", path))?;
                }
                // Metadata that cannot be read are the business of those who use them.
                let metadata = serde_json::from_slice(&json).unwrap_or_default();
                Ok(wrong(&image, &metadata, || table.key(row)))
            })
            .collect::<Result<_, Error>>()?;
        outcome.add(wrong);
        for row in 0..table.len() {
            let key = table.key(row);
            match keys.get(&key) {
                Some(first) => outcome.repeated.push(SkippedMember {
                    reason: match paths.get(*first) {
                        Some(first) if *first != *path => format!(
                            "shard `{}` has it, and shard `{}` before it",
                            path.display(),
                            first.display()
                        ),
                        _ => format!("shard `{}` has it twice", path.display()),
                    },
                    name: key,
                }),
                None => {
                    keys.insert(key, done);
                }
            }
        }
        outcome.skipped.extend(skipped_members(&table));
        if let Some(listing) = &table.listing {
            outcome.listing.merge(listing);
        }
        outcome.records += table.len();
        progress(done + 1, paths.len());
    }
    for repeated in &outcome.repeated {
        outcome
            .listing
            .add(Reason::RepeatedKey, "", || repeated.name.clone());
    }
    let mut letters: HashMap<String, &String> = HashMap::new();
    for key in keys.keys() {
        if let Some(other) = letters.insert(key.to_lowercase(), key) {
            let (one, two) = (key.min(other), key.max(other));
            outcome
                .listing
                .add(Reason::KeysEqualButForCase, "", || format!("{one}, {two}"));
        }
    }
    outcome.listing.warn(spec);
    Ok(outcome)
}

fn verify_folder(dataset: &Dataset, progress: OnProgress) -> Result<Verification, Error> {
    let done = AtomicUsize::new(0);
    let wrong: Vec<Wrong> = (0..dataset.len())
        .into_par_iter()
        .map(|position| {
            let _held = FILES.reserve(dataset.image_bytes(position));
            let mut image = Vec::new();
            dataset.read_image(position, &mut image)?;
            let metadata = dataset.metadata(position).unwrap_or_default();
            let wrong = wrong(&image, &metadata, || dataset.key(position).unwrap_or_default());
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, dataset.len());
            Ok(wrong)
        })
        .collect::<Result<_, Error>>()?;
    let mut outcome = Verification {
        records: dataset.len(),
        repeated: repeated_keys(dataset)?,
        listing: dataset.listing().clone(),
        ..Verification::default()
    };
    outcome.add(wrong);
    Ok(outcome)
}

/// What is wrong with one record.
struct Wrong {
    broken: Option<SkippedMember>,
    altered: Option<SkippedMember>,
}

impl Verification {
    fn add(&mut self, wrong: Vec<Wrong>) {
        for Wrong { broken, altered } in wrong {
            self.broken.extend(broken);
            self.altered.extend(altered);
        }
    }
}

/// The files of folders that are not as their `SHA256SUMS` says.
fn wrong_files(folders: &[&Path]) -> Result<Vec<SkippedMember>, Error> {
    let mut found = Vec::new();
    for folder in folders {
        // A brace pattern in the working folder has an empty parent.
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            *folder
        };
        let faults = checksums::faults(folder)?;
        found.extend(
            faults
                .into_iter()
                .map(|(name, reason)| SkippedMember { name, reason }),
        );
    }
    Ok(found)
}

/// Keys that several files have, such as `a.jpg` and `a.png`.
fn repeated_keys(dataset: &Dataset) -> Result<Vec<SkippedMember>, Error> {
    if dataset.listing().count(Reason::RepeatedKey) == 0 {
        return Ok(Vec::new());
    }
    let mut keys = (0..dataset.len())
        .map(|position| dataset.key(position))
        .collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    let again = keys.windows(2).filter(|pair| pair[0] == pair[1]);
    Ok(again
        .map(|pair| SkippedMember {
            name: pair[0].clone(),
            reason: "two files have it".to_string(),
        })
        .collect())
}

/// Whether an image decodes, and has the bytes of the `content_hash` in its metadata.
fn wrong(image: &[u8], metadata: &Metadata, key: impl Fn() -> String) -> Wrong {
    let broken = decode_and(image, &DecodeLimits::DEFAULT, drop).err();
    let noted = metadata.content_hash.as_deref().map(str::to_ascii_lowercase);
    let altered = noted.is_some_and(|noted| hex(&Sha256::digest(image)) != noted);
    Wrong {
        broken: broken.map(|reason| SkippedMember {
            name: key(),
            reason: reason.to_string(),
        }),
        altered: altered.then(|| SkippedMember {
            name: key(),
            reason: "its bytes are not those of the `content_hash` in its metadata".to_string(),
        }),
    }
}

fn differences(indexed: &Table, scanned: &Table) -> Vec<SkippedMember> {
    let rows = 0..indexed.len().max(scanned.len());
    rows.filter_map(|row| {
        let hash = |table: &Table| table.hashes.get(row).copied();
        let table = if row < scanned.len() { scanned } else { indexed };
        (hash(indexed) != hash(scanned)).then(|| SkippedMember {
            name: table.key(row),
            reason: "its content differs from the index".to_string(),
        })
    })
    .collect()
}
