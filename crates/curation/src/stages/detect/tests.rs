//! Stages with a fake detector: their decisions, their state after a failure, and the checks before they
//! begin.

use super::*;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Config, RunOptions, run};

/// The score is the red of the first pixel, in 255ths; calls from `fails_at` on fail.
struct Red {
    calls: AtomicUsize,
    fails_at: usize,
}

struct Shared(std::sync::Arc<Red>);

impl Detector for Shared {
    fn network(&self) -> String {
        "the red of a pixel".to_string()
    }

    fn top_scores(&self, photos: &[RgbImage]) -> Result<Vec<f32>, String> {
        if self.0.calls.fetch_add(1, Ordering::Relaxed) >= self.0.fails_at {
            return Err("the device is lost".to_string());
        }
        Ok(photos
            .iter()
            .map(|photo| f32::from(photo.pixels[0]) / 255.0)
            .collect())
    }
}

struct Made(std::sync::Arc<Red>);

impl Detectors for Made {
    fn faces(&self, _: &FacesConfig) -> Result<Box<dyn Detector>, String> {
        Ok(Box::new(Shared(self.0.clone())))
    }

    fn persons(&self, _: &PersonsConfig) -> Result<Box<dyn Detector>, String> {
        Ok(Box::new(Shared(self.0.clone())))
    }
}

fn made(fails_at: usize) -> Made {
    Made(std::sync::Arc::new(Red {
        calls: AtomicUsize::new(0),
        fails_at,
    }))
}

/// 150 photos of rising red, one file that is not an image, and a file of "weights".
fn home() -> (tempfile::TempDir, Config) {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for red in 0..150u8 {
        image::RgbImage::from_pixel(4, 3, image::Rgb([red, 0, 0]))
            .save(photos.join(format!("p{red:03}.png")))
            .unwrap();
    }
    std::fs::write(photos.join("text.png"), "no picture").unwrap();
    std::fs::write(home.path().join("weights"), "weights").unwrap();
    let config = format!(
        "[source.folder]\nfolder = \"{photos}\"\nclass_folders = false\nlicence = \"mine\"\n\
         [[stages]]\n[stages.licence]\nattribution = []\naccept = [{{ name = \"mine\", urls = [] }}]\n\
         [[stages]]\n[stages.persons]\nweights = \"{weights}\"\nclass = 0\nscore = 0.4\ncandidate_score = 0.02\nnms_iou = 0.45\n\
         [release]\nname = \"n\"\ndescription = \"d\"\npublisher = \"p\"\ncontact = \"c\"\nurl = \"u\"\nlicence_url = \"l\"\n\
         records_per_shard = 100\nshard_prefix = \"s\"\ncoordinates = false\n",
        photos = photos.display(),
        weights = home.path().join("weights").display(),
    );
    (home, toml::from_str(&config).unwrap())
}

fn go(config: &Config, home: &Path, out: &str, detectors: &dyn Detectors) -> Result<(), Error> {
    let options = RunOptions {
        only: None,
        redo: None,
        stop: &AtomicBool::new(false),
        detectors,
        progress: &|_, _, _| {},
    };
    run(config, &home.join(out), options)
}

