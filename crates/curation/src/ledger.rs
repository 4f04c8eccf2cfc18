//! The ledger: one SQLite file with every photo, every decision and every release of a curation.
//!
//! It is the only state of a run, and the only place with SQL: other modules call its methods and see plain
//! values. It also decides alone which photos are taken down (`takedowns.rs`), so that no stage and no verb
//! can skip that check. All writes are transactions in WAL mode: a process killed at any moment leaves the
//! last whole transaction, and other tools can read meanwhile. `docs/curation.md` documents the tables of
//! `schema.sql` for users.

mod answers;
mod contents;
mod decisions;
mod explain;
mod funnel;
mod hash;
mod photos;
mod releases;
mod rows;
mod takedowns;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::FolderLock;
use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;

pub(crate) use answers::{Answer, SamplePhoto};
pub(crate) use contents::{Candidate, Fetched, ImageFacts, Pair};
pub use decisions::Decision;
pub(crate) use decisions::StageRow;
pub(crate) use explain::Decided;
pub use explain::{DuplicateOf, GivenAnswer, LicenseCount, TakenDown, Verdict};
pub(crate) use funnel::LISTING;
pub use funnel::{Funnel, FunnelStage, ReasonCount, ReleaseLine};
pub(crate) use hash::{Content, sha256};
pub(crate) use releases::{FileFacts, Packed, any_version};
pub(crate) use takedowns::{Gate, Refusal, TAKEN_DOWN};

/// Name of the database in the folder of a curation.
pub(crate) const FILE_NAME: &str = "ledger.sqlite";
/// Number of the source, the first stage of every chain.
pub(crate) const SOURCE_ID: i64 = 1;
/// Version 2 has the tables of review and audit. Version 3 has the contents of photos, from any stage that
/// read them. Version 4 has the metadata within files, and the originals of released files without them.
const SCHEMA_VERSION: i64 = 4;
const SCHEMA: &str = include_str!("ledger/schema.sql");
/// Ledgers before version 3 had only the hashes of `integrity`, and no hashes of released files.
const UPGRADE: &str = "
INSERT OR IGNORE INTO contents SELECT i.photo, i.sha256, s.id FROM images i CROSS JOIN stages s ON s.name = 'integrity';
ALTER TABLE release_photos ADD COLUMN sha256 BLOB;
";

/// The open ledger of one curation.
#[derive(Debug)]
pub struct Ledger {
    db: Connection,
    path: PathBuf,
    /// Numbers of licenses, by name, then by address.
    licenses: HashMap<String, HashMap<String, i64>>,
    reasons: HashMap<String, i64>,
    /// All contents that were taken down, once they have been read.
    taken_down: OnceCell<Arc<HashSet<Content>>>,
    _lock: Option<FolderLock>,
}

impl Ledger {
    /// Opens the ledger in `folder` for writing, and creates both where they are missing. One process at a
    /// time.
    ///
    /// # Errors
    /// [`Error::InUse`], or a ledger that cannot be opened or is of another version.
    pub fn open(folder: &Path) -> Result<Ledger, Error> {
        let lock = FolderLock::take(folder)?;
        let path = folder.join(FILE_NAME);
        // The ledger records the takedowns: a new ledger in its place would list all of those photos again.
        if std::fs::metadata(&path).map_or(0, |facts| facts.len()) == 0
            && let Some(release) = any_version(folder)
        {
            return Err(Error::LostLedger { path, release });
        }
        let db = Connection::open(&path).map_err(failed(&path))?;
        let mut ledger = Ledger {
            db,
            path,
            licenses: HashMap::new(),
            reasons: HashMap::new(),
            taken_down: OnceCell::new(),
            _lock: Some(lock),
        };
        ledger.prepare()?;
        Ok(ledger)
    }

    /// [`Ledger::open`], but the curation must exist.
    ///
    /// # Errors
    /// As [`Ledger::open`], and [`Error::NoCuration`].
    pub(crate) fn open_existing(folder: &Path) -> Result<Ledger, Error> {
        match folder.join(FILE_NAME).is_file() {
            true => Ledger::open(folder),
            false => Err(Error::NoCuration {
                path: folder.to_path_buf(),
            }),
        }
    }

    /// Opens the ledger in `folder` for reading, also during a run.
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
            licenses: HashMap::new(),
            reasons: HashMap::new(),
            taken_down: OnceCell::new(),
            _lock: None,
        };
        ledger.sql(|db| db.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 10000;"))?;
        ledger.check_version()?;
        Ok(ledger)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        // NORMAL: everything that a killed process has committed stays. After a power cut the last
        // transactions may be missing, but never half of one.
        self.sql(|db| {
            db.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA temp_store = FILE; \
                 PRAGMA foreign_keys = OFF; PRAGMA busy_timeout = 10000; PRAGMA wal_autocheckpoint = 8000; PRAGMA journal_size_limit = 268435456;",
            )
        })?;
        let version = self.version()?;
        // A database that this program never wrote to is not a ledger either.
        if version == 0
            && let Some(release) = self.path.parent().and_then(any_version)
        {
            let path = self.path.clone();
            return Err(Error::LostLedger { path, release });
        }
        if version < SCHEMA_VERSION {
            let upgrade = if (1..3).contains(&version) { UPGRADE } else { "" };
            let text = format!("{SCHEMA} {upgrade} PRAGMA user_version = {SCHEMA_VERSION};");
            self.transaction(|ledger| ledger.sql(|db| db.execute_batch(&text)))?;
        }
        self.check_version()?;
        self.sql(|db| db.execute_batch(takedowns::INDEX))?;
        self.read_names()
    }

    fn version(&self) -> Result<i64, Error> {
        self.sql(|db| db.query_row("PRAGMA user_version", [], |row| row.get(0)))
    }

    fn check_version(&self) -> Result<(), Error> {
        let version = self.version()?;
        // Read-only use does not need the tables of later versions.
        if (1..=SCHEMA_VERSION).contains(&version) {
            return Ok(());
        }
        Err(Error::Ledger {
            path: self.path.clone(),
            reason: format!("its schema must be at most {SCHEMA_VERSION}, got {version}"),
        })
    }

    /// Syncs every transaction to the disk, so that it also survives a power cut.
    pub(crate) fn sync_each_transaction(&self) -> Result<(), Error> {
        self.sql(|db| db.execute_batch("PRAGMA synchronous = FULL"))
    }

    /// Runs SQL; errors name the ledger.
    fn sql<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        work(&self.db).map_err(failed(&self.path))
    }

    /// Runs `work` in one transaction: everything is committed, or nothing.
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
                // Interned numbers of rows that were rolled back must go too.
                let _ = self.db.execute_batch("ROLLBACK");
                self.licenses.clear();
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

    /// The time in UTC, as the ledger writes times.
    pub(crate) fn now(&self) -> Result<String, Error> {
        self.sql(|db| {
            db.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now')", [], |row| {
                row.get(0)
            })
        })
    }
}

fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    move |error| Error::Ledger {
        path,
        reason: error.to_string(),
    }
}
