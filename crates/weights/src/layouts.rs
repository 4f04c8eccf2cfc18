//! The known layouts of weight files: one row per layout, and the search for a file's row.
//!
//! A row lists where in a file the networks are, the prefixes of their names, further names that are known
//! and dropped, and names that differ here. Names that no row knows are never dropped silently: the
//! comparison with the network lists them. To add a layout: one row, its file in `scripts/parity/layouts.py`,
//! a line in `docs/weights.md`.

mod elsewhere;
mod find;
mod table;
mod torchvision;

pub use find::{LayoutError, Recognized, recognize};
pub use table::LAYOUTS;
pub(crate) use torchvision::VIT as TORCHVISION_VIT;

use std::borrow::Cow;

use crate::architecture::Traits;
use crate::patterns::renamed;
use crate::role::Role;

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
    /// Names that differ here: the file's name, then ours.
    renames: &'static [(&'static str, &'static str)],
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
    /// Candidate prefixes of its names there; a file has one of them.
    prefixes: &'static [&'static str],
    /// Names that must be present for this layout.
    required: &'static [&'static str],
    /// Names that must be absent.
    forbidden: &'static [&'static str],
}

impl Layout {
    fn renamed<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let new = self
            .renames
            .iter()
            .find_map(|(theirs, ours)| renamed(theirs, ours, name));
        new.map_or(Cow::Borrowed(name), Cow::Owned)
    }

    /// The roles of the networks that a file of this layout may hold.
    pub fn roles(&self) -> Vec<Role> {
        let roles = self.locations.iter().filter_map(|location| location.role);
        roles.collect()
    }
}
