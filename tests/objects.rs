//! Detectors of objects from outside: `passer detect objects` and `persons`, and their files in `passer weights`.

use crate::passer;
use backbones::{Init, ResNetConfig, Stem};
use burn::tensor::Device;
use detection::rcnn::{Rcnn, RcnnConfig, TrainedOn, Version, state_dict, to_safetensors};
use detection::{Detector, Objects, ObjectsConfig, Photo};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn network(classes: usize) -> Rcnn {
    let backbone = ResNetConfig {
        depth: 18,
        width: 8,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    let mut config = RcnnConfig::torchvision(Version::V1, backbone, classes, true);
    config.boxes.width = 16;
    config.proposals.after_nms = 50;
    config.input.short_side_px = 64;
    config.input.long_side_px = 100;
    config.init(&Init::new(5, &Device::flex()))
}

/// Two photos of stripes, and a file that is none.
fn photos(home: &Path) -> PathBuf {
    let folder = home.join("photos");
    std::fs::create_dir(&folder).unwrap();
    for (name, width, height) in [("a", 90, 60), ("b", 50, 70)] {
        let stripes = |x: u32, y: u32| image::Rgb([(x * 9 % 256) as u8, (y * 5 % 256) as u8, 128]);
        image::RgbImage::from_fn(width, height, stripes)
            .save(folder.join(format!("{name}.png")))
            .unwrap();
    }
    std::fs::write(folder.join("c.png"), "no picture").unwrap();
    folder
}

/// The lines that a verb writes.
fn found(verb: &str, weights: &Path, photos: &Path, more: &[&str]) -> Vec<Value> {
    let out = photos.with_file_name(format!("{verb}.jsonl"));
    let mut command = passer();
    command.args(["detect", verb, "--device", "flex", "--weights"]);
    command
        .arg(weights)
        .arg("--data")
        .arg(photos)
        .arg("--out")
        .arg(&out);
    command.args(more).assert().success();
    let text = std::fs::read_to_string(out).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn objects_have_names_boxes_and_masks_as_the_library_finds_them() {
    let home = tempfile::tempdir().unwrap();
    let (photos, weights) = (photos(home.path()), home.path().join("net.safetensors"));
    std::fs::write(&weights, to_safetensors(&network(90), &[], &TrainedOn::default())).unwrap();
    let sheet = home.path().join("sheet.png");
    let all = ["--score", "0"];
    let lines = found(
        "objects",
        &weights,
        &photos,
        &[&all[..], &["--sheet", sheet.to_str().unwrap()]].concat(),
    );
    assert!(sheet.exists());
    assert_eq!(lines.len(), 3);
    assert!(lines[2]["error"].is_string() && lines[2]["detections"].is_null());

    let config = ObjectsConfig {
        candidate_score: 0.0,
        ..ObjectsConfig::all()
    };
    let mut file = std::fs::File::open(&weights).unwrap();
    let detector = Objects::read(&mut file, &config, &Device::flex()).unwrap();
    for (line, name) in lines.iter().zip(["a", "b"]) {
        let image = image::open(photos.join(format!("{name}.png"))).unwrap().to_rgb8();
        let photo = Photo {
            width: image.width(),
            height: image.height(),
            pixels: image.as_raw(),
        };
        let expected = detector.detect(&[photo]).unwrap().remove(0);
        let ours = line["detections"].as_array().unwrap();
        assert_eq!((ours.len(), expected.len()), (100, 100));
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_eq!(ours["class"], expected.class);
            assert!((ours["score"].as_f64().unwrap() - f64::from(expected.score)).abs() < 1e-6);
            for (edge, expected) in ours["box"]
                .as_array()
                .unwrap()
                .iter()
                .zip(expected.bounds.edges())
            {
                assert!((edge.as_f64().unwrap() - f64::from(expected)).abs() < 0.006);
            }
            let mask = expected
                .segmentation(&expected.bounds, image.width(), image.height())
                .unwrap();
            assert_eq!(ours["segmentation"]["counts"], mask.to_compressed());
            assert_eq!(
                ours["segmentation"]["size"],
                serde_json::json!([image.height(), image.width()])
            );
            assert!(ours["landmarks"].is_null());
        }
        // COCO's ids 1 and 3, and a gap at 12.
        for (class, name) in [(0, Value::from("person")), (2, "car".into()), (11, Value::Null)] {
            for one in ours.iter().filter(|one| one["class"] == class) {
                assert_eq!(one["name"], name);
            }
        }
        assert!(ours.iter().any(|one| one["name"].is_string()));
    }

    // Persons are the objects of class 0 among all that were found, without masks.
    let persons = found("persons", &weights, &photos, &all);
    for (persons, objects) in persons.iter().zip(&lines).take(2) {
        let objects = objects["detections"].as_array().unwrap().iter();
        let expected: Vec<&Value> = objects
            .filter(|one| one["class"] == 0)
            .map(|one| &one["box"])
            .collect();
        let persons = persons["detections"].as_array().unwrap();
        assert_eq!(
            persons.iter().map(|one| &one["box"]).collect::<Vec<_>>(),
            expected
        );
        assert!(persons.iter().all(|one| one["segmentation"].is_null()));
    }
}

#[test]
fn a_detectors_file_is_inspected_and_converted() {
    let home = tempfile::tempdir().unwrap();
    let (weights, out) = (
        home.path().join("net.safetensors"),
        home.path().join("out.safetensors"),
    );
    let network = network(3);
    let names = ["cat", "dog", "owl"].map(str::to_owned);
    std::fs::write(&weights, to_safetensors(&network, &names, &TrainedOn::default())).unwrap();
    passer()
        .args(["weights", "inspect"])
        .arg(&weights)
        .assert()
        .success()
        .stdout(
            contains("detector  Mask R-CNN (`maskrcnn_resnet18-w8_fpn`, 3 classes)\n")
                .and(contains("shorter side 64 px, longer side at most 100 px"))
                .and(contains("classes   cat, dog, owl"))
                .and(contains("loads     as a detector")),
        );
    passer()
        .args(["weights", "convert", "--to", "torchvision"])
        .args([&weights, &out])
        .assert()
        .success();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&weights).unwrap());
    let tensors = std::fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let own = state_dict(&network);
    assert!(own.keys().all(|name| tensors.tensor(name).is_ok()));
    // Frozen norms of the backbone count no batches.
    assert_eq!(tensors.len(), own.len());
    passer()
        .args(["weights", "convert", "--to", "timm"])
        .args([&weights, &home.path().join("timm.safetensors")])
        .assert()
        .failure()
        .stderr(contains("timm has no Faster, Mask or Cascade R-CNN").and(contains("`--to torchvision`")));
}

