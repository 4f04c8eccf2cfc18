//! Several ranks under `mpirun`: the same run as on one device, ends that all ranks share, and launches that are
//! refused.
//!
//! Run by `scripts/check-ranks.sh`, on Open MPI over this machine's memory.

#![allow(clippy::unwrap_used)]

#[path = "ranks/detection.rs"]
mod detection;
#[path = "ranks/failures.rs"]
mod failures;
#[path = "ranks/finetuning.rs"]
mod finetuning;
mod small_detector;

use burn::store::{BurnpackStore, ModuleStore};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// 64 pictures.
fn photos(folder: &Path) -> PathBuf {
    let root = folder.join("photos");
    std::fs::create_dir_all(&root).unwrap();
    for picture in 0..64u32 {
        let image = image::RgbImage::from_fn(40, 36, |x, y| {
            let shade = |k: u32| ((x * (picture % 13 + k) + y * (3 + k) + picture * 29) % 256) as u8;
            image::Rgb([shade(1), shade(5), shade(9)])
        });
        image.save(root.join(format!("{picture:02}.png"))).unwrap();
    }
    root
}

/// A recipe on a small network: 12 steps of 16 images.
struct Recipe {
    config: &'static str,
    sets: &'static [&'static str],
    /// Steps whose losses are compared: small networks with batch normalization soon magnify rounding a thousandfold.
    steps: usize,
}

const MOCO: Recipe = Recipe {
    config: "moco-v2-resnet18-cifar10.toml",
    sets: &[
        "training.batch_norm_images=4",
        "backbone.resnet.width=4",
        "objective.moco.queue_images=64",
        "objective.moco.embedding_width=16",
        "views.0.transforms.0.random_resized_crop.size_px=16",
    ],
    steps: 12,
};
/// Batch statistics over the whole batch, and negatives.
const SIMCLR: Recipe = Recipe {
    config: "simclr-resnet18-cifar10.toml",
    sets: &["backbone.resnet.width=4"],
    steps: 6,
};
/// Batch statistics over the whole batch, and Sinkhorn's sums.
const SWAV: Recipe = Recipe {
    config: "swav-resnet18-cifar10.toml",
    sets: &[
        "backbone.resnet.width=4",
        "objective.swav.hidden_width=32",
        "objective.swav.embedding_width=16",
        "objective.swav.prototypes=24",
    ],
    steps: 2,
};
/// The center.
const DINO: Recipe = Recipe {
    config: "dino-vit-cifar10.toml",
    sets: &[
        "backbone.vit.width=48",
        "backbone.vit.depth=2",
        "objective.dino.head.hidden_width=64",
        "objective.dino.head.prototypes=96",
    ],
    steps: 12,
};

