//! Stateless random draws: a run's seed, a purpose, the step and an index in; a generator, an order or a
//! number out.
//!
//! This file alone defines the meaning of a seed. The algorithms from random bits to numbers and orders are
//! implemented here, because a library's may change between versions and change every run's draws.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The source of every random draw of a step, without state: a draw is a function of the run's seed, its
/// purpose, the step, and an index within the step. So a resumed run draws the same as an uninterrupted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    step: u64,
    /// The part of the step, hashed; 0 is the first.
    part: u64,
}

impl Draws {
    /// The draws of one optimizer step of the run with this seed.
    pub fn new(seed: u64, step: u64) -> Self {
        Self { seed, step, part: 0 }
    }

    /// The draws of the n-th part of this step: another forward pass of one network, or a micro-batch. Parts
    /// draw independently; `part(0)` draws the same as the step itself. Parts nest: `part(2).part(1)` differs
    /// from `part(1).part(2)` and from `part(2)`.
    pub fn part(&self, n: u64) -> Self {
        if self.part == 0 && n == 0 {
            return *self;
        }
        let part = hash_bytes(hash_bytes(FNV_START, &self.part.to_le_bytes()), &n.to_le_bytes());
        Self { part, ..*self }
    }

    /// The draws of the whole step, from any of its parts. They serve draws per image, which then do not
    /// depend on micro-batches. The index is the image's position in the step, counted over all
    /// micro-batches.
    pub fn whole_step(&self) -> Self {
        Self { part: 0, ..*self }
    }

    /// A generator for one purpose; generators of different purposes, steps or indices are independent.
    ///
    /// `purpose` names the use (`"moco.shuffle"`), so that new methods need no central list of purposes;
    /// `index` distinguishes the draws of one purpose within a step (an image's record position, a layer, a
    /// micro-batch).
    pub fn rng(&self, purpose: &str, index: u64) -> ChaCha8Rng {
        rng_of([self.seed, hash_name(purpose) ^ self.part, self.step, index])
    }

    /// Shuffles `items` into a uniformly random order, determined by this purpose and index.
    ///
    /// Fisher-Yates from the front: item `i` is swapped with one of items `0..=i`. One 32-bit number gives
    /// several of these choices, as in `rand` 0.10, whose orders earlier versions of this program used.
    ///
    /// # Panics
    /// If there are 2³² − 1 items or more.
    pub fn shuffle<T>(&self, purpose: &str, index: u64, items: &mut [T]) {
        assert!(items.len() < u32::MAX as usize, "too many items to shuffle");
        let mut rng = self.rng(purpose, index);
        // `chunk` is uniform below the product of the sizes that it still has to choose from. The first item
        // has only one position and needs no draw.
        let (mut chunk, mut left) = (0u32, 1u32);
        for last in 0..items.len() {
            let size = last as u32 + 1;
            if left == 0 {
                let (product, sizes) = largest_product(size);
                chunk = below_32(&mut rng, product as usize) as u32;
                left = sizes;
            }
            left -= 1;
            let chosen = if left == 0 { chunk } else { chunk % size };
            chunk /= size;
            items.swap(last, chosen as usize);
        }
    }
}

/// The largest product `first * (first + 1) * …` below 2³², and its number of factors; at least one.
fn largest_product(first: u32) -> (u32, u32) {
    let (mut product, mut count) = (first, 1);
    while let Some(larger) = product.checked_mul(first + count) {
        (product, count) = (larger, count + 1);
    }
    (product, count)
}

/// Uniform on `0..end`: Canon's method with one further draw when the first is undecided, which leaves a bias
/// of at most 2⁻³².
///
/// # Panics
/// If `end` exceeds u32.
pub fn below_32(rng: &mut impl Rng, end: usize) -> usize {
    assert!(u32::try_from(end).is_ok(), "{end} exceeds 32 bits");
    let end = end as u32;
    let mut product = || u64::from(rng.next_u32()) * u64::from(end);
    let first = product();
    let (high, low) = ((first >> 32) as u32, first as u32);
    if low <= end.wrapping_neg() {
        return high as usize;
    }
    let next = (product() >> 32) as u32;
    (high + u32::from(low.checked_add(next).is_none())) as usize
}

