//! Releases whose photos did not change: corrected facts, a folder that is gone, texts that nobody filled in; and the
//! source of such a release when its folder changes.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::verbs::status::{Unlisted, status, unlisted};
use crate::verbs::why::why;
use crate::{NoDetectors, RunOptions, Takedown, run, takedown};

static GO: AtomicBool = AtomicBool::new(false);

struct Home(tempfile::TempDir);

impl Home {
    /// A folder of three photos.
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        for number in 0..3u8 {
            home.photo(&format!("p{number}.png"), number);
        }
        home
    }

    fn photos(&self) -> PathBuf {
        self.0.path().join("photos")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn photo(&self, name: &str, number: u8) {
        let path = self.photos().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, number]))
            .save(path)
            .unwrap();
    }

    fn config(&self, licence: &str, publisher: &str, url: &str) -> Config {
        let text = format!(
            "[source.folder]\nfolder = \"{}\"\nclass_folders = false\nlicence = \"{licence}\"\nphotographer = \"Ann\"\n\
             [[stages]]\n[stages.licence]\nattribution = [\"photographer\"]\naccept = [{{ name = \"CC0\", urls = [] }}]\n\
             [release]\nname = \"n\"\ndescription = \"d\"\npublisher = \"{publisher}\"\ncontact = \"c\"\nurl = \"{url}\"\n\
             licence_url = \"l\"\nrecords_per_shard = 100\nshard_prefix = \"s\"\ncoordinates = false\nmetadata = \"strip_private\"\n",
            self.photos().display()
        );
        toml::from_str(&text).unwrap()
    }

    fn run(&self, publisher: &str, url: &str, redo: Option<&str>) {
        self.try_run(&self.config("CC0", publisher, url), redo).unwrap();
    }

    fn try_run(&self, config: &Config, redo: Option<&str>) -> Result<(), Error> {
        let options = RunOptions {
            only: None,
            redo,
            stop: &GO,
            detectors: &NoDetectors,
            progress: &|_, _, _| {},
        };
        run(config, &self.out(), options)
    }

    fn release(&self) -> Result<Released, Error> {
        release(&self.out(), "", &GO, &|_, _, _| {})
    }

    fn history(&self, version: u32) -> String {
        let path = self.out().join(format!("releases/v{version}/VERSION_HISTORY.md"));
        std::fs::read_to_string(path).unwrap()
    }

    fn take_down(&self, key: &str) -> Result<crate::TakedownReport, Error> {
        let asked = Takedown {
            keys: &[key.to_string()],
            reason: "",
            encoders: &[],
            stop: &GO,
            progress: &|_, _, _| {},
        };
        takedown(&self.out(), asked)
    }
}

fn shard(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("s-000000.tar")).unwrap()
}

#[test]
fn texts_of_a_shipped_config_are_not_published() {
    let home = Home::new();
    home.run("(who publishes it)", "https://example.org/", None);
    let error = home.release().unwrap_err();
    assert!(
        error.to_string().contains(
            "`release.publisher`, `release.url` would be published with the text of a shipped config"
        ),
        "{error}"
    );
    let keys = vec!["release.publisher", "release.url"];
    assert_eq!(error.hint(), Some(Hint::FillIn { keys }));
    assert!(!home.out().join("releases").exists());
    home.run("Ann", "https://example.org/photos", None);
    assert_eq!(home.release().unwrap().version, 1);
}

#[test]
fn corrected_facts_and_a_folder_that_is_gone_make_a_version_of_the_same_photos() {
    let home = Home::new();
    home.run("Ann", "u", None);
    let first = home.release().unwrap();
    assert_eq!(home.release().unwrap_err().hint(), Some(Hint::NothingNew));
    home.run("Ann Example", "u", None);
    let second = home.release().unwrap();
    assert_eq!(
        (second.version, second.added, second.removed, &second.fingerprint),
        (2, 0, 0, &first.fingerprint)
    );
    assert_eq!(shard(&first.folder), shard(&second.folder));
    assert!(
        home.history(2).contains("Facts corrected: publisher."),
        "{}",
        home.history(2)
    );
    assert_eq!(home.release().unwrap_err().hint(), Some(Hint::NothingNew));

    std::fs::remove_dir_all(&second.folder).unwrap();
    let third = home.release().unwrap();
    assert_eq!((third.version, &third.fingerprint), (3, &first.fingerprint));
    assert_eq!(shard(&first.folder), shard(&third.folder));
    assert!(
        home.history(3).contains("the folder of version 2 was gone"),
        "{}",
        home.history(3)
    );
    // An older version may be gone.
    std::fs::remove_dir_all(&first.folder).unwrap();
    assert_eq!(home.release().unwrap_err().hint(), Some(Hint::NothingNew));
}

