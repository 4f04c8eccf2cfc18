//! A chunk of a PNG: name and data come in, its bytes with length and checksum go out.

use flate2::Crc;

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
