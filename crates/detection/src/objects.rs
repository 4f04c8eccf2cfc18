//! Detectors of objects in general: a file in, whichever of the known networks it holds out.

use std::io::{Read, Seek};

use burn::tensor::Device;
use weights::Checkpoint;

use crate::detector::{Detection, Detector, Photo};
use crate::error::{DetectionError, check_share};
use crate::rcnn::{RcnnDetector, RcnnFile};
use crate::yolox::{Yolox, YoloxConfig, is_onnx};

/// Settings of a detector of objects.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectsConfig {
    /// The classes to report, by the network's numbers from 0, without a background; `None`: all. COCO's persons are 0
    /// in YOLOX's numbers and in torchvision's.
    pub classes: Option<Vec<usize>>,
    /// Detections with a higher score are reported.
    pub candidate_score: f32,
    /// NMS IoU threshold within a class; `None`: the network's own, 0.45 (YOLOX) or 0.5 (R-CNN).
    pub nms_iou: Option<f32>,
    /// Maximum photos of a pass on a GPU. Changes no result.
    pub batch_images: usize,
    /// Whether the device is a CPU, where one photo a pass takes the least memory. Changes no result.
    pub on_cpu: bool,
    /// R-CNN only: the shorter side to which photos are resized, and the most of the longer one, px; `None`: the
    /// network's own, 800 and 1333.
    pub sides_px: Option<[usize; 2]>,
    /// R-CNN only: whether masks are made, if the network has them.
    pub masks: bool,
    /// R-CNN only: the epsilon of the backbone's norms; `None`: as [`RcnnFile::of`] says.
    pub norm_epsilon: Option<f64>,
}

impl ObjectsConfig {
    /// Objects of all classes, with masks, on a CPU.
    pub fn all() -> Self {
        Self {
            classes: None,
            candidate_score: 0.02,
            nms_iou: None,
            batch_images: 8,
            on_cpu: true,
            sides_px: None,
            masks: true,
            norm_epsilon: None,
        }
    }
}

/// A detector of objects.
#[derive(Debug)]
pub enum Objects {
    /// Of the YOLOX family.
    Yolox(Box<Yolox>),
    /// Faster, Mask or Cascade R-CNN, and the file that it is from.
    Rcnn(Box<RcnnDetector>, Box<RcnnFile>),
}

/// Of what other kind a file's names are, with one that shows it.
fn other_kind<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    const KINDS: [(&str, &str); 9] = [
        (
            "head.classification_head.",
            "torchvision's RetinaNet, FCOS or SSD",
        ),
        ("proposal_generator.", "a detector of detectron2"),
        ("head.cls_subnet.", "detectron2's RetinaNet"),
        (
            "_branch2a_w",
            "Caffe2's Detectron, an older form, which detectron2 can save again",
        ),
        ("ClassHead.", "RetinaFace, a detector of faces"),
        ("class_embed.", "a DETR"),
        ("fc.weight", "a classifier"),
        ("classifier.", "a classifier"),
        ("head.weight", "a classifier"),
    ];
    let count = match names.clone().count() {
        1 => "1 tensor".to_owned(),
        count => format!("{count} tensors"),
    };
    let known = KINDS.iter().find_map(|(part, kind)| {
        let name = names.clone().find(|name| name.contains(part))?;
        Some(format!("`{name}` is of {kind}"))
    });
    match (known, names.clone().next()) {
        (Some(known), _) => format!("got {count}, of which {known}"),
        (None, Some(first)) => format!("got {count}, as `{first}`"),
        (None, None) => "got no tensor".to_owned(),
    }
}

impl Objects {
    /// Reads a detector onto a device without autodiff: an ONNX file or a checkpoint of YOLOX ([`Yolox::read`]), or a
    /// checkpoint of Faster, Mask or Cascade R-CNN, torchvision's, detectron2's or this program's ([`RcnnFile::of`]).
    ///
    /// # Errors
    /// [`DetectionError::Unknown`] for a checkpoint of another kind, [`DetectionError::Config`] for settings that the
    /// network has not, and those of the networks.
    pub fn read<R: Read + Seek>(
        source: &mut R,
        config: &ObjectsConfig,
        device: &Device,
    ) -> Result<Self, DetectionError> {
        check_share("candidate_score", config.candidate_score)?;
        if let Some(nms_iou) = config.nms_iou {
            check_share("nms_iou", nms_iou)?;
        }
        let checkpoint = match is_onnx(source)? {
            true => return yolox(source, config, device),
            false => Checkpoint::open(source)?,
        };
        let tensors = checkpoint.tensors();
        let names = tensors.iter().map(|(name, _)| name.as_str());
        if RcnnFile::is_in(&checkpoint) {
            return rcnn(&checkpoint, source, config, device);
        }
        // Behind any prefix.
        let of_yolox = |name: &str| name.contains("backbone.backbone.") || name.contains("head.cls_preds.");
        match names.clone().any(of_yolox) {
            true => yolox(source, config, device),
            false => Err(DetectionError::Unknown {
                found: other_kind(names),
            }),
        }
    }

    /// Its NMS IoU threshold within a class.
    pub fn nms_iou(&self) -> f32 {
        match self {
            Self::Yolox(yolox) => yolox.config().nms_iou,
            Self::Rcnn(rcnn, _) => rcnn.config().boxes.nms_iou,
        }
    }

