//! The numbers of a detector, and their complete profiles.

mod backbone;
mod check;

use backbones::{BackboneConfig, ResNetConfig, Stem, VitConfig};
use data::targets::ResizeRule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parts::{
    AnchorConfig, AnchorOrder, AnchorStrides, BoxCoder, MatcherConfig, Paste, PoolingConfig, SamplerConfig,
};

/// A detector, every number of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RcnnConfig {
    /// Classes of objects, without the background.
    pub classes: usize,
    /// The network below: a ResNet by its keys, or a vision transformer below the key `vit`.
    #[serde(with = "backbone")]
    #[schemars(with = "backbone::Listed")]
    pub backbone: BackboneConfig,
    /// The first parts of the backbone that are not trained: 1 is the stem, 2 also the first stage, up to 5. Both
    /// references freeze 2 of a pretrained network. 0 with a transformer.
    pub frozen_stages: usize,
    /// Batch normalization in the backbone: `"trained"` with a transformer, which has none.
    pub backbone_norm: Norm,
    /// Added to the variance in the backbone's norms: 1e-5. torchvision's COCO weights of its first versions need 0.
    pub backbone_norm_epsilon: f64,
    /// What the network expects of its images.
    pub input: ImageInput,
    /// What lies between the backbone and the heads.
    pub neck: Neck,
    /// Anchors of its levels, a pyramid's extra one included.
    pub anchors: AnchorConfig,
    /// The region proposal network.
    pub proposals: ProposalConfig,
    /// RoIAlign.
    pub pooling: PoolingConfig,
    /// Which channel of the heads is which class.
    pub class_slots: ClassSlots,
    /// The box head.
    pub boxes: BoxHeadConfig,
    /// The stages behind the box head, in order (Cascade R-CNN; Cai and Vasconcelos, 2018): each has layers of its own like
    /// the box head's, and starts from the boxes of the stage before. Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cascade: Vec<CascadeStage>,
    /// The mask head; absent: Faster R-CNN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskHeadConfig>,
}

/// How batch normalization behaves in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// A constant scale and shift: statistics, weights and biases stay as they were loaded.
    Frozen,
    /// Statistics of a replica's images.
    Trained,
    /// Statistics of all replicas' images. Needed from scratch, and for self-supervised networks as MoCo does it.
    Synchronized,
}

/// What a network expects of its images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// Subtracted from values of 0 to 255, in red, green, blue.
    pub mean: [f32; 3],
    /// Divides what is left, in red, green, blue.
    pub std: [f32; 3],
    /// Whether channels come as blue, green, red.
    pub bgr: bool,
    /// Length of the shorter side after resizing at test time, px.
    pub short_side_px: usize,
    /// Most of the longer side after resizing, px.
    pub long_side_px: usize,
    /// How sides become whole numbers and pixels are interpolated.
    pub resize: ResizeRule,
    /// Sides of a batch are padded to a multiple of this, px.
    pub multiple_of_px: usize,
}

/// What lies between the backbone and the heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Neck {
    /// A feature pyramid over the backbone's four stages, or from a transformer's last map alone.
    Pyramid(PyramidConfig),
    /// None: proposals come from the third stage's map, and the fourth stage is the head on regions.
    C4(C4Config),
}

/// A detector without a pyramid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct C4Config {
    /// A batch normalization behind the fourth stage: a self-supervised network's values differ in size from a supervised
    /// one's, and one learning rate then fits both (MoCo's detectors, and so PASS's).
    pub norm: bool,
}

/// The feature pyramid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PyramidConfig {
    /// Channels of its maps: 256.
    pub channels: usize,
    /// Norms behind its convolutions, in place of their biases. Over a ResNet batch normalization: torchvision's second versions.
    /// Over a transformer layer normalization of each position: ViTDet's.
    pub norm: bool,
}

