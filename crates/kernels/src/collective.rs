//! Collectives: operations in which every rank of a run takes part, differentiable.
//!
//! A rank is one process with one device and its share of each batch. The backward pass of a collective is its
//! transpose: a sum's is a sum, and a gather's hands each rank the sum of the gradients of its own rows. Gradients
//! are therefore those of the *sum* of the ranks' losses, which each rank scales by 1 / ranks.
//!
//! Values cross in host memory, so that one engine serves every vendor's device.

use crate::backend::collective::CollectiveBackend;
use crate::engine::{Call, Kind};
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

pub use crate::engine::{Checked, Engine, threads};

/// The sum of every rank's tensor, on each of them; differentiable.
pub fn sum<const D: usize>(tensor: Tensor<D>, engine: &Arc<dyn Engine>) -> Tensor<D> {
    collect(tensor, Kind::Sum, engine)
}

/// Every rank's rows in the order of ranks, differentiable: `[rows, …]` to `[ranks · rows, …]`. Each rank gives the
/// same shape.
pub fn gather<const D: usize>(tensor: Tensor<D>, engine: &Arc<dyn Engine>) -> Tensor<D> {
    collect(tensor, Kind::Gather, engine)
}

fn collect<const D: usize>(tensor: Tensor<D>, kind: Kind, engine: &Arc<dyn Engine>) -> Tensor<D> {
    if engine.size() == 1 {
        return tensor;
    }
    let engine = engine.clone();
    let call = Call { kind, engine };
    Tensor::from_dispatch(<Dispatch as CollectiveBackend>::collect(
        tensor.into_dispatch(),
        call,
    ))
}

#[cfg(test)]
mod tests;
