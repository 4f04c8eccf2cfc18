//! What the program is made of: licenses and sources of its dependencies, and what opens connections.

use crate::root;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crates that state their license in a file alone, as read there.
const LICENSES_IN_FILES: &[(&str, &str)] = &[("cfg_block", "Apache-2.0")];

fn table(file: &str) -> toml::Table {
    std::fs::read_to_string(root().join(file))
        .unwrap()
        .parse()
        .unwrap()
}

fn text<'a>(of: &'a toml::Value, key: &str) -> &'a str {
    of[key].as_str().unwrap()
}

/// Packages as Cargo resolves them for this machine: name and license.
///
/// Without a connection, so with all features where all have been downloaded, as in CI, and otherwise with the default ones.
fn packages() -> Vec<(String, Option<String>)> {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let metadata = |features: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(root())
            .args(["metadata", "--format-version", "1"]);
        command.args(["--locked", "--offline", "--filter-platform", host]);
        command.args(features).output().unwrap()
    };
    let mut output = metadata(&["--all-features"]);
    if !output.status.success() {
        eprintln!("not all optional crates are downloaded: only those of default features are checked");
        output = metadata(&[]);
    }
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let resolved: BTreeSet<&str> = (metadata["resolve"]["nodes"].as_array().unwrap().iter())
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| resolved.contains(package["id"].as_str().unwrap()))
        .map(|package| {
            let name = package["name"].as_str().unwrap().to_owned();
            (name, package["license"].as_str().map(str::to_owned))
        })
        .collect()
}

/// An expression holds if licenses that are allowed satisfy it.
fn satisfied(expression: &str, allowed: &[spdx::Licensee]) -> bool {
    let parsed = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX).unwrap();
    parsed.evaluate(|required| allowed.iter().any(|license| license.satisfies(required)))
}

#[test]
fn every_dependency_has_a_license_that_is_allowed() {
    let deny = table("deny.toml");
    let allowed: Vec<spdx::Licensee> = (deny["licenses"]["allow"].as_array().unwrap().iter())
        .map(|license| spdx::Licensee::parse(license.as_str().unwrap()).unwrap())
        .collect();
    assert!(satisfied("MIT OR GPL-3.0-only", &allowed) && satisfied("MIT/Apache-2.0", &allowed));
    assert!(!satisfied("MIT AND GPL-3.0-only", &allowed) && !satisfied("AGPL-3.0-only", &allowed));

    let packages = packages();
    assert!(packages.len() > 200, "{}", packages.len());
    let in_files: BTreeMap<&str, &str> = LICENSES_IN_FILES.iter().copied().collect();
    let refused: Vec<String> = (packages.iter())
        .filter_map(|(name, license)| {
            let license = license.as_deref().or(in_files.get(name.as_str()).copied());
            match license {
                Some(license) if satisfied(license, &allowed) => None,
                license => Some(format!("{name}: {}", license.unwrap_or("none"))),
            }
        })
        .collect();
    assert!(
        refused.is_empty(),
        "licenses that deny.toml does not allow: {refused:?}"
    );
}

#[test]
fn dependencies_come_from_one_registry_and_only_named_crates_open_connections() {
    let lock = table("Cargo.lock");
    let packages = lock["package"].as_array().unwrap();
    let sources: BTreeSet<&str> = (packages.iter())
        .filter_map(|package| package.get("source").map(|source| source.as_str().unwrap()))
        .collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert!(
        sources.iter().all(|source| source.starts_with("registry+")),
        "{sources:?}"
    );
    // With a source and no checksum, nobody would notice other bytes.
    let unchecked = (packages.iter())
        .filter(|package| package.get("source").is_some() && package.get("checksum").is_none())
        .map(|package| text(package, "name"));
    assert_eq!(unchecked.collect::<Vec<_>>(), Vec::<&str>::new());

    let mut dependents: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let of = package.get("dependencies").and_then(|list| list.as_array());
        for dependency in of.into_iter().flatten() {
            let name = dependency.as_str().unwrap().split(' ').next().unwrap();
            dependents.entry(name).or_default().insert(text(package, "name"));
        }
    }
    let deny = table("deny.toml");
    let refused = deny["bans"]["deny"].as_array().unwrap();
    assert!(refused.iter().any(|entry| text(entry, "crate") == "ureq"));
    for entry in refused {
        let wrappers = entry.get("wrappers").and_then(|list| list.as_array());
        let wrappers: BTreeSet<&str> = (wrappers.into_iter().flatten())
            .map(|name| name.as_str().unwrap())
            .collect();
        let name = text(entry, "crate");
        let found = dependents.get(name).cloned().unwrap_or_default();
        let in_lock = packages.iter().any(|package| text(package, "name") == name);
        assert!(
            in_lock || wrappers.is_empty(),
            "{name} is gone: take it out of deny.toml"
        );
        assert_eq!(found, wrappers, "crates that depend on {name}");
    }
}
