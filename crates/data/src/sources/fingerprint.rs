//! The fingerprint of a data set: SHA-256 over the sorted pairs of key and content hash.
//!
//! Data sets of ten million records are common, so the keys are in one text, whose memory returns to the
//! system when the fingerprint is taken; a `String` per key would stay in the allocator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::listing::{Listing, Reason};

/// The first half of a SHA-256, which is enough to recognize an image.
pub(crate) fn content_of(hash: &[u8; 32]) -> u128 {
    hash.first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

/// Keys of some records with the SHA-256 of their images, sorted.
#[derive(Debug, Default)]
pub(crate) struct HashedKeys {
    /// Keys, concatenated in order of arrival.
    keys: String,
    /// Where each key ends in `keys`.
    ends: Vec<usize>,
    hashes: Vec<[u8; 32]>,
    /// Numbers of the records, smallest pair first.
    order: Vec<u32>,
}

impl HashedKeys {
    /// Sorts the items of an iterator; at most 2³² pairs.
    pub(crate) fn sorted<K: AsRef<str>>(pairs: impl ExactSizeIterator<Item = (K, [u8; 32])>) -> Self {
        let mut hashed = HashedKeys {
            ends: Vec::with_capacity(pairs.len()),
            hashes: Vec::with_capacity(pairs.len()),
            ..HashedKeys::default()
        };
        for (key, hash) in pairs {
            hashed.keys.push_str(key.as_ref());
            hashed.ends.push(hashed.keys.len());
            hashed.hashes.push(hash);
        }
        let mut order: Vec<u32> = (0..hashed.ends.len() as u32).collect();
        order.sort_unstable_by(|a, b| hashed.pair(*a).cmp(&hashed.pair(*b)));
        hashed.order = order;
        hashed
    }

    /// The first 64 bits of each hash.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = u64> {
        let first = |hash: &[u8; 32]| hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.hashes.iter().map(first)
    }

    fn pair(&self, record: u32) -> (&str, &[u8; 32]) {
        let record = record as usize;
        let start = record.checked_sub(1).map_or(0, |before| self.ends[before]);
        (&self.keys[start..self.ends[record]], &self.hashes[record])
    }

    /// For each length of keys the places of their capitals; `None` where they differ.
    fn capitals_by_length(&self) -> Option<Vec<Option<u64>>> {
        let mut known: Vec<Option<u64>> = Vec::new();
        for record in 0..self.ends.len() as u32 {
            let (key, _) = self.pair(record);
            let places = places_of_capitals(key)?;
            if known.len() <= key.len() {
                known.resize(key.len() + 1, None);
            }
            if *known[key.len()].get_or_insert(places) != places {
                return None;
            }
        }
        Some(known)
    }

    fn in_order(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        self.order.iter().map(|record| self.pair(*record))
    }
}

/// SHA-256 in hex over the sorted pairs of all parts: each key, a zero byte, the 32 bytes of the content
/// hash. Counts keys that occur more than once, and keys that differ in case alone.
pub(crate) fn fingerprint(parts: &[HashedKeys], listing: &mut Listing) -> String {
    let mut rests: Vec<_> = parts.iter().map(HashedKeys::in_order).collect();
    let mut heads: BinaryHeap<_> = rests
        .iter_mut()
        .enumerate()
        .filter_map(|(part, rest)| Some(Reverse((rest.next()?, part))))
        .collect();
    let mut hasher = Sha256::new();
    let mut last: Option<&str> = None;
    while let Some(mut smallest) = heads.peek_mut() {
        let Reverse(((key, hash), part)) = *smallest;
        hasher.update(key);
        hasher.update([0]);
        hasher.update(hash);
        if last == Some(key) {
            listing.add(Reason::RepeatedKey, "", || key.to_string());
        }
        last = Some(key);
        match rests[part].next() {
            Some(pair) => *smallest = Reverse((pair, part)),
            None => {
                std::collections::binary_heap::PeekMut::pop(smallest);
            }
        }
    }
    equal_but_for_case(parts, listing);
    hex(&hasher.finalize())
}

