//! Which detector a file holds, from the names and shapes of its tensors; and a detector as a file.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use backbones::vit::{Initialization, Interpolation, Pooling, Position};
use backbones::{BackboneConfig, Init, ResNetConfig, Stem, VitConfig};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use weights::Checkpoint;

use super::config::{ClassSlots, MaskHeadConfig, Neck, Norm, PyramidConfig, RcnnConfig, Version};
use super::network::Rcnn;
use super::state::{ClassLayers, read, state_dict, tensors_of};
use super::trained_on::TrainedOn;
use crate::error::DetectionError;

/// The key of a safetensors file's metadata under which a detector describes itself.
const ABOUT: &str = "passer_detector";

/// Stages behind the first one in detectron2's Cascade R-CNNs.
const KNOWN_LATER_STAGES: usize = 2;

/// A detector in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RcnnFile {
    /// Every number of it.
    pub config: RcnnConfig,
    /// The names of its classes; empty where the file does not state them.
    pub names: Vec<String>,
    /// Where the file is from.
    #[serde(skip)]
    pub origin: FileOrigin,
}

/// The program whose conventions a detector's file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileOrigin {
    /// This one, which states every number.
    #[default]
    Passer,
    /// torchvision: images and strides are its defaults.
    Torchvision,
    /// detectron2.
    Detectron2 {
        /// Whether the file states the statistics of its pixels, by which also the order of channels and the strides
        /// are known. Else they are assumed: blue, green, red, a deviation of 1, strides in the first 1×1 convolutions.
        states_images: bool,
    },
}

impl RcnnFile {
    /// The detector that a file holds. One of this program's files states it in full. In other programs' files it is
    /// torchvision's with the widths, depths and classes of its tensors; its sizes of images and anchors, which
    /// tensors do not show, are torchvision's defaults.
    ///
    /// A file with detectron2's names, a `.pkl` or `.pth`, has detectron2's numbers: those of its model zoo's Faster, Mask and
    /// Cascade R-CNNs on a pyramid, and on the third stage. Its statistics of pixels say the order of channels and the
    /// strides.
    ///
    /// In a file of torchvision's first version whose backbone has frozen norms these have the epsilon 0, as torchvision's COCO
    /// weights need it; networks that began from ImageNet's weights have 1e-5.
    ///
    /// # Errors
    /// [`DetectionError::Layers`] for tensors of another network.
    pub fn of<R: Read + Seek>(checkpoint: &Checkpoint, source: &mut R) -> Result<Self, DetectionError> {
        let file = tensors_of(checkpoint);
        let shapes = file.tensors.iter();
        let shapes = shapes.map(|(name, tensor)| (name.clone(), tensor.shape.clone()));
        let is_detectron2 = file.detectron2.is_some();
        let mut seen = RcnnConfig::of_shapes(&shapes.collect(), file.backbone_counts, is_detectron2)?;
        let Some(about) = checkpoint.metadata.get(ABOUT) else {
            if seen.resnet().is_none() {
                return Err(fault(format!(
                    "its backbone is a vision transformer, and the file has no `{ABOUT}` that states its heads"
                )));
            }
            if !seen.cascade.is_empty() && seen.cascade.len() != KNOWN_LATER_STAGES {
                return Err(fault(format!(
                    "it has {} stages of box heads, and only the numbers of detectron2's {} are known",
                    1 + seen.cascade.len(),
                    1 + KNOWN_LATER_STAGES
                )));
            }
            let origin = match &file.detectron2 {
                Some(extras) => FileOrigin::Detectron2 {
                    states_images: extras.apply(&mut seen, source)?,
                },
                None => FileOrigin::Torchvision,
            };
            return Ok(Self {
                config: seen,
                names: vec![],
                origin,
            });
        };
        let stated: Self =
            serde_json::from_str(about).map_err(|error| fault(format!("its `{ABOUT}`: {error}")))?;
        stated.config.validate("config").map_err(fault)?;
        // Sizes are bounded by the tensors in the file before a network is made.
        if stated.config.clone().with_shapes_of(&seen) != stated.config {
            return Err(fault(format!("its tensors are not those of its `{ABOUT}`")));
        }
        if !stated.names.is_empty() && stated.names.len() != stated.config.classes {
            let (names, classes) = (stated.names.len(), stated.config.classes);
            return Err(fault(format!("it has {names} names of {classes} classes")));
        }
        Ok(stated)
    }

