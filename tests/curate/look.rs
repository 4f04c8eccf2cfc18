//! What stages decided, to look at: sheets of dropped photos, every decision on one photo, licenses as they are
//! written.

use super::{picture, sidecar};
use crate::passer;
use predicates::prelude::PredicateBooleanExt;
use serde_json::Value;
use std::path::Path;

/// Five photos under CC BY, one under CC BY-SA, and a copy of the first.
fn curation(home: &Path) -> std::path::PathBuf {
    let photos = home.join("photos");
    std::fs::create_dir(&photos).unwrap();
    for number in 0..6 {
        let path = photos.join(format!("p{number}.png"));
        picture(number, &path);
        let licence = if number == 5 { "CC-BY-SA-4.0" } else { "CC-BY-4.0" };
        sidecar(&path, "Ann", licence);
    }
    std::fs::copy(photos.join("p0.png"), photos.join("copy, of p0.png")).unwrap();
    sidecar(&photos.join("copy, of p0.png"), "Ann", "CC-BY-4.0");
    let out = home.join("out");
    passer()
        .args(["curate", "run", "configs/curate/folder.toml", "--set"])
        .arg(format!("source.folder.folder={}", photos.display()))
        .arg("--out")
        .arg(&out)
        .assert()
        .success();
    out
}

#[test]
fn dropped_photos_are_shown_and_one_photo_is_explained() {
    let home = tempfile::tempdir().unwrap();
    let out = curation(home.path());
    let sheet = |stage: &str, more: &[&str]| {
        let mut command = passer();
        command
            .args(["curate", "sheet", "--stage", stage])
            .args(more)
            .arg(&out);
        command
    };
    sheet("duplicates", &["--dropped"])
        .assert()
        .success()
        .stdout(predicates::str::contains("sheet-duplicates-dropped.html"));
    let page = std::fs::read_to_string(out.join("sheet-duplicates-dropped.html")).unwrap();
    // The copy beside its original, by key.
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 2, "{page}");
    assert_eq!(page.matches("<li>").count(), 1);
    assert!(page.contains("<code>p0</code>") && page.contains("<code>copy, of p0</code>"));
    assert!(
        page.contains("(exact, 0 bits)") && !page.contains("<script"),
        "{page}"
    );
    sheet("licence", &["--dropped"]).assert().success();
    let page = std::fs::read_to_string(out.join("sheet-licence-dropped.html")).unwrap();
    assert!(
        page.contains("licence_not_accepted") && page.contains("<code>p5</code>"),
        "{page}"
    );
    let kept = home.path().join("kept.html");
    sheet("duplicates", &["--photos", "2", "--out", kept.to_str().unwrap()])
        .assert()
        .success()
        .stderr(predicates::str::contains(
            "2 of 5 photos; `--photos N` shows more",
        ));
    assert_eq!(std::fs::read_to_string(&kept).unwrap().matches("<li>").count(), 2);
    sheet("integrity", &["--dropped"])
        .assert()
        .failure()
        .stderr(predicates::str::contains("`integrity` dropped no photo"));
    sheet("faces", &["--dropped"])
        .assert()
        .failure()
        .stderr(predicates::str::contains(
            "this curation has no stage `faces`; it has `licence`",
        ));

    let why = |key: &str| {
        let mut command = passer();
        command.args(["curate", "why"]).arg(&out).arg(key);
        command
    };
    why("p5").assert().success().stdout(
        predicates::str::contains("licence      dropped, licence_not_accepted")
            .and(predicates::str::contains("source       kept"))
            .and(predicates::str::contains("licence      CC-BY-SA-4.0")),
    );
    why("p0").assert().success().stdout(predicates::str::contains(
        "duplicate    copy, of p0 (exact, 0 bits)",
    ));
    why("p9")
        .assert()
        .failure()
        .stderr(predicates::str::contains("no photo was ever listed under `p9`"));
    why("py, of").assert().failure().stderr(predicates::str::contains(
        "some keys have it within: `copy, of p0`",
    ));
    let found = why("p5").arg("--json").assert().success();
    let found: Value = serde_json::from_slice(&found.get_output().stdout).unwrap();
    let decisions = found["rows"][0]["decisions"].as_array().unwrap();
    assert_eq!(
        (&decisions[1]["stage"], &decisions[1]["kept"]),
        (&"licence".into(), &false.into())
    );
}

#[test]
fn licenses_are_counted_as_they_are_written() {
    let home = tempfile::tempdir().unwrap();
    let out = curation(home.path());
    let found = passer()
        .args(["curate", "status", "--licences", "--json"])
        .arg(&out)
        .assert()
        .success();
    let found: Value = serde_json::from_slice(&found.get_output().stdout).unwrap();
    let seen: Vec<(&str, u64, u64)> = found["licences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seen| {
            (
                seen["name"].as_str().unwrap(),
                seen["photos"].as_u64().unwrap(),
                seen["kept"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("CC-BY-4.0", 6, 6), ("CC-BY-SA-4.0", 1, 0)]);
    passer()
        .args(["curate", "status", "--licences"])
        .arg(&out)
        .assert()
        .success()
        .stdout(predicates::str::contains(
            "           1            0   CC-BY-SA-4.0",
        ));
}

#[test]
fn a_photo_taken_down_leaves_every_sheet() {
    let home = tempfile::tempdir().unwrap();
    let out = curation(home.path());
    let elsewhere = home.path().join("elsewhere.html");
    passer()
        .args(["curate", "sheet", "--stage", "duplicates", "--out"])
        .arg(&elsewhere)
        .arg(&out)
        .assert()
        .success();
    passer().args(["curate", "audit"]).arg(&out).assert().success();
    passer()
        .args(["curate", "takedown", "--keys", "p2"])
        .arg(&out)
        .assert()
        .success()
        .stdout(
            predicates::str::contains("cut out of       ")
                .and(predicates::str::contains("audit.html"))
                .and(predicates::str::contains("elsewhere.html")),
        );
    for path in [elsewhere, out.join("audit.html")] {
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page.contains("<code>p1</code>") && !page.contains("<code>p2</code>"));
        assert!(page.contains("1 photo was taken down later"));
    }
}
