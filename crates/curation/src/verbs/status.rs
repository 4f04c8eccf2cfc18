//! The funnel of a curation, also while a run is in progress.

use std::path::Path;

use crate::config::{Config, StageConfig};
use crate::error::Error;
use crate::labeling::Labeling;
use crate::ledger::{Funnel, Ledger, LicenseCount};
use crate::sources;
use crate::stages::review::labeling;

/// Reads the funnel of the curation in `folder`, also during a run.
///
/// # Errors
/// No curation there, or a ledger that cannot be read.
pub fn status(folder: &Path) -> Result<Funnel, Error> {
    let ledger = Ledger::open_read_only(folder)?;
    let mut funnel = ledger.funnel()?;
    funnel.review = waiting(&ledger, folder)?;
    Ok(funnel)
}

/// The licenses of the photos in the source of the curation in `folder`, as they are written there, the most
/// frequent first; also during a run.
///
/// # Errors
/// No curation there, or a ledger that cannot be read.
pub fn licenses(folder: &Path) -> Result<Vec<LicenseCount>, Error> {
    Ledger::open_read_only(folder)?.licenses_seen()
}

/// Photos that came into the source after it was listed, and are in no stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// How many.
    pub photos: u64,
    /// The path of one of them; empty where it has none.
    pub example: String,
}

/// Looks for photos that were added to the folder or data set of the curation in `folder` since it was listed;
/// `None` where there are none, or the source is not done.
///
/// # Errors
/// No curation there, a ledger that cannot be read, a source that is gone.
pub fn unlisted(folder: &Path) -> Result<Option<Unlisted>, Error> {
    let ledger = Ledger::open_read_only(folder)?;
    let config = Config::of(&ledger, folder)?;
    let Some(row) = ledger.stage("source")?.filter(|row| row.done) else {
        return Ok(None);
    };
    let (kept, dropped) = ledger.counts(row.id)?;
    let rows = i64::try_from(kept + dropped).unwrap_or(i64::MAX);
    let (photos, example) = sources::unlisted(&config.source, rows, |key| ledger.was_listed(key))?;
    Ok((photos > 0).then_some(Unlisted { photos, example }))
}

/// How far people have labeled, while the stage `review` waits for them.
fn waiting(ledger: &Ledger, folder: &Path) -> Result<Option<Labeling>, Error> {
    // A config of another version, or of a run that has not begun: the funnel is shown nevertheless.
    let Ok(config) = Config::of(ledger, folder) else {
        return Ok(None);
    };
    let review = config
        .stages
        .iter()
        .enumerate()
        .find_map(|(at, stage)| match stage {
            StageConfig::Review(review) => Some((at, review)),
            _ => None,
        });
    let Some((at, review)) = review else {
        return Ok(None);
    };
    if ledger.stage("review")?.is_none_or(|row| row.done) {
        return Ok(None);
    }
    let before = at.checked_sub(1).map_or("source", |at| config.stages[at].name());
    match ledger.stage(before)? {
        Some(previous) if previous.done => labeling(ledger, previous.id, review).map(Some),
        _ => Ok(None),
    }
}
