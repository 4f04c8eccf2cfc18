//! Rows of the source: photos with their metadata, and the licenses that many photos share.

use std::collections::HashMap;

use rusqlite::params;

use super::decisions::Decision;
use super::takedowns::TAKEN_DOWN;
use super::{Ledger, SOURCE_ID};
use crate::error::Error;
use crate::photo::{Photo, Row};

/// The most license numbers, and the most reason numbers, held in memory.
const MOST_LICENSES: usize = 1_000;
const MOST_REASONS: usize = 10_000;

impl Ledger {
    /// Reads the names that rows refer to by number.
    pub(super) fn read_names(&mut self) -> Result<(), Error> {
        let known: Vec<(String, String, i64)> = self.sql(|db| {
            db.prepare("SELECT name, url, id FROM licences LIMIT 10000")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let mut licenses: HashMap<String, HashMap<String, i64>> = HashMap::new();
        for (name, url, id) in known {
            licenses.entry(name).or_default().insert(url, id);
        }
        let reasons = self.sql(|db| {
            db.prepare("SELECT name, id FROM reasons")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<HashMap<_, _>, _>>()
        })?;
        (self.licenses, self.reasons) = (licenses, reasons);
        Ok(())
    }

    /// Writes the number of a name into `licences`, once.
    fn license_id(&mut self, photo: &Photo) -> Result<Option<i64>, Error> {
        if photo.license.is_none() && photo.license_url.is_none() {
            return Ok(None);
        }
        let (name, url) = (
            photo.license.as_deref().unwrap_or_default(),
            photo.license_url.as_deref().unwrap_or_default(),
        );
        if let Some(id) = self.licenses.get(name).and_then(|urls| urls.get(url)) {
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
        // A file with a separate license in every row would fill the memory; usually there are a dozen
        // licenses.
        if self.licenses.values().map(HashMap::len).sum::<usize>() < MOST_LICENSES {
            self.licenses
                .entry(name.to_string())
                .or_default()
                .insert(url.to_string(), id);
        }
        Ok(Some(id))
    }

    /// Writes the number of a reason into `reasons`, once.
    pub(super) fn reason_id(&mut self, reason: &str) -> Result<i64, Error> {
        if let Some(id) = self.reasons.get(reason) {
            return Ok(*id);
        }
        let id = self.sql(|db| {
            db.execute("INSERT OR IGNORE INTO reasons (name) VALUES (?)", [reason])?;
            db.query_row("SELECT id FROM reasons WHERE name = ?", [reason], |row| {
                row.get(0)
            })
        })?;
        if self.reasons.len() < MOST_REASONS {
            self.reasons.insert(reason.to_string(), id);
        }
        Ok(id)
    }

    /// Adds rows of the source with their decisions. Invalid rows are dropped with their reason, and so are
    /// keys that were taken down. Call it within a transaction.
    pub(crate) fn add_rows(&mut self, rows: &[Row]) -> Result<(), Error> {
        let mut decisions = Vec::with_capacity(rows.len());
        for Row { photo, refused, note } in rows {
            let refused = match refused {
                None if self.is_taken_down(&photo.key)? => Some(TAKEN_DOWN),
                refused => *refused,
            };
            let license = self.license_id(photo)?;
            // Of an invalid row only the key is kept, cut to a safe length: it names the row in the log.
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
                        license.filter(|_| whole),
                        some(whole, &photo.label),
                        some(whole, &photo.locator),
                    ])
            })?;
            decisions.push(match refused {
                None => Decision {
                    detail: note.clone(),
                    ..Decision::kept(photo.id)
                },
                Some(reason) => Decision::dropped(photo.id, reason),
            });
        }
        self.add_decisions(SOURCE_ID, &decisions)
    }

    /// Drops rows that share a key: two photos under one name.
    ///
    /// Rows that agree on license and photographer are one photo listed twice: the first is kept. Where they
    /// disagree, nothing shows which row is right, and all of them are dropped.
    pub(crate) fn drop_repeated_keys(&mut self) -> Result<(), Error> {
        self.sql(|db| db.execute_batch("CREATE INDEX IF NOT EXISTS photos_key ON photos (key)"))?;
        let mut repeated: Vec<(String, bool)> = self.sql(|db| {
            db.prepare("SELECT key, count(*) FROM photos WHERE key <> '' GROUP BY key HAVING count(*) > 1")?
                .query_map([], |row| Ok((row.get(0)?, false)))?
                .collect()
        })?;
        // CROSS JOIN fixes the order of the loops: by key first. In the other order each key would read all
        // decisions.
        for (key, disagrees) in &mut repeated {
            let facts: Vec<(Option<i64>, Option<String>, Option<String>)> = self.sql(|db| {
                db.prepare_cached(
                    "SELECT DISTINCT p.licence, p.photographer, p.photographer_id FROM photos p \
                     CROSS JOIN decisions d ON d.stage = ? AND d.photo = p.id AND d.kept = 1 WHERE p.key = ?",
                )?
                .query_map((SOURCE_ID, &*key), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
            })?;
            *disagrees = facts.len() > 1;
        }
        for part in repeated.chunks(10_000) {
            self.transaction(|ledger| {
                for (key, disagrees) in part {
                    let rows: Vec<(i64, Option<String>)> = ledger.sql(|db| {
                        db.prepare_cached(
                            "SELECT p.id, p.locator FROM photos p CROSS JOIN decisions d ON d.stage = ? AND d.photo = p.id AND d.kept = 1 \
                             WHERE p.key = ? ORDER BY p.id",
                        )?
                        .query_map((SOURCE_ID, key), |row| Ok((row.get(0)?, row.get(1)?)))?
                        .collect()
                    })?;
                    let (reason, first) = match disagrees {
                        true => ("rows_disagree", 0),
                        false => ("repeated_row", 1),
                    };
                    let dropped: Vec<Decision> = rows
                        .iter()
                        .enumerate()
                        .skip(first)
                        .map(|(at, (photo, _))| Decision::dropped(*photo, reason).detail(same_key(&rows, at)))
                        .collect();
                    ledger.add_decisions(SOURCE_ID, &dropped)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Which other row of the source has the key of row `at`.
fn same_key(rows: &[(i64, Option<String>)], at: usize) -> String {
    let other = rows.iter().enumerate().find(|(place, _)| *place != at);
    match other.map(|(_, row)| row) {
        // A file of a folder; in data sets a locator is a position.
        Some((_, Some(locator))) if locator.parse::<u64>().is_err() => {
            format!("`{}` has the same key", data::terminal::escape(locator))
        }
        Some((id, _)) => format!("row {id} has the same key"),
        None => String::new(),
    }
}
