//! Taking photos down: the next version without them, who has seen them, and a note that keeps them out for good.
//!
//! A takedown is a row of its own in the ledger and not a decision of a stage, so that no stage that runs again undoes it: the
//! source drops the key, the stages that look at photos drop the content under whatever key it comes back, a release leaves out
//! both. It is of a picture and not of a name: every photo with the same bytes goes with it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rusqlite::params;
use serde::Serialize;
use walkdir::WalkDir;

use crate::Progress;
use crate::config::Config;
use crate::contents::{self, Content};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::photo::Photo;
use crate::photos::Photos;
use crate::release::{Released, config_of, release_with};

/// What is asked.
#[derive(Clone, Copy)]
pub struct Takedown<'a> {
    /// Keys of the photos.
    pub keys: &'a [String],
    /// Why, for the ledger; not published.
    pub reason: &'a str,
    /// Folders of run directories and encoder files, searched for encoders that saw the photos.
    pub encoders: &'a [PathBuf],
    /// When it turns true, the making of the release ends; the takedown holds already.
    pub stop: &'a AtomicBool,
    /// Called as the release is written.
    pub progress: Progress<'a>,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TakedownReport {
    /// Photos that are taken down by this.
    pub taken_down: Vec<String>,
    /// Photos that were taken down before.
    pub already: Vec<String>,
    /// Other keys of the same bytes, which are taken down with them.
    pub same_content: Vec<String>,
    /// Photos of which nobody knows the bytes, with the reason: the same bytes under another key are not held back.
    pub content_unknown: Vec<(String, String)>,
    /// Photos that only look like one that was taken down. They stay until they are asked for.
    pub near_duplicates: Vec<NearDuplicate>,
    /// Releases that hold one of them: version and fingerprint. Their folders stay until someone deletes them.
    pub seen_in: Vec<(u32, String)>,
    /// Encoders that were trained on one of these releases.
    pub encoders: Vec<(PathBuf, String)>,
    /// Downloads that were deleted.
    pub deleted: Vec<PathBuf>,
    /// The next version, where the last one held one of them.
    pub release: Option<Released>,
    /// The last version held nothing else, so there is no next one.
    pub none_left: bool,
}

/// A photo that looks like one that was taken down, of the table `pairs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NearDuplicate {
    /// Its key.
    pub key: String,
    /// The photo that was taken down.
    pub of: String,
    /// Bits in which their hashes differ.
    pub distance: u32,
    /// Whether the last stage kept it. Otherwise it is out as long as the stages' decisions stand, and may come back when they
    /// are made anew.
    pub survives: bool,
}

/// Takes photos down from the curation in `folder`.
///
/// # Errors
/// A key that was never listed: a misspelt key must not pass for a photo that is gone; no keys, and folders of encoders that
/// are not there. Then nothing is done. [`Error::Recorded`] where the photos are down and something after that failed.
pub fn takedown(folder: &Path, asked: Takedown<'_>) -> Result<TakedownReport, Error> {
    if !folder.join(crate::ledger::FILE_NAME).is_file() {
        return Err(Error::NoCuration {
            path: folder.to_path_buf(),
        });
    }
    let wanted: BTreeSet<String> = asked.keys.iter().cloned().collect();
    if wanted.is_empty() || wanted.contains("") {
        return Err(nothing_done("no keys are given, or an empty one".to_string()));
    }
    if let Some(missing) = asked.encoders.iter().find(|path| !path.is_dir()) {
        let reason = format!(
            "there is no folder `{}` to search for encoders",
            missing.display()
        );
        return Err(Error::Takedown {
            reason,
            hint: "nothing was taken down; `--encoders` names folders of runs".to_string(),
        });
    }
    let mut ledger = Ledger::open(folder)?;
    let mut report = TakedownReport::default();
    let known = self::keys(&ledger)?;
    let mut unknown = Vec::new();
    for key in &wanted {
        let listed: bool = ledger.sql(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM photos WHERE key = ?1) OR EXISTS (SELECT 1 FROM release_photos WHERE key = ?1)",
                [key],
                |row| row.get(0),
            )
        })?;
        match (known.contains(key), listed) {
            (true, _) => report.already.push(key.clone()),
            (false, true) => report.taken_down.push(key.clone()),
            (false, false) => unknown.push(key.clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(nothing_done(format!(
            "no photo was ever listed under {}",
            unknown.join(", ")
        )));
    }
    let config = config_of(&ledger, folder)?;
    // A source that is gone keeps nobody from taking a photo down.
    let photos = Photos::open(&config, folder);
    let bytes = bytes_of(&ledger, &photos, &wanted, &mut report)?;
    record(&mut ledger, &wanted, &bytes, asked.reason)?;
    let place = Place {
        folder,
        config: &config,
        photos: photos.as_ref().ok(),
    };
    match follow_through(&mut ledger, &place, &asked, &wanted, &bytes, &mut report) {
        Ok(()) => Ok(report),
        Err(source) => Err(Error::Recorded {
            what: in_words(&wanted),
            source: Box::new(source),
        }),
    }
}

