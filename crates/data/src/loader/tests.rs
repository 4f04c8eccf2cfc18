//! The loader's guarantees: the same batches for any number of workers and after any resume, each record once
//! per epoch, and broken records replaced, counted, named and limited.

use proptest::prelude::*;

use super::*;
use crate::record::{Metadata, Record};
use crate::transforms::{Filter, Transform};

const SEED: u64 = 11;

fn config(batch_images: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_images,
        workers,
        max_bad_fraction: 0.0,
    }
}

/// Two groups, so that view numbers continue across groups.
fn views() -> Vec<ViewGroup> {
    let crop = |size_px| Transform::RandomResizedCrop {
        size_px,
        scale: [0.3, 1.0],
        ratio: [0.75, 1.33],
        filter: Filter::Bilinear,
    };
    let jitter = Transform::ColorJitter {
        probability: 0.8,
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
    };
    let blur = Transform::GaussianBlur {
        probability: 0.5,
        sigma: [0.1, 2.0],
    };
    vec![
        ViewGroup {
            count: 2,
            transforms: vec![
                crop(12),
                jitter,
                blur,
                Transform::HorizontalFlip { probability: 0.5 },
            ],
        },
        ViewGroup {
            count: 1,
            transforms: vec![crop(8), Transform::Grayscale { probability: 0.5 }],
        },
    ]
}

fn loader(records: usize, config: LoaderConfig, order: Order) -> Loader {
    Loader::new(
        Arc::new(Dataset::synthetic(records, 20, 16, 3, 1)),
        views(),
        config,
        order,
        SEED,
    )
    .unwrap()
}

fn collect(loader: &Loader, first: usize, end: usize) -> Vec<Batch> {
    loader.batches(first, end).collect::<Result<_, _>>().unwrap()
}

#[test]
fn batches_are_laid_out_as_promised() {
    let batches = collect(&loader(10, config(4, 2), Order::Global), 0, 3);
    assert_eq!(batches.len(), 3);
    for batch in &batches {
        let [global, local] = batch.views.as_slice() else {
            panic!("two groups")
        };
        assert_eq!(
            (
                global.count,
                global.images,
                global.channels,
                global.height,
                global.width
            ),
            (2, 4, 3, 12, 12)
        );
        assert_eq!(global.pixels.len(), 2 * 4 * 3 * 12 * 12);
        assert_eq!(
            (local.count, local.width, local.pixels.len()),
            (1, 8, 4 * 3 * 8 * 8)
        );
        let labels = batch
            .positions
            .iter()
            .map(|position| Label::Class((position % 3) as u32))
            .collect();
        assert_eq!(batch.labels, Some(labels));
        assert_ne!(
            global.pixels[..4 * 432],
            global.pixels[4 * 432..],
            "the two views differ"
        );
    }
}

/// A group with one view of this size.
fn crop_of(size_px: u32, probability: f64) -> ViewGroup {
    let [mut group, _] = <[ViewGroup; 2]>::try_from(views()).unwrap();
    group.count = 1;
    let Transform::RandomResizedCrop { size_px: size, .. } = &mut group.transforms[0] else {
        panic!("the first transform is the crop")
    };
    *size = size_px;
    group.transforms.push(Transform::Grayscale { probability });
    group
}

