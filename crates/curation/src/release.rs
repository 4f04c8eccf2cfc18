//! A release: shards, metadata, credits, checksums, history, data sheet and Croissant description of what the last stage kept.
//!
//! A release is a folder that is written aside and renamed when it is whole, and never changed. What it holds is in the
//! ledger (`releases`, `release_photos`). A photo stays in its shard from version to version as long as photos only go: the
//! other shards are the same to the byte, so that nobody has to fetch them again.

mod credits;
mod croissant;
mod datasheet;
mod documents;
mod files;
mod metadata;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::Progress;
use crate::config::Config;
use crate::contents::{self, Content, sha256};
use crate::draws::draw;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::photo::Photo;
use crate::photos::Photos;
use crate::status::{Funnel, funnel};

/// What a release says of itself. Whatever is said here is printed as it stands.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseConfig {
    /// Name of the data set.
    pub name: String,
    /// One paragraph: what it is and what it is for.
    pub description: String,
    /// Who publishes it.
    pub publisher: String,
    /// Where people ask for a photo to be taken down, and other questions.
    pub contact: String,
    /// Its web page.
    pub url: String,
    /// Address of the licence of the collection; each photo keeps its own.
    pub licence_url: String,
    /// How to cite it, BibTeX; absent: there is nothing to cite yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub citation: Option<String>,
    /// Photos in each shard but the last.
    pub records_per_shard: usize,
    /// First part of the shards' names: `PREFIX-000000.tar`.
    pub shard_prefix: String,
    /// Whether places where photos were taken are published.
    pub coordinates: bool,
}

impl ReleaseConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.records_per_shard == 0 {
            return Err(Error::config(
                "release.records_per_shard",
                "expected at least 1, found 0",
            ));
        }
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        if !plain(&self.shard_prefix) {
            let reason = format!(
                "expected letters, digits, `_` and `-`, found `{}`",
                self.shard_prefix
            );
            return Err(Error::config("release.shard_prefix", reason));
        }
        for (key, text) in [
            ("name", &self.name),
            ("publisher", &self.publisher),
            ("contact", &self.contact),
        ] {
            if text.trim().is_empty() {
                return Err(Error::config(
                    &format!("release.{key}"),
                    "expected a text, found none",
                ));
            }
        }
        Ok(())
    }
}

/// What [`release`] made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// Its version, from 1.
    pub version: u32,
    /// Its folder: a data set for `passer pretrain --data`.
    pub folder: PathBuf,
    /// Photos in it.
    pub records: usize,
    /// Its fingerprint, which every encoder trained on it carries.
    pub fingerprint: String,
    /// Photos that the version before had not.
    pub added: usize,
    /// Photos that the version before had and it has not.
    pub removed: usize,
}

/// One photo of a release being made.
struct Entry {
    photo: Photo,
    shard: usize,
    image: Image,
}

/// What stages found out about a file.
#[derive(Clone, Debug, Default)]
struct Image {
    sha256: Option<Content>,
    /// The stage that looked at it first.
    seen_by: Option<String>,
    width_px: Option<u32>,
    height_px: Option<u32>,
}

/// All that the documents of a release are written from.
struct Release<'a> {
    config: &'a Config,
    version: u32,
    made: String,
    fingerprint: String,
    removed: &'a [String],
    funnel: Funnel,
    /// SHA-256 of the weights of each detector, by its stage.
    weights: BTreeMap<String, String>,
    /// Answers that people gave, and how many people.
    answers: (u64, u64),
    tally: Tally,
}

/// Counts over the photos of a release.
#[derive(Default)]
struct Tally {
    records: usize,
    bytes: u64,
    licences: BTreeMap<(String, String), usize>,
    labels: BTreeMap<String, usize>,
    photographers: HashMap<u128, usize>,
    with_coordinates: usize,
    years: BTreeMap<String, usize>,
    short_sides_px: Vec<u32>,
}

/// Makes the next version of the curation in `folder`. `note` is the line of the version history.
///
/// # Errors
/// Stages that are not done, nothing to release or nothing new, and files that cannot be read or written. A release that was
/// not finished leaves nothing behind.
pub fn release(
    folder: &Path,
    note: &str,
    stop: &AtomicBool,
    progress: Progress<'_>,
) -> Result<Released, Error> {
    if !folder.join(crate::ledger::FILE_NAME).is_file() {
        return Err(Error::NoCuration {
            path: folder.to_path_buf(),
        });
    }
    release_with(&mut Ledger::open(folder)?, folder, note, stop, progress)
}

