//! The ledger: one SQLite file with every photo, every decision and every release of a curation.
//!
//! It is the only state of a run. All writing goes through transactions in WAL mode: a process killed at any moment leaves
//! the last whole transaction, and other tools can read meanwhile. `docs/curation.md` documents the tables for users; the
//! schema below and that page change together.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use crate::error::Error;
use crate::photo::{Photo, Row};

/// Name of the database in the folder of a curation.
pub(crate) const FILE_NAME: &str = "ledger.sqlite";
/// 2 has the tables of review and audit, 3 the contents of photos whatever stage looked at them.
const SCHEMA_VERSION: i64 = 3;

/// Names are interned where they repeat by the million: `licences`, `reasons`, `stages`.
const SCHEMA: &str = "
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE licences (id INTEGER PRIMARY KEY, name TEXT NOT NULL, url TEXT NOT NULL, UNIQUE (name, url));
CREATE TABLE photos (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, photographer TEXT, photographer_id TEXT, title TEXT, date_taken TEXT,
  latitude REAL, longitude REAL, page_url TEXT, image_url TEXT, licence INTEGER REFERENCES licences, label TEXT, locator TEXT);
CREATE TABLE stages (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0,
  position TEXT, kept INTEGER, dropped INTEGER, seconds REAL NOT NULL DEFAULT 0, finished TEXT);
CREATE TABLE reasons (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE decisions (
  stage INTEGER NOT NULL, photo INTEGER NOT NULL, kept INTEGER NOT NULL, reason INTEGER REFERENCES reasons, score REAL,
  PRIMARY KEY (stage, photo)) WITHOUT ROWID;
CREATE TABLE details (stage INTEGER NOT NULL, photo INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (stage, photo)) WITHOUT ROWID;
CREATE TABLE fetches (
  photo INTEGER PRIMARY KEY, url TEXT NOT NULL, final_url TEXT, status INTEGER, attempts INTEGER NOT NULL, bytes INTEGER);
CREATE TABLE images (
  photo INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL, width_px INTEGER, height_px INTEGER, hash BLOB);
CREATE TABLE pairs (
  photo INTEGER NOT NULL, other INTEGER NOT NULL, kind TEXT NOT NULL, distance INTEGER NOT NULL,
  PRIMARY KEY (photo, other)) WITHOUT ROWID;
CREATE TABLE takedowns (key TEXT PRIMARY KEY, sha256 BLOB, asked TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE releases (
  version INTEGER PRIMARY KEY, made TEXT NOT NULL, folder TEXT NOT NULL, fingerprint TEXT NOT NULL, records INTEGER NOT NULL,
  added INTEGER NOT NULL, removed INTEGER NOT NULL, note TEXT NOT NULL);
CREATE TABLE release_photos (
  version INTEGER NOT NULL, shard INTEGER NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, sha256 BLOB,
  PRIMARY KEY (version, shard, place)) WITHOUT ROWID;
CREATE INDEX release_photos_key ON release_photos (key);
CREATE VIEW decision_log AS
  SELECT s.name AS stage, p.id AS photo, p.key AS key, d.kept AS kept, r.name AS reason, d.score AS score, t.text AS detail
  FROM decisions d JOIN stages s ON s.id = d.stage JOIN photos p ON p.id = d.photo
  LEFT JOIN reasons r ON r.id = d.reason LEFT JOIN details t ON t.stage = d.stage AND t.photo = d.photo;
";

const PHOTO_COLUMNS: &str = "p.id, p.key, p.photographer, p.photographer_id, p.title, p.date_taken, p.latitude, p.longitude, \
     p.page_url, p.image_url, l.name, l.url, p.label, p.locator";

/// What a stage decides about one photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The photo's `id`.
    pub photo: i64,
    /// Whether it goes on to the next stage.
    pub kept: bool,
    /// Why it was dropped, in snake_case; none where it was kept.
    pub reason: Option<String>,
    /// The number that the decision rests on, if there is one: a draw, a distance, a detector's score.
    pub score: Option<f64>,
    /// More for a person to read, e.g. a decoder's message.
    pub detail: Option<String>,
}

impl Decision {
    /// The photo stays.
    pub fn kept(photo: i64) -> Decision {
        Decision {
            photo,
            kept: true,
            reason: None,
            score: None,
            detail: None,
        }
    }

    /// The photo goes.
    pub fn dropped(photo: i64, reason: &str) -> Decision {
        Decision {
            kept: false,
            reason: Some(reason.to_string()),
            ..Decision::kept(photo)
        }
    }

    /// Adds the number that decided.
    pub fn score(self, score: f64) -> Decision {
        Decision {
            score: Some(score),
            ..self
        }
    }

    /// Adds words.
    pub fn detail(self, detail: impl Into<String>) -> Decision {
        Decision {
            detail: Some(detail.into()),
            ..self
        }
    }
}

/// A stage's row in the ledger.
#[derive(Clone, Debug)]
pub(crate) struct StageRow {
    pub(crate) id: i64,
    pub(crate) settings: String,
    pub(crate) done: bool,
    pub(crate) position: Option<String>,
}

/// The open ledger of one curation.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) db: Connection,
    path: PathBuf,
    /// By name, then by address.
    licences: HashMap<String, HashMap<String, i64>>,
    reasons: HashMap<String, i64>,
    _lock: Option<File>,
}