/// `passer pretrain` on `ranks` ranks; without a launcher for 1.
fn pretrain(recipe: &Recipe, ranks: usize, data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = passer(ranks);
    command
        .arg("pretrain")
        .arg(Path::new("configs/pretrain").join(recipe.config))
        .args(["--device", "flex", "--data"])
        .arg(data)
        .arg("--out")
        .arg(out);
    let common = [
        "data.batch_images=16",
        "data.workers=0",
        "training.epochs=3",
        "training.log_every_steps=1",
        "schedule={ constant = {} }",
    ];
    for set in common.iter().chain(recipe.sets) {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

/// The program on `ranks` ranks; without a launcher for 1.
fn passer(ranks: usize) -> Command {
    if ranks == 1 {
        return in_root(env!("CARGO_BIN_EXE_passer"));
    }
    let mut command = mpirun();
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_passer")]);
    command
}

fn mpirun() -> Command {
    let mut command = in_root("mpirun");
    // A container's user is root, and ranks may be more than cores.
    command
        .args(["--oversubscribe", "--bind-to", "none"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("RAYON_NUM_THREADS", "1");
    command
}

/// The environment of [`mpirun`].
fn variables() -> Vec<(OsString, OsString)> {
    let command = mpirun();
    let set = command.get_envs();
    set.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect()
}

/// A program in the repository's root, whose output is read.
fn in_root(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn finished(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Step, loss and signals of each line of the log.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for clock in ["images_per_second", "data_wait", "unix_seconds"] {
            line.as_object_mut().unwrap().remove(clock).unwrap();
        }
        line
    };
    text.lines().map(line).collect()
}

fn losses(run: &Path) -> Vec<f64> {
    metrics(run)
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

/// All tensors of a run's last checkpoint by file and path.
fn tensors(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let checkpoint = training::latest_checkpoint(run).unwrap().unwrap().path;
    let mut found = BTreeMap::new();
    for file in ["student.bpk", "state.bpk"] {
        let mut store = BurnpackStore::from_file(checkpoint.join(file));
        for (path, tensor) in store.get_all_tensors().unwrap() {
            let data = burn::store::bridge::to_data(tensor).unwrap();
            found.insert(format!("{file}:{path}"), data.as_bytes().to_vec());
        }
    }
    assert!(found.len() > 10);
    found
}

fn relative(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let length =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    length(&mut ours.iter().zip(reference).map(|(a, b)| a - b)) / length(&mut reference.iter().copied())
}

#[test]
fn ranks_train_as_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    for recipe in [MOCO, SIMCLR, SWAV, DINO] {
        let out = |ranks: usize| folder.path().join(format!("{}-{ranks}", recipe.config));
        for ranks in [1, 2, 4] {
            finished(pretrain(&recipe, ranks, &data, &out(ranks), &[]));
        }
        let one = losses(&out(1));
        assert_eq!(one.len(), 12);
        for ranks in [2, 4] {
            let error = relative(&losses(&out(ranks))[..recipe.steps], &one[..recipe.steps]);
            assert!(
                error <= 1e-5,
                "{}: {ranks} ranks are {error:e} off",
                recipe.config
            );
            assert_eq!(
                training::list_checkpoints(&out(ranks))
                    .unwrap()
                    .last()
                    .unwrap()
                    .step,
                12
            );
            assert!(out(ranks).join("encoder.safetensors").exists());
        }
    }
}

/// Rank 0's clock decides on checkpoints of all; a run that got longer is the longer run.
#[test]
fn ranks_write_by_the_clock_and_get_longer() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let (whole, clocked) = (folder.path().join("whole"), folder.path().join("clocked"));
    finished(pretrain(&MOCO, 2, &data, &whole, &[]));
    let often = [
        "--set",
        "training.epochs=2",
        "--set",
        "training.checkpoint_every_minutes=1e-9",
        "--set",
        "training.keep_checkpoints=99",
    ];
    finished(pretrain(&MOCO, 2, &data, &clocked, &often));
    assert_eq!(training::list_checkpoints(&clocked).unwrap().len(), 8);
    let longer = ["--set", "training.keep_checkpoints=99", "--resume"];
    finished(pretrain(&MOCO, 2, &data, &clocked, &longer));
    assert_eq!(losses(&clocked), losses(&whole));
}

/// Statistics that stay inside a rank: the same bits as micro-batches, also in f16 with its common loss scale.
#[test]
fn ranks_are_micro_batches_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let unshuffled = ["--set", "objective.moco.shuffle=false"];
    for precision in ["f32", "f16"] {
        let precision = format!("training.precision={precision}");
        let more: Vec<&str> = unshuffled.into_iter().chain(["--set", &precision]).collect();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let parts: Vec<&str> = more
            .iter()
            .copied()
            .chain(["--set", "training.micro_batch_images=8"])
            .collect();
        finished(pretrain(&MOCO, 1, &data, &one, &parts));
        finished(pretrain(&MOCO, 2, &data, &two, &more));
        let (one_tensors, two_tensors) = (tensors(&one), tensors(&two));
        for (path, expected) in &one_tensors {
            // Running statistics are averaged in another order.
            if !path.contains("running_") {
                assert!(two_tensors[path] == *expected, "{precision}: {path}");
            }
        }
        std::fs::remove_dir_all(&one).unwrap();
        std::fs::remove_dir_all(&two).unwrap();
    }
}

/// Waits until the run has a checkpoint.
fn until_checkpoint(out: &Path, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while training::list_checkpoints(out).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "no checkpoint within a minute");
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes of this program whose arguments hold `mark`, the launcher left out.
fn processes(mark: &str) -> Vec<u32> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        if arguments.contains(mark) && arguments.starts_with(env!("CARGO_BIN_EXE_passer")) {
            found.push(id);
        }
    }
    found.sort_unstable();
    found
}

