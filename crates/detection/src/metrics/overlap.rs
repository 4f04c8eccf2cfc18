//! Overlaps (IoU) as COCO's and VOC's evaluators compute them, in f64.

use data::targets::Rle;

/// IoU of two boxes (left, top, right, bottom), edges as positions on a line; 0 for boxes that share no area.
///
/// A crowd is covered by any part of it: the shared area divided by that of `found` alone.
pub(super) fn of_boxes(found: [f64; 4], truth: [f64; 4], is_crowd: bool) -> f64 {
    let width = found[2].min(truth[2]) - found[0].max(truth[0]);
    let height = found[3].min(truth[3]) - found[1].max(truth[1]);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let shared = width * height;
    let area = |[left, top, right, bottom]: [f64; 4]| (right - left) * (bottom - top);
    let covered = match is_crowd {
        true => area(found),
        false => area(found) + area(truth) - shared,
    };
    shared / covered
}

/// IoU of two boxes whose edges are the first and last pixel inside, VOC's convention; 0 for boxes that share
/// none.
pub(super) fn of_pixels(found: [f64; 4], truth: [f64; 4]) -> f64 {
    let length = |from: f64, to: f64| to - from + 1.0;
    let width = length(found[0].max(truth[0]), found[2].min(truth[2])).max(0.0);
    let height = length(found[1].max(truth[1]), found[3].min(truth[3])).max(0.0);
    let shared = width * height;
    if shared == 0.0 {
        return 0.0;
    }
    let area = |[left, top, right, bottom]: [f64; 4]| length(left, right) * length(top, bottom);
    shared / (area(found) + area(truth) - shared)
}

/// A mask with its area and the box around it.
pub(super) struct Mask {
    runs: Vec<u32>,
    pub(super) area: u64,
    /// Left, top, right, bottom, px; absent for a mask without a pixel.
    around: Option<[f32; 4]>,
}

impl Mask {
    pub(super) fn of(mask: &Rle) -> Mask {
        Mask {
            runs: mask.runs().to_vec(),
            area: mask.area(),
            around: mask.bounding_box().map(|around| around.edges()),
        }
    }
}

/// IoU of two masks of one picture; 0 for masks that share no pixel. Crowds as in [`of_boxes`].
pub(super) fn of_masks(found: &Mask, truth: &Mask, is_crowd: bool) -> f64 {
    let (Some(one), Some(two)) = (found.around, truth.around) else {
        return 0.0;
    };
    let is_apart = |axis: usize| one[axis + 2].min(two[axis + 2]) <= one[axis].max(two[axis]);
    if is_apart(0) || is_apart(1) {
        return 0.0;
    }
    let shared = shared_pixels(&found.runs, &truth.runs);
    if shared == 0 {
        return 0.0;
    }
    let covered = match is_crowd {
        true => found.area,
        false => found.area + truth.area - shared,
    };
    shared as f64 / covered as f64
}

/// Pixels inside of both masks, given as runs outside, inside, outside, …
fn shared_pixels(one: &[u32], two: &[u32]) -> u64 {
    let [mut one, mut two] = [one, two].map(inside);
    let (mut first, mut second) = (one.next(), two.next());
    let mut shared = 0;
    while let (Some((start, end)), Some((other_start, other_end))) = (first, second) {
        shared += u64::from(end.min(other_end).saturating_sub(start.max(other_start)));
        if end <= other_end {
            first = one.next();
        } else {
            second = two.next();
        }
    }
    shared
}

/// First pixel of each run inside, and the one behind its last.
fn inside(runs: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    let mut at = 0;
    runs.as_chunks::<2>().0.iter().map(move |[outside, inside]| {
        let start = at + outside;
        at = start + inside;
        (start, at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_share_their_part_of_the_union_or_of_themselves() {
        let a = [0.0, 0.0, 10.0, 10.0];
        let b = [5.0, 0.0, 15.0, 10.0];
        assert_eq!(of_boxes(a, b, false), 50.0 / 150.0);
        assert_eq!(of_boxes(a, b, true), 0.5);
        assert_eq!(of_boxes(a, a, false), 1.0);
        // Within a crowd.
        assert_eq!(of_boxes([2.0, 2.0, 4.0, 4.0], a, true), 1.0);
        // Side by side, apart in both directions, and without inside.
        for other in [
            [10.0, 0.0, 20.0, 10.0],
            [20.0, 20.0, 30.0, 30.0],
            [3.0, 3.0, 3.0, 8.0],
        ] {
            assert_eq!(of_boxes(other, a, false), 0.0);
            assert_eq!(of_boxes(other, a, true), 0.0);
        }
    }

    #[test]
    fn vocs_edges_are_pixels() {
        let a = [1.0, 1.0, 10.0, 10.0];
        assert_eq!(of_pixels(a, a), 1.0);
        // 5 x 10 shared of 150.
        assert_eq!(of_pixels(a, [6.0, 1.0, 15.0, 10.0]), 50.0 / 150.0);
        // One column of pixels is shared.
        assert_eq!(of_pixels(a, [10.0, 1.0, 19.0, 10.0]), 10.0 / 190.0);
        assert_eq!(of_pixels(a, [11.0, 1.0, 19.0, 10.0]), 0.0);
        assert_eq!(of_pixels(a, [20.0, 20.0, 29.0, 29.0]), 0.0);
        // Two boxes without a pixel.
        assert_eq!(of_pixels([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]), 0.0);
    }

    #[test]
    fn masks_share_pixels() {
        let mask = |rows: [&str; 3]| {
            let columns: Vec<u8> = (0..4)
                .flat_map(|x| rows.map(|row| u8::from(row.as_bytes()[x] == b'#')))
                .collect();
            Mask::of(&Rle::from_columns(4, 3, &columns).unwrap())
        };
        let one = mask(["##..", "##..", "##.."]);
        let two = mask([".##.", ".##.", "...."]);
        // 2 of 6 + 4 - 2.
        assert_eq!(of_masks(&one, &two, false), 0.25);
        assert_eq!(of_masks(&one, &two, true), 2.0 / 6.0);
        assert_eq!(of_masks(&two, &one, true), 0.5);
        // Boxes overlap, pixels do not; then nothing at all.
        let corner = mask(["...#", "....", ".#.."]);
        let empty = mask(["....", "....", "...."]);
        assert_eq!(of_masks(&corner, &two, false), 0.0);
        assert_eq!(of_masks(&empty, &empty, false), 0.0);
        assert_eq!(of_masks(&empty, &two, true), 0.0);
    }
}
