//! A folder of the user's own photos, each with a sidecar: `name.json` or `name.jpg.json` beside `name.jpg`.

use std::fs;
use std::path::{Path, PathBuf};

use data::{Listing, Metadata, Reason, Walk};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credit::{Claim, Configured, add_credit_of_file, without_no_name};
use super::{Position, Rows};
use crate::embedded;
use crate::error::Error;
use crate::photo::{KeyRule, Photo, Row, degrees, refusal};
use crate::stages::license::LicenseConfig;

/// A folder of photos.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder; photos at any depth.
    pub folder: PathBuf,
    /// Whether the first folder below it is the photo's class, as in `imagenet/train/n01440764/x.JPEG`.
    pub class_folders: bool,
    /// Name of the license of photos that state none themselves and name no other photographer than
    /// `photographer`; absent: these photos have no license.
    #[serde(rename = "licence", default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Name of the photographer of photos that name none themselves; absent: they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photographer: Option<String>,
    /// Whether photos whose sidecars name no photographer, or no license, get them from the file: its XMP, IPTC or
    /// EXIF.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedded_credit: bool,
}

/// The keys of a sidecar beside those of [`Metadata`] that are read.
const OTHER_KEYS: [&str; 4] = ["title", "photographer_id", "page_url", "image_url"];

/// Longest sidecar that is read, bytes.
const LONGEST_SIDECAR: u64 = 1 << 20;

/// The folder being listed, in order of the paths.
pub(crate) struct Folder {
    root: PathBuf,
    class_folders: bool,
    /// The credit of the config.
    configured: Configured,
    embedded_credit: bool,
    /// By which a license is told from other texts in a file.
    licenses: LicenseConfig,
    walk: Walk,
    position: Position,
    /// Keys of sidecars that mean nothing, names that are no photographer's, photos of others.
    credits: Listing,
}

impl Folder {
    /// Gives an error if there is no folder.
    pub(crate) fn check(config: &FolderConfig) -> Result<(), Error> {
        let found = match (config.folder.is_dir(), config.folder.exists()) {
            (true, _) => return Ok(()),
            (false, true) => "a file",
            (false, false) => "none",
        };
        let reason = format!("must be a folder of photos, got {found}");
        Err(Error::source(&config.folder, reason))
    }

    pub(crate) fn open(
        config: &FolderConfig,
        licenses: Option<&LicenseConfig>,
        from: Position,
    ) -> Result<Folder, Error> {
        Self::check(config)?;
        Ok(Folder {
            root: config.folder.clone(),
            class_folders: config.class_folders,
            configured: Configured {
                photographer: config.photographer.clone(),
                license: config.license.clone(),
            },
            embedded_credit: config.embedded_credit,
            licenses: licenses.cloned().unwrap_or_default(),
            walk: Walk::with_sidecars(&config.folder),
            position: from,
            credits: Listing::default(),
        })
    }

    /// The row of a picture in an unsupported format. Its key holds the extension: cameras write `a.jpg` beside
    /// `a.cr2`.
    fn unsupported(&self, name: &str) -> Row {
        let (folder, file) = name
            .rsplit_once('/')
            .map_or((String::new(), name), |(folder, file)| {
                (format!("{folder}/"), file)
            });
        Row {
            photo: Photo {
                id: self.position.rows,
                key: format!("{folder}{}", file.replace('.', "_")),
                ..Photo::default()
            },
            refused: Some("unsupported_format"),
            note: None,
        }
    }

    /// The sidecar of a photo, whose unknown keys are counted.
    fn sidecar(&mut self, relative: &Path) -> Result<Metadata, &'static str> {
        let metadata = sidecar(&self.root.join(relative))?;
        for key in metadata
            .other
            .keys()
            .filter(|key| !OTHER_KEYS.contains(&key.as_str()))
        {
            let example = || relative.to_string_lossy().into_owned();
            self.credits.add(Reason::UnknownKey, key, example);
        }
        Ok(metadata)
    }

    /// Adds the credit that the file gives itself and that of the config, as far as each speaks of this photo.
    /// Returns what the file says of its rights, if that leaves the photo without a license.
    fn credited(&mut self, photo: &mut Photo, relative: &Path) -> Option<String> {
        let example = || relative.to_string_lossy().into_owned();
        let lacks_license = photo.license.is_none() && photo.license_url.is_none();
        let mut no_names: Vec<String> = without_no_name(&mut photo.photographer).into_iter().collect();
        let file = match self.embedded_credit && (photo.photographer.is_none() || lacks_license) {
            // A file that cannot be read is dropped by the first stage that needs it.
            true => fs::read(self.root.join(relative))
                .map(|file| embedded::credit(&file))
                .unwrap_or_default(),
            false => embedded::Credit::default(),
        };
        let claims = add_credit_of_file(photo, file, &self.licenses, &mut no_names);
        if let Err(reason) = self.configured.add_to(photo, &claims) {
            self.credits.add(reason, "", example);
        }
        for name in no_names {
            self.credits.add(Reason::NoPhotographersName, &name, example);
        }
        let has_none = photo.license.is_none() && photo.license_url.is_none();
        let note = claims.iter().map(Claim::in_words).collect::<Vec<_>>().join("; ");
        Some(note).filter(|note| has_none && !note.is_empty())
    }

    fn row(&mut self, relative: &Path, name: &str) -> Row {
        let id = self.position.rows;
        let key = key_of(name);
        let refused = |reason| Row {
            photo: Photo {
                id,
                key: key.clone(),
                ..Photo::default()
            },
            refused: Some(reason),
            note: None,
        };
        let metadata = match self.sidecar(relative) {
            Ok(metadata) => metadata,
            Err(reason) => return refused(reason),
        };
        let label = self
            .class_folders
            .then(|| name.split_once('/').map(|(class, _)| class.to_string()));
        if label == Some(None) {
            return refused("no_class_folder");
        }
        let mut photo = photo_of(metadata);
        let note = self.credited(&mut photo, relative);
        (photo.id, photo.key) = (id, key.clone());
        photo.label = label.flatten();
        photo.locator = Some(name.to_string());
        let refused = refusal(&photo, KeyRule::Path);
        Row {
            note: note.filter(|_| refused.is_none()),
            photo,
            refused,
        }
    }
}

