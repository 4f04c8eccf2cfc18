//! What a newcomer gets wrong, and what the program says to it.

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
        error.contains("`--set optimizer=adamw`: a name alone is not enough in `optimizer`"),
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
    // The same encoder and data: made anew, at the size of its pretraining.
    features(&own, &[])
        .success()
        .stderr(contains("from images of 224 px"));
    features(&encoders[1], &[])
        .code(1)
        .stderr(contains("holds features of another encoder").and(contains("hint: give another `--out`")));
    std::fs::write(&out, "mine").unwrap();
    features(&own, &[])
        .code(1)
        .stderr(contains("exists and is no features file"));
}