#[test]
fn neighbors_of_one_size_lie_in_one_piece_view_by_view() {
    let batch = |groups: Vec<ViewGroup>| {
        let dataset = Arc::new(Dataset::synthetic(10, 20, 16, 3, 1));
        let loader = Loader::new(dataset, groups, config(4, 2), Order::Global, SEED).unwrap();
        collect(&loader, 0, 1).remove(0).views
    };
    let joined = batch(vec![
        crop_of(12, 0.0),
        crop_of(12, 1.0),
        crop_of(8, 0.0),
        crop_of(12, 0.0),
    ]);
    let sizes: Vec<_> = joined.iter().map(|views| (views.count, views.width)).collect();
    assert_eq!(sizes, [(2, 12), (1, 8), (1, 12)]);
    // The same views, no two consecutive ones of one size.
    let apart = batch(vec![
        crop_of(12, 0.0),
        crop_of(8, 1.0),
        crop_of(12, 0.0),
        crop_of(8, 0.0),
    ]);
    let second = batch(vec![crop_of(8, 0.0), crop_of(12, 1.0)]);
    let view = 4 * 3 * 12 * 12;
    assert_eq!(joined[0].pixels[..view], apart[0].pixels);
    assert_eq!(joined[0].pixels[view..], second[1].pixels);
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    for order in [Order::Global, Order::Blocks(4), Order::Sequential] {
        let expected = collect(&loader(23, config(5, 0), order), 0, 12);
        for workers in [1, 4, 16] {
            assert_eq!(
                collect(&loader(23, config(5, workers), order), 0, 12),
                expected,
                "{workers} workers, {order:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn resuming_is_skipping(records in 6usize..30, batch in 1usize..6, first in 0usize..12, length in 0usize..6) {
        let whole = collect(&loader(records, config(batch, 0), Order::Global), 0, first + length);
        let resumed = collect(&loader(records, config(batch, 2), Order::Global), first, first + length);
        prop_assert_eq!(&whole[first..], resumed.as_slice());
    }

    #[test]
    fn every_record_comes_once_an_epoch(records in 1usize..40, batch in 1usize..7, workers in 0usize..4, epoch in 0usize..3) {
        let loader = loader(records, config(batch, workers), Order::Sequential);
        let steps = loader.batches_per_epoch();
        let positions: Vec<u64> = collect(&loader, epoch * steps, (epoch + 1) * steps)
            .into_iter()
            .flat_map(|batch| batch.positions)
            .collect();
        prop_assert_eq!(positions, (0..records as u64).collect::<Vec<u64>>());
        if records >= batch {
            let shuffled = self::loader(records, config(batch, workers), Order::Global);
            let steps = shuffled.batches_per_epoch();
            let batches = collect(&shuffled, epoch * steps, (epoch + 1) * steps);
            let mut positions: Vec<u64> = batches.into_iter().flat_map(|batch| batch.positions).collect();
            prop_assert_eq!(positions.len(), records / batch * batch);
            positions.sort_unstable();
            positions.dedup();
            prop_assert_eq!(positions.len(), records / batch * batch);
        }
    }
}

#[test]
fn epochs_differ_in_order_and_in_views() {
    let loader = loader(6, config(6, 0), Order::Sequential);
    let batches = collect(&loader, 0, 2);
    assert_eq!(batches[0].positions, batches[1].positions);
    assert_ne!(batches[0].views, batches[1].views);
}

#[test]
fn dropping_the_iterator_ends_its_threads() {
    let loader = loader(64, config(8, 4), Order::Global);
    let mut batches = loader.batches(0, usize::MAX);
    batches.next().unwrap().unwrap();
    // Joins the threads; the test would hang if they continued.
    drop(batches);
    assert_eq!(Arc::strong_count(&loader.shared), 1);
}

/// Twelve valid pictures, of which those at `broken` are replaced by damaged ones.
fn with_broken(broken: &[usize]) -> Arc<Dataset> {
    let source = Dataset::synthetic(12, 20, 16, 0, 1);
    let records = (0..12)
        .map(|position| {
            let image = match broken.iter().position(|at| *at == position) {
                Some(0) => Vec::new(),
                Some(1) => b"<html>".to_vec(),
                Some(_) => source.read(position).unwrap().image[..100].to_vec(),
                None => source.read(position).unwrap().image,
            };
            Record {
                key: format!("r{position}"),
                image,
                label: None,
                metadata: Metadata::default(),
            }
        })
        .collect();
    Arc::new(Dataset::from_records(records, Vec::new()))
}

#[test]
fn broken_records_are_replaced_by_the_next_good_one() {
    let settings = |workers| LoaderConfig {
        max_bad_fraction: 0.25,
        ..config(4, workers)
    };
    let expected: Vec<u32> = Order::Global.epoch(12, SEED, 0);
    let mut found = Vec::new();
    for workers in [0, 3] {
        let loader = Loader::new(
            with_broken(&[2, 5, 6]),
            views(),
            settings(workers),
            Order::Global,
            SEED,
        )
        .unwrap();
        let batches = collect(&loader, 0, 3);
        let positions: Vec<u64> = batches.iter().flat_map(|batch| batch.positions.clone()).collect();
        for (slot, position) in positions.iter().enumerate() {
            let good = (slot..)
                .map(|at| expected[at % 12])
                .find(|at| ![2, 5, 6].contains(at))
                .unwrap();
            assert_eq!(*position, u64::from(good), "slot {slot}");
        }
        let bad = loader.bad_records();
        assert_eq!(bad.count, 3);
        let named: Vec<(&str, &str)> = bad
            .first
            .iter()
            .map(|bad| (bad.key.as_str(), bad.reason.as_str()))
            .collect();
        assert_eq!(named[0], ("r2", "the file is empty"));
        assert!(
            named[1].0 == "r5" && named[1].1.starts_with("not an image"),
            "{named:?}"
        );
        assert_eq!(named[2].0, "r6");
        found.push(batches);
    }
    assert_eq!(found[0], found[1]);
}

#[test]
fn too_many_broken_records_stop_the_run() {
    for workers in [0, 3] {
        let settings = LoaderConfig {
            max_bad_fraction: 0.2,
            ..config(4, workers)
        };
        let loader = Loader::new(with_broken(&[2, 5, 6]), views(), settings, Order::Global, SEED).unwrap();
        let outcomes: Vec<Result<Batch, Error>> = loader.batches(0, 30).collect();
        let error = outcomes.last().unwrap().as_ref().unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooManyBad {
                    bad: 3,
                    records: 12,
                    ..
                }
            ),
            "{error}"
        );
        assert!(outcomes.len() <= 3, "all records were seen in three batches");
    }
    let all: Vec<usize> = (0..12).collect();
    let settings = LoaderConfig {
        max_bad_fraction: 1.0,
        ..config(4, 2)
    };
    let loader = Loader::new(with_broken(&all), views(), settings, Order::Global, SEED).unwrap();
    assert!(
        loader.batches(0, 3).next().unwrap().is_err(),
        "nothing is left to replace them with"
    );
}

