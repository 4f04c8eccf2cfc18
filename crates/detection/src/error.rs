//! What can go wrong with detectors.

use backbones::{CheckpointError, Mismatch};

/// Why a detector cannot be had, or cannot look at a photo.
#[derive(Debug, thiserror::Error)]
pub enum DetectionError {
    /// The file of weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Names or shapes are not those of the detector.
    #[error("the weights are not those of {network}: {difference}")]
    Mismatch {
        /// Which network.
        network: &'static str,
        /// How they differ.
        difference: Box<Mismatch>,
    },
    /// A key of a config has a value that cannot be.
    #[error("{0}")]
    Config(String),
    /// A photo's pixels are not what its sides say.
    #[error(
        "photo {position} of the batch has {bytes} bytes, expected 3 x {width} x {height} and more than none"
    )]
    Photo {
        /// Which of the batch, from 0.
        position: usize,
        /// Its width, px.
        width: u32,
        /// Its height, px.
        height: u32,
        /// The bytes that it has.
        bytes: usize,
    },
    /// An ONNX file that is not what is wanted, or that fails.
    #[error("the ONNX file cannot be used: {0}")]
    Onnx(String),
    /// The crate was built without its feature `onnx`.
    #[error("this build reads no ONNX files")]
    NoOnnx,
}

/// That `value` of the key `name` lies in `range`.
pub(crate) fn check_share(name: &str, value: f32) -> Result<(), DetectionError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(DetectionError::Config(format!(
        "`{name}` must be from 0 to 1, got {value}"
    )))
}

/// That `value` of the key `name` is at least 1.
pub(crate) fn check_count(name: &str, value: usize) -> Result<(), DetectionError> {
    if value > 0 {
        return Ok(());
    }
    Err(DetectionError::Config(format!(
        "`{name}` must be at least 1, got 0"
    )))
}
