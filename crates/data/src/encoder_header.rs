//! The header of an encoder file: its record of the data that the encoder was trained on.
//!
//! An encoder file is a safetensors file whose metadata hold one JSON text that describes the encoder. This
//! module has its key and the part about data, because crates without networks read them too; the crate
//! `weights` reads and writes the rest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use crate::licenses::Licenses;

/// The key of a safetensors file's metadata under which an encoder describes itself.
pub const ENCODER_KEY: &str = "passer";

/// Longest header that is read, bytes: that of a ViT-H is below 100 kB.
const LONGEST: u64 = 64 << 20;

/// The data that an encoder was trained on, from its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EncoderHeader {
    /// Fingerprint of the data set; empty if there was none.
    #[serde(default)]
    pub fingerprint: String,
    /// Licenses of its photos; empty where the file does not state them.
    #[serde(default, rename = "licences")]
    pub licenses: Licenses,
}

impl EncoderHeader {
    /// Reads the header of a file; `None` for a file that is damaged or is not a Passer encoder.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut text = Vec::new();
        let mut length = [0; 8];
        match (&file).read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u64::from_le_bytes(length);
        if length > LONGEST {
            return Ok(None);
        }
        file.take(length).read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    fn parse(header: &[u8]) -> Option<Self> {
        let header: serde_json::Value = serde_json::from_slice(header).ok()?;
        let about = header.get("__metadata__")?.get(ENCODER_KEY)?.as_str()?;
        serde_json::from_str(about).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<EncoderHeader> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        std::fs::write(&path, bytes).unwrap();
        EncoderHeader::read(&path).unwrap()
    }

    #[test]
    fn fingerprint_and_licenses_are_read_of_every_version() {
        let of = |about: &str| {
            let about = serde_json::to_string(about).unwrap();
            read(&file(&format!(r#"{{"__metadata__":{{"passer":{about}}}}}"#)))
        };
        for licenses in ["", r#","licences":"""#, r#","licences":[]"#] {
            let header = of(&format!(
                r#"{{"method":"moco_v2","fingerprint":"00ff"{licenses}}}"#
            ))
            .unwrap();
            assert_eq!(header.fingerprint, "00ff");
            assert!(header.licenses.is_empty(), "{licenses}");
        }
        let header = of(r#"{"licences":"MIT: 4; not stated: 1"}"#).unwrap();
        assert_eq!(header.licenses.counts(), [("MIT", 4), ("not stated", 1)]);
    }

    #[test]
    fn other_files_have_no_header() {
        let lies = u64::MAX.to_le_bytes();
        for bytes in [
            &b""[..],
            b"PK\x03\x04",
            &lies,
            &file("{}"),
            &file("["),
            &file(r#"{"__metadata__":{"passer":"no JSON"}}"#),
        ] {
            assert_eq!(read(bytes), None);
        }
    }
}
