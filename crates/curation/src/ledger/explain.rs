//! What the ledger knows of one photo, and what a stage decided on many, for a person to read.

use std::collections::HashMap;

use rusqlite::params;
use serde::Serialize;

use super::Ledger;
use super::takedowns::IS_TAKEN_DOWN;
use crate::error::Error;

/// A stage's decision on a photo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The stage; `source` is one too.
    pub stage: String,
    /// Whether the photo was kept.
    pub kept: bool,
    /// Why it was dropped; of a kept photo a remark.
    pub reason: Option<String>,
    /// The number that the decision depends on.
    pub score: Option<f64>,
    /// More to read.
    pub detail: Option<String>,
}

/// An answer of an annotator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GivenAnswer {
    /// The annotator's name.
    pub annotator: String,
    /// Categories, separated by commas; empty: none of them.
    pub categories: String,
    /// The sample of an audit, or 0 for the stage `review`.
    pub sample: i64,
    /// `current`, `replaced`, `undone` or `discarded`.
    pub state: String,
    /// When it was given, UTC.
    pub answered: String,
}

/// A duplicate of a photo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DuplicateOf {
    /// The other photo's key.
    pub key: String,
    /// `exact` or `near`.
    pub kind: String,
    /// Bits in which their hashes differ.
    pub distance: u32,
}

/// A takedown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TakenDown {
    /// When it was asked for, UTC.
    pub asked: String,
    /// The reason that was given.
    pub reason: String,
}

/// How many photos of the source have a license, as it is written there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LicenseCount {
    /// Its name; empty where the photos state none.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Photos with it.
    pub photos: u64,
    /// Those that the stage `licence` kept; `None` while it has not decided.
    pub kept: Option<u64>,
}

/// A photo on which a stage decided.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) photo: i64,
    pub(crate) reason: Option<String>,
    pub(crate) score: Option<f64>,
    pub(crate) detail: Option<String>,
}

