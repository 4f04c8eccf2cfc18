//! Features to and from a safetensors file, readable from Python with `safetensors.numpy.load_file`.
//!
//! | tensor | type and shape | |
//! |---|---|---|
//! | each tap (`pooled`) | f32 or f16 `[records, width]` | |
//! | `labels` | i64 `[records]`, or u8 `[records, classes]` of 0, 1 and 2 (undecided) | absent if unlabeled |
//! | `keys` | u8 `[bytes]` | all keys, UTF-8, one after the other |
//! | `key_offsets` | i64 `[records + 1]` | key `i` is `keys[key_offsets[i]..key_offsets[i + 1]]` |
//! | `pixel_hashes` | u64 `[records]` | XXH64 of the 8-bit pixels that the encoder saw, `[3, height, width]`; absent in files of earlier versions |
//!
//! The metadata has one entry, `passer_features`: a JSON object with the version of this layout, the origin,
//! the class names, the number of skipped records, what became no record, how many records the encoder's pretraining held
//! and, in a slice, which one it is. It is a single entry because the format keeps entries in no order, and two runs should write the same bytes.
//!
//! Rows are read and written in pieces: safetensors' own functions need a whole file, or a whole tensor, in
//! memory. This file knows one file; `stored.rs` reads whole features, which may be many slices.

use super::matrix::{Features, Labels, Origin, SeenInPretraining};
use super::slice::Slice;
use super::work::Work;
use crate::error::Error;
use data::durable::Writer;
use data::{FileError, Listing, sha256_of};
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub(super) const METADATA_KEY: &str = "passer_features";
const VERSION: u32 = 1;
pub(super) const LABELS: &str = "labels";
pub(super) const KEYS: &str = "keys";
const KEY_OFFSETS: &str = "key_offsets";
const PIXEL_HASHES: &str = "pixel_hashes";
/// Tensors that are no taps.
const NO_TAPS: [&str; 4] = [LABELS, KEYS, KEY_OFFSETS, PIXEL_HASHES];
/// The longest table of contents that the format allows, bytes.
const LARGEST_TABLE: u64 = 100_000_000;
/// Values converted at a time.
const PIECE: usize = 1 << 16;

/// What the metadata say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    version: u32,
    pub(super) origin: Origin,
    pub(super) class_names: Vec<String>,
    pub(super) bad_records: usize,
    /// Absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Listing::is_empty")]
    pub(super) listing: Listing,
    /// Absent where nothing is known, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<SeenInPretraining>,
    /// Absent where the file holds all records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slice: Option<Cut>,
}

/// The place of a slice in its data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cut {
    pub(super) number: usize,
    pub(super) count: usize,
    /// Slices end on batch boundaries.
    pub(super) batch_images: usize,
    /// Records of the whole data set.
    pub(super) records: usize,
}

impl Cut {
    /// The place of this work's slice.
    pub(super) fn of(work: &Work) -> Option<Self> {
        work.slice.map(|slice| Self {
            number: slice.number(),
            count: slice.count(),
            batch_images: work.batch_images,
            records: work.records,
        })
    }

    /// The slice; `None` if the numbers are impossible.
    pub(super) fn slice(&self) -> Option<Slice> {
        let slice = Slice::new(self.number, self.count).ok()?;
        (self.batch_images > 0 && self.count <= self.records.div_ceil(self.batch_images)).then_some(slice)
    }
}

/// One tensor to write.
pub(crate) struct TensorPart<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes<'a>,
}

