//! The ranks of a run: joining those that a launcher started, and ending together.

use crate::failure::{Failure, Interrupted, name_process};
use crate::output::shell_word;
use crate::progress;
use backbones::Replicas;
use kernels::collective::Engine;
use mpi::{Launch, World};
use std::sync::Arc;
use std::time::Duration;

/// The flags of verbs that run on several ranks.
#[derive(clap::Args)]
pub(crate) struct RankArguments {
    /// Under mpirun or srun: name the ranks that others have waited for this many seconds, and again at growing gaps; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    late_after_s: u64,
}

impl RankArguments {
    fn patience(&self) -> Option<Duration> {
        (self.late_after_s > 0).then(|| Duration::from_secs(self.late_after_s))
    }
}

/// This process among the devices that share a run.
pub(crate) struct Ranks {
    world: Option<World>,
}

impl Ranks {
    /// One process.
    pub(crate) fn single() -> Self {
        Self { world: None }
    }

    /// Joins the processes that a launcher started; one process, if none did.
    ///
    /// # Errors
    /// A launcher that started several processes which cannot find each other: each would train alone.
    pub(crate) fn join(arguments: &RankArguments) -> anyhow::Result<Self> {
        let Some(launch) = Launch::of_environment() else {
            return Ok(Self::single());
        };
        let world = World::join(arguments.patience()).map_err(|error| cannot_join(&launch, &error))?;
        let (rank, size) = (world.engine().rank(), world.engine().size());
        if size != launch.size && launch.is_torchrun() {
            return Err(cannot_join(&launch, &mpi::Error::NotBuilt).into());
        }
        if size != launch.size {
            return Err(Failure::new(format!(
                "the launcher started {} processes ({}), and MPI found {size}: each would train alone",
                launch.size, launch.variable
            ))
            .hint(format!(
                "this program is linked to {}: start it with that library's own mpirun or mpiexec, under Slurm with \
                 `srun --mpi=pmix` (docs/distributed.md)",
                mpi::library().unwrap_or_else(|| "another MPI library".into())
            ))
            .into());
        }
        name_process(format!("rank {rank} on {}", world.host()));
        let ranks = Self { world: Some(world) };
        ranks.warn_of_binding();
        // One log, not one of each rank.
        if rank > 0 && std::env::var_os("PASSER_LOG").is_none() {
            progress::mute_log();
        }
        Ok(ranks)
    }

    /// What the loop and the methods need to know.
    pub(crate) fn replicas(&self) -> Replicas {
        match &self.world {
            Some(world) => Replicas::of(world.engine()),
            None => Replicas::single(),
        }
    }

    /// The collectives, if there are several ranks.
    pub(crate) fn engine(&self) -> Option<Arc<dyn Engine>> {
        self.world.as_ref().map(World::engine)
    }

    /// Whether this process shows progress and prints results.
    pub(crate) fn is_first(&self) -> bool {
        self.engine().is_none_or(|engine| engine.rank() == 0)
    }

    /// `, on 4 ranks with 64 of the 256 images of a batch each`; empty for one process.
    pub(crate) fn of_each(&self, batch_images: usize) -> String {
        match self.replicas().count() {
            1 => String::new(),
            count => format!(
                ", on {count} ranks with {} of the {batch_images} images of a batch each",
                batch_images / count
            ),
        }
    }

    /// This process among those of its machine, and their number.
    pub(crate) fn local(&self) -> (usize, usize) {
        self.world.as_ref().map_or((0, 1), World::local)
    }

    /// Divides the machine's cores among its ranks, for work on the CPU; once, before anything computes.
    pub(crate) fn divide_cores(&self) {
        let (_, ranks) = self.local();
        if ranks == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
            return;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads((cores / ranks).max(1));
        if let Err(error) = pool.build_global() {
            tracing::warn!("the cores could not be divided among the {ranks} ranks: {error}");
        }
    }