    /// The number of its classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Yolox(yolox) => yolox.classes(),
            Self::Rcnn(rcnn, _) => rcnn.config().classes,
        }
    }

    /// The name of each class: those that the file states, or COCO's for networks of as many classes. A place without a
    /// name is one of COCO's gaps. `None`: unknown.
    pub fn names(&self) -> Option<Vec<Option<String>>> {
        if let Self::Rcnn(_, file) = self
            && !file.names.is_empty()
        {
            return Some(file.names.iter().cloned().map(Some).collect());
        }
        coco_names(self.classes())
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Yolox(yolox) => {
                let [width, height] = yolox.input();
                format!("YOLOX ({width} x {height} px, {} classes)", yolox.classes())
            }
            // The file's, also where its masks are not made.
            Self::Rcnn(_, file) => file.config.describe(),
        }
    }
}

impl Detector for Objects {
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        match self {
            Self::Yolox(yolox) => yolox.detect(photos),
            Self::Rcnn(rcnn, _) => rcnn.detect(photos),
        }
    }
}

fn yolox<R: Read + Seek>(
    source: &mut R,
    config: &ObjectsConfig,
    device: &Device,
) -> Result<Objects, DetectionError> {
    let only_rcnn = [
        ("shorter_px", config.sides_px.is_some()),
        ("norm_epsilon", config.norm_epsilon.is_some()),
    ];
    if let Some((key, _)) = only_rcnn.iter().find(|(_, is_set)| *is_set) {
        return Err(DetectionError::Config(format!(
            "`{key}` must be left out for YOLOX, whose images have a fixed size; it is of R-CNN networks"
        )));
    }
    let settings = YoloxConfig {
        classes: config.classes.clone(),
        candidate_score: config.candidate_score,
        nms_iou: config.nms_iou.unwrap_or(YoloxConfig::persons().nms_iou),
        batch_images: config.batch_images,
        side_by_side: config.on_cpu,
    };
    Ok(Objects::Yolox(Box::new(Yolox::read(source, settings, device)?)))
}

fn rcnn<R: Read + Seek>(
    checkpoint: &Checkpoint,
    source: &mut R,
    config: &ObjectsConfig,
    device: &Device,
) -> Result<Objects, DetectionError> {
    let mut file = RcnnFile::of(checkpoint, source)?;
    let numbers = &mut file.config;
    numbers.boxes.score_above = config.candidate_score;
    if let Some(nms_iou) = config.nms_iou {
        numbers.boxes.nms_iou = nms_iou;
    }
    if let Some([shorter, longer]) = config.sides_px {
        if shorter == 0 || longer < shorter {
            return Err(DetectionError::Config(format!(
                "`shorter_px` must be at least 1 and `longer_px` at least `shorter_px`, got {shorter} and {longer}"
            )));
        }
        (numbers.input.short_side_px, numbers.input.long_side_px) = (shorter, longer);
    }
    if let Some(epsilon) = config.norm_epsilon {
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(DetectionError::Config(format!(
                "`norm_epsilon` must be at least 0, got {epsilon}"
            )));
        }
        if numbers.resnet().is_none() {
            return Err(DetectionError::Config(
                "`norm_epsilon` must be left out: the detector's backbone is a vision transformer, which has no batch normalization"
                    .to_owned(),
            ));
        }
        numbers.backbone_norm_epsilon = epsilon;
    }
    let network = file.network(checkpoint, source, device)?;
    let network = match config.masks {
        true => network,
        false => network.without_masks(),
    };
    let batch_images = if config.on_cpu { 1 } else { config.batch_images };
    let detector = RcnnDetector::new(network, config.classes.clone(), batch_images, device)?;
    Ok(Objects::Rcnn(Box::new(detector), Box::new(file)))
}

/// COCO's ids 1 to 90 in order, without a name where COCO has none: torchvision's numbers of classes less 1.
const COCO: &str = "\
    person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,\
    stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,\
    backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,\
    baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,knife,spoon,bowl,\
    banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,\
    bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,\
    toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,toothbrush";

/// COCO's names of classes for networks of 90 classes (with gaps) and of 80 (without).
fn coco_names(classes: usize) -> Option<Vec<Option<String>>> {
    let names = COCO
        .split(',')
        .map(|name| (!name.is_empty()).then(|| name.to_owned()));
    match classes {
        90 => Some(names.collect()),
        80 => Some(names.filter(Option::is_some).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coco_has_eighty_names_in_ninety_places() {
        let (gaps, dense) = (coco_names(90).unwrap(), coco_names(80).unwrap());
        assert_eq!((gaps.len(), dense.len()), (90, 80));
        let at = |names: &[Option<String>], place: usize| names[place].clone().unwrap_or_default();
        // COCO's category ids less 1, and ranks.
        for (id, rank, name) in [
            (1, 0, "person"),
            (13, 11, "stop sign"),
            (44, 39, "bottle"),
            (67, 60, "dining table"),
            (90, 79, "toothbrush"),
        ] {
            assert_eq!(
                (at(&gaps, id - 1), at(&dense, rank)),
                (name.to_owned(), name.to_owned())
            );
        }
        assert_eq!(gaps[11], None);
        assert_eq!(coco_names(91), None);
    }

    #[test]
    fn files_of_other_networks_are_named() {
        let of = |names: &[&str]| other_kind(names.iter().copied());
        assert_eq!(
            of(&["conv1.weight", "fc.weight"]),
            "got 2 tensors, of which `fc.weight` is of a classifier"
        );
        assert_eq!(of(&["a", "b"]), "got 2 tensors, as `a`");
        assert_eq!(of(&[]), "got no tensor");
    }
}
