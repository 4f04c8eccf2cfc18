//! COCO's twelve numbers, and those of each class.

use rayon::prelude::*;
use serde::Serialize;

use data::targets::ImageTargets;

use super::curve::{RECALL_POINTS, Step, THRESHOLDS, curve, mean};
use super::error::MetricsError;
use super::matching::{AREAS, ClassMatches, MOST, Matches};
use super::results::{ImageResults, Kind};

/// COCO's twelve numbers, each 0 to 1; `None` where there is no object of that size (-1 in COCO's own output).
///
/// AP is the mean of precision over 101 points of recall and over overlaps (IoU) of 0.50 to 0.95 in steps of 0.05. AR is
/// the mean of recall over the same overlaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CocoNumbers {
    /// Average precision over all overlaps.
    pub ap: Option<f64>,
    /// At an overlap of 0.50.
    pub ap50: Option<f64>,
    /// At an overlap of 0.75.
    pub ap75: Option<f64>,
    /// AP of objects with at most 32² px².
    pub ap_small: Option<f64>,
    /// AP of objects with 32² to 96² px².
    pub ap_medium: Option<f64>,
    /// AP of objects with at least 96² px².
    pub ap_large: Option<f64>,
    /// Average recall with the most confident result per image and class.
    pub ar1: Option<f64>,
    /// With the ten most confident ones.
    pub ar10: Option<f64>,
    /// With the hundred most confident ones.
    pub ar100: Option<f64>,
    /// AR of objects with at most 32² px², with a hundred results.
    pub ar_small: Option<f64>,
    /// AR of objects with 32² to 96² px².
    pub ar_medium: Option<f64>,
    /// AR of objects with at least 96² px².
    pub ar_large: Option<f64>,
}

impl CocoNumbers {
    /// In COCO's order, which is that of the fields.
    pub fn all(&self) -> [Option<f64>; 12] {
        [
            self.ap,
            self.ap50,
            self.ap75,
            self.ap_small,
            self.ap_medium,
            self.ap_large,
            self.ar1,
            self.ar10,
            self.ar100,
            self.ar_small,
            self.ar_medium,
            self.ar_large,
        ]
    }
}

/// COCO's numbers of a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CocoScores {
    /// Means over the classes with objects.
    pub mean: CocoNumbers,
    /// One per class.
    pub classes: Vec<ClassScores>,
}

/// What was found of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScores {
    /// Its numbers.
    pub numbers: CocoNumbers,
    /// Precision at an overlap of 0.50, at recalls of 0, 0.01, …, 1; empty for a class without objects.
    pub precision: Vec<f64>,
    /// Objects to be found; crowds are none.
    pub truths: usize,
    /// Results given, those beyond the hundredth of an image included.
    pub detections: usize,
}

/// COCO's numbers for boxes or masks, with the digits of pycocotools.
///
/// `truth` and `results` are in px of the original pictures; pictures of the truth without results count as such
/// in which nothing was found. `Object::area` decides an object's size; `Object::is_difficult` changes nothing.
///
/// # Errors
/// Those of [`Matches::new`].
pub fn coco(
    truth: &[ImageTargets],
    results: &[ImageResults],
    classes: usize,
    kind: Kind,
) -> Result<CocoScores, MetricsError> {
    Ok(Matches::new(truth, results, classes, kind)?.scores())
}

impl Matches {
    /// COCO's numbers.
    pub fn scores(&self) -> CocoScores {
        let measured: Vec<Measured> = self.classes.par_iter().map(Measured::of).collect();
        let class = |(measured, class): (&Measured, &ClassMatches)| ClassScores {
            numbers: numbers(&|number| number(measured)),
            precision: measured.curve.map_or_else(Vec::new, |curve| curve.to_vec()),
            truths: class.count(0) as usize,
            detections: class.given,
        };
        CocoScores {
            mean: numbers(&|number| mean(measured.iter().filter_map(number))),
            classes: measured.iter().zip(&self.classes).map(class).collect(),
        }
    }
}

/// One of the numbers of a class.
type NumberOf<'a> = dyn Fn(&Measured) -> Option<f64> + 'a;

/// The twelve numbers; `over` takes one of a class, and gives it or its mean over classes.
fn numbers(over: &dyn Fn(&NumberOf<'_>) -> Option<f64>) -> CocoNumbers {
    let ap = |area: usize| over(&|class| class.ap(area));
    let ar = |area: usize, most: usize| over(&|class| class.recall[area][most]);
    CocoNumbers {
        ap: ap(0),
        ap50: over(&|class| class.precision_at(AT_50)),
        ap75: over(&|class| class.precision_at(AT_75)),
        ap_small: ap(1),
        ap_medium: ap(2),
        ap_large: ap(3),
        ar1: ar(0, 0),
        ar10: ar(0, 1),
        ar100: ar(0, 2),
        ar_small: ar(1, 2),
        ar_medium: ar(2, 2),
        ar_large: ar(3, 2),
    }
}

/// Places in [`THRESHOLDS`].
const AT_50: usize = 0;
const AT_75: usize = 5;

/// Results per image and class that the recalls are of.
const COUNTS: [usize; 3] = [1, 10, MOST];

/// What COCO's numbers of one class are made of.
struct Measured {
    /// Mean precision per range of areas and threshold.
    precision: [Option<[f64; THRESHOLDS.len()]>; AREAS.len()],
    /// Mean recall per range of areas, and count of results.
    recall: [[Option<f64>; COUNTS.len()]; AREAS.len()],
    /// The curve at an overlap of 0.50, over all areas.
    curve: Option<[f64; RECALL_POINTS]>,
}

impl Measured {
    fn of(class: &ClassMatches) -> Measured {
        let mut numbers = Measured {
            precision: [None; AREAS.len()],
            recall: [[None; COUNTS.len()]; AREAS.len()],
            curve: None,
        };
        for area in 0..AREAS.len() {
            let truths = class.count(area);
            if truths == 0 {
                continue;
            }
            let curves: [[f64; RECALL_POINTS]; THRESHOLDS.len()] =
                std::array::from_fn(|threshold| curve(class.steps(area, threshold), truths));
            numbers.precision[area] =
                Some(curves.map(|curve| curve.iter().sum::<f64>() / RECALL_POINTS as f64));
            numbers.recall[area] =
                COUNTS.map(|most| mean((0..THRESHOLDS.len()).map(|at| class.recall(area, at, most, truths))));
            if area == 0 {
                numbers.curve = Some(curves[AT_50]);
            }
        }
        numbers
    }

    fn ap(&self, area: usize) -> Option<f64> {
        self.precision[area].and_then(mean)
    }

    fn precision_at(&self, threshold: usize) -> Option<f64> {
        self.precision[0].map(|precision| precision[threshold])
    }
}

impl ClassMatches {
    /// The results that are not ignored.
    pub(super) fn steps(&self, area: usize, threshold: usize) -> impl Iterator<Item = Step> {
        let found = self.found.iter();
        let counted = found.filter(move |found| !found.is_ignored(area, threshold));
        counted.map(move |found| Step {
            times: 1,
            is_hit: found.is_hit(area, threshold),
        })
    }

    fn recall(&self, area: usize, threshold: usize, most: usize, truths: u64) -> f64 {
        let found = self.found.iter();
        let hits = found
            .filter(|found| (found.rank as usize) < most && found.is_hit(area, threshold))
            .count();
        hits as f64 / truths as f64
    }
}
