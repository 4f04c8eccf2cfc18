//! The fingerprint of a data set: SHA-256 over the sorted pairs of key and content hash.
//!
//! Data sets of ten million records are common, so keys are compared where they are, and hashes are in one vector,
//! whose memory returns to the system; many small ones would stay in the allocator.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::key::Key;
use super::table::Table;
use crate::contents::ContentSample;
use crate::hex::hex;
use crate::listing::{Listing, Reason};

/// Where the keys of some records are.
#[derive(Debug)]
pub(crate) enum Keys<'t> {
    /// In the names of shards, which have them in parts already.
    Table(&'t Table),
    /// One after the other, each with its end.
    Text(String, Vec<usize>),
}

/// Keys of some records with the SHA-256 of their images, sorted. Of ten million records only hashes and order are
/// copies, 36 bytes a record.
#[derive(Debug)]
pub(crate) struct HashedKeys<'t> {
    keys: Keys<'t>,
    hashes: Cow<'t, [[u8; 32]]>,
    /// Numbers of the records, smallest pair first.
    order: Cow<'t, [u32]>,
}

impl<'t> Keys<'t> {
    /// Those of a shard.
    pub(crate) fn of_shard(table: &'t Table) -> Self {
        // Its names end before their first dot; a key from any other name is put together.
        if !table.names.contains('.') {
            return Keys::Table(table);
        }
        Keys::text((0..table.len()).map(|row| table.key(row)))
    }

    fn text(keys: impl Iterator<Item = impl AsRef<str>>) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for key in keys {
            text.push_str(key.as_ref());
            ends.push(text.len());
        }
        Keys::Text(text, ends)
    }
}

impl<'t> HashedKeys<'t> {
    /// Sorts the items of an iterator; at most 2³² pairs.
    pub(crate) fn sorted<K: AsRef<str>>(pairs: impl ExactSizeIterator<Item = (K, [u8; 32])>) -> Self {
        let mut hashes = Vec::with_capacity(pairs.len());
        let keys = Keys::text(pairs.map(|(key, hash)| {
            hashes.push(hash);
            key
        }));
        let order = order(&keys, &hashes);
        HashedKeys {
            keys,
            hashes: hashes.into(),
            order: order.into(),
        }
    }

    /// The records of a folder, whose hashes leave the table.
    fn taken_from(table: &mut Table) -> Self {
        let hashes = table.take_hashes();
        let pairs = hashes.into_iter().enumerate();
        Self::sorted(pairs.map(|(row, hash)| (table.key(row), hash)))
    }

    /// The records of a shard, sorted before.
    pub(crate) fn of_shard(table: &'t Table, hashes: &'t [[u8; 32]], order: &'t [u32]) -> Self {
        HashedKeys {
            keys: Keys::of_shard(table),
            hashes: hashes.into(),
            order: order.into(),
        }
    }

    /// The first 64 bits of each hash.
    fn prefixes(&self) -> impl Iterator<Item = u64> {
        let first = |hash: &[u8; 32]| hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.hashes.iter().map(first)
    }

    /// Whether no key has a capital or a letter beyond ASCII.
    fn has_small_letters_only(&self) -> bool {
        let is_small = |byte: u8| byte.is_ascii() & !byte.is_ascii_uppercase();
        let are_small = |text: &str| text.bytes().fold(true, |all, byte| all & is_small(byte));
        match &self.keys {
            Keys::Text(text, _) => are_small(text),
            Keys::Table(table) => {
                are_small(&table.names) && table.folders.iter().all(|(_, folder)| are_small(folder))
            }
        }
    }

