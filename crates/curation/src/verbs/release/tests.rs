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

fn with_integrity(config: &Config, keys: &str) -> Config {
    let mut config = config.clone();
    config.source = match config.source {
        crate::SourceConfig::Folder(source) => crate::SourceConfig::Folder(crate::FolderConfig {
            embedded_credit: true,
            ..source
        }),
        source => source,
    };
    config.stages.push(
        toml::from_str(&format!(
            "[integrity]\nmin_side_px = 1\nmax_side_px = 100\nmax_pixels = 10000\nsingle_colour_levels = 0\nplaceholders = []\n{keys}"
        ))
        .unwrap(),
    );
    config
}

/// A GIF of two frames.
fn animation(path: &Path) {
    let frame = |seed: u8| {
        let pixel = move |x: u32, y: u32| image::Rgba([x as u8 * 8, y as u8 * 8, seed, 255]);
        image::Frame::new(image::RgbaImage::from_fn(16, 16, pixel))
    };
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = image::codecs::gif::GifEncoder::new(file);
    encoder.encode_frames([frame(1), frame(90)]).unwrap();
}

#[test]
fn frames_that_no_stage_looked_at_are_dropped_or_stand_in_the_data_sheet() {
    let home = Home::new();
    animation(&home.photos().join("moving.gif"));
    let config = home.config("CC0", "Ann", "u");
    // As a config of an earlier version.
    home.try_run(&with_integrity(&config, ""), None).unwrap();
    let funnel = status(&home.out()).unwrap();
    let integrity = funnel.stages.last().unwrap();
    assert_eq!(
        (integrity.kept, integrity.remarks[0].reason.as_str()),
        (4, "animated")
    );
    let sheet = |folder: &Path| std::fs::read_to_string(folder.join("DATASHEET.md")).unwrap();
    let released = home.release().unwrap();
    let said = "1 of 4 files are animations, of which the stages looked at the first frame alone.";
    // No stage looked for people here, which is what the sheet says first.
    assert!(sheet(&released.folder).contains(said));

    // The same behavior, named; then the other one.
    home.try_run(&with_integrity(&config, "animated = \"keep\"\n"), None)
        .unwrap();
    let drop = with_integrity(&config, "animated = \"drop\"\ntransparent = \"drop\"\n");
    let error = home.try_run(&drop, None).unwrap_err().to_string();
    assert!(
        error.contains("integrity.animated \"keep\" → \"drop\""),
        "{error}"
    );
    home.try_run(&drop, Some("integrity")).unwrap();
    let why = why(&home.out(), "moving").unwrap();
    assert_eq!(why.rows[0].decisions[2].reason.as_deref(), Some("animated"));
    let released = home.release().unwrap();
    assert_eq!(released.records, 3);
    assert!(!sheet(&released.folder).contains("animations"));
}

/// A JPEG whose EXIF has nothing but this copyright.
fn with_copyright(path: &Path, text: &str) {
    let mut file = Vec::new();
    image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 200]))
        .write_to(&mut std::io::Cursor::new(&mut file), image::ImageFormat::Jpeg)
        .unwrap();
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x98\x82\x02\0".to_vec();
    exif.extend((text.len() as u32 + 1).to_le_bytes());
    exif.extend(26u32.to_le_bytes());
    exif.extend([0; 4]);
    exif.extend(text.as_bytes());
    exif.push(0);
    let segment = [&[0xFF, 0xE1][..], &(exif.len() as u16 + 2).to_be_bytes(), &exif].concat();
    std::fs::write(path, [&file[..2], &segment, &file[2..]].concat()).unwrap();
}

