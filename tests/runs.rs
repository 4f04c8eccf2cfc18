//! Runs from outside: kill and resume, worker counts, and the complete path from photos to a score.

use crate::{passer, root};
use burn::store::{BurnpackStore, ModuleStore};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An image folder of two classes that differ in color; 16 pictures per class.
pub(crate) fn photos(folder: &Path) -> PathBuf {
    pictures(folder.join("photos"), 0)
}

/// The same number of other photos of the same classes.
pub(crate) fn other_photos(folder: &Path) -> PathBuf {
    pictures(folder.join("others"), 16)
}

fn pictures(root: PathBuf, first: u32) -> PathBuf {
    for (class, hue) in [("blue", 2), ("red", 0)] {
        let class = root.join(class);
        std::fs::create_dir_all(&class).unwrap();
        for picture in first..first + 16 {
            let image = image::RgbImage::from_fn(40, 36, |x, y| {
                let mut pixel = [30, 30, 30];
                pixel[hue] = 120 + ((x * (picture + 3) + y * 7) % 120) as u8;
                pixel[1] = ((x * y + picture * 31) % 90) as u8;
                image::Rgb(pixel)
            });
            image.save(class.join(format!("{picture:02}.png"))).unwrap();
        }
    }
    root
}

/// The CIFAR-10 recipe shrunk to 12 steps of a tiny network.
const SHRUNK: [&str; 9] = [
    "data.batch_images=16",
    "training.batch_norm_images=8",
    "training.epochs=6",
    "training.log_every_steps=3",
    "training.keep_checkpoints=2",
    "backbone.resnet.width=4",
    "objective.moco.queue_images=64",
    "objective.moco.embedding_width=16",
    "views.0.transforms.0.random_resized_crop.size_px=16",
];

/// `passer pretrain` of the shrunk recipe.
pub(crate) fn pretrain(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
        .arg("pretrain")
        .arg("configs/pretrain/moco-v2-resnet18-cifar10.toml");
    command
        .args(["--device", "flex"])
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out);
    for set in SHRUNK {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

/// Runs a command that must succeed.
pub(crate) fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Objects of a file of JSON lines.
pub(crate) fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Lines of `metrics.jsonl` without their clock fields.
pub(crate) fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let mut lines = lines(&run.join("metrics.jsonl"));
    for line in &mut lines {
        for clock in ["images_per_second", "data_wait", "unix_seconds"] {
            line.as_object_mut().unwrap().remove(clock).unwrap();
        }
    }
    lines
}

/// All tensors of a run's last checkpoint by file and path. Parameter ids are ignored, because they differ
/// between processes.
pub(crate) fn tensors(run: &Path) -> BTreeMap<String, Vec<u8>> {
    tensors_of(&training::latest_checkpoint(run).unwrap().unwrap().path)
}

/// [`tensors`] of a checkpoint.
fn tensors_of(checkpoint: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in ["student.bpk", "state.bpk"] {
        let mut store = BurnpackStore::from_file(checkpoint.join(file));
        for (path, tensor) in store.get_all_tensors().unwrap() {
            let data = burn::store::bridge::to_data(tensor).unwrap();
            found.insert(format!("{file}:{path}"), data.as_bytes().to_vec());
        }
    }
    found
}

/// Kills `command`, which starts or resumes in the run directory `out`, at `times` random moments, most of
/// them early, and lets `after` inspect the files after each kill. A run that ends before its kill starts
/// again from the first step.
pub(crate) fn kill_at_random(
    times: usize,
    whole_time: Duration,
    out: &Path,
    command: impl Fn() -> Command,
    after: impl Fn(),
) {
    let mut kills = 0;
    let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ u64::from(std::process::id());
    while kills < times {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let wait = whole_time.mul_f64((state >> 40) as f64 / (1 << 24) as f64 * 0.6);
        let mut child = command().stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait.max(Duration::from_millis(1)));
        if child.try_wait().unwrap().is_some() {
            std::fs::remove_dir_all(out).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        after();
    }
}

/// [`tensors`] of a MoCo run, whose queue must be among them.
fn moco_tensors(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let found = tensors(run);
    assert!(found.contains_key("state.bpk:queue"), "{:?}", found.keys());
    found
}

