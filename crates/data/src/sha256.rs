//! SHA-256 of files and streams of any length, in constant memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::file_error::FileError;
use crate::hex::hex;

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The SHA-256 of some bytes, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Sum {
    /// The hash.
    pub digest: [u8; 32],
    /// Length of the hashed bytes.
    pub bytes: u64,
}

impl Sha256Sum {
    /// The hash as 64 lowercase hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.digest)
    }
}

/// Hashes a stream from its current position to its end.
///
/// # Errors
/// Those of the reader.
pub fn sha256_of(mut reader: impl Read) -> io::Result<Sha256Sum> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Sha256Sum {
        digest: hasher.finalize().into(),
        bytes,
    })
}

/// Hashes a whole file.
///
/// # Errors
/// [`FileError`] where it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<Sha256Sum, FileError> {
    File::open(path)
        .and_then(sha256_of)
        .map_err(FileError::new("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_streams_hash_alike() {
        // FIPS 180-4's example of one block, and a text longer than one read.
        let abc = sha256_of(&b"abc"[..]).unwrap();
        assert_eq!(
            abc.hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(abc.bytes, 3);
        let long = vec![7; PIECE_BYTES * 2 + 5];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        std::fs::write(&path, &long).unwrap();
        let of_file = sha256_of_file(&path).unwrap();
        assert_eq!(of_file, sha256_of(&long[..]).unwrap());
        assert_eq!(of_file.digest, <[u8; 32]>::from(Sha256::digest(&long)));
        assert_eq!(of_file.bytes, long.len() as u64);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = sha256_of_file(Path::new("/no/such/weights.pth")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read `/no/such/weights.pth`: "),
            "{error}"
        );
    }
}
