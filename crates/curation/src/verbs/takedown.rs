//! Taking photos down: the next version without them, the encoders trained on them, and a record that keeps
//! them out for good.
//!
//! A takedown is a separate row of the ledger and not a stage's decision, so that rerunning a stage does not
//! undo it. The ledger's gate (`ledger/takedowns.rs`) drops key and content wherever they appear. A takedown
//! applies to a picture, not to a name: every photo with the same bytes is taken down too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use data::EncoderHeader;
use data::names::listed;
use serde::Serialize;
use walkdir::WalkDir;

use super::release::{Released, done_stage, release_with};
use super::sheets;
use super::unseen::Unseen;
use crate::config::Config;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Content, FILE_NAME, Ledger, sha256};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::progress::Progress;

/// A request to take photos down.
#[derive(Clone, Copy)]
pub struct Takedown<'a> {
    /// Keys of the photos, or names of their files where only one photo has that name and its key.
    pub keys: &'a [String],
    /// The reason, for the ledger; not published.
    pub reason: &'a str,
    /// Folders of run directories and encoder files, searched for encoders that saw the photos.
    pub encoders: &'a [PathBuf],
    /// When it turns true, the release is abandoned; the takedown remains in force.
    pub stop: &'a AtomicBool,
    /// Called while the release is written.
    pub progress: Progress<'a>,
}

/// The result of a takedown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TakedownReport {
    /// Photos that this request takes down.
    pub taken_down: Vec<String>,
    /// Photos that were already taken down.
    pub already: Vec<String>,
    /// Other keys of the same bytes, which are taken down with them.
    pub same_content: Vec<String>,
    /// Photos whose bytes are unknown, with the reason: the same bytes under another key are not recognized.
    pub content_unknown: Vec<(String, String)>,
    /// Photos that are only similar to one that was taken down. They stay until their own keys are requested.
    pub near_duplicates: Vec<NearDuplicate>,
    /// Releases that hold one of the photos: version and fingerprint. Their folders stay until someone
    /// deletes them.
    pub seen_in: Vec<(u32, String)>,
    /// Encoders that were trained on one of these releases.
    pub encoders: Vec<(PathBuf, String)>,
    /// Downloads that were deleted.
    pub deleted: Vec<PathBuf>,
    /// Contact sheets that showed one of the photos, which was cut out.
    pub sheets: Vec<PathBuf>,
    /// The next version, if the last one held one of the photos.
    pub release: Option<Released>,
    /// Whether the last version held no other photos, so that there is no next one.
    pub none_left: bool,
}

/// A photo that is similar to one that was taken down, from the table `pairs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NearDuplicate {
    /// Its key.
    pub key: String,
    /// The photo that was taken down.
    pub of: String,
    /// Bits in which their hashes differ.
    pub distance: u32,
    /// Whether the last stage kept it. Otherwise it is dropped under the stages' current decisions, and may
    /// be kept when these are repeated.
    pub survives: bool,
}

/// Takes photos down from the curation in `folder`.
///
/// # Errors
/// A key that was never listed, because a misspelled key must not pass for a removed photo; no keys; missing
/// folders of encoders. In these cases nothing is done. [`Error::Recorded`] where the photos are down and a
/// later step failed.
pub fn takedown(folder: &Path, asked: Takedown<'_>) -> Result<TakedownReport, Error> {
    if !folder.join(FILE_NAME).is_file() {
        return Err(Error::NoCuration {
            path: folder.to_path_buf(),
        });
    }
    let mut wanted: BTreeSet<String> = asked.keys.iter().cloned().collect();
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
            hint: Hint::NameEncoderFolders,
        });
    }
    let mut ledger = Ledger::open(folder)?;
    let mut report = TakedownReport::default();
    let mut unknown = Vec::new();
    for name in wanted.clone() {
        // The name of one photo's file, where no other file has its key.
        if !ledger.was_listed(&name)?
            && !ledger.is_taken_down(&name)?
            && let Some((key, 1)) = ledger.key_of_file(&name)?
        {
            wanted.remove(&name);
            wanted.insert(key);
        }
    }
    for key in &wanted {
        match (ledger.is_taken_down(key)?, ledger.was_listed(key)?) {
            (true, _) => report.already.push(key.clone()),
            (false, true) => report.taken_down.push(key.clone()),
            (false, false) => unknown.push(key.clone()),
        }
    }
    if !unknown.is_empty() {
        return Err(nothing_done(format!(
            "no photo was ever listed under {}",
            listed(&unknown)
        )));
    }
    let config = Config::of(&ledger, folder)?;
    // A takedown does not need the source.
    let photos = config.photos(folder);
    let bytes = bytes_of(&ledger, &photos, &wanted, &mut report)?;
    ledger.take_down(&wanted, &bytes.by_key, asked.reason)?;
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
        hint: Hint::NameListedKeys,
    }
}