pub(crate) fn release_with(
    ledger: &mut Ledger,
    folder: &Path,
    note: &str,
    stop: &AtomicBool,
    progress: Progress<'_>,
) -> Result<Released, Error> {
    let config = config_of(ledger, folder)?;
    let stage = last_stage(ledger, &config)?;
    let photos = Photos::open(&config, folder)?;
    let last: i64 = ledger.sql(|db| {
        db.query_row("SELECT coalesce(max(version), 0) FROM releases", [], |row| {
            row.get(0)
        })
    })?;
    let version = last + 1;
    let before: Vec<(usize, String)> = ledger.sql(|db| {
        db.prepare("SELECT shard, key FROM release_photos WHERE version = ? ORDER BY shard, place")?
            .query_map([last], |row| Ok((row.get::<_, i64>(0)? as usize, row.get(1)?)))?
            .collect()
    })?;
    let root = folder.join("releases");
    let aside = root.join(format!(".partial-v{version}"));
    let place = root.join(format!("v{version}"));
    files::make_way(ledger, &place)?;
    let taken_down = contents::taken_down(ledger)?;
    let mut now = survivors(ledger, stage)?;
    // Where no stage has looked at a photo, nobody knows yet whether it is one that was taken down under another key.
    let unseen = contents::unseen_of(ledger, &photos, stage, &taken_down, None, stop)?;
    now.retain(|key| !unseen.contains(key));
    let refused = |reason: String, hint: &str| Error::Release {
        reason,
        hint: Some(hint.to_string()),
    };
    if now.is_empty() {
        return Err(refused(
            "no photo is left to release".to_string(),
            "`passer curate status` shows where they went",
        ));
    }
    let (shards, added, removed) = arrange(&now, &before, config.release.records_per_shard);
    if last > 0 && added == 0 && removed.is_empty() {
        return Err(refused(
            format!("the photos are those of version {last}"),
            "a new version needs photos that came or went",
        ));
    }

    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))?;
    }
    std::fs::create_dir_all(&aside).map_err(Error::io("make", &aside))?;
    let made = ledger.now()?;
    let labels = labels(ledger, stage)?;

    let mut tally = Tally::default();
    let mut packed: HashMap<String, Content> = HashMap::with_capacity(now.len());
    let mut table = metadata::Tables::create(&aside, config.release.coordinates)?;
    let mut credits = credits::Credits::create(&aside, &config.release, version as u32)?;
    for (shard, keys) in shards.iter().enumerate() {
        let path = aside.join(format!("{}-{shard:06}.tar", config.release.shard_prefix));
        let records = keys.iter().map(|key| -> Result<data::Record, Error> {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let entry = entry(ledger, stage, key, shard)?;
            let image = photos.read(&entry.photo)?;
            let content = sha256(&image);
            // What was judged is what is released: a file that changed since has been judged by nobody.
            if let Some(known) = &entry.image.sha256
                && *known != content
            {
                let stage = entry.image.seen_by.as_deref().unwrap_or("source");
                return Err(refused(
                    format!("the file of photo `{key}` changed since the stages looked at it"),
                    &format!("`passer curate run --redo {stage}` judges the files anew"),
                ));
            }
            if taken_down.contains(&content) {
                return Err(refused(
                    format!("the file of photo `{key}` is one that was taken down"),
                    &format!("`passer curate takedown DIR --keys '{key}'` takes it down under this key too"),
                ));
            }
            packed.insert(key.clone(), content);
            let record = record(&entry, image, &content, &labels, config.release.coordinates);
            tally.add(&entry, record.image.len());
            table.add(&entry, &content, record.image.len())?;
            credits.add(&entry)?;
            progress("release", tally.records as u64, now.len() as u64);
            Ok(record)
        });
        data::shards::write_shard(&path, records)?;
    }
    table.finish()?;
    credits.finish()?;
    if !labels.is_empty() {
        files::write(&aside.join("dataset.toml"), &description(&labels))?;
    }
    let fingerprint = data::Dataset::open(&aside.to_string_lossy())?
        .fingerprint()
        .to_string();
    // Indexes are made on opening; they belong to a machine and not to a release.
    files::remove_indexes(&aside)?;
    let mut funnel = funnel(ledger)?;
    funnel.releases.push(crate::status::ReleaseLine {
        version: version as u32,
        made: made.clone(),
        folder: format!("releases/v{version}"),
        fingerprint: fingerprint.clone(),
        records: tally.records as u64,
        added: added as u64,
        removed: removed.len() as u64,
        note: note.to_string(),
    });
    let facts = Release {
        config: &config,
        version: version as u32,
        made: made.clone(),
        fingerprint: fingerprint.clone(),
        removed: &removed,
        funnel,
        weights: weights(ledger, &config)?,
        answers: crate::review::tally(ledger)?,
        tally,
    };
    documents::write(&aside, &facts)?;

    files::make_way(ledger, &place)?;
    ledger.set_fact(files::BEING_MADE, &files::token(&aside, &format!("v{version}"))?)?;
    std::fs::rename(&aside, &place).map_err(Error::io("write", &place))?;
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            db.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    version,
                    made,
                    format!("releases/v{version}"),
                    fingerprint,
                    now.len() as i64,
                    added as i64,
                    removed.len() as i64,
                    note
                ],
            )?;
            db.execute("DELETE FROM facts WHERE name = ?", [files::BEING_MADE])?;
            let mut insert = db.prepare(
                "INSERT INTO release_photos (version, shard, place, key, sha256) VALUES (?, ?, ?, ?, ?)",
            )?;
            for (shard, keys) in shards.iter().enumerate() {
                for (at, key) in keys.iter().enumerate() {
                    insert.execute(params![version, shard as i64, at as i64, key, packed.get(key)])?;
                }
            }
            Ok(())
        })
    })?;
    Ok(Released {
        version: version as u32,
        folder: place,
        records: now.len(),
        fingerprint,
        added,
        removed: removed.len(),
    })
}

