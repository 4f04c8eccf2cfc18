//! Finds a file's layout, and its tensors by the network's names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::elsewhere::{seen_networks, seen_outside};
use super::table::LAYOUTS;
use super::weight::Weight;
use super::wrappers::unwrapped;
use super::{ANY, Layout, Location};
use crate::architecture::Family;
use crate::format::{Checkpoint, Entry, TensorInfo};
use crate::hint::{Hint, SeenNetwork};
use crate::patterns::{matches, matches_any, star};
use crate::role::Role;

/// A file with a known layout.
#[derive(Debug)]
pub struct Recognized<'a> {
    /// Its row.
    pub layout: &'static Layout,
    /// The chosen one of two networks.
    pub role: Option<Role>,
    /// The kind of network.
    pub family: Family,
    /// Path of the dictionary that holds it.
    pub parent: &'static str,
    /// Its tensors, and those that no row knows, by the network's names.
    pub tensors: BTreeMap<String, Weight<'a>>,
    /// Further names that the row knows, as in the file.
    pub dropped: Vec<String>,
    /// Networks in dictionaries that the row does not read, such as averaged weights.
    pub other_networks: Vec<SeenNetwork>,
}

/// Reason why a file has no layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// No layout matches.
    #[error("no known layout matches this file: it holds {content}")]
    None {
        /// Its content.
        content: String,
        /// How to extract a network from it.
        hint: Hint,
    },
    /// It holds another kind of network than the given name.
    #[error("this file holds {}, and the name given is that of {}", holds.with_article(), named.with_article())]
    Family {
        /// The kind in the file.
        holds: Family,
        /// The kind of the given name.
        named: Family,
    },
    /// More than one layout matches.
    #[error("this file could be of {layouts}")]
    Several {
        /// Their names.
        layouts: String,
        /// How to extract one network.
        hint: Hint,
    },
    /// Two networks at different paths of one layout.
    #[error("this file ({layout}) holds a network in {places}, and they differ")]
    Places {
        /// The row.
        layout: &'static str,
        /// Their paths.
        places: String,
    },
    /// It lacks the requested network.
    #[error("the {} is wanted, and this file ({layout}) {content}", role.name())]
    Role {
        /// The requested role.
        role: Role,
        /// The row.
        layout: &'static str,
        /// The available networks.
        content: String,
        /// The one that it holds, if it is one of the two.
        held: Option<Role>,
    },
    /// Two of its tensors have the same name here.
    #[error("two tensors of this file are {name} of the network ({layout})")]
    Twice {
        /// The network's name.
        name: String,
        /// The row.
        layout: &'static str,
    },
}

impl LayoutError {
    /// The hint, if known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::None { hint, .. } | Self::Several { hint, .. } => Some(hint.clone()),
            Self::Places { .. } => Some(Hint::SaveAlone {
                networks: vec![],
                more: 0,
            }),
            Self::Family { .. } => Some(Hint::OmitName),
            Self::Role { held, .. } => Some(Hint::ChooseRole(*held)),
            Self::Twice { .. } => None,
        }
    }
}

/// Names of the tensors under a path, shared by all locations at that path.
type Names<'a> = Rc<Vec<(String, &'a TensorInfo)>>;

/// A location of a row where a file has a network.
struct Candidate<'a> {
    layout: &'static Layout,
    location: &'static Location,
    parent: &'static str,
    prefix: String,
    family: Family,
    names: Names<'a>,
}

/// A name of the network, and which third of it a tensor is.
type Part<'n> = (Cow<'n, str>, Option<usize>);

impl<'a> Candidate<'a> {
    /// Its tensors, by the network's names.
    fn tensors(&self) -> BTreeMap<Part<'_>, &'a TensorInfo> {
        let tensors = self
            .names
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(self.prefix.as_str())?, *tensor)));
        tensors
            .map(|(name, tensor)| (self.layout.renamed(name), tensor))
            .collect()
    }

    /// Its path, as in `state_dict.backbone.*`.
    fn place(&self) -> String {
        match self.parent {
            "" => format!("{}*", self.prefix),
            parent => format!("{}.{}*", parent.replace('/', "."), self.prefix),
        }
    }
}

