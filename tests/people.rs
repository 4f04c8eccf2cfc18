//! The stages that detect people, from outside: results of `passer detect` decide, also after kills, through
//! to a release.

use crate::{passer, root};
use predicates::prelude::PredicateBooleanExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Highest score of each photo, from `passer detect`.
fn detected(file: &Path) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(file).unwrap();
    let line = |line: &str| {
        let found: Value = serde_json::from_str(line).unwrap();
        let scores = found["detections"].as_array().unwrap().iter();
        let top = scores.map(|detection| detection["score"].as_f64().unwrap());
        (
            found["key"].as_str().unwrap().to_string(),
            top.fold(0.0, f64::max),
        )
    };
    text.lines().map(line).collect()
}

/// Key, kept and score of each photo that a stage decided on.
fn decided(dir: &Path, stage: &str) -> BTreeMap<String, (bool, f64)> {
    let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).unwrap();
    let mut statement = ledger
        .prepare("SELECT key, kept, score FROM decision_log WHERE stage = ?")
        .unwrap();
    let rows = statement.query_map([stage], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
    rows.unwrap().map(|row| row.unwrap()).collect()
}

/// The folder of photographs and weights that cannot be committed.
fn test_data() -> PathBuf {
    std::env::var_os("PASSER_TEST_DATA")
        .expect("PASSER_TEST_DATA must name the folder of real inputs")
        .into()
}

/// `photos-250.tar` as an image folder: `n01440764/n01440764_tench.JPEG`.
fn by_class(data: &Path, folder: &Path) {
    let file = std::fs::File::open(data.join("photos-250.tar")).unwrap();
    for entry in tar::Archive::new(file).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some((class, _)) = name.split_once('_').filter(|_| name.ends_with(".JPEG")) else {
            continue;
        };
        std::fs::create_dir_all(folder.join(class)).unwrap();
        entry.unpack(folder.join(class).join(&name)).unwrap();
    }
}

#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn stages_decide_as_passer_detect_does_and_a_labelled_folder_becomes_one_without_people() {
    let data = test_data();
    let home = tempfile::tempdir().unwrap();
    let (photos, out) = (home.path().join("photos"), home.path().join("out"));
    by_class(&data, &photos);
    let weights = [
        data.join("models/retinaface_mobilenet025.pth"),
        data.join("models/yolox_nano.onnx"),
    ];
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
        command
            .current_dir(root())
            .args([
                "curate",
                "run",
                "configs/curate/people.toml",
                "--device",
                "flex",
                "--out",
            ])
            .arg(&out);
        for (key, path) in [
            ("source.folder.folder", &photos),
            ("stages.1.faces.weights", &weights[0]),
            ("stages.2.persons.weights", &weights[1]),
        ] {
            command.arg("--set").arg(format!("{key}={}", path.display()));
        }
        for fact in [
            "publisher=Ann Example",
            "contact=ann@example.org",
            "url=https://example.org/photos",
            "licence_url=https://example.org/terms",
        ] {
            command.arg("--set").arg(format!("release.{fact}"));
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Killed early and late, in both stages.
    let mut kills = 0;
    let mut wait = Duration::from_millis(400);
    while kills < 8 {
        let mut child = run().spawn().unwrap();
        std::thread::sleep(wait);
        wait = wait.mul_f64(1.4);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 1);
    assert!(run().status().unwrap().success());

    for (stage, weights) in [("faces", &weights[0]), ("persons", &weights[1])] {
        let file = home.path().join(stage);
        let mut command = passer();
        command.args(["detect", stage, "--weights"]).arg(weights);
        command.arg("--data").arg(&photos).arg("--out").arg(&file);
        if stage == "faces" {
            command.args(["--device", "flex"]);
        }
        command.assert().success();
        let (found, decided) = (detected(&file), decided(&out, stage));
        assert_eq!(found.len(), 250);
        if stage == "faces" {
            assert_eq!(decided.len(), 250);
        }
        for (key, (kept, score)) in &decided {
            let expected = found[key];
            assert!(
                (score - expected).abs() < 1e-5,
                "{stage}, {key}: {score}, {expected}"
            );
            assert_eq!(*kept, expected <= 0.5, "{stage}, {key}: {score}");
        }
        let dropped = decided.values().filter(|(kept, _)| !kept).count();
        eprintln!(
            "{stage}: {dropped} of {} dropped, after {kills} kills",
            decided.len()
        );
    }
    let without: Vec<String> = decided(&out, "persons")
        .into_iter()
        .filter(|(_, (kept, _))| *kept)
        .map(|(key, _)| key)
        .collect();

    passer().args(["curate", "release"]).arg(&out).assert().success();
    let release = out.join("releases/v1");
    let inspected = passer()
        .args(["shards", "inspect", "--json"])
        .arg(&release)
        .assert()
        .success();
    let inspected: Value = serde_json::from_slice(&inspected.get_output().stdout).unwrap();
    assert_eq!(inspected["records"], without.len());
    let classes: std::collections::BTreeSet<&str> =
        without.iter().map(|key| key.split('/').next().unwrap()).collect();
    let description = std::fs::read_to_string(release.join("dataset.toml")).unwrap();
    assert!(classes.iter().all(|class| description.contains(class)));
    let sheet = std::fs::read_to_string(release.join("DATASHEET.md")).unwrap();
    for part in [
        "Faces were looked for with RetinaFace (weights SHA-256 `2979b33f",
        "Persons were looked for with YOLOX (416 x 416 px, 80 classes) (weights SHA-256 `695e750a",
        "Nobody looked at the photos themselves",
    ] {
        assert!(sheet.contains(part), "{sheet}");
    }
    assert!(!sheet.contains("not checked for people"));
}

