//! `-q` and `-v`: how much the program says of its work, on standard error.

use crate::{output, progress};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(clap::Args)]
pub(crate) struct Loudness {
    /// Print warnings and errors alone: no progress, no notes
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log what the program does; twice: every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What is always logged with less. Burn warns of each candidate of the tuner that fails; a result that failed is an error where it
/// is read.
const BURN: &str = "cubecl_common::device=error,cubecl_runtime=error,cubecl_server=error";

/// The crates whose log is this program's own.
const OURS: [&str; 10] = [
    "cli",
    "data",
    "backbones",
    "kernels",
    "weights",
    "training",
    "objectives",
    "evaluation",
    "curation",
    "detection",
];

impl Loudness {
    /// Starts the log. The variable `PASSER_LOG` has the last word on what is in it.
    pub(crate) fn begin(&self) {
        output::set_quiet(self.quiet);
        let filter = EnvFilter::try_from_env("PASSER_LOG").unwrap_or_else(|_| self.filter().into());
        tracing_subscriber::fmt()
            .with_writer(progress::LogWriter::default)
            .with_ansi(std::io::stderr().is_terminal())
            .with_env_filter(filter)
            .without_time()
            .with_target(self.verbose > 0)
            .init();
    }

    fn filter(&self) -> String {
        let (all, ours) = match self.verbose {
            0 => return format!("warn,{BURN}"),
            1 => ("warn", "debug"),
            _ => ("info", "trace"),
        };
        let ours: Vec<String> = OURS.iter().map(|name| format!("{name}={ours}")).collect();
        format!("{all},{BURN},{}", ours.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_valid_and_name_every_crate() {
        for verbose in [0, 1, 2, 3] {
            let loudness = Loudness {
                quiet: false,
                verbose,
            };
            assert!(
                loudness.filter().parse::<EnvFilter>().is_ok(),
                "{}",
                loudness.filter()
            );
        }
        // All but `mpi` and `allocator`, which log nothing.
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let known = OURS
            .iter()
            .filter(|name| crates.join(name).join("Cargo.toml").exists());
        assert_eq!(known.count(), OURS.len());
    }
}
