//! The encoder under evaluation: a frozen network with its normalization, or the pixels themselves as a baseline.

mod stage_pooling;
mod taps;

use crate::error::Error;
use backbones::{Backbone, Context, state_dict};
use burn::module::Module;
use burn::tensor::Tensor;
use data::{ContentSample, Transform, ViewGroup};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use training::{LoadedEncoder, Normalize};

pub use taps::{Input, POOLED, Tap};

use stage_pooling::{pooled as pooled_stage, pooled_shape};

/// For each image and head, how much the class token attends to each patch.
pub(crate) type AttentionOfImages = Vec<Vec<Vec<f64>>>;

/// A frozen map from images to features, with its identity for results.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// For people: `resnet18-w16-small`, `raw pixels`.
    pub name: String,
    /// Identifies the encoder in results and decides whether stored features can be reused: hash of the
    /// encoder file, or [`weights_hash`] of a network that was not read from a file.
    pub hash: String,
    /// The channel statistics of its training.
    pub normalize: Normalize,
    /// Side of the square images in its pretraining, px; absent where unknown.
    pub trained_px: Option<u32>,
    /// Optimizer steps of its training; absent where unknown.
    pub step: Option<u64>,
    /// What its file says of the data that it was pretrained on.
    pub pretrained_on: PretrainedOn,
    network: Network,
}

/// What an encoder's file says of its pretraining data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PretrainedOn {
    /// What it is in sentences: `encoder` or `detector`.
    pub network: &'static str,
    /// Fingerprint of all of them; empty where unknown.
    pub fingerprint: String,
    /// A sample of their images; empty where unknown.
    pub sample: ContentSample,
}

impl Default for PretrainedOn {
    fn default() -> Self {
        Self {
            network: "encoder",
            fingerprint: String::new(),
            sample: ContentSample::default(),
        }
    }
}

impl PretrainedOn {
    /// From an encoder read from disk.
    pub fn of(encoder: &LoadedEncoder) -> Self {
        Self {
            network: "encoder",
            fingerprint: encoder.info.fingerprint.clone(),
            sample: encoder.sample(),
        }
    }
}

#[derive(Clone, Debug)]
enum Network {
    Backbone(Box<Backbone>),
    Pixels,
}

impl Encoder {
    /// A frozen network: forwards record no graph and running statistics stay unchanged.
    ///
    /// Its weights must be on the device that the encoder will run on.
    pub fn new(
        name: impl Into<String>,
        hash: impl Into<String>,
        backbone: &Backbone,
        normalize: Normalize,
    ) -> Self {
        Self {
            name: name.into(),
            hash: hash.into(),
            normalize,
            trained_px: None,
            step: None,
            pretrained_on: PretrainedOn::default(),
            // On an autodiff device, forwards without a `backward` would pile up graph nodes.
            network: Network::Backbone(Box::new(backbone.valid())),
        }
    }

    /// No network: features are the normalized pixels of the transformed image, `[3, height, width]`
    /// flattened.
    pub fn pixels(normalize: Normalize) -> Self {
        Self {
            name: "raw pixels".into(),
            hash: "raw pixels".into(),
            normalize,
            trained_px: None,
            step: None,
            pretrained_on: PretrainedOn::default(),
            network: Network::Pixels,
        }
    }

    /// The same encoder with facts of its training: the side of its images in px, and its steps; 0 where
    /// unknown.
    pub fn trained(mut self, px: usize, steps: u64) -> Self {
        self.trained_px = u32::try_from(px).ok().filter(|px| *px > 0);
        self.step = Some(steps).filter(|steps| *steps > 0);
        self
    }

    /// The same encoder with what its file says of its pretraining data.
    pub fn pretrained_on(mut self, data: PretrainedOn) -> Self {
        self.pretrained_on = data;
        self
    }

    /// A note for the user if the image size differs much from the pretraining's, because features then get
    /// worse.
    pub fn size_note(&self, transforms: &[Transform]) -> Option<String> {
        let group = ViewGroup {
            count: 1,
            transforms: transforms.to_vec(),
        };
        let (width, height) = group.output_px()?;
        let trained = self.trained_px?;
        let (larger, smaller) = (width.max(height).max(trained), width.min(height).min(trained));
        // 256 px or 288 px at test time are usual for 224 px in training.
        (f64::from(larger) > 1.3 * f64::from(smaller)).then(|| {
            format!(
                "images reach the encoder at {width}x{height} px, and it was pretrained at {trained} px: its scores \
                 will be lower than at that size"
            )
        })
    }

