//! Run directories whose checkpoints, log or facts were damaged between two processes, from outside.

use crate::passer;
use crate::runs::{finished, other_photos, pretrain, refusal, run};
use std::process::Command;

#[test]
fn wrong_bytes_in_a_checkpoint_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out, newest) = finished(folder.path());
    for name in [
        "student.bpk",
        "state.bpk",
        "optimizer.safetensors",
        "watched.safetensors",
        "encoder.safetensors",
    ] {
        let whole = std::fs::read(newest.join(name)).unwrap();
        let mut rotten = whole.clone();
        let at = whole.len() - 9;
        rotten[at] ^= 1;
        std::fs::write(newest.join(name), rotten).unwrap();
        let text = refusal(pretrain(&photos, &out, &["--resume"]));
        assert!(
            text.contains(name) && text.contains("not those that were written"),
            "{text}"
        );
        let before = &training::list_checkpoints(&out).unwrap()[0].path;
        assert!(
            text.contains(&format!("the one before it, {}", before.display())),
            "{text}"
        );
        if name == "encoder.safetensors" {
            let shown = passer()
                .arg("weights")
                .arg("inspect")
                .arg(&newest)
                .assert()
                .code(1);
            let text = String::from_utf8_lossy(&shown.get_output().stderr).into_owned();
            assert!(text.contains("not those that were written"), "{text}");
        }
        std::fs::write(newest.join(name), whole).unwrap();
    }
    run(pretrain(&photos, &out, &["--resume"]));
    std::fs::remove_file(newest.join("position.json")).unwrap();
    let text = refusal(pretrain(&photos, &out, &["--resume"]));
    assert!(
        text.contains("the file is missing") && text.contains("remove this checkpoint's folder"),
        "{text}"
    );
}

#[test]
fn a_log_that_was_cut_has_a_gap_that_is_said_wherever_it_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out, newest) = finished(folder.path());
    std::fs::remove_dir_all(&newest).unwrap();
    let log = out.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    // Lines after steps 3, 6, 9 and 12, and a checkpoint after step 10.
    std::fs::write(&log, text.split_inclusive('\n').take(1).collect::<String>()).unwrap();
    let again = pretrain(&photos, &out, &["--resume"]).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    assert!(
        said.contains("steps 4 to 9 of metrics.jsonl are missing"),
        "{said}"
    );
    let shown = passer().arg("report").arg(&out).arg("--json").assert().success();
    let facts: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(
        facts["runs"][0]["remarks"][0],
        "steps 4 to 9 of metrics.jsonl are missing: the curves have a gap there"
    );
    let entries = std::fs::read_dir(&out).unwrap().flatten();
    let events = entries.map(|entry| entry.path());
    let events = events
        .into_iter()
        .find(|path| path.to_string_lossy().contains("tfevents"));
    let events = std::fs::read(events.unwrap()).unwrap();
    assert!(String::from_utf8_lossy(&events).contains("steps 4 to 9 of metrics.jsonl are missing"));
    let replay = passer()
        .arg("replay")
        .arg(&out)
        .args(["--first", "6"])
        .assert()
        .success();
    let said = replay.get_output();
    let said = String::from_utf8_lossy(&[&said.stdout[..], &said.stderr[..]].concat()).into_owned();
    assert!(said.contains("1 line of them missing in the log"), "{said}");
}

#[test]
fn facts_that_are_damaged_can_be_written_again_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out, newest) = finished(folder.path());
    std::fs::remove_dir_all(newest).unwrap();
    let file = out.join("run.json");
    let whole = std::fs::read_to_string(&file).unwrap();
    for damaged in ["", "{}", "[1]", &whole[..whole.len() / 2], "\0\0"] {
        std::fs::write(&file, damaged).unwrap();
        let text = refusal(pretrain(&photos, &out, &["--resume"]));
        assert!(
            text.contains("run.json` is damaged") && text.contains("`echo '{"),
            "{text}"
        );
        // What the message says is typed.
        let command = text
            .split("`echo ")
            .nth(1)
            .unwrap()
            .split("`, then")
            .next()
            .unwrap();
        let command = format!(
            "echo {}",
            command.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        assert!(
            Command::new("sh")
                .arg("-c")
                .arg(&command)
                .status()
                .unwrap()
                .success()
        );
        let other = refusal(pretrain(&other_photos(folder.path()), &out, &["--resume"]));
        assert!(other.contains("started with another data set"), "{other}");
        run(pretrain(&photos, &out, &["--resume"]));
    }
}
