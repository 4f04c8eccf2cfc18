//! The description in an encoder file: JSON under one key of its metadata.

use std::collections::BTreeMap;

use backbones::BackboneConfig;
use data::Licenses;
use serde::{Deserialize, Serialize};

use crate::architecture::heads_unknown;

/// The description in an encoder file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderInfo {
    /// The network.
    pub architecture: BackboneConfig,
    /// Its training method, as in the config: `moco_v2`; `random` for initial weights.
    pub method: String,
    /// Fingerprint of its training data set; empty if none.
    pub fingerprint: String,
    /// Licenses of the data set's images with the number of images each; empty without data, and in files of version 0.1.
    #[serde(default, rename = "licences")]
    pub licenses: Licenses,
    /// Side of the square images in training, pixels.
    pub pixels: usize,
    /// Mean subtracted from red, green and blue, on a scale from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation that red, green and blue are then divided by.
    pub std: [f32; 3],
    /// Optimizer steps of its training; written as `num_batches_tracked`.
    pub steps: u64,
    /// Further facts: commit, date, seed; and the warnings that [`notes`](Self::notes) words.
    pub extra: BTreeMap<String, String>,
}

/// Keys of [`EncoderInfo::extra`] that warn about the weights.
pub(crate) mod warning {
    /// Parameters with initial values, separated by spaces.
    pub(crate) const MISSING: &str = "missing";
    /// Ignored tensors, separated by spaces.
    pub(crate) const LEFT_OUT: &str = "left_out";
    /// Tensors with NaN or infinity, separated by spaces.
    pub(crate) const NOT_FINITE: &str = "not_finite";
    /// The number of heads was guessed.
    pub(crate) const HEADS: &str = "heads";
    /// What was assumed for lack of a `config.json`, in words.
    pub(crate) const ASSUMED: &str = "assumed";
}

impl EncoderInfo {
    /// Warnings for the encoder's user, one per line: parameters with initial values, ignored tensors, NaN
    /// and infinity, a guessed number of heads, an assumed epsilon. Control characters in the file's names are escaped.
    pub fn notes(&self) -> Vec<String> {
        const SHOWN: usize = 6;
        let listed = |key: &str, one: &str, more: &str| {
            let names = self.extra.get(key)?;
            let names = names
                .split(' ')
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>();
            let count = match names.len() {
                0 => return None,
                1 => one.to_owned(),
                count => format!("{count} {more}"),
            };
            let shown = names
                .iter()
                .take(SHOWN)
                .map(|name| name.escape_debug().to_string());
            let rest = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                rest => format!(" and {rest} more"),
            };
            Some(format!("{count}: {}{rest}", shown.collect::<Vec<_>>().join(", ")))
        };
        let heads = match &self.architecture {
            BackboneConfig::Vit(config) if self.extra.contains_key(warning::HEADS) => Some(format!(
                "the number of heads, {}, is a guess (64 channels each), because no usual ViT is {} wide: the weights load with \
                 any number, and another than the training's gives wrong features; name the network with its heads, as in \
                 `{}`",
                config.heads,
                config.width,
                heads_unknown(config.width, config.depth, config.patch_px)
            )),
            _ => None,
        };
        let assumed = self.extra.get(warning::ASSUMED).map(|assumed| {
            format!(
                "nothing beside the file states it, so the usual is assumed: {}",
                data::terminal::escape(assumed)
            )
        });
        let notes = [
            heads,
            assumed,
            listed(
                warning::MISSING,
                "1 parameter keeps its initial values",
                "parameters keep initial values",
            ),
            listed(
                warning::LEFT_OUT,
                "1 tensor of the file is left out",
                "tensors of the file are left out",
            ),
            listed(
                warning::NOT_FINITE,
                "1 tensor holds NaN or infinity",
                "tensors hold NaN or infinity",
            ),
        ];
        notes.into_iter().flatten().collect()
    }
}