impl Rows for Folder {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        while let Some(found) = self.walk.next_picture()? {
            let relative = &found.relative;
            // Paths that are not Unicode cannot be keys; the row reports that, with the printable part of the
            // path.
            let name = relative.to_string_lossy().replace('\\', "/");
            if self
                .position
                .path
                .as_deref()
                .is_some_and(|last| relative.as_path() <= Path::new(last))
            {
                // A source that resumes counts what it counted before.
                if found.unsupported.is_none() {
                    let _ = self.row(relative, &name);
                }
                continue;
            }
            self.position.rows += 1;
            let mut row = match found.unsupported {
                // A photo, but none that can be decoded: dropped with its reason, not missed in silence.
                Some(_) => self.unsupported(&name),
                None => self.row(relative, &name),
            };
            if relative.to_str().is_none() {
                row.refused = Some("unsafe_key");
            }
            self.position.path = Some(name);
            return Ok(Some(row));
        }
        if self.position.rows == 0 {
            let lines = self.walk.listing().lines().join("; ");
            let reason = match lines.is_empty() {
                true => "no photo in it: nothing is there".to_string(),
                false => format!("no photo in it ({lines})"),
            };
            return Err(Error::source(&self.root, reason));
        }
        Ok(None)
    }

    fn position(&self) -> Position {
        self.position.clone()
    }

    fn listing(&self) -> Listing {
        // Photos in unsupported formats are rows.
        let counted = self.walk.listing().notes().iter().chain(self.credits.notes());
        counted
            .filter(|note| note.reason != Reason::UnsupportedFormat)
            .cloned()
            .collect()
    }
}

/// The photo under the license of the collection, where it states none itself.
pub(super) fn licensed(mut photo: Photo, license: &Option<String>) -> Photo {
    if photo.license.is_none() && photo.license_url.is_none() {
        photo.license.clone_from(license);
    }
    photo
}

/// The photos in the folder whose keys are not `listed`: how many, and the first one. Takes a walk through the
/// folder; no photo is opened whose name says that it is one.
pub(super) fn unlisted(
    folder: &Path,
    mut listed: impl FnMut(&str) -> Result<bool, Error>,
) -> Result<(u64, String), Error> {
    let mut walk = Walk::with_sidecars(folder);
    let (mut count, mut first) = (0, String::new());
    while let Some(found) = walk.next_picture()? {
        let name = found.relative.to_string_lossy().replace('\\', "/");
        if found.unsupported.is_none() && !listed(&key_of(&name))? {
            count += 1;
            if first.is_empty() {
                first = name;
            }
        }
    }
    Ok((count, first))
}

/// The path without its extension. Other dots of the file name become `_`, because a shard's key ends at the
/// first dot.
fn key_of(name: &str) -> String {
    let (folder, file) = match name.rsplit_once('/') {
        Some((folder, file)) => (Some(folder), file),
        None => (None, name),
    };
    let stem = file
        .rsplit_once('.')
        .map_or(file, |(stem, _)| stem)
        .replace('.', "_");
    match folder {
        Some(folder) => format!("{folder}/{stem}"),
        None => stem,
    }
}

/// The content of the sidecar; empty where there is none.
fn sidecar(photo: &Path) -> Result<Metadata, &'static str> {
    let mut beside = photo.as_os_str().to_owned();
    beside.push(".json");
    for path in [PathBuf::from(beside), photo.with_extension("json")] {
        let Ok(facts) = fs::metadata(&path) else {
            continue;
        };
        if facts.len() > LONGEST_SIDECAR {
            return Err("broken_sidecar");
        }
        let text = fs::read(&path).map_err(|_| "broken_sidecar")?;
        return serde_json::from_slice(&text).map_err(|_| "broken_sidecar");
    }
    Ok(Metadata::default())
}

/// A photo from a record's metadata; `title`, `photographer_id`, `page_url` and `image_url` are among its
/// other keys.
pub(crate) fn photo_of(metadata: Metadata) -> Photo {
    let other = |name: &str| {
        metadata
            .other
            .get(name)
            .and_then(|value| value.as_str())
            .map(str::to_string)
    };
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let bounded = |value: Option<f64>, limit| value.and_then(|value| degrees(&value.to_string(), limit));
    Photo {
        photographer_id: filled(other("photographer_id")),
        title: filled(other("title")),
        // A source's `source_url` is the page that the picture was taken from, unless another page is named.
        page_url: filled(other("page_url")).or_else(|| filled(metadata.source_url.clone())),
        image_url: filled(other("image_url")),
        photographer: filled(metadata.photographer),
        date_taken: filled(metadata.date_taken),
        latitude: bounded(metadata.latitude, 90.0),
        longitude: bounded(metadata.longitude, 180.0),
        license: filled(metadata.license),
        license_url: filled(metadata.license_url),
        ..Photo::default()
    }
}
