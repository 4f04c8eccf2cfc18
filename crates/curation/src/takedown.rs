//! Taking photos down: the next version without them, who has seen them, and a note that keeps them out for good.
//!
//! A takedown is a row of its own in the ledger and not a decision of a stage, so that no stage that runs again undoes it: the
//! source drops the key, `integrity` drops the content under whatever key it comes back, a release leaves out both.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rusqlite::params;
use serde::Serialize;
use walkdir::WalkDir;

use crate::Progress;
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
#[derive(Clone, Debug, Serialize)]
pub struct TakedownReport {
    /// Photos that are taken down by this.
    pub taken_down: Vec<String>,
    /// Photos that were taken down before.
    pub already: Vec<String>,
    /// Releases that hold one of them: version and fingerprint. Their folders stay until someone deletes them.
    pub seen_in: Vec<(u32, String)>,
    /// Encoders that were trained on one of these releases.
    pub encoders: Vec<(PathBuf, String)>,
    /// Downloads that were deleted.
    pub deleted: Vec<PathBuf>,
    /// The next version, where the last one held one of them.
    pub release: Option<Released>,
}

/// Takes photos down from the curation in `folder`.
///
/// # Errors
/// A key that was never listed: a misspelt key must not pass for a photo that is gone. Then nothing is done.
pub fn takedown(folder: &Path, asked: Takedown<'_>) -> Result<TakedownReport, Error> {
    if !folder.join(crate::ledger::FILE_NAME).is_file() {
        return Err(Error::NoCuration {
            path: folder.to_path_buf(),
        });
    }
    let mut ledger = Ledger::open(folder)?;
    let mut unknown = Vec::new();
    let mut report = TakedownReport {
        taken_down: Vec::new(),
        already: Vec::new(),
        seen_in: Vec::new(),
        encoders: Vec::new(),
        deleted: Vec::new(),
        release: None,
    };
    let known = self::keys(&ledger)?;
    let wanted: std::collections::BTreeSet<&String> = asked.keys.iter().collect();
    for key in &wanted {
        let listed: bool = ledger.sql(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM photos WHERE key = ?1) OR EXISTS (SELECT 1 FROM release_photos WHERE key = ?1)",
                [key],
                |row| row.get(0),
            )
        })?;
        match (known.contains(*key), listed) {
            (true, _) => report.already.push((*key).clone()),
            (false, true) => report.taken_down.push((*key).clone()),
            (false, false) => unknown.push((*key).clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(Error::Release {
            reason: format!("no photo was ever listed under {}", unknown.join(", ")),
            hint: Some(
                "nothing was taken down; keys are those of `pass_metadata.csv`, column `hash`".to_string(),
            ),
        });
    }
    let now = ledger.now()?;
    ledger.transaction(|ledger| {
        for key in &report.taken_down {
            ledger.sql(|db| {
                db.execute(
                    "INSERT INTO takedowns VALUES (?1, (SELECT i.sha256 FROM photos p CROSS JOIN images i ON i.photo = p.id \
                     WHERE p.key = ?1 ORDER BY p.id LIMIT 1), ?2, ?3)",
                    params![key, now, asked.reason],
                )
            })?;
        }
        Ok(())
    })?;
    let config = config_of(&ledger, folder)?;
    let photos = Photos::open(&config, folder)?;
    let mut seen: BTreeMap<u32, String> = BTreeMap::new();
    for key in &wanted {
        if photos.are_fetched() {
            let photo = Photo {
                key: (*key).clone(),
                ..Photo::default()
            };
            if let Some(path) = photos.path(&photo).filter(|path| path.is_file()) {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                report.deleted.push(path);
            }
        }
        let versions: Vec<(u32, String)> = ledger.sql(|db| {
            db.prepare_cached(
                "SELECT r.version, r.fingerprint FROM release_photos p JOIN releases r ON r.version = p.version WHERE p.key = ?",
            )?
            .query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        seen.extend(versions);
    }
    report.seen_in = seen.into_iter().collect();
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
        let photos = match wanted.len() {
            1 => "1 photo".to_string(),
            count => format!("{count} photos"),
        };
        let note = format!("{photos} taken down on request.");
        report.release = Some(release_with(
            &mut ledger,
            folder,
            &note,
            asked.stop,
            asked.progress,
        )?);
    }
    Ok(report)
}

/// Keys that were taken down.
pub(crate) fn keys(ledger: &Ledger) -> Result<HashSet<String>, Error> {
    ledger.sql(|db| {
        db.prepare("SELECT key FROM takedowns")?
            .query_map([], |row| row.get(0))?
            .collect()
    })
}

/// SHA-256 of the files that were taken down, where they were known.
pub(crate) fn contents(ledger: &Ledger) -> Result<HashSet<Vec<u8>>, Error> {
    ledger.sql(|db| {
        db.prepare("SELECT sha256 FROM takedowns WHERE sha256 IS NOT NULL")?
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
