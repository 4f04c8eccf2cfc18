//! Products of matrices inside longer arrays, through the `gemm` crate, which Burn's products use too.

// The engine takes pointers: their range is checked here, against the arrays that they point into.
#![allow(unsafe_code)]

use gemm::Parallelism;

/// A matrix in an array: element (r, c) is `values[r · row_step + c · column_step]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_step: usize,
    pub(crate) column_step: usize,
}

impl<'a> View<'a> {
    /// Rows at a distance of `row_step`, each of `columns` contiguous values.
    pub(crate) fn rows(values: &'a [f32], rows: usize, columns: usize, row_step: usize) -> Self {
        Self {
            values,
            rows,
            columns,
            row_step,
            column_step: 1,
        }
    }

    /// The transposed matrix.
    pub(crate) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
        }
    }

    /// Whether every element is in the array.
    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_step + (self.columns - 1) * self.column_step < self.values.len()
    }
}

/// The output of a product: contiguous rows.
pub(crate) struct Output<'a> {
    pub(crate) values: &'a mut [f32],
    /// Whether the product is added to the existing values.
    pub(crate) add: bool,
}

/// The threads that compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Only the calling thread, for one of many small products.
    One,
    /// All of the pool.
    All,
}

/// `output = factor · left · right`, or `output += factor · left · right`.
///
/// # Panics
/// If shapes do not match, or a matrix reaches past the end of its array.
pub(crate) fn product(output: Output<'_>, left: View<'_>, right: View<'_>, factor: f32, threads: Threads) {
    let (rows, inner, columns) = (left.rows, left.columns, right.columns);
    assert_eq!(inner, right.rows, "the product of {left:?} and {right:?}");
    assert_eq!(output.values.len(), rows * columns, "the size of a product");
    assert!(left.fits() && right.fits(), "a matrix past the end of its array");
    let step = |step: usize| isize::try_from(step).unwrap_or(isize::MAX);
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the assertions above keep all elements that the engine reads or writes within their slices, for
    // (rows, inner), (inner, columns) and (rows, columns) with these steps. The output is borrowed mutably,
    // so no factor overlaps it, and it holds initialized floats for either value of `add`.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            output.values.as_mut_ptr(),
            1,
            step(columns),
            output.add,
            left.values.as_ptr(),
            step(left.column_step),
            step(left.row_step),
            right.values.as_ptr(),
            step(right.column_step),
            step(right.row_step),
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_layout_gives_the_product(
            rows in 0usize..20, inner in 0usize..40, columns in 0usize..20, gap in 0usize..3, sides: (bool, bool), add: bool,
        ) {
            let wave = |count: usize, seed: f32| (0..count).map(|i| (i as f32 * seed).sin()).collect::<Vec<_>>();
            let (a, b) = (wave(20 * 50 + 50 * 20, 0.7), wave(20 * 50 + 50 * 20, 1.3));
            let view = |values, rows: usize, columns: usize, on_its_side: bool| {
                if on_its_side {
                    View::rows(values, columns, rows, rows + gap).transposed()
                } else {
                    View::rows(values, rows, columns, columns + gap)
                }
            };
            let (left, right) = (view(&a[..], rows, inner, sides.0), view(&b[..], inner, columns, sides.1));
            let at = |view: &View<'_>, r: usize, c: usize| f64::from(view.values[r * view.row_step + c * view.column_step]);
            let mut output = vec![0.5; rows * columns];
            product(Output { values: &mut output, add }, left, right, 2.0, Threads::One);
            for r in 0..rows {
                for c in 0..columns {
                    let terms = || (0..inner).map(|k| at(&left, r, k) * at(&right, k, c));
                    let expected = 2.0 * terms().sum::<f64>() + if add { 0.5 } else { 0.0 };
                    // Each of the additions rounds once (Higham 2002, section 3.1): half an epsilon of the sum of magnitudes.
                    let magnitude = 2.0 * terms().map(f64::abs).sum::<f64>() + 0.5;
                    let bound = (inner + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude;
                    prop_assert!((f64::from(output[r * columns + c]) - expected).abs() <= bound);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn what_lies_outside_is_not_read() {
        let values = [1.0; 7];
        let view = View::rows(&values, 2, 4, 4);
        let mut output = [0.0; 4];
        let whole = Output {
            values: &mut output,
            add: false,
        };
        product(whole, view, view.transposed(), 1.0, Threads::One);
    }
}
