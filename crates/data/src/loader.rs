//! Batches of augmented views, in order, prepared in advance by threads.
//!
//! Everything in a batch is a function of (seed, step): the order of records, the views drawn, and which
//! record replaces a broken one. Threads only decide when the batch is made.
//!
//! Two assemblers alternate between steps and share one pool of workers, so that the workers can start on the
//! next batch while the last images of the current one are in progress. Each assembler hands over its batches
//! through a queue of one, so at most four batches are in memory besides the one in use.

mod assembler;
#[cfg(test)]
mod object_tests;
mod object_views;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::assembler::Assembler;
pub use self::object_views::{ObjectViews, ViewTargets};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::order::Order;
use crate::record::Label;
use crate::transforms::ViewGroup;

/// Threads that assemble batches; the workers make the images.
const ASSEMBLERS: usize = 2;
/// Most worker threads: current machines have fewer processors, and a system may kill programs with many more
/// threads.
const MOST_WORKERS: usize = 1_024;
/// Broken records that an error message and [`BadRecords`] name.
const NAMED_BAD_RECORDS: usize = 10;

/// How records become batches: `[data]` of an evaluation's config, and the part of it that every loader
/// needs.
///
/// It affects the speed, and which data sets give an error; the views of a record are the same for any
/// values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Images in a batch; each gives the views of all groups.
    pub batch_images: usize,
    /// Threads that decode and augment, 0 to 1,024; 0 does it in the caller's thread, when it requests a
    /// batch.
    pub workers: usize,
    /// Loading stops with an error when more than this fraction (0 to 1) of the data set's records cannot be
    /// decoded.
    pub max_bad_fraction: f64,
}

impl LoaderConfig {
    /// Checks the values without a data set.
    ///
    /// # Errors
    /// A sentence that names the key: `` `data.batch_images` must be at least 1, got 0 ``.
    pub fn validate(&self) -> Result<(), String> {
        self.check()
            .map_err(|(key, reason)| format!("`data.{key}` {reason}"))
    }

    /// The wrong key, and the rest of the sentence.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.batch_images == 0 {
            return Err(("batch_images", "must be at least 1, got 0".to_string()));
        }
        if self.workers > MOST_WORKERS {
            return Err((
                "workers",
                format!(
                    "must be at most {MOST_WORKERS}, got {}: each is a thread, and more than the machine has processors gain nothing",
                    self.workers
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            return Err((
                "max_bad_fraction",
                format!("must be in 0..1, got {}", self.max_bad_fraction),
            ));
        }
        Ok(())
    }
}

/// The views of one step, as plain memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The views in the config's order, one entry per size: consecutive view groups of one size share an
    /// entry, such as DINO's two global views of different recipes.
    pub views: Vec<Views>,
    /// Labels of the images, where every image of the batch has one.
    pub labels: Option<Vec<Label>>,
    /// Position in the data set of each image, after broken records were replaced.
    pub positions: Vec<u64>,
    /// For [`Loader::with_pixel_hashes`]: XXH64 of each image's views, all of its bytes in the order of `views`.
    pub pixel_hashes: Option<Vec<u64>>,
    /// Objects and true size of each image, for batches of [`Loader::of_objects`]: `views` has an entry per
    /// micro-batch then, each of its own size.
    pub targets: Option<Vec<ViewTargets>>,
}

/// The views of one size: `[count * images, channels, height, width]`, all images of the first view, then all
/// of the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views {
    /// Values 0 to 255, not normalized.
    pub pixels: Vec<u8>,
    /// Views per image.
    pub count: usize,
    /// Images in the batch.
    pub images: usize,
    /// Always 3: red, green, blue.
    pub channels: usize,
    /// Height, px.
    pub height: usize,
    /// Width, px.
    pub width: usize,
}

/// A record that could not be decoded, or of which the views could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// Its position in the data set.
    pub position: u64,
    /// Its key.
    pub key: String,
    /// The reason.
    pub reason: String,
    /// Whether the picture itself decodes: then `shards verify` does not list it.
    pub decodes: bool,
    /// Whether its boxes are of a picture of another size.
    #[serde(default)]
    pub other_size: bool,
}

/// The broken records in the batches handed out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadRecords {
    /// The number of distinct ones.
    pub count: usize,
    /// The first few by position.
    pub first: Vec<BadRecord>,
}

/// Makes batches of one data set under one config.
#[derive(Clone, Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dataset: Arc<Dataset>,
    recipe: Recipe,
    config: LoaderConfig,
    order: Order,
    seed: u64,
    records: u32,
    /// The part of each batch that this loader makes, and the number of parts.
    part: (usize, usize),
    bad: Mutex<BTreeMap<u64, BadRecord>>,
    /// Broken records found before this loader started.
    bad_before: AtomicUsize,
    /// The number of records that `max_bad_fraction` is of.
    bounded_records: u32,
    hashes_pixels: bool,
}