/// Who released the texts of a shipped config before they were refused must be able to obey a takedown.
#[test]
fn a_takedown_makes_its_version_whatever_the_texts_are() {
    let home = Home::new();
    home.run("Ann", "u", None);
    home.release().unwrap();
    home.run("(who publishes it)", "u", None);
    assert_eq!(home.take_down("p0").unwrap().release.unwrap().version, 2);
}

#[test]
fn photos_that_came_later_are_counted_until_the_source_is_read_again() {
    let home = Home::new();
    home.run("Ann", "u", None);
    assert_eq!(unlisted(&home.out()).unwrap(), None);
    home.photo("new/a.png", 9);
    home.photo("p3.png", 10);
    assert_eq!(
        unlisted(&home.out()).unwrap(),
        Some(Unlisted {
            photos: 2,
            example: "new/a.png".to_string()
        })
    );
    home.run("Ann", "u", Some("source"));
    assert_eq!(unlisted(&home.out()).unwrap(), None);
    assert_eq!(status(&home.out()).unwrap().stages[0].kept, 5);
}

#[test]
fn files_that_share_a_key_name_each_other_and_a_file_names_its_photo() {
    let home = Home::new();
    home.photo("p0.jpg", 20);
    home.photo("in/p1.png", 21);
    home.run("Ann", "u", None);
    let found = why(&home.out(), "p0").unwrap();
    let details: Vec<Option<&str>> = found
        .rows
        .iter()
        .map(|row| row.decisions[0].detail.as_deref())
        .collect();
    assert_eq!(details, [None, Some("`p0.jpg` has the same key")]);
    assert_eq!(found.rows[1].decisions[0].reason.as_deref(), Some("repeated_row"));
    // By the file's name, or its path; not where two files have the name.
    assert_eq!(
        why(&home.out(), "p2.png").unwrap(),
        why(&home.out(), "p2").unwrap()
    );
    assert_eq!(
        why(&home.out(), "in/p1.png").unwrap(),
        why(&home.out(), "in/p1").unwrap()
    );
    assert!(why(&home.out(), "p1.png").is_err());
    // A takedown by a file's name must not take another file with it.
    assert!(home.take_down("p0.jpg").is_err());
    assert!(home.take_down("p1.png").is_err());
    assert_eq!(home.take_down("p2.png").unwrap().taken_down, ["p2"]);
    assert_eq!(home.take_down("p2.png").unwrap().already, ["p2"]);
}

#[test]
fn a_license_that_no_stage_accepts_is_an_error_before_the_run() {
    let home = Home::new();
    let error = home.try_run(&home.config("CCBY", "Ann", "u"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`source.folder.licence` must be one of the licenses in `stages.licence.accept`, which has `CC0`, got `CCBY`; write one of \
         them, or add this one there as `[[stages.licence.accept]]`"
    );
    assert!(!home.out().exists());
}

/// Photos of others in the folder, known by their sidecars, are not published under the config's license.
#[test]
fn photos_of_others_are_not_published_under_the_license_of_the_config() {
    let home = Home::new();
    let sidecar = |name: &str, who: &str| {
        let text = serde_json::json!({ "photographer": who }).to_string();
        std::fs::write(home.photos().join(name), text).unwrap();
    };
    sidecar("p0.json", "Christoph");
    sidecar("p1.json", "Picasa");
    sidecar("p2.json", " ann ");
    home.run("Ann", "u", None);
    let found = status(&home.out()).unwrap();
    assert_eq!(found.listing.count(data::Reason::OfAnotherPhotographer), 1);
    assert_eq!(
        found.listing.example(data::Reason::OfAnotherPhotographer),
        Some("p0.png")
    );
    assert_eq!(found.listing.count(data::Reason::NoPhotographersName), 1);
    assert_eq!((found.stages[1].kept, found.stages[1].dropped), (2, 1));
    let decision = why(&home.out(), "p0").unwrap().rows[0].decisions[1].clone();
    assert_eq!(decision.reason.as_deref(), Some("no_licence"));
    assert_eq!(
        decision.detail.as_deref(),
        Some("its photographer is `Christoph`, and no license is stated for it")
    );
    let released = home.release().unwrap();
    let credits = std::fs::read_to_string(released.folder.join("CREDITS.txt")).unwrap();
    assert!(
        !credits.contains("Christoph") && !credits.contains("Picasa"),
        "{credits}"
    );
    assert_eq!(released.records, 2);
}
