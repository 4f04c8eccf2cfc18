//! Every config in the repository is read strictly and runs.

use crate::{files, passer, root, side_by_side};
use evaluation::finetune::Recipe;
use predicates::prelude::PredicateBooleanExt;
use std::path::Path;

#[test]
fn every_pretraining_config_runs_two_steps() {
    let configs = files(&root().join("configs/pretrain"), ".toml");
    assert!(configs.len() >= 5);
    side_by_side(&configs, |config| {
        let table = with_header(config);
        let whole: training::Config<objectives::ObjectiveConfig> = table.clone().try_into().unwrap();
        // It has the epochs that its own keys need, and a smoke test has those that are left.
        whole
            .validate_length()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        passer()
            .args(["pretrain", "--smoke", "--device", "flex"])
            .args(narrow(&table).iter().flat_map(|edit| ["--set", edit]))
            .arg(config)
            .assert()
            .success()
            .stderr(predicates::str::contains("WARN").not())
            .stdout(predicates::str::starts_with(
                "smoke test passed: 2 steps of 4 synthetic images",
            ));
    });
}

/// A config whose header must state its source, its command, and the expected result.
fn with_header(config: &Path) -> toml::Table {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.starts_with("# "), "{} has no header", config.display());
    for part in ["# Papers:", "# Run: ", "# Expect:"] {
        assert!(
            text.contains(part),
            "{}: the header lacks `{part}`",
            config.display()
        );
    }
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", config.display()))
}

/// Edits that make a pretraining config narrow and small, so that it runs in seconds; everything else stays
/// unchanged.
fn narrow(table: &toml::Table) -> Vec<String> {
    // Local views stay smaller than global ones.
    let size = |group: &toml::Value| group["transforms"][0]["random_resized_crop"]["size_px"].clone();
    let groups = table["views"].as_array().unwrap();
    let mut edits: Vec<String> = groups
        .iter()
        .map(|group| if size(group) == size(&groups[0]) { 32 } else { 16 })
        .enumerate()
        .map(|(group, px)| format!("views.{group}.transforms.0.random_resized_crop.size_px={px}"))
        .collect();
    // Heads of hundreds of millions of weights test no more than small ones here.
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
    edits
}

#[test]
fn every_evaluation_config_is_read() {
    let configs = files(&root().join("configs/evaluate"), ".toml");
    assert!(configs.len() >= 4);
    for config in configs {
        if fine_tunes(&config) || detects(&config) {
            continue;
        }
        let text = std::fs::read_to_string(&config).unwrap();
        let parsed: evaluation::Config =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        parsed
            .validate()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    }
}

/// The recipes of papers name the ranks that they were designed for, which must divide the batch and suit its statistics.
#[test]
fn recipes_name_their_ranks() {
    let recipes = files(&root().join("configs/pretrain"), ".toml");
    let of_papers = recipes.iter().filter(|config| {
        let name = config.file_name().unwrap().to_string_lossy();
        name.contains("imagenet") || name.contains("pass")
    });
    let mut count = 0;
    for config in of_papers {
        let text = std::fs::read_to_string(config).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("# Ranks:  "));
        let line = line.unwrap_or_else(|| panic!("{}: no `# Ranks:`", config.display()));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [ranks, "of", images, "images,", ..] = words.as_slice() else {
            panic!("{}: {line}", config.display());
        };
        let (ranks, images): (usize, usize) = (ranks.parse().unwrap(), images.parse().unwrap());
        let parsed: training::Config<objectives::ObjectiveConfig> = toml::from_str(&text).unwrap();
        assert_eq!(ranks * images, parsed.data.batch_images, "{}", config.display());
        if let Some(group) = parsed.training.batch_norm_images {
            let fits = images.is_multiple_of(group) || group.is_multiple_of(images);
            assert!(fits, "{}: statistics over {group} images", config.display());
        }
        count += 1;
    }
    assert_eq!(count, 25);
}

/// Names identify configs of `passer evaluate finetune`.
fn fine_tunes(config: &Path) -> bool {
    let name = config.file_name().unwrap().to_string_lossy();
    name.starts_with("finetune-") || name.starts_with("semi-supervised-")
}

/// Names identify configs of detectors.
fn detects(config: &Path) -> bool {
    config
        .file_name()
        .unwrap()
        .to_string_lossy()
        .starts_with("detection-")
}

#[test]
fn every_detection_config_runs_a_few_steps_from_scratch() {
    let configs = files(&root().join("configs/evaluate"), ".toml");
    let configs: Vec<_> = configs.iter().filter(|config| detects(config)).collect();
    assert_eq!(configs.len(), 9);
    side_by_side(&configs, |config| {
        let whole: evaluation::finetune::detection::Config = with_header(config).try_into().unwrap();
        assert_eq!(whole.validate(), Ok(()), "{}", config.display());
        assert_eq!(whole.validate_length(), Ok(()), "{}", config.display());
        let narrow: &[&str] = match whole.detection.network.resnet() {
            Some(_) => &["--set", "detection.network.backbone.width=8"],
            None => &[
                "--set",
                "detection.network.backbone.vit.width=48",
                "--set",
                "detection.network.backbone.vit.depth=2",
                "--set",
                "detection.network.backbone.vit.heads=3",
            ],
        };
        passer()
            .args([
                "evaluate",
                "finetune",
                "--smoke",
                "--from-scratch",
                "--device",
                "flex",
            ])
            .args(narrow)
            .arg(config)
            .assert()
            .success()
            .stdout(predicates::str::starts_with("smoke test passed: "));
    });
}

