//! No stage may download or show a photo that was taken down, or drop another photo as its duplicate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::*;
use crate::photos::fetched_path;
use crate::stages::balance::{BalanceConfig, SampleConfig};
use crate::stages::fetch::tests::{Server, config as list, fetch_config, go};
use crate::verbs::review::tests::{curation, get, join, next, post, say, served};
use crate::{Config, NoDetectors, RunOptions, StageConfig, run};

static GO: AtomicBool = AtomicBool::new(false);

fn take_down(folder: &Path, key: &str) -> TakedownReport {
    let asked = Takedown {
        keys: &[key.to_string()],
        reason: "",
        encoders: &[],
        stop: &GO,
        progress: &|_, _, _| {},
    };
    takedown(folder, asked).unwrap()
}

fn go_with(config: &Config, folder: &Path, only: Option<&str>, redo: Option<&str>) {
    let options = RunOptions {
        only,
        redo,
        stop: &GO,
        detectors: &NoDetectors,
        progress: &|_, _, _| {},
    };
    run(config, folder, options).unwrap();
}

/// By key: why a stage dropped it; `None` where it was kept.
fn decisions(folder: &Path, stage: &str) -> BTreeMap<String, Option<String>> {
    let ledger = rusqlite::Connection::open(folder.join("ledger.sqlite")).unwrap();
    let mut rows = ledger
        .prepare("SELECT key, reason FROM decision_log WHERE stage = ?")
        .unwrap();
    rows.query_map([stage], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn dropped(reason: &str) -> Option<String> {
    Some(reason.to_string())
}

/// Files of downloads, whole or partial.
fn downloads(folder: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(folder.join("photos")).into_iter().flatten();
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().to_path_buf())
        .collect()
}

/// Rows with different files for different keys.
fn rows(server: &Server, keys: &[&str]) -> Vec<(String, String)> {
    let row = |key: &&str| ((*key).to_string(), format!("{}/own-{key}.jpg", server.address));
    keys.iter().map(row).collect()
}

#[test]
fn what_was_taken_down_is_not_downloaded_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let config = list(folder.path(), &rows(&server, &["a", "b", "c"]), fetch_config());
    // Before the downloads, and after them.
    go_with(&config, &out, Some("source"), None);
    go_with(&config, &out, Some("licence"), None);
    take_down(&out, "a");
    go(&config, &out, &GO).unwrap();
    assert_eq!(server.asked("/own-a.jpg"), 0);
    assert_eq!(decisions(&out, "fetch")["a"], dropped("taken_down"));
    // A killed run leaves a partial download.
    let part = fetched_path(&out.join("photos"), "b").with_extension("part");
    std::fs::write(&part, "part").unwrap();
    take_down(&out, "b");
    assert!(!part.exists());
    go_with(&config, &out, None, Some("fetch"));
    assert_eq!(server.asked("/own-b.jpg"), 1);
    assert_eq!(
        decisions(&out, "fetch"),
        BTreeMap::from([
            ("a".to_string(), dropped("taken_down")),
            ("b".to_string(), dropped("taken_down")),
            ("c".to_string(), None)
        ])
    );
    assert_eq!(downloads(&out), [fetched_path(&out.join("photos"), "c")]);
}

#[test]
fn the_same_bytes_under_a_new_key_do_not_stay_on_disk() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut all = rows(&server, &["a", "b"]);
    let config = list(folder.path(), &all, fetch_config());
    go(&config, &out, &GO).unwrap();
    take_down(&out, "a");
    // Only the download stage reads them. One is fetched now, one is already on disk.
    all.push(("new".into(), format!("{}/own-a.jpg", server.address)));
    all.push(("there".into(), format!("{}/own-a.jpg", server.address)));
    let there = fetched_path(&out.join("photos"), "there");
    let b = std::fs::read(fetched_path(&out.join("photos"), "b")).unwrap();
    let a = String::from_utf8_lossy(&b[3012..]).replace("own-b", "own-a");
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::write(&there, [&b[..3012], a.as_bytes()].concat()).unwrap();
    let config = list(folder.path(), &all, fetch_config());
    go_with(&config, &out, None, Some("source"));
    let found = decisions(&out, "fetch");
    assert_eq!(
        (&found["new"], &found["there"]),
        (&dropped("taken_down"), &dropped("taken_down"))
    );
    assert_eq!(found["b"], None);
    assert_eq!(downloads(&out), [fetched_path(&out.join("photos"), "b")]);
}