/// What is made of the pictures.
#[derive(Clone, Debug)]
enum Recipe {
    /// Views of fixed sizes.
    Groups(Vec<ViewGroup>),
    /// One view of each picture's own size with its objects, padded by micro-batches of so many images.
    Objects(ObjectViews, usize),
}

impl Loader {
    /// A loader whose epochs use `order`; `seed` determines order and augmentation.
    ///
    /// # Errors
    /// [`Error::Views`] and [`Error::Option`] name an impossible setting, such as a batch larger than the
    /// data set.
    pub fn new(
        dataset: Arc<Dataset>,
        views: Vec<ViewGroup>,
        config: LoaderConfig,
        order: Order,
        seed: u64,
    ) -> Result<Loader, Error> {
        for (group, view) in views.iter().enumerate() {
            view.validate().map_err(|reason| Error::Views { group, reason })?;
        }
        if views.is_empty() {
            return Err(Error::Option {
                option: "views",
                reason: "must be at least one view group, got none".to_string(),
            });
        }
        Self::of_recipe(dataset, Recipe::Groups(views), config, order, seed)
    }

    /// A loader of pictures with their objects: one view of each, resized to a drawn size, perhaps mirrored, and
    /// padded to the largest sides of its micro-batch of `micro_batch_images`.
    ///
    /// Size and flip are functions of (seed, epoch, position), and the padding one of the micro-batch alone, so N
    /// parts of a batch have the views of N micro-batches. Where the data set was opened without objects, pictures
    /// have none.
    ///
    /// # Errors
    /// As for [`Loader::new`]; and [`Error::Option`] if micro-batches do not divide a batch, or an evaluation's
    /// order would be changed by `by_aspect`.
    pub fn of_objects(
        dataset: Arc<Dataset>,
        views: ObjectViews,
        micro_batch_images: usize,
        config: LoaderConfig,
        order: Order,
        seed: u64,
    ) -> Result<Loader, Error> {
        views
            .validate(str::to_owned)
            .map_err(|reason| Error::Views { group: 0, reason })?;
        if micro_batch_images == 0 || !config.batch_images.is_multiple_of(micro_batch_images) {
            return Err(Error::Option {
                option: "micro_batch_images",
                reason: format!(
                    "must divide `batch_images` = {}, got {micro_batch_images}",
                    config.batch_images
                ),
            });
        }
        if views.by_aspect && order == Order::Sequential {
            return Err(Error::Option {
                option: "by_aspect",
                reason: "must be false in the order `sequential`, got true".to_string(),
            });
        }
        Self::of_recipe(
            dataset,
            Recipe::Objects(views, micro_batch_images),
            config,
            order,
            seed,
        )
    }

    fn of_recipe(
        dataset: Arc<Dataset>,
        recipe: Recipe,
        config: LoaderConfig,
        order: Order,
        seed: u64,
    ) -> Result<Loader, Error> {
        let option = |option, reason: String| Error::Option { option, reason };
        let Ok(records) = u32::try_from(dataset.len()) else {
            let reason = format!("must be at most {} records, got {}", u32::MAX, dataset.len());
            return Err(option("data", reason));
        };
        if records == 0 {
            return Err(option(
                "data",
                "must be at least one record, got none".to_string(),
            ));
        }
        config.check().map_err(|(key, reason)| option(key, reason))?;
        order.validate().map_err(|reason| option("order", reason))?;
        if order.drops_last() && config.batch_images > records as usize {
            return Err(Error::BatchTooLarge {
                batch_images: config.batch_images,
                records,
            });
        }
        let shared = Shared {
            dataset,
            recipe,
            config,
            order,
            seed,
            records,
            part: (0, 1),
            bad: Mutex::default(),
            bad_before: AtomicUsize::new(0),
            bounded_records: records,
            hashes_pixels: false,
        };
        Ok(Loader {
            shared: Arc::new(shared),
        })
    }

    /// The same loader, which gives an error when more than `max_bad_fraction` of the records in these batches of an epoch are
    /// broken: for a pass over them alone.
    pub fn bounded_by(self, batches: Range<usize>) -> Loader {
        let shared = &*self.shared;
        let start = |batch: usize| batch.saturating_mul(shared.config.batch_images);
        let records = shared.records as usize;
        let bounded = (start(batches.end).min(records)).saturating_sub(start(batches.start));
        Loader {
            shared: Arc::new(Shared {
                // At most all records, whose number has 32 bits.
                bounded_records: bounded as u32,
                ..shared.anew()
            }),
        }
    }

