//! Products of every row of one matrix with every row of another, on the host.

use crate::features::Matrix;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// The products of some rows with all rows of a gallery, `[rows, gallery]`.
pub(crate) fn products(rows: &Matrix, range: std::ops::Range<usize>, gallery: &[f32]) -> Vec<f32> {
    let width = rows.width;
    let (count, gallery_rows) = (range.len(), gallery.len() / width);
    let mut products = vec![0.0; count * gallery_rows];
    let rows = ArrayView2::from_shape(
        (count, width),
        &rows.values[range.start * width..range.end * width],
    )
    .expect("whole rows");
    let gallery = ArrayView2::from_shape((gallery_rows, width), gallery).expect("whole rows");
    let mut view = ArrayViewMut2::from_shape((count, gallery_rows), &mut products).expect("made to size");
    general_mat_mul(1.0, &rows, &gallery.t(), 0.0, &mut view);
    products
}
