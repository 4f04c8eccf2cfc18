//! The bytes of photos: which each had when a stage first looked at it, and which were taken down.
//!
//! A takedown is of a picture and not of a name. The same bytes may be there under several keys, and come back under another
//! one; so stages note the SHA-256 of what they look at, a release notes that of what it packs, and takedowns are held against
//! both. What was judged must also be what is released: a file that changed after a stage looked at it has been judged by
//! nobody.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use rusqlite::params;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::ledger::{Decision, Ledger};
use crate::photo::Photo;
use crate::photos::Photos;

/// A SHA-256.
pub(crate) type Content = [u8; 32];

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS contents (photo INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, stage INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS takedown_contents (sha256 BLOB PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
";

/// Ledgers of before had the hashes of `integrity` alone and none of what was released.
pub(crate) const UPGRADE: &str = "
INSERT OR IGNORE INTO contents SELECT i.photo, i.sha256, s.id FROM images i CROSS JOIN stages s ON s.name = 'integrity';
ALTER TABLE release_photos ADD COLUMN sha256 BLOB;
";

/// All contents that were taken down.
pub(crate) const TAKEN_DOWN: &str =
    "SELECT sha256 FROM takedowns WHERE sha256 IS NOT NULL UNION SELECT sha256 FROM takedown_contents";

/// SHA-256 of a file.
pub(crate) fn sha256(file: &[u8]) -> Content {
    Sha256::digest(file).into()
}

/// SHA-256 of the files that were taken down, where they were known.
pub(crate) fn taken_down(ledger: &Ledger) -> Result<HashSet<Content>, Error> {
    ledger.sql(|db| db.prepare(TAKEN_DOWN)?.query_map([], |row| row.get(0))?.collect())
}

/// What stages saw, by photo; nothing of photos at which none has looked.
pub(crate) fn noted(ledger: &Ledger, photos: &[Photo]) -> Result<HashMap<i64, Content>, Error> {
    let mut found = HashMap::new();
    ledger.sql(|db| {
        let mut query = db.prepare_cached("SELECT sha256 FROM contents WHERE photo = ?")?;
        for photo in photos {
            let mut rows = query.query([photo.id])?;
            if let Some(row) = rows.next()? {
                found.insert(photo.id, row.get(0)?);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Notes what a stage saw; what one before it saw stands. Within a transaction.
pub(crate) fn note(
    ledger: &Ledger,
    stage: i64,
    seen: impl IntoIterator<Item = (i64, Content)>,
) -> Result<(), Error> {
    ledger.sql(|db| {
        let mut insert = db.prepare_cached("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)")?;
        for (photo, sha256) in seen {
            insert.execute(params![photo, sha256, stage])?;
        }
        Ok(())
    })
}

/// Why a photo of this content goes before anyone looks at it: it was taken down, or is not what a stage before has seen.
pub(crate) fn refusal(
    photo: i64,
    content: &Content,
    noted: &HashMap<i64, Content>,
    taken_down: &HashSet<Content>,
) -> Option<Decision> {
    if taken_down.contains(content) {
        return Some(Decision::dropped(photo, "taken_down"));
    }
    let changed = noted.get(&photo).is_some_and(|known| known != content);
    changed.then(|| {
        Decision::dropped(photo, "file_changed")
            .detail("the file changed since an earlier stage looked at it")
    })
}

/// The contents that a key has or had: what stages saw, and what releases held.
pub(crate) fn of_key(ledger: &Ledger, key: &str) -> Result<(Vec<Content>, Vec<Content>), Error> {
    let all = |query: &str| -> Result<Vec<Content>, Error> {
        ledger.sql(|db| {
            db.prepare_cached(query)?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    };
    Ok((
        all(
            "SELECT DISTINCT c.sha256 FROM photos p CROSS JOIN contents c ON c.photo = p.id WHERE p.key = ?",
        )?,
        all(
            "SELECT DISTINCT sha256 FROM release_photos WHERE key = ? AND sha256 IS NOT NULL ORDER BY version DESC",
        )?,
    ))
}

/// Keys of the photos that have one of these contents now: as stages saw them or, where none looked, as the last release
/// packed them.
pub(crate) fn keys_of(ledger: &Ledger, contents: &HashSet<Content>) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    ledger.sql(|db| {
        let mut query = db.prepare("SELECT photo, sha256 FROM contents")?;
        let mut key = db.prepare("SELECT key FROM photos WHERE id = ?")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            if contents.contains(&row.get::<_, Content>(1)?) {
                let keys = key.query_map([row.get::<_, i64>(0)?], |row| row.get::<_, String>(0))?;
                for key in keys {
                    found.insert(key?);
                }
            }
        }
        let mut query = db.prepare(
            "SELECT r.key, r.sha256 FROM release_photos r WHERE r.version = (SELECT max(version) FROM releases) \
             AND r.sha256 IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM photos p CROSS JOIN contents c ON c.photo = p.id WHERE p.key = r.key)",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            if contents.contains(&row.get::<_, Content>(1)?) {
                found.insert(row.get(0)?);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Keys of photos that stage number `stage` kept, that no stage has looked at, and whose files have one of these contents.
/// Files of other lengths than `lengths` are not read, where the lengths are known.
pub(crate) fn unseen_of(
    ledger: &Ledger,
    photos: &Photos,
    stage: i64,
    contents: &HashSet<Content>,
    lengths: Option<&HashSet<u64>>,
    stop: &AtomicBool,
) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    if contents.is_empty() {
        return Ok(found);
    }
    let mut cursor = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let batch = ledger.survivors(stage, cursor, 256)?;
        let Some(last) = batch.last() else {
            return Ok(found);
        };
        cursor = last.id;
        let noted = noted(ledger, &batch)?;
        let same: Vec<&Photo> = batch
            .par_iter()
            .filter(|photo| !noted.contains_key(&photo.id))
            .filter(|photo| {
                let length = photos
                    .path(photo)
                    .and_then(|path| std::fs::metadata(path).ok())
                    .map(|facts| facts.len());
                match (lengths, length) {
                    (Some(lengths), Some(length)) if !lengths.contains(&length) => false,
                    // What cannot be read cannot be released either; who packs it says so.
                    _ => photos
                        .read(photo)
                        .is_ok_and(|file| contents.contains(&sha256(&file))),
                }
            })
            .collect();
        found.extend(same.into_iter().map(|photo| photo.key.clone()));
    }
}
