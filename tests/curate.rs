//! `passer curate` from outside: filter, kill, resume, release, take down.

mod look;
mod metadata;
mod takedown;

use crate::{passer, root};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A picture of waves: different for different numbers, and never a single color.
fn picture(number: u32, path: &Path) {
    let image = image::RgbImage::from_fn(96, 80, |x, y| {
        let (x, y, n) = (f64::from(x) / 96.0, f64::from(y) / 80.0, f64::from(number));
        let wave = |a: f64, b: f64| {
            (127.0 + 120.0 * (a * x * (1.0 + n) + b * y * (n * n % 7.0 + 1.0) + n).sin()) as u8
        };
        image::Rgb([wave(3.0, 1.0), wave(1.0, 4.0), wave(2.0, 2.0)])
    });
    image.save(path).unwrap();
}

fn sidecar(path: &Path, who: &str, licence: &str) {
    let text = json!({
        "photographer": who, "title": "a <b>title</b>\nof two lines", "licence": licence,
        "source_url": "https://example.org/photo", "date_taken": "2011-09-10 21:13:32.0",
        "latitude": -33.5, "longitude": -70.25,
    });
    std::fs::write(path.with_extension("json"), text.to_string()).unwrap();
}

/// What a publisher writes in place of the texts of a shipped config.
const FACTS: [(&str, &str); 3] = [
    ("publisher", "Ann Example"),
    ("contact", "ann@example.org"),
    ("url", "https://example.org/photos"),
];

fn fill_in(release: &mut toml::Table) {
    release.extend(FACTS.map(|(key, text)| (key.to_string(), text.into())));
}

fn status(dir: &Path) -> Value {
    let output = passer()
        .args(["curate", "status", "--json"])
        .arg(dir)
        .assert()
        .success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

fn stage<'a>(status: &'a Value, name: &str) -> &'a Value {
    let stages = status["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["name"] == name).unwrap()
}

