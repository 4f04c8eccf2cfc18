//! Why weights cannot be used.

use crate::architecture::ArchitectureError;
use crate::format::CheckpointError;
use crate::hint::Hint;
use crate::layouts::LayoutError;
use crate::mismatch::Mismatch;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its layout is unknown or ambiguous.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The metadata cannot be parsed.
    #[error("the file's metadata is unreadable: {0}")]
    Metadata(serde_json::Error),
    /// The `config.json` beside it cannot be used, or contradicts it.
    #[error("{reason}")]
    Description {
        /// The fault.
        reason: String,
        /// The hint, if known.
        hint: Option<Hint>,
    },
    /// Its network is unknown, ambiguous or impossible.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// Names or shapes differ from the network's.
    #[error("the weights are not those of this network: {0}")]
    Mismatch(Box<Mismatch>),
    /// An `allow_missing` pattern that matches no parameter: usually misspelled.
    #[error("`{0}`, which may be missing, matches no parameter of this network")]
    UselessMissing(String),
    /// An `allow_unexpected` pattern that matches no unexpected tensor: usually misspelled.
    #[error("`{0}`, which may be unexpected, matches no tensor of the file that the network lacks")]
    UselessUnexpected(String),
    /// torchvision's network lacks a counterpart of a part.
    #[error("torchvision's ViT has no {0}")]
    Torchvision(&'static str),
    /// Another library or format has no such network.
    #[error("{reason}")]
    Export {
        /// The part without a counterpart.
        reason: String,
        /// The hint, if known.
        hint: Option<Hint>,
    },
}

impl WeightsError {
    /// The hint, if known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Layout(error) => error.hint(),
            Self::Architecture(error) => error.hint.clone(),
            Self::Description { hint, .. } | Self::Export { hint, .. } => hint.clone(),
            Self::UselessMissing(_) | Self::UselessUnexpected(_) => Some(Hint::ListNames),
            Self::Torchvision(_) => Some(Hint::UseTimmNames),
            Self::Metadata(_) | Self::Mismatch(_) => None,
        }
    }
}
