//! Metadata within released files from outside: what goes, what stays, what documents and hashes say of it.

use super::{picture, reasons, sidecar, stage, status};
use crate::{passer, root};
use predicates::prelude::PredicateBooleanExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Photos whose metadata hold the words SECRET and CREDIT (scripts/curate/embedded_metadata.py), and one without.
const PHOTOS: [(&str, &str); 5] = [
    ("a", "baseline.jpg"),
    ("b", "chunks.png"),
    ("c", "lossy.webp"),
    ("d", "animation.gif"),
    ("e", "gap.bmp"),
];

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.photos()).unwrap();
        for (key, file) in PHOTOS {
            let from = root().join("crates/curation/fixtures/embedded").join(file);
            let to = home
                .photos()
                .join(key)
                .with_extension(file.rsplit_once('.').unwrap().1);
            std::fs::copy(from, &to).unwrap();
            sidecar(&to, "Ann", "CC-BY-4.0");
        }
        picture(1, &home.photos().join("plain.png"));
        sidecar(&home.photos().join("plain.png"), "Ann", "CC-BY-4.0");
        home
    }

    fn photos(&self) -> PathBuf {
        self.0.path().join("photos")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// Runs the first `stages` stages of `folder.toml` with this line for `release.metadata`.
    fn run(&self, stages: usize, metadata: Option<&str>, more: &[&str]) -> assert_cmd::assert::Assert {
        let text = std::fs::read_to_string(root().join("configs/curate/folder.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        config["stages"].as_array_mut().unwrap().truncate(stages);
        config["source"]["folder"]["folder"] = self.photos().display().to_string().into();
        if let Some(integrity) = config["stages"].as_array_mut().unwrap().get_mut(1) {
            integrity["integrity"]["min_side_px"] = 8.into();
            integrity["integrity"]["animated"] = "keep".into();
            integrity["integrity"]["transparent"] = "keep".into();
        }
        let release = config["release"].as_table_mut().unwrap();
        release.remove("metadata");
        super::fill_in(release);
        if let Some(metadata) = metadata {
            release.insert("metadata".into(), metadata.into());
        }
        let path = self.0.path().join("config.toml");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = passer();
        command
            .args(["curate", "run"])
            .arg(path)
            .arg("--out")
            .arg(self.out());
        command.args(more).assert()
    }

    fn release(&self) -> assert_cmd::assert::Assert {
        passer().args(["curate", "release"]).arg(self.out()).assert()
    }

    fn folder(&self, version: u32) -> PathBuf {
        self.out().join(format!("releases/v{version}"))
    }

    fn document(&self, version: u32, name: &str) -> String {
        std::fs::read_to_string(self.folder(version).join(name)).unwrap()
    }

    /// Keys and files of a release, with the hash in the JSON beside each.
    fn released(&self, version: u32) -> Vec<(String, Vec<u8>, String)> {
        let dataset = data::Dataset::open(self.folder(version).to_str().unwrap()).unwrap();
        (0..dataset.len())
            .map(|at| {
                let mut image = vec![];
                dataset.read_image(at, &mut image).unwrap();
                let hash = dataset.metadata(at).unwrap().content_hash.unwrap();
                (dataset.key(at).unwrap(), image, hash)
            })
            .collect()
    }

    fn original(&self, key: &str) -> Vec<u8> {
        let found = std::fs::read_dir(self.photos()).unwrap();
        let mut paths = found.map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| path.file_stem().unwrap() == key && path.extension().unwrap() != "json";
        std::fs::read(paths.find(is_it).unwrap()).unwrap()
    }

    fn takedown(&self, key: &str) -> Value {
        let mut command = passer();
        command
            .args(["curate", "takedown", "--json", "--keys", key])
            .arg(self.out());
        let done = command.assert().success();
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    }

    /// Adds a photo to the source.
    fn add(&self, name: &str, file: &[u8]) {
        let path = self.photos().join(name);
        std::fs::write(&path, file).unwrap();
        sidecar(&path, "Bob", "CC0-1.0");
    }
}

fn holds(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

fn sha256(file: &[u8], folder: &Path) -> String {
    let path = folder.join("hashed");
    std::fs::write(&path, file).unwrap();
    data::sha256_of_file(&path).unwrap().hex()
}

fn decoded(file: &[u8]) -> data::RgbImage {
    data::decode(file, &data::DecodeLimits::DEFAULT).unwrap()
}

#[test]
fn a_release_holds_nothing_private_and_its_documents_say_what_went() {
    let home = Home::new();
    home.run(2, Some("strip_private"), &[]).success();
    let found = status(&home.out());
    let remarks: Vec<(&str, u64)> = stage(&found, "integrity")["remarks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|remark| {
            (
                remark["reason"].as_str().unwrap(),
                remark["photos"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("animated", 1),
        ("embeds_other", 5),
        ("embeds_comment", 4),
        ("embeds_owner", 4),
        ("embeds_people", 4),
        ("embeds_position", 4),
        ("embeds_serial", 4),
        ("embeds_thumbnail", 4),
        ("embeds_maker_note", 3),
    ];
    assert_eq!(remarks, expected);
    let ledger = rusqlite::Connection::open(home.out().join("ledger.sqlite")).unwrap();
    let detail = |key: &str| -> Option<String> {
        let query = "SELECT detail FROM decision_log WHERE stage = 'integrity' AND key = ?";
        ledger.query_row(query, [key], |row| row.get(0)).unwrap()
    };
    let kinds = "position, owner, serial, people, comment, thumbnail, maker_note, other";
    assert_eq!(detail("a").unwrap(), format!("embeds {kinds}"));
    assert_eq!(detail("plain"), None);

    home.release()
        .success()
        .stderr(predicates::str::contains("release.metadata").not());
    let released = home.released(1);
    assert_eq!(released.len(), 6);
    let table = home.document(1, "pass_metadata.csv");
    for (key, file, hash) in &released {
        assert!(!holds(file, "SECRET"), "{key}");
        assert_eq!(*hash, sha256(file, home.0.path()), "{key}");
        assert_eq!(decoded(file), decoded(&home.original(key)), "{key}");
        assert!(table.contains(key.as_str()));
        assert_eq!(*file == home.original(key), key == "plain", "{key}");
    }
    passer()
        .args(["shards", "verify"])
        .arg(home.folder(1))
        .assert()
        .success();
    let sheet = home.document(1, "DATASHEET.md");
    for said in [
        "The tables and JSON files give no places.",
        "were removed, all but orientation, resolution, color and the photographer's credit; of 6 photos: ",
        "a place in 4; ",
        "thumbnails or other pictures within the file in 4",
        "Metadata within 5 of 6 files were written anew without what is named above; their pixels were compared with those of the source's files, and are the same. The other files are those of the source, byte for byte.",
        "1 of 6 files are animations, of which the stages looked at the first frame alone.",
    ] {
        assert!(sheet.contains(said), "{said}\n{sheet}");
    }
    assert!(home.document(1, "croissant.json").contains("a place in 4; "));
    assert!(
        home.document(1, "CREDITS.txt")
            .contains("metadata within the files were removed")
    );
    // The same release is made again after it is gone, to the byte.
    home.release()
        .failure()
        .stderr(predicates::str::contains("those of version 1"));

    // All of it may stay, and less: each is a new version of the same photos.
    home.run(2, Some("keep"), &[]).success();
    home.release().success();
    for (key, file, _) in home.released(2) {
        assert_eq!(file, home.original(&key), "{key}");
    }
    let sheet = home.document(2, "DATASHEET.md");
    assert!(sheet.contains("were left in them**; of 6 photos: "), "{sheet}");
    assert!(
        sheet.contains("No: the files are those of the source, byte for byte."),
        "{sheet}"
    );
    assert!(home.document(2, "CREDITS.txt").contains("None was changed."));
    home.run(2, Some("strip_all"), &[]).success();
    home.release().success();
    for (key, file, _) in home.released(3) {
        assert!(!holds(&file, "SECRET") && !holds(&file, "CREDIT"), "{key}");
        assert_eq!(decoded(&file), decoded(&home.original(&key)), "{key}");
    }
}

#[test]
fn a_config_without_the_key_strips_and_says_so() {
    let home = Home::new();
    home.run(1, None, &[]).success();
    home.release().success().stderr(predicates::str::contains(
        "`release.metadata` is not in the config",
    ));
    assert!(home.released(1).iter().all(|(_, file, _)| !holds(file, "SECRET")));
    // The key comes later, with the same meaning: nothing is decided or released again.
    home.run(1, Some("strip_private"), &[]).success();
    home.release()
        .failure()
        .stderr(predicates::str::contains("those of version 1"));
}

#[test]
fn a_takedown_finds_original_and_released_bytes() {
    for stages in [1, 3] {
        let home = Home::new();
        home.run(stages, Some("strip_private"), &[]).success();
        home.release().success();
        let released = home.released(1);
        let original = home.original("a");
        let (_, stripped, _) = released.iter().find(|(key, ..)| key == "a").unwrap().clone();
        assert_ne!(original, stripped);
        // The original under another key, listed before the takedown.
        home.add("again.jpg", &original);
        home.run(stages, Some("strip_private"), &["--redo", "source"])
            .success();
        let report = home.takedown("a");
        assert_eq!(report["same_content"], json!(["again"]), "{stages}");
        assert_eq!(report["seen_in"][0][0], 1, "{stages}");
        assert_eq!(report["release"]["version"], 2, "{stages}");
        // Both, listed after it: neither comes back.
        home.add("later.jpg", &original);
        home.add("published.jpg", &stripped);
        home.run(stages, Some("strip_private"), &["--redo", "source"])
            .success();
        if stages == 3 {
            let gone = ("taken_down".to_string(), 2);
            assert!(reasons(stage(&status(&home.out()), "integrity")).contains(&gone));
        }
        home.release()
            .failure()
            .stderr(predicates::str::contains("those of version 2"));
    }
}

#[test]
fn credits_come_from_the_files_where_the_config_says_so() {
    let home = Home::new();
    for entry in std::fs::read_dir(home.photos()).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().unwrap().to_str() {
            Some("json") => std::fs::remove_file(path).unwrap(),
            _ => continue,
        }
    }
    // A sidecar's own words come first, and one of its keys is misspelled.
    let sidecar = json!({ "photographer": "Bob", "license": "CC0", "licence": "CC0 1.0 Universal" });
    std::fs::write(home.photos().join("b.json"), sidecar.to_string()).unwrap();
    home.run(1, Some("strip_private"), &[])
        .success()
        .stderr(predicates::str::contains(
            "keys of sidecars that mean nothing were ignored: 1 license (such as `b.png`)",
        ));
    let nobody = [("no_licence".to_string(), 5)];
    assert_eq!(reasons(stage(&status(&home.out()), "licence")), nobody);
    let said = ["--redo", "source", "--set", "source.folder.embedded_credit=true"];
    home.run(1, Some("strip_private"), &said).success();
    let nobody = [("no_licence".to_string(), 2)];
    assert_eq!(reasons(stage(&status(&home.out()), "licence")), nobody);
    home.release().success();
    let credits = home.document(1, "CREDITS.txt");
    for line in [
        "a: by CREDIT Ann & Bob, https://creativecommons.org/licenses/by/4.0/?CREDIT\n",
        "b: by Bob, CC0 1.0 Universal\n",
    ] {
        assert!(credits.contains(line), "{credits}");
    }
}

#[test]
fn a_file_whose_metadata_cannot_be_told_from_pixels_is_named() {
    let home = Home::new();
    let cut = &home.original("a")[..400];
    home.add("cut.jpg", cut);
    home.run(1, Some("strip_private"), &[]).success();
    home.release().failure().stderr(
        predicates::str::contains("private metadata cannot be removed from photo `cut`")
            .and(predicates::str::contains("passer curate takedown DIR --keys cut")),
    );
    home.takedown("cut");
    home.release().success();
    assert_eq!(home.released(1).len(), 6);
}
