//! Runs whose length changes, from outside: to the bit where the schedule leaves it open, refused or allowed where it does not; and
//! checkpoints by the clock.

use crate::runs::{lines, metrics, photos, pretrain, refusal, run, tensors};
use std::path::Path;

const CONSTANT: &str = "schedule={ constant = {} }";
const STABLE: &str = "schedule={ warmup_stable_decay = { warmup = { epochs = 1, start_learning_rate = 0.0, reaches_peak = \
                      \"after_it\" }, decay_fraction = 0.25, decay = \"one_minus_square_root\" } }";

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The output of a run that must succeed.
fn said(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// Two runs have the same log, weights and encoder.
fn assert_same(one: &Path, other: &Path) {
    assert_eq!(metrics(one), metrics(other));
    assert!(tensors(one) == tensors(other));
    let encoder = |run: &Path| std::fs::read(run.join("encoder.safetensors")).unwrap();
    assert!(encoder(one) == encoder(other));
}

#[test]
fn a_run_that_is_made_longer_is_the_run_that_always_was() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let (whole, short) = (folder.path().join("whole"), folder.path().join("short"));
    let of = |out: &Path, epochs: &str, more: &[&str]| {
        let epochs = format!("training.epochs={epochs}");
        pretrain(
            &photos,
            out,
            &[&["--set", CONSTANT, "--set", &epochs][..], more].concat(),
        )
    };
    run(of(&whole, "6", &[]));
    // Of eight steps, with a line every three: the line of the end is none of the longer run's.
    run(of(&short, "4", &[]));
    let before = std::fs::read(short.join("config.toml")).unwrap();
    let encoder = std::fs::read(short.join("encoder.safetensors")).unwrap();
    let last_steps = |run: &Path| {
        let lines = lines(&run.join("metrics.jsonl"));
        lines
            .iter()
            .map(|line| line["step"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(last_steps(&short), [3, 6, 8]);

    let text = said(of(&short, "6", &["--resume"]));
    assert!(
        text.contains(
            "the run gets 12 steps in place of 8: its 8 steps so far are those of a run of that length"
        ),
        "{text}"
    );
    assert_eq!(last_steps(&short), [3, 6, 9, 12]);
    assert_same(&short, &whole);
    let config = |run: &Path| std::fs::read(run.join("config.toml")).unwrap();
    assert!(config(&short) == config(&whole));
    // What the run was stays readable.
    assert!(std::fs::read(short.join("config-of-8-steps.toml")).unwrap() == before);
    assert!(std::fs::read(short.join("encoder-of-8-steps.safetensors")).unwrap() == encoder);
    let facts = json(&short.join("run.json"));
    assert_eq!(facts["steps"], 12);
    assert_eq!(
        facts["lengths"],
        serde_json::json!([{
            "from_step": 8, "steps_before": 8, "steps": 12, "jump": null, "config_before": "config-of-8-steps.toml"
        }])
    );
    let shown = crate::passer()
        .arg("report")
        .arg(&short)
        .arg("--json")
        .assert()
        .success();
    let report: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    let report = &report["runs"][0];
    assert_eq!(
        (&report["steps"], &report["finished"]),
        (&12.into(), &true.into())
    );
    let remarks = report["remarks"].as_array().unwrap();
    let remark = "at step 8 the run got 12 steps in place of 8 (before: config-of-8-steps.toml)";
    assert!(remarks.contains(&remark.into()), "{remarks:?}");

    // In steps as well, and shorter than planned, but not than done.
    run(of(&short, "9", &["--resume"]));
    let refused = refusal(of(&short, "6", &["--resume"]));
    assert!(
        refused.contains("must be more than the 18 steps that") && refused.contains("got 12 steps"),
        "{refused}"
    );
    assert_eq!(
        json(&short.join("run.json"))["lengths"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn a_stable_rate_can_be_kept_until_its_decay_began() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let (whole, short) = (folder.path().join("whole"), folder.path().join("short"));
    let of = |out: &Path, epochs: &str, more: &[&str]| {
        let epochs = format!("training.epochs={epochs}");
        let sets = [
            "--set",
            STABLE,
            "--set",
            &epochs,
            "--set",
            "training.keep_checkpoints=1",
        ];
        pretrain(&photos, out, &[&sets[..], more].concat())
    };
    run(of(&whole, "6", &[]));
    run(of(&short, "4", &[]));
    // Eight steps, of which the last two decay: the checkpoint before them is kept besides the newest.
    let steps = |run: &Path| {
        let checkpoints = training::list_checkpoints(run).unwrap();
        checkpoints
            .iter()
            .map(|checkpoint| checkpoint.step)
            .collect::<Vec<_>>()
    };
    assert_eq!((steps(&short), steps(&whole)), (vec![6, 8], vec![9, 12]));

    let before = std::fs::read(short.join("config.toml")).unwrap();
    let text = refusal(of(&short, "6", &["--resume"]));
    assert!(text.contains("a run of 12 would have had other rates"), "{text}");
    assert!(text.contains("`learning_rate` from"), "{text}");
    assert!(
        text.contains("step-00000006 elsewhere: `--resume` then continues from it"),
        "{text}"
    );
    assert!(std::fs::read(short.join("config.toml")).unwrap() == before);

    std::fs::remove_dir_all(short.join("checkpoints/step-00000008")).unwrap();
    run(of(&short, "6", &["--resume"]));
    assert_same(&short, &whole);
    assert_eq!(steps(&short), [9, 12]);
}

#[test]
fn a_length_that_the_steps_depend_on_is_refused_or_allowed_with_its_jump() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let of = |epochs: &str, more: &[&str]| {
        let epochs = format!("training.epochs={epochs}");
        pretrain(&photos, &out, &[&["--set", &epochs][..], more].concat())
    };
    run(of("4", &[]));
    let facts = std::fs::read(out.join("run.json")).unwrap();
    let text = refusal(of("6", &["--resume"]));
    assert!(text.contains("has done 8 of 8 steps"), "{text}");
    assert!(
        text.contains("from step 8 to step 9 `learning_rate` from 0.000"),
        "{text}"
    );
    assert!(
        text.contains("`passer pretrain … --resume --allow-jump`"),
        "{text}"
    );
    assert!(std::fs::read(out.join("run.json")).unwrap() == facts);
    assert!(out.join("encoder.safetensors").exists());

    let text = said(of("6", &["--resume", "--allow-jump"]));
    assert!(
        text.contains("in place of 8; a run of that length would have had other rates"),
        "{text}"
    );
    let length = &json(&out.join("run.json"))["lengths"][0];
    let jump = length["jump"].as_str().unwrap();
    assert!(
        jump.starts_with("from step 8 to step 9 `learning_rate` from"),
        "{jump}"
    );
    // Another key is still refused, and the flag needs its verb.
    let text = refusal(of("6", &["--resume", "--set", "seed=1"]));
    assert!(text.contains("started with another `seed`"), "{text}");
    assert_eq!(
        of("8", &["--allow-jump"]).output().unwrap().status.code(),
        Some(2)
    );
}

#[test]
fn a_teachers_course_to_one_keeps_the_length_too() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let of = |more: &[&str]| {
        let mut command = crate::passer();
        command
            .args([
                "pretrain",
                "configs/pretrain/byol-resnet18-cifar10.toml",
                "--device",
                "flex",
                "--data",
            ])
            .arg(&photos)
            .arg("--out")
            .arg(&out);
        for set in [
            CONSTANT,
            "data.batch_images=16",
            "data.workers=0",
            "backbone.resnet.width=4",
            "training.checkpoint_every_epochs=1",
        ] {
            command.args(["--set", set]);
        }
        command.args(more);
        command
    };
    of(&["--set", "training.epochs=2"]).assert().success();
    let refused = of(&["--set", "training.epochs=4", "--resume"]).assert().code(1);
    let text = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(text.contains("`teacher_momentum` from"), "{text}");
    assert!(!text.contains("`learning_rate` from"), "{text}");
}

#[test]
fn checkpoints_come_by_the_clock_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let (whole, clocked) = (folder.path().join("whole"), folder.path().join("clocked"));
    run(pretrain(&photos, &whole, &[]));
    let often = [
        "--set",
        "training.checkpoint_every_minutes=1e-9",
        "--set",
        "training.checkpoint_every_epochs=6",
        "--set",
        "training.keep_checkpoints=99",
    ];
    run(pretrain(&photos, &clocked, &often));
    assert_same_but_encoder(&clocked, &whole);
    let checkpoints = training::list_checkpoints(&clocked).unwrap();
    let steps: Vec<usize> = checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    // From one in the middle of an epoch and of a window; the clock is no part of what the run is.
    for checkpoint in &checkpoints[5..] {
        std::fs::remove_dir_all(&checkpoint.path).unwrap();
    }
    run(pretrain(
        &photos,
        &clocked,
        &[&often[2..], &["--resume"]].concat(),
    ));
    assert_same_but_encoder(&clocked, &whole);
    let text = refusal(pretrain(
        &photos,
        &folder.path().join("none"),
        &["--set", "training.checkpoint_every_minutes=0"],
    ));
    assert!(
        text.contains("`training.checkpoint_every_minutes` must be finite and above 0, got 0"),
        "{text}"
    );
}

/// Encoders name their config.
fn assert_same_but_encoder(one: &Path, other: &Path) {
    assert_eq!(metrics(one), metrics(other));
    assert!(tensors(one) == tensors(other));
}