/// The region proposal network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProposalConfig {
    /// 3×3 convolutions before the two outputs: 1, in torchvision's second versions 2.
    pub convolutions: usize,
    /// Box deltas.
    pub coder: BoxCoder,
    /// Which anchors stand for objects.
    pub matcher: MatcherConfig,
    /// Which anchors take part in the losses.
    pub sampler: SamplerConfig,
    /// Proposals of a level before suppression, in training: 2000.
    pub before_nms_training: usize,
    /// The same at test time: 1000.
    pub before_nms: usize,
    /// Proposals of an image, in training: 2000 in torchvision, 1000 in detectron2.
    pub after_nms_training: usize,
    /// The same at test time: 1000.
    pub after_nms: usize,
    /// NMS IoU threshold: 0.7.
    pub nms_iou: f32,
    /// Sides of proposals are at least this, px: 1e-3 in torchvision. 0, detectron2's: any above 0.
    pub smallest_side_px: f32,
    /// Where the box loss turns from a square to a line: 1/9 in torchvision, 0 in detectron2.
    pub box_beta: f64,
    /// Divides both losses: the anchors that were sampled, or those that the sampler may take, of all images.
    pub loss_over_sampled: bool,
}

/// Which channel of a head is which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSlots {
    /// Channel 0 is the background, class `c` is channel `c + 1`, in boxes and masks too: torchvision's.
    BackgroundFirst,
    /// Class `c` is channel `c`, the background is behind the last one, and has no boxes or masks: detectron2's.
    BackgroundLast,
}

impl ClassSlots {
    /// The channel of a class in each head.
    pub fn slot(self, class: usize) -> usize {
        match self {
            Self::BackgroundFirst => class + 1,
            Self::BackgroundLast => class,
        }
    }

    /// The background's channel of the scores.
    pub fn background(self, classes: usize) -> usize {
        match self {
            Self::BackgroundFirst => 0,
            Self::BackgroundLast => classes,
        }
    }

    /// Channels for which boxes and masks are predicted.
    pub fn of_regions(self, classes: usize) -> usize {
        match self {
            Self::BackgroundFirst => classes + 1,
            Self::BackgroundLast => classes,
        }
    }
}

/// The distribution of new weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightRule {
    /// Linear layers as PyTorch has them by default, mask predictors Kaiming-normal.
    Torchvision,
    /// Linear layers of the head uniform on ±√(3 / inputs), class scores N(0, 0.01), boxes and mask predictors
    /// N(0, 0.001), biases 0.
    Detectron2,
}

/// The box head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoxHeadConfig {
    /// Height and width of a region's pooled features: 7.
    pub pooled: usize,
    /// 3×3 convolutions with batch normalization before the linear layer: 0, in torchvision's second versions 4.
    pub convolutions: usize,
    /// Width of the linear layers: 1024. There are two without convolutions, one with; none without a pyramid.
    pub width: usize,
    /// One box for all classes, as in a cascade.
    pub class_agnostic: bool,
    /// Initial weights.
    pub weights: WeightRule,
    /// Box deltas.
    pub coder: BoxCoder,
    /// Which proposals stand for objects.
    pub matcher: MatcherConfig,
    /// Which proposals take part in the losses.
    pub sampler: SamplerConfig,
    /// Where the box loss turns from a square to a line: 1/9 in torchvision, 0 in detectron2.
    pub box_beta: f64,
    /// Scores of detections are above this: 0.05.
    pub score_above: f32,
    /// NMS IoU threshold within a class: 0.5.
    pub nms_iou: f32,
    /// Detections of an image: 100.
    pub per_image: usize,
    /// Sides of detections are at least this, px: 1e-2 in torchvision. 0, detectron2's: any.
    pub smallest_side_px: f32,
}

/// A stage of a cascade behind the first one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CascadeStage {
    /// Box deltas: weights of `[20, 20, 10, 10]`, then `[30, 30, 15, 15]`.
    pub coder: BoxCoder,
    /// Which boxes of the stage before stand for objects: IoU from 0.6, then 0.7.
    pub matcher: MatcherConfig,
}

/// Most stages behind the first one: each has losses of its own names.
pub(super) const MOST_LATER_STAGES: usize = 4;

/// The target of a mask head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskTarget {
    /// The mask pooled by RoIAlign, with all values from 0 to 1: torchvision's.
    Pooled,
    /// The mask pooled with `aligned`, 1 from 0.5 on: detectron2's of masks that are bitmaps.
    Thresholded,
}