    /// For each length of keys the places of their capitals; `None` where they differ.
    fn capitals_by_length(&self) -> Option<Vec<Option<u64>>> {
        let mut known: Vec<Option<u64>> = Vec::new();
        for record in 0..self.hashes.len() as u32 {
            let key = self.key(record);
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

    fn key(&self, record: u32) -> Key<'_> {
        self.keys.at(record)
    }

    /// The start of each key, the key and the hash, sorted.
    fn in_order(&self) -> impl Iterator<Item = (u64, Key<'_>, &[u8; 32])> {
        self.order.iter().map(|record| {
            let key = self.key(*record);
            (key.start(), key, &self.hashes[*record as usize])
        })
    }
}

impl Keys<'_> {
    fn at(&self, record: u32) -> Key<'_> {
        let record = record as usize;
        match self {
            Keys::Table(table) => table.shard_key(record),
            Keys::Text(text, ends) => {
                let start = record.checked_sub(1).map_or(0, |before| ends[before]);
                Key {
                    folder: "",
                    name: &text[start..ends[record]],
                }
            }
        }
    }
}

/// Numbers of the records, those of the smallest pair of key and hash first.
pub(crate) fn order(keys: &Keys<'_>, hashes: &[[u8; 32]]) -> Vec<u32> {
    let mut records: Vec<(u64, u32)> = (0..hashes.len() as u32)
        .map(|record| (keys.at(record).start(), record))
        .collect();
    let pair = |record: u32| (keys.at(record), &hashes[record as usize]);
    records.sort_unstable_by(|one, two| {
        let by_start = one.0.cmp(&two.0);
        by_start.then_with(|| pair(one.1).cmp(&pair(two.1)))
    });
    records.into_iter().map(|(_, record)| record).collect()
}

/// What the keys and hashes of all records say: the identity of a data set, and a sample of its images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) fingerprint: String,
    pub(crate) sample: ContentSample,
}

impl Identity {
    /// Of the records of a folder, whose hashes leave the table.
    pub(crate) fn of_folder(table: &mut Table, listing: &mut Listing) -> Self {
        Self::of(&[HashedKeys::taken_from(table)], listing)
    }

    /// Of records in parts. Counts keys that occur more than once, and keys that differ in case alone.
    pub(crate) fn of(parts: &[HashedKeys<'_>], listing: &mut Listing) -> Self {
        Identity {
            fingerprint: fingerprint(parts, listing),
            sample: ContentSample::of(parts.iter().flat_map(HashedKeys::prefixes)),
        }
    }
}

/// SHA-256 in hex over the sorted pairs of all parts: each key, a zero byte, the 32 bytes of the content
/// hash. Counts keys that occur more than once, and keys that differ in case alone.
fn fingerprint(parts: &[HashedKeys<'_>], listing: &mut Listing) -> String {
    let mut rests: Vec<_> = parts.iter().map(HashedKeys::in_order).collect();
    let mut heads: BinaryHeap<_> = rests
        .iter_mut()
        .enumerate()
        .filter_map(|(part, rest)| Some(Reverse((rest.next()?, part))))
        .collect();
    let mut hasher = Sha256::new();
    let mut last: Option<Key<'_>> = None;
    while let Some(mut smallest) = heads.peek_mut() {
        let Reverse(((_, key, hash), part)) = *smallest;
        hasher.update(key.folder);
        hasher.update(key.name);
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
fn equal_but_for_case(parts: &[HashedKeys<'_>], listing: &mut Listing) {
    if parts.par_iter().all(HashedKeys::has_small_letters_only) {
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
            (0..keys.hashes.len() as u32)
                .map(move |record| (hash_of_letters(keys.key(record)), part as u32, record))
        })
        .collect();
    letters.par_sort_unstable();
    let key = |&(_, part, record): &(u64, u32, u32)| parts[part as usize].key(record).to_string();
    for same in letters
        .chunk_by(|one, two| one.0 == two.0)
        .filter(|same| same.len() > 1)
    {
        let mut keys: Vec<String> = same.iter().map(key).collect();
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
fn places_of_capitals(key: Key<'_>) -> Option<u64> {
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
fn hash_of_letters(key: Key<'_>) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    match key.folder.is_ascii() && key.name.is_ascii() {
        true => key.bytes().for_each(|byte| add(byte.to_ascii_lowercase())),
        false => key.to_string().to_lowercase().bytes().for_each(add),
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
