//! Contents of a weights file, and the network that would be loaded from it: `passer weights inspect`.

use crate::encoder::{not_read, open_encoder, refused, sample_of};
use crate::error::Error;
use backbones::BackboneConfig;
use burn::tensor::Device;
use data::Licenses;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use weights::format::{Entry, Format, TensorInfo};
use weights::{Hint, Import, ImportOptions, LayoutError, Origin, WeightsError};

/// The contents of a weights file.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The file that was read.
    pub path: PathBuf,
    /// Its SHA-256, hexadecimal; of several files, the SHA-256 of theirs.
    pub sha256: String,
    /// The kind of file.
    pub format: Format,
    /// Entries at its root.
    pub contents: Vec<Content>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values, by type.
    pub dtypes: Dtypes,
    /// The network in it; `None` if no layout matches.
    pub network: Option<Network>,
    /// Warnings for its user: initial values, ignored tensors, NaN, a guess.
    pub notes: Vec<String>,
    /// Reason why it cannot be loaded; `None` if it can.
    pub refusal: Option<String>,
    /// The hint, if known; the program words it.
    #[serde(skip)]
    pub hint: Option<Hint>,
    /// Every tensor.
    pub all: Vec<TensorLine>,
}

/// Number of tensors and of their elements by type.
pub type Dtypes = BTreeMap<&'static str, Count>;

/// Numbers of tensors and elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Tensors.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
}

/// One entry at a file's root.
#[derive(Debug, Serialize)]
pub struct Content {
    /// Its key.
    pub key: String,
    /// In words: `320 tensors`, `f32 [64, 3, 7, 7]`, `200`.
    pub content: String,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct TensorLine {
    /// Its dotted path from the root.
    pub name: String,
    /// Its type.
    pub dtype: &'static str,
    /// Its size in each dimension.
    pub shape: Vec<usize>,
}

/// The network that would be loaded.
#[derive(Debug, Serialize)]
pub struct Network {
    /// The row of `docs/weights.md`.
    pub layout: &'static str,
    /// The choice of two networks.
    pub part: Option<&'static str>,
    /// The parts that such files hold.
    pub parts: Vec<&'static str>,
    /// Its path in the file; empty for the root.
    pub at: String,
    /// Its usual name.
    pub name: String,
    /// The network in full.
    pub architecture: BackboneConfig,
    /// Its training method.
    pub method: String,
    /// Fingerprint of its training data; empty if the file does not state it.
    pub fingerprint: String,
    /// Images of that data whose hashes the file holds.
    pub sampled_images: usize,
    /// Licenses of that data with the number of images each; empty if the file does not state them.
    #[serde(rename = "licences")]
    pub licenses: Licenses,
    /// What its training started from; `None` for initial weights.
    pub origin: Option<Origin>,
    /// Width of its output.
    pub features: usize,
    /// Trainable parameters, as PyTorch counts them: without running statistics.
    pub parameters: u64,
    /// Channel means for normalizing images.
    pub mean: [f32; 3],
    /// Channel deviations for normalizing images.
    pub std: [f32; 3],
    /// Further names that the layout knows and drops.
    pub dropped: Vec<String>,
    /// Parameters that the file lacks, as allowed.
    pub missing: Vec<String>,
    /// Ignored tensors, as allowed.
    pub left_out: Vec<String>,
}

/// Lists a weights file, including files without a network that Passer supports.
///
/// # Errors
/// A file that cannot be read, is damaged, or hostile.
pub fn inspect_weights(path: &Path, options: &ImportOptions, device: &Device) -> Result<Inspection, Error> {
    let mut opened = open_encoder(path)?;
    let (path, sha256) = (opened.path.clone(), opened.hash.clone());
    let checkpoint = opened.checkpoint().map_err(|error| refused(&path, &error))?;
    let all = checkpoint.tensors();
    let mut dtypes = Dtypes::new();
    for (_, tensor) in &all {
        let count = dtypes.entry(tensor.dtype.name()).or_default();
        count.tensors += 1;
        count.elements = count.elements.saturating_add(tensor.elements());
    }
    let mut notes = vec![];
    let (network, refusal) = match Import::plan(&checkpoint, options, device) {
        Ok(plan) => {
            let network = network(&plan);
            let others = plan.recognized.other_networks.iter().map(not_read);
            let others = others.collect::<Vec<_>>();
            notes = plan.info.notes();
            // Loads it as for use, because some warnings depend on the values.
            let refusal = match plan.load(&mut opened.source) {
                Ok((_, info)) => {
                    notes = info.notes();
                    None
                }
                Err(error) => Some(error),
            };
            notes.extend(others);
            (Some(network), refusal)
        }
        Err(error) => (None, Some(error)),
    };
    let hint = refusal.as_ref().and_then(WeightsError::hint);
    let refusal = refusal.map(|error| match error {
        // Its content is listed anyway, and the hint says which detector it is.
        WeightsError::Layout(LayoutError::None { .. }) => {
            "no known layout matches (docs/weights.md has them)".to_owned()
        }
        error => error.to_string(),
    });
    let line = |(name, tensor): (String, &TensorInfo)| TensorLine {
        name,
        dtype: tensor.dtype.name(),
        shape: tensor.shape.clone(),
    };
    Ok(Inspection {
        sha256,
        format: checkpoint.format,
        contents: contents(&checkpoint.root),
        tensors: all.len(),
        dtypes,
        network,
        notes,
        refusal,
        hint,
        all: all.into_iter().map(line).collect(),
        path,
    })
}

fn network(plan: &Import<'_>) -> Network {
    let recognized = &plan.recognized;
    // PyTorch's count: running statistics are buffers.
    let is_parameter = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        !matches!(last, "running_mean" | "running_var") && !plan.left_out.iter().any(|left| left == name)
    };
    let elements = recognized
        .tensors
        .iter()
        .filter(|(name, tensor)| tensor.dtype().is_weight() && is_parameter(name))
        .map(|(_, tensor)| tensor);
    Network {
        layout: recognized.layout.name,
        part: recognized.role.map(|role| role.name()),
        parts: recognized
            .layout
            .roles()
            .into_iter()
            .map(|role| role.name())
            .collect(),
        at: recognized.parent.replace('/', "."),
        name: plan.info.architecture.name(),
        architecture: plan.info.architecture.clone(),
        method: plan.info.method.clone(),
        fingerprint: plan.info.fingerprint.clone(),
        sampled_images: sample_of(&plan.info).len(),
        licenses: plan.info.licenses.clone(),
        origin: plan.info.origin(),
        features: plan.info.architecture.features(),
        parameters: elements
            .map(|tensor| tensor.elements())
            .fold(0, u64::saturating_add),
        mean: plan.info.mean,
        std: plan.info.std,
        dropped: recognized.dropped.clone(),
        missing: plan.missing.clone(),
        left_out: plan.left_out.clone(),
    }
}

fn contents(root: &Entry) -> Vec<Content> {
    let Entry::Dict(entries) = root else {
        return vec![content("", root)];
    };
    entries.iter().map(|(key, entry)| content(key, entry)).collect()
}

fn content(key: &str, entry: &Entry) -> Content {
    let content = match entry {
        Entry::Tensor(tensor) => format!("{} {:?}", tensor.dtype.name(), tensor.shape),
        Entry::Dict(entries) => match entry.tensors().len() {
            0 => format!("{} entries, no tensor", entries.len()),
            count => format!("{count} tensors"),
        },
        Entry::Value(value) => value.clone(),
    };
    Content {
        key: key.to_owned(),
        content,
    }
}
