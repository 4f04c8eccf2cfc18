//! The index file: a [`Table`] on disk, its place, and its validity.
//!
//! Layout in `docs/formats.md`. The file is beside its shard (`NAME.tar.idx`) or, where the folder is not
//! writable, in the user's cache folder under the hash of the shard's path. An index that is damaged, of
//! another version or of another state of the shard is silently rebuilt; it is a cache, not data.

use std::fs;
use std::path::{Path, PathBuf};

use flate2::Crc;
use sha2::{Digest, Sha256};

use super::license_column::LicenseColumn;
use super::table::Table;
use crate::durable;
use crate::file_error::FileError;
use crate::hex::hex;
use crate::listing::Listing;

/// The first bytes of every index.
pub(crate) const MAGIC: &[u8; 8] = b"PASSERIX";
/// Raised whenever the layout or the meaning of a column changes.
const VERSION: u32 = 1;

/// The state of the indexed file; the index is valid while this is unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Length of the shard, bytes; 0 for a folder, whose files are checked one by one.
    pub(crate) bytes: u64,
    /// Time of its last change, ns since 1970.
    pub(crate) modified: i64,
    /// Whether the tar ends with the end-of-archive mark.
    pub(crate) ends_properly: bool,
}

/// Where indexes may be kept.
#[derive(Clone, Debug)]
pub(crate) struct IndexStore {
    cache: Option<PathBuf>,
}

impl IndexStore {
    /// `$XDG_CACHE_HOME/passer`, or `~/.cache/passer`, for data in read-only folders.
    pub(crate) fn from_environment() -> IndexStore {
        let from = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let cache = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
        IndexStore {
            cache: cache.map(|folder| folder.join("passer")),
        }
    }

    /// For tests: a given cache folder.
    #[cfg(test)]
    pub(crate) fn with_cache(folder: &Path) -> IndexStore {
        IndexStore {
            cache: Some(folder.to_path_buf()),
        }
    }

    /// The possible places of the index of `source`, best first.
    fn places(&self, source: &Path, is_folder: bool) -> Vec<PathBuf> {
        let mut places = vec![beside(source, is_folder)];
        if let Some(cache) = &self.cache {
            // The whole path, so that two shards of one name do not share an index.
            let absolute = fs::canonicalize(source).unwrap_or_else(|_| source.to_path_buf());
            let hash = Sha256::digest(absolute.as_os_str().as_encoded_bytes());
            places.push(cache.join(format!("{}.idx", hex(&hash[..16]))));
        }
        places
    }

    /// The stored index of a shard or folder, if there is a valid one.
    pub(crate) fn load(&self, source: &Path, is_folder: bool) -> Option<(Origin, Table)> {
        let places = self.places(source, is_folder).into_iter();
        let mut found = places
            .filter_map(|place| parse(&fs::read(place).ok()?))
            .collect::<Vec<_>>();
        // An index of version 0.1 may be beside read-only data, and the one with its licenses in the cache.
        let complete = found.iter().position(|(_, table)| table.licenses.is_some());
        (!found.is_empty()).then(|| found.swap_remove(complete.unwrap_or(0)))
    }

    /// Stores an index, beside the data if that folder is writable and in the cache folder otherwise.
    ///
    /// Returns its path, or `None` where no place is writable: the next start is slow, but the work can
    /// continue.
    pub(crate) fn save(
        &self,
        source: &Path,
        is_folder: bool,
        origin: &Origin,
        table: &Table,
    ) -> Option<PathBuf> {
        let content = serialize(origin, table);
        let mut refusal = None;
        for place in self.places(source, is_folder) {
            let folder = place.parent().unwrap_or(Path::new("."));
            // A folder without any write permission is meant to stay unchanged, even if the user is root and
            // could write.
            let read_only = fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().readonly());
            if read_only {
                continue;
            }
            let in_cache = self.cache.as_deref() == Some(folder);
            let folder_made = if in_cache {
                fs::create_dir_all(folder)
            } else {
                Ok(())
            };
            let folder_made = folder_made.map_err(FileError::new("make", folder));
            match folder_made.and_then(|()| durable::write(&place, &content)) {
                Ok(()) => return Some(place),
                Err(error) => refusal = Some(error),
            }
        }
        tracing::warn!(
            source = %source.display(),
            reason = refusal.map_or(String::new(), |error| error.to_string()),
            "the index could not be stored; the data will be indexed again at the next start"
        );
        None
    }
}

