//! Batches of augmented views, in order, made ahead of time by threads.
//!
//! Everything in a batch is a function of (seed, step): the order of records, the views drawn, and which record stands in for
//! a broken one. Threads only decide when it is made.
//!
//! Two assemblers take turns with the steps and share one pool of workers, so that the workers have the next batch at hand
//! while the last images of the current one are still in the making. Each assembler hands its batches over through a queue of
//! one, so at most four batches are in memory besides the one in use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, RgbImage, decode_into};
use crate::error::Error;
use crate::order::Order;
use crate::randomness::{Purpose, generator};
use crate::record::Label;
use crate::transforms::{ViewGroup, ViewMaker};

/// Threads that put batches together; the images are made by the workers.
const ASSEMBLERS: usize = 2;
/// Broken records that an error message and [`BadRecords`] name.
const NAMED_BAD_RECORDS: usize = 10;

/// How batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Images in a batch; each gives all the views of all groups.
    pub batch_images: usize,
    /// Threads that decode and augment; 0 does it in the caller's thread, when a batch is asked for.
    pub workers: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Order of the records within an epoch.
    pub order: Order,
    /// Largest share of the data set's records that may turn out broken before loading stops with an error, 0 to 1.
    pub max_bad_fraction: f64,
}

/// The views of one step, as plain memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// One entry for each view group of the config, in its order.
    pub views: Vec<Views>,
    /// Labels of the images, where every image of the batch has one.
    pub labels: Option<Vec<Label>>,
    /// Position in the data set of each image, after broken ones were replaced.
    pub positions: Vec<u64>,
}

/// The views of one group: `[count * images, channels, height, width]`, all images of the first view, then all of the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views {
    /// Values 0 to 255, not normalised.
    pub pixels: Vec<u8>,
    /// Views of each image.
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

/// A record that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Its position in the data set.
    pub position: u64,
    /// Its key.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// The broken records that were met in the batches handed out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadRecords {
    /// How many different ones.
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
    views: Vec<ViewGroup>,
    config: LoaderConfig,
    records: u32,
    bad: Mutex<BTreeMap<u64, BadRecord>>,
}

impl Loader {
    /// Checks the config against the data set.
    ///
    /// # Errors
    /// [`Error::Views`] and [`Error::Option`] name what cannot be carried out, such as a batch larger than the data set.
    pub fn new(dataset: Arc<Dataset>, views: Vec<ViewGroup>, config: LoaderConfig) -> Result<Loader, Error> {
        for (group, view) in views.iter().enumerate() {
            view.validate().map_err(|reason| Error::Views { group, reason })?;
        }
        let option = |option, reason: String| Err(Error::Option { option, reason });
        if views.is_empty() {
            return option("views", "expected at least one view group, found none".to_string());
        }
        let Ok(records) = u32::try_from(dataset.len()) else {
            return option("data", format!("expected at most {} records, found {}", u32::MAX, dataset.len()));
        };
        if records == 0 {
            return option("data", "expected at least one record, found none".to_string());
        }
        if config.batch_images == 0 {
            return option("batch_images", "expected at least 1, found 0".to_string());
        }
        if config.order.drops_last() && config.batch_images > records as usize {
            return option(
                "batch_images",
                format!("expected at most the data set's {records} records, found {}", config.batch_images),
            );
        }
        if config.order == Order::Blocks(0) {
            return option("order", "blocks must be at least 1 record long, found 0".to_string());
        }
        if !(0.0..=1.0).contains(&config.max_bad_fraction) {
            return option("max_bad_fraction", format!("expected 0 to 1, found {}", config.max_bad_fraction));
        }
        let shared = Shared { dataset, views, config, records, bad: Mutex::default() };
        Ok(Loader { shared: Arc::new(shared) })
    }

    /// Steps in an epoch. In training orders a last partial batch does not count.
    pub fn batches_per_epoch(&self) -> usize {
        self.shared.batches_per_epoch()
    }

    /// The batches of steps `first_step` to `end_step` - 1, where step = epoch * [`Loader::batches_per_epoch`] + batch.
    ///
    /// Threads start to work at once, and on across epochs; dropping the iterator ends them. An error ends the iteration.
    /// In sequential order a batch without any good record is passed over.
    pub fn batches(&self, first_step: usize, end_step: usize) -> Batches {
        Batches::start(Arc::clone(&self.shared), first_step, end_step)
    }

    /// The broken records in the batches handed out so far, over all iterators of this loader and its clones.
    pub fn bad_records(&self) -> BadRecords {
        let bad = self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner);
        BadRecords { count: bad.len(), first: bad.values().take(NAMED_BAD_RECORDS).cloned().collect() }
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
    /// No workers: batches are made when they are asked for.
    Here(Assembler),
    /// One queue for each assembler; they take turns from step `first` on.
    Threads { queues: Vec<Receiver<Made>>, first: usize, stop: Arc<AtomicBool>, threads: Vec<JoinHandle<()>> },
    /// After an error, or if the threads could not be started.
    Failed(Option<Error>),
}

