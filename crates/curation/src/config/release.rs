//! The `[release]` section of the config.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedded::FileMetadata;
use crate::error::Error;

/// The description of a release. Its texts are printed unchanged.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
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

    /// The facts that the documents of a release print, which may change while its photos do not.
    pub(crate) fn facts(&self) -> serde_json::Value {
        let mut facts = serde_json::to_value(self).unwrap_or_default();
        if let Some(facts) = facts.as_object_mut() {
            // How photos are packed; while photos only go, shards stay as they are.
            facts.remove("records_per_shard");
            // The ledger knows separately what the last release did with files.
            facts.remove("metadata");
        }
        facts
    }

    /// Keys whose texts are still those of a shipped config, `(who publishes it)`. Shipped configs of version 0.2 have
    /// `https://example.org/` beside such texts.
    pub(crate) fn placeholders(&self) -> Vec<&'static str> {
        let is_open = |text: &str| text.trim().starts_with('(') && text.trim().ends_with(')');
        let is_of_0_2 = |text: &str| {
            let address = text
                .trim()
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            address.trim_end_matches('/') == "example.org"
        };
        let texts = [
            ("release.name", self.name.as_str()),
            ("release.description", &self.description),
            ("release.publisher", &self.publisher),
            ("release.contact", &self.contact),
            ("release.url", &self.url),
            ("release.licence_url", &self.license_url),
            ("release.citation", self.citation.as_deref().unwrap_or_default()),
        ];
        let is_unfilled = texts.iter().any(|(_, text)| is_open(text));
        let open = texts
            .into_iter()
            .filter(|(_, text)| is_open(text) || is_unfilled && is_of_0_2(text));
        open.map(|(key, _)| key).collect()
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
        for (key, what, text) in [
            ("release.name", "a text", &self.name),
            ("release.description", "a text", &self.description),
            ("release.publisher", "a text", &self.publisher),
            ("release.contact", "a text", &self.contact),
            ("release.url", "the address of its web page", &self.url),
            (
                "release.licence_url",
                "the address of a license",
                &self.license_url,
            ),
        ] {
            Error::unless_filled(key, what, text)?;
        }
        Error::unless_filled_or_absent("release.citation", "a text", self.citation.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_says_nothing_is_refused() {
        let with = |key: &str, text: &str| {
            let mut release = serde_json::json!({
                "name": "n", "description": "d", "publisher": "p", "contact": "c", "url": "u", "licence_url": "l",
                "records_per_shard": 1, "shard_prefix": "s", "coordinates": false,
            });
            release[key] = text.into();
            let release: ReleaseConfig = serde_json::from_value(release).unwrap();
            release.validate().map_err(|error| error.to_string())
        };
        assert_eq!(with("url", "https://example.org/"), Ok(()));
        for (key, what) in [
            ("name", "must be a text, got none"),
            ("description", "must be a text, got none"),
            ("publisher", "must be a text, got none"),
            ("contact", "must be a text, got none"),
            ("url", "must be the address of its web page, got none"),
            ("licence_url", "must be the address of a license, got none"),
            ("citation", "must be a text, or be left out, got none"),
        ] {
            let message = format!("`release.{key}` {what}");
            assert_eq!(with(key, ""), Err(message.clone()));
            assert_eq!(with(key, " \n"), Err(message));
        }
    }

    #[test]
    fn texts_of_shipped_configs_are_placeholders_and_others_are_not() {
        let mut release = ReleaseConfig {
            name: "my-photos".into(),
            description: "Photographs (mine).".into(),
            publisher: "(who publishes it)".into(),
            contact: " (an address) ".into(),
            url: "https://example.org/".into(),
            license_url: "https://creativecommons.org/licenses/by/4.0/".into(),
            citation: None,
            records_per_shard: 1,
            shard_prefix: "p".into(),
            coordinates: false,
            metadata: None,
        };
        assert_eq!(
            release.placeholders(),
            ["release.publisher", "release.contact", "release.url"]
        );
        release.publisher = "Ann (Example)".into();
        release.contact = "ann@example.org".into();
        // Every other text was written by the user.
        assert!(release.placeholders().is_empty());
        release.url = " (where it will be found) ".into();
        assert_eq!(release.placeholders(), ["release.url"]);
        release.url = "https://example.org/photos".into();
        assert!(release.placeholders().is_empty());
        // Packing is no fact about the data.
        let facts = release.facts();
        release.records_per_shard = 7;
        assert_eq!(release.facts(), facts);
        release.publisher = "Bob".into();
        assert_ne!(release.facts(), facts);
    }
}
