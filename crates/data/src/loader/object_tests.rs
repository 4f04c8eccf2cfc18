//! Batches of pictures with their objects: sizes, padding, draws and targets; the same for any number of workers,
//! after any resume, and in any number of parts.

use super::*;
use crate::decode::RgbImage;
use crate::record::{Metadata, Record};
use crate::targets::{BoundingBox, ImageTargets, ResizeRule};
use crate::transforms::bilinear;

const SEED: u64 = 5;
/// Width and height of the records, repeated.
const SIZES: [(u32, u32); 5] = [(40, 30), (20, 50), (33, 33), (64, 24), (16, 48)];

fn views() -> ObjectViews {
    ObjectViews {
        shorter_px: vec![24, 32, 40],
        longest_px: 70,
        rule: ResizeRule::Torchvision,
        flip_probability: 0.5,
        masks: true,
        multiple_px: 32,
        by_aspect: false,
    }
}

fn record(position: usize, stated: (u32, u32)) -> Record {
    let (width, height) = SIZES[position % SIZES.len()];
    // A box of the left half, so that a flip shows.
    let json = format!(
        r#"{{"image_id":{},"width":{},"height":{},
        "objects":[{{"class":{},"bbox":[0,0,{},{height}],"segmentation":[[0,0,{},0,{},{height}]]}}]}}"#,
        100 + position,
        stated.0,
        stated.1,
        position % 3,
        f64::from(width) / 2.0,
        f64::from(width) / 2.0,
        f64::from(width) / 2.0,
    );
    let Ok(serde_json::Value::Object(other)) = serde_json::from_str(&json) else {
        panic!("an object");
    };
    Record {
        key: format!("{position:03}"),
        image: Dataset::synthetic(1, width, height, 0, position as u64)
            .read(0)
            .unwrap()
            .image,
        label: None,
        metadata: Metadata {
            other,
            ..Metadata::default()
        },
    }
}

fn dataset(records: usize) -> Arc<Dataset> {
    let records = (0..records)
        .map(|position| record(position, SIZES[position % SIZES.len()]))
        .collect();
    let names = ["a", "b", "c"].map(str::to_string).to_vec();
    Arc::new(
        Dataset::from_records(records, names)
            .with_listed_objects()
            .unwrap(),
    )
}

fn config(batch_images: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_images,
        workers,
        max_bad_fraction: 0.0,
    }
}

fn loader(views: ObjectViews, micro_batch: usize, config: LoaderConfig, order: Order) -> Loader {
    Loader::of_objects(dataset(12), views, micro_batch, config, order, SEED).unwrap()
}

fn collect(loader: &Loader, first: usize, end: usize) -> Vec<Batch> {
    loader.batches(first, end).collect::<Result<_, _>>().unwrap()
}

/// The part of a padded view that its picture fills, `[3, height, width]`, and whether the rest is black.
fn unpadded(views: &Views, image: usize, (width, height): (u32, u32)) -> (Vec<u8>, bool) {
    let bytes = 3 * views.height * views.width;
    let padded = &views.pixels[image * bytes..][..bytes];
    let (mut inside, mut is_black) = (Vec::new(), true);
    for (at, row) in padded.chunks_exact(views.width).enumerate() {
        let kept = if at % views.height < height as usize {
            width as usize
        } else {
            0
        };
        inside.extend(&row[..kept]);
        is_black &= row[kept..].iter().all(|value| *value == 0);
    }
    (inside, is_black)
}