    /// The same loader, which also hashes the views of each image, so that two images can be compared without their
    /// pixels: copies in another format, or without their metadata, have the views of the original.
    pub fn with_pixel_hashes(self) -> Loader {
        Loader {
            shared: Arc::new(Shared {
                hashes_pixels: true,
                ..self.shared.anew()
            }),
        }
    }

    /// A loader of the `index`-th of `count` equal, contiguous parts of each batch, for one of the devices that share
    /// it. All parts together are the batches of one loader: the same records, views and replacements.
    ///
    /// # Errors
    /// [`Error::Option`] if the parts do not divide a batch, or the order keeps a partial last batch.
    pub fn part(self, index: usize, count: usize) -> Result<Loader, Error> {
        if count == 1 {
            return Ok(self);
        }
        let shared = &*self.shared;
        let images = shared.config.batch_images;
        if count == 0 || index >= count || !images.is_multiple_of(count) || !shared.order.drops_last() {
            return Err(Error::Option {
                option: "batch_images",
                reason: format!("must be divisible by the {count} devices that share a batch, got {images}"),
            });
        }
        if let Recipe::Objects(_, micro_batch) = shared.recipe
            && !(images / count).is_multiple_of(micro_batch)
        {
            return Err(Error::Option {
                option: "micro_batch_images",
                reason: format!(
                    "must divide the {} images of each of {count} devices, got {micro_batch}",
                    images / count
                ),
            });
        }
        let shared = Shared {
            part: (index, count),
            ..shared.anew()
        };
        Ok(Loader {
            shared: Arc::new(shared),
        })
    }

    /// Steps per epoch. In training orders a last partial batch does not count.
    pub fn batches_per_epoch(&self) -> usize {
        self.shared.batches_per_epoch()
    }

    /// The batches of steps `first_step` to `end_step` - 1, where step = epoch *
    /// [`Loader::batches_per_epoch`] + batch.
    ///
    /// Threads start at once and continue across epochs; dropping the iterator ends them. An error ends the
    /// iteration. In sequential order a batch without any valid record is skipped.
    pub fn batches(&self, first_step: usize, end_step: usize) -> Batches {
        Batches::start(Arc::clone(&self.shared), first_step, end_step)
    }

    /// Counts this many broken records as found earlier: a pass that resumes an interrupted one has fewer
    /// left before the limit. [`Loader::bad_records`] does not include them.
    pub fn count_bad_records_before(&self, count: usize) {
        self.shared.bad_before.store(count, Ordering::Relaxed);
    }

    /// The broken records in the batches handed out so far that are not at these positions.
    pub fn bad_records_besides(&self, known: &BTreeSet<u64>) -> Vec<BadRecord> {
        let bad = self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.values()
            .filter(|record| !known.contains(&record.position))
            .cloned()
            .collect()
    }

    /// Enters broken records that loaders of other parts found.
    ///
    /// # Errors
    /// [`Error::TooManyBad`] if there are now more than the config allows.
    pub fn add_bad_records(&self, records: Vec<BadRecord>) -> Result<(), Error> {
        self.shared.enter_bad(records)
    }

    /// The broken records in the batches handed out so far, over all iterators of this loader and its clones.
    pub fn bad_records(&self) -> BadRecords {
        let bad = self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner);
        BadRecords {
            count: bad.len(),
            first: bad.values().take(NAMED_BAD_RECORDS).cloned().collect(),
        }
    }
}

/// Batches in the order of their steps; see [`Loader::batches`].
#[derive(Debug)]
pub struct Batches {
    shared: Arc<Shared>,
    next_step: usize,
    end_step: usize,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    /// No workers: each batch is made when it is requested.
    Here(Assembler),
    /// One queue per assembler; they alternate from step `first` on.
    Threads {
        queues: Vec<Receiver<Made>>,
        first: usize,
        stop: Arc<AtomicBool>,
        threads: Vec<JoinHandle<()>>,
    },
    /// After an error, or if the threads could not be started.
    Failed(Option<Error>),
}

/// A batch or its error, with the broken records found meanwhile.
type Made = (Vec<BadRecord>, Result<Batch, Error>);

impl Shared {
    /// The same, with no record counted as broken yet.
    fn anew(&self) -> Shared {
        Shared {
            dataset: Arc::clone(&self.dataset),
            recipe: self.recipe.clone(),
            bad: Mutex::default(),
            bad_before: AtomicUsize::new(0),
            ..*self
        }
    }

    fn batches_per_epoch(&self) -> usize {
        let (records, images) = (self.records as usize, self.config.batch_images);
        if self.order.drops_last() {
            records / images
        } else {
            records.div_ceil(images)
        }
    }

