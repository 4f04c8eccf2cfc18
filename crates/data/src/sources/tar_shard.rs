//! Reading a tar shard once to build its table: WebDataset's grouping, offsets from the `tar` crate.
//!
//! Consecutive members whose paths agree up to the first dot of the file name are one record. Nothing is ever
//! unpacked to disk, so a member called `../../x` cannot escape; it is skipped and reported.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use webdataset::core::utils::{base_plus_ext, is_shard_metadata};

use super::index_file::Origin;
use super::license_column::{LicenseColumn, license_of};
use super::table::{BLOCK_BYTES, Row, Table};
use super::{files, names};
use crate::content::{self, Content, content_of};
use crate::error::Error;
use crate::hint::Hint;
use crate::listing::{Listing, Reason};
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
    let mut table = Table {
        licenses: Some(LicenseColumn::default()),
        listing: Some(Listing::default()),
        ..Table::default()
    };
    let origin = scan_into(path, &mut table);
    (table, origin)
}

fn scan_into(path: &Path, table: &mut Table) -> Result<Origin, Error> {
    let mut group = Group::default();
    let origin = read_members(path, table, &mut group);
    // No later member closes the last record; before an error, that record may still be whole.
    group.finish(table).map_err(|reason| too_large(path, reason))?;
    origin
}

/// The error of a shard that is whole and larger than an index can be.
fn too_large(path: &Path, reason: &str) -> Error {
    Error::Unreadable {
        spec: path.display().to_string(),
        reason: reason.to_string(),
        hint: Some(Hint::SmallerShards),
    }
}

/// The error of a tar that cannot be read on: of the disk or the network, or of what the file holds, which
/// `damaged` words.
pub(crate) fn unread(path: &Path, error: std::io::Error, damaged: impl FnOnce(String) -> String) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        // Those of the `tar` crate, of decompression, and of our own checks.
        ErrorKind::Other | ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => {
            Error::DamagedShard {
                path: path.to_path_buf(),
                reason: damaged(reason(&error)),
            }
        }
        _ => Error::io("read", path)(error),
    }
}

