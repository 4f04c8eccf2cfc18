//! Files of photos: downloads, the bytes that stages saw first, sizes and hashes, and pairs of duplicates.

use std::collections::{BTreeSet, HashSet};

use rusqlite::{OptionalExtension, params};

use super::Ledger;
use super::hash::Content;
use super::takedowns::IS_TAKEN_DOWN;
use crate::embedded::Kinds;
use crate::error::Error;

/// A row of `fetches`: the outcome of a download.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) address: String,
    pub(crate) final_address: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) attempts: u32,
    pub(crate) bytes: Option<u64>,
    /// Whether the host forbids training on it. Not in the row: it is the decision's reason or remark.
    pub(crate) noai: bool,
}

/// A row of `images`: the facts that `integrity` found about a file.
#[derive(Clone, Debug)]
pub(crate) struct ImageFacts {
    pub(crate) photo: i64,
    pub(crate) sha256: Content,
    pub(crate) bytes: usize,
    pub(crate) size_px: Option<(u32, u32)>,
    pub(crate) hash: Option<[u8; 32]>,
    /// The kinds of private metadata in it: rows of `embedded`.
    pub(crate) embedded: Kinds,
}

/// The data that the search for duplicates keeps per photo: some 100 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) photo: i64,
    pub(crate) sha256: Content,
    pub(crate) hash: Option<[u8; 32]>,
}

/// A row of `pairs`: two photos that are duplicates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// The photo of lower rank.
    pub(crate) photo: i64,
    pub(crate) other: i64,
    /// `exact` or `near`.
    pub(crate) kind: &'static str,
    /// Bits in which their hashes differ.
    pub(crate) distance: u32,
}

impl Ledger {
    /// Records the outcomes of downloads. Call it within a transaction.
    pub(crate) fn add_fetches(&self, fetches: &[(i64, Fetched)]) -> Result<(), Error> {
        self.sql(|db| {
            let mut insert = db.prepare_cached("INSERT OR REPLACE INTO fetches VALUES (?, ?, ?, ?, ?, ?)")?;
            for (photo, fetched) in fetches {
                insert.execute(params![
                    photo,
                    fetched.address,
                    fetched.final_address,
                    fetched.status,
                    fetched.attempts,
                    fetched.bytes.map(|bytes| bytes as i64),
                ])?;
            }
            Ok(())
        })
    }

    /// Records the content of a file that a stage saw; an earlier stage's record is kept.
    pub(crate) fn note_content(&self, stage: i64, photo: i64, content: &Content) -> Result<(), Error> {
        self.sql(|db| {
            db.prepare_cached("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)")?
                .execute(params![photo, content, stage])
        })?;
        Ok(())
    }

    /// The content of a photo's file with the name of the stage that read it first, if one did.
    pub(crate) fn content_of(&self, photo: i64) -> Result<Option<(Content, Option<String>)>, Error> {
        self.sql(|db| {
            db.prepare_cached(
                "SELECT c.sha256, s.name FROM contents c LEFT JOIN stages s ON s.id = c.stage WHERE c.photo = ?",
            )?
            .query_row([photo], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
        })
    }

    /// Records the facts that `integrity` found. Call it within a transaction.
    pub(crate) fn add_images(&self, images: &[ImageFacts]) -> Result<(), Error> {
        self.sql(|db| {
            let mut insert = db.prepare_cached("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)")?;
            let mut embedded = db.prepare_cached("INSERT OR IGNORE INTO embedded VALUES (?, ?)")?;
            for image in images {
                for (kind, _) in image.embedded.names() {
                    embedded.execute(params![image.photo, kind])?;
                }
                insert.execute(params![
                    image.photo,
                    image.sha256,
                    image.bytes as i64,
                    image.size_px.map(|size| size.0),
                    image.size_px.map(|size| size.1),
                    image.hash,
                ])?;
            }
            Ok(())
        })
    }

    /// The photos that stage number `stage` kept and `integrity` hashed, best first: most pixels, then
    /// smallest key. Photos that were taken down come last, so that no other photo is the duplicate of one of
    /// them.
    pub(crate) fn candidates(&self, stage: i64) -> Result<Vec<Candidate>, Error> {
        let query = format!(
            "SELECT i.photo, i.sha256, i.hash FROM decisions d CROSS JOIN images i ON i.photo = d.photo \
             CROSS JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = ? AND d.kept = 1 ORDER BY {IS_TAKEN_DOWN}, i.width_px * i.height_px DESC, p.key, p.id"
        );
        self.sql(|db| {
            db.prepare(&query)?
                .query_map([stage], |row| {
                    Ok(Candidate {
                        photo: row.get(0)?,
                        sha256: row.get(1)?,
                        hash: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// Adds pairs of duplicates, in one transaction.
    pub(crate) fn add_pairs(&mut self, pairs: &[Pair]) -> Result<(), Error> {
        self.transaction(|ledger| {
            ledger.sql(|db| {
                let mut insert = db.prepare_cached("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?)")?;
                for pair in pairs {
                    insert.execute(params![pair.photo, pair.other, pair.kind, pair.distance])?;
                }
                Ok(())
            })
        })
    }

    /// The contents that a key has or had: first those that stages saw, then those in releases.
    pub(crate) fn contents_of_key(&self, key: &str) -> Result<(Vec<Content>, Vec<Content>), Error> {
        let all = |query: &str| -> Result<Vec<Content>, Error> {
            self.sql(|db| {
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
                "SELECT DISTINCT sha256 FROM (SELECT version, sha256 FROM release_photos WHERE key = ?1 AND sha256 IS NOT NULL \
                 UNION ALL SELECT version, sha256 FROM release_originals WHERE key = ?1) ORDER BY version DESC",
            )?,
        ))
    }

    /// Keys of the photos that have one of these contents now: as stages saw them, or as the last release packed
    /// them, before or after private metadata were removed, unless stages have seen other bytes since.
    pub(crate) fn keys_of_contents(&self, contents: &HashSet<Content>) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        self.sql(|db| {
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
                "SELECT r.key, r.sha256, coalesce(o.sha256, r.sha256) FROM release_photos r \
                 LEFT JOIN release_originals o ON o.key = r.key AND o.version = r.version \
                 WHERE r.version = (SELECT max(version) FROM releases) AND r.sha256 IS NOT NULL AND NOT EXISTS \
                 (SELECT 1 FROM photos p CROSS JOIN contents c ON c.photo = p.id \
                  WHERE p.key = r.key AND c.sha256 <> coalesce(o.sha256, r.sha256))",
            )?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let (released, original): (Content, Content) = (row.get(1)?, row.get(2)?);
                if contents.contains(&released) || contents.contains(&original) {
                    found.insert(row.get(0)?);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}