fn nothing_done(reason: String) -> Error {
    Error::Takedown {
        reason,
        hint: "nothing was taken down; keys are those of `pass_metadata.csv`, column `hash`".to_string(),
    }
}

/// `photo `a` is`, `photos `a`, `b` and 3 more are`.
fn in_words(keys: &BTreeSet<String>) -> String {
    let named: Vec<String> = keys.iter().take(5).map(|key| format!("`{key}`")).collect();
    match keys.len() {
        1 => format!("photo {} is", named[0]),
        count if count > named.len() => {
            format!("photos {} and {} more are", named.join(", "), count - named.len())
        }
        _ => format!("photos {} are", named.join(", ")),
    }
}

/// The bytes of the photos that are asked for.
#[derive(Default)]
struct Bytes {
    /// By key, what it has now first, then what releases held.
    by_key: HashMap<String, Vec<Content>>,
    /// All of them.
    all: HashSet<Content>,
    /// Lengths of the files that no stage had looked at and that were read for this.
    read: HashSet<u64>,
}

fn bytes_of(
    ledger: &Ledger,
    photos: &Result<Photos, Error>,
    wanted: &BTreeSet<String>,
    report: &mut TakedownReport,
) -> Result<Bytes, Error> {
    let mut bytes = Bytes::default();
    for key in wanted {
        let (mut found, released) = contents::of_key(ledger, key)?;
        if found.is_empty() {
            match read(ledger, photos, key)? {
                Ok(files) => {
                    bytes.read.extend(files.iter().map(|(_, length)| *length));
                    found.extend(files.into_iter().map(|(content, _)| content));
                }
                Err(reason) if released.is_empty() => report.content_unknown.push((key.clone(), reason)),
                Err(_) => {}
            }
        }
        found.extend(released);
        bytes.all.extend(&found);
        bytes.by_key.insert(key.clone(), found);
    }
    Ok(bytes)
}

/// SHA-256 and length of the files of a key at which no stage has looked; or why there are none.
fn read(
    ledger: &Ledger,
    photos: &Result<Photos, Error>,
    key: &str,
) -> Result<Result<Vec<(Content, u64)>, String>, Error> {
    let photos = match photos {
        Ok(photos) => photos,
        Err(error) => return Ok(Err(crate::integrity::chain(error))),
    };
    let mut reason = "it is no longer listed".to_string();
    let mut found = Vec::new();
    for id in ledger.ids_of_key(key)? {
        let Some(photo) = ledger.photo(id)? else {
            continue;
        };
        match photos.read(&photo) {
            Ok(file) => found.push((contents::sha256(&file), file.len() as u64)),
            Err(error) => reason = crate::integrity::chain(&error),
        }
    }
    Ok(if found.is_empty() { Err(reason) } else { Ok(found) })
}

