//! Estimates a config's parameter counts before memory is allocated, and gives an error that names the key of
//! an excessive one.

use crate::ObjectiveConfig;
use training::Config;

/// Bytes of an f32.
const F32_BYTES: f64 = 4.0;

/// Maximum memory for one part of a run, in bytes: more than any current machine has, yet typing errors soon
/// exceed it.
const MOST_BYTES: f64 = (1u64 << 40) as f64;

/// Parameters of linear layers of one width, for features of another.
pub(crate) fn mlp(features: f64, layers: usize, width: usize) -> f64 {
    let width = width as f64;
    width * features + layers.saturating_sub(1) as f64 * width * width
}

/// `a * b` of any size.
pub(crate) fn product(a: usize, b: usize) -> f64 {
    a as f64 * b as f64
}

/// Memory of a run's parts in bytes, by the key with the largest effect: only parameters and queues,
/// approximate.
///
/// Gradients, the optimizer's state, a teacher and activations need additional memory.
pub fn parts_bytes(config: &Config<ObjectiveConfig>) -> Vec<(String, f64)> {
    let features = config.backbone.features() as f64;
    let backbone = &config.backbone;
    let mut parts = vec![(backbone.size_key().to_owned(), backbone.parameter_count())];
    parts.extend(config.objective.parameter_budget(features));
    parts
        .into_iter()
        .map(|(key, count)| (key, count * F32_BYTES))
        .collect()
}

/// Gives an error that names the key if one part of a config needs more than `bytes`, or, without `bytes`,
/// more than any machine has. The backbone must be valid.
///
/// # Errors
/// The key, the memory it needs and the available memory.
pub fn check(config: &Config<ObjectiveConfig>, bytes: Option<u64>) -> Result<(), String> {
    let (most, has) = match bytes {
        Some(bytes) => (bytes as f64, "this machine has"),
        None => (MOST_BYTES, "any run may take"),
    };
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    match parts_bytes(config).into_iter().find(|(_, bytes)| *bytes > most) {
        Some((key, bytes)) => Err(format!(
            "`{key}` needs {:.0} GiB for parameters or queue alone, and {has} {:.0} GiB: lower it",
            gib(bytes),
            gib(most)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::METHODS;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Every method's config, with its largest size made impossible.
    #[test]
    fn what_no_machine_holds_is_refused_by_its_key() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/pretrain");
        let mut methods = BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let config: Config<ObjectiveConfig> = toml::from_str(&text).unwrap();
            config.validate().unwrap();
            // Our own configs need far less than the available memory.
            check(&config, Some(8 << 30)).unwrap();
            for (key, bytes) in parts_bytes(&config) {
                assert!(bytes > 0.0, "{key}");
                let mut table: toml::Table = text.parse().unwrap();
                let mut node = &mut table;
                let (path, last) = key.rsplit_once('.').unwrap();
                for part in path.split('.') {
                    node = node[part].as_table_mut().unwrap();
                }
                node.insert(last.to_owned(), (1i64 << 50).into());
                let config: Config<ObjectiveConfig> = table.try_into().unwrap();
                let error = config.validate().unwrap_err();
                assert!(
                    error.contains("GiB") || error.contains("backbone.vit"),
                    "{key}: {error}"
                );
            }
            methods.insert(config.objective.name());
        }
        assert_eq!(methods, BTreeSet::from_iter(METHODS.iter().copied()));
    }
}