#[test]
fn sequential_order_leaves_broken_records_out() {
    let settings = LoaderConfig {
        max_bad_fraction: 0.5,
        ..config(5, 2)
    };
    let loader = Loader::new(
        with_broken(&[2, 5, 6, 7, 8, 9]),
        views(),
        settings,
        Order::Sequential,
        SEED,
    )
    .unwrap();
    let batches = collect(&loader, 0, loader.batches_per_epoch());
    let positions: Vec<Vec<u64>> = batches.iter().map(|batch| batch.positions.clone()).collect();
    assert_eq!(
        positions,
        [vec![0, 1, 3, 4], vec![10, 11]],
        "a batch without a good record is passed over"
    );
    let good = Loader::new(with_broken(&[]), views(), settings, Order::Sequential, SEED).unwrap();
    let whole = collect(&good, 0, 1);
    let view = 3 * 12 * 12;
    // Images 0, 1, 3, 4 of 0..5, in both views of the first group.
    for (at, from) in [(0, 0), (2, 3), (4, 5), (6, 8)] {
        let (kept, all) = (&batches[0].views[0].pixels, &whole[0].views[0].pixels);
        assert_eq!(
            kept[at * view..(at + 1) * view],
            all[from * view..(from + 1) * view]
        );
    }
}

#[test]
fn settings_that_cannot_be_carried_out_are_named() {
    let data = || Arc::new(Dataset::synthetic(10, 8, 8, 0, 0));
    let refused = |config, views, order| {
        Loader::new(data(), views, config, order, SEED)
            .unwrap_err()
            .to_string()
    };
    let error = |config, views| refused(config, views, Order::Global);
    assert_eq!(
        error(config(11, 0), views()),
        "`batch_images` must be at most the data set's 10 records, got 11"
    );
    assert_eq!(
        error(config(0, 0), views()),
        "`batch_images` must be at least 1, got 0"
    );
    assert!(
        error(config(2, 100_000), views())
            .starts_with("`workers` must be at most 1024, got 100000: each is a thread")
    );
    assert_eq!(
        error(config(2, 0), Vec::new()),
        "`views` must be at least one view group, got none"
    );
    let empty = vec![ViewGroup {
        count: 1,
        transforms: Vec::new(),
    }];
    assert!(
        error(config(2, 0), empty)
            .starts_with("view group 0: `transforms` must give one size for every image")
    );
    assert_eq!(
        refused(config(2, 0), views(), Order::Blocks(0)),
        "`order` must have blocks of at least 1 record, got 0"
    );
    let fraction = LoaderConfig {
        max_bad_fraction: 1.5,
        ..config(2, 0)
    };
    assert_eq!(
        error(fraction, views()),
        "`max_bad_fraction` must be in 0..1, got 1.5"
    );
    assert_eq!(
        fraction.validate().unwrap_err(),
        "`data.max_bad_fraction` must be in 0..1, got 1.5"
    );
}

/// A PNG of noise.
fn png(width: u32, height: u32) -> Vec<u8> {
    use crate::randomness::{Purpose, below, generator};
    use image::ImageEncoder;
    let mut draws = generator(1, Purpose::View, 0, 0, 0);
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|_| below(&mut draws, 256) as u8)
        .collect();
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out)
        .write_image(&pixels, width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    out
}

/// Three pictures as any other, and `odd` among them.
fn among_others(odd: Vec<u8>) -> Arc<Dataset> {
    let images = [png(40, 30), odd, png(30, 40), png(33, 33)];
    let record = |(at, image)| Record {
        key: format!("r{at}"),
        image,
        label: None,
        metadata: Metadata::default(),
    };
    let records = images.into_iter().enumerate().map(record);
    Arc::new(Dataset::from_records(records.collect(), Vec::new()))
}

