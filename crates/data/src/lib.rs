//! Records in, batches of augmented views out: shards, index, decoding, transforms, sampling, loading.
//!
//! The life of a photo in this crate: [`Dataset`] finds its bytes through an index, [`decode`] turns them into pixels,
//! [`transforms`] draw views from them, and [`Loader`] sets the views of many photos side by side as a [`Batch`] of plain
//! memory. The crate knows no tensors and no networks; `training` makes tensors of the batches.
//!
//! Formats on disk are described in `docs/formats.md`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

pub mod contact_sheet;
mod dataset;
mod decode;
mod error;
pub mod html;
mod loader;
mod order;
mod randomness;
mod record;
pub mod shards;
mod sources;
pub mod thumbnail;
pub mod transforms;

pub use dataset::Dataset;
pub use decode::{DecodeLimits, RgbImage, decode, decode_into, decoded_together, header_pixels};
pub use error::{DecodeError, Error};
pub use loader::{BadRecord, BadRecords, Batch, Batches, Loader, LoaderConfig, MOST_WORKERS, Views};
pub use order::Order;
pub use record::{Label, Metadata, Record};
pub use sources::description::{About, Download};
pub use sources::index_file::hex;
pub use transforms::{ErasingFill, Filter, Transform, ViewGroup};
