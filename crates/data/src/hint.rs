//! How a user can settle an error of this crate, as values: the program words them, with its own flags and commands.

use std::path::PathBuf;

/// The cure of an [`Error`](crate::Error).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Copy the archive again.
    CopyArchive,
    /// List the readable part of the shard, and copy it again.
    VerifyShard {
        /// The shard.
        path: PathBuf,
    },
    /// List the broken records; or allow more of them.
    VerifyOrAllowMore,
    /// Smaller batches, or more records.
    SmallerBatch,
    /// Every file that a brace pattern names must exist.
    CompletePattern,
    /// Give the folder that the picture lies in.
    GiveFolder,
    /// Make shards of the archive first.
    PackArchive,
    /// Unpack the compressed shard, or make shards of it.
    UnpackOrPack,
    /// Unpack the compressed shard, which can be opened then.
    Unpack,
    /// Make shards of the folder.
    PackFolder,
    /// Remove the link, or put its target back.
    RestoreLink,
    /// Rename the file.
    Rename,
    /// Describe the folder as one of images without labels.
    DescribeAsFlat,
    /// Remove the folder, or name the classes in a description.
    NameClasses,
    /// Download the file again, or correct the description.
    DownloadAgain,
}
