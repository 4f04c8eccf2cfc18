//! The program and the machine, as `run.json` and `result.json` record them.

use burn::tensor::Device;
use serde_json::{Map, Value, json};

/// The commit that the program was built from, or `unknown`.
pub(crate) const COMMIT: &str = env!("PASSER_COMMIT");

/// Version, commit, device, its f32 products and threads, as `run.json` records them. Threads are those of this process on the CPU, which its ranks
/// and `RAYON_NUM_THREADS` bound.
pub(crate) fn facts(device: &Device) -> Map<String, Value> {
    let facts = json!({
        "passer": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "burn": "0.22.1",
        "device": crate::devices::describe(device),
        "f32_products": crate::devices::f32_products(device),
        "cpu_threads": rayon::current_num_threads(),
        "command": std::env::args().collect::<Vec<_>>(),
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
