//! detectron2's names of a detector's tensors in, today's names of torchvision out; and what such a file says about its images and
//! anchors.
//!
//! Names: detectron2's modules `modeling/backbone`, `proposal_generator` and `roi_heads`, as its model zoo stores them.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use weights::format::{Dtype, TensorInfo};

use super::config::RcnnConfig;
use crate::error::DetectionError;

/// Most that an edge of an anchor in a file may differ, px; files of 16 bits round it as well.
const ANCHOR_TOLERANCE_PX: f64 = 1e-2;

/// Most that a number may change when it is stored as this type, as a part of itself.
fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 1.0 / 2048.0,
        Dtype::Bf16 => 1.0 / 256.0,
        _ => 0.0,
    }
}

/// What a file of detectron2's holds besides weights.
#[derive(Default)]
pub(super) struct Extras<'a> {
    /// Mean and deviation of pixels, in the order of the network's channels.
    statistics: [Option<&'a TensorInfo>; 2],
    /// The anchors of a position of each level.
    anchors: BTreeMap<usize, &'a TensorInfo>,
}

/// Whether these names are detectron2's.
pub(super) fn are_its<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name.starts_with("proposal_generator."))
}

impl<'a> Extras<'a> {
    /// Takes a tensor that is no weight; whether it is none.
    pub(super) fn take(&mut self, name: &str, tensor: &'a TensorInfo) -> bool {
        if let Some(level) = name.strip_prefix("proposal_generator.anchor_generator.cell_anchors.") {
            if let Ok(level) = level.parse() {
                self.anchors.insert(level, tensor);
            }
            return true;
        }
        let place = match name {
            "pixel_mean" => 0,
            "pixel_std" => 1,
            _ => return false,
        };
        self.statistics[place] = Some(tensor);
        true
    }

    /// Sets the images' statistics and the order of their channels, and where the bottlenecks stride. A file without
    /// statistics, as those of newer versions are, has detectron2's defaults: blue, green, red, a deviation of 1, and
    /// MSRA's strides. Returns whether the file states them.
    ///
    /// Strides show in no tensor. They follow from the deviations: networks from Caffe were trained with 1, those
    /// from PyTorch's files, which stride in the 3×3 convolution, with ImageNet's.
    ///
    /// # Errors
    /// Statistics or anchors that are no such numbers, and anchors other than detectron2's.
    pub(super) fn apply<R: Read + Seek>(
        &self,
        config: &mut RcnnConfig,
        source: &mut R,
    ) -> Result<bool, DetectionError> {
        for (level, tensor) in &self.anchors {
            if *level >= config.levels() {
                return Err(fault(format!(
                    "it has anchors of a level {level}, and its network {} levels",
                    config.levels()
                )));
            }
            let ours = config.anchors.of_a_position(*level);
            let theirs = numbers(tensor, source)?;
            let same = theirs.len() == 4 * ours.len()
                && ours
                    .iter()
                    .flat_map(|bounds| bounds.edges())
                    .zip(&theirs)
                    .all(|(ours, theirs)| {
                        let ours = f64::from(ours);
                        let allowed = ANCHOR_TOLERANCE_PX + ours.abs() * rounding(tensor.dtype);
                        (ours - theirs).abs() < allowed
                    });
            if !same {
                let shown: Vec<f64> = theirs.iter().take(4).map(|edge| edge.round()).collect();
                let ours = ours.iter().take(1).flat_map(|bounds| bounds.edges());
                let expected: Vec<f32> = ours.map(f32::round).collect();
                return Err(fault(format!(
                    "its anchors of level {level} begin with {shown:?}, and detectron2's with {expected:?}"
                )));
            }
        }
        let has_bottlenecks = config.resnet().is_some_and(|resnet| resnet.depth >= 50);
        config.input.bgr = true;
        config.input.std = [1.0; 3];
        config.stride_in_1x1(has_bottlenecks);
        let [Some(mean), Some(std)] = self.statistics else {
            return Ok(false);
        };
        let three = |what: &str, values: Vec<f64>, least: f64| match values.as_slice() {
            [a, b, c] if values.iter().all(|value| (least..=255.0).contains(value)) => Ok([*a, *b, *c]),
            _ => Err(fault(format!(
                "its `{what}` must be 3 numbers from {least} to 255, got {:?}",
                &values[..values.len().min(8)]
            ))),
        };
        let mean = three("pixel_mean", numbers(mean, source)?, 0.0)?;
        let std = three("pixel_std", numbers(std, source)?, f64::from(f32::MIN_POSITIVE))?;
        // Blue has the smallest mean of ImageNet's three.
        let bgr = mean[0] <= mean[2];
        let in_our_order = |[a, b, c]: [f64; 3]| {
            let ordered = if bgr { [c, b, a] } else { [a, b, c] };
            ordered.map(|value| value as f32)
        };
        config.input.bgr = bgr;
        (config.input.mean, config.input.std) = (in_our_order(mean), in_our_order(std));
        config.stride_in_1x1(has_bottlenecks && std == [1.0; 3]);
        Ok(true)
    }
}