/// Notes keys and bytes, for good.
fn record(ledger: &mut Ledger, keys: &BTreeSet<String>, bytes: &Bytes, reason: &str) -> Result<(), Error> {
    let now = ledger.now()?;
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            for key in keys {
                let contents = bytes.by_key.get(key).map_or(&[][..], Vec::as_slice);
                db.prepare_cached(
                    "INSERT OR IGNORE INTO takedowns (key, sha256, asked, reason) VALUES (?, ?, ?, ?)",
                )?
                .execute(params![key, contents.first(), now, reason])?;
                // One that nobody could read when it was asked for, or that another program has noted.
                db.prepare_cached("UPDATE takedowns SET sha256 = ? WHERE key = ? AND sha256 IS NULL")?
                    .execute(params![contents.first(), key])?;
                for content in contents.iter().skip(1) {
                    db.prepare_cached("INSERT OR IGNORE INTO takedown_contents VALUES (?, ?)")?
                        .execute(params![content, key])?;
                }
            }
            Ok(())
        })
    })
}

/// Where the photos of a curation are.
struct Place<'a> {
    folder: &'a Path,
    config: &'a Config,
    photos: Option<&'a Photos>,
}

/// All that follows from a takedown that is noted. The same once more does what is left.
fn follow_through(
    ledger: &mut Ledger,
    place: &Place<'_>,
    asked: &Takedown<'_>,
    wanted: &BTreeSet<String>,
    bytes: &Bytes,
    report: &mut TakedownReport,
) -> Result<(), Error> {
    let mut keys = contents::keys_of(ledger, &bytes.all)?;
    if let (Some(photos), false) = (place.photos, bytes.read.is_empty()) {
        let stage = looked_for_in(ledger, place.config)?;
        keys.extend(contents::unseen_of(
            ledger,
            photos,
            stage,
            &bytes.all,
            Some(&bytes.read),
            asked.stop,
        )?);
    }
    keys.retain(|key| !wanted.contains(key));
    record(ledger, &keys, bytes, asked.reason)?;
    ledger.sql(|db| {
        // Their bytes are those of a photo that was asked for; the rows say so with its hash.
        for key in &keys {
            db.execute(
                "UPDATE takedowns SET sha256 = (SELECT c.sha256 FROM photos p CROSS JOIN contents c ON c.photo = p.id WHERE p.key = ?1) \
                 WHERE key = ?1 AND sha256 IS NULL",
                [key],
            )?;
        }
        Ok(())
    })?;
    report.same_content = keys.iter().cloned().collect();
    keys.extend(wanted.iter().cloned());

    if let Some(photos) = place.photos {
        for key in &keys {
            let photo = Photo {
                key: key.clone(),
                ..Photo::default()
            };
            report.deleted.extend(photos.remove(&photo)?);
        }
    }
    report.near_duplicates = near_duplicates(ledger, place.config, &keys)?;
    report.seen_in = seen_in(ledger, &keys, &bytes.all)?;
    let fingerprints: HashSet<&str> = report
        .seen_in
        .iter()
        .map(|(_, fingerprint)| fingerprint.as_str())
        .collect();
    for root in asked.encoders {
        report.encoders.extend(encoders_of(root, &fingerprints)?);
    }
    let last: Option<u32> =
        ledger.sql(|db| db.query_row("SELECT max(version) FROM releases", [], |row| row.get(0)))?;
    if last.is_some() && report.seen_in.last().map(|(version, _)| *version) == last {
        if !any_left(ledger, place)? {
            report.none_left = true;
            return Ok(());
        }
        let photos = match keys.len() {
            1 => "1 photo".to_string(),
            count => format!("{count} photos"),
        };
        let note = format!("{photos} taken down on request.");
        let released = release_with(ledger, place.folder, &note, asked.stop, asked.progress)?;
        report.release = Some(released);
    }
    Ok(())
}

/// Whether a next version would hold any photo.
fn any_left(ledger: &Ledger, place: &Place<'_>) -> Result<bool, Error> {
    let stage = crate::release::last_stage(ledger, place.config)?;
    Ok(!crate::release::survivors(ledger, stage)?.is_empty())
}

/// The stage whose photos have files: that of the downloads, else the last one.
fn looked_for_in(ledger: &Ledger, config: &Config) -> Result<i64, Error> {
    if let (true, Some(fetch)) = (config.fetches(), ledger.stage("fetch")?) {
        return Ok(fetch.id);
    }
    ledger.sql(|db| db.query_row("SELECT coalesce(max(id), 1) FROM stages", [], |row| row.get(0)))
}

