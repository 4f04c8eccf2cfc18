//! The errors of a data set, one variant for each kind that a user can fix.

use std::path::{Path, PathBuf};

use crate::file_error::FileError;
use crate::hint::Hint;

/// An error of opening, indexing, reading, packing or loading a data set.
///
/// [`Error::hint`] returns the cure where one is known; the program words it and prints it on a line of its
/// own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The data specification names nothing that exists.
    #[error(
        "data `{spec}`: not found; expected a directory of shards, a `.tar`, a brace pattern, an image folder or a data-set description (`.toml`)"
    )]
    NotFound {
        /// The specification as given.
        spec: String,
    },
    /// The data specification exists but is of an unsupported kind.
    #[error("data `{spec}`: {reason}")]
    Unreadable {
        /// The specification as given.
        spec: String,
        /// Why it cannot be read.
        reason: String,
        /// The cure, where one is known.
        hint: Option<Hint>,
    },
    /// A data set without a single image.
    #[error("data `{path}`: {reason}")]
    Empty {
        /// The folder or shard.
        path: PathBuf,
        /// The files that were expected.
        reason: String,
    },
    /// A shard that ends too early or is not a tar.
    #[error("shard `{path}`: {reason}")]
    DamagedShard {
        /// The shard.
        path: PathBuf,
        /// Where and how it is damaged.
        reason: String,
    },
    /// A label that cannot be read, in a shard that is whole.
    #[error("shard `{path}`: {reason}")]
    Label {
        /// The shard.
        path: PathBuf,
        /// The member and its content.
        reason: String,
        /// The cure, where one is known.
        hint: Option<Hint>,
    },
    /// An invalid data-set description.
    #[error("data-set description `{path}`: {reason}")]
    Description {
        /// The TOML file.
        path: PathBuf,
        /// The fault.
        reason: String,
        /// The cure, where one is known.
        hint: Option<Hint>,
    },
    /// One record cannot be read back; the image in it may still be broken in other ways.
    #[error("record `{key}`: {reason}")]
    Record {
        /// The record's key.
        key: String,
        /// The fault.
        reason: String,
    },
    /// A position past the end of the data set.
    #[error("position {position} is past the end of a data set of {records} records")]
    Position {
        /// The requested position.
        position: usize,
        /// The number of records.
        records: usize,
    },
    /// A view group of the config with an invalid value.
    #[error("view group {group}: {reason}")]
    Views {
        /// Position of the group in the config, from 0.
        group: usize,
        /// The fault.
        reason: String,
    },
    /// A loader or packing option outside its range.
    #[error("`{option}` {reason}")]
    Option {
        /// The option's name in the config or on the command line.
        option: &'static str,
        /// The rest of the sentence: `must be at least 1, got 0`.
        reason: String,
    },
    /// A batch that is larger than the data set, in an order that drops the last partial batch.
    #[error("`batch_images` must be at most the data set's {records} records, got {batch_images}")]
    BatchTooLarge {
        /// Images in a batch.
        batch_images: usize,
        /// Records of the data set.
        records: u32,
    },
    /// More broken records than `max_bad_fraction` allows.
    #[error(
        "{bad} of {records} records {}, more than max_bad_fraction = {allowed} allows: {examples}",
        match (*decode, *other_size) {
            (0, _) => "cannot be decoded",
            (_, 0) => "cannot be decoded or resized",
            (decode, other) if decode == *bad && other == *bad => "are of another size than their boxes",
            _ => "cannot be decoded or resized, or are of another size than their boxes",
        }
    )]
    TooManyBad {
        /// Those of them that decode, and whose views cannot be made.
        decode: usize,
        /// Those of them whose boxes are of a picture of another size.
        other_size: usize,
        /// Distinct broken records found so far.
        bad: usize,
        /// Records of the data set, or of the slice of it.
        records: usize,
        /// The limit from the config.
        allowed: f64,
        /// The first few of them with their reasons.
        examples: String,
    },
    /// The loader's threads could not start, or ended too early.
    #[error("loader: {reason}")]
    Threads {
        /// The operating system's reason, or the event.
        reason: String,
    },
}

impl Error {
    /// The cure, where one is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            // Only shards can be verified.
            Error::DamagedShard { path, .. } if path.extension().is_some_and(|end| end != "tar") => {
                Some(Hint::CopyArchive)
            }
            Error::DamagedShard { path, .. } => Some(Hint::VerifyShard { path: path.clone() }),
            Error::Unreadable { hint, .. } | Error::Label { hint, .. } | Error::Description { hint, .. } => {
                hint.clone()
            }
            Error::TooManyBad { other_size, .. } if *other_size > 0 => Some(Hint::SizesOfBoxes),
            // `verify` makes no views, so it would list none of the records.
            Error::TooManyBad { bad, decode, .. } if bad == decode => Some(Hint::CropOrAllowMore),
            Error::TooManyBad { .. } => Some(Hint::VerifyOrAllowMore),
            Error::BatchTooLarge { records, .. } => Some(Hint::SmallerBatch { records: *records }),
            Error::NotFound { spec } if spec.contains('{') => Some(Hint::CompletePattern),
            _ => None,
        }
    }

    /// An [`Error::Description`] without a cure.
    pub(crate) fn description(path: &Path, reason: impl Into<String>) -> Error {
        Error::Description {
            path: path.to_path_buf(),
            reason: reason.into(),
            hint: None,
        }
    }

    /// An [`Error::Io`] for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let error = FileError::new(action, path);
        move |source| Error::Io(error(source))
    }
}

/// Why an encoded image could not be turned into pixels.
///
/// In training a broken image is data, not a failure: the loader counts it, names it and takes the next
/// record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// The bytes are of an unsupported format.
    #[error("not an image: expected JPEG, PNG, WebP, BMP or GIF, found {found}")]
    Format {
        /// A description of the first bytes.
        found: String,
    },
    /// The header announces more pixels than the limits allow; nothing was allocated.
    #[error("{width} x {height} px is over the limit of {limit}")]
    TooLarge {
        /// Width in the header, px.
        width: u32,
        /// Height in the header, px.
        height: u32,
        /// The exceeded limit, in words.
        limit: String,
    },
    /// A side of length 0, in the header or after decoding.
    #[error("{width} x {height} px: an image must have at least one pixel")]
    NoPixels {
        /// Width, px.
        width: u32,
        /// Height, px.
        height: u32,
    },
    /// A resize would make a picture of more pixels than the limit allows; nothing was allocated.
    #[error("`{transform}` would make {width} x {height} px of it, over the limit of {limit} px")]
    ResizedTooLarge {
        /// The transform's name in a config.
        transform: &'static str,
        /// Width of its result, px.
        width: u32,
        /// Height of its result, px.
        height: u32,
        /// Most pixels of a result.
        limit: u64,
    },
    /// The picture's boxes are of a picture of another size, so they may be of another picture.
    #[error("{width} x {height} px, but its boxes are of a picture of {stated_width} x {stated_height} px")]
    OtherSize {
        /// Width of the upright picture, px.
        width: u32,
        /// Height of the upright picture, px.
        height: u32,
        /// Width that its annotation states, px.
        stated_width: u32,
        /// Height that its annotation states, px.
        stated_height: u32,
    },
    /// The program panicked on the image: a defect of the program.
    #[error("the program panicked on it: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The image ends before its last pixel.
    #[error("the {format} data end too early")]
    Truncated {
        /// The format's name.
        format: &'static str,
    },
    /// The decoder failed.
    #[error("broken {format}: {reason}")]
    Broken {
        /// The format's name.
        format: &'static str,
        /// The decoder's message.
        reason: String,
    },
}
