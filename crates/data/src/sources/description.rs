//! Data-set descriptions: a small TOML file that says what lies where and what the classes are called.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Name of the description that `passer shards pack` leaves beside its shards, and that opening a folder looks for.
pub(crate) const FILE_NAME: &str = "dataset.toml";

/// What kind of data a description points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// WebDataset shards: a folder of them, one `.tar`, or a brace pattern.
    Shards,
    /// Class folders.
    Folder,
    /// Images at any depth, without labels.
    Flat,
    /// The published PASS release, as tars or unpacked, without labels.
    Pass,
}

/// The content of a data-set description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// How `path` is read.
    pub(crate) kind: Kind,
    /// The data, relative to the folder of the description.
    pub(crate) path: String,
    /// Class names in the order of their numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) classes: Option<Vec<String>>,
}

impl Description {
    pub(crate) fn read(path: &Path) -> Result<Description, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let error = |reason: String| Error::Description {
            path: path.to_path_buf(),
            reason,
        };
        let description: Description =
            toml::from_str(&text).map_err(|failure| error(failure.to_string().trim_end().to_string()))?;
        if let Some(classes) = &description.classes {
            let mut sorted: Vec<&String> = classes.iter().collect();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(error(format!("class `{}` is named twice", twice[0])));
            }
        }
        Ok(description)
    }

    /// The data's path, seen from where the description lies.
    pub(crate) fn data_path(&self, description: &Path) -> PathBuf {
        description.parent().unwrap_or(Path::new("")).join(&self.path)
    }
}