#[test]
fn twenty_kills_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let whole = folder.path().join("whole");
    let started = Instant::now();
    run(pretrain(&photos, &whole, &[]));
    let whole_time = started.elapsed();
    assert_eq!(metrics(&whole).len(), 4);

    let killed = folder.path().join("killed");
    let resumed = || pretrain(&photos, &killed, &["--resume"]);
    kill_at_random(20, whole_time, &killed, resumed, || {
        // At any moment, the newest checkpoint is complete.
        if killed.exists() && training::latest_checkpoint(&killed).unwrap().is_some() {
            moco_tensors(&killed);
        }
    });
    run(pretrain(&photos, &killed, &["--resume"]));
    assert_eq!(metrics(&whole), metrics(&killed));
    assert_eq!(event_records(&whole), event_records(&killed));
    assert_eq!(moco_tensors(&whole), moco_tensors(&killed));
    let encoder = |run: &Path| std::fs::read(run.join("encoder.safetensors")).unwrap();
    assert_eq!(encoder(&whole), encoder(&killed));
    assert_eq!(
        training::list_checkpoints(&killed).unwrap().len(),
        2,
        "the last two checkpoints are kept"
    );
}

/// Records of the only TensorBoard event file of a run: each is a length, a checksum, a message and a checksum.
fn event_records(run: &Path) -> usize {
    let names = std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut files = names.filter(|path| path.to_string_lossy().contains("/events.out.tfevents."));
    let (file, other) = (files.next().unwrap(), files.next());
    assert_eq!(other, None, "one file, however often the run was killed");
    let bytes = std::fs::read(file).unwrap();
    let (mut at, mut records) = (0, 0);
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (at, records) = (at + 16 + length as usize, records + 1);
    }
    assert_eq!(at, bytes.len());
    records
}

#[test]
fn runs_are_shown_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let (one, other) = (folder.path().join("seed-0"), folder.path().join("seed-1"));
    run(pretrain(&photos, &one, &[]));
    run(pretrain(&photos, &other, &["--set", "seed=1"]));
    let report = |more: &[&std::ffi::OsStr]| passer().arg("report").arg(&one).args(more).assert().success();
    // A page of one run lies in its directory.
    report(&[]);
    let page = std::fs::read_to_string(one.join("run.html")).unwrap();
    assert!(page.contains("<h1>seed-0</h1>") && page.contains("data:image/jpeg;base64,"));
    assert!(page.contains("Momentum Contrast for Unsupervised Visual Representation Learning"));

    let out = folder.path().join("pages/both.html");
    let shown = report(&[
        other.as_os_str(),
        "--json".as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ]);
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("seed-0") && page.contains("seed-1") && !page.contains("<script"));
    let facts: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    let of_one = &facts["runs"][0];
    let last = lines(&one.join("metrics.jsonl")).pop().unwrap();
    assert_eq!(of_one["last"]["train/loss"], last["loss"]);
    assert_eq!((&of_one["step"], &of_one["finished"]), (&12.into(), &true.into()));
    assert_eq!(of_one["licences"], "not stated: 32");
    assert_eq!(
        facts["groups_over_seeds"][0]["seeds"],
        serde_json::json!(["0", "1"])
    );
    assert_eq!(facts["differences"].as_array().unwrap().len(), 1);

    // Two records open the file, one has texts and views, and each line of the log has one.
    assert_eq!(event_records(&one), 3 + lines(&one.join("metrics.jsonl")).len());
    passer()
        .arg("report")
        .arg(&photos)
        .assert()
        .failure()
        .stderr(contains("is not a run directory").and(contains("hint: give the folder that")));
}

