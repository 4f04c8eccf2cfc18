//! Metrics against pycocotools 2.0.11 and a plain VOC evaluator (`fixtures/metrics.json.gz`, by
//! `scripts/parity/detection_metrics.py`), to 1e-12, and cases by hand.

use serde::Deserialize;

use data::targets::{BoundingBox, ImageTargets, Object, Polygon, Rle, Segmentation};

use super::{
    CocoNumbers, CocoScores, ImageResults, Kind, Matches, Scored, VocScores, VocYear, bootstrap, coco,
    results_json, voc,
};

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: usize,
    /// Number, width, height.
    images: Vec<(u64, u32, u32)>,
    truth: Vec<TruthLine>,
    results: Vec<ResultLine>,
    boxes: ExpectedCoco,
    masks: Option<ExpectedCoco>,
    /// 2007 as it is and rounded, then 2012.
    voc: [VocNumbers; 4],
}

/// Image, class, four edges, area, crowd, difficult, mask.
#[derive(Deserialize)]
struct TruthLine(u64, u32, f32, f32, f32, f32, f64, bool, bool, Option<MaskOf>);

#[derive(Deserialize)]
#[serde(untagged)]
enum MaskOf {
    Polygons(Vec<Vec<f64>>),
    Counts(String),
}

/// Image, class, score, four edges, mask.
#[derive(Deserialize)]
struct ResultLine(u64, u32, f32, f32, f32, f32, f32, Option<String>);

#[derive(Deserialize)]
struct ExpectedCoco {
    stats: [Option<f64>; 12],
    classes: Vec<ClassNumbers>,
}

#[derive(Deserialize)]
struct ClassNumbers {
    /// AP, AP50, AP75, small, medium, large, AR with 100 results.
    numbers: [Option<f64>; 7],
    curve: Vec<f64>,
}

#[derive(Deserialize)]
struct VocNumbers {
    numbers: [Option<f64>; 3],
    classes: Vec<[Option<f64>; 3]>,
}

fn cases() -> Vec<Case> {
    let packed = &include_bytes!("../../fixtures/metrics.json.gz")[..];
    serde_json::from_reader(flate2::read::GzDecoder::new(packed)).unwrap()
}

impl Case {
    fn truth(&self) -> Vec<ImageTargets> {
        let of_image = |&(image_id, width, height): &(u64, u32, u32)| ImageTargets {
            image_id,
            width,
            height,
            objects: self
                .truth
                .iter()
                .enumerate()
                .filter(|(_, line)| line.0 == image_id)
                .map(|(at, line)| Object {
                    id: at as u64 + 1,
                    class: line.1,
                    bounding_box: BoundingBox {
                        left: line.2,
                        top: line.3,
                        right: line.4,
                        bottom: line.5,
                    },
                    segmentation: line.9.as_ref().map(|mask| match mask {
                        MaskOf::Counts(counts) => {
                            Segmentation::Rle(Rle::from_compressed(width, height, counts).unwrap())
                        }
                        MaskOf::Polygons(polygons) => Segmentation::Polygons(
                            polygons
                                .iter()
                                .map(|flat| Polygon::from_flat(flat).unwrap())
                                .collect(),
                        ),
                    }),
                    area: line.6,
                    is_crowd: line.7,
                    is_difficult: line.8,
                })
                .collect(),
        };
        self.images.iter().map(of_image).collect()
    }

    fn results(&self) -> Vec<ImageResults> {
        let of_image = |&(image_id, width, height): &(u64, u32, u32)| {
            let lines = self.results.iter().filter(|line| line.0 == image_id);
            let found = lines.map(|line| Scored {
                class: line.1,
                score: line.2,
                edges: [line.3, line.4, line.5, line.6],
                mask: line
                    .7
                    .as_ref()
                    .map(|counts| Rle::from_compressed(width, height, counts).unwrap()),
            });
            ImageResults {
                image_id,
                found: found.collect(),
            }
        };
        let images = self.images.iter().map(of_image);
        images.filter(|image| !image.found.is_empty()).collect()
    }
}

