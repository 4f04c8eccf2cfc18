//! The `[release]` section of the config.

use serde::{Deserialize, Serialize};

use crate::embedded::FileMetadata;
use crate::error::Error;

/// The description of a release. Its texts are printed unchanged.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseConfig {
    /// Name of the data set.
    pub name: String,
    /// One paragraph: the content and the purpose of the data set.
    pub description: String,
    /// Who publishes it.
    pub publisher: String,
    /// Where people request takedowns and send questions.
    pub contact: String,
    /// Its web page.
    pub url: String,
    /// Address of the license of the collection; each photo keeps its own.
    #[serde(rename = "licence_url")]
    pub license_url: String,
    /// How to cite it, BibTeX; absent: there is no citation yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub citation: Option<String>,
    /// Photos in each shard but the last.
    pub records_per_shard: usize,
    /// First part of the shards' names: `PREFIX-000000.tar`.
    pub shard_prefix: String,
    /// Whether the tables and JSON files give the places where photos were taken.
    pub coordinates: bool,
    /// How much of the metadata within the files is published; absent, as in configs of version 0.2:
    /// `strip_private`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<FileMetadata>,
}

impl ReleaseConfig {
    /// How much of the metadata within the files is published.
    pub(crate) fn file_metadata(&self) -> FileMetadata {
        self.metadata.unwrap_or(FileMetadata::StripPrivate)
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.records_per_shard == 0 {
            return Err(Error::config(
                "release.records_per_shard",
                "must be at least 1, got 0",
            ));
        }
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        if !plain(&self.shard_prefix) {
            let reason = format!(
                "must be letters, digits, `_` and `-`, got `{}`",
                self.shard_prefix
            );
            return Err(Error::config("release.shard_prefix", reason));
        }
        for (key, text) in [
            ("name", &self.name),
            ("publisher", &self.publisher),
            ("contact", &self.contact),
        ] {
            if text.trim().is_empty() {
                return Err(Error::config(
                    &format!("release.{key}"),
                    "must be a text, got none",
                ));
            }
        }
        Ok(())
    }
}
