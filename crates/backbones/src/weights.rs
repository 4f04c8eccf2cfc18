//! Weights in and out of networks, and the encoder file. Files are the caller's; reading them is [`crate::import`]'s.
//!
//! An encoder file is a safetensors file that PyTorch loads without this program
//! (`load_state_dict(strict=True)` into torchvision's or timm's network, its classifier an `Identity`), with what is
//! needed to use it ([`EncoderInfo`], as JSON) under `passer` in its metadata.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::layouts::{LayoutError, TORCHVISION_VIT};
use crate::parameters::{Path, parameters};
use crate::patterns::renamed;
use crate::vit::Pooling;
use crate::{Backbone, BackboneConfig};

/// Where the metadata of an encoder file keeps its [`EncoderInfo`].
pub(crate) const METADATA_KEY: &str = "passer";

/// The count of batches that PyTorch keeps beside running statistics.
pub(crate) const BATCH_COUNT: &str = "num_batches_tracked";

/// What an encoder file says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderInfo {
    /// The network.
    pub architecture: BackboneConfig,
    /// How it was trained, as in the config: `moco_v2`; `random` for initial weights.
    pub method: String,
    /// Fingerprint of the data set that it saw; empty if none.
    pub fingerprint: String,
    /// Licences of the data set's images, in words.
    pub licences: String,
    /// Side of the square images in training, pixels.
    pub pixels: usize,
    /// What is subtracted from red, green and blue, on a scale from 0 to 1.
    pub mean: [f32; 3],
    /// What red, green and blue are then divided by.
    pub std: [f32; 3],
    /// Optimizer steps that made it; written as `num_batches_tracked`.
    pub steps: u64,
    /// Anything else worth knowing: commit, date, seed; and the doubts that [`notes`](Self::notes) tells.
    pub extra: BTreeMap<String, String>,
}

/// Keys of [`EncoderInfo::extra`] that are doubts about the weights.
pub(crate) mod doubt {
    /// Parameters with initial values, a space between names.
    pub(crate) const MISSING: &str = "missing";
    /// Tensors that were left out, likewise.
    pub(crate) const LEFT_OUT: &str = "left_out";
    /// Tensors with NaN or infinity in them, likewise.
    pub(crate) const NOT_FINITE: &str = "not_finite";
    /// Where the number of heads was guessed.
    pub(crate) const HEADS: &str = "heads";
}

impl EncoderInfo {
    /// What whoever uses the encoder should know of it, a line each: parameters that no training made, tensors that were
    /// left out, numbers that are none, a guess. Control characters of the file's names are escaped.
    pub fn notes(&self) -> Vec<String> {
        const SHOWN: usize = 6;
        let told = |key: &str, one: &str, more: &str| {
            let names = self.extra.get(key)?;
            let names = names
                .split(' ')
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>();
            let what = match names.len() {
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
            Some(format!("{what}: {}{rest}", shown.collect::<Vec<_>>().join(", ")))
        };
        let heads = match &self.architecture {
            BackboneConfig::Vit(config) if self.extra.contains_key(doubt::HEADS) => Some(format!(
                "the number of heads, {}, is a guess (64 channels each), for no usual ViT is {} wide: the weights load with \
                 any number, and another than the training's gives wrong features; name it, as in --backbone \
                 vit-w{}-d{}-hHEADS-p{}",
                config.heads, config.width, config.width, config.depth, config.patch_px
            )),
            _ => None,
        };
        let notes = [
            heads,
            told(
                doubt::MISSING,
                "1 parameter keeps its initial values",
                "parameters keep initial values",
            ),
            told(
                doubt::LEFT_OUT,
                "1 tensor of the file is left out",
                "tensors of the file are left out",
            ),
            told(
                doubt::NOT_FINITE,
                "1 tensor holds NaN or infinity",
                "tensors hold NaN or infinity",
            ),
        ];
        notes.into_iter().flatten().collect()
    }
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its layout is not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The metadata cannot be understood.
    #[error("the file's metadata is unreadable: {0}")]
    Metadata(serde_json::Error),
    /// No network of Passer's is meant, or which one cannot be told.
    #[error("{0}")]
    Architecture(String),
    /// Names or shapes are not those of the network.
    #[error("the weights are not those of this network: {0}")]
    Mismatch(Box<Mismatch>),
    /// What a user allows is nowhere to be allowed: mostly misspelt.
    #[error(
        "`{option} {pattern}` matches no {what}; hint: `passer weights inspect FILE --tensors` lists the names; leave out \
         what allows nothing"
    )]
    Pattern {
        /// `--allow-missing` or `--allow-unexpected`.
        option: &'static str,
        /// As it was given.
        pattern: String,
        /// What it would match.
        what: &'static str,
    },
    /// Another library's network has no place for it.
    #[error("torchvision's ViT has no {0}; hint: export it with `--to timm`")]
    Torchvision(&'static str),
}

/// Whose names an encoder file has. Those of ResNets are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// timm's, which are this crate's own.
    Timm,
    /// torchvision's.
    Torchvision,
}