/// Source of a tensor's bytes.
pub(crate) enum Bytes<'a> {
    Memory(&'a [u8]),
    File(&'a Path),
}

impl Features {
    /// Writes a temporary file next to `path` and renames it, so that readers never see a partial file.
    ///
    /// # Errors
    /// [`Error::FeaturesFile`] if rows, keys and labels differ in number, and write errors.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let rows = (self.taps.iter()).map(|(tap, matrix)| TensorPart {
            name: tap,
            dtype: Dtype::F32,
            shape: vec![matrix.rows, matrix.width],
            bytes: Bytes::Memory(bytemuck::cast_slice(&matrix.values)),
        });
        self.save_with(path, rows.collect(), None)
    }

    /// The same with rows from another source, and for a slice.
    pub(crate) fn save_with(
        &self,
        path: &Path,
        rows: Vec<TensorPart<'_>>,
        slice: Option<Cut>,
    ) -> Result<(), Error> {
        let reject = |reason: String| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        };
        let records = self.records();
        for part in &rows {
            if NO_TAPS.contains(&part.name) {
                return Err(reject(format!("a tap cannot be called `{}`", part.name)));
            }
            if part.shape[0] != records {
                return Err(reject(format!(
                    "tap `{}` has {} rows, but there are {records} keys",
                    part.name, part.shape[0]
                )));
            }
        }

        let labels = match &self.labels {
            Some(Labels::Classes(classes)) => classes.len(),
            // Sets that are all empty have no column to count.
            Some(Labels::Sets { classes: 0, .. }) | None => records,
            Some(Labels::Sets { classes, multi_hot }) => multi_hot.len() / classes,
        };
        if labels != records {
            return Err(reject(format!("{labels} labels, but there are {records} keys")));
        }

        let keys = self.keys.concat();
        let mut key_offsets = vec![0i64];
        key_offsets.extend(self.keys.iter().scan(0, |end, key| {
            *end += key.len() as i64;
            Some(*end)
        }));

        let memory = |name, dtype, shape, bytes| TensorPart {
            name,
            dtype,
            shape,
            bytes: Bytes::Memory(bytes),
        };
        let mut parts = rows;
        parts.push(memory(KEYS, Dtype::U8, vec![keys.len()], keys.as_bytes()));
        let offsets = bytemuck::cast_slice(&key_offsets);
        parts.push(memory(KEY_OFFSETS, Dtype::I64, vec![records + 1], offsets));
        if let Some(hashes) = &self.pixel_hashes {
            if hashes.len() != records {
                let hashes = hashes.len();
                return Err(reject(format!(
                    "{hashes} hashes of pixels, but there are {records} keys"
                )));
            }
            let bytes = bytemuck::cast_slice(hashes);
            parts.push(memory(PIXEL_HASHES, Dtype::U64, vec![records], bytes));
        }
        match &self.labels {
            Some(Labels::Classes(classes)) => {
                let bytes = bytemuck::cast_slice(classes);
                parts.push(memory(LABELS, Dtype::I64, vec![records], bytes));
            }
            Some(Labels::Sets { classes, multi_hot }) => {
                parts.push(memory(LABELS, Dtype::U8, vec![records, *classes], multi_hot));
            }
            None => {}
        }
        let header = Header {
            version: VERSION,
            origin: self.origin.clone(),
            class_names: self.class_names.clone(),
            bad_records: self.bad_records,
            listing: self.listing.clone(),
            seen: self.seen.clone(),
            slice,
        };
        let header = serde_json::to_string(&header).map_err(|error| reject(error.to_string()))?;
        write(path, parts, header)
    }
}

/// A features file whose table of contents has been read. The file itself is opened for each reading, because a folder may
/// hold more slices than a process may have open files.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) path: PathBuf,
    table: Metadata,
    /// Offset of the first tensor, bytes.
    start: u64,
    pub(super) header: Header,
}