fn near(got: Option<f64>, expected: Option<f64>, name: &str) {
    let is_near = match (got, expected) {
        (Some(got), Some(expected)) => (got - expected).abs() <= 1e-12,
        (got, expected) => got == expected,
    };
    assert!(is_near, "{name}: {got:?}, expected {expected:?}");
}

/// All AP, and AR with a hundred results.
fn of_class(class: &CocoNumbers) -> [Option<f64>; 7] {
    let all = class.all();
    std::array::from_fn(|at| if at < 6 { all[at] } else { all[8] })
}

fn compare(scores: &CocoScores, expected: &ExpectedCoco, name: &str) {
    for (at, (got, expected)) in scores.mean.all().into_iter().zip(expected.stats).enumerate() {
        near(got, expected, &format!("{name}, number {at}"));
    }
    assert_eq!(scores.classes.len(), expected.classes.len());
    for (class, (got, expected)) in scores.classes.iter().zip(&expected.classes).enumerate() {
        for (at, (got, expected)) in of_class(&got.numbers)
            .into_iter()
            .zip(expected.numbers)
            .enumerate()
        {
            near(got, expected, &format!("{name}, class {class}, number {at}"));
        }
        assert_eq!(got.precision.len(), expected.curve.len(), "{name}, class {class}");
        for (at, (got, expected)) in got.precision.iter().zip(&expected.curve).enumerate() {
            near(
                Some(*got),
                Some(*expected),
                &format!("{name}, class {class}, recall {at}"),
            );
        }
    }
}

#[test]
fn coco_numbers_are_those_of_pycocotools() {
    for case in cases() {
        let (truth, results) = (case.truth(), case.results());
        let scores = coco(&truth, &results, case.classes, Kind::Boxes).unwrap();
        compare(&scores, &case.boxes, &format!("boxes of {}", case.name));
        if let Some(expected) = &case.masks {
            let scores = coco(&truth, &results, case.classes, Kind::Masks).unwrap();
            compare(&scores, expected, "masks");
        }
        for (at, class) in scores.classes.iter().enumerate() {
            let truths = case.truth.iter().filter(|line| line.1 as usize == at && !line.7);
            let given = case.results.iter().filter(|line| line.1 as usize == at);
            assert_eq!((class.truths, class.detections), (truths.count(), given.count()));
        }
    }
}

#[test]
fn voc_numbers_are_those_of_a_plain_evaluator() {
    let numbers = |scores: &VocScores| [scores.ap, scores.ap50, scores.ap75];
    for case in cases() {
        let (truth, results) = (case.truth(), case.results());
        let kinds = [
            (VocYear::Voc2007, false),
            (VocYear::Voc2007, true),
            (VocYear::Voc2012, false),
            (VocYear::Voc2012, true),
        ];
        for ((year, rounded), expected) in kinds.into_iter().zip(&case.voc) {
            let name = format!("{} by {year:?}, rounded {rounded}", case.name);
            let scores = voc(&truth, &results, case.classes, year, rounded).unwrap();
            for (got, expected) in numbers(&scores).into_iter().zip(expected.numbers) {
                near(got, expected, &name);
            }
            for (class, expected) in scores.classes.iter().zip(&expected.classes) {
                for (got, expected) in [class.ap, class.ap50, class.ap75].into_iter().zip(*expected) {
                    near(got, expected, &name);
                }
            }
        }
    }
}

/// A result of class 0 with a score, in a box.
fn scored(score: f32, edges: [f32; 4]) -> Scored {
    Scored {
        class: 0,
        score,
        edges,
        mask: None,
    }
}

