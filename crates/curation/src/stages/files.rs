//! Files of photos as stages receive them: read, hashed and let through by the ledger's gate.

use crate::error::Error;
use crate::ledger::{Content, Decision, Gate, Refusal, TAKEN_DOWN, sha256};
use crate::photo::Photo;
use crate::photos::Photos;

/// Reads the files of a batch of photos; from any thread.
pub(crate) struct Files<'a> {
    pub(super) photos: &'a Photos,
    pub(super) gate: Gate,
}

/// A file that the gate lets through.
pub(crate) struct File {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Their SHA-256.
    pub(crate) content: Content,
}

impl Files<'_> {
    /// The file of a photo, or a decision where no stage can use it: it cannot be read, its bytes were taken
    /// down under any key, or they differ from those that an earlier stage saw.
    pub(crate) fn read(&self, photo: &Photo) -> Result<File, Decision> {
        let bytes = self.photos.read(photo).map_err(|error| {
            let is_too_large = |source: &std::io::Error| source.kind() == std::io::ErrorKind::FileTooLarge;
            let reason = match &error {
                Error::Io { source, .. } if is_too_large(source) => "too_large",
                _ => "unreadable",
            };
            Decision::dropped(photo.id, reason).detail(data::with_causes(&error))
        })?;
        let content = sha256(&bytes);
        match self.gate.check(photo.id, &content) {
            Ok(()) => Ok(File { bytes, content }),
            Err(Refusal::TakenDown) => Err(Decision::dropped(photo.id, TAKEN_DOWN).of_file(content)),
            Err(Refusal::Changed) => Err(Decision::dropped(photo.id, "file_changed")
                .of_file(content)
                .detail("the file changed since an earlier stage looked at it")),
        }
    }
}

/// The decision on a photo whose work panicked: a defect of the program, which must not end a run over millions
/// of photos.
pub(crate) fn panicked(photo: i64, message: String) -> Decision {
    let error = data::DecodeError::Panicked { message };
    Decision::dropped(photo, decode_reason(&error)).detail(error.to_string())
}

/// The ledger's reason code for a file that does not decode.
pub(crate) fn decode_reason(error: &data::DecodeError) -> &'static str {
    match error {
        data::DecodeError::Empty => "empty_file",
        data::DecodeError::Format { .. } => "not_an_image",
        data::DecodeError::TooLarge { .. } => "too_large",
        data::DecodeError::Truncated { .. } => "truncated",
        data::DecodeError::Panicked { .. } => "panicked",
        _ => "broken_image",
    }
}