impl Contents {
    /// Reads the table of contents and compares it with the file's length.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Self::read_table(path, parse_header)
    }

    /// Opens a file that another program may have written. If it lacks this program's metadata, its encoder
    /// has no name, and the SHA-256 of the file identifies its records.
    pub(super) fn of_anyone(path: &Path) -> Result<Self, Error> {
        let mut contents = Self::read_table(path, |header| match header {
            Some(_) => parse_header(header),
            None => Ok(Header {
                version: VERSION,
                origin: Origin::default(),
                class_names: vec![],
                bad_records: 0,
                listing: Listing::default(),
                seen: None,
                slice: None,
            }),
        })?;
        if contents.header.origin == Origin::default() {
            contents.header.origin = Origin {
                encoder_name: "an encoder without a name".into(),
                fingerprint: contents.sha256()?,
                ..Origin::default()
            };
        }
        Ok(contents)
    }

    fn sha256(&self) -> Result<String, Error> {
        let sum = File::open(&self.path).and_then(|mut file| sha256_of(&mut file));
        Ok(sum.map_err(FileError::new("read", &self.path))?.hex())
    }

    fn read_table(
        path: &Path,
        header: impl FnOnce(Option<&str>) -> Result<Header, String>,
    ) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(FileError::new("read", path))?;
        let length = file.metadata().map_err(FileError::new("read", path))?.len();
        let reject = |reason: String| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        };
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)
            .map_err(|_| reject("it is too short".into()))?;
        let table_bytes = u64::from_le_bytes(bytes);
        if table_bytes > LARGEST_TABLE {
            return Err(reject("it is no safetensors file".into()));
        }
        let mut table = vec![];
        (&mut file)
            .take(table_bytes)
            .read_to_end(&mut table)
            .map_err(FileError::new("read", path))?;
        if (table.len() as u64) < table_bytes {
            return Err(reject(
                "it ends inside its table of contents: it was cut off".into(),
            ));
        }
        let table: Metadata = serde_json::from_slice(&table).map_err(|error| reject(error.to_string()))?;
        let metadata = table.metadata().as_ref();
        if metadata.is_some_and(|all| all.contains_key(data::ENCODER_KEY)) {
            return Err(reject("it is an encoder".into()));
        }
        let metadata = metadata.and_then(|all| all.get(METADATA_KEY));
        let header = header(metadata.map(String::as_str)).map_err(reject)?;
        let start = 8 + table_bytes;
        if start.checked_add(table.data_len() as u64) != Some(length) {
            return Err(reject(format!(
                "it has {length} bytes, expected {start} and {} of tensors",
                table.data_len()
            )));
        }
        if header.slice.is_some_and(|cut| cut.slice().is_none()) {
            return Err(reject(format!("`{METADATA_KEY}`: there is no such slice")));
        }
        Ok(Self {
            path: path.to_path_buf(),
            table,
            start,
            header,
        })
    }

    /// The slice that it holds, if it is one.
    pub(super) fn slice(&self) -> Option<Slice> {
        self.header.slice?.slice()
    }

    /// Names of the taps in it.
    pub(super) fn taps(&self) -> Vec<String> {
        let names = self.table.offset_keys().into_iter();
        names.filter(|name| !NO_TAPS.contains(&name.as_str())).collect()
    }

    /// Whether another program wrote it.
    fn is_foreign(&self) -> bool {
        self.header.origin.encoder.is_empty()
    }

    /// Whether it has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.info(name).is_some()
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Result<(Dtype, Vec<usize>), Error> {
        let info = self.table.info(name);
        info.map(|info| (info.dtype, info.shape.clone()))
            .ok_or_else(|| self.reject(format!("tensor `{name}` is missing")))
    }

    /// The error that the file is no complete features file.
    pub(super) fn reject(&self, reason: String) -> Error {
        Error::FeaturesFile {
            path: self.path.clone(),
            reason,
        }
    }

    /// The number of records by their keys, without reading them.
    pub(super) fn rows_of_keys(&self) -> Result<usize, Error> {
        let (_, shape) = self.info(KEY_OFFSETS)?;
        Ok(shape.first().map_or(0, |offsets| offsets.saturating_sub(1)))
    }

    /// The records' keys. Those of another program may be missing; they are then numbered like the rows of `taps`.
    pub(super) fn keys(&self, taps: &[String]) -> Result<Vec<String>, Error> {
        if self.is_foreign() && !self.has(KEYS) {
            let rows = taps.first().map(|tap| self.info(tap)).transpose()?;
            let rows = rows.and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
            return Ok((0..rows).map(|row| row.to_string()).collect());
        }
        let offsets = match self.info(KEY_OFFSETS)? {
            (Dtype::I64, _) => self.numbers::<i64>(KEY_OFFSETS)?,
            (dtype, _) => {
                return Err(self.reject(format!("`{KEY_OFFSETS}` is {dtype:?}, expected I64")));
            }
        };
        match self.info(KEYS)? {
            (Dtype::U8, _) => {
                read_keys(&self.numbers::<u8>(KEYS)?, &offsets).map_err(|reason| self.reject(reason))
            }
            (dtype, _) => Err(self.reject(format!("`{KEYS}` is {dtype:?}, expected U8"))),
        }
    }

    /// The hash of each of `records` images' pixels, if the file holds them.
    pub(super) fn pixel_hashes(&self, records: usize) -> Result<Option<Vec<u64>>, Error> {
        if !self.has(PIXEL_HASHES) {
            return Ok(None);
        }
        match self.info(PIXEL_HASHES)? {
            (Dtype::U64, shape) if shape == [records] => Ok(Some(self.numbers(PIXEL_HASHES)?)),
            // A tensor of another program that has this name by chance.
            _ if self.is_foreign() => Ok(None),
            (dtype, shape) => Err(self.reject(format!(
                "`{PIXEL_HASHES}` is {dtype:?} {shape:?}, expected U64 [{records}]"
            ))),
        }
    }

    /// All numbers of a tensor of this type.
    pub(super) fn numbers<T: bytemuck::Pod>(&self, name: &str) -> Result<Vec<T>, Error> {
        let (mut file, bytes) = self.at(name)?;
        let mut numbers = vec![T::zeroed(); bytes / size_of::<T>()];
        file.read_exact(bytemuck::cast_slice_mut(&mut numbers))
            .map_err(FileError::new("read", &self.path))?;
        Ok(numbers)
    }

    /// The rows of a tap, f32 or f16, into memory of their number.
    pub(super) fn rows(&self, tap: &str, into: &mut [f32]) -> Result<(), Error> {
        self.rows_from(tap, 0, into)
    }

    /// The rows of a tap from the row `first` on, into memory of their number.
    pub(super) fn rows_from(&self, tap: &str, first: usize, into: &mut [f32]) -> Result<(), Error> {
        let (dtype, shape) = self.info(tap)?;
        let (mut file, _) = self.at(tap)?;
        let bytes = if dtype == Dtype::F16 { 2 } else { 4 };
        let before = first * shape.get(1).copied().unwrap_or(0) * bytes;
        file.seek(SeekFrom::Current(before as i64))
            .map_err(FileError::new("read", &self.path))?;
        let read = match dtype {
            Dtype::F16 => read_halves(&mut file, into),
            _ => file.read_exact(bytemuck::cast_slice_mut(into)),
        };
        Ok(read.map_err(FileError::new("read", &self.path))?)
    }

    /// The file at the first byte of a tensor, and the tensor's number of bytes.
    pub(super) fn at(&self, name: &str) -> Result<(File, usize), Error> {
        let (first, end) = self.table.info(name).map_or((0, 0), |info| info.data_offsets);
        let open = || -> io::Result<File> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.start + first as u64))?;
            Ok(file)
        };
        let file = open().map_err(FileError::new("read", &self.path))?;
        Ok((file, end - first))
    }
}

