//! What to do with a file that no row knows: where in it names are like those of a network, and how to save that alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Family;
use super::table::{CHILDREN, IMAGENET, TORCHVISION_VIT};
use crate::architecture::{Shapes, derived};
use crate::checkpoint::{Entry, TensorInfo};
use crate::patterns::{matches, renamed};

/// Names of a block's weights, by which a network is known, as libraries have them.
const BLOCKS: &[(&str, &[(&str, &str)])] = &[
    ("layer1.#.conv#.weight", &[]),
    ("blocks.#.attn.*", &[]),
    ("encoder.layers.encoder_layer_#.self_attention.*", TORCHVISION_VIT),
    ("4.#.conv#.weight", CHILDREN),
];

/// Most tensors that are looked at, and most parts of a name: a file may hold as many as it likes.
const MOST_TENSORS: usize = 20_000;
const MOST_PARTS: usize = 12;
/// Most places that a message names.
const SHOWN: usize = 4;

/// A place with the names of a network.
struct Place {
    /// Keys of the dictionary.
    keys: Vec<String>,
    /// What its names start with there.
    prefix: String,
    /// Which network it looks like.
    looks: String,
}

impl Place {
    /// `ckpt['net']`
    fn dictionary(&self) -> String {
        let keys = self.keys.iter().map(|key| format!("['{}']", plain(key)));
        format!("ckpt{}", keys.collect::<String>())
    }

    /// Where it is, as in `net.backbone.`.
    fn path(&self) -> String {
        let keys = self.keys.iter().map(|key| format!("{key}."));
        plain(&format!("{}{}", keys.collect::<String>(), self.prefix))
    }

    /// What PyTorch is told.
    fn saved(&self) -> String {
        let dictionary = self.dictionary();
        match self.prefix.as_str() {
            "" => format!("torch.save({dictionary}, \"alone.pth\")"),
            prefix => {
                let prefix = plain(prefix);
                format!(
                    "torch.save({{k.removeprefix('{prefix}'): v for k, v in {dictionary}.items() if \
                     k.startswith('{prefix}')}}, \"alone.pth\")"
                )
            }
        }
    }
}

/// Text of a file in a message.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Where there are names like a network's.
fn places(root: &Entry) -> Vec<Place> {
    let mut places = vec![];
    let mut left = MOST_TENSORS;
    walk(root, &mut vec![], &mut left, &mut places);
    places
}

/// Networks in other dictionaries than these, such as averaged weights beside those that a layout reads: what they look like, and
/// how to save them alone.
pub(super) fn networks_outside(root: &Entry, tops: &[&str]) -> Vec<String> {
    let outside = |place: &Place| !tops.contains(&place.keys.join("/").as_str());
    let found = places(root).into_iter().filter(outside).take(SHOWN);
    found
        .map(|place| {
            format!(
                "names like {}'s under `{}`; to have it, `{}`",
                place.looks,
                place.path(),
                place.saved()
            )
        })
        .collect()
}

/// The cure for a file whose layout is not known, or is not clear.
pub(super) fn hint(root: &Entry) -> String {
    let places = places(root);
    match places.as_slice() {
        [] => "`passer weights inspect` lists it".to_owned(),
        [one] if one.path().is_empty() => format!(
            "its names are like {}'s, beside others that no layout has; save the network's alone, as \
             `torch.save(backbone.state_dict(), \"alone.pth\")`",
            one.looks
        ),
        [one] => format!(
            "names like {}'s under `{}`: save them alone, `{}`",
            one.looks,
            one.path(),
            one.saved()
        ),
        [first, ..] => {
            let shown = places.iter().take(SHOWN);
            let list = shown.map(|place| format!("`{}` ({})", place.path(), place.looks));
            let list = list.collect::<Vec<_>>().join(", ");
            let more = match places.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "names like those of networks under {list}{more}: save the one that you want alone, as `{}`",
                first.saved()
            )
        }
    }
}

fn walk(entry: &Entry, keys: &mut Vec<String>, left: &mut usize, places: &mut Vec<Place>) {
    let Entry::Dict(entries) = entry else { return };
    let own = entries.iter().filter_map(|(name, entry)| match entry {
        Entry::Tensor(tensor) => Some((name.clone(), tensor)),
        _ => None,
    });
    let own = own.take(*left).collect::<Vec<_>>();
    *left -= own.len();
    let mut found = BTreeMap::<&str, &[(&str, &str)]>::new();
    for (name, _) in &own {
        let ends = name.match_indices('.').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(ends).take(MOST_PARTS);
        for start in starts {
            let fits = BLOCKS.iter().find(|(block, _)| matches(block, &name[start..]));
            if let Some((_, renames)) = fits {
                found.entry(&name[..start]).or_insert(renames);
                break;
            }
        }
    }
    for (prefix, renames) in found {
        if let Some(looks) = looks(&own, prefix, renames) {
            places.push(Place {
                keys: keys.clone(),
                prefix: prefix.to_owned(),
                looks,
            });
        }
    }
    for (key, entry) in entries {
        if *left == 0 {
            return;
        }
        keys.push(key.clone());
        walk(entry, keys, left, places);
        keys.pop();
    }
}

/// Which network the names after a prefix are like.
fn looks(tensors: &[(String, &TensorInfo)], prefix: &str, renames: &[(&str, &str)]) -> Option<String> {
    let own = tensors.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(prefix)?;
        let new = renames
            .iter()
            .find_map(|(theirs, ours)| renamed(theirs, ours, name));
        Some((
            new.map_or(Cow::Borrowed(name), Cow::Owned).into_owned(),
            tensor.shape.clone(),
        ))
    });
    let shapes = own.collect::<Shapes>();
    let family = Family::of(shapes.keys())?;
    // Swin's blocks are called as a ViT's are.
    let first = match family {
        Family::ResNet => "conv1.weight",
        Family::Vit => "patch_embed.proj.weight",
    };
    shapes.get(first)?;
    let network = derived(&shapes, family, None, &IMAGENET);
    Some(network.map_or_else(|_| family.a().to_owned(), |network| network.name()))
}
