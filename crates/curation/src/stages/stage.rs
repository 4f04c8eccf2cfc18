//! The interface of a stage, and the work that it receives.
//!
//! A stage requests photos from [`Work`] and returns decisions, in any order; the ledger remembers which
//! photos are open. A new stage needs its file, its variant in [`StageConfig`](crate::StageConfig) and its
//! arms there. Photos that were taken down never reach a stage: [`Work`] checks the ledger, and drops them
//! with their downloads.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::files::{Files, panicked};
use crate::error::Error;
use crate::ledger::{Decision, Ledger, TAKEN_DOWN};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::progress::Progress;

/// One step of the chain: keeps or drops each photo that the step before it kept.
pub trait Stage {
    /// Decides on every photo that `work` gives, until it gives none.
    ///
    /// # Errors
    /// A cause that stops the whole run. A broken photo is not one: it is dropped with its reason.
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error>;
}

/// The photos that a stage still has to decide on, and the place for its decisions.
pub struct Work<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) name: &'a str,
    pub(crate) stage: i64,
    pub(crate) previous: i64,
    pub(crate) cursor: i64,
    pub(crate) decided: u64,
    pub(crate) total: u64,
    pub(crate) photos: &'a Photos,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) progress: Progress<'a>,
}

impl<'a> Work<'a> {
    /// The next photos without a decision, at most `most`; empty when all have been handed out.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user interrupts the run; a ledger that cannot be read.
    pub fn next(&mut self, most: usize) -> Result<Vec<Photo>, Error> {
        loop {
            self.check_stop()?;
            let batch = self
                .ledger
                .undecided(self.previous, self.stage, self.cursor, most)?;
            self.cursor = batch.last().unwrap_or(self.cursor);
            if !batch.taken_down.is_empty() {
                let gone = batch.taken_down.iter();
                let gone: Vec<Decision> = gone
                    .map(|photo| Decision::dropped(photo.id, TAKEN_DOWN))
                    .collect();
                self.decide(&gone)?;
                if batch.photos.is_empty() {
                    continue;
                }
            }
            return Ok(batch.photos);
        }
    }

    /// Writes decisions in one transaction.
    ///
    /// # Errors
    /// A ledger that cannot be written.
    pub fn decide(&mut self, decisions: &[Decision]) -> Result<(), Error> {
        self.decide_with(decisions, |_| Ok(()))
    }

    /// [`Work::decide`], with further writes in the same transaction.
    pub(crate) fn decide_with(
        &mut self,
        decisions: &[Decision],
        more: impl FnOnce(&mut Ledger) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.remove_downloads(decisions)?;
        let stage = self.stage;
        self.ledger.transaction(|ledger| {
            ledger.add_decisions(stage, decisions)?;
            more(ledger)
        })?;
        self.decided += decisions.len() as u64;
        (self.progress)(self.name, self.decided, self.total);
        Ok(())
    }

    /// Deletes the downloads of photos that were taken down, before the ledger has the decision: a process
    /// that is killed between the two handles the photo again on the next run.
    fn remove_downloads(&self, decisions: &[Decision]) -> Result<(), Error> {
        if !self.photos.are_fetched() {
            return Ok(());
        }
        let gone = |decision: &&Decision| decision.reason.as_deref() == Some(TAKEN_DOWN);
        for decision in decisions.iter().filter(gone) {
            if let Some(photo) = self.ledger.photo(decision.photo)? {
                self.photos.remove(&photo)?;
            }
        }
        Ok(())
    }

    /// Every photo that the previous stage kept, decided or not, for stages that need all photos before the
    /// first decision. Photos that were taken down are excluded.
    pub(crate) fn for_each_input(&self, mut look: impl FnMut(&Photo)) -> Result<(), Error> {
        let mut cursor = 0;
        loop {
            self.check_stop()?;
            let photos = self.ledger.survivors(self.previous, cursor, 20_000)?;
            let Some(last) = photos.last() else {
                return Ok(());
            };
            cursor = last.id;
            photos.iter().for_each(&mut look);
        }
    }

    /// Decides on all photos by a function of each alone, on all cores, with `batch` photos per transaction.
    ///
    /// # Errors
    /// As [`Work::next`] and [`Work::decide`].
    pub fn judge_each(
        &mut self,
        batch: usize,
        judge: impl Fn(&Photo) -> Decision + Sync,
    ) -> Result<(), Error> {
        self.judge_each_with_notes(batch, |photo, _| judge(photo))
    }

    /// [`Work::judge_each`] by a function that also gets the source's note on the photo.
    pub(crate) fn judge_each_with_notes(
        &mut self,
        batch: usize,
        judge: impl Fn(&Photo, Option<&str>) -> Decision + Sync,
    ) -> Result<(), Error> {
        loop {
            let photos = self.next(batch)?;
            let (Some(first), Some(last)) = (photos.first(), photos.last()) else {
                return Ok(());
            };
            let notes = self.ledger.notes_of_source(first.id, last.id)?;
            let judge = |photo: &Photo| {
                let note = notes.get(&photo.id).map(String::as_str);
                data::caught(|| judge(photo, note)).unwrap_or_else(|message| panicked(photo.id, message))
            };
            let decisions: Vec<Decision> = photos.par_iter().with_min_len(256).map(judge).collect();
            self.decide(&decisions)?;
        }
    }

    /// Reads the files of a batch of photos.
    pub(crate) fn files(&self, batch: &[Photo]) -> Result<Files<'a>, Error> {
        Ok(Files {
            photos: self.photos,
            gate: self.ledger.gate(batch)?,
        })
    }

    /// # Errors
    /// [`Error::Interrupted`] when the user interrupts the run.
    pub(crate) fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}