/// The mask head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskHeadConfig {
    /// Height and width of a region's pooled features: 14. Masks have twice as many pixels along each side, without a
    /// pyramid as many.
    pub pooled: usize,
    /// Channels of the 3×3 convolutions, one number each: `[256, 256, 256, 256]`; none without a pyramid.
    pub channels: Vec<usize>,
    /// Channels of the last but one layer: 256.
    pub width: usize,
    /// Batch normalization behind them, in place of their biases: torchvision's second versions.
    pub norm: bool,
    /// Initial weights.
    pub weights: WeightRule,
    /// The target.
    pub target: MaskTarget,
    /// How a mask is enlarged to its box.
    pub paste: Paste,
}

/// torchvision's two versions of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `fasterrcnn_resnet50_fpn`, `maskrcnn_resnet50_fpn`.
    V1,
    /// `fasterrcnn_resnet50_fpn_v2`, `maskrcnn_resnet50_fpn_v2`.
    V2,
}

/// Maps of a pyramid: one for each of the backbone's four stages, and the coarsest one's every second position.
const LEVELS: usize = 5;

const SIZES_PX: [f32; LEVELS] = [32.0, 64.0, 128.0, 256.0, 512.0];

fn anchors(rounded: bool, order: AnchorOrder, strides: AnchorStrides) -> AnchorConfig {
    AnchorConfig {
        sizes_px: SIZES_PX.iter().map(|size| vec![*size]).collect(),
        ratios: vec![0.5, 1.0, 2.0],
        rounded,
        order,
        strides,
    }
}

impl RcnnConfig {
    /// torchvision's numbers: `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn` (version 0.29), on any ResNet. Of a
    /// transformer only [`simple_pyramid`](Self::simple_pyramid) makes a valid config.
    pub fn torchvision(
        version: Version,
        backbone: impl Into<BackboneConfig>,
        classes: usize,
        masks: bool,
    ) -> Self {
        let second = version == Version::V2;
        Self {
            classes,
            backbone: backbone.into(),
            frozen_stages: 2,
            backbone_norm: if second { Norm::Trained } else { Norm::Frozen },
            backbone_norm_epsilon: 1e-5,
            input: ImageInput {
                mean: [123.675, 116.28, 103.53],
                std: [58.395, 57.12, 57.375],
                bgr: false,
                short_side_px: 800,
                long_side_px: 1333,
                resize: ResizeRule::Torchvision,
                multiple_of_px: 32,
            },
            neck: Neck::Pyramid(PyramidConfig {
                channels: 256,
                norm: second,
            }),
            anchors: anchors(true, AnchorOrder::RatioOuter, AnchorStrides::FromMap),
            proposals: ProposalConfig {
                convolutions: if second { 2 } else { 1 },
                coder: BoxCoder { weights: [1.0; 4] },
                matcher: MatcherConfig {
                    background_below: 0.3,
                    foreground_from: 0.7,
                    low_quality: true,
                },
                sampler: SamplerConfig {
                    per_image: 256,
                    positive_fraction: 0.5,
                },
                before_nms_training: 2000,
                before_nms: 1000,
                after_nms_training: 2000,
                after_nms: 1000,
                nms_iou: 0.7,
                smallest_side_px: 1e-3,
                box_beta: 1.0 / 9.0,
                loss_over_sampled: true,
            },
            pooling: PoolingConfig {
                sampling_ratio: 2,
                aligned: false,
                canonical_size_px: 224.0,
                canonical_level: 4,
                level_epsilon: 1e-6,
                ratio_epsilon: 0.0,
            },
            class_slots: ClassSlots::BackgroundFirst,
            boxes: BoxHeadConfig {
                pooled: 7,
                convolutions: if second { 4 } else { 0 },
                width: 1024,
                class_agnostic: false,
                weights: WeightRule::Torchvision,
                coder: BoxCoder {
                    weights: [10.0, 10.0, 5.0, 5.0],
                },
                matcher: MatcherConfig {
                    background_below: 0.5,
                    foreground_from: 0.5,
                    low_quality: false,
                },
                sampler: SamplerConfig {
                    per_image: 512,
                    positive_fraction: 0.25,
                },
                box_beta: 1.0 / 9.0,
                score_above: 0.05,
                nms_iou: 0.5,
                per_image: 100,
                smallest_side_px: 1e-2,
            },
            cascade: vec![],
            masks: masks.then(|| MaskHeadConfig {
                pooled: 14,
                channels: vec![256; 4],
                width: 256,
                norm: second,
                weights: WeightRule::Torchvision,
                target: MaskTarget::Pooled,
                paste: Paste::GrownBox,
            }),
        }
    }

