//! Which photo an annotator sees next, and the progress of the work.
//!
//! The queue is in memory: some 100 bytes per photo. The server rebuilds it from the ledger at its start, so
//! a restart loses only the leases, which keep two people from labeling the same photo by chance.
//!
//! No action of an annotator takes time proportional to the number of photos: each answer updates counts and
//! agreement, and each annotator has a place before which no photos are open for them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::stages::review::Categories;

/// How long a photo stays reserved for the annotator to whom it was shown.
const LEASE: Duration = Duration::from_secs(600);

/// One photo to be labeled.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Item {
    /// Its number in the ledger.
    pub(crate) photo: i64,
    /// The highest score that any detector gave it, if one did.
    pub(crate) score: Option<f64>,
    /// The number of annotators who must label it.
    pub(crate) wanted: u8,
    /// The annotators who labeled it, with their categories.
    pub(crate) given: Vec<(i64, Categories)>,
}

impl Item {
    /// Labels that are still needed.
    fn open(&self) -> usize {
        usize::from(self.wanted).saturating_sub(self.given.len())
    }

    fn said(&self, annotator: i64) -> bool {
        self.given.iter().any(|(who, _)| *who == annotator)
    }
}

/// All photos to be labeled, in the order in which they are shown.
#[derive(Debug)]
pub(super) struct Queue {
    items: Vec<Item>,
    /// Places, sorted by the photos' numbers.
    by_photo: Vec<u32>,
    /// The categories that count as an objection when agreement is measured.
    bad: Categories,
    counts: Counts,
    pairs: BTreeMap<[i64; 2], Agreement>,
    /// By annotator: all places before this need no label from them, except those in `reopened`.
    from: HashMap<i64, usize>,
    /// Places at which an answer was undone and not given again.
    reopened: BTreeSet<usize>,
    leases: HashMap<usize, Vec<(i64, Instant)>>,
    /// Photos that were in the queue and must not be shown.
    withdrawn: HashSet<i64>,
    /// Places of photos that need labels and cannot be shown, each with the reason.
    aside: BTreeMap<usize, String>,
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

/// Two annotators' verdicts on the photos that both labeled: how many neither, only the second, only the
/// first, and both objected to.
pub(super) type Agreement = [u64; 4];

impl Queue {
    pub(super) fn new(items: Vec<Item>, bad: Categories) -> Queue {
        let mut by_photo: Vec<u32> = (0..items.len() as u32).collect();
        by_photo.sort_unstable_by_key(|at| items[*at as usize].photo);
        let mut queue = Queue {
            items,
            by_photo,
            bad,
            counts: Counts::default(),
            pairs: BTreeMap::new(),
            from: HashMap::new(),
            reopened: BTreeSet::new(),
            leases: HashMap::new(),
            withdrawn: HashSet::new(),
            aside: BTreeMap::new(),
        };
        for at in 0..queue.items.len() {
            queue.count(at, true);
        }
        queue
    }

    fn place(&self, photo: i64) -> Option<usize> {
        let photo_at = |at: &u32| self.items[*at as usize].photo;
        let found = self.by_photo.binary_search_by_key(&photo, photo_at).ok()?;
        Some(self.by_photo[found] as usize)
    }

    pub(super) fn item(&self, photo: i64) -> Option<&Item> {
        self.place(photo).map(|at| &self.items[at])
    }

    /// The next photos for an annotator, at most `most`, which stay reserved for them for a while.
    pub(super) fn next(&mut self, annotator: i64, most: usize, now: Instant) -> Vec<i64> {
        self.leases.retain(|_, leases| {
            leases.retain(|(who, until)| *who != annotator && *until > now);
            !leases.is_empty()
        });
        let (items, leases, reopened) = (&self.items, &self.leases, &self.reopened);
        let aside = &self.aside;
        let free = |at: usize| {
            let held = leases.get(&at).map_or(0, Vec::len);
            items[at].open() > held && !items[at].said(annotator) && !aside.contains_key(&at)
        };
        let from = self.from.entry(annotator).or_default();
        while items
            .get(*from)
            .is_some_and(|item| item.open() == 0 || item.said(annotator) || aside.contains_key(from))
        {
            *from += 1;
        }
        let again = reopened.iter().copied().filter(|at| free(*at));
        let ahead = (*from..items.len()).filter(|at| !reopened.contains(at) && free(*at));
        let mut found: Vec<usize> = again.chain(ahead).take(most).collect();
        found.sort_unstable();
        for at in &found {
            self.leases.entry(*at).or_default().push((annotator, now + LEASE));
        }
        found.into_iter().map(|at| self.items[at].photo).collect()
    }

