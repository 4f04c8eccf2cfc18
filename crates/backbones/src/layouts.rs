//! The files of weights that the world has: one row a layout, and how a file's row is found.
//!
//! A row says where in a file the networks lie, which prefixes their names carry, which names beside them are known and
//! left out, and what is called otherwise here. A name that no row knows is never left out in silence: it goes on to the
//! comparison with the network, which lists it. To add a layout: one row, its file in `scripts/parity/layouts.py`, a
//! line in `docs/weights.md`.

mod hint;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Entry, TensorInfo};
use crate::patterns::{matches, matches_any, renamed};
use crate::vit::{Initialization, Interpolation, Position};
pub use table::LAYOUTS;
pub(crate) use table::TORCHVISION_VIT;

/// Which of a method's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What the optimizer updated: MoCo's query encoder, MoCo-v3's base encoder.
    Student,
    /// Its moving average: MoCo's key encoder, MoCo-v3's momentum encoder.
    Teacher,
}

impl Part {
    /// `student` or `teacher`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Student => "student",
            Self::Teacher => "teacher",
        }
    }
}

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`crate::ResNet`].
    ResNet,
    /// [`crate::Vit`].
    Vit,
}

impl Family {
    fn a(self) -> &'static str {
        match self {
            Self::ResNet => "a ResNet",
            Self::Vit => "a ViT",
        }
    }

    /// By names of parameters, as torchvision's ResNet and timm's ViT have them. Any block will do: that another
    /// parameter is missing or misspelt is for the comparison with the network to say.
    fn of<N: AsRef<str>>(mut names: impl Iterator<Item = N>) -> Option<Self> {
        names.find_map(|name| match name.as_ref() {
            name if matches("layer1.#.conv#.weight", name) => Some(Self::ResNet),
            name if matches("blocks.#.attn.*", name) => Some(Self::Vit),
            _ => None,
        })
    }
}

/// A layout: one way in which weights are laid out in files.
#[derive(Debug)]
pub struct Layout {
    /// How it is called in messages.
    pub name: &'static str,
    /// Where its networks are; the first is the one that the method's paper evaluates, or the student where the layout is of
    /// many methods.
    doors: &'static [Door],
    /// Names that are known and belong to no network: heads, queues, decoders.
    dropped: &'static [&'static str],
    /// What the file calls otherwise, theirs first.
    renames: &'static [(&'static str, &'static str)],
    /// What cannot be seen in the tensors.
    pub traits: Traits,
}

/// Where one network is in a file.
#[derive(Debug)]
struct Door {
    /// `None` where the file holds one network.
    part: Option<Part>,
    /// Paths of the dictionary that its tensors are in, of which a file has one.
    tops: &'static [&'static str],
    /// What its names start with there, of which a file has one.
    prefixes: &'static [&'static str],
    /// Names that must be there to know this layout.
    marks: &'static [&'static str],
    /// Names that must not be there.
    absent: &'static [&'static str],
}

/// What a layout's method fixes and its tensors do not show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// Channel statistics of its training.
    pub mean: [f32; 3],
    /// As above.
    pub std: [f32; 3],
    /// A ViT of width 384 has 12 heads instead of 6.
    pub small_has_12_heads: bool,
    /// A ResNet's 3×3 stem may be padded by 2 pixels, which no shape shows.
    pub small_stem_padded_by_2: bool,
    /// How a ViT's positions are brought to other image sizes.
    pub interpolation: Interpolation,
    /// What a ViT's positions were in training.
    pub position: Position,
    /// Where a ViT's weights started.
    pub initialization: Initialization,
}

/// A file whose layout is known.
#[derive(Debug)]
pub struct Recognised<'a> {
    /// Its row.
    pub layout: &'static Layout,
    /// Which of two networks was taken.
    pub part: Option<Part>,
    /// The kind of network.
    pub family: Family,
    /// Where in the file it lies.
    pub top: &'static str,
    /// Its tensors, and those that no row knows, by the network's names.
    pub tensors: BTreeMap<String, &'a TensorInfo>,
    /// Names beside it that the row knows, as the file has them.
    pub dropped: Vec<String>,
    /// Networks in dictionaries that the row does not read, such as averaged weights: what they look like, and how to save them
    /// alone.
    pub other_networks: Vec<String>,
}

impl Recognised<'_> {
    /// What whoever takes this network should know of the others in the file, a line each.
    pub fn notes(&self) -> Vec<String> {
        let others = self.other_networks.iter();
        others
            .map(|other| format!("the file holds another network, which is not read: {other}"))
            .collect()
    }
}

