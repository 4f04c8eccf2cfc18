//! The files of weights that the world has: one row per layout, and how a file's row is found.
//!
//! A row says where in a file the networks lie, which prefixes their names carry, which names beside them are known and
//! dropped, and what is called otherwise here. A name that no row knows is never dropped in silence: it reaches the
//! comparison with the network, which lists it. To add a layout: one row, its file in `scripts/parity/layouts.py`, a
//! line in `docs/weights.md`.

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

/// A layout: one way in which weights are laid out in files.
#[derive(Debug)]
pub struct Layout {
    /// How it is called in messages.
    pub name: &'static str,
    /// Where its networks are; the first is the one that the method's paper evaluates, or the student where the layout is of
    /// many methods.
    locations: &'static [Location],
    /// Names that are known and belong to no network: heads, queues, decoders.
    dropped: &'static [&'static str],
    /// What the file calls otherwise, theirs first.
    renames: &'static [(&'static str, &'static str)],
    /// What cannot be seen in the tensors.
    pub traits: Traits,
}

/// Where one network is in a file.
#[derive(Debug)]
struct Location {
    /// `None` where the file holds one network.
    role: Option<Role>,
    /// Paths of the dictionary that its tensors are in, of which a file has one.
    parents: &'static [&'static str],
    /// What its names start with there, of which a file has one.
    prefixes: &'static [&'static str],
    /// Names that must be there to recognize this layout.
    required: &'static [&'static str],
    /// Names that must not be there.
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
