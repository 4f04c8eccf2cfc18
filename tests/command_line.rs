//! The command line beside its verbs: keys and schemas of configs, new configs, the doctor, `-q` and `-v`.

use crate::{passer, side_by_side};
use serde_json::Value;

/// stdout and stderr of a call that must end with this status.
fn said(status: i32, arguments: &[&str]) -> (String, String) {
    let output = passer().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stdout}{stderr}"
    );
    (stdout, stderr)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&said(0, arguments).0).unwrap()
}

#[test]
fn keys_are_listed_by_kind_and_by_word() {
    let (text, _) = said(0, &["config", "keys", "pretrain", "moco.temperature"]);
    let expected = "pretrain objective.moco.temperature\n    number; above 0; required\n    Softmax temperature, above 0. \
                    Version 1: 0.07; version 2: 0.2.\n    papers: arXiv:1911.05722 (2019), arXiv:2003.04297 (2020)\n";
    assert_eq!(text, expected);
    let all = json(&["config", "keys", "--json"]);
    let kinds: std::collections::BTreeSet<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [
            "curate",
            "dataset",
            "detection",
            "evaluate",
            "finetune",
            "pretrain",
            "suite"
        ]
    );
    let of_faces = json(&["config", "keys", "stages.faces", "--json"]);
    let of_faces = of_faces.as_array().unwrap();
    assert!(
        !of_faces.is_empty() && of_faces.iter().all(|key| key["kind"] == "curate"),
        "{of_faces:?}"
    );
    let (_, error) = said(1, &["config", "keys", "pretrain", "learning_rat_per_256"]);
    assert!(
        error.contains("the nearest is `optimizer.") && error.contains("learning_rate_per_256`"),
        "{error}"
    );
}

#[test]
fn every_kind_has_a_schema_in_draft_7() {
    for kind in [
        "pretrain",
        "finetune",
        "detection",
        "evaluate",
        "suite",
        "dataset",
        "curate",
    ] {
        let schema = json(&["config", "schema", kind]);
        assert_eq!(
            schema["$schema"], "http://json-schema.org/draft-07/schema#",
            "{kind}"
        );
        assert!(!schema.to_string().contains("$ref"), "{kind}");
    }
    let (_, error) = said(2, &["config", "schema", "pretraining"]);
    assert!(error.contains("pretrain") && error.contains("curate"), "{error}");
}

/// Every method, with the networks that it is tried on here: the largest heads on one only.
#[test]
fn new_configs_of_every_method_run_two_steps() {
    let small = ["resnet18-w4-small", "vit-w48-d2-h2-p8"];
    let mut pairs = vec![];
    for method in objectives::METHODS {
        for backbone in small {
            let is_vit = backbone.starts_with("vit");
            let is_tried = match *method {
                "mae" | "ibot" => is_vit,
                "barlow_twins" | "vicreg" => !is_vit,
                _ => true,
            };
            if is_tried {
                pairs.push((method.replace('_', "-"), backbone));
            }
        }
    }
    assert_eq!(pairs.len(), 2 * objectives::METHODS.len() - 4);
    let folder = tempfile::tempdir().unwrap();
    side_by_side(&pairs, |(method, backbone)| {
        let file = folder.path().join(format!("{method}-{backbone}.toml"));
        let file = file.to_str().unwrap();
        let new = [
            "config",
            "new",
            method,
            backbone,
            "--images",
            "800",
            "--image-px",
            "32",
            "--out",
            file,
        ];
        let (made, next) = said(0, &new);
        assert_eq!(made.trim(), file);
        assert!(next.contains("next: passer pretrain"), "{next}");
        let (passed, warned) = said(0, &["pretrain", file, "--smoke", "--device", "flex"]);
        assert!(passed.starts_with("smoke test passed: 2 steps"), "{passed}");
        assert!(!warned.contains("WARN"), "{warned}");
        // What is there stays.
        let before = std::fs::read_to_string(file).unwrap();
        let (_, error) = said(1, &new);
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), before);
    });
}

#[test]
fn new_configs_count_the_data_that_they_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = crate::runs::photos(folder.path());
    let (text, _) = said(
        0,
        &[
            "config",
            "new",
            "moco-v2",
            "resnet18",
            "--data",
            data.to_str().unwrap(),
        ],
    );
    let count = data::Dataset::open(data.to_str().unwrap()).unwrap().len();
    assert!(
        text.contains(&format!("for {count} images of one's own")),
        "{text}"
    );
    let (_, usage) = said(2, &["config", "new", "moco-v2", "resnet18"]);
    assert!(usage.contains("--images"), "{usage}");
}

#[test]
fn the_doctor_trains_two_steps_on_the_cpu() {
    let report = json(&["doctor", "--json"]);
    let findings = report["findings"].as_array().unwrap();
    let of = |subject: &str| {
        findings
            .iter()
            .find(|finding| finding["subject"] == subject)
            .unwrap()
    };
    assert_eq!(of("flex:0")["state"], "ok");
    assert!(of("flex:0")["text"].as_str().unwrap().contains("two steps in"));
    for subject in ["program", "cpu", "threads", "memory", "disk of runs", "clock"] {
        assert_ne!(of(subject)["state"], "problem", "{report}");
    }
    // What must be mended is status 1, with the cure.
    #[cfg(target_os = "linux")]
    {
        let (text, _) = said(1, &["doctor", "--no-training", "--runs", "/proc/no-such"]);
        assert!(
            text.contains("problem  folder of runs: `/proc` cannot be written to"),
            "{text}"
        );
        assert!(text.contains("name another folder with `--runs`"), "{text}");
    }
}

#[test]
fn quiet_is_silent_and_verbose_names_checkpoints() {
    let smoke = ["pretrain", "quickstart", "--smoke", "--device", "flex"];
    let (result, notes) = said(0, &[&smoke[..], &["-q"]].concat());
    assert!(
        result.starts_with("smoke test passed") && notes.is_empty(),
        "{notes}"
    );
    let (_, notes) = said(0, &smoke);
    assert!(
        notes.contains("pretraining resnet18") && !notes.contains("checkpoint `"),
        "{notes}"
    );
    let (_, notes) = said(0, &[&["-v"][..], &smoke[..]].concat());
    assert!(notes.contains("checkpoint `"), "{notes}");
    // Errors are whole.
    let (_, error) = said(1, &["pretrain", "no-such", "--smoke", "--quiet"]);
    assert!(error.contains("error: ") && error.contains("hint: "), "{error}");
    said(2, &["config", "list", "-q", "-v"]);
}

#[test]
fn a_smoke_test_refuses_what_it_would_ignore() {
    let (_, error) = said(2, &["pretrain", "quickstart", "--smoke", "--on-event", "true"]);
    assert!(error.contains("--on-event"), "{error}");
    let finetune = [
        "evaluate",
        "finetune",
        "finetune-resnet18-cifar10",
        "--smoke",
        "--from-scratch",
    ];
    for ignored in [&["--on-event", "true"][..], &["--json"]] {
        let (_, error) = said(2, &[&finetune[..], ignored].concat());
        assert!(error.contains(ignored[0]), "{error}");
    }
}
