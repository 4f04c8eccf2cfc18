//! Alarms of a run that collapses on purpose, from outside: stderr, `alarms.jsonl`, the command for events, the report.

use crate::root;
use crate::runs::{lines, metrics, photos};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `passer pretrain` of VICReg without its variance term, which lets all embeddings become one.
fn collapsing(data: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .stdin(Stdio::null())
        .args(["pretrain", "configs/pretrain/vicreg-resnet18-cifar10.toml"])
        .args(["--device", "flex"])
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out);
    for set in [
        "objective.vicreg.variance_weight=0.0",
        "objective.vicreg.covariance_weight=0.0",
        "objective.vicreg.projector_width=16",
        "objective.vicreg.embedding_width=16",
        "optimizer.sgd.learning_rate_per_256=0.4",
        "backbone.resnet.width=4",
        "data.batch_images=16",
        "data.workers=0",
        "training.epochs=40",
        "training.checkpoint_every_epochs=40",
        "training.log_every_steps=1",
    ] {
        command.args(["--set", set]);
    }
    command.args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_collapse_is_said_written_passed_on_and_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = photos(folder.path());
    let (out, events) = (folder.path().join("run"), folder.path().join("events"));
    let on_event = format!(
        "cat >> '{}'; echo \"$PASSER_EVENT\" >> '{0}.names'",
        events.display()
    );
    let stop = ["--on-event", &on_event, "--set", "training.on_alarm=stop"];
    let stopped = collapsing(&data, &out, &stop);
    let text = said(&stopped);
    assert_eq!(stopped.status.code(), Some(1), "{text}");
    assert_eq!(text.matches("alarm `collapse` at step").count(), 1, "{text}");
    assert!(text.contains("`objective.vicreg.variance_weight`"), "{text}");
    assert!(text.contains("the alarm `collapse` ended the run"), "{text}");

    let alarms = lines(&out.join("alarms.jsonl"));
    assert_eq!((alarms.len(), &alarms[0]["alarm"]), (1, &"collapse".into()));
    let step = alarms[0]["step"].as_u64().unwrap();
    let names = std::fs::read_to_string(folder.path().join("events.names")).unwrap();
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["start", "alarm", "checkpoint", "end"]
    );
    let told = lines(&events);
    assert_eq!(
        (&told[1]["event"], &told[1]["step"]),
        (&"alarm".into(), &step.into())
    );
    assert_eq!(
        (&told[2]["step"], &told[3]["outcome"]),
        (&(step + 1).into(), &"alarm".into())
    );
    let checkpoint = std::path::Path::new(told[2]["path"].as_str().unwrap());
    assert!(checkpoint.is_absolute(), "{}", checkpoint.display());

    // Resumed with another `on_alarm`, it goes on and says nothing twice. A command that fails costs a warning.
    let resumed = collapsing(&data, &out, &["--resume", "--on-event", "exit 3"]);
    let text = said(&resumed);
    assert!(resumed.status.success(), "{text}");
    assert!(!text.contains("alarm `collapse`"), "{text}");
    assert_eq!(
        text.matches("the command of `--on-event` failed").count(),
        1,
        "{text}"
    );
    let alarms = lines(&out.join("alarms.jsonl"));
    assert_eq!(
        alarms.iter().filter(|alarm| alarm["alarm"] == "collapse").count(),
        1
    );
    assert_eq!(metrics(&out).len(), 80);

    let mut report = crate::passer();
    report.arg("report").arg(&out);
    report.assert().success();
    let page = std::fs::read_to_string(out.join("run.html")).unwrap();
    assert!(page.contains("Alarms") && page.contains("objective.vicreg.variance_weight"));
    let mut report = crate::passer();
    let json = report.arg("report").arg(&out).arg("--json").output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["runs"][0]["alarms"][0]["alarm"], "collapse");
}

#[test]
fn an_unknown_action_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = collapsing(
        folder.path(),
        &folder.path().join("run"),
        &["--set", "training.on_alarm=\"beep\""],
    );
    let text = said(&refused);
    assert!(
        !refused.status.success() && text.contains("beep") && text.contains("`warn`"),
        "{text}"
    );
}
