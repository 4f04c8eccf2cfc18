//! `[start]`: pretraining that starts from an encoder in place of initial weights.
//!
//! The network under study takes the encoder's weights, and so does the teacher, which starts as its copy. Heads, queue and
//! center are drawn as ever, or, with `all_parts`, taken from the checkpoint of a run of the same method.

use crate::checkpoint::{CheckpointDir, latest_checkpoint};
use crate::config::StartConfig;
use crate::encoder::read_encoder;
use crate::error::Error;
use backbones::{BackboneConfig, fit_state, state_dict};
use burn::tensor::{Device, TensorData};
use data::FileError;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use weights::{ImportOptions, Origin, SawPeople};

/// An encoder that was read to start from.
pub(crate) struct Started {
    /// The state of the network under study.
    pub(crate) tensors: BTreeMap<String, TensorData>,
    /// What is noted of it.
    pub(crate) origin: Origin,
    /// The file that was read.
    pub(crate) path: PathBuf,
    /// With `all_parts`: the checkpoint.
    pub(crate) checkpoint: Option<CheckpointDir>,
}

fn import_options(start: &StartConfig) -> ImportOptions {
    ImportOptions {
        backbone: start.backbone.clone(),
        role: start.part,
        ..ImportOptions::default()
    }
}

impl Started {
    /// Reads the encoder for a run of `method` on `backbone`.
    ///
    /// # Errors
    /// A file that cannot be read; a network whose weights mean something else in `backbone`; with `all_parts`, no run of the
    /// method.
    pub(crate) fn read(
        start: &StartConfig,
        backbone: &BackboneConfig,
        method: &str,
        device: &Device,
    ) -> Result<Self, Error> {
        let encoder = read_encoder(&start.encoder, &import_options(start), device)?;
        let refused = |reason: String| {
            Error::Config(format!(
                "`start.encoder` (`{}`): {reason}",
                start.encoder.display()
            ))
        };
        let named = |reason| {
            refused(format!(
                "it is a {}, for which {reason}",
                encoder.info.architecture.name()
            ))
        };
        let tensors = state_dict(&encoder.backbone);
        let tensors = fit_state(&encoder.info.architecture, backbone, tensors).map_err(named)?;
        let checkpoint = if start.all_parts {
            if encoder.info.method != method {
                return Err(refused(format!(
                    "`start.all_parts` needs a run of {method}, and this is one of {}",
                    encoder.info.method
                )));
            }
            Some(checkpoint_of(&start.encoder)?.ok_or_else(|| {
                refused(
                    "`start.all_parts` needs a run directory with a checkpoint, or a checkpoint's folder; a file holds the \
                     encoder alone"
                        .into(),
                )
            })?)
        } else {
            None
        };
        let earlier = encoder.info.origin();
        let inherited = earlier.as_ref().map(|origin| origin.saw_people);
        // What a file says of people is that of its own start: nothing says so of its own data.
        let saw_people = match (start.saw_people, inherited) {
            (Some(stated), _) => stated,
            (None, Some(SawPeople::Yes)) => SawPeople::Yes,
            (None, _) => SawPeople::Unknown,
        };
        if (saw_people, inherited) == (SawPeople::No, Some(SawPeople::Yes)) {
            return Err(refused(
                "`start.saw_people` must be \"yes\": it started from an encoder that saw people, as its file says".into(),
            ));
        }
        Ok(Self {
            tensors,
            origin: Origin {
                file: file_name(&encoder.path),
                sha256: encoder.file_hash,
                method: encoder.info.method,
                fingerprint: encoder.info.fingerprint,
                licenses: encoder.info.licenses,
                saw_people,
                origin: earlier.map(Box::new),
            },
            path: encoder.path,
            checkpoint,
        })
    }

    /// For `run.json`; `drawn` names parameters that `all_parts` did not find.
    pub(crate) fn facts(&self, drawn: &[String]) -> serde_json::Value {
        let mut facts = serde_json::json!({ "path": self.path, "origin": self.origin });
        if self.checkpoint.is_some() {
            facts["drawn"] = serde_json::json!(drawn);
        }
        facts
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// The checkpoint in a run directory, or in its own folder.
fn checkpoint_of(path: &Path) -> Result<Option<CheckpointDir>, Error> {
    if path.join("position.json").is_file() {
        let step = file_name(path)
            .strip_prefix("step-")
            .and_then(|step| step.parse().ok());
        return Ok(Some(CheckpointDir {
            step: step.unwrap_or(0),
            path: path.to_owned(),
        }));
    }
    match path.is_dir() {
        true => latest_checkpoint(path),
        false => Ok(None),
    }
}

/// What the run in this directory started from, as its `run.json` says; `None` for initial weights.
pub(crate) fn origin_of_run(out: &Path) -> Result<Option<Origin>, Error> {
    let path = out.join("run.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new("read", &path)(error).into()),
    };
    let unreadable = |error| FileError::new("read", &path)(std::io::Error::from(error));
    let facts: serde_json::Value = serde_json::from_slice(&text).map_err(unreadable)?;
    match facts.get("start").and_then(|start| start.get("origin")) {
        Some(origin) => Ok(Some(serde_json::from_value(origin.clone()).map_err(unreadable)?)),
        None => Ok(None),
    }
}
