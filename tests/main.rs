//! The one integration binary: the program from outside, the configs, and the house's own rules.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

/// Edges between crates, file headers, what may be written where.
mod architecture;
/// Every file under `configs/` is read and runs two steps.
mod configs;
/// Curation from outside: filter, kill, go on, release, take down.
mod curate;
/// The script that fetches PASS.
mod download;
/// Fine-tuning from outside: kill and resume, result, refusals.
mod finetune;
/// What a newcomer gets wrong.
mod mistakes;
/// The stages of a curation that look for people.
mod people;
/// The program's help, errors and bad input.
mod program;
/// Pretrain, kill, resume, evaluate, from outside.
mod runs;
/// Many protocols over many encoders and data sets.
mod suite;
/// Weights of other programs.
mod weights;

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

/// All files under `folder` whose name ends so, sorted.
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