fn read_members(path: &Path, table: &mut Table, group: &mut Group) -> Result<Origin, Error> {
    let mut origin = origin(path)?;
    let file = File::open(path).map_err(Error::io("read", path))?;
    let damaged = |reason: String| Error::DamagedShard {
        path: path.to_path_buf(),
        reason,
    };
    let start = content::start(&file).map_err(Error::io("read", path))?;
    if let Some(error) = no_tar(path, content_of(&start)) {
        return Err(error);
    }

    let stream = File::open(path).map_err(Error::io("read", path))?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 18, stream));
    // Archives one behind the other are one to `cat`, and to `tar --ignore-zeros`.
    archive.set_ignore_zeros(true);
    let mut buffer = vec![0u8; 1 << 16];
    // End of the last member read, rounded up to a whole block.
    let mut end = 0u64;
    let shown = || {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    // Whether the mark of the end of an archive is there.
    let ends_at = |at: u64| {
        let mut block = [1u8; BLOCK_BYTES as usize];
        files::read_at(&file, &mut block, at).is_ok() && block.iter().all(|byte| *byte == 0)
    };
    let length = origin.bytes;
    let cut = |end: u64, error: std::io::Error| {
        unread(path, error, |reason| {
            format!("cut or damaged at byte {end} of {length}: {reason}")
        })
    };
    let mut archives = 1;
    for entry in archive.entries().map_err(|error| cut(0, error))? {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(_) if end > 0 && ends_at(end) => {
                table.note(Reason::BehindTheEnd, "", &shown());
                break;
            }
            Err(error) => return Err(cut(end, error)),
        };
        if entry.raw_header_position() > end && ends_at(end) {
            archives += 1;
            // A record does not go on in the next archive.
            group.finish(table).map_err(|reason| too_large(path, reason))?;
            *group = Group::default();
        }
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
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        if is_shard_metadata(&name) {
            // WebDataset's own members; a folder of photos may have such a name too.
            if names::is_image_extension(names::extension(&name)) {
                table.skip(&name, Reason::SystemFolder, "");
            }
            continue;
        }
        let file_name = &name[name.rfind('/').map_or(0, |slash| slash + 1)..];
        let skipped = match kind.is_file() || kind.is_contiguous() {
            false => Some((Reason::NotAFile, String::new())),
            true if leaves_the_shard(&name) => Some((Reason::LeadsOut, String::new())),
            true => names::skipped_folder_in(&name)
                .map(|(reason, _)| (reason, String::new()))
                .or_else(|| names::skipped_file(file_name)),
        };
        if let Some((reason, kind)) = skipped {
            table.skip(&name, reason, &kind);
            continue;
        }
        let (key, extension) = base_plus_ext(&name).unwrap_or((&name, ""));
        let extension = extension.to_ascii_lowercase();
        let (role, start_read) = match role_by_name(&extension) {
            Some(role) => (role, Vec::new()),
            None => {
                let start_read = content::start(&mut entry).map_err(|error| cut(start, error))?;
                (role_by_content(&extension, file_name, &start_read), start_read)
            }
        };
        if let Role::LeftOut(reason, kind) = role {
            table.skip(&name, reason, &kind);
            continue;
        }
        if key != group.key {
            group.finish(table).map_err(|reason| too_large(path, reason))?;
            *group = Group {
                key: key.to_string(),
                first_member: name.clone(),
                ..Group::default()
            };
        }
        let block = u32::try_from(start / BLOCK_BYTES).map_err(|_| too_large(path, "larger than 2 TiB"))?;
        match role {
            Role::Image { rank, by_content } => {
                let Ok(length) = u32::try_from(bytes) else {
                    table.skip(&name, Reason::TooLarge, "");
                    continue;
                };
                if let Some(image) = group.image.as_ref().filter(|image| image.rank <= rank) {
                    let pair = several(&image.name, &name);
                    group.further(table, name, pair);
                    continue;
                }
                let content = &mut start_read.as_slice().chain(&mut entry);
                let hash = hash_member(content, bytes, &mut buffer).map_err(|error| cut(start, error))?;
                let image = Image {
                    rank,
                    name,
                    by_content,
                    block,
                    length,
                    hash,
                };
                let taken = image.name.clone();
                if let Some(worse) = group.image.replace(image) {
                    let pair = several(&taken, &worse.name);
                    group.further(table, worse.name, pair);
                }
            }
            Role::OtherImage => group.others.push((name, format!(".{extension}"))),
            Role::Class => {
                let class = read_text(&mut entry, LONGEST_CLASS_FILE).and_then(|text| parse_class(&text));
                group.take_label(path, name, class.map(Label::Class))?;
            }
            Role::Classes => {
                let classes =
                    read_text(&mut entry, LONGEST_CLASSES_FILE).and_then(|text| parse_classes(&text));
                group.take_label(path, name, classes.map(Label::Classes))?;
            }
            Role::Metadata => {
                group.json = u32::try_from(bytes).ok().map(|length| (block, length));
                group.license = read_text(&mut entry, LONGEST_METADATA)
                    .ok()
                    .and_then(|text| license_in(text.as_bytes()));
            }
            // Captions, boxes: data of other programs, which belong to the record.
            Role::Companion | Role::LeftOut(..) => {}
        }
    }
    if archives > 1 {
        table.note(Reason::ConcatenatedArchives, "", &shown());
    }
    origin.ends_properly = origin.bytes >= end + BLOCK_BYTES;
    if origin.bytes == 0 {
        return Err(damaged("the file is empty".to_string()));
    }
    Ok(origin)
}

