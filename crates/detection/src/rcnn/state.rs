//! A detector's weights by torchvision's names: out of a network, and into one from a file, which may have detectron2's.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use backbones::{change_value, parameters};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use weights::format::{Entry, TensorInfo};
use weights::{Checkpoint, Mismatch};

use super::config::RcnnConfig;
use super::detectron2::{self, Extras};
use super::network::Rcnn;
use crate::error::DetectionError;
use crate::tensors::{is_sound, sound};

/// What becomes of the layers whose size is the number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassLayers {
    /// They are read like all others.
    Read,
    /// They stay as they are, because the file's classes are others.
    Keep,
}

impl ClassLayers {
    /// What becomes of them where a file's tensors go into a network: they are read if they have the same names and shapes
    /// in both.
    pub fn of(network: &Rcnn, checkpoint: &Checkpoint) -> Self {
        let own = parameters(network).into_iter().map(|parameter| {
            let name = torchvision_name(&parameter.path, network.config());
            (name, parameter.shape)
        });
        let config = network.config();
        let own: BTreeMap<String, Vec<usize>> = own.filter(|(name, _)| is_of_classes(name, config)).collect();
        let file = tensors_of(checkpoint).tensors.into_iter();
        let file = file.filter(|(name, _)| is_of_classes(name, config));
        match own == file.map(|(name, tensor)| (name, tensor.shape.clone())).collect() {
            true => Self::Read,
            false => Self::Keep,
        }
    }
}

/// The name in torchvision's files of the parameter at a path of [`Rcnn`]'s module tree.
pub fn torchvision_name(path: &str, config: &RcnnConfig) -> String {
    // A sequence there: convolutions, a layer that flattens, the linear layer.
    if let Some(rest) = path.strip_prefix("roi_heads.box_head.convs.") {
        return format!("roi_heads.box_head.{rest}");
    }
    match path.strip_prefix("roi_heads.box_head.fc.") {
        Some(rest) => format!("roi_heads.box_head.{}.{rest}", config.boxes.convolutions + 1),
        None => path.to_owned(),
    }
}

/// Today's name of a parameter in a file of torchvision's before its version 2 of these modules, which its released
/// files of the first versions are.
fn renamed(name: &str) -> String {
    let numbered = |prefix: &str| {
        let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
        Some((number.parse::<usize>().ok()?, rest))
    };
    let is_parameter = |rest: &str| rest == "weight" || rest == "bias";
    for blocks in ["backbone.fpn.inner_blocks.", "backbone.fpn.layer_blocks."] {
        if let Some((number, rest)) = numbered(blocks).filter(|(_, rest)| is_parameter(rest)) {
            return format!("{blocks}{number}.0.{rest}");
        }
    }
    if let Some((number, rest)) = numbered("roi_heads.mask_head.mask_fcn").filter(|(number, _)| *number > 0) {
        return format!("roi_heads.mask_head.{}.0.{rest}", number - 1);
    }
    match name
        .strip_prefix("rpn.head.conv.")
        .filter(|rest| is_parameter(rest))
    {
        Some(rest) => format!("rpn.head.conv.0.0.{rest}"),
        None => name.to_owned(),
    }
}

/// Whether the size of the layer with this name is the number of classes.
pub fn is_of_classes(name: &str, config: &RcnnConfig) -> bool {
    let layers = [
        ("box_predictor.cls_score.", true),
        ("box_predictor.bbox_pred.", !config.boxes.class_agnostic),
        ("mask_predictor.mask_fcn_logits.", true),
    ];
    let Some(rest) = name.strip_prefix("roi_heads.") else {
        return false;
    };
    let stage = rest
        .strip_prefix("cascade.")
        .and_then(|rest| rest.split_once('.'));
    let layer = stage.map_or(rest, |(_, layer)| layer);
    layers.iter().any(|(start, is)| *is && layer.starts_with(start))
}

/// Every weight and running statistic by its name in torchvision's files, on the host.
pub fn state_dict(network: &Rcnn) -> BTreeMap<String, TensorData> {
    let mut collect = Collect {
        path: vec![],
        config: network.config(),
        found: BTreeMap::new(),
    };
    network.visit(&mut collect);
    collect.found
}

struct Collect<'a> {
    path: Vec<String>,
    config: &'a RcnnConfig,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = torchvision_name(&self.path.join("."), self.config);
        self.found.insert(name, param.val().into_data());
    }
}

struct Replace {
    path: Vec<String>,
    config: RcnnConfig,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleMapper for Replace {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = torchvision_name(&self.path.join("."), &self.config);
        match self.tensors.remove(&name) {
            Some(data) => {
                let values: Vec<f32> = data.iter::<f32>().collect();
                let data = TensorData::new(values, data.shape().clone());
                change_value(param, |old| Tensor::from_data(data, &old.device()))
            }
            None => param,
        }
    }
}