/// Waits until no rank of the run is left: its launcher may end while the system still takes the ranks apart.
fn until_gone(out: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes(out.to_str().unwrap()).is_empty() {
        assert!(Instant::now() < deadline, "ranks are left after 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.unwrap().success());
}

/// A killed rank takes the others with it, and the run resumes on as many ranks to the bit, on others within rounding.
#[test]
fn a_killed_rank_ends_all_and_the_run_resumes_on_any_number() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let whole = folder.path().join("whole");
    finished(pretrain(&MOCO, 2, &data, &whole, &[]));

    let out = folder.path().join("killed");
    for kill in 0..5 {
        let mut child = pretrain(&MOCO, 2, &data, &out, &["--resume"]).spawn().unwrap();
        if kill == 0 {
            until_checkpoint(&out, &mut child);
        } else {
            std::thread::sleep(Duration::from_millis(300 * kill));
        }
        let ranks = processes(out.to_str().unwrap());
        let Some(rank) = ranks.get(kill as usize % 2) else {
            continue;
        };
        let started = Instant::now();
        let _ = Command::new("kill").args(["-KILL", &rank.to_string()]).status();
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{:?}",
                started.elapsed()
            );
        }
        until_gone(&out);
    }
    // A copy of the last state, resumed on 1 and on 4 ranks.
    for ranks in [1, 4] {
        let copy = folder.path().join(format!("on-{ranks}"));
        let status = Command::new("cp")
            .arg("-r")
            .arg(&out)
            .arg(&copy)
            .status()
            .unwrap();
        assert!(status.success());
        finished(pretrain(&MOCO, ranks, &data, &copy, &["--resume"]));
        let error = relative(&losses(&copy), &losses(&whole));
        assert!(error <= 1e-5, "resumed on {ranks} ranks: {error:e} off");
    }
    finished(pretrain(&MOCO, 2, &data, &out, &["--resume"]));
    assert_eq!(metrics(&out), metrics(&whole));
    assert!(tensors(&out) == tensors(&whole));
}

/// Rank 0 reads the encoder, and all ranks train from it.
#[test]
fn ranks_start_from_an_encoder_as_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let first = folder.path().join("first");
    finished(pretrain(&MOCO, 1, &data, &first, &[]));
    let start = ["--start", first.to_str().unwrap(), "--set", "seed=3"];
    let started = |ranks| {
        let out = folder.path().join(format!("started-{ranks}"));
        finished(pretrain(&MOCO, ranks, &data, &out, &start));
        losses(&out)
    };
    let (one, two) = (started(1), started(2));
    let error = relative(&two, &one);
    assert!(error <= 1e-5, "2 ranks are {error:e} off");
    let drawn = folder.path().join("drawn");
    finished(pretrain(&MOCO, 2, &data, &drawn, &["--set", "seed=3"]));
    assert!(relative(&losses(&drawn), &two) > 1e-3);
}

#[test]
fn a_stop_reaches_all_ranks_at_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    for to_launcher in [true, false] {
        let out = folder.path().join(format!("stopped-{to_launcher}"));
        let mut child = pretrain(&MOCO, 2, &data, &out, &["--set", "training.epochs=5000"])
            .spawn()
            .unwrap();
        until_checkpoint(&out, &mut child);
        match to_launcher {
            // `timeout` signals the launcher and then its group: one request to stop.
            true => (0..2).for_each(|_| signal("-USR1", child.id())),
            false => signal("-TERM", processes(out.to_str().unwrap())[1]),
        }
        let started = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
        let step = training::latest_checkpoint(&out).unwrap().unwrap().step;
        assert!(
            text(&output).contains(&format!("interrupted at step {step}")),
            "{}",
            text(&output)
        );
        until_gone(&out);
    }
}

/// The error of a command that must fail within 20 s.
fn refusal(mut command: Command) -> String {
    let started = Instant::now();
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(started.elapsed() < Duration::from_secs(20));
    text(&output)
}

#[test]
fn ranks_that_differ_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let out = folder.path().join("run");
    // Two programs in one world: `mpirun -n 1 A : -n 1 B`.
    let pair = |first: (&Path, &str), second: (&Path, &str)| {
        let mut command = mpirun();
        for (index, (data, set)) in [first, second].into_iter().enumerate() {
            if index > 0 {
                command.arg(":");
            }
            let own = pretrain(&MOCO, 1, data, &out, &["--set", set]);
            command
                .args(["-n", "1"])
                .arg(own.get_program())
                .args(own.get_args());
        }
        command
    };
    let error = refusal(pair((&data, "seed=1"), (&data, "seed=2")));
    let once = "rank 1 has another config than rank 0: expected seed = 1, got seed = 2";
    assert_eq!(error.matches(once).count(), 1, "{error}");
    std::fs::remove_dir_all(&out).unwrap();

    let fewer = folder.path().join("fewer");
    std::fs::create_dir_all(&fewer).unwrap();
    for entry in std::fs::read_dir(&data).unwrap().flatten() {
        std::fs::copy(entry.path(), fewer.join(entry.file_name())).unwrap();
    }
    std::fs::write(fewer.join("00.png"), std::fs::read(fewer.join("01.png")).unwrap()).unwrap();
    let error = refusal(pair((&data, "seed=1"), (&fewer, "seed=1")));
    assert!(
        error.contains("rank 1 has another data set than rank 0"),
        "{error}"
    );
}

