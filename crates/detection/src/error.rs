//! Errors of detectors.

use weights::{CheckpointError, Mismatch};

/// What the user can do about an error; the program words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A hint for a file of weights.
    Weights(weights::Hint),
    /// Export the model with a fixed size and a batch of one.
    ExportFixedSize,
    /// Export YOLOX without decoding.
    ExportWithoutDecoding,
    /// Build with the feature `onnx`.
    BuildWithOnnx,
}

/// Reason why a detector cannot be loaded, or fails on a photo.
#[derive(Debug, thiserror::Error)]
pub enum DetectionError {
    /// The file of weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Names or shapes differ from the detector's.
    #[error("the weights are not those of {network}: {difference}")]
    Mismatch {
        /// The network.
        network: &'static str,
        /// The differences.
        difference: Box<Mismatch>,
    },
    /// Weights that are no numbers, or variances below 0: a network of them finds nothing, in silence.
    #[error("the weights of {network} must be finite, and variances not below 0; they are not in {tensors}")]
    NotFinite {
        /// The network.
        network: &'static str,
        /// The first tensors, in words.
        tensors: String,
    },
    /// Layers that the weights make do not fit together.
    #[error("the weights are not those of {network}: {reason}")]
    Layers {
        /// The network.
        network: &'static str,
        /// The fault.
        reason: String,
    },
    /// A file of weights of no network that is known.
    #[error(
        "the weights must be YOLOX's, or those of torchvision's or detectron2's Faster, Mask or Cascade R-CNN on a ResNet, {found}"
    )]
    Unknown {
        /// What the file holds.
        found: String,
    },
    /// A config key has an invalid value.
    #[error("{0}")]
    Config(String),
    /// A photo's pixels do not match its sides.
    #[error(
        "photo {position} of the batch must have 3 x {width} x {height} bytes and at least one, got {bytes}"
    )]
    Photo {
        /// Its index in the batch, from 0.
        position: usize,
        /// Its width, px.
        width: u32,
        /// Its height, px.
        height: u32,
        /// Its number of bytes.
        bytes: usize,
    },
    /// An ONNX file of another network, or one that fails.
    #[error("the ONNX file cannot be used: {reason}")]
    Onnx {
        /// The fault.
        reason: String,
        /// The hint, if known.
        hint: Option<Hint>,
    },
    /// An ONNX file of operations that no YOLOX has; the crate was built without its feature `onnx`, which runs
    /// them.
    #[error("the ONNX file is not one of YOLOX: {reason}")]
    ForeignOnnx {
        /// The first such operation.
        reason: String,
    },
}

impl DetectionError {
    /// What the user can do about it, if known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Checkpoint(error) => error.hint().map(Hint::Weights),
            Self::Onnx { hint, .. } => hint.clone(),
            Self::ForeignOnnx { .. } => Some(Hint::BuildWithOnnx),
            Self::Mismatch { .. }
            | Self::NotFinite { .. }
            | Self::Layers { .. }
            | Self::Unknown { .. }
            | Self::Config(_)
            | Self::Photo { .. } => None,
        }
    }
}

/// Checks that `value` of the key `name` is in `range`.
pub(crate) fn check_share(name: &str, value: f32) -> Result<(), DetectionError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(DetectionError::Config(format!(
        "`{name}` must be from 0 to 1, got {value}"
    )))
}

/// Checks that `value` of the key `name` is at least 1.
pub(crate) fn check_count(name: &str, value: usize) -> Result<(), DetectionError> {
    if value > 0 {
        return Ok(());
    }
    Err(DetectionError::Config(format!(
        "`{name}` must be at least 1, got 0"
    )))
}
