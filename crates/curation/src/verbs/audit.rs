//! The audit: which kept photos may still be wrong, and an estimate of how many.
//!
//! It reports two things that must not be mixed. A contact sheet shows the survivors with the highest
//! detector scores, so that a user knows where to look. The estimate of the share of photos that show people
//! comes only from a sample that is drawn by seed and labeled whole: photos that were picked by score do not
//! represent the rest.

mod interval;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use interval::clopper_pearson;

use super::review::sample_items;
use crate::config::Config;
use crate::draws::draw;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::stages::detect::residual_scores;
use crate::stages::review::{Categories, Category};

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
    /// The stage whose survivors are audited: the last one.
    pub stage: String,
    /// How many survive.
    pub photos: u64,
    /// How many of them have a detector score.
    pub with_score: u64,
    /// The contact sheet.
    pub sheet: PathBuf,
    /// All samples drawn so far, oldest first.
    pub samples: Vec<Sample>,
}

/// A random sample and people's labels of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its number, for `passer curate review --sample`.
    pub id: i64,
    /// The seed of the draw.
    pub seed: u64,
    /// Photos in it.
    pub photos: u64,
    /// Photos that people have labeled.
    #[serde(rename = "labelled")]
    pub labeled: u64,
    /// Whether the current survivors are the photos that it was drawn from.
    pub current: bool,
    /// The estimate, once every photo is labeled, and while the sample is current.
    pub estimate: Option<Estimate>,
}

/// An estimated share of photos that show people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Photos of the sample that at least one annotator labeled with a person or a part of a body.
    pub with_people: u64,
    /// Their share of the sample.
    pub rate: f64,
    /// 95 % confidence interval after Clopper and Pearson.
    pub interval: [f64; 2],
    /// The same as counts of photos among all survivors.
    pub expected_photos: [f64; 3],
}

impl Estimate {
    /// `2.00 % (0.24 to 7.04)`: the rate with its interval, whose ends are rounded outwards.
    pub fn rate_in_words(&self) -> String {
        let [low, rate, high] = [self.interval[0], self.rate, self.interval[1]].map(|share| 100.0 * share);
        // Two digits behind the point, and more where the whole interval is below a hundredth or so.
        let decimals = (1.0 - high.log10().floor()).clamp(2.0, 12.0);
        let places = 10f64.powf(decimals);
        let (low, high) = ((low * places).floor() / places, (high * places).ceil() / places);
        let decimals = decimals as usize;
        format!("{rate:.decimals$} % ({low:.decimals$} to {high:.decimals$})")
    }

    /// `20 (2 to 71)`: the number among all survivors with its interval, whose ends are rounded outwards.
    pub fn photos_in_words(&self) -> String {
        let [low, photos, high] = self.expected_photos;
        format!("{photos:.0} ({:.0} to {:.0})", low.floor(), high.ceil())
    }
}

/// Why a sample gives no estimate any more.
pub const OTHER_PHOTOS: &str = "other photos survive now; draw another one";

/// Makes the contact sheet of the curation in `folder`, draws a sample if `draw` is set, and returns the
/// samples' results.
///
/// # Errors
/// A last stage that is not done, no survivors, a sample larger than the survivors, files that cannot be
/// written.
pub fn audit(folder: &Path, options: AuditOptions<'_>) -> Result<Audit, Error> {
    let mut ledger = Ledger::open_existing(folder)?;
    let config = Config::of(&ledger, folder)?;
    let name = config.last_stage().to_string();
    let Some(stage) = config.last_stage_done(&ledger)? else {
        let reason = format!("the last stage, `{name}`, is not done");
        return Err(failed(reason, Some(Hint::RunAgain)));
    };
    let mut survivors: Vec<(String, i64)> = Vec::new();
    ledger.for_each_survivor(stage.id, |photo, key| survivors.push((key.to_string(), photo)))?;
    survivors.sort_unstable();
    if survivors.is_empty() {
        return Err(failed("no photo is left".to_string(), None));
    }
    let population = Population::new(survivors.iter().map(|(key, _)| key).collect());
    if let Some((size, seed)) = options.draw {
        draw_sample(&mut ledger, &name, &population, size, seed)?;
    }
    let samples = samples(&ledger, &population)?;
    let scores = residual_scores(&ledger, stage.id)?;
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
        stage: name,
        photos: survivors.len() as u64,
        with_score,
        sheet: options
            .sheet
            .map_or_else(|| folder.join("audit.html"), Path::to_path_buf),
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
    Ok(found)
}

fn failed(reason: String, hint: Option<Hint>) -> Error {
    Error::Stage {
        stage: "audit".to_string(),
        reason,
        hint,
    }
}

/// The photos that a sample is drawn from.
struct Population<'a> {
    /// Sorted.
    keys: Vec<&'a String>,
    /// The hash that identifies the set of photos.
    sha256: Vec<u8>,
}

impl<'a> Population<'a> {
    fn new(keys: Vec<&'a String>) -> Population<'a> {
        let mut hasher = Sha256::new();
        for key in &keys {
            hasher.update(key.as_bytes());
            hasher.update([0]);
        }
        let sha256 = hasher.finalize().to_vec();
        Population { keys, sha256 }
    }
}

/// Draws a sample: the photos with the smallest draws, so that neither scores nor the order of rows matter.
/// Repeating it returns the existing sample.
fn draw_sample(
    ledger: &mut Ledger,
    stage: &str,
    population: &Population<'_>,
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
        .map(|key| (draw(seed, "audit", &[key]), *key))
        .collect();
    order.sort_unstable();
    let drawn: Vec<&String> = order[..size].iter().map(|(_, key)| *key).collect();
    ledger.add_sample(stage, seed, &drawn, keys.len(), &population.sha256)
}

/// All samples with their estimates.
fn samples(ledger: &Ledger, population: &Population<'_>) -> Result<Vec<Sample>, Error> {
    let people: Categories = [Category::Person, Category::BodyPart].iter().collect();
    let mut found = Vec::new();
    for row in ledger.samples()? {
        let items = sample_items(ledger, row.id)?;
        let labeled = items.iter().filter(|item| !item.given.is_empty()).count() as u64;
        let with_people = items
            .iter()
            .filter(|item| item.given.iter().any(|(_, said)| said.any_of(people)))
            .count() as u64;
        let current = row.population_sha256 == population.sha256;
        let estimate = (current && labeled == row.photos && row.photos > 0).then(|| {
            let rate = with_people as f64 / row.photos as f64;
            let interval = clopper_pearson(with_people, row.photos, 0.95);
            let all = population.keys.len() as f64;
            Estimate {
                with_people,
                rate,
                interval,
                expected_photos: [interval[0] * all, rate * all, interval[1] * all],
            }
        });
        found.push(Sample {
            id: row.id,
            seed: row.seed,
            photos: row.photos,
            labeled,
            current,
            estimate,
        });
    }
    Ok(found)
}
