//! The rules of ARCHITECTURE.md that a test can check.

use crate::{files, root};
use source::{Crate, Token};
use std::collections::{BTreeMap, BTreeSet};

/// Reads the workspace's Rust files: tokens, `use` trees, modules.
mod source;

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

/// Dependencies between our crates, as drawn in ARCHITECTURE.md: the lines with arrows under this heading.
fn edges_on_the_page(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = page
        .split_once(heading)
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no `{heading}`"));
    let block = section.split("```").nth(1).unwrap();
    let names = |list: &str| -> BTreeSet<String> {
        let names = list.split(',').map(|name| name.trim().to_string());
        names
            .filter(|name| !name.is_empty() && name != "nothing")
            .collect()
    };
    let lines = block.lines().filter_map(|line| line.split_once("──►"));
    lines
        .map(|(from, to)| (from.trim().to_string(), names(to)))
        .collect()
}

/// Dependencies between our crates in a table of their manifests.
fn edges_of_the_manifests(table: &str) -> BTreeMap<String, BTreeSet<String>> {
    let manifests = manifests();
    let ours = |manifest: &toml::Table| -> BTreeSet<String> {
        let names = manifest.get(table).and_then(|table| table.as_table());
        let names = names.into_iter().flat_map(|table| table.keys().cloned());
        names.filter(|name| manifests.contains_key(name)).collect()
    };
    manifests
        .iter()
        .map(|(name, manifest)| (name.clone(), ours(manifest)))
        .collect()
}

#[test]
fn crates_depend_along_the_edges_of_the_page_and_no_others() {
    for (name, manifest) in manifests() {
        assert_eq!(
            manifest["package"]["name"].as_str(),
            Some(name.as_str()),
            "a crate is named as its folder"
        );
    }
    assert_eq!(
        edges_of_the_manifests("dependencies"),
        edges_on_the_page("### Edges between crates"),
        "left: the manifests, right: ARCHITECTURE.md"
    );
    let mut in_tests = edges_of_the_manifests("dev-dependencies");
    in_tests.retain(|_, names| !names.is_empty());
    assert_eq!(
        in_tests,
        edges_on_the_page("### Edges of tests"),
        "left: the manifests' dev-dependencies, right: ARCHITECTURE.md"
    );
}

#[test]
fn no_circle_of_modules_lies_inside_a_crate() {
    let mut circles = vec![];
    for name in manifests().keys() {
        for circle in Crate::read(&root().join("crates").join(name)).circles() {
            circles.push(format!("{name}, {circle}"));
        }
    }
    assert!(
        circles.is_empty(),
        "circles of modules:\n\n{}",
        circles.join("\n\n")
    );
}