/// How a set of tensors differs from what a network has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that the network has and the set lacks.
    pub missing: Vec<String>,
    /// Tensors that the set has and the network lacks, each with the nearest name that is missing.
    pub unexpected: Vec<(String, Option<String>)>,
    /// Tensors of another shape: name, the network's, the set's.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that are not made of floating-point numbers, and what they are made of.
    pub types: Vec<(String, String)>,
}

impl Mismatch {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.shapes.is_empty()
            && self.types.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unexpected = self.unexpected.iter().map(|(name, near)| match near {
            Some(near) => format!("{name} (near {near})"),
            None => name.clone(),
        });
        let shapes = self
            .shapes
            .iter()
            .map(|(name, expected, got)| format!("{name} (expected {expected:?}, got {got:?})"));
        let types = self
            .types
            .iter()
            .map(|(name, found)| format!("{name} (expected f16, bf16, f32 or f64, got {found})"));
        let parts = [
            ("missing", self.missing.clone()),
            ("unexpected", unexpected.collect()),
            ("of another shape", shapes.collect()),
            ("of another type", types.collect()),
        ];
        let mut separator = "";
        for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {what}: {}", names.len(), shortened(names))?;
            separator = "; ";
        }
        Ok(())
    }
}

/// The first names of a list, and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Every weight and running statistic by its torchvision or timm name, as f32 on the host.
pub fn state_dict(backbone: &Backbone) -> BTreeMap<String, TensorData> {
    let mut collect = Collect::default();
    // The network itself, not the enum around it, whose variant would be a part of each name.
    match backbone {
        Backbone::ResNet(network) => network.visit(&mut collect),
        Backbone::Vit(network) => network.visit(&mut collect),
    }
    collect.found
}

#[derive(Default)]
struct Collect {
    path: Path,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .insert(self.path.dotted(), to_f32(param.val().into_data()));
    }
}

/// The backbone with every weight and running statistic replaced.
///
/// Names and shapes must be exactly the network's (see [`state_dict`]); f16, bf16 and f64 become f32, and
/// `num_batches_tracked` is passed over. Gradients and device stay as they are.
///
/// # Errors
/// [`WeightsError::Mismatch`].
pub fn load_state_dict(
    backbone: Backbone,
    mut tensors: BTreeMap<String, TensorData>,
) -> Result<Backbone, WeightsError> {
    tensors.retain(|name, _| !is_batch_count(name));
    let shapes = tensors
        .iter()
        .map(|(name, data)| (name.clone(), data.shape().to_vec()));
    let mut mismatch = mismatch(&backbone, &shapes.collect());
    let others = tensors.iter().filter(|(_, data)| !data.dtype().is_float());
    mismatch.types = others
        .map(|(name, data)| (name.clone(), format!("{:?}", data.dtype()).to_lowercase()))
        .collect();
    if !mismatch.is_empty() {
        return Err(WeightsError::Mismatch(Box::new(mismatch)));
    }
    Ok(replaced(backbone, tensors))
}

/// The backbone with those of its tensors replaced that `tensors` has, whose shapes were compared.
pub(crate) fn replaced(backbone: Backbone, tensors: BTreeMap<String, TensorData>) -> Backbone {
    let mut replace = Replace {
        path: Path::default(),
        tensors,
    };
    match backbone {
        Backbone::ResNet(network) => Backbone::ResNet(network.map(&mut replace)),
        Backbone::Vit(network) => Backbone::Vit(network.map(&mut replace)),
    }
}

pub(crate) fn is_batch_count(name: &str) -> bool {
    name.rsplit('.').next() == Some(BATCH_COUNT)
}

/// How named shapes differ from those of a network.
pub(crate) fn mismatch(backbone: &Backbone, shapes: &BTreeMap<String, Vec<usize>>) -> Mismatch {
    compare(&shapes_of(backbone), shapes)
}

/// Shapes of a network's weights and running statistics by name.
pub(crate) fn shapes_of(backbone: &Backbone) -> BTreeMap<String, Vec<usize>> {
    let found = match backbone {
        Backbone::ResNet(network) => parameters(network),
        Backbone::Vit(network) => parameters(network),
    };
    found.into_iter().map(|p| (p.path, p.shape)).collect()
}

fn compare(wanted: &BTreeMap<String, Vec<usize>>, found: &BTreeMap<String, Vec<usize>>) -> Mismatch {
    let mut mismatch = Mismatch::default();
    for (name, shape) in wanted {
        match found.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(got) if got != shape => {
                mismatch.shapes.push((name.clone(), shape.clone(), got.clone()));
            }
            Some(_) => {}
        }
    }
    // A name of the set can stand for a missing one alone: what is there under its own name was not misspelt.
    let others = found.keys().filter(|name| !wanted.contains_key(*name));
    for (position, name) in others.enumerate() {
        // Those that a message shows, and some more: a file may have a hundred thousand.
        let near = match position {
            0..NEAREST => nearest(name, mismatch.missing.iter()),
            _ => None,
        };
        mismatch.unexpected.push((name.clone(), near.cloned()));
    }
    mismatch
}

