//! Packing: shards, tables of metadata and credits, photo by photo.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::entry::Entry;
use super::file::ReleasedFile;
use super::plan::Plan;
use super::tally::Tally;
use super::{credits, files, metadata};
use crate::config::Config;
use crate::embedded::FileMetadata;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Content, Gate, Ledger, Packed, Refusal, sha256};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::progress::Progress;

/// Files that are held in memory for each thread.
const FILES_PER_THREAD: usize = 4;

/// The inputs of the shards.
pub(super) struct Packing<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) config: &'a Config,
    pub(super) photos: &'a Photos,
    pub(super) plan: &'a Plan,
    pub(super) stop: &'a AtomicBool,
    pub(super) progress: Progress<'a>,
}

/// The result of packing.
pub(super) struct Contents {
    /// The photos, by shard.
    pub(super) shards: Vec<Vec<Packed>>,
    pub(super) tally: Tally,
    pub(super) fingerprint: String,
}

impl Packing<'_> {
    /// Writes the shards, tables and credits into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<Contents, Error> {
        let release = &self.config.release;
        let labels = self.ledger.labels(self.plan.stage)?;
        let mut tally = Tally::default();
        let mut shards = Vec::with_capacity(self.plan.shards.len());
        let mut table = metadata::Tables::create(folder, release.coordinates)?;
        let mut credits = credits::Credits::create(folder, release, self.plan.version)?;
        for (shard, keys) in self.plan.shards.iter().enumerate() {
            let path = folder.join(format!("{}-{shard:06}.tar", release.shard_prefix));
            let entries = self.entries(shard, keys)?;
            let photos: Vec<Photo> = entries.iter().map(|entry| entry.photo.clone()).collect();
            let gate = self.ledger.gate(&photos)?;
            let mut packed = Vec::with_capacity(keys.len());
            let (photos, stop, metadata) = (self.photos, self.stop, release.file_metadata());
            // The files of a few photos at a time, on all threads; they are written in their order.
            let files = entries.chunks(FILES_PER_THREAD * rayon::current_num_threads());
            let files = files.flat_map(|entries| {
                let files: Vec<Result<ReleasedFile, Error>> = entries
                    .par_iter()
                    .map(|entry| match stop.load(Ordering::Relaxed) {
                        true => Err(Error::Interrupted),
                        false => released_file(entry, photos, &gate, metadata),
                    })
                    .collect();
                entries.iter().zip(files)
            });
            let records = files.map(|(entry, file)| -> Result<data::Record, Error> {
                let file = file?;
                tally.add(entry, &file);
                table.add(entry, &file.sha256, file.bytes.len())?;
                credits.add(entry)?;
                packed.push(Packed {
                    key: entry.photo.key.clone(),
                    sha256: file.sha256,
                    original: file.original,
                });
                let record = record(entry, file, &labels, release.coordinates);
                (self.progress)("release", tally.records as u64, self.plan.records as u64);
                Ok(record)
            });
            data::shards::write_shard(&path, records)?;
            shards.push(packed);
        }
        table.finish()?;
        credits.finish()?;
        // Files that differed in their metadata alone are equal now.
        let mut contents: Vec<&Content> = shards.iter().flatten().map(|photo| &photo.sha256).collect();
        contents.sort_unstable();
        contents.dedup();
        tally.repeated = tally.records - contents.len();
        if !labels.is_empty() {
            files::write(&folder.join("dataset.toml"), &description(&labels))?;
        }
        let fingerprint = data::Dataset::reopen(&folder.to_string_lossy())?
            .fingerprint()
            .to_string();
        // Opening the data set makes indexes; they belong to a machine and not to a release.
        files::remove_indexes(folder)?;
        Ok(Contents {
            shards,
            tally,
            fingerprint,
        })
    }

    fn entries(&self, shard: usize, keys: &[String]) -> Result<Vec<Entry>, Error> {
        let entry = |key: &String| {
            let photo = self
                .ledger
                .kept_under_key(self.plan.stage, key)?
                .ok_or_else(|| Error::Release {
                    reason: format!("photo `{key}` is no longer in the ledger"),
                    hint: None,
                })?;
            let file = self.ledger.file_facts(photo.id)?;
            Ok(Entry::new(photo, shard, file))
        };
        keys.iter().map(entry).collect()
    }
}

/// The file of a photo as the release holds it, if no takedown and no change since the stages keeps it out.
fn released_file(
    entry: &Entry,
    photos: &Photos,
    gate: &Gate,
    metadata: FileMetadata,
) -> Result<ReleasedFile, Error> {
    let key = &entry.photo.key;
    let image = photos.read(&entry.photo)?;
    let content = sha256(&image);
    check(entry, &content, gate)?;
    let file =
        data::caught(|| ReleasedFile::new(key, image, content, metadata)).unwrap_or_else(|message| {
            Err(Error::Release {
                reason: format!("the program panicked on photo `{key}`: {message}"),
                hint: Some(Hint::KeepMetadata { key: key.clone() }),
            })
        })?;
    match file.original.is_some() && gate.was_taken_down(&file.sha256) {
        true => Err(taken_down(key)),
        false => Ok(file),
    }
}

/// A release holds only the bytes that stages checked: no stage has checked a file that changed since.
fn check(entry: &Entry, content: &Content, gate: &Gate) -> Result<(), Error> {
    let key = &entry.photo.key;
    match gate.check(entry.photo.id, content) {
        Ok(()) => Ok(()),
        Err(Refusal::Changed) => Err(Error::Release {
            reason: format!("the file of photo `{key}` changed since the stages looked at it"),
            hint: Some(Hint::Redo {
                stage: entry.file.seen_by.clone().unwrap_or_else(|| "source".to_string()),
            }),
        }),
        Err(Refusal::TakenDown) => Err(taken_down(key)),
    }
}

fn taken_down(key: &str) -> Error {
    Error::Release {
        reason: format!("the file of photo `{key}` is one that was taken down"),
        hint: Some(Hint::TakeDown { key: key.to_string() }),
    }
}

fn record(entry: &Entry, file: ReleasedFile, labels: &[String], coordinates: bool) -> data::Record {
    let photo = &entry.photo;
    let mut other = serde_json::Map::new();
    for (name, value) in [
        ("title", &photo.title),
        ("photographer_id", &photo.photographer_id),
        ("image_url", &photo.image_url),
    ] {
        if let Some(value) = value {
            other.insert(name.to_string(), value.clone().into());
        }
    }
    let class = photo
        .label
        .as_ref()
        .and_then(|label| labels.binary_search(label).ok());
    data::Record {
        key: photo.key.clone(),
        image: file.bytes,
        label: class.map(|class| data::Label::Class(class as u32)),
        metadata: data::Metadata {
            photographer: photo.photographer.clone(),
            license: photo.license.clone(),
            license_url: photo.license_url.clone(),
            source_url: photo.page_url.clone(),
            date_taken: photo.date_taken.clone(),
            latitude: photo.latitude.filter(|_| coordinates),
            longitude: photo.longitude.filter(|_| coordinates),
            content_hash: Some(data::hex(&file.sha256)),
            other,
        },
    }
}

/// The data-set description beside labeled shards.
fn description(labels: &[String]) -> String {
    let names: Vec<String> = labels
        .iter()
        .map(|label| toml::Value::String(label.clone()).to_string())
        .collect();
    format!(
        "kind = \"shards\"\npath = \".\"\nclasses = [{}]\n",
        names.join(", ")
    )
}
