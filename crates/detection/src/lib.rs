//! Photos in, boxes out: detectors of faces and persons, and the geometry of boxes.
//!
//! Every detector is a [`Detector`], the only interface that its users (the curation's stages,
//! `passer detect`) need, so a stronger one can replace it. [`RetinaFace`], the face detector with which PASS
//! was made, and [`Yolox`], the YOLOX family from its ONNX or `.pth` files, run on any device of Burn's. With the
//! feature `onnx`, other networks with YOLOX's output run from ONNX files on the CPU. [`Tiled`] also runs another detector on tiles of large photos.
//!
//! [`Objects`] reads a file of YOLOX, or of Faster, Mask or Cascade R-CNN.
//!
//! [`rcnn`] holds Faster, Mask and Cascade R-CNN, networks that can be trained, as a detector and as files; [`parts`] holds the steps of theirs that run on
//! the host: anchors, box coding, matching, sampling, pooling by level. Both do no I/O and draw nothing by themselves.
//!
//! [`metrics`] compares results with true objects, and [`drawing`] draws boxes, masks and labels on a picture. Both
//! work on plain memory, without tensors.
//!
//! This crate opens no file: weights come from the caller's reader, photos as pixels.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod boxes;
mod detector;
pub mod drawing;
mod error;
pub mod metrics;
mod objects;
#[cfg(feature = "onnx")]
mod onnx;
pub mod parts;
mod priors;
pub mod rcnn;
mod resize;
mod retinaface;
mod tensors;
mod tiles;
mod yolox;

#[cfg(test)]
mod parity;
#[cfg(test)]
#[path = "../../../scripts/parity/wave.rs"]
mod wave;

pub use boxes::{Edges, iou, nms};
pub use data::targets::BoundingBox;
pub use detector::{Detection, Detector, InstanceMask, Photo, top_score};
pub use error::{DetectionError, Hint};
pub use objects::{Objects, ObjectsConfig};
pub use priors::{PriorBox, decode_box, decode_landmarks, prior_boxes};
pub use resize::{Letterbox, resize};
pub use retinaface::{RetinaFace, RetinaFaceConfig, Scale};
pub use tiles::{Tiled, TilesConfig};
pub use yolox::{COCO_PERSON, Yolox, YoloxConfig};

/// The score above which PASS counted a face: it dropped a photo if any detection scored higher (PASSify's
/// face script).
pub const PASS_FACE_SCORE: f32 = 0.5;

/// The score above which PASS counted a person (PASSify's person script).
pub const PASS_PERSON_SCORE: f32 = 0.5;
