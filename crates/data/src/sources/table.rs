//! The records of one shard or folder as flat columns, in the index file and in memory.
//!
//! A million records must take less than 64 bytes each, so there is no `String` and no struct per record:
//! names share one arena without their folders, offsets count tar blocks of 512 bytes, and unused columns are
//! empty.

use std::collections::HashMap;

use super::key::Key;
use super::license_column::LicenseColumn;
use crate::contents::content_of;
use crate::listing::{Listing, Reason};
use crate::record::Label;

/// Tar members start at multiples of this many bytes.
pub(crate) const BLOCK_BYTES: u64 = 512;

/// In the label columns: this record has no label, although others have one.
const NO_LABEL: u32 = u32::MAX;

/// The most names of skipped members that are kept with their reasons.
const SKIPPED_KEPT: usize = 100;

/// Records of one shard or folder, by position within it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// File names without folders, concatenated; up to the first dot for shards, whole for folders.
    pub(crate) names: String,
    /// Where each name ends in `names`.
    pub(crate) name_ends: Vec<u32>,
    /// Folders of the names, each with its first record; a folder applies until the next one.
    pub(crate) folders: Vec<(u32, String)>,
    /// Start of the image in the shard, in blocks; empty for folders.
    pub(crate) image_blocks: Vec<u32>,
    /// Length of the image, bytes.
    pub(crate) image_bytes: Vec<u32>,
    /// Start of `KEY.json` in blocks, and its length in bytes, 0 for none; both empty if no record has one.
    pub(crate) json_blocks: Vec<u32>,
    /// See `json_blocks`.
    pub(crate) json_bytes: Vec<u32>,
    /// Twice the end of each record's classes in `label_values`, plus 1 where the record has a single class
    /// and not a set. Empty if no record has a set of classes.
    pub(crate) label_ends: Vec<u32>,
    /// Classes; empty if no record has a label.
    pub(crate) label_values: Vec<u32>,
    /// Licenses; `None` in an index of version 0.1, which has none.
    pub(crate) licenses: Option<LicenseColumn>,
    /// Time of last change of each file, ns since 1970; for folders only.
    pub(crate) modified: Vec<i64>,
    /// SHA-256 of each image. Dropped after the fingerprint is taken.
    pub(crate) hashes: Vec<[u8; 32]>,
    /// Members outside any record, with the reason; the first few.
    pub(crate) skipped: Vec<(String, String)>,
    /// How many members were skipped in all.
    pub(crate) skipped_count: u64,
    /// The same by reason, and guesses; `None` in an index of an earlier version.
    pub(crate) listing: Option<Listing>,
}

