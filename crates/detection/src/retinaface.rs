//! RetinaFace with MobileNet ×0.25: the face detector with which PASS was made.
//!
//! Deng, Guo, Ververas, Kotsia, Zafeiriou, *RetinaFace: Single-shot multi-level face localisation in the wild*, CVPR 2020.
//! A light one: 0.43 M parameters, one pass over the photo at its own size.

mod network;

use std::io::{Read, Seek};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use weights::Checkpoint;

use crate::boxes::Edges;
use crate::detector::{Detection, Detector, Photo};
use crate::error::{DetectionError, check_count, check_share};
use crate::priors::{decode_box, decode_landmarks, prior_boxes};
use crate::resize::resize;
use crate::tiles::suppressed;
use network::{Network, OUTPUTS, PRIORS_A_PLACE};

/// Subtracted from blue, green and red, in the network's channel order; there is no division.
const MEAN_BGR: [f32; 3] = [104.0, 117.0, 123.0];

/// Stride of each feature map, and the sides of its priors, px.
const LEVELS: [(usize, &[f32]); 3] = [(8, &[16.0, 32.0]), (16, &[64.0, 128.0]), (32, &[256.0, 512.0])];

/// Scales of offsets: of centers and points, and of sizes.
const VARIANCES: [f32; 2] = [0.1, 0.2];

/// The input size of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scale {
    /// The photo's own size, as in PASS.
    Original,
    /// The shorter side becomes `shorter_px`, unless the longer one would exceed `longer_px`; then the longer
    /// side becomes `longer_px`. PASS's script has 1600 and 2150, but disabled. Enlarging finds smaller
    /// faces, and takes time.
    Sides {
        /// Length of the shorter side, px.
        shorter_px: u32,
        /// Greatest length of the longer side, px.
        longer_px: u32,
    },
}

/// Settings of the face detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetinaFaceConfig {
    /// Detections with a higher score are reported; PASS: 0.02. (It dropped photos with a detection above
    /// [`PASS_FACE_SCORE`](crate::PASS_FACE_SCORE).)
    pub candidate_score: f32,
    /// NMS IoU threshold; PASS: 0.4.
    pub nms_iou: f32,
    /// The input size of the network; PASS: the photo's own.
    pub scale: Scale,
    /// Maximum photos of one size per forward pass. There is no padding, so photos of other sizes run
    /// separately, and a photo's scores do not depend on its neighbors. Changes no result.
    pub batch_images: usize,
    /// Whether batches run in parallel, one per core: for CPUs only. Changes no result.
    pub side_by_side: bool,
}

impl RetinaFaceConfig {
    /// PASS's settings, for a CPU.
    pub fn pass() -> Self {
        Self {
            candidate_score: 0.02,
            nms_iou: 0.4,
            scale: Scale::Original,
            batch_images: 8,
            side_by_side: true,
        }
    }

    /// Checks these settings.
    ///
    /// # Errors
    /// [`DetectionError::Config`], which names the key.
    pub fn validate(&self) -> Result<(), DetectionError> {
        check_share("candidate_score", self.candidate_score)?;
        check_share("nms_iou", self.nms_iou)?;
        check_count("batch_images", self.batch_images)?;
        if let Scale::Sides {
            shorter_px,
            longer_px,
        } = self.scale
        {
            check_count("scale.sides.shorter_px", shorter_px as usize)?;
            check_count("scale.sides.longer_px", longer_px as usize)?;
            if longer_px < shorter_px {
                return Err(DetectionError::Config(format!(
                    "`scale.sides.longer_px` must be at least `shorter_px` ({shorter_px}), which no photo would reach, got {longer_px}"
                )));
            }
        }
        Ok(())
    }
}

/// The detector. Its only class is 0, a face, with five landmarks.
#[derive(Debug)]
pub struct RetinaFace {
    network: Network,
    config: RetinaFaceConfig,
    device: Device,
}

/// A photo before the network.
struct Input<'a> {
    position: usize,
    photo: Photo<'a>,
    /// Size of the network's input, px.
    size: (u32, u32),
}

impl RetinaFace {
    /// Reads the official `mobilenet0.25_Final.pth`, or the same weights as safetensors, onto a device without autodiff.
    ///
    /// # Errors
    /// A file that cannot be read; tensors that do not exactly match the network, which are listed; an
    /// invalid config.
    pub fn read<R: Read + Seek>(
        source: &mut R,
        config: RetinaFaceConfig,
        device: &Device,
    ) -> Result<Self, DetectionError> {
        config.validate()?;
        let checkpoint = Checkpoint::open(source)?;
        Ok(Self {
            network: Network::read(&checkpoint, source, device)?,
            config,
            device: device.clone(),
        })
    }