fn numbers<R: Read + Seek>(tensor: &TensorInfo, source: &mut R) -> Result<Vec<f64>, DetectionError> {
    const MOST: u64 = 1 << 10;
    if !tensor.dtype.is_weight() || tensor.elements() > MOST {
        return Err(fault(format!(
            "its statistics and anchors must be at most {MOST} floats each, got {} {}",
            tensor.elements(),
            tensor.dtype.name()
        )));
    }
    Ok(tensor.read(source)?.iter::<f64>().collect())
}

fn fault(reason: String) -> DetectionError {
    DetectionError::Layers {
        network: "a detector of detectron2",
        reason,
    }
}

/// 3×3 convolutions of the box head, from detectron2's names.
pub(super) fn head_convolutions<'a>(names: impl Iterator<Item = &'a str> + Clone) -> usize {
    let has = |number: usize| {
        let of_first = [
            format!("roi_heads.box_head.conv{number}.weight"),
            format!("roi_heads.box_head.0.conv{number}.weight"),
        ];
        names.clone().any(|name| of_first.iter().any(|own| own == name))
    };
    (1..).take_while(|number| has(*number)).count()
}

/// The name of today of a tensor with one of detectron2's; other names stay. `convolutions`: of the box head.
pub(super) fn renamed(name: &str, convolutions: usize) -> String {
    let found = match name.split_once('.') {
        Some(("backbone", rest)) => {
            let rest = rest.strip_prefix("bottom_up.").unwrap_or(rest);
            pyramid(rest).or_else(|| body(rest))
        }
        Some(("proposal_generator", rest)) => proposals(rest),
        Some(("roi_heads", rest)) => heads(rest, convolutions),
        _ => None,
    };
    found.unwrap_or_else(|| name.to_owned())
}

/// `fpn_lateral2.weight`, `fpn_output5.norm.bias`.
fn pyramid(rest: &str) -> Option<String> {
    let (blocks, rest) = match rest.strip_prefix("fpn_lateral") {
        Some(rest) => ("inner_blocks", rest),
        None => ("layer_blocks", rest.strip_prefix("fpn_output")?),
    };
    let (level, rest) = rest.split_once('.')?;
    let index = level.parse::<usize>().ok()?.checked_sub(2)?;
    let of_block = part(rest, "0", "1");
    Some(format!("backbone.fpn.{blocks}.{index}.{of_block}"))
}

/// `weight` of a convolution `name`, `norm.weight` of the norm behind it.
fn part(rest: &str, convolution: &str, norm: &str) -> String {
    match rest.strip_prefix("norm.") {
        Some(of_norm) => format!("{norm}.{of_norm}"),
        None => format!("{convolution}.{rest}"),
    }
}

/// `stem.conv1.weight`, `res4.0.shortcut.norm.bias`.
fn body(rest: &str) -> Option<String> {
    if let Some(rest) = rest.strip_prefix("stem.conv1.") {
        return Some(format!("backbone.body.{}", part(rest, "conv1", "bn1")));
    }
    let (stage, rest) = rest.strip_prefix("res")?.split_once('.')?;
    let stage = stage.parse::<usize>().ok()?.checked_sub(1)?;
    let (block, rest) = rest.split_once('.')?;
    block.parse::<usize>().ok()?;
    let (layer, rest) = rest.split_once('.')?;
    let of_layer = match layer.strip_prefix("conv") {
        Some(number) => part(rest, layer, &format!("bn{number}")),
        None if layer == "shortcut" => part(rest, "downsample.0", "downsample.1"),
        None => return None,
    };
    Some(format!("backbone.body.layer{stage}.{block}.{of_layer}"))
}

