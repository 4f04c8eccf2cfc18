//! `passer doctor`: the machine in, lines that say what is well, what is worth knowing, and what to mend out.

use crate::devices::{self, BACKENDS};
use crate::failure::Problems;
use crate::output::counted;
use crate::progress::duration;
use crate::{configs, first_kernel, machine, provenance, smoke};
use burn::tensor::Device;
use objectives::ObjectiveConfig;
use serde::Serialize;
use serde_json::Map;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use training::{Config, Replicas, RunOptions};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder where run directories will be made
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    runs: PathBuf,
    /// Leave out the two steps of training on each device
    #[arg(long)]
    no_training: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How it is with a part of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something will fail.
    Problem,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        })
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    state: State,
    /// The part of the machine.
    subject: String,
    text: String,
    /// What to do.
    cure: Option<String>,
}

fn ok(subject: &str, text: impl Into<String>) -> Finding {
    Finding {
        state: State::Ok,
        subject: subject.into(),
        text: text.into(),
        cure: None,
    }
}

fn note(subject: &str, text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding {
        state: State::Note,
        cure: Some(cure.into()),
        ..ok(subject, text)
    }
}

fn problem(subject: &str, text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding {
        state: State::Problem,
        cure: Some(cure.into()),
        ..ok(subject, text)
    }
}

/// Memory, MiB, below which a recipe at 224 px has no room.
const LEAST_MEMORY_MIB: u64 = 4 << 10;
/// Free space, MiB, below which a run's checkpoints may fill the disk.
const LEAST_DISK_MIB: u64 = 5 << 10;
/// Free space, MiB, at which the next file fails.
const FULL_DISK_MIB: u64 = 200;
/// Open files at once, below which many shards and workers reach the limit.
const LEAST_FILES: u64 = 1024;
/// Shared memory, MiB, that ranks on one machine exchange values through; containers often have 64.
const LEAST_SHARED_MIB: u64 = 256;
/// The first second of 2026: no clock that is right is behind it.
const BUILT_AFTER: u64 = 1_767_225_600;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut report = Report {
        shows: !arguments.json,
        findings: vec![],
    };
    report.add(program());
    report.add(processor());
    report.add(threads());
    report.add(memory(
        machine::host_memory_mib(),
        machine::available_memory_mib(),
    ));
    report.add(disk(
        "disk of runs",
        &arguments.runs,
        machine::disk_mib(nearest(&arguments.runs)),
    ));
    report.add(writable(&arguments.runs));
    report.add(disk(
        "disk of temporary files",
        &std::env::temp_dir(),
        machine::disk_mib(&std::env::temp_dir()),
    ));
    #[cfg(feature = "tuned")]
    report.add(kernels());
    if cfg!(unix) {
        report.add(files(machine::open_files()));
        let shared = Path::new("/dev/shm");
        report.add(shared_memory(
            shared.exists().then(|| machine::disk_mib(shared)).flatten(),
        ));
    }
    report.add(clock(SystemTime::now()));
    report.add(mpi());
    if let Some(finding) = display_folder() {
        report.add(finding);
    }
    for (backend, compiled) in BACKENDS {
        if compiled {
            of_backend(backend, !arguments.no_training, &mut report);
        }
    }
    report.end(arguments.json)
}

struct Report {
    shows: bool,
    findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding, and shows it at once: a device takes a while.
    fn add(&mut self, finding: Finding) {
        if self.shows {
            println!("{:<8} {}: {}", finding.state, finding.subject, finding.text);
            if let Some(cure) = &finding.cure {
                println!("         {cure}");
            }
        }
        self.findings.push(finding);
    }

