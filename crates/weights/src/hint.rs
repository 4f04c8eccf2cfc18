//! What the user can do about an error of this crate, as values: the program words them, with its own flags
//! and commands.

use crate::role::Role;

/// A hint for an error. Its names of tensors and dictionaries come from a file: escape them before printing
/// to a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The file looks like a failed download: fetch it again.
    DownloadAgain,
    /// A Git LFS pointer: fetch the file behind it.
    FetchFromGitLfs,
    /// Unpack the file with gzip.
    Unpack,
    /// Load the file with Python and save it again.
    SaveAgain(SaveAs),
    /// Save one network of the file alone: lists the networks found, and the number of further ones.
    SaveAlone {
        /// The first networks.
        networks: Vec<SeenNetwork>,
        /// Number of further networks.
        more: usize,
    },
    /// List the file's contents.
    ListContents,
    /// List the tensors' names, and omit the pattern.
    ListNames,
    /// Name the network with its heads, as in this name, where `HEADS` is a placeholder for their number.
    NameHeads(String),
    /// Name the network by this name if its 3×3 stem is padded by 1 pixel.
    NameIfPaddedByOne(String),
    /// Name the network if it is the plain one that its shapes show.
    NameIfPlain,
    /// Give the folder or the index instead of one of its shards.
    GiveFolder,
    /// Do not name the network.
    OmitName,
    /// Choose the network that the file holds; where it is neither student nor teacher, leave the choice out.
    ChooseRole(Option<Role>),
    /// Write the file with timm's names.
    UseTimmNames,
    /// Export to ONNX, which has every network.
    ExportOnnx,
    /// Export to Transformers, which has this network.
    ExportTransformers,
    /// Export to timm, which has this network.
    ExportTimm,
    /// Export in f16, whose file is half as large.
    ExportHalves,
    /// The file holds a detector, which other commands read.
    UseToDetect(Detector),
}

/// The kind of a detector in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// RetinaFace, by its names.
    RetinaFace,
    /// YOLOX, by its names.
    Yolox,
    /// A network as an ONNX file, the form in which detectors are exported.
    Onnx,
}

/// The form in which to save a file again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAs {
    /// As PyTorch saves by default.
    Default,
    /// Its `state_dict()` alone.
    StateDict,
    /// The same, for a file whose pickle runs code: only if the author is trusted.
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

/// A network at a path of a file that no layout reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNetwork {
    /// Prefix of its tensors' names, from the root: `net.backbone.`; empty for the root itself.
    pub path: String,
    /// The network that it resembles: `resnet18`.
    pub looks: String,
}
