//! What can go wrong with detectors.

use weights::{CheckpointError, Mismatch};

/// The cure of an error; the program words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Of a file of weights.
    Weights(weights::Hint),
    /// Export the model with a fixed size and a batch of one.
    ExportFixedSize,
    /// Export YOLOX without decoding.
    ExportWithoutDecoding,
    /// Build with the feature `onnx`.
    BuildWithOnnx,
}

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
        "photo {position} of the batch must have 3 x {width} x {height} bytes and at least one, got {bytes}"
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
    /// An ONNX file of another network, or that fails.
    #[error("the ONNX file cannot be used: {reason}")]
    Onnx {
        /// What is wrong with it.
        reason: String,
        /// The cure, where it is known.
        hint: Option<Hint>,
    },
    /// The crate was built without its feature `onnx`.
    #[error("this build reads no ONNX files")]
    NoOnnx,
}

impl DetectionError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Checkpoint(error) => error.hint().map(Hint::Weights),
            Self::Onnx { hint, .. } => hint.clone(),
            Self::NoOnnx => Some(Hint::BuildWithOnnx),
            Self::Mismatch { .. } | Self::Config(_) | Self::Photo { .. } => None,
        }
    }
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
