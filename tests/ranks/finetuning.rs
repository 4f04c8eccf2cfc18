//! Fine-tuning on ranks: training, validation and scores are those of one device, kills and stops are those of pretraining.

use super::*;

/// 32 labeled pictures of each of two classes, which the pictures of another `first` do not repeat.
fn labeled(root: PathBuf, first: u32) -> PathBuf {
    for (class, hue) in [("blue", 2), ("red", 0)] {
        let class = root.join(class);
        std::fs::create_dir_all(&class).unwrap();
        for picture in first..first + 32 {
            let image = image::RgbImage::from_fn(20, 18, |x, y| {
                let mut pixel = [60, 60, 60];
                pixel[hue] = 80 + ((x * (picture + 3) + y * 7) % 120) as u8;
                pixel[1] = ((x * y + picture * 31) % 190) as u8;
                image::Rgb(pixel)
            });
            image.save(class.join(format!("{picture:02}.png"))).unwrap();
        }
    }
    root
}

/// Nothing crosses ranks but gradients and scores: statistics of 4 images, mixed 4 by 4.
const GROUPED: [&str; 3] = [
    "backbone.resnet.width=4",
    "training.batch_norm_images=4",
    "objective.mixing={ mixup_alpha = 0.8, cutmix_alpha = 1.0, probability = 1.0, switch_probability = 0.5, images = 4 }",
];
/// Statistics and mixing over the whole batch.
const WHOLE: [&str; 2] = [
    "backbone.resnet.width=4",
    "objective.mixing={ mixup_alpha = 0.8, cutmix_alpha = 1.0, probability = 1.0, switch_probability = 0.5 }",
];
/// No statistics at all.
const VIT: [&str; 2] = [
    GROUPED[2],
    "backbone={ vit = { width = 48, depth = 2, heads = 3, patch_px = 4, image_px = 16, position = \"learned\", interpolation = \"offset\", registers = 0, drop_path = 0.0, pooling = \"class_token\", initialization = \"truncated_normal\" } }",
];

/// `passer evaluate finetune` for 9 steps of 16 images; the epoch that is best on the held-out records is scored.
fn finetune(sets: &[&str], ranks: usize, folder: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = passer(ranks);
    command
        .args([
            "evaluate",
            "finetune",
            "configs/evaluate/finetune-resnet18-cifar10.toml",
        ])
        .args(["--from-scratch", "--device", "flex"]);
    for (name, path) in [
        ("--train", folder.join("train")),
        ("--test", folder.join("test")),
        ("--out", out.to_owned()),
    ] {
        command.arg(name).arg(path);
    }
    let common = [
        "data.batch_images=16",
        "data.workers=0",
        "training.epochs=3",
        "training.log_every_steps=1",
        "views.0.transforms.0.random_resized_crop.size_px=16",
        "objective.test_transforms.0.resize_exact.width_px=16",
        "objective.test_transforms.0.resize_exact.height_px=16",
        "objective.label_smoothing=0.1",
        "objective.average={ decay = 0.5 }",
        "objective.validation={ fraction = 0.25, seed = 0 }",
        "objective.keep=best_on_validation",
    ];
    for set in common.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

fn data(folder: &Path) {
    labeled(folder.join("train"), 0);
    labeled(folder.join("test"), 32);
}

fn curve(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("validation.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn results(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("result.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Results without what rounding changes.
fn scores(run: &Path) -> Vec<serde_json::Value> {
    let mut results = results(run);
    for result in &mut results {
        let settings = result["settings"].as_object_mut().unwrap();
        assert!(settings.remove("test_loss").unwrap().as_f64().unwrap() > 0.0);
    }
    results
}

fn top1(run: &Path) -> Vec<(u64, f64)> {
    let of = |line: &serde_json::Value| (line["step"].as_u64().unwrap(), line["top1"].as_f64().unwrap());
    curve(run).iter().map(of).collect()
}

#[test]
fn fine_tuning_on_ranks_is_that_of_one_device() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    // Statistics of a whole small batch soon magnify rounding: an epoch later a prediction may change too.
    for (name, sets, steps) in [
        ("grouped", &GROUPED[..], 9),
        ("whole", &WHOLE, 6),
        ("vit", &VIT, 9),
    ] {
        let out = |ranks: usize| folder.path().join(format!("{name}-{ranks}"));
        for ranks in [1, 2, 4] {
            finished(finetune(sets, ranks, folder.path(), &out(ranks), &[]));
        }
        let (one, curve) = (losses(&out(1)), top1(&out(1)));
        assert_eq!((one.len(), curve.len()), (9, 3));
        for ranks in [2, 4] {
            let out = out(ranks);
            let error = relative(&losses(&out)[..steps], &one[..steps]);
            assert!(error <= 1e-5, "{name}: {ranks} ranks are {error:e} off");
            let epochs = steps / 3;
            assert_eq!(top1(&out)[..epochs], curve[..epochs], "{name}: {ranks} ranks");
            if steps == one.len() {
                assert_eq!(scores(&out), scores(&folder.path().join(format!("{name}-1"))));
            }
            assert_eq!(results(&out)[0]["test_records"], 64);
            assert!(out.join("classifier.safetensors").exists());
        }
    }
}

/// Ranks are micro-batches, in training and in scoring.
#[test]
fn fine_tuning_ranks_are_micro_batches_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    for (name, sets) in [("grouped", &GROUPED[..]), ("vit", &VIT)] {
        let (one, two) = (
            folder.path().join(format!("{name}-one")),
            folder.path().join(format!("{name}-two")),
        );
        let parts = ["--set", "training.micro_batch_images=8"];
        finished(finetune(sets, 1, folder.path(), &one, &parts));
        finished(finetune(sets, 2, folder.path(), &two, &[]));
        let two_tensors = tensors(&two);
        for (path, expected) in tensors(&one) {
            // Running statistics are averaged in another order.
            if !path.contains("running_") {
                assert!(two_tensors[&path] == expected, "{name}: {path}");
            }
        }
        if name == "vit" {
            assert_eq!(curve(&two), curve(&one));
            let loss = |run: &Path| results(run)[0]["settings"]["test_loss"].as_f64().unwrap();
            assert_eq!(loss(&two).to_bits(), loss(&one).to_bits());
        }
    }
}

#[test]
fn a_killed_fine_tuning_resumes_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let (whole, out) = (folder.path().join("whole"), folder.path().join("killed"));
    finished(finetune(&GROUPED, 2, folder.path(), &whole, &[]));
    for kill in 0..3 {
        let mut child = finetune(&GROUPED, 2, folder.path(), &out, &["--resume"])
            .spawn()
            .unwrap();
        if kill == 0 {
            until_checkpoint(&out, &mut child);
        } else {
            std::thread::sleep(Duration::from_millis(250 * kill));
        }
        if let Some(rank) = processes(out.to_str().unwrap()).get(kill as usize % 2) {
            let _ = Command::new("kill").args(["-KILL", &rank.to_string()]).status();
        }
        child.wait_with_output().unwrap();
        until_gone(&out);
    }
    let copy = folder.path().join("on-4");
    let copied = Command::new("cp").arg("-r").arg(&out).arg(&copy).status();
    assert!(copied.unwrap().success());
    finished(finetune(&GROUPED, 4, folder.path(), &copy, &["--resume"]));
    let error = relative(&losses(&copy), &losses(&whole));
    assert!(error <= 1e-5, "resumed on 4 ranks: {error:e} off");
    assert_eq!(scores(&copy), scores(&whole));

    finished(finetune(&GROUPED, 2, folder.path(), &out, &["--resume"]));
    assert_eq!(metrics(&out), metrics(&whole));
    assert!(tensors(&out) == tensors(&whole));
    assert_eq!(curve(&out), curve(&whole));
    assert_eq!(results(&out), results(&whole));
    // A finished run is scored again, on any number of ranks.
    std::fs::remove_file(out.join("result.json")).unwrap();
    finished(finetune(&GROUPED, 4, folder.path(), &out, &["--resume"]));
    assert_eq!(scores(&out), scores(&whole));
}