fn read_halves(file: &mut File, into: &mut [f32]) -> io::Result<()> {
    let mut halves = [f16::ZERO; PIECE];
    for piece in into.chunks_mut(PIECE) {
        let halves = &mut halves[..piece.len()];
        file.read_exact(bytemuck::cast_slice_mut(halves.reinterpret_cast_mut()))?;
        halves.convert_to_f32_slice(piece);
    }
    Ok(())
}

fn parse_header(header: Option<&str>) -> Result<Header, String> {
    let header = header.ok_or_else(|| format!("its metadata has no `{METADATA_KEY}`"))?;
    let header: Header =
        serde_json::from_str(header).map_err(|error| format!("`{METADATA_KEY}`: {error}"))?;
    match header.version {
        VERSION => Ok(header),
        other => Err(format!(
            "its layout has version {other}, this program reads {VERSION}"
        )),
    }
}

fn read_keys(bytes: &[u8], offsets: &[i64]) -> Result<Vec<String>, String> {
    let damaged = || format!("`{KEY_OFFSETS}` does not cut `{KEYS}` into keys");
    let cut = |pair: &[i64]| {
        let (start, end) = (usize::try_from(pair[0]).ok()?, usize::try_from(pair[1]).ok()?);
        String::from_utf8(bytes.get(start..end)?.to_vec()).ok()
    };
    if offsets.is_empty() {
        return Err(damaged());
    }
    offsets
        .windows(2)
        .map(cut)
        .collect::<Option<_>>()
        .ok_or_else(damaged)
}

