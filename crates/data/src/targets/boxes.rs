//! Rectangles with sides along the axes.

/// A rectangle with sides along the axes, in pixels from the picture's upper left corner.
///
/// Edges are positions on a line, so the box of one pixel is 1 px wide, and the box of the whole picture is
/// `0, 0, width, height`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub left: f32,
    /// Upper edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Lower edge.
    pub bottom: f32,
}

impl BoundingBox {
    /// From center, width and height.
    pub fn centered([x, y]: [f32; 2], [width, height]: [f32; 2]) -> Self {
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        Self {
            left,
            top,
            right: left + width,
            bottom: top + height,
        }
    }

    /// From left edge, upper edge, right edge, lower edge.
    pub fn from_edges([left, top, right, bottom]: [f32; 4]) -> Self {
        Self {
            left,
            top,
            right,
            bottom,
        }
    }

    /// From left edge, upper edge, width and height, as COCO's `bbox`. The sums are made in f64.
    pub fn from_corner_and_sides([left, top, width, height]: [f64; 4]) -> Self {
        Self {
            left: left as f32,
            top: top as f32,
            right: (left + width) as f32,
            bottom: (top + height) as f32,
        }
    }

    /// Left edge, upper edge, right edge, lower edge.
    pub fn edges(&self) -> [f32; 4] {
        [self.left, self.top, self.right, self.bottom]
    }

    /// Width, px; negative where the edges are exchanged.
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    /// Height, px; negative where the edges are exchanged.
    pub fn height(&self) -> f32 {
        self.bottom - self.top
    }

    /// Width times height, px²; 0 for a box without inside.
    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// Whether it has no inside: a side of 0 or less, or a number that is none.
    pub fn is_empty(&self) -> bool {
        !(self.width() > 0.0 && self.height() > 0.0)
    }

    /// Horizontal values times `x`, vertical ones times `y`.
    #[must_use]
    pub fn scaled(self, x: f32, y: f32) -> Self {
        Self {
            left: self.left * x,
            top: self.top * y,
            right: self.right * x,
            bottom: self.bottom * y,
        }
    }

    /// Moved right and down.
    #[must_use]
    pub fn moved(self, x: f32, y: f32) -> Self {
        Self {
            left: self.left + x,
            top: self.top + y,
            right: self.right + x,
            bottom: self.bottom + y,
        }
    }

    /// Mirrored left and right, in a picture of this width.
    #[must_use]
    pub fn flipped(self, width: f32) -> Self {
        Self {
            left: width - self.right,
            right: width - self.left,
            ..self
        }
    }

    /// The part within a picture of these sides; empty where nothing of it is.
    #[must_use]
    pub fn clipped(self, width: f32, height: f32) -> Self {
        Self {
            left: self.left.clamp(0.0, width),
            top: self.top.clamp(0.0, height),
            right: self.right.clamp(0.0, width),
            bottom: self.bottom.clamp(0.0, height),
        }
    }
}
