//! The config of an evaluation: one flat TOML file, every key required, unknown keys refused.

use crate::taps::{Inputs, Tap};
use crate::task::Part;
use crate::{
    clustering, diagnostics, few_shot, knn, linear_cached, linear_cached_grid, linear_dinov2, linear_moco,
    linear_probe, linear_vissl, logistic, retrieval, svm_low_shot, svm_voc07, view_diagnostics,
};
use data::{LoaderConfig, Transform, ViewGroup};
use serde::{Deserialize, Serialize};
use training::Normalize;

/// One evaluation: how images reach the encoder, and what is asked of its features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is done to a decoded image before the encoder sees it; nothing random, and one size for every image. Used for
    /// the test set, and for the training set by the protocols on stored features.
    pub test_transforms: Vec<Transform>,
    /// Channel statistics. Absent: those that the encoder was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// How records become batches.
    pub data: LoaderConfig,
    /// What is asked, in this order; each entry is one table, e.g. `[protocols.knn-dino]` after `[[protocols]]`.
    pub protocols: Vec<Protocol>,
}

/// A protocol and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Weighted k nearest neighbours, as in DINO.
    KnnDino(knn::DinoConfig),
    /// Weighted k nearest neighbours, as in VISSL.
    KnnVissl(knn::VisslConfig),
    /// A linear classifier on augmented images, as in MoCo.
    LinearMoco(linear_moco::Config),
    /// A linear classifier on augmented images, as in SwAV.
    LinearSwav(linear_probe::Config),
    /// A linear classifier on augmented images, as in DINO.
    LinearDino(linear_probe::Config),
    /// A linear classifier on augmented images, as in MoCo v3.
    #[serde(rename = "linear-moco-v3")]
    LinearMocoV3(linear_probe::Config),
    /// A grid of linear classifiers on augmented images, as in DINOv2.
    #[serde(rename = "linear-dinov2")]
    LinearDinov2(linear_dinov2::Config),
    /// Linear classifiers on several stages of a ResNet, on augmented images, as in VISSL.
    LinearVissl(linear_vissl::Config),
    /// The same grid as DINOv2's, on stored features.
    LinearCachedGrid(linear_cached_grid::Config),
    /// A linear classifier on stored features.
    LinearCached(linear_cached::Config),
    /// Regularised logistic regression on stored features.
    LogisticRegression(logistic::Config),
    /// k-means, scored against the classes.
    Clustering(clustering::Config),
    /// Small classification tasks in closed form.
    FewShot(few_shot::Config),
    /// Linear SVMs, one a class, as in VISSL.
    SvmVoc07(svm_voc07::Config),
    /// The same from few records of a class.
    SvmLowShot(svm_low_shot::Config),
    /// Rankings by cosine similarity.
    Retrieval(retrieval::Config),
    /// Rank, uniformity and spectrum of features, without labels.
    Diagnostics(diagnostics::Config),
    /// LiDAR and alignment of views, without labels.
    ViewDiagnostics(view_diagnostics::Config),
}