    /// Which keys of a network must have other values to start from this file's weights: those that change what they mean.
    /// torchvision's files state none of them.
    ///
    /// # Errors
    /// The first such key, below `table`, with both values.
    pub fn check_start(&self, network: &RcnnConfig, table: &str) -> Result<(), String> {
        if self.origin == FileOrigin::Torchvision {
            return Ok(());
        }
        let of = |config: &RcnnConfig| {
            [
                ("class_slots", json(&config.class_slots)),
                (
                    "backbone.stride_in_1x1",
                    json(&config.resnet().map(|resnet| resnet.stride_in_1x1)),
                ),
                ("input.bgr", json(&config.input.bgr)),
                ("input.mean", json(&config.input.mean)),
                ("input.std", json(&config.input.std)),
                ("anchors.order", json(&config.anchors.order)),
            ]
        };
        let differs = of(&self.config).into_iter().zip(of(network));
        match differs
            .into_iter()
            .find(|((_, theirs), (_, ours))| theirs != ours)
        {
            Some(((key, theirs), (_, ours))) => Err(format!(
                "`{table}.{key}` must be {theirs}, as in the detector that the run starts from, got {ours}"
            )),
            None => Ok(()),
        }
    }

    /// Whether a file holds a Faster, Cascade or Mask R-CNN, by its names.
    pub fn is_in(checkpoint: &Checkpoint) -> bool {
        let names = tensors_of(checkpoint).tensors;
        names
            .keys()
            .any(|name| name.starts_with("roi_heads.box_predictor."))
    }

    /// The network with the file's weights, on `device`.
    ///
    /// # Errors
    /// As [`read`].
    pub fn network<R: Read + Seek>(
        &self,
        checkpoint: &Checkpoint,
        source: &mut R,
        device: &Device,
    ) -> Result<Rcnn, DetectionError> {
        let network = self.config.init(&Init::empty(device));
        read(network, checkpoint, source, ClassLayers::Read)
    }
}

/// The bytes of a safetensors file with torchvision's names of today, which its model of this network loads with
/// `strict=True`, and from which [`RcnnFile::of`] reads every number again. `names`: of the classes, or none; `trained_on`:
/// the data of its training, which [`TrainedOn::of`] reads.
pub fn to_safetensors(network: &Rcnn, names: &[String], trained_on: &TrainedOn) -> Vec<u8> {
    let file = RcnnFile {
        config: network.config().clone(),
        names: names.to_vec(),
        origin: FileOrigin::Passer,
    };
    // Strings and finite numbers have a JSON form.
    let about = serde_json::to_string(&file).unwrap_or_default();
    let frozen = file.config.backbone_norm == Norm::Frozen;
    // Frozen norms count nothing.
    let batches = |norm: &str| (!(frozen && norm.starts_with("backbone.body."))).then_some(0);
    let about = std::iter::once((ABOUT, about)).chain(trained_on.metadata());
    weights::to_safetensors(state_dict(network), batches, about)
}

/// A value as configs have it.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn fault(reason: String) -> DetectionError {
    DetectionError::Layers {
        network: "Faster, Mask or Cascade R-CNN",
        reason,
    }
}

