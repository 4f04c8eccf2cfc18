//! Pascal VOC's average precision, as detectron2 evaluates it for the tables of MoCo and PASS.

use rayon::prelude::*;
use serde::Serialize;

use data::targets::ImageTargets;

use super::check::{Pair, pairs};
use super::curve::mean;
use super::error::MetricsError;
use super::overlap::of_pixels;
use super::results::{ImageResults, Kind, descending};

/// How precision is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocYear {
    /// The mean of the largest precisions at recalls of 0, 0.1, …, 1 and above: VOC's rule until 2009, and that of
    /// MoCo's table.
    Voc2007,
    /// The area under the monotone curve: VOC's rule from 2010 on.
    Voc2012,
}

/// VOC's average precision, each 0 to 1; `None` without an object to be found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VocScores {
    /// The mean over overlaps (IoU) of 0.50 to 0.95 in steps of 0.05, which MoCo's table calls AP.
    pub ap: Option<f64>,
    /// At an overlap of 0.50, VOC's own number.
    pub ap50: Option<f64>,
    /// At an overlap of 0.75.
    pub ap75: Option<f64>,
    /// One per class.
    pub classes: Vec<VocClassScores>,
}

/// The numbers of one class, as in [`VocScores`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VocClassScores {
    /// The mean over all overlaps.
    pub ap: Option<f64>,
    /// At an overlap of 0.50.
    pub ap50: Option<f64>,
    /// At an overlap of 0.75.
    pub ap75: Option<f64>,
    /// Objects to be found; difficult ones and crowds are none.
    pub truths: usize,
    /// Results given.
    pub detections: usize,
}

/// VOC's average precision of boxes.
///
/// Each result sees only the object that it overlaps most, the first of equal ones. It is right if the overlap is
/// *above* the threshold and no result before it found the object; it counts neither way if the object is
/// difficult (or a crowd). Boxes are taken to VOC's pixels: left and top edge plus 1, all edges inside. Equal
/// scores count in the order of the images' numbers.
///
/// `rounded`: scores are rounded to 3 decimals and edges to 1 first, because detectron2 writes them so and reads
/// them again. VOC's own kit does not.
///
/// # Errors
/// [`MetricsError`] for pictures that occur twice or are unknown, classes that are not below `classes`, and scores
/// and edges that are no numbers.
pub fn voc(
    truth: &[ImageTargets],
    results: &[ImageResults],
    classes: usize,
    year: VocYear,
    rounded: bool,
) -> Result<VocScores, MetricsError> {
    let pairs = pairs(truth, results, classes, Kind::Boxes)?;
    let mut all: Vec<Class> = (0..classes).map(|_| Class::default()).collect();
    for pair in &pairs {
        add(&mut all, pair, rounded);
    }
    let scored: Vec<Scored> = all.par_iter_mut().map(|class| class.scored(year)).collect();
    let at = |threshold: usize| {
        mean(
            scored
                .iter()
                .filter_map(|class| Some(class.at.as_ref()?[threshold])),
        )
    };
    Ok(VocScores {
        // Each threshold has the same classes.
        ap: mean((0..10).filter_map(at)),
        ap50: at(0),
        ap75: at(5),
        classes: scored.iter().map(Scored::of_class).collect(),
    })
}

/// Results and objects of one class.
#[derive(Default)]
struct Class {
    found: Vec<Found>,
    /// Whether each object of the data set is ignored.
    ignored: Vec<bool>,
}

struct Found {
    score: f64,
    /// The largest overlap, and its object among the class's; absent in a picture without objects.
    best: Option<(f64, usize)>,
}

/// The ten precisions of one class.
struct Scored {
    at: Option<[f64; 10]>,
    truths: usize,
    detections: usize,
}

fn add(classes: &mut [Class], pair: &Pair, rounded: bool) {
    let objects: Vec<(u32, [f64; 4], usize)> = pair
        .truth
        .objects
        .iter()
        .map(|object| {
            let ignored = &mut classes[object.class as usize].ignored;
            ignored.push(object.is_difficult || object.is_crowd);
            let [left, top, right, bottom] = object.bounding_box.edges().map(f64::from);
            let place = ignored.len() - 1;
            (object.class, [left + 1.0, top + 1.0, right, bottom], place)
        })
        .collect();
    for scored in pair.found {
        let (score, edges) = match rounded {
            true => rounded_values(scored.score, scored.edges),
            false => {
                let [left, top, right, bottom] = scored.edges.map(f64::from);
                (f64::from(scored.score), [left + 1.0, top + 1.0, right, bottom])
            }
        };
        let mut best: Option<(f64, usize)> = None;
        for (class, truth, place) in &objects {
            if *class != scored.class {
                continue;
            }
            let overlap = of_pixels(edges, *truth);
            if best.is_none_or(|(before, _)| overlap > before) {
                best = Some((overlap, *place));
            }
        }
        classes[scored.class as usize].found.push(Found { score, best });
    }
}

