//! A polygon in, the pixels in it out, bit by bit as COCO's `maskApi` fills it.
//!
//! The outline is drawn on a grid five times as fine, by one step per cell along the longer side of each edge.
//! Where it passes from one fine column into the next, at the middle of a column of pixels, it crosses that
//! column: below the crossing inside and outside change. So the result is a list of places in column-major order
//! at which the mask changes.

use super::polygon::Polygon;
use super::rle::Rle;

/// Fine cells per pixel.
const FINENESS: f64 = 5.0;

impl Polygon {
    /// The mask of the polygon in a picture of `width` x `height` px, both at least 1.
    pub fn to_rle(&self, width: u32, height: u32) -> Rle {
        let (columns, rows) = (f64::from(width), f64::from(height));
        let mut changes = Vec::new();
        let mut last: Option<[i64; 2]> = None;
        walk_outline(self.corners(), |cell| {
            let Some([from_x, from_y]) = last.replace(cell) else {
                return;
            };
            let [to_x, to_y] = cell;
            if from_x == to_x {
                return;
            }
            // The fine column that is left, in pixels; only the middle of a pixel counts.
            let left = if to_x < from_x { to_x } else { to_x - 1 };
            let column = (left as f64 + 0.5) / FINENESS - 0.5;
            if column.floor() != column || column < 0.0 || column > columns - 1.0 {
                return;
            }
            let row = (from_y.min(to_y) as f64 + 0.5) / FINENESS - 0.5;
            let row = row.clamp(0.0, rows).ceil();
            changes.push(column as u32 * height + row as u32);
        });
        changes.sort_unstable();
        Rle::from_changes(width, height, &changes)
    }
}

/// Visits the cells of the closed outline, one after the other.
fn walk_outline(corners: &[[f64; 2]], mut visit: impl FnMut([i64; 2])) {
    // `as` truncates.
    let fine = |value: f64| (FINENESS * value + 0.5) as i64;
    let fine: Vec<[i64; 2]> = corners.iter().map(|[x, y]| [fine(*x), fine(*y)]).collect();
    for (start, end) in fine.iter().zip(fine.iter().cycle().skip(1)) {
        let across = (end[0] - start[0]).abs();
        let down = (end[1] - start[1]).abs();
        // The longer side is walked cell by cell, always upwards, so that an edge is the same from both ends.
        let long = usize::from(across < down);
        let steps = across.max(down);
        let is_reversed = start[long] > end[long];
        let (low, high) = if is_reversed { (end, start) } else { (start, end) };
        // Not a number for an edge of one cell, whose column does not change.
        let slope = (high[1 - long] - low[1 - long]) as f64 / steps as f64;
        for step in 0..=steps {
            let along = if is_reversed { steps - step } else { step };
            let mut cell = [0; 2];
            cell[long] = low[long] + along;
            cell[1 - long] = (low[1 - long] as f64 + slope * along as f64 + 0.5) as i64;
            visit(cell);
        }
    }
}
