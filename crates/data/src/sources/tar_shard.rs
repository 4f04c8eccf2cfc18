//! Reading a tar shard once to build its table: WebDataset's grouping, offsets from the `tar` crate.
//!
//! Consecutive members whose paths agree up to the first dot of the file name are one record. Nothing is ever
//! unpacked to disk, so a member called `../../x` cannot escape; it is skipped and reported.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use webdataset::core::utils::{base_plus_ext, is_shard_metadata};

use super::files;
use super::index_file::Origin;
use super::license_column::{LicenseColumn, license_of};
use super::table::{BLOCK_BYTES, Row, Table};
use crate::error::Error;
use crate::hint::Hint;
use crate::record::Label;

/// Longest `KEY.cls` that is read, bytes; a class number has at most ten digits.
const LONGEST_CLASS_FILE: u64 = 256;
/// Longest `KEY.classes.json` that is read, bytes.
const LONGEST_CLASSES_FILE: u64 = 1 << 20;

/// Longest `KEY.json` whose license is read, bytes.
const LONGEST_METADATA: u64 = 1 << 20;

/// The license in a `KEY.json`. Invalid metadata give an error later, when the record is read.
fn license_in(json: &[u8]) -> Option<String> {
    let metadata = serde_json::from_slice(json).ok()?;
    license_of(&metadata).map(str::to_owned)
}

/// The licenses of a table whose index of version 0.1 has none: from each `KEY.json`, in the shard's order.
///
/// # Errors
/// Those of the system, where the shard cannot be read.
pub(crate) fn licenses_of(path: &Path, table: &Table) -> std::io::Result<LicenseColumn> {
    let file = File::open(path)?;
    let mut licenses = LicenseColumn::default();
    let mut json = Vec::new();
    for row in 0..table.len() {
        let license = match table.json(row) {
            Some((offset, bytes)) if u64::from(bytes) <= LONGEST_METADATA => {
                json.resize(bytes as usize, 0);
                files::read_at(&file, &mut json, offset)?;
                license_in(&json)
            }
            _ => None,
        };
        licenses.push(row, license.as_deref());
    }
    Ok(licenses)
}

/// The state of a shard file that its index must agree with.
pub(crate) fn origin(path: &Path) -> Result<Origin, Error> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    Ok(Origin {
        bytes: metadata.len(),
        modified: files::modified_ns(&metadata),
        ends_properly: false,
    })
}

/// Reads a whole shard and lists its records, with the hash of every image.
///
/// # Errors
/// [`Error::DamagedShard`] where the file is truncated or is not a tar, with the place.
pub(crate) fn scan(path: &Path) -> Result<(Origin, Table), Error> {
    let (table, origin) = scan_what_can_be(path);
    let origin = origin?;
    if !origin.ends_properly {
        tracing::warn!(shard = %path.display(), "no end-of-archive mark: records may be missing at the end");
    }
    Ok((origin, table))
}

/// [`scan`] that also returns the records before an error.
pub(crate) fn scan_what_can_be(path: &Path) -> (Table, Result<Origin, Error>) {
    let mut table = Table::default();
    let origin = scan_into(path, &mut table);
    (table, origin)
}

fn scan_into(path: &Path, table: &mut Table) -> Result<Origin, Error> {
    let mut group = Group::default();
    let origin = read_members(path, table, &mut group);
    // No later member closes the last record; before an error, that record may still be whole.
    group.finish(table).map_err(|reason| Error::DamagedShard {
        path: path.to_path_buf(),
        reason,
    })?;
    origin
}