/// Why a file has no layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// None fits.
    #[error("no known layout matches this file: it holds {saw}; hint: {hint}")]
    None {
        /// What is in it.
        saw: String,
        /// Where in it names are like those of a network, or how to look.
        hint: String,
    },
    /// More than one fits.
    #[error("this file could be of {layouts}; hint: {hint}")]
    Several {
        /// Their names.
        layouts: String,
        /// How to save one alone.
        hint: String,
    },
    /// Two networks in places of one layout.
    #[error(
        "this file ({layout}) holds a network in {places}, and they differ; hint: load it with PyTorch and save the one \
         that you want"
    )]
    Places {
        /// The row.
        layout: &'static str,
        /// Where they are.
        places: String,
    },
    /// It has not the network that was asked for.
    #[error("the {part} is wanted, and this file ({layout}) {has}; `--part` chooses another")]
    Part {
        /// What was asked for.
        part: &'static str,
        /// The row.
        layout: &'static str,
        /// What there is.
        has: String,
    },
    /// Two of its tensors have one name here.
    #[error("two tensors of this file are {name} of the network ({layout})")]
    Twice {
        /// The network's name.
        name: String,
        /// The row.
        layout: &'static str,
    },
}

/// Names of the tensors under a path, shared by all doors that look there.
type Names<'a> = Rc<Vec<(String, &'a TensorInfo)>>;

/// A door of a row through which a network of a file was found.
struct Found<'a> {
    layout: &'static Layout,
    door: &'static Door,
    top: &'static str,
    prefix: &'static str,
    family: Family,
    names: Names<'a>,
}

impl<'a> Found<'a> {
    /// What is behind the door by the network's names.
    fn own(&self) -> BTreeMap<Cow<'_, str>, &'a TensorInfo> {
        let own = self
            .names
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(self.prefix)?, *tensor)));
        own.map(|(name, tensor)| (self.layout.renamed(name), tensor))
            .collect()
    }

    /// Where it is, as in `state_dict.backbone.*`.
    fn place(&self) -> String {
        match self.top {
            "" => format!("{}*", self.prefix),
            top => format!("{}.{}*", top.replace('/', "."), self.prefix),
        }
    }
}

/// The layout of a file, and its tensors by the network's names.
///
/// # Errors
/// No row or several; a part that is not there.
pub fn recognise(
    checkpoint: &Checkpoint,
    part: Option<Part>,
    family: Option<Family>,
) -> Result<Recognised<'_>, LayoutError> {
    let mut tops = BTreeMap::new();
    let mut found = LAYOUTS
        .iter()
        .flat_map(|layout| found(checkpoint, layout, &mut tops))
        .collect::<Vec<_>>();
    let other = found.first().map(|found| found.family);
    found.retain(|found| family.is_none_or(|family| family == found.family));
    let Some(layout) = found.first().map(|found| found.layout) else {
        return Err(LayoutError::None {
            saw: summary(&checkpoint.root),
            hint: match other {
                Some(other) => format!("its network is {}: leave out --backbone", other.a()),
                None => hint::hint(&checkpoint.root),
            },
        });
    };
    if found.iter().any(|found| !std::ptr::eq(found.layout, layout)) {
        let mut layouts = found.iter().map(|found| found.layout.name).collect::<Vec<_>>();
        layouts.dedup();
        return Err(LayoutError::Several {
            layouts: layouts.join(" or "),
            hint: hint::hint(&checkpoint.root),
        });
    }
    // Without `part`, the network that the method's paper evaluates, and no other in its place: a file in which it does not
    // fit must not pass for one that was made without it. Some rows are of one network as well, saved alone.
    let alone = part.is_none() && found.iter().all(|found| found.door.part.is_none());
    let part = part.or(layout.doors[0].part).filter(|_| !alone);
    let wanted = found
        .iter()
        .position(|found| part.is_none() || found.door.part == part);
    let Some(wanted) = wanted else {
        let has = match found.iter().filter_map(|found| found.door.part).next() {
            Some(only) => format!(
                "holds the {} alone, or no {} that fits",
                only.name(),
                part.map_or("", Part::name)
            ),
            None => "holds one network, neither student nor teacher".to_owned(),
        };
        return Err(LayoutError::Part {
            part: part.map_or("", Part::name),
            layout: layout.name,
            has,
        });
    };
    let chosen = found.swap_remove(wanted);
    let own = chosen.own();
    let rivals = |found: &&Found<'_>| found.door.part.is_none() || found.door.part == chosen.door.part;
    if let Some(other) = found.iter().filter(rivals).find(|found| found.own() != own) {
        return Err(LayoutError::Places {
            layout: layout.name,
            places: format!("`{}` and in `{}`", chosen.place(), other.place()),
        });
    }
    let others = layout.doors.iter().filter(|door| door.part != chosen.door.part);
    let others = others
        .flat_map(|door| door.prefixes)
        .filter(|prefix| !prefix.is_empty())
        .collect::<Vec<_>>();
    let tops: Vec<&str> = layout.doors.iter().flat_map(|door| door.tops).copied().collect();
    let mut recognised = Recognised {
        layout,
        part: chosen.door.part,
        family: chosen.family,
        top: chosen.top,
        tensors: BTreeMap::new(),
        dropped: vec![],
        other_networks: hint::networks_outside(&checkpoint.root, &tops),
    };
    for (name, tensor) in chosen.names.iter() {
        let own = name.strip_prefix(chosen.prefix).map(|own| layout.renamed(own));
        let known = matches_any(layout.dropped, name);
        let name = match own {
            _ if known => {
                recognised.dropped.push(name.clone());
                continue;
            }
            Some(own) => own.into_owned(),
            None if others.iter().any(|prefix| name.starts_with(**prefix)) => {
                recognised.dropped.push(name.clone());
                continue;
            }
            None => name.clone(),
        };
        if recognised.tensors.insert(name.clone(), tensor).is_some() {
            return Err(LayoutError::Twice {
                name,
                layout: layout.name,
            });
        }
    }
    Ok(recognised)
}

