//! Annotators, their answers, and the samples of audits. No answer is deleted: it is replaced, undone or
//! discarded by its state.

use rusqlite::{OptionalExtension, params};

use super::Ledger;
use super::hash::Content;
use super::takedowns::IS_TAKEN_DOWN;
use crate::error::Error;

/// An annotator's answer for one photo.
pub(crate) struct Answer {
    pub(crate) photo: i64,
    pub(crate) key: String,
    /// Names of categories, joined by commas.
    pub(crate) categories: String,
    /// SHA-256 of the file that was shown.
    pub(crate) shown: Content,
}

/// A row of `samples`: a random sample of an audit.
pub(crate) struct SampleRow {
    pub(crate) id: i64,
    pub(crate) seed: u64,
    pub(crate) photos: u64,
    /// How many photos it was drawn from.
    pub(crate) population: u64,
    pub(crate) population_sha256: Vec<u8>,
}

/// A photo of a sample.
pub(crate) struct SamplePhoto {
    pub(crate) photo: i64,
    pub(crate) key: String,
    pub(crate) taken_down: bool,
}

impl Ledger {
    /// The number of the annotator of that name, who is added if new.
    pub(crate) fn annotator(&mut self, name: &str) -> Result<i64, Error> {
        let now = self.now()?;
        self.transaction(|ledger| {
            ledger.sql(|db| {
                db.execute(
                    "INSERT OR IGNORE INTO annotators (name, joined) VALUES (?, ?)",
                    [name, &now],
                )?;
                db.query_row("SELECT id FROM annotators WHERE name = ?", [name], |row| {
                    row.get(0)
                })
            })
        })
    }

    /// The name of every annotator, by name.
    pub(crate) fn annotators(&self) -> Result<Vec<(i64, String)>, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT id, name FROM annotators ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Answers to the review and to samples that were discarded.
    pub(crate) fn discarded_answers(&self) -> Result<u64, Error> {
        self.sql(|db| {
            db.query_row(
                "SELECT count(*) FROM answers WHERE state = 'discarded'",
                [],
                |row| row.get::<_, i64>(0),
            )
        })
        .map(|count| count as u64)
    }

