//! Lists of photos, read row by row in flat memory, from any row on.

mod compressed;
mod credit;
mod dataset;
mod folder;
mod table;
#[cfg(test)]
mod tests;
mod yfcc;

use std::path::{Path, PathBuf};

use data::Listing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use dataset::DatasetConfig;
pub use folder::FolderConfig;
pub use table::{Columns, TableConfig};
pub use yfcc::YfccConfig;

use crate::error::Error;
use crate::hint::Hint;
use crate::photo::Row;
use crate::settings::changes;
use crate::stages::license::LicenseConfig;

/// A list of photos.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceConfig {
    /// The core file of YFCC100M: metadata only.
    Yfcc100m(YfccConfig),
    /// A CSV or TSV file with a header: metadata only.
    Csv(TableConfig),
    /// A Parquet file: metadata only.
    Parquet(TableConfig),
    /// A folder of photos with sidecar JSON.
    Folder(FolderConfig),
    /// Shards, an image folder, or the PASS release: anything that `passer shards inspect` opens.
    Dataset(DatasetConfig),
}

impl SourceConfig {
    /// Whether the source has the photo files and not only a list of them.
    pub(crate) fn has_files(&self) -> bool {
        matches!(self, SourceConfig::Folder(_) | SourceConfig::Dataset(_))
    }

    /// Key and name of the license of photos that state none.
    pub(crate) fn default_license(&self) -> Option<(&'static str, &str)> {
        match self {
            SourceConfig::Folder(config) => Some(("source.folder.licence", config.license.as_deref()?)),
            SourceConfig::Dataset(config) => Some(("source.dataset.licence", config.license.as_deref()?)),
            _ => None,
        }
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> String {
        let file = match self {
            SourceConfig::Yfcc100m(config) => config.files.first(),
            SourceConfig::Csv(config) | SourceConfig::Parquet(config) => config.files.first(),
            SourceConfig::Folder(config) => Some(&config.folder),
            SourceConfig::Dataset(config) => return config.data.clone(),
        };
        file.map_or(String::new(), |file| file.display().to_string())
    }

    /// The paths in it.
    pub(crate) fn paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            SourceConfig::Yfcc100m(config) => config.files.iter_mut().collect(),
            SourceConfig::Csv(config) | SourceConfig::Parquet(config) => config.files.iter_mut().collect(),
            SourceConfig::Folder(config) => vec![&mut config.folder],
            SourceConfig::Dataset(_) => Vec::new(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let (source, files) = match self {
            SourceConfig::Yfcc100m(config) => ("source.yfcc100m", &config.files),
            SourceConfig::Csv(config) => {
                config.validate("source.csv")?;
                ("source.csv", &config.files)
            }
            SourceConfig::Parquet(config) => {
                config.validate("source.parquet")?;
                ("source.parquet", &config.files)
            }
            SourceConfig::Folder(config) => {
                let folder = config.folder.to_string_lossy();
                Error::unless_filled("source.folder.folder", "a folder of photos", &folder)?;
                let name = config.photographer.as_deref();
                return Error::unless_filled_or_absent("source.folder.photographer", "a name", name);
            }
            SourceConfig::Dataset(config) => {
                return Error::unless_filled("source.dataset.data", "a data set", &config.data);
            }
        };
        let key = format!("{source}.files");
        if files.is_empty() {
            return Err(Error::config(&key, "must be at least one file, got none"));
        }
        for (at, file) in files.iter().enumerate() {
            Error::unless_filled(&key, "names of files", &file.to_string_lossy())?;
            if files.iter().take(at).any(|before| before == file) {
                let reason = format!("must name each file once, got `{}` twice", file.display());
                return Err(Error::config(&key, reason));
            }
        }
        Ok(())
    }
}

/// Where to continue after a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Position {
    /// Rows read so far, over all files; the last row's number.
    pub(crate) rows: i64,
    /// The file, from 0.
    pub(crate) file: usize,
    /// Rows read of that file.
    pub(crate) file_rows: u64,
    /// Bytes read of that file after decompression.
    pub(crate) file_bytes: u64,
    /// The last file of a folder.
    pub(crate) path: Option<String>,
}

