//! Which result finds which object, by COCO's rules: once per image, for every threshold and range of sizes.

use rayon::prelude::*;

use data::targets::ImageTargets;

use super::check::{Pair, pairs};
use super::curve::THRESHOLDS;
use super::error::MetricsError;
use super::overlap::{Mask, of_boxes, of_masks};
use super::results::{ImageResults, Kind, Scored, descending};

/// Ranges of an object's area, px², closed at both ends: all, small, medium, large.
pub(super) const AREAS: [[f64; 2]; 4] = [
    [0.0, 1e10],
    [0.0, 32.0 * 32.0],
    [32.0 * 32.0, 96.0 * 96.0],
    [96.0 * 96.0, 1e10],
];

/// Results that count per image and class, the most confident ones.
pub(super) const MOST: usize = 100;

/// The results of a whole data set, matched with its objects. Scores and intervals are both made from it.
pub struct Matches {
    pub(super) images: usize,
    pub(super) classes: Vec<ClassMatches>,
}

/// The results and objects of one class.
#[derive(Default)]
pub(super) struct ClassMatches {
    /// The matched results by descending score; of equal ones the earlier picture's first.
    pub(super) found: Vec<Found>,
    /// Objects per picture that are to be found, in each range of [`AREAS`]; pictures without an entry have none.
    pub(super) truths: Vec<(u32, [u32; 4])>,
    /// Results given, those beyond [`MOST`] included.
    pub(super) given: usize,
}

impl ClassMatches {
    /// Objects to be found in a range of [`AREAS`].
    pub(super) fn count(&self, area: usize) -> u64 {
        self.truths
            .iter()
            .map(|(_, counts)| u64::from(counts[area]))
            .sum()
    }
}

/// One result. Bit `t` of a mask is for `THRESHOLDS[t]`; one mask per range of [`AREAS`].
#[derive(Clone, Copy)]
pub(super) struct Found {
    score: f32,
    /// Index of the picture, in the order of their numbers.
    pub(super) image: u32,
    /// Its place among the picture's results of this class, from 0, below [`MOST`].
    pub(super) rank: u32,
    hits: [u16; 4],
    ignored: [u16; 4],
}

impl Found {
    pub(super) fn is_hit(&self, area: usize, threshold: usize) -> bool {
        self.hits[area] >> threshold & 1 == 1
    }

    pub(super) fn is_ignored(&self, area: usize, threshold: usize) -> bool {
        self.ignored[area] >> threshold & 1 == 1
    }
}

impl Matches {
    /// Matches results with objects.
    ///
    /// `truth` must be in px of the original pictures, as `results` are. Crowds are ignored: a result that lies in
    /// one is neither right nor wrong. Polygons are made to pixels as pycocotools does it.
    ///
    /// # Errors
    /// [`MetricsError`] for pictures that occur twice or are unknown, classes that are not below `classes`, scores
    /// and edges that are no numbers, and masks that are missing or of another size.
    pub fn new(
        truth: &[ImageTargets],
        results: &[ImageResults],
        classes: usize,
        kind: Kind,
    ) -> Result<Matches, MetricsError> {
        let pairs = pairs(truth, results, classes, kind)?;
        let matched: Vec<Vec<Group>> = pairs.par_iter().map(|pair| groups(pair, kind)).collect();
        let mut all: Vec<ClassMatches> = (0..classes).map(|_| ClassMatches::default()).collect();
        for (image, groups) in matched.into_iter().enumerate() {
            let image = image as u32;
            for group in groups {
                let class = &mut all[group.class as usize];
                let found = group.found.into_iter();
                class.found.extend(found.map(|found| Found { image, ..found }));
                class.given += group.given;
                if group.truths[0] > 0 {
                    class.truths.push((image, group.truths));
                }
            }
        }
        all.par_iter_mut().for_each(|class| {
            // Stable.
            class.found.sort_by(|one, two| descending(one.score, two.score));
        });
        Ok(Matches {
            images: pairs.len(),
            classes: all,
        })
    }
}

/// One class in one picture.
struct Group {
    class: u32,
    found: Vec<Found>,
    truths: [u32; 4],
    given: usize,
}

/// What is compared: box or mask, with its area.
enum Shape {
    Box([f64; 4]),
    Mask(Mask),
}

impl Shape {
    fn of_box(edges: [f32; 4]) -> Shape {
        Shape::Box(edges.map(f64::from))
    }

    fn area(&self) -> f64 {
        match self {
            Shape::Box([left, top, right, bottom]) => (right - left) * (bottom - top),
            Shape::Mask(mask) => mask.area as f64,
        }
    }

    fn overlap(&self, truth: &Shape, is_crowd: bool) -> f64 {
        match (self, truth) {
            (Shape::Box(one), Shape::Box(two)) => of_boxes(*one, *two, is_crowd),
            (Shape::Mask(one), Shape::Mask(two)) => of_masks(one, two, is_crowd),
            _ => 0.0,
        }
    }
}

struct Truth {
    class: u32,
    shape: Shape,
    area: f64,
    is_crowd: bool,
}