#[test]
fn a_stop_reaches_all_ranks_of_a_fine_tuning() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let out = folder.path().join("run");
    let mut child = finetune(
        &GROUPED,
        2,
        folder.path(),
        &out,
        &["--set", "training.epochs=5000"],
    )
    .spawn()
    .unwrap();
    until_checkpoint(&out, &mut child);
    signal("-USR1", child.id());
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let step = training::latest_checkpoint(&out).unwrap().unwrap().step;
    let line = format!("interrupted at step {step}");
    assert!(text(&output).contains(&line), "{}", text(&output));
    assert!(!out.join("result.json").exists());
}

#[test]
fn a_fine_tuning_that_cannot_run_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    let out = folder.path().join("run");
    let once = |command: Command, line: &str| {
        let error = refusal(command);
        assert_eq!(error.matches(line).count(), 1, "{error}");
        until_gone(&out);
    };
    // In the config's own check, in that of its ranks, in the data's, in the loop's.
    let command = |ranks, more: &[&str]| finetune(&GROUPED, ranks, folder.path(), &out, more);
    once(
        command(2, &["--set", "objective.label_smoothing=1.5"]),
        "`objective.label_smoothing` must be at least 0 and below 1, got 1.5",
    );
    let more = [
        "--set",
        "data.batch_images=24",
        "--set",
        "objective.mixing.images=8",
    ];
    once(
        command(2, &more),
        "`objective.mixing.images` must divide the 12 images of a rank, or be a multiple of them, got 8",
    );
    once(
        command(3, &[]),
        "`data.batch_images` must be divisible by the 3 ranks, got 16",
    );
    let twice = folder.path().join("twice");
    labeled(twice.join("train"), 0);
    labeled(twice.join("test"), 0);
    once(
        finetune(&GROUPED, 2, &twice, &out, &[]),
        "training and test set are the same",
    );

    // Frozen evaluation has its own command.
    let mut command = passer(2);
    command
        .args([
            "evaluate",
            "run",
            "configs/evaluate/knn.toml",
            "--encoder",
            "an encoder",
        ])
        .args(["--train", "a", "--test", "b", "--out", "c"]);
    let error = refusal(command);
    assert_eq!(
        error.matches("`evaluate run` works in one process").count(),
        1,
        "{error}"
    );
    assert!(
        error.contains(
            "passer evaluate run configs/evaluate/knn.toml --encoder 'an encoder' --train a --test b --out c"
        ),
        "{error}"
    );
}