/// Score and edges in VOC's pixels, as detectron2 writes them: `%.3f` and `%.1f` of f32.
fn rounded_values(score: f32, [left, top, right, bottom]: [f32; 4]) -> (f64, [f64; 4]) {
    let edges = [left + 1.0, top + 1.0, right, bottom];
    (rounded(score, 3), edges.map(|edge| rounded(edge, 1)))
}

/// Correctly rounded in decimal, ties to even; no product with a power of ten does that.
fn rounded(value: f32, decimals: usize) -> f64 {
    format!("{value:.decimals$}").parse().unwrap_or(f64::from(value))
}

impl Class {
    fn scored(&mut self, year: VocYear) -> Scored {
        // Stable; rounding kept all scores numbers.
        self.found.sort_by(|one, two| descending(one.score, two.score));
        let truths = self.ignored.iter().filter(|is_ignored| !**is_ignored).count();
        let precision = |step: usize| self.precision((50 + 5 * step) as f64 / 100.0, truths, year);
        Scored {
            at: (truths > 0).then(|| std::array::from_fn(precision)),
            truths,
            detections: self.found.len(),
        }
    }

    /// Average precision at one overlap; `truths` must be at least 1.
    fn precision(&self, threshold: f64, truths: usize, year: VocYear) -> f64 {
        let mut is_found = vec![false; self.ignored.len()];
        let (mut hits, mut counted) = (0u64, 0u64);
        // Recall and precision behind each result.
        let mut points: Vec<[f64; 2]> = Vec::with_capacity(self.found.len());
        for found in &self.found {
            match found.best {
                Some((overlap, truth)) if overlap > threshold => {
                    if !self.ignored[truth] {
                        counted += 1;
                        hits += u64::from(!std::mem::replace(&mut is_found[truth], true));
                    }
                }
                _ => counted += 1,
            }
            points.push([
                hits as f64 / truths as f64,
                hits as f64 / (counted as f64).max(f64::EPSILON),
            ]);
        }
        // The largest precision from each place on.
        let mut largest = 0.0f64;
        for [_, precision] in points.iter_mut().rev() {
            largest = largest.max(*precision);
            *precision = largest;
        }
        match year {
            VocYear::Voc2007 => eleven_points(&points),
            VocYear::Voc2012 => area(&points),
        }
    }
}

/// Recalls of 0, 0.1, … in the digits of NumPy's `arange(0, 1.1, 0.1)`, in which 0.3, 0.6 and 0.7 are a last digit
/// higher: a recall of exactly 3/10 does not reach the fourth point, there as here.
fn eleven_points(points: &[[f64; 2]]) -> f64 {
    let precision = |number: u32| {
        let recall = f64::from(number) * 0.1;
        let at = points.partition_point(|[before, _]| *before < recall);
        points.get(at).map_or(0.0, |[_, precision]| *precision)
    };
    (0..11).map(precision).sum::<f64>() / 11.0
}

fn area(points: &[[f64; 2]]) -> f64 {
    let mut before = 0.0;
    let mut area = 0.0;
    for [recall, precision] in points {
        area += (recall - before) * precision;
        before = *recall;
    }
    area
}

impl Scored {
    fn of_class(&self) -> VocClassScores {
        VocClassScores {
            ap: self.at.and_then(mean),
            ap50: self.at.map(|at| at[0]),
            ap75: self.at.map(|at| at[5]),
            truths: self.truths,
            detections: self.detections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_rounded_as_python_does() {
        // `f"{numpy.float32(value):.1f}"`: ties to even in decimal, of the f32's own digits.
        for (value, decimals, expected) in [
            (0.25f32, 1, 0.2),
            (0.75, 1, 0.8),
            (0.35, 1, 0.3),
            (10.15, 1, 10.1),
            (0.0625, 3, 0.062),
            (0.1875, 3, 0.188),
            (0.9995, 3, 0.999),
            (0.9996, 3, 1.0),
            (0.0004, 3, 0.0),
            (-0.04, 1, 0.0),
        ] {
            assert_eq!(rounded(value, decimals), expected, "{value}");
        }
    }
}