/// The layout of a file, and its tensors by the network's names.
///
/// # Errors
/// No row or several; a missing role.
pub fn recognize(
    checkpoint: &Checkpoint,
    role: Option<Role>,
    family: Option<Family>,
) -> Result<Recognized<'_>, LayoutError> {
    let mut parents = BTreeMap::new();
    let mut candidates = LAYOUTS
        .iter()
        .flat_map(|layout| candidates(checkpoint, layout, &mut parents))
        .collect::<Vec<_>>();
    let any = candidates.first().map(|candidate| candidate.family);
    candidates.retain(|candidate| family.is_none_or(|family| family == candidate.family));
    let Some(layout) = candidates.first().map(|candidate| candidate.layout) else {
        return Err(match (any, family) {
            (Some(holds), Some(named)) => LayoutError::Family { holds, named },
            _ => LayoutError::None {
                content: summary(&checkpoint.root),
                hint: seen_networks(&checkpoint.root),
            },
        });
    };
    if candidates
        .iter()
        .any(|candidate| !std::ptr::eq(candidate.layout, layout))
    {
        let mut layouts = candidates
            .iter()
            .map(|candidate| candidate.layout.name)
            .collect::<Vec<_>>();
        layouts.dedup();
        return Err(LayoutError::Several {
            layouts: layouts.join(" or "),
            hint: seen_networks(&checkpoint.root),
        });
    }
    let chosen = chosen(candidates, layout, role)?;
    let other_roles = layout
        .locations
        .iter()
        .filter(|location| location.role != chosen.location.role);
    let other_prefixes = other_roles
        .flat_map(|location| location.prefixes)
        .filter(|prefix| !prefix.is_empty())
        .collect::<Vec<_>>();
    let read = layout
        .locations
        .iter()
        .flat_map(|location| location.parents)
        .copied()
        .collect::<Vec<_>>();
    let mut dropped = vec![];
    let mut tensors = BTreeMap::<(String, Option<usize>), (String, &TensorInfo)>::new();
    for (name, tensor) in chosen.names.iter() {
        let inside = name.strip_prefix(chosen.prefix.as_str());
        let known = matches_any(layout.dropped, name)
            || (inside.is_none() && other_prefixes.iter().any(|prefix| name.starts_with(**prefix)));
        if known {
            dropped.push(name.clone());
            continue;
        }
        let (ours, third) = inside.map_or((Cow::from(name.as_str()), None), |name| layout.renamed(name));
        let (key, theirs) = ((ours.into_owned(), third), inside.unwrap_or(name).to_owned());
        let ours = key.0.clone();
        if tensors.insert(key, (theirs, tensor)).is_some() {
            return Err(twice(ours, layout));
        }
    }
    // A third beside the whole is as wrong as two wholes.
    let both = tensors
        .keys()
        .find(|(name, third)| third.is_some() && tensors.contains_key(&(name.clone(), None)));
    if let Some((name, _)) = both {
        return Err(twice(name.clone(), layout));
    }
    Ok(Recognized {
        layout,
        role: chosen.location.role,
        family: chosen.family,
        parent: chosen.parent,
        tensors: Weight::joined(tensors),
        dropped,
        other_networks: seen_outside(&checkpoint.root, &read),
    })
}

/// The error for two tensors of one name.
fn twice(name: String, layout: &Layout) -> LayoutError {
    LayoutError::Twice {
        name,
        layout: layout.name,
    }
}

