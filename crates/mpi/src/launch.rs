//! What a launcher says in the environment of a process that it started.

/// The ranks of a launcher, from its environment variables.
///
/// MPI alone decides rank and size. These numbers find a process that a launcher started as one of several and that MPI
/// takes for a world of its own: a program without MPI, or one that links another MPI than the launcher's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The variable that says so.
    pub variable: &'static str,
    /// The number of processes, above 1.
    pub size: usize,
    /// This process among them, from 0, if the launcher says so.
    pub rank: Option<usize>,
}

/// Sizes of worlds and ranks by launcher: Open MPI's mpirun, MPICH's and Intel's mpiexec and `srun --mpi=pmi2`, MVAPICH, a
/// step of Slurm, torchrun. `SLURM_NTASKS` is also set for a batch script itself.
const VARIABLES: [(&str, &str); 5] = [
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("WORLD_SIZE", "RANK"),
];

impl Launch {
    /// What the environment says, if it says more than one process.
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| -> Option<usize> { variable(name)?.trim().parse().ok() };
        VARIABLES.into_iter().find_map(|(name, rank)| {
            let size = number(name)?;
            (size > 1).then(|| Self {
                variable: name,
                size,
                rank: number(rank),
            })
        })
    }

    /// Whether it is a launcher that starts no MPI ranks: torchrun and accelerate set `WORLD_SIZE` alone.
    pub fn is_torchrun(&self) -> bool {
        self.variable == "WORLD_SIZE"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_recognized() {
        let of = |set: &[(&str, &str)]| {
            Launch::of(|name| {
                set.iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.to_string())
            })
        };
        let open_mpi = of(&[
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("WORLD_SIZE", "8"),
        ]);
        let open_mpi = open_mpi.unwrap();
        assert_eq!((open_mpi.size, open_mpi.rank), (4, Some(3)));
        assert!(!open_mpi.is_torchrun());
        let torchrun = of(&[("WORLD_SIZE", "2")]).unwrap();
        assert!(torchrun.is_torchrun() && torchrun.rank.is_none());
        // One process needs no other, and a batch script of Slurm is none of its tasks.
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "1"), ("PMI_SIZE", "x")]), None);
        assert_eq!(of(&[("SLURM_NTASKS", "8")]), None);
    }
}
