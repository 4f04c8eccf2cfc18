//! Replaces `onnx.rs` in a build without ONNX support: no network can be loaded.

use std::convert::Infallible;
use std::io::Read;

use crate::error::DetectionError;

/// Never exists.
#[derive(Debug)]
pub(crate) struct Network(Infallible);

impl Network {
    pub(crate) fn read<R: Read>(_: &mut R) -> Result<Self, DetectionError> {
        Err(DetectionError::NoOnnx)
    }

    pub(crate) fn inputs(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn input_shape(&self) -> Result<Option<Vec<usize>>, DetectionError> {
        match self.0 {}
    }

    pub(crate) fn output_shape(&self) -> Result<Option<Vec<usize>>, DetectionError> {
        match self.0 {}
    }

    pub(crate) fn run(&self, _: [usize; 4], _: &[f32]) -> Result<Vec<f32>, DetectionError> {
        match self.0 {}
    }
}
