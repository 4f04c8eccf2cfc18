//! `pass_metadata.csv`, the table of authors, dates and places that ships with the PASS release.
//!
//! 1.4 million rows are too many to keep in memory, and training never reads them. So the first lookup scans
//! the file for the offset of every row (16 bytes each), and each lookup reads one row.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::delimited::{self, Next};
use crate::error::Error;
use crate::record::Metadata;

/// Name of the file, beside the tars.
pub(crate) const FILE_NAME: &str = "pass_metadata.csv";

/// The file, with the offsets of its rows.
#[derive(Debug)]
pub(crate) struct PassMetadata {
    path: PathBuf,
    rows: OnceLock<Result<Rows, String>>,
}

#[derive(Debug)]
struct Rows {
    header: Vec<String>,
    /// Hash of the image's name, and offset of its row, sorted.
    offsets: Vec<(u64, u64)>,
}

impl PassMetadata {
    /// The file in a folder, if it exists.
    pub(crate) fn find(folder: &Path) -> Option<PassMetadata> {
        let path = folder.join(FILE_NAME);
        path.is_file().then(|| PassMetadata {
            path,
            rows: OnceLock::new(),
        })
    }

    /// The row of an image, by its file name without extension (the `hash` column); `None` if there is no
    /// row.
    ///
    /// # Errors
    /// A sentence, where the file cannot be read or differs from the published one.
    fn get(&self, name: &str) -> Result<Option<Metadata>, String> {
        let rows = self
            .rows
            .get_or_init(|| Rows::read(&self.path).map_err(|error| error.to_string()));
        let rows = rows
            .as_ref()
            .map_err(|error| format!("`{}`: {error}", self.path.display()))?;
        let sought = hash(name);
        let first = rows.offsets.partition_point(|(hash, _)| *hash < sought);
        for (_, offset) in rows.offsets[first..]
            .iter()
            .take_while(|(hash, _)| *hash == sought)
        {
            let row = self
                .row(*offset)
                .map_err(|error| format!("`{}`: {error}", self.path.display()))?;
            if rows.field(&row, "hash") == Some(name) {
                return Ok(Some(rows.metadata(&row)));
            }
        }
        Ok(None)
    }

    fn row(&self, offset: u64) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut rows = delimited::Rows::new(BufReader::with_capacity(1024, file), b',')?;
        rows.next_row()?;
        Ok(cells(&rows))
    }
}

/// The fields of the last row. A photographer's name must not cause a failure: invalid UTF-8 becomes U+FFFD.
fn cells<R: io::BufRead>(rows: &delimited::Rows<R>) -> Vec<String> {
    rows.fields()
        .map(|field| String::from_utf8_lossy(field).into_owned())
        .collect()
}

impl PassMetadata {
    /// The row of a record, by its key, whose last part is the image's name; empty where there is no row.
    pub(crate) fn of_key(&self, key: &str) -> Result<Metadata, Error> {
        let name = key.rsplit('/').next().unwrap_or(key);
        let row = self.get(name).map_err(|reason| Error::Record {
            key: key.to_string(),
            reason,
        })?;
        Ok(row.unwrap_or_default())
    }
}

/// The license of each image of the table.
pub(crate) struct PassLicenses {
    /// Hash of the image's name, and the place of its license in `names`, sorted.
    images: Vec<(u64, u16)>,
    names: Vec<String>,
}

impl PassLicenses {
    /// The license of a record, by its key.
    pub(crate) fn of_key(&self, key: &str) -> Option<&str> {
        let name = hash(key.rsplit('/').next().unwrap_or(key));
        let at = self.images.binary_search_by_key(&name, |(hash, _)| *hash).ok()?;
        Some(&self.names[usize::from(self.images[at].1)])
    }
}

impl PassMetadata {
    /// The licenses of all images, from one pass over the table: 16 bytes per image during the count.
    ///
    /// # Errors
    /// [`Error`] where the table cannot be read.
    pub(crate) fn licenses(&self) -> Result<PassLicenses, Error> {
        self.read_licenses().map_err(Error::io("read", &self.path))
    }

