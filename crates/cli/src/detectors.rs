//! Connects the detectors of the crate `detection` to the stages of a curation, which know only an interface.

use crate::devices::DeviceArgument;
use crate::failure::in_one_line;
use burn::tensor::Device;
use curation::{DetectedBox, FaceScale, FacesConfig, PersonsConfig};
use data::RgbImage;
use detection::{
    Detection, Detector, Photo, RetinaFace, RetinaFaceConfig, Scale, Tiled, TilesConfig, Yolox, YoloxConfig,
    top_score,
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
    boxed(detector, config.tiles, config.nms_iou)
}

fn persons(config: &PersonsConfig, device: &DeviceArgument) -> anyhow::Result<Box<dyn curation::Detector>> {
    let device = device.open()?;
    let settings = YoloxConfig {
        classes: vec![config.class],
        candidate_score: config.candidate_score as f32,
        nms_iou: config.nms_iou as f32,
        batch_images: config.batch_images,
        side_by_side: device == Device::flex(),
    };
    let detector = Yolox::read(&mut open(&config.weights)?, settings, &device)?;
    boxed(detector, config.tiles, config.nms_iou)
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path)?))
}

/// With tiles, if the config requests them.
fn boxed(
    detector: impl Detector + 'static,
    tiles: Option<curation::TilesConfig>,
    nms_iou: f64,
) -> anyhow::Result<Box<dyn curation::Detector>> {
    let Some(tiles) = tiles else {
        return Ok(Box::new(Scores(detector)));
    };
    let config = TilesConfig {
        tile_px: tiles.tile_px,
        overlap_px: tiles.overlap_px,
        nms_iou: nms_iou as f32,
    };
    Ok(Box::new(Scores(Tiled::new(detector, config)?)))
}

/// A detector behind the interface of a curation.
struct Scores<D>(D);

impl<D: Detector> curation::Detector for Scores<D> {
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
