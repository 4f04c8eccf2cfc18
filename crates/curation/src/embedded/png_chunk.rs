//! A chunk of a PNG, read and written: a name, data, and around them a length and a checksum.

use flate2::Crc;

use super::bytes::{be32, slice};

/// A whole chunk of a file.
pub(super) struct Chunk<'a> {
    pub(super) name: &'a [u8],
    pub(super) data: &'a [u8],
    /// The checksum that the file states.
    pub(super) sum: u32,
    /// All of its bytes.
    pub(super) whole: &'a [u8],
}

/// The chunk that begins at this byte; `None` if the file ends within it.
pub(super) fn chunk_at(file: &[u8], at: usize) -> Option<Chunk<'_>> {
    let length = be32(file, at)? as usize;
    let whole = slice(file, at, length.checked_add(12)?)?;
    Some(Chunk {
        name: slice(whole, 4, 4)?,
        data: slice(whole, 8, length)?,
        sum: be32(whole, 8 + length)?,
        whole,
    })
}

/// The checksum of a chunk.
pub(super) fn crc(name: &[u8], data: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(name);
    crc.update(data);
    crc.sum()
}

/// Writes a chunk.
pub(super) fn chunk(out: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(name);
    out.extend(data);
    out.extend(crc(name, data).to_be_bytes());
}
