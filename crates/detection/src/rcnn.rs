//! Faster and Mask R-CNN on a ResNet's feature pyramid, or on its third stage (C4): images and true boxes in, losses out; images in, boxes and masks
//! out.
//!
//! Ren et al., *Faster R-CNN*, 2015; Lin et al., *Feature pyramid networks*, 2017; He et al., *Mask R-CNN*, 2017. Two
//! conventions of their numbers exist, which [`RcnnConfig::torchvision`] and [`RcnnConfig::detectron2`] write out;
//! [`RcnnConfig::moco_c4`] is the detector with which self-supervised networks are compared.
//! Parameters have torchvision's names ([`torchvision_name`] maps the few that a module tree cannot have), and [`read`] reads torchvision's files.
//!
//! Convolutions, RoIAlign, heads and losses run on the tensors' device. Matching, sampling and suppression run on the
//! host, from one copy of the proposals' numbers a step.

mod block;
mod box_head;
mod config;
mod detector;
mod file;
mod input;
mod losses;
mod mask_head;
mod network;
mod proposals;
mod pyramid;
mod state;

pub use box_head::{BoxHead, BoxPredictor};
pub use config::{
    BoxHeadConfig, C4Config, ClassSlots, ImageInput, MaskHeadConfig, MaskTarget, Neck, Norm, ProposalConfig,
    PyramidConfig, RcnnConfig, Version, WeightRule,
};
pub use detector::RcnnDetector;
pub use file::{RcnnFile, to_safetensors};
pub use mask_head::{MaskPredictor, TrueMask};
pub use network::{Instance, Rcnn, RcnnLosses, RoiHeads, Target};
pub use proposals::{ProposalHead, ProposalNetwork};
pub use pyramid::{BodyAndPyramid, FeaturePyramid};
pub use state::{ClassLayers, is_of_classes, read, replace_state, state_dict, torchvision_name};

#[cfg(test)]
mod parity;