/// The error of a file that is something else than a tar; `None` where its first bytes do not say so.
fn no_tar(path: &Path, content: Content) -> Option<Error> {
    let (reason, hint) = match content {
        Content::Compressed(compression) => (
            "compressed; records of a compressed tar cannot be read in any order".to_string(),
            Some(Hint::UnpackOrPack { compression }),
        ),
        Content::GitLfsPointer => (content.words()?.to_string(), Some(Hint::FetchFromGitLfs)),
        Content::WebPage => (
            format!("{}, not a tar", content.words()?),
            Some(Hint::DownloadAgain),
        ),
        Content::Image | Content::Archive(_) => (format!("{}, not a tar", content.words()?), None),
        _ => return None,
    };
    Some(Error::Unreadable {
        spec: path.display().to_string(),
        reason,
        hint,
    })
}

/// What a member is to its record.
enum Role {
    /// The image; of several the one with the smallest rank is taken.
    Image {
        rank: u8,
        /// The kind of files, where the name does not say that it is an image.
        by_content: Option<String>,
    },
    /// An image under another name than `KEY.jpg`, such as `KEY.seg.png`.
    OtherImage,
    Class,
    Classes,
    Metadata,
    /// Data of other programs.
    Companion,
    LeftOut(Reason, String),
}

/// The role of a member by what follows its key; `None` where its content decides.
fn role_by_name(extension: &str) -> Option<Role> {
    // Photos are mostly JPEG and WebP, masks and drawings mostly PNG.
    let rank = match extension {
        "jpg" | "jpeg" => 0,
        "webp" => 1,
        "png" => 2,
        "bmp" => 3,
        "gif" => 4,
        "cls" => return Some(Role::Class),
        "classes.json" => return Some(Role::Classes),
        "json" => return Some(Role::Metadata),
        _ if names::is_image_extension(names::extension(extension)) => return Some(Role::OtherImage),
        _ => return None,
    };
    Some(Role::Image {
        rank,
        by_content: None,
    })
}

fn role_by_content(extension: &str, file_name: &str, start: &[u8]) -> Role {
    let kind = names::kind(file_name, || Ok(start.to_vec())).unwrap_or(names::Kind::Own);
    match kind {
        names::Kind::ImageByContent(kind) if !extension.contains('.') => Role::Image {
            rank: 5,
            by_content: Some(kind),
        },
        names::Kind::ImageByContent(_) => Role::OtherImage,
        names::Kind::LeftOut(Reason::UnsupportedFormat, kind) => {
            Role::LeftOut(Reason::UnsupportedFormat, kind)
        }
        // `KEY.depth.npy.gz` belongs to a record, `KEY.tar.gz` holds others.
        names::Kind::LeftOut(Reason::Archive, kind)
            if matches!(
                extension.split('.').next(),
                Some("tar" | "tgz" | "zip" | "7z" | "rar")
            ) =>
        {
            Role::LeftOut(Reason::Archive, kind)
        }
        names::Kind::LeftOut(reason, kind) if extension.is_empty() => Role::LeftOut(reason, kind),
        _ => Role::Companion,
    }
}

/// `0.webp, not 0.png`.
fn several(taken: &str, other: &str) -> String {
    match taken == other {
        true => taken.to_string(),
        false => format!("{taken}, not {other}"),
    }
}

/// The members of one record, collected while they are read.
#[derive(Default)]
struct Group {
    key: String,
    first_member: String,
    image: Option<Image>,
    /// Images under other names, with what follows their key.
    others: Vec<(String, String)>,
    has_several: bool,
    json: Option<(u32, u32)>,
    label: Option<Label>,
    /// The member that the label is from.
    label_member: String,
    license: Option<String>,
}

/// The image of a record.
struct Image {
    rank: u8,
    name: String,
    by_content: Option<String>,
    block: u32,
    length: u32,
    hash: [u8; 32],
}

impl Group {
    /// Counts an image that is not taken; `pair` is the example of a record with several.
    fn further(&mut self, table: &mut Table, name: String, pair: String) {
        table.list_skipped(&name, Reason::FurtherImage);
        if !std::mem::replace(&mut self.has_several, true) {
            table.note(Reason::OneOfSeveralImages, "", &pair);
        }
    }