/// The shapes of a file's tensors by name.
struct Shapes<'a>(&'a BTreeMap<String, Vec<usize>>);

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A size of a tensor that must have `D` of them.
    fn size<const D: usize>(&self, name: &str) -> Result<[usize; D], DetectionError> {
        let shape = self.0.get(name).ok_or_else(|| {
            fault(format!(
                "`{name}` is missing; the backbone must be a ResNet of 18, 34, 50 or 101 layers, and the heads \
                 torchvision's"
            ))
        })?;
        let wrong = |_| fault(format!("`{name}` must have {D} dimensions, got {}", shape.len()));
        <[usize; D]>::try_from(shape.as_slice()).map_err(wrong)
    }

    /// How many tensors of numbered names there are, from 0 without gaps.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.0.len())
            .take_while(|index| self.has(&name(*index)))
            .count()
    }

    fn backbone(&self) -> Result<BackboneConfig, DetectionError> {
        match self.has("backbone.vit.body.cls_token") {
            true => self.vit().map(BackboneConfig::Vit),
            false => self.resnet().map(BackboneConfig::Resnet),
        }
    }

    /// What tensors show of a transformer; the rest is stated by the file.
    fn vit(&self) -> Result<VitConfig, DetectionError> {
        let body = "backbone.vit.body";
        let [width, _, patch_px, _] = self.size(&format!("{body}.patch_embed.proj.weight"))?;
        let [_, places, _] = self.size(&format!("{body}.pos_embed"))?;
        let registers = match self.has(&format!("{body}.reg_token")) {
            true => self.size::<3>(&format!("{body}.reg_token"))?[1],
            false => 0,
        };
        let grid = places.saturating_sub(usize::from(registers == 0)).isqrt();
        Ok(VitConfig {
            width,
            depth: self.count(|index| format!("{body}.blocks.{index}.norm1.weight")),
            heads: 1,
            patch_px,
            image_px: grid.saturating_mul(patch_px),
            position: Position::Learned,
            interpolation: Interpolation::Antialiased,
            registers,
            layer_scale: self.has(&format!("{body}.blocks.0.ls1.gamma")).then_some(1.0),
            drop_path: 0.0,
            pooling: Pooling::ClassToken,
            initialization: Initialization::TruncatedNormal,
            norm_epsilon: None,
        })
    }

    fn resnet(&self) -> Result<ResNetConfig, DetectionError> {
        let [width, _, kernel, _] = self.size("backbone.body.conv1.weight")?;
        let bottleneck = self.has("backbone.body.layer1.0.conv3.weight");
        let blocks = self.count(|index| format!("backbone.body.layer3.{index}.conv1.weight"));
        let depth = match (bottleneck, blocks) {
            (false, 2) => 18,
            (false, 6) => 34,
            (true, 6) => 50,
            (true, 23) => 101,
            _ => {
                return Err(fault(format!(
                    "its backbone must be a ResNet of 18, 34, 50 or 101 layers, got {blocks} blocks in `layer3`"
                )));
            }
        };
        let last = "backbone.body.layer4.0.conv2.weight";
        let shape = self.size::<4>(last)?;
        if shape != [8 * width, 8 * width, 3, 3] {
            return Err(fault(format!(
                "`{last}` must be {:?} behind a stem of {width} channels, got {shape:?}",
                [8 * width, 8 * width, 3, 3]
            )));
        }
        Ok(ResNetConfig {
            depth,
            width,
            stem: if kernel == 3 { Stem::Small } else { Stem::Imagenet },
            zero_init_residual: false,
            stride_in_1x1: false,
        })
    }
}

