//! A rank that fails, is late or is killed: what the others do, what is printed, and what is left to resume from.

use super::*;
use std::io::{BufRead, BufReader};

/// `passer pretrain` on 2 ranks, of which one is started by a shell with this command before it.
fn with_a_shell(
    rank: usize,
    shell: &str,
    recipe: &Recipe,
    data: &Path,
    out: &Path,
    more: &[&str],
) -> Command {
    let mut command = mpirun();
    for index in 0..2 {
        if index > 0 {
            command.arg(":");
        }
        command.args(["-n", "1"]);
        if index == rank {
            command.args(["sh", "-c", &format!("{shell}; exec \"$0\" \"$@\"")]);
        }
        let own = pretrain(recipe, 1, data, out, more);
        command.arg(own.get_program()).args(own.get_args());
    }
    command
}

fn host() -> String {
    let output = Command::new("hostname").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The messages of a run that must fail: all its ranks are gone within 10 s of its error's line.
fn failed(mut command: Command, out: &Path) -> String {
    let mut child = command.spawn().unwrap();
    let (mut text, mut said) = (String::new(), None);
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains(": error: ") {
            said.get_or_insert_with(Instant::now);
        }
        text += &line;
        text.push('\n');
    }
    assert!(!child.wait().unwrap().success(), "{text}");
    let gone_after = said.map(|said| said.elapsed());
    assert!(
        gone_after.is_some_and(|time| time < Duration::from_secs(10)),
        "{gone_after:?} {text}"
    );
    until_gone(out);
    text
}

/// A rank that can start no thread panics where it first computes, while the other one waits for it.
#[test]
fn a_panic_on_any_rank_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    for rank in [0, 1] {
        let out = folder.path().join(format!("run-{rank}"));
        // More than a process can address: no thread gets its stack.
        let shell = "export RUST_MIN_STACK=281474976710656";
        let error = failed(with_a_shell(rank, shell, &MOCO, &data, &out, &[]), &out);
        let line = format!("rank {rank} on {}: error: internal error: ", host());
        assert!(error.contains(&line), "{error}");
    }
}

/// The disk of rank 0 takes no file of a checkpoint's size any more.
#[test]
fn a_full_disk_ends_all_and_leaves_the_newest_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let (whole, out) = (folder.path().join("whole"), folder.path().join("full"));
    let long = ["--set", "training.epochs=40"];
    finished(pretrain(&MOCO, 2, &data, &whole, &long));

    let mut child = pretrain(&MOCO, 2, &data, &out, &long).spawn().unwrap();
    until_checkpoint(&out, &mut child);
    signal("-KILL", process_of(0, out.to_str().unwrap()));
    let killed = text(&child.wait_with_output().unwrap());
    assert!(
        killed.contains("process rank 0") && killed.contains(&host()),
        "{killed}"
    );
    let step = training::latest_checkpoint(&out).unwrap().unwrap().step;

    // 32 blocks of 512 bytes: enough for the lines of an epoch.
    let shell = "ulimit -f 32; trap '' XFSZ";
    let resumed = [&long[..], &["--resume"]].concat();
    let error = failed(with_a_shell(0, shell, &MOCO, &data, &out, &resumed), &out);
    assert!(
        error.contains(&format!("rank 0 on {}: error: cannot write ", host())),
        "{error}"
    );
    assert_eq!(training::latest_checkpoint(&out).unwrap().unwrap().step, step);
    finished(pretrain(&MOCO, 2, &data, &out, &resumed));
    assert_eq!(metrics(&out), metrics(&whole));
    assert!(tensors(&out) == tensors(&whole));
}

/// Each rank meets its own broken pictures: they are counted, replaced and limited over all of them.
#[test]
fn broken_pictures_are_those_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    for picture in ["05", "23", "41", "58"] {
        let path = data.join(format!("{picture}.png"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let set = |limit: &str| ["--set".to_string(), format!("data.max_bad_fraction={limit}")];
    let run = |ranks, limit| {
        let out = folder.path().join(format!("{limit}-{ranks}"));
        let more = set(limit);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        (pretrain(&MOCO, ranks, &data, &out, &more).output().unwrap(), out)
    };
    let (_, one) = run(1, "0.1");
    for ranks in [2, 4] {
        let (output, out) = run(ranks, "0.1");
        let text = text(&output);
        assert!(text.contains("warning: 4 records could not be decoded"), "{text}");
        // One log: a line of each picture, and its line in the summary.
        for picture in ["05", "23", "41", "58"] {
            assert_eq!(text.matches(&format!("key={picture}")).count(), 1, "{text}");
        }
        let error = relative(&losses(&out), &losses(&one));
        assert!(error <= 1e-5, "{ranks} ranks are {error:e} off");
    }
    // Three are allowed, and no rank meets four.
    let (output, _) = run(2, "0.05");
    let text = text(&output);
    assert!(!output.status.success());
    assert_eq!(text.matches(": error: ").count(), 1, "{text}");
    assert!(text.contains("4 of 64 records"), "{text}");
}

/// Reads lines of a child's messages until one holds all of `words`.
fn until_line(child: &mut Child, words: &[&str]) -> String {
    let mut read = String::new();
    for line in BufReader::new(child.stderr.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        read += &line;
        read.push('\n');
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
    }
    panic!("no line with {words:?} in\n{read}");
}

/// The process of a rank.
fn process_of(rank: usize, mark: &str) -> u32 {
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is = |process: &u32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == variable.as_bytes())
    };
    processes(mark).into_iter().find(is).unwrap()
}

