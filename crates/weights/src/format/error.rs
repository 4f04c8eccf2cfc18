//! Errors of weight files, and limits on their size.

use crate::hint::{Hint, SaveAs};

/// Maximum entries of a file: objects that a pickle shares are counted at each use.
pub(crate) const MAX_ENTRIES: usize = 1 << 18;

/// Longest name: an entry's dotted path, a class, in bytes. A pickle may use one stored text as a million
/// names.
pub(crate) const MAX_NAME: usize = 1024;

/// Highest rank of a tensor, as in PyTorch.
pub(crate) const MAX_RANK: usize = 64;

/// Why a file of weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// An unknown kind of file.
    #[error("neither a PyTorch checkpoint (zip or legacy) nor a safetensors file{found}")]
    Unknown {
        /// What its start looks like.
        found: &'static str,
        /// The hint, if its start suggests one.
        hint: Option<Hint>,
    },
    /// Inconsistent bytes.
    #[error("damaged, or made by hand: {0}")]
    Damaged(String),
    /// A pickle that calls or imports a forbidden name.
    #[error("its pickle asks for {0}, which weights do not need: refused, and nothing of it was run")]
    Hostile(String),
    /// A valid file that is not supported.
    #[error("this file cannot be read: {reason}")]
    Unsupported {
        /// Its unsupported content.
        reason: String,
        /// The hint, if there is one.
        hint: Option<Hint>,
    },
    /// More than a file of weights needs.
    #[error("beyond what a file of weights needs: {0}")]
    Limit(String),
    /// The bytes cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

impl CheckpointError {
    /// The hint, if known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Unknown { hint, .. } | Self::Unsupported { hint, .. } => hint.clone(),
            Self::Hostile(_) => Some(Hint::SaveAgain(SaveAs::TrustedStateDict)),
            Self::Damaged(_) | Self::Limit(_) | Self::Read(_) => None,
        }
    }
}

pub(crate) fn damaged(what: impl Into<String>) -> CheckpointError {
    CheckpointError::Damaged(what.into())
}

/// A valid file that becomes readable after Python saves it again.
pub(crate) fn unsupported(reason: impl Into<String>, cure: SaveAs) -> CheckpointError {
    CheckpointError::Unsupported {
        reason: reason.into(),
        hint: Some(Hint::SaveAgain(cure)),
    }
}

/// A valid file that saving again would not help.
pub(crate) fn unreadable(reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Unsupported {
        reason: reason.into(),
        hint: None,
    }
}

pub(crate) fn long_name() -> CheckpointError {
    CheckpointError::Limit(format!("a name in it is longer than {MAX_NAME} bytes"))
}

pub(crate) fn many_entries() -> CheckpointError {
    CheckpointError::Limit(format!("it holds more than {MAX_ENTRIES} entries"))
}

/// The start of a text, because a file may make it arbitrarily long.
pub(crate) fn cut(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
