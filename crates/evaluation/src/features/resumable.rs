//! Features being written to disk: batch by batch, so that a million records need little memory, and
//! resumable after a kill at any moment.
//!
//! While `NAME` is being written, the folder `NAME.partial` is next to it:
//!
//! | file | |
//! |---|---|
//! | one per tap, `pooled` | its rows one after another, f32 or f16 |
//! | `positions` | u32, the record of each row |
//! | `pixel_hashes` | u64, the hash of each row's pixels; absent in work that an earlier version began |
//! | `state.json` | identity of the work, and how much of the other files is safely on disk |
//!
//! A resume truncates those files to that length. Batches are always cut at the same records, so the features
//! equal those of an uninterrupted run to the bit.

use super::file::{Bytes, Cut, TensorPart};
use super::matrix::Features;
use super::work::{FeatureType, Work};
use crate::error::{Error, io};
use data::{FolderLock, durable};
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VERSION: u32 = 1;
const POSITIONS: &str = "positions";
const PIXEL_HASHES: &str = "pixel_hashes";
const STATE: &str = "state.json";
const LOCK: &str = ".lock";
/// What version 0.1 left of [`STATE`] when it was killed while it wrote it.
const STATE_OF_0_1: &str = ".state.json.partial";
/// Rows are kept after the first batch and then this often; less often where syncing would take over a twentieth of the
/// time.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// What is safely on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    work: Work,
    /// Width of each tap.
    widths: Vec<usize>,
    rows: usize,
    /// The batch after the finished ones, which include their broken records.
    batches: usize,
}

/// What to do with unfinished features of other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Give an error that names them.
    Refuse,
    /// Remove them: the folder is a cache that manages itself.
    Discard,
}

/// Features of the first batches of a data set.
#[derive(Debug)]
pub(crate) struct ResumableFeatures {
    path: PathBuf,
    folder: PathBuf,
    state: State,
    taps: Vec<File>,
    positions: File,
    /// `None` where an earlier version made the first rows.
    pixel_hashes: Option<File>,
    /// When the rows were last kept. `None` until then: the first batch is kept at once.
    kept: Option<Instant>,
    keep_every: Duration,
    _lock: FolderLock,
}

