//! Any detector of the YOLOX family in an ONNX file, on the CPU.
//!
//! Ge, Liu, Wang, Li, Sun, *YOLOX: Exceeding YOLO series in 2021*, 2021. The file comes from the project's
//! export: one input `[1, 3, height, width]`, blue, green, red from 0 to 255; one output
//! `[1, places, 5 + classes]`: for each position center and size relative to its cell, the objectness and the
//! class probabilities, the last two from 0 to 1.

use std::io::Read;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::boxes::{BoundingBox, Edges};
use crate::detector::{Detection, Detector, Photo};
use crate::error::{DetectionError, Hint, check_share};
use crate::onnx::Network;
use crate::resize::{Letterbox, resize};
use crate::tiles::suppressed;

/// COCO's class of persons, the first.
pub const COCO_PERSON: usize = 0;

/// Strides of the feature maps.
const STRIDES: [usize; 3] = [8, 16, 32];

/// Padding of the box around a photo.
const GRAY: f32 = 114.0;

/// Settings of a YOLOX detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YoloxConfig {
    /// The classes to report, in the network's numbering; `[0]` is COCO's persons.
    pub classes: Vec<usize>,
    /// Detections with a higher score are reported. (PASS dropped photos with a person above
    /// [`PASS_PERSON_SCORE`](crate::PASS_PERSON_SCORE), with another detector.)
    pub candidate_score: f32,
    /// NMS IoU threshold within a class; YOLOX's demonstration: 0.45.
    pub nms_iou: f32,
}

impl YoloxConfig {
    /// Persons, for a network trained on COCO.
    pub fn persons() -> Self {
        Self {
            classes: vec![COCO_PERSON],
            candidate_score: 0.02,
            nms_iou: 0.45,
        }
    }

