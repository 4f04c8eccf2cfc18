//! Encoders as folders of other libraries from outside, and features in other programs' formats.

use super::library_folders::library_folder;
use super::{convert, features, fixture, inspect};
use crate::passer;
use crate::runs::photos;
use predicates::prelude::*;
use predicates::str::contains;
use std::path::Path;

fn export(input: &Path, out: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    passer()
        .args(["weights", "export"])
        .arg(input)
        .arg("--out")
        .arg(out)
        .args(more)
        .assert()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names = names.collect::<Vec<_>>();
    names.sort();
    names
}

fn json(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_folder_for_transformers_gives_the_same_features() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    for (name, class) in [
        ("vit", "ViTModel"),
        ("dinov2_with_registers", "Dinov2WithRegistersModel"),
        ("resnet50", "ResNetModel"),
    ] {
        let original = library_folder(scratch, name);
        let out = scratch.join(format!("{name}-out"));
        export(&original, &out, &["--to", "transformers"])
            .success()
            .stdout(contains(format!("{name}-out")))
            .stderr(contains("pass `--license ID`"));
        assert_eq!(
            names(&out),
            [
                "README.md",
                "config.json",
                "model.safetensors",
                "preprocessor_config.json"
            ]
        );
        assert_eq!(json(&out.join("config.json"))["architectures"][0], class);
        assert_eq!(
            features(scratch, &out, &["--taps", "pooled"]),
            features(scratch, &original, &[]),
            "{name}"
        );
    }
    // Each command names the other for the other's targets.
    let out = scratch.join("other");
    export(&scratch.join("vit"), &out, &["--to", "torchvision"])
        .code(1)
        .stderr(contains(
            "hint: write a file with its names: `passer weights convert IN",
        ));
    passer()
        .args(["weights", "convert", "in.pth", "out.safetensors", "--to", "onnx"])
        .assert()
        .code(1)
        .stderr(contains("`passer weights export IN --to onnx --out DIR`"));
    // What timm's file cannot say is refused, and nothing is left behind.
    let out = scratch.join("none");
    export(&scratch.join("vit"), &out, &["--to", "timm"])
        .code(1)
        .stderr(
            contains("timm's `config.json` cannot state the epsilon of norms, which is 1e-12 here").and(
                contains(
                    "hint: Transformers has such networks: `passer weights export ENCODER --to transformers`",
                ),
            ),
        );
    assert!(!out.exists());
}

#[test]
fn a_folder_for_timm_states_size_pooling_and_statistics() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let original = library_folder(scratch, "timm_vit_mean");
    let out = scratch.join("out");
    export(&original, &out, &["--to", "timm", "--size-px", "32"]).success();
    let config = json(&out.join("config.json"));
    assert_eq!(config["model_args"]["global_pool"], "avg");
    assert_eq!(config["model_args"]["img_size"], 32);
    assert_eq!(
        config["pretrained_cfg"]["mean"],
        serde_json::json!([0.5, 0.5, 0.5])
    );
    // Positions were interpolated when it was written instead of when it is used.
    let (ours, theirs) = (features(scratch, &out, &[]), features(scratch, &original, &[]));
    let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0.0, f32::max) < 1e-5);

    let stem = fixture(scratch, "small-stem.safetensors");
    for library in ["timm", "transformers"] {
        export(&stem, &scratch.join("stem"), &["--to", library])
            .code(1)
            .stderr(contains("no ResNet with a 3×3 stem").and(contains("`--to onnx`")));
    }
    export(&original, &out, &["--to", "timm"])
        .code(1)
        .stderr(contains("out` exists"));
    export(&original, &scratch.join("x"), &["--to", "timm", "--dtype", "f16"])
        .code(1)
        .stderr(contains("`--dtype` is of ONNX files alone"));
    export(
        &original,
        &scratch.join("x"),
        &["--to", "timm", "--size-px", "30"],
    )
    .code(1)
    .stderr(contains("cannot be cut into patches"));
}

