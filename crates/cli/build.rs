//! Passes the commit to the program at build time, for `run.json` and `result.json`, and the shipped configs, so that the program
//! needs no clone beside it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=PASSER_COMMIT={commit}");
    // Rerun when HEAD moves; in a source archive without .git the commit stays unknown.
    if let Some(folder) = git(&["rev-parse", "--absolute-git-dir"]) {
        println!("cargo::rerun-if-changed={folder}/HEAD");
        println!("cargo::rerun-if-changed={folder}/logs/HEAD");
    }
    println!("cargo::rerun-if-changed=build.rs");
    shipped_configs();
}

/// Writes `shipped.rs`: the path of each file under `configs/` and its text, sorted.
fn shipped_configs() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let configs = here.join("../../configs").canonicalize().expect("configs/");
    let mut files = vec![];
    collect(&configs, &mut files);
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&configs).expect("below configs/");
        let name = name.to_str().expect("UTF-8").replace('\\', "/");
        writeln!(list, "    ({name:?}, include_str!({file:?})),").expect("in memory");
    }
    list.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    std::fs::write(out.join("shipped.rs"), list).expect("a writable OUT_DIR");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in std::fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|ending| ending == "toml" || ending == "json")
        {
            files.push(path);
        }
    }
}
