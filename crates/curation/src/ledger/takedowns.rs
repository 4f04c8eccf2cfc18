//! The one gate for takedowns: which photos were taken down, by key and by content.
//!
//! A takedown applies to a picture, not to a name. The same bytes may exist under several keys, and return
//! under another one. So photos pass the gate three times, and no other code in this crate checks for
//! takedowns:
//! - a key when the source lists it ([`Ledger::add_rows`](super::Ledger)),
//! - a key or a known content whenever photos go to a stage, to a page or to a release ([`IS_TAKEN_DOWN`]),
//! - a newly found content, when a file is read ([`Gate`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::params;

use super::Ledger;
use super::hash::Content;
use crate::error::Error;
use crate::photo::Photo;

/// The reason in the ledger of photos that were taken down.
pub(crate) const TAKEN_DOWN: &str = "taken_down";

/// All contents that were taken down.
const CONTENTS: &str =
    "SELECT sha256 FROM takedowns WHERE sha256 IS NOT NULL UNION ALL SELECT sha256 FROM takedown_contents";

/// SQL that is 1 for a photo that was taken down and 0 for all others. It uses `photos p` and the content
/// `contents c`, if that is known (`LEFT JOIN`).
pub(super) const IS_TAKEN_DOWN: &str = "(EXISTS (SELECT 1 FROM takedowns t WHERE t.key = p.key) \
     OR EXISTS (SELECT 1 FROM takedowns t WHERE t.sha256 = c.sha256) \
     OR EXISTS (SELECT 1 FROM takedown_contents t WHERE t.sha256 = c.sha256))";

/// Each of the three conditions is an index lookup. Ledgers of earlier versions lack this index.
pub(super) const INDEX: &str = "CREATE INDEX IF NOT EXISTS takedowns_sha256 ON takedowns (sha256)";

/// The reason why the gate stops the file of a photo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// These bytes were taken down.
    TakenDown,
    /// The bytes differ from those that a stage saw before: a release must hold the bytes that were checked.
    Changed,
}

/// Compares files with the takedowns, and with the bytes that stages saw before of the same photos.
#[derive(Debug)]
pub(crate) struct Gate {
    taken_down: Arc<HashSet<Content>>,
    seen: HashMap<i64, Content>,
}

impl Gate {
    /// Lets the file of a photo through, or returns the reason to stop it.
    pub(crate) fn check(&self, photo: i64, content: &Content) -> Result<(), Refusal> {
        if self.was_taken_down(content) {
            return Err(Refusal::TakenDown);
        }
        match self.seen.get(&photo) {
            Some(seen) if seen != content => Err(Refusal::Changed),
            _ => Ok(()),
        }
    }

    /// Whether these bytes were taken down, whatever photo they are of.
    pub(crate) fn was_taken_down(&self, content: &Content) -> bool {
        self.taken_down.contains(content)
    }

    /// Whether any stage saw the file of a photo.
    pub(crate) fn was_seen(&self, photo: i64) -> bool {
        self.seen.contains_key(&photo)
    }

    /// Whether there are no taken-down contents, so that no content needs to be known.
    pub(crate) fn is_open(&self) -> bool {
        self.taken_down.is_empty()
    }
}

/// Two similar photos, one of which was requested.
pub(crate) struct NearRow {
    /// The requested photo.
    pub(crate) of: i64,
    /// The other one's key.
    pub(crate) key: String,
    /// Bits in which their hashes differ.
    pub(crate) distance: u32,
    /// Whether the stage kept the other one.
    pub(crate) kept: bool,
}

impl Ledger {
    /// The gate for the files of these photos.
    pub(crate) fn gate(&self, photos: &[Photo]) -> Result<Gate, Error> {
        let taken_down = self.taken_down_contents()?;
        let mut seen = HashMap::new();
        self.sql(|db| {
            let mut query = db.prepare_cached("SELECT sha256 FROM contents WHERE photo = ?")?;
            for photo in photos {
                let mut rows = query.query([photo.id])?;
                if let Some(row) = rows.next()? {
                    seen.insert(photo.id, row.get(0)?);
                }
            }
            Ok(())
        })?;
        Ok(Gate { taken_down, seen })
    }

