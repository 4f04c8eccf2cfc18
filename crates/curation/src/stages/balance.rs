//! A limit of photos per photographer, and a random sample of a fixed size: by draws, never by order.
//!
//! Each photo has a draw that is a function of (seed, photographer, key). A photographer keeps the photos
//! with the smallest draws, so the choice depends neither on the order of rows nor on other people's photos.
//! Both stages read their input twice: once to find the largest kept draw, once to decide. They use 16 bytes
//! for each photo kept.

use std::collections::{BinaryHeap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::draws::{draw, fraction};
use crate::error::Error;
use crate::ledger::Decision;
use crate::photo::Photo;
use crate::stages::{Stage, Work};

/// At most this many photos per photographer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceConfig {
    /// The most photos that each photographer keeps. PASS: 80.
    pub photos_per_photographer: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// A random sample of all photos.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Size of the sample; a smaller input is kept whole. PASS's training set of ImageNet's size: 1.28
    /// million.
    pub photos: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// The `most` smallest numbers seen.
#[derive(Debug, Default)]
struct Smallest(BinaryHeap<u128>);

impl Smallest {
    fn see(&mut self, number: u128, most: usize) {
        if self.0.len() < most {
            self.0.push(number);
        } else if let Some(mut largest) = self.0.peek_mut()
            && number < *largest
        {
            *largest = number;
        }
    }

    /// The largest number that is kept; all numbers are kept where fewer than `most` were seen.
    fn threshold(&self) -> u128 {
        self.0.peek().copied().unwrap_or(0)
    }
}

impl BalanceConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        at_least_one(
            "stages.balance.photos_per_photographer",
            self.photos_per_photographer,
        )
    }

    fn draw(&self, photo: &Photo) -> Option<(u128, u128)> {
        let photographer = photo.photographer_identity()?;
        // A 128-bit hash identifies the photographer: names are long, and hashes do not collide in practice.
        let who = draw(0, "photographer", &[photographer]);
        Some((who, draw(self.seed, "balance", &[photographer, &photo.key])))
    }
}

/// The smallest draws of each photographer: collected in the first reading, compared in the second.
#[derive(Default)]
struct Limits {
    smallest: HashMap<u128, Smallest>,
}

impl Limits {
    fn see(&mut self, config: &BalanceConfig, photo: &Photo) {
        if let Some((who, draw)) = config.draw(photo) {
            self.smallest
                .entry(who)
                .or_default()
                .see(draw, config.photos_per_photographer);
        }
    }

    fn judge(&self, config: &BalanceConfig, photo: &Photo) -> Decision {
        let Some((who, draw)) = config.draw(photo) else {
            return Decision::dropped(photo.id, "no_photographer");
        };
        let kept = self
            .smallest
            .get(&who)
            .is_some_and(|smallest| draw <= smallest.threshold());
        let decision = match kept {
            true => Decision::kept(photo.id),
            false => Decision::dropped(photo.id, "over_photographer_limit"),
        };
        decision.score(fraction(draw))
    }
}

impl Stage for BalanceConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let mut limits = Limits::default();
        work.for_each_input(|photo| limits.see(self, photo))?;
        work.judge_each(20_000, |photo| limits.judge(self, photo))
    }
}

impl SampleConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        at_least_one("stages.sample.photos", self.photos)
    }
}

impl Stage for SampleConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let mut smallest = Smallest::default();
        let mut inputs = 0;
        work.for_each_input(|photo| {
            inputs += 1;
            smallest.see(draw(self.seed, "sample", &[&photo.key]), self.photos);
        })?;
        if inputs < self.photos {
            tracing::warn!(
                "`stages.sample.photos` = {} is more than the {inputs} photos that are left: all of them stay",
                self.photos
            );
        }
        let threshold = smallest.threshold();
        work.judge_each(20_000, |photo| {
            let draw = draw(self.seed, "sample", &[&photo.key]);
            let decision = match draw <= threshold {
                true => Decision::kept(photo.id),
                false => Decision::dropped(photo.id, "not_sampled"),
            };
            decision.score(fraction(draw))
        })
    }
}

