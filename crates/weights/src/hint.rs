//! How a user can settle an error of this crate, as values: the program words them, with its own flags and commands.

use crate::role::Role;

/// The cure of an error. Names of tensors and dictionaries in it come from a file: escape them before a terminal sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A failed download leaves such a file: fetch it again.
    DownloadAgain,
    /// Git LFS's pointer: fetch the file that it stands for.
    FetchFromGitLfs,
    /// Unpack the file with gzip.
    Unpack,
    /// Load the file with Python and save it again.
    SaveAgain(SaveAs),
    /// Save one network of the file alone: those that were seen in it, and how many more there are.
    SaveAlone {
        /// The first networks.
        networks: Vec<SeenNetwork>,
        /// Networks beyond these.
        more: usize,
    },
    /// List what the file holds.
    ListContents,
    /// List the tensors' names, and leave out the pattern.
    ListNames,
    /// Name the network with its heads, as in this name, where `HEADS` stands for their number.
    NameHeads(String),
    /// Name the network by this name if its 3×3 stem is padded by 1 pixel.
    NameIfPaddedByOne(String),
    /// Do not name the network.
    OmitName,
    /// Choose the other of a file's two networks; this one was looked for.
    ChooseOther(Role),
    /// Write the file with timm's names.
    UseTimmNames,
}

/// In which form a file is to be saved again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAs {
    /// As PyTorch saves by default.
    Default,
    /// Its `state_dict()` alone.
    StateDict,
    /// The same, for a file whose pickle runs code: only if its author is trusted.
    TrustedStateDict,
    /// Its arrays as tensors.
    Tensors,
    /// After `to_dense()`.
    Dense,
    /// After `resolve_neg()` and `resolve_conj()`.
    Resolved,
    /// After its weights are loaded.
    Loaded,
    /// On a little-endian machine.
    LittleEndian,
}

/// A network in a place of a file that no layout reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNetwork {
    /// What its tensors' names start with, from the root: `net.backbone.`; empty for the root itself.
    pub path: String,
    /// What it looks like: `resnet18`.
    pub looks: String,
}