#[test]
fn files_and_names_that_do_not_fit_are_errors() {
    let home = tempfile::tempdir().unwrap();
    let (photos, weights) = (photos(home.path()), home.path().join("net.safetensors"));
    let bytes = to_safetensors(&network(3), &[], &TrainedOn::default());
    std::fs::write(&weights, &bytes).unwrap();
    let refused = |weights: &Path, more: &[&str]| {
        let out = home.path().join("out.jsonl");
        let mut command = passer();
        command.args(["detect", "objects", "--device", "flex", "--weights"]);
        command
            .arg(weights)
            .arg("--data")
            .arg(&photos)
            .arg("--out")
            .arg(&out);
        let failed = command.args(more).assert().failure().code(1);
        assert!(!out.exists());
        String::from_utf8_lossy(&failed.get_output().stderr).into_owned()
    };
    let names = home.path().join("names.txt");
    std::fs::write(&names, "cat\ndog\n").unwrap();
    let error = refused(&weights, &["--names", names.to_str().unwrap()]);
    assert!(
        error.contains("must have 3 lines, one for each class of the network, got 2"),
        "{error}"
    );

    let cut = home.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let error = refused(&cut, &[]);
    assert!(
        error.contains("cannot read the detector from") && error.contains("damaged"),
        "{error}"
    );

    let classifier = home.path().join("classifier.safetensors");
    let view = |values: &'static [u8]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], values).unwrap()
    };
    let tensors = [("conv1.weight", view(&[0; 4])), ("fc.weight", view(&[0; 4]))];
    std::fs::write(&classifier, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let error = refused(&classifier, &[]);
    assert!(
        error.contains(
            "must be YOLOX's, or those of torchvision's or detectron2's Faster, Mask or Cascade R-CNN"
        ) && error.contains("got 2 tensors, of which `fc.weight` is of a classifier"),
        "{error}"
    );
    let error = refused(&weights, &["--shorter-px", "500", "--longer-px", "400"]);
    assert!(
        error.contains("`--longer-px` must be at least `--shorter-px` = 500, got 400"),
        "{error}"
    );
    // The overlap that was not typed has its default.
    let error = refused(&weights, &["--tile-px", "5"]);
    assert!(
        error.contains("`--overlap-px` must be less than `--tile-px` = 5, got 64"),
        "{error}"
    );
}

#[test]
fn photos_that_nobody_could_look_at_are_not_counted_as_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let (photos, weights) = (photos(home.path()), home.path().join("net.safetensors"));
    std::fs::write(&weights, to_safetensors(&network(3), &[], &TrainedOn::default())).unwrap();
    let words = || {
        let out = home.path().join("out.jsonl");
        let mut command = passer();
        command.args(["detect", "objects", "--device", "flex", "--score", "1"]);
        command.arg("--weights").arg(&weights).arg("--out").arg(&out);
        let done = command.arg("--data").arg(&photos).assert().success();
        String::from_utf8_lossy(&done.get_output().stderr).into_owned()
    };
    let text = words();
    assert!(
        text.contains("0 of 2 photos show objects with a score above 1; ")
            && text.contains("warning: 1 photo more could not be looked at"),
        "{text}"
    );
    std::fs::remove_file(photos.join("a.png")).unwrap();
    std::fs::remove_file(photos.join("b.png")).unwrap();
    let text = words();
    assert!(
        text.contains("0 of 0 photos show objects with a score above 1\n"),
        "{text}"
    );
}