    /// The outcome of work that each rank did alone, before the first step: all go on, or all end, and an error that is the
    /// same on several ranks is printed once.
    pub(crate) fn agree<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        training::agree(&self.replicas(), result)
    }

    /// Gives an error if two ranks of a machine hold one GPU. `address` is this rank's, `None` for the CPU.
    pub(crate) fn check_devices(&self, address: Option<String>) -> anyhow::Result<()> {
        let Some(world) = &self.world else {
            return Ok(());
        };
        let own = address.map_or(String::new(), |address| format!("{} {address}", world.host()));
        let all = world.engine().gather_bytes(own.as_bytes());
        let rank = world.engine().rank();
        let twin = (0..all.len()).find(|other| *other != rank && !own.is_empty() && all[*other] == all[rank]);
        let checked = match twin {
            Some(other) => Err(Failure::new(format!(
                "ranks {} and {} hold one device, {own}",
                rank.min(other),
                rank.max(other)
            ))
            .hint("start as many ranks on a machine as it has devices, and let `--device cuda` choose: rank n takes the n-th")
            .into()),
            None => Ok(()),
        };
        self.agree(checked)
    }

    /// Ends MPI in good order after work that succeeded, or that was interrupted on all ranks alike. After any other error
    /// the others may wait in the middle of a step: [`abort`] ends them.
    pub(crate) fn leave(self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        let in_order = result
            .as_ref()
            .err()
            .is_none_or(|error| error.is::<Interrupted>());
        if let (Some(world), true) = (self.world, in_order) {
            world.leave();
        }
        result
    }

    /// `mpirun` binds each process to one core where it starts one or two: the loader then starves.
    fn warn_of_binding(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if cores == 1 && self.local().0 == 0 && machine_cores() > self.local().1 {
            tracing::warn!(
                "each rank may use one core only, of {}: with Open MPI, start with `mpirun --bind-to none`",
                machine_cores()
            );
        }
    }
}

/// All cores of the machine, those that this process may not use too; 1 where the system does not report it.
fn machine_cores() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("processor"))
        .count()
        .max(1)
}

fn cannot_join(launch: &Launch, error: &mpi::Error) -> Failure {
    let started = format!(
        "a launcher started {} processes of this program ({})",
        launch.size, launch.variable
    );
    if launch.is_torchrun() {
        return Failure::new(format!("{started}, and torchrun starts no ranks of MPI: each would train alone"))
            .hint("start it with `mpirun -n N --bind-to none passer …` or `srun --mpi=pmix passer …` (docs/distributed.md)");
    }
    match error {
        mpi::Error::NotBuilt => Failure::new(format!("{started}, and this build has no MPI: each would train alone"))
            .hint("build with `cargo build --release --features mpi` on this machine, which needs MPI's headers (docs/distributed.md)"),
        other => Failure::new(format!("{started}, and they cannot find each other: {other}"))
            .hint("start it with the mpirun or mpiexec of the MPI library that it was built with (docs/distributed.md)"),
    }
}

/// Whether this process is the first one of those that a launcher started, or the only one.
pub(crate) fn launched_first() -> bool {
    let rank = Launch::of_environment().and_then(|launch| launch.rank);
    rank.is_none_or(|rank| rank == 0)
}

/// An error that all processes of a launcher meet alike: the first one reports it.
pub(crate) fn said_once(failure: Failure) -> anyhow::Error {
    match launched_first() {
        true => failure.into(),
        false => training::Error::OtherRank { rank: 0 }.into(),
    }
}

/// Gives an error if a launcher started several processes of a verb that works in one.
pub(crate) fn refuse(verb: &str) -> anyhow::Result<()> {
    let Some(launch) = Launch::of_environment() else {
        return Ok(());
    };
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .map(|argument| shell_word(&argument))
        .collect();
    let failure = Failure::new(format!(
        "`{verb}` works in one process, and a launcher started {} ({})",
        launch.size, launch.variable
    ));
    Err(said_once(failure.hint(format!(
        "type it without the launcher: passer {}",
        arguments.join(" ")
    ))))
}

/// Ends all ranks, if this process is one of several.
pub(crate) fn abort() {
    mpi::abort();
}