#[test]
fn views_have_their_own_sizes_and_are_padded_by_micro_batches() {
    let batches = collect(&loader(views(), 2, config(4, 2), Order::Global), 0, 6);
    let (mut flips, mut shorter) = (0, std::collections::BTreeSet::new());
    let mut sides = std::collections::BTreeSet::new();
    for batch in &batches {
        let targets = batch.targets.as_ref().unwrap();
        assert_eq!((batch.views.len(), targets.len()), (2, 4));
        for (at, (target, position)) in targets.iter().zip(&batch.positions).enumerate() {
            let micro_batch = &batch.views[at / 2];
            assert_eq!((micro_batch.count, micro_batch.images), (1, 2));
            let of_batch = &targets[at / 2 * 2..][..2];
            let largest = |side: fn(&ImageTargets) -> u32| {
                let sides = of_batch.iter().map(|target| side(&target.targets));
                sides.max().unwrap().next_multiple_of(32) as usize
            };
            assert_eq!(micro_batch.width, largest(|target| target.width));
            assert_eq!(micro_batch.height, largest(|target| target.height));
            sides.insert((micro_batch.width, micro_batch.height));

            let original = SIZES[*position as usize % SIZES.len()];
            assert_eq!((target.original_width, target.original_height), original);
            let size = (target.targets.width, target.targets.height);
            let drawn = [24, 32, 40].map(|length| ResizeRule::Torchvision.size(original, length, 70));
            assert!(drawn.contains(&size), "{size:?}");
            shorter.insert(size);
            flips += usize::from(target.is_flipped);

            // The pixels and the box are those of the picture, resized and mirrored on their own.
            let picture =
                crate::decode(&record(*position as usize, original).image, &Default::default()).unwrap();
            let mut resized = RgbImage::default();
            bilinear::resize(&picture, size, &mut resized);
            let mut planes = vec![0; resized.pixels.len()];
            crate::transforms::geometry::to_planes(&resized.pixels, &mut planes);
            if target.is_flipped {
                crate::transforms::geometry::flip_horizontally(&mut planes, size.0 as usize);
            }
            let (inside, is_black) = unpadded(micro_batch, at % 2, size);
            assert!(inside == planes && is_black);
            let half = original.0 as f32 / 2.0;
            let across = size.0 as f32 / original.0 as f32;
            let (left, right) = match target.is_flipped {
                true => (original.0 as f32 - half, original.0 as f32),
                false => (0.0, half),
            };
            let object = &target.targets.objects[0];
            assert_eq!(object.class, (*position % 3) as u32);
            assert_eq!(target.targets.image_id, 100 + position);
            assert_eq!(
                object.bounding_box,
                BoundingBox {
                    left: left * across,
                    top: 0.0,
                    right: right * across,
                    bottom: original.1 as f32 * (size.1 as f32 / original.1 as f32),
                }
            );
            // The triangle fills the box's upper edge at its far side.
            let mask = object.segmentation.as_ref().unwrap().to_rle(size.0, size.1);
            let found = mask.bounding_box().unwrap();
            assert!(
                (found.left - object.bounding_box.left).abs() <= 2.0
                    && (found.right - object.bounding_box.right).abs() <= 2.0
            );
        }
    }
    assert!(
        (4..=20).contains(&flips) && shorter.len() > 6 && sides.len() > 2,
        "{flips}"
    );
}

#[test]
fn batches_do_not_depend_on_workers_resumes_or_parts() {
    for by_aspect in [false, true] {
        let views = ObjectViews { by_aspect, ..views() };
        let whole = collect(&loader(views.clone(), 2, config(4, 0), Order::Global), 0, 9);
        for workers in [1, 4] {
            let other = loader(views.clone(), 2, config(4, workers), Order::Global);
            assert!(collect(&other, 0, 9) == whole, "{workers}");
            assert!(collect(&other, 4, 9) == whole[4..], "resumed in the second epoch");
        }
        for index in 0..2 {
            let part = loader(views.clone(), 2, config(4, 1), Order::Global)
                .part(index, 2)
                .unwrap();
            for (part, whole) in collect(&part, 0, 9).iter().zip(&whole) {
                assert_eq!(part.positions, whole.positions[2 * index..][..2]);
                assert!(part.views == whole.views[index..=index]);
                assert!(part.targets.as_deref() == whole.targets.as_ref().map(|all| &all[2 * index..][..2]));
            }
        }
    }
}

#[test]
fn draws_change_with_the_epoch_and_not_with_the_batch() {
    let of_step = |images, first, end| {
        let batches = collect(&loader(views(), 1, config(images, 1), Order::Global), first, end);
        let mut drawn: Vec<_> = batches
            .into_iter()
            .flat_map(|batch| batch.positions.into_iter().zip(batch.targets.unwrap()))
            .map(|(position, target)| (position, target.targets.width, target.is_flipped))
            .collect();
        drawn.sort_unstable();
        drawn
    };
    assert_eq!(of_step(4, 0, 3), of_step(6, 0, 2), "one epoch");
    assert_ne!(of_step(4, 0, 3), of_step(4, 3, 6), "another epoch");
}

#[test]
fn pictures_of_one_format_share_a_micro_batch() {
    let views = ObjectViews {
        by_aspect: true,
        ..views()
    };
    let batches = collect(&loader(views, 2, config(4, 2), Order::Global), 0, 9);
    let mut mixed = 0;
    for batch in &batches {
        let wide: Vec<bool> = batch
            .targets
            .iter()
            .flatten()
            .map(|target| target.original_width > target.original_height)
            .collect();
        mixed += wide.chunks(2).filter(|pair| pair[0] != pair[1]).count();
    }
    // 5 wide and 7 other pictures: one pair of each epoch is mixed at its end.
    assert_eq!(mixed, 3);
}

#[test]
fn an_evaluation_sees_each_picture_once_in_order_without_draws() {
    let views = ObjectViews {
        shorter_px: vec![32],
        flip_probability: 0.0,
        rule: ResizeRule::Detectron2,
        ..views()
    };
    let loader = Loader::of_objects(dataset(7), views, 2, config(4, 2), Order::Sequential, SEED).unwrap();
    let batches = collect(&loader, 0, 2);
    let positions: Vec<u64> = batches.iter().flat_map(|batch| batch.positions.clone()).collect();
    assert_eq!(positions, [0, 1, 2, 3, 4, 5, 6]);
    let images: Vec<usize> = batches
        .iter()
        .flat_map(|batch| batch.views.iter().map(|views| views.images))
        .collect();
    assert_eq!(images, [2, 2, 2, 1]);
    for target in batches.iter().flat_map(|batch| batch.targets.iter().flatten()) {
        let original = (target.original_width, target.original_height);
        let size = ResizeRule::Detectron2.size(original, 32, 70);
        assert_eq!((target.targets.width, target.targets.height), size);
        assert!(!target.is_flipped);
    }
}