impl Protocol {
    /// Its name in configs and results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::KnnDino(_) => "knn-dino",
            Self::KnnVissl(_) => "knn-vissl",
            Self::LinearMoco(_) => "linear-moco",
            Self::LinearSwav(_) => "linear-swav",
            Self::LinearDino(_) => "linear-dino",
            Self::LinearMocoV3(_) => "linear-moco-v3",
            Self::LinearDinov2(_) => "linear-dinov2",
            Self::LinearVissl(_) => "linear-vissl",
            Self::LinearCachedGrid(_) => "linear-cached-grid",
            Self::LinearCached(_) => "linear-cached",
            Self::LogisticRegression(_) => "logistic-regression",
            Self::Clustering(_) => "clustering",
            Self::FewShot(_) => "few-shot",
            Self::SvmVoc07(_) => "svm-voc07",
            Self::SvmLowShot(_) => "svm-low-shot",
            Self::Retrieval(_) => "retrieval",
            Self::Diagnostics(_) => "diagnostics",
            Self::ViewDiagnostics(_) => "view-diagnostics",
        }
    }

    /// Whether it learns from stored features of the training set, rather than from images.
    pub(crate) fn needs_train_features(&self) -> bool {
        match self {
            Self::LinearMoco(_)
            | Self::LinearSwav(_)
            | Self::LinearDino(_)
            | Self::LinearMocoV3(_)
            | Self::LinearDinov2(_)
            | Self::LinearVissl(_)
            | Self::ViewDiagnostics(_) => false,
            Self::Diagnostics(config) => config.set == Part::Train,
            _ => true,
        }
    }

    /// Places of the network that it wants among the stored features of the test set, and of the training set where it learns from
    /// stored ones.
    pub(crate) fn stored_taps(&self) -> Vec<Tap> {
        match self {
            // Its test images go through the network once more: what all stages put out would fill the memory.
            Self::LinearVissl(_) => vec![Tap::Pooled],
            _ => self.taps(),
        }
    }

    /// Places of the network that it reads.
    pub(crate) fn taps(&self) -> Vec<Tap> {
        match self {
            Self::LinearSwav(config) | Self::LinearDino(config) | Self::LinearMocoV3(config) => {
                config.input.taps()
            }
            Self::LinearDinov2(config) => Inputs::new(&config.inputs).taps,
            Self::LinearVissl(config) => config.taps(),
            Self::LinearCachedGrid(config) => Inputs::new(&config.inputs).taps,
            _ => vec![Tap::Pooled],
        }
    }

    /// Augmentation of the training images, where it has any.
    pub(crate) fn train_transforms(&self) -> Option<&[Transform]> {
        match self {
            Self::LinearMoco(config) => Some(&config.train_transforms),
            Self::LinearSwav(config) | Self::LinearDino(config) | Self::LinearMocoV3(config) => {
                Some(&config.train_transforms)
            }
            Self::LinearDinov2(config) => Some(&config.train_transforms),
            Self::LinearVissl(config) => Some(&config.train_transforms),
            Self::ViewDiagnostics(config) => Some(&config.transforms),
            _ => None,
        }
    }

    /// Whether it compares anything with labels.
    pub(crate) fn needs_labels(&self) -> bool {
        !matches!(self, Self::Diagnostics(_) | Self::ViewDiagnostics(_))
    }

    /// Whether training labels are among those. A protocol that stays within the test set takes any training set, of other
    /// classes too.
    pub(crate) fn needs_train_labels(&self) -> bool {
        match self {
            Self::Clustering(config) => config.fit == Part::Train,
            Self::FewShot(config) => config.support == Part::Train,
            Self::Retrieval(config) => config.gallery == Part::Train,
            _ => self.needs_labels(),
        }
    }

    /// The largest number of training records that it asks for.
    pub(crate) fn neighbors(&self) -> usize {
        match self {
            Self::KnnDino(config) => config.neighbors.iter().copied().max().unwrap_or(0),
            Self::KnnVissl(config) => config.neighbors,
            _ => 0,
        }
    }

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::KnnDino(config) => config.validate(),
            Self::KnnVissl(config) => config.validate(),
            Self::LinearMoco(config) => config.validate(),
            Self::LinearSwav(config) | Self::LinearDino(config) | Self::LinearMocoV3(config) => {
                config.validate(self.name())
            }
            Self::LinearDinov2(config) => config.validate(),
            Self::LinearVissl(config) => config.validate(),
            Self::LinearCachedGrid(config) => config.validate(),
            Self::LinearCached(config) => config.validate(),
            Self::LogisticRegression(config) => config.validate(),
            Self::Clustering(config) => config.validate(),
            Self::FewShot(config) => config.validate(),
            Self::SvmVoc07(config) => config.validate(),
            Self::SvmLowShot(config) => config.validate(),
            Self::Retrieval(config) => config.validate(),
            Self::Diagnostics(config) => config.validate(),
            Self::ViewDiagnostics(config) => config.validate(),
        }
    }
}

impl Config {
    /// Places of the network whose features are stored: those that its protocols want, and the pooled output, which reports show.
    pub(crate) fn stored_taps(&self) -> Vec<Tap> {
        let asked = self.protocols.iter().flat_map(Protocol::stored_taps);
        let all: std::collections::BTreeSet<Tap> = asked.chain([Tap::Pooled]).collect();
        all.into_iter().collect()
    }

    /// Refuses what contradicts itself or cannot be run whatever the data, naming the key.
    pub fn validate(&self) -> Result<(), String> {
        self.data.validate()?;
        check_test_transforms("test_transforms", &self.test_transforms)?;
        if let Some(normalize) = &self.normalize {
            normalize.validate()?;
        }
        if self.protocols.is_empty() {
            return Err("`[[protocols]]` must name at least one protocol, got none".into());
        }
        self.protocols.iter().try_for_each(Protocol::validate)
    }
}

/// Refuses transforms of test images, which `name` holds, that draw something or end in several sizes.
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
    group.validate().map_err(|reason| format!("`{name}`: {reason}"))
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
        let names: Vec<_> = config.protocols.iter().map(Protocol::name).collect();
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
                .contains("`test_transforms`: views come out in different sizes")
        );
        assert!(refused("headline_neighbors = 20", "headline_neighbors = 30").contains("got 30"));
        assert!(refused("batch_images = 64", "batch_images = 0").contains("data.batch_images"));
    }

    #[test]
    fn every_config_in_the_repository_is_sound() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/evaluate");
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Those of `passer evaluate finetune` are another kind.
            if let Ok(text) = std::fs::read_to_string(&path)
                && (name.starts_with("finetune-") || name.starts_with("semi-supervised-"))
            {
                let config: Result<crate::finetune::Config, _> = toml::from_str(&text);
                config
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                    .validate()
                    .unwrap();
                continue;
            }
            let config = read(&std::fs::read_to_string(&path).unwrap());
            config
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                .validate()
                .unwrap();
            count += 1;
        }
        assert!(count >= 3);
    }
}