/// The network of one layout to read.
///
/// Without `role` it is the network that the method's paper evaluates, with no substitute: a file in which
/// that network does not match must not pass as a file without it. Some rows also cover a network saved
/// alone.
fn chosen<'a>(
    mut candidates: Vec<Candidate<'a>>,
    layout: &'static Layout,
    role: Option<Role>,
) -> Result<Candidate<'a>, LayoutError> {
    let alone = role.is_none()
        && candidates
            .iter()
            .all(|candidate| candidate.location.role.is_none());
    let role = role.or(layout.locations[0].role).filter(|_| !alone);
    let chosen = match role {
        // Names at the root include those of its dictionaries, and so an optimizer's beside the network's.
        None => {
            let inside = candidates
                .iter()
                .position(|candidate| !candidate.parent.is_empty());
            candidates.swap_remove(inside.unwrap_or(0))
        }
        Some(role) => {
            let of_role = |candidate: &Candidate<'_>| candidate.location.role == Some(role);
            match candidates.iter().position(of_role) {
                Some(position) => candidates.swap_remove(position),
                None => return Err(lacks(role, layout, &candidates)),
            }
        }
    };
    let tensors = chosen.tensors();
    let same_role = |candidate: &&Candidate<'_>| {
        candidate.location.role.is_none() || candidate.location.role == chosen.location.role
    };
    let other = candidates
        .iter()
        .filter(same_role)
        .find(|candidate| candidate.tensors() != tensors);
    if let Some(other) = other {
        return Err(LayoutError::Places {
            layout: layout.name,
            places: format!("`{}` and in `{}`", chosen.place(), other.place()),
        });
    }
    drop(tensors);
    Ok(chosen)
}

/// The error for a file without a network of this role.
fn lacks(role: Role, layout: &Layout, candidates: &[Candidate<'_>]) -> LayoutError {
    let held = candidates.iter().find_map(|candidate| candidate.location.role);
    let content = match held {
        Some(only) => format!("holds the {} alone, or no {} that fits", only.name(), role.name()),
        None => "holds one network, neither student nor teacher".to_owned(),
    };
    LayoutError::Role {
        role,
        layout: layout.name,
        content,
        held: held.filter(|held| *held != role),
    }
}

/// All matches of a file with a row. `parents` caches the names under each path.
fn candidates<'a>(
    checkpoint: &'a Checkpoint,
    layout: &'static Layout,
    parents: &mut BTreeMap<&'static str, Names<'a>>,
) -> Vec<Candidate<'a>> {
    let mut all = vec![];
    for location in layout.locations {
        for &parent in location.parents {
            let Some(entry @ Entry::Dict(_)) = checkpoint.root.at(parent) else {
                continue;
            };
            let names = parents.entry(parent).or_insert_with(|| Rc::new(unwrapped(entry)));
            let has = |pattern: &&str| names.iter().any(|(name, _)| matches(pattern, name));
            if !location.required.iter().all(has) || location.forbidden.iter().any(has) {
                continue;
            }
            for prefix in prefixes(location, names) {
                let inside = names
                    .iter()
                    .filter_map(|(name, _)| name.strip_prefix(prefix.as_str()));
                if let Some(family) = Family::of(inside.map(|name| layout.renamed(name).0)) {
                    all.push(Candidate {
                        layout,
                        location,
                        parent,
                        prefix,
                        family,
                        names: Rc::clone(names),
                    });
                }
            }
        }
    }
    all
}

/// The prefixes of a location to try on these names.
fn prefixes(location: &Location, names: &[(String, &TensorInfo)]) -> Vec<String> {
    /// Files hold two networks at most; any number of prefixes would take long.
    const TRIED: usize = 8;
    if location.prefixes != [ANY] {
        return location
            .prefixes
            .iter()
            .map(|&prefix| prefix.to_owned())
            .collect();
    }
    let found = names
        .iter()
        .filter_map(|(name, _)| star(location.required.first()?, name));
    let mut found = found
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    found.sort();
    found.dedup();
    found.truncate(TRIED);
    found
}

/// An unrecognized file, in words: its keys and first tensors.
fn summary(root: &Entry) -> String {
    const SHOWN: usize = 8;
    let list = |names: Vec<String>| {
        let more = names.len().saturating_sub(SHOWN);
        let shown = names
            .iter()
            .take(SHOWN)
            .map(|name| name.escape_debug().to_string())
            .collect::<Vec<_>>();
        match more {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    };
    let tensors = root.tensors();
    let names = tensors.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    match root {
        _ if tensors.is_empty() => "no tensor".to_owned(),
        Entry::Dict(entries) if entries.len() < tensors.len() => format!(
            "{} tensors under {} ({})",
            tensors.len(),
            list(entries.keys().cloned().collect()),
            list(names)
        ),
        _ => format!("{} tensors: {}", tensors.len(), list(names)),
    }
}
