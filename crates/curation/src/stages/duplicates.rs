//! One of each group of equal or nearly equal photos, and every pair in the ledger.
//!
//! The kept photo depends on the photos alone: the one with most pixels, then the smallest key. In that
//! order, a photo is kept unless an earlier kept photo is its copy or near to it. So no photo is dropped
//! because of one that was dropped itself, and chains of slightly different photos do not collapse into one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::near::{Hash, near_pairs};
use super::{Stage, Work};
use crate::error::Error;
use crate::ledger::{Candidate, Decision, Pair};

/// The criteria for duplicates. Equal files always are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DuplicatesConfig {
    /// The criterion for similar photos; absent: equal files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<NearConfig>,
}

/// The criterion for similar photos.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NearConfig {
    /// Bits of 256 in which perceptual hashes may differ, 0 to 31. Two photos of different things differ in
    /// about 128.
    pub max_distance: u32,
}

/// Photos decided on between two transactions.
const BATCH: usize = 20_000;

impl DuplicatesConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        match &self.near {
            Some(near) if near.max_distance > 31 => {
                let reason = format!("must be 0 to 31, got {}", near.max_distance);
                Err(Error::config("stages.duplicates.near.max_distance", reason))
            }
            _ => Ok(()),
        }
    }
}

impl Stage for DuplicatesConfig {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let candidates = work.ledger.candidates(work.previous)?;
        work.check_stop()?;
        // Equal files first: only one of them enters the comparison of hashes.
        let mut copies: HashMap<i64, Pair> = HashMap::new();
        let mut pairs: Vec<Pair> = Vec::new();
        let mut by_content: HashMap<[u8; 32], i64> = HashMap::new();
        let mut distinct: Vec<&Candidate> = Vec::new();
        for candidate in &candidates {
            match by_content.get(&candidate.sha256) {
                None => {
                    by_content.insert(candidate.sha256, candidate.photo);
                    distinct.push(candidate);
                }
                Some(first) => {
                    let pair = Pair {
                        photo: candidate.photo,
                        other: *first,
                        kind: "exact",
                        distance: 0,
                    };
                    copies.insert(candidate.photo, pair);
                    pairs.push(pair);
                }
            }
        }
        drop(by_content);
        if let Some(near) = &self.near {
            let near = near_copies(&distinct, near.max_distance, &mut pairs);
            copies.extend(near);
        }
        work.check_stop()?;
        for part in pairs.chunks(BATCH) {
            work.ledger.add_pairs(part)?;
        }
        let mut keys: HashMap<i64, String> = HashMap::new();
        for pair in copies.values() {
            if let Entry::Vacant(free) = keys.entry(pair.other)
                && let Some(photo) = work.ledger.photo(pair.other)?
            {
                free.insert(photo.key);
            }
        }
        work.judge_each(BATCH, |photo| match copies.get(&photo.id) {
            None => Decision::kept(photo.id),
            Some(pair) => {
                let reason = match pair.kind {
                    "exact" => "exact_duplicate",
                    _ => "near_duplicate",
                };
                let dropped = Decision::dropped(photo.id, reason).score(f64::from(pair.distance));
                match keys.get(&pair.other) {
                    Some(key) => dropped.detail(format!("of photo `{key}`")),
                    None => dropped.detail(format!("of photo number {}", pair.other)),
                }
            }
        })
    }
}

/// Photos, best first, that are near a better photo that is kept; all pairs found meanwhile are added to
/// `pairs`.
fn near_copies(distinct: &[&Candidate], most: u32, pairs: &mut Vec<Pair>) -> HashMap<i64, Pair> {
    let near = |photo: i64, other: i64, distance: u32| Pair {
        photo,
        other,
        kind: "near",
        distance,
    };
    // Of photos with the same hash, the best represents all.
    let mut copies = HashMap::new();
    let mut first_of: HashMap<Hash, usize> = HashMap::new();
    let mut hashes: Vec<Hash> = Vec::new();
    let mut photos: Vec<i64> = Vec::new();
    let mut equal: Vec<(i64, usize)> = Vec::new();
    for candidate in distinct {
        let Some(hash) = candidate.hash else {
            continue;
        };
        match first_of.get(&hash) {
            Some(first) => equal.push((candidate.photo, *first)),
            None => {
                first_of.insert(hash, hashes.len());
                hashes.push(hash);
                photos.push(candidate.photo);
            }
        }
    }
    let mut neighbors: HashMap<usize, Vec<(usize, u32)>> = HashMap::new();
    near_pairs(&hashes, most, |better, worse, distance| {
        neighbors.entry(worse).or_default().push((better, distance));
        pairs.push(near(photos[worse], photos[better], distance));
    });
    let mut stays = vec![true; hashes.len()];
    for at in 0..hashes.len() {
        let closest = neighbors
            .get(&at)
            .into_iter()
            .flatten()
            .filter(|(better, _)| stays[*better])
            .min_by_key(|(better, distance)| (*distance, *better));
        if let Some((better, distance)) = closest {
            stays[at] = false;
            copies.insert(photos[at], near(photos[at], photos[*better], *distance));
        }
    }
    for (photo, first) in equal {
        let pair = near(photo, photos[first], 0);
        pairs.push(pair);
        // Where the first photo was dropped itself, its twin is dropped because of the same kept photo.
        copies.insert(
            photo,
            copies
                .get(&photos[first])
                .map_or(pair, |copy| Pair { photo, ..*copy }),
        );
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(photo: i64, bits: &[usize]) -> Candidate {
        let mut hash = [0x5a; 32];
        for bit in bits {
            hash[bit / 8] ^= 1 << (bit % 8);
        }
        Candidate {
            photo,
            sha256: [photo as u8; 32],
            hash: Some(hash),
        }
    }

    #[test]
    fn nobody_goes_for_the_sake_of_one_that_went() {
        // A chain: 1 - 2 - 3, each two bits from the next, and a twin of 2.
        let all = [
            candidate(1, &[]),
            candidate(2, &[3, 90]),
            candidate(3, &[3, 90, 140, 250]),
            candidate(4, &[3, 90]),
        ];
        let mut pairs = Vec::new();
        let copies = near_copies(&all.iter().collect::<Vec<_>>(), 2, &mut pairs);
        let mut gone: Vec<(i64, i64)> = copies.values().map(|pair| (pair.photo, pair.other)).collect();
        gone.sort_unstable();
        assert_eq!(gone, [(2, 1), (4, 1)]);
        let mut found: Vec<(i64, i64)> = pairs.iter().map(|pair| (pair.other, pair.photo)).collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 2), (2, 3), (2, 4)]);
    }
}