/// A rank whose config comes late, then one whose process stands still.
#[test]
fn a_late_rank_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let out = folder.path().join("run");
    let pipe = folder.path().join("late.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let late = Recipe {
        config: Box::leak(pipe.display().to_string().into_boxed_str()),
        ..MOCO
    };
    let more = ["--set", "training.epochs=5000", "--late-after-s", "1"];
    let mut command = mpirun();
    for (index, recipe) in [&MOCO, &late].into_iter().enumerate() {
        if index > 0 {
            command.arg(":");
        }
        let own = pretrain(recipe, 1, &data, &out, &more);
        command
            .args(["-n", "1"])
            .arg(own.get_program())
            .args(own.get_args());
    }
    let mut child = command.spawn().unwrap();
    let host = host();
    let line = until_line(&mut child, &["ranks have waited for "]);
    assert!(
        line.contains("1 of 2 ranks have waited for 1 s before the first step (call ")
            && line.contains(&format!("for rank 1 on {host}, before the first step, ")),
        "{line}"
    );
    std::fs::copy(root().join("configs/pretrain").join(MOCO.config), &pipe).unwrap();

    until_checkpoint(&out, &mut child);
    // Reports come every 100 ms, and the first steps take less: rank 1 may have told of none of them yet.
    let second = process_of(1, out.to_str().unwrap());
    signal("-STOP", second);
    let line = until_line(&mut child, &["ranks have waited for ", "silent for "]);
    signal("-CONT", second);
    assert!(
        line.contains("1 of 2 ranks have waited for ") && line.contains(&format!(" for rank 1 on {host}, ")),
        "{line}"
    );
    signal("-USR1", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
}

/// By hand (scripts/check-full.sh): about three minutes.
#[test]
#[ignore = "slow: scripts/check-full.sh runs it"]
#[allow(clippy::print_stdout)]
fn twenty_kills_of_random_ranks_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let whole = folder.path().join("whole");
    let started = Instant::now();
    finished(pretrain(&MOCO, 2, &data, &whole, &[]));
    let whole_time = started.elapsed();

    let mut seed = u64::from(std::process::id());
    let mut random = |below: u64| {
        // Knuth's generator; its upper bits.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let (mut slowest, mut from_checkpoints) = (Duration::ZERO, 0);
    for kill in 0..20 {
        let out = folder.path().join(format!("killed-{kill}"));
        let mark = out.to_str().unwrap();
        let mut child = pretrain(&MOCO, 2, &data, &out, &[]).spawn().unwrap();
        let moment = Duration::from_millis(random(whole_time.as_millis() as u64));
        std::thread::sleep(moment);
        // Open MPI 4.1's launcher waits without end where its first process dies before it has started the second.
        while processes(mark).len() < 2 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let victim = random(2) as usize;
        let killed = Instant::now();
        if let Some(process) = processes(mark).get(victim) {
            let _ = Command::new("kill")
                .args(["-KILL", &process.to_string()])
                .status();
        }
        child.wait_with_output().unwrap();
        until_gone(&out);
        slowest = slowest.max(killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(10), "kill {kill}");
        from_checkpoints += usize::from(!training::list_checkpoints(&out).unwrap_or_default().is_empty());

        let other = folder.path().join(format!("other-{kill}"));
        if out.exists() {
            let copied = Command::new("cp").arg("-r").arg(&out).arg(&other).status();
            assert!(copied.unwrap().success());
        }
        let ranks = [1, 4][kill % 2];
        finished(pretrain(&MOCO, ranks, &data, &other, &["--resume"]));
        let error = relative(&losses(&other), &losses(&whole));
        assert!(
            error <= 1e-5,
            "kill {kill} after {moment:?}: on {ranks} ranks {error:e} off"
        );
        finished(pretrain(&MOCO, 2, &data, &out, &["--resume"]));
        assert_eq!(metrics(&out), metrics(&whole), "kill {kill} after {moment:?}");
        assert!(tensors(&out) == tensors(&whole), "kill {kill} after {moment:?}");
    }
    println!(
        "20 kills of runs of {whole_time:?}, {from_checkpoints} after a checkpoint: all ranks gone after at most {slowest:?}"
    );
}
