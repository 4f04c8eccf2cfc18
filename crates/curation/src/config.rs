//! The config file of a curation: a source, the stages in the order in which they run, and the description of
//! its releases.

mod release;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use release::ReleaseConfig;

use crate::error::Error;
use crate::ledger::{Ledger, StageRow};
use crate::photos::{Photos, Place};
use crate::sources::SourceConfig;
use crate::stages::Stage;
use crate::stages::balance::{BalanceConfig, SampleConfig};
use crate::stages::detect::{Detectors, FacesConfig, PersonsConfig};
use crate::stages::duplicates::DuplicatesConfig;
use crate::stages::fetch::FetchConfig;
use crate::stages::integrity::IntegrityConfig;
use crate::stages::license::LicenseConfig;
use crate::stages::review::ReviewConfig;

/// A stage that is done.
pub(crate) struct Done<'a> {
    pub(crate) row: StageRow,
    pub(crate) name: &'a str,
    /// The stage after it, if that is not done.
    pub(crate) next: Option<&'a str>,
}

/// One curation, whole.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where photos are listed.
    pub source: SourceConfig,
    /// The stages that photos pass through, in this order; each stage once.
    pub stages: Vec<StageConfig>,
    /// The description that releases carry.
    pub release: ReleaseConfig,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StageConfig {
    /// Accepted licenses, complete attribution.
    #[serde(rename = "licence")]
    License(LicenseConfig),
    /// Downloads.
    Fetch(FetchConfig),
    /// Photos that decode, have a valid size and are not of a single color.
    Integrity(IntegrityConfig),
    /// One photo of each group of equal or nearly equal ones.
    Duplicates(DuplicatesConfig),
    /// No photos with faces.
    Faces(FacesConfig),
    /// No photos with persons.
    Persons(PersonsConfig),
    /// No photos that people object to.
    Review(ReviewConfig),
    /// A limit of photos per photographer.
    Balance(BalanceConfig),
    /// A random sample.
    Sample(SampleConfig),
}

impl StageConfig {
    /// The stage's name in the ledger, in configs and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            StageConfig::License(_) => "licence",
            StageConfig::Fetch(_) => "fetch",
            StageConfig::Integrity(_) => "integrity",
            StageConfig::Duplicates(_) => "duplicates",
            StageConfig::Faces(_) => "faces",
            StageConfig::Persons(_) => "persons",
            StageConfig::Review(_) => "review",
            StageConfig::Balance(_) => "balance",
            StageConfig::Sample(_) => "sample",
        }
    }

    /// The stage, ready to run. Detectors are loaded here, once.
    pub(crate) fn build(&self, detectors: &dyn Detectors) -> Result<Box<dyn Stage>, Error> {
        Ok(match self {
            StageConfig::License(config) => Box::new(config.clone()),
            StageConfig::Fetch(config) => Box::new(config.clone()),
            StageConfig::Integrity(config) => Box::new(config.clone()),
            StageConfig::Duplicates(config) => Box::new(config.clone()),
            StageConfig::Faces(config) => config.stage(detectors)?,
            StageConfig::Persons(config) => config.stage(detectors)?,
            StageConfig::Review(config) => Box::new(config.clone()),
            StageConfig::Balance(config) => Box::new(config.clone()),
            StageConfig::Sample(config) => Box::new(config.clone()),
        })
    }

    /// Whether the stage reads the files of photos.
    pub(crate) fn looks_at_photos(&self) -> bool {
        matches!(
            self,
            StageConfig::Integrity(_) | StageConfig::Faces(_) | StageConfig::Persons(_)
        )
    }

    /// The file of weights, where the stage has one.
    pub(crate) fn weights(&self) -> Option<&Path> {
        match self {
            StageConfig::Faces(config) => Some(&config.weights),
            StageConfig::Persons(config) => Some(&config.weights),
            _ => None,
        }
    }

    /// The stage's settings as the ledger keeps them, without those that do not change results. Weights are
    /// identified by their content; it is omitted where no hash is given.
    pub(crate) fn settings(&self, weights_sha256: Option<&str>) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if self.weights().is_some()
            && let Some(settings) = value.get_mut(self.name()).and_then(|value| value.as_object_mut())
        {
            settings.remove("weights");
            settings.remove("batch_images");
            if let Some(sha256) = weights_sha256 {
                settings.insert("weights_sha256".to_string(), sha256.into());
            }
        }
        value
    }

    fn validate(&self) -> Result<(), Error> {
        match self {
            StageConfig::License(config) => config.validate(),
            StageConfig::Fetch(config) => config.validate(),
            StageConfig::Integrity(config) => config.validate(),
            StageConfig::Duplicates(config) => config.validate(),
            StageConfig::Faces(config) => config.validate(),
            StageConfig::Persons(config) => config.validate(),
            StageConfig::Review(config) => config.validate(),
            StageConfig::Balance(config) => config.validate(),
            StageConfig::Sample(config) => config.validate(),
        }
    }
}