/// The network with the weights in `tensors`, by the names of [`state_dict`]. Names and shapes are the caller's to check;
/// a network's own parameters stay where `tensors` lacks them.
pub fn replace_state(network: Rcnn, tensors: BTreeMap<String, TensorData>) -> Rcnn {
    let replace = &mut Replace {
        path: vec![],
        config: network.config().clone(),
        tensors,
    };
    network.map(replace)
}

/// The tensors of a detector's file, by today's names.
pub(super) struct FileTensors<'a> {
    /// Weights and running statistics.
    pub(super) tensors: BTreeMap<String, &'a TensorInfo>,
    /// Whether the backbone's norms count batches, which frozen ones do not.
    pub(super) backbone_counts: bool,
    /// What a file with detectron2's names holds besides; `None`: the names are torchvision's.
    pub(super) detectron2: Option<Extras<'a>>,
}

/// The tensors below `model` or `state_dict`, or else of the root; without `DistributedDataParallel`'s prefix and counts
/// of batches.
pub(super) fn tensors_of(checkpoint: &Checkpoint) -> FileTensors<'_> {
    let wrapped = ["model", "state_dict", "model_state_dict"]
        .into_iter()
        .filter_map(|key| checkpoint.root.at(key));
    let root = wrapped
        .into_iter()
        .find(|entry| matches!(entry, Entry::Dict(_)))
        .unwrap_or(&checkpoint.root);
    let all = root.tensors();
    let names = || {
        all.iter()
            .map(|(name, _)| name.strip_prefix("module.").unwrap_or(name))
    };
    let mut detectron2 = detectron2::are_its(names()).then(Extras::default);
    let convolutions = detectron2::head_convolutions(names());
    let (mut tensors, mut backbone_counts) = (BTreeMap::new(), false);
    for (name, (_, tensor)) in names().zip(&all) {
        let name = match &mut detectron2 {
            Some(extras) => {
                if extras.take(name, tensor) {
                    continue;
                }
                detectron2::renamed(name, convolutions)
            }
            None => renamed(name),
        };
        if name.ends_with(".num_batches_tracked") {
            backbone_counts |= name.starts_with("backbone.body.");
        } else {
            tensors.insert(name, *tensor);
        }
    }
    FileTensors {
        tensors,
        backbone_counts,
        detectron2,
    }
}

