//! A folder of pictures, walked in order of names: the pictures in it, and the count of everything else.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};

use walkdir::WalkDir;

use super::{files, names};
use crate::content;
use crate::error::Error;
use crate::hint::Hint;
use crate::listing::{Listing, Reason};

/// The pictures below a folder, at any depth; links are followed.
///
/// Folders and files of other programs are skipped, files whose names do not decide are recognized by their
/// first bytes, and everything that is no picture is counted.
#[derive(Debug)]
pub struct Walk {
    root: PathBuf,
    /// For a walk beside sidecars: a folder and the names that sidecars in it may have.
    sidecars: Option<(PathBuf, HashSet<OsString>)>,
    absolute_root: PathBuf,
    /// The root without links, once a link needs it.
    real_root: Option<PathBuf>,
    walk: walkdir::IntoIter,
    listing: Listing,
}

/// A picture in a folder.
#[derive(Debug)]
pub struct Found {
    /// Path below the root.
    pub relative: PathBuf,
    /// The kind of files, such as `.heic`, of a picture in an unsupported format.
    pub unsupported: Option<String>,
    entry: walkdir::DirEntry,
}

impl Found {
    /// Length and times of the file; a question to the file system.
    pub(crate) fn metadata(&self) -> Result<Metadata, Error> {
        let metadata = self.entry.metadata().map_err(std::io::Error::from);
        metadata.map_err(Error::io("read", self.entry.path()))
    }
}

impl Walk {
    /// Begins at the root.
    pub fn new(root: &Path) -> Walk {
        Walk {
            root: root.to_path_buf(),
            sidecars: None,
            // Without a part such as `./`, which the targets of links would not have.
            absolute_root: std::path::absolute(root)
                .unwrap_or_default()
                .components()
                .collect(),
            real_root: None,
            walk: WalkDir::new(root)
                .min_depth(1)
                .follow_links(true)
                .sort_by_file_name()
                .into_iter(),
            listing: Listing::default(),
        }
    }

    /// Begins at the root of photos with sidecars (`a.json` or `a.jpg.json` beside `a.jpg`): a JSON file is
    /// counted only if it is alone.
    pub fn with_sidecars(root: &Path) -> Walk {
        Walk {
            sidecars: Some((PathBuf::new(), HashSet::new())),
            ..Walk::new(root)
        }
    }