#[test]
fn every_fine_tuning_config_runs_a_few_steps_from_scratch() {
    let configs = files(&root().join("configs/evaluate"), ".toml");
    let configs: Vec<_> = configs.iter().filter(|config| fine_tunes(config)).collect();
    assert!(configs.len() >= 5);
    let folder = tempfile::tempdir().unwrap();
    side_by_side(&configs, |config| {
        let mut table = with_header(config);
        // Unchanged, before it is made small.
        let whole: evaluation::finetune::Config = table
            .clone()
            .try_into()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        whole
            .validate()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        // Narrow and small, so that it runs in seconds; a config for any encoder gets a network of its
        // family.
        let name = config.file_name().unwrap().to_string_lossy().into_owned();
        let backbone = if name.contains("vit") {
            r#"vit = { width = 48, depth = 2, heads = 3, patch_px = 8, image_px = 32, position = "learned", interpolation = "antialiased", registers = 0, drop_path = 0.0, pooling = "class_token", initialization = "mae" }"#
        } else {
            r#"resnet = { depth = 18, width = 4, stem = "small" }"#
        };
        table.insert("backbone".into(), backbone.parse::<toml::Table>().unwrap().into());
        let small = folder.path().join(&name);
        std::fs::write(&small, toml::to_string(&table).unwrap()).unwrap();
        passer()
            .args(["evaluate", "finetune", "--smoke", "--from-scratch", "--device", "flex"])
            .args([
                "--set",
                "views.0.transforms.0.random_resized_crop.size_px=32",
                "--set",
                r#"objective.test_transforms=[{ resize_exact = { width_px = 32, height_px = 32, filter = "bilinear" } }]"#,
            ])
            .arg(&small)
            .assert()
            .success()
            .stdout(predicates::str::starts_with("smoke test passed: "));
    });
}

#[test]
fn every_description_of_a_data_set_and_every_suite_is_read() {
    let descriptions = files(&root().join("configs/datasets"), ".toml");
    assert!(descriptions.len() >= 10);
    for path in descriptions {
        let spec = path.display().to_string();
        let about = data::Dataset::about(&spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
        assert!(
            about.name.is_some() && about.license.is_some() && !about.downloads.is_empty(),
            "{spec}"
        );
        if std::env::var_os("PASSER_DATA").is_some() {
            // The data may exist here.
            continue;
        }
        for split in &about.splits {
            // The data are missing here, and that is the only allowed fault.
            let error = data::Dataset::open(&format!("{spec}#{split}"))
                .unwrap_err()
                .to_string();
            assert!(
                [
                    "`PASSER_DATA`, which is not set",
                    "not found",
                    "is not a folder",
                    "cannot "
                ]
                .iter()
                .any(|part| error.contains(part)),
                "{spec}#{split}: {error}"
            );
        }
    }
    for path in files(&root().join("configs/suites"), ".toml") {
        let suite: evaluation::suite::Suite =
            toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        suite.validate().unwrap();
        let folder = path.parent().unwrap();
        let specs = suite
            .data_sets
            .iter()
            .flat_map(|data_set| [&data_set.train, &data_set.test]);
        let configs = suite.evaluations.iter().map(|entry| &entry.config);
        for file in specs.chain(configs) {
            let file = folder.join(file.split('#').next().unwrap());
            assert!(file.is_file(), "{}: no {}", path.display(), file.display());
        }
    }
}

#[test]
fn every_curation_config_is_read() {
    let configs = files(&root().join("configs/curate"), ".toml");
    assert!(configs.len() >= 3);
    for config in configs {
        with_header(&config);
        let text = std::fs::read_to_string(&config).unwrap();
        let parsed: curation::Config =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        parsed
            .validate()
            .unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        let metadata = parsed.release.metadata;
        assert!(metadata.is_some(), "{}: no `metadata`", config.display());
    }
}

#[test]
fn the_example_of_a_sidecar_has_known_keys_and_an_accepted_license() {
    let text = std::fs::read_to_string(root().join("configs/curate/own-photos.sidecar.json")).unwrap();
    let metadata: data::Metadata = serde_json::from_str(&text).unwrap();
    let other: Vec<&String> = metadata.other.keys().collect();
    assert_eq!(other, ["page_url", "title"]);
    assert_eq!(metadata.license.as_deref(), Some("CC BY 4.0"));
}

#[test]
fn pass_with_its_own_person_detector_is_pass_with_another_one() {
    let read = |name: &str| -> curation::Config {
        let path = root().join("configs/curate").join(name);
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let (plain, own) = (read("pass.toml"), read("pass-cascade.toml"));
    assert_eq!(plain.source, own.source);
    assert_eq!(plain.stages.len(), own.stages.len());
    for (plain, own) in plain.stages.iter().zip(&own.stages) {
        assert_eq!(plain.name(), own.name());
        assert_eq!(plain == own, plain.name() != "persons");
    }
}

#[test]
fn the_reviewed_pass_is_pass_with_a_review_behind_it() {
    let read = |name: &str| -> curation::Config {
        let path = root().join("configs/curate").join(name);
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let (plain, mut reviewed) = (read("pass.toml"), read("pass-reviewed.toml"));
    assert_eq!(reviewed.stages.pop().unwrap().name(), "review");
    assert_eq!((plain.source, plain.stages), (reviewed.source, reviewed.stages));
}