    /// Takes the label in a member; a second one of the same record would leave open which is meant.
    fn take_label(&mut self, path: &Path, member: String, label: Result<Label, String>) -> Result<(), Error> {
        let wrong = |reason: String, hint| Error::Label {
            path: path.to_path_buf(),
            reason,
            hint,
        };
        let label = label
            .map_err(|reason| wrong(format!("member `{member}` {reason}"), Some(Hint::NumberClasses)))?;
        if self.label.is_some() {
            let (first, key) = (&self.label_member, &self.key);
            return Err(wrong(
                format!("record `{key}` has two labels, in `{first}` and in `{member}`"),
                None,
            ));
        }
        self.label = Some(label);
        self.label_member = member;
        Ok(())
    }

    fn finish(&mut self, table: &mut Table) -> Result<(), &'static str> {
        if self.key.is_empty() {
            return Ok(());
        }
        let Some(image) = self.image.take() else {
            for (name, kind) in &self.others {
                table.skip(name, Reason::OtherName, kind);
            }
            if self.others.is_empty() {
                let kind = names::kind_of_files(&self.first_member);
                table.skip(&self.first_member, Reason::NoImage, &kind);
            }
            return Ok(());
        };
        for (name, kind) in &self.others {
            table.note(Reason::FurtherImage, kind, name);
        }
        if let Some(kind) = &image.by_content {
            table.note(Reason::ImageByContent, kind, &image.name);
        }
        let base = self.key.rfind('/').map_or(0, |slash| slash + 1);
        let name = self.key.split_off(base);
        let row = Row {
            folder: std::mem::take(&mut self.key),
            name,
            image_block: Some(image.block),
            image_bytes: image.length,
            json: self.json,
            label: self.label.take(),
            license: self.license.take(),
            modified: None,
            hash: image.hash,
        };
        if table.push(row) {
            Ok(())
        } else {
            Err("more than 4 GiB of names")
        }
    }
}

/// Whether a path would leave the folder into which a careless program unpacks it.
pub(crate) fn leaves_the_shard(name: &str) -> bool {
    name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..")
}

/// The `tar` crate's error. Where a header is missing, it quotes the bytes there, which may be anything.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    if text.contains("numeric field") || text.contains("checksum mismatch") {
        "no tar header there".to_string()
    } else {
        text
    }
}

/// SHA-256 of the rest of a member, which must have exactly `bytes`.
fn hash_member(entry: &mut impl Read, bytes: u64, buffer: &mut [u8]) -> std::io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut seen = 0u64;
    loop {
        let read = entry.read(buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        seen += read as u64;
    }
    if seen == bytes {
        Ok(hasher.finalize().into())
    } else {
        let reason = format!("must have {bytes} bytes, got {seen}");
        Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, reason))
    }
}

/// The text of a member of at most this many bytes: a longer one that is cut may read as another label.
fn read_text(entry: &mut impl Read, most: u64) -> Result<String, String> {
    let mut text = String::new();
    let read = entry
        .take(most + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    match read as u64 > most {
        true => Err(format!("must have at most {most} bytes")),
        false => Ok(text),
    }
}

/// The content of `KEY.cls`: a class number, as Python's `webdataset` reads it.
fn parse_class(text: &str) -> Result<u32, String> {
    // `+3` would be a number too.
    let is_plain = text.trim().bytes().all(|digit| digit.is_ascii_digit());
    let class: Option<u32> = text.trim().parse().ok().filter(|_| is_plain);
    // In the index the largest number means "no label".
    class.filter(|class| *class != u32::MAX).ok_or_else(|| {
        format!(
            "must hold the number of a class, got `{}`",
            text.trim().escape_debug()
        )
    })
}

/// The content of `KEY.classes.json`: a list of class numbers.
fn parse_classes(text: &str) -> Result<Vec<u32>, String> {
    let mut classes: Vec<u32> =
        serde_json::from_str(text).map_err(|error| format!("must hold a list of class numbers: {error}"))?;
    if classes.contains(&u32::MAX) {
        return Err(format!("names class {}, which is out of range", u32::MAX));
    }
    classes.sort_unstable();
    classes.dedup();
    Ok(classes)
}
