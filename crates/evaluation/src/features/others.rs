//! A features file in other programs' forms: NumPy's arrays in a folder, and one Parquet table. Rows pass in pieces, so that
//! no tap is in memory whole.
//!
//! | folder of NumPy | |
//! |---|---|
//! | `TAP.npy` | f32 or f16 `[records, width]` |
//! | `labels.npy` | i64 `[records]`, or u8 `[records, classes]` of 0, 1 and 2 (undecided); absent if unlabeled |
//! | `keys.txt` | the records' keys, one a line, UTF-8 |
//! | `about.json` | origin, class names, skipped records |
//!
//! A Parquet table has a row per record: `key`; `label` (INT64), or `labels` (a list of INT32), if labeled; and a list of
//! FLOAT per tap. `about.json`'s text is its metadata `passer_features`.

use super::file::{Contents, LABELS, METADATA_KEY};
use crate::error::{Error, io};
use data::durable::{Folder, Writer};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use safetensors::Dtype;
use std::fmt::Write as _;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Numbers of all taps in a row group, which are in memory together.
const NUMBERS_PER_GROUP: usize = 1 << 24;

/// Gives an error if [`write_npy`] could not hold a record's key: before its features are extracted.
///
/// # Errors
/// [`Error::LineBreak`].
pub fn check_keys_for_npy(dataset: &data::Dataset) -> Result<(), Error> {
    (0..dataset.len()).try_for_each(|position| check_key(dataset.key(position)?))
}

fn check_key(key: String) -> Result<(), Error> {
    match key.contains(['\n', '\r']) {
        true => Err(Error::LineBreak(key)),
        false => Ok(()),
    }
}

/// Writes the features file `from` as a folder of NumPy's arrays, aside and renamed.
///
/// # Errors
/// [`Error::FeaturesFile`] if `from` is none; [`Error::LineBreak`]; read and write errors; a folder that exists.
pub fn write_npy(from: &Path, folder: &Path) -> Result<(), Error> {
    let contents = Contents::open(from)?;
    let taps = contents.taps();
    let keys = contents.keys(&taps)?;
    keys.iter().cloned().try_for_each(check_key)?;
    let made = Folder::create(folder)?;
    for tensor in taps
        .iter()
        .map(String::as_str)
        .chain(contents.has(LABELS).then_some(LABELS))
    {
        let (dtype, shape) = contents.info(tensor)?;
        let kind = match dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::I64 => "<i8",
            Dtype::U8 => "|u1",
            other => return Err(contents.reject(format!("tensor `{tensor}` is {other:?}"))),
        };
        let path = made.path().join(format!("{tensor}.npy"));
        let (mut source, bytes) = contents.at(tensor)?;
        let mut write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(std::fs::File::create(&path)?);
            file.write_all(&npy_header(kind, &shape))?;
            std::io::copy(&mut (&mut source).take(bytes as u64), &mut file)?;
            file.flush()
        };
        write().map_err(io("write", &path))?;
    }
    let keys = keys.iter().fold(String::new(), |mut text, key| {
        let _ = writeln!(text, "{key}");
        text
    });
    for (name, text) in [("keys.txt", keys), ("about.json", about(&contents)? + "\n")] {
        let path = made.path().join(name);
        std::fs::write(&path, text).map_err(io("write", &path))?;
    }
    Ok(made.finish()?)
}

/// Version 1.0 of NumPy's format: magic, the header's length, and a Python literal padded so that the numbers are aligned to
/// 64 bytes.
fn npy_header(kind: &str, shape: &[usize]) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let sizes = shape.iter().map(ToString::to_string).collect::<Vec<_>>();
    // A tuple of one number has a comma.
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text = format!(
        "{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sizes.join(", ")
    );
    // The length takes 2 bytes, the line break 1.
    let before = MAGIC.len() + 2;
    let padded = (before + text.len() + 1).next_multiple_of(64) - before;
    while text.len() + 1 < padded {
        text.push(' ');
    }
    text.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.into_bytes());
    header
}

fn about(contents: &Contents) -> Result<String, Error> {
    serde_json::to_string_pretty(&contents.header).map_err(|error| contents.reject(error.to_string()))
}

/// Labels of some records.
enum LabelRows {
    None,
    Classes(Vec<i64>),
    /// Multi-hot rows of this many classes.
    Sets(usize, Vec<u8>),
}

