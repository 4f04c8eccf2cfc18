//! The tables of a release: `pass_metadata.csv` with PASS's columns, and `metadata.parquet` with all known
//! fields.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::entry::Entry;
use crate::error::Error;

/// PASS's columns. The first has no name: the number of the row in the source.
const PASS_HEADER: &str = ",unickname,datetaken,licensename,hash,latitude,longitude";
/// The characters that stay unencoded in a nickname, as in Python's `quote_plus`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b' ');

const SCHEMA: &str = "message photos {
  required int64 row; required binary key (utf8); required int64 shard; required int64 bytes; required binary sha256 (utf8);
  optional int64 width_px; optional int64 height_px; optional double latitude; optional double longitude;
  optional binary photographer (utf8); optional binary photographer_id (utf8); optional binary title (utf8);
  optional binary date_taken (utf8); optional binary page_url (utf8); optional binary image_url (utf8);
  optional binary licence (utf8); optional binary licence_url (utf8); optional binary label (utf8); }";
/// Rows that are held in memory until they are written together.
const ROWS_PER_GROUP: usize = 50_000;

/// Columns of one row group.
#[derive(Default)]
struct Group {
    rows: usize,
    /// row, shard, bytes, width, height
    numbers: [Vec<Option<i64>>; 5],
    /// latitude, longitude
    degrees: [Vec<Option<f64>>; 2],
    /// key, sha256, and the nine optional texts in the schema's order
    texts: [Vec<Option<ByteArray>>; 11],
}

pub(super) struct Tables {
    csv_path: PathBuf,
    csv: BufWriter<File>,
    parquet_path: PathBuf,
    parquet: SerializedFileWriter<File>,
    group: Group,
    coordinates: bool,
}

impl Tables {
    pub(super) fn create(folder: &Path, coordinates: bool) -> Result<Tables, Error> {
        let csv_path = folder.join("pass_metadata.csv");
        let mut csv = BufWriter::new(File::create(&csv_path).map_err(Error::io("write", &csv_path))?);
        writeln!(csv, "{PASS_HEADER}").map_err(Error::io("write", &csv_path))?;
        let parquet_path = folder.join("metadata.parquet");
        let file = File::create(&parquet_path).map_err(Error::io("write", &parquet_path))?;
        let schema = parse_message_type(SCHEMA).map_err(failed(&parquet_path))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let parquet = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
            .map_err(failed(&parquet_path))?;
        Ok(Tables {
            csv_path,
            csv,
            parquet_path,
            parquet,
            group: Group::default(),
            coordinates,
        })
    }

    pub(super) fn add(&mut self, entry: &Entry, sha256: &[u8], bytes: usize) -> Result<(), Error> {
        let photo = &entry.photo;
        let (latitude, longitude) = match self.coordinates {
            true => (photo.latitude, photo.longitude),
            false => (None, None),
        };
        writeln!(self.csv, "{}", pass_row(entry, latitude, longitude))
            .map_err(Error::io("write", &self.csv_path))?;
        let group = &mut self.group;
        group.rows += 1;
        let numbers = [
            Some(photo.id),
            Some(entry.shard as i64),
            Some(bytes as i64),
            entry.file.width_px.map(i64::from),
            entry.file.height_px.map(i64::from),
        ];
        for (column, number) in group.numbers.iter_mut().zip(numbers) {
            column.push(number);
        }
        for (column, degrees) in group.degrees.iter_mut().zip([latitude, longitude]) {
            column.push(degrees);
        }
        let text = |text: &Option<String>| text.as_deref().map(ByteArray::from);
        let texts = [
            Some(ByteArray::from(photo.key.as_str())),
            Some(ByteArray::from(data::hex(sha256).as_str())),
            text(&photo.photographer),
            text(&photo.photographer_id),
            text(&photo.title),
            text(&photo.date_taken),
            text(&photo.page_url),
            text(&photo.image_url),
            text(&photo.license),
            text(&photo.license_url),
            text(&photo.label),
        ];
        for (column, text) in group.texts.iter_mut().zip(texts) {
            column.push(text);
        }
        if group.rows >= ROWS_PER_GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.write_group()?;
        self.parquet.finish().map_err(failed(&self.parquet_path))?;
        self.csv.flush().map_err(Error::io("write", &self.csv_path))
    }

    fn write_group(&mut self) -> Result<(), Error> {
        let group = std::mem::take(&mut self.group);
        if group.rows == 0 {
            return Ok(());
        }
        let [row, shard, bytes, width, height] = &group.numbers;
        let [latitude, longitude] = &group.degrees;
        let mut texts = group.texts.iter();
        let mut write = || -> Result<(), ParquetError> {
            let mut writer = self.parquet.next_row_group()?;
            for at in 0.. {
                let Some(mut column) = writer.next_column()? else {
                    break;
                };
                // In the schema's order.
                match at {
                    0 => put::<Int64Type>(&mut column, row)?,
                    2 => put::<Int64Type>(&mut column, shard)?,
                    3 => put::<Int64Type>(&mut column, bytes)?,
                    5 => put::<Int64Type>(&mut column, width)?,
                    6 => put::<Int64Type>(&mut column, height)?,
                    7 => put::<DoubleType>(&mut column, latitude)?,
                    8 => put::<DoubleType>(&mut column, longitude)?,
                    _ => {
                        if let Some(text) = texts.next() {
                            put::<ByteArrayType>(&mut column, text)?;
                        }
                    }
                }
                column.close()?;
            }
            writer.close()?;
            Ok(())
        };
        write().map_err(failed(&self.parquet_path))
    }
}

fn put<T: parquet::data_type::DataType>(
    column: &mut parquet::file::writer::SerializedColumnWriter<'_>,
    values: &[Option<T::T>],
) -> Result<(), ParquetError> {
    let present: Vec<T::T> = values.iter().flatten().cloned().collect();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    // Required columns take no levels and ignore them.
    column.typed::<T>().write_batch(&present, Some(&levels), None)?;
    Ok(())
}

/// A row in PASS's format; numbers keep all their digits.
fn pass_row(entry: &Entry, latitude: Option<f64>, longitude: Option<f64>) -> String {
    let photo = &entry.photo;
    let degrees = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let nickname = photo.photographer.as_deref().unwrap_or_default();
    let nickname = utf8_percent_encode(nickname, PLAIN).to_string().replace(' ', "+");
    let fields = [
        photo.id.to_string(),
        nickname,
        photo.date_taken.clone().unwrap_or_default(),
        photo.license.clone().unwrap_or_default(),
        photo.key.clone(),
        degrees(latitude),
        degrees(longitude),
    ];
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::Any(b'\n'))
        .from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(&fields);
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_string()
}

fn failed(path: &Path) -> impl FnOnce(ParquetError) -> Error {
    let path = path.to_path_buf();
    move |error| Error::io("write", &path)(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::photo::Photo;

    #[test]
    fn rows_are_those_of_pass() {
        let entry = Entry::new(
            Photo {
                id: 1284082,
                key: "75f7305b1fd94044e14bdcdde469dbb2".into(),
                photographer: Some("PaperBird Photography<3".into()),
                date_taken: Some("2007-05-06 06:11:48.0".into()),
                license: Some("Attribution License".into()),
                ..Photo::default()
            },
            0,
            crate::ledger::FileFacts::default(),
        );
        assert_eq!(
            pass_row(&entry, Some(53.535233), Some(-113.565075)),
            "1284082,PaperBird+Photography%3C3,2007-05-06 06:11:48.0,Attribution License,75f7305b1fd94044e14bdcdde469dbb2,53.535233,-113.565075"
        );
    }
}
