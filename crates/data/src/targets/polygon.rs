//! A closed outline, and its transforms.

use crate::transforms::CropBox;

/// A closed outline of at least three corners, px from the picture's upper left corner. Corners may lie outside
/// of the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon {
    corners: Vec<[f64; 2]>,
}

/// Why numbers are no polygon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolygonError {
    /// Fewer than three corners.
    #[error("a polygon must have at least 6 numbers, got {0}")]
    TooShort(usize),
    /// A corner without its `y`.
    #[error("a polygon must have an even count of numbers, got {0}")]
    Odd(usize),
    /// A number that is none, infinite or of no picture.
    #[error(
        "a polygon must have numbers within {} px of the picture's corner",
        FARTHEST_PX
    )]
    TooFar,
}

/// Farthest corner, px, because the time to fill a polygon goes with its length. Pictures have at most 65,535 px a
/// side.
const FARTHEST_PX: f64 = 1e6;

impl Polygon {
    /// From `x, y, x, y, …`, as COCO's `segmentation`.
    ///
    /// # Errors
    /// [`PolygonError`] for fewer than six numbers, an odd count, or one that is none or too large.
    pub fn from_flat(numbers: &[f64]) -> Result<Polygon, PolygonError> {
        if numbers.len() < 6 {
            return Err(PolygonError::TooShort(numbers.len()));
        }
        if !numbers.len().is_multiple_of(2) {
            return Err(PolygonError::Odd(numbers.len()));
        }
        // Comparisons with what is no number are false.
        if !numbers.iter().all(|number| number.abs() <= FARTHEST_PX) {
            return Err(PolygonError::TooFar);
        }
        Ok(Polygon {
            corners: numbers.as_chunks::<2>().0.to_vec(),
        })
    }

    /// `x, y, x, y, …`.
    pub fn to_flat(&self) -> Vec<f64> {
        self.corners.as_flattened().to_vec()
    }

    /// Its corners, `[x, y]` each.
    pub fn corners(&self) -> &[[f64; 2]] {
        &self.corners
    }

    /// Mirrored left and right, in a picture of this width.
    pub(super) fn flipped(self, width: f64) -> Polygon {
        self.map(|[x, y]| [width - x, y])
    }

    pub(super) fn scaled(self, across: f64, down: f64) -> Polygon {
        self.map(|[x, y]| [x * across, y * down])
    }

    /// The part within a crop, from its corner; `None` where nothing is.
    ///
    /// Each edge of the crop cuts in turn (Sutherland and Hodgman, 1974). Parts that only the outside joins stay
    /// joined by a line on the crop's edge, which encloses nothing.
    pub(super) fn cropped(self, part: CropBox) -> Option<Polygon> {
        let moved = self.map(|[x, y]| [x - f64::from(part.left), y - f64::from(part.top)]);
        let mut corners = moved.corners;
        for (axis, limit) in [(0, f64::from(part.width)), (1, f64::from(part.height))] {
            corners = cut(&corners, axis, 0.0, 1.0);
            corners = cut(&corners, axis, limit, -1.0);
        }
        let has_length = |axis: usize| {
            corners
                .iter()
                .any(|corner| corner[axis] != corners.first().map_or(0.0, |first| first[axis]))
        };
        (corners.len() >= 3 && has_length(0) && has_length(1)).then_some(Polygon { corners })
    }

    fn map(mut self, change: impl Fn([f64; 2]) -> [f64; 2]) -> Polygon {
        for corner in &mut self.corners {
            *corner = change(*corner);
        }
        self
    }
}

/// Keeps the side of a line across an axis: above `limit` for `sign` 1, below it for -1.
fn cut(corners: &[[f64; 2]], axis: usize, limit: f64, sign: f64) -> Vec<[f64; 2]> {
    let inside = |corner: &[f64; 2]| sign * (corner[axis] - limit);
    let mut kept = Vec::with_capacity(corners.len() + 2);
    let before = corners.iter().cycle().skip(corners.len().saturating_sub(1));
    for (from, to) in before.zip(corners) {
        let (start, end) = (inside(from), inside(to));
        if (start < 0.0) != (end < 0.0) {
            let share = start / (start - end);
            let mut crossing = [0, 1].map(|axis: usize| from[axis] + (to[axis] - from[axis]) * share);
            // The quotient may miss the line by a rounding.
            crossing[axis] = limit;
            kept.push(crossing);
        }
        if end >= 0.0 {
            kept.push(*to);
        }
    }
    kept
}
