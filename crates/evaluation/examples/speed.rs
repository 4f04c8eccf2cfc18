//! Speed and memory of kNN, k-means, SVMs and the grid of linear classifiers on this machine: features in, times out.
//!
//! ```text
//! cargo run --release -p evaluation --example speed -- features FEATURES.safetensors   # scripts/bench/frozen_features.py
//! cargo run --release -p evaluation --example speed -- grid GRID.safetensors SEEDS     # scripts/bench/linear_grid.py
//! cargo run --release -p evaluation --example speed -- knn
//! cargo run --release -p evaluation --example speed -- svm
//! ```

#![allow(clippy::print_stdout)]

use burn::tensor::Device;
use evaluation::solvers::{lloyd, nearest};
use evaluation::{
    Config, Features, FeaturesJob, Labels, Matrix, Origin, Outcome, POOLED, Provenance, run_on_features,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["features", path] => features_of(path),
        ["grid", path, seeds] => grid(path, seeds.parse()?),
        ["knn"] => knn(),
        ["svm"] => svm(),
        _ => Err("expected `features FILE`, `grid FILE SEEDS`, `knn` or `svm`".into()),
    }
}

/// kNN and k-means on the features that scikit-learn and faiss were timed on.
fn features_of(path: &str) -> Result<()> {
    let bytes = std::fs::read(path)?;
    let (train, test) = (matrix(&bytes, "train")?, matrix(&bytes, "test")?);
    let starts = [100, 1000].map(|count| (count, matrix(&bytes, &format!("start_{count}"))));
    drop(bytes);
    timed("20 nearest neighbors", || {
        nearest(&train, &test, 20, &Device::flex())
    });
    for (count, start) in starts {
        let start = start?;
        let partition = timed(&format!("k-means, k {count}"), || lloyd(&train, start, 20, 0.0));
        println!(
            "             inertia {:.6e} after {} iterations",
            partition.inertia, partition.iterations
        );
    }
    Ok(())
}

/// `linear-cached-grid` with DINOv2's 52 classifiers, on the features that PyTorch was timed on.
fn grid(path: &str, seeds: u64) -> Result<()> {
    let bytes = std::fs::read(path)?;
    let (train, test) = (split(&bytes, "train")?, split(&bytes, "test")?);
    drop(bytes);
    let tokens = |blocks, patch_mean| json!({ "tokens": { "blocks": blocks, "patch_mean": patch_mean } });
    let mut shares = vec![];
    for seed in 0..seeds {
        let protocol = json!({ "linear-cached-grid": {
            "inputs": [tokens(1, false), tokens(1, true), tokens(4, false), tokens(4, true)],
            "learning_rates_per_256": [
                1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1
            ],
            "momentum": 0.9,
            "batch_records": 256,
            "steps": 400,
            "choice": { "validation_fraction": 0.1, "seed": seed },
            "seed": seed,
        } });
        let outcomes = timed("52 classifiers, 400 steps", || {
            run_protocol(protocol, &train, &test)
        })?;
        let Outcome { value, settings, .. } = &outcomes[0];
        println!(
            "             chosen {}, rate {}: {:.2} % of the test records ({} of those held out)",
            settings["input"],
            settings["learning_rate_per_256"],
            100.0 * value,
            settings["validation_top1"]
        );
        shares.push(100.0 * value);
    }
    let mean = shares.iter().sum::<f64>() / seeds as f64;
    let squares: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
    let deviation = (squares / (seeds.saturating_sub(1)).max(1) as f64).sqrt();
    println!("passer       {seeds} seeds: {mean:.2} +- {deviation:.2} % of the test records");
    Ok(())
}

/// 200 neighbors of 10,000 rows among 10,000 others, 128 wide.
fn knn() -> Result<()> {
    let value = |index: usize| ((index * 7919 % 100_003) as f32 * 0.37).sin();
    let rows = |shift: usize| {
        let values = (0..10_000 * 128).map(|index| value(index + shift));
        Matrix::new(10_000, 128, values.collect())
    };
    let (train, test) = (rows(0), rows(12_345));
    timed("kNN of 10000 x 10000 x 128, 200 neighbors", || {
        nearest(&train, &test, 200, &Device::flex())
    });
    Ok(())
}

