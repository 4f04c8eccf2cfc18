//! RandAugment and random erasing compared with timm: fixed amounts pixel by pixel, drawn parameters by
//! distribution.
//!
//! Fixture by `scripts/parity/rand_augment.py` (versions inside). Bounds: operations on single values to the
//! bit, operations that move pixels within 2 of 255.

use std::collections::HashMap;

use serde::Deserialize;

use super::affine::Sampling;
use super::parity::{Picture, bound, distance, fixture, on_planes};
use super::rand_augment::{self, Operation, Patch};
use crate::decode::RgbImage;
use crate::randomness::{Purpose, generator, happens};

#[derive(Deserialize)]
struct Fixture {
    fill: [u8; 3],
    sources: HashMap<String, Picture>,
    cases: Vec<Case>,
    drawn: Drawn,
    erased: Erased,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    arguments: Vec<f64>,
    sampling: Option<Sampling>,
    pixels: String,
}

#[derive(Deserialize)]
struct Drawn {
    draws: usize,
    operations_share: HashMap<String, f64>,
    share: HashMap<String, f64>,
    argument: HashMap<String, Vec<f64>>,
    argument_draws: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct Erased {
    draws: usize,
    width: usize,
    height: usize,
    probability: f64,
    share: f64,
    boxes: usize,
    area: Vec<f64>,
    log_aspect: Vec<f64>,
    left: Vec<f64>,
    top: Vec<f64>,
}

fn read() -> Fixture {
    fixture(include_bytes!("../../fixtures/rand_augment.json.gz"))
}

fn operation(case: &Case) -> Operation {
    let first = case.arguments.first().copied().unwrap_or(0.0);
    let sampling = case.sampling.unwrap_or(Sampling::Bilinear);
    match case.name.as_str() {
        "AutoContrast" => Operation::AutoContrast,
        "Equalize" => Operation::Equalize,
        "Invert" => Operation::Invert,
        "Rotate" => Operation::Rotate(first, sampling),
        "PosterizeIncreasing" => Operation::Posterize(first as u32),
        "SolarizeIncreasing" => Operation::Solarize(first as u16),
        "SolarizeAdd" => Operation::SolarizeAdd(first as u8),
        "ColorIncreasing" => Operation::Color(first),
        "ContrastIncreasing" => Operation::Contrast(first),
        "BrightnessIncreasing" => Operation::Brightness(first),
        "SharpnessIncreasing" => Operation::Sharpness(first),
        "ShearX" => Operation::ShearX(first, sampling),
        "ShearY" => Operation::ShearY(first, sampling),
        "TranslateXRel" => Operation::TranslateX(first, sampling),
        "TranslateYRel" => Operation::TranslateY(first, sampling),
        other => panic!("unknown operation {other}"),
    }
}

/// timm's name and argument of a drawn operation.
fn named(operation: Operation) -> (&'static str, Option<f64>) {
    match operation {
        Operation::AutoContrast => ("AutoContrast", None),
        Operation::Equalize => ("Equalize", None),
        Operation::Invert => ("Invert", None),
        Operation::Rotate(degrees, _) => ("Rotate", Some(degrees)),
        Operation::Posterize(bits) => ("PosterizeIncreasing", Some(f64::from(bits))),
        Operation::Solarize(threshold) => ("SolarizeIncreasing", Some(f64::from(threshold))),
        Operation::SolarizeAdd(added) => ("SolarizeAdd", Some(f64::from(added))),
        Operation::Color(factor) => ("ColorIncreasing", Some(factor)),
        Operation::Contrast(factor) => ("ContrastIncreasing", Some(factor)),
        Operation::Brightness(factor) => ("BrightnessIncreasing", Some(factor)),
        Operation::Sharpness(factor) => ("SharpnessIncreasing", Some(factor)),
        Operation::ShearX(factor, _) => ("ShearX", Some(factor)),
        Operation::ShearY(factor, _) => ("ShearY", Some(factor)),
        Operation::TranslateX(share, _) => ("TranslateXRel", Some(share)),
        Operation::TranslateY(share, _) => ("TranslateYRel", Some(share)),
    }
}

#[test]
fn fixed_amounts_give_timms_pixels() {
    let fixture = read();
    let mut worst: std::collections::BTreeMap<String, u8> = Default::default();
    for case in &fixture.cases {
        let source = fixture.sources[&case.source].image();
        let expected = Picture {
            width: source.width,
            height: source.height,
            pixels: case.pixels.clone(),
        }
        .image();
        let found: RgbImage = on_planes(&source, |planes| {
            let width = source.width as usize;
            operation(case).apply(planes, width, fixture.fill, &mut vec![]);
        });
        let differences = found
            .pixels
            .iter()
            .zip(&expected.pixels)
            .map(|(ours, theirs)| ours.abs_diff(*theirs));
        let most = differences.max().unwrap();
        let bound = if case.sampling.is_some() { 2 } else { 0 };
        assert!(
            most <= bound,
            "{} {:?} {:?} {}: off by {most}",
            case.name,
            case.arguments,
            case.sampling,
            case.source
        );
        let entry = worst.entry(case.name.clone()).or_default();
        *entry = most.max(*entry);
    }
    assert_eq!(worst.len(), 15, "every operation has a case");
    eprintln!("largest difference to timm and Pillow, of 255: {worst:?}");
}

#[test]
fn operations_are_drawn_as_timm_draws_them() {
    let drawn = read().drawn;
    let mut arguments: HashMap<&str, Vec<f64>> = HashMap::new();
    let (mut counts, mut shares): (HashMap<String, usize>, HashMap<&str, usize>) = Default::default();
    let mut bicubic = [0usize; 2];
    for draw in 0..drawn.draws as u64 {
        let mut source = generator(3, Purpose::View, 0, draw, 0);
        let operations = rand_augment::draw(2, 9.0, 0.5, 0.5, &mut source);
        *counts.entry(operations.len().to_string()).or_default() += 1;
        for operation in operations {
            let (name, argument) = named(operation);
            *shares.entry(name).or_default() += 1;
            if let Some(argument) = argument {
                arguments.entry(name).or_default().push(argument);
            }
            if let Operation::Rotate(_, sampling) | Operation::ShearX(_, sampling) = operation {
                bicubic[usize::from(sampling == Sampling::Bicubic)] += 1;
            }
        }
    }
    // A share of a half has a standard deviation of 0.0035 here.
    for (count, share) in &drawn.operations_share {
        let ours = counts[count] as f64 / drawn.draws as f64;
        assert!((ours - share).abs() < 0.02, "{count} operations: {ours} {share}");
    }
    // 1/15 of two operations, half of which are applied.
    for (name, share) in &drawn.share {
        let ours = shares[name.as_str()] as f64 / drawn.draws as f64;
        assert!((ours - share).abs() < 0.01, "{name}: {ours} {share}");
    }
    assert_eq!(arguments.len(), drawn.argument.len());
    for (name, values) in arguments {
        let draws = values.len().min(drawn.argument_draws[name]);
        let most = distance(values, &drawn.argument[name]);
        assert!(most < bound(draws), "{name}: {most}, bound {}", bound(draws));
    }
    let share = bicubic[1] as f64 / (bicubic[0] + bicubic[1]) as f64;
    assert!((share - 0.5).abs() < 0.05, "{share}");
}

#[test]
fn patches_are_drawn_as_timm_draws_them() {
    let erased = read().erased;
    let (width, height) = (erased.width, erased.height);
    let patches: Vec<Patch> = (0..erased.draws as u64)
        .filter_map(|draw| {
            let mut source = generator(4, Purpose::View, 0, draw, 0);
            happens(&mut source, erased.probability)
                .then(|| {
                    rand_augment::draw_patch(
                        [width, height],
                        [0.02, 1.0 / 3.0],
                        [0.3, 1.0 / 0.3],
                        &mut source,
                    )
                })
                .flatten()
        })
        .collect();
    let share = patches.len() as f64 / erased.draws as f64;
    assert!((share - erased.share).abs() < 0.015, "{share}");
    let (w, h) = (width as f64, height as f64);
    let of = |number: &dyn Fn(&Patch) -> f64| patches.iter().map(number).collect::<Vec<f64>>();
    let found = [
        distance(
            of(&|patch| (patch.width * patch.height) as f64 / (w * h)),
            &erased.area,
        ),
        distance(
            of(&|patch| (patch.height as f64 / patch.width as f64).ln()),
            &erased.log_aspect,
        ),
        distance(of(&|patch| patch.left as f64 / w), &erased.left),
        distance(of(&|patch| patch.top as f64 / h), &erased.top),
    ];
    let bound = bound(patches.len().min(erased.boxes));
    assert!(found.iter().all(|most| *most < bound), "{found:?}, bound {bound}");
}

#[test]
fn erasing_noise_has_the_images_statistics_and_stays_in_its_patch() {
    let group: super::ViewGroup = toml::from_str(
        r#"
        count = 1
        transforms = [
            { center_crop = { size_px = 64 } },
            { random_erasing = { probability = 1.0, area = [0.3, 0.3], aspect = [1.0, 1.0], patches = 1, fill = { noise = { mean = [0.5, 0.4, 0.6], std = [0.1, 0.1, 0.1] } } } },
        ]"#,
    )
    .unwrap();
    group.validate().unwrap();
    let image = RgbImage {
        width: 64,
        height: 64,
        pixels: vec![255; 64 * 64 * 3],
    };
    let mut out = vec![0; 64 * 64 * 3];
    let mut source = generator(0, Purpose::View, 0, 0, 0);
    super::ViewMaker::default()
        .make(&image, &group, &mut source, &mut out)
        .unwrap();
    for (plane, mean) in out.chunks(64 * 64).zip([0.5, 0.4, 0.6]) {
        let erased: Vec<f64> = plane
            .iter()
            .filter(|value| **value != 255)
            .map(|value| f64::from(*value) / 255.0)
            .collect();
        assert!((erased.len() as i64 - 35 * 35).abs() <= 2, "{}", erased.len());
        let average = erased.iter().sum::<f64>() / erased.len() as f64;
        let spread = erased.iter().map(|v| (v - average).powi(2)).sum::<f64>() / erased.len() as f64;
        assert!((average - mean).abs() < 0.015, "{average} {mean}");
        assert!((spread.sqrt() - 0.1).abs() < 0.01, "{}", spread.sqrt());
    }
}
