//! Masks against pycocotools, resizes against torchvision and Pillow (`fixtures/targets.json.gz`, by
//! `scripts/parity/targets.py`), and cases by hand. Masks agree bit by bit, boxes in all bits of f32.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::decode::RgbImage;
use crate::transforms::bilinear;

#[derive(Deserialize)]
struct Fixture {
    masks: Vec<MaskCase>,
    /// Sides of a picture, and of torchvision's result.
    sizes: Vec<[u32; 4]>,
    resized: Vec<Resized>,
    pictures: Vec<Picture>,
}

#[derive(Deserialize)]
struct Picture {
    /// Sides of the picture and of the result.
    size: [u32; 4],
    /// Red, green and blue, in hexadecimal.
    pixels: String,
}

#[derive(Deserialize)]
struct MaskCase {
    rle: String,
    area: u64,
    /// Left, top, width, height; zeros without a pixel.
    #[serde(rename = "box")]
    bounding_box: [u32; 4],
    /// With the mask before it, where that is of the same size.
    union: Option<String>,
    intersection: Option<String>,
}

#[derive(Deserialize)]
struct Resized {
    number: usize,
    short: u32,
    size: [u32; 2],
    #[serde(rename = "box")]
    bounding_box: [f64; 4],
    torchvision: String,
    pillow: String,
}

fn fixture() -> Fixture {
    let packed = &include_bytes!("../../fixtures/targets.json.gz")[..];
    serde_json::from_reader(flate2::read::GzDecoder::new(packed)).unwrap()
}

/// The formula in the generator's head.
struct Draws(u64);

