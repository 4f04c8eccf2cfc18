//! Why a file of weights cannot be read, and the limits of what is read.

use crate::hint::{Hint, SaveAs};

/// Most entries of a file: objects that a pickle shares are counted each time that they are met.
pub(crate) const MAX_ENTRIES: usize = 1 << 18;

/// Longest name: an entry's dotted path, a class, in bytes. A pickle names a million times what it holds once.
pub(crate) const MAX_NAME: usize = 1024;

/// Highest rank of a tensor, as in PyTorch.
pub(crate) const MAX_RANK: usize = 64;

/// Why a file of weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// None of the known kinds.
    #[error("neither a PyTorch checkpoint (zip or legacy) nor a safetensors file{found}")]
    Unknown {
        /// What its start shows it to be.
        found: &'static str,
        /// The cure, where its start shows one.
        hint: Option<Hint>,
    },
    /// Bytes that contradict each other.
    #[error("damaged, or made by hand: {0}")]
    Damaged(String),
    /// A pickle that wants something called or imported.
    #[error("its pickle asks for {0}, which weights do not need: refused, and nothing of it was run")]
    Hostile(String),
    /// Sound, but not read here.
    #[error("this file cannot be read: {reason}")]
    Unsupported {
        /// What is in it.
        reason: String,
        /// The cure, where there is one.
        hint: Option<Hint>,
    },
    /// More than a file of weights needs.
    #[error("beyond what a file of weights needs: {0}")]
    Limit(String),
    /// The bytes cannot be had.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

impl CheckpointError {
    /// The cure, where it is known.
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

/// A sound file that is read after Python saved it again.
pub(crate) fn unsupported(reason: impl Into<String>, cure: SaveAs) -> CheckpointError {
    CheckpointError::Unsupported {
        reason: reason.into(),
        hint: Some(Hint::SaveAgain(cure)),
    }
}

/// A sound file that no saving would help.
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

/// The start of a text that a file may make as long as it likes.
pub(crate) fn cut(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