/// One image with objects of class 0 in these boxes.
fn image(boxes: &[[f32; 4]]) -> ImageTargets {
    let object = |(at, [left, top, right, bottom]): (usize, &[f32; 4])| {
        let bounding_box = BoundingBox {
            left: *left,
            top: *top,
            right: *right,
            bottom: *bottom,
        };
        Object {
            id: at as u64 + 1,
            class: 0,
            bounding_box,
            segmentation: None,
            area: f64::from(bounding_box.area()),
            is_crowd: false,
            is_difficult: false,
        }
    };
    ImageTargets {
        image_id: 1,
        width: 100,
        height: 100,
        objects: boxes.iter().enumerate().map(object).collect(),
    }
}

fn found(found: Vec<Scored>) -> [ImageResults; 1] {
    [ImageResults { image_id: 1, found }]
}

const A: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
const B: [f32; 4] = [50.0, 50.0, 70.0, 70.0];

#[test]
fn cases_by_hand() {
    let both = |truth: ImageTargets, results: &[ImageResults]| {
        let truth = [truth];
        let voc = |year| voc(&truth, results, 1, year, false).unwrap().ap50;
        let scores = coco(&truth, results, 1, Kind::Boxes).unwrap();
        (scores, voc(VocYear::Voc2007), voc(VocYear::Voc2012))
    };
    // A false alarm before the one object: precision 1/2 at every recall.
    let (scores, voc07, voc12) = both(image(&[A]), &found(vec![scored(0.9, B), scored(0.8, A)]));
    near(scores.mean.ap, Some(0.5), "AP");
    near(scores.mean.ar1, Some(0.0), "AR1");
    near(scores.mean.ar10, Some(1.0), "AR10");
    near(voc07, Some(0.5), "VOC07");
    near(voc12, Some(0.5), "VOC12");
    // One of two objects: precision 1 at 0 to 0.50, 51 points of 101; 6 of 11.
    let (scores, voc07, voc12) = both(image(&[A, B]), &found(vec![scored(0.9, A)]));
    near(scores.mean.ap, Some(51.0 / 101.0), "AP");
    near(scores.mean.ap_small, Some(51.0 / 101.0), "AP of small objects");
    assert_eq!(
        (scores.mean.ap_medium, scores.mean.ap_large, scores.mean.ar_large),
        (None, None, None)
    );
    near(voc07, Some(6.0 / 11.0), "VOC07");
    near(voc12, Some(0.5), "VOC12");
    // Nothing found, and nothing to find.
    let (scores, voc07, _) = both(image(&[A]), &[]);
    assert_eq!(
        (scores.mean.ap, scores.mean.ar100, voc07),
        (Some(0.0), Some(0.0), Some(0.0))
    );
    let (scores, voc07, _) = both(image(&[]), &found(vec![scored(0.9, A)]));
    assert_eq!((scores.mean.ap, scores.mean.ar100, voc07), (None, None, None));
    assert_eq!((scores.classes[0].truths, scores.classes[0].detections), (0, 1));
}

#[test]
fn an_overlap_of_a_threshold_is_enough_for_coco_and_not_for_voc() {
    // 5 of 10: an overlap of exactly 0.5.
    let half = [0.0, 0.0, 10.0, 5.0];
    let (truth, results) = ([image(&[A])], found(vec![scored(0.9, half)]));
    let scores = coco(&truth, &results, 1, Kind::Boxes).unwrap();
    near(scores.mean.ap50, Some(1.0), "AP50");
    near(scores.mean.ap, Some(0.1), "AP");
    let scores = voc(&truth, &results, 1, VocYear::Voc2012, false).unwrap();
    near(scores.ap50, Some(0.0), "VOC12");
}

#[test]
fn of_objects_overlapped_alike_the_later_one_is_taken() {
    // The first result overlaps both by 1/2 and takes the later one; the second result overlaps the later one alone.
    let (earlier, later) = ([0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]);
    let truth = [image(&[earlier, later])];
    let between = [0.0, 0.0, 20.0, 10.0];
    let results = found(vec![scored(0.9, between), scored(0.8, later)]);
    let scores = coco(&truth, &results, 1, Kind::Boxes).unwrap();
    near(scores.mean.ap50, Some(51.0 / 101.0), "AP50");
    let results = found(vec![scored(0.9, between), scored(0.8, earlier)]);
    let scores = coco(&truth, &results, 1, Kind::Boxes).unwrap();
    near(scores.mean.ap50, Some(1.0), "AP50");
}

