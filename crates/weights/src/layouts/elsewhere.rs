//! Networks at paths that no layout reads: found by similar names, for hints and warnings.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::rename::{Renames, ours};
use super::table::IMAGENET;
use super::torchvision::{CHILDREN, VIT};
use super::transformers;
use crate::architecture::{Family, Shapes, derived};
use crate::format::{Entry, TensorInfo};
use crate::hint::{Detector, Hint, SeenNetwork};
use crate::patterns::matches;

/// Names of a block's weights in several libraries; they identify a network.
const BLOCKS: &[(&str, Renames)] = &[
    ("layer1.#.conv#.weight", &[]),
    ("blocks.#.attn.*", &[]),
    ("encoder.layers.encoder_layer_#.self_attention.*", VIT),
    ("4.#.conv#.weight", CHILDREN),
    ("encoder.layer.#.layernorm_before.*", transformers::VIT),
    ("encoder.layer.#.norm1.*", transformers::DINOV2),
    ("encoder.stages.#.layers.#.layer.*", transformers::RESNET),
];

/// Maximum tensors to search, and maximum parts of a name: a file may hold any number.
const MAX_TENSORS: usize = 20_000;
const MAX_PARTS: usize = 12;
/// Maximum networks to list.
const SHOWN: usize = 4;

/// The hint for a file with an unknown or ambiguous layout: its networks.
pub(super) fn seen_networks(root: &Entry) -> Hint {
    if let Some(detector) = detector(root) {
        return Hint::UseToDetect(detector);
    }
    let mut networks = search(root, &[]);
    if networks.is_empty() {
        return Hint::ListContents;
    }
    let more = networks.len().saturating_sub(SHOWN);
    networks.truncate(SHOWN);
    Hint::SaveAlone { networks, more }
}

/// The detector whose heads are among the names.
fn detector(root: &Entry) -> Option<Detector> {
    const HEADS: [(&str, Detector); 2] = [
        ("LandmarkHead.0.conv1x1.weight", Detector::RetinaFace),
        ("head.cls_preds.0.weight", Detector::Yolox),
    ];
    let tensors = root.tensors();
    let has = |head: &str| {
        let mut names = tensors.iter().map(|(name, _)| name);
        names.any(|name| {
            name.strip_suffix(head)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    };
    let found = HEADS.iter().find(|(head, _)| has(head));
    found.map(|(_, detector)| *detector)
}

/// Networks in dictionaries other than `read`, such as averaged weights next to those that a layout reads.
pub(super) fn seen_outside(root: &Entry, read: &[&str]) -> Vec<SeenNetwork> {
    let mut networks = search(root, read);
    networks.truncate(SHOWN);
    networks
}

/// All paths with the names of a network, except the dictionaries in `without`.
fn search(root: &Entry, without: &[&str]) -> Vec<SeenNetwork> {
    let mut search = Search {
        without,
        keys: vec![],
        left: MAX_TENSORS,
        networks: vec![],
    };
    search.walk(root);
    search.networks
}

struct Search<'a> {
    without: &'a [&'a str],
    /// Keys from the root to here.
    keys: Vec<String>,
    /// Number of tensors left to search.
    left: usize,
    networks: Vec<SeenNetwork>,
}

impl Search<'_> {
    fn walk(&mut self, entry: &Entry) {
        let Entry::Dict(entries) = entry else { return };
        let tensors = entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Tensor(tensor) => Some((name.as_str(), tensor)),
            _ => None,
        });
        let tensors = tensors.take(self.left).collect::<Vec<_>>();
        self.left -= tensors.len();
        if !self.without.contains(&self.keys.join("/").as_str()) {
            self.networks_of(&tensors);
        }
        for (key, entry) in entries {
            if self.left == 0 {
                return;
            }
            self.keys.push(key.clone());
            self.walk(entry);
            self.keys.pop();
        }
    }

    /// Adds the networks among the tensors of one dictionary.
    fn networks_of(&mut self, tensors: &[(&str, &TensorInfo)]) {
        let mut prefixes = BTreeMap::<&str, Renames>::new();
        for (name, _) in tensors {
            let parts = name.match_indices('.').map(|(at, _)| at + 1);
            for start in std::iter::once(0).chain(parts).take(MAX_PARTS) {
                let block = BLOCKS.iter().find(|(block, _)| matches(block, &name[start..]));
                if let Some((_, renames)) = block {
                    prefixes.entry(&name[..start]).or_insert(renames);
                    break;
                }
            }
        }
        let parent = self.keys.iter().map(|key| format!("{key}.")).collect::<String>();
        let networks = prefixes.into_iter().filter_map(|(prefix, renames)| {
            Some(SeenNetwork {
                path: format!("{parent}{prefix}"),
                looks: looks(tensors, prefix, renames)?,
            })
        });
        self.networks.extend(networks);
    }
}

/// The network that the names after a prefix resemble.
fn looks(tensors: &[(&str, &TensorInfo)], prefix: &str, renames: Renames) -> Option<String> {
    let shapes = tensors.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(prefix)?;
        let name = ours(renames, name).map_or(Cow::Borrowed(name), |(name, _)| Cow::Owned(name));
        Some((name.into_owned(), tensor.shape.clone()))
    });
    let shapes = shapes.collect::<Shapes>();
    let family = Family::of(shapes.keys())?;
    // Swin's blocks have the same names as a ViT's.
    let first = match family {
        Family::ResNet => "conv1.weight",
        Family::Vit => "patch_embed.proj.weight",
    };
    shapes.get(first)?;
    let network = derived(&shapes, family, None, &IMAGENET, None);
    Some(network.map_or_else(|_| family.with_article().to_owned(), |network| network.name()))
}
