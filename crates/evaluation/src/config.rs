//! The config of an evaluation: one flat TOML file. Every key is required, unknown keys give an error.

use crate::encoder::Tap;
use crate::protocols::{LabelsRead, ProtocolConfig};
use data::{LoaderConfig, Transform, ViewGroup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use training::Normalize;

/// One evaluation: how images reach the encoder, and the protocols to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Transforms of a decoded image before the encoder; none is random, and they give one size for every
    /// image. They apply to the test set, and to the training set in protocols on stored features.
    pub test_transforms: Vec<Transform>,
    /// Channel statistics. Absent: those of the encoder's training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Largest share (0 to 1) of the test images that may lie in the training set too, compared by content. Absent:
    /// any share with a warning, unless it is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shared_fraction: Option<f64>,
    /// How records become batches.
    pub data: LoaderConfig,
    /// The protocols, run in this order; each entry is one table, e.g. `[protocols.knn-dino]` after `[[protocols]]`.
    pub protocols: Vec<ProtocolConfig>,
}

impl Config {
    /// Taps whose features are stored: those that the protocols need, and the pooled output, which reports
    /// show.
    pub(crate) fn stored_taps(&self) -> Vec<Tap> {
        let needed = self
            .protocols
            .iter()
            .flat_map(|protocol| protocol.needs().stored_taps);
        let all: BTreeSet<Tap> = needed.chain([Tap::Pooled]).collect();
        all.into_iter().collect()
    }

    /// Whether any protocol reads stored features of the train split.
    pub(crate) fn needs_train_features(&self) -> bool {
        self.protocols
            .iter()
            .any(|protocol| protocol.needs().train_features)
    }

    /// Whether any protocol reads labels of the train split; that split must then differ from the test split.
    pub(crate) fn needs_train_labels(&self) -> bool {
        let both = |protocol: &ProtocolConfig| protocol.needs().labels == LabelsRead::Both;
        self.protocols.iter().any(both)
    }

    /// Whether any protocol reads labels.
    pub(crate) fn needs_labels(&self) -> bool {
        let any = |protocol: &ProtocolConfig| protocol.needs().labels != LabelsRead::None;
        self.protocols.iter().any(any)
    }

    /// Gives an error that names the key if the config contradicts itself or cannot run on any data.
    pub fn validate(&self) -> Result<(), String> {
        self.data.validate()?;
        check_shared("max_shared_fraction", self.max_shared_fraction)?;
        check_test_transforms("test_transforms", &self.test_transforms)?;
        if let Some(normalize) = &self.normalize {
            normalize.validate("normalize")?;
        }
        if self.protocols.is_empty() {
            return Err("`[[protocols]]` must name at least one protocol, got none".into());
        }
        let mut protocols = self.protocols.iter().enumerate();
        protocols.try_for_each(|(place, protocol)| protocol.validate(place))
    }
}

/// Gives an error if the share under the key `name` is none.
pub(crate) fn check_shared(name: &str, most: Option<f64>) -> Result<(), String> {
    match most {
        Some(most) if !(0.0..=1.0).contains(&most) => Err(format!("`{name}` must be in 0..1, got {most}")),
        _ => Ok(()),
    }
}

/// Gives an error if the test transforms under the key `name` are random or give several sizes.
pub(crate) fn check_test_transforms(name: &str, transforms: &[Transform]) -> Result<(), String> {
    let random = |transform: &&Transform| {
        !matches!(
            transform,
            Transform::Resize { .. } | Transform::ResizeExact { .. } | Transform::CenterCrop { .. }
        )
    };
    if let Some(transform) = transforms.iter().find(random) {
        return Err(format!(
            "`{name}` must draw nothing (`resize`, `resize_exact`, `center_crop`), got {transform:?}"
        ));
    }
    let group = ViewGroup {
        count: 1,
        transforms: transforms.to_vec(),
    };
    group.validate_at("count", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
test_transforms = [{ resize = { shorter_px = 32, filter = "bilinear" } }, { center_crop = { size_px = 32 } }]
[data]
batch_images = 64
workers = 2
max_bad_fraction = 0.01
[[protocols]]
[protocols.knn-dino]
neighbors = [10, 20]
headline_neighbors = 20
temperature = 0.07
[[protocols]]
[protocols.knn-vissl]
neighbors = 200
temperature = 0.1
"#;

    fn read(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_toml_form() {
        let config = read(SMALL).unwrap();
        config.validate().unwrap();
        let names: Vec<_> = config.protocols.iter().map(ProtocolConfig::name).collect();
        assert_eq!(names, ["knn-dino", "knn-vissl"]);
        assert_eq!(config.normalize, None);
        assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn names_in_results_are_those_of_the_config() {
        for protocol in &read(SMALL).unwrap().protocols {
            let json = serde_json::to_value(protocol).unwrap();
            assert!(json.get(protocol.name()).is_some());
        }
    }

    #[test]
    fn unknown_keys_and_protocols_are_refused() {
        let refused = |from: &str, to: &str| read(&SMALL.replace(from, to)).unwrap_err().to_string();
        assert!(refused("temperature = 0.07", "temperture = 0.07").contains("temperture"));
        assert!(refused("knn-dino", "knn-dinosaur").contains("knn-dinosaur"));
        assert!(refused("workers = 2", "workers = 2\nthreads = 2").contains("threads"));
        assert!(refused("batch_images = 64", "").contains("batch_images"));
    }

    #[test]
    fn contradictions_are_named() {
        let refused = |from: &str, to: &str| read(&SMALL.replace(from, to)).unwrap().validate().unwrap_err();
        assert!(
            refused(
                "{ center_crop = { size_px = 32 } }",
                "{ horizontal_flip = { probability = 0.5 } }"
            )
            .contains("must draw nothing")
        );
        assert!(
            refused(", { center_crop = { size_px = 32 } }", "")
                .contains("`test_transforms` must give one size for every image")
        );
        assert!(
            refused("[data]", "max_shared_fraction = 1.5\n[data]")
                .contains("`max_shared_fraction` must be in 0..1, got 1.5")
        );
        assert!(refused("headline_neighbors = 20", "headline_neighbors = 30").contains("got 30"));
        assert!(refused("batch_images = 64", "batch_images = 0").contains("data.batch_images"));
    }
}