#[test]
fn data_knows_no_burn_and_only_cli_chooses_backends() {
    for (name, manifest) in manifests() {
        let burn = manifest["dependencies"].get("burn");
        if name == "data" {
            assert!(burn.is_none(), "`data` must not depend on Burn");
        } else if name != "cli" && name != "kernels" {
            // `kernels` extends `flex` itself, so it always enables it: docs/decisions/0006-kernels.md.
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

/// The tokens of each file of a crate without tests, with the module's path.
fn code(name: &str) -> Vec<(String, Vec<Token>)> {
    let modules = Crate::read(&root().join("crates").join(name)).0.into_iter();
    modules
        .map(|(path, module)| (format!("{name}::{}", path.join("::")), module.tokens))
        .collect()
}

/// Whether these words, joined by `::`, occur anywhere.
fn names_path(tokens: &[Token], path: &str) -> bool {
    let words: Vec<&str> = path.split("::").collect();
    tokens.windows(2 * words.len() - 1).any(|window| {
        let on_path = |(place, token): (usize, &Token)| match place % 2 {
            0 => token.is(words[place / 2]),
            _ => *token == Token::Path,
        };
        window.iter().enumerate().all(on_path)
    })
}

#[test]
fn networks_and_objectives_do_no_io_and_read_no_clock() {
    for name in ["backbones", "objectives"] {
        for (module, tokens) in code(name) {
            for path in [
                "std::fs",
                "std::time",
                "std::env",
                "std::net",
                "Instant::now",
                "Tensor::random",
                "Device::seed",
            ] {
                assert!(!names_path(&tokens, path), "{module} uses `{path}`");
            }
        }
    }
}

/// SECURITY.md says what they are for.
#[test]
fn only_named_modules_open_connections() {
    let may = [
        "curation::stages::fetch",
        "curation::verbs::review",
        "cli::curate::review",
        "mpi::watch",
    ];
    let mut found = BTreeSet::<&str>::new();
    for name in manifests().keys() {
        for (module, tokens) in code(name) {
            if names_path(&tokens, "std::net") {
                let named = may.iter().find(|may| module.starts_with(**may));
                assert!(named.is_some(), "{module} uses `std::net`");
                found.extend(named);
            }
        }
    }
    assert_eq!(found.len(), may.len(), "{found:?}");
}

#[test]
fn training_and_evaluation_name_no_method() {
    let methods: BTreeSet<String> = code("objectives")
        .into_iter()
        .flat_map(|(_, tokens)| {
            let names = tokens.windows(4).filter_map(|window| match window {
                [one, two, three, Token::Word(name)]
                    if one.is("impl") && two.is("Objective") && three.is("for") =>
                {
                    Some(name.clone())
                }
                _ => None,
            });
            names.collect::<Vec<_>>()
        })
        .collect();
    assert!(
        methods.contains("Moco") && methods.contains("Dino"),
        "{methods:?}"
    );
    for name in ["training", "evaluation"] {
        for (module, tokens) in code(name) {
            let named = methods
                .iter()
                .find(|method| tokens.iter().any(|token| token.is(method)));
            assert_eq!(named, None, "{module} names a method");
        }
    }
}

#[test]
fn libraries_name_no_backend() {
    // `kernels` has its own operations for `flex`: docs/decisions/0006-kernels.md.
    let free = ["cli", "kernels"];
    for name in manifests().keys().filter(|name| !free.contains(&name.as_str())) {
        for (module, tokens) in code(name) {
            for backend in ["flex", "wgpu", "vulkan", "metal", "cuda", "rocm"] {
                assert!(
                    !names_path(&tokens, &format!("Device::{backend}")),
                    "{module} names `{backend}`"
                );
            }
            for path in [
                // It opens a GPU in builds that have one, whatever `--device` says.
                "Device::default",
                "burn::backend",
                "Dispatch",
                "FlexDevice",
                "WgpuDevice",
                "CudaDevice",
                "RocmDevice",
            ] {
                assert!(!names_path(&tokens, path), "{module} names `{path}`");
            }
        }
    }
}

#[test]
fn only_the_program_words_hints_and_commands() {
    let mut found = vec![];
    for name in manifests().keys().filter(|name| *name != "cli") {
        for (module, tokens) in code(name) {
            // A data sheet names the program that made the release.
            if module.ends_with("release::datasheet") {
                continue;
            }
            for token in tokens {
                if let Token::Text(text) = token
                    && ["hint:", "`passer ", "`--"]
                        .iter()
                        .any(|word| text.contains(word))
                {
                    found.push(format!("{module}: {text}"));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "messages of libraries that word hints or flags:\n{}",
        found.join("\n")
    );
}

#[test]
fn sql_is_in_the_ledger_alone() {
    let (mut in_ledger, mut elsewhere) = (0, vec![]);
    for (module, tokens) in code("curation") {
        let is_sql = |token: &Token| match token {
            Token::Text(text) => ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM "]
                .iter()
                .any(|verb| text.contains(verb)),
            token => token.is("rusqlite"),
        };
        let count = tokens.iter().filter(|token| is_sql(token)).count();
        match module.starts_with("curation::ledger") {
            true => in_ledger += count,
            false if count > 0 => elsewhere.push(module),
            false => {}
        }
    }
    assert!(in_ledger > 20, "SQL is no longer where this test looks for it");
    assert!(
        elsewhere.is_empty(),
        "SQL outside curation's ledger: {elsewhere:?}"
    );
}

#[test]
fn files_are_replaced_and_folders_locked_in_one_place() {
    for name in manifests().keys() {
        for (module, tokens) in code(name) {
            if module == "data::durable" || module == "data::lock" {
                continue;
            }
            let named = ["fs::rename", "try_lock"]
                .into_iter()
                .find(|path| names_path(&tokens, path));
            assert_eq!(
                named, None,
                "{module} does by itself what `data::durable` or `data::FolderLock` does"
            );
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
