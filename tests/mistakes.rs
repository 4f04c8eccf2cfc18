//! Typical mistakes of new users, and the program's messages.

use crate::passer;
use crate::runs::photos;
use crate::weights::fixture;
use predicates::prelude::*;
use predicates::str::contains;
use std::path::Path;

const PRETRAIN: &str = "configs/pretrain/moco-v2-resnet18-cifar10.toml";
const EVALUATE: &str = "configs/evaluate/knn.toml";

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// stderr of a call that must fail.
fn refused(arguments: &[&str]) -> String {
    let assert = passer().args(arguments).assert().code(1);
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn a_config_of_another_kind_is_told() {
    let error = refused(&["pretrain", EVALUATE, "--smoke"]);
    assert!(
        error.contains("looks like an evaluation config; expected a pretraining config")
            && error.contains("hint: `passer evaluate run` takes such files"),
        "{error}"
    );
    let mut arguments = vec!["views", EVALUATE, "--data", "x", "--out", "/tmp/x.png"];
    assert!(refused(&arguments).contains("looks like an evaluation config"));
    arguments = vec![
        "evaluate",
        "run",
        PRETRAIN,
        "--encoder",
        "x",
        "--train",
        "x",
        "--test",
        "x",
        "--out",
        "x",
    ];
    let error = refused(&arguments);
    assert!(
        error.contains("looks like a pretraining config; expected an evaluation config"),
        "{error}"
    );
    let error = refused(&["pretrain", PRETRAIN, "--smoke", "--set", "optimizer=adamw"]);
    assert!(
        error.contains(
            "`--set optimizer=adamw`: `optimizer` must be a table: the name `adamw` alone is not enough"
        ) && error.contains("--set 'optimizer={ adamw = { learning_rate_per_256 = …"),
        "{error}"
    );
    let error = refused(&["pretrain", PRETRAIN, "--smoke", "--set", "schedule.epochs=4"]);
    assert!(
        error.contains("`--set schedule.epochs=4`: `schedule` must have exactly one of `cosine_per_epoch`")
            && error.contains("got `cosine_per_epoch` and `epochs`")
            && error.contains("--set training.epochs=4"),
        "{error}"
    );
    let start = ["--start", "a.pth", "--set", "start.encoder=b.pth"];
    let error = refused(&[&["pretrain", PRETRAIN, "--smoke"], &start[..]].concat());
    assert!(
        error.contains("`--start a.pth` and `--set start.encoder=b.pth` both name the encoder to start from"),
        "{error}"
    );
    arguments = vec!["views", PRETRAIN, "--data", "x", "--out", "v.jpg"];
    let error = refused(&arguments);
    assert!(
        error.contains("the sheet is a PNG") && error.contains("hint: call it `v.png`"),
        "{error}"
    );
}

#[test]
fn folders_that_are_splits_and_formats_that_are_not_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for split in ["train", "test"] {
        std::fs::create_dir(tree.join(split)).unwrap();
        std::fs::copy(
            crate::files(&photos, "").remove(0),
            tree.join(split).join("a.png"),
        )
        .unwrap();
    }
    std::fs::write(tree.join("train/b.heic"), "x").unwrap();
    passer()
        .args([
            "shards",
            "pack",
            path(&tree),
            "--out",
            path(&folder.path().join("shards")),
        ])
        .assert()
        .success()
        .stderr(
            contains("look like splits: `--subfolder train` packs one of them")
                .and(contains("1 .heic (such as `train/b.heic`)")),
        );
    // A tar without images.
    let empty = folder.path().join("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    let error = refused(&["shards", "verify", path(&empty)]);
    assert!(
        error.contains("holds no record: there is nothing to verify"),
        "{error}"
    );
    let picture = crate::files(&photos, "").remove(0);
    let error = refused(&["shards", "verify", path(&picture)]);
    assert!(error.contains("one picture is no data set"), "{error}");
}

#[test]
fn features_take_the_pretrainings_size_and_belong_to_one_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("features.safetensors");
    let encoders =
        ["moco-v2-legacy.pth.tar", "torchvision-resnet.pth"].map(|name| fixture(folder.path(), name));
    let own = folder.path().join("small.safetensors");
    passer()
        .args([
            "weights",
            "convert",
            path(&encoders[0]),
            path(&own),
            "--to",
            "timm",
        ])
        .assert()
        .success();
    let features = |encoder: &Path, more: &[&str]| {
        let mut command = passer();
        command.args([
            "features",
            "--device",
            "flex",
            "--encoder",
            path(encoder),
            "--data",
            path(&photos),
        ]);
        command.args(["--out", path(&out)]).args(more);
        command.assert()
    };
    features(&own, &["--size-px", "32"])
        .success()
        .stderr(contains("from images of 32 px"));
    // The same encoder and data: recomputed, at the pretraining's size.
    features(&own, &[])
        .success()
        .stderr(contains("from images of 224 px"));
    features(&encoders[1], &[])
        .code(1)
        .stderr(contains("holds features of another encoder").and(contains("hint: pass another `--out`")));
    std::fs::write(&out, "mine").unwrap();
    features(&own, &[])
        .code(1)
        .stderr(contains("exists and is no features file"));
}

