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

/// The name of every annotator, by name.
pub(super) fn names(ledger: &Ledger) -> Result<Vec<(i64, String)>, Error> {
    ledger.sql(|db| {
        db.prepare_cached("SELECT id, name FROM annotators ORDER BY name")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    })
}

/// Writes answers of one annotator in one transaction, as one batch that is undone together. When this returns, they are on
/// the disk. How many of them replace none.
pub(super) fn add(
    ledger: &mut Ledger,
    sample: i64,
    annotator: i64,
    answers: &[(String, Categories)],
) -> Result<u64, Error> {
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            let batch: i64 = db.query_row(
                "SELECT coalesce(max(batch), 0) + 1 FROM answers WHERE sample = ? AND annotator = ?",
                [sample, annotator],
                |row| row.get(0),
            )?;
            let mut new = 0;
            for (key, categories) in answers {
                let old: Option<i64> = db
                    .prepare_cached(
                        "SELECT id FROM answers WHERE sample = ? AND key = ? AND annotator = ? AND state = 'current'",
                    )?
                    .query_row(params![sample, key, annotator], |row| row.get(0))
                    .optional()?;
                match old {
                    Some(old) => {
                        db.execute("UPDATE answers SET state = 'replaced' WHERE id = ?", [old])?;
                    }
                    None => new += 1,
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
            Ok(new)
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
                undone.push((key, before.as_deref().map(said)));
            }
            Ok(undone)
        })
    })
}

/// Someone wrote into the table by hand: what is no category cannot be taken for "nothing".
fn said(text: &str) -> Categories {
    Categories::parse(text).unwrap_or(Categories(u8::MAX))
}

/// Calls `take` with photo, annotator and what they say, oldest first. Answers to another content than the photo has now do not
/// count.
pub(super) fn for_each_current(
    ledger: &Ledger,
    sample: i64,
    mut take: impl FnMut(i64, i64, Categories),
) -> Result<(), Error> {
    ledger.sql(|db| {
        let mut statement = db.prepare(
            "SELECT p.id, a.annotator, a.categories FROM answers a NOT INDEXED CROSS JOIN photos p ON p.key = a.key \
             LEFT JOIN images i ON i.photo = p.id \
             WHERE a.sample = ? AND a.state = 'current' AND (a.sha256 IS NULL OR i.sha256 IS NULL OR a.sha256 = i.sha256) \
             ORDER BY a.id",
        )?;
        let mut rows = statement.query([sample])?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?, row.get(1)?, said(row.get_ref(2)?.as_str().unwrap_or("?")));
        }
        Ok(())
    })
}

/// By photo: who said what, as [`for_each_current`].
pub(crate) fn current(ledger: &Ledger, sample: i64) -> Result<HashMap<i64, Vec<(i64, Categories)>>, Error> {
    let mut found: HashMap<i64, Vec<(i64, Categories)>> = HashMap::new();
    for_each_current(ledger, sample, |photo, annotator, said| {
        let given = found.entry(photo).or_default();
        given.reserve_exact(1);
        given.push((annotator, said));
    })?;
    Ok(found)
}