#[test]
fn it_takes_nobody_s_place() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let keys: Vec<String> = (0..6).map(|at| format!("k{at}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut config = list(folder.path(), &rows(&server, &keys), fetch_config());
    // A list without files.
    config.stages.truncate(1);
    config.stages.push(StageConfig::Balance(BalanceConfig {
        photos_per_photographer: 3,
        seed: 0,
    }));
    config
        .stages
        .push(StageConfig::Sample(SampleConfig { photos: 2, seed: 0 }));
    let kept = |stage: &str| -> Vec<String> {
        let all = decisions(&out, stage).into_iter();
        all.filter(|(_, reason)| reason.is_none())
            .map(|(key, _)| key)
            .collect()
    };
    go(&config, &out, &GO).unwrap();
    let first = kept("balance");
    assert_eq!((first.len(), kept("sample").len()), (3, 2));
    take_down(&out, &first[0]);
    go_with(&config, &out, None, Some("balance"));
    let second = kept("balance");
    assert!(second.len() == 3 && !second.contains(&first[0]), "{second:?}");
    take_down(&out, &kept("sample")[0]);
    go_with(&config, &out, None, Some("sample"));
    assert_eq!(kept("sample").len(), 2);
    assert_eq!(decisions(&out, "sample").len(), 3);
}

#[test]
fn nobody_goes_as_the_duplicate_of_one_that_was_taken_down() {
    let (home, mut config) = curation(0.0);
    config.stages.truncate(1);
    let photo = |name: &str| home.path().join("photos").join(name);
    let picture = |side: u32| {
        image::RgbImage::from_fn(side, side, |x, y| {
            let level = |parts: u32| {
                ((x * parts / side * 7919 + y * parts / side * 104_729).wrapping_mul(2_654_435_761) >> 20)
                    % 120
            };
            image::Rgb([(level(4) + level(8)) as u8; 3])
        })
    };
    picture(96).save(photo("large.png")).unwrap();
    picture(64).save(photo("small.png")).unwrap();
    for text in [
        "integrity = { min_side_px = 1, max_side_px = 100, max_pixels = 10000, single_colour_levels = 0, placeholders = [] }",
        "duplicates = { near = { max_distance = 20 } }",
    ] {
        config.stages.push(toml::from_str(text).unwrap());
    }
    let out = home.path().join("out");
    go(&config, &out, &GO).unwrap();
    assert_eq!(decisions(&out, "duplicates")["small"], dropped("near_duplicate"));
    take_down(&out, "large");
    go_with(&config, &out, None, Some("duplicates"));
    let found = decisions(&out, "duplicates");
    assert_eq!(
        (&found["large"], &found["small"]),
        (&dropped("taken_down"), &None)
    );
    // A repeated request still reports that the two are similar.
    assert_eq!(take_down(&out, "large").near_duplicates[0].key, "small");
}

#[test]
fn the_page_shows_no_photo_that_was_taken_down() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    run_until_review(&config, &out);
    take_down(&out, "p0");
    // The same bytes return under another key, where no stage but the review reads files.
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 0]))
        .save(home.path().join("photos/q.png"))
        .unwrap();
    let options = RunOptions {
        only: None,
        redo: Some("source"),
        stop: &GO,
        detectors: &NoDetectors,
        progress: &|_, _, _| {},
    };
    run(&config, &out, options).unwrap_err();
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        let photos = next(address, ann);
        let shown = photos
            .iter()
            .filter(|photo| get(address, &format!("/thumb/{}?annotator={ann}", photo["photo"])).0 == 200);
        assert_eq!((photos.len(), shown.count()), (10, 9));
        for photo in &photos {
            say(address, ann, photo["photo"].as_i64().unwrap(), &[]);
        }
        assert_eq!(
            post(address, "/api/next", &json!({ "annotator": ann, "count": 9 })).1["photos"],
            json!([])
        );
    });
    go(&config, &out, &GO).unwrap();
    let found = decisions(&out, "review");
    assert_eq!((found.len(), &found["q"]), (10, &dropped("taken_down")));
    assert!(found.values().filter(|reason| reason.is_none()).count() == 9);
    // The page of an earlier sample does not show it either.
    let draw = crate::AuditOptions {
        sheet_photos: 1,
        sheet: None,
        draw: Some((9, 0)),
        stop: &GO,
        progress: &|_, _, _| {},
    };
    crate::audit(&out, draw).unwrap();
    take_down(&out, "p1");
    served(&out, Some(1), |address| {
        let ann = join(address, "Ann");
        assert_eq!(next(address, ann).len(), 8);
    });
}

fn run_until_review(config: &Config, out: &Path) {
    let error = go(config, out, &GO).unwrap_err();
    assert!(error.to_string().contains("are labeled"), "{error}");
}

#[test]
fn an_answer_is_bound_to_what_was_shown() {
    let (home, config) = curation(0.0);
    let out = home.path().join("out");
    run_until_review(&config, &out);
    served(&out, None, |address| {
        let ann = join(address, "Ann");
        for photo in next(address, ann) {
            let number = photo["photo"].as_i64().unwrap();
            assert_eq!(get(address, &format!("/thumb/{number}?annotator={ann}")).0, 200);
            say(address, ann, number, &[]);
        }
    });
    go(&config, &out, &GO).unwrap();
    // Only the review has read files: exactly the bytes that it saw are released.
    image::RgbImage::from_fn(40, 30, |x, _| image::Rgb([x as u8, 0, 0]))
        .save(home.path().join("photos/p3.png"))
        .unwrap();
    let error = crate::release(&out, "", &GO, &|_, _, _| {}).unwrap_err();
    assert!(error.to_string().contains("photo `p3` changed"), "{error}");
}