/// `svm-voc07` at the size of VOC07: 5,011 rows, 2,048 wide, 20 classes.
fn svm() -> Result<()> {
    let (rows, width, classes) = (5011, 2048, 20);
    // Positive, with a large mean and a few strong directions, like pooled features after a ReLU.
    let noise = |index: usize| ((index * 7919 % 1_000_003) as f32 * 0.618).sin();
    let value = |index: usize| {
        let (row, column) = (index / width, index % width);
        let class = (row * 31 % classes) as f32;
        (0.4 + 0.3 * noise(index) + 0.2 * ((class + 1.0) * column as f32 * 0.13).sin()).max(0.0)
    };
    let values: Vec<f32> = (0..rows * width).map(value).collect();
    let split = |name: &str| Features {
        taps: BTreeMap::from([(POOLED.to_string(), Matrix::new(rows, width, values.clone()))]),
        labels: Some(Labels::Classes(
            (0..rows).map(|row| (row * 31 % classes) as i64).collect(),
        )),
        ..named(name, rows)
    };
    let (train, test) = (split("train"), split("test"));
    let protocol = json!({ "svm-voc07": {
        "scaling": "l2",
        "costs": [0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0],
        "folds": 3,
        "positive_weight": 2.0,
        "tolerance": 1e-12,
        "max_iterations": 1000,
    } });
    let outcomes = timed("svm-voc07 of 5011 x 2048, 20 classes", || {
        run_protocol(protocol, &train, &test)
    })?;
    println!("             converged: {}", outcomes[0].settings["converged"]);
    Ok(())
}

/// The scores of one protocol; its table is given as in a config.
fn run_protocol(protocol: serde_json::Value, train: &Features, test: &Features) -> Result<Vec<Outcome>> {
    let config: Config = serde_json::from_value(json!({
        "test_transforms": [{ "resize_exact": { "width_px": 8, "height_px": 8, "filter": "bilinear" } }],
        "data": { "batch_images": 1, "workers": 0, "max_bad_fraction": 0.0 },
        "protocols": [protocol],
    }))?;
    let out = tempfile::tempdir()?;
    let job = FeaturesJob {
        train,
        test,
        out: out.path(),
        device: &Device::flex(),
        provenance: Provenance::default(),
    };
    Ok(run_on_features(&config, &job, &mut |_| {})?.outcomes)
}

/// Features without rows, with distinct records.
fn named(name: &str, records: usize) -> Features {
    Features {
        keys: (0..records).map(|row| row.to_string()).collect(),
        origin: Origin {
            fingerprint: name.into(),
            ..Origin::default()
        },
        ..Features::default()
    }
}

/// One split of the file that `linear_grid.py` writes.
fn split(bytes: &[u8], name: &str) -> Result<Features> {
    let file = SafeTensors::deserialize(bytes)?;
    let labels = file.tensor(&format!("{name}.labels"))?;
    let labels: Vec<i64> = bytemuck::pod_collect_to_vec(labels.data());
    let mut taps = BTreeMap::new();
    for tap in [
        "class_token_1",
        "class_token_2",
        "class_token_3",
        "class_token_4",
        "patch_mean",
    ] {
        taps.insert(tap.to_string(), matrix(bytes, &format!("{name}.{tap}"))?);
    }
    // The protocol's labels come with the pooled features, which it does not read.
    taps.insert(POOLED.to_string(), taps["class_token_1"].clone());
    let records = labels.len();
    Ok(Features {
        taps,
        labels: Some(Labels::Classes(labels)),
        ..named(name, records)
    })
}

/// A tensor of two dimensions, in f32.
fn matrix(bytes: &[u8], name: &str) -> Result<Matrix> {
    let file = SafeTensors::deserialize(bytes)?;
    let view = file.tensor(name)?;
    let &[rows, width] = view.shape() else {
        return Err(format!("`{name}` must have two dimensions, got {:?}", view.shape()).into());
    };
    match view.dtype() {
        Dtype::F32 => Ok(Matrix::new(
            rows,
            width,
            bytemuck::pod_collect_to_vec(view.data()),
        )),
        dtype => Err(format!("`{name}` must be F32, got {dtype:?}").into()),
    }
}

/// Runs a call and prints its time and the peak memory that it adds (Linux).
fn timed<T>(name: &str, call: impl FnOnce() -> T) -> T {
    // This resets the peak on Linux; elsewhere the memory is not measured.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory_mib("VmRSS:");
    let start = std::time::Instant::now();
    let result = call();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "passer       {name:<24} {seconds:7.2} s, {:5.0} MiB on top",
        memory_mib("VmHWM:") - before
    );
    result
}

/// A field of this process's status, MiB; 0 where the field is missing.
fn memory_mib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
