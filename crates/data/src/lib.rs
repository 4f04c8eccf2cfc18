//! Records in, batches of augmented views out: shards, index, decoding, transforms, sampling, loading.
//!
//! The path of a photo through this crate: [`Dataset`] finds its bytes through an index, [`decode`] turns
//! them into pixels, [`transforms`] draw views from them, and [`Loader`] puts the views of many photos into a
//! [`Batch`] of plain memory. The crate knows no tensors and no networks; `training` makes tensors of the
//! batches.
//!
//! It also holds the common code for files: [`durable`] writing, [`FolderLock`], hashes of files,
//! [`delimited`] tables, TOML [`settings`] whose faults name key, line and cure, and names that are safe to print
//! ([`terminal`]).
//!
//! Formats on disk are described in `docs/formats.md`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod caught;
mod causes;
pub mod contact_sheet;
mod content;
mod contents;
mod dataset;
mod decode;
pub mod delimited;
pub mod durable;
mod encoder_header;
mod error;
mod file_error;
mod hex;
mod hint;
pub mod html;
mod in_flight;
mod licenses;
mod listing;
mod loader;
mod lock;
pub mod markdown;
pub mod names;
mod numbers;
mod order;
mod randomness;
mod record;
pub mod settings;
mod sha256;
pub mod shards;
mod sources;
pub mod targets;
pub mod terminal;
pub mod thumbnail;
pub mod transforms;

pub use caught::caught;
pub use causes::with_causes;
pub use contents::{ContentSample, Contents, Sampled, Shared};
pub use dataset::Dataset;
pub use decode::{
    DecodeLimits, RgbImage, Shown, decode, decode_and, decode_into, decoded_together, describe, frames,
    header_pixels, is_transparent, same_coded_picture, shown,
};
pub use encoder_header::{ENCODER_KEY, EncoderHeader};
pub use error::{DecodeError, Error};
pub use file_error::FileError;
pub use hex::hex;
pub use hint::{Compression, Hint};
pub use licenses::{Licenses, NOT_STATED};
pub use listing::{Listing, Note, Reason};
pub use loader::{
    BadRecord, BadRecords, Batch, Batches, Loader, LoaderConfig, ObjectViews, ViewTargets, Views,
};
pub use lock::{FolderLock, LockError};
pub use numbers::{counted, mebibytes, percent, significant};
pub use order::Order;
pub use record::{Label, Metadata, Record};
pub use sha256::{Sha256Sum, sha256_of, sha256_of_file};
pub use sources::description::{About, DescriptionForms, Download};
pub use sources::names::VIEWS_FILE;
pub use sources::walk::{Found, Walk};
pub use transforms::{CropBox, ErasingFill, Filter, Transform, ViewGroup};
