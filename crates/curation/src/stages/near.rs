//! Pairs of hashes that differ in few bits, found without comparing all with all.
//!
//! Hashes that differ in at most `d` of their 256 bits agree wholly in at least one of `d + 1` bands of
//! neighboring bits (pigeonhole; Norouzi, Punjani and Fleet, *Fast search in Hamming space with multi-index
//! hashing*, 2012). So each band is sorted, and only hashes that agree in it are compared. With `d` up to
//! about 12 a band has 20 bits or more, and among millions of photos few agree by chance. Equal hashes are
//! joined first, so that a thousand copies cost a thousand comparisons instead of a million. No pair is
//! missed.

/// Bytes of a perceptual hash.
pub(crate) const HASH_BYTES: usize = 32;
const BITS: usize = HASH_BYTES * 8;
/// A perceptual hash.
pub(crate) type Hash = [u8; HASH_BYTES];

/// The number of bits in which two hashes differ.
pub(crate) fn distance(a: &Hash, b: &Hash) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// Calls `found` once for each pair of positions, the smaller first, whose hashes are distinct and differ in
/// at most `most` bits. `hashes` must be distinct.
pub(crate) fn near_pairs(hashes: &[Hash], most: u32, mut found: impl FnMut(usize, usize, u32)) {
    let bands = most as usize + 1;
    let edges: Vec<usize> = (0..=bands).map(|band| band * BITS / bands).collect();
    let mut order: Vec<(u64, u32)> = Vec::with_capacity(hashes.len());
    for band in 0..bands {
        order.clear();
        order
            .extend((0..hashes.len()).map(|at| (bits(&hashes[at], edges[band], edges[band + 1]), at as u32)));
        order.sort_unstable();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            for (place, (_, first)) in group.iter().enumerate() {
                for (_, second) in &group[place + 1..] {
                    let (a, b) = (&hashes[*first as usize], &hashes[*second as usize]);
                    let distance = distance(a, b);
                    // A pair that agrees in several bands is reported in the first of them.
                    let is_reported = (0..band).any(|earlier| {
                        bits(a, edges[earlier], edges[earlier + 1])
                            == bits(b, edges[earlier], edges[earlier + 1])
                    });
                    if distance <= most && !is_reported {
                        found(*first.min(second) as usize, *first.max(second) as usize, distance);
                    }
                }
            }
        }
    }
}

/// Bits `from..to` of a hash. Of a band wider than 64 bits only the first 64, which costs more comparisons
/// and misses no pair.
fn bits(hash: &Hash, from: usize, to: usize) -> u64 {
    let to = to.min(from + 64);
    // Nine bytes hold any 64 bits.
    let start = from / 8;
    let mut window = 0u128;
    for at in start..start + 9 {
        window = window << 8 | u128::from(hash.get(at).copied().unwrap_or(0));
    }
    let width = to - from;
    let shift = 72 - (from - start * 8) - width;
    let mask = if width == 64 {
        u128::from(u64::MAX)
    } else {
        (1 << width) - 1
    };
    (window >> shift & mask) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bands_are_cut_at_any_bit() {
        let mut hash = [0; HASH_BYTES];
        (hash[0], hash[1], hash[31]) = (0b1010_0001, 0b1100_0000, 0b0000_0101);
        assert_eq!(bits(&hash, 0, 3), 0b101);
        assert_eq!(bits(&hash, 7, 10), 0b111);
        assert_eq!(bits(&hash, 253, 256), 0b101);
        assert_eq!(bits(&hash, 0, 256), 0b1010_0001_1100_0000 << 48);
    }

    proptest! {
        #[test]
        fn no_pair_is_missed_and_none_told_twice(
            seeds in proptest::collection::vec(any::<[u8; 32]>(), 1..6),
            flips in proptest::collection::vec((0usize..6, proptest::collection::vec(0usize..256, 0..14)), 1..40),
            most in 0u32..14,
        ) {
            let mut hashes: Vec<Hash> = flips
                .iter()
                .map(|(seed, flips)| {
                    let mut hash = seeds[seed % seeds.len()];
                    for bit in flips {
                        hash[bit / 8] ^= 1 << (bit % 8);
                    }
                    hash
                })
                .collect();
            hashes.sort_unstable();
            hashes.dedup();
            let mut found = Vec::new();
            near_pairs(&hashes, most, |a, b, distance| found.push((a, b, distance)));
            found.sort_unstable();
            let mut expected = Vec::new();
            for a in 0..hashes.len() {
                for b in a + 1..hashes.len() {
                    let distance = distance(&hashes[a], &hashes[b]);
                    if distance <= most {
                        expected.push((a, b, distance));
                    }
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