    /// detectron2's numbers: its R50-FPN baselines, on any ResNet.
    pub fn detectron2(backbone: impl Into<BackboneConfig>, classes: usize, masks: bool) -> Self {
        let torchvision = Self::torchvision(Version::V1, backbone, classes, masks);
        Self {
            input: ImageInput {
                std: [1.0; 3],
                bgr: true,
                resize: ResizeRule::Detectron2,
                ..torchvision.input
            },
            anchors: anchors(false, AnchorOrder::SizeOuter, AnchorStrides::Nominal),
            proposals: ProposalConfig {
                after_nms_training: 1000,
                smallest_side_px: 0.0,
                box_beta: 0.0,
                loss_over_sampled: false,
                ..torchvision.proposals
            },
            pooling: PoolingConfig {
                sampling_ratio: 0,
                aligned: true,
                level_epsilon: 0.0,
                ratio_epsilon: 1e-8,
                ..torchvision.pooling
            },
            class_slots: ClassSlots::BackgroundLast,
            boxes: BoxHeadConfig {
                weights: WeightRule::Detectron2,
                box_beta: 0.0,
                smallest_side_px: 0.0,
                ..torchvision.boxes
            },
            masks: torchvision.masks.map(|masks| MaskHeadConfig {
                weights: WeightRule::Detectron2,
                target: MaskTarget::Thresholded,
                paste: Paste::PixelCenters,
                ..masks
            }),
            ..torchvision
        }
    }

    /// detectron2's Cascade (Mask) R-CNN R50-FPN, on any ResNet: Cai and Vasconcelos, *Cascade R-CNN*, 2018, with one box
    /// for all classes. IoU thresholds 0.5, 0.6, 0.7; each stage's boxes are learned in finer steps than the one's before.
    pub fn cascade(backbone: impl Into<BackboneConfig>, classes: usize, masks: bool) -> Self {
        let detectron2 = Self::detectron2(backbone, classes, masks);
        let first = &detectron2.boxes;
        let stage = |number: usize, iou: f32| CascadeStage {
            coder: BoxCoder {
                weights: first.coder.weights.map(|weight| weight * number as f32),
            },
            matcher: MatcherConfig {
                background_below: iou,
                foreground_from: iou,
                ..first.matcher
            },
        };
        Self {
            cascade: vec![stage(2, 0.6), stage(3, 0.7)],
            proposals: ProposalConfig {
                after_nms_training: 2000,
                ..detectron2.proposals
            },
            boxes: BoxHeadConfig {
                class_agnostic: true,
                ..detectron2.boxes
            },
            ..detectron2
        }
    }

    /// Coder and matcher of each stage of box heads, the first one's first.
    pub(super) fn box_stages(&self) -> Vec<CascadeStage> {
        let first = CascadeStage {
            coder: self.boxes.coder,
            matcher: self.boxes.matcher,
        };
        std::iter::once(first)
            .chain(self.cascade.iter().copied())
            .collect()
    }

    /// The detectors with which MoCo and, as far as is known, PASS are compared: detectron2's C4 with a norm behind the
    /// fourth stage, all layers trained, statistics of all replicas, and torchvision's input and strides.
    pub fn moco_c4(backbone: impl Into<BackboneConfig>, classes: usize, masks: bool) -> Self {
        let backbone = backbone.into();
        let torchvision = Self::torchvision(Version::V1, backbone.clone(), classes, masks);
        let detectron2 = Self::detectron2(backbone, classes, masks);
        Self {
            frozen_stages: 0,
            backbone_norm: Norm::Synchronized,
            input: ImageInput {
                resize: ResizeRule::Detectron2,
                ..torchvision.input
            },
            neck: Neck::C4(C4Config { norm: true }),
            anchors: AnchorConfig {
                sizes_px: vec![SIZES_PX.to_vec()],
                ..detectron2.anchors
            },
            proposals: ProposalConfig {
                before_nms_training: 12_000,
                before_nms: 6000,
                after_nms_training: 2000,
                ..detectron2.proposals
            },
            boxes: BoxHeadConfig {
                pooled: 14,
                ..detectron2.boxes
            },
            masks: detectron2.masks.map(|masks| MaskHeadConfig {
                channels: vec![],
                ..masks
            }),
            ..detectron2
        }
    }