    /// Removes a photo from the queue for good.
    pub(super) fn withdraw(&mut self, photo: i64) {
        let Some(at) = self.place(photo) else {
            return;
        };
        self.count(at, false);
        self.by_photo.retain(|known| *known as usize != at);
        // With no open labels, no annotator receives it.
        self.items[at].wanted = 0;
        self.reopened.remove(&at);
        self.leases.remove(&at);
        self.aside.remove(&at);
        self.withdrawn.insert(photo);
    }

    /// Sets a photo aside that cannot be shown: nobody receives it until it is shown again.
    pub(super) fn set_aside(&mut self, photo: i64, reason: String) {
        if let Some(at) = self.place(photo).filter(|at| self.items[*at].open() > 0) {
            self.reopened.remove(&at);
            self.leases.remove(&at);
            self.aside.insert(at, reason);
        }
    }

    /// Puts a photo back that was set aside: it can be shown.
    pub(super) fn put_back(&mut self, photo: i64) {
        if let Some(at) = self.place(photo)
            && self.aside.remove(&at).is_some()
        {
            self.reopened.insert(at);
        }
    }

    /// Puts all photos back that were set aside, so that they are tried again.
    pub(super) fn put_all_back(&mut self) {
        self.reopened.extend(std::mem::take(&mut self.aside).into_keys());
    }

    /// The labels that are missing of photos that were set aside.
    pub(super) fn labels_aside(&self) -> usize {
        self.aside.keys().map(|at| self.items[*at].open()).sum()
    }

    /// The photos that were set aside, each with the reason.
    pub(super) fn aside(&self) -> impl ExactSizeIterator<Item = (i64, &str)> {
        self.aside
            .iter()
            .map(|(at, reason)| (self.items[*at].photo, reason.as_str()))
    }

    pub(super) fn was_withdrawn(&self, photo: i64) -> bool {
        self.withdrawn.contains(&photo)
    }

    /// Records an annotator's current answer on a photo; `None` removes it.
    pub(super) fn note(&mut self, photo: i64, annotator: i64, said: Option<Categories>) {
        let Some(at) = self.place(photo) else {
            return;
        };
        self.count(at, false);
        let given = &mut self.items[at].given;
        given.retain(|(who, _)| *who != annotator);
        if let Some(said) = said {
            // Most photos have one answer; a vector that grows by itself would allocate room for four.
            given.reserve_exact(1);
            given.push((annotator, said));
        }
        match (said, self.items[at].open()) {
            (_, 0) => {
                self.reopened.remove(&at);
                self.aside.remove(&at);
            }
            (None, _) if self.aside.contains_key(&at) => {}
            (None, _) => {
                self.reopened.insert(at);
            }
            (Some(_), _) => {}
        }
        self.count(at, true);
    }