/// Uniform on `[0, 1)`: 53 bits, the fraction of an f64.
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform on `0..end`, `end` at least 1; the bias is `end` · 2⁻⁶⁴ at most.
pub fn below(rng: &mut impl Rng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// Moves `count` of the items, chosen at random without replacement, to the front in random order: the first
/// steps of a Fisher-Yates shuffle.
///
/// # Panics
/// If there are fewer items.
pub fn choose<T>(rng: &mut impl Rng, items: &mut [T], count: usize) {
    for place in 0..count {
        items.swap(place, place + below(rng, items.len() - place));
    }
}

/// `amount` distinct numbers of `0..length` in random order: Floyd's algorithm for few, the first steps of a shuffle
/// for many, and redrawing of repeats for few of a large range. The limits between them are part of a seed's meaning.
///
/// # Panics
/// If `amount` exceeds `length`, or `length` exceeds u32.
pub fn sample(rng: &mut impl Rng, length: usize, amount: usize) -> Vec<usize> {
    assert!(amount <= length, "cannot choose {amount} of {length}");
    let count = amount as f32;
    let shuffles = |least: usize, bound: [f32; 2]| {
        amount >= least && (length as f32) < bound[usize::from(length >= 500_000)]
    };
    let few = amount < 163;
    let shuffled = match few {
        true => shuffles(
            12,
            [
                (10.0 + 1.6 * count) * count,
                (70.0 / 9.0 + 8.0 / 45.0 * count) * count,
            ],
        ),
        false => shuffles(163, [270.0 * count, 330.0 / 9.0 * count]),
    };
    if shuffled {
        let mut items: Vec<usize> = (0..length).collect();
        for place in 0..amount {
            items.swap(place, place + below_32(rng, length - place));
        }
        items.truncate(amount);
        return items;
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(amount);
    if few {
        for last in length - amount..length {
            let drawn = below_32(rng, last + 1);
            // A repeat stands for `last`, at the place of the first.
            if let Some(place) = chosen.iter().position(|item| *item == drawn) {
                chosen[place] = last;
            }
            chosen.push(drawn);
        }
        return chosen;
    }
    assert!(u32::try_from(length).is_ok(), "{length} exceeds 32 bits");
    let end = length as u32;
    let mut known = HashSet::with_capacity(amount);
    while chosen.len() < amount {
        let product = u64::from(rng.next_u32()) * u64::from(end);
        // Without bias: the lowest 2³² mod `end` products are drawn again.
        let unbiased = product as u32 >= end.wrapping_neg() % end;
        let drawn = (product >> 32) as usize;
        if unbiased && known.insert(drawn) {
            chosen.push(drawn);
        }
    }
    chosen
}

/// ChaCha with 8 rounds, keyed by four words. The key alone selects the stream, so equal keys give equal
/// streams.
pub(crate) fn rng_of(words: [u64; 4]) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// FNV-1a, 64 bits. Implemented here because the standard library's hashers may change between Rust versions,
/// and these values define the meaning of a seed.
pub(crate) fn hash_name(name: &str) -> u64 {
    hash_bytes(FNV_START, name.as_bytes())
}

/// The FNV-1a hash of no bytes.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Extends `hash`, an FNV-1a hash, by further bytes.
fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use std::collections::BTreeSet;

    #[test]
    fn draws_depend_on_every_part_of_their_key() {
        let first = |seed, step, purpose, index| Draws::new(seed, step).rng(purpose, index).next_u64();
        let value = first(1, 2, "a", 3);
        assert_eq!(value, first(1, 2, "a", 3));
        assert_ne!(value, first(2, 2, "a", 3));
        assert_ne!(value, first(1, 3, "a", 3));
        assert_ne!(value, first(1, 2, "b", 3));
        assert_ne!(value, first(1, 2, "a", 4));
    }

    #[test]
    fn parts_of_a_step_draw_apart() {
        let step = Draws::new(1, 2);
        let parts = [
            step,
            step.part(1),
            step.part(2),
            step.part(1).part(0),
            step.part(1).part(2),
            step.part(2).part(1),
        ];
        assert_eq!(step.part(0), step);
        assert_eq!(step.part(2).part(1).whole_step(), step);
        let values = parts.map(|draws| draws.rng("a", 3).next_u64());
        let distinct = BTreeSet::from(values);
        assert_eq!(distinct.len(), values.len());
        // A part is separate within its step and purpose; other steps have their own parts.
        let value = |draws: Draws, purpose| draws.part(1).rng(purpose, 3).next_u64();
        assert_ne!(value(step, "a"), value(step, "b"));
        assert_ne!(value(step, "a"), value(Draws::new(1, 3), "a"));
    }

    fn shuffled(count: u32, step: u64) -> Vec<u32> {
        let mut items: Vec<u32> = (0..count).collect();
        Draws::new(7, step).shuffle("test", 1, &mut items);
        items
    }

    /// A seed must mean the same order in every later version.
    #[test]
    fn orders_are_pinned() {
        assert!(shuffled(0, 0).is_empty());
        assert_eq!(shuffled(1, 0), [0]);
        assert_eq!(shuffled(12, 0), [0, 9, 8, 10, 6, 3, 5, 7, 2, 1, 4, 11]);
        let last_of = |count| shuffled(count, 3).into_iter().next_back().unwrap();
        assert_eq!([1000, 100_000].map(last_of), [643, 77_237]);
    }

    /// A seed must mean the same sample in every later version: few, many, and few of a large range.
    #[test]
    fn samples_are_pinned() {
        let of = |length, amount| sample(&mut Draws::new(7, 3).rng("sample", 0), length, amount);
        assert_eq!(of(100, 5), [25, 75, 84, 0, 48]);
        let last = |length, amount| of(length, amount).into_iter().next_back().unwrap();
        assert_eq!([last(1000, 400), last(10_000_000, 200)], [186, 7_652_767]);
        assert!(of(0, 0).is_empty());
    }

    /// Earlier versions sampled by `rand` 0.10. If a later `rand` differs, remove this test and keep the code.
    #[test]
    fn samples_are_those_of_rand_0_10() {
        let amounts = [0, 1, 2, 11, 12, 13, 40, 162, 163, 164, 1000];
        let lengths = [
            1, 2, 12, 100, 250, 900, 5000, 46_000, 499_999, 500_000, 600_000, 3_000_000,
        ];
        for (length, amount) in lengths
            .into_iter()
            .flat_map(|length| amounts.map(|amount| (length, amount)))
        {
            if amount <= length {
                let rng = || Draws::new(1, length as u64).rng("sample", amount as u64);
                let theirs = rand::seq::index::sample(&mut rng(), length, amount).into_vec();
                assert_eq!(sample(&mut rng(), length, amount), theirs, "{amount} of {length}");
            }
        }
    }

    /// Runs of earlier versions were shuffled by `rand` 0.10. If a later `rand` differs, remove this test and
    /// keep the code.
    #[test]
    fn orders_are_those_of_rand_0_10() {
        for step in 0..200 {
            // Every length up to a few hundred, and lengths at which a 32-bit number holds two choices, then
            // one.
            for count in [step as u32, 2000, 65_530 + step as u32, 70_000] {
                let mut items: Vec<u32> = (0..count).collect();
                items.shuffle(&mut Draws::new(7, step).rng("test", 1));
                assert!(items == shuffled(count, step), "{count} items in step {step}");
            }
        }
    }

    #[test]
    fn choices_are_uniform() {
        let mut rng = Draws::new(0, 0).rng("test", 0);
        let mut counts = [0u32; 12];
        for _ in 0..4000 {
            let mut items: Vec<usize> = (0..12).collect();
            choose(&mut rng, &mut items, 3);
            assert_eq!(BTreeSet::from_iter(items.clone()).len(), 12);
            items[..3].iter().for_each(|item| counts[*item] += 1);
        }
        // Each is chosen 1,000 times of 4,000, with a standard deviation of √(4000 · ¼ · ¾) = 27.
        assert!(
            counts.iter().all(|count| count.abs_diff(1000) < 4 * 27),
            "{counts:?}"
        );
        let values: Vec<f64> = (0..4000).map(|_| uniform(&mut rng)).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        // The standard error of the mean is 1 / √(12 · 4000) = 0.0046.
        assert!((values.iter().sum::<f64>() / 4000.0 - 0.5).abs() < 4.0 * 0.0046);
    }

    /// The second draw of Canon's method is rare, so this generator's first number is undecided on purpose.
    #[test]
    fn a_number_that_decides_too_little_is_drawn_further() {
        struct Fixed(Vec<u32>);
        impl rand::TryRng for Fixed {
            type Error = std::convert::Infallible;
            fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
                Ok(self.0.remove(0))
            }
            fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
                unreachable!("32 bits are drawn")
            }
            fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Self::Error> {
                unreachable!("32 bits are drawn")
            }
        }
        // 3 · 0x5555_5555 = 0xffff_ffff: above 2³² − 3, so the next number's product decides.
        assert_eq!(below_32(&mut Fixed(vec![0x5555_5555, 0]), 3), 0);
        assert_eq!(below_32(&mut Fixed(vec![0x5555_5555, u32::MAX]), 3), 1);
        assert_eq!(below_32(&mut Fixed(vec![0x5555_5554]), 3), 0);
    }

    /// A seed must mean the same in every later version: these are the published FNV-1a values.
    #[test]
    fn names_hash_as_published() {
        assert_eq!(hash_name(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_name("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash_name("foobar"), 0x8594_4171_f739_67e8);
    }
}
