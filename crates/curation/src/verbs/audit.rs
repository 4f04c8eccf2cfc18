//! The audit: which kept photos may still be wrong, and an estimate of how many.
//!
//! It reports two things that must not be mixed. A contact sheet shows the survivors with the highest
//! detector scores, so that a user knows where to look. The estimate of the share of photos that show people
//! comes only from a sample that is drawn by seed and labeled whole: photos that were picked by score do not
//! represent the rest.

mod estimate;
mod interval;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

pub use estimate::{Estimate, FoundPhoto, Sample};
pub(crate) use estimate::{Population, estimate_in_words, samples};
pub use interval::clopper_pearson;

use super::sheets;
use crate::config::Config;
use crate::draws::draw;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::stages::detect::residual_scores;

/// The settings of an audit.
#[derive(Clone, Copy)]
pub struct AuditOptions<'a> {
    /// Photos on the contact sheet: those with the highest detector scores.
    pub sheet_photos: usize,
    /// The file of the contact sheet; `None`: `audit.html` in the folder of the curation.
    pub sheet: Option<&'a Path>,
    /// A sample to draw for labeling: its size, and the seed.
    pub draw: Option<(usize, u64)>,
    /// When it turns true, the audit ends.
    pub stop: &'a AtomicBool,
    /// Called while the sheet is made.
    pub progress: Progress<'a>,
}

/// The result of an audit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// The stage whose survivors are audited: the last one that is done.
    pub stage: String,
    /// The stage after it, where that is not done: these photos are not those of a release yet.
    pub before: Option<String>,
    /// How many survive.
    pub photos: u64,
    /// How many of them have a detector score.
    pub with_score: u64,
    /// The contact sheet.
    pub sheet: PathBuf,
    /// All samples drawn so far, oldest first.
    pub samples: Vec<Sample>,
}

/// Why a sample gives no estimate any more.
pub const OTHER_PHOTOS: &str = "other photos survive now; draw another one";

/// Makes the contact sheet of the curation in `folder`, draws a sample if `draw` is set, and returns the
/// samples' results.
///
/// # Errors
/// No stage that is done, or with `draw` a last stage that is not; no survivors, a sample larger than the
/// survivors, files that cannot be written.
pub fn audit(folder: &Path, options: AuditOptions<'_>) -> Result<Audit, Error> {
    let mut ledger = Ledger::open_existing(folder)?;
    let config = Config::of(&ledger, folder)?;
    let Some(stage) = config.last_done_stage(&ledger)? else {
        return Err(failed("no stage is done yet".to_string(), Some(Hint::RunAgain)));
    };
    if let (Some(next), Some(_)) = (stage.next, options.draw) {
        let reason =
            format!("a sample is drawn from the photos that the last stage kept, and `{next}` is not done");
        return Err(failed(reason, Some(Hint::RunAgain)));
    }
    let mut survivors: Vec<(String, i64)> = Vec::new();
    ledger.for_each_survivor(stage.row.id, |photo, key| {
        survivors.push((key.to_string(), photo));
    })?;
    survivors.sort_unstable();
    if survivors.is_empty() {
        return Err(failed("no photo is left".to_string(), None));
    }
    let population = Population::new(survivors.iter().map(|(key, _)| key.clone()).collect());
    if let Some((size, seed)) = options.draw {
        draw_sample(&mut ledger, stage.name, &population, size, seed)?;
    }
    let samples = samples(&ledger, &config, stage.row.id, &population)?;
    let scores = residual_scores(&ledger, stage.row.id)?;
    let mut ranked: Vec<(Option<f64>, u128, i64)> = survivors
        .iter()
        .map(|(key, photo)| (scores.get(photo).copied(), draw(0, "sheet", &[key]), *photo))
        .collect();
    let with_score = ranked.iter().filter(|(score, ..)| score.is_some()).count() as u64;
    ranked.sort_by(|(a, a_draw, _), (b, b_draw, _)| {
        b.unwrap_or(-1.0)
            .total_cmp(&a.unwrap_or(-1.0))
            .then(a_draw.cmp(b_draw))
    });
    ranked.truncate(options.sheet_photos);
    let found = Audit {
        stage: stage.name.to_string(),
        before: stage.next.map(str::to_string),
        photos: survivors.len() as u64,
        with_score,
        sheet: options
            .sheet
            .map_or_else(|| folder.join(sheets::AUDIT), Path::to_path_buf),
        samples,
    };
    let photos = config.photos(folder)?;
    let chosen: Vec<(Option<f64>, i64)> = ranked
        .into_iter()
        .map(|(score, _, photo)| (score, photo))
        .collect();
    let sources = sheet::Sources {
        ledger: &ledger,
        photos: &photos,
        name: &config.release.name,
    };
    sheet::write(&sources, &found, &chosen, options)?;
    sheets::note(&ledger, folder, &found.sheet)?;
    Ok(found)
}

fn failed(reason: String, hint: Option<Hint>) -> Error {
    Error::Stage {
        stage: "audit".to_string(),
        reason,
        hint,
    }
}

/// Draws a sample: the photos with the smallest draws, so that neither scores nor the order of rows matter.
/// Repeating it returns the existing sample.
fn draw_sample(
    ledger: &mut Ledger,
    stage: &str,
    population: &Population,
    size: usize,
    seed: u64,
) -> Result<(), Error> {
    let keys = &population.keys;
    if size == 0 || size > keys.len() {
        return Err(failed(
            format!("a sample must be 1 to {} photos, got {size}", keys.len()),
            None,
        ));
    }
    let known = ledger.samples()?.into_iter().any(|sample| {
        sample.seed == seed && sample.photos == size as u64 && sample.population_sha256 == population.sha256
    });
    if known {
        return Ok(());
    }
    let mut order: Vec<(u128, &String)> = keys
        .iter()
        .map(|key| (draw(seed, "audit", &[key]), key))
        .collect();
    order.sort_unstable();
    let drawn: Vec<&String> = order[..size].iter().map(|(_, key)| *key).collect();
    ledger.add_sample(stage, seed, &drawn, keys.len(), &population.sha256)
}
