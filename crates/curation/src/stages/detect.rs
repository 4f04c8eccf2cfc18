//! Stages that drop photos in which a detector finds faces or persons.
//!
//! This crate runs no network: [`Detectors`] is the interface that the caller implements (`cli` passes those
//! of the crate `detection`). A stage reads and decodes photos, requests the highest score of each, and
//! writes the score and decision of every photo into the ledger. One batch is one transaction, so a kill
//! loses at most one batch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use data::{DecodeLimits, RgbImage};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{File as PhotoFile, Stage, Work, decode_reason, panicked};
use crate::error::Error;
use crate::hint::{Hint, Weights};
use crate::ledger::{Decision, Ledger};
use crate::photo::Photo;

/// Photos with a face are dropped: RetinaFace, as PASS used it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FacesConfig {
    /// The file of weights, `mobilenet0.25_Final.pth`. The ledger keeps its content hash and not its path.
    pub weights: PathBuf,
    /// A photo with a face that scores more than this is dropped; PASS: 0.5.
    pub score: f64,
    /// Faces must score more than this to count at all; a photo with none has score 0 in the ledger. PASS:
    /// 0.02.
    pub candidate_score: f64,
    /// NMS IoU threshold: of faces that overlap more, the top-scoring one is kept. PASS: 0.4.
    pub nms_iou: f64,
    /// The size at which the detector sees photos; PASS: `"original"`.
    pub scale: FaceScale,
    /// Photos of one size in a forward pass. Does not change results.
    pub batch_images: usize,
    /// Tiles of large photos, seen in addition to the whole; absent: no tiles, as in PASS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TilesConfig>,
}

/// The size at which the face detector sees photos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaceScale {
    /// Their own size.
    Original,
    /// The shorter side is resized to `shorter_px`, or to less if the longer one would exceed `longer_px`.
    /// PASS's script has 1600 and 2150, switched off.
    Sides {
        /// Length of the shorter side, px.
        shorter_px: u32,
        /// Greatest length of the longer side, px.
        longer_px: u32,
    },
}

/// Photos with a person are dropped: a network of the YOLOX family, or torchvision's or detectron2's Faster, Mask or Cascade R-CNN, whichever the
/// file holds. PASS's own network was detectron2's Cascade Mask R-CNN, whose `.pkl` can be given.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonsConfig {
    /// YOLOX's ONNX or `.pth` file, or a `.pth`, `.pkl` or safetensors of an R-CNN. The ledger keeps its content
    /// hash and not its path.
    pub weights: PathBuf,
    /// The class to detect, by the network's numbering; COCO's persons are 0.
    pub class: usize,
    /// A photo with a person that scores more than this is dropped; PASS: 0.5, with its own detector.
    pub score: f64,
    /// Persons must score more than this to count at all; a photo with none has score 0 in the ledger.
    pub candidate_score: f64,
    /// NMS IoU threshold: of boxes that overlap more, the top-scoring one is kept. YOLOX's demonstration:
    /// 0.45.
    pub nms_iou: f64,
    /// Photos in a forward pass, on a GPU. Does not change results; 8 where a config does not say.
    #[serde(default = "eight")]
    pub batch_images: usize,
    /// The size to which R-CNNs resize photos; absent: the network's own, 800 and 1333 px. Not for
    /// YOLOX, whose images have a fixed size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sides: Option<SidesConfig>,
    /// Tiles of large photos, seen in addition to the whole; absent: no tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TilesConfig>,
}

/// The size to which photos are resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SidesConfig {
    /// Length of the shorter side, px, unless the longer one would exceed `longer_px`.
    pub shorter_px: u32,
    /// Greatest length of the longer side, px.
    pub longer_px: u32,
}

/// How large photos are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TilesConfig {
    /// Side of a tile, px. A photo whose longer side is at most this is seen once, as a whole.
    pub tile_px: u32,
    /// Least overlap of neighboring tiles, px.
    pub overlap_px: u32,
}

/// A loaded detector.
pub trait Detector: Send + Sync {
    /// What it is, in words, for the data sheet: ``Mask R-CNN (`maskrcnn_resnet50_fpn_v2`, 90 classes)``.
    fn network(&self) -> String;

