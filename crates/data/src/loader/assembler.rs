//! Making one batch: it picks the records, and workers decode and augment them, each writing into its own
//! slots of the batch.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use twox_hash::XxHash64;

use super::object_views::{ObjectView, ObjectViews, padded};
use super::{BadRecord, Batch, Made, Recipe, Shared, Views};
use crate::caught::caught;
use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, RgbImage, decode_admitted};
use crate::error::{DecodeError, Error};
use crate::in_flight::{FILES, PICTURES};
use crate::order::{Order, by_group};
use crate::randomness::{Purpose, generator};
use crate::record::Label;
use crate::targets::ImageTargets;
use crate::transforms::geometry::Resampler;
use crate::transforms::{ViewGroup, ViewMaker, room_bytes};

/// Memory that a thread keeps for its next picture, bytes: enough for a photo of 24 megapixels.
const KEPT_BYTES: usize = 1 << 27;

/// Makes whole batches, one at a time.
#[derive(Debug)]
pub(super) struct Assembler {
    shared: Arc<Shared>,
    pool: Option<Arc<rayon::ThreadPool>>,
    /// Set when the batches are no longer needed.
    pub(super) stop: Arc<AtomicBool>,
    /// The current epoch, and its order.
    epoch: Option<(u64, Vec<u32>)>,
}

/// The outcome of one image of a batch.
#[derive(Default)]
struct Outcome {
    /// The record that was used in the end; `None` if there was none.
    position: Option<u32>,
    /// Its view, where the batch has no places for views of one size.
    view: Option<ObjectView>,
    /// The hash of its views, where the loader makes them.
    pixel_hash: Option<u64>,
    bad: Vec<BadRecord>,
}

/// The record positions of an epoch, in order of visits.
fn epoch_order(shared: &Shared, epoch: u64) -> Vec<u32> {
    let order = shared.order.epoch(shared.records, shared.seed, epoch);
    match &shared.recipe {
        Recipe::Objects(views, micro_batch) if views.by_aspect => {
            by_group(&order, *micro_batch, |position| {
                let size = shared.dataset.stated_size(position as usize);
                size.is_some_and(|(width, height)| width > height)
            })
        }
        _ => order,
    }
}

impl Assembler {
    pub(super) fn new(shared: Arc<Shared>, pool: Option<Arc<rayon::ThreadPool>>) -> Assembler {
        Assembler {
            shared,
            pool,
            stop: Arc::default(),
            epoch: None,
        }
    }

    pub(super) fn make(&mut self, step: usize) -> Made {
        let shared = Arc::clone(&self.shared);
        let per_epoch = shared.batches_per_epoch();
        let epoch = (step / per_epoch) as u64;
        if self.epoch.as_ref().is_none_or(|(current, _)| *current != epoch) {
            self.epoch = Some((epoch, epoch_order(&shared, epoch)));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        let (index, count) = shared.part;
        let images = shared.config.batch_images / count;
        let first = (step % per_epoch) * shared.config.batch_images + index * images;
        let images = images.min(order.len() - first);

        let mut views = match &shared.recipe {
            Recipe::Groups(groups) => empty_views(groups, images),
            // Their sizes depend on the pictures.
            Recipe::Objects(..) => Vec::new(),
        };
        // Every worker writes into the batch directly: each image gets the slots of all its views.
        let mut places: Vec<Vec<&mut [u8]>> = (0..images).map(|_| Vec::new()).collect();
        for group in &mut views {
            let view_bytes = group.channels * group.height * group.width;
            for (at, place) in group.pixels.chunks_exact_mut(view_bytes).enumerate() {
                places[at % images].push(place);
            }
        }
        let work = |(at, mut places): (usize, Vec<&mut [u8]>)| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Outcome::default());
            }
            let mut outcome = SCRATCH
                .with_borrow_mut(|scratch| scratch.make(&shared, order, epoch, first + at, &mut places))?;
            if shared.hashes_pixels {
                outcome.pixel_hash = Some(pixel_hash(&places));
            }
            Ok::<_, Error>(outcome)
        };
        let outcomes: Vec<Result<Outcome, Error>> = match &self.pool {
            None => places.into_iter().enumerate().map(work).collect(),
            Some(pool) => pool.install(|| {
                places
                    .into_par_iter()
                    .with_max_len(1)
                    .enumerate()
                    .map(work)
                    .collect()
            }),
        };
        let mut taken = Vec::with_capacity(images);
        let mut object_views = Vec::new();
        let mut pixel_hashes = Vec::new();
        let mut bad = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => {
                    taken.push(outcome.position);
                    pixel_hashes.extend(outcome.pixel_hash.filter(|_| outcome.position.is_some()));
                    object_views.push(outcome.view);
                    bad.extend(outcome.bad);
                }
                Err(error) => return (bad, Err(error)),
            }
        }
        if shared.order.drops_last() && taken.contains(&None) {
            // No replacement is left. Either `enter_bad` is about to report too many broken records, or all
            // are broken.
            let error = shared.too_many_bad(bad.len().min(order.len()), bad.iter());
            return (bad, Err(error));
        }
        let batch = finish(&shared.dataset, views, &taken).map(|batch| match &shared.recipe {
            Recipe::Groups(_) => Batch {
                pixel_hashes: shared.hashes_pixels.then_some(pixel_hashes),
                ..batch
            },
            Recipe::Objects(views, micro_batch) => {
                with_object_views(batch, object_views, *micro_batch, views)
            }
        });
        (bad, batch)
    }
}