#[test]
fn a_test_set_that_was_trained_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let encoder = fixture(folder.path(), "moco-v2-legacy.pth.tar");
    let out = folder.path().join("scores");
    let both = [path(&photos), path(&photos)];
    let mut arguments = vec![
        "evaluate",
        "run",
        "configs/evaluate/quickstart.toml",
        "--device",
        "flex",
    ];
    arguments.extend(["--encoder", path(&encoder), "--out", path(&out)]);
    arguments.extend(["--train", both[0], "--test", both[1]]);
    let error = refused(&arguments);
    assert!(
        error.contains("training and test set are the same 32 records") && error.contains("held out"),
        "{error}"
    );
    let finetune = "configs/evaluate/finetune-resnet18-cifar10.toml";
    let mut arguments = vec![
        "evaluate",
        "finetune",
        finetune,
        "--device",
        "flex",
        "--from-scratch",
    ];
    arguments.extend(["--train", both[0], "--test", both[1], "--out", path(&out)]);
    assert!(refused(&arguments).contains("the same 32 records"));
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_nobody_takes_is_told_and_no_panic() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(crate::root())
        .args(["pretrain", PRETRAIN, "--smoke", "--device", "flex"]);
    let output = command.stdout(full()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("could not be written to standard output") && !text.contains("panicked"),
        "{text}"
    );
    let output = command
        .stdout(std::process::Stdio::null())
        .stderr(full())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
}

/// Status and stderr of a short pretraining on 32 photos.
fn short_run(config: &str, data: &Path, out: &Path, sets: &[&str]) -> (i32, String) {
    let mut command = passer();
    command.args([
        "pretrain",
        config,
        "--device",
        "flex",
        "--data",
        path(data),
        "--out",
        path(out),
    ]);
    let small = [
        "data.batch_images=16",
        "training.epochs=2",
        "training.checkpoint_every_epochs=1",
    ];
    for set in small.iter().chain(sets) {
        command.args(["--set", set]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), text)
}

#[test]
fn settings_that_cannot_take_effect_are_refused_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    // Before the data are opened.
    let absent = folder.path().join("absent");
    let out = folder.path().join("run");
    let dino = "configs/pretrain/dino-vit-cifar10.toml";
    let warmup = "objective.dino.teacher_temperature_warmup={ start = 0.02, epochs = 30 }";
    let (status, text) = short_run(dino, &absent, &out, &[warmup]);
    assert_eq!(status, 1);
    assert!(
        text.contains(
            "`objective.dino.teacher_temperature_warmup.epochs` must be at most the run's 2 epochs, got 30: the teacher's \
             temperature would not arrive"
        ),
        "{text}"
    );
    let (status, text) = short_run(
        dino,
        &absent,
        &out,
        &["objective.dino.freeze_last_layer_epochs=2"],
    );
    assert_eq!(status, 1);
    assert!(
        text.contains(
            "`objective.dino.freeze_last_layer_epochs` must be less than the run's 2 epochs, got 2: the head's last layer would \
             never learn"
        ),
        "{text}"
    );
    // What depends on the data, and numbers that are small.
    let moco = "configs/pretrain/quickstart.toml";
    let small = [
        "backbone.resnet.width=4",
        "training.batch_norm_images=8",
        "training.log_every_steps=1",
        "optimizer.sgd.learning_rate_per_256=5e-4",
        "objective.moco.momentum=0.5",
    ];
    let run = |queue: &str, name: &str| {
        let sets: Vec<&str> = small.into_iter().chain([queue]).collect();
        short_run(moco, &photos, &folder.path().join(name), &sets)
    };
    let (status, text) = run("objective.moco.queue_images=64", "large");
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains(
            "`objective.moco.queue_images` = 64 is more than the data set's 32 records less a batch of 16: "
        ),
        "{text}"
    );
    assert!(
        text.contains("peak learning rate 3.125e-5") && text.contains(" lr 3.125e-5 "),
        "{text}"
    );
    let (status, text) = run("objective.moco.queue_images=16", "fits");
    assert_eq!(status, 0, "{text}");
    assert!(!text.contains("WARN"), "{text}");
}