    fn read_licenses(&self) -> io::Result<PassLicenses> {
        let mut images = Vec::new();
        let mut numbers = BTreeMap::<String, u16>::new();
        let mut table = open(&self.path)?;
        let header = cells(&table);
        let column = |name| header.iter().position(|column| column == name);
        let (Some(name), Some(license)) = (column("hash"), column("licensename")) else {
            return Ok(PassLicenses {
                images,
                names: Vec::new(),
            });
        };
        loop {
            match table.next_row()? {
                Next::End => break,
                Next::TooLong => continue,
                Next::Row => {}
            }
            let text = |column| {
                std::str::from_utf8(table.field(column)?)
                    .ok()
                    .filter(|text| !text.is_empty())
            };
            let (Some(name), Some(license)) = (text(name), text(license)) else {
                continue;
            };
            let number = match numbers.get(license) {
                Some(number) => *number,
                // Far more than are counted separately later.
                None if numbers.len() == usize::from(u16::MAX) => continue,
                None => {
                    let number = numbers.len() as u16;
                    numbers.insert(license.to_owned(), number);
                    number
                }
            };
            images.push((hash(name), number));
        }
        images.sort_unstable();
        let mut names = numbers.into_iter().collect::<Vec<_>>();
        names.sort_unstable_by_key(|(_, number)| *number);
        Ok(PassLicenses {
            images,
            names: names.into_iter().map(|(name, _)| name).collect(),
        })
    }
}

/// The table after its header, which is the current row.
fn open(path: &Path) -> io::Result<delimited::Rows<BufReader<File>>> {
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut table = delimited::Rows::new(file, b',')?;
    table.next_row()?;
    Ok(table)
}

impl Rows {
    fn read(path: &Path) -> io::Result<Rows> {
        let mut table = open(path)?;
        let header = cells(&table);
        let column = header.iter().position(|column| column == "hash");
        let mut offsets = Vec::new();
        loop {
            match table.next_row()? {
                Next::End => break,
                Next::TooLong => continue,
                Next::Row => {}
            }
            let name = column.and_then(|column| std::str::from_utf8(table.field(column)?).ok());
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                offsets.push((hash(name), table.offset()));
            }
        }
        offsets.sort_unstable();
        offsets.shrink_to_fit();
        Ok(Rows { header, offsets })
    }

    fn field<'a>(&self, row: &'a [String], name: &str) -> Option<&'a str> {
        let column = self.header.iter().position(|column| column == name)?;
        row.get(column)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    fn metadata(&self, row: &[String]) -> Metadata {
        let text = |name| self.field(row, name).map(str::to_string);
        let number = |name| self.field(row, name).and_then(|text| text.parse().ok());
        Metadata {
            photographer: self.field(row, "unickname").map(url_decoded),
            license: text("licensename"),
            date_taken: text("datetaken"),
            latitude: number("latitude"),
            longitude: number("longitude"),
            ..Metadata::default()
        }
    }
}

/// Nicknames are encoded as in a web address: `+` for a blank, `%XX` for other bytes.
fn url_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

/// Only compared within one process, so the standard library's hash is enough.
fn hash(name: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_hash_and_decoded() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(FILE_NAME),
            ",unickname,datetaken,licensename,hash,latitude,longitude\n\
             3,Ann+B%C3%A9,2004-05-17 00:44:29.0,Attribution License,1c2d,48.5,-2.25\n\
             9,x,,Attribution License,ffee,,\n",
        )
        .unwrap();
        let metadata = PassMetadata::find(folder.path()).unwrap();
        let row = metadata.get("1c2d").unwrap().unwrap();
        assert_eq!(row.photographer.as_deref(), Some("Ann Bé"));
        assert_eq!(row.license.as_deref(), Some("Attribution License"));
        assert_eq!((row.latitude, row.longitude), (Some(48.5), Some(-2.25)));
        let other = metadata.get("ffee").unwrap().unwrap();
        assert_eq!((other.date_taken, other.latitude), (None, None));
        assert_eq!(metadata.get("none").unwrap(), None);
        let licenses = metadata.licenses().unwrap();
        assert_eq!(licenses.of_key("0/ffee"), Some("Attribution License"));
        assert_eq!(licenses.of_key("none"), None);
    }

    #[test]
    fn an_unpaired_quote_is_named_and_not_taken_for_missing_rows() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(FILE_NAME),
            "unickname,hash\nAnn,1c2d\n\"Bob,3e4f\nEve,ffee\n",
        )
        .unwrap();
        let metadata = PassMetadata::find(folder.path()).unwrap();
        let error = metadata.get("ffee").unwrap_err();
        assert!(error.contains("line 3: a quoted field begins here"), "{error}");
    }
}
