//! The cost of a data set of any size: `scale_bench DATA SAMPLES` opens it, draws an epoch's order through
//! the loader, reads records at random, and prints one JSON object.
//!
//! `open_s` and `first_batch_s` in seconds, `read_us` in microseconds per record (key and file, not decoded),
//! `rss_mib` resident memory once it is open, `peak_mib` its peak.

#![expect(clippy::print_stdout, reason = "a program whose output is one object")]

use std::sync::Arc;
use std::time::Instant;

use data::{Dataset, Loader, LoaderConfig, Order, ViewGroup};

const VIEW: &str = r#"
count = 1
transforms = [
    { random_resized_crop = { size_px = 32, scale = [0.2, 1.0], ratio = [0.75, 1.3333333333333333], filter = "bilinear" } },
]
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, samples] = arguments.as_slice() else {
        return Err("usage: scale_bench DATA SAMPLES".into());
    };
    let samples: u64 = samples.parse()?;

    let start = Instant::now();
    let dataset = Arc::new(Dataset::open(data)?);
    let open = start.elapsed().as_secs_f64();
    let resident = memory_mib("VmRSS")?;

    let start = Instant::now();
    let mut bytes = 0;
    for sample in 0..samples {
        // Steps by a large prime reach every part of the data in turn.
        let position = (sample * 2_654_435_761 % dataset.len() as u64) as usize;
        bytes += dataset.read(position)?.image.len();
    }
    let read = start.elapsed().as_secs_f64() / samples as f64;

    let config = LoaderConfig {
        batch_images: 64,
        workers: 1,
        max_bad_fraction: 0.0,
    };
    let start = Instant::now();
    let loader = Loader::new(
        Arc::clone(&dataset),
        vec![toml::from_str::<ViewGroup>(VIEW)?],
        config,
        Order::Global,
        0,
    )?;
    loader
        .batches(0, 1)
        .next()
        .transpose()?
        .ok_or("no batch: fewer than 64 records")?;
    let first_batch = start.elapsed().as_secs_f64();

    println!(
        "{{\"records\": {}, \"open_s\": {open:.3}, \"read_us\": {:.2}, \"mean_bytes\": {}, \"first_batch_s\": {first_batch:.3}, \"rss_mib\": {resident}, \"peak_mib\": {}}}",
        dataset.len(),
        read * 1e6,
        bytes as u64 / samples,
        memory_mib("VmHWM")?
    );
    Ok(())
}

/// A line of `/proc/self/status`, in MiB.
fn memory_mib(name: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("no such line in /proc/self/status")?.parse::<u64>()? >> 10)
}
