//! Detectors of the YOLOX family, from the project's ONNX exports or its `.pth` files, on any device.
//!
//! Ge, Liu, Wang, Li, Sun, *YOLOX: Exceeding YOLO series in 2021*, 2021. Input `[1, 3, height, width]`: blue,
//! green, red from 0 to 255. Output `[1, places, 5 + classes]`: for each position center and size relative to its
//! cell, the objectness and the class probabilities, the last two from 0 to 1.
//!
//! With the feature `onnx`, any other network of this input and output runs from its ONNX file, on the CPU.

mod from_checkpoint;
mod from_onnx;
mod graph;
#[cfg(test)]
#[path = "yolox/tests.rs"]
mod networks;

use std::io::{Read, Seek};

use burn::tensor::{Device, Tensor, TensorData};
use data::targets::BoundingBox;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use weights::format::OnnxGraph;
use weights::{Checkpoint, CheckpointError};

use crate::boxes::Edges;
use crate::detector::{Detection, Detector, Photo};
use crate::error::{DetectionError, Hint, check_count, check_share};
use crate::resize::{Letterbox, resize};
use crate::tiles::suppressed;
use from_onnx::Fault;
use graph::Graph;

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
    /// The classes to report, in the network's numbering; `[0]` is COCO's persons. `None`: all, and of each position
    /// the most probable one alone, as YOLOX's demonstration.
    pub classes: Option<Vec<usize>>,
    /// Detections with a higher score are reported. (PASS dropped photos with a person above
    /// [`PASS_PERSON_SCORE`](crate::PASS_PERSON_SCORE), with another detector.)
    pub candidate_score: f32,
    /// NMS IoU threshold within a class; YOLOX's demonstration: 0.45.
    pub nms_iou: f32,
    /// Maximum photos per forward pass. A photo's scores do not depend on its neighbors. Changes no result.
    pub batch_images: usize,
    /// Whether photos run in parallel, one per core and pass: for CPUs only. Changes no result.
    pub side_by_side: bool,
}