#[test]
fn pictures_of_another_size_than_their_boxes_are_broken_records() {
    let records = |turned: &[usize]| -> Arc<Dataset> {
        let records = (0..12).map(|position| {
            let (width, height) = SIZES[position % SIZES.len()];
            let is_turned = turned.contains(&position);
            record(
                position,
                if is_turned {
                    (height, width)
                } else {
                    (width, height)
                },
            )
        });
        let data = Dataset::from_records(records.collect(), vec![]);
        Arc::new(data.with_listed_objects().unwrap())
    };
    let settings = LoaderConfig {
        max_bad_fraction: 0.2,
        ..config(4, 2)
    };
    let of = |turned: &[usize], order| {
        Loader::of_objects(records(turned), views(), 2, settings, order, SEED).unwrap()
    };
    let loader = of(&[0, 4], Order::Global);
    let batches = collect(&loader, 0, 3);
    assert!(
        batches.iter().all(|batch| batch.positions.len() == 4),
        "they are replaced"
    );
    let bad = loader.bad_records();
    assert_eq!(bad.count, 2);
    assert!(bad.first[0].other_size && bad.first[0].decodes);
    assert_eq!(
        bad.first[0].reason,
        "40 x 30 px, but its boxes are of a picture of 30 x 40 px"
    );
    // In order, they are skipped, and their micro-batch has one image less.
    let batches = collect(&of(&[0, 4], Order::Sequential), 0, 3);
    assert_eq!(batches[0].positions, [1, 2, 3]);
    assert_eq!(
        batches[0]
            .views
            .iter()
            .map(|views| views.images)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(batches[0].targets.as_ref().unwrap().len(), 3);
    // A box in the empty half of a turned picture lies outside of it, so the objects differ; here all are bad.
    let error = of(&[0, 1, 3, 4], Order::Global)
        .batches(0, 9)
        .find_map(Result::err)
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("are of another size than their boxes, more than max_bad_fraction = 0.2 allows"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::SizesOfBoxes));
}

#[test]
fn pictures_without_boxes_are_views_all_the_same() {
    let data = Arc::new(Dataset::synthetic(3, 20, 16, 0, 1));
    let loader = Loader::of_objects(data, views(), 3, config(3, 0), Order::Sequential, SEED).unwrap();
    let batch = collect(&loader, 0, 1).remove(0);
    assert!(
        batch
            .targets
            .unwrap()
            .iter()
            .all(|target| target.targets.objects.is_empty())
    );
}

#[test]
fn masks_are_left_out_where_boxes_are_enough() {
    let of = |masks| {
        let views = ObjectViews { masks, ..views() };
        collect(&loader(views, 4, config(4, 0), Order::Global), 0, 1).remove(0)
    };
    let (mut with, without) = (of(true), of(false));
    for target in with.targets.iter_mut().flatten() {
        for object in &mut target.targets.objects {
            assert!(object.segmentation.take().is_some());
        }
    }
    assert!(with == without);
}

#[test]
fn impossible_settings_are_named() {
    let refused = |views: ObjectViews, micro_batch, order| {
        Loader::of_objects(dataset(12), views, micro_batch, config(4, 0), order, SEED)
            .unwrap_err()
            .to_string()
    };
    let with = |change: fn(&mut ObjectViews)| {
        let mut changed = views();
        change(&mut changed);
        refused(changed, 2, Order::Global)
    };
    assert!(with(|views| views.shorter_px.clear()).contains("`shorter_px` must list at least one length"));
    assert!(with(|views| views.shorter_px.push(0)).contains("`shorter_px` must be in 1..16384, got 0"));
    assert!(with(|views| views.longest_px = 99_999).contains("`longest_px` must be in 1..16384, got 99999"));
    assert!(
        with(|views| views.flip_probability = 1.5).contains("`flip_probability` must be in 0..1, got 1.5")
    );
    assert!(
        refused(views(), 3, Order::Global)
            .contains("`micro_batch_images` must divide `batch_images` = 4, got 3")
    );
    let by_aspect = ObjectViews {
        by_aspect: true,
        ..views()
    };
    assert!(
        refused(by_aspect, 2, Order::Sequential)
            .contains("`by_aspect` must be false in the order `sequential`")
    );
    let error = loader(views(), 4, config(4, 0), Order::Global)
        .part(0, 2)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("must divide the 2 images of each of 2 devices, got 4"),
        "{error}"
    );
}
