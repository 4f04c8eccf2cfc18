//! The protocols and their list; each file describes its protocol completely.

pub mod clustering;
pub mod diagnostics;
pub mod few_shot;
mod inputs;
pub mod knn;
pub mod linear_cached;
pub mod linear_cached_grid;
pub mod linear_dinov2;
pub mod linear_moco;
pub mod linear_probe;
pub mod linear_vissl;
mod list;
pub mod logistic;
#[cfg(test)]
mod parity;
mod protocol;
pub mod retrieval;
pub mod svm_low_shot;
pub mod svm_voc07;
pub mod view_diagnostics;

pub(crate) use protocol::{Bench, LabelsRead, Needs, Pipeline, Protocol, Scored};

// The list of protocols: a new protocol adds one line here and its `mod` line above.
list::protocols![
    knn::KnnDino,
    knn::KnnVissl,
    linear_moco::LinearMoco,
    linear_probe::LinearSwav,
    linear_probe::LinearDino,
    linear_probe::LinearMocoV3,
    linear_dinov2::LinearDinov2,
    linear_vissl::LinearVissl,
    linear_cached_grid::LinearCachedGrid,
    linear_cached::LinearCached,
    logistic::LogisticRegression,
    clustering::Clustering,
    few_shot::FewShot,
    svm_voc07::SvmVoc07,
    svm_low_shot::SvmLowShot,
    retrieval::Retrieval,
    diagnostics::Diagnostics,
    view_diagnostics::ViewDiagnostics,
];
