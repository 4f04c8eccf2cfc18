//! Processes that a launcher started in, the engine of their collectives out: MPI, one process a device.
//!
//! Without the feature `mpi` no library is linked, and [`World::join`] returns an error. [`Launch`] reads what a launcher
//! says in either case, so that a program that cannot join the others says so instead of training alone.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod launch;
// Without the feature its tests alone use it, and not all of it.
#[cfg(any(feature = "mpi", test))]
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
mod watch;
#[cfg(feature = "mpi")]
mod world;
#[cfg(not(feature = "mpi"))]
#[path = "absent.rs"]
mod world;

pub use launch::Launch;
pub use world::{World, abort, library};

/// Why a process cannot join the others.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program was built without the feature `mpi`.
    #[error("this build has no MPI")]
    NotBuilt,
    /// MPI's own words.
    #[error("MPI: {0}")]
    Mpi(String),
    /// The library was built without threads.
    #[error("this MPI library serves one thread only, and training calls it from several")]
    Threads,
}
