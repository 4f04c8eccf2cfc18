//! How a user can fix an error of this crate, as values: the program words them, with its own flags and
//! commands.

use std::path::PathBuf;

use crate::settings::Fault;

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
    /// Pack the records into several smaller shards.
    SmallerShards,
    /// List the broken records, or allow more of them.
    VerifyOrAllowMore,
    /// Let a center crop follow the resize, or allow more broken records.
    CropOrAllowMore,
    /// Check that the boxes belong to these pictures, or allow more of such records.
    SizesOfBoxes,
    /// Smaller batches, or more records.
    SmallerBatch {
        /// Records of the data set.
        records: u32,
    },
    /// Every file that a brace pattern names must exist.
    CompletePattern,
    /// Give the folder that contains the picture.
    GiveFolder,
    /// Pack the archive into shards first.
    PackArchive,
    /// Unpack the compressed shard, or pack it into shards.
    UnpackOrPack {
        /// How it is compressed.
        compression: Compression,
    },
    /// Unpack the compressed shard; it can be opened then.
    Unpack {
        /// How it is compressed.
        compression: Compression,
    },
    /// Unpack the compressed shards of the folder.
    UnpackShards,
    /// Unpack the archives of the folder.
    UnpackArchives,
    /// Give the folder within that has the shards.
    GiveFolderOfShards,
    /// Unpack the outer archive, and each inner one into a folder of its name.
    UnpackInner,
    /// Rename the tar to `NAME.tar`.
    RenameTar,
    /// Name one image of each record `KEY.jpg`.
    NameImages,
    /// Fetch the file itself with Git LFS.
    FetchFromGitLfs,
    /// Pack the folder into shards.
    PackFolder,
    /// Remove the link, or restore its target.
    RestoreLink,
    /// Rename the file.
    Rename,
    /// Describe the folder as one of images without labels.
    DescribeAsFlat,
    /// Say in the description whether the table's labels are names or numbers.
    StateLabels,
    /// What a `.cls` member holds, and where the names of classes belong.
    NumberClasses,
    /// Remove the folder, or name the classes in a description.
    NameClasses,
    /// Download the file again, or correct the description.
    DownloadAgain,
    /// The cure of a fault in a data-set description.
    Settings(Box<Fault>),
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// Zstandard.
    Zstd,
    /// xz, which is not read here.
    Xz,
}
