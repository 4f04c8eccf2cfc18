//! Features to and from a safetensors file, readable from Python with `safetensors.numpy.load_file`.
//!
//! | tensor | type and shape | |
//! |---|---|---|
//! | each tap (`pooled`) | f32 or f16 `[records, width]` | |
//! | `labels` | i64 `[records]`, or u8 `[records, classes]` of 0, 1 and 2 (undecided) | absent if unlabeled |
//! | `keys` | u8 `[bytes]` | all keys, UTF-8, one after the other |
//! | `key_offsets` | i64 `[records + 1]` | key `i` is `keys[key_offsets[i]..key_offsets[i + 1]]` |
//!
//! The metadata has one entry, `passer_features`: a JSON object with the version of this layout, the origin,
//! the class names, the number of skipped records and what became no record. It is a single entry because the format keeps entries
//! in no order, and two runs should write the same bytes.
//!
//! Rows are read and written in pieces: safetensors' own functions need a whole file, or a whole tensor, in
//! memory.

use super::matrix::{Features, Labels, Matrix, Origin, UNDECIDED};
use crate::error::Error;
use data::durable::Writer;
use data::{FileError, Listing, sha256_of};
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const METADATA_KEY: &str = "passer_features";
const VERSION: u32 = 1;
const LABELS: &str = "labels";
const KEYS: &str = "keys";
const KEY_OFFSETS: &str = "key_offsets";
/// The longest table of contents that the format allows, bytes.
const LARGEST_TABLE: u64 = 100_000_000;
/// Values converted at a time.
const PIECE: usize = 1 << 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    origin: Origin,
    class_names: Vec<String>,
    bad_records: usize,
    /// Absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Listing::is_empty")]
    listing: Listing,
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
        self.save_with(path, rows.collect())
    }

    /// The same with rows from another source.
    pub(crate) fn save_with(&self, path: &Path, rows: Vec<TensorPart<'_>>) -> Result<(), Error> {
        let reject = |reason: String| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        };
        let records = self.records();
        for part in &rows {
            if [LABELS, KEYS, KEY_OFFSETS].contains(&part.name) {
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
            Some(Labels::Sets { classes, multi_hot }) => multi_hot.len() / (*classes).max(1),
            None => records,
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
        };
        let header = serde_json::to_string(&header).map_err(|error| reject(error.to_string()))?;
        write(path, parts, header)
    }

    /// Reads a features file whole.
    ///
    /// # Errors
    /// [`Error::FeaturesFile`] if it is not a complete features file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = Stored::open(path)?;
        let taps = file.taps();
        file.read(&taps)
    }

    /// The origin of the features in a file, without reading them.
    ///
    /// # Errors
    /// As [`Features::load`].
    pub fn read_origin(path: &Path) -> Result<Origin, Error> {
        Ok(Stored::open(path)?.header.origin)
    }
}

/// A features file whose table of contents has been read.
pub(crate) struct Stored {
    path: PathBuf,
    file: File,
    table: Metadata,
    /// Offset of the first tensor, bytes.
    start: u64,
    header: Header,
}

