//! Boxes: overlap (IoU) and non-maximum suppression (NMS).

mod grid;

use data::targets::BoundingBox;
use grid::{Grid, is_finite};

/// Fewer boxes are compared with each other as they are.
const FEW: usize = 256;

fn area(of: &BoundingBox, edges: Edges) -> f32 {
    edges.length(of.left, of.right) * edges.length(of.top, of.bottom)
}

/// The length between two edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Edges are positions on a line: `b − a`. COCO's and torchvision's convention.
    Continuous,
    /// Edges are indices of pixels inside the box: `b − a + 1`. The convention of Fast R-CNN's first code,
    /// which RetinaFace's scripts use.
    Inclusive,
}

impl Edges {
    fn length(self, from: f32, to: f32) -> f32 {
        match self {
            Self::Continuous => (to - from).max(0.0),
            Self::Inclusive => (to - from + 1.0).max(0.0),
        }
    }
}

/// Intersection over union: the shared area divided by the covered area. 0 for disjoint boxes, 1 for equal
/// ones; 0 if both are empty.
pub fn iou(a: &BoundingBox, b: &BoundingBox, edges: Edges) -> f32 {
    let width = edges.length(a.left.max(b.left), a.right.min(b.right));
    let height = edges.length(a.top.max(b.top), a.bottom.min(b.bottom));
    let shared = width * height;
    let covered = area(a, edges) + area(b, edges) - shared;
    if covered > 0.0 { shared / covered } else { 0.0 }
}

