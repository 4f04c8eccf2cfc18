//! Photos taken down from outside: by content, once and permanently, and the messages of failures.

use super::{picture, reasons, sidecar, stage, status};
use crate::{passer, root};
use predicates::prelude::PredicateBooleanExt;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A curation of a folder of photos, with the first `stages` stages of `folder.toml`.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// Photos `p0` to `p4`.
    fn new(stages: usize) -> Home {
        let home = Home {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(home.photos()).unwrap();
        for number in 0..5 {
            picture(number, &home.photo(&format!("p{number}")));
            sidecar(&home.photo(&format!("p{number}")), "Ann", "CC-BY-4.0");
        }
        home.config(stages);
        home
    }

    fn config(&self, stages: usize) {
        let text = std::fs::read_to_string(root().join("configs/curate/folder.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        config["stages"].as_array_mut().unwrap().truncate(stages);
        config["source"]["folder"]["folder"] = self.photos().display().to_string().into();
        super::fill_in(config["release"].as_table_mut().unwrap());
        std::fs::write(self.folder.path().join("config.toml"), config.to_string()).unwrap();
    }

    fn photos(&self) -> PathBuf {
        self.folder.path().join("photos")
    }

    fn photo(&self, key: &str) -> PathBuf {
        self.photos().join(format!("{key}.png"))
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Copies the same bytes to another key.
    fn copy(&self, key: &str, to: &str) {
        std::fs::copy(self.photo(key), self.photo(to)).unwrap();
        sidecar(&self.photo(to), "Bob", "CC0-1.0");
    }

    fn run(&self, more: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = passer();
        command
            .args(["curate", "run"])
            .arg(self.folder.path().join("config.toml"));
        command.arg("--out").arg(self.out()).args(more).assert()
    }

    fn release(&self) -> assert_cmd::assert::Assert {
        passer().args(["curate", "release"]).arg(self.out()).assert()
    }

    fn takedown(&self, more: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = passer();
        command.args(["curate", "takedown", "--json"]).arg(self.out());
        command.args(more).assert()
    }

    fn report(&self, keys: &str) -> Value {
        let done = self.takedown(&["--keys", keys]).success();
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    }

    /// Keys of a release.
    fn released(&self, version: u32) -> Vec<String> {
        let path = self.out().join(format!("releases/v{version}/pass_metadata.csv"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut keys: Vec<String> = text
            .lines()
            .skip(1)
            .map(|line| line.split(',').nth(4).unwrap().to_string())
            .collect();
        keys.sort();
        keys
    }

    fn ledger(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.out().join("ledger.sqlite")).unwrap()
    }
}

#[test]
fn a_duplicate_takes_the_survivor_with_it_and_the_other_way_round() {
    for asked in ["z", "p0"] {
        let home = Home::new(3);
        home.copy("p0", "z");
        home.run(&[]).success();
        home.release().success();
        assert_eq!(home.released(1), ["p0", "p1", "p2", "p3", "p4"]);
        let report = home.report(asked);
        let other = if asked == "z" { "p0" } else { "z" };
        assert_eq!(report["taken_down"], json!([asked]));
        assert_eq!(report["same_content"], json!([other]));
        assert_eq!(report["seen_in"][0][0], 1);
        assert_eq!(report["release"]["version"], 2);
        assert_eq!(home.released(2), ["p1", "p2", "p3", "p4"]);
        assert_eq!(status(&home.out())["taken_down"], 2);
        // A repetition of the command changes nothing.
        let again = home.report(asked);
        assert_eq!(
            (&again["already"], &again["release"]),
            (&json!([asked]), &Value::Null)
        );
    }
}

#[test]
fn the_last_photos_of_a_release_go_without_a_next_version() {
    let home = Home::new(3);
    home.run(&[]).success();
    home.release().success();
    for _ in 0..2 {
        let report = home.report("p0,p1,p2,p3,p4");
        assert_eq!(
            (&report["none_left"], &report["release"], &report["seen_in"][0][0]),
            (&json!(true), &Value::Null, &json!(1))
        );
    }
}

#[test]
fn content_counts_where_no_stage_looks_at_photos() {
    let home = Home::new(1);
    home.copy("p0", "same");
    home.run(&[]).success();
    home.release().success();
    let report = home.report("p0");
    assert_eq!(report["same_content"], json!(["same"]));
    assert_eq!(home.released(2), ["p1", "p2", "p3", "p4"]);
    let stored: Option<Vec<u8>> = home
        .ledger()
        .query_row("SELECT sha256 FROM takedowns WHERE key = 'p0'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(stored.unwrap().len(), 32);
    // It returns under a third key, together with a photo that is really new.
    home.copy("p0", "third");
    picture(20, &home.photo("new"));
    sidecar(&home.photo("new"), "Ann", "CC0-1.0");
    home.run(&["--redo", "source"]).success();
    home.release().success();
    assert_eq!(home.released(3), ["new", "p1", "p2", "p3", "p4"]);
}

#[test]
fn what_integrity_saw_stays_down_without_it() {
    let home = Home::new(3);
    home.run(&[]).success();
    home.release().success();
    home.report("p0");
    home.copy("p0", "other");
    home.config(1);
    home.run(&["--redo", "source"]).success();
    home.release()
        .failure()
        .stderr(predicates::str::contains("those of version 2"));
}

#[test]
fn a_photo_whose_file_is_gone_goes_by_its_key_and_that_is_said() {
    let home = Home::new(1);
    home.copy("p0", "same");
    home.run(&[]).success();
    std::fs::rename(home.photos(), home.folder.path().join("away")).unwrap();
    let report = home.report("p0");
    assert_eq!(report["content_unknown"][0][0], "p0");
    std::fs::rename(home.folder.path().join("away"), home.photos()).unwrap();
    let report = home.report("p0");
    assert_eq!(report["same_content"], json!(["same"]));
    home.release().success();
    assert_eq!(home.released(1), ["p1", "p2", "p3", "p4"]);
}

#[test]
fn near_duplicates_are_told_and_not_dropped() {
    let home = Home::new(3);
    // Patches of random levels have detail at all scales, like photos, so their hash is not noise.
    let mut image = image::RgbImage::from_fn(96, 80, |x, y| {
        let patch = |size: u32| {
            let place = (x / size * 7919 + y / size * 104_729 + size).wrapping_mul(2_654_435_761);
            (place >> 20) % 85
        };
        image::Rgb([(patch(24) + patch(12) + patch(6)) as u8; 3])
    });
    image.save(home.photo("p0")).unwrap();
    image.get_pixel_mut(3, 3).0[0] ^= 4;
    image.save(home.photo("near")).unwrap();
    sidecar(&home.photo("near"), "Bob", "CC0-1.0");
    home.run(&[]).success();
    assert_eq!(
        reasons(stage(&status(&home.out()), "duplicates")),
        [("near_duplicate".to_string(), 1)]
    );
    home.release().success();
    assert_eq!(home.released(1), ["near", "p1", "p2", "p3", "p4"]);
    // The dropped duplicate is taken down: the release holds its like.
    let report = home.report("p0");
    let like = &report["near_duplicates"][0];
    assert_eq!(
        (&like["key"], &like["of"], &like["survives"]),
        (&json!("near"), &json!("p0"), &json!(true))
    );
    assert_eq!(report["release"], Value::Null);
    let told = passer()
        .args(["curate", "takedown", "--keys", "p0"])
        .arg(home.out())
        .assert()
        .success();
    told.stderr(predicates::str::contains("--keys near`"))
        .stdout(predicates::str::contains("looks like it    near (p0, "));
    let report = home.report("near");
    assert_eq!(report["near_duplicates"], json!([]));
    assert_eq!(home.released(2), ["p1", "p2", "p3", "p4"]);
}

#[test]
fn nothing_is_noted_that_fails_and_what_is_noted_is_said() {
    let home = Home::new(3);
    home.run(&[]).success();
    home.release().success();
    home.takedown(&["--keys", "p0", "--encoders", "misspelt"])
        .failure()
        .stderr(
            predicates::str::contains("there is no folder `misspelt` to search")
                .and(predicates::str::contains("nothing was taken down")),
        );
    assert_eq!(status(&home.out())["taken_down"], 0);
    // Another photo's file is missing, so that no release is possible.
    let aside = home.folder.path().join("aside");
    std::fs::rename(home.photo("p3"), &aside).unwrap();
    home.takedown(&["--keys", "p0"]).failure().stderr(
        predicates::str::contains("photo `p0` is noted as taken down").and(predicates::str::contains(
            "give the same command again, which does the rest",
        )),
    );
    assert_eq!(status(&home.out())["taken_down"], 1);
    std::fs::rename(&aside, home.photo("p3")).unwrap();
    assert_eq!(home.report("p0")["release"]["version"], 2);
    assert_eq!(home.released(2), ["p1", "p2", "p3", "p4"]);
}

#[test]
fn keys_are_asked_for_and_trimmed() {
    let home = Home::new(3);
    home.run(&[]).success();
    let file = home.folder.path().join("keys.txt");
    let path = file.display().to_string();
    std::fs::write(&file, "\u{feff}\n").unwrap();
    for none in [&["--keys", ""][..], &["--keys", ","], &["--keys-file", &path]] {
        home.takedown(none)
            .failure()
            .stderr(predicates::str::contains("no keys are given"));
    }
    assert_eq!(status(&home.out())["taken_down"], 0);
    std::fs::write(&file, "\u{feff}p0\r\n\r\np1\r\n").unwrap();
    let done = home
        .takedown(&["--keys", " p2 , p3", "--keys-file", &path])
        .success();
    let report: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(report["taken_down"], json!(["p0", "p1", "p2", "p3"]));
}

#[test]
fn folders_and_ledgers_that_do_not_belong_together_are_refused() {
    let home = Home::new(3);
    home.run(&[]).success();
    let stranger = home.out().join("releases/v1");
    std::fs::create_dir_all(&stranger).unwrap();
    std::fs::write(stranger.join("mine.txt"), "not to be lost").unwrap();
    home.release()
        .failure()
        .stderr(predicates::str::contains("releases/v1` is there already"));
    assert!(stranger.join("mine.txt").is_file());
    std::fs::remove_dir_all(&stranger).unwrap();
    home.release().success();
    drop(std::fs::remove_dir_all(home.out().join("releases")));
    home.ledger()
        .execute_batch("DELETE FROM releases; DELETE FROM release_photos;")
        .unwrap();
    // A process killed between the renaming of the folder and the ledger's note.
    home.ledger()
        .execute_batch(
            "CREATE TRIGGER killed BEFORE INSERT ON releases BEGIN SELECT RAISE(ABORT, 'killed'); END;",
        )
        .unwrap();
    home.release()
        .failure()
        .stderr(predicates::str::contains("killed"));
    assert!(stranger.is_dir());
    home.ledger().execute_batch("DROP TRIGGER killed").unwrap();
    home.release().success();
    let facts: i64 = home
        .ledger()
        .query_row(
            "SELECT count(*) FROM facts WHERE name = 'release_being_made'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(facts, 0);
    // An older ledger.
    home.ledger()
        .execute_batch("DELETE FROM releases; DELETE FROM release_photos;")
        .unwrap();
    home.release()
        .failure()
        .stderr(predicates::str::contains("knows of no such release"));

    // The ledger is lost, and with it the takedowns.
    for lost in ["none", "no byte", "another's"] {
        for name in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
            let _ = std::fs::remove_file(home.out().join(name));
        }
        match lost {
            "no byte" => std::fs::write(home.out().join("ledger.sqlite"), "").unwrap(),
            "another's" => home.ledger().execute_batch("CREATE TABLE theirs (a)").unwrap(),
            _ => {}
        }
        home.run(&[]).failure().stderr(
            predicates::str::contains("is missing or empty, but `")
                .and(predicates::str::contains("put it back from a backup")),
        );
    }
}

#[test]
fn redo_throws_nothing_away_that_it_cannot_make_again() {
    let home = Home::new(3);
    home.run(&[]).success();
    let before = super::dump(&home.out());
    home.run(&["--stage", "duplicates", "--redo", "licence"])
        .failure()
        .stderr(predicates::str::contains(
            "`licence` comes before it and would not be done once `licence` decides again",
        ));
    home.run(&[
        "--redo",
        "licence",
        "--set",
        "stages.1.integrity.min_side_px=99999",
    ])
    .failure();
    let away = home.folder.path().join("away");
    std::fs::rename(home.photos(), &away).unwrap();
    for stage in ["source", "integrity"] {
        home.run(&["--redo", stage])
            .failure()
            .stderr(predicates::str::contains("must be").and(predicates::str::contains("got none")));
    }
    assert_eq!(super::dump(&home.out()), before);
    std::fs::rename(&away, home.photos()).unwrap();
    home.run(&["--redo", "licence"]).success();
    assert_eq!(super::dump(&home.out()), before);

    // The config of another source, whose list is missing: this source's list may disappear, but not become
    // another one.
    let config = home.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut other: toml::Table = text.parse().unwrap();
    other["source"] = "csv = { files = ['missing.csv'], url_encoded = [], columns = { key = 'id', licence = 'l', image_url = 'u' } }"
        .parse::<toml::Table>()
        .unwrap()
        .into();
    // A list needs no photos for its licenses.
    other["stages"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&config, other.to_string()).unwrap();
    home.run(&["--redo", "licence"])
        .failure()
        .stderr(predicates::str::contains("missing.csv"));
    assert_eq!(super::dump(&home.out()), before);
}

/// A ledger of schema 2, from earlier versions.
#[test]
fn older_ledgers_open_and_keep_what_they_know() {
    let home = Home::new(3);
    home.copy("p0", "z");
    home.run(&[]).success();
    home.release().success();
    home.ledger()
        .execute_batch(
            "DROP TABLE contents; DROP TABLE takedown_contents; ALTER TABLE release_photos DROP COLUMN sha256; PRAGMA user_version = 2;",
        )
        .unwrap();
    assert_eq!(status(&home.out())["releases"][0]["records"], 5);
    let report = home.report("z");
    assert_eq!(report["same_content"], json!(["p0"]));
    assert_eq!(report["seen_in"][0][0], 1);
    assert_eq!(home.released(2), ["p1", "p2", "p3", "p4"]);
}