impl Ledger {
    /// Opens the ledger in `folder` for writing, making both where they are missing. One process at a time.
    ///
    /// # Errors
    /// [`Error::InUse`], or a ledger that cannot be opened or is of another version.
    pub fn open(folder: &Path) -> Result<Ledger, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        let lock_path = folder.join(".lock");
        let lock = File::create(&lock_path).map_err(Error::io("write", &lock_path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: folder.to_path_buf(),
                });
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(
                    "`{}` cannot be locked ({error}): start no second process in it",
                    folder.display()
                );
            }
            Ok(()) => {}
        }
        let path = folder.join(FILE_NAME);
        // The ledger knows what was taken down: a new one in its place would bring all of it back.
        if std::fs::metadata(&path).map_or(0, |facts| facts.len()) == 0
            && let Some(release) = crate::release::any_version(folder)
        {
            return Err(Error::LostLedger { path, release });
        }
        let db = Connection::open(&path).map_err(failed(&path))?;
        let mut ledger = Ledger {
            db,
            path,
            licences: HashMap::new(),
            reasons: HashMap::new(),
            _lock: Some(lock),
        };
        ledger.prepare()?;
        Ok(ledger)
    }

    /// Opens the ledger in `folder` for reading; a run may go on meanwhile.
    ///
    /// # Errors
    /// [`Error::NoCuration`], or a ledger that cannot be read.
    pub fn open_read_only(folder: &Path) -> Result<Ledger, Error> {
        let path = folder.join(FILE_NAME);
        if !path.is_file() {
            return Err(Error::NoCuration {
                path: folder.to_path_buf(),
            });
        }
        let db = Connection::open(&path).map_err(failed(&path))?;
        let ledger = Ledger {
            db,
            path,
            licences: HashMap::new(),
            reasons: HashMap::new(),
            _lock: None,
        };
        ledger.sql(|db| db.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 10000;"))?;
        ledger.check_version()?;
        Ok(ledger)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        // NORMAL: what a killed process has committed stays; after a power cut the last transactions may be missing, never half.
        self.sql(|db| {
            db.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA temp_store = FILE; \
                 PRAGMA foreign_keys = OFF; PRAGMA busy_timeout = 10000; PRAGMA wal_autocheckpoint = 8000; PRAGMA journal_size_limit = 268435456;",
            )
        })?;
        let version: i64 = self.sql(|db| db.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        // A database that this program never wrote to is no ledger either.
        if version == 0
            && let Some(release) = self.path.parent().and_then(crate::release::any_version)
        {
            let path = self.path.clone();
            return Err(Error::LostLedger { path, release });
        }
        if version < SCHEMA_VERSION {
            let (first, upgrade) = match version {
                0 => (SCHEMA, ""),
                _ => ("", crate::contents::UPGRADE),
            };
            let (review, audit, contents) = (
                crate::review::SCHEMA,
                crate::audit::SCHEMA,
                crate::contents::SCHEMA,
            );
            let text = format!(
                "{first} {review} {audit} {contents} {upgrade} PRAGMA user_version = {SCHEMA_VERSION};"
            );
            self.transaction(|ledger| ledger.sql(|db| db.execute_batch(&text)))?;
        }
        self.check_version()?;
        let known: Vec<(String, String, i64)> = self.sql(|db| {
            db.prepare("SELECT name, url, id FROM licences LIMIT 10000")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let mut licences: HashMap<String, HashMap<String, i64>> = HashMap::new();
        for (name, url, id) in known {
            licences.entry(name).or_default().insert(url, id);
        }
        let reasons = self.sql(|db| {
            db.prepare("SELECT name, id FROM reasons")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<HashMap<_, _>, _>>()
        })?;
        (self.licences, self.reasons) = (licences, reasons);
        Ok(())
    }

    fn check_version(&self) -> Result<(), Error> {
        let version: i64 = self.sql(|db| db.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        // What only reads needs no tables that came later.
        if (1..=SCHEMA_VERSION).contains(&version) {
            return Ok(());
        }
        Err(Error::Ledger {
            path: self.path.clone(),
            reason: format!("of schema {version}; this program knows schema {SCHEMA_VERSION}"),
        })
    }

    /// Runs SQL; errors name the ledger.
    pub(crate) fn sql<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        work(&self.db).map_err(failed(&self.path))
    }

    /// Runs `work` in one transaction: all of it is kept, or none.
    pub(crate) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.sql(|db| db.execute_batch("BEGIN IMMEDIATE"))?;
        match work(self) {
            Ok(value) => {
                self.sql(|db| db.execute_batch("COMMIT"))?;
                Ok(value)
            }
            Err(error) => {
                // Interned numbers of rows that never came to be must go too.
                let _ = self.db.execute_batch("ROLLBACK");
                self.licences.clear();
                self.reasons.clear();
                Err(error)
            }
        }
    }

    /// A fact about the curation: its config, its folder of photos.
    pub(crate) fn fact(&self, name: &str) -> Result<Option<String>, Error> {
        self.sql(|db| {
            db.query_row("SELECT value FROM facts WHERE name = ?", [name], |row| row.get(0))
                .optional()
        })
    }

    /// Writes a fact.
    pub(crate) fn set_fact(&self, name: &str, value: &str) -> Result<(), Error> {
        self.sql(|db| db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [name, value]))?;
        Ok(())
    }

    /// The stage of that name, if it ever ran.
    pub(crate) fn stage(&self, name: &str) -> Result<Option<StageRow>, Error> {
        self.sql(|db| {
            db.query_row(
                "SELECT id, settings, done, position FROM stages WHERE name = ?",
                [name],
                |row| {
                    Ok(StageRow {
                        id: row.get(0)?,
                        settings: row.get(1)?,
                        done: row.get(2)?,
                        position: row.get(3)?,
                    })
                },
            )
            .optional()
        })
    }

    /// Adds a stage as number `id` of the chain.
    pub(crate) fn add_stage(&self, id: i64, name: &str, settings: &str) -> Result<(), Error> {
        self.sql(|db| {
            db.execute(
                "INSERT INTO stages (id, name, settings) VALUES (?, ?, ?)",
                params![id, name, settings],
            )
        })?;
        Ok(())
    }

    /// Throws away the decisions of stage number `from` and of all after it, with what they found out.
    pub(crate) fn forget_from(&mut self, from: i64) -> Result<(), Error> {
        let names: Vec<String> = self.sql(|db| {
            db.prepare("SELECT name FROM stages WHERE id >= ?")?
                .query_map([from], |row| row.get(0))?
                .collect()
        })?;
        self.transaction(|ledger| {
            ledger.sql(|db| {
                for table in ["decisions", "details"] {
                    db.execute(&format!("DELETE FROM {table} WHERE stage >= ?"), [from])?;
                }
                db.execute("DELETE FROM stages WHERE id >= ?", [from])?;
                db.execute("DELETE FROM contents WHERE stage >= ?", [from])?;
                for name in &names {
                    match name.as_str() {
                        "source" => db.execute_batch(
                            "DROP INDEX IF EXISTS photos_key; DELETE FROM photos; DELETE FROM images; DELETE FROM fetches;",
                        )?,
                        "fetch" => db.execute_batch("DELETE FROM fetches")?,
                        "integrity" => db.execute_batch("DELETE FROM images")?,
                        "duplicates" => db.execute_batch("DELETE FROM pairs")?,
                        _ => {}
                    }
                }
                Ok(())
            })
        })
    }

    /// Writes the number of a name into `licences`, once.
    fn licence_id(&mut self, photo: &Photo) -> Result<Option<i64>, Error> {
        if photo.licence.is_none() && photo.licence_url.is_none() {
            return Ok(None);
        }
        let (name, url) = (
            photo.licence.as_deref().unwrap_or_default(),
            photo.licence_url.as_deref().unwrap_or_default(),
        );
        if let Some(id) = self.licences.get(name).and_then(|urls| urls.get(url)) {
            return Ok(Some(*id));
        }
        let id = self.sql(|db| {
            db.execute(
                "INSERT OR IGNORE INTO licences (name, url) VALUES (?, ?)",
                [name, url],
            )?;
            db.query_row(
                "SELECT id FROM licences WHERE name = ? AND url = ?",
                [name, url],
                |row| row.get(0),
            )
        })?;
        // A file in which every row has a licence of its own would fill the memory; there are a dozen licences.
        if self.licences.values().map(HashMap::len).sum::<usize>() < 1000 {
            self.licences
                .entry(name.to_string())
                .or_default()
                .insert(url.to_string(), id);
        }
        Ok(Some(id))
    }

    fn reason_id(&mut self, reason: &str) -> Result<i64, Error> {
        if let Some(id) = self.reasons.get(reason) {
            return Ok(*id);
        }
        let id = self.sql(|db| {
            db.execute("INSERT OR IGNORE INTO reasons (name) VALUES (?)", [reason])?;
            db.query_row("SELECT id FROM reasons WHERE name = ?", [reason], |row| {
                row.get(0)
            })
        })?;
        if self.reasons.len() < 10_000 {
            self.reasons.insert(reason.to_string(), id);
        }
        Ok(id)
    }

    /// Adds rows of a source with the source's decisions. Within a transaction.
    pub(crate) fn add_rows(&mut self, stage: i64, rows: &[Row]) -> Result<(), Error> {
        let mut decisions = Vec::with_capacity(rows.len());
        for Row { photo, refused } in rows {
            let licence = self.licence_id(photo)?;
            // Of a refused row only the key is kept, cut to a length that does no harm: it names the row in the log.
            let whole = refused.is_none();
            fn some<T>(whole: bool, value: &Option<T>) -> Option<&T> {
                value.as_ref().filter(|_| whole)
            }
            let key: String = if whole {
                photo.key.clone()
            } else {
                photo.key.chars().take(200).collect()
            };
            self.sql(|db| {
                db.prepare_cached("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?
                    .execute(params![
                        photo.id,
                        key,
                        some(whole, &photo.photographer),
                        some(whole, &photo.photographer_id),
                        some(whole, &photo.title),
                        some(whole, &photo.date_taken),
                        some(whole, &photo.latitude),
                        some(whole, &photo.longitude),
                        some(whole, &photo.page_url),
                        some(whole, &photo.image_url),
                        licence.filter(|_| whole),
                        some(whole, &photo.label),
                        some(whole, &photo.locator),
                    ])
            })?;
            decisions.push(match refused {
                None => Decision::kept(photo.id),
                Some(reason) => Decision::dropped(photo.id, reason),
            });
        }
        self.add_decisions(stage, &decisions)
    }

    /// Adds decisions. Within a transaction.
    pub(crate) fn add_decisions(&mut self, stage: i64, decisions: &[Decision]) -> Result<(), Error> {
        for decision in decisions {
            let reason = match &decision.reason {
                Some(reason) => Some(self.reason_id(reason)?),
                None => None,
            };
            self.sql(|db| {
                db.prepare_cached("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?)")?
                    .execute(params![
                        stage,
                        decision.photo,
                        decision.kept,
                        reason,
                        decision.score
                    ])?;
                if let Some(detail) = &decision.detail {
                    db.prepare_cached("INSERT OR REPLACE INTO details VALUES (?, ?, ?)")?
                        .execute(params![stage, decision.photo, detail])?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Photos after `cursor`, in order of their ids, that `previous` kept and `stage` has not decided on; at most `most`.
    pub(crate) fn undecided(
        &self,
        previous: i64,
        stage: i64,
        cursor: i64,
        most: usize,
    ) -> Result<Vec<Photo>, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS} FROM decisions d CROSS JOIN photos p ON p.id = d.photo LEFT JOIN licences l ON l.id = p.licence \
             WHERE d.stage = ? AND d.photo > ? AND d.kept = 1 \
             AND NOT EXISTS (SELECT 1 FROM decisions e WHERE e.stage = ? AND e.photo = d.photo) ORDER BY d.photo LIMIT ?"
        );
        self.sql(|db| {
            db.prepare_cached(&query)?
                .query_map(params![previous, cursor, stage, most as i64], photo_of)?
                .collect()
        })
    }

    /// Photos after `cursor`, in order of their ids, that `stage` kept; at most `most`.
    pub(crate) fn survivors(&self, stage: i64, cursor: i64, most: usize) -> Result<Vec<Photo>, Error> {
        self.undecided(stage, i64::MAX, cursor, most)
    }

    /// Calls `take` with number and key of each photo that `stage` kept, in order of the numbers.
    pub(crate) fn for_each_survivor(&self, stage: i64, mut take: impl FnMut(i64, &str)) -> Result<(), Error> {
        self.sql(|db| {
            let mut statement = db.prepare(
                "SELECT d.photo, p.key FROM decisions d CROSS JOIN photos p ON p.id = d.photo \
                 WHERE d.stage = ? AND d.kept = 1 ORDER BY d.photo",
            )?;
            let mut rows = statement.query([stage])?;
            while let Some(row) = rows.next()? {
                take(row.get(0)?, row.get_ref(1)?.as_str()?);
            }
            Ok(())
        })
    }

    /// The photo of that number.
    pub(crate) fn photo(&self, id: i64) -> Result<Option<Photo>, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS} FROM photos p LEFT JOIN licences l ON l.id = p.licence WHERE p.id = ?"
        );
        self.sql(|db| db.prepare_cached(&query)?.query_row([id], photo_of).optional())
    }

    /// The numbers of all rows with a key.
    pub(crate) fn ids_of_key(&self, key: &str) -> Result<Vec<i64>, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT id FROM photos WHERE key = ? ORDER BY id")?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    }

    /// The photo of that key which `stage` kept.
    pub(crate) fn survivor_of_key(&self, stage: i64, key: &str) -> Result<Option<Photo>, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS} FROM photos p CROSS JOIN decisions d ON d.stage = ? AND d.photo = p.id AND d.kept = 1 \
             LEFT JOIN licences l ON l.id = p.licence WHERE p.key = ?"
        );
        self.sql(|db| {
            db.prepare_cached(&query)?
                .query_row(params![stage, key], photo_of)
                .optional()
        })
    }

    /// How many photos a stage kept and dropped so far.
    pub(crate) fn counts(&self, stage: i64) -> Result<(u64, u64), Error> {
        self.sql(|db| {
            db.query_row(
                "SELECT coalesce(sum(kept), 0), count(*) FROM decisions WHERE stage = ?",
                [stage],
                |row| {
                    let (kept, all): (i64, i64) = (row.get(0)?, row.get(1)?);
                    Ok((kept as u64, (all - kept) as u64))
                },
            )
        })
    }

    /// Marks a stage as done, with its counts.
    pub(crate) fn finish_stage(&self, stage: i64) -> Result<(u64, u64), Error> {
        let (kept, dropped) = self.counts(stage)?;
        self.sql(|db| {
            db.execute(
                "UPDATE stages SET done = 1, kept = ?, dropped = ?, finished = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?",
                params![kept as i64, dropped as i64, stage],
            )
        })?;
        Ok((kept, dropped))
    }

    /// Adds to the time that a stage has taken.
    pub(crate) fn add_seconds(&self, stage: i64, seconds: f64) -> Result<(), Error> {
        self.sql(|db| {
            db.execute(
                "UPDATE stages SET seconds = seconds + ? WHERE id = ?",
                params![seconds, stage],
            )
        })?;
        Ok(())
    }

    /// The time in UTC, as the ledger writes times.
    pub(crate) fn now(&self) -> Result<String, Error> {
        self.sql(|db| {
            db.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now')", [], |row| {
                row.get(0)
            })
        })
    }
}

fn photo_of(row: &SqlRow<'_>) -> rusqlite::Result<Photo> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Photo {
        id: row.get(0)?,
        key: row.get(1)?,
        photographer: row.get(2)?,
        photographer_id: row.get(3)?,
        title: row.get(4)?,
        date_taken: row.get(5)?,
        latitude: row.get(6)?,
        longitude: row.get(7)?,
        page_url: row.get(8)?,
        image_url: row.get(9)?,
        licence: filled(row.get(10)?),
        licence_url: filled(row.get(11)?),
        label: row.get(12)?,
        locator: row.get(13)?,
    })
}

fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::Ledger {
        path,
        reason: error.to_string(),
    }
}