    /// Features of normalized images.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`
    /// - output: `[images, features]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match &self.network {
            Network::Backbone(backbone) => backbone.forward(images, &Context::evaluation()),
            Network::Pixels => images.flatten(1, 3),
        }
    }

    /// Features of normalized images at several taps, in the order of `taps`; `[images, width]` each.
    ///
    /// # Errors
    /// [`Error::Config`] if the network lacks a tap.
    pub fn taps(&self, images: Tensor<4>, taps: &[Tap]) -> Result<Vec<Tensor<2>>, Error> {
        self.check_taps("features", taps)?;
        let context = Context::evaluation();
        let deepest = taps.iter().map(|tap| match tap {
            Tap::Pooled | Tap::Stage(_) => 0,
            Tap::ClassToken(block) => *block,
            Tap::PatchMean => 1,
        });
        let deepest = deepest.max().unwrap_or(0);
        let (mut stages, mut tokens) = (BTreeMap::new(), vec![]);
        let network = match &self.network {
            Network::Backbone(backbone) => Some(&**backbone),
            Network::Pixels => None,
        };
        // One pass for all taps.
        let pooled = match network {
            Some(Backbone::ResNet(network)) => {
                Some(network.forward_seeing(images, &context, |stage, map| {
                    if taps.contains(&Tap::Stage(stage)) {
                        stages.insert(stage, pooled_stage(map));
                    }
                }))
            }
            Some(Backbone::Vit(network)) if deepest > 0 && taps.iter().all(|tap| tap.is_token()) => {
                tokens = network.last_blocks(images, deepest, &context);
                None
            }
            Some(Backbone::Vit(network)) if deepest > 0 => {
                let (blocks, features) = network.last_blocks_and_features(images, deepest, &context);
                tokens = blocks;
                Some(features)
            }
            _ => Some(self.forward(images)),
        };
        let block = |number: usize| tokens.get(tokens.len().checked_sub(number)?);
        let at = |tap: &Tap| match tap {
            Tap::Pooled => pooled.clone(),
            Tap::Stage(stage) => stages.get(stage).cloned(),
            Tap::ClassToken(number) => block(*number).map(|block| block.class.clone()),
            Tap::PatchMean => block(1).map(|block| block.patch_mean.clone()),
        };
        let features = |tap: &Tap| {
            at(tap).ok_or_else(|| {
                Error::Config(format!("features: `{}` gave none at `{}`", self.name, tap.name()))
            })
        };
        taps.iter().map(features).collect()
    }

    /// Channels and positions of a tap for images of this height and width, px; their product is the tap's
    /// width.
    ///
    /// # Errors
    /// [`Error::Config`] if the network lacks the tap.
    pub(crate) fn tap_shape(&self, tap: Tap, [height, width]: [usize; 2]) -> Result<[usize; 2], Error> {
        self.check_taps("features", &[tap])?;
        match (&self.network, tap) {
            (Network::Pixels, _) => Ok([3, height * width]),
            (Network::Backbone(backbone), Tap::Stage(stage)) => {
                let shapes = backbone
                    .as_resnet()
                    .map(|network| network.stage_shapes(height, width));
                let shape = shapes.into_iter().flatten().find(|(of, _)| *of == stage);
                let [channels, rows, columns] = shape.map(|(_, map)| pooled_shape(map)).ok_or_else(|| {
                    Error::Config(format!(
                        "features: `{}` has no stage `{}`",
                        self.name,
                        stage.name()
                    ))
                })?;
                Ok([channels, rows * columns])
            }
            (Network::Backbone(backbone), _) => Ok([backbone.features(), 1]),
        }
    }

    /// Checks that the network has these taps; `name` is the protocol, for the message.
    ///
    /// # Errors
    /// [`Error::Config`] if it lacks one.
    pub fn check_taps(&self, name: &str, taps: &[Tap]) -> Result<(), Error> {
        let backbone = match &self.network {
            Network::Backbone(backbone) => Some(&**backbone),
            Network::Pixels => None,
        };
        let depth = backbone.and_then(Backbone::as_vit).map(|vit| vit.depth());
        let has_stages = backbone.is_some_and(|backbone| backbone.as_resnet().is_some());
        let reason = taps.iter().find_map(|tap| match (tap, depth) {
            (Tap::Pooled, _) => None,
            (Tap::Stage(_), _) if has_stages => None,
            (Tap::Stage(stage), _) => Some(format!(
                "is no ResNet and has no stage `{}`; use `pooled`{}",
                stage.name(),
                if depth.is_some() { " or its tokens" } else { "" }
            )),
            (Tap::ClassToken(block), Some(depth)) if *block > depth => {
                Some(format!("has {depth} blocks, fewer than the config needs"))
            }
            (_, Some(_)) => None,
            (_, None) => Some("is no vision transformer and has no tokens; use `pooled`".into()),
        });
        match reason {
            None => Ok(()),
            Some(reason) => Err(Error::Config(format!("{name}: `{}` {reason}", self.name))),
        }
    }

    /// Checks that the network is a residual network; `name` is the protocol, for the message.
    ///
    /// # Errors
    /// [`Error::Config`] for any other network.
    pub(crate) fn check_resnet(&self, name: &str) -> Result<(), Error> {
        match &self.network {
            Network::Backbone(backbone) if backbone.as_resnet().is_some() => Ok(()),
            _ => Err(Error::Config(format!(
                "{name}: `{}` is no ResNet, and this protocol's classifiers see the stages of one; vision transformers have \
                 `linear-dino` and `linear-dinov2`",
                self.name
            ))),
        }
    }

    /// Whether it is a vision transformer, whose attention can be shown.
    pub(crate) fn has_attention(&self) -> bool {
        matches!(&self.network, Network::Backbone(backbone) if backbone.as_vit().is_some())
    }

    /// The class token's attention to each patch in the last block, for each image and head, and the rows and
    /// columns of patches; `None` if the network has no attention.
    ///
    /// # Shapes
    /// - `images`: `[images, 3, height, width]`, normalized
    /// - output: `[images][heads][rows * columns]`; attention to other tokens is dropped
    pub(crate) fn attention(&self, images: Tensor<4>) -> Option<(AttentionOfImages, [usize; 2])> {
        let Network::Backbone(backbone) = &self.network else {
            return None;
        };
        let vit = backbone.as_vit()?;
        let [count, _, height, width] = images.dims();
        let grid = [height / vit.patch_px(), width / vit.patch_px()];
        let maps = vit.attention_maps(images, &Context::evaluation());
        let [_, heads, tokens, _] = maps.dims();
        let patches = grid[0] * grid[1];
        let of_class = maps.narrow(2, 0, 1).narrow(3, tokens - patches, patches);
        let values: Vec<f64> = of_class.into_data().iter::<f64>().collect();
        let images = values.chunks_exact(heads * patches).take(count);
        let maps = images
            .map(|image| image.chunks_exact(patches).map(<[f64]>::to_vec).collect())
            .collect();
        Some((maps, grid))
    }

    /// Checks that the network accepts the images that these transforms give; `name` is the transforms' key,
    /// for the message.
    ///
    /// # Errors
    /// [`Error::Config`] if it does not. Without this check a forward pass would panic.
    pub fn check_transforms(&self, name: &str, transforms: &[Transform]) -> Result<(), Error> {
        let group = ViewGroup {
            count: 1,
            transforms: transforms.to_vec(),
        };
        match (&self.network, group.output_px()) {
            (Network::Backbone(backbone), Some((width, height))) => backbone
                .check_input(height as usize, width as usize)
                .map_err(|reason| Error::Config(format!("{name} and `{}`: {reason}", self.name))),
            // Pixels accept any size; the loader gives an error for transforms without one size.
            _ => Ok(()),
        }
    }

    /// Hash of the current weights; a constant text for pixels.
    pub(crate) fn weights_hash(&self) -> String {
        match &self.network {
            Network::Backbone(backbone) => weights_hash(backbone),
            Network::Pixels => self.hash.clone(),
        }
    }
}