/// Versions that hold one of the keys, or one of the contents under any other key.
fn seen_in(
    ledger: &Ledger,
    keys: &BTreeSet<String>,
    contents: &HashSet<Content>,
) -> Result<Vec<(u32, String)>, Error> {
    let mut seen: BTreeSet<u32> = BTreeSet::new();
    ledger.sql(|db| {
        let mut by_key = db.prepare("SELECT DISTINCT version FROM release_photos WHERE key = ?")?;
        for key in keys {
            for version in by_key.query_map([key], |row| row.get(0))? {
                seen.insert(version?);
            }
        }
        let mut by_content =
            db.prepare("SELECT version, sha256 FROM release_photos WHERE sha256 IS NOT NULL")?;
        let mut rows = by_content.query([])?;
        while let Some(row) = rows.next()? {
            if contents.contains(&row.get::<_, Content>(1)?) {
                seen.insert(row.get(0)?);
            }
        }
        db.prepare("SELECT version, fingerprint FROM releases ORDER BY version")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .filter(|row| row.as_ref().map_or(true, |(version, _)| seen.contains(version)))
            .collect()
    })
}

/// Photos that look like one of these and are not taken down.
fn near_duplicates(
    ledger: &Ledger,
    config: &Config,
    keys: &BTreeSet<String>,
) -> Result<Vec<NearDuplicate>, Error> {
    let mut ids: BTreeMap<i64, &String> = BTreeMap::new();
    for key in keys {
        ids.extend(ledger.ids_of_key(key)?.into_iter().map(|id| (id, key)));
    }
    let taken_down = self::keys(ledger)?;
    let last = ledger.stage(config.last_stage())?.map_or(0, |row| row.id);
    let mut found: BTreeSet<NearDuplicate> = BTreeSet::new();
    ledger.sql(|db| {
        let mut pairs = db.prepare("SELECT photo, other, distance FROM pairs WHERE kind = 'near'")?;
        let mut facts = db.prepare(
            "SELECT p.key, EXISTS (SELECT 1 FROM decisions d WHERE d.stage = ?1 AND d.photo = p.id AND d.kept = 1) \
             FROM photos p WHERE p.id = ?2",
        )?;
        let mut rows = pairs.query([])?;
        while let Some(row) = rows.next()? {
            let (photo, other): (i64, i64) = (row.get(0)?, row.get(1)?);
            for (gone, like) in [(photo, other), (other, photo)] {
                let Some(of) = ids.get(&gone) else {
                    continue;
                };
                let (key, survives): (String, bool) =
                    facts.query_row([last, like], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if !taken_down.contains(&key) {
                    let (of, distance) = ((*of).clone(), row.get(2)?);
                    found.insert(NearDuplicate {
                        key,
                        of,
                        distance,
                        survives,
                    });
                }
            }
        }
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

/// Keys that were taken down.
pub(crate) fn keys(ledger: &Ledger) -> Result<HashSet<String>, Error> {
    ledger.sql(|db| {
        db.prepare("SELECT key FROM takedowns")?
            .query_map([], |row| row.get(0))?
            .collect()
    })
}

/// Longest header of an encoder file that is read, bytes.
const LONGEST_HEADER: u64 = 64 << 20;

/// Encoder files below `root` that carry one of the fingerprints.
fn encoders_of(root: &Path, fingerprints: &HashSet<&str>) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::source(root, error.to_string()))?;
        if entry
            .path()
            .extension()
            .is_none_or(|extension| extension != "safetensors")
        {
            continue;
        }
        // A file that is no encoder of ours, or is damaged, has no fingerprint to compare.
        if let Some(fingerprint) =
            fingerprint_of(entry.path()).filter(|found| fingerprints.contains(found.as_str()))
        {
            found.push((entry.path().to_path_buf(), fingerprint));
        }
    }
    Ok(found)
}

/// The fingerprint in the `passer` entry of a safetensors header.
fn fingerprint_of(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return None;
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    let info: serde_json::Value =
        serde_json::from_str(header.get("__metadata__")?.get("passer")?.as_str()?).ok()?;
    Some(info.get("fingerprint")?.as_str()?.to_string())
}
