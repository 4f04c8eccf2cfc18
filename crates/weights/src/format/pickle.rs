//! Pickles of PyTorch as plain data: [`machine`] builds what a pickle describes, [`torch`] says what its names mean.

mod machine;
mod torch;
mod value;

pub(super) use machine::{Input, MAX_BYTES};
pub(super) use value::{Node, Pickle, Storage, Value, View};

use std::io::BufRead;

use super::error::CheckpointError;

/// Builds what the next pickle of `input` describes.
///
/// # Errors
/// Damaged bytes, a name or a call that weights do not need, and more than the limits allow.
pub(super) fn read<R: BufRead>(input: &mut Input<R>) -> Result<Pickle, CheckpointError> {
    machine::read(input, &torch::NAMES)
}
