//! Truth and results, checked and joined by picture.

use std::collections::HashMap;

use data::targets::{ImageTargets, Segmentation};

use super::error::MetricsError;
use super::results::{ImageResults, Kind, Scored};

/// A picture of the truth and what was found in it.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) truth: &'a ImageTargets,
    pub(super) found: &'a [Scored],
}

/// All pictures of the truth in the order of their numbers, which is COCO's, with what was found in each.
///
/// # Errors
/// [`MetricsError`] for pictures that occur twice or are unknown, and for values that cannot be compared.
pub(super) fn pairs<'a>(
    truth: &'a [ImageTargets],
    results: &'a [ImageResults],
    classes: usize,
    kind: Kind,
) -> Result<Vec<Pair<'a>>, MetricsError> {
    let mut pairs: Vec<Pair> = truth.iter().map(|truth| Pair { truth, found: &[] }).collect();
    pairs.sort_by_key(|pair| pair.truth.image_id);
    for window in pairs.windows(2) {
        if let [one, two] = window
            && one.truth.image_id == two.truth.image_id
        {
            let image_id = one.truth.image_id;
            return Err(MetricsError::TruthTwice { image_id });
        }
    }
    let places = pairs.iter().enumerate();
    let places: HashMap<u64, usize> = places.map(|(at, pair)| (pair.truth.image_id, at)).collect();
    let mut has_results = vec![false; pairs.len()];
    for ImageResults { image_id, found } in results {
        let image_id = *image_id;
        let place = *places
            .get(&image_id)
            .ok_or(MetricsError::UnknownImage { image_id })?;
        if std::mem::replace(&mut has_results[place], true) {
            return Err(MetricsError::ResultsTwice { image_id });
        }
        pairs[place].found = found;
    }
    for pair in &pairs {
        check_truth(pair.truth, classes, kind)?;
        check_found(pair, classes, kind)?;
    }
    Ok(pairs)
}

fn check_class(side: &'static str, image_id: u64, class: u32, classes: usize) -> Result<(), MetricsError> {
    match (class as usize) < classes {
        true => Ok(()),
        false => Err(MetricsError::Class {
            side,
            image_id,
            classes,
            class,
        }),
    }
}

fn check_truth(truth: &ImageTargets, classes: usize, kind: Kind) -> Result<(), MetricsError> {
    let ImageTargets { image_id, .. } = *truth;
    for (position, object) in truth.objects.iter().enumerate() {
        check_class("objects", image_id, object.class, classes)?;
        if kind == Kind::Boxes {
            continue;
        }
        let side = "object";
        let mask = match &object.segmentation {
            None => {
                return Err(MetricsError::NoMask {
                    side,
                    image_id,
                    position,
                });
            }
            Some(Segmentation::Polygons(_)) => continue,
            Some(Segmentation::Rle(mask)) => [mask.width(), mask.height()],
        };
        check_size(side, truth, position, mask)?;
    }
    Ok(())
}

fn check_size(
    side: &'static str,
    truth: &ImageTargets,
    position: usize,
    mask: [u32; 2],
) -> Result<(), MetricsError> {
    let picture = [truth.width, truth.height];
    match mask == picture {
        true => Ok(()),
        false => Err(MetricsError::MaskSize {
            side,
            image_id: truth.image_id,
            position,
            picture,
            mask,
        }),
    }
}

fn check_found(pair: &Pair, classes: usize, kind: Kind) -> Result<(), MetricsError> {
    let image_id = pair.truth.image_id;
    for (position, scored) in pair.found.iter().enumerate() {
        check_class("results", image_id, scored.class, classes)?;
        check_values(image_id, position, scored, kind)?;
        if let (Kind::Masks, Some(mask)) = (kind, &scored.mask) {
            check_size("result", pair.truth, position, [mask.width(), mask.height()])?;
        }
    }
    Ok(())
}

