//! Which photo an annotator sees next.
//!
//! The queue is in memory: some 50 bytes a photo. It is made of the ledger when the server starts, so nothing is lost with it
//! but leases: who is looking at what, so that two people do not label the same photo by chance.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Categories;

/// How long a photo that was shown is kept for the one who sees it.
const LEASE: Duration = Duration::from_secs(600);

/// One photo to be labelled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// Its number in the ledger.
    pub(crate) photo: i64,
    /// The highest score that any detector gave it, if one did.
    pub(crate) score: Option<f64>,
    /// How many annotators must label it.
    pub(crate) wanted: usize,
    /// Who has, and what they said.
    pub(crate) given: Vec<(i64, Categories)>,
}

/// All photos to be labelled, in the order in which they are shown.
#[derive(Debug)]
pub(super) struct Queue {
    items: Vec<Item>,
    places: HashMap<i64, usize>,
    /// All before this have what they need.
    first_open: usize,
    leases: HashMap<usize, Vec<(i64, Instant)>>,
}

/// Counts over the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) photos: u64,
    /// Photos with all labels that they need.
    pub(super) done: u64,
    /// Labels that are still needed.
    pub(super) labels_open: u64,
    /// Photos whose second label is open.
    pub(super) wait_for_second: u64,
}

/// Two annotators on the photos that both labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Their numbers, the smaller first.
    pub(super) annotators: [i64; 2],
    /// Of each photo: whether the one and whether the other objects to it.
    pub(super) verdicts: Vec<[bool; 2]>,
}

impl Queue {
    pub(super) fn new(items: Vec<Item>) -> Queue {
        let places = items
            .iter()
            .enumerate()
            .map(|(at, item)| (item.photo, at))
            .collect();
        Queue {
            items,
            places,
            first_open: 0,
            leases: HashMap::new(),
        }
    }

    pub(super) fn item(&self, photo: i64) -> Option<&Item> {
        self.places.get(&photo).map(|at| &self.items[*at])
    }

    /// The next photos for an annotator, at most `most`, which are kept for them for a while.
    pub(super) fn next(&mut self, annotator: i64, most: usize, now: Instant) -> Vec<i64> {
        self.leases.retain(|_, leases| {
            leases.retain(|(who, until)| *who != annotator && *until > now);
            !leases.is_empty()
        });
        while self
            .items
            .get(self.first_open)
            .is_some_and(|item| item.given.len() >= item.wanted)
        {
            self.first_open += 1;
        }
        let mut found = Vec::new();
        for at in self.first_open..self.items.len() {
            if found.len() == most {
                break;
            }
            let item = &self.items[at];
            let held = self.leases.get(&at).map_or(0, Vec::len);
            if item.given.len() + held >= item.wanted || item.given.iter().any(|(who, _)| *who == annotator) {
                continue;
            }
            self.leases.entry(at).or_default().push((annotator, now + LEASE));
            found.push(item.photo);
        }
        found
    }

    /// Notes what an annotator says of a photo now; none: nothing any more.
    pub(super) fn note(&mut self, photo: i64, annotator: i64, said: Option<Categories>) {
        let Some(at) = self.places.get(&photo).copied() else {
            return;
        };
        let given = &mut self.items[at].given;
        given.retain(|(who, _)| *who != annotator);
        if let Some(said) = said {
            given.push((annotator, said));
        } else {
            self.first_open = self.first_open.min(at);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for item in &self.items {
            let open = item.wanted.saturating_sub(item.given.len());
            counts.photos += 1;
            counts.done += u64::from(open == 0);
            counts.labels_open += open as u64;
            counts.wait_for_second += u64::from(open == 1 && item.wanted == 2);
        }
        counts
    }

    /// What each pair of annotators said of the photos that both labelled.
    pub(super) fn pairs(&self, bad: Categories) -> Vec<Pair> {
        let mut found: BTreeMap<[i64; 2], Vec<[bool; 2]>> = BTreeMap::new();
        for item in self.items.iter().filter(|item| item.given.len() > 1) {
            for (at, first) in item.given.iter().enumerate() {
                for second in &item.given[at + 1..] {
                    let (one, other) = match first.0 < second.0 {
                        true => (first, second),
                        false => (second, first),
                    };
                    let verdict = [one.1.any_of(bad), other.1.any_of(bad)];
                    found.entry([one.0, other.0]).or_default().push(verdict);
                }
            }
        }
        let pair = |(annotators, verdicts)| Pair { annotators, verdicts };
        found.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::Category;

    fn queue(wanted: &[usize]) -> Queue {
        let item = |(at, wanted): (usize, &usize)| Item {
            photo: at as i64 + 1,
            score: None,
            wanted: *wanted,
            given: Vec::new(),
        };
        Queue::new(wanted.iter().enumerate().map(item).collect())
    }

    #[test]
    fn nobody_sees_what_another_looks_at_unless_two_shall() {
        let mut queue = queue(&[1, 2, 1, 1]);
        let now = Instant::now();
        assert_eq!(queue.next(7, 2, now), [1, 2]);
        assert_eq!(queue.next(8, 9, now), [2, 3, 4]);
        // Whoever asks again gets the same again.
        assert_eq!(queue.next(7, 2, now), [1, 2]);
        assert_eq!(queue.next(9, 9, now), [] as [i64; 0]);
        // Those who went away hold nothing for ever.
        assert_eq!(queue.next(9, 9, now + LEASE), [1, 2, 3, 4]);
    }

    #[test]
    fn a_photo_that_two_label_waits_for_the_second() {
        let mut queue = queue(&[1, 2]);
        let now = Instant::now();
        for photo in queue.next(7, 9, now) {
            queue.note(photo, 7, Some(Categories::default()));
        }
        let counts = queue.counts();
        assert_eq!(
            (counts.done, counts.labels_open, counts.wait_for_second),
            (1, 1, 1)
        );
        assert_eq!(queue.next(7, 9, now), [] as [i64; 0]);
        assert_eq!(queue.next(8, 9, now), [2]);
        queue.note(2, 8, Some([Category::Person].iter().collect()));
        assert_eq!(queue.counts().labels_open, 0);
        let bad = [Category::Person].iter().collect();
        let pair = Pair {
            annotators: [7, 8],
            verdicts: vec![[false, true]],
        };
        assert_eq!(queue.pairs(bad), [pair]);
        // Taken back, it is open again.
        queue.note(1, 7, None);
        assert_eq!(queue.next(7, 9, now), [1]);
    }
}
