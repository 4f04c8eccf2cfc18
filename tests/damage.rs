//! Files of a run that were cut or damaged: what a resume, a report and an evaluation say of them.

use crate::passer;
use crate::runs::{photos, pretrain, run};
use predicates::prelude::*;
use predicates::str::contains;

#[test]
fn a_run_says_what_its_files_lost() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let out = folder.path().join("run");
    let every_step = ["--set", "training.log_every_steps=1"];
    run(pretrain(&photos, &out, &every_step));
    // Killed after step 10 of 12; of the log four lines are left, and the checkpoint's encoder has other bytes.
    let checkpoints = training::list_checkpoints(&out).unwrap();
    std::fs::remove_dir_all(&checkpoints.last().unwrap().path).unwrap();
    std::fs::remove_file(out.join("encoder.safetensors")).unwrap();
    let newest = training::latest_checkpoint(&out).unwrap().unwrap();
    assert_eq!(newest.step, 10);
    let log = out.join("metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let cut: String = text.split_inclusive('\n').take(4).collect();
    std::fs::write(&log, cut).unwrap();
    let encoder = newest.path.join("encoder.safetensors");
    let mut bytes = std::fs::read(&encoder).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&encoder, bytes).unwrap();

    let damaged = "encoder.safetensors`: damaged: its bytes are not those that were written";
    passer()
        .args(["weights", "inspect"])
        .arg(&newest.path)
        .assert()
        .code(1)
        .stderr(contains(damaged));
    let again = pretrain(&photos, &out, &[&every_step[..], &["--resume"]].concat())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    assert!(
        said.contains("metrics.jsonl has no line of steps 5 to 10"),
        "{said}"
    );
    assert!(said.contains(damaged), "{said}");
    let shown = passer().arg("report").arg(&out).arg("--json").assert().success();
    let facts: serde_json::Value = serde_json::from_slice(&shown.get_output().stdout).unwrap();
    assert_eq!(
        facts["runs"][0]["remarks"][0],
        "metrics.jsonl has no line of steps 5 to 10"
    );

    let facts = out.join("run.json");
    let text = std::fs::read(&facts).unwrap();
    for content in [&b""[..], &text[..text.len() / 2], b"[1, 2]"] {
        std::fs::write(&facts, content).unwrap();
        let again = pretrain(&photos, &out, &[&every_step[..], &["--resume"]].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_eq!(again.status.code(), Some(1), "{said}");
        assert!(
            contains("run.json`, which says whose the checkpoints are, is damaged")
                .and(contains("hint: put the file back"))
                .eval(&said),
            "{said}"
        );
    }
}
