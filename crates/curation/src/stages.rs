//! The stages of a chain: each keeps or drops photos. Stages use the ledger and the files of photos. No stage
//! knows another one; only `config.rs` lists them.

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

pub(crate) use files::{File, Files, decode_reason, panicked};
pub use stage::{Stage, Work};