/// Writes the features file `from` as a Parquet table, aside and renamed. f16 becomes FLOAT.
///
/// # Errors
/// [`Error::FeaturesFile`] if `from` is none; read and write errors.
pub fn write_parquet(from: &Path, path: &Path) -> Result<(), Error> {
    let contents = Contents::open(from)?;
    let taps = contents.taps();
    let mut widths = vec![];
    for tap in &taps {
        let (_, shape) = contents.info(tap)?;
        widths.push(shape.get(1).copied().unwrap_or(0));
    }
    let keys = contents.keys(&taps)?;
    let labels = match contents.has(LABELS).then(|| contents.info(LABELS)).transpose()? {
        None => LabelRows::None,
        Some((Dtype::U8, shape)) => {
            LabelRows::Sets(shape.get(1).copied().unwrap_or(0), contents.numbers(LABELS)?)
        }
        Some(_) => LabelRows::Classes(contents.numbers(LABELS)?),
    };

    let mut schema = "message features { required binary key (utf8); ".to_owned();
    schema += match labels {
        LabelRows::None => "",
        LabelRows::Classes(_) => "required int64 label; ",
        LabelRows::Sets(..) => {
            "required group labels (list) { repeated group list { required int32 element; } } "
        }
    };
    for tap in &taps {
        let _ = write!(
            schema,
            "required group {tap} (list) {{ repeated group list {{ required float element; }} }} "
        );
    }
    schema += "}";
    let metadata = KeyValue::new(METADATA_KEY.to_owned(), about(&contents)?);
    // Floats do not repeat, so a dictionary would only cost.
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(vec![metadata]))
        .build();
    let failed = |error: ParquetError| io("write", path)(std::io::Error::other(error));
    let schema = parse_message_type(&schema).map_err(failed)?;
    let out = Writer::create(path)?;
    let mut writer =
        SerializedFileWriter::new(out.handle()?, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
    let per_group = (NUMBERS_PER_GROUP / widths.iter().sum::<usize>().max(1)).max(1);
    for (number, keys) in keys.chunks(per_group).enumerate() {
        let rows = number * per_group..number * per_group + keys.len();
        let mut group = writer.next_row_group().map_err(failed)?;
        let keys = keys.iter().map(|key| ByteArray::from(key.as_str()));
        put::<ByteArrayType>(&mut group, &keys.collect::<Vec<_>>(), None).map_err(failed)?;
        match &labels {
            LabelRows::None => {}
            LabelRows::Classes(classes) => {
                put::<Int64Type>(&mut group, &classes[rows.clone()], None).map_err(failed)?;
            }
            LabelRows::Sets(width, multi_hot) => {
                let part = &multi_hot[rows.start * width..rows.end * width];
                let part = part.iter().map(|value| i32::from(*value)).collect::<Vec<_>>();
                put::<Int32Type>(&mut group, &part, Some(*width)).map_err(failed)?;
            }
        }
        for (tap, width) in taps.iter().zip(&widths) {
            let mut values = vec![0f32; rows.len() * width];
            contents.rows_from(tap, rows.start, &mut values)?;
            put::<FloatType>(&mut group, &values, Some(*width)).map_err(failed)?;
        }
        group.close().map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(out.finish()?)
}

/// The next column of a row group; with `width` its values are lists of that many.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: &[T::T],
    width: Option<usize>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a column that the schema lacks".to_owned()));
    };
    let levels = width.map(|width| {
        // 0 begins a list, 1 continues it; no element is missing.
        let begins = (0..values.len()).map(|at| i16::from(at % width != 0));
        (vec![1i16; values.len()], begins.collect::<Vec<_>>())
    });
    let (present, continues) = match &levels {
        Some((present, continues)) => (Some(present.as_slice()), Some(continues.as_slice())),
        None => (None, None),
    };
    column.typed::<T>().write_batch(values, present, continues)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Features, Labels, Matrix};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{ListAccessor, RowAccessor};
    use std::collections::BTreeMap;

    fn features(labels: Option<Labels>) -> Features {
        let rows = |width: usize| {
            let values = (0..3 * width).map(|at| at as f32 * 0.5 - 1.0).collect();
            Matrix::new(3, width, values)
        };
        Features {
            taps: BTreeMap::from([("pooled".to_owned(), rows(2)), ("res5".to_owned(), rows(5))]),
            labels,
            keys: ["a", "é/b", "c"].map(str::to_owned).to_vec(),
            ..Features::default()
        }
    }

    fn stored(folder: &Path, labels: Option<Labels>) -> std::path::PathBuf {
        let path = folder.join("features.safetensors");
        features(labels).save(&path).unwrap();
        path
    }

    /// The header as NumPy's documentation describes it, the numbers behind it.
    #[test]
    fn arrays_have_numpys_header_and_the_rows() {
        let scratch = tempfile::tempdir().unwrap();
        let file = stored(scratch.path(), Some(Labels::Classes(vec![4, 0, 7])));
        let out = scratch.path().join("out");
        write_npy(&file, &out).unwrap();
        let bytes = std::fs::read(out.join("pooled.npy")).unwrap();
        let (header, numbers) = bytes.split_at(128);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert_eq!(
            text.trim_end_matches(' ').trim_end(),
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"
        );
        assert!(text.ends_with('\n'));
        let expected = [-1f32, -0.5, 0.0, 0.5, 1.0, 1.5];
        assert_eq!(numbers, bytemuck::cast_slice::<f32, u8>(&expected));
        let labels = std::fs::read(out.join("labels.npy")).unwrap();
        assert_eq!(&labels[128..], bytemuck::cast_slice::<i64, u8>(&[4, 0, 7]));
        assert!(
            String::from_utf8_lossy(&labels[..128])
                .contains("'<i8', 'fortran_order': False, 'shape': (3,), }")
        );
        assert_eq!(
            std::fs::read_to_string(out.join("keys.txt")).unwrap(),
            "a\né/b\nc\n"
        );
        let about = std::fs::read_to_string(out.join("about.json")).unwrap();
        assert!(about.contains("\"bad_records\": 0"), "{about}");
        // Without labels there is no file of them.
        let none = stored(scratch.path(), None);
        write_npy(&none, &scratch.path().join("none")).unwrap();
        assert!(!scratch.path().join("none/labels.npy").exists());
        assert!(write_npy(&none, &out).is_err(), "the folder exists");
    }

    #[test]
    fn a_key_with_a_line_break_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("features.safetensors");
        let mut features = features(None);
        features.keys[1] = "a\nb".to_owned();
        features.save(&path).unwrap();
        let error = write_npy(&path, &scratch.path().join("out")).unwrap_err();
        assert!(
            error.to_string().contains("\"a\\nb\" has a line break"),
            "{error}"
        );
        assert!(!scratch.path().join("out").exists());
        assert_eq!(error.hint(), Some(crate::Hint::OtherFormat));
        // Of a data set, before anything is extracted.
        let record = |key: &str| data::Record {
            key: key.into(),
            ..data::Dataset::synthetic(1, 8, 8, 1, 0).read(0).unwrap()
        };
        let dataset = |keys: &[&str]| {
            let records = keys.iter().map(|key| record(key)).collect();
            data::Dataset::from_records(records, vec![])
        };
        assert!(check_keys_for_npy(&dataset(&["a", "é/b"])).is_ok());
        let error = check_keys_for_npy(&dataset(&["a", "c\rd"])).unwrap_err();
        assert!(matches!(error, Error::LineBreak(key) if key == "c\rd"));
    }

    #[test]
    fn a_table_has_a_row_per_record() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out.parquet");
        let read = |labels: Option<Labels>| {
            write_parquet(&stored(scratch.path(), labels), &out).unwrap();
            let reader = SerializedFileReader::new(std::fs::File::open(&out).unwrap()).unwrap();
            let metadata = reader
                .metadata()
                .file_metadata()
                .key_value_metadata()
                .cloned()
                .unwrap();
            assert_eq!(metadata[0].key, "passer_features");
            let rows = reader.get_row_iter(None).unwrap();
            rows.collect::<Result<Vec<_>, _>>().unwrap()
        };
        let rows = read(Some(Labels::Classes(vec![4, 0, 7])));
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1].get_string(0).unwrap(), "é/b");
        assert_eq!(rows[2].get_long(1).unwrap(), 7);
        let of_pooled = rows[2].get_list(2).unwrap();
        assert_eq!(
            (
                of_pooled.len(),
                of_pooled.get_float(0).unwrap(),
                of_pooled.get_float(1).unwrap()
            ),
            (2, 1.0, 1.5)
        );
        assert_eq!(rows[0].get_list(3).unwrap().len(), 5);
        let sets = Labels::Sets {
            classes: 2,
            multi_hot: vec![0, 1, 1, 2, 0, 0],
        };
        let rows = read(Some(sets));
        let second = rows[1].get_list(1).unwrap();
        assert_eq!((second.get_int(0).unwrap(), second.get_int(1).unwrap()), (1, 2));
        assert_eq!(read(None)[0].len(), 3);
    }
}