#[test]
fn missing_and_wrong_weights_say_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("photos/class")).unwrap();
    let run = |set: &str| {
        let mut command = passer();
        command
            .args([
                "curate",
                "run",
                "configs/curate/people.toml",
                "--device",
                "flex",
                "--out",
            ])
            .arg(home.path().join("out"))
            .arg("--set")
            .arg(format!("source.folder.folder={}/photos", home.path().display()))
            .arg("--set")
            .arg(set);
        command.assert().failure()
    };
    run("stages.1.faces.weights=nowhere.pth").stderr(
        predicates::str::contains("error: 2 files of the config cannot be opened:")
            .and(predicates::str::contains("stage `faces`: the weights `"))
            .and(predicates::str::contains("stage `persons`: the weights `"))
            .and(predicates::str::contains("nowhere.pth` cannot be read"))
            .and(predicates::str::contains(
                "hint: `mobilenet0.25_Final.pth` (1.8 MB, MIT) is among the weights of github.com/biubug6/Pytorch_Retinaface",
            )),
    );
    // The missing second detector is reported before the first one runs.
    let wrong = home.path().join("wrong");
    std::fs::write(&wrong, "no weights").unwrap();
    run(&format!("stages.1.faces.weights={}", wrong.display())).stderr(
        predicates::str::contains("stage `persons`: the weights `")
            .and(predicates::str::contains("github.com/Megvii-BaseDetection/YOLOX")),
    );
}

#[test]
fn scores_that_nothing_can_reach_are_refused_as_configs_refuse_them() {
    for stage in ["faces", "persons"] {
        let detect = |more: &[&str]| {
            let mut command = passer();
            command.args(["detect", stage, "--weights", "x", "--data", "y", "--out", "z"]);
            command.args(more).assert().failure()
        };
        detect(&["--score", "0.01", "--candidate-score", "0.5"]).stderr(predicates::str::contains(
            "`--candidate-score` must be at most `--score` = 0.01, got 0.5",
        ));
        detect(&["--score", "1.5"]).stderr(predicates::str::contains(
            "`--score` must be from 0 to 1, got 1.5",
        ));
    }
}

/// Starts the review server; returns the process and its link.
fn review(out: &Path, listen: &str) -> (std::process::Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_passer"))
        .args(["curate", "review", "--listen", listen])
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    (child, line.trim().to_string())
}