/// One hash of all views of an image.
fn pixel_hash(views: &[&mut [u8]]) -> u64 {
    views.iter().fold(0, |hash, view| XxHash64::oneshot(hash, view))
}

/// The batch with these views, padded by micro-batches. Those that lack an image have one less.
fn with_object_views(
    mut batch: Batch,
    made: Vec<Option<ObjectView>>,
    micro_batch: usize,
    recipe: &ObjectViews,
) -> Batch {
    let mut targets = Vec::with_capacity(made.len());
    let mut made = made.into_iter();
    loop {
        let views: Vec<Option<ObjectView>> = made.by_ref().take(micro_batch).collect();
        if views.is_empty() {
            break;
        }
        let views: Vec<ObjectView> = views.into_iter().flatten().collect();
        if !views.is_empty() {
            batch.views.push(padded(&views, recipe.multiple_px));
        }
        targets.extend(views.into_iter().map(|view| view.targets));
    }
    batch.targets = Some(targets);
    batch
}

/// The batch's memory. Consecutive groups of one size are contiguous, so that no caller has to join them.
fn empty_views(groups: &[ViewGroup], images: usize) -> Vec<Views> {
    let mut sizes: Vec<(usize, (u32, u32))> = Vec::new();
    for group in groups {
        let size = group.output_px().expect("the view groups were validated");
        match sizes.last_mut() {
            Some((count, last)) if *last == size => *count += group.count,
            _ => sizes.push((group.count, size)),
        }
    }
    let empty = |(count, (width, height)): (usize, (u32, u32))| {
        let (width, height) = (width as usize, height as usize);
        Views {
            pixels: vec![0; count * images * 3 * height * width],
            count,
            images,
            channels: 3,
            height,
            width,
        }
    };
    sizes.into_iter().map(empty).collect()
}