/// Score, edges and presence of a mask.
pub(super) fn check_values(
    image_id: u64,
    position: usize,
    scored: &Scored,
    kind: Kind,
) -> Result<(), MetricsError> {
    let Scored { score, edges, .. } = *scored;
    if !score.is_finite() {
        return Err(MetricsError::Score {
            image_id,
            position,
            score,
        });
    }
    let [left, top, right, bottom] = edges;
    let is_box = edges.iter().all(|edge| edge.is_finite()) && left <= right && top <= bottom;
    if !is_box {
        return Err(MetricsError::Edges {
            image_id,
            position,
            edges,
        });
    }
    if kind == Kind::Masks && scored.mask.is_none() {
        return Err(MetricsError::NoMask {
            side: "result",
            image_id,
            position,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::targets::{BoundingBox, Object, Rle};

    fn truth(image_id: u64, class: u32, segmentation: Option<Segmentation>) -> ImageTargets {
        ImageTargets {
            image_id,
            width: 8,
            height: 6,
            objects: vec![Object {
                id: 1,
                class,
                bounding_box: BoundingBox {
                    left: 0.0,
                    top: 0.0,
                    right: 2.0,
                    bottom: 3.0,
                },
                segmentation,
                area: 6.0,
                is_crowd: false,
                is_difficult: false,
            }],
        }
    }

    fn found(image_id: u64, change: impl FnOnce(&mut Scored)) -> ImageResults {
        let mut scored = Scored {
            class: 0,
            score: 0.5,
            edges: [0.0, 0.0, 2.0, 3.0],
            mask: Some(Rle::empty(8, 6)),
        };
        change(&mut scored);
        ImageResults {
            image_id,
            found: vec![scored],
        }
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let mask = || Some(Segmentation::Rle(Rle::empty(8, 6)));
        let message = |truth: &[ImageTargets], results: &[ImageResults], kind| {
            pairs(truth, results, 2, kind)
                .err()
                .map(|error| error.to_string())
        };
        let one = [truth(7, 1, mask())];
        let of_result = |change: fn(&mut Scored), kind| message(&one, &[found(7, change)], kind);
        assert_eq!(of_result(|_| (), Kind::Masks), None);
        for (got, expected) in [
            (
                message(&[truth(7, 1, None), truth(7, 1, None)], &[], Kind::Boxes),
                "the truth must have each image once, got image 7 twice",
            ),
            (
                message(&one, &[found(7, |_| ()), found(7, |_| ())], Kind::Boxes),
                "results must have each image once, got image 7 twice",
            ),
            (
                message(&one, &[found(8, |_| ())], Kind::Boxes),
                "results must be of images of the truth, got image 8",
            ),
            (
                message(&[truth(7, 2, None)], &[], Kind::Boxes),
                "objects of image 7 must have classes below 2, got 2",
            ),
            (
                of_result(|scored| scored.class = 5, Kind::Boxes),
                "results of image 7 must have classes below 2, got 5",
            ),
            (
                of_result(|scored| scored.score = f32::NAN, Kind::Boxes),
                "result 0 of image 7 must have a finite score, got NaN",
            ),
            (
                of_result(|scored| scored.edges[1] = f32::NAN, Kind::Boxes),
                "result 0 of image 7 must have finite edges, right not before left and bottom not above top, got [0.0, NaN, 2.0, 3.0]",
            ),
            (
                of_result(|scored| scored.edges[0] = 2.5, Kind::Boxes),
                "result 0 of image 7 must have finite edges, right not before left and bottom not above top, got [2.5, 0.0, 2.0, 3.0]",
            ),
            (
                of_result(|scored| scored.mask = None, Kind::Masks),
                "result 0 of image 7 must have a mask",
            ),
            (
                of_result(|scored| scored.mask = Some(Rle::empty(6, 8)), Kind::Masks),
                "the mask of result 0 of image 7 must have 8 x 6 px, got 6 x 8",
            ),
            (
                message(&[truth(7, 1, None)], &[], Kind::Masks),
                "object 0 of image 7 must have a mask",
            ),
            (
                message(
                    &[truth(7, 1, Some(Segmentation::Rle(Rle::empty(6, 8))))],
                    &[],
                    Kind::Masks,
                ),
                "the mask of object 0 of image 7 must have 8 x 6 px, got 6 x 8",
            ),
        ] {
            assert_eq!(got.as_deref(), Some(expected));
        }
        // A mask that is not compared, and a box without inside.
        assert_eq!(of_result(|scored| scored.mask = None, Kind::Boxes), None);
        assert_eq!(of_result(|scored| scored.edges[2] = 0.0, Kind::Boxes), None);
    }

    #[test]
    fn pictures_come_by_their_number() {
        let truths = [truth(9, 0, None), truth(2, 0, None)];
        let results = [found(9, |_| ())];
        let pairs = pairs(&truths, &results, 1, Kind::Boxes).unwrap();
        let counts = pairs
            .iter()
            .map(|pair| (pair.truth.image_id, pair.found.len()))
            .collect::<Vec<_>>();
        assert_eq!(counts, [(2, 0), (9, 1)]);
    }
}
