//! Which photos the page shows: those that the stage before `review` kept, or those of a sample.

use crate::config::{Config, StageConfig};
use crate::draws::draw;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Ledger, SamplePhoto};
use crate::stages::detect::for_each_score;
use crate::stages::review::{Categories, Category, REVIEW, ReviewConfig, answers_of};

use super::queue::Item;

/// The photos to label.
pub(super) struct Job {
    pub(super) items: Vec<Item>,
    /// The categories that count as an objection.
    pub(super) bad: Categories,
    /// Number of the stage for which the page reads photos.
    pub(super) stage: i64,
}

pub(super) fn failed(reason: String, hint: Option<Hint>) -> Error {
    Error::Stage {
        stage: "review".to_string(),
        reason,
        hint,
    }
}

/// The photos of the stage `review`, in descending order of the detectors' scores.
pub(super) fn of_stage(ledger: &Ledger, config: &Config) -> Result<Job, Error> {
    let at = config.stages.iter().position(|stage| stage.name() == "review");
    let Some((at, StageConfig::Review(review))) = at.map(|at| (at, &config.stages[at])) else {
        let reason = "the config has no such stage".to_string();
        return Err(failed(reason, Some(Hint::AddReview)));
    };
    if ledger.stage("review")?.is_some_and(|row| row.done) {
        let hint = Hint::Redo {
            stage: "review".to_string(),
        };
        return Err(failed("it has taken the answers already".to_string(), Some(hint)));
    }
    let before = at.checked_sub(1).map_or("source", |at| config.stages[at].name());
    let previous = match ledger.stage(before)? {
        Some(row) if row.done => row.id,
        _ => {
            let reason = format!("`{before}` comes before it and is not done");
            return Err(failed(reason, Some(Hint::RunAgain)));
        }
    };
    Ok(Job {
        items: items(ledger, previous, review)?,
        bad: review.drop.iter().collect(),
        stage: previous + 1,
    })
}

/// The photos of a sample.
pub(super) fn of_sample(ledger: &Ledger, sample: i64) -> Result<Job, Error> {
    Ok(Job {
        items: sample_items(ledger, sample)?,
        bad: [Category::Person, Category::BodyPart].iter().collect(),
        stage: ledger.last_stage()?,
    })
}

fn items(ledger: &Ledger, previous: i64, review: &ReviewConfig) -> Result<Vec<Item>, Error> {
    let (mut items, mut draws) = (Vec::new(), Vec::new());
    // In the order of their numbers, by which scores and answers are matched.
    ledger.for_each_survivor(previous, |photo, key| {
        items.push(Item {
            photo,
            score: None,
            wanted: review.wanted(key),
            given: Vec::new(),
        });
        // Without scores, in an order that no photographer's albums follow.
        draws.push(draw(review.seed, "review", &[key]));
    })?;
    fn find(items: &mut [Item], photo: i64) -> Option<&mut Item> {
        let at = items.binary_search_by_key(&photo, |item| item.photo).ok()?;
        items.get_mut(at)
    }
    for_each_score(ledger, previous, |photo, score| {
        if let Some(item) = find(&mut items, photo) {
            item.score = Some(item.score.map_or(score, |known| known.max(score)));
        }
    })?;
    ledger.for_each_answer(REVIEW, |photo, annotator, categories| {
        if let Some(item) = find(&mut items, photo) {
            item.given.reserve_exact(1);
            item.given.push((annotator, Categories::read(categories)));
        }
    })?;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| {
        let score = |at: usize| items[at].score.unwrap_or(-1.0);
        score(*b).total_cmp(&score(*a)).then(draws[*a].cmp(&draws[*b]))
    });
    Ok(order
        .into_iter()
        .map(|at| std::mem::take(&mut items[at]))
        .collect())
}

/// The photos of a sample that were not taken down, in the order of their draws.
fn sample_items(ledger: &Ledger, sample: i64) -> Result<Vec<Item>, Error> {
    if !ledger.samples()?.iter().any(|known| known.id == sample) {
        return Err(Error::Stage {
            stage: "audit".to_string(),
            reason: format!("there is no sample {sample}"),
            hint: Some(Hint::DrawSample),
        });
    }
    let mut given = answers_of(ledger, sample)?;
    let photos = ledger.photos_of_sample(sample)?.into_iter();
    Ok(photos
        .filter(|photo| !photo.taken_down)
        .map(|SamplePhoto { photo, .. }| Item {
            photo,
            // Detector scores must not influence the people who label a sample.
            score: None,
            wanted: 1,
            given: given.remove(&photo).unwrap_or_default(),
        })
        .collect())
}
