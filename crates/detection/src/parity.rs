//! Detectors compared with other implementations: the results of `scripts/parity/detection.py`.
//!
//! Weights and photographs that cannot be committed are in the folder of the variable PASSER_TEST_DATA.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use burn::tensor::Device;
use serde::Deserialize;

use crate::wave::{number, wave};
use crate::{Detection, Detector, Photo, RetinaFace, RetinaFaceConfig, Yolox, YoloxConfig};

/// The results in a script's fixture.
#[derive(Deserialize)]
struct Fixture {
    photos: Vec<Expected>,
}

/// The detections in one photo: left, top, right, bottom, score, and a face's points, as shares of its sides.
#[derive(Deserialize)]
struct Expected {
    key: String,
    width: u32,
    height: u32,
    /// The sum of all pixel values: both sides must decode the same ones.
    pixels: u64,
    found: Vec<Vec<f32>>,
}

/// The folder of weights and photographs that cannot be committed.
fn test_data() -> PathBuf {
    std::env::var_os("PASSER_TEST_DATA")
        .expect("PASSER_TEST_DATA must name the folder of real inputs")
        .into()
}

/// One of `photos-250.tar`, decoded.
fn photo(folder: &std::path::Path, key: &str) -> data::RgbImage {
    let tar = folder.join("photos-250.tar");
    let dataset = data::Dataset::open(&tar.to_string_lossy()).unwrap();
    let position = (0..dataset.len()).find(|position| dataset.key(*position).unwrap().ends_with(key));
    let mut encoded = Vec::new();
    dataset.read_image(position.unwrap(), &mut encoded).unwrap();
    data::decode(&encoded, &data::DecodeLimits::DEFAULT).unwrap()
}

fn borrowed(image: &data::RgbImage) -> Photo<'_> {
    Photo {
        width: image.width,
        height: image.height,
        pixels: &image.pixels,
    }
}

/// A detection in the fixture's form.
fn shares(detection: &Detection, width: u32, height: u32) -> Vec<f32> {
    let (width, height) = (width as f32, height as f32);
    let bounds = detection.bounds;
    let mut numbers = vec![
        bounds.left / width,
        bounds.top / height,
        bounds.right / width,
        bounds.bottom / height,
        detection.score,
    ];
    numbers.extend(
        detection
            .landmarks
            .iter()
            .flat_map(|[x, y]| [x / width, y / height]),
    );
    numbers
}

/// Compares a detector with a fixture, all photos in one call.
fn compare(what: &str, detector: &dyn Detector, folder: &std::path::Path, fixture: &str) {
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    assert_eq!(fixture.photos.len(), 10);
    let images = fixture.photos.iter().map(|expected| photo(folder, &expected.key));
    let images = images.collect::<Vec<_>>();
    for (image, expected) in images.iter().zip(&fixture.photos) {
        assert_eq!((image.width, image.height), (expected.width, expected.height));
        let pixels = image.pixels.iter().map(|value| u64::from(*value)).sum::<u64>();
        assert_eq!(
            pixels, expected.pixels,
            "{}: other pixels than the script had",
            expected.key
        );
    }
    let photos = images.iter().map(borrowed).collect::<Vec<_>>();
    let found = detector.detect(&photos).unwrap();
    let (mut worst, mut count) = (0f32, 0);
    for (found, expected) in found.iter().zip(&fixture.photos) {
        assert_eq!(
            found.len(),
            expected.found.len(),
            "{what}: detections in {}",
            expected.key
        );
        for (ours, theirs) in found.iter().zip(&expected.found) {
            let ours = shares(ours, expected.width, expected.height);
            assert_eq!(ours.len(), theirs.len());
            let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
            worst = differences.fold(worst, f32::max);
            count += 1;
        }
    }
    eprintln!("{what}: {count} detections in 10 photos, at most {worst:.2e} apart");
    assert!(worst < 1e-3, "{what}: {worst}");
}

#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn faces_are_those_of_pytorch() {
    let folder = test_data();
    let weights = std::fs::read(folder.join("models/retinaface_mobilenet025.pth")).unwrap();
    let config = RetinaFaceConfig::pass();
    let detector = RetinaFace::read(&mut Cursor::new(weights), config, &Device::flex()).unwrap();
    compare(
        "RetinaFace",
        &detector,
        &folder,
        include_str!("../fixtures/faces.json"),
    );
}

#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn persons_are_those_of_onnxruntime() {
    let folder = test_data();
    let weights = std::fs::read(folder.join("models/yolox_nano.onnx")).unwrap();
    let read = |config| Yolox::read(&mut Cursor::new(&weights), config, &Device::flex());
    let detector = read(YoloxConfig::persons()).unwrap();
    compare(
        "YOLOX",
        &detector,
        &folder,
        include_str!("../fixtures/persons.json"),
    );
    let together = YoloxConfig {
        side_by_side: false,
        batch_images: 4,
        ..YoloxConfig::persons()
    };
    compare(
        "YOLOX, four photos a pass",
        &read(together).unwrap(),
        &folder,
        include_str!("../fixtures/persons.json"),
    );
    let beyond = YoloxConfig {
        classes: Some(vec![0, 80]),
        ..YoloxConfig::persons()
    };
    let error = read(beyond).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`classes` must be below 80, the network's number of classes, got 80"
    );
}

/// The weights of one tensor, by the script's formula; `gain` scales those of more than one dimension.
pub(crate) fn formula(name: &str, shape: &[usize], gain: f64) -> Vec<f32> {
    let u = wave(number(name), shape.iter().product());
    let u = u.into_iter().map(|value| value as f32);
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let of = |u: f32| match shape.len() {
        1 if name.ends_with("running_var") => 1.0 + 0.5 * u,
        1 if name.ends_with("weight") => 1.0 + 0.1 * u,
        1 => 0.1 * u,
        _ => ((6.0 / fan_in).sqrt() * gain) as f32 * u,
    };
    u.map(of).collect()
}

/// A safetensors file of tensors: name, shape, values.
pub(crate) fn file_of<'a>(tensors: impl Iterator<Item = (String, &'a Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let tensors = tensors.map(|(name, shape, values)| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        (name, shape.clone(), bytes.collect::<Vec<_>>())
    });
    let tensors = tensors.collect::<Vec<_>>();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A picture and weights by formula, so that the network is compared on every machine.
#[derive(Deserialize)]
pub(crate) struct Formula {
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    pub(crate) scores: Vec<f32>,
    pub(crate) boxes: Vec<f32>,
    pub(crate) points: Vec<f32>,
}

impl Formula {
    pub(crate) fn read() -> Self {
        serde_json::from_str(include_str!("../fixtures/retinaface_formula.json")).unwrap()
    }

    /// A safetensors file of them with names changed by `rename` (`None`: omitted).
    pub(crate) fn file(&self, rename: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let values = |name: &str, shape: &[usize]| {
            formula(name, shape, if name.contains("Head") { 0.01 } else { 1.0 })
        };
        let made = self
            .shapes
            .iter()
            .filter_map(|(name, shape)| Some((rename(name)?, shape, values(name, shape))));
        file_of(made)
    }

    /// The picture of 50 x 37 px, in red, green and blue.
    pub(crate) fn pixels() -> Vec<u8> {
        let place = |at: usize| (at / 150, at / 3 % 50, at % 3);
        let value =
            |(y, x, channel): (usize, usize, usize)| (7 * x + 5 * y + 40 * channel + x * y % 11) % 256;
        (0..37 * 150).map(|at| value(place(at)) as u8).collect()
    }
}
