//! The config file of a curation: a source, the stages in the order in which they run, and what a release says of itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::balance::{BalanceConfig, SampleConfig};
use crate::detectors::{Detectors, FacesConfig, PersonsConfig};
use crate::duplicates::DuplicatesConfig;
use crate::error::Error;
use crate::fetch::FetchConfig;
use crate::integrity::IntegrityConfig;
use crate::licence::LicenceConfig;
use crate::release::ReleaseConfig;
use crate::review::ReviewConfig;
use crate::sources::{DatasetConfig, FolderConfig, TableConfig, YfccConfig};
use crate::stage::Stage;

/// One curation, whole.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where photos are listed.
    pub source: SourceConfig,
    /// What is done to them, in this order; each stage once.
    pub stages: Vec<StageConfig>,
    /// What releases say of themselves.
    pub release: ReleaseConfig,
}

/// A list of photos.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceConfig {
    /// The core file of YFCC100M: metadata only.
    Yfcc100m(YfccConfig),
    /// A CSV or TSV file with a header: metadata only.
    Csv(TableConfig),
    /// A Parquet file: metadata only.
    Parquet(TableConfig),
    /// A folder of photos with sidecar JSON.
    Folder(FolderConfig),
    /// Shards, an image folder, or the PASS release: whatever `passer shards inspect` opens.
    Dataset(DatasetConfig),
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StageConfig {
    /// Accepted licences, complete attribution.
    Licence(LicenceConfig),
    /// Downloads.
    Fetch(FetchConfig),
    /// Photos that decode, of good size, that show something.
    Integrity(IntegrityConfig),
    /// One of each group of equal or nearly equal photos.
    Duplicates(DuplicatesConfig),
    /// No photos with faces.
    Faces(FacesConfig),
    /// No photos with persons.
    Persons(PersonsConfig),
    /// No photos that people object to.
    Review(ReviewConfig),
    /// At most so many photos a photographer.
    Balance(BalanceConfig),
    /// A random sample.
    Sample(SampleConfig),
}

impl StageConfig {
    /// The stage's name in the ledger, in configs and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            StageConfig::Licence(_) => "licence",
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
            StageConfig::Licence(config) => Box::new(config.clone()),
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

    /// What decides, as the ledger keeps it: the stage's settings, without those that change no result. Weights are told by
    /// their content, none where the file is not given.
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
            StageConfig::Licence(config) => config.validate(),
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
    /// Checks what can be checked without looking at any file.
    ///
    /// # Errors
    /// The first key whose value cannot be carried out.
    pub fn validate(&self) -> Result<(), Error> {
        let names: Vec<&str> = self.stages.iter().map(StageConfig::name).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(Error::config(
                    "stages",
                    format!("`{name}` is there twice; a stage runs once"),
                ));
            }
        }
        let place = |name: &str| names.iter().position(|known| *known == name);
        for (first, second, why) in [
            ("licence", "fetch", "photos without a licence must not be fetched"),
            ("fetch", "integrity", "there is nothing to decode before"),
            ("fetch", "faces", "there is nothing to look at before"),
            ("fetch", "persons", "there is nothing to look at before"),
            ("fetch", "review", "there is nothing to look at before"),
            ("integrity", "duplicates", "it takes the hashes"),
        ] {
            if let (Some(first_at), Some(second_at)) = (place(first), place(second))
                && first_at > second_at
            {
                let reason = format!("`{second}` stands before `{first}`; {why}");
                return Err(Error::config("stages", reason));
            }
        }
        if place("duplicates").is_some() && place("integrity").is_none() {
            return Err(Error::config(
                "stages",
                "`duplicates` needs `integrity` before it, which takes the hashes",
            ));
        }
        if place("licence").is_none() {
            return Err(Error::config(
                "stages",
                "expected a `licence` stage: nothing is released without one",
            ));
        }
        let lists_only = !self.source.has_files();
        let looks = ["integrity", "faces", "persons", "review"];
        if let Some(stage) = looks.iter().find(|stage| place(stage).is_some())
            && lists_only
            && place("fetch").is_none()
        {
            let reason = format!("this source lists photos only; `{stage}` needs a `fetch` before it");
            return Err(Error::config("stages", reason));
        }
        self.stages.iter().try_for_each(StageConfig::validate)?;
        self.source.validate()?;
        self.release.validate()
    }

    /// The stage that decides last: what it keeps is released.
    pub(crate) fn last_stage(&self) -> &str {
        self.stages.last().map_or("source", StageConfig::name)
    }

    /// Whether photos are downloaded.
    pub(crate) fn fetches(&self) -> bool {
        self.stages
            .iter()
            .any(|stage| matches!(stage, StageConfig::Fetch(_)))
    }

    /// The same config with absolute paths, so that it holds from any folder.
    pub(crate) fn with_absolute_paths(mut self) -> Result<Config, Error> {
        let absolute = |path: &mut PathBuf| -> Result<(), Error> {
            *path = std::path::absolute(&*path).map_err(Error::io("find", path))?;
            Ok(())
        };
        match &mut self.source {
            SourceConfig::Yfcc100m(config) => config.files.iter_mut().try_for_each(absolute)?,
            SourceConfig::Csv(config) | SourceConfig::Parquet(config) => {
                config.files.iter_mut().try_for_each(absolute)?;
            }
            SourceConfig::Folder(config) => absolute(&mut config.folder)?,
            SourceConfig::Dataset(_) => {}
        }
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

impl SourceConfig {
    /// Whether the source has the photos themselves and not only a list of them.
    pub(crate) fn has_files(&self) -> bool {
        matches!(self, SourceConfig::Folder(_) | SourceConfig::Dataset(_))
    }

    fn validate(&self) -> Result<(), Error> {
        let files = match self {
            SourceConfig::Yfcc100m(config) => &config.files,
            SourceConfig::Csv(config) | SourceConfig::Parquet(config) => {
                config.validate()?;
                &config.files
            }
            SourceConfig::Folder(_) | SourceConfig::Dataset(_) => return Ok(()),
        };
        match files.is_empty() {
            true => Err(Error::config(
                "source.files",
                "expected at least one file, found none",
            )),
            false => Ok(()),
        }
    }
}
