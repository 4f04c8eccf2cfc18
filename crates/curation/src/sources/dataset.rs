//! An existing data set: the PASS release with its `pass_metadata.csv`, shards, an image folder.

use data::{Dataset, Label, Listing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::folder::{licensed, photo_of};
use super::{Position, Rows};
use crate::error::Error;
use crate::photo::{KeyRule, Row, dataset_key, refusal};

/// An existing data set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// A directory of shards, a brace pattern, an image folder, PASS's tars, or a data-set description.
    pub data: String,
    /// Name of the license of photos that state none themselves, such as the terms of the whole collection;
    /// absent: these photos have no license.
    #[serde(rename = "licence", default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// The records being listed.
pub(crate) struct Records {
    dataset: Dataset,
    license: Option<String>,
    position: Position,
}

impl Records {
    pub(crate) fn open(config: &DatasetConfig, from: Position) -> Result<Records, Error> {
        Ok(Records {
            dataset: Dataset::reopen(&config.data)?,
            license: config.license.clone(),
            position: from,
        })
    }
}

impl Rows for Records {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let at = self.position.rows as usize;
        if at >= self.dataset.len() {
            return Ok(None);
        }
        self.position.rows += 1;
        let (metadata, broken) = match self.dataset.metadata(at) {
            Ok(metadata) => (metadata, false),
            Err(data::Error::Record { .. }) => (data::Metadata::default(), true),
            Err(error) => return Err(error.into()),
        };
        let mut photo = licensed(photo_of(metadata), &self.license);
        photo.id = self.position.rows;
        photo.key = dataset_key(&self.dataset.key(at)?);
        photo.locator = Some(at.to_string());
        photo.label = match self.dataset.label(at)? {
            Some(Label::Class(class)) => {
                let names = self.dataset.class_names();
                Some(
                    names
                        .get(class as usize)
                        .cloned()
                        .unwrap_or_else(|| class.to_string()),
                )
            }
            // Sets of classes have no single name here.
            Some(Label::Classes(_)) | None => None,
        };
        let refused = match broken {
            true => Some("broken_sidecar"),
            false => refusal(&photo, KeyRule::Path),
        };
        Ok(Some(Row {
            photo,
            refused,
            note: None,
        }))
    }

    fn position(&self) -> Position {
        self.position.clone()
    }

    fn listing(&self) -> Listing {
        self.dataset.listing().clone()
    }
}
