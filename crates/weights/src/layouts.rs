//! The known layouts of weight files: one row per layout, and the search for a file's row.
//!
//! A row lists where in a file the networks are, the prefixes of their names, further names that are known
//! and dropped, and names that differ here. Names that no row knows are never dropped silently: the
//! comparison with the network lists them. To add a layout: one row, its file in `scripts/parity/layouts.py`,
//! a line in `docs/weights.md`.

mod elsewhere;
mod find;
mod rename;
mod table;
mod torchvision;
mod transformers;
mod weight;
mod wrappers;

pub use find::{LayoutError, Recognized, recognize};
pub(crate) use rename::theirs;
pub use table::LAYOUTS;
pub(crate) use torchvision::VIT as TORCHVISION_VIT;
pub(crate) use transformers::{
    DINOV2 as TRANSFORMERS_DINOV2, RESNET as TRANSFORMERS_RESNET, VIT as TRANSFORMERS_VIT,
};
pub use weight::Weight;

use std::borrow::Cow;

use crate::architecture::Traits;
use crate::role::Role;
use rename::{Renames, ours};

/// A layout: one arrangement of weights in a file.
#[derive(Debug)]
pub struct Layout {
    /// Its name in messages.
    pub name: &'static str,
    /// The positions of its networks; first the one that the method's paper evaluates, or the student if the
    /// layout serves many methods.
    locations: &'static [Location],
    /// Known names that belong to no network: heads, queues, decoders.
    dropped: &'static [&'static str],
    /// Names that differ here.
    renames: Renames,
    /// Properties that the tensors do not show.
    pub traits: Traits,
}

/// The position of one network in a file.
#[derive(Debug)]
struct Location {
    /// `None` if the file holds only one network.
    role: Option<Role>,
    /// Candidate paths of the dictionary with its tensors; a file has one of them.
    parents: &'static [&'static str],
    /// Candidate prefixes of its names there; a file has one of them. [`ANY`]: whatever precedes the first
    /// required name.
    prefixes: &'static [&'static str],
    /// Names that must be present for this layout.
    required: &'static [&'static str],
    /// Names that must be absent.
    forbidden: &'static [&'static str],
}

/// The prefix of a row whose first required name begins with a star: the text that the star matches, which is
/// empty or ends with a dot.
const ANY: &str = "*";

impl Layout {
    /// The network's name of a tensor, and which third of it the tensor is; `None` for the whole.
    fn renamed<'n>(&self, name: &'n str) -> (Cow<'n, str>, Option<usize>) {
        match ours(self.renames, name) {
            Some((new, third)) => (Cow::Owned(new), third),
            None => (Cow::Borrowed(name), None),
        }
    }

    /// The roles of the networks that a file of this layout may hold, each once: several places may hold one.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for role in self.locations.iter().filter_map(|location| location.role) {
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_names_each_role_once() {
        for layout in LAYOUTS {
            let roles = layout.roles();
            let distinct: std::collections::BTreeSet<_> = roles.iter().map(|role| role.name()).collect();
            assert_eq!(roles.len(), distinct.len(), "{}: {roles:?}", layout.name);
        }
    }
}
