//! `passer replay` from outside: steps to the bit, and NaN planted in a layer, in an image, and by a rate that is too high.

use crate::root;
use crate::runs::{photos, pretrain, refusal, run};
use burn::store::{BurnpackStore, ModuleStore};
use std::path::Path;
use std::process::Command;

const CONSTANT: [&str; 2] = ["--set", "schedule={ constant = {} }"];

/// The output of `passer replay`, whose status must be this.
fn replay(run: &Path, more: &[&str], status: i32) -> String {
    let output = crate::passer()
        .arg("replay")
        .arg(run)
        .args(["--device", "flex"])
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &errors
}

#[test]
fn steps_of_a_run_are_its_steps_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (photos(folder.path()), folder.path().join("run"));
    run(pretrain(&photos, &out, &[]));
    let files = || {
        let paths = crate::files(&out, "").into_iter();
        paths
            .map(|path| (std::fs::read(&path).unwrap(), path))
            .collect::<Vec<_>>()
    };
    let before = files();
    let text = replay(&out, &["--first", "7"], 0);
    assert!(
        text.contains("ran 7 steps again, 1 to 7; 2 lines of the log compared, equal to the bit"),
        "{text}"
    );
    // The run has warned of its settings: a replay writes no checkpoint that could be too rare.
    assert!(!text.contains(" WARN "), "{text}");
    // The last two checkpoints are kept: those of steps 10 and 12.
    let text = replay(&out, &["--step", "12"], 0);
    assert!(
        text.contains("ran 2 steps again, 11 to 12; 1 line of the log compared, equal to the bit"),
        "{text}"
    );
    assert!(files() == before, "a replay only reads");
    let text = replay(&out, &[], 1);
    assert!(
        text.contains("keeps no step that failed") && text.contains("`--step S`"),
        "{text}"
    );
    assert!(replay(&out, &["--step", "13"], 1).contains("must be from 1 to the run's 12, got 13"));
    let others = crate::runs::other_photos(folder.path()).display().to_string();
    let text = replay(&out, &["--first", "1", "--data", &others], 1);
    assert!(text.contains("another data set"), "{text}");
    assert!(replay(folder.path(), &[], 1).contains("is not a run directory"));

    // A log that is not the run's.
    let log = out.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let at = text.find("\"loss\":").unwrap() + 7;
    std::fs::write(&log, format!("{}9{}", &text[..at], &text[at..])).unwrap();
    let text = replay(&out, &["--first", "6"], 1);
    assert!(
        text.contains("of 2 lines of the log 1 differ, the first at step 3: `loss` was 9"),
        "{text}"
    );
}

