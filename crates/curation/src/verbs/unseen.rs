//! Files that no stage has read, so that it is unknown whether they hold taken-down bytes.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::Error;
use crate::ledger::{Content, Ledger, sha256};
use crate::photo::Photo;
use crate::photos::Photos;

/// Photos read at a time.
const BATCH: usize = 256;

/// The photos whose files are read.
pub(super) struct Unseen<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) photos: &'a Photos,
    /// Number of the stage that kept them.
    pub(super) stage: i64,
    pub(super) stop: &'a AtomicBool,
}

impl Unseen<'_> {
    /// Keys of the photos whose files were taken down under another key.
    pub(super) fn taken_down(&self) -> Result<BTreeSet<String>, Error> {
        let gate = self.ledger.gate(&[])?;
        if gate.is_open() {
            return Ok(BTreeSet::new());
        }
        self.keys(|photo| {
            let file = self.photos.read(photo).ok();
            // A file that cannot be read cannot be released either; packing reports it.
            file.is_some_and(|file| gate.check(photo.id, &sha256(&file)).is_err())
        })
    }

    /// Keys of the photos whose files have one of these contents. Files of a length that is not in `lengths`
    /// are not read.
    pub(super) fn with_contents(
        &self,
        contents: &HashSet<Content>,
        lengths: &HashSet<u64>,
    ) -> Result<BTreeSet<String>, Error> {
        if contents.is_empty() || lengths.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.keys(|photo| {
            let path = self.photos.path(photo);
            let length = path.and_then(|path| std::fs::metadata(path).ok());
            if length.is_some_and(|facts| !lengths.contains(&facts.len())) {
                return false;
            }
            let file = self.photos.read(photo).ok();
            file.is_some_and(|file| contents.contains(&sha256(&file)))
        })
    }

    /// Keys of the photos that no stage has read and that `looks` selects.
    fn keys(&self, looks: impl Fn(&Photo) -> bool + Sync) -> Result<BTreeSet<String>, Error> {
        let mut keys = BTreeSet::new();
        let mut cursor = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let batch = self.ledger.survivors(self.stage, cursor, BATCH)?;
            let Some(last) = batch.last() else {
                return Ok(keys);
            };
            cursor = last.id;
            let gate = self.ledger.gate(&batch)?;
            let picked: Vec<&Photo> = batch
                .par_iter()
                .filter(|photo| !gate.was_seen(photo.id) && looks(photo))
                .collect();
            keys.extend(picked.into_iter().map(|photo| photo.key.clone()));
        }
    }
}