/// The network with the weights of a file of torchvision's detectors, in the names of any of its versions, or of
/// detectron2's.
///
/// # Errors
/// All differences between the file's names and shapes and the network's, a file that cannot be read, and
/// [`DetectionError::NotFinite`].
pub fn read<R: Read + Seek>(
    network: Rcnn,
    checkpoint: &Checkpoint,
    source: &mut R,
    class_layers: ClassLayers,
) -> Result<Rcnn, DetectionError> {
    let config = network.config().clone();
    let skipped = |name: &str| class_layers == ClassLayers::Keep && is_of_classes(name, &config);
    let mut left = tensors_of(checkpoint).tensors;
    left.retain(|name, _| !skipped(name));
    let mut mismatch = Mismatch::default();
    let mut values = BTreeMap::new();
    let mut unsound = vec![];
    for (name, data) in state_dict(&network)
        .into_iter()
        .filter(|(name, _)| !skipped(name))
    {
        let Some(tensor) = left.remove(&name) else {
            mismatch.missing.push(name);
            continue;
        };
        if tensor.shape != data.shape().to_vec() {
            let shapes = (name, data.shape().to_vec(), tensor.shape.clone());
            mismatch.shapes.push(shapes);
        } else if !tensor.dtype.is_weight() {
            mismatch.types.push((name, tensor.dtype.name().to_owned()));
        } else {
            let read = tensor.read(source)?;
            if !is_sound(&name, read.iter::<f64>()) {
                unsound.push(name.clone());
            }
            values.insert(name, read);
        }
    }
    mismatch.unexpected = left.into_keys().map(|name| (name, None)).collect();
    let kind = match (config.cascade.is_empty(), config.masks.is_some()) {
        (true, true) => "this Mask R-CNN",
        (true, false) => "this Faster R-CNN",
        (false, true) => "this Cascade Mask R-CNN",
        (false, false) => "this Cascade R-CNN",
    };
    if mismatch.is_empty() {
        sound(kind, &unsound)?;
        return Ok(replace_state(network, values));
    }
    Err(DetectionError::Mismatch {
        network: kind,
        difference: Box::new(mismatch),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rcnn::Version;
    use backbones::{Init, ResNetConfig, Stem};
    use burn::tensor::Device;
    use std::io::Cursor;

    fn config(classes: usize, version: Version) -> RcnnConfig {
        let backbone = ResNetConfig {
            depth: 18,
            width: 4,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: false,
        };
        let mut config = RcnnConfig::torchvision(version, backbone, classes, true);
        config.boxes.width = 8;
        config
    }

    /// A safetensors file of a network's weights with names changed by `rename`.
    fn file(network: &Rcnn, rename: impl Fn(&str) -> String) -> Cursor<Vec<u8>> {
        let state = state_dict(network);
        let bytes = state.iter().map(|(name, data)| {
            let bytes: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            (rename(name), data.shape().to_vec(), bytes)
        });
        let bytes = bytes.collect::<Vec<_>>();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.clone(), view.unwrap())
        });
        Cursor::new(safetensors::serialize(views, None).unwrap())
    }

    fn read_into(
        network: Rcnn,
        mut file: Cursor<Vec<u8>>,
        layers: ClassLayers,
    ) -> Result<Rcnn, DetectionError> {
        let checkpoint = Checkpoint::open(&mut file).unwrap();
        read(network, &checkpoint, &mut file, layers)
    }

    /// The names of torchvision's released files of the first versions.
    fn old(name: &str) -> String {
        let name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.");
        (0..4).fold(name, |name, i| {
            let name = name.replace(&format!("_blocks.{i}.0."), &format!("_blocks.{i}."));
            let new = format!("mask_head.{i}.0.");
            name.replace(&new, &format!("mask_head.mask_fcn{}.", i + 1))
        })
    }

    #[test]
    fn files_of_both_versions_are_read() {
        let device = Device::flex();
        let same: fn(&str) -> String = |name| name.to_owned();
        let old: fn(&str) -> String = old;
        for (version, rename) in [(Version::V1, old), (Version::V1, same), (Version::V2, same)] {
            let config = config(2, version);
            let saved = config.init(&Init::new(1, &device));
            let loaded = config.init(&Init::new(2, &device));
            assert_ne!(state_dict(&loaded), state_dict(&saved));
            let loaded = read_into(loaded, file(&saved, rename), ClassLayers::Read).unwrap();
            assert_eq!(state_dict(&loaded), state_dict(&saved));
        }
    }

    #[test]
    fn names_of_the_second_version_are_a_sequences() {
        let config = config(2, Version::V2);
        let names: Vec<String> = state_dict(&config.init(&Init::empty(&Device::flex())))
            .into_keys()
            .collect();
        for name in [
            "backbone.fpn.inner_blocks.3.1.running_var",
            "rpn.head.conv.1.0.bias",
            "roi_heads.box_head.3.1.weight",
            "roi_heads.box_head.5.weight",
            "roi_heads.mask_head.0.1.running_mean",
            "roi_heads.mask_predictor.conv5_mask.weight",
        ] {
            assert!(names.iter().any(|own| own == name), "{name}: {names:?}");
        }
    }

    #[test]
    fn another_number_of_classes_keeps_the_last_layers() {
        let device = Device::flex();
        let saved = config(5, Version::V1).init(&Init::new(1, &device));
        let fresh = config(2, Version::V1).init(&Init::new(2, &device));
        let checkpoint = Checkpoint::open(&mut file(&saved, str::to_owned)).unwrap();
        assert_eq!(ClassLayers::of(&fresh, &checkpoint), ClassLayers::Keep);
        assert_eq!(ClassLayers::of(&saved, &checkpoint), ClassLayers::Read);
        let error = read_into(fresh.clone(), file(&saved, str::to_owned), ClassLayers::Read).unwrap_err();
        assert!(error.to_string().contains("cls_score"), "{error}");
        let loaded = read_into(fresh.clone(), file(&saved, str::to_owned), ClassLayers::Keep).unwrap();
        let (loaded, fresh, saved) = (state_dict(&loaded), state_dict(&fresh), state_dict(&saved));
        let of = |name: &str| (&loaded[name], &fresh[name], &saved[name]);
        let (own, initial, _) = of("roi_heads.mask_predictor.mask_fcn_logits.weight");
        assert_eq!(own, initial);
        let (own, _, from_file) = of("roi_heads.box_head.fc7.weight");
        assert_eq!(own, from_file);
    }

    #[test]
    fn every_difference_is_listed() {
        let device = Device::flex();
        let saved = config(2, Version::V1).init(&Init::new(1, &device));
        let rename = |name: &str| name.replace("layer3.1.conv2", "layer3.1.conv9");
        let error = read_into(saved.clone(), file(&saved, rename), ClassLayers::Read)
            .unwrap_err()
            .to_string();
        for part in [
            "this Mask R-CNN",
            "layer3.1.conv2.weight",
            "layer3.1.conv9.weight",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