#[test]
fn a_curation_drops_what_detect_persons_finds_and_its_data_sheet_names_the_network() {
    let home = tempfile::tempdir().unwrap();
    let (photos, weights) = (photos(home.path()), home.path().join("net.safetensors"));
    std::fs::remove_file(photos.join("c.png")).unwrap();
    std::fs::write(&weights, to_safetensors(&network(4), &[], &TrainedOn::default())).unwrap();
    let sides = [
        "--shorter-px",
        "48",
        "--longer-px",
        "80",
        "--candidate-score",
        "0",
    ];
    let lines = found("persons", &weights, &photos, &sides);
    let top = |line: &Value| line["detections"][0]["score"].as_f64().unwrap();
    // Between the two photos.
    let score = (top(&lines[0]) + top(&lines[1])) / 2.0;

    let text = std::fs::read_to_string(crate::root().join("configs/curate/people.toml")).unwrap();
    let (before, rest) = text.split_once("[[stages]]\n[stages.faces]").unwrap();
    let (_, persons) = rest.split_once("[[stages]]\n[stages.persons]").unwrap();
    let config = home.path().join("config.toml");
    let sides = "sides = { shorter_px = 48, longer_px = 80 }";
    std::fs::write(
        &config,
        format!("{before}[[stages]]\n[stages.persons]\n{sides}{persons}"),
    )
    .unwrap();
    let out = home.path().join("out");
    let mut command = passer();
    command
        .args(["curate", "run"])
        .arg(&config)
        .args(["--device", "flex", "--out"])
        .arg(&out);
    for set in [
        format!("source.folder.folder={}", photos.display()),
        "source.folder.class_folders=false".to_owned(),
        format!("stages.persons.weights={}", weights.display()),
        format!("stages.persons.score={score}"),
        "stages.persons.candidate_score=0.0".to_owned(),
        "stages.persons.nms_iou=0.5".to_owned(),
        "release.publisher=Ann Example".to_owned(),
        "release.contact=ann@example.org".to_owned(),
        "release.url=https://photos.invalid/".to_owned(),
        "release.licence_url=https://photos.invalid/terms".to_owned(),
    ] {
        command.arg("--set").arg(set);
    }
    command.assert().success();
    let ledger = rusqlite::Connection::open(out.join("ledger.sqlite")).unwrap();
    let mut statement = ledger
        .prepare("SELECT kept, score FROM decision_log WHERE stage = 'persons' ORDER BY key")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, f64>(1)?)));
    let decided: Vec<(bool, f64)> = rows.unwrap().map(Result::unwrap).collect();
    assert_eq!(decided.len(), 2);
    for ((kept, decided), line) in decided.iter().zip(&lines) {
        assert!((decided - top(line)).abs() < 1e-6, "{decided}");
        assert_eq!(*kept, top(line) <= score);
    }
    passer().args(["curate", "release"]).arg(&out).assert().success();
    let sheet = std::fs::read_to_string(out.join("releases/v1/DATASHEET.md")).unwrap();
    assert!(
        sheet.contains(
            "Persons were looked for with Mask R-CNN (`maskrcnn_resnet18-w8_fpn`, 4 classes) (weights SHA-256"
        ),
        "{sheet}"
    );
}

#[test]
fn a_pickle_of_detectron2_is_inspected_converted_and_finds_persons() {
    let home = tempfile::tempdir().unwrap();
    let photos = photos(home.path());
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detection/fixtures/detectron2_cascade.pkl");
    passer()
        .args(["weights", "inspect"])
        .arg(&weights)
        .assert()
        .success()
        .stdout(
            contains("format    a pickle of numpy's arrays")
                .and(contains(
                    "detector  Cascade Mask R-CNN (`cascade_maskrcnn_resnet50-w1-caffe_fpn`, 3 classes)\n",
                ))
                .and(contains("channels in the order blue, green, red"))
                .and(contains("strides   in the first 1×1 convolutions"))
                .and(contains("its `pixel_mean` and `pixel_std` say"))
                .and(contains("loads     as a detector")),
        );
    let out = home.path().join("out.safetensors");
    let convert = |to: &str| {
        let mut command = passer();
        command.args(["weights", "convert", "--to", to]);
        command.args([&weights, &out]).assert()
    };
    convert("torchvision").failure().code(1).stderr(
        contains("torchvision has no such detector: it has one stage of box heads, and this network several")
            .and(contains("`--to passer`")),
    );
    assert!(!out.exists());
    convert("passer").success();
    // The same network, and the same persons, from both.
    let more = ["--score", "0", "--shorter-px", "64", "--longer-px", "96"];
    let from_pickle = found("persons", &weights, &photos, &more);
    let from_own = found("persons", &out, &photos, &more);
    assert_eq!(from_pickle, from_own);
    let persons = from_pickle[0]["detections"].as_array().unwrap();
    assert!(!persons.is_empty() && persons.iter().all(|one| one["class"] == 0));
}
