//! Text files, plain or compressed by gzip, bzip2 or zstd, from any byte on; recognized by their first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::Error;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Opens a file and skips its first `from` decompressed bytes: by seeking in a plain file, by reading in a
/// compressed one.
pub(crate) fn open(path: &Path, from: u64) -> Result<Box<dyn BufRead + Send>, Error> {
    let read = |error| Error::io("read", path)(error);
    let mut file = File::open(path).map_err(read)?;
    let mut magic = [0; 4];
    let mut length = 0;
    while length < magic.len() {
        match file.read(&mut magic[length..]).map_err(read)? {
            0 => break,
            more => length += more,
        }
    }
    file.rewind().map_err(read)?;
    // Dumps are often made in parallel, as many compressed streams end to end: all of them are read.
    let mut reader: Box<dyn BufRead + Send> = match &magic[..length] {
        [0x1f, 0x8b, ..] => buffered(flate2::read::MultiGzDecoder::new(buffered_file(file))),
        [b'B', b'Z', b'h', ..] => buffered(bzip2::read::MultiBzDecoder::new(buffered_file(file))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            buffered(zstd::stream::read::Decoder::with_buffer(buffered_file(file)).map_err(read)?)
        }
        _ => {
            file.seek(SeekFrom::Start(from)).map_err(read)?;
            return Ok(Box::new(buffered_file(file)));
        }
    };
    let skipped = std::io::copy(&mut reader.by_ref().take(from), &mut std::io::sink()).map_err(read)?;
    if skipped < from {
        return Err(Error::source(
            path,
            format!("ends after {skipped} bytes; {from} were read before"),
        ));
    }
    Ok(reader)
}

fn buffered_file(file: File) -> BufReader<File> {
    BufReader::with_capacity(BUFFER_BYTES, file)
}

fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))
}

/// Reads the next line into `line`, without its end; at most `most` bytes of it are kept. Returns the bytes
/// consumed (0 at the end of the file), and whether the line was longer than `most`.
pub(crate) fn next_line(
    reader: &mut dyn BufRead,
    line: &mut Vec<u8>,
    most: usize,
) -> std::io::Result<(u64, bool)> {
    line.clear();
    let (mut taken, mut long) = (0u64, false);
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok((taken, long));
        }
        let end = memchr(chunk);
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = most - line.len();
        long |= part.len() > room;
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        taken += used as u64;
        if end.is_some() {
            return Ok((taken, long));
        }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_compression_reads_the_same_from_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..20_000).map(|row| format!("row {row}\n")).collect();
        let (first, second) = text.as_bytes().split_at(70_000);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("plain"), &text).unwrap();
        let mut gz = Vec::new();
        let mut bz = Vec::new();
        let mut zst = Vec::new();
        for part in [first, second] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            gz.extend(encoder.finish().unwrap());
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(part).unwrap();
            bz.extend(encoder.finish().unwrap());
            zst.extend(zstd::stream::encode_all(part, 1).unwrap());
        }
        std::fs::write(path("gz"), gz).unwrap();
        std::fs::write(path("bz2"), bz).unwrap();
        std::fs::write(path("zst"), zst).unwrap();
        for name in ["plain", "gz", "bz2", "zst"] {
            for from in [0, 1, 69_999, 123_456] {
                let mut found = String::new();
                open(&path(name), from)
                    .unwrap()
                    .read_to_string(&mut found)
                    .unwrap();
                assert_eq!(found, text[from as usize..], "{name} from {from}");
            }
        }
        assert!(open(&path("gz"), 1 << 40).is_err());
    }

    #[test]
    fn long_lines_take_no_memory() {
        let mut line = Vec::new();
        let mut reader = std::io::Cursor::new(b"abcdefgh\nxy\n\nlast".to_vec());
        let mut next = || {
            let found = next_line(&mut reader, &mut line, 4).unwrap();
            (found, String::from_utf8(line.clone()).unwrap())
        };
        assert_eq!(next(), ((9, true), "abcd".into()));
        assert_eq!(next(), ((3, false), "xy".into()));
        assert_eq!(next(), ((1, false), String::new()));
        assert_eq!(next(), ((4, false), "last".into()));
        assert_eq!(next(), ((0, false), String::new()));
    }
}