    fn end(self, json: bool) -> anyhow::Result<()> {
        let count = |state| {
            self.findings
                .iter()
                .filter(|finding| finding.state == state)
                .count()
        };
        let (notes, problems) = (count(State::Note), count(State::Problem));
        if json {
            let report = serde_json::json!({
                "findings": self.findings,
                "notes": notes,
                "problems": problems,
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{}, {}", counted(problems, "problem"), counted(notes, "note"));
        }
        match problems {
            0 => Ok(()),
            _ => Err(Problems.into()),
        }
    }
}

fn program() -> Finding {
    let features = [
        ("onnx", cfg!(feature = "onnx")),
        ("mpi", cfg!(feature = "mpi")),
        ("tuned", cfg!(feature = "tuned")),
        ("cpp", cfg!(feature = "cpp")),
    ];
    let names = BACKENDS
        .into_iter()
        .chain(features)
        .filter(|(_, is_on)| *is_on)
        .map(|(name, _)| name);
    ok(
        "program",
        format!(
            "passer {}, commit {}, with {}",
            env!("CARGO_PKG_VERSION"),
            provenance::COMMIT,
            names.collect::<Vec<_>>().join(", ")
        ),
    )
}

/// The instructions that the kernels for the CPU choose among at run time.
fn processor() -> Finding {
    let instructions = instructions();
    let text = format!("{}, {}", std::env::consts::ARCH, instructions.join(", "));
    let is_slow =
        cfg!(target_arch = "x86_64") && !(instructions.contains(&"avx2") && instructions.contains(&"fma"));
    match is_slow {
        true => note(
            "cpu",
            text,
            "without AVX2 and FMA the CPU trains several times slower: use a GPU, or another machine",
        ),
        false => ok("cpu", text),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<&'static str> {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    known
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Vec<&'static str> {
    vec!["its own vector instructions"]
}

fn threads() -> Finding {
    let threads = rayon::current_num_threads();
    let cores = std::thread::available_parallelism().map_or(threads, usize::from);
    let text = format!("{threads} of {cores}");
    match threads < cores {
        true => note(
            "threads",
            text,
            "RAYON_NUM_THREADS bounds them: unset it to use all",
        ),
        false => ok("threads", text),
    }
}

fn memory(whole: Option<u64>, available: Option<u64>) -> Finding {
    let Some(whole) = whole else {
        return ok("memory", "the system does not tell");
    };
    let text = match available {
        Some(available) => format!("{whole} MiB, {available} MiB of them free"),
        None => format!("{whole} MiB"),
    };
    match available.unwrap_or(whole) < LEAST_MEMORY_MIB {
        true => note(
            "memory",
            text,
            "recipes at 224 px need more: lower `data.batch_images`, or set `training.micro_batch_images`",
        ),
        false => ok("memory", text),
    }
}

/// The folder, or the nearest one above it that exists.
fn nearest(folder: &Path) -> &Path {
    let mut folders = folder.ancestors().filter(|folder| folder.exists());
    folders.next().unwrap_or(Path::new("."))
}

fn disk(subject: &str, folder: &Path, space: Option<(u64, u64)>) -> Finding {
    let place = folder.display();
    let Some((free, whole)) = space else {
        return ok(subject, format!("`{place}`: the system does not tell its space"));
    };
    let text = format!("`{place}`: {free} MiB free of {whole} MiB");
    if free < FULL_DISK_MIB {
        problem(
            subject,
            text,
            "the disk is full: make room, or name another folder",
        )
    } else if free < LEAST_DISK_MIB {
        let cure =
            "checkpoints of a large network have a GiB each: lower `training.keep_checkpoints`, or make room";
        note(subject, text, cure)
    } else {
        ok(subject, text)
    }
}

/// Whether a run directory can be made.
fn writable(folder: &Path) -> Finding {
    let subject = "folder of runs";
    let place = nearest(folder);
    let probe = place.join(format!(".passer-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"passer").and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => ok(subject, format!("`{}` can be written to", place.display())),
        Err(error) => problem(
            subject,
            format!("`{}` cannot be written to: {error}", place.display()),
            "name another folder with `--runs`, and as `--out` of runs",
        ),
    }
}

/// The folder of compiled kernels and of the tuner's choices.
#[cfg(feature = "tuned")]
fn kernels() -> Finding {
    let subject = "kernels of GPUs";
    match crate::kernel_cache::folder_and_bytes() {
        Ok((folder, bytes)) => ok(subject, format!("`{}`: {} MiB", folder.display(), bytes >> 20)),
        Err(reason) => note(
            subject,
            reason,
            "they are compiled and tuned again in each run: PASSER_CACHE_DIR names another folder",
        ),
    }
}

fn files(most: Option<u64>) -> Finding {
    let Some(most) = most else {
        return ok("open files", "the system sets no limit, or does not tell it");
    };
    let text = format!("{most} at once");
    match most < LEAST_FILES {
        true => note(
            "open files",
            text,
            "many shards and workers need more: `ulimit -n 4096` before the run",
        ),
        false => ok("open files", text),
    }
}

fn shared_memory(space: Option<(u64, u64)>) -> Finding {
    let Some((free, _)) = space else {
        return ok("shared memory", "there is no `/dev/shm`");
    };
    let text = format!("{free} MiB free in `/dev/shm`");
    match free < LEAST_SHARED_MIB && cfg!(feature = "mpi") {
        true => note(
            "shared memory",
            text,
            "ranks on one machine exchange values through it: give a container more (`docker run --shm-size=1g`)",
        ),
        false => ok("shared memory", text),
    }
}

fn clock(now: SystemTime) -> Finding {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let text = evaluation::runs::utc(seconds as f64);
    match seconds < BUILT_AFTER {
        true => problem(
            "clock",
            text,
            "it is behind: downloads by TLS fail, and logs have wrong times",
        ),
        false => ok("clock", text),
    }
}

fn mpi() -> Finding {
    match mpi::library() {
        Some(name) => ok("several devices", name),
        None => ok(
            "several devices",
            "this build has no MPI: build with `cargo build --release --features mpi`",
        ),
    }
}

/// GPUs' drivers on Linux look for the folder of the user's session, and print an error of their own without it.
fn display_folder() -> Option<Finding> {
    let looks = cfg!(target_os = "linux")
        && BACKENDS
            .iter()
            .any(|(name, on)| *on && ["wgpu", "vulkan"].contains(name));
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir());
    (looks && folder.is_none()).then(|| {
        note(
            "XDG_RUNTIME_DIR",
            "it names no folder, and a Vulkan driver may print an error about it",
            "harmless; `export XDG_RUNTIME_DIR=/tmp` keeps the driver quiet",
        )
    })
}

/// The devices of a backend: whether each runs a kernel, and two steps of training on it.
fn of_backend(backend: &'static str, trains: bool, report: &mut Report) {
    let found = devices::found(backend);
    if found.is_empty() {
        report.add(note(
            backend,
            "this build has it, and this machine has no device for it",
            "`passer devices` lists what there is; a GPU needs its vendor's driver (docs/devices.md)",
        ));
    }
    for index in 0..found.len() {
        let device = &found[index];
        let subject = format!("{backend}:{index}");
        if backend != "flex"
            && let Err(reason) = first_kernel::run(backend, &found, device)
        {
            let (message, cure) = first_kernel::cure(&reason);
            report.add(problem(&subject, message, cure));
            continue;
        }
        let memory = devices::memory_mib(device).map_or(String::new(), |mib| format!(", {mib} MiB"));
        let name = format!("{}{memory}", devices::describe(device));
        if !trains {
            report.add(ok(&subject, name));
            continue;
        }
        let started = Instant::now();
        let trained =
            data::caught(|| two_steps(device)).unwrap_or_else(|message| Err(anyhow::anyhow!(message)));
        let took = duration(started.elapsed().as_secs_f64());
        report.add(match trained {
            Ok(()) if devices::is_software(device) => note(
                &subject,
                format!("{name}: two steps in {took}"),
                "it is emulated on the CPU, where `flex` is tens of times faster",
            ),
            Ok(()) => ok(&subject, format!("{name}: two steps in {took}")),
            Err(error) => problem(
                &subject,
                format!("{name}: it does not train: {error:#}"),
                "update the GPU's driver; docs/devices.md says what each backend needs",
            ),
        });
    }
}

/// Two steps of the quick start's network on synthetic images.
fn two_steps(device: &Device) -> anyhow::Result<()> {
    let (text, _) = configs::shipped::text(Path::new("configs/pretrain/quickstart.toml"), &[])?;
    let mut config: Config<ObjectiveConfig> = configs::parse(&text, &[], Config::validate)?;
    let dataset = smoke::shrink(&mut config);
    let scratch = smoke::Scratch::new();
    let options = RunOptions {
        out: scratch.path().to_path_buf(),
        resume: false,
        replicas: Replicas::single(),
        stop: Arc::new(AtomicBool::new(false)),
        method: config.objective.name().into(),
        provenance: Map::new(),
        device: device.clone(),
        allow_jump: false,
        keep_failed_step: false,
        gauge: None,
    };
    let summary = objectives::pretrain(&config, dataset, &options, &mut |_| ())?;
    match summary.last_loss {
        Some(loss) if loss.is_finite() => Ok(()),
        loss => Err(anyhow::anyhow!("the loss is {loss:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_named_with_its_cure() {
        let state = |finding: &Finding| (finding.state, finding.cure.is_some());
        let folder = Path::new("runs");
        assert_eq!(
            state(&disk("d", folder, Some((50, 1000)))),
            (State::Problem, true)
        );
        assert_eq!(state(&disk("d", folder, Some((1000, 9000)))), (State::Note, true));
        assert_eq!(
            state(&disk("d", folder, Some((90_000, 100_000)))),
            (State::Ok, false)
        );
        assert_eq!(state(&disk("d", folder, None)), (State::Ok, false));
        assert_eq!(state(&memory(Some(8000), Some(1000))), (State::Note, true));
        assert_eq!(state(&memory(Some(64_000), Some(32_000))), (State::Ok, false));
        assert_eq!(state(&files(Some(256))), (State::Note, true));
        assert_eq!(state(&files(Some(1 << 20))), (State::Ok, false));
        assert_eq!(state(&clock(UNIX_EPOCH)), (State::Problem, true));
        assert_eq!(state(&clock(SystemTime::now())), (State::Ok, false));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_checked_by_the_one_above() {
        assert_eq!(nearest(Path::new("src/no/such")), Path::new("src"));
        assert_eq!(nearest(Path::new("no-such")), Path::new("."));
        assert_eq!(state_of(&writable(Path::new("/proc/no"))), State::Problem);
    }

    fn state_of(finding: &Finding) -> State {
        finding.state
    }
}
