//! Reading a tar or `.tar.gz` of an image folder sequentially, for packing; nothing is unpacked to disk.
//!
//! Two passes: the first collects names and classes, the second delivers the chosen images. Only the names
//! are in memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::check::SkippedMember;
use crate::error::Error;
use crate::hint::Hint;
use crate::record::{Label, Metadata, Record};
use crate::sources::{files, tar_shard};

/// An image folder in an archive, with its names read.
pub(super) struct FolderArchive {
    path: PathBuf,
    /// Path of each image below the subfolder, in the archive's order.
    names: Vec<String>,
    /// `subfolder/`, or empty.
    prefix: String,
    class_names: Vec<String>,
    skipped: Vec<SkippedMember>,
}

/// Whether a file's name ends like that of a gzipped file.
pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        extension.eq_ignore_ascii_case("gz") || extension.eq_ignore_ascii_case("tgz")
    })
}

impl FolderArchive {
    pub(super) fn open(path: &Path, subfolder: Option<&str>) -> Result<FolderArchive, Error> {
        let prefix = subfolder.map_or(String::new(), |folder| format!("{}/", folder.trim_matches('/')));
        let mut archive = FolderArchive {
            path: path.to_path_buf(),
            names: Vec::new(),
            prefix,
            class_names: Vec::new(),
            skipped: Vec::new(),
        };
        let mut names = Vec::new();
        let mut skipped = Vec::new();
        let mut labels = None;
        archive.for_each_member(|name, is_file, _| {
            if tar_shard::leaves_the_shard(name) {
                tracing::warn!(member = %name, "skipped: its path leads out of the archive");
                skipped.push(SkippedMember {
                    name: name.to_string(),
                    reason: "its path leads out of the archive".to_string(),
                });
            } else if let Some(below) = archive.below(name, is_file) {
                if let Some(format) = files::unread_picture(below) {
                    skipped.push(SkippedMember {
                        name: below.to_string(),
                        reason: format!(".{format} is not read; convert it to JPEG or PNG"),
                    });
                } else if is_image(below) {
                    names.push(below.to_string());
                } else if below.ends_with(".cls") {
                    labels = Some(below.to_string());
                }
            }
            Ok(())
        })?;
        if let Some(label) = labels {
            return Err(Error::Unreadable {
                spec: path.display().to_string(),
                reason: format!("holds `{label}`, so it is a compressed shard and no image folder"),
                hint: Some(Hint::Unpack),
            });
        }
        if names.is_empty() {
            let inside = subfolder.map_or(String::new(), |folder| format!(" in `{folder}`"));
            return Err(Error::Empty {
                path: path.to_path_buf(),
                reason: format!("no image{inside}"),
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
            let mut classes: Vec<String> = names.iter().map(|name| class_of(name).to_string()).collect();
            classes.sort_unstable();
            classes.dedup();
            archive.class_names = classes;
        }
        archive.names = names;
        archive.skipped = skipped;
        Ok(archive)
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

    /// Delivers the images at these positions, which must be in increasing order.
    pub(super) fn read(
        &self,
        chosen: &[usize],
        mut deliver: impl FnMut(Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut chosen = chosen.iter().copied().peekable();
        let mut position = 0;
        self.for_each_member(|name, is_file, content| {
            let is_wanted =
                !tar_shard::leaves_the_shard(name) && self.below(name, is_file).is_some_and(is_image);
            if !is_wanted {
                return Ok(());
            }
            let at = position;
            position += 1;
            if chosen.next_if_eq(&at).is_none() {
                return Ok(());
            }
            let mut image = Vec::new();
            content
                .read_to_end(&mut image)
                .map_err(|error| self.damaged(&error))?;
            let below = &self.names[at];
            let label = self
                .class_names
                .binary_search_by(|class| class.as_str().cmp(class_of(below)))
                .ok();
            deliver(Record {
                key: crate::sources::table::key_of_path(below),
                image,
                label: label.map(|class| Label::Class(class as u32)),
                metadata: Metadata::default(),
            })
        })
    }

    /// The member's path below the subfolder, if it is a visible file in there.
    fn below<'n>(&self, name: &'n str, is_file: bool) -> Option<&'n str> {
        let name = name.strip_prefix("./").unwrap_or(name);
        let below = name.strip_prefix(self.prefix.as_str())?;
        let is_hidden = below.split('/').any(|part| part.starts_with('.'));
        (is_file && !is_hidden).then_some(below)
    }

    fn for_each_member(
        &self,
        mut visit: impl FnMut(&str, bool, &mut dyn Read) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        let file = BufReader::with_capacity(1 << 18, file);
        let stream: Box<dyn Read> = if is_compressed(&self.path) {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(|error| self.damaged(&error))? {
            let mut entry = entry.map_err(|error| self.damaged(&error))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let is_file = entry.header().entry_type().is_file();
            visit(&name, is_file, &mut entry)?;
        }
        Ok(())
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> Error {
        Error::DamagedShard {
            path: self.path.clone(),
            reason: format!("cut or damaged: {}", tar_shard::reason(error)),
        }
    }
}

fn class_of(below: &str) -> &str {
    below.split('/').next().unwrap_or(below)
}

fn is_image(name: &str) -> bool {
    name.rfind('.')
        .is_some_and(|dot| files::is_image_extension(&name[dot + 1..]))
}