/// The folder of any release in the folder of a curation.
pub(crate) fn any_version(folder: &Path) -> Option<PathBuf> {
    let version = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix('v')?;
        (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
    };
    let found = std::fs::read_dir(folder.join("releases")).ok()?;
    let mut found: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| version(path).is_some());
    found.sort();
    found.pop()
}

/// The config that the curation was last run with.
pub(crate) fn config_of(ledger: &Ledger, folder: &Path) -> Result<Config, Error> {
    let text = ledger.fact("config")?.ok_or_else(|| Error::NoCuration {
        path: folder.to_path_buf(),
    })?;
    toml::from_str(&text).map_err(|error| Error::config("config", error.to_string()))
}

/// Number of the last stage, which must be done.
pub(crate) fn last_stage(ledger: &Ledger, config: &Config) -> Result<i64, Error> {
    let name = config.last_stage();
    match ledger.stage(name)? {
        Some(row) if row.done => Ok(row.id),
        _ => Err(Error::Release {
            reason: format!("the last stage, `{name}`, is not done"),
            hint: Some("`passer curate run` goes on with it".to_string()),
        }),
    }
}

/// Keys of the photos that the last stage kept and nobody asked to take down, neither by their keys nor by their content.
pub(crate) fn survivors(ledger: &Ledger, stage: i64) -> Result<Vec<String>, Error> {
    let query = format!(
        "SELECT p.key FROM decisions d CROSS JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = p.id \
         WHERE d.stage = ? AND d.kept = 1 AND p.key NOT IN (SELECT key FROM takedowns) \
         AND (c.sha256 IS NULL OR c.sha256 NOT IN ({}))",
        contents::TAKEN_DOWN
    );
    ledger.sql(|db| {
        db.prepare(&query)?
            .query_map([stage], |row| row.get(0))?
            .collect()
    })
}

/// Keys by shard, how many are new, and which are gone.
///
/// Where photos only went, each of the others keeps its shard. Otherwise all are dealt anew, in an order that is drawn from
/// the keys alone, so that every shard is a fair sample.
fn arrange(
    now: &[String],
    before: &[(usize, String)],
    per_shard: usize,
) -> (Vec<Vec<String>>, usize, Vec<String>) {
    let old: HashSet<&str> = before.iter().map(|(_, key)| key.as_str()).collect();
    let new: HashSet<&str> = now.iter().map(String::as_str).collect();
    let added = now.iter().filter(|key| !old.contains(key.as_str())).count();
    let removed: Vec<String> = before
        .iter()
        .filter(|(_, key)| !new.contains(key.as_str()))
        .map(|(_, key)| key.clone())
        .collect();
    let mut shards: Vec<Vec<String>> = Vec::new();
    if added == 0 && !before.is_empty() {
        for (shard, key) in before.iter().filter(|(_, key)| new.contains(key.as_str())) {
            if shards.len() <= *shard {
                shards.resize(*shard + 1, Vec::new());
            }
            shards[*shard].push(key.clone());
        }
        // A shard that lost everything is no shard; those after it move up.
        shards.retain(|keys| !keys.is_empty());
    } else {
        let mut order: Vec<(u128, &String)> =
            now.iter().map(|key| (draw(0, "shards", &[key]), key)).collect();
        order.sort_unstable();
        shards = order
            .chunks(per_shard)
            .map(|part| part.iter().map(|(_, key)| (*key).clone()).collect())
            .collect();
    }
    (shards, added, removed)
}

fn labels(ledger: &Ledger, stage: i64) -> Result<Vec<String>, Error> {
    ledger.sql(|db| {
        db.prepare(
            "SELECT DISTINCT p.label FROM decisions d CROSS JOIN photos p ON p.id = d.photo \
             WHERE d.stage = ? AND d.kept = 1 AND p.label IS NOT NULL ORDER BY p.label",
        )?
        .query_map([stage], |row| row.get(0))?
        .collect()
    })
}

