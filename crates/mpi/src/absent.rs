//! The world of a build without MPI: nobody can join it.

use crate::Error;
use kernels::collective::Engine;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// This process as one of MPI's ranks; none exists in a build without the feature `mpi`.
pub struct World {
    never: Infallible,
}

impl World {
    /// # Errors
    /// Always: [`Error::NotBuilt`].
    pub fn join(_patience: Option<Duration>) -> Result<Self, Error> {
        Err(Error::NotBuilt)
    }

    /// The collectives of all ranks.
    pub fn engine(&self) -> Arc<dyn Engine> {
        match self.never {}
    }

    /// This rank among those of its machine, and their number.
    pub fn local(&self) -> (usize, usize) {
        match self.never {}
    }

    /// The machine's name.
    pub fn host(&self) -> &str {
        match self.never {}
    }

    /// Leaves MPI once every rank is here.
    pub fn leave(self) {
        match self.never {}
    }
}

/// Ends all ranks with exit status 1; returns if this process joined none.
pub fn abort() {}

/// Name and version of the MPI library.
pub fn library() -> Option<String> {
    None
}
