//! Faster, Mask and Cascade R-CNN on a ResNet's feature pyramid, the first two on its third stage (C4) too: images and true boxes in, losses
//! out; images in, boxes and masks out.
//!
//! Ren et al., *Faster R-CNN*, 2015; Lin et al., *Feature pyramid networks*, 2017; He et al., *Mask R-CNN*, 2017;
//! Cai and Vasconcelos, *Cascade R-CNN*, 2018. Two
//! conventions of their numbers exist, which [`RcnnConfig::torchvision`] and [`RcnnConfig::detectron2`] write out;
//! [`RcnnConfig::cascade`] is detectron2's with three stages, and [`RcnnConfig::moco_c4`] the detector with which self-supervised networks are compared.
//! Parameters have torchvision's names ([`torchvision_name`] maps the few that a module tree cannot have), and [`read`] reads torchvision's files.
//!
//! Convolutions, RoIAlign, heads and losses run on the tensors' device. Matching, sampling and suppression run on the
//! host, from one copy of the proposals' numbers a step.

mod block;
mod box_head;
mod config;
mod detector;
mod detectron2;
mod file;
mod input;
mod losses;
mod mask_head;
mod network;
mod proposals;
mod pyramid;
mod simple_pyramid;
mod state;
mod trained_on;

pub use box_head::{BoxHead, BoxPredictor, StageHeads};
pub use config::{
    BoxHeadConfig, C4Config, CascadeStage, ClassSlots, ImageInput, MaskHeadConfig, MaskTarget, Neck, Norm,
    ProposalConfig, PyramidConfig, RcnnConfig, Version, WeightRule,
};
pub use detector::RcnnDetector;
pub use file::{FileOrigin, RcnnFile, to_safetensors};
pub use mask_head::{MaskPredictor, TrueMask};
pub use network::{Instance, Rcnn, RcnnLosses, RoiHeads, Target};
pub use proposals::{ProposalHead, ProposalNetwork};
pub use pyramid::{BodyAndPyramid, FeaturePyramid};
pub use simple_pyramid::{SimplePyramid, VitAndPyramid};
pub use state::{ClassLayers, is_of_classes, read, replace_state, state_dict, torchvision_name};
pub use trained_on::TrainedOn;

#[cfg(test)]
mod parity;