impl YoloxConfig {
    /// Persons, for a network trained on COCO, on a CPU.
    pub fn persons() -> Self {
        Self {
            classes: Some(vec![COCO_PERSON]),
            candidate_score: 0.02,
            nms_iou: 0.45,
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
        if self.classes.as_ref().is_some_and(Vec::is_empty) {
            return Err(DetectionError::Config(
                "`classes` must name at least one class, got none; COCO's persons are [0]".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What computes the output.
#[derive(Debug)]
enum Network {
    /// YOLOX itself, on a device.
    Yolox(Graph, Device),
    /// Another network, on the CPU, one photo a pass.
    #[cfg(feature = "onnx")]
    Foreign(crate::onnx::Network),
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
    /// Reads a file onto a device without autodiff: an ONNX file, whose input has a fixed size, or the `.pth`
    /// (safetensors too) of YOLOX-nano, tiny, s, m, l or x, or of another depth, width and number of classes.
    /// The `.pth` takes images of 416 px if its stem is narrower than that of YOLOX-s, otherwise of 640 px.
    ///
    /// # Errors
    /// [`DetectionError::Onnx`] for another kind of file or network, [`DetectionError::ForeignOnnx`] for an ONNX
    /// file of other operations if this build cannot run them, [`DetectionError::Mismatch`] for a `.pth` of
    /// another network, [`DetectionError::Config`] if the network lacks a class.
    pub fn read<R: Read + Seek>(
        source: &mut R,
        config: YoloxConfig,
        device: &Device,
    ) -> Result<Self, DetectionError> {
        config.validate()?;
        let (network, [height, width], output) = match is_onnx(source)? {
            true => of_onnx(source, device)?,
            false => {
                let checkpoint = Checkpoint::open(source)?;
                of_graph(from_checkpoint::graph(&checkpoint, source, device)?, device)
            }
        };
        let numbers = numbers(width, height, &output)?;
        let classes = config.classes.iter().flatten();
        if let Some(class) = classes.copied().find(|class| *class >= numbers - 5) {
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

    /// Its settings.
    pub fn config(&self) -> &YoloxConfig {
        &self.config
    }

    /// Classes of the network.
    pub fn classes(&self) -> usize {
        self.numbers - 5
    }

    /// Width and height of its input, px.
    pub fn input(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// The detections of photos in one pass.
    fn detect_batch(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let area = self.width * self.height;
        let mut planes = vec![GRAY; photos.len() * 3 * area];
        let fits = photos.iter().zip(planes.chunks_exact_mut(3 * area));
        let ratios = fits
            .map(|(photo, planes)| self.fit(photo, planes))
            .collect::<Vec<_>>();
        let shape = [photos.len(), 3, self.height, self.width];
        let output = match &self.network {
            Network::Yolox(graph, device) => {
                let images = Tensor::from_data(TensorData::new(planes, shape), device);
                graph
                    .forward(images)
                    .into_data()
                    .iter::<f32>()
                    .collect::<Vec<_>>()
            }
            #[cfg(feature = "onnx")]
            Network::Foreign(network) => network.run(shape, &planes)?,
        };
        let of_photo = output.chunks_exact(output.len() / photos.len());
        let decoded = of_photo
            .zip(ratios)
            .map(|(output, ratio)| self.decode(output, ratio));
        Ok(decoded.collect())
    }

    /// Writes a photo into three planes as the network sees it; returns the ratio of its size there to its own.
    fn fit(&self, photo: &Photo<'_>, planes: &mut [f32]) -> f32 {
        let fit = Letterbox::new(photo.width, photo.height, self.width as u32, self.height as u32);
        let pixels = resize(photo, fit.width, fit.height);
        let wide = fit.width as usize;
        for (plane, channel) in planes.chunks_exact_mut(self.width * self.height).zip([2, 1, 0]) {
            for (to, from) in plane
                .chunks_exact_mut(self.width)
                .zip(pixels.chunks_exact(wide * 3))
            {
                for (to, from) in to.iter_mut().zip(from.iter().skip(channel).step_by(3)) {
                    *to = f32::from(*from);
                }
            }
        }
        fit.ratio
    }

    /// The detections in the output, `[places, numbers]`.
    fn decode(&self, output: &[f32], ratio: f32) -> Vec<Detection> {
        let mut found = Vec::new();
        for (cell, numbers) in cells(self.width, self.height).zip(output.chunks_exact(self.numbers)) {
            let best = match &self.config.classes {
                Some(_) => None,
                None => numbers[5..].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)),
            };
            let chosen = self.config.classes.iter().flatten().copied();
            for class in chosen.chain(best.map(|(class, _)| class)) {
                let score = numbers[4] * numbers[5 + class];
                if score.is_nan() || score <= self.config.candidate_score {
                    continue;
                }
                found.push(Detection {
                    bounds: decode(cell, [numbers[0], numbers[1], numbers[2], numbers[3]])
                        .scaled(1.0 / ratio, 1.0 / ratio),
                    class,
                    score,
                    landmarks: Vec::new(),
                    mask: None,
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
        let side_by_side = match &self.network {
            Network::Yolox(..) => self.config.side_by_side,
            #[cfg(feature = "onnx")]
            Network::Foreign(_) => true,
        };
        let most = if side_by_side { 1 } else { self.config.batch_images };
        let batches = if side_by_side {
            let batches = photos.par_chunks(most).map(|batch| self.detect_batch(batch));
            batches.collect::<Result<Vec<_>, _>>()?
        } else {
            let batches = photos.chunks(most).map(|batch| self.detect_batch(batch));
            batches.collect::<Result<Vec<_>, _>>()?
        };
        Ok(batches.into_iter().flatten().collect())
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

/// A network, height and width of its input, and the shape of its output.
type Loaded = (Network, [usize; 2], Vec<usize>);

/// Whether a file is none of PyTorch's nor safetensors, which start with a signature or a length. (ONNX has no
/// signature: its first byte is the tag of the version's field.)
pub(crate) fn is_onnx<R: Read + Seek>(source: &mut R) -> Result<bool, DetectionError> {
    let mut start = Vec::new();
    source
        .by_ref()
        .take(9)
        .read_to_end(&mut start)
        .map_err(CheckpointError::from)?;
    source.rewind().map_err(CheckpointError::from)?;
    let safetensors = start.get(8) == Some(&b'{');
    Ok(!(start.starts_with(b"PK\x03\x04") || start.starts_with(&[0x80]) || safetensors))
}

fn of_graph(graph: Graph, device: &Device) -> Loaded {
    let [places, numbers] = graph.outputs;
    let input = graph.input;
    (
        Network::Yolox(graph, device.clone()),
        input,
        vec![1, places, numbers],
    )
}

fn of_onnx<R: Read + Seek>(source: &mut R, device: &Device) -> Result<Loaded, DetectionError> {
    let file = match OnnxGraph::read(source) {
        Ok(file) => file,
        Err(error) => {
            source.rewind().map_err(CheckpointError::from)?;
            // A web page or a pointer to a file, which this names.
            return Err(match Checkpoint::open(source) {
                Err(unknown @ CheckpointError::Unknown { hint: Some(_), .. }) => unknown.into(),
                _ => onnx(error.to_string(), None),
            });
        }
    };
    match from_onnx::graph(&file, device) {
        Ok(graph) => Ok(of_graph(graph, device)),
        Err(Fault::Input(reason)) => Err(onnx(reason, Some(Hint::ExportFixedSize))),
        Err(Fault::Operation(reason)) => foreign(source, reason),
    }
}

/// Another network, whose input must be one image of a fixed size.
#[cfg(feature = "onnx")]
fn foreign<R: Read + Seek>(source: &mut R, _: String) -> Result<Loaded, DetectionError> {
    source.rewind().map_err(CheckpointError::from)?;
    let network = crate::onnx::Network::read(source)?;
    let shape = network.input_shape()?;
    let Some(&[1, 3, height, width]) = shape.as_deref() else {
        return Err(onnx(
            format!("its input must be one [1, 3, height, width] of a fixed size, got {shape:?}"),
            Some(Hint::ExportFixedSize),
        ));
    };
    let input = [height, width];
    let output = network.output_shape()?.unwrap_or_default();
    Ok((Network::Foreign(network), input, output))
}

/// The feature `onnx` runs other networks.
#[cfg(not(feature = "onnx"))]
fn foreign<R>(_: &mut R, reason: String) -> Result<Loaded, DetectionError> {
    Err(DetectionError::ForeignOnnx { reason })
}

/// The number of values that a network gives for each position.
fn numbers(width: usize, height: usize, output: &[usize]) -> Result<usize, DetectionError> {
    if (height % 32, width % 32) != (0, 0) {
        return Err(onnx(
            format!("height and width of its input must be multiples of 32, got {height} and {width}"),
            Some(Hint::ExportFixedSize),
        ));
    }
    let places = cells(width, height).count();
    match output {
        &[1, found, numbers] if found == places && numbers > 5 => Ok(numbers),
        _ => Err(onnx(
            format!(
                "its output must be [1, {places}, 5 + classes] for images of {width} x {height} px, got {output:?}"
            ),
            Some(Hint::ExportWithoutDecoding),
        )),
    }
}

fn onnx(reason: String, hint: Option<Hint>) -> DetectionError {
    DetectionError::Onnx { reason, hint }
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
        let read = |bytes: &[u8]| {
            let mut source = std::io::Cursor::new(bytes.to_vec());
            Yolox::read(&mut source, YoloxConfig::persons(), &Device::flex()).unwrap_err()
        };
        let error = read(b"not an onnx file");
        assert!(
            error
                .to_string()
                .starts_with("the ONNX file cannot be used: damaged"),
            "{error}"
        );
        let page = read(b"<!DOCTYPE html><title>Not found</title>");
        assert!(page.to_string().ends_with(": it is a web page or XML"), "{page}");
        assert_eq!(page.hint(), Some(Hint::Weights(weights::Hint::DownloadAgain)));
        let none = YoloxConfig {
            classes: Some(vec![]),
            ..YoloxConfig::persons()
        };
        assert_eq!(
            none.validate().unwrap_err().to_string(),
            "`classes` must name at least one class, got none; COCO's persons are [0]"
        );
    }
}