/// `photo `a` is`, `photos `a`, `b` and 3 more are`.
fn in_words(keys: &BTreeSet<String>) -> String {
    let keys: Vec<&String> = keys.iter().collect();
    match keys.len() {
        1 => format!("photo {} is", listed(&keys)),
        _ => format!("photos {} are", listed(&keys)),
    }
}

/// The bytes of the requested photos.
#[derive(Default)]
struct Bytes {
    /// The contents by key: the current one first, then those in releases.
    by_key: HashMap<String, Vec<Content>>,
    /// All contents.
    all: HashSet<Content>,
    /// Lengths of the files that no stage had read, and that were read for this request.
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
        let (mut found, released) = ledger.contents_of_key(key)?;
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

/// SHA-256 and length of the files of a key that no stage has read; or why there are none.
fn read(
    ledger: &Ledger,
    photos: &Result<Photos, Error>,
    key: &str,
) -> Result<Result<Vec<(Content, u64)>, String>, Error> {
    let photos = match photos {
        Ok(photos) => photos,
        Err(error) => return Ok(Err(data::with_causes(&error))),
    };
    let mut reason = "it is no longer listed".to_string();
    let mut found = Vec::new();
    for id in ledger.ids_of_key(key)? {
        let Some(photo) = ledger.photo(id)? else {
            continue;
        };
        match photos.read(&photo) {
            Ok(file) => found.push((sha256(&file), file.len() as u64)),
            Err(error) => reason = data::with_causes(&error),
        }
    }
    Ok(if found.is_empty() { Err(reason) } else { Ok(found) })
}

/// The place of a curation's photos.
struct Place<'a> {
    folder: &'a Path,
    config: &'a Config,
    photos: Option<&'a Photos>,
}

/// All consequences of a recorded takedown. A repeated call completes the unfinished ones.
fn follow_through(
    ledger: &mut Ledger,
    place: &Place<'_>,
    asked: &Takedown<'_>,
    wanted: &BTreeSet<String>,
    bytes: &Bytes,
    report: &mut TakedownReport,
) -> Result<(), Error> {
    let mut keys = ledger.keys_of_contents(&bytes.all)?;
    if let Some(photos) = place.photos {
        let unseen = Unseen {
            ledger,
            photos,
            stage: stage_with_files(ledger, place.config)?,
            stop: asked.stop,
        };
        keys.extend(unseen.with_contents(&bytes.all, &bytes.read)?);
    }
    keys.retain(|key| !wanted.contains(key));
    ledger.take_down(&keys, &bytes.by_key, asked.reason)?;
    // Their bytes are those of a requested photo; their rows record its hash.
    ledger.note_taken_down_contents(&keys)?;
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
    report.sheets = sheets::cut_out(ledger, place.folder, &keys)?;
    report.near_duplicates = near_duplicates(ledger, place.config, &keys)?;
    report.seen_in = ledger.releases_with(&keys, &bytes.all)?;
    let fingerprints: HashSet<&str> = report
        .seen_in
        .iter()
        .map(|(_, fingerprint)| fingerprint.as_str())
        .collect();
    for root in asked.encoders {
        report.encoders.extend(encoders_of(root, &fingerprints)?);
    }
    let last = ledger.last_version()?;
    if last > 0 && report.seen_in.last().is_some_and(|(version, _)| *version == last) {
        // Whether a next version would hold any photo.
        let stage = done_stage(ledger, place.config)?;
        if ledger.survivors(stage, 0, 1)?.is_empty() {
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

/// The stage whose photos have files: the download stage, else the last one.
fn stage_with_files(ledger: &Ledger, config: &Config) -> Result<i64, Error> {
    if let (true, Some(fetch)) = (config.fetches(), ledger.stage("fetch")?) {
        return Ok(fetch.id);
    }
    ledger.last_stage()
}

/// Photos that are similar to one of these and not taken down.
fn near_duplicates(
    ledger: &Ledger,
    config: &Config,
    keys: &BTreeSet<String>,
) -> Result<Vec<NearDuplicate>, Error> {
    let mut key_of: HashMap<i64, &String> = HashMap::new();
    for key in keys {
        key_of.extend(ledger.ids_of_key(key)?.into_iter().map(|id| (id, key)));
    }
    let last = ledger.stage(config.last_stage())?.map_or(0, |row| row.id);
    let near = ledger.near_to(&key_of.keys().copied().collect(), last)?;
    let near: BTreeSet<NearDuplicate> = near
        .into_iter()
        .map(|near| NearDuplicate {
            key: near.key,
            of: key_of[&near.of].clone(),
            distance: near.distance,
            survives: near.kept,
        })
        .collect();
    Ok(near.into_iter().collect())
}

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
        // A file that is damaged, or is not a Passer encoder, has no fingerprint to compare.
        let header = EncoderHeader::read(entry.path()).ok().flatten();
        let fingerprint = header.map(|header| header.fingerprint);
        if let Some(fingerprint) = fingerprint.filter(|found| fingerprints.contains(found.as_str())) {
            found.push((entry.path().to_path_buf(), fingerprint));
        }
    }
    Ok(found)
}