    /// Whether an annotator has that number.
    pub(crate) fn has_annotator(&self, id: i64) -> Result<bool, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT 1 FROM annotators WHERE id = ?")?
                .exists([id])
        })
    }

    /// Writes answers of one annotator in one transaction, as one batch that is undone together, with the
    /// contents that stage number `stage` showed. On return they are on disk. Returns the count of answers
    /// that replace none.
    pub(crate) fn add_answers(
        &mut self,
        sample: i64,
        annotator: i64,
        stage: i64,
        answers: &[Answer],
    ) -> Result<u64, Error> {
        self.transaction(|ledger| {
            for answer in answers {
                ledger.note_content(stage, answer.photo, &answer.shown)?;
            }
            ledger.sql(|db| {
                let batch: i64 = db.query_row(
                    "SELECT coalesce(max(batch), 0) + 1 FROM answers WHERE sample = ? AND annotator = ?",
                    [sample, annotator],
                    |row| row.get(0),
                )?;
                let mut new = 0;
                for answer in answers {
                    let old: Option<i64> = db
                        .prepare_cached(
                            "SELECT id FROM answers WHERE sample = ? AND key = ? AND annotator = ? AND state = 'current'",
                        )?
                        .query_row(params![sample, answer.key, annotator], |row| row.get(0))
                        .optional()?;
                    match old {
                        Some(old) => {
                            db.execute("UPDATE answers SET state = 'replaced' WHERE id = ?", [old])?;
                        }
                        None => new += 1,
                    }
                    db.prepare_cached(
                        "INSERT INTO answers (sample, key, annotator, categories, batch, answered, sha256, replaces) VALUES \
                         (?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?, ?)",
                    )?
                    .execute(params![
                        sample,
                        answer.key,
                        annotator,
                        answer.categories,
                        batch,
                        answer.shown,
                        old
                    ])?;
                }
                Ok(new)
            })
        })
    }

    /// Undoes the last batch of an annotator. Returns the keys of its photos, each with the categories that
    /// are valid again.
    pub(crate) fn undo_answers(
        &mut self,
        sample: i64,
        annotator: i64,
    ) -> Result<Vec<(String, Option<String>)>, Error> {
        self.transaction(|ledger| {
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
                    undone.push((key, before));
                }
                Ok(undone)
            })
        })
    }

    /// Discards all valid answers of an annotator in a sample: they stay as rows, and no longer count. Returns
    /// the keys of their photos.
    pub(crate) fn discard_answers(&mut self, sample: i64, annotator: i64) -> Result<Vec<String>, Error> {
        self.transaction(|ledger| {
            ledger.sql(|db| {
                let keys = db
                    .prepare(
                        "SELECT key FROM answers WHERE sample = ? AND annotator = ? AND state = 'current' ORDER BY id",
                    )?
                    .query_map([sample, annotator], |row| row.get(0))?
                    .collect::<Result<_, _>>()?;
                db.execute(
                    "UPDATE answers SET state = 'discarded' WHERE sample = ? AND annotator = ? AND state = 'current'",
                    [sample, annotator],
                )?;
                Ok(keys)
            })
        })
    }

    /// Calls `take` with photo, annotator and categories of each valid answer, oldest first. Answers to
    /// another content than the photo's current one do not count.
    pub(crate) fn for_each_answer(
        &self,
        sample: i64,
        mut take: impl FnMut(i64, i64, &str),
    ) -> Result<(), Error> {
        self.sql(|db| {
            let mut statement = db.prepare(
                "SELECT p.id, a.annotator, a.categories FROM answers a NOT INDEXED CROSS JOIN photos p ON p.key = a.key \
                 LEFT JOIN contents c ON c.photo = p.id \
                 WHERE a.sample = ? AND a.state = 'current' AND (a.sha256 IS NULL OR c.sha256 IS NULL OR a.sha256 = c.sha256) \
                 ORDER BY a.id",
            )?;
            let mut rows = statement.query([sample])?;
            while let Some(row) = rows.next()? {
                take(row.get(0)?, row.get(1)?, row.get_ref(2)?.as_str().unwrap_or("?"));
            }
            Ok(())
        })
    }

    /// Annotators of a sample, each with the number of valid answers.
    pub(crate) fn answers_by_annotator(&self, sample: i64) -> Result<Vec<(i64, u64)>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT annotator, count(*) FROM answers NOT INDEXED WHERE sample = ? AND state = 'current' GROUP BY annotator",
            )?
            .query_map([sample], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
            .collect()
        })
    }

    /// Of the ledger's last `rows` answers the valid ones of a sample, oldest first: annotator, and how many
    /// seconds ago.
    pub(crate) fn recent_answers(&self, sample: i64, rows: i64) -> Result<Vec<(i64, f64)>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT annotator, (julianday('now') - julianday(answered)) * 86400 FROM answers \
                 WHERE id > (SELECT coalesce(max(id), 0) FROM answers) - ?2 AND sample = ?1 AND state = 'current' ORDER BY id",
            )?
            .query_map([sample, rows], |row| {
                Ok((row.get(0)?, row.get::<_, Option<f64>>(1)?.unwrap_or(f64::MAX)))
            })?
            .collect()
        })
    }

    /// All samples, oldest first.
    pub(crate) fn samples(&self) -> Result<Vec<SampleRow>, Error> {
        self.sql(|db| {
            db.prepare("SELECT id, seed, photos, population, population_sha256 FROM samples ORDER BY id")?
                .query_map([], |row| {
                    Ok(SampleRow {
                        id: row.get(0)?,
                        seed: row.get::<_, i64>(1)? as u64,
                        photos: row.get::<_, i64>(2)? as u64,
                        population: row.get::<_, i64>(3)? as u64,
                        population_sha256: row.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// Adds a sample of the photos that `stage` kept, `population` in number. In one transaction.
    pub(crate) fn add_sample(
        &mut self,
        stage: &str,
        seed: u64,
        keys: &[&String],
        population: usize,
        population_sha256: &[u8],
    ) -> Result<(), Error> {
        let now = self.now()?;
        self.transaction(|ledger| {
            ledger.sql(|db| {
                db.execute(
                    "INSERT INTO samples (stage, seed, photos, population, population_sha256, drawn) VALUES (?, ?, ?, ?, ?, ?)",
                    params![stage, seed as i64, keys.len() as i64, population as i64, population_sha256, now],
                )?;
                let sample = db.last_insert_rowid();
                let mut insert = db.prepare("INSERT INTO sample_photos VALUES (?, ?, ?)")?;
                for (place, key) in keys.iter().enumerate() {
                    insert.execute(params![sample, place as i64, key])?;
                }
                Ok(())
            })
        })
    }

    /// The photos of a sample, in the order of their draws.
    pub(crate) fn photos_of_sample(&self, sample: i64) -> Result<Vec<SamplePhoto>, Error> {
        let query = format!(
            "SELECT min(p.id), p.key, max({IS_TAKEN_DOWN}) FROM sample_photos s CROSS JOIN photos p ON p.key = s.key \
             LEFT JOIN contents c ON c.photo = p.id WHERE s.sample = ? GROUP BY s.place ORDER BY s.place"
        );
        self.sql(|db| {
            db.prepare(&query)?
                .query_map([sample], |row| {
                    Ok(SamplePhoto {
                        photo: row.get(0)?,
                        key: row.get(1)?,
                        taken_down: row.get(2)?,
                    })
                })?
                .collect()
        })
    }
}
