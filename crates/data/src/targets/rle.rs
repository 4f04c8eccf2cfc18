//! Masks as run lengths, in COCO's order.

use super::boxes::BoundingBox;
use crate::transforms::CropBox;

/// A mask as the lengths of its runs: pixels outside, inside, outside, …, down the first column, then the next.
///
/// The runs are canonical: only the first may be 0, so equal masks are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rle {
    width: u32,
    height: u32,
    runs: Vec<u32>,
}

/// Why run lengths are no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RleError {
    /// A picture without pixels, or of more than 2³² - 1.
    #[error("a mask must have 1 to 4294967295 px, got {width} x {height}")]
    Size {
        /// Width, px.
        width: u32,
        /// Height, px.
        height: u32,
    },
    /// The runs do not cover the picture exactly.
    #[error("the runs of a mask of {width} x {height} px must cover {} px, got {covered}", u64::from(*width) * u64::from(*height))]
    Sum {
        /// Width, px.
        width: u32,
        /// Height, px.
        height: u32,
        /// Pixels that the runs cover.
        covered: u64,
    },
    /// A character that compressed run lengths do not have.
    #[error("compressed run lengths have the character `{}`", .0.escape_default())]
    Character(char),
    /// Compressed run lengths that end inside a number, or have one below 0 or over 32 bits.
    #[error("compressed run lengths have a number that is cut or out of range")]
    Number,
}

impl Rle {
    /// From run lengths, which begin with pixels outside and must cover the picture.
    ///
    /// # Errors
    /// [`RleError`] where they do not cover it, or it has no pixel.
    pub fn new(width: u32, height: u32, lengths: impl IntoIterator<Item = u32>) -> Result<Rle, RleError> {
        let pixels = match width.checked_mul(height) {
            None | Some(0) => return Err(RleError::Size { width, height }),
            Some(pixels) => u64::from(pixels),
        };
        let mut runs = Runs::default();
        let mut covered = 0;
        for (at, length) in lengths.into_iter().enumerate() {
            covered += u64::from(length);
            // The sum of the runs so far fits where this one does.
            if covered <= pixels {
                runs.push(at % 2 == 1, length);
            }
        }
        if covered != pixels {
            return Err(RleError::Sum {
                width,
                height,
                covered,
            });
        }
        Ok(runs.into_rle(width, height))
    }

    /// A mask without a pixel inside. Both sides must be at least 1.
    pub fn empty(width: u32, height: u32) -> Rle {
        Rle::from_changes(width, height, &[])
    }

    /// From one byte per pixel, column after column, 0 outside.
    ///
    /// # Errors
    /// [`RleError`] where there are not `width * height` bytes.
    pub fn from_columns(width: u32, height: u32, columns: &[u8]) -> Result<Rle, RleError> {
        let covered = columns.len() as u64;
        if covered != u64::from(width) * u64::from(height) {
            return Err(RleError::Sum {
                width,
                height,
                covered,
            });
        }
        let runs = columns.chunk_by(|one, other| (*one != 0) == (*other != 0));
        let first_inside = columns.first().is_some_and(|pixel| *pixel != 0);
        let before = first_inside.then_some(0);
        let lengths = before.into_iter().chain(runs.map(|run| run.len() as u32));
        Rle::new(width, height, lengths)
    }

    /// From the places, in order, at which inside and outside change.
    pub(super) fn from_changes(width: u32, height: u32, changes: &[u32]) -> Rle {
        let mut runs = Runs::default();
        let mut from = 0;
        for (at, change) in changes.iter().chain([&(width * height)]).enumerate() {
            runs.push(at % 2 == 1, change - from);
            from = *change;
        }
        runs.into_rle(width, height)
    }

    /// Width of the picture, px.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height of the picture, px.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The run lengths, beginning with pixels outside.
    pub fn runs(&self) -> &[u32] {
        &self.runs
    }

    /// Pixels inside.
    pub fn area(&self) -> u64 {
        let inside = self.runs.iter().skip(1).step_by(2);
        inside.map(|run| u64::from(*run)).sum()
    }

    /// The places of the runs inside, in the order of the columns: first pixel, and the one behind the last.
    fn inside(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut at = 0;
        self.runs.chunks(2).filter_map(move |pair| {
            let start = at + pair.first()?;
            let end = start + pair.get(1)?;
            at = end;
            Some((start, end))
        })
    }

    /// The smallest box around the pixels inside; `None` where there is none.
    pub fn bounding_box(&self) -> Option<BoundingBox> {
        let height = self.height;
        let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
        for (start, end) in self.inside() {
            let (first, last) = (start / height, (end - 1) / height);
            (left, right) = (left.min(first), right.max(last + 1));
            // A run over the end of a column reaches the picture's lower and upper edge.
            let (from, to) = match first == last {
                true => (start % height, (end - 1) % height + 1),
                false => (0, height),
            };
            (top, bottom) = (top.min(from), bottom.max(to));
        }
        (left < right).then_some(BoundingBox {
            left: left as f32,
            top: top as f32,
            right: right as f32,
            bottom: bottom as f32,
        })
    }