impl Ledger {
    /// All decisions on a row of the source, in the order of the stages.
    pub(crate) fn verdicts(&self, photo: i64) -> Result<Vec<Verdict>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT s.name, d.kept, r.name, d.score, t.text FROM stages s JOIN decisions d ON d.stage = s.id AND d.photo = ? \
                 LEFT JOIN reasons r ON r.id = d.reason LEFT JOIN details t ON t.stage = d.stage AND t.photo = d.photo ORDER BY s.id",
            )?
            .query_map([photo], |row| {
                Ok(Verdict {
                    stage: row.get(0)?,
                    kept: row.get(1)?,
                    reason: row.get(2)?,
                    score: row.get(3)?,
                    detail: row.get(4)?,
                })
            })?
            .collect()
        })
    }

    /// All answers to a key, oldest first.
    pub(crate) fn answers_to(&self, key: &str) -> Result<Vec<GivenAnswer>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT n.name, a.categories, a.sample, a.state, a.answered FROM answers a JOIN annotators n ON n.id = a.annotator \
                 WHERE a.key = ? ORDER BY a.id",
            )?
            .query_map([key], |row| {
                Ok(GivenAnswer {
                    annotator: row.get(0)?,
                    categories: row.get(1)?,
                    sample: row.get(2)?,
                    state: row.get(3)?,
                    answered: row.get(4)?,
                })
            })?
            .collect()
        })
    }

    /// The duplicates of a photo, the most similar first. Photos that were taken down are not among them.
    pub(crate) fn duplicates_of(&self, photo: i64) -> Result<Vec<(i64, DuplicateOf)>, Error> {
        let query = format!(
            "SELECT p.id, p.key, d.kind, d.distance FROM (SELECT other AS id, kind, distance FROM pairs WHERE photo = ?1 \
             UNION SELECT photo, kind, distance FROM pairs WHERE other = ?1) d JOIN photos p ON p.id = d.id \
             LEFT JOIN contents c ON c.photo = p.id WHERE NOT {IS_TAKEN_DOWN} ORDER BY d.distance, p.key"
        );
        self.sql(|db| {
            db.prepare(&query)?
                .query_map([photo], |row| {
                    let duplicate = DuplicateOf {
                        key: row.get(1)?,
                        kind: row.get(2)?,
                        distance: row.get(3)?,
                    };
                    Ok((row.get(0)?, duplicate))
                })?
                .collect()
        })
    }

    /// What the source noted on photos that it kept, from number `first` to `last`.
    pub(crate) fn notes_of_source(&self, first: i64, last: i64) -> Result<HashMap<i64, String>, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT photo, text FROM details WHERE stage = ? AND photo BETWEEN ? AND ?")?
                .query_map([super::SOURCE_ID, first, last], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect()
        })
    }

    /// The takedown of a key.
    pub(crate) fn takedown_of(&self, key: &str) -> Result<Option<TakenDown>, Error> {
        self.sql(|db| {
            let mut query = db.prepare("SELECT asked, reason FROM takedowns WHERE key = ?")?;
            let mut rows = query.query_map([key], |row| {
                Ok(TakenDown {
                    asked: row.get(0)?,
                    reason: row.get(1)?,
                })
            })?;
            rows.next().transpose()
        })
    }

    /// The releases that hold a key.
    pub(crate) fn releases_of(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.sql(|db| {
            db.prepare("SELECT DISTINCT version FROM release_photos WHERE key = ? ORDER BY version")?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    }

    /// Some keys that contain a text, at most `most`.
    pub(crate) fn keys_like(&self, text: &str, most: usize) -> Result<Vec<String>, Error> {
        self.sql(|db| {
            db.prepare(
                "SELECT DISTINCT key FROM photos WHERE instr(key, ?) > 0 ORDER BY length(key), key LIMIT ?",
            )?
            .query_map(params![text, most as i64], |row| row.get(0))?
            .collect()
        })
    }

    /// The photos that a stage kept or dropped, at most `most`: those with the highest scores first, then in the
    /// order of the source. Photos that were taken down are not among them. Also returns how many there are.
    pub(crate) fn decided(&self, stage: i64, kept: bool, most: usize) -> Result<(Vec<Decided>, u64), Error> {
        let from = format!(
            "FROM decisions d JOIN photos p ON p.id = d.photo LEFT JOIN contents c ON c.photo = d.photo \
             LEFT JOIN reasons r ON r.id = d.reason LEFT JOIN details t ON t.stage = d.stage AND t.photo = d.photo \
             WHERE d.stage = ? AND d.kept = ? AND NOT {IS_TAKEN_DOWN}"
        );
        let photos = format!(
            "SELECT d.photo, r.name, d.score, t.text {from} ORDER BY d.score IS NULL, d.score DESC, d.photo LIMIT ?"
        );
        self.sql(|db| {
            let all: i64 = db.query_row(&format!("SELECT count(*) {from}"), params![stage, kept], |row| {
                row.get(0)
            })?;
            let found = db
                .prepare(&photos)?
                .query_map(params![stage, kept, most as i64], |row| {
                    Ok(Decided {
                        photo: row.get(0)?,
                        reason: row.get(1)?,
                        score: row.get(2)?,
                        detail: row.get(3)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok((found, all as u64))
        })
    }

    /// The licenses of the photos that the source kept, as they are written there, the most frequent first.
    pub(crate) fn licenses_seen(&self) -> Result<Vec<LicenseCount>, Error> {
        let stage = self.stage("licence")?.filter(|row| row.done).map(|row| row.id);
        self.sql(|db| {
            db.prepare(
                "SELECT coalesce(l.name, ''), coalesce(l.url, ''), count(*) AS photos, coalesce(sum(d.kept), 0) \
                 FROM decisions s CROSS JOIN photos p ON p.id = s.photo LEFT JOIN licences l ON l.id = p.licence \
                 LEFT JOIN decisions d ON d.stage = ?1 AND d.photo = p.id \
                 WHERE s.stage = ?2 AND s.kept = 1 GROUP BY p.licence ORDER BY photos DESC, l.name, l.url",
            )?
            .query_map([stage.unwrap_or(-1), super::SOURCE_ID], |row| {
                Ok(LicenseCount {
                    name: row.get(0)?,
                    url: row.get(1)?,
                    photos: row.get::<_, i64>(2)? as u64,
                    kept: stage.map(|_| row.get::<_, i64>(3)).transpose()?.map(|kept| kept as u64),
                })
            })?
            .collect()
        })
    }
}
