//! The table of contents of a zip archive with uncompressed members, the only kind that PyTorch writes.
//!
//! A compressed member could claim any size and would need a codec. Reading one is an error here, so a member
//! is a range of the file and nothing is ever decompressed. Format: PKWARE, *.ZIP File Format Specification*
//! 6.3.10, §4.3 and §4.5.3 (zip64).

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use super::checkpoint::Extent;
use super::error::{CheckpointError, damaged, unsupported};
use crate::hint::SaveAs;

/// Longest table of contents: a million members of 64 bytes.
const MAX_TABLE: u64 = 64 << 20;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

/// Reason for a compressed member.
const COMPRESSED: &str = "a member of its zip archive is compressed or encrypted, which PyTorch does not do";

/// The extent of each member.
#[derive(Debug)]
pub(super) struct Archive {
    /// `None` for a compressed member.
    members: HashMap<String, Option<Extent>>,
}

impl Archive {
    /// Reads the table of contents and the head of every member.
    pub(super) fn open<R: Read + Seek>(source: &mut R, length: u64) -> Result<Self, CheckpointError> {
        let (start, bytes, count) = table(source, length)?;
        if bytes > MAX_TABLE {
            return Err(CheckpointError::Limit(format!(
                "its zip archive lists {bytes} bytes of members"
            )));
        }
        let listed = read(source, start, bytes)?;
        let mut rest = Fields(&listed);
        let mut members = HashMap::new();
        for _ in 0..count {
            let (name, extent) = member(&mut rest)?;
            let extent = extent.map(|extent| located(source, length, extent)).transpose()?;
            if members.insert(name, extent).is_some() {
                return Err(damaged("two members of its zip archive have one name"));
            }
        }
        Ok(Self { members })
    }

    /// The members' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// The extent of a member's bytes.
    pub(super) fn member(&self, name: &str) -> Result<Extent, CheckpointError> {
        match self.members.get(name) {
            Some(Some(extent)) => Ok(extent.clone()),
            Some(None) => Err(unsupported(COMPRESSED, SaveAs::Default)),
            None => Err(damaged(format!(
                "its zip archive lacks `{}`",
                name.escape_default()
            ))),
        }
    }

    /// Whether such a member exists, readable or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }
}

/// Start, bytes and number of members of the central directory.
fn table<R: Read + Seek>(source: &mut R, length: u64) -> Result<(u64, u64, u64), CheckpointError> {
    const END_BYTES: u64 = 22;
    const LONGEST_COMMENT: u64 = u16::MAX as u64;
    // The end record is last in the file, followed only by its own comment.
    let tail_start = length.saturating_sub(END_BYTES + LONGEST_COMMENT);
    let tail = read(source, tail_start, length - tail_start)?;
    let ends = (0..tail.len().saturating_sub(END_BYTES as usize - 1)).rev();
    let end = ends.into_iter().find(|&at| {
        let mut end = Fields(&tail[at..]);
        end.u32().ok() == Some(END) && {
            let comment = u16::from_le_bytes([tail[at + 20], tail[at + 21]]);
            at + END_BYTES as usize + usize::from(comment) == tail.len()
        }
    });
    let end = end.ok_or_else(|| damaged("its zip archive does not end properly: it was cut short"))?;
    let mut fields = Fields(&tail[end + 4..]);
    fields.skip(4)?;
    fields.skip(2)?;
    let count = fields.u16()?;
    let (bytes, start) = (fields.u32()?, fields.u32()?);
    let end_start = tail_start + end as u64;
    let (start, bytes, count) = if count == u16::MAX || bytes == u32::MAX || start == u32::MAX {
        table_64(source, end_start)?
    } else {
        (u64::from(start), u64::from(bytes), u64::from(count))
    };
    if start.checked_add(bytes).is_none_or(|end| end > end_start) {
        return Err(damaged("the table of its zip archive lies outside the file"));
    }
    Ok((start, bytes, count))
}