/// Counts keys that another key equals but for upper and lower case: one file on some systems.
///
/// Keys of ten million records mostly have no capitals, or all at the same places. Two passes without a
/// comparison of keys notice that; only other keys are compared.
fn equal_but_for_case(parts: &[HashedKeys], listing: &mut Listing) {
    let is_small = |byte: u8| byte.is_ascii() & !byte.is_ascii_uppercase();
    if parts
        .par_iter()
        .all(|part| part.keys.bytes().fold(true, |all, byte| all & is_small(byte)))
    {
        return;
    }
    // Two such keys have equal lengths, and capitals at different places.
    let alike = parts
        .par_iter()
        .map(HashedKeys::capitals_by_length)
        .reduce(|| Some(Vec::new()), alike);
    if alike.is_some() {
        return;
    }
    let mut letters: Vec<(u64, u32, u32)> = parts
        .par_iter()
        .enumerate()
        .flat_map_iter(|(part, keys)| {
            (0..keys.ends.len() as u32)
                .map(move |record| (hash_of_letters(keys.pair(record).0), part as u32, record))
        })
        .collect();
    letters.par_sort_unstable();
    let key = |&(_, part, record): &(u64, u32, u32)| parts[part as usize].pair(record).0;
    for same in letters
        .chunk_by(|one, two| one.0 == two.0)
        .filter(|same| same.len() > 1)
    {
        let mut keys: Vec<&str> = same.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        for pair in keys
            .windows(2)
            .filter(|pair| pair[0].to_lowercase() == pair[1].to_lowercase())
        {
            listing.add(Reason::KeysEqualButForCase, "", || {
                format!("{}, {}", pair[0], pair[1])
            });
        }
    }
}

/// Two results of [`HashedKeys::capitals_by_length`] as one.
fn alike(one: Option<Vec<Option<u64>>>, two: Option<Vec<Option<u64>>>) -> Option<Vec<Option<u64>>> {
    let (mut one, two) = (one?, two?);
    one.resize(one.len().max(two.len()), None);
    for (one, two) in one.iter_mut().zip(two) {
        match (*one, two) {
            (Some(one), Some(two)) if one != two => return None,
            (None, two) => *one = two,
            _ => {}
        }
    }
    Some(one)
}

/// A number that differs where capitals are at other places; `None` for keys beyond ASCII.
fn places_of_capitals(key: &str) -> Option<u64> {
    let mut places = 0u64;
    for (at, byte) in key.bytes().enumerate() {
        if !byte.is_ascii() {
            return None;
        }
        if byte.is_ascii_uppercase() {
            places = (places.rotate_left(7) ^ (at as u64 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
    Some(places)
}

/// A hash of a key without regard to case (FNV-1a).
fn hash_of_letters(key: &str) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    match key.is_ascii() {
        true => key.bytes().for_each(|byte| add(byte.to_ascii_lowercase())),
        false => key.to_lowercase().bytes().for_each(add),
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_and_their_order_do_not_matter(
            pairs in proptest::collection::vec(("[a-c/]{0,4}", any::<[u8; 32]>()), 0..40),
            part in 1usize..9,
        ) {
            let mut sorted = pairs.clone();
            sorted.sort();
            let mut hasher = Sha256::new();
            for (key, hash) in &sorted {
                hasher.update(key);
                hasher.update([0]);
                hasher.update(hash);
            }
            let parts: Vec<_> = pairs.chunks(part).map(|part| HashedKeys::sorted(part.iter().cloned())).collect();
            prop_assert_eq!(fingerprint(&parts, &mut Listing::default()), hex(&hasher.finalize()));
        }
    }

    #[test]
    fn repeated_keys_and_keys_equal_but_for_case_are_counted_over_all_parts() {
        let part = |keys: &[&str]| {
            let pairs = keys.iter().map(|key| (key.to_string(), [0; 32]));
            HashedKeys::sorted(pairs.collect::<Vec<_>>().into_iter())
        };
        let listing_of = |parts: &[HashedKeys]| {
            let mut listing = Listing::default();
            fingerprint(parts, &mut listing);
            listing
        };
        let listing = listing_of(&[
            part(&["a/x", "b/Y", "c"]),
            part(&["A/x", "c", "É", "b/Y", "é"]),
            part(&["c"]),
        ]);
        assert_eq!(
            listing.count(Reason::RepeatedKey),
            3,
            "`b/Y` again, `c` twice again"
        );
        assert_eq!(listing.example(Reason::RepeatedKey), Some("b/Y"));
        assert_eq!(listing.count(Reason::KeysEqualButForCase), 2);
        assert!(listing.example(Reason::KeysEqualButForCase).is_some());
        // Capitals at the same places: nothing to compare.
        assert!(listing_of(&[part(&["IMG_1", "IMG_2", "img"]), part(&["IMG_3"])]).is_empty());
    }
}