/// Writes the file atomically.
fn write(path: &Path, mut parts: Vec<TensorPart<'_>>, header: String) -> Result<(), Error> {
    // In the order of safetensors' own writer: the widest types first, so that all tensors are aligned.
    parts.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(b.name)));
    let mut end = 0;
    let infos = parts.iter().map(|part| {
        let first = end;
        end += part.shape.iter().product::<usize>() * part.dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype: part.dtype,
            shape: part.shape.clone(),
            data_offsets: (first, end),
        };
        (part.name.to_string(), info)
    });
    let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
    let table = Metadata::new(Some(metadata), infos.collect())
        .map_err(|error| error.to_string())
        .and_then(|table| serde_json::to_vec(&table).map_err(|error| error.to_string()))
        .and_then(|table| match table.len() as u64 > LARGEST_TABLE {
            // Names of a few million classes.
            true => Err(format!("its table of contents has {} bytes", table.len())),
            false => Ok(table),
        });
    let mut table = table.map_err(|reason| Error::FeaturesFile {
        path: path.to_path_buf(),
        reason,
    })?;
    table.resize(table.len().next_multiple_of(8), b' ');

    let length = 8 + (table.len() + end) as u64;
    let mut file = Writer::create(path)?;
    let mut write = || -> io::Result<()> {
        file.write_all(&(table.len() as u64).to_le_bytes())?;
        file.write_all(&table)?;
        let mut written = 8 + table.len() as u64;
        for part in &parts {
            written += match part.bytes {
                Bytes::Memory(bytes) => {
                    file.write_all(bytes)?;
                    bytes.len() as u64
                }
                Bytes::File(part) => io::copy(&mut File::open(part)?, &mut file)?,
            };
        }
        match written == length {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{written} bytes were written of {length}"
            ))),
        }
    };
    write().map_err(FileError::new("write", path))?;
    Ok(file.finish()?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use crate::features::Matrix;
    use data::{Note, Reason};
    use safetensors::SafeTensors;
    use std::collections::BTreeMap;
    use std::fs;

    /// Three records with two taps.
    pub(in crate::features) fn example(labels: Option<Labels>) -> Features {
        Features {
            taps: BTreeMap::from([
                (
                    POOLED.to_string(),
                    Matrix::new(3, 2, vec![0.5, -1.0, f32::MIN_POSITIVE, 3.25, 1e30, 0.1]),
                ),
                ("layer3".to_string(), Matrix::new(3, 1, vec![1.0, 2.0, 3.0])),
            ]),
            labels,
            class_names: vec!["cat".into(), "Hündin".into()],
            keys: vec!["a".into(), String::new(), "ordner/ü".into()],
            pixel_hashes: Some(vec![7, u64::MAX, 0]),
            bad_records: 2,
            listing: [Note {
                reason: Reason::HiddenFile,
                kind: String::new(),
                count: 3,
                example: "a/.b.jpg".into(),
            }]
            .into_iter()
            .collect(),
            seen: Some(SeenInPretraining {
                fingerprint: "jkl".into(),
                compared: 3,
                in_pretraining: 1,
            }),
            origin: Origin {
                encoder: "abc".into(),
                encoder_name: "resnet18".into(),
                fingerprint: "def".into(),
                labels: "ghi".into(),
                transforms: serde_json::json!([{ "center_crop": { "size_px": 224 } }]),
                normalize: serde_json::json!({ "mean": [0.5, 0.5, 0.5] }),
            },
        }
    }

    #[test]
    fn a_file_has_the_bytes_that_safetensors_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        example(Some(Labels::Classes(vec![1, 0, 1]))).save(&path).unwrap();
        let ours = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&ours).unwrap();
        let (_, table) = SafeTensors::read_metadata(&ours).unwrap();
        assert_eq!(
            safetensors::serialize(theirs.tensors(), table.metadata().clone()).unwrap(),
            ours
        );
    }

    #[test]
    fn rows_must_match_keys() {
        let folder = tempfile::tempdir().unwrap();
        let mut features = example(None);
        features.keys.pop();
        let error = features.save(&folder.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("has 3 rows, but there are 2 keys"), "{error}");

        let short = example(Some(Labels::Classes(vec![1, 0])));
        let error = short.save(&folder.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("2 labels, but there are 3 keys"), "{error}");
    }
}