    /// Checks these settings.
    ///
    /// # Errors
    /// [`DetectionError::Config`], which names the key.
    pub fn validate(&self) -> Result<(), DetectionError> {
        check_share("candidate_score", self.candidate_score)?;
        check_share("nms_iou", self.nms_iou)?;
        if self.classes.is_empty() {
            return Err(DetectionError::Config(
                "`classes` must name at least one class, got none; COCO's persons are [0]".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The detector. It has no landmarks.
#[derive(Debug)]
pub struct Yolox {
    network: Network,
    config: YoloxConfig,
    /// Size of the input, px.
    width: usize,
    height: usize,
    /// Values that the network gives for each position.
    numbers: usize,
}

impl Yolox {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// [`DetectionError::Onnx`] for another kind of file or network, [`DetectionError::NoOnnx`] if this build
    /// has no ONNX support, [`DetectionError::Config`] if the network lacks a class.
    pub fn read<R: Read>(source: &mut R, config: YoloxConfig) -> Result<Self, DetectionError> {
        config.validate()?;
        let network = Network::read(source)?;
        let (width, height) = input_of(&network)?;
        let numbers = output_of(&network, width, height)?;
        if let Some(class) = config.classes.iter().find(|class| **class + 5 >= numbers) {
            return Err(DetectionError::Config(format!(
                "`classes` must be below {}, the network's number of classes, got {class}",
                numbers - 5
            )));
        }
        Ok(Self {
            network,
            config,
            width,
            height,
            numbers,
        })
    }

    fn detect_one(&self, photo: &Photo<'_>) -> Result<Vec<Detection>, DetectionError> {
        let fit = Letterbox::new(photo.width, photo.height, self.width as u32, self.height as u32);
        let pixels = resize(photo, fit.width, fit.height);
        let (wide, area) = (fit.width as usize, self.width * self.height);
        let mut planes = vec![GRAY; 3 * area];
        for (plane, channel) in planes.chunks_exact_mut(area).zip([2, 1, 0]) {
            for (to, from) in plane
                .chunks_exact_mut(self.width)
                .zip(pixels.chunks_exact(wide * 3))
            {
                for (to, from) in to.iter_mut().zip(from.iter().skip(channel).step_by(3)) {
                    *to = f32::from(*from);
                }
            }
        }
        let output = self.network.run([1, 3, self.height, self.width], &planes)?;
        Ok(self.decode(&output, fit.ratio))
    }

    /// The detections in the output, `[places, numbers]`.
    fn decode(&self, output: &[f32], ratio: f32) -> Vec<Detection> {
        let mut found = Vec::new();
        for (cell, numbers) in cells(self.width, self.height).zip(output.chunks_exact(self.numbers)) {
            for class in &self.config.classes {
                let score = numbers[4] * numbers[5 + class];
                if score.is_nan() || score <= self.config.candidate_score {
                    continue;
                }
                found.push(Detection {
                    bounds: decode(cell, [numbers[0], numbers[1], numbers[2], numbers[3]])
                        .scaled(1.0 / ratio, 1.0 / ratio),
                    class: *class,
                    score,
                    landmarks: Vec::new(),
                });
            }
        }
        suppressed(found, self.config.nms_iou, Edges::Continuous)
    }
}

impl Detector for Yolox {
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        for (position, photo) in photos.iter().enumerate() {
            photo.check(position)?;
        }
        photos.par_iter().map(|photo| self.detect_one(photo)).collect()
    }
}

/// Column, row and stride of each position of the output, in order.
fn cells(width: usize, height: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    STRIDES.into_iter().flat_map(move |stride| {
        let columns = width / stride;
        (0..columns * (height / stride)).map(move |place| (place % columns, place / columns, stride))
    })
}

/// The box, in pixels of the input, for a cell's values: the center in cells from its corner, the logarithm
/// of the size in cells.
fn decode((column, row, stride): (usize, usize, usize), [x, y, width, height]: [f32; 4]) -> BoundingBox {
    let stride = stride as f32;
    BoundingBox::centered(
        [(x + column as f32) * stride, (y + row as f32) * stride],
        [width.exp() * stride, height.exp() * stride],
    )
}

/// Width and height of a network's input.
fn input_of(network: &Network) -> Result<(usize, usize), DetectionError> {
    let shape = network.input_shape()?;
    match shape.as_deref() {
        Some(&[1, 3, height, width]) if network.inputs() == 1 && (height % 32, width % 32) == (0, 0) => {
            Ok((width, height))
        }
        _ => Err(DetectionError::Onnx {
            reason: format!(
                "its input must be one [1, 3, height, width] of multiples of 32, got {} of shape {shape:?}",
                network.inputs()
            ),
            hint: Some(Hint::ExportFixedSize),
        }),
    }
}

/// The number of values that a network gives for each position.
fn output_of(network: &Network, width: usize, height: usize) -> Result<usize, DetectionError> {
    let shape = network.output_shape()?;
    let places = cells(width, height).count();
    match shape.as_deref() {
        Some(&[1, found, numbers]) if found == places && numbers > 5 => Ok(numbers),
        _ => Err(DetectionError::Onnx {
            reason: format!(
                "its output must be [1, {places}, 5 + classes] for images of {width} x {height} px, got {shape:?}"
            ),
            hint: Some(Hint::ExportWithoutDecoding),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_run_from_fine_to_coarse() {
        let cells = cells(64, 32).collect::<Vec<_>>();
        assert_eq!(cells.len(), 8 * 4 + 4 * 2 + 2);
        assert_eq!((cells[0], cells[1], cells[8]), ((0, 0, 8), (1, 0, 8), (0, 1, 8)));
        assert_eq!((cells[32], cells[41]), ((0, 0, 16), (1, 0, 32)));
        assert_eq!(super::cells(416, 416).count(), 3549);
    }

    #[test]
    fn a_cells_numbers_are_relative_to_it() {
        let found = decode((2, 1, 16), [0.5, 0.25, 0.0, 2f32.ln()]);
        // Center 2.5 and 1.25 cells of 16 px, 16 px wide, 32 px high.
        let edges = [found.left, found.top, found.right, found.bottom];
        assert_eq!(edges, [32.0, 4.0, 48.0, 36.0]);
    }

    #[test]
    fn bad_files_and_numbers_are_named() {
        let error = Yolox::read(&mut &b"not an onnx file"[..], YoloxConfig::persons()).unwrap_err();
        let message = match cfg!(feature = "onnx") {
            true => "the ONNX file cannot be used: ",
            false => "this build reads no ONNX files",
        };
        assert!(error.to_string().starts_with(message), "{error}");
        let none = YoloxConfig {
            classes: vec![],
            ..YoloxConfig::persons()
        };
        assert_eq!(
            none.validate().unwrap_err().to_string(),
            "`classes` must name at least one class, got none; COCO's persons are [0]"
        );
    }
}