#[test]
fn a_copyright_notice_is_no_license_and_its_photo_has_none() {
    let home = Home::new();
    for (name, text) in [
        ("jane.jpg", "© Jane Doe"),
        ("canon.jpg", "Copyright 2024 Canon"),
        ("own.jpg", "© 2024 Ann"),
        ("zero.jpg", "CC0 1.0 Universal"),
    ] {
        with_copyright(&home.photos().join(name), text);
    }
    home.try_run(&with_integrity(&home.config("CC0", "Ann", "u"), ""), None)
        .unwrap();
    let decided = |key: &str| {
        let row = why(&home.out(), key).unwrap().rows.remove(0);
        let decision = row.decisions[1].clone();
        (
            row.license.unwrap_or_default(),
            decision.reason.unwrap_or_default(),
            decision.detail.unwrap_or_default(),
        )
    };
    let none = |words: &str| (String::new(), "no_licence".to_string(), words.to_string());
    assert_eq!(
        decided("jane"),
        none("`© Jane Doe` is the file's copyright notice, not a license")
    );
    assert_eq!(
        decided("canon"),
        none("`Copyright 2024 Canon` is the file's copyright notice, not a license")
    );
    let kept = |license: &str| (license.to_string(), String::new(), String::new());
    assert_eq!(decided("own"), kept("CC0"));
    assert_eq!(decided("zero"), kept("CC0 1.0 Universal"));
    let funnel = status(&home.out()).unwrap();
    assert_eq!(funnel.listing.count(data::Reason::RightsOfOthers), 2);
    let seen = crate::licenses(&home.out()).unwrap();
    let names: Vec<&str> = seen.iter().map(|license| license.name.as_str()).collect();
    assert_eq!(names, ["CC0", "", "CC0 1.0 Universal"]);
}

#[test]
fn private_addresses_are_not_published() {
    let home = Home::new();
    let text = serde_json::json!({
        "photographer": "Ann", "licence": "CC0", "page_url": "file:///home/SECRET/a.html",
        "image_url": "https://ann:SECRET@host.example/a.jpg",
    });
    std::fs::write(home.photos().join("p0.json"), text.to_string()).unwrap();
    let text = serde_json::json!({
        "photographer": "Ann", "licence": "CC0", "page_url": "https://host.example/PUBLIC",
    });
    std::fs::write(home.photos().join("p1.json"), text.to_string()).unwrap();
    home.run("Ann", "u", None);
    let released = home.release().unwrap();
    let (mut secret, mut public) = (0, 0);
    for entry in std::fs::read_dir(&released.folder).unwrap() {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
        secret += usize::from(holds(b"SECRET"));
        public += usize::from(holds(b"PUBLIC"));
    }
    assert_eq!(secret, 0);
    assert!(public >= 2);
    let sheet = std::fs::read_to_string(released.folder.join("DATASHEET.md")).unwrap();
    assert!(sheet.contains("Addresses of 1 photos were left out"), "{sheet}");
    assert!(
        sheet.contains("where it states none, `CC0`, as the publisher of this data set states it."),
        "{sheet}"
    );
    assert!(
        sheet.contains("The key of a photo is its path in the publisher's folder"),
        "{sheet}"
    );
}

#[test]
fn files_that_differed_in_their_metadata_alone_are_counted_as_equal() {
    let home = Home::new();
    let path = home.photos().join("a.jpg");
    with_copyright(&path, "CC0");
    let file = std::fs::read(&path).unwrap();
    let comment = [&file[..2], b"\xFF\xFE\x00\x06home", &file[2..]].concat();
    std::fs::write(home.photos().join("b.jpg"), comment).unwrap();
    let mut config = with_integrity(&home.config("CC0", "Ann", "u"), "");
    config.stages.push(toml::from_str("[duplicates]").unwrap());
    home.try_run(&config, None).unwrap();
    let released = home.release().unwrap();
    assert_eq!(released.records, 5);
    let sheet = std::fs::read_to_string(released.folder.join("DATASHEET.md")).unwrap();
    assert!(
        sheet.contains("1 files of this release equal another one of it, to the byte."),
        "{sheet}"
    );
}
