//! The differences between a set of tensors and a network, in names, shapes and types; and loading of tensors
//! that fit.

use std::collections::BTreeMap;

use backbones::{Backbone, parameters, replace_state};
use burn::tensor::TensorData;

use crate::patterns::nearest;

/// PyTorch's count of batches next to running statistics.
pub(crate) const BATCH_COUNT: &str = "num_batches_tracked";

/// The differences between a set of tensors and a network.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that the network has and the set lacks.
    pub missing: Vec<String>,
    /// Tensors that the set has and the network lacks, each with the nearest name that is missing.
    pub unexpected: Vec<(String, Option<String>)>,
    /// Tensors of another shape: name, the network's, the set's.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors without floating-point values, and their types.
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

impl std::error::Error for Mismatch {}

/// The names, each kind with its count; only the first of many.
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

/// The first names of a list, and the number of further ones.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The backbone with every weight and running statistic replaced.
///
/// Names and shapes must be exactly the network's (see [`backbones::state_dict`]); f16, bf16 and f64 become f32, and
/// `num_batches_tracked` is ignored. Gradients and device stay as they are.
///
/// # Errors
/// All differences between the tensors and the network.
pub fn load_state_dict(
    backbone: Backbone,
    mut tensors: BTreeMap<String, TensorData>,
) -> Result<Backbone, Box<Mismatch>> {
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
        return Err(Box::new(mismatch));
    }
    Ok(replace_state(backbone, tensors))
}

pub(crate) fn is_batch_count(name: &str) -> bool {
    name.rsplit('.').next() == Some(BATCH_COUNT)
}

/// The differences between named shapes and those of a network.
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

fn compare(network: &BTreeMap<String, Vec<usize>>, set: &BTreeMap<String, Vec<usize>>) -> Mismatch {
    let mut mismatch = Mismatch::default();
    for (name, shape) in network {
        match set.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(got) if got != shape => {
                mismatch.shapes.push((name.clone(), shape.clone(), got.clone()));
            }
            Some(_) => {}
        }
    }
    // A misspelled name can only resemble a missing one.
    let others = set.keys().filter(|name| !network.contains_key(*name));
    for (position, name) in others.enumerate() {
        // As many as a message shows, and a few more: a file may have a hundred thousand.
        let near = match position {
            0..NEAREST => nearest(name, mismatch.missing.iter()),
            _ => None,
        };
        mismatch.unexpected.push((name.clone(), near.cloned()));
    }
    mismatch
}

/// Unexpected names, from the first on, whose nearest name is searched.
const NEAREST: usize = 64;