    /// All contents that were taken down; read once, because no other process writes to an open ledger.
    fn taken_down_contents(&self) -> Result<Arc<HashSet<Content>>, Error> {
        if let Some(known) = self.taken_down.get() {
            return Ok(known.clone());
        }
        let contents: Arc<HashSet<Content>> = self.sql(|db| {
            db.prepare(CONTENTS)?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()
                .map(Arc::new)
        })?;
        Ok(self.taken_down.get_or_init(|| contents).clone())
    }

    /// Whether a key was taken down.
    pub(crate) fn is_taken_down(&self, key: &str) -> Result<bool, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT 1 FROM takedowns WHERE key = ?")?
                .exists([key])
        })
    }

    /// Whether a key was ever listed, or released.
    pub(crate) fn was_listed(&self, key: &str) -> Result<bool, Error> {
        self.sql(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM photos WHERE key = ?1) OR EXISTS (SELECT 1 FROM release_photos WHERE key = ?1)",
                [key],
                |row| row.get(0),
            )
        })
    }

    /// Records takedowns permanently: keys, with the contents that each has or had, the current one first.
    pub(crate) fn take_down(
        &mut self,
        keys: &BTreeSet<String>,
        contents: &HashMap<String, Vec<Content>>,
        reason: &str,
    ) -> Result<(), Error> {
        let now = self.now()?;
        self.taken_down.take();
        self.transaction(|ledger| {
            ledger.sql(|db| {
                for key in keys {
                    let contents = contents.get(key).map_or(&[][..], Vec::as_slice);
                    db.prepare_cached(
                        "INSERT OR IGNORE INTO takedowns (key, sha256, asked, reason) VALUES (?, ?, ?, ?)",
                    )?
                    .execute(params![key, contents.first(), now, reason])?;
                    // A photo whose file could not be read at first, or that another program has recorded.
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

    /// Fills in the content of taken-down keys that have the content of a requested photo.
    pub(crate) fn note_taken_down_contents(&mut self, keys: &BTreeSet<String>) -> Result<(), Error> {
        self.taken_down.take();
        self.sql(|db| {
            let mut update = db.prepare(
                "UPDATE takedowns SET sha256 = (SELECT c.sha256 FROM photos p CROSS JOIN contents c ON c.photo = p.id WHERE p.key = ?1) \
                 WHERE key = ?1 AND sha256 IS NULL",
            )?;
            for key in keys {
                update.execute([key])?;
            }
            Ok(())
        })
    }

    /// The near duplicates of these photos (by number) that were not taken down, each with whether stage
    /// `last` kept it.
    pub(crate) fn near_to(&self, photos: &HashSet<i64>, last: i64) -> Result<Vec<NearRow>, Error> {
        let mut found = Vec::new();
        let facts = format!(
            "SELECT p.key, EXISTS (SELECT 1 FROM decisions d WHERE d.stage = ?1 AND d.photo = p.id AND d.kept = 1), {IS_TAKEN_DOWN} \
             FROM photos p LEFT JOIN contents c ON c.photo = p.id WHERE p.id = ?2"
        );
        self.sql(|db| {
            let mut pairs = db.prepare("SELECT photo, other, distance FROM pairs WHERE kind = 'near'")?;
            let mut facts = db.prepare(&facts)?;
            let mut rows = pairs.query([])?;
            while let Some(row) = rows.next()? {
                let (photo, other): (i64, i64) = (row.get(0)?, row.get(1)?);
                for (of, like) in [(photo, other), (other, photo)] {
                    if !photos.contains(&of) {
                        continue;
                    }
                    let (key, kept, taken_down): (String, bool, bool) =
                        facts.query_row([last, like], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                    if !taken_down {
                        found.push(NearRow {
                            of,
                            key,
                            distance: row.get(2)?,
                            kept,
                        });
                    }
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}