fn proposals(rest: &str) -> Option<String> {
    let (layer, rest) = rest.strip_prefix("rpn_head.")?.split_once('.')?;
    match layer {
        "objectness_logits" => Some(format!("rpn.head.cls_logits.{rest}")),
        "anchor_deltas" => Some(format!("rpn.head.bbox_pred.{rest}")),
        // One convolution, or several by number.
        "conv" => Some(
            match rest.strip_prefix("conv").and_then(|rest| rest.split_once('.')) {
                Some((number, rest)) => format!("rpn.head.conv.{number}.0.{rest}"),
                None => format!("rpn.head.conv.0.0.{rest}"),
            },
        ),
        _ => None,
    }
}

fn heads(rest: &str, convolutions: usize) -> Option<String> {
    let (head, rest) = rest.split_once('.')?;
    match head {
        "res5" => match rest.strip_prefix("norm.") {
            Some(rest) => Some(format!("roi_heads.box_head.norm.{rest}")),
            None => body(&format!("res5.{rest}")),
        },
        "box_head" | "box_predictor" => {
            let numbered = rest.split_once('.');
            let numbered = numbered.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
            let (stage, rest) = numbered.unwrap_or((0, rest));
            let at = match stage.checked_sub(1) {
                None => format!("roi_heads.{head}"),
                Some(later) => format!("roi_heads.cascade.{later}.{head}"),
            };
            if head == "box_predictor" {
                return Some(format!("{at}.{rest}"));
            }
            let (layer, rest) = rest.split_once('.')?;
            let is_first = stage == 0;
            Some(
                match layer
                    .strip_prefix("conv")
                    .and_then(|number| number.parse::<usize>().ok())
                {
                    Some(number) => {
                        let convs = if is_first { "" } else { "convs." };
                        format!("{at}.{convs}{}.{}", number.checked_sub(1)?, part(rest, "0", "1"))
                    }
                    None => match (layer, convolutions) {
                        ("fc1", 0) => format!("{at}.fc6.{rest}"),
                        ("fc2", 0) => format!("{at}.fc7.{rest}"),
                        ("fc1", count) if is_first => format!("{at}.{}.{rest}", count + 1),
                        ("fc1", _) => format!("{at}.fc.{rest}"),
                        _ => return None,
                    },
                },
            )
        }
        "mask_head" => {
            let (layer, rest) = rest.split_once('.')?;
            match layer {
                "deconv" => Some(format!("roi_heads.mask_predictor.conv5_mask.{rest}")),
                "predictor" => Some(format!("roi_heads.mask_predictor.mask_fcn_logits.{rest}")),
                _ => {
                    let number = layer.strip_prefix("mask_fcn")?.parse::<usize>().ok()?;
                    let index = number.checked_sub(1)?;
                    Some(format!("roi_heads.mask_head.{index}.{}", part(rest, "0", "1")))
                }
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Cursor;

    use crate::parts::parity::u;
    use crate::rcnn::parity::value;
    use crate::rcnn::{FileOrigin, RcnnDetector, RcnnFile, state_dict};
    use crate::{Detector, Photo};
    use burn::tensor::Device;
    use serde::Deserialize;
    use weights::Checkpoint;

    /// The file of `scripts/parity/cascade.py`.
    const FILE: &[u8] = include_bytes!("../../fixtures/detectron2_cascade.pkl");

    fn opened(bytes: &[u8]) -> (Cursor<Vec<u8>>, Checkpoint) {
        let mut source = Cursor::new(bytes.to_vec());
        let checkpoint = Checkpoint::open(&mut source).unwrap();
        (source, checkpoint)
    }

    fn of(bytes: &[u8]) -> Result<RcnnFile, String> {
        let (mut source, checkpoint) = opened(bytes);
        RcnnFile::of(&checkpoint, &mut source).map_err(|error| error.to_string())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The file with one run of bytes in place of another.
    fn changed(from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = FILE
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        [&FILE[..at], to, &FILE[at + from.len()..]].concat()
    }

    const MEAN: [f32; 3] = [103.53, 116.28, 123.675];

    #[test]
    fn a_pickle_of_detectron2_is_its_cascade() {
        let file = of(FILE).unwrap();
        assert_eq!(file.origin, FileOrigin::Detectron2 { states_images: true });
        let backbone = backbones::ResNetConfig {
            depth: 50,
            width: 1,
            stem: backbones::Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: true,
        };
        let mut expected = RcnnConfig::cascade(backbone, 3, true);
        expected.neck = crate::rcnn::Neck::Pyramid(crate::rcnn::PyramidConfig {
            channels: 6,
            norm: false,
        });
        expected.boxes.width = 8;
        let masks = expected.masks.as_mut().unwrap();
        (masks.channels, masks.width) = (vec![6; 4], 6);
        assert_eq!(file.config, expected);
        assert_eq!(
            file.config.describe(),
            "Cascade Mask R-CNN (`cascade_maskrcnn_resnet50-w1-caffe_fpn`, 3 classes)"
        );
        let (mut source, checkpoint) = opened(FILE);
        let network = file.network(&checkpoint, &mut source, &Device::flex()).unwrap();
        for (name, data) in state_dict(&network) {
            let mut expected = value(&name, &data.shape().to_vec(), "bn3.weight");
            if name == "backbone.body.conv1.weight" {
                // So that pixels which no deviation divides fit.
                expected.iter_mut().for_each(|value| *value /= 64.0);
            }
            assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[derive(Deserialize)]
    struct Found {
        /// Class, score, edges.
        detections: Vec<[f64; 6]>,
    }

    #[test]
    fn a_photo_is_prepared_and_seen_as_the_script_does_it() {
        let found: Found =
            serde_json::from_str(include_str!("../../fixtures/detectron2_cascade.json")).unwrap();
        let mut file = of(FILE).unwrap();
        // The script's.
        (file.config.input.short_side_px, file.config.input.long_side_px) = (96, 128);
        (file.config.proposals.before_nms, file.config.proposals.after_nms) = (30, 40);
        let (mut source, checkpoint) = opened(FILE);
        let device = Device::flex();
        let network = file.network(&checkpoint, &mut source, &device).unwrap();
        let detector = RcnnDetector::new(network, None, 1, &device).unwrap();
        let pixels: Vec<u8> = u("photo.0", 48 * 64 * 3)
            .into_iter()
            .map(|value| (128.0 + 127.0 * value).floor() as u8)
            .collect();
        let photo = Photo {
            width: 64,
            height: 48,
            pixels: &pixels,
        };
        let ours = detector.detect(&[photo]).unwrap().remove(0);
        assert_eq!(ours.len(), found.detections.len());
        for (ours, [class, score, edges @ ..]) in ours.iter().zip(&found.detections) {
            assert_eq!(ours.class, *class as usize);
            assert!((f64::from(ours.score) - score).abs() < 1e-4);
            for (ours, theirs) in ours.bounds.edges().iter().zip(edges) {
                assert!((f64::from(*ours) - theirs).abs() < 1e-2, "{ours} {theirs}");
            }
            assert_eq!(ours.mask.as_ref().map(|mask| mask.side), Some(28));
        }
    }

    #[test]
    fn statistics_say_the_order_of_channels_and_the_strides() {
        let reversed = [MEAN[2], MEAN[1], MEAN[0]];
        let rgb = of(&changed(&floats(&MEAN), &floats(&reversed))).unwrap().config;
        assert!(!rgb.input.bgr && rgb.resnet().unwrap().stride_in_1x1);
        assert_eq!(rgb.input.mean, reversed);
        // ImageNet's deviations: a network from PyTorch's files.
        let std = [57.375, 57.12, 58.395];
        let (mut bytes, ones) = (FILE.to_vec(), floats(&[1.0; 3]));
        let at = bytes.windows(12).position(|window| window == ones).unwrap();
        bytes[at..at + 12].copy_from_slice(&floats(&std));
        let torch = of(&bytes).unwrap().config;
        assert!(torch.input.bgr && !torch.resnet().unwrap().stride_in_1x1);
        assert_eq!(
            (torch.input.mean, torch.input.std),
            (reversed, [58.395, 57.12, 57.375])
        );
        // Newer files have none.
        let without = of(&changed(b"pixel_mean", b"pixel_mode")).unwrap();
        assert_eq!(without.origin, FileOrigin::Detectron2 { states_images: false });
        assert_eq!(
            (without.config.input.bgr, without.config.input.std),
            (true, [1.0; 3])
        );
        assert!(without.config.resnet().unwrap().stride_in_1x1);
        let wrong = of(&changed(&floats(&MEAN), &floats(&[f32::NAN, 1.0, 1.0]))).unwrap_err();
        assert!(
            wrong.contains("its `pixel_mean` must be 3 numbers from 0 to 255"),
            "{wrong}"
        );
        let anchor = [-22.627417f32];
        let wrong = of(&changed(&floats(&anchor), &floats(&[-24.0]))).unwrap_err();
        assert!(
            wrong.contains("its anchors of level 0 begin with [-24.0, -11.0, 23.0, 11.0], and detectron2's with [-23.0, -11.0, 23.0, 11.0]"),
            "{wrong}"
        );
    }

    #[test]
    fn anchors_of_16_bits_are_rounded() {
        // The largest of detectron2's, 724.08 px, is 724.0 as f16 and 724 or 728 as bf16.
        for (dtype, allowed) in [(Dtype::F32, 0.0), (Dtype::F16, 0.36), (Dtype::Bf16, 2.9)] {
            assert!((724.08 * rounding(dtype) - allowed).abs() < 0.1, "{dtype:?}");
        }
    }

    #[test]
    fn names_that_import_something_else_are_refused() {
        let hostile = changed(b"_reconstruct", b"set_string_f");
        let error = Checkpoint::open(&mut Cursor::new(hostile))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "its pickle asks for `numpy._core.multiarray.set_string_f`, which weights do not need: refused, and nothing of it was run"
        );
        let cut = &FILE[..FILE.len() / 2];
        let error = Checkpoint::open(&mut Cursor::new(cut)).unwrap_err().to_string();
        assert!(error.contains("the pickle ends early"), "{error}");
    }

    #[test]
    fn each_name_has_its_counterpart() {
        for (theirs, convolutions, ours) in [
            (
                "backbone.bottom_up.stem.conv1.weight",
                0,
                "backbone.body.conv1.weight",
            ),
            (
                "backbone.stem.conv1.norm.running_var",
                0,
                "backbone.body.bn1.running_var",
            ),
            (
                "backbone.bottom_up.res2.0.shortcut.weight",
                0,
                "backbone.body.layer1.0.downsample.0.weight",
            ),
            (
                "backbone.bottom_up.res5.2.conv3.norm.bias",
                0,
                "backbone.body.layer4.2.bn3.bias",
            ),
            (
                "roi_heads.res5.0.shortcut.norm.weight",
                0,
                "backbone.body.layer4.0.downsample.1.weight",
            ),
            ("roi_heads.res5.norm.weight", 0, "roi_heads.box_head.norm.weight"),
            (
                "backbone.fpn_lateral2.bias",
                0,
                "backbone.fpn.inner_blocks.0.0.bias",
            ),
            (
                "backbone.fpn_output5.norm.weight",
                0,
                "backbone.fpn.layer_blocks.3.1.weight",
            ),
            (
                "proposal_generator.rpn_head.conv.weight",
                0,
                "rpn.head.conv.0.0.weight",
            ),
            (
                "proposal_generator.rpn_head.conv.conv1.bias",
                0,
                "rpn.head.conv.1.0.bias",
            ),
            (
                "proposal_generator.rpn_head.anchor_deltas.bias",
                0,
                "rpn.head.bbox_pred.bias",
            ),
            ("roi_heads.box_head.fc2.bias", 0, "roi_heads.box_head.fc7.bias"),
            ("roi_heads.box_head.0.fc1.bias", 0, "roi_heads.box_head.fc6.bias"),
            (
                "roi_heads.box_head.2.fc1.weight",
                0,
                "roi_heads.cascade.1.box_head.fc6.weight",
            ),
            (
                "roi_heads.box_head.conv4.weight",
                4,
                "roi_heads.box_head.3.0.weight",
            ),
            ("roi_heads.box_head.fc1.weight", 4, "roi_heads.box_head.5.weight"),
            (
                "roi_heads.box_head.1.conv1.norm.bias",
                4,
                "roi_heads.cascade.0.box_head.convs.0.1.bias",
            ),
            (
                "roi_heads.box_predictor.cls_score.bias",
                0,
                "roi_heads.box_predictor.cls_score.bias",
            ),
            (
                "roi_heads.box_predictor.1.bbox_pred.weight",
                0,
                "roi_heads.cascade.0.box_predictor.bbox_pred.weight",
            ),
            (
                "roi_heads.mask_head.mask_fcn4.bias",
                0,
                "roi_heads.mask_head.3.0.bias",
            ),
            (
                "roi_heads.mask_head.deconv.weight",
                0,
                "roi_heads.mask_predictor.conv5_mask.weight",
            ),
            (
                "roi_heads.box_head.fc3.weight",
                0,
                "roi_heads.box_head.fc3.weight",
            ),
            ("stem.fc.weight", 0, "stem.fc.weight"),
        ] {
            assert_eq!(renamed(theirs, convolutions), ours);
        }
        let names = [
            "roi_heads.box_head.0.conv1.weight",
            "roi_heads.box_head.0.conv2.weight",
        ];
        assert_eq!(head_convolutions(names.into_iter()), 2);
        assert!(are_its(
            ["a", "proposal_generator.rpn_head.conv.bias"].into_iter()
        ));
    }
}