/// A batch, or why there is none, with the broken records met on the way.
type Made = (Vec<BadRecord>, Result<Batch, Error>);

impl Shared {
    fn batches_per_epoch(&self) -> usize {
        let (records, images) = (self.records as usize, self.config.batch_images);
        if self.config.order.drops_last() { records / images } else { records.div_ceil(images) }
    }

    /// How many records may be broken.
    fn allowed_bad(&self) -> usize {
        (self.config.max_bad_fraction * f64::from(self.records)).floor() as usize
    }

    /// Enters broken records; an error if there are too many by now.
    ///
    /// Called in the order of the steps by whoever takes the batches, so it stops at the same step for any number of workers.
    fn enter_bad(&self, found: Vec<BadRecord>) -> Result<(), Error> {
        if found.is_empty() {
            return Ok(());
        }
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        for record in found {
            bad.entry(record.position).or_insert_with(|| {
                tracing::warn!(key = %record.key, reason = %record.reason, "broken record");
                record
            });
        }
        if bad.len() <= self.allowed_bad() {
            return Ok(());
        }
        Err(self.too_many_bad(bad.len(), bad.values()))
    }

    fn too_many_bad<'a>(&self, bad: usize, records: impl Iterator<Item = &'a BadRecord>) -> Error {
        let named: Vec<String> =
            records.take(3).map(|record| format!("`{}` ({})", record.key, record.reason)).collect();
        Error::TooManyBad {
            bad,
            records: self.records as usize,
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
        Batches { shared, next_step: first_step, end_step, engine }
    }

    fn start_threads(shared: &Arc<Shared>, workers: usize, first: usize, end: usize) -> Result<Engine, String> {
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
            let thread = std::thread::Builder::new().name(format!("batches-{number}")).spawn(move || {
                for step in (first + number..end).step_by(ASSEMBLERS) {
                    let made = assembler.make(step);
                    // The other end is gone once the iterator is dropped.
                    if sender.send(made).is_err() {
                        break;
                    }
                }
            });
            threads.push(thread.map_err(|error| error.to_string())?);
            queues.push(queue);
        }
        Ok(Engine::Threads { queues, first, stop, threads })
    }

    fn make(&mut self, step: usize) -> Result<Batch, Error> {
        let (bad, batch) = match &mut self.engine {
            Engine::Here(assembler) => assembler.make(step),
            Engine::Threads { queues, first, .. } => queues[(step - *first) % ASSEMBLERS]
                .recv()
                .map_err(|_| Error::Threads { reason: "a loader thread ended before its work was done".to_string() })?,
            Engine::Failed(error) => {
                let ended = || Error::Threads { reason: "the loader stopped after an error".to_string() };
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
            let made = self.make(self.next_step);
            self.next_step += 1;
            match &made {
                // All of it was broken; only sequential order can come to this.
                Ok(batch) if batch.positions.is_empty() => continue,
                Ok(_) => {}
                Err(_) => self.next_step = self.end_step,
            }
            return Some(made);
        }
        None
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let engine = std::mem::replace(&mut self.engine, Engine::Failed(None));
        if let Engine::Threads { queues, stop, threads, .. } = engine {
            stop.store(true, Ordering::Relaxed);
            drop(queues);
            for thread in threads {
                // A panic in there has been reported where it happened.
                let _ = thread.join();
            }
        }
    }
}

/// Makes whole batches, one at a time.
#[derive(Debug)]
struct Assembler {
    shared: Arc<Shared>,
    pool: Option<Arc<rayon::ThreadPool>>,
    stop: Arc<AtomicBool>,
    /// The epoch in work, and its order.
    epoch: Option<(u64, Vec<u32>)>,
}

/// What became of one image of a batch.
struct Outcome {
    /// The record that was taken in the end; `None` if none was.
    position: Option<u32>,
    bad: Vec<BadRecord>,
}

impl Assembler {
    fn new(shared: Arc<Shared>, pool: Option<Arc<rayon::ThreadPool>>) -> Assembler {
        Assembler { shared, pool, stop: Arc::default(), epoch: None }
    }

