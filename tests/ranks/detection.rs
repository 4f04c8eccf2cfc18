//! Fine-tuning of a detector on ranks: each rank is a micro-batch, to the bit.

use super::small_detector::{NARROW, squares};
use super::*;

/// The small config, narrower: 6 steps of 4 pictures, statistics of 2.
fn finetune(ranks: usize, folder: &Path, out: &Path) -> Command {
    let mut command = passer(ranks);
    command
        .args(["evaluate", "finetune", "configs/evaluate/detection-small.toml"])
        .args(["--from-scratch", "--device", "flex"]);
    for (name, path) in [
        ("--train", folder.join("train.toml")),
        ("--test", folder.join("test.toml")),
        ("--out", out.to_owned()),
    ] {
        command.arg(name).arg(path);
    }
    let short = [
        "detection.evaluate_every_steps=3",
        "schedule.milestones.milestones_steps=[4]",
        "training.steps=6",
        "training.checkpoint_every_steps=3",
        "training.log_every_steps=1",
        "training.batch_norm_images=2",
        "training.micro_batch_images=2",
    ];
    for set in NARROW.iter().chain(&short) {
        command.args(["--set", set]);
    }
    command
}

#[test]
fn a_detector_on_ranks_is_that_of_as_many_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    squares(folder.path(), "train", 16, &["square"]);
    squares(folder.path(), "test", 6, &["square"]);
    let out = |ranks: usize| folder.path().join(format!("ranks-{ranks}"));
    for ranks in [1, 2] {
        finished(finetune(ranks, folder.path(), &out(ranks)));
    }
    let bytes = |ranks: usize, file: &str| std::fs::read(out(ranks).join(file)).unwrap();
    assert_eq!(losses(&out(1)), losses(&out(2)));
    // Running statistics of two ranks are averaged, so scores may differ in a rounding: the curves' first line is enough.
    let first = |ranks: usize| {
        let text = String::from_utf8(bytes(ranks, "validation.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        (line["records"].clone(), line["box_ap50"].as_f64().unwrap())
    };
    assert_eq!(first(1).0, first(2).0);
    assert!(
        (first(1).1 - first(2).1).abs() < 1e-3,
        "{:?} {:?}",
        first(1),
        first(2)
    );
}