    /// One byte per pixel, column after column: 1 inside, 0 outside.
    pub fn to_columns(&self) -> Vec<u8> {
        let mut columns = Vec::with_capacity(self.width as usize * self.height as usize);
        for (at, run) in self.runs.iter().enumerate() {
            columns.resize(columns.len() + *run as usize, u8::from(at % 2 == 1));
        }
        columns
    }

    /// One byte per pixel, row after row, as pictures have them: 1 inside, 0 outside.
    pub fn to_rows(&self) -> Vec<u8> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut rows = vec![0; width * height];
        for (start, end) in self.inside() {
            for place in start as usize..end as usize {
                rows[place % height * width + place / height] = 1;
            }
        }
        rows
    }

    /// Pixels inside of at least one mask, all of one picture.
    ///
    /// # Errors
    /// [`RleError::Sum`] for a mask of another size.
    pub fn union(&self, other: &Rle) -> Result<Rle, RleError> {
        self.merged(other, |one, two| one || two)
    }

    /// Pixels inside of both masks.
    ///
    /// # Errors
    /// [`RleError::Sum`] for a mask of another size.
    pub fn intersection(&self, other: &Rle) -> Result<Rle, RleError> {
        self.merged(other, |one, two| one && two)
    }

    fn merged(&self, other: &Rle, is_inside: fn(bool, bool) -> bool) -> Result<Rle, RleError> {
        if (other.width, other.height) != (self.width, self.height) {
            return Err(RleError::Sum {
                width: self.width,
                height: self.height,
                covered: u64::from(other.width) * u64::from(other.height),
            });
        }
        let mut runs = Runs::default();
        let mut sides = [self, other].map(|mask| (mask.runs.iter(), 0u32, true));
        loop {
            for (rest, left, inside) in &mut sides {
                while *left == 0 {
                    let Some(next) = rest.next() else {
                        return Ok(runs.into_rle(self.width, self.height));
                    };
                    *left = *next;
                    *inside = !*inside;
                }
            }
            let [(_, one, one_inside), (_, two, two_inside)] = &mut sides;
            let length = *one.min(two);
            runs.push(is_inside(*one_inside, *two_inside), length);
            for (_, left, _) in &mut sides {
                *left -= length;
            }
        }
    }

    /// Mirrored left and right.
    #[must_use]
    pub fn flipped(&self) -> Rle {
        let columns: Vec<u32> = (0..self.width).rev().collect();
        let rows: Vec<u32> = (0..self.height).collect();
        self.resampled(&columns, &rows)
    }

    /// The part of the mask within a crop, which must lie in the picture.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn cropped(&self, part: CropBox) -> Rle {
        let columns: Vec<u32> = (part.left..part.left + part.width).collect();
        let rows: Vec<u32> = (part.top..part.top + part.height).collect();
        self.resampled(&columns, &rows)
    }

    /// The mask of which pixel `x, y` is pixel `columns[x], rows[y]` of this one.
    pub(super) fn resampled(&self, columns: &[u32], rows: &[u32]) -> Rle {
        let pixels = self.to_columns();
        let groups = rows.chunk_by(|one, next| one == next);
        let repeated: Vec<(usize, u32)> = groups
            .map(|equal| (equal[0] as usize, equal.len() as u32))
            .collect();
        let mut runs = Runs::default();
        for column in columns {
            let column = &pixels[*column as usize * self.height as usize..][..self.height as usize];
            // Most objects are small.
            if column.iter().all(|pixel| *pixel == 0) {
                runs.push(false, rows.len() as u32);
                continue;
            }
            for (row, times) in &repeated {
                runs.push(column[*row] != 0, *times);
            }
        }
        runs.into_rle(columns.len() as u32, rows.len() as u32)
    }
}

/// Runs being joined.
#[derive(Default)]
struct Runs {
    lengths: Vec<u32>,
}

impl Runs {
    /// Adds pixels behind the last ones.
    fn push(&mut self, is_inside: bool, length: u32) {
        if length == 0 {
            return;
        }
        if self.lengths.is_empty() && is_inside {
            self.lengths.push(0);
        }
        let is_last_inside = self.lengths.len().is_multiple_of(2);
        match self.lengths.last_mut() {
            Some(last) if is_last_inside == is_inside => *last += length,
            _ => self.lengths.push(length),
        }
    }

    fn into_rle(self, width: u32, height: u32) -> Rle {
        Rle {
            width,
            height,
            runs: self.lengths,
        }
    }
}
