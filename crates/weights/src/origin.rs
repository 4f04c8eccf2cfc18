//! What an encoder's training started from: a fact that stays with every encoder that comes of it.

use data::Licenses;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder_info::EncoderInfo;

/// Whether an encoder was trained on photographs of people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SawPeople {
    /// It was, as every encoder of ImageNet.
    Yes,
    /// Its data hold none, nor did those of the encoders that it started from.
    No,
    /// Nobody has said.
    #[default]
    Unknown,
}

impl SawPeople {
    /// `yes`, `no` or `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// The encoder that a training started from. Without a path: encoder files are published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Name of its file.
    pub file: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// Its training method, or the layout of another program's file.
    pub method: String,
    /// Fingerprint of its data set; empty if its file has none.
    pub fingerprint: String,
    /// Licenses of its images with the number of images each; empty if its file has none.
    #[serde(rename = "licences")]
    pub licenses: Licenses,
    /// Whether it saw people.
    pub saw_people: SawPeople,
    /// What that training started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<Origin>>,
}

/// The key of [`EncoderInfo::extra`] with an [`Origin`], as JSON.
const KEY: &str = "origin";

impl EncoderInfo {
    /// What its training started from; `None` for initial weights, and for other programs' files.
    pub fn origin(&self) -> Option<Origin> {
        let text = self.extra.get(KEY)?;
        serde_json::from_str(text).ok()
    }

    /// Notes what its training started from.
    pub fn set_origin(&mut self, origin: &Origin) {
        if let Ok(text) = serde_json::to_string(origin) {
            self.extra.insert(KEY.to_owned(), text);
        }
    }
}

impl Origin {
    /// A line for people: `moco_v2.pth (moco_v2, SHA-256 0123456789ab, saw people: unknown)`, then what that one started
    /// from.
    pub fn describe(&self) -> String {
        let hash = self.sha256.get(..12).unwrap_or(&self.sha256);
        let own = format!(
            "{} ({}, SHA-256 {hash}, saw people: {})",
            self.file,
            self.method,
            self.saw_people.name()
        );
        match &self.origin {
            Some(origin) => format!("{own}, which started from {}", origin.describe()),
            None => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_described_with_its_own() {
        let first = Origin {
            file: "dinov2.safetensors".into(),
            sha256: "0123456789abcdef".into(),
            method: "dinov2".into(),
            fingerprint: String::new(),
            licenses: Licenses::default(),
            saw_people: SawPeople::Yes,
            origin: None,
        };
        let second = Origin {
            file: "encoder.safetensors".into(),
            sha256: "fedcba9876543210".into(),
            method: "dino".into(),
            origin: Some(Box::new(first)),
            ..Origin {
                file: String::new(),
                sha256: String::new(),
                method: String::new(),
                fingerprint: "abc".into(),
                licenses: Licenses::default(),
                saw_people: SawPeople::Yes,
                origin: None,
            }
        };
        assert_eq!(
            second.describe(),
            "encoder.safetensors (dino, SHA-256 fedcba987654, saw people: yes), which started from dinov2.safetensors \
             (dinov2, SHA-256 0123456789ab, saw people: yes)"
        );
        let text = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Origin>(&text).unwrap(), second);
    }
}
