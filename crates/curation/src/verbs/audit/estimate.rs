//! How many people are left: the estimates from samples that were labeled whole.
//!
//! A takedown removes photos from the population that a sample was drawn from, mostly because the sample found
//! them. The estimate stays true of the photos before the takedowns, and says so.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::interval::clopper_pearson;
use crate::config::{Config, StageConfig};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::stages::review::{Categories, Category, answers_of};

/// A random sample and people's labels of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its number, for `passer curate review --sample`.
    pub id: i64,
    /// The seed of the draw.
    pub seed: u64,
    /// Photos in it.
    pub photos: u64,
    /// How many photos it was drawn from.
    pub population: u64,
    /// Photos that people have labeled.
    #[serde(rename = "labelled")]
    pub labeled: u64,
    /// Whether the current survivors are the photos that it was drawn from.
    pub current: bool,
    /// Photos that were taken down since, where the current survivors lack only those; 0 if it is current.
    pub taken_down_since: Option<u64>,
    /// The photos that it found: with people, or with a category for which the stage `review` drops photos.
    pub found: Vec<FoundPhoto>,
    /// The estimate, once every photo is labeled, and while nothing but takedowns changed the survivors.
    pub estimate: Option<Estimate>,
}

/// A photo that a sample found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundPhoto {
    /// Its key.
    pub key: String,
    /// The categories that annotators gave it.
    pub categories: Vec<String>,
    /// Whether it was taken down.
    pub taken_down: bool,
    /// Its number in the ledger.
    #[serde(skip)]
    pub(crate) photo: i64,
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
    /// The same as counts of photos among all photos that the sample was drawn from.
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

/// The photos that a sample is drawn from.
pub(crate) struct Population {
    /// Sorted.
    pub(super) keys: Vec<String>,
    /// The hash that identifies the set of photos.
    pub(super) sha256: Vec<u8>,
}

impl Population {
    /// `keys` are sorted.
    pub(crate) fn new(keys: Vec<String>) -> Population {
        let mut hasher = Sha256::new();
        for key in &keys {
            hasher.update(key.as_bytes());
            hasher.update([0]);
        }
        let sha256 = hasher.finalize().to_vec();
        Population { keys, sha256 }
    }

    /// The hashes of this population and of those before takedowns, the latest first, each with how many
    /// photos were taken down since.
    fn before_takedowns(&self, ledger: &Ledger, stage: i64) -> Result<Vec<(Vec<u8>, u64)>, Error> {
        let mut by_time: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, asked) in ledger.kept_and_taken_down(stage)? {
            by_time.entry(asked).or_default().push(key);
        }
        let mut found = vec![(self.sha256.clone(), 0)];
        let mut keys = self.keys.clone();
        for back in by_time.into_values().rev().take(MOST_TAKEDOWNS) {
            let since = found.last().map_or(0, |(_, since)| *since) + back.len() as u64;
            keys.extend(back);
            keys.sort_unstable();
            keys.dedup();
            found.push((Population::new(keys.clone()).sha256, since));
        }
        Ok(found)
    }
}

/// Takedowns that are undone, at most, to find the population of a sample.
const MOST_TAKEDOWNS: usize = 100;

/// All samples with their estimates. `population`: the current survivors of stage number `stage`.
pub(crate) fn samples(
    ledger: &Ledger,
    config: &Config,
    stage: i64,
    population: &Population,
) -> Result<Vec<Sample>, Error> {
    let rows = ledger.samples()?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let people: Categories = [Category::Person, Category::BodyPart].iter().collect();
    let objections = config.stages.iter().find_map(|stage| match stage {
        StageConfig::Review(review) => Some(&review.drop),
        _ => None,
    });
    let objections: Categories = [Category::Person, Category::BodyPart]
        .iter()
        .chain(objections.into_iter().flatten())
        .collect();
    let earlier = population.before_takedowns(ledger, stage)?;
    let mut all = Vec::new();
    for row in rows {
        let answers = answers_of(ledger, row.id)?;
        let (mut labeled, mut with_people) = (0, 0);
        let mut found = Vec::new();
        for photo in ledger.photos_of_sample(row.id)? {
            let Some(given) = answers.get(&photo.photo) else {
                continue;
            };
            let any_of = |categories| given.iter().any(|(_, said)| said.any_of(categories));
            labeled += 1;
            with_people += u64::from(any_of(people));
            if any_of(objections) {
                let names = Category::ALL
                    .into_iter()
                    .filter(|category| given.iter().any(|(_, said)| said.has(*category)));
                found.push(FoundPhoto {
                    key: photo.key,
                    categories: names.map(|category| category.name().to_string()).collect(),
                    taken_down: photo.taken_down,
                    photo: photo.photo,
                });
            }
        }
        let since = earlier
            .iter()
            .find(|(sha256, _)| *sha256 == row.population_sha256);
        let taken_down_since = since.map(|(_, since)| *since);
        let whole = labeled == row.photos && row.photos > 0 && taken_down_since.is_some();
        let estimate = whole.then(|| {
            let rate = with_people as f64 / row.photos as f64;
            let interval = clopper_pearson(with_people, row.photos, 0.95);
            let all = row.population as f64;
            Estimate {
                with_people,
                rate,
                interval,
                expected_photos: [interval[0] * all, rate * all, interval[1] * all],
            }
        });
        all.push(Sample {
            id: row.id,
            seed: row.seed,
            photos: row.photos,
            population: row.population,
            labeled,
            current: taken_down_since == Some(0),
            taken_down_since,
            found,
            estimate,
        });
    }
    Ok(all)
}

/// The estimate in a sentence for a data sheet: that of the largest sample; `None` where no sample gives one.
pub(crate) fn estimate_in_words(samples: &[Sample]) -> Option<String> {
    let (sample, estimate) = samples
        .iter()
        .filter_map(|sample| sample.estimate.as_ref().map(|estimate| (sample, estimate)))
        .max_by_key(|(sample, _)| (sample.photos, sample.id))?;
    let before = match sample.taken_down_since {
        None | Some(0) => "A".to_string(),
        Some(1) => "Before 1 photo was taken down, a".to_string(),
        Some(photos) => format!("Before {photos} photos were taken down, a"),
    };
    let others: Vec<_> = samples
        .iter()
        .filter(|other| other.id != sample.id)
        .filter_map(|other| {
            other
                .estimate
                .as_ref()
                .map(|estimate| (other.photos, estimate.with_people))
        })
        .collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(
            " It is the largest sample, or the last of these; {} were labeled too, and {} of their {} photos show people.",
            match others.len() {
                1 => "1 other".to_string(),
                count => format!("{count} others"),
            },
            others.iter().map(|(_, with_people)| with_people).sum::<u64>(),
            others.iter().map(|(photos, _)| photos).sum::<u64>(),
        ),
    };
    let with_people = match estimate.with_people {
        1 => "1 of them shows a person or a part of a body".to_string(),
        photos => format!("{photos} of them show a person or a part of a body"),
    };
    let still = sample.found.iter().filter(|photo| !photo.taken_down).count();
    let gone = match (sample.found.len(), still) {
        (0, _) => String::new(),
        (_, 0) => " What the sample found was taken down.".to_string(),
        (found, still) => format!(" Of the {found} photos that the sample found, {still} are still here."),
    };
    Some(format!(
        "{before} random sample of {} of the {} photos was labeled by people: {with_people}, a share of {}, or {} of all photos \
         (95 % interval of Clopper and Pearson).{gone}{others}",
        sample.photos,
        sample.population,
        estimate.rate_in_words(),
        estimate.photos_in_words(),
    ))
}