fn read_members(path: &Path, table: &mut Table, group: &mut Group) -> Result<Origin, Error> {
    let mut origin = origin(path)?;
    let file = File::open(path).map_err(Error::io("read", path))?;
    let damaged = |reason: String| Error::DamagedShard {
        path: path.to_path_buf(),
        reason,
    };
    if is_gzip(&file) {
        return Err(Error::Unreadable {
            spec: path.display().to_string(),
            reason: "compressed; records of a compressed tar cannot be read in any order".to_string(),
            hint: Some(Hint::UnpackOrPack),
        });
    }

    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 18, file));
    let mut buffer = vec![0u8; 1 << 16];
    // End of the last member read, rounded up to a whole block.
    let mut end = 0u64;
    let cut = |end: u64, error: &dyn std::fmt::Display| {
        damaged(format!(
            "cut or damaged at byte {end} of {}: {}",
            origin.bytes,
            reason(error)
        ))
    };
    for entry in archive.entries().map_err(|error| cut(0, &error))? {
        let mut entry = entry.map_err(|error| cut(end, &error))?;
        let (start, bytes) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        end = start + bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        if start + bytes > origin.bytes {
            return Err(damaged(format!(
                "cut: member `{name}` should end at byte {}, the file has {}",
                start + bytes,
                origin.bytes
            )));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() || is_shard_metadata(&name) {
            continue;
        }
        if !kind.is_file() && !kind.is_contiguous() {
            table.skip(&name, "not a plain file");
            continue;
        }
        if leaves_the_shard(&name) {
            tracing::warn!(shard = %path.display(), member = %name, "skipped: its path leads out of the shard");
            table.skip(&name, "its path leads out of the shard");
            continue;
        }
        let Some((key, extension)) = base_plus_ext(&name) else {
            table.skip(&name, "no extension");
            continue;
        };
        if key != group.key {
            group.finish(table).map_err(&damaged)?;
            *group = Group {
                key: key.to_string(),
                ..Group::default()
            };
        }
        let block =
            u32::try_from(start / BLOCK_BYTES).map_err(|_| damaged("larger than 2 TiB".to_string()))?;
        let extension = extension.to_ascii_lowercase();
        match extension.as_str() {
            image if files::is_image_extension(image) => {
                let Ok(length) = u32::try_from(bytes) else {
                    table.skip(&name, "larger than 4 GiB");
                    continue;
                };
                if group.image.is_some() {
                    table.skip(&name, "second image of its record");
                    continue;
                }
                let hash = hash_member(&mut entry, bytes, &mut buffer).map_err(|error| cut(start, &error))?;
                group.image = Some((block, length, hash));
            }
            "cls" => match read_text(&mut entry, LONGEST_CLASS_FILE).and_then(|text| parse_class(&text)) {
                Ok(class) => group.label = Some(Label::Class(class)),
                Err(reason) => return Err(damaged(format!("member `{name}`: {reason}"))),
            },
            "classes.json" => {
                match read_text(&mut entry, LONGEST_CLASSES_FILE).and_then(|text| parse_classes(&text)) {
                    Ok(classes) => group.label = Some(Label::Classes(classes)),
                    Err(reason) => return Err(damaged(format!("member `{name}`: {reason}"))),
                }
            }
            "json" => {
                group.json = u32::try_from(bytes).ok().map(|length| (block, length));
                group.license = read_text(&mut entry, LONGEST_METADATA)
                    .ok()
                    .and_then(|text| license_in(text.as_bytes()));
            }
            // Captions, masks, boxes: data of other programs.
            _ => {}
        }
    }
    origin.ends_properly = origin.bytes >= end + BLOCK_BYTES;
    if origin.bytes == 0 {
        return Err(damaged("the file is empty".to_string()));
    }
    Ok(origin)
}

/// The members of one record, collected while they are read.
#[derive(Default)]
struct Group {
    key: String,
    image: Option<(u32, u32, [u8; 32])>,
    json: Option<(u32, u32)>,
    label: Option<Label>,
    license: Option<String>,
}

impl Group {
    fn finish(&mut self, table: &mut Table) -> Result<(), String> {
        if self.key.is_empty() {
            return Ok(());
        }
        let Some((image_block, image_bytes, hash)) = self.image else {
            table.skip(&self.key, "no image");
            return Ok(());
        };
        let base = self.key.rfind('/').map_or(0, |slash| slash + 1);
        let name = self.key.split_off(base);
        let row = Row {
            folder: std::mem::take(&mut self.key),
            name,
            image_block: Some(image_block),
            image_bytes,
            json: self.json,
            label: self.label.take(),
            license: self.license.take(),
            modified: None,
            hash,
        };
        if table.push(row) {
            Ok(())
        } else {
            Err("more than 4 GiB of names".to_string())
        }
    }
}

/// Whether a path would leave the folder into which a careless program unpacks it.
pub(crate) fn leaves_the_shard(name: &str) -> bool {
    name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..")
}

/// The `tar` crate's error. Where a header is missing, it quotes the bytes there, which may be anything.
pub(crate) fn reason(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    if text.contains("numeric field") || text.contains("checksum mismatch") {
        "no tar header there".to_string()
    } else {
        text
    }
}

fn is_gzip(file: &File) -> bool {
    let mut start = [0u8; 2];
    files::read_at(file, &mut start, 0).is_ok() && start == [0x1f, 0x8b]
}

/// SHA-256 of the rest of a member, which must have exactly `bytes`.
fn hash_member(entry: &mut impl Read, bytes: u64, buffer: &mut [u8]) -> Result<[u8; 32], String> {
    let mut hasher = Sha256::new();
    let mut seen = 0u64;
    loop {
        let read = entry.read(buffer).map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        seen += read as u64;
    }
    if seen == bytes {
        Ok(hasher.finalize().into())
    } else {
        Err(format!("must have {bytes} bytes, got {seen}"))
    }
}

fn read_text(entry: &mut impl Read, most: u64) -> Result<String, String> {
    let mut text = String::new();
    entry
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

/// The content of `KEY.cls`: a class number, as Python's `webdataset` reads it.
fn parse_class(text: &str) -> Result<u32, String> {
    let class: Option<u32> = text.trim().parse().ok();
    // In the index the largest number means "no label".
    class
        .filter(|class| *class != u32::MAX)
        .ok_or_else(|| format!("must be a class number, got `{}`", text.trim()))
}

/// The content of `KEY.classes.json`: a list of class numbers.
fn parse_classes(text: &str) -> Result<Vec<u32>, String> {
    let mut classes: Vec<u32> =
        serde_json::from_str(text).map_err(|error| format!("must be a list of class numbers: {error}"))?;
    if classes.contains(&u32::MAX) {
        return Err(format!("class {} is out of range", u32::MAX));
    }
    classes.sort_unstable();
    classes.dedup();
    Ok(classes)
}
