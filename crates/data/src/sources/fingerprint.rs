//! The fingerprint of a data set: SHA-256 over the sorted pairs of key and content hash.
//!
//! Data sets of ten million records are common, so the keys are in one text, whose memory returns to the
//! system when the fingerprint is taken; a `String` per key would stay in the allocator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use sha2::{Digest, Sha256};

use crate::hex::hex;

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

    fn pair(&self, record: u32) -> (&str, &[u8; 32]) {
        let record = record as usize;
        let start = record.checked_sub(1).map_or(0, |before| self.ends[before]);
        (&self.keys[start..self.ends[record]], &self.hashes[record])
    }

    fn in_order(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        self.order.iter().map(|record| self.pair(*record))
    }
}

/// SHA-256 in hex over the sorted pairs of all parts: each key, a zero byte, the 32 bytes of the content
/// hash.
pub(crate) fn fingerprint(parts: &[HashedKeys]) -> String {
    let mut rests: Vec<_> = parts.iter().map(HashedKeys::in_order).collect();
    let mut heads: BinaryHeap<_> = rests
        .iter_mut()
        .enumerate()
        .filter_map(|(part, rest)| Some(Reverse((rest.next()?, part))))
        .collect();
    let mut hasher = Sha256::new();
    while let Some(mut smallest) = heads.peek_mut() {
        let Reverse(((key, hash), part)) = *smallest;
        hasher.update(key);
        hasher.update([0]);
        hasher.update(hash);
        match rests[part].next() {
            Some(pair) => *smallest = Reverse((pair, part)),
            None => {
                std::collections::binary_heap::PeekMut::pop(smallest);
            }
        }
    }
    hex(&hasher.finalize())
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
            prop_assert_eq!(fingerprint(&parts), hex(&hasher.finalize()));
        }
    }
}
