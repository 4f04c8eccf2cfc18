//! What people looked at, in words for a data sheet: how many people saw each photo, and what a random sample
//! says of those that are left.

use std::collections::BTreeMap;

use super::audit::{Population, estimate_in_words, samples};
use crate::config::{Config, StageConfig};
use crate::error::Error;
use crate::ledger::{FunnelStage, Ledger};
use crate::stages::review::{REVIEW, ReviewConfig, answers_of};

/// What people looked at.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// The photos of the stage `review`, by the number of people who labeled each.
    photos: BTreeMap<usize, u64>,
    /// Valid answers to these photos.
    answers: u64,
    /// People who gave them.
    people: usize,
    /// Answers that were discarded.
    discarded: u64,
    /// The estimate of how many photos still show people.
    estimate: Option<String>,
}

impl Looked {
    /// Reads it from the ledger; stage number `last` is the one whose photos are released.
    pub(crate) fn read(ledger: &Ledger, config: &Config, last: i64) -> Result<Looked, Error> {
        let mut looked = Looked::default();
        let reviews = |stage: &StageConfig| matches!(stage, StageConfig::Review(_));
        if config.stages.iter().any(reviews)
            && let Some(review) = ledger.stage("review")?
        {
            let answers = answers_of(ledger, REVIEW)?;
            let mut people: Vec<i64> = Vec::new();
            ledger.for_each_survivor(review.id - 1, |photo, _| {
                let given = answers.get(&photo).map_or(&[][..], Vec::as_slice);
                *looked.photos.entry(given.len()).or_default() += 1;
                looked.answers += given.len() as u64;
                for (annotator, _) in given {
                    if !people.contains(annotator) {
                        people.push(*annotator);
                    }
                }
            })?;
            looked.people = people.len();
        }
        looked.discarded = ledger.discarded_answers()?;
        let mut keys = Vec::new();
        ledger.for_each_survivor(last, |_, key| keys.push(key.to_string()))?;
        keys.sort_unstable();
        looked.estimate = estimate_in_words(&samples(ledger, config, last, &Population::new(keys))?);
        Ok(looked)
    }

    /// How many people saw each photo, and what was dropped. `stage`: the counts of the stage `review`.
    pub(crate) fn review_in_words(&self, config: &ReviewConfig, stage: Option<&FunnelStage>) -> String {
        let all: u64 = self.photos.values().sum();
        let mut parts: Vec<String> = Vec::new();
        for (labels, photos) in &self.photos {
            parts.push(match labels {
                0 => format!("{photos} could not be shown"),
                1 => format!("{photos} by one person"),
                2 => format!("{photos} by two"),
                labels => format!("{photos} by {labels}"),
            });
        }
        // Those that nobody saw come last.
        if self.photos.contains_key(&0) {
            parts.rotate_left(1);
        }
        let drawn = match config.labeled_twice > 0.0 {
            true => format!(
                "; {} % of the photos were drawn to be labeled twice",
                100.0 * config.labeled_twice
            ),
            false => String::new(),
        };
        let reasons = stage.map_or(&[][..], |stage| &stage.reasons[..]);
        let dropped: u64 = reasons
            .iter()
            .filter(|reason| {
                config
                    .drop
                    .iter()
                    .any(|category| category.name() == reason.reason)
            })
            .map(|reason| reason.photos)
            .sum();
        let drop: Vec<&str> = config.drop.iter().map(|category| category.name()).collect();
        format!(
            "People looked at the {all} photos that were left: {} ({} in all, {} answers{drawn}). Dropped for {}: {dropped}.",
            parts.join(", "),
            match self.people {
                1 => "1 person".to_string(),
                people => format!("{people} people"),
            },
            self.answers,
            drop.join(", ").replace('_', " "),
        )
    }

    /// What people said and does not count.
    pub(crate) fn discarded_in_words(&self) -> Option<String> {
        match self.discarded {
            0 => None,
            1 => Some("1 answer of theirs was discarded.".to_string()),
            count => Some(format!("{count} answers of theirs were discarded.")),
        }
    }

    /// Whether people labeled a random sample.
    pub(crate) fn has_estimate(&self) -> bool {
        self.estimate.is_some()
    }

    /// How many photos still show people, as far as that is known.
    pub(crate) fn estimate_in_words(&self) -> &str {
        let unknown = "How many are left was not estimated from a random sample.";
        self.estimate.as_deref().unwrap_or(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ReasonCount;
    use crate::stages::review::{Category, Disagreement};

    #[test]
    fn one_who_saw_all_and_one_who_saw_seven_are_told_apart() {
        let mut config = ReviewConfig {
            drop: vec![Category::Person, Category::BodyPart],
            labeled_twice: 0.05,
            disagreement: Disagreement::Drop,
            seed: 0,
        };
        let mut looked = Looked {
            photos: [(1, 118), (2, 7)].into(),
            answers: 132,
            people: 2,
            discarded: 0,
            estimate: None,
        };
        let count = |reason: &str, photos| ReasonCount {
            reason: reason.to_string(),
            photos,
        };
        let stage = FunnelStage {
            name: "review".to_string(),
            done: true,
            kept: 120,
            dropped: 5,
            reasons: vec![count("person", 2), count("body_part", 1), count("taken_down", 2)],
            remarks: Vec::new(),
            seconds: 0.0,
        };
        assert_eq!(
            looked.review_in_words(&config, Some(&stage)),
            "People looked at the 125 photos that were left: 118 by one person, 7 by two (2 people in all, 132 answers; 5 % of the \
             photos were drawn to be labeled twice). Dropped for person, body part: 3."
        );
        config.labeled_twice = 0.0;
        looked.photos = [(0, 1), (1, 124)].into();
        (looked.answers, looked.people) = (124, 1);
        assert_eq!(
            looked.review_in_words(&config, Some(&stage)),
            "People looked at the 125 photos that were left: 124 by one person, 1 could not be shown (1 person in all, 124 \
             answers). Dropped for person, body part: 3."
        );
    }
}