impl RcnnConfig {
    /// The detector of tensors of these shapes, by today's names. `backbone_counts`: whether its backbone's norms have
    /// counts of batches, which frozen ones lack. `is_detectron2`: whether the file has its names, and so its numbers.
    fn of_shapes(
        shapes: &BTreeMap<String, Vec<usize>>,
        backbone_counts: bool,
        is_detectron2: bool,
    ) -> Result<Self, DetectionError> {
        if shapes.keys().any(|name| name.starts_with("roi_heads.keypoint")) {
            return Err(fault(
                "it is a Keypoint R-CNN, which is not implemented".to_owned(),
            ));
        }
        let shapes = Shapes(shapes);
        let backbone = shapes.backbone()?;
        let [outputs, _] = shapes.size("roi_heads.box_predictor.cls_score.weight")?;
        let [deltas, _] = shapes.size("roi_heads.box_predictor.bbox_pred.weight")?;
        let classes = match outputs {
            0 | 1 => return Err(fault(format!("it scores {outputs} classes, background included"))),
            _ => outputs - 1,
        };
        let has_masks = shapes.has("roi_heads.mask_predictor.conv5_mask.weight");
        let convolutions = shapes.count(|index| format!("rpn.head.conv.{index}.0.weight"));
        let version = match convolutions {
            1 => Version::V1,
            _ => Version::V2,
        };
        let on_vit = backbone.as_resnet().is_none();
        let on_pyramid = on_vit || shapes.0.keys().any(|name| name.starts_with("backbone.fpn."));
        let later = |index: usize| format!("roi_heads.cascade.{index}.box_predictor.cls_score.weight");
        let later = shapes.count(later);
        let mut config = match (on_pyramid, is_detectron2) {
            (true, _) if later > 0 => Self::cascade(backbone, classes, has_masks),
            (true, false) => Self::torchvision(version, backbone, classes, has_masks),
            (true, true) => Self::detectron2(backbone, classes, has_masks),
            (false, _) => Self::moco_c4(backbone, classes, has_masks),
        };
        if let Some(last) = config.cascade.last().copied() {
            // Others than three stages are those of a file that states their numbers.
            config.cascade.resize(later, last);
        }
        if let BackboneConfig::Vit(vit) = &config.backbone {
            config.frozen_stages = 0;
            config.input.multiple_of_px = vit.patch_px.saturating_mul(2);
        }
        config.proposals.convolutions = convolutions;
        config.boxes.class_agnostic = deltas == 4;
        if deltas == 4 * classes {
            config.class_slots = ClassSlots::BackgroundLast;
        }
        match &mut config.neck {
            Neck::Pyramid(pyramid) => {
                let (layer, norm) = match on_vit {
                    true => (
                        "backbone.vit.pyramid.levels.0.layer.weight",
                        "backbone.vit.pyramid.levels.0.inner_norm.weight",
                    ),
                    false => (
                        "backbone.fpn.layer_blocks.0.0.weight",
                        "backbone.fpn.inner_blocks.0.1.weight",
                    ),
                };
                let [channels, inputs, height, width] = shapes.size(layer)?;
                if [inputs, height, width] != [channels, 3, 3] {
                    return Err(fault("its pyramid is not torchvision's".to_owned()));
                }
                *pyramid = PyramidConfig {
                    channels,
                    norm: shapes.has(norm),
                };
                let of_head = |index: usize| format!("roi_heads.box_head.{index}.0.weight");
                config.boxes.convolutions = shapes.count(of_head);
                let linear = match config.boxes.convolutions {
                    0 => "roi_heads.box_head.fc6.weight".to_owned(),
                    count => format!("roi_heads.box_head.{}.weight", count + 1),
                };
                let [width, inputs] = shapes.size(&linear)?;
                config.boxes.width = width;
                config.boxes.pooled = (inputs / channels.max(1)).isqrt();
            }
            Neck::C4(c4) => c4.norm = shapes.has("roi_heads.box_head.norm.weight"),
        }
        if let Some(masks) = &mut config.masks {
            let [_, width, _, _] = shapes.size("roi_heads.mask_predictor.conv5_mask.weight")?;
            let of_head = |index: usize| format!("roi_heads.mask_head.{index}.0.weight");
            let channels = (0..shapes.count(of_head)).map(|index| shapes.size::<4>(&of_head(index)));
            *masks = MaskHeadConfig {
                channels: channels
                    .map(|shape| shape.map(|[channels, ..]| channels))
                    .collect::<Result<_, _>>()?,
                width,
                norm: shapes.has("roi_heads.mask_head.0.1.weight"),
                ..masks.clone()
            };
        }
        config.backbone_norm = match backbone_counts || on_vit {
            true => Norm::Trained,
            false => Norm::Frozen,
        };
        if on_pyramid && !on_vit && version == Version::V1 && !backbone_counts && !is_detectron2 && later == 0
        {
            config.backbone_norm_epsilon = 0.0;
        }
        config.validate("config").map_err(fault)?;
        Ok(config)
    }

    /// These numbers with all that the shapes of tensors determine from `seen`.
    fn with_shapes_of(mut self, seen: &Self) -> Self {
        self.classes = seen.classes;
        self.backbone = match (self.backbone, &seen.backbone) {
            (BackboneConfig::Resnet(stated), BackboneConfig::Resnet(seen)) => {
                BackboneConfig::Resnet(ResNetConfig {
                    zero_init_residual: stated.zero_init_residual,
                    stride_in_1x1: stated.stride_in_1x1,
                    ..seen.clone()
                })
            }
            (BackboneConfig::Vit(stated), BackboneConfig::Vit(seen)) => BackboneConfig::Vit(VitConfig {
                width: seen.width,
                depth: seen.depth,
                patch_px: seen.patch_px,
                image_px: seen.image_px,
                registers: seen.registers,
                layer_scale: seen.layer_scale.map(|seen| stated.layer_scale.unwrap_or(seen)),
                ..stated
            }),
            (_, seen) => seen.clone(),
        };
        self.neck = seen.neck;
        self.proposals.convolutions = seen.proposals.convolutions;
        self.boxes.class_agnostic = seen.boxes.class_agnostic;
        if self.cascade.len() != seen.cascade.len() {
            self.cascade = seen.cascade.clone();
        }
        self.boxes.convolutions = seen.boxes.convolutions;
        if matches!(seen.neck, Neck::Pyramid(_)) {
            (self.boxes.width, self.boxes.pooled) = (seen.boxes.width, seen.boxes.pooled);
        }
        self.masks = match (self.masks, &seen.masks) {
            (Some(stated), Some(seen)) => Some(MaskHeadConfig {
                channels: seen.channels.clone(),
                width: seen.width,
                norm: seen.norm,
                ..stated
            }),
            (_, seen) => seen.clone(),
        };
        self
    }

