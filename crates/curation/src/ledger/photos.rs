//! Photos as they are read from the rows of the source.

use rusqlite::{OptionalExtension, Row as SqlRow};

use super::Ledger;
use crate::error::Error;
use crate::photo::Photo;

/// The columns that [`photo_of`] reads, of `photos p` and `licences l`.
pub(super) const PHOTO_COLUMNS: &str = "p.id, p.key, p.photographer, p.photographer_id, p.title, p.date_taken, p.latitude, p.longitude, \
     p.page_url, p.image_url, l.name, l.url, p.label, p.locator";

impl Ledger {
    /// The photo of that number.
    pub(crate) fn photo(&self, id: i64) -> Result<Option<Photo>, Error> {
        let query = format!(
            "SELECT {PHOTO_COLUMNS} FROM photos p LEFT JOIN licences l ON l.id = p.licence WHERE p.id = ?"
        );
        self.sql(|db| db.prepare_cached(&query)?.query_row([id], photo_of).optional())
    }

    /// The numbers of all rows with a key.
    pub(crate) fn ids_of_key(&self, key: &str) -> Result<Vec<i64>, Error> {
        self.sql(|db| {
            db.prepare_cached("SELECT id FROM photos WHERE key = ? ORDER BY id")?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    }

    /// The key of the photo whose file has this name, or this path in its source, and how many files share that
    /// key; `None` where no file or several have the name.
    pub(crate) fn key_of_file(&self, name: &str) -> Result<Option<(String, usize)>, Error> {
        let files: Vec<String> = self.sql(|db| {
            db.prepare(
                "SELECT key FROM photos WHERE locator = ?1 OR substr(locator, -length(?1) - 1) = '/' || ?1 LIMIT 2",
            )?
            .query_map([name], |row| row.get(0))?
            .collect()
        })?;
        match <[String; 1]>::try_from(files) {
            Ok([key]) => {
                let sharing = self.ids_of_key(&key)?.len();
                Ok(Some((key, sharing)))
            }
            Err(_) => Ok(None),
        }
    }
}

/// Reads [`PHOTO_COLUMNS`].
pub(super) fn photo_of(row: &SqlRow<'_>) -> rusqlite::Result<Photo> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Photo {
        id: row.get(0)?,
        key: row.get(1)?,
        photographer: row.get(2)?,
        photographer_id: row.get(3)?,
        title: row.get(4)?,
        date_taken: row.get(5)?,
        latitude: row.get(6)?,
        longitude: row.get(7)?,
        page_url: row.get(8)?,
        image_url: row.get(9)?,
        license: filled(row.get(10)?),
        license_url: filled(row.get(11)?),
        label: row.get(12)?,
        locator: row.get(13)?,
    })
}
