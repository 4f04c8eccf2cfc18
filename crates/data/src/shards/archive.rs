//! Reading a tar of an image folder sequentially, compressed or not, for packing; nothing is unpacked to disk.
//!
//! Two passes: the first collects names and classes, the second delivers the chosen images. Only the names
//! are in memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;

use super::check::SkippedMember;
use crate::content::{self, Content, compression_of, content_of};
use crate::error::Error;
use crate::hint::{Compression, Hint};
use crate::listing::{Listing, Reason};
use crate::record::{Label, Metadata, Record};
use crate::sources::folder::doubtful_classes;
use crate::sources::{names, tar_shard};

/// The most skipped members that are named; all are counted.
const SKIPPED_NAMED: usize = 100;

/// An image folder in an archive, with its names read.
pub(super) struct FolderArchive {
    path: PathBuf,
    compression: Option<Compression>,
    /// Path of each image below the subfolder, in the archive's order.
    names: Vec<String>,
    /// The place of each image among the archive's members.
    places: Vec<u64>,
    class_names: Vec<String>,
    skipped: Vec<SkippedMember>,
    listing: Listing,
}

/// Whether a file is a compressed one, by its first bytes.
pub(super) fn is_compressed(path: &Path) -> bool {
    content::start_of(path).is_ok_and(|start| compression_of(&start).is_some())
}

impl FolderArchive {
    pub(super) fn open(path: &Path, subfolder: Option<&str>) -> Result<FolderArchive, Error> {
        let prefix = subfolder.map_or(String::new(), |folder| format!("{}/", folder.trim_matches('/')));
        let start = content::start_of(path).map_err(Error::io("read", path))?;
        let mut archive = FolderArchive {
            path: path.to_path_buf(),
            compression: compression_of(&start),
            names: Vec::new(),
            places: Vec::new(),
            class_names: Vec::new(),
            skipped: Vec::new(),
            listing: Listing::default(),
        };
        archive.check_content(content_of(&start))?;
        let mut members = Members {
            prefix,
            ..Members::default()
        };
        let archives = archive.for_each_member(|place, member, content| {
            members
                .add(place, member, content)
                .map_err(|error| archive.unread(error))
        })?;
        let Members {
            names,
            places,
            skipped,
            mut listing,
            labels,
            ..
        } = members;
        if archives > 1 {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            listing.add(Reason::ConcatenatedArchives, "", || name.into_owned());
        }
        if let Some(label) = labels {
            let compression = archive.compression;
            let shard = compression.map_or("a shard", |_| "a compressed shard");
            return Err(Error::Unreadable {
                spec: path.display().to_string(),
                reason: format!("holds `{label}`, so it is {shard} and no image folder"),
                hint: compression.map(|compression| Hint::Unpack { compression }),
            });
        }
        if names.is_empty() {
            let inside = subfolder.map_or(String::new(), |folder| format!(" in `{folder}`"));
            let hint = (listing.count(Reason::Archive) > 0).then_some(Hint::UnpackInner);
            return Err(Error::Unreadable {
                spec: path.display().to_string(),
                reason: match listing.instead() {
                    Some(instead) => format!("no image{inside} (it has {instead})"),
                    None => format!("no image{inside}"),
                },
                hint,
            });
        }
        // As for folders on disk: classes if every image is in a folder, a flat folder if none is.
        let loose = names.iter().find(|name| !name.contains('/'));
        let inside = names.iter().find(|name| name.contains('/'));
        if let (Some(loose), Some(inside)) = (loose, inside) {
            return Err(Error::Unreadable {
                spec: path.display().to_string(),
                reason: format!(
                    "`{loose}` lies beside folders with images, such as `{inside}`; expected class folders or a flat folder"
                ),
                hint: None,
            });
        }
        if loose.is_none() {
            let classes = crate::names::of_folders(path, names.iter().map(|name| class_of(name)))?;
            let has_deeper = names.iter().any(|name| name.matches('/').count() > 1);
            doubtful_classes(&classes, has_deeper, &mut listing);
            archive.class_names = classes;
        }
        archive.names = names;
        archive.places = places;
        archive.skipped = skipped;
        archive.listing = listing;
        archive.listing.warn(&path.display().to_string());
        Ok(archive)
    }