#[test]
fn an_onnx_file_and_its_card() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let stem = fixture(scratch, "small-stem.safetensors");
    let encoder = scratch.join("encoder.safetensors");
    convert(&stem, &encoder, &[]).success();
    let hash = inspect(&encoder, &[])["sha256"].as_str().unwrap().to_owned();

    let score = |encoder: &str, value: f64| {
        serde_json::json!({
            "protocol": "knn", "metric": "top1", "value": value, "headline": true, "encoder": encoder,
            "encoder_name": "someone else's", "classes": 10, "train_records": 60, "test_records": 20,
            "train_bad_records": 0, "test_bad_records": 0, "train_fingerprint": "aa", "test_fingerprint": "bb",
            "settings": {}, "test_transforms": [], "normalize": {}, "commit": "c", "device": "d"
        })
    };
    let results = scratch.join("scores");
    std::fs::create_dir(&results).unwrap();
    let both = serde_json::json!([score(&hash, 0.776), score("0000", 0.9)]);
    std::fs::write(results.join("result.json"), both.to_string()).unwrap();
    let credits = scratch.join("CREDITS.txt");
    std::fs::write(&credits, "a photo by A\n").unwrap();
    let out = scratch.join("out");
    let (results, credits) = (results.to_str().unwrap(), credits.to_str().unwrap());
    export(
        &encoder,
        &out,
        &[
            "--to",
            "onnx",
            "--normalize",
            "inside",
            "--license",
            "mit",
            "--results",
            results,
            "--credits",
            credits,
        ],
    )
    .success()
    .stderr(contains("1 score of other encoders").and(contains("images of 32 px, 1 score")));
    assert_eq!(
        names(&out),
        [
            "CREDITS.txt",
            "README.md",
            "model.onnx",
            "preprocessor_config.json"
        ]
    );
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    for expected in [
        "license: \"mit\"",
        "| knn | top1 | 77.60 % |",
        "[CREDITS.txt](CREDITS.txt)",
        &hash,
    ] {
        assert!(card.contains(expected), "{expected}: {card}");
    }
    assert!(!card.contains("90.00 %"), "{card}");
    assert_eq!(json(&out.join("preprocessor_config.json"))["do_normalize"], false);
    // The same file each time, and half of it in 16 bits.
    let bytes = |out: &Path| std::fs::read(out.join("model.onnx")).unwrap();
    let again = scratch.join("again");
    export(&encoder, &again, &["--to", "onnx", "--normalize", "inside"]).success();
    assert_eq!(bytes(&again), bytes(&out));
    let halves = scratch.join("halves");
    export(&encoder, &halves, &["--to", "onnx", "--dtype", "f16"]).success();
    assert!(bytes(&halves).len() < bytes(&out).len() * 6 / 10);

    let other = scratch.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(
        other.join("result.json"),
        serde_json::json!([score("0000", 0.9)]).to_string(),
    )
    .unwrap();
    export(
        &encoder,
        &scratch.join("x"),
        &["--to", "onnx", "--results", other.to_str().unwrap()],
    )
    .code(1)
    .stderr(contains(
        "other` has no score of this file, and 1 score of other encoders",
    ));
}

#[test]
fn features_are_written_for_numpy_and_as_a_table() {
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let encoder = fixture(scratch, "moco-v1.pth.tar");
    let rows = features(scratch, &encoder, &[]);
    let write = |format: &str, out: &Path| {
        passer()
            .args(["features", "--device", "flex", "--size-px", "32", "--encoder"])
            .arg(&encoder)
            .arg("--data")
            .arg(photos(scratch))
            .args(["--format", format, "--out"])
            .arg(out)
            .assert()
    };
    let out = scratch.join("arrays");
    write("npy", &out).success().stdout(contains("arrays"));
    assert_eq!(
        names(&out),
        ["about.json", "keys.txt", "labels.npy", "pooled.npy"]
    );
    let array = std::fs::read(out.join("pooled.npy")).unwrap();
    let numbers = array[128..].chunks_exact(4);
    let numbers = numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    assert_eq!(numbers.collect::<Vec<_>>(), rows);
    write("npy", &out).code(1).stderr(contains("arrays` exists"));

    let table = scratch.join("table.parquet");
    write("parquet", &table).success();
    let bytes = std::fs::read(&table).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    // The file that was written first is gone.
    assert!(!names(scratch).iter().any(|name| name.contains("unfinished")));
    write("parquet", &scratch.join("x.safetensors"))
        .code(1)
        .stderr(contains("is not to be a safetensors file"));
    passer()
        .args(["features", "--encoder", "e", "--data", "d", "--out", "o"])
        .args(["--format", "npy", "--slice", "1/2"])
        .assert()
        .code(1)
        .stderr(contains("slices are safetensors files"));
}
