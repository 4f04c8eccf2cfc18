//! Everything that the ledger knows of one photo: each decision with its detail, answers, duplicates, takedown
//! and releases.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Config;
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{DuplicateOf, GivenAnswer, Ledger, TakenDown, Verdict};
use crate::photo::Photo;

/// What happened to the photos of one key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// The rows of the source with this key; mostly one.
    pub rows: Vec<WhyRow>,
    /// All answers to it, oldest first.
    pub answers: Vec<GivenAnswer>,
    /// Its takedown.
    pub taken_down: Option<TakenDown>,
    /// The releases that hold it.
    pub releases: Vec<u32>,
}

/// One row of the source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WhyRow {
    /// The row's number in the source, from 1.
    pub row: i64,
    /// Title.
    pub title: Option<String>,
    /// Photographer.
    pub photographer: Option<String>,
    /// The license's name, as the source has it.
    #[serde(rename = "licence")]
    pub license: Option<String>,
    /// The license's address, as the source has it.
    #[serde(rename = "licence_url")]
    pub license_url: Option<String>,
    /// Its file, where that is a separate one.
    pub file: Option<PathBuf>,
    /// SHA-256 of its file, if a stage or the review page read it.
    pub sha256: Option<String>,
    /// Every decision, in the order of the stages.
    pub decisions: Vec<Verdict>,
    /// Photos that are duplicates of it, the most similar first.
    pub duplicates: Vec<DuplicateOf>,
}

/// Keys that are suggested for an unknown one, at most.
const SUGGESTED: usize = 5;

/// Reads what the ledger in `folder` knows of a key; also during a run. The name of a photo's file is taken for its
/// key, where one file alone has that name.
///
/// # Errors
/// No curation there, a key that was never listed, or a ledger that cannot be read.
pub fn why(folder: &Path, key: &str) -> Result<Why, Error> {
    let ledger = Ledger::open_read_only(folder)?;
    // Without the photos the paths of files are missing, and nothing else.
    let photos = Config::of(&ledger, folder)
        .and_then(|config| config.photos(folder))
        .ok();
    let by_file = match ledger.was_listed(key)? {
        true => None,
        false => ledger.key_of_file(key)?,
    };
    let key = by_file.as_ref().map_or(key, |(key, _)| key.as_str());
    let mut why = Why {
        rows: Vec::new(),
        answers: ledger.answers_to(key)?,
        taken_down: ledger.takedown_of(key)?,
        releases: ledger.releases_of(key)?,
    };
    for id in ledger.ids_of_key(key)? {
        let photo = ledger.photo(id)?.unwrap_or_default();
        let path = photos.as_ref().and_then(|photos| photos.path(&photo));
        let Photo {
            title,
            photographer,
            license,
            license_url,
            ..
        } = photo;
        why.rows.push(WhyRow {
            row: id,
            title,
            photographer,
            license,
            license_url,
            file: path.filter(|path| path.is_file()),
            sha256: ledger.content_of(id)?.map(|(content, _)| data::hex(&content)),
            decisions: ledger.verdicts(id)?,
            duplicates: ledger
                .duplicates_of(id)?
                .into_iter()
                .map(|(_, other)| other)
                .collect(),
        });
    }
    if why.rows.is_empty() && why.taken_down.is_none() && why.releases.is_empty() {
        let like = ledger.keys_like(key, SUGGESTED)?;
        let like: Vec<String> = like.iter().map(|key| format!("`{key}`")).collect();
        return Err(Error::Stage {
            stage: "source".to_string(),
            reason: match like.is_empty() {
                true => format!("no photo was ever listed under `{key}`"),
                false => format!(
                    "no photo was ever listed under `{key}`; some keys have it within: {}",
                    like.join(", ")
                ),
            },
            hint: Some(Hint::KeysAreInTheLedger),
        });
    }
    Ok(why)
}
