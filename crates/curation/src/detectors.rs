//! Stages that drop photos in which a detector sees faces or persons.
//!
//! This crate runs no network: [`Detectors`] is all that it asks of whoever has some (`cli` hands over those of the crate
//! `detection`). A stage reads and decodes photos, asks for the highest score of each, and writes score and decision of every
//! photo into the ledger, a batch a transaction, so that a kill loses one batch.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use data::{DecodeLimits, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contents;
use crate::error::Error;
use crate::integrity::{chain, decode_reason};
use crate::ledger::{Decision, Ledger};
use crate::stage::{Stage, Work};

/// Photos with a face are dropped: RetinaFace, as PASS used it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FacesConfig {
    /// The file of weights, `mobilenet0.25_Final.pth`. Its content and not its path is kept with the decisions.
    pub weights: PathBuf,
    /// A photo with a face of more than this is dropped; PASS: 0.5.
    pub score: f64,
    /// Faces must score more than this to count at all; a photo with none has score 0 in the ledger. PASS: 0.02.
    pub candidate_score: f64,
    /// Of faces that overlap by more than this only the best counts; PASS: 0.4.
    pub nms_iou: f64,
    /// At which size photos are seen; PASS: `"original"`.
    pub scale: FaceScale,
    /// Photos of one size that go through the network together. Changes no result.
    pub batch_images: usize,
    /// Parts of large photos are seen too; absent: off, as in PASS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TilesConfig>,
}

/// At which size the face detector sees photos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaceScale {
    /// At their own.
    Original,
    /// The shorter side has so many px, the longer one not more than so many. PASS's script has 1600 and 2150, switched off.
    Sides {
        /// Length of the shorter side, px.
        shorter_px: u32,
        /// Greatest length of the longer side, px.
        longer_px: u32,
    },
}

/// Photos with a person are dropped: a network of the YOLOX family. (PASS's own, a Cascade R-CNN, is not to be had here.)
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PersonsConfig {
    /// The ONNX file. Its content and not its path is kept with the decisions.
    pub weights: PathBuf,
    /// The class that is looked for, by the network's count; COCO's persons are 0.
    pub class: usize,
    /// A photo with a person of more than this is dropped; PASS: 0.5, with its own detector.
    pub score: f64,
    /// Persons must score more than this to count at all; a photo with none has score 0 in the ledger.
    pub candidate_score: f64,
    /// Of boxes that overlap by more than this only the best counts; YOLOX's demonstration: 0.45.
    pub nms_iou: f64,
    /// Parts of large photos are seen too; absent: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TilesConfig>,
}

/// How large photos are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TilesConfig {
    /// Side of a tile, px. A photo whose longer side is no longer than this is seen once, as a whole.
    pub tile_px: u32,
    /// What neighbouring tiles share at least, px.
    pub overlap_px: u32,
}

/// A detector at work.
pub trait Detector: Send + Sync {
    /// How sure it is that each photo shows what it looks for: the highest score in it, 0 where there is none. A photo's score
    /// does not depend on the others.
    ///
    /// # Errors
    /// Why it cannot look at them.
    fn top_scores(&self, photos: &[RgbImage]) -> Result<Vec<f32>, String>;
}

/// Where detectors come from. A stage's is asked for when the stage begins, and is gone when it ends.
pub trait Detectors {
    /// A detector of faces.
    ///
    /// # Errors
    /// Why there is none: weights that are not the network's, a device that is not there.
    fn faces(&self, config: &FacesConfig) -> Result<Box<dyn Detector>, String>;

    /// A detector of persons.
    ///
    /// # Errors
    /// As [`Detectors::faces`].
    fn persons(&self, config: &PersonsConfig) -> Result<Box<dyn Detector>, String>;
}

/// No detectors, for programs that have none: configs without such stages run.
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

