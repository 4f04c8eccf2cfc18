//! Fine-tuning from outside: the content of a run directory, kills without effect on the result, errors.

use crate::runs::{kill_at_random, lines, metrics, other_photos, photos, refusal, run, tensors};
use crate::{passer, root};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The CIFAR-10 recipe shrunk to 18 steps of a tiny network, with all random, averaging and selection
/// features on.
const SHRUNK: [&str; 13] = [
    "data.batch_images=8",
    "training.epochs=6",
    "training.log_every_steps=2",
    "backbone.resnet.width=4",
    "views.0.transforms.0.random_resized_crop.size_px=16",
    "objective.test_transforms.0.resize_exact.width_px=16",
    "objective.test_transforms.0.resize_exact.height_px=16",
    "objective.label_smoothing=0.1",
    "objective.mixing={ mixup_alpha = 0.8, cutmix_alpha = 1.0, probability = 1.0, switch_probability = 0.5, images = 4 }",
    "objective.average={ decay = 0.5 }",
    "objective.validation={ fraction = 0.2, seed = 0 }",
    "objective.keep=best_on_validation",
    "objective.head_learning_rate_factor=2.0",
];

fn finetune(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .args([
            "evaluate",
            "finetune",
            "configs/evaluate/finetune-resnet18-cifar10.toml",
        ])
        .args(["--device", "flex"]);
    let test = other_photos(data.parent().unwrap());
    for (name, path) in [("--train", data), ("--test", &test), ("--out", out)] {
        command.arg(name).arg(path);
    }
    for set in SHRUNK {
        command.args(["--set", set]);
    }
    if !more.contains(&"--encoder") {
        command.arg("--from-scratch");
    }
    command.args(more);
    command
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn results(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("result.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn kills_change_neither_weights_nor_curve_nor_score() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let whole = folder.path().join("whole");
    let started = Instant::now();
    run(finetune(&photos, &whole, &[]));
    let whole_time = started.elapsed();
    assert_eq!(metrics(&whole).len(), 9);
    assert_eq!(lines(&whole.join("validation.jsonl")).len(), 6);

    let killed = folder.path().join("killed");
    let resumed = || finetune(&photos, &killed, &["--resume"]);
    kill_at_random(6, whole_time, &killed, resumed, || ());
    run(finetune(&photos, &killed, &["--resume"]));
    assert_eq!(metrics(&whole), metrics(&killed));
    let curve = |run: &Path| lines(&run.join("validation.jsonl"));
    assert_eq!(curve(&whole), curve(&killed));
    let of_whole = tensors(&whole);
    for part in ["student.bpk:head.weight", "state.bpk:average", "state.bpk:best"] {
        assert!(
            of_whole.keys().any(|path| path.starts_with(part)),
            "{:?}",
            of_whole.keys()
        );
    }
    assert_eq!(of_whole, tensors(&killed));
    assert_eq!(results(&whole), results(&killed));
    // A finished run is scored again without a step.
    run(finetune(&photos, &killed, &["--resume"]));
    assert_eq!(results(&whole), results(&killed));

    // The best network of evaluations that are lost would be another one.
    let curve = killed.join("validation.jsonl");
    let text = std::fs::read_to_string(&curve).unwrap();
    let cut: String = text.split_inclusive('\n').take(2).collect();
    std::fs::write(&curve, cut).unwrap();
    let error = refusal(finetune(&photos, &killed, &["--resume"]));
    assert!(
        error.contains("validation.jsonl` must have 6 evaluations up to step") && error.contains("got 2"),
        "{error}"
    );
}

#[test]
fn a_result_says_what_was_chosen_on_what_and_encoders_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    run(finetune(&photos, &out, &[]));
    let result = &results(&out)[0];
    let is = |key: &str, value: Value| assert_eq!(result[key], value, "{key}");
    is("protocol", "finetune".into());
    is("metric", "top1".into());
    is("encoder", "none".into());
    is("train_records", 26.into());
    is("test_records", 32.into());
    let settings = &result["settings"];
    assert_eq!(settings["weights"], "average");
    assert_eq!(
        settings["epoch_chosen_on"],
        "records held out of the training set"
    );
    assert_eq!(settings["validation_records"], 6);
    let classifier = std::fs::read(out.join("classifier.safetensors")).unwrap();
    let classifier = safetensors::SafeTensors::deserialize(&classifier).unwrap();
    assert_eq!(classifier.tensor("fc.weight").unwrap().shape(), [2, 32]);
    let curve = lines(&out.join("validation.jsonl"));
    let best = curve
        .iter()
        .map(|line| line["top1"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert_eq!(settings["validation_top1"].as_f64().unwrap(), best);
    let first = curve
        .iter()
        .find(|line| line["top1"].as_f64() == Some(best))
        .unwrap();
    assert_eq!(settings["epoch"], first["epoch"]);

    // Its own run directory is an encoder; the smallest semi-supervised share keeps a record of each class.
    let again = folder.path().join("again");
    let more = [
        "--encoder",
        out.to_str().unwrap(),
        "--set",
        "objective.protocol={ semi_supervised = { percent = 50, choice = { seed = 1 } } }",
        "--set",
        "objective.validation={ fraction = 0.1, seed = 0 }",
    ];
    run(finetune(&photos, &again, &more));
    let result = &results(&again)[0];
    assert_eq!(result["protocol"], "semi-supervised-50");
    assert_eq!(result["train_records"], 14);
    assert_eq!(result["encoder"].as_str().unwrap().len(), 64);
    // A run resumes only with its original encoder.
    let other = finetune(&photos, &again, &[&more[2..], &["--resume"]].concat());
    let error = refused(other);
    assert!(
        error.contains("started with another `objective.encoder`"),
        "{error}"
    );
    passer()
        .args([
            "evaluate",
            "finetune",
            "configs/evaluate/finetune-resnet18-cifar10.toml",
            "--smoke",
        ])
        .args([
            "--device",
            "flex",
            "--set",
            "backbone.resnet.width=4",
            "--encoder",
        ])
        .arg(&out)
        .assert()
        .success();
}

#[test]
fn what_cannot_work_is_told_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let error = |sets: &[&str]| {
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let error = refused(finetune(&photos, &out, &more));
        assert!(!out.join("checkpoints").exists(), "{error}");
        error
    };
    assert!(error(&["objective.drop_path=0.1"]).contains("must be 0 for a ResNet"));
    assert!(error(&["objective.mixing.images=3"]).contains("`objective.mixing.images`"));
    assert!(error(&["objective.label_smoothing=1.0"]).contains("`objective.label_smoothing`"));
    assert!(error(&["views.0.count=2"]).contains("exactly 1 views"));
    assert!(
        error(&[r#"objective.test_transforms=[{ horizontal_flip = { probability = 0.5 } }]"#])
            .contains("must draw nothing")
    );
    let list =
        r#"objective.protocol={ semi_supervised = { percent = 1, choice = { list = "no-such.txt" } } }"#;
    assert!(error(&[list]).contains("list `no-such.txt`"));
    // Only one class, and records without labels.
    let flat = photos.join("red");
    let error = refused(finetune(&flat, &out, &[]));
    assert!(error.contains("has no labels"), "{error}");
    let usage = passer()
        .args([
            "evaluate",
            "finetune",
            "configs/evaluate/finetune-resnet18-cifar10.toml",
        ])
        .args(["--train", "x", "--test", "x", "--out", "x"])
        .assert()
        .code(2);
    assert!(String::from_utf8_lossy(&usage.get_output().stderr).contains("--encoder"));
}
