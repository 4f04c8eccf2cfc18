//! Where the files of photos are, for every kind of source.

use std::path::{Path, PathBuf};

use data::Dataset;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::photo::{Photo, dataset_key};

/// Reads the files of photos.
#[derive(Debug)]
pub struct Photos {
    place: Place,
}

/// The place of the photos.
#[derive(Debug)]
pub(crate) enum Place {
    /// Downloads, below a folder of the curation.
    Fetched(PathBuf),
    /// A folder of the user's own photos.
    Folder(PathBuf),
    /// Shards and other data sets.
    Dataset(Box<Dataset>),
    /// A list of photos without files.
    Nowhere,
}

impl Photos {
    /// The photos at a place.
    pub(crate) fn new(place: Place) -> Photos {
        Photos { place }
    }

    /// The file of a photo, byte for byte.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    pub fn read(&self, photo: &Photo) -> Result<Vec<u8>, Error> {
        let missing = |reason: &str| Error::Stage {
            stage: "source".to_string(),
            reason: format!("photo `{}`: {reason}", photo.key),
            hint: None,
        };
        match &self.place {
            Place::Dataset(dataset) => {
                let position = photo
                    .locator
                    .as_ref()
                    .and_then(|locator| locator.parse::<usize>().ok())
                    .ok_or_else(|| missing("has no position in the data set"))?;
                // Positions shift when the data change; keys stay.
                if dataset_key(&dataset.key(position)?) != photo.key {
                    return Err(missing("the data set changed since it was listed"));
                }
                let mut image = Vec::new();
                dataset.read_image(position, &mut image)?;
                Ok(image)
            }
            Place::Nowhere => Err(missing("the source lists photos only, and nothing was fetched")),
            Place::Fetched(_) | Place::Folder(_) => {
                let path = self
                    .path(photo)
                    .ok_or_else(|| missing("has no place in the folder"))?;
                read(&path).map_err(Error::io("read", &path))
            }
        }
    }

    /// The path of a photo's file, where it is a separate file.
    pub fn path(&self, photo: &Photo) -> Option<PathBuf> {
        match &self.place {
            Place::Fetched(folder) => Some(fetched_path(folder, &photo.key)),
            Place::Folder(folder) => photo.locator.as_ref().map(|locator| folder.join(locator)),
            Place::Dataset(_) | Place::Nowhere => None,
        }
    }

    /// Checks that the files can be there at all: with an unmounted folder every photo in it would be
    /// unreadable.
    ///
    /// # Errors
    /// A missing folder of the user's photos.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.place {
            Place::Folder(folder) if !folder.is_dir() => Err(Error::source(
                folder,
                "must be the folder of photos that was listed, got none",
            )),
            _ => Ok(()),
        }
    }

    /// Deletes a download, whole or partial, if it exists.
    pub(crate) fn remove(&self, photo: &Photo) -> Result<Option<PathBuf>, Error> {
        let Some(path) = self.path(photo).filter(|_| self.are_fetched()) else {
            return Ok(None);
        };
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", path)(error)),
        };
        for unfinished in unfinished(&path) {
            remove(&unfinished)?;
        }
        Ok(remove(&path)?.then_some(path))
    }

    /// Whether the files are downloads of this curation, which may be deleted.
    pub(crate) fn are_fetched(&self) -> bool {
        matches!(self.place, Place::Fetched(_))
    }
}

/// Largest file that is read, bytes: more than the largest picture that is decoded has without compression.
const LARGEST: u64 = 3 << 29;

/// The bytes of a file that may be a picture.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > LARGEST {
        let reason = format!("the file must be of at most {LARGEST} bytes, got {bytes}");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, reason));
    }
    std::fs::read(path)
}

/// The place of a download. It is named by a hash of the key, which spreads millions of files evenly over
/// 65,536 folders, and separates keys that differ only in case on file systems that ignore case.
pub(crate) fn fetched_path(folder: &Path, key: &str) -> PathBuf {
    let name = data::hex(&Sha256::digest(key.as_bytes())[..20]);
    folder.join(&name[..2]).join(&name[2..4]).join(name)
}

/// The partial downloads that a killed process may have left, under the names of this version and of earlier
/// ones.
fn unfinished(path: &Path) -> impl Iterator<Item = PathBuf> {
    let of_this_version = data::durable::leftover_of(path).ok();
    of_this_version.into_iter().chain([path.with_extension("part")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_any_picture_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.jpg");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
        assert_eq!(
            error.to_string(),
            "the file must be of at most 1610612736 bytes, got 1099511627776"
        );
        std::fs::write(&path, b"small").unwrap();
        assert_eq!(read(&path).unwrap(), b"small");
    }
}
