//! Names without the components that wrappers of a network, or of a part of it, add.

use std::collections::BTreeMap;

use crate::format::{Entry, TensorInfo};

/// Components of wrappers. No network of any layout has a parameter or module of these names.
///
/// `torch.compile`; `DistributedDataParallel`, `DataParallel` and `AveragedModel`; a Lightning module with its
/// network; FSDP, activation checkpointing and Lightning's strategies.
const WRAPPERS: &[&str] = &[
    "_orig_mod",
    "module",
    "model",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// Those that are also keys of dictionaries, which are not part of a name: `{"model": …, "optimizer": …}`.
const KEYS: &[&str] = &["module", "model"];

/// The counter of `AveragedModel`, which has no prefix.
const COUNT: &str = "n_averaged";

/// The tensors under `entry` by their dotted path, without wrappers at any depth. A name that two tensors
/// would share then keeps its wrappers, so that neither is taken for the other.
pub(super) fn unwrapped(entry: &Entry) -> Vec<(String, &TensorInfo)> {
    let mut names = entry.tensors();
    // A whole network in wrappers, also one that nests dictionaries as a pickled module does.
    let mut wrapped = 0;
    while let Some(wrapper) = whole(&names, wrapped) {
        wrapped += wrapper.len() + 1;
    }
    for (name, _) in names.iter_mut().filter(|(name, _)| name != COUNT) {
        name.drain(..wrapped);
    }
    let direct = |name: &str| matches!(entry, Entry::Dict(entries) if entries.contains_key(name));
    let originals = entry.tensors();
    let stripped = names
        .iter()
        .zip(&originals)
        .map(|((name, _), (original, _))| {
            let is_wrapper =
                |part: &&str| WRAPPERS.contains(part) && (direct(original) || !KEYS.contains(part));
            let mut parts = name.split('.').collect::<Vec<_>>();
            // The last component is the tensor's own.
            let last = parts.pop().unwrap_or_default();
            parts.retain(|part| !is_wrapper(part));
            parts.push(last);
            parts.join(".")
        })
        .collect::<Vec<_>>();
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in &stripped {
        *counts.entry(name).or_default() += 1;
    }
    let shared = stripped
        .iter()
        .map(|name| counts[name.as_str()] > 1)
        .collect::<Vec<_>>();
    for (((name, _), stripped), shared) in names.iter_mut().zip(stripped).zip(shared) {
        if !shared {
            *name = stripped;
        }
    }
    names
}

/// The wrapper at byte `from` of every name but the counter.
fn whole(names: &[(String, &TensorInfo)], from: usize) -> Option<&'static str> {
    let others = || names.iter().filter(|(name, _)| name != COUNT);
    others().next()?;
    let wraps = |wrapper: &str| {
        others().all(|(name, _)| {
            let rest = name[from..].strip_prefix(wrapper);
            rest.is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
        })
    };
    // `model` is a key of many files: the rows name it.
    let known = WRAPPERS.iter().filter(|wrapper| **wrapper != "model");
    known.copied().find(|wrapper| wraps(wrapper))
}