fn in_sequence(dataset: Arc<Dataset>, transforms: Vec<Transform>, workers: usize) -> Loader {
    let views = vec![ViewGroup { count: 1, transforms }];
    let settings = LoaderConfig {
        max_bad_fraction: 0.5,
        ..config(4, workers)
    };
    Loader::new(dataset, views, settings, Order::Sequential, SEED).unwrap()
}

#[test]
fn a_thin_picture_gives_the_center_of_what_a_resize_makes_of_it() {
    let resize = Transform::Resize {
        shorter_px: 64,
        filter: Filter::Bicubic,
    };
    let crop = Transform::CenterCrop { size_px: 56 };
    let loader = in_sequence(among_others(png(1, 3_000)), vec![resize, crop], 2);
    let batches = collect(&loader, 0, 1);
    assert_eq!((loader.bad_records().count, batches[0].positions.len()), (0, 4));
    // The same by hand: the middle rows of the column, enlarged 64 times, without the ends.
    let column = crate::decode::decode(&png(1, 3_000), &crate::decode::DecodeLimits::DEFAULT).unwrap();
    let middle = crate::RgbImage {
        width: 1,
        height: 100,
        pixels: column.pixels[1_450 * 3..1_550 * 3].to_vec(),
    };
    let large = crate::transforms::geometry::resize(&middle, 64, 6_400, Filter::Bicubic);
    let mut kept = crate::RgbImage::default();
    crate::transforms::geometry::center_crop(&large, 56, 56, &mut kept);
    let mut planes = vec![0; kept.pixels.len()];
    crate::transforms::geometry::to_planes(&kept.pixels, &mut planes);
    assert_eq!(batches[0].views[0].pixels[planes.len()..2 * planes.len()], planes);
}

#[test]
fn a_picture_whose_resize_is_too_large_is_a_broken_record() {
    let exact = |px| Transform::ResizeExact {
        width_px: px,
        height_px: px,
        filter: Filter::Bilinear,
    };
    let resize = Transform::Resize {
        shorter_px: 256,
        filter: Filter::Bilinear,
    };
    for workers in [0, 2] {
        let loader = in_sequence(
            among_others(png(1, 6_000)),
            vec![resize.clone(), exact(8)],
            workers,
        );
        assert_eq!(collect(&loader, 0, 1)[0].positions, [0, 2, 3]);
        let bad = loader.bad_records();
        assert_eq!((bad.count, bad.first[0].key.as_str()), (1, "r1"));
        assert_eq!(
            bad.first[0].reason,
            "`resize` would make 256 x 1536000 px of it, over the limit of 178956970 px"
        );
        assert!(bad.first[0].decodes);
    }
}

/// A source with one record that makes the program panic.
#[derive(Debug)]
struct Panicking(Dataset);

impl crate::sources::source::Source for Panicking {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_labeled(&self) -> bool {
        false
    }

    fn key(&self, position: usize) -> String {
        format!("k{position}")
    }

    fn label(&self, _: usize) -> Option<Label> {
        None
    }

    fn read_image(&self, position: usize, image: &mut Vec<u8>) -> Result<(), Error> {
        assert!(position != 2, "a defect of the program");
        self.0.read_image(position, image)
    }
}

#[test]
fn a_panic_on_a_record_is_a_broken_record() {
    for (order, workers, left) in [
        (Order::Sequential, 0, vec![0, 1, 3]),
        (Order::Sequential, 3, vec![0, 1, 3]),
        (Order::Global, 0, vec![0, 1, 3]),
        (Order::Global, 3, vec![0, 1, 3]),
    ] {
        let dataset = Dataset::of_source(Box::new(Panicking(Dataset::synthetic(4, 20, 16, 0, 1))));
        let settings = LoaderConfig {
            max_bad_fraction: 0.25,
            ..config(4, workers)
        };
        let loader = Loader::new(Arc::new(dataset), views(), settings, order, SEED).unwrap();
        // Twice, because a thread goes on after a panic.
        let batches = collect(&loader, 0, 2);
        let mut seen: Vec<u64> = batches.iter().flat_map(|batch| batch.positions.clone()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, left, "{order:?}, {workers} workers");
        let bad = loader.bad_records();
        assert_eq!((bad.count, bad.first[0].key.as_str()), (1, "k2"));
        assert_eq!(
            bad.first[0].reason,
            "the program panicked on it: a defect of the program"
        );
    }
}
