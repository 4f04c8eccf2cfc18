//! A data set's batches divided among several calls: which batches a slice has, and the name of its file.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// The largest number of slices: file names have five digits.
const MOST_SLICES: usize = 99_999;

/// One of `count` slices of a data set, each with consecutive batches; slice 1 has the first ones.
///
/// Slices end on batch boundaries, because batch boundaries affect the last bits of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    number: usize,
    count: usize,
}

impl Slice {
    /// Slice `number` of `count`, counted from 1.
    ///
    /// # Errors
    /// A sentence if there is no such slice.
    pub fn new(number: usize, count: usize) -> Result<Self, String> {
        if count == 0 || count > MOST_SLICES {
            return Err(format!(
                "the number of slices must be in 1..={MOST_SLICES}, got {count}"
            ));
        }
        match (1..=count).contains(&number) {
            true => Ok(Self { number, count }),
            false => Err(format!("the slice must be in 1..={count}, got {number}")),
        }
    }

    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The number of slices.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its file in the folder of slices, `features-00002-of-00004.safetensors`.
    pub fn file_name(&self) -> String {
        format!("features-{:05}-of-{:05}.safetensors", self.number, self.count)
    }

    /// Its batches of a data set with `batches` batches: none if there are more slices than batches.
    pub(crate) fn batches(&self, batches: usize) -> Range<usize> {
        // In 128 bits, because the numbers may come from a file.
        let end = |number: usize| (batches as u128 * number as u128 / self.count as u128) as usize;
        end(self.number - 1)..end(self.number)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slice {} of {}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_all_batches_once_in_order_and_nearly_equal() {
        for (batches, count) in [(7, 4), (4, 4), (100, 7), (3, 1)] {
            let mut next = 0;
            for number in 1..=count {
                let slice = Slice::new(number, count).unwrap().batches(batches);
                assert_eq!(slice.start, next);
                assert!((batches / count..=batches.div_ceil(count)).contains(&slice.len()));
                next = slice.end;
            }
            assert_eq!(next, batches);
        }
        assert!(Slice::new(1, 3).unwrap().batches(2).is_empty());
    }

    #[test]
    fn a_slice_that_does_not_exist_is_an_error() {
        assert_eq!(Slice::new(5, 4).unwrap_err(), "the slice must be in 1..=4, got 5");
        assert_eq!(Slice::new(0, 4).unwrap_err(), "the slice must be in 1..=4, got 0");
        assert_eq!(
            Slice::new(1, 0).unwrap_err(),
            "the number of slices must be in 1..=99999, got 0"
        );
        let slice = Slice::new(2, 4).unwrap();
        assert_eq!(slice.file_name(), "features-00002-of-00004.safetensors");
        assert_eq!(slice.to_string(), "slice 2 of 4");
    }
}