    /// The highest score of a detection in each photo, 0 where there is none. A photo's score does not depend
    /// on the other photos.
    ///
    /// # Errors
    /// The reason why the detector cannot run on the photos.
    fn top_scores(&self, photos: &[RgbImage]) -> Result<Vec<f32>, String>;

    /// The detections in each photo, for a person to look at; none where a detector does not tell them.
    ///
    /// # Errors
    /// As [`Detector::top_scores`].
    fn boxes(&self, photos: &[RgbImage]) -> Result<Vec<Vec<DetectedBox>>, String> {
        Ok(vec![Vec::new(); photos.len()])
    }
}

/// A detection in a photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectedBox {
    /// Left, top, right, bottom, px of the photo.
    pub edges_px: [f32; 4],
    /// Its score, from 0 to 1.
    pub score: f32,
}

/// The source of detectors. A stage loads its detector when it begins and drops it when it ends.
pub trait Detectors {
    /// A detector of faces.
    ///
    /// # Errors
    /// The reason why there is none: weights of another network, or a device that does not exist.
    fn faces(&self, config: &FacesConfig) -> Result<Box<dyn Detector>, String>;

    /// A detector of persons.
    ///
    /// # Errors
    /// As [`Detectors::faces`].
    fn persons(&self, config: &PersonsConfig) -> Result<Box<dyn Detector>, String>;
}

/// Has no detectors, for programs without any: configs without such stages run.
#[derive(Clone, Copy, Debug)]
pub struct NoDetectors;

impl Detectors for NoDetectors {
    fn faces(&self, _: &FacesConfig) -> Result<Box<dyn Detector>, String> {
        Err("this program has no detectors".to_string())
    }

    fn persons(&self, _: &PersonsConfig) -> Result<Box<dyn Detector>, String> {
        Err("this program has no detectors".to_string())
    }
}

/// `batch_images` of a config that does not say.
fn eight() -> usize {
    8
}

fn check_batch(stage: &str, batch_images: usize) -> Result<(), Error> {
    if batch_images > 0 {
        return Ok(());
    }
    Err(Error::config(
        &format!("stages.{stage}.batch_images"),
        "must be at least 1, got 0",
    ))
}

impl FacesConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        check(
            "faces",
            [self.score, self.candidate_score, self.nms_iou],
            self.tiles,
        )?;
        check_batch("faces", self.batch_images)?;
        check_path("faces", &self.weights)?;
        match self.scale {
            FaceScale::Sides {
                shorter_px,
                longer_px,
            } if shorter_px == 0 || longer_px < shorter_px => {
                let reason = format!(
                    "must be sides of at least 1 px, `longer_px` at least `shorter_px`, got {shorter_px} and {longer_px}"
                );
                Err(Error::config("stages.faces.scale", reason))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn stage(&self, detectors: &dyn Detectors) -> Result<Box<dyn Stage>, Error> {
        Ok(Box::new(DetectorStage {
            detector: detectors.faces(self).map_err(|reason| failed("faces", reason))?,
            stage: "faces",
            reason: "face",
            score: self.score,
        }))
    }
}

impl PersonsConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        check(
            "persons",
            [self.score, self.candidate_score, self.nms_iou],
            self.tiles,
        )?;
        check_batch("persons", self.batch_images)?;
        check_path("persons", &self.weights)?;
        match self.sides {
            Some(SidesConfig {
                shorter_px,
                longer_px,
            }) if shorter_px == 0 || longer_px < shorter_px => {
                let reason = format!(
                    "must be sides of at least 1 px, `longer_px` at least `shorter_px`, got {shorter_px} and {longer_px}"
                );
                Err(Error::config("stages.persons.sides", reason))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn stage(&self, detectors: &dyn Detectors) -> Result<Box<dyn Stage>, Error> {
        Ok(Box::new(DetectorStage {
            detector: detectors
                .persons(self)
                .map_err(|reason| failed("persons", reason))?,
            stage: "persons",
            reason: "person",
            score: self.score,
        }))
    }
}

fn check(stage: &str, [score, candidate, iou]: [f64; 3], tiles: Option<TilesConfig>) -> Result<(), Error> {
    let key = |name: &str| format!("stages.{stage}.{name}");
    for (name, value) in [("score", score), ("candidate_score", candidate), ("nms_iou", iou)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::config(&key(name), format!("must be 0 to 1, got {value}")));
        }
    }
    if candidate > score {
        let reason = format!("must be at most `score` = {score}, got {candidate}");
        return Err(Error::config(&key("candidate_score"), reason));
    }
    match tiles {
        Some(tiles) if tiles.overlap_px >= tiles.tile_px => {
            let reason = format!(
                "must be less than `tile_px` = {}, got {}",
                tiles.tile_px, tiles.overlap_px
            );
            Err(Error::config(&key("tiles.overlap_px"), reason))
        }
        _ => Ok(()),
    }
}