#[test]
fn launches_that_would_train_alone_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let out = folder.path().join("run");
    // torchrun's environment, without MPI behind it.
    let mut command = pretrain(&MOCO, 1, &data, &out, &[]);
    command.env("WORLD_SIZE", "2").env("RANK", "0");
    let error = refusal(command);
    assert!(
        error.contains("each would train alone") && error.contains("torchrun"),
        "{error}"
    );
    // Another launcher's environment: MPI finds a world of one.
    let mut command = pretrain(&MOCO, 1, &data, &out, &[]);
    command.env("PMI_SIZE", "2");
    let error = refusal(command);
    assert!(error.contains("MPI found 1"), "{error}");
    // Three ranks cannot divide 16 images.
    let error = refusal(pretrain(&MOCO, 3, &data, &out, &[]));
    let once = "`data.batch_images` must be divisible by the 3 ranks, got 16";
    assert_eq!(error.matches(once).count(), 1, "{error}");
    // What no rank can read is said once.
    let mut command = passer(2);
    command.args(["pretrain", "--unknown"]);
    let error = refusal(command);
    assert_eq!(
        error.matches("unexpected argument '--unknown'").count(),
        1,
        "{error}"
    );
    // A verb of one process.
    let mut command = passer(2);
    command.args(["shards", "inspect"]).arg(&data);
    let error = refusal(command);
    assert!(error.contains("`shards` works in one process"), "{error}");
    // Two ways to start the same ranks.
    let mut command = passer(2);
    let own = on_devices("flex,flex", &data, &out, &[]);
    command.args(own.get_args());
    let error = refusal(command);
    let once = "`--devices` starts the processes itself, and a launcher started 2";
    assert_eq!(error.matches(once).count(), 1, "{error}");
}

/// `passer pretrain --devices`, in the environment of [`mpirun`].
fn on_devices(devices: &str, data: &Path, out: &Path, more: &[&str]) -> Command {
    let one = pretrain(&MOCO, 1, data, out, more);
    let mut command = in_root(one.get_program());
    for argument in one.get_args() {
        match argument.to_str() {
            Some("--device") => command.arg("--devices"),
            Some("flex") => command.arg(devices),
            _ => command.arg(argument),
        };
    }
    command.envs(variables());
    command
}

#[test]
fn devices_start_their_own_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let (launched, own) = (folder.path().join("launched"), folder.path().join("own"));
    finished(pretrain(&MOCO, 2, &data, &launched, &[]));
    let output = on_devices("flex,flex", &data, &own, &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(metrics(&own), metrics(&launched));
    assert!(tensors(&own) == tensors(&launched));
    let printed = format!("{}\n", own.join("encoder.safetensors").display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), printed, "rank 0's alone");

    // The printed line is one that a user can copy.
    let shown = text(&output);
    let line = shown
        .lines()
        .find_map(|line| line.strip_prefix("running: "))
        .unwrap();
    assert!(
        line.contains(" -n 2 ") && line.contains(" --device flex "),
        "{line}"
    );
    let copied = folder.path().join("copied");
    let line = line.replace(own.to_str().unwrap(), copied.to_str().unwrap());
    let mut copy = in_root("sh");
    copy.args(["-c", &line]).envs(variables());
    finished(copy);
    assert!(tensors(&copied) == tensors(&launched));
}

#[test]
fn signals_and_the_exit_status_pass_through_devices() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    for name in ["-TERM", "-INT", "-USR1"] {
        let out = folder.path().join(name);
        let mut child = on_devices("flex,flex", &data, &out, &["--set", "training.epochs=5000"])
            .spawn()
            .unwrap();
        until_checkpoint(&out, &mut child);
        let started = Instant::now();
        // `timeout` signals the process and then its group.
        signal(name, child.id());
        signal(name, child.id());
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "{name}");
        assert_eq!(output.status.code(), Some(130), "{name}: {}", text(&output));
        let step = training::latest_checkpoint(&out).unwrap().unwrap().step;
        let stopped = format!("interrupted at step {step}");
        assert!(text(&output).contains(&stopped), "{name}: {}", text(&output));
        assert!(processes(out.to_str().unwrap()).is_empty());
    }
    let out = folder.path().join("run");
    let output = on_devices("flex,flex,flex", &data, &out, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("must be divisible by the 3 ranks, got 16"));

    let mut without = on_devices("flex,flex", &data, &out, &[]);
    without.env("PATH", folder.path());
    let error = refusal(without);
    assert!(
        error.contains("`--devices` runs `mpiexec`") && error.contains("hint: "),
        "{error}"
    );
    let mut inside = on_devices("flex,flex", &data, &out, &[]);
    inside.env("PMI_SIZE", "2");
    let error = refusal(inside);
    assert!(error.contains("a launcher started 2 (PMI_SIZE)"), "{error}");
}
