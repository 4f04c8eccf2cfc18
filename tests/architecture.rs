//! The rules of ARCHITECTURE.md that a test can hold.

use crate::{files, root};
use std::collections::BTreeMap;

/// Which crate may depend on which of ours: complete.
const EDGES: [(&str, &[&str]); 9] = [
    ("data", &[]),
    ("kernels", &[]),
    ("backbones", &["kernels"]),
    ("detection", &["backbones"]),
    ("training", &["kernels", "backbones", "data"]),
    ("objectives", &["training", "backbones"]),
    ("evaluation", &["training", "data", "backbones"]),
    ("curation", &["data", "backbones"]),
    (
        "cli",
        &[
            "kernels",
            "data",
            "backbones",
            "training",
            "objectives",
            "evaluation",
            "curation",
            "detection",
        ],
    ),
];

fn manifests() -> BTreeMap<String, toml::Table> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        found.insert(
            folder.file_name().unwrap().to_string_lossy().into_owned(),
            text.parse().unwrap(),
        );
    }
    found
}

#[test]
fn crates_depend_only_along_the_allowed_edges() {
    let manifests = manifests();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    for (name, manifest) in &manifests {
        let edges = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("crate `{name}` is not in the list of edges"));
        assert_eq!(
            manifest["package"]["name"].as_str(),
            Some(name.as_str()),
            "a crate is named as its folder"
        );
        for dependency in manifest["dependencies"].as_table().unwrap().keys() {
            let ours = manifests.contains_key(dependency);
            assert!(
                !ours || edges.contains(&dependency.as_str()),
                "`{name}` may not depend on `{dependency}`"
            );
        }
    }
    assert_eq!(manifests.len(), EDGES.len());
}

#[test]
fn data_knows_no_burn_and_only_cli_chooses_backends() {
    for (name, manifest) in manifests() {
        let burn = manifest["dependencies"].get("burn");
        if name == "data" {
            assert!(burn.is_none(), "`data` must not depend on Burn");
        } else if name != "cli" && name != "kernels" {
            // `kernels` extends `flex` itself, so it always has it: docs/decisions/0006-kernels.md.
            let features = burn.and_then(|burn| burn.get("features"));
            assert!(
                features.is_none(),
                "`{name}` enables features of Burn outside its tests"
            );
        }
    }
}

#[test]
fn every_file_opens_with_its_job_and_holds_one_idea() {
    for folder in ["crates", "tests"] {
        for path in files(&root().join(folder), ".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} does not open with `//!`",
                path.display()
            );
            assert!(
                text.lines().count() <= 700,
                "{} is over 700 lines",
                path.display()
            );
        }
    }
}

#[test]
fn networks_and_objectives_do_no_io_and_read_no_clock() {
    for name in ["backbones", "objectives"] {
        for path in files(&root().join("crates").join(name).join("src"), ".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            if ["conformance.rs", "parity.rs", "tests.rs"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                continue;
            }
            for word in [
                "std::fs",
                "std::time",
                "Instant::now",
                "std::env",
                "Tensor::random",
                ".seed(",
            ] {
                assert!(!code.contains(word), "{} uses `{word}`", path.display());
            }
        }
    }
}

#[test]
fn evaluation_names_no_method_and_libraries_name_no_backend() {
    for path in files(&root().join("crates/evaluation/src"), ".rs") {
        // But for a protocol that is called after its paper.
        let text = std::fs::read_to_string(&path).unwrap().replace("LinearSwav", "");
        for word in ["objectives::", "Swav", "Byol"] {
            assert!(!text.contains(word), "{} names `{word}`", path.display());
        }
    }
}

#[test]
fn the_readme_names_every_crate_and_command() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for name in manifests().keys() {
        assert!(
            readme.contains(&format!("{name}/")),
            "README.md does not name `crates/{name}/`"
        );
    }
    for command in ["cargo run --release -- quickstart", "./scripts/check.sh"] {
        assert!(readme.contains(command), "README.md does not say `{command}`");
    }
    for feature in ["flex", "wgpu", "vulkan", "metal", "cuda", "rocm"] {
        assert!(
            readme.contains(feature),
            "README.md does not name the feature `{feature}`"
        );
    }
}