#[test]
fn a_crowd_takes_any_number_of_results_and_no_object_is_left_for_it() {
    let mut truth = image(&[A, [0.0, 0.0, 100.0, 100.0]]);
    truth.objects[1].is_crowd = true;
    // The first finds the object, though the crowd covers it whole; the others lie in the crowd.
    let results = found(vec![
        scored(0.9, [0.0, 0.0, 10.0, 9.0]),
        scored(0.8, B),
        scored(0.7, B),
        scored(0.95, B),
    ]);
    let scores = coco(&[truth], &results, 1, Kind::Boxes).unwrap();
    near(scores.mean.ap50, Some(1.0), "AP50");
    assert_eq!((scores.classes[0].truths, scores.classes[0].detections), (1, 4));
}

#[test]
fn of_ignored_objects_the_best_one_is_taken() {
    // The first two are stated to be large, so they are ignored among small ones.
    let mut truth = image(&[[0.0, 0.0, 10.0, 10.0], [0.0, 4.0, 10.0, 14.0], B]);
    truth.objects[0].area = 5000.0;
    truth.objects[1].area = 5000.0;
    // Overlaps of 7/13 and 9/11, so the second is taken up to 0.80; then 4/16 and 8/12, so nothing is left for it.
    let results = found(vec![
        scored(0.9, [0.0, 3.0, 10.0, 13.0]),
        scored(0.8, [0.0, 6.0, 10.0, 16.0]),
        scored(0.7, B),
    ]);
    let scores = coco(&[truth], &results, 1, Kind::Boxes).unwrap();
    // One false alarm before the hit at seven overlaps, two at three.
    near(
        scores.mean.ap_small,
        Some((7.0 / 2.0 + 3.0 / 3.0) / 10.0),
        "AP of small objects",
    );
}

#[test]
fn areas_are_closed_at_both_ends() {
    // An object of 32 x 32 is small and medium; the result of another object's size is ignored there.
    let square = [0.0, 0.0, 32.0, 32.0];
    let results = found(vec![scored(0.9, [40.0, 40.0, 73.0, 73.0]), scored(0.8, square)]);
    let scores = coco(&[image(&[square])], &results, 1, Kind::Boxes).unwrap();
    near(scores.mean.ap, Some(0.5), "AP");
    near(scores.mean.ap_small, Some(1.0), "AP of small objects");
    near(scores.mean.ap_medium, Some(0.5), "AP of medium objects");
    assert_eq!(scores.mean.ap_large, None);
}

#[test]
fn a_hundred_results_of_an_image_count() {
    let mut results: Vec<Scored> = (0..100).map(|_| scored(0.9, B)).collect();
    results.push(scored(0.8, A));
    let scores = coco(&[image(&[A])], &found(results.clone()), 1, Kind::Boxes).unwrap();
    near(scores.mean.ap, Some(0.0), "AP");
    assert_eq!(scores.classes[0].detections, 101);
    let scores = coco(&[image(&[A])], &found(results.split_off(1)), 1, Kind::Boxes).unwrap();
    near(scores.mean.ap, Some(0.01), "AP");
}

#[test]
fn a_difficult_object_is_ignored_by_voc_alone() {
    let mut truth = image(&[A, B]);
    truth.objects[0].is_difficult = true;
    let truth = [truth];
    let results = found(vec![scored(0.9, A), scored(0.8, B)]);
    let scores = voc(&truth, &results, 1, VocYear::Voc2012, false).unwrap();
    assert_eq!((scores.ap50, scores.classes[0].truths), (Some(1.0), 1));
    let scores = coco(&truth, &results[..], 1, Kind::Boxes).unwrap();
    assert_eq!(scores.classes[0].truths, 2);
}

