//! Reads the detectors of the crate `detection`, and connects them to the stages of a curation, which know only an
//! interface.

use crate::devices::DeviceArgument;
use crate::failure::in_one_line;
use anyhow::Context;
use burn::tensor::Device;
use curation::{DetectedBox, FaceScale, FacesConfig, PersonsConfig};
use data::RgbImage;
use detection::{
    Detection, DetectionError, Detector, Objects, ObjectsConfig, Photo, RetinaFace, RetinaFaceConfig, Scale,
    Tiled, TilesConfig, top_score,
};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Detectors on the device that the user named. A stage that needs one opens the device.
pub(crate) struct OnDevice<'a>(pub(crate) &'a DeviceArgument);

impl curation::Detectors for OnDevice<'_> {
    fn faces(&self, config: &FacesConfig) -> Result<Box<dyn curation::Detector>, String> {
        faces(config, self.0).map_err(|error| in_one_line(&error))
    }

    fn persons(&self, config: &PersonsConfig) -> Result<Box<dyn curation::Detector>, String> {
        persons(config, self.0).map_err(|error| in_one_line(&error))
    }
}

fn faces(config: &FacesConfig, device: &DeviceArgument) -> anyhow::Result<Box<dyn curation::Detector>> {
    let device = device.open()?;
    let settings = RetinaFaceConfig {
        candidate_score: config.candidate_score as f32,
        nms_iou: config.nms_iou as f32,
        scale: match config.scale {
            FaceScale::Original => Scale::Original,
            FaceScale::Sides {
                shorter_px,
                longer_px,
            } => Scale::Sides {
                shorter_px,
                longer_px,
            },
        },
        batch_images: config.batch_images,
        side_by_side: device == Device::flex(),
    };
    let detector = RetinaFace::read(&mut open(&config.weights)?, settings, &device)?;
    let detector = tiled(detector, tiles(config.tiles, config.nms_iou))?;
    Ok(Box::new(Scores(detector, "RetinaFace".to_owned())))
}

fn persons(config: &PersonsConfig, device: &DeviceArgument) -> anyhow::Result<Box<dyn curation::Detector>> {
    let device = device.open()?;
    let settings = ObjectsConfig {
        classes: Some(vec![config.class]),
        candidate_score: config.candidate_score as f32,
        nms_iou: Some(config.nms_iou as f32),
        batch_images: config.batch_images,
        on_cpu: device == Device::flex(),
        sides_px: config
            .sides
            .map(|sides| [sides.shorter_px, sides.longer_px].map(|side| side as usize)),
        masks: false,
        norm_epsilon: None,
    };
    let detector = read_objects(&config.weights, &settings, &device)?;
    let network = detector.describe();
    let detector = tiled(detector, tiles(config.tiles, config.nms_iou))?;
    Ok(Box::new(Scores(detector, network)))
}

/// A file of weights.
pub(crate) fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot read the weights `{}`", path.display()))?;
    Ok(BufReader::new(file))
}

/// The detector of objects in a file.
pub(crate) fn read_objects(path: &Path, config: &ObjectsConfig, device: &Device) -> anyhow::Result<Objects> {
    Objects::read(&mut open(path)?, config, device)
        .with_context(|| format!("cannot read the detector from `{}`", path.display()))
}

fn tiles(tiles: Option<curation::TilesConfig>, nms_iou: f64) -> Option<TilesConfig> {
    tiles.map(|tiles| TilesConfig {
        tile_px: tiles.tile_px,
        overlap_px: tiles.overlap_px,
        nms_iou: nms_iou as f32,
    })
}

/// The detector, with tiles if there are any.
pub(crate) fn tiled(
    detector: impl Detector + 'static,
    tiles: Option<TilesConfig>,
) -> Result<Box<dyn Detector>, DetectionError> {
    Ok(match tiles {
        Some(tiles) => Box::new(Tiled::new(detector, tiles)?),
        None => Box::new(detector),
    })
}

/// A detector behind the interface of a curation, and what it is in words.
struct Scores(Box<dyn Detector>, String);

impl curation::Detector for Scores {
    fn network(&self) -> String {
        self.1.clone()
    }

    fn top_scores(&self, photos: &[RgbImage]) -> Result<Vec<f32>, String> {
        let borrowed: Vec<Photo<'_>> = photos.iter().map(photo).collect();
        let found = self.0.detect(&borrowed).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|detections| top_score(detections)).collect())
    }

    fn boxes(&self, photos: &[RgbImage]) -> Result<Vec<Vec<DetectedBox>>, String> {
        let borrowed: Vec<Photo<'_>> = photos.iter().map(photo).collect();
        let found = self.0.detect(&borrowed).map_err(|error| error.to_string())?;
        let boxes = |detections: &Vec<Detection>| {
            let boxes = detections.iter().map(|detection| DetectedBox {
                edges_px: [
                    detection.bounds.left,
                    detection.bounds.top,
                    detection.bounds.right,
                    detection.bounds.bottom,
                ],
                score: detection.score,
            });
            boxes.collect()
        };
        Ok(found.iter().map(boxes).collect())
    }
}

/// A photo in the detectors' format.
pub(crate) fn photo(image: &RgbImage) -> Photo<'_> {
    Photo {
        width: image.width,
        height: image.height,
        pixels: &image.pixels,
    }
}