    /// Gives an error for a file that is no tar by its first bytes.
    fn check_content(&self, content: Content) -> Result<(), Error> {
        let (reason, hint) = match content {
            Content::Compressed(Compression::Xz) => (
                "compressed by xz, which is not read".to_string(),
                Hint::Unpack {
                    compression: Compression::Xz,
                },
            ),
            Content::GitLfsPointer => (
                content.words().unwrap_or_default().to_string(),
                Hint::FetchFromGitLfs,
            ),
            Content::Archive(_) => (
                content.words().unwrap_or_default().to_string(),
                Hint::UnpackArchives,
            ),
            _ => return Ok(()),
        };
        Err(Error::Unreadable {
            spec: self.path.display().to_string(),
            reason,
            hint: Some(hint),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn class_names(&self) -> &[String] {
        &self.class_names
    }

    pub(super) fn skipped(&self) -> impl Iterator<Item = SkippedMember> {
        self.skipped.iter().cloned()
    }

    /// What became no record, or became one by a guess.
    pub(super) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Delivers the images at these positions, which must be in increasing order.
    pub(super) fn read(
        &self,
        chosen: &[usize],
        mut deliver: impl FnMut(Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut chosen = chosen.iter().copied().peekable();
        self.for_each_member(|place, _, content| {
            let Some(at) = chosen.next_if(|&at| self.places[at] == place) else {
                return Ok(());
            };
            let mut image = Vec::new();
            content
                .read_to_end(&mut image)
                .map_err(|error| self.unread(error))?;
            let below = &self.names[at];
            let class = crate::names::composed(class_of(below));
            let label = self
                .class_names
                .binary_search_by(|known| known.as_str().cmp(class.as_ref()))
                .ok();
            deliver(Record {
                key: crate::sources::table::key_of_path(below),
                image,
                label: label.map(|class| Label::Class(class as u32)),
                metadata: Metadata::default(),
            })
        })?;
        Ok(())
    }

    /// Calls `visit` with the place, name and content of each member that is no folder. Returns the number of
    /// archives that are one behind the other.
    fn for_each_member(
        &self,
        mut visit: impl FnMut(u64, &Member<'_>, &mut dyn Read) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        let file = BufReader::with_capacity(1 << 18, file);
        // Tools that compress in parallel write many streams end to end: all of them are read.
        let stream: Box<dyn Read> = match self.compression {
            Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(file)),
            Some(Compression::Bzip2) => Box::new(MultiBzDecoder::new(file)),
            Some(Compression::Zstd) => {
                let decoder = zstd::stream::read::Decoder::with_buffer(file);
                Box::new(decoder.map_err(|error| self.unread(error))?)
            }
            Some(Compression::Xz) | None => Box::new(file),
        };
        let mut archive = tar::Archive::new(stream);
        archive.set_ignore_zeros(true);
        let (mut archives, mut end) = (1, 0);
        for (place, entry) in (0..).zip(archive.entries().map_err(|error| self.unread(error))?) {
            let mut entry = entry.map_err(|error| self.unread(error))?;
            let gap = entry.raw_header_position().saturating_sub(end);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            // An end is two blocks of zeros; headers of long names and other extensions take as much.
            let is_extended =
                name.len() > 100 || !kind.is_file() || !matches!(entry.pax_extensions(), Ok(None));
            archives += u32::from(end > 0 && gap >= 1024 && !is_extended);
            end = entry.raw_file_position() + entry.size().div_ceil(512) * 512;
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            let member = Member {
                name: name.strip_prefix("./").unwrap_or(&name),
                is_file: kind.is_file() || kind.is_contiguous(),
            };
            visit(place, &member, &mut entry)?;
        }
        Ok(archives)
    }

    fn unread(&self, error: std::io::Error) -> Error {
        tar_shard::unread(&self.path, error, |reason| format!("cut or damaged: {reason}"))
    }
}

fn class_of(below: &str) -> &str {
    below.split('/').next().unwrap_or(below)
}

/// A member that is no folder.
struct Member<'a> {
    /// Its path, without `./`.
    name: &'a str,
    is_file: bool,
}

/// The members of an archive, sorted out.
#[derive(Default)]
struct Members {
    /// `subfolder/`, or empty.
    prefix: String,
    names: Vec<String>,
    places: Vec<u64>,
    skipped: Vec<SkippedMember>,
    listing: Listing,
    /// A member `KEY.cls`.
    labels: Option<String>,
}

impl Members {
    fn add(&mut self, place: u64, member: &Member<'_>, content: &mut dyn Read) -> std::io::Result<()> {
        if tar_shard::leaves_the_shard(member.name) {
            self.skip(member.name, Reason::LeadsOut, "");
            return Ok(());
        }
        let Some(below) = member.name.strip_prefix(self.prefix.as_str()) else {
            return Ok(());
        };
        if !member.is_file {
            self.skip(below, Reason::NotAFile, "");
            return Ok(());
        }
        if let Some((reason, _)) = names::skipped_folder_in(below) {
            self.skip(below, reason, "");
            return Ok(());
        }
        let file_name = &below[below.rfind('/').map_or(0, |slash| slash + 1)..];
        match names::kind(file_name, || content::start(content))? {
            names::Kind::Image => {}
            names::Kind::ImageByContent(kind) => {
                self.listing
                    .add(Reason::ImageByContent, &kind, || below.to_string());
            }
            names::Kind::LeftOut(Reason::Document, kind) => {
                if file_name.ends_with(".cls") {
                    self.labels.get_or_insert_with(|| below.to_string());
                }
                self.listing.add(Reason::Document, &kind, || below.to_string());
                return Ok(());
            }
            names::Kind::LeftOut(reason, kind) => {
                self.skip(below, reason, &kind);
                return Ok(());
            }
            names::Kind::Own => return Ok(()),
        }
        self.names.push(below.to_string());
        self.places.push(place);
        Ok(())
    }

    fn skip(&mut self, name: &str, reason: Reason, kind: &str) {
        if self.skipped.len() < SKIPPED_NAMED {
            self.skipped.push(SkippedMember {
                name: name.to_string(),
                reason: reason.of_one().to_string(),
            });
        }
        self.listing.add(reason, kind, || name.to_string());
    }
}
