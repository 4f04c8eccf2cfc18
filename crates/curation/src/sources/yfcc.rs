//! The core file of YFCC100M: 25 columns without a header, separated by tabs, text URL-encoded.

use std::io::BufRead;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compressed::{self, next_line};
use super::{Position, Rows};
use crate::error::Error;
use crate::photo::{KeyRule, Photo, Row, degrees, plain, refusal, url_decoded};

/// The core file of YFCC100M.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct YfccConfig {
    /// The file, or its parts in order; plain, `.gz`, `.bz2` or `.zst`.
    pub files: Vec<PathBuf>,
}

const COLUMNS: usize = 25;
/// Longest row that is read, bytes; the longest of the real file is far below.
const LONGEST_ROW: usize = 4 << 20;
/// If this many rows at the start of a file hold no valid row, it is a different kind of file.
const FIRST_ROWS: u64 = 100;

/// The file being read.
pub(crate) struct Yfcc {
    files: Vec<PathBuf>,
    reader: Option<Box<dyn BufRead + Send>>,
    position: Position,
    good: bool,
    line: Vec<u8>,
}

impl Yfcc {
    pub(crate) fn open(config: &YfccConfig, from: Position) -> Result<Yfcc, Error> {
        let mut yfcc = Yfcc {
            files: config.files.clone(),
            reader: None,
            good: from.rows > 0,
            position: from,
            line: Vec::new(),
        };
        yfcc.open_file()?;
        Ok(yfcc)
    }

    fn open_file(&mut self) -> Result<(), Error> {
        self.reader = match self.files.get(self.position.file) {
            Some(path) => Some(compressed::open(path, self.position.file_bytes)?),
            None => None,
        };
        Ok(())
    }
}

impl Rows for Yfcc {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some(reader) = &mut self.reader else {
                return Ok(None);
            };
            let path = &self.files[self.position.file];
            let (taken, long) =
                next_line(reader.as_mut(), &mut self.line, LONGEST_ROW).map_err(Error::io("read", path))?;
            if taken == 0 {
                self.position = Position {
                    rows: self.position.rows,
                    file: self.position.file + 1,
                    ..Position::default()
                };
                self.open_file()?;
                continue;
            }
            self.position.rows += 1;
            self.position.file_rows += 1;
            self.position.file_bytes += taken;
            let mut row = match long {
                true => refused("row_too_long"),
                false => read_row(&self.line),
            };
            row.photo.id = self.position.rows;
            if !self.good {
                self.good = row.refused != Some("malformed_row");
                if !self.good && self.position.file_rows >= FIRST_ROWS {
                    let found = self.line.split(|byte| *byte == b'\t').count();
                    let reason = format!(
                        "none of the first {FIRST_ROWS} rows has YFCC100M's {COLUMNS} columns separated by tabs; the last has {found}"
                    );
                    return Err(Error::source(path, reason));
                }
            }
            return Ok(Some(row));
        }
    }

    fn position(&self) -> Position {
        self.position.clone()
    }
}

fn refused(reason: &'static str) -> Row {
    Row {
        photo: Photo::default(),
        refused: Some(reason),
        note: None,
    }
}

