//! One record: an encoded image, its label if it has one, and its provenance.

use serde::{Deserialize, Serialize};

/// One image as it is stored, with its label and provenance.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Name of the record in its data set: the path inside the shard or folder up to the first dot of the
    /// file name.
    pub key: String,
    /// The image file, byte for byte as it was stored (JPEG, PNG, WebP, BMP or GIF).
    pub image: Vec<u8>,
    /// Class or classes, where the data set has labels.
    pub label: Option<Label>,
    /// Author, license, place and time, as far as known.
    pub metadata: Metadata,
}

/// The label of a record. Classes count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// Exactly one class (`KEY.cls`).
    Class(u32),
    /// A set of classes, possibly empty (`KEY.classes.json`), in increasing order.
    Classes(Vec<u32>),
}

/// Provenance of an image; the content of `KEY.json` in a shard.
///
/// Every field may be missing. Keys that are not listed here are kept in `other` and written back unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Name of the photographer, as licenses require it in print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photographer: Option<String>,
    /// Name of the license, e.g. `Attribution License`; `licence` in the JSON.
    #[serde(rename = "licence", default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Address of the license text; `licence_url` in the JSON.
    #[serde(rename = "licence_url", default, skip_serializing_if = "Option::is_none")]
    pub license_url: Option<String>,
    /// Address that the image was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// When the picture was taken, as the source wrote it, e.g. `2004-05-17 00:44:29.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_taken: Option<String>,
    /// Latitude of the place, degrees north, -90 to 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    /// Longitude of the place, degrees east, -180 to 180.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// SHA-256 of the image file, 64 lowercase hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// Every other key of the JSON object.
    // `flatten` is safe here: the struct accepts unknown keys on purpose.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Metadata {
    /// Whether nothing is known, so that no `KEY.json` is needed.
    pub fn is_empty(&self) -> bool {
        *self == Metadata::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_json_keys_survive_a_round_trip() {
        let text = r#"{"photographer":"A. Person","latitude":48.5,"camera":{"maker":"X","iso":[1,2]}}"#;
        let metadata: Metadata = serde_json::from_str(text).unwrap();
        assert_eq!(metadata.photographer.as_deref(), Some("A. Person"));
        assert_eq!(metadata.latitude, Some(48.5));
        assert_eq!(metadata.other["camera"]["iso"][1], 2);
        let back: serde_json::Value = serde_json::to_value(&metadata).unwrap();
        assert_eq!(back, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn names_in_the_json_are_those_of_earlier_versions() {
        let text = r#"{"licence":"CC BY 4.0","licence_url":"https://example.org/by"}"#;
        let metadata: Metadata = serde_json::from_str(text).unwrap();
        assert_eq!(metadata.license.as_deref(), Some("CC BY 4.0"));
        assert_eq!(metadata.license_url.as_deref(), Some("https://example.org/by"));
        assert!(metadata.other.is_empty());
        assert_eq!(serde_json::to_string(&metadata).unwrap(), text);
    }

    #[test]
    fn nothing_known_writes_an_empty_object() {
        assert!(Metadata::default().is_empty());
        assert_eq!(serde_json::to_string(&Metadata::default()).unwrap(), "{}");
    }
}