/// A source being read.
pub(crate) trait Rows: Send {
    /// The next row; `None` at the end.
    fn next(&mut self) -> Result<Option<Row>, Error>;

    /// Where to continue after the last row.
    fn position(&self) -> Position;

    /// What lies in the source and became no row, or became one by a guess, so far.
    fn listing(&self) -> Listing {
        Listing::default()
    }
}

/// Opens a source at a position. `licenses`: the accepted ones, by which a source tells a license from other texts.
pub(crate) fn open(
    config: &SourceConfig,
    licenses: Option<&LicenseConfig>,
    from: Position,
) -> Result<Box<dyn Rows>, Error> {
    Ok(match config {
        SourceConfig::Yfcc100m(config) => Box::new(yfcc::Yfcc::open(config, from)?),
        SourceConfig::Csv(config) => Box::new(table::Csv::open(config, from)?),
        SourceConfig::Parquet(config) => Box::new(table::Parquet::open(config, from)?),
        SourceConfig::Folder(config) => Box::new(folder::Folder::open(config, licenses, from)?),
        SourceConfig::Dataset(config) => Box::new(dataset::Records::open(config, from)?),
    })
}

/// Photos that a folder or data set holds now and that were not listed: how many, and one of them where it has a
/// name. Of a data set only the number of records is compared.
pub(crate) fn unlisted(
    config: &SourceConfig,
    rows: i64,
    listed: impl FnMut(&str) -> Result<bool, Error>,
) -> Result<(u64, String), Error> {
    match config {
        SourceConfig::Folder(config) => folder::unlisted(&config.folder, listed),
        SourceConfig::Dataset(config) => {
            let records = data::Dataset::reopen(&config.data)?.len() as u64;
            Ok((records.saturating_sub(rows.max(0) as u64), String::new()))
        }
        // A list that changed is an error of the run.
        SourceConfig::Yfcc100m(_) | SourceConfig::Csv(_) | SourceConfig::Parquet(_) => Ok((0, String::new())),
    }
}

/// Whether a source in the ledger had these settings, regardless of the current state of its files.
pub(crate) fn same_without_files(config: &SourceConfig, known: &str) -> bool {
    let known: serde_json::Value = serde_json::from_str(known).unwrap_or_default();
    let known = known
        .get("source")
        .map(|source| serde_json::json!({ "source": source }));
    let now = serde_json::json!({ "source": config });
    known.is_some_and(|known| changes(&known.to_string(), &now).is_empty())
}

/// The values that identify a source: its settings and the lengths of its files.
pub(crate) fn identity(config: &SourceConfig) -> Result<serde_json::Value, Error> {
    let mut bytes = Vec::new();
    for file in files(config) {
        let metadata = std::fs::metadata(file);
        bytes.push(
            metadata
                .map_err(|source| unread_list(config, file, source))?
                .len(),
        );
    }
    Ok(serde_json::json!({ "source": config, "file_bytes": bytes }))
}

/// The files of a list of photos.
fn files(config: &SourceConfig) -> &[PathBuf] {
    match config {
        SourceConfig::Yfcc100m(config) => &config.files,
        SourceConfig::Csv(config) | SourceConfig::Parquet(config) => &config.files,
        SourceConfig::Folder(_) | SourceConfig::Dataset(_) => &[],
    }
}

/// An error for each file or folder of the source that is not there. Data sets are opened by their own crate.
pub(crate) fn unread(config: &SourceConfig) -> Vec<Error> {
    let lists = files(config).iter().filter_map(|file| {
        let source = std::fs::metadata(file).err()?;
        Some(unread_list(config, file, source))
    });
    let mut unread: Vec<Error> = lists.collect();
    if let SourceConfig::Folder(folder) = config {
        unread.extend(folder::Folder::check(folder).err());
    }
    unread
}

fn unread_list(config: &SourceConfig, file: &Path, source: std::io::Error) -> Error {
    let key = match config {
        SourceConfig::Parquet(_) => "source.parquet.files",
        _ => "source.csv.files",
    };
    Error::List {
        path: file.to_path_buf(),
        source,
        hint: match config {
            SourceConfig::Yfcc100m(_) => Hint::RequestYfcc,
            _ => Hint::NameList { key },
        },
    }
}