fn log(home: &Path, out: &str) -> Vec<(String, bool, Option<String>, Option<f64>)> {
    let ledger = rusqlite::Connection::open(home.join(out).join("ledger.sqlite")).unwrap();
    let mut rows = ledger
        .prepare("SELECT key, kept, reason, score FROM decision_log WHERE stage = 'persons' ORDER BY key")
        .unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn persons(config: &mut Config) -> &mut PersonsConfig {
    match &mut config.stages[1] {
        crate::StageConfig::Persons(persons) => persons,
        _ => panic!(),
    }
}

#[test]
fn every_photo_has_its_score_and_a_failure_loses_one_batch() {
    let (home, mut config) = home();
    go(&config, home.path(), "whole", &made(usize::MAX)).unwrap();
    let whole = log(home.path(), "whole");
    assert_eq!(whole.len(), 151);
    for (red, (key, kept, reason, score)) in whole[..150].iter().enumerate() {
        assert_eq!(*key, format!("p{red:03}"));
        // 102 / 255 is exactly the threshold in f32, and so not above it.
        assert_eq!(*kept, red <= 102, "{key}");
        assert_eq!(reason.as_deref(), (red > 102).then_some("person"));
        assert_eq!(*score, Some(f64::from(red as f32 / 255.0)));
    }
    // The detector could not run on it, so it does not pass.
    assert_eq!(
        whole[150],
        ("text".into(), false, Some("not_an_image".into()), None)
    );

    let error = go(&config, home.path(), "broken", &made(1)).unwrap_err();
    assert_eq!(error.to_string(), "stage `persons`: the device is lost");
    assert_eq!(log(home.path(), "broken").len(), BATCH);
    // The same weights at another path are the same weights.
    std::fs::rename(home.path().join("weights"), home.path().join("moved")).unwrap();
    persons(&mut config).weights = home.path().join("moved");
    let detectors = made(usize::MAX);
    go(&config, home.path(), "broken", &detectors).unwrap();
    assert_eq!(log(home.path(), "broken"), whole);
    assert_eq!(detectors.0.calls.load(Ordering::Relaxed), 2);
}

#[test]
fn weights_are_asked_for_before_anything_is_done() {
    let (home, mut config) = home();
    persons(&mut config).weights = home.path().join("nowhere.onnx");
    let error = go(&config, home.path(), "out", &NoDetectors).unwrap_err();
    assert!(
        error.to_string().starts_with("stage `persons`: the weights `/")
            && error.to_string().contains("nowhere.onnx` cannot be read"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(Hint::GetWeights(Weights::Yolox)));
    let funnel = crate::status(&home.path().join("out")).unwrap();
    assert!(funnel.stages.is_empty());
    // All that is missing is reported at once, in the order of the stages.
    if let crate::SourceConfig::Folder(source) = &mut config.source {
        source.folder = home.path().join("no photos");
    }
    let faces = "faces = { weights = 'no.pth', scale = 'original', score = 0.5, candidate_score = 0.1, nms_iou = 0.4, batch_images = 1 }";
    config.stages.insert(1, toml::from_str(faces).unwrap());
    let error = go(&config, home.path(), "out", &NoDetectors).unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "3 files of the config cannot be opened:");
    assert!(
        lines[1].ends_with("no photos`: must be a folder of photos, got none"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("  stage `faces`: ") && lines[3].starts_with("  stage `persons`: "),
        "{text}"
    );
    assert_eq!(
        error.hint(),
        Some(Hint::Several(vec![
            Hint::GetWeights(Weights::RetinaFace),
            Hint::GetWeights(Weights::Yolox)
        ]))
    );
}

#[test]
fn other_weights_or_thresholds_are_other_settings_also_when_the_file_is_gone() {
    let (home, mut config) = home();
    go(&config, home.path(), "out", &made(usize::MAX)).unwrap();
    std::fs::write(home.path().join("weights"), "others").unwrap();
    let error = go(&config, home.path(), "out", &NoDetectors).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    // Existing decisions need the file no more; changed settings still count as changed.
    std::fs::remove_file(home.path().join("weights")).unwrap();
    go(&config, home.path(), "out", &NoDetectors).unwrap();
    persons(&mut config).score = 0.5;
    assert!(go(&config, home.path(), "out", &NoDetectors).is_err());
}

#[test]
fn bad_numbers_are_named() {
    let (_home, mut config) = home();
    persons(&mut config).candidate_score = 0.5;
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "`stages.persons.candidate_score` must be at most `score` = 0.4, got 0.5"
    );
    persons(&mut config).score = 1.5;
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "`stages.persons.score` must be 0 to 1, got 1.5"
    );
    let persons = persons(&mut config);
    (persons.score, persons.candidate_score) = (0.5, 0.02);
    persons.tiles = Some(TilesConfig {
        tile_px: 10,
        overlap_px: 10,
    });
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "`stages.persons.tiles.overlap_px` must be less than `tile_px` = 10, got 10"
    );
}

#[test]
fn large_photos_are_decoded_few_at_a_time() {
    let file = |bytes| PhotoFile {
        bytes,
        content: [0; 32],
    };
    let png = |width, height| {
        let mut bytes = Vec::new();
        image::RgbImage::new(width, height)
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
            .unwrap();
        Ok(file(bytes))
    };
    let files = [
        png(4096, 4096),
        png(4096, 4096),
        png(4096, 4096),
        png(4096, 4096),
        png(1, 1),
    ];
    assert_eq!(within(&files), 4);
    assert_eq!(within(&files[..2]), 2);
    assert_eq!(within(&[Ok(file(vec![1, 2])), png(1, 1)]), 2);
}

/// Broken detectors, such as those with weights of another network.
struct Broken;

impl Detectors for Broken {
    fn faces(&self, _: &FacesConfig) -> Result<Box<dyn Detector>, String> {
        Err("no such network".to_string())
    }

    fn persons(&self, _: &PersonsConfig) -> Result<Box<dyn Detector>, String> {
        Err("no such network".to_string())
    }
}