impl ResumableFeatures {
    /// The unfinished features of this work next to `path`, or an empty start.
    ///
    /// # Errors
    /// [`Error::Lock`], and [`Error::Unfinished`] if other work's features are there and `unfinished` refuses
    /// them.
    pub(crate) fn open(path: &Path, work: Work, unfinished: Unfinished) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.with_file_name(format!("{name}.partial"));
        let lock = FolderLock::take(&folder)?;
        durable::remove_leftovers(&folder)?;
        let mut state = State {
            version: VERSION,
            widths: vec![],
            rows: 0,
            batches: work.batches().start,
            work,
        };
        match stored(&folder) {
            Ok(None) => {}
            Ok(Some(found)) => match state.work.difference(&found.work) {
                None => state = found,
                Some(stored) if unfinished == Unfinished::Refuse => {
                    return Err(Error::Unfinished { path: folder, stored });
                }
                Some(other) => {
                    tracing::info!("unfinished features are of {other}; starting again");
                    remove(&folder, found.work.taps.iter().map(String::as_str));
                }
            },
            Err(reason) => tracing::warn!(
                "`{}`: unfinished features cannot be resumed, starting again: {reason}",
                folder.display()
            ),
        }
        if state.rows == 0 {
            // Remove the state before its files; otherwise it would describe other rows.
            match fs::remove_file(folder.join(STATE)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", &folder.join(STATE))(error));
                }
                _ => {}
            }
        }
        let open = |name: &str, bytes: usize| at(&folder.join(name), bytes as u64);
        let per_number = state.work.feature_type.bytes();
        let widths = state.widths.iter().chain(std::iter::repeat(&0));
        let taps = (state.work.taps.iter().zip(widths))
            .map(|(tap, width)| open(tap, state.rows * width * per_number))
            .collect::<Result<_, _>>()?;
        let positions = open(POSITIONS, state.rows * size_of::<u32>())?;
        let hashes = folder.join(PIXEL_HASHES);
        let hashes_bytes = state.rows * size_of::<u64>();
        let are_known =
            state.rows == 0 || fs::metadata(&hashes).is_ok_and(|file| file.len() >= hashes_bytes as u64);
        let pixel_hashes = match are_known {
            true => Some(open(PIXEL_HASHES, hashes_bytes)?),
            false => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            state,
            taps,
            positions,
            pixel_hashes,
            kept: None,
            keep_every: KEEP_EVERY,
            folder,
            _lock: lock,
        })
    }

    /// The batch to go on with.
    pub(crate) fn next_batch(&self) -> usize {
        self.state.batches
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.state.rows
    }

    /// Records without a row in the finished batches.
    pub(crate) fn bad_records(&self) -> usize {
        let work = &self.state.work;
        work.records_of(work.batches().start..self.state.batches) - self.state.rows
    }

    /// Adds the rows of the next batch that has any: for each tap its width and one row per position, which has one
    /// of the `pixel_hashes`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] and [`Error::AboveF16`], which name the record; `set` names the data set.
    pub(crate) fn push(
        &mut self,
        positions: &[usize],
        pixel_hashes: &[u64],
        rows: &[(usize, Vec<f32>)],
        set: &'static str,
        key: impl Fn(usize) -> Result<String, Error>,
    ) -> Result<(), Error> {
        if self.state.rows == 0 {
            self.state.widths = rows.iter().map(|(width, _)| *width).collect();
        }
        let row_of = |place: usize, width: usize| place / width.max(1);
        for (width, values) in rows {
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                let row = row_of(place, *width);
                return Err(Error::NotFinite {
                    set,
                    row: self.state.rows + row,
                    key: key(positions[row])?,
                });
            }
        }
        for (index, (width, values)) in rows.iter().enumerate() {
            let (tap, file) = (&self.state.work.taps[index], &mut self.taps[index]);
            let written = match self.state.work.feature_type {
                FeatureType::F32 => file.write_all(bytemuck::cast_slice(values)),
                FeatureType::F16 => {
                    let mut halves = vec![f16::ZERO; values.len()];
                    halves.convert_from_f32_slice(values);
                    if let Some(place) = halves.iter().position(|half| !half.is_finite()) {
                        return Err(Error::AboveF16 {
                            tap: tap.clone(),
                            key: key(positions[row_of(place, *width)])?,
                            value: values[place],
                        });
                    }
                    file.write_all(bytemuck::cast_slice(halves.reinterpret_cast()))
                }
            };
            written.map_err(io("write", &self.folder.join(tap)))?;
        }
        let numbers: Vec<u32> = positions.iter().map(|position| *position as u32).collect();
        self.positions
            .write_all(bytemuck::cast_slice(&numbers))
            .map_err(io("write", &self.folder.join(POSITIONS)))?;
        if let Some(mut file) = self.pixel_hashes.as_ref() {
            file.write_all(bytemuck::cast_slice(pixel_hashes))
                .map_err(io("write", &self.folder.join(PIXEL_HASHES)))?;
        }
        self.state.rows += positions.len();
        if let Some(last) = positions.last() {
            self.state.batches = last / self.state.work.batch_images + 1;
        }
        if self.kept.is_none_or(|kept| kept.elapsed() >= self.keep_every) {
            let begun = Instant::now();
            self.keep()?;
            self.kept = Some(Instant::now());
            self.keep_every = KEEP_EVERY.max(begun.elapsed() * 20);
        }
        Ok(())
    }

    /// Syncs the files to disk, and records their length.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        if self.state.rows == 0 {
            return Ok(());
        }
        for file in self
            .taps
            .iter()
            .chain([&self.positions])
            .chain(&self.pixel_hashes)
        {
            file.sync_data().map_err(io("write", &self.folder))?;
        }
        Ok(durable::write_json(&self.folder.join(STATE), &self.state)?)
    }

    /// The record of each row.
    pub(crate) fn positions(&mut self) -> Result<Vec<usize>, Error> {
        let mut numbers = vec![0u32; self.state.rows];
        self.positions
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.positions).read_exact(bytemuck::cast_slice_mut(&mut numbers)))
            .map_err(io("read", &self.folder.join(POSITIONS)))?;
        Ok(numbers.into_iter().map(|position| position as usize).collect())
    }

    /// The hash of each row's pixels, if all are known.
    pub(crate) fn pixel_hashes(&mut self) -> Result<Option<Vec<u64>>, Error> {
        let Some(mut file) = self.pixel_hashes.as_ref() else {
            return Ok(None);
        };
        let mut hashes = vec![0u64; self.state.rows];
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut hashes)))
            .map_err(io("read", &self.folder.join(PIXEL_HASHES)))?;
        Ok(Some(hashes))
    }

    /// Writes the features file from these rows and the keys and labels of `features`. Returns the width of
    /// each tap.
    pub(crate) fn finish(self, features: &Features) -> Result<Vec<(String, usize)>, Error> {
        // The final assembly can be resumed too, e.g. after a full disk.
        self.keep()?;
        let taps = self.state.work.taps.iter();
        let files: Vec<PathBuf> = taps.clone().map(|tap| self.folder.join(tap)).collect();
        let rows =
            (taps.clone().zip(&self.state.widths).zip(&files)).map(|((tap, width), file)| TensorPart {
                name: tap,
                dtype: self.state.work.feature_type.dtype(),
                shape: vec![self.state.rows, *width],
                bytes: Bytes::File(file),
            });
        features.save_with(&self.path, rows.collect(), Cut::of(&self.state.work))?;
        let widths = taps.cloned().zip(self.state.widths.iter().copied()).collect();
        self.discard();
        Ok(widths)
    }

    /// Removes the unfinished features.
    pub(crate) fn discard(self) {
        let Self {
            folder,
            taps,
            positions,
            pixel_hashes,
            state,
            _lock,
            ..
        } = self;
        // Close first: Windows cannot remove open files.
        drop((taps, positions, pixel_hashes, _lock));
        let ours = state.work.taps.iter().map(String::as_str);
        remove(
            &folder,
            ours.chain([POSITIONS, PIXEL_HASHES, STATE, STATE_OF_0_1, LOCK]),
        );
        // Remove the folder only if empty: the user may have put something there.
        if let Err(error) = fs::remove_dir(&folder) {
            tracing::warn!("`{}` could not be removed: {error}", folder.display());
        }
    }
}

