//! Fine-tuning of detectors from outside: the run directory, kills without effect on it, other classes, bad input.

use crate::runs::{kill_at_random, lines, metrics, run, tensors};
use crate::small_detector::{NARROW, squares};
use crate::{passer, root};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Shorter: 12 steps.
const SHORT: [&str; 4] = [
    "detection.evaluate_every_steps=4",
    "schedule.milestones.milestones_steps=[8]",
    "training.steps=12",
    "training.checkpoint_every_steps=4",
];

fn finetune([train, test]: [&Path; 2], out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .args(["evaluate", "finetune", "configs/evaluate/detection-small.toml"])
        .args(["--device", "flex"]);
    for (name, path) in [("--train", train), ("--test", test), ("--out", out)] {
        command.arg(name).arg(path);
    }
    for set in NARROW.iter().chain(&SHORT) {
        command.args(["--set", set]);
    }
    if !more.contains(&"--encoder") && !more.contains(&"--detector") {
        command.arg("--from-scratch");
    }
    command.args(more);
    command
}

fn results(run: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(run.join("result.json")).unwrap()).unwrap()
}

fn failed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn kills_change_neither_a_detector_nor_its_curve_nor_its_score() {
    let folder = tempfile::tempdir().unwrap();
    let train = squares(folder.path(), "train", 18, &["square"]);
    let test = squares(folder.path(), "test", 6, &["square"]);
    let data = [train.as_path(), test.as_path()];
    let whole = folder.path().join("whole");
    let started = Instant::now();
    run(finetune(data, &whole, &[]));
    let whole_time = started.elapsed();
    let curve = |run: &Path| lines(&run.join("validation.jsonl"));
    let steps: Vec<Value> = curve(&whole).iter().map(|line| line["step"].clone()).collect();
    assert_eq!(steps, [4, 8, 12]);
    assert!(curve(&whole).iter().all(|line| line["on"] == "test"));

    let killed = folder.path().join("killed");
    let resumed = || finetune(data, &killed, &["--resume", "--set", "data.workers=0"]);
    kill_at_random(4, whole_time, &killed, resumed, || ());
    run(finetune(data, &killed, &["--resume"]));
    assert_eq!(metrics(&whole), metrics(&killed));
    assert_eq!(curve(&whole), curve(&killed));
    assert_eq!(tensors(&whole), tensors(&killed));
    assert_eq!(results(&whole), results(&killed));
    for file in ["detector.safetensors", "detections-boxes.json"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file}");
    }

    let result = &results(&whole)[0];
    assert_eq!(
        [&result["protocol"], &result["metric"], &result["headline"]],
        [&json!("detection-coco"), &json!("box_ap"), &json!(true)]
    );
    assert_eq!(
        (&result["test_records"], &result["train_records"]),
        (&json!(6), &json!(18))
    );
    assert_eq!(result["settings"]["classes"][0]["name"], "square");
    assert_eq!(result["settings"]["step_chosen_on"], "nothing: the last step");

    // Its detector finds objects by name, and starts another run: with its classes whole, with others in part.
    let out = folder.path().join("found.jsonl");
    passer()
        .args([
            "detect",
            "objects",
            "--device",
            "flex",
            "--score",
            "0.01",
            "--weights",
        ])
        .arg(whole.join("detector.safetensors"))
        .arg("--data")
        .arg(&test)
        .arg("--out")
        .arg(&out)
        .assert()
        .success();
    assert!(std::fs::read_to_string(out).unwrap().contains("\"square\""));
    let detector = whole.join("detector.safetensors");
    let more = ["--detector", detector.to_str().unwrap()];
    let again = folder.path().join("again");
    let mut command = finetune(data, &again, &more);
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("start anew"));
    let others = squares(folder.path(), "others", 8, &["left", "right"]);
    let test = squares(folder.path(), "othertest", 4, &["right", "left"]);
    let anew = folder.path().join("anew");
    let more = [more[0], more[1], "--set", "detection.network.classes=2"];
    let output = finetune([&others, &test], &anew, &more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the layers of classes start anew"), "{text}");
    let of_run: Value = serde_json::from_slice(&std::fs::read(anew.join("run.json")).unwrap()).unwrap();
    assert!(of_run["detector"].as_str().is_some_and(|hash| hash.len() == 64));
}

#[test]
fn what_does_not_fit_a_detector_is_said_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let train = squares(folder.path(), "train", 8, &["square"]);
    let test = squares(folder.path(), "test", 4, &["square"]);
    let data = [train.as_path(), test.as_path()];
    let out = folder.path().join("run");
    let refused = |more: &[&str]| failed(finetune(data, &out, more));
    let text = refused(&["--set", "detection.network.classes=3"]);
    assert!(
        text.contains(
            "`detection.network.classes` must be 1, the number of classes of the training data, got 3"
        ),
        "{text}"
    );
    let text = refused(&["--set", "detection.network.frozen_stages=2"]);
    assert!(
        text.contains("`detection.network.frozen_stages` must be 0"),
        "{text}"
    );
    let text = refused(&["--set", "detection.metric=voc2007"]);
    assert!(text.contains("`detection.bootstrap`"), "{text}");
    let text = refused(&["--set", "training.epochs=3"]);
    assert!(text.contains("`training.epochs` or `training.steps`"), "{text}");
    let masks = r#"detection.network.masks={ pooled = 14, channels = [16], width = 16, norm = false, weights = "torchvision", target = "pooled", paste = "grown_box" }"#;
    let text = refused(&["--set", masks]);
    assert!(text.contains("needs a mask for each object"), "{text}");
    // A classifier's file, and no file.
    let wrong = folder.path().join("wrong.pth");
    std::fs::write(&wrong, "no weights").unwrap();
    let text = refused(&["--detector", wrong.to_str().unwrap()]);
    assert!(
        text.contains("detector `") && text.contains("wrong.pth"),
        "{text}"
    );
    // Unknown classes in the test set, and the same pictures on both sides.
    let others = squares(folder.path(), "others", 4, &["circle"]);
    let text = failed(finetune([&train, &others], &out, &[]));
    assert!(text.contains("circle"), "{text}");
    let text = failed(finetune([&train, &train], &out, &[]));
    assert!(text.contains("training and test set are the same"), "{text}");
    // Protocols that work within one set are no cure for a fine-tuning.
    assert!(text.contains("held out") && !text.contains("retrieval"), "{text}");
    // Pictures without boxes.
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    std::fs::copy(
        folder.path().join("train/JPEGImages/train00.jpg"),
        plain.join("a.jpg"),
    )
    .unwrap();
    let text = failed(finetune([&plain, &test], &out, &[]));
    assert!(text.contains("has no boxes"), "{text}");
    assert!(!out.exists());
    passer()
        .current_dir(root())
        .args([
            "evaluate",
            "finetune",
            "configs/evaluate/finetune-resnet18-cifar10.toml",
        ])
        .args(["--detector", "x.pth", "--train", "a", "--test", "b", "--out", "c"])
        .assert()
        .failure()
        .stderr(contains("`--detector` is for configs with `[detection]`").and(contains("`--encoder`")));
}
