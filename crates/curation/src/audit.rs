//! The audit: what may still be wrong with what was kept, and how much of it.
//!
//! Two answers that must not be mixed. A contact sheet shows the survivors that detectors were least sure about: where to look.
//! An estimate of the share of photos that show people comes from a sample that is drawn by seed and labelled whole, and from
//! nothing else: photos that were picked by score say nothing about the rest.

mod interval;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::params;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use interval::clopper_pearson;

use crate::Progress;
use crate::detectors::residual_scores;
use crate::draws::draw;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::review::{Categories, Category, Item, current_answers};

/// The tables, made when a ledger is opened for writing.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS samples (
  id INTEGER PRIMARY KEY, stage TEXT NOT NULL, seed INTEGER NOT NULL, photos INTEGER NOT NULL, population INTEGER NOT NULL,
  population_sha256 BLOB NOT NULL, drawn TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample_photos (sample INTEGER NOT NULL, place INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (sample, place)) WITHOUT ROWID;
";

/// What an audit is asked for.
#[derive(Clone, Copy)]
pub struct AuditOptions<'a> {
    /// Photos on the contact sheet, those that detectors were least sure about.
    pub sheet_photos: usize,
    /// The file of the contact sheet; none: `audit.html` in the folder of the curation.
    pub sheet: Option<&'a Path>,
    /// A sample to draw for labelling: how many photos, and the seed.
    pub draw: Option<(usize, u64)>,
    /// When it turns true, the audit ends.
    pub stop: &'a AtomicBool,
    /// Called as the sheet is made.
    pub progress: Progress<'a>,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// The stage whose survivors are looked at: the last one.
    pub stage: String,
    /// How many survive.
    pub photos: u64,
    /// How many of them have a score of a detector.
    pub with_score: u64,
    /// The contact sheet.
    pub sheet: PathBuf,
    /// All samples drawn so far, oldest first.
    pub samples: Vec<Sample>,
}

/// A random sample and what people said of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its number, for `passer curate review --sample`.
    pub id: i64,
    /// The seed that it was drawn by.
    pub seed: u64,
    /// Photos in it.
    pub photos: u64,
    /// Photos that people have labelled.
    pub labelled: u64,
    /// Whether the photos that it was drawn from are those that survive now.
    pub current: bool,
    /// The estimate, once every photo is labelled and as long as the sample is current.
    pub estimate: Option<Estimate>,
}

/// An estimated share of photos that show people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Photos of the sample that somebody labelled with a person or a part of a body.
    pub with_people: u64,
    /// Their share of the sample.
    pub rate: f64,
    /// 95 % confidence interval after Clopper and Pearson.
    pub interval: [f64; 2],
    /// The same as numbers of photos among all survivors.
    pub expected_photos: [f64; 3],
}

impl Estimate {
    /// `2.00 % (0.24 to 7.04)`: the rate with its interval, whose ends are rounded outwards.
    pub fn rate_in_words(&self) -> String {
        let [low, rate, high] = [self.interval[0], self.rate, self.interval[1]].map(|share| 100.0 * share);
        let (low, high) = ((low * 100.0).floor() / 100.0, (high * 100.0).ceil() / 100.0);
        format!("{rate:.2} % ({low:.2} to {high:.2})")
    }

    /// `20 (2 to 71)`: the number among all survivors with its interval, whose ends are rounded outwards.
    pub fn photos_in_words(&self) -> String {
        let [low, photos, high] = self.expected_photos;
        format!("{photos:.0} ({:.0} to {:.0})", low.floor(), high.ceil())
    }
}

/// Why a sample that was drawn gives no estimate any more.
pub const OTHER_PHOTOS: &str = "other photos survive now; draw another one";

/// Makes the contact sheet of the curation in `folder`, draws a sample if asked to, and tells what the samples say.
///
/// # Errors
/// A last stage that is not done, nothing that survives, a sample larger than what survives, files that cannot be written.
pub fn audit(folder: &Path, options: AuditOptions<'_>) -> Result<Audit, Error> {
    if !folder.join(crate::ledger::FILE_NAME).is_file() {
        return Err(Error::NoCuration {
            path: folder.to_path_buf(),
        });
    }
    let mut ledger = Ledger::open(folder)?;
    let config = crate::release::config_of(&ledger, folder)?;
    let name = config.last_stage().to_string();
    let stage = match ledger.stage(&name)? {
        Some(row) if row.done => row.id,
        _ => {
            return Err(failed(
                format!("the last stage, `{name}`, is not done"),
                Some("`passer curate run` goes on with it"),
            ));
        }
    };
    let mut keys = crate::release::survivors(&ledger, stage)?;
    keys.sort_unstable();
    if keys.is_empty() {
        return Err(failed("no photo is left".to_string(), None));
    }
    let population = fingerprint(&keys);
    if let Some((size, seed)) = options.draw {
        draw_sample(&mut ledger, &name, &keys, &population, size, seed)?;
    }
    let samples = samples(&ledger, &keys, &population)?;
    let scores = residual_scores(&ledger, stage)?;
    let mut ranked: Vec<(Option<f64>, u128, i64)> = Vec::with_capacity(keys.len());
    for key in &keys {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if let Some(photo) = ledger.survivor_of_key(stage, key)? {
            ranked.push((scores.get(&photo.id).copied(), draw(0, "sheet", &[key]), photo.id));
        }
    }
    let with_score = ranked.iter().filter(|(score, ..)| score.is_some()).count() as u64;
    ranked.sort_by(|(a, a_draw, _), (b, b_draw, _)| {
        b.unwrap_or(-1.0)
            .total_cmp(&a.unwrap_or(-1.0))
            .then(a_draw.cmp(b_draw))
    });
    ranked.truncate(options.sheet_photos);
    let found = Audit {
        stage: name,
        photos: keys.len() as u64,
        with_score,
        sheet: options
            .sheet
            .map_or_else(|| folder.join("audit.html"), Path::to_path_buf),
        samples,
    };
    let photos = crate::photos::Photos::open(&config, folder)?;
    let chosen: Vec<(Option<f64>, i64)> = ranked
        .into_iter()
        .map(|(score, _, photo)| (score, photo))
        .collect();
    sheet::write(&ledger, &photos, &config.release.name, &found, &chosen, options)?;
    Ok(found)
}