fn read_row(line: &[u8]) -> Row {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut fields: [&[u8]; COLUMNS] = [&[]; COLUMNS];
    let mut count = 0;
    for field in line.split(|byte| *byte == b'\t') {
        if let Some(place) = fields.get_mut(count) {
            *place = field;
        }
        count += 1;
    }
    // One extra tab shifts the columns, and a license must never be read from the wrong one.
    if count != COLUMNS {
        return refused("malformed_row");
    }
    let number = |field: &[u8], limit| {
        std::str::from_utf8(field)
            .ok()
            .and_then(|text| degrees(text, limit))
    };
    let photo = Photo {
        id: 0,
        key: String::from_utf8_lossy(fields[2]).into_owned(),
        photographer_id: plain(fields[3]),
        photographer: url_decoded(fields[4]),
        date_taken: plain(fields[5]).filter(|date| date != "null"),
        title: url_decoded(fields[8]),
        longitude: number(fields[12], 180.0),
        latitude: number(fields[13], 90.0),
        page_url: plain(fields[15]),
        image_url: plain(fields[16]),
        license: plain(fields[17]),
        license_url: plain(fields[18]),
        label: None,
        locator: None,
    };
    let refused = match fields[24] {
        b"0" => refusal(&photo, KeyRule::Name),
        b"1" => Some("video"),
        _ => Some("malformed_row"),
    };
    Row {
        photo,
        refused,
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const REAL: &str = "6639\t6162540254\t4ccb23d8746b8d9d76ffd603fc7988\t15087210@N00\thenribergius\t2011-09-10 21:13:32.0\t1316432672\tNokia+N950\tAround+the+waterpipe\t\thelsinki,party,waterpipe\t\t\t\t\thttp://www.flickr.com/photos/15087210@N00/6162540254/\thttp://farm7.staticflickr.com/6167/6162540254_5d22abd711.jpg\tAttribution-ShareAlike License\thttp://creativecommons.org/licenses/by-sa/2.0/\t6167\t7\t5d22abd711\t44e5acb0f2\tjpg\t0";

    fn with(column: usize, text: &[u8]) -> Row {
        let mut fields: Vec<&[u8]> = REAL.as_bytes().split(|byte| *byte == b'\t').collect();
        fields[column] = text;
        read_row(&fields.join(&b'\t'))
    }

    #[test]
    fn a_real_row_is_read() {
        let row = read_row(REAL.as_bytes());
        assert_eq!(row.refused, None);
        let photo = row.photo;
        assert_eq!(photo.key, "4ccb23d8746b8d9d76ffd603fc7988");
        assert_eq!(photo.photographer.as_deref(), Some("henribergius"));
        assert_eq!(photo.title.as_deref(), Some("Around the waterpipe"));
        assert_eq!(photo.license.as_deref(), Some("Attribution-ShareAlike License"));
        assert_eq!((photo.latitude, photo.longitude), (None, None));
    }

    #[test]
    fn hostile_rows_are_refused_with_their_reason() {
        assert_eq!(with(8, b"a\tb").refused, Some("malformed_row"));
        assert_eq!(read_row(b"").refused, Some("malformed_row"));
        assert_eq!(read_row(&REAL.as_bytes()[..200]).refused, Some("malformed_row"));
        assert_eq!(with(24, b"1").refused, Some("video"));
        assert_eq!(with(24, b"x").refused, Some("malformed_row"));
        assert_eq!(with(2, b"").refused, Some("no_key"));
        assert_eq!(with(2, b"../../etc/passwd").refused, Some("unsafe_key"));
        assert_eq!(with(4, b"\xff\xfe").refused, Some("broken_text"));
        assert_eq!(with(8, &[b'x'; 1 << 20]).refused, Some("field_too_long"));
        // A megabyte in an unused column does no harm.
        assert_eq!(with(9, &[b'x'; 1 << 20]).refused, None);
    }

    #[test]
    fn odd_but_harmless_rows_are_read() {
        assert_eq!(with(8, b"a%09b").photo.title.as_deref(), Some("a\tb"));
        assert_eq!(
            with(4, b"%3Cscript%3E").photo.photographer.as_deref(),
            Some("<script>")
        );
        let south_west = with(12, b"-113.565075").photo.longitude;
        assert_eq!(south_west, Some(-113.565075));
        assert_eq!(with(13, b"-33.9").photo.latitude, Some(-33.9));
        assert_eq!(with(13, b"-133.9").photo.latitude, None);
    }

    #[test]
    fn another_file_is_found_out_early() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.csv");
        std::fs::write(&path, "a,b,c\n".repeat(1000)).unwrap();
        let config = YfccConfig { files: vec![path] };
        let mut rows = Yfcc::open(&config, Position::default()).unwrap();
        let error = loop {
            match rows.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("not found out"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("25 columns"), "{error}");
    }

    #[test]
    fn reading_goes_on_at_any_row_of_any_file() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..3)
            .map(|part| folder.path().join(format!("{part}.tsv")))
            .collect();
        for (part, file) in files.iter().enumerate() {
            let row = REAL.replace("4ccb23d8746b8d9d76ffd603fc7988", &format!("{part}"));
            // The last file has no line end.
            std::fs::write(file, if part == 2 { row } else { format!("{row}\nbad\n") }).unwrap();
        }
        let config = YfccConfig { files };
        let all = |from: Position| {
            let mut rows = Yfcc::open(&config, from).unwrap();
            let mut found = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                found.push((row, rows.position()));
            }
            found
        };
        let whole = all(Position::default());
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[4].0.photo.id, 5);
        for at in 0..5 {
            assert_eq!(all(whole[at].1.clone()), whole[at + 1..]);
        }
    }
}