/// A safetensors file of one number under each name.
fn numbers(path: &Path, names: &[&str]) {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let (start, end) = (4 * at, 4 * at + 4);
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &vec![0; 4 * names.len()]].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_of_another_purpose_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let inspect = |path: &Path| {
        let output = passer().args(["weights", "inspect"]).arg(path).assert().code(1);
        let output = output.get_output();
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
    };
    let faces = file("faces.safetensors");
    numbers(
        &faces,
        &["body.stage1.0.0.weight", "LandmarkHead.0.conv1x1.weight"],
    );
    let text = inspect(&faces);
    assert!(
        text.contains("RetinaFace, which detects faces: `passer detect faces --weights FILE`"),
        "{text}"
    );
    let persons = file("persons.safetensors");
    numbers(&persons, &["model.head.cls_preds.0.weight"]);
    assert!(inspect(&persons).contains("YOLOX, which detects persons"));
    let onnx = file("any.onnx");
    std::fs::write(&onnx, b"\x08\x07\x12\x07pytorch").unwrap();
    let text = inspect(&onnx);
    assert!(
        text.contains("it is an ONNX file") && text.contains("`passer detect persons --weights FILE`"),
        "{text}"
    );
    // Features are wanted, and weights are given: of this program, or any.
    let names: Vec<String> = (0..120).map(|at| format!("block.{at:03}.weight")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let weights = file("weights.safetensors");
    numbers(&weights, &names);
    let features = |path_of: &Path| {
        let out = file("scores");
        let place = path(path_of);
        let arguments = [
            "--train",
            place,
            "--test",
            place,
            "--out",
            path(&out),
            "--device",
            "flex",
        ];
        refused(&[&["evaluate", "features", EVALUATE][..], &arguments].concat())
    };
    let error = features(&weights);
    assert!(
        error.contains("`block.009.weight` and 110 more\n") && !error.contains("block.010"),
        "{error}"
    );
    let encoder = fixture(folder.path(), "moco-v2-legacy.pth.tar");
    let own = file("own.safetensors");
    passer()
        .args(["weights", "convert", path(&encoder), path(&own), "--to", "timm"])
        .assert()
        .success();
    let error = features(&own);
    assert!(
        error.contains("it is an encoder") && error.contains("hint: `passer features` makes such files"),
        "{error}"
    );
}

#[test]
fn a_batch_larger_than_the_data_is_an_error_with_the_command_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let mut arguments = vec!["pretrain", "configs/pretrain/quickstart.toml", "--device", "flex"];
    arguments.extend(["--data", path(&photos), "--out", path(&out)]);
    for set in [
        "training.batch_norm_images=64",
        "training.epochs=1",
        "training.checkpoint_every_epochs=1",
    ] {
        arguments.extend(["--set", set]);
    }
    let error = refused(&arguments);
    assert!(
        error.contains("`data.batch_images` must be at most the data set's 32 records, got 64"),
        "{error}"
    );
    let (_, command) = error.split_once("take batches of 32: `passer ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    assert!(
        command.ends_with("--set data.batch_images=32 --set training.batch_norm_images=32"),
        "{command}"
    );
    // As typed in a shell.
    let program = format!("{} {command}", path(Path::new(env!("CARGO_BIN_EXE_passer"))));
    let status = std::process::Command::new("sh")
        .args(["-c", &program])
        .current_dir(crate::root())
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}
