//! Every config in the repository is read strictly and runs.

use crate::{files, passer, root};

#[test]
fn every_pretraining_config_runs_two_steps() {
    let configs = files(&root().join("configs/pretrain"), ".toml");
    assert!(configs.len() >= 5);
    for config in configs {
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.starts_with("# "), "{} has no header", config.display());
        for part in ["# Papers:", "# Run: ", "# Expect:"] {
            assert!(
                text.contains(part),
                "{}: the header lacks `{part}`",
                config.display()
            );
        }
        // Narrow and small, so that it is a matter of seconds; everything else is the config's own.
        let table: toml::Table = text.parse().unwrap();
        // Local views stay smaller than global ones.
        let size = |group: &toml::Value| group["transforms"][0]["random_resized_crop"]["size_px"].clone();
        let groups = table["views"].as_array().unwrap();
        let mut edits: Vec<String> = groups
            .iter()
            .map(|group| if size(group) == size(&groups[0]) { 32 } else { 16 })
            .enumerate()
            .map(|(group, px)| format!("views.{group}.transforms.0.random_resized_crop.size_px={px}"))
            .collect();
        // Heads of hundreds of millions of weights say no more than small ones here.
        let (method, objective) = table["objective"].as_table().unwrap().iter().next().unwrap();
        let objective = objective.as_table().unwrap();
        let tables = objective.iter().filter_map(|(key, value)| {
            let table = value.as_table()?;
            Some((format!("objective.{method}.{key}"), table))
        });
        for (path, table) in tables.chain([(format!("objective.{method}"), objective)]) {
            for (key, value) in table {
                let large = key.ends_with("_width") || key == "prototypes";
                if large && value.as_integer().is_some_and(|width| width > 1024) {
                    edits.push(format!("{path}.{key}=256"));
                }
            }
        }
        let backbone = table["backbone"].as_table().unwrap();
        let small: &[&str] = if backbone.contains_key("vit") {
            &["vit.width=48", "vit.depth=2", "vit.patch_px=8", "vit.image_px=32"]
        } else {
            &["resnet.width=4"]
        };
        edits.extend(small.iter().map(|edit| format!("backbone.{edit}")));
        passer()
            .args(["pretrain", "--smoke", "--device", "flex"])
            .args(edits.iter().flat_map(|edit| ["--set", edit]))
            .arg(&config)
            .assert()
            .success()
            .stdout(predicates::str::starts_with(
                "smoke test passed: 2 steps of 4 synthetic images",
            ));
    }
}

#[test]
fn every_evaluation_config_is_read() {
    let configs = files(&root().join("configs/evaluate"), ".toml");
    assert!(configs.len() >= 4);
    for config in configs {
        let text = std::fs::read_to_string(&config).unwrap();
        let parsed: evaluation::Config =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        parsed
            .validate()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    }
}

#[test]
fn every_curation_config_is_read() {
    let configs = files(&root().join("configs/curate"), ".toml");
    assert!(configs.len() >= 3);
    for config in configs {
        let text = std::fs::read_to_string(&config).unwrap();
        for part in ["# Papers:", "# Run: ", "# Expect:"] {
            assert!(
                text.contains(part),
                "{}: the header lacks `{part}`",
                config.display()
            );
        }
        let parsed: curation::Config =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        parsed
            .validate()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    }
}