/// Puts NaN into the first value of a tensor of a checkpoint, as another program's fault would.
fn plant(checkpoint: &Path, name: &str) {
    let path = checkpoint.join("student.bpk");
    let mut store = BurnpackStore::from_file(&path);
    let tensors = store.get_all_tensors().unwrap();
    let names: Vec<&String> = tensors.keys().collect();
    let tensor = tensors.get(name).unwrap_or_else(|| panic!("{names:?}"));
    let data = burn::store::bridge::to_data(tensor).unwrap();
    let (values, mut file) = (data.as_bytes(), std::fs::read(&path).unwrap());
    let at = file
        .windows(values.len())
        .position(|bytes| bytes == values)
        .unwrap();
    file[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    // Without its checksum, as in checkpoints of version 0.1.
    let path = checkpoint.join("position.json");
    let mut position: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    position["checksums"]
        .as_object_mut()
        .unwrap()
        .remove("student.bpk")
        .unwrap();
    std::fs::write(&path, position.to_string()).unwrap();
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (photos(folder.path()), folder.path().join("run"));
    let of = |epochs: &str, more: &[&str]| {
        let epochs = format!("training.epochs={epochs}");
        pretrain(
            &photos,
            &out,
            &[&CONSTANT[..], &["--set", &epochs], more].concat(),
        )
    };
    run(of("4", &[]));
    let newest = training::latest_checkpoint(&out).unwrap().unwrap();
    plant(&newest.path, "encoder.backbone.ResNet.layer3.0.conv1.weight");
    let text = refusal(of("6", &["--resume"]));
    // A ReLU may hide it from the loss, and no checkpoint takes it.
    assert!(
        text.contains("loss is NaN in step ") || text.contains("holds NaN or an infinity after step "),
        "{text}"
    );
    assert!(text.contains("what the step had is kept in `"), "{text}");
    let command = format!("`passer replay {}`", out.display());
    assert!(
        text.contains(&command) && text.contains("another `--out`"),
        "{text}"
    );

    let kept = std::fs::read(out.join("failed-step/step.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!((&kept["seed"], &kept["checkpoint_step"]), (&0.into(), &8.into()));
    assert!(kept["step"].as_u64() > Some(8), "{kept}");
    assert_eq!(kept["records"].as_array().unwrap().len(), 16);
    // The run's own checkpoints may be removed.
    std::fs::remove_dir_all(out.join("checkpoints")).unwrap();
    let text = replay(&out, &[], 0);
    assert!(
        text.contains(
            "step 9: `encoder.backbone.ResNet.layer3.0.conv1.weight` is not finite before the step"
        ),
        "{text}"
    );
}

/// `passer pretrain` of MAE on pictures that are black, except for those in `bright`, whose pixels are `std` times as large as
/// others'.
fn mae(folder: &Path, bright: &[usize], std: &str) -> (Command, std::path::PathBuf) {
    let data = folder.join("dark");
    std::fs::create_dir_all(&data).unwrap();
    for picture in 0..32 {
        let value = if bright.contains(&picture) { 200 } else { 0 };
        let image = image::RgbImage::from_pixel(32, 32, image::Rgb([value; 3]));
        let name = if value > 0 { "bright" } else { "dark" };
        image.save(data.join(format!("{name}-{picture:02}.png"))).unwrap();
    }
    let out = folder.join("run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .args([
            "pretrain",
            "configs/pretrain/mae-vit-cifar10.toml",
            "--device",
            "flex",
            "--data",
        ])
        .arg(&data)
        .arg("--out")
        .arg(&out);
    let std = format!("data.normalize={{ mean = [0.0, 0.0, 0.0], std = [{std}, {std}, {std}] }}");
    for set in [
        std.as_str(),
        "data.batch_images=16",
        "data.workers=0",
        "training.epochs=2",
        "training.checkpoint_every_epochs=1",
        "training.log_every_steps=1",
        "schedule={ constant = {} }",
        "backbone.vit.width=16",
        "backbone.vit.depth=2",
        "objective.mae.decoder_width=16",
        "objective.mae.decoder_depth=1",
    ] {
        command.args(["--set", set]);
    }
    (command, out)
}

#[test]
fn an_image_that_is_no_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // 1 / (255 std) overflows with a bright pixel, and is 0 with a black one.
    let (command, out) = mae(folder.path(), &[21], "1e-40");
    let text = refusal(command);
    assert!(text.contains("loss is NaN in step"), "{text}");
    let text = replay(&out, &[], 0);
    assert!(text.contains("normalized pixels are not finite"), "{text}");
    assert!(
        text.contains("records of the batch that lead there, each alone:\n  bright-21"),
        "{text}"
    );
    assert_eq!(text.matches("(position").count(), 1, "{text}");
}

#[test]
fn images_whose_layers_overflow_are_found_by_halving_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    // Finite pixels, whose sums are not.
    let (command, out) = mae(folder.path(), &[5, 12, 30], "2.6e-39");
    let text = refusal(command);
    assert!(text.contains("loss is NaN in step 1"), "{text}");
    let result: serde_json::Value = {
        let text = replay(&out, &["--json"], 0);
        serde_json::from_str(&text[..text.rfind('}').unwrap() + 1]).unwrap()
    };
    let kept = std::fs::read(out.join("failed-step/step.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    let bright = |record: &&serde_json::Value| record.as_str().unwrap().starts_with("bright");
    let keys: Vec<&serde_json::Value> = kept["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record[1])
        .collect();
    let mut expected: Vec<&serde_json::Value> = keys.into_iter().filter(bright).collect();
    expected.sort_by_key(|key| key.as_str());
    let found = &result["finding"]["records"]["each"];
    let mut found: Vec<&serde_json::Value> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["key"])
        .collect();
    found.sort_by_key(|key| key.as_str());
    assert!(!expected.is_empty() && found == expected, "{result}");
    let place = &result["finding"]["place"];
    assert!(place["output"]["layer"].is_string() || place == "loss", "{place}");
}

#[test]
fn a_rate_that_is_too_high_is_no_records_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (photos(folder.path()), folder.path().join("run"));
    let wild = [
        "--set",
        "optimizer.sgd.learning_rate_per_256=1e13",
        "--set",
        "training.checkpoint_every_epochs=1",
        "--set",
        "training.log_every_steps=1",
    ];
    let text = refusal(pretrain(&photos, &out, &wild));
    assert!(text.contains("`passer replay "), "{text}");
    let text = replay(&out, &[], 0);
    let found = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("step "))
            .map(str::to_owned)
    };
    let again = replay(&out, &[], 0);
    assert!(
        found(&text).is_some() && found(&text) == found(&again),
        "{text}{again}"
    );
    if text.contains("not finite before the step") {
        return;
    }
    let no_record =
        "no record leads there: other images in their places give the same; the weights do, or the rate";
    assert!(
        text.contains("is the first layer") && text.contains(no_record),
        "{text}"
    );
    // The weights before the step are there now: the next replay begins with it.
    assert!(again.contains("ran no whole step again"), "{again}");
}