#[test]
fn review_and_audit_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("photos/a")).unwrap();
    for number in 0..3 {
        image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, number]))
            .save(home.path().join(format!("photos/a/{number}.png")))
            .unwrap();
    }
    // A review replaces the config's detectors.
    let text = std::fs::read_to_string(root().join("configs/curate/people.toml")).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    let review_stage: toml::Table =
        "review = { drop = [\"person\"], labelled_twice = 0.0, disagreement = \"drop\", seed = 0 }"
            .parse()
            .unwrap();
    let stages = config["stages"].as_array_mut().unwrap();
    stages.truncate(1);
    stages.push(review_stage.into());
    config["source"]["folder"]["folder"] = home.path().join("photos").display().to_string().into();
    let path = home.path().join("config.toml");
    std::fs::write(&path, config.to_string()).unwrap();
    let out = home.path().join("out");
    let run = || {
        let mut command = passer();
        command.args(["curate", "run"]).arg(&path).arg("--out").arg(&out);
        command
    };
    // A planned stop is no error, and not done either.
    run()
        .assert()
        .code(3)
        .stdout(predicates::str::contains("0 of 3 photos are labeled"))
        .stderr(
            predicates::str::contains("waiting for people: 0 of 3 photos are labeled")
                .and(predicates::str::contains("next: `passer curate review "))
                .and(predicates::str::contains("error").not()),
        );
    passer()
        .args(["curate", "status"])
        .arg(&out)
        .assert()
        .success()
        .stdout(predicates::str::contains("0 of 3 photos are labeled"));
    // The scores can be seen before the review; a sample is drawn from what it leaves.
    passer()
        .args(["curate", "audit"])
        .arg(&out)
        .assert()
        .success()
        .stdout(predicates::str::contains(
            "before      stage `review`, which is not done",
        ));
    passer()
        .args(["curate", "audit", "--draw", "2"])
        .arg(&out)
        .assert()
        .failure()
        .stderr(predicates::str::contains("`review` is not done"));
    passer()
        .args(["curate", "review", "--discard", "Ann"])
        .arg(&out)
        .assert()
        .failure()
        .stderr(predicates::str::contains(
            "there is no annotator `Ann`: nobody has labeled yet",
        ));

    let (mut child, link) = review(&out, "127.0.0.1:0");
    assert!(
        link.starts_with("http://127.0.0.1:") && link.ends_with('/'),
        "{link}"
    );
    // Only one process at a time writes.
    run()
        .assert()
        .failure()
        .stderr(predicates::str::contains("is in use by process"));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut links = Vec::new();
    for _ in 0..2 {
        let (mut child, link) = review(&out, "0.0.0.0:0");
        child.kill().unwrap();
        child.wait().unwrap();
        links.push(link.split_once("/?token=").unwrap().1.to_string());
    }
    // Links stay valid after the server ends.
    assert!(links[0].len() == 48 && links[0] == links[1], "{links:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(out.join("review-token"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // Without the review nothing waits; the audit reports that the number of remaining people is unknown.
    config["stages"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&path, config.to_string()).unwrap();
    run()
        .assert()
        .failure()
        .stderr(predicates::str::contains("the config no longer has it"));
    let fresh = home.path().join("fresh");
    passer()
        .args(["curate", "run"])
        .arg(&path)
        .arg("--out")
        .arg(&fresh)
        .assert()
        .success();
    let audited = passer()
        .args(["curate", "audit", "--draw", "2", "--seed", "5", "--json"])
        .arg(&fresh)
        .assert()
        .success();
    let audited: Value = serde_json::from_slice(&audited.get_output().stdout).unwrap();
    assert_eq!(
        (&audited["photos"], &audited["with_score"]),
        (&3.into(), &0.into())
    );
    assert_eq!(audited["samples"][0]["photos"], 2);
    assert!(audited["samples"][0]["estimate"].is_null());
    passer()
        .args(["curate", "audit"])
        .arg(&fresh)
        .assert()
        .success()
        .stdout(predicates::str::contains(
            "0 of 2 photos labeled, seed 5: `passer curate review",
        ));
    assert!(fresh.join("audit.html").is_file());
}