impl Stored {
    /// Reads the table of contents and compares it with the file's length.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::read_table(path, parse_header)
    }

    /// Opens a file that another program may have written. If it lacks this program's metadata, its encoder
    /// has no name, the SHA-256 of the file identifies its records, and records without keys are numbered.
    pub(crate) fn of_anyone(path: &Path) -> Result<Self, Error> {
        let mut stored = Self::read_table(path, |header| match header {
            Some(_) => parse_header(header),
            None => Ok(Header {
                version: VERSION,
                origin: Origin::default(),
                class_names: vec![],
                bad_records: 0,
                listing: Listing::default(),
            }),
        })?;
        if stored.header.origin == Origin::default() {
            stored.header.origin = Origin {
                encoder_name: "an encoder without a name".into(),
                fingerprint: stored.sha256()?,
                ..Origin::default()
            };
        }
        Ok(stored)
    }

    fn sha256(&mut self) -> Result<String, Error> {
        let sum = self.file.rewind().and_then(|()| sha256_of(&mut self.file));
        Ok(sum.map_err(FileError::new("read", &self.path))?.hex())
    }

    fn read_table(
        path: &Path,
        header: impl FnOnce(Option<&str>) -> Result<Header, String>,
    ) -> Result<Self, Error> {
        if path.is_dir() {
            return Err(Error::FeaturesFile {
                path: path.to_path_buf(),
                reason: "it is a folder".into(),
            });
        }
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
        let metadata = table.metadata().as_ref().and_then(|all| all.get(METADATA_KEY));
        let header = header(metadata.map(String::as_str)).map_err(reject)?;
        let start = 8 + table_bytes;
        if start.checked_add(table.data_len() as u64) != Some(length) {
            return Err(reject(format!(
                "it has {length} bytes, expected {start} and {} of tensors",
                table.data_len()
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            table,
            start,
            header,
        })
    }

    /// The origin of its features.
    pub(crate) fn origin(&self) -> &Origin {
        &self.header.origin
    }

    /// Names of the taps in it.
    pub(crate) fn taps(&self) -> Vec<String> {
        let names = self.table.offset_keys().into_iter();
        names
            .filter(|name| ![LABELS, KEYS, KEY_OFFSETS].contains(&name.as_str()))
            .collect()
    }

    /// Reads the given taps and everything about the records.
    pub(crate) fn read(mut self, taps: &[String]) -> Result<Features, Error> {
        let path = self.path.clone();
        let reject = |reason: String| Error::FeaturesFile {
            path: path.clone(),
            reason,
        };
        // Check the claimed sizes before allocating memory for them.
        for name in taps {
            match self.info(name)? {
                (Dtype::F32 | Dtype::F16, shape) if shape.len() == 2 && shape[1] > 0 => {}
                (dtype, shape) => {
                    return Err(reject(format!(
                        "tap `{name}` is {dtype:?} {shape:?}, expected F32 or F16 [records, width]"
                    )));
                }
            }
        }
        let keys = match self.is_foreign() && self.table.info(KEYS).is_none() {
            true => {
                let rows = taps.first().map(|tap| self.info(tap)).transpose()?;
                let rows = rows.and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
                (0..rows).map(|row| row.to_string()).collect()
            }
            false => {
                let offsets = match self.info(KEY_OFFSETS)? {
                    (Dtype::I64, _) => self.numbers::<i64>(KEY_OFFSETS)?,
                    (dtype, _) => return Err(reject(format!("`{KEY_OFFSETS}` is {dtype:?}, expected I64"))),
                };
                match self.info(KEYS)? {
                    (Dtype::U8, _) => read_keys(&self.numbers::<u8>(KEYS)?, &offsets).map_err(reject)?,
                    (dtype, _) => return Err(reject(format!("`{KEYS}` is {dtype:?}, expected U8"))),
                }
            }
        };
        let records = keys.len();

        let labels = match self.table.info(LABELS).is_some() {
            false => None,
            true => match self.info(LABELS)? {
                (Dtype::I64, shape) if shape == [records] => Some(Labels::Classes(self.numbers(LABELS)?)),
                (Dtype::U8, shape) if shape.len() == 2 && shape[0] == records => Some(Labels::Sets {
                    classes: shape[1],
                    multi_hot: self.numbers(LABELS)?,
                }),
                (dtype, shape) => {
                    return Err(reject(format!(
                        "`{LABELS}` is {dtype:?} {shape:?}, expected I64 [{records}] or U8 [{records}, classes]"
                    )));
                }
            },
        };
        if let Some(reason) = labels.as_ref().and_then(|labels| wrong_label(labels, &keys)) {
            return Err(reject(reason));
        }
        let mut matrices = BTreeMap::new();
        for name in taps {
            let (dtype, shape) = self.info(name)?;
            let values = match (dtype, shape.as_slice()) {
                (Dtype::F32, [rows, _]) if *rows == records => self.numbers(name)?,
                (Dtype::F16, [rows, width]) if *rows == records => self.halves(name, rows * width)?,
                _ => {
                    return Err(reject(format!(
                        "tap `{name}` has {} rows, but there are {records} keys",
                        shape[0]
                    )));
                }
            };
            matrices.insert(name.clone(), Matrix::new(records, shape[1], values));
        }
        Ok(Features {
            taps: matrices,
            labels,
            class_names: self.header.class_names,
            keys,
            bad_records: self.header.bad_records,
            listing: self.header.listing,
            origin: self.header.origin,
        })
    }

    /// Whether another program wrote it.
    fn is_foreign(&self) -> bool {
        self.header.origin.encoder.is_empty()
    }

    fn info(&self, name: &str) -> Result<(Dtype, Vec<usize>), Error> {
        let info = self.table.info(name);
        info.map(|info| (info.dtype, info.shape.clone()))
            .ok_or_else(|| Error::FeaturesFile {
                path: self.path.clone(),
                reason: format!("tensor `{name}` is missing"),
            })
    }

    /// Seeks to the first byte of a tensor and returns its number of bytes.
    fn seek(&mut self, name: &str) -> Result<usize, Error> {
        let (first, end) = self.table.info(name).map_or((0, 0), |info| info.data_offsets);
        self.file
            .seek(SeekFrom::Start(self.start + first as u64))
            .map_err(FileError::new("read", &self.path))?;
        Ok(end - first)
    }

    fn numbers<T: bytemuck::Pod>(&mut self, name: &str) -> Result<Vec<T>, Error> {
        let bytes = self.seek(name)?;
        let mut numbers = vec![T::zeroed(); bytes / size_of::<T>()];
        self.file
            .read_exact(bytemuck::cast_slice_mut(&mut numbers))
            .map_err(FileError::new("read", &self.path))?;
        Ok(numbers)
    }

    fn halves(&mut self, name: &str, count: usize) -> Result<Vec<f32>, Error> {
        self.seek(name)?;
        let mut numbers = vec![0.0; count];
        let mut halves = [f16::ZERO; PIECE];
        for piece in numbers.chunks_mut(PIECE) {
            let halves = &mut halves[..piece.len()];
            self.file
                .read_exact(bytemuck::cast_slice_mut(halves.reinterpret_cast_mut()))
                .map_err(FileError::new("read", &self.path))?;
            halves.convert_to_f32_slice(piece);
        }
        Ok(numbers)
    }
}

/// The fault in labels that another program wrote.
fn wrong_label(labels: &Labels, keys: &[String]) -> Option<String> {
    match labels {
        Labels::Classes(classes) => {
            let row = classes.iter().position(|class| *class < 0)?;
            Some(format!(
                "`{LABELS}` holds {} in row {row} (record `{}`): classes are numbers from 0; leave records without one out",
                classes[row], keys[row]
            ))
        }
        Labels::Sets { classes, multi_hot } => {
            let place = multi_hot.iter().position(|hot| *hot > UNDECIDED)?;
            let (row, class) = (place / classes, place % classes);
            Some(format!(
                "`{LABELS}` holds {} in row {row} (record `{}`), class {class}: expected 0 (not of the class), 1 (of it) or 2 \
                 (undecided)",
                multi_hot[place], keys[row]
            ))
        }
    }
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
mod tests {
    use super::*;
    use crate::encoder::POOLED;
    use data::{Note, Reason};
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;
    use std::fs;

    fn example(labels: Option<Labels>) -> Features {
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
            bad_records: 2,
            listing: [Note {
                reason: Reason::HiddenFile,
                kind: String::new(),
                count: 3,
                example: "a/.b.jpg".into(),
            }]
            .into_iter()
            .collect(),
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
    fn what_is_saved_is_read_back_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        for labels in [
            None,
            Some(Labels::Classes(vec![1, 0, 1])),
            Some(Labels::Sets {
                classes: 2,
                multi_hot: vec![0, 1, 1, 1, 0, 0],
            }),
        ] {
            let features = example(labels);
            features.save(&path).unwrap();
            assert_eq!(Features::load(&path).unwrap(), features);
            assert_eq!(Features::read_origin(&path).unwrap(), features.origin);
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "the temporary file is gone"
        );
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
    fn half_as_wide_numbers_are_read_as_well_and_taps_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        let features = example(None);
        // More than one piece.
        let rows: Vec<f16> = (0..3 * PIECE).map(|i| f16::from_f32(i as f32 * 0.25)).collect();
        let part = |name, rows| TensorPart {
            name,
            dtype: Dtype::F16,
            shape: vec![3, PIECE],
            bytes: Bytes::Memory(rows),
        };
        let bytes = bytemuck::cast_slice(rows.reinterpret_cast());
        features
            .save_with(&path, vec![part("a", bytes), part("b", bytes)])
            .unwrap();
        let stored = Stored::open(&path).unwrap();
        assert_eq!(
            (stored.taps(), stored.origin()),
            (vec!["a".into(), "b".into()], &features.origin)
        );
        let read = stored.read(&["b".to_string()]).unwrap();
        assert_eq!(read.taps.len(), 1);
        assert!(
            read.taps["b"]
                .values
                .iter()
                .zip(&rows)
                .all(|(read, row)| *read == row.to_f32())
        );
        assert_eq!(read.keys, features.keys);
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        let load = || Features::load(&path).unwrap_err().to_string();
        assert!(load().starts_with("cannot read"), "a missing file names itself");

        example(Some(Labels::Classes(vec![1, 0, 1]))).save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(load().starts_with("features file"), "cut at {length}");
            assert!(
                length > 8 || Features::read_origin(&path).is_err(),
                "cut at {length}"
            );
        }
        let foreign = safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap();
        fs::write(&path, foreign).unwrap();
        assert!(load().contains("no `passer_features`"));
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
