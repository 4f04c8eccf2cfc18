//! Counts over the ledger: the photos that each stage received, kept and dropped, with the reasons; takedowns
//! and releases.

use data::Listing;
use serde::Serialize;

use super::Ledger;
use crate::error::Error;
use crate::labeling::Labeling;

/// A curation at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Funnel {
    /// The stages that have begun, in order.
    pub stages: Vec<FunnelStage>,
    /// Photos taken down since the curation began.
    pub taken_down: u64,
    /// The releases, oldest first.
    pub releases: Vec<ReleaseLine>,
    /// What lies in the source and became no photo, or became one by a guess.
    pub listing: Listing,
    /// The labels of a stage `review` that has not decided; `None` where no review waits.
    pub review: Option<Labeling>,
}

/// The fact of the ledger that holds the funnel's `listing`, as JSON.
pub(crate) const LISTING: &str = "listing";

/// One stage of the funnel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunnelStage {
    /// Its name.
    pub name: String,
    /// Whether it has decided on all photos it received.
    pub done: bool,
    /// Photos kept.
    pub kept: u64,
    /// Photos dropped.
    pub dropped: u64,
    /// The reasons, most frequent first.
    pub reasons: Vec<ReasonCount>,
    /// Remarks on photos that were kept, most frequent first; a photo may have several.
    pub remarks: Vec<ReasonCount>,
    /// Seconds of work over all runs.
    pub seconds: f64,
}

/// How often a reason decided, or a remark was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The reason.
    pub reason: String,
    /// Photos dropped for it, or kept with the remark.
    pub photos: u64,
}

/// One release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleaseLine {
    /// Its version.
    pub version: u32,
    /// When it was made, UTC.
    pub made: String,
    /// Its folder.
    pub folder: String,
    /// Its fingerprint as a data set.
    pub fingerprint: String,
    /// Photos in it.
    pub records: u64,
    /// Photos that the previous version did not have.
    pub added: u64,
    /// Photos of the previous version that this one does not have.
    pub removed: u64,
    /// The user's note on it.
    pub note: String,
}

impl Ledger {
    /// The photos that each stage has received, kept and dropped so far.
    pub(crate) fn funnel(&self) -> Result<Funnel, Error> {
        // Ledgers of version 0.2 have none.
        let listing = self.fact(LISTING)?.unwrap_or_default();
        let listing = serde_json::from_str(&listing).unwrap_or_default();
        self.sql(|db| {
        let mut stages: Vec<(i64, FunnelStage)> = db
            .prepare("SELECT id, name, done, seconds FROM stages ORDER BY id")?
            .query_map([], |row| {
                let stage = FunnelStage {
                    name: row.get(1)?,
                    done: row.get(2)?,
                    kept: 0,
                    dropped: 0,
                    reasons: Vec::new(),
                    remarks: Vec::new(),
                    seconds: row.get(3)?,
                };
                Ok((row.get(0)?, stage))
            })?
            .collect::<Result<_, _>>()?;
        let mut counts = db.prepare(
            "SELECT c.kept, r.name, c.photos FROM \
             (SELECT kept, reason, count(*) AS photos FROM decisions WHERE stage = ? GROUP BY kept, reason) c \
             LEFT JOIN reasons r ON r.id = c.reason ORDER BY c.photos DESC, r.name",
        )?;
        for (id, stage) in &mut stages {
            let mut rows = counts.query([*id])?;
            while let Some(row) = rows.next()? {
                let (kept, reason, photos): (bool, Option<String>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let count = ReasonCount {
                    reason: reason.unwrap_or_default(),
                    photos: photos as u64,
                };
                if kept {
                    stage.kept += count.photos;
                    stage.remarks.extend((!count.reason.is_empty()).then_some(count));
                } else {
                    stage.dropped += count.photos;
                    stage.reasons.push(count);
                }
            }
        }
        // Ledgers of earlier versions lack the table.
        if let Some((id, stage)) = stages.iter_mut().find(|(_, stage)| stage.name == "integrity")
            && db.table_exists(None, "embedded")?
        {
            let mut query = db.prepare(
                "SELECT e.kind, count(*) FROM embedded e CROSS JOIN decisions d ON d.stage = ? AND d.photo = e.photo AND d.kept = 1 \
                 GROUP BY e.kind ORDER BY 2 DESC, 1",
            )?;
            let kinds = query.query_map([*id], |row| {
                Ok(ReasonCount {
                    reason: format!("embeds_{}", row.get::<_, String>(0)?),
                    photos: row.get::<_, i64>(1)? as u64,
                })
            })?;
            for kind in kinds {
                stage.remarks.push(kind?);
            }
        }
        let taken_down: i64 = db.query_row("SELECT count(*) FROM takedowns", [], |row| row.get(0))?;
        let releases = db
            .prepare("SELECT version, made, folder, fingerprint, records, added, removed, note FROM releases ORDER BY version")?
            .query_map([], |row| {
                Ok(ReleaseLine {
                    version: row.get(0)?,
                    made: row.get(1)?,
                    folder: row.get(2)?,
                    fingerprint: row.get(3)?,
                    records: row.get::<_, i64>(4)? as u64,
                    added: row.get::<_, i64>(5)? as u64,
                    removed: row.get::<_, i64>(6)? as u64,
                    note: row.get(7)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Funnel {
            stages: stages.into_iter().map(|(_, stage)| stage).collect(),
            taken_down: taken_down as u64,
            releases,
            listing,
            review: None,
        })
    })
    }
}