fn at_least_one(key: &str, value: usize) -> Result<(), Error> {
    match value {
        0 => Err(Error::config(key, "must be at least 1, got 0")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn photos(counts: &[usize]) -> Vec<Photo> {
        let one = |who: usize, at: usize| Photo {
            id: (who * 1000 + at) as i64,
            key: format!("{who}-{at}"),
            photographer: Some("Ann".into()),
            // Two people may share a name, but not an identity.
            photographer_id: Some(format!("{who}@N00")),
            ..Photo::default()
        };
        counts
            .iter()
            .enumerate()
            .flat_map(|(who, count)| (0..*count).map(move |at| one(who, at)))
            .collect()
    }

    fn kept(config: &BalanceConfig, photos: &[Photo]) -> BTreeSet<String> {
        let mut limits = Limits::default();
        photos.iter().for_each(|photo| limits.see(config, photo));
        photos
            .iter()
            .filter(|photo| limits.judge(config, photo).kept)
            .map(|photo| photo.key.clone())
            .collect()
    }

    fn of(kept: &BTreeSet<String>, who: usize) -> Vec<&String> {
        kept.iter()
            .filter(|key| key.split('-').next() == Some(&who.to_string()))
            .collect()
    }

    proptest! {
        #[test]
        fn the_limit_holds_whatever_the_order_and_whoever_else_comes(
            counts in proptest::collection::vec(0usize..30, 1..12),
            more in proptest::collection::vec(0usize..30, 0..6),
            limit in 1usize..20,
            seed in any::<u64>(),
            order in any::<u64>(),
        ) {
            let config = BalanceConfig { photos_per_photographer: limit, seed };
            let all = photos(&counts);
            let first = kept(&config, &all);
            for (who, count) in counts.iter().enumerate() {
                prop_assert_eq!(of(&first, who).len(), (*count).min(limit));
            }
            let mut shuffled = all.clone();
            shuffled.sort_by_key(|photo| draw(order, "order", &[&photo.key]));
            prop_assert_eq!(&kept(&config, &shuffled), &first);
            // With more photographers nothing changes for the earlier ones.
            let grown = photos(&[counts.clone(), more.clone()].concat());
            let second = kept(&config, &grown);
            for who in 0..counts.len() {
                prop_assert_eq!(of(&second, who), of(&first, who));
            }
            // A higher limit keeps all photos that a lower one kept.
            let higher = BalanceConfig { photos_per_photographer: limit + 1, seed };
            prop_assert!(first.is_subset(&kept(&higher, &all)));
        }

        #[test]
        fn one_more_photo_displaces_at_most_one(count in 1usize..40, limit in 1usize..20, seed in any::<u64>()) {
            let config = BalanceConfig { photos_per_photographer: limit, seed };
            let before = kept(&config, &photos(&[count]));
            let after = kept(&config, &photos(&[count + 1]));
            prop_assert!(before.difference(&after).count() <= 1);
        }
    }

    #[test]
    fn the_choice_is_fair_and_the_seed_matters() {
        let all = photos(&[20]);
        let mut counts = [0; 20];
        for seed in 0..2000 {
            let config = BalanceConfig {
                photos_per_photographer: 5,
                seed,
            };
            for key in kept(&config, &all) {
                counts[key.split_once('-').unwrap().1.parse::<usize>().unwrap()] += 1;
            }
        }
        // 2000 draws with probability 1/4: mean 500, standard deviation 19.4.
        assert!(
            counts.iter().all(|count| (400..600).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn nobody_s_photos_go() {
        let config = BalanceConfig {
            photos_per_photographer: 5,
            seed: 0,
        };
        let decision = Limits::default().judge(&config, &Photo::default());
        assert_eq!(decision.reason.as_deref(), Some("no_photographer"));
    }
}
