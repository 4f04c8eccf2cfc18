//! `[start]`: pretraining that starts from an encoder in place of initial weights.
//!
//! The network under study takes the encoder's weights, and so does the teacher, which starts as its copy. Heads, queue and
//! center are drawn as ever, or, with `all_parts`, taken from the checkpoint of a run of the same method.

use crate::checkpoint::{self, CheckpointDir};
use crate::config::StartConfig;
use crate::encoder::read_encoder;
use crate::error::Error;
use backbones::{BackboneConfig, fit_state, state_dict};
use burn::tensor::{Device, TensorData};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weights::{ImportOptions, Origin, SawPeople};

/// An encoder that was read to start from.
pub(crate) struct Started {
    /// The state of the network under study.
    pub(crate) tensors: Arc<BTreeMap<String, TensorData>>,
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
        let encoder = read_encoder(&start.encoder, &import_options(start), device)
            .map_err(|error| Error::Start(Box::new(error)))?;
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
            Some(checkpoint::at(&start.encoder)?.ok_or_else(|| {
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
            tensors: Arc::new(tensors),
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
