//! The later frames of an animated PNG: a stripped file comes in, the file without data behind the last row of a frame
//! goes out.

use super::bytes::slice;
use super::idat::{self, Rows};
use super::png_chunk::{Chunk, chunk, chunk_at};

/// Bytes of a chunk's number in the order of frames, before its data.
const NUMBER: usize = 4;

/// The file with frames that end behind their last row, their chunks numbered anew; `None` where all do.
pub(super) fn cut(file: &[u8]) -> Option<Vec<u8>> {
    let (chunks, end) = chunks(file);
    let header = chunks.first().filter(|chunk| chunk.name == b"IHDR")?.data;
    let mut out = file.get(..8)?.to_vec();
    let (mut number, mut is_changed, mut at) = (0u32, false, 0);
    // Sides of the frame that the next chunks belong to.
    let mut sides = header.get(..8)?;
    while let Some(next) = chunks.get(at) {
        at += 1;
        match next.name {
            b"fcTL" => {
                sides = slice(next.data, NUMBER, 8).unwrap_or(sides);
                numbered(
                    &mut out,
                    b"fcTL",
                    &mut number,
                    next.data.get(NUMBER..).unwrap_or_default(),
                );
            }
            b"fdAT" => {
                let run = chunks
                    .iter()
                    .skip(at - 1)
                    .take_while(|chunk| chunk.name == b"fdAT");
                let run: Vec<&[u8]> = run
                    .map(|chunk| chunk.data.get(NUMBER..).unwrap_or_default())
                    .collect();
                at += run.len() - 1;
                let header = [sides, header.get(8..)?].concat();
                let stream = match idat::rows(&header, &run) {
                    Rows::Alone => None,
                    Rows::Followed(length) => Some(run.concat().into_iter().take(length).collect()),
                    Rows::Longer(rows) => Some(rows),
                };
                is_changed |= stream.is_some();
                match stream {
                    Some(stream) => numbered(&mut out, b"fdAT", &mut number, &stream),
                    None => run
                        .iter()
                        .for_each(|data| numbered(&mut out, b"fdAT", &mut number, data)),
                }
            }
            _ => out.extend(next.whole),
        }
    }
    out.extend(file.get(end..).unwrap_or_default());
    is_changed.then_some(out)
}

/// The whole chunks of a file, and where they end.
fn chunks(file: &[u8]) -> (Vec<Chunk<'_>>, usize) {
    let (mut chunks, mut at) = (Vec::new(), 8);
    while let Some(chunk) = chunk_at(file, at) {
        at += chunk.whole.len();
        chunks.push(chunk);
    }
    (chunks, at)
}

fn numbered(out: &mut Vec<u8>, name: &[u8; 4], number: &mut u32, data: &[u8]) {
    chunk(out, name, &[&number.to_be_bytes()[..], data].concat());
    *number = number.wrapping_add(1);
}
