//! Weight files in, networks out, including other programs' files; networks in, encoder files, other libraries' folders and
//! ONNX files out.
//!
//! The caller owns the files: this crate reads from `Read + Seek`, writes bytes, and opens nothing.
//!
//! ```text
//! format ──► layouts ──► architecture ──► import ──► Backbone, EncoderInfo ──► export
//! tensors    names       network
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

pub mod architecture;
pub mod card;
mod description;
mod encoder_info;
mod error;
mod export;
mod folder;
pub mod format;
mod hint;
pub mod import;
pub mod layouts;
mod mismatch;
mod onnx;
mod origin;
#[cfg(test)]
mod parity;
mod patterns;
mod preparation;
mod role;

pub use description::Description;
pub use encoder_info::EncoderInfo;
pub use error::WeightsError;
pub use export::{Naming, encoder_to_safetensors, encoder_to_safetensors_as, to_safetensors};
pub use folder::{ExportFolder, Target, export_folder};
pub use format::{Checkpoint, CheckpointError, ShardIndex, Shards};
pub use hint::{Detector, Hint, SaveAs, SeenNetwork};
pub use import::{Import, ImportOptions, read_encoder};
pub use layouts::LayoutError;
pub use mismatch::{Mismatch, load_state_dict};
pub use onnx::{
    Normalization, ONNX_EMBEDDING, ONNX_INPUT, ONNX_TOKENS, OnnxFloat, OnnxOptions, encoder_to_onnx,
};
pub use origin::{Origin, SawPeople};
pub use preparation::Preparation;
pub use role::Role;
