//! A parameter as a matrix: tensors of any rank in, rows and their norms out.

use burn::tensor::Tensor;

/// `[first dimension, all others]`; a vector is one row.
pub(super) fn rows_shape(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [length] => [1, *length],
        [first, rest @ ..] => [*first, rest.iter().product()],
    }
}

/// A tensor as a matrix, so that the same code handles all ranks.
pub(super) fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let shape = rows_shape(&x.dims());
    x.reshape(shape)
}

/// The Euclidean norm, `[1, 1]`. Summed by dimension, because sums over a whole large tensor differ from run
/// to run on `flex`.
pub(super) fn norm(x: &Tensor<2>) -> Tensor<2> {
    square(x).sqrt()
}

pub(super) fn square(x: &Tensor<2>) -> Tensor<2> {
    x.clone().powi_scalar(2).sum_dim(1).sum_dim(0)
}
