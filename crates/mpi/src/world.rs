//! The world of MPI: joining it, its collectives, and leaving it.

use crate::Error;
use crate::watch::{self, Progress, Watch};
use ferrompi::{Communicator, Mpi, ThreadLevel};
use kernels::collective::Engine;
use std::fmt::{Debug, Display};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

fn of_mpi(error: ferrompi::Error) -> Error {
    Error::Mpi(error.to_string())
}

/// The world, for [`abort`], which any thread may call.
static WORLD: OnceLock<Communicator> = OnceLock::new();

/// This process as one of MPI's ranks.
///
/// Dropping it leaves MPI as it is: a rank that ends before [`leave`](Self::leave) ends the whole run, as it should after a
/// failure. MPI would otherwise wait for ranks that are in the middle of a step, for ever.
pub struct World {
    mpi: ManuallyDrop<Mpi>,
    engine: Arc<Ranks>,
}

impl World {
    /// Joins the other ranks, once per process.
    ///
    /// With `patience`, which is that of rank 0, rank 0 warns of ranks that others have waited for that long in a
    /// collective, and again after twice the time, and so on.
    ///
    /// # Errors
    /// No MPI library that works, or one without threads.
    pub fn join(patience: Option<Duration>) -> Result<Self, Error> {
        let mpi = ManuallyDrop::new(Mpi::init_thread(ThreadLevel::Serialized).map_err(of_mpi)?);
        if !matches!(
            mpi.thread_level(),
            ThreadLevel::Serialized | ThreadLevel::Multiple
        ) {
            return Err(Error::Threads);
        }
        let world = WORLD.get_or_init(|| mpi.world());
        let node = world.split_shared().map_err(of_mpi)?;
        let engine = Arc::new(Ranks {
            rank: world.rank() as usize,
            size: world.size() as usize,
            local: (node.rank() as usize, node.size() as usize),
            host: world.processor_name().map_err(of_mpi)?,
            calls: Mutex::new(()),
            progress: Arc::new(Progress::new()),
        });
        if engine.size > 1 {
            engine.watch(patience);
        }
        // Freeing it would be one more call that all ranks must make.
        std::mem::forget(node);
        Ok(Self { mpi, engine })
    }

    /// The collectives of all ranks.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    /// This rank among those of its machine, and their number.
    pub fn local(&self) -> (usize, usize) {
        self.engine.local
    }

    /// The machine's name.
    pub fn host(&self) -> &str {
        &self.engine.host
    }

    /// Leaves MPI once every rank is here: the end of a run that succeeded, or that stopped in good order.
    pub fn leave(self) {
        self.engine.barrier();
        drop(ManuallyDrop::into_inner(self.mpi));
    }
}

/// Ends all ranks with exit status 1, or returns if this process joined none.
pub fn abort() {
    if let Some(world) = WORLD.get() {
        world.abort(1);
    }
}

/// Name and version of the MPI library, without joining.
pub fn library() -> Option<String> {
    let text = Mpi::library_version().ok()?;
    // Open MPI adds who packaged it.
    let name = text.split([',', '\n', '\0']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The engine: all ranks of the world.
struct Ranks {
    rank: usize,
    size: usize,
    local: (usize, usize),
    host: String,
    /// One call at a time, as the thread level `Serialized` wants it.
    calls: Mutex<()>,
    progress: Arc<Progress>,
}

impl Debug for Ranks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "rank {} of {} on {}", self.rank, self.size, self.host)
    }
}

impl Ranks {
    /// # Panics
    /// If the call failed: the ranks are then no longer at the same step.
    fn call<T, E: Display>(&self, name: &'static str, call: impl FnOnce(&Communicator) -> Result<T, E>) -> T {
        let _one = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(world) = WORLD.get() else {
            unreachable!("an engine is made after its world")
        };
        self.progress.begin(name);
        let result = call(world);
        self.progress.end();
        result.unwrap_or_else(|error| panic!("{self:?}: {name} between ranks failed: {error}"))
    }

    /// Lets rank 0 watch all ranks. Where it cannot, late ranks are not named, and all else is the same.
    fn watch(&self, patience: Option<Duration>) {
        let hosts = self.gather_bytes(self.host.as_bytes());
        let hosts: Vec<String> = hosts
            .iter()
            .map(|host| String::from_utf8_lossy(host).into_owned())
            .collect();
        let one_machine = self.local.1 == self.size;
        let mut opened = None;
        if let (0, Some(patience)) = (self.rank, patience) {
            match Watch::open(patience, one_machine) {
                Ok(watch) => opened = Some(watch),
                Err(error) => tracing::warn!("ranks that are late will not be named: {error}"),
            }
        }
        let invitation = opened.as_ref().map(|watch| watch.invitation.clone());
        let invitation = self.broadcast(invitation.unwrap_or_default().into_bytes());
        if let Some(watch) = opened {
            watch.start(&self.progress, hosts);
        } else if self.rank > 0 {
            let host = if one_machine { "127.0.0.1" } else { &hosts[0] };
            let invitation = String::from_utf8_lossy(&invitation);
            watch::report(&self.progress, self.rank, host, &invitation);
        }
    }
}

/// Where each block begins, and its length, as MPI counts.
///
/// # Panics
/// From 2³¹ values: MPI's lengths of blocks are 32-bit.
fn blocks(lengths: &[usize]) -> (Vec<i32>, Vec<i32>) {
    let mut start = 0usize;
    let narrow = |count: usize| {
        i32::try_from(count).unwrap_or_else(|_| panic!("{count} values are too many for one exchange"))
    };
    lengths
        .iter()
        .map(|length| {
            let block = (narrow(*length), narrow(start));
            start += length;
            block
        })
        .unzip()
}

impl Engine for Ranks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, values: &[f32], sends: &[usize], receives: &[usize]) -> Vec<f32> {
        let mut received = vec![0.0; receives.iter().sum()];
        let ((sends, from), (receives, to)) = (blocks(sends), blocks(receives));
        self.call("exchange", |world| {
            world.alltoallv(values, &sends, &from, &mut received, &receives, &to)
        });
        received
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; own.len() * self.size];
        self.call("gather", |world| world.allgather(own, &mut all));
        all
    }

    fn gather_bytes(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let mut lengths = vec![0u64; self.size];
        self.call("gather of lengths", |world| {
            world.allgather(&[own.len() as u64], &mut lengths)
        });
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let mut all = vec![0u8; lengths.iter().sum()];
        let (counts, starts) = blocks(&lengths);
        self.call("gather of bytes", |world| {
            world.allgatherv(own, &mut all, &counts, &starts)
        });
        let mut rest = all.as_slice();
        let split = |length: &usize| {
            let (own, others) = rest.split_at(*length);
            rest = others;
            own.to_vec()
        };
        lengths.iter().map(split).collect()
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut length = [bytes.len() as u64];
        self.call("broadcast of a length", |world| world.broadcast(&mut length, 0));
        let mut bytes = bytes;
        bytes.resize(length[0] as usize, 0);
        self.call("broadcast", |world| world.broadcast(&mut bytes, 0));
        bytes
    }

    fn barrier(&self) {
        self.call("barrier", Communicator::barrier);
    }

    fn at_step(&self, step: usize) {
        self.progress.at_step(step);
    }
}