impl Draws {
    fn draw(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

fn polygons() -> Vec<(u32, u32, Polygon)> {
    let mut draws = Draws(1);
    let (mut width, mut height) = (0, 0);
    (0..1000)
        .map(|number| {
            if number % 10 == 0 {
                width = 1 + draws.draw(120);
                height = 1 + draws.draw(120);
            }
            let (corners, spread) = (3 + draws.draw(10), draws.draw(4));
            let mut flat = Vec::new();
            for side in std::iter::repeat_n([width, height], corners as usize).flatten() {
                flat.push(match spread {
                    0 => draws.draw((side + 40) * 100) as f64 / 100.0 - 20.0,
                    1 => draws.draw(side * 10 + 1) as f64 / 10.0,
                    2 => draws.draw(side + 1) as f64,
                    _ => side as f64 / 2.0 + draws.draw(300) as f64 / 100.0,
                });
            }
            (width as u32, height as u32, Polygon::from_flat(&flat).unwrap())
        })
        .collect()
}

#[test]
fn a_thousand_polygons_are_filled_as_by_pycocotools() {
    let mut before: Option<Rle> = None;
    let (mut merged, mut filled) = (0, 0);
    for (number, ((width, height, polygon), case)) in polygons().iter().zip(fixture().masks).enumerate() {
        let rle = polygon.to_rle(*width, *height);
        assert_eq!(rle.to_compressed(), case.rle, "polygon {number}");
        assert_eq!(Rle::from_compressed(*width, *height, &case.rle).unwrap(), rle);
        assert_eq!(rle.area(), case.area, "polygon {number}");
        let [left, top, across, down] = case.bounding_box.map(|side| side as f32);
        let expected = (case.area > 0).then_some(BoundingBox {
            left,
            top,
            right: left + across,
            bottom: top + down,
        });
        assert_eq!(rle.bounding_box(), expected, "polygon {number}");
        if let (Some(union), Some(intersection)) = (case.union, case.intersection) {
            let before = before.unwrap();
            assert_eq!(before.union(&rle).unwrap().to_compressed(), union);
            assert_eq!(before.intersection(&rle).unwrap().to_compressed(), intersection);
            merged += 1;
        }
        filled += usize::from(case.area > 0);
        before = Some(rle);
    }
    assert!(merged >= 890 && filled > 800, "{merged} {filled}");
}

#[test]
fn sides_after_a_resize_are_torchvisions() {
    for [width, height, across, down] in fixture().sizes {
        let size = ResizeRule::Torchvision.size((width, height), 800, 1333);
        assert_eq!(size, (across, down), "{width} x {height}");
    }
}

#[test]
fn pictures_are_resized_as_by_pytorch() {
    for case in fixture().pictures {
        let [width, height, across, down] = case.size;
        let mut picture = RgbImage {
            width,
            height,
            pixels: Vec::new(),
        };
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let value = |channel: u32| (7 * x + 5 * y + 40 * channel + x * y % 11) % 256;
            picture
                .pixels
                .extend([0, 1, 2].map(|channel: u32| value(channel) as u8));
        }
        let mut resized = RgbImage::default();
        bilinear::resize(&picture, (across, down), &mut resized);
        let expected = case
            .pixels
            .as_bytes()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
        let expected: Vec<u8> = expected.collect();
        assert_eq!(expected.len(), resized.pixels.len());
        let differ: Vec<u8> = expected
            .iter()
            .zip(&resized.pixels)
            .map(|(one, other)| one.abs_diff(*other))
            .collect();
        // Sums in another order may fall on the other side of a half.
        let apart = differ.iter().filter(|difference| **difference > 0).count();
        assert!(
            differ.iter().all(|difference| *difference <= 1) && apart <= 1 + differ.len() / 200,
            "{apart}"
        );
    }
}

/// Sides by hand: torchvision's are rounded down, detectron2's to the nearest.
#[test]
fn the_two_rules_differ_by_a_pixel() {
    let torchvision = |size| ResizeRule::Torchvision.size(size, 800, 1333);
    let detectron2 = |size| ResizeRule::Detectron2.size(size, 800, 1333);
    assert_eq!(torchvision((640, 480)), (1066, 800));
    assert_eq!(detectron2((640, 480)), (1067, 800));
    assert_eq!(torchvision((500, 375)), (1066, 800));
    assert_eq!(torchvision((360, 640)), (749, 1333));
    assert_eq!(detectron2((360, 640)), (750, 1333));
    assert_eq!(detectron2((500, 500)), (800, 800));
    assert_eq!(detectron2((1, 5000)), (1, 1333), "no side is 0");
    assert_eq!(torchvision((1, 5000)), (1, 1333));
}

#[test]
fn boxes_and_masks_are_resized_as_by_torchvision_and_pillow() {
    let polygons = polygons();
    for case in fixture().resized {
        let (width, height, polygon) = &polygons[case.number];
        let targets = ImageTargets {
            image_id: 1,
            width: *width,
            height: *height,
            objects: vec![object(
                BoundingBox {
                    left: (0.1 * f64::from(*width)) as f32,
                    top: (0.2 * f64::from(*height)) as f32,
                    right: (0.7 * f64::from(*width)) as f32,
                    bottom: (0.9 * f64::from(*height)) as f32,
                },
                Some(Segmentation::Polygons(vec![polygon.clone()])),
            )],
        };
        let rule = ResizeRule::Torchvision;
        let size = rule.size((*width, *height), case.short, 2 * case.short);
        assert_eq!([size.0, size.1], case.size);
        let resized = targets.clone().resized(size, rule);
        let edges = resized.objects[0].bounding_box.edges();
        let expected = case.bounding_box.map(|edge| edge as f32);
        assert_eq!(edges, expected, "polygon {}", case.number);
        let rle = |targets: &ImageTargets| {
            let mask = targets.objects[0].segmentation.as_ref().unwrap();
            mask.to_rle(targets.width, targets.height).to_compressed()
        };
        assert_eq!(rle(&resized), case.torchvision, "polygon {}", case.number);
        let pixels = ImageTargets {
            objects: vec![object(
                BoundingBox::default(),
                Some(Segmentation::Rle(polygon.to_rle(*width, *height))),
            )],
            ..targets
        };
        let resized = pixels.resized(size, ResizeRule::Detectron2);
        assert_eq!(rle(&resized), case.pillow, "polygon {}", case.number);
    }
}

fn object(bounding_box: BoundingBox, segmentation: Option<Segmentation>) -> Object {
    Object {
        id: 1,
        class: 0,
        bounding_box,
        segmentation,
        area: 1.0,
        is_crowd: false,
        is_difficult: false,
    }
}

fn edges(left: f32, top: f32, right: f32, bottom: f32) -> BoundingBox {
    BoundingBox {
        left,
        top,
        right,
        bottom,
    }
}

fn rectangle([left, top, right, bottom]: [f64; 4]) -> Segmentation {
    let flat = [left, top, right, top, right, bottom, left, bottom];
    Segmentation::Polygons(vec![Polygon::from_flat(&flat).unwrap()])
}

fn targets(width: u32, height: u32, objects: Vec<Object>) -> ImageTargets {
    ImageTargets {
        image_id: 7,
        width,
        height,
        objects,
    }
}

#[test]
fn runs_go_down_the_columns() {
    // 3 columns of 2: the left column's lower pixel and the middle column.
    let rle = Rle::from_columns(3, 2, &[0, 1, 1, 1, 0, 0]).unwrap();
    assert_eq!(rle.runs(), [1, 3, 2]);
    assert_eq!(rle.to_rows(), [0, 1, 0, 1, 1, 0]);
    assert_eq!(rle.area(), 3);
    assert_eq!(rle.bounding_box(), Some(edges(0.0, 0.0, 2.0, 2.0)));
    assert_eq!(rle.flipped().to_rows(), [0, 1, 0, 0, 1, 1]);
    assert_eq!(Rle::from_columns(1, 2, &[1, 0]).unwrap().runs(), [0, 1, 1]);
    assert_eq!(Rle::empty(3, 2).bounding_box(), None);
    // Runs of 0 join their neighbors.
    assert_eq!(Rle::new(3, 2, [1, 1, 0, 2, 2]).unwrap(), rle);
}

#[test]
fn the_box_of_one_pixel_is_one_pixel_wide() {
    let rle = Rle::new(4, 3, [7, 1, 4]).unwrap();
    assert_eq!(rle.bounding_box(), Some(edges(2.0, 1.0, 3.0, 2.0)));
    assert_eq!(rectangle([2.0, 1.0, 3.0, 2.0]).to_rle(4, 3), rle);
}

#[test]
fn runs_that_are_no_mask_are_refused() {
    let message = |result: Result<Rle, RleError>| result.unwrap_err().to_string();
    assert_eq!(
        message(Rle::new(3, 2, [1, 3])),
        "the runs of a mask of 3 x 2 px must cover 6 px, got 4"
    );
    assert_eq!(
        message(Rle::new(3, 2, [1, u32::MAX, 9])),
        "the runs of a mask of 3 x 2 px must cover 6 px, got 4294967305"
    );
    assert!(message(Rle::new(0, 2, [])).contains("got 0 x 2"));
    assert!(message(Rle::new(65_536, 65_536, [])).contains("must have 1 to"));
    assert_eq!(Rle::from_compressed(3, 2, "1 2"), Err(RleError::Character(' ')));
    assert_eq!(Rle::from_compressed(3, 2, "é"), Err(RleError::Character('é')));
    // `P` says that more follows; `O` is -1.
    assert_eq!(Rle::from_compressed(3, 2, "P"), Err(RleError::Number));
    assert_eq!(Rle::from_compressed(3, 2, "O"), Err(RleError::Number));
    assert_eq!(Rle::from_compressed(3, 2, &"P".repeat(40)), Err(RleError::Number));
    let masks = [Rle::empty(3, 2), Rle::empty(2, 3)];
    assert!(masks[0].union(&masks[1]).is_err());
}

#[test]
fn numbers_that_are_no_polygon_are_refused() {
    let error = |numbers: &[f64]| Polygon::from_flat(numbers).unwrap_err();
    assert_eq!(error(&[1.0, 2.0, 3.0, 4.0]), PolygonError::TooShort(4));
    assert_eq!(error(&[1.0; 7]), PolygonError::Odd(7));
    assert_eq!(error(&[1.0, 2.0, 3.0, 4.0, f64::NAN, 6.0]), PolygonError::TooFar);
    assert_eq!(error(&[1.0, 2.0, 3.0, 4.0, 5.0, 1e9]), PolygonError::TooFar);
}

#[test]
fn a_flip_mirrors_boxes_polygons_and_pixels() {
    let mask = rectangle([1.0, 0.0, 3.0, 2.0]);
    let pixels = Segmentation::Rle(mask.to_rle(10, 4));
    let objects = [mask, pixels].map(|mask| object(edges(1.0, 0.0, 3.0, 2.0), Some(mask)));
    let flipped = targets(10, 4, objects.to_vec()).flipped();
    for object in &flipped.objects {
        assert_eq!(object.bounding_box, edges(7.0, 0.0, 9.0, 2.0));
        let mask = object.segmentation.as_ref().unwrap().to_rle(10, 4);
        assert_eq!(mask.bounding_box(), Some(edges(7.0, 0.0, 9.0, 2.0)));
        assert_eq!(mask.area(), 4);
    }
}

#[test]
fn a_crop_cuts_boxes_and_masks_and_drops_what_is_gone() {
    let part = CropBox {
        left: 2,
        top: 1,
        width: 5,
        height: 4,
    };
    let inside = [1.0, 0.0, 4.0, 3.0];
    let mask = rectangle(inside);
    let pixels = Segmentation::Rle(mask.to_rle(10, 8));
    let mut objects = [mask, pixels]
        .map(|mask| object(edges(1.0, 0.0, 4.0, 3.0), Some(mask)))
        .to_vec();
    // Left of the crop; and a box whose mask is left of it.
    objects.push(object(edges(0.0, 0.0, 2.0, 8.0), None));
    objects.push(object(
        edges(0.0, 0.0, 4.0, 8.0),
        Some(rectangle([0.0, 0.0, 2.0, 8.0])),
    ));
    let cropped = targets(10, 8, objects).cropped(part);
    assert_eq!((cropped.width, cropped.height, cropped.objects.len()), (5, 4, 2));
    for object in &cropped.objects {
        assert_eq!(object.bounding_box, edges(0.0, 0.0, 2.0, 2.0));
        let mask = object.segmentation.as_ref().unwrap().to_rle(5, 4);
        assert_eq!(mask.to_rows()[..10], [1, 1, 0, 0, 0, 1, 1, 0, 0, 0]);
        assert_eq!(mask.area(), 4);
    }
    // A box that is wider than what its mask keeps.
    let mut wide = cropped;
    wide.objects[0].bounding_box = edges(0.0, 0.0, 5.0, 4.0);
    assert_eq!(
        wide.with_boxes_of_masks().objects[0].bounding_box,
        edges(0.0, 0.0, 2.0, 2.0)
    );
}

#[test]
fn polygons_stay_polygons_under_detectron2s_rule() {
    let object = object(edges(1.0, 1.0, 3.0, 2.0), Some(rectangle([1.0, 1.0, 3.0, 2.0])));
    let resized = targets(4, 3, vec![object]).resized((8, 9), ResizeRule::Detectron2);
    assert_eq!((resized.width, resized.height), (8, 9));
    assert_eq!(resized.objects[0].bounding_box, edges(2.0, 3.0, 6.0, 6.0));
    assert_eq!(
        resized.objects[0].segmentation,
        Some(rectangle([2.0, 3.0, 6.0, 6.0]))
    );
}

proptest! {
    #[test]
    fn columns_runs_and_text_lead_back(width in 1u32..20, height in 1u32..20, seed: u64) {
        let mut draws = Draws(seed);
        let columns: Vec<u8> = (0..width * height).map(|_| u8::from(draws.draw(3) == 0)).collect();
        let rle = Rle::from_columns(width, height, &columns).unwrap();
        prop_assert_eq!(rle.to_columns(), columns);
        prop_assert_eq!(&Rle::from_compressed(width, height, &rle.to_compressed()).unwrap(), &rle);
        prop_assert_eq!(&rle.flipped().flipped(), &rle);
        prop_assert_eq!(rle.runs().iter().skip(1).all(|run| *run > 0), true);
        let other = rle.flipped();
        let both = rle.intersection(&other).unwrap().area() + rle.union(&other).unwrap().area();
        prop_assert_eq!(both, rle.area() + other.area());
    }

    /// Cutting an outline and cutting its pixels give the same mask, but for roundings at the cut.
    #[test]
    fn a_cropped_polygon_fills_the_crop_of_its_mask(number in 0usize..1000, seed: u64) {
        let (width, height, polygon) = polygons().swap_remove(number);
        let mut draws = Draws(seed);
        let mut side = |length: u32| {
            let start = draws.draw(u64::from(length)) as u32;
            (start, 1 + draws.draw(u64::from(length - start)) as u32)
        };
        let ((left, part_width), (top, part_height)) = (side(width), side(height));
        let part = CropBox { left, top, width: part_width, height: part_height };
        let pixels = polygon.to_rle(width, height).cropped(part);
        let cut = polygon.cropped(part).map_or(Rle::empty(part_width, part_height), |cut| cut.to_rle(part_width, part_height));
        let differ = cut.union(&pixels).unwrap().area() - cut.intersection(&pixels).unwrap().area();
        // Measured with pycocotools on all polygons: one pixel in a hundred, at most 0.27 per side's pixel.
        prop_assert!(2 * differ <= u64::from(part_width + part_height) + 2, "{differ}");
    }
}
