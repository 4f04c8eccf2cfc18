//! `[start]`: pretraining that starts from an encoder in place of initial weights.
//!
//! The network under study takes the encoder's weights, and so does the teacher, which starts as its copy. Heads, queue and
//! center are drawn as ever, or, with `all_parts`, taken from the checkpoint of a run of the same method, or from a released file by
//! the names that the method knows.

mod take_over;

pub(crate) use take_over::take_over;

use crate::checkpoint::{self, CheckpointDir};
use crate::config::StartConfig;
use crate::encoder::read_encoder;
use crate::error::Error;
use crate::released::Released;
use backbones::{BackboneConfig, adaptations, fit_state, state_dict};
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
    /// How its weights were changed to fit.
    adapted: Vec<String>,
    /// The file that was read.
    pub(crate) path: PathBuf,
    /// With `all_parts`: where they are.
    pub(crate) parts: Option<Parts>,
}

/// Where heads, teacher, queue and center are.
pub(crate) enum Parts {
    /// In the checkpoint of a run.
    Run(CheckpointDir),
    /// In the released file itself.
    Released,
}

/// What was taken over besides the backbone, for `run.json`, and what was drawn.
#[derive(Default)]
pub(crate) struct Heads {
    /// Paths of parameters from a released file.
    pub(crate) taken: Vec<String>,
    /// Paths of parameters that the source lacks or has in another shape.
    pub(crate) drawn: Vec<String>,
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
        released: &[Released],
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
        let adapted = adaptations(&encoder.info.architecture, backbone);
        let heads = match start.all_parts {
            true => "and what else it has",
            false => "all other parts are drawn",
        };
        tracing::info!(
            "start: the backbone of `{}`, {}{heads}",
            encoder.path.display(),
            adapted
                .iter()
                .map(|change| format!("{change}, "))
                .collect::<String>()
        );
        let parts = if start.all_parts {
            if encoder.info.method != method {
                return Err(refused(format!(
                    "`start.all_parts` needs a run of {method}, and this is one of {}",
                    encoder.info.method
                )));
            }
            match checkpoint::at(&start.encoder)? {
                Some(checkpoint) => Some(Parts::Run(checkpoint)),
                None if take_over::has_any(&encoder.path, released)? => Some(Parts::Released),
                None => {
                    return Err(refused(
                        "`start.all_parts` needs a run directory with a checkpoint, or a checkpoint's folder; a file holds the \
                         encoder alone, or heads by names that the method does not know"
                            .into(),
                    ));
                }
            }
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
            adapted,
            path: encoder.path,
            parts,
        })
    }

    /// For `run.json`.
    pub(crate) fn facts(&self, heads: &Heads) -> serde_json::Value {
        let mut facts = serde_json::json!({ "path": self.path, "origin": self.origin });
        if !self.adapted.is_empty() {
            facts["adapted"] = serde_json::json!(self.adapted);
        }
        if self.parts.is_some() {
            facts["drawn"] = serde_json::json!(heads.drawn);
        }
        if let Some(Parts::Released) = self.parts {
            facts["taken"] = serde_json::json!(heads.taken);
        }
        facts
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