    /// [`detectron2`](Self::detectron2)'s numbers on a vision transformer and the pyramid of its last map, with two
    /// convolutions before proposals, as ViTDet has them (Li et al., *Exploring plain vision transformer backbones for object
    /// detection*, 2022). Its heads have norms in the paper, and none here; its windows of attention are left out.
    pub fn simple_pyramid(vit: VitConfig, classes: usize, masks: bool) -> Self {
        let multiple_of_px = 2 * vit.patch_px;
        let detectron2 = Self::detectron2(vit, classes, masks);
        Self {
            frozen_stages: 0,
            backbone_norm: Norm::Trained,
            input: ImageInput {
                mean: [123.675, 116.28, 103.53],
                std: [58.395, 57.12, 57.375],
                bgr: false,
                multiple_of_px,
                ..detectron2.input
            },
            neck: Neck::Pyramid(PyramidConfig {
                norm: true,
                channels: 256,
            }),
            proposals: ProposalConfig {
                convolutions: 2,
                ..detectron2.proposals
            },
            ..detectron2
        }
    }

    /// Maps from which proposals come.
    pub fn levels(&self) -> usize {
        match self.neck {
            Neck::Pyramid(_) => LEVELS,
            Neck::C4(_) => 1,
        }
    }

    /// Channels of these maps.
    pub(super) fn map_channels(&self) -> usize {
        match self.neck {
            Neck::Pyramid(pyramid) => pyramid.channels,
            Neck::C4(_) => self.backbone.features() / 2,
        }
    }

    /// Pixels of the image per position of each map, finest first.
    pub(super) fn strides(&self) -> Vec<usize> {
        let finest = match &self.backbone {
            BackboneConfig::Resnet(resnet) => match resnet.stem {
                Stem::Imagenet => 4,
                Stem::Small => 1,
            },
            BackboneConfig::Vit(vit) => vit.patch_px / 4,
        };
        match self.neck {
            Neck::Pyramid(_) => (0..LEVELS).map(|level| finest << level).collect(),
            Neck::C4(_) => vec![finest << 2],
        }
    }

    /// How many of these maps regions are pooled from.
    pub(super) fn pooled_levels(&self) -> usize {
        match self.neck {
            Neck::Pyramid(_) => LEVELS - 1,
            Neck::C4(_) => 1,
        }
    }

    /// The residual network below, if it is one.
    pub fn resnet(&self) -> Option<&ResNetConfig> {
        self.backbone.as_resnet()
    }

    /// Sets where a residual network's bottlenecks stride.
    pub(super) fn stride_in_1x1(&mut self, stride_in_1x1: bool) {
        if let BackboneConfig::Resnet(resnet) = &mut self.backbone {
            resnet.stride_in_1x1 = stride_in_1x1;
        }
    }

    /// Height and width of a mask.
    pub fn mask_side(&self) -> usize {
        let pooled = self.masks.as_ref().map_or(0, |masks| masks.pooled);
        match self.neck {
            Neck::Pyramid(_) => 2 * pooled,
            // Halved by the fourth stage.
            Neck::C4(_) => 2 * pooled.div_ceil(2),
        }
    }
}

/// The backbone of the tests here and in `check`.
#[cfg(test)]
fn resnet50() -> ResNetConfig {
    ResNetConfig {
        depth: 50,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_valid_and_complete_files() {
        for config in [
            RcnnConfig::torchvision(Version::V1, resnet50(), 90, true),
            RcnnConfig::torchvision(Version::V2, resnet50(), 90, false),
            RcnnConfig::detectron2(resnet50(), 80, true),
            RcnnConfig::moco_c4(resnet50(), 20, false),
            RcnnConfig::moco_c4(resnet50(), 80, true),
            RcnnConfig::cascade(resnet50(), 80, true),
            RcnnConfig::simple_pyramid(VitConfig::tiny_for_tests(), 80, true),
        ] {
            assert_eq!(config.validate("network"), Ok(()));
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RcnnConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn the_background_is_first_or_last() {
        let first = ClassSlots::BackgroundFirst;
        assert_eq!(
            (first.slot(0), first.background(3), first.of_regions(3)),
            (1, 0, 4)
        );
        let last = ClassSlots::BackgroundLast;
        assert_eq!((last.slot(0), last.background(3), last.of_regions(3)), (0, 3, 3));
    }
}