    /// Why torchvision has no such network, though a model of its may have the same tensors; `None` if it has.
    pub fn not_of_torchvision(&self) -> Option<&'static str> {
        let reasons = [
            (
                !self.cascade.is_empty(),
                "it has one stage of box heads, and this network several",
            ),
            (
                matches!(self.neck, Neck::C4(_)),
                "its detectors have a pyramid, and this network none",
            ),
            (
                self.class_slots == ClassSlots::BackgroundLast,
                "its first channel is the background, and this network's last one",
            ),
            (
                self.boxes.class_agnostic,
                "it has a box for each class, and this network one for all",
            ),
            (
                self.resnet().is_none(),
                "its backbone is a ResNet, and this network's a vision transformer",
            ),
            (
                self.resnet().is_some_and(|resnet| resnet.stride_in_1x1),
                "its bottlenecks stride in the 3×3 convolution, and this network's in the first 1×1 one",
            ),
            (
                self.input.bgr,
                "its images are red, green, blue, and this network's blue, green, red",
            ),
        ];
        reasons.into_iter().find_map(|(is, reason)| is.then_some(reason))
    }

    /// What it is, by the name that torchvision's networks of its kind have:
    /// ``Mask R-CNN (`maskrcnn_resnet50_fpn_v2`, 90 classes)``.
    pub fn describe(&self) -> String {
        let (kind, short) = match (self.cascade.is_empty(), &self.masks) {
            (true, Some(_)) => ("Mask R-CNN", "maskrcnn"),
            (true, None) => ("Faster R-CNN", "fasterrcnn"),
            (false, Some(_)) => ("Cascade Mask R-CNN", "cascade_maskrcnn"),
            (false, None) => ("Cascade R-CNN", "cascade_rcnn"),
        };
        let neck = match self.neck {
            Neck::Pyramid(_) if self.proposals.convolutions > 1 => "fpn_v2",
            Neck::Pyramid(_) => "fpn",
            Neck::C4(_) => "c4",
        };
        let backbone = self.backbone.name();
        let classes = match self.classes {
            1 => "1 class".to_owned(),
            classes => format!("{classes} classes"),
        };
        format!("{kind} (`{short}_{backbone}_{neck}`, {classes})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn config(depth: u32, version: Version, masks: bool) -> RcnnConfig {
        let backbone = ResNetConfig {
            depth,
            width: 4,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: false,
        };
        let mut config = RcnnConfig::torchvision(version, backbone, 5, masks);
        config.boxes.width = 8;
        config
    }

    fn opened(bytes: &[u8]) -> (Cursor<Vec<u8>>, Checkpoint) {
        let mut source = Cursor::new(bytes.to_vec());
        let checkpoint = Checkpoint::open(&mut source).unwrap();
        (source, checkpoint)
    }

    #[test]
    fn a_written_detector_is_read_again_with_every_number() {
        let device = Device::flex();
        let mut odd = RcnnConfig::detectron2(config(18, Version::V1, true).backbone, 5, true);
        odd.boxes.width = 8;
        odd.input.short_side_px = 320;
        let mut c4 = RcnnConfig::moco_c4(config(18, Version::V1, false).backbone, 5, true);
        c4.boxes.nms_iou = 0.4;
        let backbone = ResNetConfig {
            stride_in_1x1: true,
            ..config(50, Version::V1, false).resnet().unwrap().clone()
        };
        let mut cascade = RcnnConfig::cascade(backbone, 5, true);
        cascade.boxes.width = 8;
        let mut longer = cascade.clone();
        longer.cascade.push(longer.cascade[0]);
        let vit = VitConfig {
            registers: 2,
            layer_scale: Some(1e-5),
            norm_epsilon: Some(1e-12),
            drop_path: 0.1,
            ..VitConfig::tiny_for_tests()
        };
        let mut simple = RcnnConfig::simple_pyramid(vit, 5, true);
        simple.boxes.width = 8;
        let mut without_norms = RcnnConfig::simple_pyramid(VitConfig::tiny_for_tests(), 5, false);
        without_norms.neck = Neck::Pyramid(PyramidConfig {
            channels: 12,
            norm: false,
        });
        let others = [cascade, longer, simple, without_norms];
        for config in [odd, c4, config(50, Version::V2, false)]
            .into_iter()
            .chain(others)
        {
            let network = config.init(&Init::new(3, &device));
            let names: Vec<String> = (0..5).map(|class| format!("class {class}")).collect();
            let (mut source, checkpoint) = opened(&to_safetensors(&network, &names, &TrainedOn::default()));
            let file = RcnnFile::of(&checkpoint, &mut source).unwrap();
            assert_eq!((&file.config, &file.names), (&config, &names));
            let again = file.network(&checkpoint, &mut source, &device).unwrap();
            assert_eq!(state_dict(&again), state_dict(&network));
        }
    }

    #[test]
    fn torchvisions_networks_are_known_by_their_tensors() {
        let device = Device::flex();
        for depth in [18, 34, 50, 101] {
            for (version, masks) in [(Version::V1, false), (Version::V1, true), (Version::V2, true)] {
                let mut expected = config(depth, version, masks);
                expected.backbone_norm = Norm::Frozen;
                if version == Version::V1 {
                    expected.backbone_norm_epsilon = 0.0;
                }
                let network = expected.init(&Init::empty(&device));
                let state = state_dict(&network).into_iter();
                let shapes = state.map(|(name, data)| (name, data.shape().to_vec())).collect();
                assert_eq!(RcnnConfig::of_shapes(&shapes, false, false).unwrap(), expected);
                let trained = RcnnConfig::of_shapes(&shapes, true, false).unwrap();
                assert_eq!(
                    (trained.backbone_norm, trained.backbone_norm_epsilon),
                    (Norm::Trained, 1e-5)
                );
            }
        }
        let name = config(50, Version::V2, true).describe();
        assert_eq!(name, "Mask R-CNN (`maskrcnn_resnet50-w4_fpn_v2`, 5 classes)");
    }

    #[test]
    fn other_networks_are_named() {
        let network = config(18, Version::V1, true).init(&Init::empty(&Device::flex()));
        let state = state_dict(&network).into_iter();
        type Named = BTreeMap<String, Vec<usize>>;
        let shapes: Named = state.map(|(name, data)| (name, data.shape().to_vec())).collect();
        let error = |change: &dyn Fn(&mut Named)| {
            let mut shapes = shapes.clone();
            change(&mut shapes);
            RcnnConfig::of_shapes(&shapes, true, false)
                .unwrap_err()
                .to_string()
        };
        let missing = error(&|shapes| {
            shapes.remove("backbone.body.conv1.weight");
        });
        assert!(
            missing.starts_with(
                "the weights are not those of Faster, Mask or Cascade R-CNN: `backbone.body.conv1.weight` is missing"
            ),
            "{missing}"
        );
        let wide = error(&|shapes| {
            shapes.insert("backbone.body.conv1.weight".to_owned(), vec![1 << 40, 3, 7, 7]);
        });
        assert!(
            wide.contains("`backbone.body.layer4.0.conv2.weight` must be"),
            "{wide}"
        );
        let keypoints = error(&|shapes| {
            shapes.insert("roi_heads.keypoint_head.0.weight".to_owned(), vec![1]);
        });
        assert!(keypoints.ends_with("it is a Keypoint R-CNN, which is not implemented"));
    }

    #[test]
    fn a_file_that_states_other_sizes_than_its_tensors_is_refused() {
        let config = config(18, Version::V1, false);
        let network = config.init(&Init::empty(&Device::flex()));
        let (mut source, mut checkpoint) = opened(&to_safetensors(&network, &[], &TrainedOn::default()));
        let mut refused = |change: &dyn Fn(&mut RcnnFile)| {
            let mut file = RcnnFile {
                config: config.clone(),
                names: vec![],
                origin: FileOrigin::Passer,
            };
            change(&mut file);
            let about = serde_json::to_string(&file).unwrap();
            checkpoint.metadata.insert(ABOUT.to_owned(), about);
            RcnnFile::of(&checkpoint, &mut source).unwrap_err().to_string()
        };
        let error = refused(&|file| file.config.boxes.width = 1 << 40);
        assert!(
            error.ends_with("its tensors are not those of its `passer_detector`"),
            "{error}"
        );
        let error = refused(&|file| file.names = vec!["one".to_owned()]);
        assert!(error.ends_with("it has 1 names of 5 classes"), "{error}");
    }
}
