//! Our transforms compared with Pillow and torchvision: fixed parameters pixel by pixel, drawn parameters by
//! distribution.
//!
//! Fixtures by `scripts/parity/augment.py` (versions inside). Bounds: color, blur, flip and crop to the bit;
//! resizes within 1 of 255, cubic ones within 2, because weights are rounded to 16 bits here and to 22 in
//! Pillow.

use std::io::Read;

use flate2::read::GzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Filter;
use super::blur::Blur;
use super::color;
use super::geometry::{self, CropBox, Resampler};
use super::pipeline::{JitterStep, jitter_steps};
use crate::decode::RgbImage;
use crate::hex::hex;
use crate::randomness::{Purpose, generator};

#[derive(Deserialize)]
struct Fixture {
    sources: std::collections::HashMap<String, Picture>,
    cases: Vec<Case>,
    cubes: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: String,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    parameters: serde_json::Value,
    #[serde(flatten)]
    expected: Picture,
}

impl Picture {
    pub(super) fn image(&self) -> RgbImage {
        let digits = self.pixels.as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        RgbImage {
            width: self.width,
            height: self.height,
            pixels: digits.iter().map(byte).collect(),
        }
    }
}

pub(super) fn fixture<T: serde::de::DeserializeOwned>(packed: &[u8]) -> T {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn augment() -> Fixture {
    fixture(include_bytes!("../../fixtures/augment.json.gz"))
}

/// Applies an operation on planes to a picture.
pub(super) fn on_planes(image: &RgbImage, operation: impl FnOnce(&mut [u8])) -> RgbImage {
    let mut planes = vec![0; image.pixels.len()];
    geometry::to_planes(&image.pixels, &mut planes);
    operation(&mut planes);
    let mut out = image.clone();
    geometry::from_planes(&planes, &mut out.pixels);
    out
}

fn ours(case: &Case, source: &RgbImage) -> RgbImage {
    let number = |name: &str| case.parameters[name].as_f64().unwrap();
    let whole = |name: &str| case.parameters[name].as_u64().unwrap() as u32;
    let (width, height) = (case.expected.width, case.expected.height);
    let mut out = RgbImage::default();
    match case.name.as_str() {
        "crop_and_resize" => {
            let part = CropBox {
                left: whole("left"),
                top: whole("top"),
                width: whole("crop_width"),
                height: whole("crop_height"),
            };
            let filter = if case.parameters["filter"] == "bicubic" {
                Filter::Bicubic
            } else {
                Filter::Bilinear
            };
            Resampler::default().crop_and_resize(source, part, width, height, filter, &mut out);
            out
        }
        "shorter_side" => {
            let size = geometry::shorter_side_size(source.width, source.height, whole("shorter"));
            assert_eq!(size, (width, height));
            geometry::resize(source, size.0, size.1, Filter::Bilinear)
        }
        "center_crop" => {
            geometry::center_crop(source, width, height, &mut out);
            out
        }
        "brightness" => on_planes(source, |planes| {
            color::adjust_brightness(planes, number("factor"))
        }),
        "contrast" => on_planes(source, |planes| color::adjust_contrast(planes, number("factor"))),
        "saturation" => on_planes(source, |planes| {
            color::adjust_saturation(planes, number("factor"))
        }),
        "hue" => on_planes(source, |planes| color::adjust_hue(planes, number("turn"))),
        "blur" => on_planes(source, |planes| {
            Blur::default().gaussian(planes, source.width as usize, number("sigma"))
        }),
        "solarize" => on_planes(source, |planes| color::solarize(planes, whole("threshold") as u8)),
        "grayscale" => on_planes(source, color::to_grayscale),
        "flip" => on_planes(source, |planes| {
            geometry::flip_horizontally(planes, source.width as usize)
        }),
        other => panic!("unknown case {other}"),
    }
}

#[test]
fn fixed_parameters_give_pillows_pixels() {
    let fixture = augment();
    let mut worst: std::collections::BTreeMap<&str, u8> = Default::default();
    for case in &fixture.cases {
        let source = fixture.sources[&case.source].image();
        let (expected, found) = (case.expected.image(), ours(case, &source));
        assert_eq!(
            (found.width, found.height),
            (expected.width, expected.height),
            "{}",
            case.name
        );
        let differences = found
            .pixels
            .iter()
            .zip(&expected.pixels)
            .map(|(ours, theirs)| ours.abs_diff(*theirs));
        let most = differences.max().unwrap();
        let bound = match (case.name.as_str(), case.parameters["filter"].as_str()) {
            ("crop_and_resize", Some("bicubic")) => 2,
            ("crop_and_resize" | "shorter_side", _) => 1,
            _ => 0,
        };
        assert!(
            most <= bound,
            "{} {} {}: off by {most}",
            case.name,
            case.source,
            case.parameters
        );
        let entry = worst.entry(&case.name).or_default();
        *entry = most.max(*entry);
    }
    assert_eq!(worst.len(), 11, "every operation has a case");
    eprintln!("largest difference to Pillow, of 255: {worst:?}");
}

#[test]
fn every_color_is_converted_as_pillow_does() {
    let cubes = augment().cubes;
    let [mut hsv, mut rgb, mut luma] = [Sha256::new(), Sha256::new(), Sha256::new()];
    let mut row = [vec![0; 3 << 8], vec![0; 3 << 8], vec![0; 1 << 8]];
    for high in 0..=u16::MAX {
        for low in 0..=255u8 {
            let color = [(high >> 8) as u8, high as u8, low];
            let at = usize::from(low);
            row[0][3 * at..3 * at + 3].copy_from_slice(&color::hsv_from_rgb(color));
            row[1][3 * at..3 * at + 3].copy_from_slice(&color::rgb_from_hsv(color));
            row[2][at] = color::luma(color[0], color[1], color[2]);
        }
        hsv.update(&row[0]);
        rgb.update(&row[1]);
        luma.update(&row[2]);
    }
    assert_eq!(hex(&luma.finalize()), cubes["luma"], "luma");
    assert_eq!(hex(&hsv.finalize()), cubes["hsv_from_rgb"], "RGB to HSV");
    assert_eq!(hex(&rgb.finalize()), cubes["rgb_from_hsv"], "HSV to RGB");
}

#[derive(Deserialize)]
struct Sampling {
    draws: usize,
    crops: Vec<Crops>,
    jitter: Jitter,
}

#[derive(Deserialize)]
struct Crops {
    width: u32,
    height: u32,
    scale: [f64; 2],
    area: Vec<f64>,
    log_ratio: Vec<f64>,
    left: Vec<f64>,
    top: Vec<f64>,
}

#[derive(Deserialize)]
struct Jitter {
    brightness: Vec<f64>,
    contrast: Vec<f64>,
    saturation: Vec<f64>,
    hue: Vec<f64>,
    order_share: std::collections::HashMap<String, f64>,
}

/// Largest distance between two distribution functions: our draws, and torchvision's 99 percentiles.
pub(super) fn distance(mut drawn: Vec<f64>, percentiles: &[f64]) -> f64 {
    drawn.sort_by(f64::total_cmp);
    let count = drawn.len() as f64;
    let mut most: f64 = 0.0;
    for (at, value) in percentiles.iter().enumerate() {
        // Equal values make a step; torchvision's percentile is somewhere within it, and so must be ours.
        let below = drawn.partition_point(|ours| *ours < value - 1e-9) as f64 / count;
        let up_to = drawn.partition_point(|ours| *ours <= value + 1e-9) as f64 / count;
        let share = (at + 1) as f64 / 100.0;
        most = most.max(below - share).max(share - up_to);
    }
    most
}

/// Kolmogorov and Smirnov: two samples of this size differ by more in one of a thousand cases.
pub(super) fn bound(draws: usize) -> f64 {
    1.95 * (2.0 / draws as f64).sqrt()
}

#[test]
fn crops_are_drawn_as_torchvision_draws_them() {
    let sampling: Sampling = fixture(include_bytes!("../../fixtures/sampling.json.gz"));
    for crops in &sampling.crops {
        let (width, height) = (crops.width, crops.height);
        let boxes: Vec<CropBox> = (0..sampling.draws as u64)
            .map(|draw| {
                let mut source = generator(1, Purpose::View, 0, draw, 0);
                geometry::random_crop_box(width, height, crops.scale, [3.0 / 4.0, 4.0 / 3.0], &mut source)
            })
            .collect();
        let of = |number: &dyn Fn(&CropBox) -> f64| boxes.iter().map(number).collect::<Vec<f64>>();
        let (w, h) = (f64::from(width), f64::from(height));
        let found = [
            distance(
                of(&|part| f64::from(part.width) * f64::from(part.height) / (w * h)),
                &crops.area,
            ),
            distance(
                of(&|part| (f64::from(part.width) / f64::from(part.height)).ln()),
                &crops.log_ratio,
            ),
            distance(of(&|part| f64::from(part.left) / w), &crops.left),
            distance(of(&|part| f64::from(part.top) / h), &crops.top),
        ];
        assert!(
            found.iter().all(|most| *most < bound(sampling.draws)),
            "{width} x {height}: {found:?}"
        );
    }
}

#[test]
fn jitter_is_drawn_as_torchvision_draws_it() {
    let sampling: Sampling = fixture(include_bytes!("../../fixtures/sampling.json.gz"));
    let mut amounts: [Vec<f64>; 4] = Default::default();
    let mut orders: std::collections::HashMap<String, usize> = Default::default();
    for draw in 0..sampling.draws as u64 {
        let mut source = generator(2, Purpose::View, 0, draw, 0);
        let mut order = String::new();
        for step in jitter_steps([0.4, 1.5, 0.4, 0.1], &mut source) {
            let (kind, amount) = match step {
                JitterStep::Brightness(factor) => (0, factor),
                JitterStep::Contrast(factor) => (1, factor),
                JitterStep::Saturation(factor) => (2, factor),
                JitterStep::Hue(turn) => (3, turn),
            };
            amounts[kind].push(amount);
            order.push_str(&kind.to_string());
        }
        *orders.entry(order).or_default() += 1;
    }
    let Jitter {
        brightness,
        contrast,
        saturation,
        hue,
        order_share,
    } = &sampling.jitter;
    for (drawn, theirs) in amounts.into_iter().zip([brightness, contrast, saturation, hue]) {
        assert!(distance(drawn, theirs) < bound(sampling.draws));
    }
    // All 24 orders, each about as often as in torchvision: 1/24, with a standard deviation of 0.0014 on
    // either side.
    assert_eq!(orders.len(), order_share.len());
    for (order, count) in orders {
        let share = count as f64 / sampling.draws as f64;
        assert!((share - order_share[&order]).abs() < 0.01, "{order}: {share}");
    }
}
