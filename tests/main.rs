//! The only integration binary: the program from outside, the configs, and the project's own rules.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

/// Alarms of a run that collapses.
mod alarms;
/// Edges between crates, file headers, restrictions on code.
mod architecture;
/// The command line beside its verbs: keys and schemas, new configs, the doctor, `-q` and `-v`.
mod command_line;
/// Every file under `configs/` is parsed and runs two steps.
mod configs;
/// Curation from outside: filter, kill, resume, release, take down.
mod curate;
/// Files that others make, damaged: what reads them.
mod damaged_files;
/// Run directories that were damaged between two processes.
mod damaged_runs;
/// Fine-tuning of detectors: kill and resume, starts, errors.
mod detectors;
/// The content of the pages: links, paths, TOML, commands.
mod docs;
/// The script that fetches PASS.
mod download;
/// Fine-tuning from outside: kill and resume, result, errors.
mod finetune;
/// Longer runs, and checkpoints by the clock.
mod lengths;
/// Typical mistakes of new users.
mod mistakes;
/// Detectors of objects, and their files.
mod objects;
/// Files of earlier versions: opened, and continued.
mod old_files;
/// The curation stages that detect people.
mod people;
/// The program's help, errors and bad input.
mod program;
/// Steps that are run again, and what gave no finite values.
mod replay;
/// Pretrain, kill, resume, evaluate, from outside.
mod runs;
/// Features in slices.
mod slices;
/// A detector and pictures for tests of fine-tuning.
mod small_detector;
/// Pretraining that starts from an encoder.
mod start;
/// Many protocols over many encoders and data sets.
mod suite;
/// Licenses and sources of dependencies, and what opens connections.
mod supply_chain;
/// Weights of other programs.
mod weights;
/// What messages name, and the cures that they give.
mod words;

use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The program, as built for this test.
fn passer() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_passer"));
    command.current_dir(root());
    command
}

/// All files under `folder` whose name has this ending, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs `job` for each item, in parallel on all cores; the first panic ends the test.
fn side_by_side<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let take = || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                while let Some(item) = items.get(take()) {
                    job(item);
                }
            });
        }
    });
}
