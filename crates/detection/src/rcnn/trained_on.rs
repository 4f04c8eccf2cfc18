//! The data that a detector was trained on, as its file states them: a fingerprint, and a sample of the images.

use data::ContentSample;
use serde::{Deserialize, Serialize};
use weights::Checkpoint;

/// The metadata key of the statement. Beside that of the network, so that earlier versions read the file.
const KEY: &str = "passer_training_data";

/// The data of a detector's training; empty where its file does not state them, as other programs' files do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainedOn {
    /// Fingerprint of the data set.
    pub fingerprint: String,
    /// A sample of its images.
    pub sample: ContentSample,
}

/// The statement in a file.
#[derive(Serialize, Deserialize)]
struct Stated {
    fingerprint: String,
    /// [`ContentSample::to_text`].
    #[serde(default)]
    images: String,
}

impl TrainedOn {
    /// What a file states; a statement that cannot be read is none.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let text = checkpoint.metadata.get(KEY);
        let stated: Option<Stated> = text.and_then(|text| serde_json::from_str(text).ok());
        stated.map_or_else(Self::default, |stated| Self {
            sample: ContentSample::from_text(&stated.images).unwrap_or_default(),
            fingerprint: stated.fingerprint,
        })
    }

    /// The entry of a file's metadata; none where nothing is known.
    pub(super) fn metadata(&self) -> Option<(&'static str, String)> {
        let stated = Stated {
            fingerprint: self.fingerprint.clone(),
            images: match self.sample.is_empty() {
                true => String::new(),
                false => self.sample.to_text(),
            },
        };
        let text = serde_json::to_string(&stated).ok()?;
        (*self != Self::default()).then_some((KEY, text))
    }
}