    fn make(&mut self, step: usize) -> Made {
        let shared = Arc::clone(&self.shared);
        let per_epoch = shared.batches_per_epoch();
        let epoch = (step / per_epoch) as u64;
        if self.epoch.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let order = shared.config.order.epoch(shared.records, shared.config.seed, epoch);
            self.epoch = Some((epoch, order));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        let first = (step % per_epoch) * shared.config.batch_images;
        let images = shared.config.batch_images.min(order.len() - first);

        let mut views: Vec<Views> = shared.views.iter().map(|group| empty_views(group, images)).collect();
        // Every worker writes into the batch itself: each image gets the places of all its views.
        let mut places: Vec<Vec<&mut [u8]>> = (0..images).map(|_| Vec::new()).collect();
        for group in &mut views {
            let view_bytes = group.channels * group.height * group.width;
            for (at, place) in group.pixels.chunks_exact_mut(view_bytes).enumerate() {
                places[at % images].push(place);
            }
        }
        let work = |(at, places): (usize, Vec<&mut [u8]>)| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Outcome { position: None, bad: Vec::new() });
            }
            SCRATCH.with_borrow_mut(|scratch| scratch.make(&shared, order, epoch, first + at, places))
        };
        let outcomes: Vec<Result<Outcome, Error>> = match &self.pool {
            None => places.into_iter().enumerate().map(work).collect(),
            Some(pool) => pool.install(|| places.into_par_iter().with_max_len(1).enumerate().map(work).collect()),
        };
        let mut taken = Vec::with_capacity(images);
        let mut bad = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => {
                    taken.push(outcome.position);
                    bad.extend(outcome.bad);
                }
                Err(error) => return (bad, Err(error)),
            }
        }
        if shared.config.order.drops_last() && taken.contains(&None) {
            // No record is left to stand in. Either `enter_bad` is about to say that there are too many, or all are broken.
            let error = shared.too_many_bad(bad.len().min(order.len()), bad.iter());
            return (bad, Err(error));
        }
        (bad, finish(&shared.dataset, views, &taken))
    }
}

fn empty_views(group: &ViewGroup, images: usize) -> Views {
    let (width, height) = group.output_px().expect("the view groups were validated");
    let (width, height) = (width as usize, height as usize);
    let pixels = vec![0; group.count * images * 3 * height * width];
    Views { pixels, count: group.count, images, channels: 3, height, width }
}

/// Puts labels and positions to the views, and closes the gaps of images that were left out.
fn finish(dataset: &Dataset, mut views: Vec<Views>, taken: &[Option<u32>]) -> Result<Batch, Error> {
    let positions: Vec<u64> = taken.iter().flatten().map(|position| u64::from(*position)).collect();
    if positions.len() < taken.len() {
        for group in &mut views {
            let view_bytes = group.channels * group.height * group.width;
            let mut kept = 0;
            for at in (0..group.count * group.images).filter(|at| taken[at % group.images].is_some()) {
                group.pixels.copy_within(at * view_bytes..(at + 1) * view_bytes, kept * view_bytes);
                kept += 1;
            }
            group.pixels.truncate(kept * view_bytes);
            group.images = positions.len();
        }
    }
    let labels = positions
        .iter()
        .map(|position| dataset.label(*position as usize))
        .collect::<Result<Option<Vec<Label>>, Error>>()?;
    Ok(Batch { views, labels, positions })
}

thread_local! {
    /// Each thread's memory for one image at a time.
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

#[derive(Default)]
struct Scratch {
    encoded: Vec<u8>,
    image: RgbImage,
    maker: ViewMaker,
}

impl Scratch {
    /// Fills the places of one image: of the record at `slot` of the epoch, or the next good one behind it.
    fn make(
        &mut self,
        shared: &Shared,
        order: &[u32],
        epoch: u64,
        slot: usize,
        places: Vec<&mut [u8]>,
    ) -> Result<Outcome, Error> {
        let mut bad = Vec::new();
        for ahead in 0..order.len() {
            let position = order[(slot + ahead) % order.len()];
            // What cannot be read at all is no broken image but a broken disk or a missing file, and stops the run.
            shared.dataset.read_image(position as usize, &mut self.encoded)?;
            match decode_into(&self.encoded, &DecodeLimits::DEFAULT, &mut self.image) {
                Ok(()) => {
                    self.draw(shared, epoch, position, places);
                    return Ok(Outcome { position: Some(position), bad });
                }
                Err(reason) => bad.push(BadRecord {
                    position: u64::from(position),
                    key: shared.dataset.key(position as usize)?,
                    reason: reason.to_string(),
                }),
            }
            if shared.config.order == Order::Sequential || bad.len() > shared.allowed_bad() {
                break;
            }
        }
        Ok(Outcome { position: None, bad })
    }

    fn draw(&mut self, shared: &Shared, epoch: u64, position: u32, places: Vec<&mut [u8]>) {
        let groups = shared.views.iter().flat_map(|group| std::iter::repeat_n(group, group.count));
        for ((view, group), place) in groups.enumerate().zip(places) {
            let mut source =
                generator(shared.config.seed, Purpose::View, epoch, u64::from(position), view as u64);
            self.maker.make(&self.image, group, &mut source, place);
        }
    }
}

#[cfg(test)]
mod tests;