impl FacesConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        check(
            "faces",
            [self.score, self.candidate_score, self.nms_iou],
            self.tiles,
        )?;
        if self.batch_images == 0 {
            return Err(Error::config(
                "stages.faces.batch_images",
                "expected at least 1, found 0",
            ));
        }
        match self.scale {
            FaceScale::Sides {
                shorter_px,
                longer_px,
            } if shorter_px == 0 || longer_px < shorter_px => {
                let reason = format!(
                    "expected sides from 1 px, the longer one not below the shorter, found {shorter_px} and {longer_px}"
                );
                Err(Error::config("stages.faces.scale", reason))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn stage(&self, detectors: &dyn Detectors) -> Result<Box<dyn Stage>, Error> {
        Ok(Box::new(Looking {
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
        )
    }

    pub(crate) fn stage(&self, detectors: &dyn Detectors) -> Result<Box<dyn Stage>, Error> {
        Ok(Box::new(Looking {
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
            return Err(Error::config(
                &key(name),
                format!("expected 0 to 1, found {value}"),
            ));
        }
    }
    if candidate > score {
        let reason = format!("expected at most score = {score}, found {candidate}");
        return Err(Error::config(&key("candidate_score"), reason));
    }
    match tiles {
        Some(tiles) if tiles.overlap_px >= tiles.tile_px => {
            let reason = format!(
                "expected less than tile_px = {}, found {}",
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

/// SHA-256 of a file of weights, in hex. A missing file is an error that says where to get it.
pub(crate) fn weights_sha256(stage: &str, path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(|error| {
        let source = match stage {
            "faces" => {
                "`mobilenet0.25_Final.pth` (1.8 MB, MIT) is among the weights of github.com/biubug6/Pytorch_Retinaface, and in \
                 PASS's repository, github.com/yukimasano/PASS, below PASSify/face/weights"
            }
            _ => {
                "YOLOX's ONNX files (`yolox_nano.onnx` to `yolox_x.onnx`, Apache-2.0) are among the releases of \
                 github.com/Megvii-BaseDetection/YOLOX; the larger, the fewer people it misses"
            }
        };
        Error::Stage {
            stage: stage.to_string(),
            reason: format!("the weights `{}` cannot be read: {error}", path.display()),
            hint: Some(format!("{source}; give the file as `weights`")),
        }
    })?;
    let (mut hasher, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part).map_err(Error::io("read", path))? {
            0 => return Ok(data::hex(&hasher.finalize())),
            read => hasher.update(&part[..read]),
        }
    }
}

/// Calls `take` with every score that a detector's stage gave to a photo which stage number `last` kept.
pub(crate) fn for_each_score(
    ledger: &Ledger,
    last: i64,
    mut take: impl FnMut(i64, f64),
) -> Result<(), Error> {
    for name in ["faces", "persons"] {
        let Some(stage) = ledger.stage(name)? else {
            continue;
        };
        ledger.sql(|db| {
            let mut statement = db.prepare(
                "SELECT d.photo, d.score FROM decisions s CROSS JOIN decisions d ON d.stage = ? AND d.photo = s.photo \
                 WHERE s.stage = ? AND s.kept = 1 AND d.score IS NOT NULL",
            )?;
            let mut rows = statement.query([stage.id, last])?;
            while let Some(row) = rows.next()? {
                take(row.get(0)?, row.get(1)?);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Of each photo that stage number `last` kept, the highest score that a detector's stage gave it. What it is sorted by is
/// what people look at first.
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

/// Pixels that are decoded at a time, three bytes each; one photo may have more.
const PIXELS: u64 = 1 << 26;

/// A stage with its detector.
struct Looking {
    detector: Box<dyn Detector>,
    stage: &'static str,
    /// Why photos go.
    reason: &'static str,
    /// Above which score they do; compared in f32, in which detectors count.
    score: f64,
}

impl Stage for Looking {
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        let taken_down = contents::taken_down(work.ledger)?;
        loop {
            let batch = work.next(BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            let photos = work.photos();
            let noted = contents::noted(work.ledger, &batch)?;
            let files: Vec<Result<Vec<u8>, Error>> =
                batch.par_iter().map(|photo| photos.read(photo)).collect();
            let seen: Vec<Option<contents::Content>> = files
                .par_iter()
                .map(|file| file.as_ref().ok().map(|file| contents::sha256(file)))
                .collect();
            let mut decisions = Vec::with_capacity(batch.len());
            let mut at = 0;
            while at < batch.len() {
                let count = within(&files[at..]);
                let decoded: Vec<Result<RgbImage, Decision>> = (at..at + count)
                    .into_par_iter()
                    .map(|at| {
                        let id = batch[at].id;
                        // A photo at which nobody could look does not pass.
                        let file = files[at]
                            .as_ref()
                            .map_err(|error| Decision::dropped(id, "unreadable").detail(chain(error)))?;
                        let refused = seen[at]
                            .as_ref()
                            .and_then(|content| contents::refusal(id, content, &noted, &taken_down));
                        if let Some(refused) = refused {
                            return Err(refused);
                        }
                        data::decode(file, &DecodeLimits::DEFAULT).map_err(|error| {
                            Decision::dropped(id, decode_reason(&error)).detail(error.to_string())
                        })
                    })
                    .collect();
                self.judge(&batch[at..at + count], decoded, &mut decisions)?;
                at += count;
            }
            let stage = work.stage;
            let seen = batch.iter().zip(seen);
            let seen = seen.filter_map(|(photo, content)| Some((photo.id, content?)));
            work.decide_with(&decisions, |ledger| contents::note(ledger, stage, seen))?;
            work.remove_taken_down(&batch, &decisions)?;
        }
    }
}

impl Looking {
    fn judge(
        &self,
        photos: &[crate::Photo],
        decoded: Vec<Result<RgbImage, Decision>>,
        decisions: &mut Vec<Decision>,
    ) -> Result<(), Error> {
        let mut images = Vec::with_capacity(decoded.len());
        let mut ids = Vec::with_capacity(decoded.len());
        for (photo, image) in photos.iter().zip(decoded) {
            match image {
                Ok(image) => {
                    images.push(image);
                    ids.push(photo.id);
                }
                Err(decision) => decisions.push(decision),
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let scores = self
            .detector
            .top_scores(&images)
            .map_err(|reason| failed(self.stage, reason))?;
        if scores.len() != ids.len() {
            let reason = format!(
                "the detector gave {} scores for {} photos",
                scores.len(),
                ids.len()
            );
            return Err(failed(self.stage, reason));
        }
        decisions.extend(ids.into_iter().zip(scores).map(|(id, score)| {
            let decision = match score > self.score as f32 {
                true => Decision::dropped(id, self.reason),
                false => Decision::kept(id),
            };
            decision.score(f64::from(score))
        }));
        Ok(())
    }
}

/// How many of the files may be decoded together: as many as have [`PIXELS`], and one at least.
fn within(files: &[Result<Vec<u8>, Error>]) -> usize {
    let pixels = files
        .iter()
        .map(|file| file.as_ref().map_or(0, |file| data::header_pixels(file)));
    data::decoded_together(pixels, PIXELS)
}

#[cfg(test)]
#[path = "detectors/tests.rs"]
mod tests;
