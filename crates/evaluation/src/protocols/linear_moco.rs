//! MoCo's linear probe: a linear classifier on a frozen encoder, trained on freshly augmented images every epoch.
//!
//! He et al. 2020, section 4.1 and `main_lincls.py`: the encoder in evaluation mode even while the classifier
//! trains, weights N(0, 0.01), bias 0, SGD with learning rate 30 for 256 images, momentum 0.9, no weight
//! decay, 100 epochs, a tenth of the rate at epochs 60 and 80; random resized crop and flip in training, one
//! center crop in the test. The code is in `linear_probe.rs`.

use super::linear_probe;
use super::protocol::{Bench, Needs, Protocol, Scored};
use crate::encoder::Input;
use crate::error::Error;
use data::{Order, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{OptimizerConfig, ScheduleConfig};

const PROTOCOL: &str = "linear-moco";

/// MoCo's linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearMoco {
    /// Augmentation of the training images. MoCo: `random_resized_crop` to 224 px (area 0.08 to 1, torchvision's default)
    /// and `horizontal_flip`.
    pub train_transforms: Vec<Transform>,
    /// Images per step. MoCo: 256.
    pub batch_images: usize,
    /// Order of the training records.
    pub order: Order,
    /// Passes over the training set. MoCo: 100.
    pub epochs: usize,
    /// SGD. MoCo: learning rate 30 for 256 images, momentum 0.9, weight decay 0. Rates this high suit small
    /// features, because the weights start at 0.01 and the logits must become large.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule. MoCo: a tenth at epochs 60 and 80.
    pub schedule: ScheduleConfig,
    /// One classifier per seed (initial weights, order, augmentation); the score is their mean.
    pub seeds: Vec<u64>,
}

impl Protocol for LinearMoco {
    const NAME: &'static str = PROTOCOL;

    fn validate(&self, table: &str) -> Result<(), String> {
        self.probe().validate(table)
    }

    fn needs(&self) -> Needs<'_> {
        Needs::train_images(&self.train_transforms)
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, Error> {
        self.probe().train(PROTOCOL, bench)
    }
}

impl LinearMoco {
    /// The same settings as a general probe.
    pub fn probe(&self) -> linear_probe::Settings {
        linear_probe::Settings {
            input: Input::Pooled,
            train_transforms: self.train_transforms.clone(),
            batch_images: self.batch_images,
            order: self.order,
            epochs: self.epochs,
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            seeds: self.seeds.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::encoder::Encoder;
    use crate::error::Error;
    use crate::features::{Features, Records};
    use crate::progress::Event;
    use crate::protocols::Pipeline;
    use crate::testing::{DATA, NORMALIZE, backbone, bench_on, extract, resize, tinted};
    use burn::tensor::Device;
    use data::{Dataset, Filter, Label, LoaderConfig, Record};
    use std::sync::Arc;

    fn config() -> LinearMoco {
        LinearMoco {
            train_transforms: vec![
                Transform::RandomResizedCrop {
                    size_px: 8,
                    scale: [0.5, 1.0],
                    ratio: [0.75, 4.0 / 3.0],
                    filter: Filter::Bilinear,
                },
                Transform::HorizontalFlip { probability: 0.5 },
            ],
            batch_images: 16,
            order: Order::Global,
            epochs: 10,
            optimizer: OptimizerConfig::Sgd {
                learning_rate_per_256: 10.0,
                momentum: 0.9,
                weight_decay: 0.0,
                nesterov: false,
            },
            schedule: ScheduleConfig::Steps {
                milestones_epochs: vec![6, 8],
                factor: 0.1,
            },
            seeds: vec![0, 1],
        }
    }

    fn features(encoder: &Encoder, dataset: &Arc<Dataset>) -> Features {
        extract(encoder, dataset, &resize(8), &DATA, &Device::flex(), &mut |_| {}).unwrap()
    }

    #[test]
    fn a_probe_learns_what_a_random_network_shows() {
        let device = Device::flex();
        let encoder = Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
        let (train, test) = (tinted(64, 0), tinted(32, 5));
        let test_features = features(&encoder, &test);
        let mut epochs = vec![];
        let (train, test) = (Records::from(train), Records::from(test));
        let probe = |workers, progress: &mut dyn FnMut(Event<'_>)| {
            let pipeline = Pipeline {
                encoder: &encoder,
                train: &train,
                test: &test,
                test_transforms: &resize(8),
                data: &LoaderConfig { workers, ..DATA },
            };
            let mut bench = bench_on(pipeline, &test_features, &device, progress);
            config().run(&mut bench).unwrap()
        };
        let one = probe(0, &mut |event| epochs.push((event.done, event.total)));
        assert_eq!((epochs.len(), epochs[19]), (20, (20, 20)));
        assert_eq!(
            (one.classes, one.train_bad_records, one.scores.len()),
            (2, Some(0), 2)
        );
        assert_eq!(one.scores[0].spread.as_ref().unwrap().seeds, [0, 1]);
        assert!(one.scores[0].value > 0.9, "{:?}", one.scores);
        assert_eq!(probe(2, &mut |_| {}), one, "the same for any number of workers");
    }

    #[test]
    fn labels_are_needed_before_anything_is_trained() {
        let device = Device::flex();
        let encoder = Encoder::pixels(NORMALIZE);
        let test = features(&encoder, &tinted(8, 0));
        let probe = |train: Arc<Dataset>| {
            let train = Records::from(train);
            let pipeline = Pipeline {
                encoder: &encoder,
                train: &train,
                test: &train,
                test_transforms: &resize(8),
                data: &DATA,
            };
            config()
                .run(&mut bench_on(pipeline, &test, &device, &mut |_| {}))
                .unwrap_err()
        };
        let unlabeled = Arc::new(Dataset::synthetic(32, 8, 8, 0, 0));
        assert!(matches!(probe(unlabeled), Error::Unlabeled { set: "training" }));
        // 32 records; the first half belongs to classes that the test set lacks.
        let record = |index: usize| Record {
            label: Some(Label::Class(7 + index as u32 % 2)),
            ..tinted(32, 0).read(index).unwrap()
        };
        let others = Arc::new(Dataset::from_records((0..32).map(record).collect(), vec![]));
        assert!(matches!(probe(others), Error::UnknownClass { .. }));
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |config: LinearMoco| config.validate("protocols.0.x").unwrap_err();
        assert!(
            refused(LinearMoco {
                order: Order::Sequential,
                ..config()
            })
            .contains("must shuffle")
        );
        assert!(
            refused(LinearMoco {
                epochs: 0,
                ..config()
            })
            .contains("`epochs`")
        );
        assert!(
            refused(LinearMoco {
                train_transforms: vec![],
                ..config()
            })
            .contains("train_transforms")
        );
        assert!(config().validate("protocols.0.x").is_ok());
    }
}
