//! CSV and Parquet files with a column mapping.

use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use data::delimited;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Position, Rows, compressed};
use crate::error::Error;
use crate::photo::{KeyRule, Photo, Row, degrees, refusal, url_decoded};

/// A table with one row per photo.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// The file, or its parts in order. CSV: plain, `.gz`, `.bz2` or `.zst`; each with a header.
    pub files: Vec<PathBuf>,
    /// The separator of a CSV's columns: one character, `"\t"` for a TSV. Parquet has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// The column of each field.
    pub columns: Columns,
    /// Columns whose text is URL-encoded, such as PASS's `unickname`.
    pub url_encoded: Vec<String>,
}

/// Names of columns; columns that a table lacks are omitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Unique name of the photo: letters, digits, `_`, `-`, `@`. Required.
    pub key: String,
    /// Name of the photographer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub photographer: Option<String>,
    /// Identity of the photographer, where it differs from the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub photographer_id: Option<String>,
    /// Title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The time at which it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date_taken: Option<String>,
    /// Degrees north.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<String>,
    /// Degrees east.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<String>,
    /// The photo's web page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_url: Option<String>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Name of the license.
    #[serde(rename = "licence", skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Address of the license.
    #[serde(rename = "licence_url", skip_serializing_if = "Option::is_none")]
    pub license_url: Option<String>,
    /// Class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl TableConfig {
    /// `source`: the path of its table in the config.
    pub(crate) fn validate(&self, source: &str) -> Result<(), Error> {
        let columns = serde_json::to_value(&self.columns).unwrap_or_default();
        for (key, column) in columns.as_object().into_iter().flatten() {
            let column = column.as_str().unwrap_or_default();
            Error::unless_filled(&format!("{source}.columns.{key}"), "the name of a column", column)?;
        }
        match self.delimiter {
            Some(delimiter) if !delimiter.is_ascii() => {
                let reason = format!("must be one ASCII character, got `{delimiter}`");
                Err(Error::config(&format!("{source}.delimiter"), reason))
            }
            _ => Ok(()),
        }
    }
}

/// The column of each field of a photo in a table's rows.
#[derive(Debug)]
struct Mapping {
    /// In the order of [`Mapping::row`]; column and whether it is URL-encoded.
    places: [Option<(usize, bool)>; 12],
    columns: usize,
}

impl Mapping {
    fn new(config: &TableConfig, header: &[String], path: &Path) -> Result<Mapping, Error> {
        let names = &config.columns;
        let place = |name: &str| -> Result<(usize, bool), Error> {
            let at = header.iter().position(|column| column == name).ok_or_else(|| {
                let reason = format!(
                    "there is no column `{name}`; found {}",
                    data::names::listed(header)
                );
                Error::source(path, reason)
            })?;
            Ok((at, config.url_encoded.iter().any(|encoded| encoded == name)))
        };
        let optional = [
            &names.photographer,
            &names.photographer_id,
            &names.title,
            &names.date_taken,
            &names.latitude,
            &names.longitude,
            &names.page_url,
            &names.image_url,
            &names.license,
            &names.license_url,
            &names.label,
        ];
        for name in &config.url_encoded {
            place(name)?;
        }
        let mut places = [None; 12];
        places[0] = Some(place(&names.key)?);
        for (at, name) in optional.into_iter().enumerate() {
            places[at + 1] = name.as_deref().map(place).transpose()?;
        }
        Ok(Mapping {
            places,
            columns: header.len(),
        })
    }

    /// A row from a function that gives the bytes of a column.
    fn row<'a>(
        &self,
        id: i64,
        columns: usize,
        field: impl Fn(usize) -> Option<std::borrow::Cow<'a, [u8]>>,
    ) -> Row {
        if columns != self.columns {
            return refused(id, "malformed_row");
        }
        let text = |at: usize| {
            let (column, encoded) = self.places[at]?;
            let bytes = field(column)?;
            match encoded {
                true => url_decoded(&bytes),
                false => crate::photo::plain(&bytes),
            }
        };
        let photo = Photo {
            id,
            key: text(0).unwrap_or_default(),
            photographer: text(1),
            photographer_id: text(2),
            title: text(3),
            date_taken: text(4),
            latitude: text(5).and_then(|text| degrees(&text, 90.0)),
            longitude: text(6).and_then(|text| degrees(&text, 180.0)),
            page_url: text(7),
            image_url: text(8),
            license: text(9),
            license_url: text(10),
            label: text(11),
            locator: None,
        };
        let refused = refusal(&photo, KeyRule::Name);
        Row {
            photo,
            refused,
            note: None,
        }
    }
}

/// CSV files being read.
pub(crate) struct Csv {
    config: TableConfig,
    open: Option<(delimited::Rows<Box<dyn BufRead + Send>>, Mapping)>,
    position: Position,
}