/// Removes the files of these names that exist.
fn remove<'a>(folder: &Path, names: impl Iterator<Item = &'a str>) {
    for name in names {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("`{}` could not be removed: {error}", folder.join(name).display());
            }
            _ => {}
        }
    }
}

/// The last saved state; `None` without earlier work, an error with the reason if the state is unreliable.
fn stored(folder: &Path) -> Result<Option<State>, String> {
    let text = match fs::read(folder.join(STATE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| error.to_string())?,
    };
    let state: State = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let work = &state.work;
    let sound = state.version == VERSION
        && state.widths.len() == work.taps.len()
        && work.batch_images > 0
        && (work.batches().start..=work.batches().end).contains(&state.batches)
        && state.rows <= work.records_of(work.batches().start..state.batches);
    if !sound {
        return Err(format!("`{STATE}` is damaged"));
    }
    let sizes = (work.taps.iter().zip(&state.widths))
        .map(|(tap, width)| (tap.as_str(), width * work.feature_type.bytes()));
    for (name, bytes) in sizes.chain([(POSITIONS, size_of::<u32>())]) {
        let length = fs::metadata(folder.join(name)).map(|file| file.len());
        let length = length.map_err(|error| format!("`{name}`: {error}"))?;
        if length < (state.rows * bytes) as u64 {
            return Err(format!(
                "`{name}` has {length} bytes, expected {}",
                state.rows * bytes
            ));
        }
    }
    let mut positions = vec![0u32; state.rows];
    let read = File::open(folder.join(POSITIONS))
        .and_then(|mut file| file.read_exact(bytemuck::cast_slice_mut(&mut positions)));
    read.map_err(|error| format!("`{POSITIONS}`: {error}"))?;
    let in_order = positions.windows(2).all(|pair| pair[0] < pair[1]);
    if !in_order
        || positions
            .last()
            .is_some_and(|last| *last as usize >= work.records)
    {
        return Err(format!("`{POSITIONS}` is damaged"));
    }
    Ok(Some(state))
}

/// A file truncated to its first `bytes`, open for appending.
fn at(path: &Path, bytes: u64) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let cut = opened.and_then(|mut file| {
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    });
    cut.map_err(io("write", path))
}

#[cfg(test)]
mod tests;
