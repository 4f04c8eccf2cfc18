//! The stages of a chain: each keeps or drops photos. They use the ledger and the files of photos; no stage knows another one,
//! and only `config.rs` has the list of them.

pub(crate) mod balance;
pub(crate) mod detect;
pub(crate) mod duplicates;
pub(crate) mod fetch;
mod files;
pub(crate) mod integrity;
pub(crate) mod license;
mod near;
pub(crate) mod review;
mod stage;

pub(crate) use files::{File, Files, decode_reason};
pub use stage::{Stage, Work};