impl Config {
    /// The config that the curation in `folder` was last run with.
    pub(crate) fn of(ledger: &Ledger, folder: &Path) -> Result<Config, Error> {
        let text = ledger.fact("config")?.ok_or_else(|| Error::NoCuration {
            path: folder.to_path_buf(),
        })?;
        toml::from_str(&text)
            .map_err(|error| Error::config("config", format!("of the ledger cannot be read: {error}")))
    }

    /// Checks all values that can be checked without opening a file.
    ///
    /// # Errors
    /// The first key whose value is invalid.
    pub fn validate(&self) -> Result<(), Error> {
        let names: Vec<&str> = self.stages.iter().map(StageConfig::name).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(Error::config(
                    "stages",
                    format!("must have each stage once, got `{name}` twice"),
                ));
            }
        }
        let place = |name: &str| names.iter().position(|known| *known == name);
        for (first, second, why) in [
            ("licence", "fetch", "photos without a license must not be fetched"),
            ("fetch", "integrity", "there is no file to decode yet"),
            ("fetch", "faces", "there is no file to look at yet"),
            ("fetch", "persons", "there is no file to look at yet"),
            ("fetch", "review", "there is no file to look at yet"),
            ("integrity", "duplicates", "it takes the hashes"),
        ] {
            if let (Some(first_at), Some(second_at)) = (place(first), place(second))
                && first_at > second_at
            {
                let reason = format!("must have `{first}` before `{second}`: {why}");
                return Err(Error::config("stages", reason));
            }
        }
        if place("duplicates").is_some() && place("integrity").is_none() {
            return Err(Error::config(
                "stages",
                "must have `integrity` before `duplicates`: it takes the hashes",
            ));
        }
        if place("licence").is_none() {
            return Err(Error::config(
                "stages",
                "must have a `licence` stage: nothing is released without one",
            ));
        }
        let lists_only = !self.source.has_files();
        let looks = ["integrity", "faces", "persons", "review"];
        if let Some(stage) = looks.iter().find(|stage| place(stage).is_some())
            && lists_only
            && place("fetch").is_none()
        {
            let reason = format!("must have `fetch` before `{stage}`: this source lists photos only");
            return Err(Error::config("stages", reason));
        }
        self.stages.iter().try_for_each(StageConfig::validate)?;
        self.source.validate()?;
        if let (Some((key, name)), Some(licenses)) = (self.source.default_license(), self.licenses()) {
            licenses.check_default(key, name)?;
        }
        self.release.validate()
    }

    /// The accepted licenses.
    pub(crate) fn licenses(&self) -> Option<&LicenseConfig> {
        self.stages.iter().find_map(|stage| match stage {
            StageConfig::License(config) => Some(config),
            _ => None,
        })
    }

    /// The last stage: the photos that it keeps are released.
    pub(crate) fn last_stage(&self) -> &str {
        self.stages.last().map_or("source", StageConfig::name)
    }

    /// The last stage in the ledger, if it is done.
    pub(crate) fn last_stage_done(&self, ledger: &Ledger) -> Result<Option<StageRow>, Error> {
        Ok(ledger.stage(self.last_stage())?.filter(|row| row.done))
    }

    /// The last stage that is done, with its name, and the name of the next one, which is not.
    pub(crate) fn last_done_stage(&self, ledger: &Ledger) -> Result<Option<Done<'_>>, Error> {
        let mut found = None;
        for stage in &self.stages {
            match ledger.stage(stage.name())?.filter(|row| row.done) {
                Some(row) => {
                    found = Some(Done {
                        row,
                        name: stage.name(),
                        next: None,
                    });
                }
                None => {
                    return Ok(found.map(|done| Done {
                        next: Some(stage.name()),
                        ..done
                    }));
                }
            }
        }
        Ok(found)
    }

    /// Whether photos are downloaded.
    pub(crate) fn fetches(&self) -> bool {
        self.stages
            .iter()
            .any(|stage| matches!(stage, StageConfig::Fetch(_)))
    }

    /// The photos of this curation in `folder`.
    pub(crate) fn photos(&self, folder: &Path) -> Result<Photos, Error> {
        let place = match &self.source {
            _ if self.fetches() => Place::Fetched(folder.join("photos")),
            SourceConfig::Folder(source) => Place::Folder(source.folder.clone()),
            SourceConfig::Dataset(source) => Place::Dataset(Box::new(data::Dataset::reopen(&source.data)?)),
            _ => Place::Nowhere,
        };
        Ok(Photos::new(place))
    }

    /// The same config with absolute paths, so that it holds from any folder.
    pub(crate) fn with_absolute_paths(mut self) -> Result<Config, Error> {
        let absolute = |path: &mut PathBuf| -> Result<(), Error> {
            *path = std::path::absolute(&*path).map_err(Error::io("find", path))?;
            Ok(())
        };
        self.source.paths().into_iter().try_for_each(absolute)?;
        for stage in &mut self.stages {
            match stage {
                StageConfig::Faces(config) => absolute(&mut config.weights)?,
                StageConfig::Persons(config) => absolute(&mut config.weights)?,
                _ => {}
            }
        }
        Ok(self)
    }
}
