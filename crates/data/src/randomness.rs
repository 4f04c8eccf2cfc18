//! Stateless randomness: every draw is a function of its purpose, never of the thread that draws it or of the
//! time.
//!
//! A generator is ChaCha8 under a 256-bit key of four words: seed, purpose, epoch, and record position with
//! view. Draws with different keys are independent, and each can be repeated on its own, so the stream of
//! views is the same for any number of workers and after any resume.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The purpose of a draw. These numbers determine the result of a seed: never change or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The order of the records in an epoch.
    EpochOrder = 1,
    /// The augmentations of one view.
    View = 2,
    /// The pictures of the synthetic data set.
    Synthetic = 3,
    /// The order in which records are packed into shards.
    PackOrder = 4,
}

/// The most views per record and epoch that the key can distinguish.
const VIEW_BITS: u32 = 16;

/// The generator of one key.
///
/// `position` must be below 2^48 and `view` below 2^16, which the loader's checks ensure.
pub(crate) fn generator(seed: u64, purpose: Purpose, epoch: u64, position: u64, view: u64) -> ChaCha8Rng {
    debug_assert!(position < 1 << (u64::BITS - VIEW_BITS) && view < 1 << VIEW_BITS);
    let mut key = [0u8; 32];
    let words = [seed, purpose as u64, epoch, position << VIEW_BITS | view];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A number drawn uniformly from `low` (included) to `high`; `low` where the two are equal.
pub(crate) fn uniform(generator: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * generator.random::<f64>()
}

/// True with the given probability; 0 never and 1 always.
pub(crate) fn happens(generator: &mut ChaCha8Rng, probability: f64) -> bool {
    // `random` is below 1, so probability 1 always holds and probability 0 never does.
    generator.random::<f64>() < probability
}

/// A number drawn from the normal distribution of mean 0 and deviation 1 (Box and Muller).
pub(crate) fn gaussian(generator: &mut ChaCha8Rng) -> f64 {
    // Above 0, whose logarithm does not exist.
    let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * generator.random::<f64>()).cos()
}

/// Puts the items in a uniformly random order (Fisher and Yates).
pub(crate) fn shuffle<T>(items: &mut [T], generator: &mut ChaCha8Rng) {
    // Written here and not taken from `rand`, whose algorithm may change between versions and with it every
    // run's order.
    for last in (1..items.len()).rev() {
        let chosen = below(generator, last as u64 + 1) as usize;
        items.swap(last, chosen);
    }
}

/// A whole number drawn uniformly from 0 to `end` - 1, without bias (Lemire's method).
pub(crate) fn below(generator: &mut ChaCha8Rng, end: u64) -> u64 {
    debug_assert!(end > 0);
    loop {
        let product = u128::from(generator.random::<u64>()) * u128::from(end);
        let low = product as u64;
        // Only the lowest 2^64 mod `end` products are over-represented; draw again for those.
        if low >= end || low >= end.wrapping_neg() % end {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_the_key_matters() {
        let draw = |seed, purpose, epoch, position, view| {
            generator(seed, purpose, epoch, position, view).random::<u64>()
        };
        let all = [
            draw(1, Purpose::View, 2, 3, 4),
            draw(9, Purpose::View, 2, 3, 4),
            draw(1, Purpose::EpochOrder, 2, 3, 4),
            draw(1, Purpose::View, 9, 3, 4),
            draw(1, Purpose::View, 2, 9, 4),
            draw(1, Purpose::View, 2, 3, 9),
        ];
        let distinct: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[0], draw(1, Purpose::View, 2, 3, 4));
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut counts = [0u32; 7];
        let mut source = generator(0, Purpose::View, 0, 0, 0);
        for _ in 0..70_000 {
            counts[below(&mut source, 7) as usize] += 1;
        }
        // Standard deviation of each count is about 93.
        assert!(
            counts.iter().all(|&count| (9_600..10_400).contains(&count)),
            "{counts:?}"
        );
    }

    #[test]
    fn certain_and_impossible_events() {
        let mut source = generator(0, Purpose::View, 0, 0, 0);
        assert!((0..1000).all(|_| happens(&mut source, 1.0)));
        assert!((0..1000).all(|_| !happens(&mut source, 0.0)));
    }
}
