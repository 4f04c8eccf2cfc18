//! Stages and their decisions: which photos were kept, which are still open.

use rusqlite::{OptionalExtension, params};

use super::Ledger;
use super::hash::Content;
use super::photos::{PHOTO_COLUMNS, photo_of};
use super::takedowns::IS_TAKEN_DOWN;
use crate::error::Error;
use crate::photo::Photo;

/// The decision of a stage on one photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The photo's `id`.
    pub photo: i64,
    /// Whether it passes to the next stage.
    pub kept: bool,
    /// Why it was dropped, in snake_case; of a photo that was kept, a remark that is counted, mostly `None`.
    pub reason: Option<String>,
    /// The number that the decision depends on, if there is one: a draw, a distance, a detector's score.
    pub score: Option<f64>,
    /// More for a person to read, e.g. a decoder's message.
    pub detail: Option<String>,
    /// SHA-256 of the file that the stage read, if it read one.
    pub(crate) content: Option<Content>,
}

impl Decision {
    /// The photo is kept.
    pub fn kept(photo: i64) -> Decision {
        Decision {
            photo,
            kept: true,
            reason: None,
            score: None,
            detail: None,
            content: None,
        }
    }

    /// The photo is dropped.
    pub fn dropped(photo: i64, reason: &str) -> Decision {
        Decision {
            kept: false,
            reason: Some(reason.to_string()),
            ..Decision::kept(photo)
        }
    }

    /// Adds a remark on a photo that is kept: counted in the funnel, in snake_case.
    pub fn remark(self, remark: &str) -> Decision {
        Decision {
            reason: Some(remark.to_string()),
            ..self
        }
    }

    /// Adds the score.
    pub fn score(self, score: f64) -> Decision {
        Decision {
            score: Some(score),
            ..self
        }
    }

    /// Adds details.
    pub fn detail(self, detail: impl Into<String>) -> Decision {
        Decision {
            detail: Some(detail.into()),
            ..self
        }
    }