    /// The next picture; `None` at the end.
    ///
    /// # Errors
    /// Folders and files that cannot be read, and links that lead nowhere or in circles.
    pub fn next_picture(&mut self) -> Result<Option<Found>, Error> {
        while let Some(entry) = self.walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.skip_broken(error)?;
                    continue;
                }
            };
            let name = entry.file_name().to_string_lossy();
            let relative = entry.path().strip_prefix(&self.root).unwrap_or(entry.path());
            let shown = || relative.to_string_lossy().replace('\\', "/");
            if entry.file_type().is_dir() {
                if let Some(reason) = names::skipped_folder(&name) {
                    self.listing.add(reason, "", shown);
                    self.walk.skip_current_dir();
                } else if entry.path_is_symlink() {
                    let real_root = self
                        .real_root
                        .get_or_insert_with(|| real(&self.root).unwrap_or_default());
                    let twice = real(entry.path()).is_some_and(|path| path.starts_with(real_root));
                    self.listing
                        .add_many(Reason::LinkedTwice, "folders", u64::from(twice), shown);
                }
                continue;
            }
            if !entry.file_type().is_file() {
                // A pipe would be waited for forever.
                self.listing.add(Reason::NotAFile, "", shown);
                continue;
            }
            let kind = names::kind(&name, || content::start_of(entry.path()));
            let unsupported = match kind.map_err(Error::io("read", entry.path()))? {
                names::Kind::Image => None,
                names::Kind::ImageByContent(kind) => {
                    self.listing.add(Reason::ImageByContent, &kind, shown);
                    None
                }
                names::Kind::LeftOut(Reason::UnsupportedFormat, kind) => {
                    self.listing.add(Reason::UnsupportedFormat, &kind, shown);
                    Some(kind)
                }
                names::Kind::LeftOut(Reason::Document, kind)
                    if kind == ".json" && self.sidecars.is_some() =>
                {
                    if !self.has_photo(entry.path()) {
                        self.listing.add(Reason::SidecarAlone, "", shown);
                    }
                    continue;
                }
                names::Kind::LeftOut(reason, kind) => {
                    self.listing.add(reason, &kind, shown);
                    continue;
                }
                names::Kind::Own => continue,
            };
            if entry.path_is_symlink() && points_below(&self.absolute_root, relative, entry.path()) {
                self.listing.add(Reason::LinkedTwice, "files", shown);
            }
            return Ok(Some(Found {
                relative: relative.to_path_buf(),
                unsupported,
                entry,
            }));
        }
        Ok(None)
    }

    /// Counts of everything that was no picture so far, and of guesses.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    pub(crate) fn into_listing(self) -> Listing {
        self.listing
    }

    /// Whether a photo lies beside its sidecar. The last folder that was asked for is remembered.
    fn has_photo(&mut self, sidecar: &Path) -> bool {
        let (Some(folder), Some(name)) = (sidecar.parent(), sidecar.file_stem()) else {
            return false;
        };
        // `a.JSON` is another file, which nobody reads.
        if sidecar.extension().is_none_or(|extension| extension != "json") {
            return false;
        }
        let known = self.sidecars.get_or_insert_default();
        if known.0 != folder {
            *known = (folder.to_path_buf(), names_of_sidecars(folder));
        }
        known.1.contains(name)
    }

    /// Counts an unreadable entry whose name says that it is no picture, and beside sidecars a link that leads
    /// nowhere; gives an error for others.
    fn skip_broken(&mut self, error: walkdir::Error) -> Result<(), Error> {
        let name = error
            .path()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy());
        let is_link = error.path().is_some_and(Path::is_symlink);
        let reason = name.filter(|_| is_link).and_then(|name| {
            names::skipped_file(&name)
                .map(|(reason, _)| reason)
                .or(names::skipped_folder(&name))
        });
        // Among photos with sidecars one lost link does not hide all others.
        let is_dangling = is_link && error.loop_ancestor().is_none() && self.sidecars.is_some();
        match reason.or(is_dangling.then_some(Reason::NotAFile)) {
            Some(reason) => {
                let path = error.path().unwrap_or(&self.root);
                let relative = path.strip_prefix(&self.root).unwrap_or(path);
                self.listing.add(reason, "", || relative.display().to_string());
                Ok(())
            }
            None => Err(unlisted(&self.root, error)),
        }
    }
}

/// The names, without `.json`, of the sidecars of all files in a folder that may be photos.
fn names_of_sidecars(folder: &Path) -> HashSet<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let photos = entries.map(|entry| entry.file_name());
    photos
        .filter(|name| names::may_be_photo(&name.to_string_lossy()))
        .flat_map(|name| {
            let stem = Path::new(&name).file_stem().map(OsString::from);
            std::iter::once(name).chain(stem)
        })
        .collect()
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// Whether a link's own text leads to a place below the root. Nothing but the link is read, because there may
/// be millions of them.
fn points_below(root: &Path, relative: &Path, link: &Path) -> bool {
    let (Ok(target), Some(folder)) = (std::fs::read_link(link), relative.parent()) else {
        return false;
    };
    let mut place = PathBuf::new();
    for part in root.join(folder).join(target).components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            Component::CurDir => {}
            part => place.push(part),
        }
    }
    place.starts_with(root)
}

/// The reason why a folder could not be walked to its end.
fn unlisted(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_path_buf();
    let link = match error.loop_ancestor() {
        Some(ancestor) => Some(format!(
            "a symbolic link back to `{}`, the folder that it lies in",
            ancestor.display()
        )),
        None => files::broken_link(&path),
    };
    match link {
        Some(link) => Error::Unreadable {
            spec: root.display().to_string(),
            reason: format!("`{}` is {link}", path.display()),
            hint: Some(Hint::RestoreLink),
        },
        None => Error::io("list", &path)(error.into()),
    }
}