#[test]
fn a_damaged_line_of_the_log_takes_no_others_along() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    run(pretrain(&photos, &out, &["--set", "training.log_every_steps=1"]));
    // Killed after step 10 of 12; the second line is damaged.
    let checkpoints = training::list_checkpoints(&out).unwrap();
    std::fs::remove_dir_all(&checkpoints.last().unwrap().path).unwrap();
    std::fs::remove_file(out.join("encoder.safetensors")).unwrap();
    let log = out.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let damaged = text.replacen("{\"step\":2,", "{\"st", 1);
    std::fs::write(&log, &damaged).unwrap();
    let again = pretrain(
        &photos,
        &out,
        &["--set", "training.log_every_steps=1", "--resume"],
    )
    .output()
    .unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    assert!(
        said.contains("1 line of metrics.jsonl cannot be read (line 2); the others are kept"),
        "{said}"
    );
    let text = std::fs::read_to_string(&log).unwrap();
    let kept: Vec<&str> = damaged.lines().take(10).collect();
    let now: Vec<&str> = text.lines().collect();
    assert_eq!((now.len(), &now[..10]), (12, &kept[..]));
    let shown = passer().arg("report").arg(&out).arg("--json").assert().success();
    let facts: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(facts["runs"][0]["step"], 12);
    assert_eq!(
        facts["runs"][0]["remarks"][0],
        "1 line of metrics.jsonl cannot be read (line 2)"
    );
    // One damaged run hides no other.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("config.toml"), "seed = = 1").unwrap();
    std::fs::write(other.join("metrics.jsonl"), "").unwrap();
    let shown = passer()
        .arg("report")
        .args([&out, &other])
        .arg("--json")
        .assert()
        .success();
    let facts: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(
        (
            facts["runs"].as_array().unwrap().len(),
            &facts["damaged"][0]["name"]
        ),
        (1, &"other".into())
    );
    let warned = String::from_utf8_lossy(&shown.get_output().stderr).into_owned();
    assert!(
        warned.contains("is left out: its config.toml cannot be read"),
        "{warned}"
    );
    passer().arg("report").args([&other, &photos]).assert().code(1);
}

/// A temperature that makes gradients hundreds of times larger causes an overflow.
#[test]
fn f16_leaves_overflowing_steps_out_counts_them_and_resumes_with_its_scale() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let f16 = |out: &Path, more: &[&str]| {
        let mut all = vec![
            "--set",
            "training.precision=\"f16\"",
            "--set",
            "objective.moco.temperature=0.0005",
        ];
        all.extend(more);
        pretrain(&photos, out, &all)
    };
    let whole = folder.path().join("whole");
    run(f16(&whole, &[]));
    let lines = metrics(&whole);
    let last = lines.last().unwrap();
    let (scale, skipped) = (
        last["loss_scale"].as_f64().unwrap(),
        last["skipped_steps"].as_u64().unwrap(),
    );
    assert!(skipped > 0 && skipped < 12, "{last}");
    assert_eq!(scale, 65536.0 / f64::from(1u32 << skipped), "{last}");

    let killed = folder.path().join("killed");
    let mut child = f16(&killed, &[]).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !killed.exists() || training::latest_checkpoint(&killed).unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    run(f16(&killed, &["--resume"]));
    assert_eq!(lines, metrics(&killed));
    assert_eq!(moco_tensors(&whole), moco_tensors(&killed));
}

#[test]
fn worker_counts_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let of = |workers: usize| {
        let out = folder.path().join(format!("workers-{workers}"));
        run(pretrain(
            &photos,
            &out,
            &["--set", &format!("data.workers={workers}")],
        ));
        (metrics(&out), moco_tensors(&out))
    };
    let one = of(1);
    assert_eq!(one, of(4));
    assert_eq!(one, of(0));
}

#[test]
fn ctrl_c_ends_with_a_checkpoint_and_the_run_goes_on() {
    ends_with_a_checkpoint("-INT");
}

#[test]
fn sigterm_and_a_lost_terminal_end_with_a_checkpoint_too() {
    ends_with_a_checkpoint("-TERM");
    // Under `nohup` these tests, and their child processes, should survive their terminal.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_some_and(|mask| mask & 1 == 1) {
        eprintln!("SIGHUP is ignored here: not tried");
        return;
    }
    ends_with_a_checkpoint("-HUP");
}

/// A finished run in `folder`, and its newest checkpoint.
pub(crate) fn finished(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let (photos, out) = (photos(folder), folder.join("run"));
    run(pretrain(&photos, &out, &[]));
    let newest = training::latest_checkpoint(&out).unwrap().unwrap().path;
    (photos, out, newest)
}