/// The path of an index beside the data.
pub(crate) fn beside(source: &Path, is_folder: bool) -> PathBuf {
    if is_folder {
        return source.join(".passer.idx");
    }
    let mut name = source.file_name().unwrap_or_default().to_os_string();
    name.push(".idx");
    source.with_file_name(name)
}

fn serialize(origin: &Origin, table: &Table) -> Vec<u8> {
    let mut out = Vec::with_capacity(table.names.len() + table.len() * 64 + 1024);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::from(origin.ends_properly).to_le_bytes());
    out.extend_from_slice(&origin.bytes.to_le_bytes());
    out.extend_from_slice(&origin.modified.to_le_bytes());
    out.extend_from_slice(&table.skipped_count.to_le_bytes());
    section(&mut out, table.names.as_bytes());
    // A few folders and names: as JSON, so that any content is safe.
    section(
        &mut out,
        serde_json::to_string(&table.folders)
            .unwrap_or_default()
            .as_bytes(),
    );
    section(
        &mut out,
        serde_json::to_string(&table.skipped)
            .unwrap_or_default()
            .as_bytes(),
    );
    for column in [
        &table.name_ends,
        &table.image_blocks,
        &table.image_bytes,
        &table.json_blocks,
        &table.json_bytes,
        &table.label_ends,
        &table.label_values,
    ] {
        out.extend_from_slice(&(column.len() as u64 * 4).to_le_bytes());
        out.extend(column.iter().flat_map(|value| value.to_le_bytes()));
    }
    out.extend_from_slice(&(table.modified.len() as u64 * 8).to_le_bytes());
    out.extend(table.modified.iter().flat_map(|value| value.to_le_bytes()));
    section(&mut out, table.hashes.as_flattened());
    // Last, so that readers of versions 0.1 and 0.2 ignore what they do not know.
    if let Some(licenses) = &table.licenses {
        section(
            &mut out,
            serde_json::to_string(&licenses.names())
                .unwrap_or_default()
                .as_bytes(),
        );
        out.extend_from_slice(&(licenses.records().len() as u64 * 2).to_le_bytes());
        out.extend(licenses.records().iter().flat_map(|number| number.to_le_bytes()));
        if let Some(listing) = &table.listing {
            section(
                &mut out,
                serde_json::to_string(listing).unwrap_or_default().as_bytes(),
            );
        }
    }
    let mut checksum = Crc::new();
    checksum.update(&out);
    out.extend_from_slice(&checksum.sum().to_le_bytes());
    out
}

fn section(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    out.extend_from_slice(content);
}

/// Reads an index; `None` for anything but a whole, consistent index of this version.
fn parse(content: &[u8]) -> Option<(Origin, Table)> {
    let (body, stored) = content.split_last_chunk::<4>()?;
    let mut checksum = Crc::new();
    checksum.update(body);
    if checksum.sum() != u32::from_le_bytes(*stored) {
        return None;
    }
    let mut reader = Reader(body);
    if reader.take(8)? != MAGIC || reader.u32()? != VERSION {
        return None;
    }
    let ends_properly = reader.u32()? == 1;
    let origin = Origin {
        bytes: reader.u64()?,
        modified: reader.u64()? as i64,
        ends_properly,
    };
    let table = Table {
        skipped_count: reader.u64()?,
        names: String::from_utf8(reader.section()?.to_vec()).ok()?,
        folders: serde_json::from_slice(reader.section()?).ok()?,
        skipped: serde_json::from_slice(reader.section()?).ok()?,
        name_ends: reader.column()?,
        image_blocks: reader.column()?,
        image_bytes: reader.column()?,
        json_blocks: reader.column()?,
        json_bytes: reader.column()?,
        label_ends: reader.column()?,
        label_values: reader.column()?,
        modified: reader
            .section()?
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect(),
        hashes: reader.section()?.as_chunks().0.to_vec(),
        licenses: reader.licenses()?,
        listing: reader.listing(),
    };
    is_consistent(&table).then_some((origin, table))
}