/// Adds labels and positions to the views, and closes the gaps of dropped images.
fn finish(dataset: &Dataset, mut views: Vec<Views>, taken: &[Option<u32>]) -> Result<Batch, Error> {
    let positions: Vec<u64> = taken
        .iter()
        .flatten()
        .map(|position| u64::from(*position))
        .collect();
    if positions.len() < taken.len() {
        for group in &mut views {
            let view_bytes = group.channels * group.height * group.width;
            let mut kept = 0;
            for at in (0..group.count * group.images).filter(|at| taken[at % group.images].is_some()) {
                group
                    .pixels
                    .copy_within(at * view_bytes..(at + 1) * view_bytes, kept * view_bytes);
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
    Ok(Batch {
        views,
        labels,
        positions,
        pixel_hashes: None,
        targets: None,
    })
}

thread_local! {
    /// Each thread's reused memory for one image at a time.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    encoded: Vec<u8>,
    image: RgbImage,
    maker: ViewMaker,
    resampler: Resampler,
}

impl Scratch {
    /// Fills the slots of one image: from the record at `slot` of the epoch, or the next valid one after it.
    fn make(
        &mut self,
        shared: &Shared,
        order: &[u32],
        epoch: u64,
        slot: usize,
        places: &mut [&mut [u8]],
    ) -> Result<Outcome, Error> {
        let mut bad = Vec::new();
        for ahead in 0..order.len() {
            let position = order[(slot + ahead) % order.len()];
            let made = caught(|| self.make_from(shared, epoch, position, places));
            let mut view = None;
            let broken = match made {
                Ok(Ok(made)) => {
                    view = made;
                    None
                }
                // A record that cannot be read from disk means a broken disk or a missing file, and ends the
                // run.
                Ok(Err(Fault::Unreadable(error))) => return Err(error),
                Ok(Err(Fault::Broken(reason))) => Some(reason),
                Err(message) => {
                    // Its memory may be in any state.
                    *self = Scratch::default();
                    Some(DecodeError::Panicked { message })
                }
            };
            if self.kept_bytes() > KEPT_BYTES {
                *self = Scratch::default();
            }
            let Some(reason) = broken else {
                return Ok(Outcome {
                    position: Some(position),
                    view,
                    bad,
                    ..Outcome::default()
                });
            };
            bad.push(BadRecord {
                position: u64::from(position),
                key: shared.dataset.key(position as usize)?,
                decodes: matches!(
                    reason,
                    DecodeError::ResizedTooLarge { .. } | DecodeError::OtherSize { .. }
                ),
                other_size: matches!(reason, DecodeError::OtherSize { .. }),
                reason: reason.to_string(),
            });
            if shared.order == Order::Sequential || bad.len() > shared.allowed_bad() {
                break;
            }
        }
        Ok(Outcome {
            bad,
            ..Outcome::default()
        })
    }

    /// Fills the slots from this record, or returns its view. Its file and its pixels count in the bounds over all
    /// threads.
    fn make_from(
        &mut self,
        shared: &Shared,
        epoch: u64,
        position: u32,
        places: &mut [&mut [u8]],
    ) -> Result<Option<ObjectView>, Fault> {
        let record = position as usize;
        let _file = FILES.reserve(shared.dataset.image_bytes(record));
        shared
            .dataset
            .read_image(record, &mut self.encoded)
            .map_err(Fault::Unreadable)?;
        let limits = DecodeLimits::DEFAULT;
        let _picture = decode_admitted(&self.encoded, &limits, &mut self.image, |picture| {
            let room = match &shared.recipe {
                Recipe::Groups(groups) => {
                    let mut room = 0;
                    for group in groups {
                        room = room_bytes(group, picture.width, picture.height)?.max(room);
                    }
                    room
                }
                Recipe::Objects(views, _) => views.room_bytes(picture.width, picture.height)?,
            };
            Ok(PICTURES.reserve(picture.bytes + room))
        })
        .map_err(Fault::Broken)?;
        match &shared.recipe {
            Recipe::Groups(groups) => {
                let key = (shared.seed, epoch, u64::from(position));
                self.draw(groups, key, places).map_err(Fault::Broken)?;
                Ok(None)
            }
            Recipe::Objects(views, _) => {
                let targets = self.targets(&shared.dataset, record)?;
                let key = (shared.seed, epoch, u64::from(position));
                let view = ObjectView::draw(&self.image, targets, views, key, &mut self.resampler);
                Ok(Some(view))
            }
        }
    }

    /// The objects of the record whose picture was decoded.
    fn targets(&self, dataset: &Dataset, record: usize) -> Result<ImageTargets, Fault> {
        let (width, height) = (self.image.width, self.image.height);
        let Some(targets) = dataset.targets(record).map_err(Fault::Unreadable)? else {
            return Ok(ImageTargets {
                image_id: record as u64,
                width,
                height,
                objects: Vec::new(),
            });
        };
        if (targets.width, targets.height) != (width, height) {
            return Err(Fault::Broken(DecodeError::OtherSize {
                width,
                height,
                stated_width: targets.width,
                stated_height: targets.height,
            }));
        }
        Ok(targets)
    }

    fn draw(
        &mut self,
        groups: &[ViewGroup],
        (seed, epoch, position): (u64, u64, u64),
        places: &mut [&mut [u8]],
    ) -> Result<(), DecodeError> {
        let groups = groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(group, group.count));
        for ((view, group), place) in groups.enumerate().zip(places) {
            let mut source = generator(seed, Purpose::View, epoch, position, view as u64);
            self.maker.make(&self.image, group, &mut source, place)?;
        }
        Ok(())
    }

    /// Bytes of memory that it keeps for the next image.
    fn kept_bytes(&self) -> usize {
        self.encoded.capacity()
            + self.image.pixels.capacity()
            + self.maker.kept_bytes()
            + self.resampler.kept_bytes()
    }
}

/// Why a record gives no views.
enum Fault {
    /// Its file cannot be read.
    Unreadable(Error),
    /// The record is broken.
    Broken(DecodeError),
}