/// The message of a run that must fail.
pub(crate) fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn checkpoints_of_nobody_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out, newest) = finished(folder.path());
    for name in ["config.toml", "run.json"] {
        let aside = folder.path().join(name);
        std::fs::rename(out.join(name), &aside).unwrap();
        for more in [&["--resume"][..], &[]] {
            let text = refusal(pretrain(&photos, &out, more));
            assert!(
                text.contains(name) || text.contains("already holds a run"),
                "{text}"
            );
        }
        std::fs::rename(&aside, out.join(name)).unwrap();
    }
    assert!(newest.join("student.bpk").exists());
}

#[test]
fn a_run_that_diverges_keeps_a_checkpoint_of_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (photos(folder.path()), folder.path().join("run"));
    let wild = [
        "--set",
        "optimizer.sgd.learning_rate_per_256=1e13",
        "--set",
        "training.checkpoint_every_epochs=1",
    ];
    let text = refusal(pretrain(&photos, &out, &wild));
    assert!(text.contains("another `--out`"), "{text}");
    for checkpoint in training::list_checkpoints(&out).unwrap() {
        for (name, bytes) in tensors_of(&checkpoint.path) {
            let finite = bytes
                .chunks_exact(4)
                .all(|b| f32::from_le_bytes(b.try_into().unwrap()).is_finite());
            assert!(finite, "{name} of {}", checkpoint.path.display());
        }
    }
}

fn ends_with_a_checkpoint(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let mut long = pretrain(&photos, &out, &["--set", "training.epochs=2000"]);
    let child = long.spawn().unwrap();
    // Wait for the first epochs, then interrupt.
    let deadline = Instant::now() + Duration::from_secs(60);
    while training::list_checkpoints(&out).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "no checkpoint within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Twice: `timeout` signals the process and then its group.
    for _ in 0..2 {
        let status = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("interrupted at step") && text.contains("--resume"),
        "{text}"
    );
    let step = training::latest_checkpoint(&out).unwrap().unwrap().step;
    assert!(text.contains(&format!("interrupted at step {step}")), "{text}");
}

/// `passer features` at two taps, a photo a batch, so slow that it can be killed after its first batch, which is on disk
/// at once, and before its last on any machine.
pub(crate) fn slow_features(encoder: &Path, photos: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .env("RAYON_NUM_THREADS", "1")
        .args(["features", "--device", "flex", "--size-px", "2560"])
        .args(["--batch-images", "1", "--workers", "0"])
        .args(["--taps", "pooled,res4", "--encoder"])
        .arg(encoder)
        .arg("--data")
        .arg(photos)
        .arg("--out")
        .arg(out)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn features_go_on_after_kills_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let encoder = crate::weights::fixture(folder.path(), "moco-v2-legacy.pth.tar");
    let features = |out: &Path| slow_features(&encoder, &photos, out, &["--dtype", "f16"]);
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    run(features(&whole));
    let state = folder.path().join("killed.partial/state.json");
    let rows = || -> Option<u64> {
        let state = std::fs::read(&state).ok()?;
        serde_json::from_slice::<serde_json::Value>(&state).unwrap()["rows"].as_u64()
    };
    let mut kept = vec![];
    while kept.len() < 2 {
        let before = rows();
        let mut child = features(&killed).stderr(Stdio::null()).spawn().unwrap();
        while rows() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be killed"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        kept.push(rows().unwrap());
    }
    assert!(kept[0] < kept[1] && kept[1] < 32, "{kept:?} rows");
    run(features(&killed));
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&killed).unwrap());
    assert!(!folder.path().join("killed.partial").exists());
}