fn reasons(stage: &Value) -> Vec<(String, u64)> {
    let reasons = stage["reasons"].as_array().unwrap();
    let mut found: Vec<_> = reasons
        .iter()
        .map(|reason| {
            (
                reason["reason"].as_str().unwrap().to_string(),
                reason["photos"].as_u64().unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_folder_becomes_a_release_and_a_photo_taken_down_stays_down() {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("photos");
    std::fs::create_dir_all(photos.join("more")).unwrap();
    for number in 0..8 {
        let path = photos.join(format!("p{number}.png"));
        picture(number, &path);
        sidecar(
            &path,
            ["Ann", "Bo\u{202e}b"][number as usize % 2],
            if number == 7 { "CC-BY-SA-4.0" } else { "CC-BY-4.0" },
        );
    }
    // A duplicate, a file of a single color, one without a sidecar, and one that is not a picture.
    std::fs::copy(photos.join("p0.png"), photos.join("more/again.png")).unwrap();
    sidecar(&photos.join("more/again.png"), "Ann", "CC0-1.0");
    image::RgbImage::from_pixel(90, 90, image::Rgb([9, 9, 9]))
        .save(photos.join("flat.png"))
        .unwrap();
    sidecar(&photos.join("flat.png"), "Ann", "CC0-1.0");
    picture(30, &photos.join("nobody.png"));
    std::fs::write(photos.join("text.jpg"), "no picture at all").unwrap();
    sidecar(&photos.join("text.jpg"), "Ann", "CC0-1.0");
    // A photo in a format that is not read, and what a NAS and a Mac leave.
    std::fs::write(photos.join("phone.heic"), b"\0\0\0\x18ftypheic\0\0\0\0").unwrap();
    sidecar(&photos.join("phone.heic"), "Ann", "CC0-1.0");
    std::fs::create_dir_all(photos.join("more/@eaDir/again.png")).unwrap();
    picture(31, &photos.join("more/@eaDir/again.png/SYNOPHOTO_THUMB_M.jpg"));
    std::fs::write(photos.join("._p0.png"), b"\0\x05\x16\x07\0\x02\0\0").unwrap();

    let out = home.path().join("out");
    let run = |more: &[&str]| {
        let mut command = passer();
        command
            .args(["curate", "run", "configs/curate/folder.toml", "--out"])
            .arg(&out);
        command
            .arg("--set")
            .arg(format!("source.folder.folder={}", photos.display()));
        for (key, text) in FACTS {
            command.arg("--set").arg(format!("release.{key}={text}"));
        }
        command.args(["--set", "release.records_per_shard=3"]).args(more);
        command
    };
    run(&["--stage", "integrity"])
        .assert()
        .failure()
        .stderr(predicates::str::contains("comes before it and is not done"));
    run(&["--stage", "source"])
        .assert()
        .success()
        .stderr(predicates::str::contains("1 (such as `more/@eaDir`)"));
    run(&[]).assert().success();
    let found = status(&out);
    assert_eq!(stage(&found, "source")["kept"], 12);
    assert_eq!(
        reasons(stage(&found, "source")),
        [("unsupported_format".to_string(), 1)]
    );
    assert_eq!(
        found["listing"],
        json!([
            { "reason": "system_file", "count": 1, "example": "._p0.png" },
            { "reason": "system_folder", "count": 1, "example": "more/@eaDir" },
        ])
    );
    assert_eq!(
        reasons(stage(&found, "licence")),
        [
            ("licence_not_accepted".to_string(), 1),
            ("no_licence".to_string(), 1)
        ]
    );
    assert_eq!(
        reasons(stage(&found, "integrity")),
        [("not_an_image".to_string(), 1), ("single_colour".to_string(), 1)]
    );
    assert_eq!(
        reasons(stage(&found, "duplicates")),
        [("exact_duplicate".to_string(), 1)]
    );
    assert_eq!(stage(&found, "duplicates")["kept"], 7);

    // Changed settings are an error, and `--redo` is the fix.
    run(&["--set", "stages.1.integrity.min_side_px=85"])
        .assert()
        .failure()
        .stderr(predicates::str::contains("--redo integrity"));
    run(&[
        "--set",
        "stages.1.integrity.min_side_px=85",
        "--redo",
        "integrity",
    ])
    .assert()
    .success();
    assert_eq!(stage(&status(&out), "duplicates")["kept"], 0);
    run(&["--redo", "integrity"]).assert().success();

    passer()
        .args(["curate", "release", "--note", "the first"])
        .arg(&out)
        .assert()
        .success();
    let first = out.join("releases/v1");
    for name in [
        "photos-000000.tar",
        "photos-000002.tar",
        "pass_metadata.csv",
        "metadata.parquet",
        "CREDITS.txt",
        "DATASHEET.md",
        "VERSION_HISTORY.md",
        "croissant.json",
        "SHA256SUMS",
    ] {
        assert!(first.join(name).is_file(), "{name}");
    }
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let credits = read(&first, "CREDITS.txt");
    assert!(
        credits.contains("\"a <b>title</b> of two lines\" by Bo b (https://example.org/photo), CC-BY-4.0"),
        "{credits}"
    );
    assert_eq!(
        credits.lines().filter(|line| line.contains(" by ")).count(),
        7,
        "{credits}"
    );
    assert!(!read(&first, "DATASHEET.md").contains("<b>"));
    assert!(read(&first, "DATASHEET.md").contains("**Photos were not checked for people.**"));
    let csv = read(&first, "pass_metadata.csv");
    assert!(
        csv.starts_with(",unickname,datetaken,licensename,hash,latitude,longitude\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 8);
    // The config publishes no locations.
    assert!(!csv.contains("33.5"));
    passer().args(["shards", "verify"]).arg(&first).assert().success();
    let inspected = passer()
        .args(["shards", "inspect", "--json"])
        .arg(&first)
        .assert()
        .success();
    let inspected: Value = serde_json::from_slice(&inspected.get_output().stdout).unwrap();
    let released = &status(&out)["releases"][0];
    assert_eq!(inspected["fingerprint"], released["fingerprint"]);
    // A repetition makes no new version.
    passer()
        .args(["curate", "release"])
        .arg(&out)
        .assert()
        .failure()
        .stderr(predicates::str::contains("those of version 1"));

    // An encoder trained on it, and one that was not.
    let encoders = home.path().join("runs");
    for (name, fingerprint) in [
        ("saw", released["fingerprint"].as_str().unwrap()),
        ("not", "00ff"),
    ] {
        std::fs::create_dir_all(encoders.join(name)).unwrap();
        let info = json!({ "fingerprint": fingerprint }).to_string();
        let header = json!({ "__metadata__": { "passer": info } }).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        std::fs::write(encoders.join(name).join("encoder.safetensors"), bytes).unwrap();
    }
    let takedown = |keys: &str| {
        let mut command = passer();
        command
            .args(["curate", "takedown", "--json", "--keys", keys, "--encoders"])
            .arg(&encoders)
            .arg("--")
            .arg(&out);
        command
    };
    takedown("p3,misspelt")
        .assert()
        .failure()
        .stderr(predicates::str::contains(
            "no photo was ever listed under `misspelt`",
        ));
    assert_eq!(status(&out)["taken_down"], 0);
    let report = takedown("p3").assert().success();
    let report: Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    assert_eq!(report["seen_in"][0], json!([1, released["fingerprint"]]));
    assert_eq!(report["encoders"].as_array().unwrap().len(), 1);
    assert!(report["encoders"][0][0].as_str().unwrap().contains("saw"));
    assert_eq!(report["release"]["version"], 2);
    let second = out.join("releases/v2");
    assert_eq!(read(&second, "removed.txt"), "p3\n");
    assert!(!read(&second, "pass_metadata.csv").contains("p3"));
    // Two of three shards are identical.
    let same = (0..3).filter(|shard| {
        let name = format!("photos-{shard:06}.tar");
        std::fs::read(first.join(&name)).ok() == std::fs::read(second.join(&name)).ok()
    });
    assert_eq!(same.count(), 2);

    // Listed again, under its own name and under another: neither returns.
    std::fs::copy(photos.join("p3.png"), photos.join("other.png")).unwrap();
    sidecar(&photos.join("other.png"), "Ann", "CC-BY-4.0");
    run(&["--redo", "source"]).assert().success();
    let found = status(&out);
    assert_eq!(
        reasons(stage(&found, "source")),
        [
            ("taken_down".to_string(), 1),
            ("unsupported_format".to_string(), 1)
        ]
    );
    assert!(reasons(stage(&found, "integrity")).contains(&("taken_down".to_string(), 1)));
    passer()
        .args(["curate", "release"])
        .arg(&out)
        .assert()
        .failure()
        .stderr(predicates::str::contains("those of version 2"));
}

/// All decisions and photos of a ledger, in order.
fn dump(dir: &Path) -> Vec<String> {
    let ledger = rusqlite::Connection::open(dir.join("ledger.sqlite")).unwrap();
    let mut lines = Vec::new();
    for query in [
        "SELECT stage || '|' || photo || '|' || kept || '|' || coalesce(reason, '') || '|' || coalesce(score, '') FROM decision_log ORDER BY 1",
        "SELECT id || '|' || key || '|' || coalesce(photographer, '') || '|' || coalesce(title, '') FROM photos ORDER BY id",
    ] {
        let mut statement = ledger.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        lines.extend(rows.map(|row| row.unwrap()));
    }
    lines
}

#[test]
fn a_curation_killed_at_any_moment_decides_the_same() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("yfcc.tsv");
    let mut text = String::new();
    for row in 0..120_000u64 {
        let (name, url) = match row % 5 {
            0 | 3 => (
                "Attribution License",
                "http://creativecommons.org/licenses/by/2.0/",
            ),
            1 => (
                "Attribution-NonCommercial License",
                "http://creativecommons.org/licenses/by-nc/2.0/",
            ),
            _ => (
                "Attribution License",
                "http://creativecommons.org/licenses/by-sa/2.0/",
            ),
        };
        let who = row * row % 997;
        // Every thousandth row repeats, and every 1500th has an extra tab.
        let key = if row % 1000 == 1 { row - 1 } else { row };
        let title = if row % 1500 == 2 { "a\tb" } else { "a" };
        text.push_str(&format!(
            "{row}\t{row}\t{key:x}\t{who}@N00\tnick+{who}\t2011\t1\tN\t{title}\t\t\t\t\t\t\thttp://page/{row}\thttp://image/{row}\t{name}\t{url}\t1\t2\t3\t4\tjpg\t0\n"
        ));
    }
    std::fs::write(&file, text).unwrap();
    let command = |out: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_passer"));
        command
            .current_dir(root())
            .args(["curate", "run", "configs/curate/synthetic.toml", "--out"])
            .arg(out);
        command
            .arg("--set")
            .arg(format!("source.yfcc100m.files=[\"{}\"]", file.display()));
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command
    };
    let whole = home.path().join("whole");
    assert!(command(&whole).status().unwrap().success());
    let expected = dump(&whole);
    let found = status(&whole);
    assert_eq!(
        reasons(stage(&found, "source")),
        [
            ("malformed_row".to_string(), 80),
            ("rows_disagree".to_string(), 240)
        ]
    );

    let killed = home.path().join("killed");
    let mut kills = 0;
    // Waits get longer, so that even a busy machine finishes.
    let mut wait = Duration::from_millis(20);
    loop {
        let mut child = command(&killed).spawn().unwrap();
        std::thread::sleep(wait);
        wait = wait.mul_f64(1.25);
        match child.try_wait().unwrap() {
            Some(ended) => {
                assert!(ended.success());
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
        assert!(kills < 40, "it never comes to an end");
    }
    assert!(kills > 0);
    assert!(dump(&killed) == expected, "after {kills} kills");
}

#[test]
fn errors_say_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    passer()
        .args(["curate", "status"])
        .arg(home.path())
        .assert()
        .failure()
        .stderr(
            predicates::str::contains("holds no curation")
                .and(predicates::str::contains("hint: run `passer curate run")),
        );
    passer()
        .args([
            "curate",
            "run",
            "configs/curate/folder.toml",
            "--set",
            "source.folder.folder=/nowhere/at/all",
            "--out",
        ])
        .arg(home.path())
        .assert()
        .failure()
        .stderr(predicates::str::contains("must be a folder of photos"));
    passer()
        .args([
            "curate",
            "run",
            "configs/curate/pass.toml",
            "--set",
            "stages.0.licence.atribution=[]",
            "--out",
        ])
        .arg(home.path())
        .assert()
        .failure()
        .stderr(predicates::str::contains(
            "there is no key `stages.0.licence.atribution`",
        ));
    // The list of all photos is the first thing that is missing.
    for config in ["pass", "pass-reviewed"] {
        passer()
            .args(["curate", "run", &format!("configs/curate/{config}.toml"), "--out"])
            .arg(home.path().join(config))
            .assert()
            .failure()
            .stderr(
                predicates::str::contains(
                    "files of the config cannot be opened:\n  cannot read the list of photos `",
                )
                .and(predicates::str::contains("yfcc100m_dataset.bz2`: No such file"))
                .and(predicates::str::contains("\n  stage `faces`: the weights `"))
                .and(predicates::str::contains(
                    "hint: YFCC100M's core file, `yfcc100m_dataset.bz2` (about 15 GB), is given on request: \
                         multimediacommons.wordpress.com/yfcc100m-core-dataset says how; name yours with \
                         `--set 'source.yfcc100m.files=[\"PATH\"]'`",
                )),
            );
    }
}

use predicates::prelude::PredicateBooleanExt;
