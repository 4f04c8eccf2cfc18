//! Kept boxes of a suppression by place: a candidate in, the few that may overlap it by more than half out.

use data::targets::BoundingBox;

/// Cells along each axis.
const CELLS: usize = 64;

/// The kept boxes by place. Where boxes overlap by more than half of their union, the center of each lies in the other:
/// along each axis the shared part is more than half of either side. So a candidate's rivals are among the kept boxes that
/// cover the cell of its center.
pub(super) struct Grid {
    corner: [f32; 2],
    /// Sides of a cell, at least 2 px, so that a border of one cell is more than a pixel and any rounding.
    cell: [f32; 2],
    cells: Vec<Vec<usize>>,
    /// Those with edges that are no numbers, or far from every picture.
    anywhere: Vec<usize>,
}

/// Whether the box has a place.
pub(super) fn is_finite(of: &BoundingBox) -> bool {
    // An error of rounding at this length is well below the border of a cell.
    of.edges().iter().all(|edge| edge.abs() < 1e6)
}

impl Grid {
    /// An empty grid for these boxes.
    pub(super) fn over(boxes: &[BoundingBox]) -> Self {
        let centers = || boxes.iter().filter(|of| is_finite(of)).map(Self::center);
        let low = centers().fold([f32::INFINITY; 2], |[x, y], [a, b]| [x.min(a), y.min(b)]);
        let high = centers().fold([f32::NEG_INFINITY; 2], |[x, y], [a, b]| [x.max(a), y.max(b)]);
        let cell = [0, 1].map(|axis| ((high[axis] - low[axis]) / CELLS as f32).max(2.0));
        Self {
            corner: low,
            cell,
            cells: vec![vec![]; CELLS * CELLS],
            anywhere: vec![],
        }
    }

    fn center(of: &BoundingBox) -> [f32; 2] {
        [(of.left + of.right) / 2.0, (of.top + of.bottom) / 2.0]
    }

    /// The cell of a place, or the nearest.
    fn at(&self, axis: usize, place: f32) -> usize {
        // Rounds towards 0, and what is negative or no number to 0.
        (((place - self.corner[axis]) / self.cell[axis]) as usize).min(CELLS - 1)
    }

    /// Adds a kept box, the one of this index.
    pub(super) fn keep(&mut self, index: usize, of: &BoundingBox) {
        if !is_finite(of) {
            self.anywhere.push(index);
            return;
        }
        let range = |axis: usize, from: f32, to: f32| {
            let (first, last) = (self.at(axis, from.min(to)), self.at(axis, from.max(to)));
            first.saturating_sub(1)..(last + 2).min(CELLS)
        };
        let columns = range(0, of.left, of.right);
        for row in range(1, of.top, of.bottom) {
            for column in columns.clone() {
                self.cells[row * CELLS + column].push(index);
            }
        }
    }

    /// Kept boxes among which are all that overlap this one by more than half.
    pub(super) fn rivals<'a>(&'a self, of: &BoundingBox) -> impl Iterator<Item = &'a usize> {
        let [x, y] = Self::center(of);
        let cell = self.at(1, y) * CELLS + self.at(0, x);
        self.cells[cell].iter().chain(&self.anywhere)
    }
}