fn failed(stage: &str, reason: String) -> Error {
    Error::Stage {
        stage: stage.to_string(),
        reason,
        hint: None,
    }
}

/// SHA-256 of a file of weights, in hex.
pub(crate) fn weights_sha256(stage: &str, path: &Path) -> Result<String, Error> {
    let sum = data::sha256_of_file(path).map_err(|error| unread_weights(stage, path, &error.source))?;
    Ok(sum.hex())
}

fn check_path(stage: &str, weights: &Path) -> Result<(), Error> {
    let key = format!("stages.{stage}.weights");
    Error::unless_filled(&key, "a file of weights", &weights.to_string_lossy())
}

/// Gives an error if a file of weights cannot be opened.
pub(crate) fn check_weights(stage: &str, path: &Path) -> Result<(), Error> {
    std::fs::File::open(path)
        .map(|_| ())
        .map_err(|source| unread_weights(stage, path, &source))
}

fn unread_weights(stage: &str, path: &Path, source: &std::io::Error) -> Error {
    Error::Stage {
        stage: stage.to_string(),
        reason: format!("the weights `{}` cannot be read: {source}", path.display()),
        hint: Some(Hint::GetWeights(match stage {
            "faces" => Weights::RetinaFace,
            _ => Weights::Yolox,
        })),
    }
}

/// The name of the ledger's fact that says which network a stage ran.
pub(crate) fn network_fact(stage: &str) -> String {
    format!("network of {stage}")
}

/// Calls `take` with every score that a detector's stage gave to a photo that stage number `last` kept.
pub(crate) fn for_each_score(
    ledger: &Ledger,
    last: i64,
    mut take: impl FnMut(i64, f64),
) -> Result<(), Error> {
    for name in ["faces", "persons"] {
        let Some(stage) = ledger.stage(name)? else {
            continue;
        };
        ledger.for_each_score(stage.id, last, &mut take)?;
    }
    Ok(())
}

/// For each photo that stage number `last` kept, the highest score from any detector's stage. People see the
/// photos in descending order of these scores.
pub(crate) fn residual_scores(ledger: &Ledger, last: i64) -> Result<HashMap<i64, f64>, Error> {
    let mut highest: HashMap<i64, f64> = HashMap::new();
    for_each_score(ledger, last, |photo, score| {
        let known = highest.entry(photo).or_insert(score);
        *known = known.max(score);
    })?;
    Ok(highest)
}

/// Photos whose decisions are written together.
const BATCH: usize = 64;

/// Pixels decoded at a time, three bytes each; one photo may have more.
const PIXELS: u64 = 1 << 26;

/// Side of the plain picture that shows whether a detector still works, px.
const PLAIN_PX: u32 = 64;

/// A stage with its detector.
struct DetectorStage {
    detector: Box<dyn Detector>,
    stage: &'static str,
    /// The reason for dropping photos.
    reason: &'static str,
    /// Photos with a higher score are dropped; compared in f32, the type of the detectors' scores.
    score: f64,
}

impl Stage for DetectorStage {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let network = self.detector.network();
        work.ledger.set_fact(&network_fact(self.stage), &network)?;
        loop {
            let batch = work.next(BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            let files = work.files(&batch)?;
            let read = |photo: &Photo| {
                data::caught(|| files.read(photo)).unwrap_or_else(|message| Err(panicked(photo.id, message)))
            };
            let files: Vec<Result<PhotoFile, Decision>> = batch.par_iter().map(read).collect();
            let mut decisions = Vec::with_capacity(batch.len());
            let mut at = 0;
            while at < batch.len() {
                let end = at + within(&files[at..]);
                self.judge(&batch[at..end], &files[at..end], &mut decisions)?;
                at = end;
            }
            work.decide(&decisions)?;
        }
    }
}