    /// The detections of photos of one size.
    fn detect_batch(&self, batch: &[Input<'_>]) -> Vec<(usize, Vec<Detection>)> {
        let Some((width, height)) = batch.first().map(|input| input.size) else {
            return Vec::new();
        };
        let (width, height) = (width as usize, height as usize);
        let mut planes = Vec::with_capacity(batch.len() * 3 * width * height);
        for input in batch {
            let resized;
            let pixels = if input.size == (input.photo.width, input.photo.height) {
                input.photo.pixels
            } else {
                resized = resize(&input.photo, input.size.0, input.size.1);
                &resized
            };
            for (channel, mean) in [2, 1, 0].into_iter().zip(MEAN_BGR) {
                let values = pixels.iter().skip(channel).step_by(3);
                planes.extend(values.map(|value| f32::from(*value) - mean));
            }
        }
        let planes = TensorData::new(planes, [batch.len(), 3, height, width]);
        let outputs = self.network.forward(Tensor::from_data(planes, &self.device));
        let outputs = outputs.into_data().iter::<f32>().collect::<Vec<_>>();
        let places = outputs.len() / batch.len() / OUTPUTS;
        let of_photo = outputs.chunks_exact(places * OUTPUTS);
        let decoded = batch
            .iter()
            .zip(of_photo)
            .map(|(input, outputs)| (input.position, self.decode(input, outputs, places)));
        decoded.collect()
    }

    /// The detections in one photo's outputs, `[OUTPUTS, places]`.
    fn decode(&self, input: &Input<'_>, outputs: &[f32], places: usize) -> Vec<Detection> {
        let (width, height) = (input.size.0 as usize, input.size.1 as usize);
        let priors = prior_boxes(width, height, &LEVELS);
        let at = |output: usize, place: usize| outputs[output * places + place];
        let (x, y) = (input.photo.width as f32, input.photo.height as f32);
        let mut found = Vec::new();
        for (index, prior) in priors.iter().enumerate() {
            let (place, which) = (index / PRIORS_A_PLACE, index % PRIORS_A_PLACE);
            // Scores come first, two per prior (none, face), then four values per box, then ten for its
            // points.
            let (other, face) = (at(2 * which, place), at(2 * which + 1, place));
            // Softmax of two logits.
            let score = 1.0 / (1.0 + (other - face).exp());
            if score.is_nan() || score <= self.config.candidate_score {
                continue;
            }
            let numbers = |first: usize, count: usize| {
                let first = PRIORS_A_PLACE * first + which * count;
                (first..first + count).map(move |output| at(output, place))
            };
            let mut offsets = [0.0; 4];
            for (offset, number) in offsets.iter_mut().zip(numbers(2, 4)) {
                *offset = number;
            }
            let points = numbers(6, 10).collect::<Vec<_>>();
            found.push(Detection {
                bounds: decode_box(prior, offsets, VARIANCES).scaled(x, y),
                class: 0,
                score,
                landmarks: decode_landmarks(prior, &points, VARIANCES[0])
                    .map(|[across, down]| [across * x, down * y])
                    .collect(),
                mask: None,
            });
        }
        suppressed(found, self.config.nms_iou, Edges::Inclusive)
    }

    /// The size of the network's input for a photo, px.
    fn size(&self, photo: &Photo<'_>) -> (u32, u32) {
        let Scale::Sides {
            shorter_px,
            longer_px,
        } = self.config.scale
        else {
            return (photo.width, photo.height);
        };
        let (shorter, longer) = (photo.width.min(photo.height), photo.width.max(photo.height));
        let mut ratio = f64::from(shorter_px) / f64::from(shorter);
        if (ratio * f64::from(longer)).round_ties_even() > f64::from(longer_px) {
            ratio = f64::from(longer_px) / f64::from(longer);
        }
        let side = |length: u32| ((f64::from(length) * ratio).round_ties_even() as u32).max(1);
        (side(photo.width), side(photo.height))
    }
}

impl Detector for RetinaFace {
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let mut inputs = Vec::with_capacity(photos.len());
        for (position, photo) in photos.iter().enumerate() {
            photo.check(position)?;
            inputs.push(Input {
                position,
                photo: *photo,
                size: self.size(photo),
            });
        }
        inputs.sort_by_key(|input| input.size);
        let batches = inputs
            .chunk_by(|a, b| a.size == b.size)
            .flat_map(|same| same.chunks(self.config.batch_images))
            .collect::<Vec<_>>();
        let found = if self.config.side_by_side {
            let batches = batches.into_par_iter();
            batches
                .flat_map_iter(|batch| self.detect_batch(batch))
                .collect::<Vec<_>>()
        } else {
            let batches = batches.into_iter();
            batches.flat_map(|batch| self.detect_batch(batch)).collect()
        };
        let mut detections = vec![Vec::new(); photos.len()];
        for (position, found) in found {
            detections[position] = found;
        }
        Ok(detections)
    }
}

#[cfg(test)]
mod tests;