    /// Adds the photo at a place to the counts, or subtracts it.
    fn count(&mut self, at: usize, add: bool) {
        let item = &self.items[at];
        let change = |count: &mut u64, by: u64| match add {
            true => *count += by,
            false => *count -= by,
        };
        let open = item.open() as u64;
        change(&mut self.counts.photos, 1);
        change(&mut self.counts.done, u64::from(open == 0));
        change(&mut self.counts.labels_open, open);
        change(
            &mut self.counts.wait_for_second,
            u64::from(open == 1 && item.wanted == 2),
        );
        for (before, first) in item.given.iter().enumerate() {
            for second in &item.given[before + 1..] {
                let (one, other) = match first.0 < second.0 {
                    true => (first, second),
                    false => (second, first),
                };
                let verdict = 2 * usize::from(one.1.any_of(self.bad)) + usize::from(other.1.any_of(self.bad));
                change(&mut self.pairs.entry([one.0, other.0]).or_default()[verdict], 1);
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The verdicts of each pair of annotators on the photos that both labeled; the smaller number comes
    /// first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = ([i64; 2], Agreement)> {
        let shared = self
            .pairs
            .iter()
            .filter(|(_, said)| said.iter().any(|photos| *photos > 0));
        shared.map(|(annotators, said)| (*annotators, *said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::review::Category;

    fn queue(wanted: &[u8]) -> Queue {
        let item = |(at, wanted): (usize, &u8)| Item {
            photo: at as i64 + 1,
            score: None,
            wanted: *wanted,
            given: Vec::new(),
        };
        let bad = [Category::Person].iter().collect();
        Queue::new(wanted.iter().enumerate().map(item).collect(), bad)
    }

    #[test]
    fn nobody_sees_what_another_looks_at_unless_two_shall() {
        let mut queue = queue(&[1, 2, 1, 1]);
        let now = Instant::now();
        assert_eq!(queue.next(7, 2, now), [1, 2]);
        assert_eq!(queue.next(8, 9, now), [2, 3, 4]);
        // A second request returns the same photos.
        assert_eq!(queue.next(7, 2, now), [1, 2]);
        assert_eq!(queue.next(9, 9, now), [] as [i64; 0]);
        // Leases of annotators who left expire.
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
        assert_eq!(queue.pairs().collect::<Vec<_>>(), [([7, 8], [0, 1, 0, 0])]);
        // After an undo it is open again.
        queue.note(1, 7, None);
        assert_eq!(queue.next(7, 9, now), [1]);
    }

    #[test]
    fn photos_that_cannot_be_shown_hold_nobody_up() {
        let mut queue = queue(&[1, 1, 2, 1]);
        let now = Instant::now();
        assert_eq!(queue.next(7, 2, now), [1, 2]);
        queue.set_aside(1, "missing".to_string());
        queue.set_aside(3, "changed".to_string());
        queue.note(2, 7, Some(Categories::default()));
        // They stay open, and nobody receives them.
        assert_eq!(queue.next(7, 9, now), [4]);
        assert_eq!(queue.counts().labels_open, 4);
        assert_eq!(
            queue.aside().collect::<Vec<_>>(),
            [(1, "missing"), (3, "changed")]
        );
        queue.note(4, 7, Some(Categories::default()));
        queue.note(4, 7, None);
        assert_eq!(queue.next(7, 9, now), [4]);
        queue.put_back(3);
        assert_eq!(queue.next(7, 9, now), [3, 4]);
        queue.put_all_back();
        assert_eq!(queue.next(7, 9, now), [1, 3, 4]);
        assert_eq!(queue.aside().len(), 0);
        // A photo with all its labels needs none, shown or not.
        queue.set_aside(2, "missing".to_string());
        assert_eq!(queue.aside().len(), 0);
    }

    /// The counts, computed from every photo.
    fn counted(queue: &Queue) -> (Counts, Vec<([i64; 2], Agreement)>) {
        let again = Queue::new(queue.items.clone(), queue.bad);
        (again.counts(), again.pairs().collect())
    }

    #[test]
    fn counts_are_those_of_counting_all_and_nobody_misses_a_photo() {
        let wanted: Vec<u8> = (0..300).map(|at| 1 + u8::from(at % 7 == 0)).collect();
        let mut queue = queue(&wanted);
        let now = Instant::now();
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for round in 0..400 {
            let who = draw(4) as i64;
            // Sometimes an annotator leaves with photos on the screen.
            let photos = queue.next(who, 5, now + LEASE * (round / 40));
            for photo in photos {
                let bad: Categories = [Category::Person].into_iter().filter(|_| draw(3) == 0).collect();
                match draw(5) {
                    0 => {}
                    1 => queue.note(1 + draw(300) as i64, who, None),
                    _ => queue.note(photo, who, Some(bad)),
                }
            }
            assert_eq!(
                (queue.counts(), queue.pairs().collect()),
                counted(&queue),
                "round {round}"
            );
        }
        // Two annotators who keep returning finish everything, regardless of undone answers.
        let late = now + LEASE * 20;
        for who in [0, 1, 0, 1] {
            while let photos @ [_, ..] = &queue.next(who, 50, late)[..] {
                photos
                    .iter()
                    .for_each(|photo| queue.note(*photo, who, Some(Categories::default())));
            }
        }
        assert_eq!(queue.counts().labels_open, 0);
        assert_eq!(queue.counts().done, 300);
        assert!(queue.reopened.is_empty());
    }
}