#[test]
fn from_photos_to_a_score() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let shards = folder.path().join("shards");
    passer()
        .args(["shards", "pack"])
        .arg(&photos)
        .arg("--out")
        .arg(&shards)
        .assert()
        .success();
    passer()
        .args(["shards", "verify"])
        .arg(&shards)
        .assert()
        .success();
    let out = folder.path().join("run");
    // Neither a forgotten shard nor a NAS's thumbnails pass in silence.
    std::fs::write(shards.join("shard-000001.tar.gz"), b"\x1f\x8b\x08\0").unwrap();
    let of_train = serde_json::json!([
        { "reason": "compressed_shard", "kind": ".gz", "count": 1, "example": "shard-000001.tar.gz" }
    ]);
    run(pretrain(&shards, &out, &[]));
    let facts = std::fs::read_to_string(out.join("run.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    assert_eq!((&facts["records"], &facts["listing"]), (&32.into(), &of_train));
    let others = other_photos(folder.path());
    std::fs::create_dir_all(others.join("red/@eaDir")).unwrap();
    std::fs::copy(others.join("red/16.png"), others.join("red/@eaDir/T.jpg")).unwrap();
    let scores = folder.path().join("scores");
    passer()
        .args([
            "evaluate",
            "run",
            "configs/evaluate/small-images.toml",
            "--device",
            "flex",
        ])
        .arg("--encoder")
        .arg(&out)
        .arg("--train")
        .arg(&shards)
        .arg("--test")
        .arg(&others)
        .arg("--out")
        .arg(&scores)
        .args([
            "--set",
            "protocols.0.knn-dino.neighbors=[5]",
            "--set",
            "protocols.0.knn-dino.headline_neighbors=5",
        ])
        .assert()
        .success()
        .stderr(contains("1 .gz (such as `shard-000001.tar.gz`)"))
        .stderr(contains("1 (such as `red/@eaDir`)"));
    let text = std::fs::read_to_string(scores.join("result.json")).unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(results.len() >= 3);
    for result in &results {
        for key in ["protocol", "metric", "value", "encoder", "test_records"] {
            assert!(!result[key].is_null(), "{result} lacks `{key}`");
        }
        assert_eq!(result["test_records"], 32);
        assert_eq!(result["train_listing"], of_train);
        assert_eq!(result["test_listing"][0]["reason"], "system_folder");
        // Color separates the classes: chance is 0.5.
        assert!(result["value"].as_f64().unwrap() > 0.8, "{result}");
    }
    let report = std::fs::read_to_string(scores.join("report.html")).unwrap();
    for part in [
        "resnet18-w4-small moco on others</h1>",
        "id=\"confusion\"",
        "<th scope=\"row\">red</th>",
    ] {
        assert!(report.contains(part), "{part}");
    }

    // The features alone give the same score, with or without encoder and photos.
    let alone = folder.path().join("alone");
    let of_features = |test: &Path| {
        let mut command = passer();
        command
            .args(["evaluate", "features", "configs/evaluate/small-images.toml"])
            .args(["--device", "flex", "--train"])
            .arg(scores.join("features-train.safetensors"))
            .arg("--test")
            .arg(test)
            .arg("--out")
            .arg(&alone)
            .args(["--set", "protocols.0.knn-dino.neighbors=[5]"])
            .args(["--set", "protocols.0.knn-dino.headline_neighbors=5"]);
        command.assert()
    };
    of_features(&scores.join("features-test.safetensors"))
        .success()
        .stdout(contains("knn-dino"));
    let text = std::fs::read_to_string(alone.join("result.json")).unwrap();
    let of_features_results: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let values = |results: &[serde_json::Value]| -> Vec<(serde_json::Value, serde_json::Value)> {
        let pairs = results.iter();
        pairs
            .map(|result| (result["metric"].clone(), result["value"].clone()))
            .collect()
    };
    assert_eq!(values(&of_features_results), values(&results));
    let made = folder.path().join("made.safetensors");
    passer()
        .args(["features", "--device", "flex", "--encoder"])
        .arg(&out)
        .arg("--data")
        .arg(other_photos(folder.path()))
        .args(["--transforms-of", "configs/evaluate/small-images.toml", "--out"])
        .arg(&made)
        .assert()
        .success();
    of_features(&made)
        .success()
        .stderr(contains("has the scores of knn-dino"));
    of_features(&scores.join("features-train.safetensors"))
        .code(1)
        .stderr(contains("the same 32 records"));
    of_features(&scores.join("report.html"))
        .code(1)
        .stderr(contains("report.html`: it is no safetensors file"));
}