fn failed(reason: String, hint: Option<&str>) -> Error {
    Error::Stage {
        stage: "audit".to_string(),
        reason,
        hint: hint.map(str::to_string),
    }
}

/// What tells a set of survivors from another one.
fn fingerprint(keys: &[String]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for key in keys {
        hasher.update(key.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().to_vec()
}

/// Draws a sample: the photos with the smallest draws, so that neither scores nor the order of rows matter. The same once
/// more is the one that is there.
fn draw_sample(
    ledger: &mut Ledger,
    stage: &str,
    keys: &[String],
    population: &[u8],
    size: usize,
    seed: u64,
) -> Result<(), Error> {
    if size == 0 || size > keys.len() {
        return Err(failed(
            format!("expected a sample of 1 to {} photos, found {size}", keys.len()),
            None,
        ));
    }
    let known: bool = ledger.sql(|db| {
        db.query_row(
            "SELECT EXISTS (SELECT 1 FROM samples WHERE seed = ? AND photos = ? AND population_sha256 = ?)",
            params![seed as i64, size as i64, population],
            |row| row.get(0),
        )
    })?;
    if known {
        return Ok(());
    }
    let mut order: Vec<(u128, &String)> = keys
        .iter()
        .map(|key| (draw(seed, "audit", &[key]), key))
        .collect();
    order.sort_unstable();
    let now = ledger.now()?;
    ledger.transaction(|ledger| {
        ledger.sql(|db| {
            db.execute(
                "INSERT INTO samples (stage, seed, photos, population, population_sha256, drawn) VALUES (?, ?, ?, ?, ?, ?)",
                params![stage, seed as i64, size as i64, keys.len() as i64, population, now],
            )?;
            let sample = db.last_insert_rowid();
            let mut insert = db.prepare("INSERT INTO sample_photos VALUES (?, ?, ?)")?;
            for (place, (_, key)) in order[..size].iter().enumerate() {
                insert.execute(params![sample, place as i64, key])?;
            }
            Ok(())
        })
    })
}

/// All samples with their estimates.
fn samples(ledger: &Ledger, keys: &[String], population: &[u8]) -> Result<Vec<Sample>, Error> {
    let rows: Vec<(i64, i64, i64, Vec<u8>)> = ledger.sql(|db| {
        db.prepare("SELECT id, seed, photos, population_sha256 FROM samples ORDER BY id")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect()
    })?;
    let people: Categories = [Category::Person, Category::BodyPart].iter().collect();
    let mut found = Vec::new();
    for (id, seed, photos, drawn_from) in rows {
        let items = sample_items(ledger, id)?;
        let labelled = items.iter().filter(|item| !item.given.is_empty()).count() as u64;
        let with_people = items
            .iter()
            .filter(|item| item.given.iter().any(|(_, said)| said.any_of(people)))
            .count() as u64;
        let current = drawn_from == population;
        let photos = photos as u64;
        let estimate = (current && labelled == photos && photos > 0).then(|| {
            let rate = with_people as f64 / photos as f64;
            let interval = clopper_pearson(with_people, photos, 0.95);
            let all = keys.len() as f64;
            Estimate {
                with_people,
                rate,
                interval,
                expected_photos: [interval[0] * all, rate * all, interval[1] * all],
            }
        });
        found.push(Sample {
            id,
            seed: seed as u64,
            photos,
            labelled,
            current,
            estimate,
        });
    }
    Ok(found)
}

/// The photos of a sample for the review page, in the order of their draws.
pub(crate) fn sample_items(ledger: &Ledger, sample: i64) -> Result<Vec<Item>, Error> {
    let photos: Vec<i64> = ledger.sql(|db| {
        db.prepare(
            "SELECT min(p.id) FROM sample_photos s CROSS JOIN photos p ON p.key = s.key WHERE s.sample = ? \
             GROUP BY s.place ORDER BY s.place",
        )?
        .query_map([sample], |row| row.get(0))?
        .collect()
    })?;
    if photos.is_empty() {
        return Err(failed(
            format!("there is no sample {sample}"),
            Some("`passer curate audit DIR --draw N` draws one"),
        ));
    }
    let mut given = current_answers(ledger, sample)?;
    Ok(photos
        .into_iter()
        .map(|photo| Item {
            photo,
            // What detectors said must not sway those who label a sample.
            score: None,
            wanted: 1,
            given: given.remove(&photo).unwrap_or_default(),
        })
        .collect())
}
