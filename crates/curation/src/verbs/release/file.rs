//! The file of a photo as a release holds it: the source's, without the metadata that the config removes.

use std::borrow::Cow;

use crate::embedded::{self, FileMetadata, Kinds};
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Content, sha256};

/// The file of a photo in a release.
pub(super) struct ReleasedFile {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: Content,
    /// SHA-256 of the source's file, where that is another one.
    pub(super) original: Option<Content>,
    /// The kinds of metadata that were removed or, where all stay, that it holds.
    pub(super) embedded: Kinds,
    /// Whether all that decoders show of it is known to be what they show of the source's file.
    pub(super) is_compared: bool,
    /// The pictures in it: 1, or the frames of an animation.
    pub(super) frames: usize,
}

impl ReleasedFile {
    /// Removes metadata from the file of the photo `key`, whose SHA-256 is `content`.
    ///
    /// # Errors
    /// A file whose metadata cannot be told from its pixels, or whose pixels would change.
    pub(super) fn new(
        key: &str,
        source: Vec<u8>,
        content: Content,
        metadata: FileMetadata,
    ) -> Result<ReleasedFile, Error> {
        let frames = data::frames(&source);
        if metadata == FileMetadata::Keep {
            return Ok(ReleasedFile {
                embedded: embedded::scan(&source).unwrap_or(Kinds::UNREADABLE),
                bytes: source,
                sha256: content,
                original: None,
                is_compared: true,
                frames,
            });
        }
        let refused = |reason: String| Error::Release {
            reason: format!("private metadata cannot be removed from photo `{key}`: {reason}"),
            hint: Some(Hint::KeepMetadata { key: key.to_string() }),
        };
        let stripped = embedded::strip(&source, metadata).map_err(|error| refused(error.to_string()))?;
        let (embedded, is_compared) = (stripped.removed, stripped.is_compared);
        let file = match stripped.file {
            Cow::Borrowed(_) => None,
            Cow::Owned(bytes) => Some(bytes),
        };
        let Some(bytes) = file else {
            return Ok(ReleasedFile {
                bytes: source,
                sha256: content,
                original: None,
                embedded,
                is_compared: true,
                frames,
            });
        };
        // The rewriter is the only thing between a place and its publication, so its work is checked.
        let left = embedded::scan(&bytes).map_err(|error| refused(error.to_string()))?;
        if !left.is_empty() {
            let left: Vec<&str> = left.names().map(|(kind, _)| kind).collect();
            return Err(refused(format!("{} would be left", left.join(", "))));
        }
        Ok(ReleasedFile {
            sha256: sha256(&bytes),
            bytes,
            original: Some(content),
            embedded,
            is_compared,
            frames,
        })
    }
}