/// The same for archives beyond 4 GiB or 65,534 members.
fn table_64<R: Read + Seek>(source: &mut R, end_start: u64) -> Result<(u64, u64, u64), CheckpointError> {
    const LOCATOR_BYTES: u64 = 20;
    const END_64_BYTES: u64 = 56;
    let wrong = || damaged("the table of its large zip archive cannot be found");
    let locator = read(
        source,
        end_start.checked_sub(LOCATOR_BYTES).ok_or_else(wrong)?,
        LOCATOR_BYTES,
    )?;
    let mut locator = Fields(&locator);
    if locator.u32()? != LOCATOR_64 {
        return Err(wrong());
    }
    locator.skip(4)?;
    let end = locator.u64()?;
    if end.checked_add(END_64_BYTES).is_none_or(|end| end > end_start) {
        return Err(wrong());
    }
    let end = read(source, end, END_64_BYTES)?;
    let mut end = Fields(&end);
    if end.u32()? != END_64 {
        return Err(wrong());
    }
    end.skip(28)?;
    let count = end.u64()?;
    let (bytes, start) = (end.u64()?, end.u64()?);
    Ok((start, bytes, count))
}

/// One member of the table: its name, and the offset of its local header (for now as `start`).
fn member(table: &mut Fields<'_>) -> Result<(String, Option<Extent>), CheckpointError> {
    if table.u32()? != CENTRAL {
        return Err(damaged("the table of its zip archive is broken"));
    }
    table.skip(4)?;
    let flags = table.u16()?;
    let method = table.u16()?;
    table.skip(4)?;
    let crc = table.u32()?;
    let (packed, size) = (table.u32()?, table.u32()?);
    let (name, extra, comment) = (table.u16()?, table.u16()?, table.u16()?);
    table.skip(8)?;
    let start = table.u32()?;
    let name = table.take(usize::from(name))?;
    let name =
        String::from_utf8(name.to_vec()).map_err(|_| damaged("a name in its zip archive is not UTF-8"))?;
    let mut extra = Fields(table.take(usize::from(extra))?);
    table.skip(usize::from(comment))?;

    let (mut packed, mut size, mut start) = (u64::from(packed), u64::from(size), u64::from(start));
    while extra.0.len() >= 4 {
        let (kind, bytes) = (extra.u16()?, extra.u16()?);
        let mut field = Fields(extra.take(usize::from(bytes))?);
        if kind == 1 {
            // The long form of values that do not fit, in this order.
            for value in [&mut size, &mut packed, &mut start] {
                if *value == u64::from(u32::MAX) {
                    *value = field.u64()?;
                }
            }
        }
    }
    const ENCRYPTED: u16 = 1;
    if method != 0 || packed != size || flags & ENCRYPTED != 0 {
        return Ok((name, None));
    }
    let extent = Extent {
        start,
        bytes: size,
        // PyTorch writes 0 where it computes none.
        crc: (crc != 0).then_some(crc),
    };
    Ok((name, Some(extent)))
}

/// The extent of the member's bytes, after its local header.
fn located<R: Read + Seek>(source: &mut R, length: u64, header: Extent) -> Result<Extent, CheckpointError> {
    const LOCAL_BYTES: u64 = 30;
    let wrong = || damaged("a member of its zip archive lies outside the file");
    if header
        .start
        .checked_add(LOCAL_BYTES)
        .is_none_or(|end| end > length)
    {
        return Err(wrong());
    }
    let local = read(source, header.start, LOCAL_BYTES)?;
    let mut fields = Fields(&local);
    if fields.u32()? != LOCAL {
        return Err(damaged("a member of its zip archive is not where its table says"));
    }
    fields.skip(22)?;
    let (name, extra) = (fields.u16()?, fields.u16()?);
    let start = header.start + LOCAL_BYTES + u64::from(name) + u64::from(extra);
    if start.checked_add(header.bytes).is_none_or(|end| end > length) {
        return Err(wrong());
    }
    Ok(Extent { start, ..header })
}

/// `bytes` bytes from `start` on; the caller knows that the file has them.
fn read<R: Read + Seek>(source: &mut R, start: u64, bytes: u64) -> Result<Vec<u8>, CheckpointError> {
    source.seek(SeekFrom::Start(start))?;
    let mut found = vec![];
    source.take(bytes).read_to_end(&mut found)?;
    if found.len() as u64 != bytes {
        return Err(damaged("its zip archive ends early"));
    }
    Ok(found)
}

/// Little-endian fields in a row.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| damaged("the table of its zip archive ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn skip(&mut self, count: usize) -> Result<(), CheckpointError> {
        self.take(count).map(|_| ())
    }

    fn u16(&mut self) -> Result<u16, CheckpointError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }
}
