//! What `run.json` and `result.json` say of the program and the machine.

use burn::tensor::Device;
use serde_json::{Map, Value, json};

/// The commit that the program was built from, or `unknown`.
pub(crate) const COMMIT: &str = env!("PASSER_COMMIT");

/// Version, commit, device and host, as `run.json` has them.
pub(crate) fn facts(device: &Device) -> Map<String, Value> {
    let facts = json!({
        "passer": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "burn": "0.22.1",
        "device": crate::devices::describe(device),
        "cpu_threads": std::thread::available_parallelism().map_or(0, usize::from),
        "command": std::env::args().collect::<Vec<_>>(),
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// Peak resident memory of this process in MiB, where the system tells (Linux).
pub(crate) fn peak_memory_mib() -> Option<u64> {
    proc_mib("/proc/self/status", "VmHWM:")
}

/// The machine's memory in MiB, where the system tells (Linux, macOS).
pub(crate) fn host_memory_mib() -> Option<u64> {
    if cfg!(target_os = "macos") {
        let output = std::process::Command::new("sysctl")
            .args(["-n", "hw.memsize"])
            .output()
            .ok()?;
        return Some(
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u64>()
                .ok()?
                >> 20,
        );
    }
    proc_mib("/proc/meminfo", "MemTotal:")
}

/// A field of a file of Linux's `/proc` that is given in KiB, in MiB.
fn proc_mib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