impl DetectorStage {
    /// Decides on photos that are decoded together. A photo that cannot be read or decoded is dropped.
    fn judge(
        &self,
        photos: &[Photo],
        files: &[Result<PhotoFile, Decision>],
        decisions: &mut Vec<Decision>,
    ) -> Result<(), Error> {
        let decoded: Vec<Result<RgbImage, Decision>> = photos
            .par_iter()
            .zip(files)
            .map(|(photo, file)| {
                let file = file.as_ref().map_err(Clone::clone)?;
                data::decode(&file.bytes, &DecodeLimits::DEFAULT).map_err(|error| {
                    Decision::dropped(photo.id, decode_reason(&error))
                        .detail(error.to_string())
                        .of_file(file.content)
                })
            })
            .collect();
        let mut images = Vec::with_capacity(decoded.len());
        let mut seen = Vec::with_capacity(decoded.len());
        for ((photo, file), image) in photos.iter().zip(files).zip(decoded) {
            match (image, file) {
                (Ok(image), Ok(file)) => {
                    images.push(image);
                    seen.push((photo.id, file.content));
                }
                (Err(decision), _) => decisions.push(decision),
                (_, Err(decision)) => decisions.push(decision.clone()),
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let scores = match data::caught(|| self.scores(&images)) {
            Ok(scores) => scores?.into_iter().map(Ok).collect(),
            // One of them made the program panic: each alone, so that the others are decided on.
            Err(_) => self.scores_one_by_one(&images)?,
        };
        decisions.extend(seen.into_iter().zip(scores).map(|((id, content), score)| {
            let decision = match score {
                Ok(score) if score > self.score as f32 => {
                    Decision::dropped(id, self.reason).score(f64::from(score))
                }
                Ok(score) => Decision::kept(id).score(f64::from(score)),
                Err(message) => panicked(id, message),
            };
            decision.of_file(content)
        }));
        Ok(())
    }

    /// The highest score in each photo.
    fn scores(&self, images: &[RgbImage]) -> Result<Vec<f32>, Error> {
        let scores = self
            .detector
            .top_scores(images)
            .map_err(|reason| failed(self.stage, reason))?;
        if scores.len() == images.len() {
            return Ok(scores);
        }
        let reason = format!(
            "the detector gave {} scores for {} photos",
            scores.len(),
            images.len()
        );
        Err(failed(self.stage, reason))
    }

    /// The same, or the message of a photo's panic. A detector that panics on a plain picture too has failed,
    /// as with a lost device: that is no photo's fault, and an error.
    fn scores_one_by_one(&self, images: &[RgbImage]) -> Result<Vec<Result<f32, String>>, Error> {
        let mut scores = Vec::with_capacity(images.len());
        for image in images {
            match data::caught(|| self.scores(std::slice::from_ref(image))) {
                Ok(score) => scores.push(Ok(score?.into_iter().next().unwrap_or_default())),
                Err(message) => {
                    let plain = RgbImage {
                        width: PLAIN_PX,
                        height: PLAIN_PX,
                        pixels: vec![128; (PLAIN_PX * PLAIN_PX * 3) as usize],
                    };
                    match data::caught(|| self.scores(&[plain])) {
                        Ok(plain) => plain.map(drop)?,
                        Err(again) => {
                            return Err(failed(self.stage, format!("the detector panicked: {again}")));
                        }
                    }
                    scores.push(Err(message));
                }
            }
        }
        Ok(scores)
    }
}

/// How many of the files may be decoded together: as many as fit into [`PIXELS`], and at least one.
fn within(files: &[Result<PhotoFile, Decision>]) -> usize {
    let pixels = files
        .iter()
        .map(|file| file.as_ref().map_or(0, |file| data::header_pixels(&file.bytes)));
    data::decoded_together(pixels, PIXELS)
}

#[cfg(test)]
mod tests;
