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

/// The Euclidean norm, `[1, 1]`.
pub(super) fn norm(x: &Tensor<2>) -> Tensor<2> {
    kernels::squares(x.clone()).sqrt().reshape([1, 1])
}

/// The sum of squares over several tensors, `[1]`, and those of one more.
pub(super) fn add_squares(total: Option<Tensor<1>>, x: Tensor<2>) -> Tensor<1> {
    match total {
        Some(total) => kernels::add_squares(total, x),
        None => kernels::squares(x),
    }
}