/// Every way in which a file fits a row. `tops` keeps the names under each path.
fn found<'a>(
    checkpoint: &'a Checkpoint,
    layout: &'static Layout,
    tops: &mut BTreeMap<&'static str, Names<'a>>,
) -> Vec<Found<'a>> {
    let mut all = vec![];
    for door in layout.doors {
        for &top in door.tops {
            let Some(entry @ Entry::Dict(_)) = checkpoint.root.at(top) else {
                continue;
            };
            let names = tops
                .entry(top)
                .or_insert_with(|| Rc::new(unwrapped(entry.tensors())));
            let has = |pattern: &&str| names.iter().any(|(name, _)| matches(pattern, name));
            if !door.marks.iter().all(has) || door.absent.iter().any(has) {
                continue;
            }
            for &prefix in door.prefixes {
                let own = names.iter().filter_map(|(name, _)| name.strip_prefix(prefix));
                if let Some(family) = Family::of(own.map(|name| layout.renamed(name))) {
                    all.push(Found {
                        layout,
                        door,
                        top,
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

/// Most wrappers that are taken off a network: nobody wraps one more often.
const MAX_WRAPPERS: usize = 4;

/// Names without what wrappers of a whole network put before each: `DistributedDataParallel`, `torch.compile`, and
/// `AveragedModel`, whose count of models has no wrapper's name.
fn unwrapped(mut names: Vec<(String, &TensorInfo)>) -> Vec<(String, &TensorInfo)> {
    const COUNT: &str = "n_averaged";
    let wraps = |wrapper: &str, from: usize| {
        let mut others = names.iter().filter(|(name, _)| name != COUNT).peekable();
        others.peek().is_some() && others.all(|(name, _)| name[from..].starts_with(wrapper))
    };
    let mut wrapped = 0;
    for _ in 0..MAX_WRAPPERS {
        let mut known = ["module.", "_orig_mod."].into_iter();
        let Some(wrapper) = known.find(|wrapper| wraps(wrapper, wrapped)) else {
            break;
        };
        wrapped += wrapper.len();
    }
    for (name, _) in names.iter_mut().filter(|(name, _)| name != COUNT) {
        name.drain(..wrapped);
    }
    names
}

impl Layout {
    fn renamed<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let new = self
            .renames
            .iter()
            .find_map(|(theirs, ours)| renamed(theirs, ours, name));
        new.map_or(Cow::Borrowed(name), Cow::Owned)
    }

    /// The parts that a file of this layout may hold.
    pub fn parts(&self) -> Vec<Part> {
        self.doors.iter().filter_map(|door| door.part).collect()
    }
}

/// What a message says of a file that is not recognised: its keys, and the first tensors.
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
