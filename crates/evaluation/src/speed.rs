//! kNN and k-means timed on features that `scripts/bench/frozen_features.py` made and timed by scikit-learn.

use crate::kmeans::lloyd;
use crate::knn::nearest;
use crate::parity::matrix_of;
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