/// SHA-256 (hexadecimal) over names, shapes and values of all weights and running statistics, sorted by name.
pub fn weights_hash(backbone: &Backbone) -> String {
    let mut hasher = Sha256::new();
    for (name, data) in state_dict(backbone) {
        // Names end with a byte that no name contains and shapes begin with their rank, so that two networks
        // never feed the hash the same bytes.
        hasher.update(name.as_bytes());
        hasher.update([0, data.shape().len() as u8]);
        data.shape()
            .iter()
            .for_each(|side| hasher.update((*side as u64).to_le_bytes()));
        hasher.update(data.as_bytes());
    }
    data::hex(&hasher.finalize())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{NORMALIZE, backbone};
    use backbones::{BackboneConfig, Init, ResNetStage};
    use burn::tensor::Device;

    #[test]
    fn the_hash_is_that_of_the_weights() {
        let device = Device::flex();
        let hash = weights_hash(&backbone(0, &device));
        assert_eq!(hash.len(), 64);
        assert_eq!(hash, weights_hash(&backbone(0, &device)));
        assert_eq!(
            hash,
            weights_hash(&backbone(0, &device.clone().autodiff()).valid()),
            "a device is no weight"
        );
        assert_ne!(hash, weights_hash(&backbone(1, &device)));
    }

    #[test]
    fn a_frozen_encoder_makes_no_graph_and_keeps_its_statistics() {
        let autodiff = Device::flex().autodiff();
        let encoder = Encoder::new("small", "", &backbone(0, &autodiff), NORMALIZE);
        let before = encoder.weights_hash();
        let features = encoder.forward(Tensor::ones([2, 3, 8, 8], &Device::flex()));
        assert_eq!(features.dims(), [2, 32]);
        assert!(!features.is_autodiff());
        assert_eq!(encoder.weights_hash(), before);
    }

    #[test]
    fn taps_of_one_pass_are_those_of_several() {
        let device = Device::flex();
        let vit = |pooling: &str| -> BackboneConfig {
            serde_json::from_value(serde_json::json!({ "vit": {
                "width": 12, "depth": 3, "heads": 2, "patch_px": 4, "image_px": 8, "position": "learned",
                "interpolation": "antialiased", "registers": 0, "drop_path": 0.0, "pooling": pooling,
                "initialization": "truncated_normal"
            } }))
            .unwrap()
        };
        let tokens = [
            Tap::Pooled,
            Tap::ClassToken(1),
            Tap::ClassToken(3),
            Tap::PatchMean,
        ];
        let networks = [
            (
                backbone(0, &device),
                [Tap::Pooled; 1]
                    .into_iter()
                    .chain(ResNetStage::ALL.map(Tap::Stage))
                    .collect::<Vec<_>>(),
            ),
            (vit("class_token").init(&Init::new(1, &device)), tokens.to_vec()),
            (
                vit("mean_then_norm").init(&Init::new(1, &device)),
                tokens.to_vec(),
            ),
        ];
        let images = Tensor::<1, burn::tensor::Int>::arange(0..2 * 3 * 64, &device)
            .float()
            .sin();
        let images = images.reshape([2, 3, 8, 8]);
        for (network, taps) in networks {
            let encoder = Encoder::new("n", "", &network, NORMALIZE);
            encoder.check_taps("x", &taps).unwrap();
            let together = encoder.taps(images.clone(), &taps).unwrap();
            for (tap, together) in taps.iter().zip(together) {
                let alone = encoder.taps(images.clone(), &[*tap]).unwrap().remove(0);
                let [channels, places] = encoder.tap_shape(*tap, [8, 8]).unwrap();
                assert_eq!(together.dims(), [2, channels * places], "{tap:?}");
                together.into_data().assert_eq(&alone.into_data(), true);
            }
        }
    }

    #[test]
    fn a_forward_pass_gives_an_error_for_a_tap_that_the_network_lacks() {
        let device = Device::flex();
        let images = || Tensor::<4>::ones([2, 3, 8, 8], &device);
        let resnet = Encoder::new("small", "", &backbone(0, &device), NORMALIZE);
        // Without `check_taps` before it.
        let error = resnet
            .taps(images(), &[Tap::Pooled, Tap::ClassToken(1)])
            .unwrap_err();
        assert!(error.to_string().contains("has no tokens"), "{error}");
        let error = Encoder::pixels(NORMALIZE)
            .taps(images(), &[Tap::Stage(ResNetStage::Res4)])
            .unwrap_err();
        assert!(error.to_string().contains("has no stage `res4`"), "{error}");
        let error = resnet.tap_shape(Tap::PatchMean, [8, 8]).unwrap_err();
        assert!(error.to_string().contains("has no tokens"), "{error}");
    }

    #[test]
    fn places_that_a_network_lacks_are_refused() {
        let device = Device::flex();
        let refused = |encoder: &Encoder, tap| encoder.check_taps("x", &[tap]).unwrap_err().to_string();
        let resnet = Encoder::new("small", "", &backbone(0, &device), NORMALIZE);
        assert!(
            refused(&resnet, Tap::PatchMean).contains("`small` is no vision transformer and has no tokens")
        );
        assert!(resnet.check_resnet("linear-vissl").is_ok());
        let pixels = Encoder::pixels(NORMALIZE);
        assert_eq!(
            refused(&pixels, Tap::Stage(ResNetStage::Res4)),
            "evaluation config: x: `raw pixels` is no ResNet and has no stage `res4`; use `pooled`"
        );
        assert!(
            pixels
                .check_resnet("linear-vissl")
                .unwrap_err()
                .to_string()
                .contains("linear-vissl: `raw pixels` is no ResNet")
        );
    }

    #[test]
    fn pixels_are_the_images_in_a_row() {
        let images =
            Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &Device::flex()).reshape([2, 3, 1, 1]);
        let features = Encoder::pixels(NORMALIZE)
            .forward(images)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert_eq!(features, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}