/// Which weights the detectors had, as the ledger keeps it with their decisions.
fn weights(ledger: &Ledger, config: &Config) -> Result<BTreeMap<String, String>, Error> {
    let mut found = BTreeMap::new();
    for stage in config.stages.iter().filter(|stage| stage.weights().is_some()) {
        let settings = ledger
            .stage(stage.name())?
            .map(|row| row.settings)
            .unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
        if let Some(sha256) = settings[stage.name()]["weights_sha256"].as_str() {
            found.insert(stage.name().to_string(), sha256.to_string());
        }
    }
    Ok(found)
}

fn entry(ledger: &Ledger, stage: i64, key: &str, shard: usize) -> Result<Entry, Error> {
    let photo = ledger
        .survivor_of_key(stage, key)?
        .ok_or_else(|| Error::Release {
            reason: format!("photo `{key}` is no longer in the ledger"),
            hint: None,
        })?;
    let image = ledger.sql(|db| {
        db.prepare_cached(
            "SELECT c.sha256, s.name, i.width_px, i.height_px FROM (SELECT ? AS photo) a LEFT JOIN contents c ON c.photo = a.photo \
             LEFT JOIN stages s ON s.id = c.stage LEFT JOIN images i ON i.photo = a.photo",
        )?
        .query_row([photo.id], |row| {
            Ok(Image {
                sha256: row.get(0)?,
                seen_by: row.get(1)?,
                width_px: row.get(2)?,
                height_px: row.get(3)?,
            })
        })
    })?;
    Ok(Entry { photo, shard, image })
}

fn record(
    entry: &Entry,
    image: Vec<u8>,
    content: &[u8],
    labels: &[String],
    coordinates: bool,
) -> data::Record {
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
        image,
        label: class.map(|class| data::Label::Class(class as u32)),
        metadata: data::Metadata {
            photographer: photo.photographer.clone(),
            licence: photo.licence.clone(),
            licence_url: photo.licence_url.clone(),
            source_url: photo.page_url.clone(),
            date_taken: photo.date_taken.clone(),
            latitude: photo.latitude.filter(|_| coordinates),
            longitude: photo.longitude.filter(|_| coordinates),
            content_hash: Some(data::hex(content)),
            other,
        },
    }
}

/// The data-set description beside labelled shards.
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

impl Tally {
    fn add(&mut self, entry: &Entry, bytes: usize) {
        let photo = &entry.photo;
        self.records += 1;
        self.bytes += bytes as u64;
        let licence = (
            photo.licence.clone().unwrap_or_default(),
            photo.licence_url.clone().unwrap_or_default(),
        );
        *self.licences.entry(licence).or_default() += 1;
        if let Some(label) = &photo.label {
            *self.labels.entry(label.clone()).or_default() += 1;
        }
        if let Some(who) = photo.photographer_identity() {
            *self
                .photographers
                .entry(draw(0, "photographer", &[who]))
                .or_default() += 1;
        }
        self.with_coordinates += usize::from(photo.latitude.is_some() && photo.longitude.is_some());
        let year = photo
            .date_taken
            .as_deref()
            .and_then(|date| date.get(..4))
            .filter(|year| year.bytes().all(|b| b.is_ascii_digit()));
        *self
            .years
            .entry(year.unwrap_or("unknown").to_string())
            .or_default() += 1;
        if let (Some(width), Some(height)) = (entry.image.width_px, entry.image.height_px) {
            self.short_sides_px.push(width.min(height));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_keep_their_shards_while_photos_only_go() {
        let keys: Vec<String> = (0..10).map(|at| format!("k{at}")).collect();
        let (first, added, removed) = arrange(&keys, &[], 3);
        assert_eq!((first.len(), added, removed.len()), (4, 10, 0));
        let before: Vec<(usize, String)> = first
            .iter()
            .enumerate()
            .flat_map(|(shard, keys)| keys.iter().map(move |key| (shard, key.clone())))
            .collect();
        let gone = &first[1][1];
        let fewer: Vec<String> = keys.iter().rev().filter(|key| *key != gone).cloned().collect();
        let (second, added, removed) = arrange(&fewer, &before, 3);
        assert_eq!((added, &removed), (0, &vec![gone.clone()]));
        assert_eq!(
            (&second[0], &second[2], &second[3]),
            (&first[0], &first[2], &first[3])
        );
        assert_eq!(second[1], [first[1][0].clone(), first[1][2].clone()]);
        // One more photo, and all are dealt anew, as if they had come at once.
        let mut more = keys.clone();
        more.push("new".into());
        assert_eq!(arrange(&more, &before, 3).0, arrange(&more, &[], 3).0);
    }
}