/// Unexpected names, from the first on, for which the nearest is sought.
const NEAREST: usize = 64;

/// The candidate that `name` may be meant to be, or is called there.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    /// Longer names are no parameter's, and their distances would take long.
    const LONGEST: usize = 256;
    /// A large network has a tenth of these; a file may have, or ask for, a quarter of a million.
    const CANDIDATES: usize = 4096;
    candidates
        .take(CANDIDATES)
        .filter(|candidate| candidate.len().max(name.len()) <= LONGEST)
        .min_by_key(|candidate| strsim::levenshtein(candidate, name))
}

struct Replace {
    path: Path,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleMapper for Replace {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.tensors.remove(&self.path.dotted()) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let mut tensor = Tensor::from_data(to_f32(data), &old.device());
        if old.is_require_grad() {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}

pub(crate) fn to_f32(data: TensorData) -> TensorData {
    if data.dtype() == DType::F32 {
        return data;
    }
    let shape = data.shape().clone();
    TensorData::new(data.iter::<f32>().collect::<Vec<_>>(), shape)
}

/// The bytes of an encoder file. The same backbone and info give the same bytes.
pub fn encoder_to_safetensors(backbone: &Backbone, info: &EncoderInfo) -> Vec<u8> {
    file_of(state_dict(backbone), info)
}

/// The bytes of an encoder file with another library's names, which this crate reads as well.
///
/// # Errors
/// A ViT of which torchvision's has not every part.
pub fn encoder_to_safetensors_as(
    backbone: &Backbone,
    info: &EncoderInfo,
    naming: Naming,
) -> Result<Vec<u8>, WeightsError> {
    let mut tensors = state_dict(backbone);
    if let (Naming::Torchvision, BackboneConfig::Vit(config)) = (naming, &info.architecture) {
        for (present, what) in [
            (config.registers > 0, "registers"),
            (config.layer_scale.is_some(), "layer scale"),
            (config.pooling != Pooling::ClassToken, "mean pooling"),
        ] {
            if present {
                return Err(WeightsError::Torchvision(what));
            }
        }
        let theirs = |name: String| {
            let theirs = TORCHVISION_VIT
                .iter()
                .find_map(|(theirs, ours)| renamed(ours, theirs, &name));
            theirs.unwrap_or(name)
        };
        tensors = tensors
            .into_iter()
            .map(|(name, data)| (theirs(name), data))
            .collect();
    }
    Ok(file_of(tensors, info))
}

fn file_of(tensors: BTreeMap<String, TensorData>, info: &EncoderInfo) -> Vec<u8> {
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX).to_le_bytes();
    let counts = tensors.keys().filter_map(|name| {
        let norm = name.strip_suffix("running_mean")?;
        let view = TensorView::new(Dtype::I64, vec![], &steps);
        Some((format!("{norm}{BATCH_COUNT}"), view.expect("8 bytes are an i64")))
    });
    let weights = tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        (name.clone(), view.expect("a tensor's bytes fit its shape"))
    });
    let plain =
        safetensors::serialize(weights.chain(counts), None).expect("names are unique and views are sound");
    // A large network is there often enough.
    drop(tensors);
    let info = serde_json::to_string(info).expect("strings and finite numbers have a JSON form");
    // "format" is what other libraries ask for before they take the tensors for PyTorch's.
    let metadata = BTreeMap::from([("format", "pt".to_owned()), (METADATA_KEY, info)]);
    with_metadata(&plain, &metadata)
}

/// A safetensors file with metadata. The `safetensors` crate takes a `HashMap`, whose order, and so the file's hash,
/// would differ from run to run.
fn with_metadata(file: &[u8], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().expect("a header's length");
    let length = u64::from_le_bytes(*length) as usize;
    let (header, data) = rest.split_at(length);
    let metadata = serde_json::to_vec(metadata).expect("strings have a JSON form");

    let mut merged = br#"{"__metadata__":"#.to_vec();
    merged.extend(metadata);
    merged.push(b',');
    merged.extend(&header.trim_ascii()[1..]);
    // The format wants the data aligned to 8 bytes.
    merged.resize(merged.len().next_multiple_of(8), b' ');

    let mut bytes = Vec::with_capacity(8 + merged.len() + data.len());
    bytes.extend((merged.len() as u64).to_le_bytes());
    bytes.extend(merged);
    bytes.extend(data);
    bytes
}

/// All tensors of a safetensors file by name.
#[cfg(test)]
pub(crate) fn tensors_of(bytes: &[u8]) -> Result<BTreeMap<String, TensorData>, WeightsError> {
    let mut source = std::io::Cursor::new(bytes);
    let file = crate::Checkpoint::open(&mut source)?;
    let read =
        |(name, tensor): (String, &crate::checkpoint::TensorInfo)| Ok((name, tensor.read(&mut source)?));
    file.tensors().into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