    /// Adds the SHA-256 of the file that the stage read.
    pub(crate) fn of_file(self, content: Content) -> Decision {
        Decision {
            content: Some(content),
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

/// Photos that a stage has not decided on.
#[derive(Debug, Default)]
pub(crate) struct Undecided {
    /// Photos to decide on.
    pub(crate) photos: Vec<Photo>,
    /// Photos that were taken down, which stages never receive.
    pub(crate) taken_down: Vec<Photo>,
}

impl Undecided {
    /// Number of the last photo.
    pub(crate) fn last(&self) -> Option<i64> {
        let last = |photos: &[Photo]| photos.last().map(|photo| photo.id);
        last(&self.photos).max(last(&self.taken_down))
    }
}

impl Ledger {
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

    /// Name of the first stage with a number in this range.
    pub(crate) fn stage_within(&self, ids: std::ops::Range<i64>) -> Result<Option<String>, Error> {
        self.sql(|db| {
            db.query_row(
                "SELECT name FROM stages WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                [ids.start, ids.end],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// Number of the last stage that ran, or 1 if none did.
    pub(crate) fn last_stage(&self) -> Result<i64, Error> {
        self.sql(|db| db.query_row("SELECT coalesce(max(id), 1) FROM stages", [], |row| row.get(0)))
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

    /// Changes the settings of a stage that has decided on nothing.
    pub(crate) fn set_settings(&self, id: i64, settings: &str) -> Result<(), Error> {
        self.sql(|db| {
            db.execute(
                "UPDATE stages SET settings = ? WHERE id = ?",
                params![settings, id],
            )
        })?;
        Ok(())
    }

    /// Records where a stage resumes.
    pub(crate) fn set_position(&self, stage: i64, position: &str) -> Result<(), Error> {
        self.sql(|db| {
            db.execute(
                "UPDATE stages SET position = ? WHERE id = ?",
                params![position, stage],
            )
        })?;
        Ok(())
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

    /// Adds to the time that a stage has used.
    pub(crate) fn add_seconds(&self, stage: i64, seconds: f64) -> Result<(), Error> {
        self.sql(|db| {
            db.execute(
                "UPDATE stages SET seconds = seconds + ? WHERE id = ?",
                params![seconds, stage],
            )
        })?;
        Ok(())
    }

    /// Removes the decisions of stage `from` and of all later stages, with the facts that these found.
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
                            "DROP INDEX IF EXISTS photos_key; DELETE FROM photos; DELETE FROM images; DELETE FROM embedded; DELETE FROM fetches;",
                        )?,
                        "fetch" => db.execute_batch("DELETE FROM fetches")?,
                        "integrity" => db.execute_batch("DELETE FROM images; DELETE FROM embedded;")?,
                        "duplicates" => db.execute_batch("DELETE FROM pairs")?,
                        _ => {}
                    }
                }
                Ok(())
            })
        })
    }

    /// Adds decisions, with the contents of the files that were read. Call it within a transaction.
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
            if let Some(content) = &decision.content {
                self.note_content(stage, decision.photo, content)?;
            }
        }
        Ok(())
    }

    /// At most `most` photos after `cursor`, in order of their numbers, that `previous` kept and `stage` has
    /// not decided on.
    pub(crate) fn undecided(
        &self,
        previous: i64,
        stage: i64,
        cursor: i64,
        most: usize,
    ) -> Result<Undecided, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS}, {IS_TAKEN_DOWN} FROM decisions d CROSS JOIN photos p ON p.id = d.photo \
             LEFT JOIN licences l ON l.id = p.licence LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = ? AND d.photo > ? AND d.kept = 1 \
             AND NOT EXISTS (SELECT 1 FROM decisions e WHERE e.stage = ? AND e.photo = d.photo) ORDER BY d.photo LIMIT ?"
        );
        let mut undecided = Undecided::default();
        self.sql(|db| {
            let mut query = db.prepare_cached(&query)?;
            let mut rows = query.query(params![previous, cursor, stage, most as i64])?;
            while let Some(row) = rows.next()? {
                match row.get(14)? {
                    true => undecided.taken_down.push(photo_of(row)?),
                    false => undecided.photos.push(photo_of(row)?),
                }
            }
            Ok(())
        })?;
        Ok(undecided)
    }

    /// At most `most` photos after `cursor`, in order of their numbers, that `stage` kept and that were not
    /// taken down.
    pub(crate) fn survivors(&self, stage: i64, cursor: i64, most: usize) -> Result<Vec<Photo>, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS} FROM decisions d CROSS JOIN photos p ON p.id = d.photo \
             LEFT JOIN licences l ON l.id = p.licence LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = ? AND d.photo > ? AND d.kept = 1 AND NOT {IS_TAKEN_DOWN} ORDER BY d.photo LIMIT ?"
        );
        self.sql(|db| {
            db.prepare_cached(&query)?
                .query_map(params![stage, cursor, most as i64], photo_of)?
                .collect()
        })
    }

    /// Calls `take` with number and key of each of the [`survivors`](Ledger::survivors) of a stage.
    pub(crate) fn for_each_survivor(&self, stage: i64, mut take: impl FnMut(i64, &str)) -> Result<(), Error> {
        let query = format!(
            "SELECT d.photo, p.key FROM decisions d CROSS JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = d.photo \
             WHERE d.stage = ? AND d.kept = 1 AND NOT {IS_TAKEN_DOWN} ORDER BY d.photo"
        );
        self.sql(|db| {
            let mut statement = db.prepare(&query)?;
            let mut rows = statement.query([stage])?;
            while let Some(row) = rows.next()? {
                take(row.get(0)?, row.get_ref(1)?.as_str()?);
            }
            Ok(())
        })
    }

    /// Keys of the photos that `stage` kept and that were taken down by their keys, each with when that was.
    pub(crate) fn kept_and_taken_down(&self, stage: i64) -> Result<Vec<(String, String)>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT p.key, t.asked FROM takedowns t CROSS JOIN photos p ON p.key = t.key \
                 CROSS JOIN decisions d ON d.stage = ? AND d.photo = p.id WHERE d.kept = 1",
            )?
            .query_map([stage], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })
    }

    /// The photo of that key which `stage` kept.
    pub(crate) fn kept_under_key(&self, stage: i64, key: &str) -> Result<Option<Photo>, Error> {
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

    /// How many photos a stage has kept and dropped so far.
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

    /// Calls `take` with each photo that stage number `kept_by` kept, and the score that stage number
    /// `scored_by` gave it.
    pub(crate) fn for_each_score(
        &self,
        scored_by: i64,
        kept_by: i64,
        mut take: impl FnMut(i64, f64),
    ) -> Result<(), Error> {
        self.sql(|db| {
            let mut statement = db.prepare(
                "SELECT d.photo, d.score FROM decisions s CROSS JOIN decisions d ON d.stage = ? AND d.photo = s.photo \
                 WHERE s.stage = ? AND s.kept = 1 AND d.score IS NOT NULL",
            )?;
            let mut rows = statement.query([scored_by, kept_by])?;
            while let Some(row) = rows.next()? {
                take(row.get(0)?, row.get(1)?);
            }
            Ok(())
        })
    }
}