#[test]
fn redo_asks_for_detectors_before_it_throws_decisions_away() {
    let (home, config) = home();
    go(&config, home.path(), "out", &made(usize::MAX)).unwrap();
    let before = log(home.path(), "out");
    for (redo, detectors) in [("persons", &Broken as &dyn Detectors), ("licence", &Broken)] {
        let options = RunOptions {
            only: None,
            redo: Some(redo),
            stop: &AtomicBool::new(false),
            detectors,
            progress: &|_, _, _| {},
        };
        let error = run(&config, &home.path().join("out"), options).unwrap_err();
        assert!(error.to_string().contains("no such network"), "{error}");
        assert_eq!(log(home.path(), "out"), before);
    }
}

#[test]
fn a_file_that_changed_after_a_detector_saw_it_goes_no_further() {
    let (home, mut config) = home();
    let faces: crate::StageConfig = toml::from_str(&format!(
        "[faces]\nweights = \"{}\"\nscore = 0.9\ncandidate_score = 0.02\nnms_iou = 0.4\nscale = \"original\"\nbatch_images = 8\n",
        home.path().join("weights").display()
    ))
    .unwrap();
    config.stages.push(faces);
    let out = home.path().join("out");
    for name in ["source", "licence", "persons"] {
        let options = RunOptions {
            only: Some(name),
            redo: None,
            stop: &AtomicBool::new(false),
            detectors: &made(usize::MAX),
            progress: &|_, _, _| {},
        };
        run(&config, &out, options).unwrap();
    }
    let photo = |red: u8, name: &str| {
        image::RgbImage::from_pixel(4, 3, image::Rgb([red, 9, 9]))
            .save(home.path().join("photos").join(name))
            .unwrap();
    };
    photo(1, "p001.png");
    go(&config, home.path(), "out", &made(usize::MAX)).unwrap();
    let gone: Vec<(String, String)> = rusqlite::Connection::open(out.join("ledger.sqlite"))
        .unwrap()
        .prepare("SELECT key, reason FROM decision_log WHERE stage = 'faces' AND NOT kept")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(gone, [("p001".to_string(), "file_changed".to_string())]);
    // A file that changed after both stages is not released.
    photo(2, "p002.png");
    let release = || crate::release(&out, "", &AtomicBool::new(false), &|_, _, _| {});
    let error = release().unwrap_err();
    assert!(error.to_string().contains("photo `p002` changed"), "{error}");
    let redo = Hint::Redo {
        stage: "persons".to_string(),
    };
    assert_eq!(error.hint(), Some(redo), "{error}");
    let options = RunOptions {
        only: None,
        redo: Some("persons"),
        stop: &AtomicBool::new(false),
        detectors: &made(usize::MAX),
        progress: &|_, _, _| {},
    };
    run(&config, &out, options).unwrap();
    assert_eq!(release().unwrap().records, 103);
}

/// Panics on the photo of this red, or on every photo.
struct Panicking(Option<u8>);

impl Detector for Panicking {
    fn network(&self) -> String {
        "a defect".to_string()
    }

    fn top_scores(&self, photos: &[RgbImage]) -> Result<Vec<f32>, String> {
        let bad = |photo: &RgbImage| self.0.is_none_or(|red| photo.pixels[0] == red);
        assert!(!photos.iter().any(bad), "a defect of the detector");
        Ok(vec![0.0; photos.len()])
    }
}

impl Detectors for Panicking {
    fn faces(&self, _: &FacesConfig) -> Result<Box<dyn Detector>, String> {
        Ok(Box::new(Panicking(self.0)))
    }

    fn persons(&self, _: &PersonsConfig) -> Result<Box<dyn Detector>, String> {
        Ok(Box::new(Panicking(self.0)))
    }
}

#[test]
fn a_photo_that_makes_the_detector_panic_is_dropped_and_a_lost_detector_is_an_error() {
    let (home, config) = home();
    go(&config, home.path(), "one", &Panicking(Some(77))).unwrap();
    let rows = log(home.path(), "one");
    let dropped: Vec<_> = rows.iter().filter(|(_, kept, ..)| !kept).collect();
    assert_eq!(dropped.len(), 2, "the photo, and the file that is no image");
    assert_eq!(dropped[0], &("p077".into(), false, Some("panicked".into()), None));
    let error = go(&config, home.path(), "all", &Panicking(None)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the detector panicked: a defect of the detector"),
        "{error}"
    );
    assert!(
        log(home.path(), "all").iter().all(|(_, kept, ..)| !kept),
        "no photo was decided on"
    );
}