/// Non-maximum suppression: indices of the kept boxes, by descending score. A box is suppressed if a kept one
/// of a higher score overlaps it by more than `threshold` ([`iou`]). Ties keep the input order, and NaN
/// scores come last.
pub fn nms(boxes: &[BoundingBox], scores: &[f32], threshold: f32, edges: Edges) -> Vec<usize> {
    let mut order = (0..boxes.len().min(scores.len())).collect::<Vec<_>>();
    let rank = |position: &usize| match scores[*position] {
        score if score.is_nan() => f32::NEG_INFINITY,
        score => score,
    };
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    let mut kept: Vec<usize> = Vec::new();
    // Changes which boxes are compared, and no result.
    let mut grid = (order.len() >= FEW && threshold >= 0.5).then(|| Grid::over(boxes));
    for candidate in order {
        let overlaps = |other: &usize| iou(&boxes[*other], &boxes[candidate], edges) > threshold;
        let is_suppressed = match &grid {
            Some(grid) if is_finite(&boxes[candidate]) => grid.rivals(&boxes[candidate]).any(overlaps),
            _ => kept.iter().any(overlaps),
        };
        if !is_suppressed {
            if let Some(grid) = &mut grid {
                grid.keep(candidate, &boxes[candidate]);
            }
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rectangle(left: f32, top: f32, right: f32, bottom: f32) -> BoundingBox {
        BoundingBox {
            left,
            top,
            right,
            bottom,
        }
    }

    #[test]
    fn overlap_is_the_share_of_the_union() {
        let a = rectangle(0.0, 0.0, 10.0, 10.0);
        // 5 x 10 shared of 150.
        assert_eq!(
            iou(&a, &rectangle(5.0, 0.0, 15.0, 10.0), Edges::Continuous),
            50.0 / 150.0
        );
        // Inclusive: 6 x 11 shared of 2 * 121 - 66.
        let inclusive = iou(&a, &rectangle(5.0, 0.0, 15.0, 10.0), Edges::Inclusive);
        assert_eq!(inclusive, 66.0 / 176.0);
        assert_eq!(iou(&a, &a, Edges::Continuous), 1.0);
        assert_eq!(iou(&a, &rectangle(20.0, 0.0, 30.0, 10.0), Edges::Continuous), 0.0);
        // One inside the other.
        assert_eq!(iou(&a, &rectangle(2.0, 2.0, 4.0, 7.0), Edges::Continuous), 0.1);
        // Disjoint in both directions: two negative lengths must not give a positive area.
        assert_eq!(
            iou(&a, &rectangle(20.0, 20.0, 30.0, 30.0), Edges::Continuous),
            0.0
        );
        let empty = rectangle(3.0, 3.0, 3.0, 3.0);
        assert_eq!(iou(&empty, &empty, Edges::Continuous), 0.0);
        // Inverted edges: no area.
        assert_eq!(iou(&rectangle(5.0, 5.0, 1.0, 1.0), &a, Edges::Continuous), 0.0);
    }

    #[test]
    fn the_best_of_overlapping_boxes_is_kept() {
        let boxes = [
            rectangle(0.0, 0.0, 10.0, 10.0),
            rectangle(1.0, 0.0, 11.0, 10.0),
            rectangle(40.0, 0.0, 50.0, 10.0),
            // Overlaps only the second by more than 0.5: the second is suppressed, so this one stays.
            rectangle(4.0, 0.0, 14.0, 10.0),
        ];
        let scores = [0.9, 0.8, 0.3, 0.7];
        assert_eq!(nms(&boxes, &scores, 0.5, Edges::Continuous), [0, 3, 2]);
        // 90 / 110 is not above a threshold of the same value.
        let at = iou(&boxes[0], &boxes[1], Edges::Continuous);
        assert_eq!(nms(&boxes[..2], &scores[..2], at, Edges::Continuous), [0, 1]);
        assert_eq!(nms(&boxes, &scores, 0.0, Edges::Continuous), [0, 2]);
        assert!(nms(&[], &[], 0.5, Edges::Continuous).is_empty());
    }

    #[test]
    fn equal_scores_keep_their_order_and_nan_comes_last() {
        let apart = |x: f32| rectangle(x, 0.0, x + 1.0, 1.0);
        let boxes = [apart(0.0), apart(10.0), apart(20.0)];
        assert_eq!(nms(&boxes, &[0.5, 0.5, 0.9], 0.5, Edges::Continuous), [2, 0, 1]);
        assert_eq!(
            nms(&boxes, &[f32::NAN, 0.1, 0.2], 0.5, Edges::Continuous),
            [2, 1, 0]
        );
    }

    /// Pseudorandom numbers from 0 to 1, the same each time.
    fn numbers() -> impl FnMut() -> f32 {
        let mut state = 1u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        }
    }

    #[test]
    fn many_boxes_give_what_each_compared_with_all_gives() {
        let mut next = numbers();
        let mut suppressed = 0;
        for round in 0..200 {
            let count = FEW + (round * 7) % 300;
            let spread = [20.0, 100.0, 800.0, 3.0][round % 4];
            let size = [30.0, 200.0, 5.0, 2.0][round / 4 % 4];
            let threshold = [0.5, 0.7, 0.9, 0.6][round % 4];
            let edges = [Edges::Continuous, Edges::Inclusive][round % 2];
            let (mut boxes, mut scores) = (vec![], vec![]);
            for index in 0..count {
                let (x, y) = (spread * next() - 10.0, spread * next());
                let of = |value: f32| if round % 3 == 0 { value.round() } else { value };
                let mut made = rectangle(
                    of(x),
                    of(y),
                    of(x + size * (0.2 + next())),
                    of(y + size * (0.2 + next())),
                );
                match index {
                    // Edges that are no numbers, endless, the wrong way round.
                    _ if round % 5 == 0 && index % 97 == 0 => made.left = f32::NAN,
                    _ if round % 7 == 0 && index % 101 == 0 => made.right = f32::INFINITY,
                    _ if round % 9 == 0 && index % 50 == 0 => made.right = made.left - 3.0,
                    _ => {}
                }
                boxes.push(made);
                scores.push(if index % 13 == 0 { 0.5 } else { next() });
            }
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let mut expected: Vec<usize> = vec![];
            for candidate in order {
                let overlap = |other: &usize| iou(&boxes[*other], &boxes[candidate], edges);
                if !expected.iter().any(|other| overlap(other) > threshold) {
                    expected.push(candidate);
                }
            }
            suppressed += count - expected.len();
            assert_eq!(nms(&boxes, &scores, threshold, edges), expected, "round {round}");
        }
        assert!(suppressed > 10_000, "{suppressed}");
    }

    #[test]
    fn overlap_is_symmetric_and_what_is_kept_does_not_overlap() {
        let mut next = numbers();
        for round in 0..300 {
            let mut made = || {
                let (x, y) = (50.0 * next(), 50.0 * next());
                (rectangle(x, y, x + 30.0 * next(), y + 30.0 * next()), next())
            };
            let (boxes, scores): (Vec<_>, Vec<_>) = (0..1 + round % 30).map(|_| made()).unzip();
            let threshold = next();
            let overlap = |a: usize, b: usize| iou(&boxes[a], &boxes[b], Edges::Continuous);
            for a in 0..boxes.len() {
                for b in 0..boxes.len() {
                    assert!((0.0..=1.0 + 1e-6).contains(&overlap(a, b)));
                    assert_eq!(overlap(a, b), overlap(b, a));
                }
            }
            let kept = nms(&boxes, &scores, threshold, Edges::Continuous);
            assert!(kept.windows(2).all(|pair| scores[pair[0]] >= scores[pair[1]]));
            for (rank, a) in kept.iter().enumerate() {
                assert!(kept[..rank].iter().all(|b| overlap(*a, *b) <= threshold));
            }
            // Every suppressed box has a reason.
            for gone in (0..boxes.len()).filter(|position| !kept.contains(position)) {
                let better = |k: &usize| scores[*k] >= scores[gone] && overlap(*k, gone) > threshold;
                assert!(kept.iter().any(better));
            }
        }
    }
}
