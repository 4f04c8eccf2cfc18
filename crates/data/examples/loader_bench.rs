//! Views per second of the loader under MoCo-v2's recipe: the Rust half of `scripts/bench/loader.sh`.
//!
//! Usage: `loader_bench DATA WORKERS BATCHES`; prints one number. Batches of 64 images, two views of 224 px each; the first
//! batches, which start the threads, are not counted.

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, workers, batches] = arguments.as_slice() else {
        return Err("usage: loader_bench DATA WORKERS BATCHES".into());
    };
    let views: ViewGroup = toml::from_str(MOCO_V2)?;
    let config = LoaderConfig {
        batch_images: 64,
        workers: workers.parse()?,
        seed: 0,
        order: Order::Global,
        max_bad_fraction: 0.0,
    };
    let loader = Loader::new(Arc::new(Dataset::open(data)?), vec![views], config)?;
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