/// A record before it is added to a [`Table`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) folder: String,
    pub(crate) name: String,
    pub(crate) image_block: Option<u32>,
    pub(crate) image_bytes: u32,
    pub(crate) json: Option<(u32, u32)>,
    pub(crate) label: Option<Label>,
    pub(crate) license: Option<String>,
    pub(crate) modified: Option<i64>,
    pub(crate) hash: [u8; 32],
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.name_ends.len()
    }

    /// Adds a record. `false`, and nothing is added, where a column is full (4 GiB of names or classes).
    pub(crate) fn push(&mut self, row: Row) -> bool {
        let position = self.name_ends.len();
        let (Ok(first), Ok(name_end)) = (
            u32::try_from(position),
            u32::try_from(self.names.len() + row.name.len()),
        ) else {
            return false;
        };
        if self
            .folders
            .last()
            .is_none_or(|(_, folder)| *folder != row.folder)
        {
            self.folders.push((first, row.folder));
        }
        self.names.push_str(&row.name);
        self.name_ends.push(name_end);
        self.image_blocks.extend(row.image_block);
        self.image_bytes.push(row.image_bytes);
        if row.json.is_some() && self.json_blocks.is_empty() {
            self.json_blocks.resize(position, 0);
            self.json_bytes.resize(position, 0);
        }
        if row.json.is_some() || !self.json_blocks.is_empty() {
            let (block, bytes) = row.json.unwrap_or((0, 0));
            self.json_blocks.push(block);
            self.json_bytes.push(bytes);
        }
        self.push_label(position, row.label);
        self.licenses
            .get_or_insert_default()
            .push(position, row.license.as_deref());
        self.modified.extend(row.modified);
        self.hashes.push(row.hash);
        true
    }

    /// One class per record is the common case and needs one column; the first set of classes adds a second
    /// column.
    fn push_label(&mut self, position: usize, label: Option<Label>) {
        let mut has_sets = !self.label_ends.is_empty();
        if !has_sets && matches!(label, Some(Label::Classes(_))) {
            self.label_values.resize(position, NO_LABEL);
            self.label_ends = (1..=position as u32).map(|end| label_end(end, true)).collect();
            has_sets = true;
        }
        if !has_sets && label.is_some() {
            self.label_values.resize(position, NO_LABEL);
        }
        let is_single = match label {
            Some(Label::Classes(classes)) => {
                self.label_values.extend(classes);
                false
            }
            Some(Label::Class(class)) => {
                self.label_values.push(class);
                true
            }
            None if has_sets || !self.label_values.is_empty() => {
                self.label_values.push(NO_LABEL);
                true
            }
            None => return,
        };
        if has_sets {
            self.label_ends
                .push(label_end(self.label_values.len() as u32, is_single));
        }
    }

    /// Counts a member outside any record.
    pub(crate) fn skip(&mut self, name: &str, reason: Reason, kind: &str) {
        self.list_skipped(name, reason);
        self.note(reason, kind, name);
    }

    /// Adds a member to the skipped ones, without counting its reason.
    pub(crate) fn list_skipped(&mut self, name: &str, reason: Reason) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_KEPT {
            self.skipped.push((name.to_string(), reason.of_one().to_string()));
        }
    }

    /// Counts a member that becomes a record, or a part of one, by a guess.
    pub(crate) fn note(&mut self, reason: Reason, kind: &str, name: &str) {
        let listing = self.listing.get_or_insert_default();
        listing.add(reason, kind, || name.to_string());
    }

    /// File name without its folder.
    pub(crate) fn name(&self, position: usize) -> &str {
        let start = if position == 0 {
            0
        } else {
            self.name_ends[position - 1] as usize
        };
        &self.names[start..self.name_ends[position] as usize]
    }

    /// Folder of the name, with `/` at its end, or empty.
    pub(crate) fn folder(&self, position: usize) -> &str {
        let after = self
            .folders
            .partition_point(|(first, _)| *first as usize <= position);
        &self.folders[after - 1].1
    }

    /// The record's key, see [`key_of_path`].
    pub(crate) fn key(&self, position: usize) -> String {
        key_of(self.folder(position), self.name(position))
    }

    /// The key of a record of a shard, whose names end before their first dot.
    pub(crate) fn shard_key(&self, position: usize) -> Key<'_> {
        Key {
            folder: self.folder(position),
            name: self.name(position),
        }
    }

    /// Start of the image in its shard, bytes.
    pub(crate) fn image_offset(&self, position: usize) -> u64 {
        u64::from(self.image_blocks[position]) * BLOCK_BYTES
    }

    /// Start and length of `KEY.json`, bytes.
    pub(crate) fn json(&self, position: usize) -> Option<(u64, u32)> {
        let bytes = *self.json_bytes.get(position)?;
        (bytes > 0).then(|| (u64::from(self.json_blocks[position]) * BLOCK_BYTES, bytes))
    }

    /// Class or classes of the record.
    pub(crate) fn label(&self, position: usize) -> Option<Label> {
        if let Some(end) = self.label_ends.get(position) {
            let start = if position == 0 {
                0
            } else {
                self.label_ends[position - 1] >> 1
            };
            let classes = &self.label_values[start as usize..(end >> 1) as usize];
            return match classes {
                [NO_LABEL] => None,
                [class] if end & 1 == 1 => Some(Label::Class(*class)),
                set => Some(Label::Classes(set.to_vec())),
            };
        }
        self.label_values
            .get(position)
            .filter(|class| **class != NO_LABEL)
            .map(|class| Label::Class(*class))
    }

    /// The largest class of a record.
    pub(crate) fn largest_class(&self) -> Option<u32> {
        let classes = self.label_values.iter().copied();
        classes.filter(|class| *class != NO_LABEL).max()
    }

    /// Whether another table is of the same records: names, places and lengths.
    pub(crate) fn has_records_of(&self, other: &Table) -> bool {
        self.name_ends == other.name_ends
            && self.names == other.names
            && self.folders == other.folders
            && self.image_blocks == other.image_blocks
            && self.image_bytes == other.image_bytes
    }

    /// The shortened hashes of this table's files from a stored one, which may be of more files in another order;
    /// `None` where it lacks one of them.
    pub(crate) fn contents_in(&self, stored: &Table) -> Option<Vec<u128>> {
        if stored.has_records_of(self) {
            return Some(stored.hashes.iter().map(content_of).collect());
        }
        let positions = 0..stored.len();
        let places: HashMap<(&str, &str, u32), usize> = positions
            .map(|at| ((stored.folder(at), stored.name(at), stored.image_bytes[at]), at))
            .collect();
        let hash = |at: usize| {
            let place = places.get(&(self.folder(at), self.name(at), self.image_bytes[at]))?;
            Some(content_of(&stored.hashes[*place]))
        };
        (0..self.len()).map(hash).collect()
    }

    /// A file of a folder, as a row without label.
    pub(crate) fn file(&self, position: usize) -> Row {
        Row {
            folder: self.folder(position).to_string(),
            name: self.name(position).to_string(),
            image_bytes: self.image_bytes[position],
            modified: self.modified.get(position).copied(),
            hash: self.hashes[position],
            ..Row::default()
        }
    }

    pub(crate) fn has_labels(&self) -> bool {
        !self.label_values.is_empty() || !self.label_ends.is_empty()
    }

    /// The hashes, which leave the table; its memory is reduced to a minimum.
    pub(crate) fn take_hashes(&mut self) -> Vec<[u8; 32]> {
        let hashes = std::mem::take(&mut self.hashes);
        self.compact();
        hashes
    }

    /// Frees the columns that only opening needs, and the unused capacity of the others.
    fn compact(&mut self) {
        self.hashes = Vec::new();
        self.modified = Vec::new();
        self.names.shrink_to_fit();
        for column in [
            &mut self.name_ends,
            &mut self.image_blocks,
            &mut self.image_bytes,
            &mut self.json_blocks,
            &mut self.json_bytes,
            &mut self.label_ends,
            &mut self.label_values,
        ] {
            column.shrink_to_fit();
        }
        self.folders.shrink_to_fit();
        if let Some(licenses) = &mut self.licenses {
            licenses.compact();
        }
    }

    /// Heap memory of the table, bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let columns = [
            &self.name_ends,
            &self.image_blocks,
            &self.image_bytes,
            &self.json_blocks,
            &self.json_bytes,
            &self.label_ends,
            &self.label_values,
        ];
        let folders: usize = self
            .folders
            .iter()
            .map(|(_, folder)| folder.capacity() + size_of::<(u32, String)>())
            .sum();
        self.names.capacity()
            + columns
                .iter()
                .map(|column| column.capacity() * size_of::<u32>())
                .sum::<usize>()
            + folders
            + self.licenses.as_ref().map_or(0, LicenseColumn::heap_bytes)
            + self.hashes.capacity() * 32
            + self.modified.capacity() * 8
    }
}

