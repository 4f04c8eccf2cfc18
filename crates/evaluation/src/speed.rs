//! kNN, k-means and the grid of linear classifiers timed on features that scripts under `scripts/bench/` made and timed by
//! scikit-learn and PyTorch.

use crate::features::{Features, Labels};
use crate::kmeans::lloyd;
use crate::knn::nearest;
use crate::linear_cached_grid;
use crate::parity::matrix_of;
use crate::taps::Input;
use crate::task::Task;
use burn::tensor::Device;

/// Peak and current memory of this process, MiB (Linux).
fn memory_mib() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    (field("VmHWM:"), field("VmRSS:"))
}

fn timed<T>(name: &str, call: impl FnOnce() -> T) -> T {
    // Linux forgets the peak so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (_, before) = memory_mib();
    let start = std::time::Instant::now();
    let result = call();
    let seconds = start.elapsed().as_secs_f64();
    let (peak, _) = memory_mib();
    eprintln!(
        "passer       {name:<24} {seconds:7.2} s, {:5.0} MiB on top",
        peak - before
    );
    result
}

#[test]
fn beside_scikit_learn() {
    let Some(path) = std::env::var_os("PASSER_BENCH_FEATURES") else {
        eprintln!("PASSER_BENCH_FEATURES is not set: nothing is timed (scripts/bench/frozen_features.py)");
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let (train, test) = (matrix_of(&bytes, "train"), matrix_of(&bytes, "test"));
    let starts = ["start_100", "start_1000"].map(|name| (name, matrix_of(&bytes, name)));
    drop(bytes);
    let found = timed("20 nearest neighbours", || {
        nearest(&train, &test, 20, &Device::flex())
    });
    assert_eq!(found.len(), test.rows);
    for (name, start) in starts {
        let name = format!("k-means, k {}", name.trim_start_matches("start_"));
        let found = timed(&name, || lloyd(&train, start, 20, 0.0));
        eprintln!(
            "             inertia {:.6e} after {} iterations",
            found.inertia, found.iterations
        );
    }
}

/// The grid of `scripts/bench/linear_grid.py`.
#[test]
fn grid_beside_pytorch() {
    let Some(path) = std::env::var_os("PASSER_BENCH_GRID") else {
        eprintln!("PASSER_BENCH_GRID is not set: nothing is timed (scripts/bench/linear_grid.py)");
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let set = |part: &str| {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let labels = file.tensor(&format!("{part}.labels")).unwrap();
        let labels: Vec<i64> = bytemuck::pod_collect_to_vec(labels.data());
        let taps = [
            "class_token_1",
            "class_token_2",
            "class_token_3",
            "class_token_4",
            "patch_mean",
        ];
        Features {
            taps: taps
                .iter()
                .map(|tap| (tap.to_string(), matrix_of(&bytes, &format!("{part}.{tap}"))))
                .collect(),
            keys: (0..labels.len()).map(|row| row.to_string()).collect(),
            labels: Some(Labels::Classes(labels)),
            ..Features::default()
        }
    };
    let (train, test) = (set("train"), set("test"));
    drop(bytes);
    let task = Task::new(&train, &test, "class_token_1").unwrap();
    let seeds: u64 = std::env::var("PASSER_BENCH_SEEDS").map_or(1, |count| count.parse().unwrap());
    let mut found = Vec::new();
    for seed in 0..seeds {
        found.push(grid_of(seed, &task, &train, &test));
    }
    let mean = found.iter().sum::<f64>() / seeds as f64;
    let squares: f64 = found.iter().map(|top1| (top1 - mean).powi(2)).sum();
    eprintln!(
        "passer       {seeds} seeds: {mean:.2} +- {:.2} % of the test records",
        (squares / (seeds - 1).max(1) as f64).sqrt()
    );
}

/// Trains the grid and gives the test accuracy of the classifier that was chosen, per cent.
fn grid_of(seed: u64, task: &Task, train: &Features, test: &Features) -> f64 {
    let tokens = |blocks, patch_mean| Input::Tokens { blocks, patch_mean };
    let config = linear_cached_grid::Config {
        inputs: vec![
            tokens(1, false),
            tokens(1, true),
            tokens(4, false),
            tokens(4, true),
        ],
        learning_rates_per_256: vec![
            1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1,
        ],
        momentum: 0.9,
        batch_records: 256,
        steps: 400,
        choice: linear_cached_grid::Choice {
            validation_fraction: 0.1,
            seed,
        },
        seed,
    };
    let scores = timed("52 classifiers, 400 steps", || {
        linear_cached_grid::linear_cached_grid(&config, task, train, test, &Device::flex(), &mut |_| {})
            .unwrap()
    });
    eprintln!(
        "             chosen {}, rate {}: {:.2} % of the test records ({:.2} % held out)",
        scores[0].details["input"],
        scores[0].details["learning_rate_per_256"],
        100.0 * scores[0].value,
        100.0 * scores[0].details["validation_top1"].as_f64().unwrap()
    );
    100.0 * scores[0].value
}
