//! How much memory a config's numbers ask for, before any is taken: what cannot be had is refused by its key.

use crate::ObjectiveConfig;
use training::Config;

/// Bytes of an f32.
const NUMBER: f64 = 4.0;

/// Most memory for one part of a run, in bytes: no machine of today has more, and a typing error soon asks for it.
const MOST: f64 = (1u64 << 40) as f64;

/// What the parts of a run take, by the key that says it: parameters and queues alone, roughly, in bytes.
///
/// Gradients, the optimizer's state, a teacher and activations come on top.
pub fn sizes(config: &Config<ObjectiveConfig>) -> Vec<(&'static str, f64)> {
    use ObjectiveConfig as O;
    let features = config.backbone.features() as f64;
    // Layers of one width behind the features.
    let mlp = |layers: usize, width: usize| {
        let width = width as f64;
        width * features + layers.saturating_sub(1) as f64 * width * width
    };
    let product = |a: usize, b: usize| a as f64 * b as f64;
    let own = match &config.objective {
        O::BarlowTwins(own) => vec![
            (
                "objective.barlow_twins.projector_width",
                mlp(own.projector_layers, own.projector_width),
            ),
            // Their correlations.
            (
                "objective.barlow_twins.embedding_width",
                product(own.embedding_width, own.embedding_width.max(own.projector_width)),
            ),
        ],
        O::Byol(own) => vec![
            ("objective.byol.projector_width", mlp(1, own.projector_width)),
            (
                "objective.byol.embedding_width",
                product(own.embedding_width, own.projector_width.max(own.predictor_width)),
            ),
            (
                "objective.byol.predictor_width",
                product(own.predictor_width, own.embedding_width),
            ),
        ],
        O::Dino(own) => vec![
            ("objective.dino.head.hidden_width", mlp(2, own.head.hidden_width)),
            (
                "objective.dino.head.bottleneck_width",
                product(own.head.bottleneck_width, own.head.hidden_width),
            ),
            (
                "objective.dino.head.prototypes",
                product(own.head.prototypes, own.head.bottleneck_width),
            ),
        ],
        O::Ibot(own) => vec![
            ("objective.ibot.head.hidden_width", mlp(2, own.head.hidden_width)),
            (
                "objective.ibot.head.bottleneck_width",
                product(own.head.bottleneck_width, own.head.hidden_width),
            ),
            (
                "objective.ibot.head.prototypes",
                product(own.head.prototypes, own.head.bottleneck_width),
            ),
        ],
        O::Mae(own) => {
            let width = own.decoder_width as f64;
            let numbers = width * features + 12.0 * own.decoder_depth as f64 * width * width;
            vec![("objective.mae.decoder_width", numbers)]
        }
        O::Moco(own) => vec![
            ("objective.moco.embedding_width", mlp(1, own.embedding_width)),
            (
                "objective.moco.queue_images",
                product(own.queue_images, own.embedding_width),
            ),
        ],
        O::MocoCld(own) => vec![
            ("objective.moco_cld.embedding_width", mlp(1, own.embedding_width)),
            (
                "objective.moco_cld.queue_images",
                product(own.queue_images, own.embedding_width),
            ),
        ],
        O::MocoV3(own) => vec![
            (
                "objective.moco_v3.hidden_width",
                mlp(own.projector_layers, own.hidden_width),
            ),
            (
                "objective.moco_v3.embedding_width",
                product(own.embedding_width, own.hidden_width),
            ),
        ],
        O::Simclr(own) => vec![
            (
                "objective.simclr.projector_width",
                mlp(own.projector_layers, own.projector_width),
            ),
            (
                "objective.simclr.embedding_width",
                product(own.embedding_width, own.projector_width),
            ),
        ],
        O::Simsiam(own) => vec![
            (
                "objective.simsiam.projector_width",
                mlp(own.projector_layers, own.projector_width),
            ),
            (
                "objective.simsiam.embedding_width",
                product(own.embedding_width, own.projector_width.max(own.predictor_width)),
            ),
            (
                "objective.simsiam.predictor_width",
                product(own.predictor_width, own.embedding_width),
            ),
        ],
        O::Swav(own) => {
            let mut parts = vec![
                ("objective.swav.hidden_width", mlp(1, own.hidden_width)),
                (
                    "objective.swav.embedding_width",
                    product(own.embedding_width, own.hidden_width),
                ),
                (
                    "objective.swav.prototypes",
                    product(own.prototypes, own.embedding_width),
                ),
            ];
            if let Some(queue) = &own.queue {
                let numbers = product(queue.images, own.embedding_width);
                parts.push(("objective.swav.queue.images", numbers));
            }
            parts
        }
        O::Vicreg(own) => vec![
            (
                "objective.vicreg.projector_width",
                mlp(own.projector_layers, own.projector_width),
            ),
            // Their covariances.
            (
                "objective.vicreg.embedding_width",
                product(own.embedding_width, own.embedding_width.max(own.projector_width)),
            ),
        ],
    };
    let (key, numbers) = config.backbone.numbers();
    let mut parts = vec![(key, numbers)];
    parts.extend(own);
    parts
        .into_iter()
        .map(|(key, numbers)| (key, numbers * NUMBER))
        .collect()
}

/// Refuses a config one part of which takes more than `bytes`, naming its key; without `bytes`, more than any machine has.
///
/// # Errors
/// The key, what it asks for and what there is.
pub fn check(config: &Config<ObjectiveConfig>, bytes: Option<u64>) -> Result<(), String> {
    config.backbone.validate()?;
    let (most, has) = match bytes {
        Some(bytes) => (bytes as f64, "this machine has"),
        None => (MOST, "any run may take"),
    };
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    match sizes(config).into_iter().find(|(_, bytes)| *bytes > most) {
        Some((key, bytes)) => Err(format!(
            "`{key}` asks for {:.0} GiB of parameters or queue alone, and {has} {:.0} GiB: lower it",
            gib(bytes),
            gib(most)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Every method's config, its largest number made impossible.
    #[test]
    fn what_no_machine_holds_is_refused_by_its_key() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/pretrain");
        let mut methods = std::collections::BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let config: Config<ObjectiveConfig> = toml::from_str(&text).unwrap();
            // What a config of ours takes is far from all that there is.
            check(&config, Some(8 << 30)).unwrap();
            for (key, bytes) in sizes(&config) {
                assert!(bytes > 0.0, "{key}");
                let mut table: toml::Table = text.parse().unwrap();
                let mut node = &mut table;
                let (path, last) = key.rsplit_once('.').unwrap();
                for part in path.split('.') {
                    node = node[part].as_table_mut().unwrap();
                }
                node.insert(last.to_owned(), (1i64 << 50).into());
                let config: Config<ObjectiveConfig> = table.try_into().unwrap();
                let error = check(&config, None).unwrap_err();
                assert!(
                    error.contains("GiB") || error.contains("backbone.vit"),
                    "{key}: {error}"
                );
            }
            methods.insert(config.objective.name());
        }
        assert_eq!(methods.len(), 12);
    }
}
