//! Features to and from a safetensors file, readable from Python with `safetensors.numpy.load_file`.
//!
//! | tensor | type and shape | |
//! |---|---|---|
//! | each tap (`pooled`) | f32 `[records, width]` | |
//! | `labels` | i64 `[records]`, or u8 `[records, classes]` of 0, 1 and 2 (undecided) | absent if unlabelled |
//! | `keys` | u8 `[bytes]` | all keys, UTF-8, one after the other |
//! | `key_offsets` | i64 `[records + 1]` | key `i` is `keys[key_offsets[i]..key_offsets[i + 1]]` |
//!
//! The metadata has one entry, `passer_features`: a JSON object with the version of this layout, the origin, the class
//! names and the number of records left out. One entry, because the format keeps entries in no order, and two runs
//! should write the same bytes.

use crate::error::{Error, io};
use crate::features::{Features, Labels, Matrix, Origin};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

const METADATA_KEY: &str = "passer_features";
const VERSION: u32 = 1;
const LABELS: &str = "labels";
const KEYS: &str = "keys";
const KEY_OFFSETS: &str = "key_offsets";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    origin: Origin,
    class_names: Vec<String>,
    bad_records: usize,
}

impl Features {
    /// Writes the file beside `path` first and renames it, so that a reader never meets half of one.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let reject = |reason: String| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        };
        let records = self.records();
        for (tap, matrix) in &self.taps {
            if [LABELS, KEYS, KEY_OFFSETS].contains(&tap.as_str()) {
                return Err(reject(format!("a tap cannot be called `{tap}`")));
            }
            if matrix.rows != records {
                return Err(reject(format!(
                    "tap `{tap}` has {} rows, but there are {records} keys",
                    matrix.rows
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

        let view = |dtype, shape: Vec<usize>, bytes| {
            TensorView::new(dtype, shape, bytes).map_err(|error| reject(error.to_string()))
        };
        let mut tensors: Vec<(&str, TensorView<'_>)> = vec![
            (KEYS, view(Dtype::U8, vec![keys.len()], keys.as_bytes())?),
            (
                KEY_OFFSETS,
                view(Dtype::I64, vec![records + 1], bytemuck::cast_slice(&key_offsets))?,
            ),
        ];
        for (tap, matrix) in &self.taps {
            let bytes = bytemuck::cast_slice(&matrix.values);
            tensors.push((tap, view(Dtype::F32, vec![matrix.rows, matrix.width], bytes)?));
        }
        match &self.labels {
            Some(Labels::Classes(classes)) => {
                tensors.push((
                    LABELS,
                    view(Dtype::I64, vec![records], bytemuck::cast_slice(classes))?,
                ));
            }
            Some(Labels::Sets { classes, multi_hot }) => {
                tensors.push((LABELS, view(Dtype::U8, vec![records, *classes], multi_hot)?));
            }
            None => {}
        }
        let header = Header {
            version: VERSION,
            origin: self.origin.clone(),
            class_names: self.class_names.clone(),
            bad_records: self.bad_records,
        };
        let header = serde_json::to_string(&header).map_err(|error| reject(error.to_string()))?;
        write(path, tensors, HashMap::from([(METADATA_KEY.to_string(), header)]))
    }

    /// Reads a file that [`Features::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(io(path, "reading features"))?;
        Self::from_bytes(&bytes).map_err(|reason| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        })
    }

    /// Where the features in a file come from, without reading them.
    pub fn read_origin(path: &Path) -> Result<Origin, Error> {
        let mut file = File::open(path).map_err(io(path, "reading features"))?;
        let reject = |reason: String| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason,
        };
        // The length of the table of contents, and the table.
        let mut start = vec![0; 8];
        file.read_exact(&mut start)
            .map_err(|_| reject("it is too short".into()))?;
        let length = u64::from_le_bytes(start[..8].try_into().unwrap_or_default());
        // What the format itself allows.
        if length > 100_000_000 {
            return Err(reject("it is no safetensors file".into()));
        }
        file.take(length)
            .read_to_end(&mut start)
            .map_err(io(path, "reading features"))?;
        // The library's own reader of this table wants the rest of the file as well.
        let table: serde_json::Value =
            serde_json::from_slice(&start[8..]).map_err(|error| reject(error.to_string()))?;
        let header = table["__metadata__"][METADATA_KEY].as_str();
        Ok(parse_header(header).map_err(reject)?.origin)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let header = read_header(bytes)?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let offsets = integers(&tensor(&file, KEY_OFFSETS)?, KEY_OFFSETS)?;
        let keys = read_keys(tensor(&file, KEYS)?.data(), &offsets)?;
        let records = keys.len();

        let labels = match file.tensor(LABELS) {
            Err(_) => None,
            Ok(view) => match (view.dtype(), view.shape()) {
                (Dtype::I64, [rows]) if *rows == records => Some(Labels::Classes(integers(&view, LABELS)?)),
                (Dtype::U8, [rows, classes]) if *rows == records => Some(Labels::Sets {
                    classes: *classes,
                    multi_hot: view.data().to_vec(),
                }),
                (dtype, shape) => {
                    return Err(format!("`{LABELS}` is {dtype:?} {shape:?} for {records} records"));
                }
            },
        };
        let mut taps = BTreeMap::new();
        for (name, view) in file
            .iter()
            .filter(|(name, _)| ![LABELS, KEYS, KEY_OFFSETS].contains(name))
        {
            match (view.dtype(), view.shape()) {
                (Dtype::F32, [rows, width]) if *rows == records => {
                    let values = bytemuck::pod_collect_to_vec(view.data());
                    taps.insert(name.to_string(), Matrix::new(*rows, *width, values));
                }
                (dtype, shape) => {
                    return Err(format!(
                        "tap `{name}` is {dtype:?} {shape:?}, expected F32 [{records}, width]"
                    ));
                }
            }
        }
        Ok(Self {
            taps,
            labels,
            class_names: header.class_names,
            keys,
            bad_records: header.bad_records,
            origin: header.origin,
        })
    }
}

fn read_header(bytes: &[u8]) -> Result<Header, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY));
    parse_header(header.map(String::as_str))
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

fn tensor<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, String> {
    file.tensor(name)
        .map_err(|_| format!("tensor `{name}` is missing"))
}

fn integers(view: &TensorView<'_>, name: &str) -> Result<Vec<i64>, String> {
    match view.dtype() {
        Dtype::I64 => Ok(bytemuck::pod_collect_to_vec(view.data())),
        dtype => Err(format!("`{name}` is {dtype:?}, expected I64")),
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

/// Writes a temporary neighbour, waits for the disk, renames.
fn write(
    path: &Path,
    tensors: Vec<(&str, TensorView<'_>)>,
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.partial"));
    let written = || -> Result<(), Error> {
        // safetensors creates its file readable by the owner alone; features should have the mode of any other file.
        let mode = File::create(&temporary)
            .and_then(|file| file.metadata())
            .map_err(io(path, "writing features"))?;
        serialize_to_file(tensors, Some(metadata), &temporary).map_err(|error| Error::FeaturesFile {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        fs::set_permissions(&temporary, mode.permissions())
            .and_then(|()| File::open(&temporary)?.sync_all())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(io(path, "writing features"))
    };
    written().inspect_err(|_| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::POOLED;

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
    fn two_runs_write_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        example(None).save(&one).unwrap();
        example(None).save(&two).unwrap();
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        let load = || Features::load(&path).unwrap_err().to_string();
        assert!(load().contains("reading features"), "a missing file names itself");

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
