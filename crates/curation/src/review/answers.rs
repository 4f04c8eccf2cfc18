//! Answers in the ledger: nothing is deleted, an answer is replaced or undone by its state.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params};

use super::Categories;
use crate::error::Error;
use crate::ledger::Ledger;

/// The tables, made when a ledger is opened for writing.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS annotators (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, joined TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  id INTEGER PRIMARY KEY, sample INTEGER NOT NULL, key TEXT NOT NULL, annotator INTEGER NOT NULL REFERENCES annotators,
  categories TEXT NOT NULL, batch INTEGER NOT NULL, answered TEXT NOT NULL, sha256 BLOB,
  state TEXT NOT NULL DEFAULT 'current', replaces INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS answers_current ON answers (sample, key, annotator) WHERE state = 'current';
CREATE INDEX IF NOT EXISTS answers_batch ON answers (sample, annotator, batch);
";

/// One annotator and how fast they go.
pub(super) struct Annotator {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) answers: u64,
    /// Over the last ten minutes in which they worked.
    pub(super) per_minute: f64,
}

/// Longest name, characters.
const LONGEST_NAME: usize = 60;

/// The annotator of that name, who joins if they are new; none if it is no name.
pub(super) fn join(ledger: &mut Ledger, name: &str) -> Result<Option<(i64, String)>, Error> {
    let name = crate::photo::one_line(name);
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        return Ok(None);
    }
    let now = ledger.now()?;
    let id = ledger.transaction(|ledger| {
        ledger.sql(|db| {
            db.execute(
                "INSERT OR IGNORE INTO annotators (name, joined) VALUES (?, ?)",
                [&name, &now],
            )?;
            db.query_row("SELECT id FROM annotators WHERE name = ?", [&name], |row| {
                row.get(0)
            })
        })
    })?;
    Ok(Some((id, name)))
}

pub(super) fn annotators(ledger: &Ledger, sample: i64) -> Result<Vec<Annotator>, Error> {
    ledger.sql(|db| {
        let mut annotators: Vec<Annotator> = db
            .prepare(
                "SELECT a.id, a.name, (SELECT count(*) FROM answers WHERE sample = ? AND annotator = a.id AND state = 'current') \
                 FROM annotators a ORDER BY a.name",
            )?
            .query_map([sample], |row| {
                Ok(Annotator {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    answers: row.get::<_, i64>(2)? as u64,
                    per_minute: 0.0,
                })
            })?
            .collect::<Result<_, _>>()?;
        // The last answers alone: a long review must not make the page slow.
        let mut recent = db.prepare_cached(
            "SELECT count(*), (julianday('now') - min(julianday(answered))) * 1440 FROM \
             (SELECT answered, annotator FROM answers WHERE sample = ? AND state = 'current' ORDER BY id DESC LIMIT 20000) \
             WHERE annotator = ? AND julianday(answered) > julianday('now') - 10 / 1440.0",
        )?;
        for annotator in &mut annotators {
            let (count, minutes): (i64, Option<f64>) =
                recent.query_row([sample, annotator.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            // A burst at the start is no pace.
            annotator.per_minute = count as f64 / minutes.unwrap_or(1.0).max(0.5);
        }
        Ok(annotators)
    })
}

/// Writes answers of one annotator in one transaction, as one batch that is undone together. When this returns, they are on
/// the disk.
pub(super) fn add(
    ledger: &mut Ledger,
    sample: i64,
    annotator: i64,
    answers: &[(String, Categories)],
) -> Result<(), Error> {
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            let batch: i64 = db.query_row(
                "SELECT coalesce(max(batch), 0) + 1 FROM answers WHERE sample = ? AND annotator = ?",
                [sample, annotator],
                |row| row.get(0),
            )?;
            for (key, categories) in answers {
                let old: Option<i64> = db
                    .prepare_cached(
                        "SELECT id FROM answers WHERE sample = ? AND key = ? AND annotator = ? AND state = 'current'",
                    )?
                    .query_row(params![sample, key, annotator], |row| row.get(0))
                    .optional()?;
                if let Some(old) = old {
                    db.execute("UPDATE answers SET state = 'replaced' WHERE id = ?", [old])?;
                }
                db.prepare_cached(
                    "INSERT INTO answers (sample, key, annotator, categories, batch, answered, sha256, replaces) VALUES \
                     (?1, ?2, ?3, ?4, ?5, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), \
                     (SELECT i.sha256 FROM photos p CROSS JOIN images i ON i.photo = p.id WHERE p.key = ?2 LIMIT 1), ?6)",
                )?
                .execute(params![
                    sample,
                    key,
                    annotator,
                    categories.names().join(","),
                    batch,
                    old
                ])?;
            }
            Ok(())
        })
    })
}

/// Takes back the last batch of an annotator; the keys of its photos, each with the answer that holds again.
pub(super) fn undo(
    ledger: &mut Ledger,
    sample: i64,
    annotator: i64,
) -> Result<Vec<(String, Option<Categories>)>, Error> {
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            let last: Vec<(i64, String, Option<i64>)> = db
                .prepare(
                    "SELECT id, key, replaces FROM answers WHERE sample = ?1 AND annotator = ?2 AND state = 'current' AND batch = \
                     (SELECT max(batch) FROM answers WHERE sample = ?1 AND annotator = ?2 AND state = 'current') ORDER BY id",
                )?
                .query_map([sample, annotator], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            let mut undone = Vec::with_capacity(last.len());
            for (id, key, replaces) in last {
                db.execute("UPDATE answers SET state = 'undone' WHERE id = ?", [id])?;
                let before: Option<String> = match replaces {
                    None => None,
                    Some(old) => {
                        db.execute("UPDATE answers SET state = 'current' WHERE id = ?", [old])?;
                        db.query_row("SELECT categories FROM answers WHERE id = ?", [old], |row| row.get(0))
                            .optional()?
                    }
                };
                undone.push((key, before.as_deref().and_then(Categories::parse)));
            }
            Ok(undone)
        })
    })
}

/// By photo: who said what. Answers to another content than the photo has now do not count.
pub(crate) fn current(ledger: &Ledger, sample: i64) -> Result<HashMap<i64, Vec<(i64, Categories)>>, Error> {
    let mut found: HashMap<i64, Vec<(i64, Categories)>> = HashMap::new();
    ledger.sql(|db| {
        let mut statement = db.prepare(
            "SELECT p.id, a.annotator, a.categories FROM answers a CROSS JOIN photos p ON p.key = a.key \
             LEFT JOIN images i ON i.photo = p.id \
             WHERE a.sample = ? AND a.state = 'current' AND (a.sha256 IS NULL OR i.sha256 IS NULL OR a.sha256 = i.sha256) \
             ORDER BY a.id",
        )?;
        let mut rows = statement.query([sample])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(2)?;
            // Someone wrote into the table by hand: what is no category cannot be taken for "nothing".
            let categories = Categories::parse(&text).unwrap_or(Categories(u8::MAX));
            found.entry(row.get(0)?).or_default().push((row.get(1)?, categories));
        }
        Ok(())
    })?;
    Ok(found)
}