impl Csv {
    pub(crate) fn open(config: &TableConfig, from: Position) -> Result<Csv, Error> {
        let mut csv = Csv {
            config: config.clone(),
            open: None,
            position: from,
        };
        csv.open_file()?;
        // Quoted fields may hold line ends, so rows are counted, not bytes.
        if let Some((rows, _)) = &mut csv.open {
            let path = &csv.config.files[csv.position.file];
            for _ in 0..csv.position.file_rows {
                rows.next_row().map_err(broken(path))?;
            }
        }
        Ok(csv)
    }

    fn open_file(&mut self) -> Result<(), Error> {
        let Some(path) = self.config.files.get(self.position.file) else {
            self.open = None;
            return Ok(());
        };
        let delimiter = self.config.delimiter.unwrap_or(',') as u8;
        let mut rows = delimited::Rows::new(compressed::open(path, 0)?, delimiter).map_err(broken(path))?;
        if rows.next_row().map_err(broken(path))? == delimited::Next::TooLong {
            return Err(Error::source(path, "its header is longer than 4 MiB"));
        }
        let header: Vec<String> = rows
            .fields()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let mapping = Mapping::new(&self.config, &header, path)?;
        self.open = Some((rows, mapping));
        Ok(())
    }
}

impl Rows for Csv {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some((rows, mapping)) = &mut self.open else {
                return Ok(None);
            };
            let path = &self.config.files[self.position.file];
            let next = rows.next_row().map_err(broken(path))?;
            if next == delimited::Next::End {
                self.position.file += 1;
                self.position.file_rows = 0;
                self.open_file()?;
                continue;
            }
            self.position.rows += 1;
            self.position.file_rows += 1;
            let id = self.position.rows;
            return Ok(Some(match next {
                delimited::Next::TooLong => refused(id, "row_too_long"),
                _ => mapping.row(id, rows.width(), |column| {
                    rows.field(column).map(std::borrow::Cow::Borrowed)
                }),
            }));
        }
    }

    fn position(&self) -> Position {
        self.position.clone()
    }
}

/// A row without a readable field.
fn refused(id: i64, reason: &'static str) -> Row {
    let photo = Photo {
        id,
        ..Photo::default()
    };
    Row {
        photo,
        refused: Some(reason),
        note: None,
    }
}

/// Parquet files being read.
pub(crate) struct Parquet {
    config: TableConfig,
    open: Option<(RowIter<'static>, Mapping)>,
    position: Position,
}

impl Parquet {
    pub(crate) fn open(config: &TableConfig, from: Position) -> Result<Parquet, Error> {
        let mut parquet = Parquet {
            config: config.clone(),
            open: None,
            position: from,
        };
        parquet.open_file()?;
        if let Some((rows, _)) = &mut parquet.open
            && let Some(last) = parquet.position.file_rows.checked_sub(1)
        {
            let _ = rows.nth(last as usize);
        }
        Ok(parquet)
    }

    fn open_file(&mut self) -> Result<(), Error> {
        let Some(path) = self.config.files.get(self.position.file) else {
            self.open = None;
            return Ok(());
        };
        let file = File::open(path).map_err(Error::io("read", path))?;
        let reader =
            SerializedFileReader::new(file).map_err(|error| Error::source(path, error.to_string()))?;
        let schema = reader.metadata().file_metadata().schema();
        let header: Vec<String> = schema
            .get_fields()
            .iter()
            .map(|field| field.name().to_string())
            .collect();
        let mapping = Mapping::new(&self.config, &header, path)?;
        self.open = Some((RowIter::from_file_into(Box::new(reader)), mapping));
        Ok(())
    }
}

impl Rows for Parquet {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some((rows, mapping)) = &mut self.open else {
                return Ok(None);
            };
            let path = &self.config.files[self.position.file];
            if let Some(row) = rows.next() {
                let row = row.map_err(|error| Error::source(path, error.to_string()))?;
                self.position.rows += 1;
                self.position.file_rows += 1;
                let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
                return Ok(Some(mapping.row(self.position.rows, fields.len(), |column| {
                    fields.get(column).and_then(|field| bytes_of(field))
                })));
            }
            self.position.file += 1;
            self.position.file_rows = 0;
            self.open_file()?;
        }
    }

    fn position(&self) -> Position {
        self.position.clone()
    }
}

fn bytes_of(field: &Field) -> Option<std::borrow::Cow<'static, [u8]>> {
    let bytes = match field {
        Field::Null => return None,
        Field::Str(text) => text.clone().into_bytes(),
        Field::Bytes(bytes) => bytes.data().to_vec(),
        other => other.to_string().into_bytes(),
    };
    Some(std::borrow::Cow::Owned(bytes))
}

fn broken(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::source(&path, error.to_string()),
        _ => Error::io("read", &path)(error),
    }
}