    /// The most broken records allowed.
    fn allowed_bad(&self) -> usize {
        (self.config.max_bad_fraction * f64::from(self.bounded_records)).floor() as usize
    }

    /// Adds broken records; an error if there are now too many.
    ///
    /// Called in the order of the steps by the thread that takes the batches, so it stops at the same step
    /// for any number of workers.
    fn enter_bad(&self, records: Vec<BadRecord>) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            bad.entry(record.position).or_insert_with(|| {
                tracing::warn!(key = %record.key, reason = %record.reason, "broken record");
                record
            });
        }
        let count = bad.len() + self.bad_before.load(Ordering::Relaxed);
        if count <= self.allowed_bad() {
            return Ok(());
        }
        Err(self.too_many_bad(count, bad.values()))
    }

    fn too_many_bad<'a>(&self, bad: usize, records: impl Iterator<Item = &'a BadRecord>) -> Error {
        let records: Vec<&BadRecord> = records.collect();
        let named: Vec<String> = records
            .iter()
            .take(3)
            .map(|record| format!("`{}` ({})", record.key, record.reason))
            .collect();
        Error::TooManyBad {
            decode: records.iter().filter(|record| record.decodes).count(),
            other_size: records.iter().filter(|record| record.other_size).count(),
            bad,
            records: self.bounded_records as usize,
            allowed: self.config.max_bad_fraction,
            examples: named.join(", "),
        }
    }
}

impl Batches {
    fn start(shared: Arc<Shared>, first_step: usize, end_step: usize) -> Batches {
        let engine = match shared.config.workers {
            0 => Engine::Here(Assembler::new(Arc::clone(&shared), None)),
            _ if first_step >= end_step => Engine::Failed(None),
            workers => Self::start_threads(&shared, workers, first_step, end_step)
                .unwrap_or_else(|reason| Engine::Failed(Some(Error::Threads { reason }))),
        };
        Batches {
            shared,
            next_step: first_step,
            end_step,
            engine,
        }
    }

    fn start_threads(
        shared: &Arc<Shared>,
        workers: usize,
        first: usize,
        end: usize,
    ) -> Result<Engine, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .thread_name(|number| format!("loader-{number}"))
            .build()
            .map_err(|error| error.to_string())?;
        let pool = Arc::new(pool);
        let stop = Arc::new(AtomicBool::new(false));
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for number in 0..ASSEMBLERS {
            let (sender, queue) = bounded(1);
            let mut assembler = Assembler::new(Arc::clone(shared), Some(Arc::clone(&pool)));
            assembler.stop = Arc::clone(&stop);
            let thread = std::thread::Builder::new()
                .name(format!("batches-{number}"))
                .spawn(move || {
                    for step in (first + number..end).step_by(ASSEMBLERS) {
                        let batch = assembler.make(step);
                        // The receiver is gone once the iterator is dropped.
                        if sender.send(batch).is_err() {
                            break;
                        }
                    }
                });
            threads.push(thread.map_err(|error| error.to_string())?);
            queues.push(queue);
        }
        Ok(Engine::Threads {
            queues,
            first,
            stop,
            threads,
        })
    }

    fn make(&mut self, step: usize) -> Result<Batch, Error> {
        let (bad, batch) =
            match &mut self.engine {
                Engine::Here(assembler) => assembler.make(step),
                Engine::Threads { queues, first, .. } => queues[(step - *first) % ASSEMBLERS]
                    .recv()
                    .map_err(|_| Error::Threads {
                        reason: "a loader thread ended before its work was done".to_string(),
                    })?,
                Engine::Failed(error) => {
                    let ended = || Error::Threads {
                        reason: "the loader stopped after an error".to_string(),
                    };
                    return Err(error.take().unwrap_or_else(ended));
                }
            };
        self.shared.enter_bad(bad)?;
        batch
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Result<Batch, Error>> {
        while self.next_step < self.end_step {
            let batch = self.make(self.next_step);
            self.next_step += 1;
            match &batch {
                // The whole batch was broken; only sequential order can reach this case.
                Ok(batch) if batch.positions.is_empty() => continue,
                Ok(_) => {}
                Err(_) => self.next_step = self.end_step,
            }
            return Some(batch);
        }
        None
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let engine = std::mem::replace(&mut self.engine, Engine::Failed(None));
        if let Engine::Threads {
            queues,
            stop,
            threads,
            ..
        } = engine
        {
            stop.store(true, Ordering::Relaxed);
            drop(queues);
            for thread in threads {
                // A panic in that thread has already been reported.
                let _ = thread.join();
            }
        }
    }
}