fn label_end(end: u32, is_single: bool) -> u32 {
    end << 1 | u32::from(is_single)
}

/// Key of a file: its path without the extension, and with `_` for any other dot of the file name.
///
/// In a shard the extension starts at the first dot of the file name, so names from shards have no dots left,
/// and keys from folders must not have any.
pub(crate) fn key_of_path(path: &str) -> String {
    let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    key_of(folder, name)
}

fn key_of(folder: &str, name: &str) -> String {
    let stem = name.rfind('.').map_or(name, |dot| &name[..dot]);
    let mut key = String::with_capacity(folder.len() + stem.len());
    key.push_str(folder);
    key.extend(
        stem.chars()
            .map(|letter| if letter == '.' { '_' } else { letter }),
    );
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(folder: &str, name: &str, label: Option<Label>) -> Row {
        Row {
            folder: folder.into(),
            name: name.into(),
            image_block: Some(1),
            label,
            ..Row::default()
        }
    }

    #[test]
    fn names_folders_and_labels_come_back() {
        let mut table = Table::default();
        table.push(row("a/", "x.1.jpg", None));
        table.push(row("a/", "y", Some(Label::Class(4))));
        table.push(Row {
            json: Some((9, 7)),
            ..row("b/c/", "z", None)
        });
        assert_eq!(
            (0..3).map(|at| table.key(at)).collect::<Vec<_>>(),
            ["a/x_1", "a/y", "b/c/z"]
        );
        assert_eq!(
            [table.label(0), table.label(1), table.label(2)],
            [None, Some(Label::Class(4)), None]
        );
        assert_eq!([table.json(0), table.json(2)], [None, Some((9 * 512, 7))]);
        assert_eq!(table.folders.len(), 2);
    }

    #[test]
    fn sets_of_classes_keep_empty_and_absent_apart() {
        let mut table = Table::default();
        let labels = [
            None,
            Some(Label::Classes(vec![1, 5])),
            Some(Label::Classes(vec![])),
            Some(Label::Class(3)),
            None,
            Some(Label::Classes(vec![2])),
        ];
        for (at, label) in labels.iter().enumerate() {
            table.push(row("", &at.to_string(), label.clone()));
        }
        assert_eq!((0..6).map(|at| table.label(at)).collect::<Vec<_>>(), labels);
    }
}
