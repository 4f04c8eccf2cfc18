//! Views per second of the loader: the Rust half of `scripts/bench/loader.py`.
//!
//! Usage: `loader_bench DATA WORKERS BATCHES RECIPE`, RECIPE `moco` (two views of 224 px as in MoCo-v2) or
//! `dino` (two of 224 px and eight of 96 px); prints one number. Batches of 64 images; the first ones, which
//! start the threads, do not count.

#![expect(clippy::print_stdout, reason = "a program whose output is one number")]

use std::sync::Arc;
use std::time::Instant;

use data::{Dataset, Loader, LoaderConfig, Order, ViewGroup};

const WARM_UP: usize = 2;

const MOCO_V2: &str = r#"
count = 2
transforms = [
    { random_resized_crop = { size_px = 224, scale = [0.2, 1.0], ratio = [0.75, 1.3333333333333333], filter = "bilinear" } },
    { color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 } },
    { grayscale = { probability = 0.2 } },
    { gaussian_blur = { probability = 0.5, sigma = [0.1, 2.0] } },
    { horizontal_flip = { probability = 0.5 } },
]
"#;

/// `count`, side in px, area, probabilities of blur and of solarization: the three groups of DINO's recipe.
const DINO: [(usize, usize, [f64; 2], f64, f64); 3] = [
    (1, 224, [0.4, 1.0], 1.0, 0.0),
    (1, 224, [0.4, 1.0], 0.1, 0.2),
    (8, 96, [0.05, 0.4], 0.5, 0.0),
];

fn groups(recipe: &str) -> Result<Vec<ViewGroup>, Box<dyn std::error::Error>> {
    if recipe == "moco" {
        return Ok(vec![toml::from_str(MOCO_V2)?]);
    }
    let group = |(count, side, scale, blur, solarize): (usize, usize, [f64; 2], f64, f64)| {
        toml::from_str(&format!(
            r#"
count = {count}
transforms = [
    {{ random_resized_crop = {{ size_px = {side}, scale = {scale:?}, ratio = [0.75, 1.3333333333333333], filter = "bicubic" }} }},
    {{ horizontal_flip = {{ probability = 0.5 }} }},
    {{ color_jitter = {{ probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.2, hue = 0.1 }} }},
    {{ grayscale = {{ probability = 0.2 }} }},
    {{ gaussian_blur = {{ probability = {blur:?}, sigma = [0.1, 2.0] }} }},
    {{ solarize = {{ probability = {solarize:?}, threshold = 128 }} }},
]
"#
        ))
    };
    Ok(DINO.into_iter().map(group).collect::<Result<_, _>>()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, workers, batches, recipe] = arguments.as_slice() else {
        return Err("usage: loader_bench DATA WORKERS BATCHES moco|dino".into());
    };
    let config = LoaderConfig {
        batch_images: 64,
        workers: workers.parse()?,
        max_bad_fraction: 0.0,
    };
    let dataset = Arc::new(Dataset::open(data)?);
    let loader = Loader::new(dataset, groups(recipe)?, config, Order::Global, 0)?;
    let batches: usize = batches.parse()?;
    let mut stream = loader.batches(0, WARM_UP + batches);
    for _ in 0..WARM_UP {
        stream.next().transpose()?;
    }
    let start = Instant::now();
    let mut views = 0;
    for batch in stream {
        views += batch?
            .views
            .iter()
            .map(|group| group.count * group.images)
            .sum::<usize>();
    }
    println!("{:.1}", views as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