fn truths(truth: &ImageTargets, kind: Kind) -> Vec<Truth> {
    let shape = |object: &data::targets::Object| match (kind, &object.segmentation) {
        (Kind::Masks, Some(mask)) => Shape::Mask(Mask::of(&mask.to_rle(truth.width, truth.height))),
        _ => Shape::of_box(object.bounding_box.edges()),
    };
    let objects = truth.objects.iter();
    let truths = objects.map(|object| Truth {
        class: object.class,
        shape: shape(object),
        area: object.area,
        is_crowd: object.is_crowd,
    });
    let mut truths: Vec<Truth> = truths.collect();
    // Stable.
    truths.sort_by_key(|truth| truth.class);
    truths
}

/// The picture's results and objects, matched class by class.
fn groups(pair: &Pair, kind: Kind) -> Vec<Group> {
    let truths = truths(pair.truth, kind);
    let mut found: Vec<&Scored> = pair.found.iter().collect();
    // Both stable: by class, then by descending score.
    found.sort_by(|one, two| {
        let by_class = one.class.cmp(&two.class);
        by_class.then(descending(one.score, two.score))
    });
    let (mut truths, mut found) = (&truths[..], &found[..]);
    let mut groups = Vec::new();
    loop {
        let next = [
            truths.first().map(|truth| truth.class),
            found.first().map(|scored| scored.class),
        ];
        let Some(class) = next.into_iter().flatten().min() else {
            return groups;
        };
        let (of_class, rest) = truths.split_at(truths.partition_point(|truth| truth.class <= class));
        truths = rest;
        let (found_of_class, rest) = found.split_at(found.partition_point(|scored| scored.class <= class));
        found = rest;
        groups.push(group(class, of_class, found_of_class, kind));
    }
}

fn is_within(area: f64, [from, to]: [f64; 2]) -> bool {
    area >= from && area <= to
}

/// One class in one picture; `found` by descending score.
fn group(class: u32, truths: &[Truth], found: &[&Scored], kind: Kind) -> Group {
    let given = found.len();
    let found = &found[..given.min(MOST)];
    let shapes: Vec<Shape> = found
        .iter()
        .map(|scored| match (kind, &scored.mask) {
            (Kind::Masks, Some(mask)) => Shape::Mask(Mask::of(mask)),
            _ => Shape::of_box(scored.edges),
        })
        .collect();
    let overlaps: Vec<f64> = shapes
        .iter()
        .flat_map(|shape| {
            truths
                .iter()
                .map(|truth| shape.overlap(&truth.shape, truth.is_crowd))
        })
        .collect();
    let mut group = Group {
        class,
        found: found
            .iter()
            .enumerate()
            .map(|(rank, scored)| Found {
                score: scored.score,
                image: 0,
                rank: rank as u32,
                hits: [0; 4],
                ignored: [0; 4],
            })
            .collect(),
        truths: [0; 4],
        given,
    };
    for (area, range) in AREAS.into_iter().enumerate() {
        let ignored: Vec<bool> = truths
            .iter()
            .map(|truth| truth.is_crowd || !is_within(truth.area, range))
            .collect();
        group.truths[area] = ignored.iter().filter(|is_ignored| !**is_ignored).count() as u32;
        let (regular, rest): (Vec<usize>, Vec<usize>) = (0..truths.len()).partition(|truth| !ignored[*truth]);
        let order = [regular, rest].concat();
        for (threshold, least) in THRESHOLDS.into_iter().enumerate() {
            let mut finder = Finder::new(truths, &order, &ignored, least);
            for (at, (found, shape)) in group.found.iter_mut().zip(&shapes).enumerate() {
                let truth = finder.find(&overlaps[at * truths.len()..][..truths.len()]);
                let is_ignored = match truth {
                    Some(truth) => ignored[truth],
                    None => !is_within(shape.area(), range),
                };
                found.hits[area] |= u16::from(truth.is_some() && !is_ignored) << threshold;
                found.ignored[area] |= u16::from(is_ignored) << threshold;
            }
        }
    }
    group
}

/// Finds objects at one threshold, for results by descending score.
struct Finder<'a> {
    truths: &'a [Truth],
    /// The objects as they are visited: those to be ignored last.
    order: &'a [usize],
    ignored: &'a [bool],
    threshold: f64,
    is_taken: Vec<bool>,
}

impl<'a> Finder<'a> {
    fn new(truths: &'a [Truth], order: &'a [usize], ignored: &'a [bool], threshold: f64) -> Self {
        Self {
            truths,
            order,
            ignored,
            threshold: threshold.min(1.0 - 1e-10),
            is_taken: vec![false; truths.len()],
        }
    }

    /// The object of a result with these overlaps, one per object.
    fn find(&mut self, overlaps: &[f64]) -> Option<usize> {
        let mut best = self.threshold;
        let mut chosen: Option<usize> = None;
        for &truth in self.order {
            // Any number of results lies in a crowd.
            if self.is_taken[truth] && !self.truths[truth].is_crowd {
                continue;
            }
            // An object to be found is never given up for an ignored one.
            if self.ignored[truth] && chosen.is_some_and(|chosen| !self.ignored[chosen]) {
                break;
            }
            // Of equal overlaps, the later one is taken.
            if overlaps[truth] >= best {
                best = overlaps[truth];
                chosen = Some(truth);
            }
        }
        if let Some(chosen) = chosen {
            self.is_taken[chosen] = true;
        }
        chosen
    }
}