/// The lengths that the accessors of [`Table`] rely on. The checksum guards against damage, this check
/// against other programs.
fn is_consistent(table: &Table) -> bool {
    let records = table.len();
    let optional = |column: &[u32]| column.is_empty() || column.len() == records;
    table.image_bytes.len() == records
        && table.hashes.len() == records
        && [
            &table.image_blocks,
            &table.json_blocks,
            &table.json_bytes,
            &table.label_ends,
        ]
        .iter()
        .all(|column| optional(column))
        && (!table.label_ends.is_empty() || table.label_values.len() <= records)
        && (table.modified.is_empty() || table.modified.len() == records)
        && table.name_ends.last().map_or(0, |end| *end as usize) == table.names.len()
        && table.name_ends.is_sorted()
        && table.label_ends.is_sorted_by_key(|end| end >> 1)
        && table
            .label_ends
            .last()
            .is_none_or(|end| (end >> 1) as usize == table.label_values.len())
        && table
            .licenses
            .as_ref()
            .is_none_or(|licenses| licenses.records().len() <= records)
        && (records == 0 || table.folders.first().is_some_and(|(first, _)| *first == 0))
        && table
            .name_ends
            .iter()
            .all(|end| table.names.is_char_boundary(*end as usize))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn section(&mut self) -> Option<&'a [u8]> {
        let bytes = usize::try_from(self.u64()?).ok()?;
        self.take(bytes)
    }

    /// `Some(None)` where an index of version 0.1 ends.
    fn licenses(&mut self) -> Option<Option<LicenseColumn>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let names = serde_json::from_slice(self.section()?).ok()?;
        let numbers = self.section()?.as_chunks().0.iter();
        let records = numbers.map(|bytes| u16::from_le_bytes(*bytes)).collect();
        LicenseColumn::from_parts(names, records).map(Some)
    }

    /// `None` where an index of version 0.1 or 0.2 ends, or where a later version has reasons that are unknown
    /// here.
    fn listing(&mut self) -> Option<Listing> {
        serde_json::from_slice(self.section()?).ok()
    }

    fn column(&mut self) -> Option<Vec<u32>> {
        Some(
            self.section()?
                .as_chunks()
                .0
                .iter()
                .map(|bytes| u32::from_le_bytes(*bytes))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Reason;
    use crate::record::Label;
    use crate::sources::table::Row;

    fn example() -> (Origin, Table) {
        let mut table = Table::default();
        for at in 0..5u32 {
            table.push(Row {
                folder: format!("d{}/", at / 3),
                name: format!("näme{at}"),
                image_block: Some(at * 2 + 1),
                image_bytes: 700,
                json: (at == 2).then_some((9, 30)),
                label: (at > 0).then_some(Label::Class(at)),
                license: (at % 2 > 0).then(|| format!("license {at}")),
                modified: None,
                hash: [at as u8; 32],
            });
        }
        table.skip("../x", Reason::LeadsOut, "");
        (
            Origin {
                bytes: 99,
                modified: -5,
                ends_properly: true,
            },
            table,
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let (origin, table) = example();
        assert_eq!(parse(&serialize(&origin, &table)), Some((origin, table)));
    }

    #[test]
    fn an_index_of_version_0_1_has_no_licenses_and_one_of_0_2_no_reasons() {
        let (origin, mut table) = example();
        table.listing = None;
        assert_eq!(parse(&serialize(&origin, &table)), Some((origin, table.clone())));
        table.licenses = None;
        assert_eq!(parse(&serialize(&origin, &table)), Some((origin, table)));
    }

    #[test]
    fn damage_is_noticed() {
        let (origin, table) = example();
        let content = serialize(&origin, &table);
        for cut in [0, 3, 8, content.len() / 2, content.len() - 1] {
            assert_eq!(parse(&content[..cut]), None, "cut at {cut}");
        }
        for at in (0..content.len()).step_by(7) {
            let mut broken = content.clone();
            broken[at] ^= 0x10;
            assert_eq!(parse(&broken), None, "flipped at {at}");
        }
    }

    #[test]
    fn a_read_only_folder_sends_the_index_to_the_cache() {
        let data = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let store = IndexStore::with_cache(&cache.path().join("passer"));
        let shard = data.path().join("a.tar");
        fs::write(&shard, b"x").unwrap();
        let (origin, table) = example();
        let place = store.save(&shard, false, &origin, &table).unwrap();
        assert_eq!(place, data.path().join("a.tar.idx"));
        fs::remove_file(place).unwrap();

        let writable = fs::metadata(data.path()).unwrap().permissions();
        let mut read_only = writable.clone();
        read_only.set_readonly(true);
        fs::set_permissions(data.path(), read_only).unwrap();
        let place = store.save(&shard, false, &origin, &table);
        let loaded = store.load(&shard, false);
        fs::set_permissions(data.path(), writable).unwrap();
        assert!(place.unwrap().starts_with(cache.path()));
        assert_eq!(loaded, Some((origin, table)));
        assert!(!data.path().join("a.tar.idx").exists());
    }
}