/// The set `crowds` with scores of which no two are equal.
fn without_ties() -> (Vec<ImageTargets>, Vec<ImageResults>, usize) {
    let case = cases().swap_remove(0);
    let (truth, mut results) = (case.truth(), case.results());
    let mut number = 0u32;
    for scored in results.iter_mut().flat_map(|image| &mut image.found) {
        number = (number * 61 + 17) % 4096;
        scored.score = number as f32 / 4096.0;
    }
    (truth, results, case.classes)
}

#[test]
fn a_resample_is_the_evaluation_of_its_images() {
    let (truth, results, classes) = without_ties();
    let matches = Matches::new(&truth, &results, classes, Kind::Boxes).unwrap();
    let mut order: Vec<&ImageTargets> = truth.iter().collect();
    order.sort_by_key(|image| image.image_id);
    for draw in 0..20 {
        let times = super::bootstrap::times_drawn(truth.len(), 5, draw);
        let (mut drawn, mut found) = (vec![], vec![]);
        for (image, times) in order.iter().zip(&times) {
            for copy in 0..u64::from(*times) {
                let image_id = image.image_id * 100 + copy;
                drawn.push(ImageTargets {
                    image_id,
                    ..(*image).clone()
                });
                let of_image = results.iter().find(|result| result.image_id == image.image_id);
                found.extend(of_image.map(|result| ImageResults {
                    image_id,
                    ..result.clone()
                }));
            }
        }
        let expected = coco(&drawn, &found, classes, Kind::Boxes).unwrap();
        let [ap, ap50] = matches.resampled(&times).unwrap();
        near(Some(ap), expected.mean.ap, "AP");
        near(Some(ap50), expected.mean.ap50, "AP50");
    }
}

#[test]
fn intervals_hold_the_score_and_repeat() {
    let (truth, results, classes) = without_ties();
    let of = |seed| bootstrap(&truth, &results, classes, Kind::Boxes, 400, seed).unwrap();
    let intervals = of(1);
    assert_eq!(intervals, of(1));
    assert_ne!(intervals, of(2));
    let scores = coco(&truth, &results, classes, Kind::Boxes).unwrap();
    for (interval, score) in [(intervals.ap, scores.mean.ap), (intervals.ap50, scores.mean.ap50)] {
        let (interval, score) = (interval.unwrap(), score.unwrap());
        assert!(
            interval.low < score && score < interval.high,
            "{interval:?} {score}"
        );
    }
    let none = bootstrap(&[], &[], 3, Kind::Boxes, 10, 0).unwrap();
    assert_eq!((none.ap, none.ap50), (None, None));
}

#[test]
fn a_file_of_results_scores_alike() {
    // What pycocotools would read: edges from corner and sides, by the class's number.
    for case in cases() {
        let (truth, results) = (case.truth(), case.results());
        let text = results_json(&results, Kind::Boxes, |class| u64::from(class) * 3 + 5, &[]).unwrap();
        let lines: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut read: Vec<ImageResults> = Vec::new();
        for line in lines {
            let image_id = line["image_id"].as_u64().unwrap();
            let side = |at: usize| line["bbox"][at].as_f64().unwrap();
            let scored = Scored {
                class: (line["category_id"].as_u64().unwrap() as u32 - 5) / 3,
                score: line["score"].as_f64().unwrap() as f32,
                edges: [side(0), side(1), side(0) + side(2), side(1) + side(3)].map(|edge| edge as f32),
                mask: None,
            };
            match read.last_mut() {
                Some(image) if image.image_id == image_id => image.found.push(scored),
                _ => read.push(ImageResults {
                    image_id,
                    found: vec![scored],
                }),
            }
        }
        let scores = coco(&truth, &read, case.classes, Kind::Boxes).unwrap();
        compare(&scores, &case.boxes, &case.name);
    }
}
