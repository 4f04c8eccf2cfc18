//! Releases: which versions exist, and which photos each of them holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::Ledger;
use super::funnel::ReleaseLine;
use super::hash::Content;
use crate::embedded::FileMetadata;
use crate::error::Error;

/// The facts that stages found about the file of a released photo.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileFacts {
    /// The stage that read it first.
    pub(crate) seen_by: Option<String>,
    pub(crate) width_px: Option<u32>,
    pub(crate) height_px: Option<u32>,
    /// The remark of the stage `integrity`.
    pub(crate) remark: Option<String>,
}

/// A photo as a release packed it.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) key: String,
    /// Of the released file.
    pub(crate) sha256: Content,
    /// Of the source's file, where that is another one.
    pub(crate) original: Option<Content>,
}

/// The fact that names how much of the metadata within files the last release kept.
const METADATA: &str = "released_metadata";
/// The fact that holds what the last release says of itself, as JSON.
const FACTS: &str = "released_facts";

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

impl Ledger {
    /// The last version; 0 where there is none.
    pub(crate) fn last_version(&self) -> Result<u32, Error> {
        self.sql(|db| {
            db.query_row("SELECT coalesce(max(version), 0) FROM releases", [], |row| {
                row.get(0)
            })
        })
    }

    /// Shard and key of each photo of a version, in its order.
    pub(crate) fn photos_of_version(&self, version: u32) -> Result<Vec<(usize, String)>, Error> {
        self.sql(|db| {
            db.prepare("SELECT shard, key FROM release_photos WHERE version = ? ORDER BY shard, place")?
                .query_map([version], |row| Ok((row.get::<_, i64>(0)? as usize, row.get(1)?)))?
                .collect()
        })
    }

    /// All labels of the photos that stage number `stage` kept, sorted. Photos that were taken down count, so
    /// that the remaining classes keep their numbers from version to version.
    pub(crate) fn labels(&self, stage: i64) -> Result<Vec<String>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT DISTINCT p.label FROM decisions d CROSS JOIN photos p ON p.id = d.photo \
                 WHERE d.stage = ? AND d.kept = 1 AND p.label IS NOT NULL ORDER BY p.label",
            )?
            .query_map([stage], |row| row.get(0))?
            .collect()
        })
    }

    /// The facts that stages found about the file of a photo.
    pub(crate) fn file_facts(&self, photo: i64) -> Result<FileFacts, Error> {
        self.sql(|db| {
            db.prepare_cached(
                "SELECT s.name, i.width_px, i.height_px, (SELECT r.name FROM stages t JOIN decisions d ON d.stage = t.id AND d.photo = a.photo \
                 JOIN reasons r ON r.id = d.reason WHERE t.name = 'integrity') FROM (SELECT ? AS photo) a LEFT JOIN contents c ON c.photo = a.photo \
                 LEFT JOIN stages s ON s.id = c.stage LEFT JOIN images i ON i.photo = a.photo",
            )?
            .query_row([photo], |row| {
                Ok(FileFacts {
                    seen_by: row.get(0)?,
                    width_px: row.get(1)?,
                    height_px: row.get(2)?,
                    remark: row.get(3)?,
                })
            })
        })
    }

    /// How much of the metadata within files the last release kept. Releases of earlier versions of this program
    /// kept all.
    pub(crate) fn released_metadata(&self) -> Result<FileMetadata, Error> {
        let known = self.fact(METADATA)?;
        let known = known.and_then(|known| serde_json::from_str(&known).ok());
        Ok(known.unwrap_or(FileMetadata::Keep))
    }

    /// What the last release says of itself, as JSON; `None` where an earlier version of this program made it.
    pub(crate) fn released_facts(&self) -> Result<Option<String>, Error> {
        self.fact(FACTS)
    }

    /// Records a release with its photos, by shard, the contents of each, how much of the metadata within
    /// files it kept, and what it says of itself; removes the fact that announced it. In one transaction.
    pub(crate) fn add_release(
        &mut self,
        line: &ReleaseLine,
        shards: &[Vec<Packed>],
        (metadata, facts): (FileMetadata, &str),
        being_made: &str,
    ) -> Result<(), Error> {
        let metadata = serde_json::to_string(&metadata).unwrap_or_default();
        self.transaction(|ledger| {
            ledger.set_fact(METADATA, &metadata)?;
            ledger.set_fact(FACTS, facts)?;
            ledger.sql(|db| {
                db.execute(
                    "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    params![
                        line.version,
                        line.made,
                        line.folder,
                        line.fingerprint,
                        line.records as i64,
                        line.added as i64,
                        line.removed as i64,
                        line.note
                    ],
                )?;
                db.execute("DELETE FROM facts WHERE name = ?", [being_made])?;
                let mut insert = db.prepare(
                    "INSERT INTO release_photos (version, shard, place, key, sha256) VALUES (?, ?, ?, ?, ?)",
                )?;
                let mut originals = db.prepare("INSERT INTO release_originals VALUES (?, ?, ?)")?;
                for (shard, photos) in shards.iter().enumerate() {
                    for (place, photo) in photos.iter().enumerate() {
                        let (key, sha256) = (&photo.key, &photo.sha256);
                        insert.execute(params![line.version, shard as i64, place as i64, key, sha256])?;
                        if let Some(original) = &photo.original {
                            originals.execute(params![key, line.version, original])?;
                        }
                    }
                }
                Ok(())
            })
        })
    }

    /// Versions and fingerprints of the releases that hold one of the keys, or one of the contents under any
    /// other key.
    pub(crate) fn releases_with(
        &self,
        keys: &BTreeSet<String>,
        contents: &HashSet<Content>,
    ) -> Result<Vec<(u32, String)>, Error> {
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        self.sql(|db| {
            let mut by_key = db.prepare("SELECT DISTINCT version FROM release_photos WHERE key = ?")?;
            for key in keys {
                for version in by_key.query_map([key], |row| row.get(0))? {
                    seen.insert(version?);
                }
            }
            let mut by_content = db.prepare(
                "SELECT version, sha256 FROM release_photos WHERE sha256 IS NOT NULL \
                 UNION ALL SELECT version, sha256 FROM release_originals",
            )?;
            let mut rows = by_content.query([])?;
            while let Some(row) = rows.next()? {
                if contents.contains(&row.get::<_, Content>(1)?) {
                    seen.insert(row.get(0)?);
                }
            }
            let all: BTreeMap<u32, String> = db
                .prepare("SELECT version, fingerprint FROM releases")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            Ok(all
                .into_iter()
                .filter(|(version, _)| seen.contains(version))
                .collect())
        })
    }
}
