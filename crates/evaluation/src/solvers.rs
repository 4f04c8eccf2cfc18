//! Solvers: rows and labels in; a fitted classifier, clusters, neighbors or a number out. They know no
//! protocol.

mod agreement;
mod average_precision;
mod head;
mod head_grid;
mod kmeans;
mod lbfgs;
mod neighbors;
mod products;
pub(crate) mod softmax;
mod svm;

pub use kmeans::{Partition, lloyd};
pub use neighbors::{Neighbor, nearest};

pub(crate) use agreement::{Agreement, agreement};
pub(crate) use average_precision::{average_precision, interpolated_average_precision};
pub(crate) use head::{Classifier, Head};
pub(crate) use head_grid::{HeadGrid, upload};
pub(crate) use kmeans::{Search, assign, kmeans};
pub(crate) use lbfgs::{Minimum, minimize};
pub(crate) use neighbors::{Voting, rank_among_votes, winner};
pub(crate) use products::products;
pub(crate) use svm::{Machine, Problem, Stop, decisions, fit};

/// All eigenvalues of a symmetric matrix, the largest first.
pub(crate) fn symmetric_eigenvalues(matrix: ndarray::Array2<f64>) -> Vec<f64> {
    let size = matrix.nrows();
    training::symmetric_eigenvalues(matrix.into_raw_vec_and_offset().0, size)
}
