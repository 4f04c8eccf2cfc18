//! PyTorch's and numpy's pickles as plain data: [`machine`] builds the described objects, [`torch`] defines the meaning
//! of their names.

mod machine;
mod torch;
mod value;

pub(super) use machine::{Input, MAX_BYTES};
pub(super) use value::{Array, Bytes, Node, Pickle, Storage, Value, View};

use std::io::BufRead;

use super::error::CheckpointError;

/// Builds the data that the next pickle of `input` describes.
///
/// # Errors
/// Damaged bytes, a name or a call that weights do not need, and exceeded limits.
pub(super) fn read<R: BufRead>(input: &mut Input<R>) -> Result<Pickle, CheckpointError> {
    machine::read(input, &torch::NAMES)
}
