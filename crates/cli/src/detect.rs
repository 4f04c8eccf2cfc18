//! `passer detect`: the detections in each photo, as JSON lines, and a sheet with boxes drawn.

use crate::detectors::photo;
use crate::devices::DeviceArgument;
use crate::failure::{Failure, make_folder_of};
use crate::progress::ProgressBar;
use anyhow::Context;
use burn::tensor::Device;
use data::{Dataset, DecodeLimits, RgbImage};
use detection::{
    COCO_PERSON, Detection, Detector, Letterbox, PASS_FACE_SCORE, PASS_PERSON_SCORE, Photo, RetinaFace,
    RetinaFaceConfig, Scale, Tiled, TilesConfig, Yolox, YoloxConfig, resize, top_score,
};
use rayon::prelude::*;
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Find faces with RetinaFace, as PASS did; thresholds default to its own (docs/detection.md)
    Faces(FacesArguments),
    /// Find persons with a network of the YOLOX family
    Persons(PersonsArguments),
}

#[derive(clap::Args)]
pub(crate) struct FacesArguments {
    /// RetinaFace's weights: `mobilenet0.25_Final.pth`
    #[arg(long, value_name = "FILE.pth")]
    weights: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
    /// Photos with a face of more than this count as showing one, and are drawn on the sheet
    #[arg(long, value_name = "SCORE", default_value_t = PASS_FACE_SCORE)]
    score: f32,
    /// NMS IoU threshold
    #[arg(long, value_name = "IOU", default_value_t = 0.4)]
    nms_iou: f32,
    /// Resize photos first to this shorter side; by default the network sees them at their own size, as in PASS
    #[arg(long, value_name = "PX")]
    shorter_px: Option<u32>,
    /// With --shorter-px: greatest longer side
    #[arg(long, value_name = "PX", default_value_t = 2150, requires = "shorter_px")]
    longer_px: u32,
    /// Photos of one size that go through the network together
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_images: usize,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(clap::Args)]
pub(crate) struct PersonsArguments {
    /// YOLOX's weights: an ONNX export of a fixed size, or a `.pth`
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    #[command(flatten)]
    common: CommonArguments,
    /// Photos with a person of more than this count as showing one, and are drawn on the sheet
    #[arg(long, value_name = "SCORE", default_value_t = PASS_PERSON_SCORE)]
    score: f32,
    /// NMS IoU threshold within the class
    #[arg(long, value_name = "IOU", default_value_t = 0.45)]
    nms_iou: f32,
    /// The class to report, by the network's numbers; COCO's persons are 0
    #[arg(long, value_name = "N", default_value_t = COCO_PERSON)]
    class: usize,
    /// Photos that go through the network together, on a GPU
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_images: usize,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(clap::Args)]
struct CommonArguments {
    /// The photographs
    #[arg(long, value_name = "DATA")]
    data: String,
    /// The file to write: one JSON object per photo
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,
    /// Also draw the photos with detections into one picture, highest scores first
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Photos on the sheet, at most
    #[arg(long, value_name = "N", default_value_t = 60, requires = "sheet")]
    sheet_photos: usize,
    /// Detections must score more than this to be written
    #[arg(long, value_name = "SCORE", default_value_t = 0.02)]
    candidate_score: f32,
    /// Look at photos with a longer side than this in tiles of this side too
    #[arg(long, value_name = "PX")]
    tile_px: Option<u32>,
    /// With --tile-px: least overlap of neighboring tiles
    #[arg(long, value_name = "PX", default_value_t = 64, requires = "tile_px")]
    overlap_px: u32,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Faces(arguments) => faces(arguments),
        Verb::Persons(arguments) => persons(arguments),
    }
}

fn faces(arguments: FacesArguments) -> anyhow::Result<()> {
    check(
        arguments.score,
        arguments.common.candidate_score,
        arguments.nms_iou,
    )?;
    let device = arguments.device.open()?;
    let config = RetinaFaceConfig {
        candidate_score: arguments.common.candidate_score,
        nms_iou: arguments.nms_iou,
        scale: match arguments.shorter_px {
            Some(shorter_px) => Scale::Sides {
                shorter_px,
                longer_px: arguments.longer_px,
            },
            None => Scale::Original,
        },
        batch_images: arguments.batch_images,
        side_by_side: device == Device::flex(),
    };
    let mut file = open(&arguments.weights)?;
    let detector = RetinaFace::read(&mut file, config, &device).with_context(|| {
        format!(
            "cannot read the face detector from `{}`",
            arguments.weights.display()
        )
    })?;
    look(
        detector,
        "faces",
        arguments.score,
        arguments.nms_iou,
        &arguments.common,
    )
}

fn persons(arguments: PersonsArguments) -> anyhow::Result<()> {
    check(
        arguments.score,
        arguments.common.candidate_score,
        arguments.nms_iou,
    )?;
    let device = arguments.device.open()?;
    let config = YoloxConfig {
        classes: vec![arguments.class],
        candidate_score: arguments.common.candidate_score,
        nms_iou: arguments.nms_iou,
        batch_images: arguments.batch_images,
        side_by_side: device == Device::flex(),
    };
    let mut file = open(&arguments.weights)?;
    let detector = Yolox::read(&mut file, config, &device)
        .with_context(|| format!("cannot read the detector from `{}`", arguments.weights.display()))?;
    look(
        detector,
        "persons",
        arguments.score,
        arguments.nms_iou,
        &arguments.common,
    )
}

/// The same checks as for a curation's config: a threshold below the candidate score would have no effect.
fn check(score: f32, candidate: f32, iou: f32) -> anyhow::Result<()> {
    for (name, value) in [("score", score), ("candidate-score", candidate), ("nms-iou", iou)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Failure::new(format!("`--{name}` must be from 0 to 1, got {value}")).into());
        }
    }
    if candidate > score {
        let message = format!("`--candidate-score` must be at most `--score` = {score}, got {candidate}");
        return Err(Failure::new(message)
            .hint("raise `--score` or lower `--candidate-score`: detections below it are not reported")
            .into());
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<BufReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot read the weights `{}`", path.display()))?;
    Ok(BufReader::new(file))
}

/// Runs the detector, with tiles if the arguments request them.
fn look(
    detector: impl Detector,
    what: &str,
    score: f32,
    nms_iou: f32,
    common: &CommonArguments,
) -> anyhow::Result<()> {
    match common.tile_px {
        None => write(&detector, what, score, common),
        Some(tile_px) => {
            let config = TilesConfig {
                tile_px,
                overlap_px: common.overlap_px,
                nms_iou,
            };
            write(&Tiled::new(detector, config)?, what, score, common)
        }
    }
}

/// Photos decoded and passed to the detector together; fewer where they are large.
const CHUNK: usize = 64;

/// Their pixels in total, three bytes each; one photo may have more.
const CHUNK_PIXELS: u64 = 1 << 26;

/// The photos of a data set as files, in chunks that can be decoded together.
struct Parts<'a> {
    dataset: &'a Dataset,
    most: usize,
    most_pixels: u64,
    /// The next photo to read.
    at: usize,
    /// A photo that was read and did not fit into the last chunk.
    left: Option<(Vec<u8>, u64)>,
}

impl Parts<'_> {
    /// The files of the next chunk; empty at the end.
    fn next(&mut self) -> Result<Vec<Vec<u8>>, data::Error> {
        let (mut files, mut pixels) = (Vec::new(), Vec::new());
        while files.len() < self.most {
            let (file, more) = match self.left.take() {
                Some(left) => left,
                None if self.at == self.dataset.len() => break,
                None => {
                    let mut file = Vec::new();
                    self.dataset.read_image(self.at, &mut file)?;
                    self.at += 1;
                    let pixels = data::header_pixels(&file);
                    (file, pixels)
                }
            };
            pixels.push(more);
            if data::decoded_together(pixels.iter().copied(), self.most_pixels) < pixels.len() {
                self.left = Some((file, more));
                break;
            }
            files.push(file);
        }
        Ok(files)
    }
}

fn write(detector: &dyn Detector, what: &str, score: f32, common: &CommonArguments) -> anyhow::Result<()> {
    let dataset = Dataset::open(&common.data)?;
    make_folder_of(&common.out)?;
    let file = File::create(&common.out)
        .with_context(|| format!("cannot write the file `{}`", common.out.display()))?;
    let mut lines = BufWriter::new(file);
    let mut sheet = Sheet::new(common.sheet_photos);
    let mut progress = ProgressBar::new(&format!("looking for {what}"), 0, dataset.len() as u64);
    let (started, mut with, mut broken) = (Instant::now(), 0, 0);
    let mut parts = Parts {
        dataset: &dataset,
        most: CHUNK,
        most_pixels: CHUNK_PIXELS,
        at: 0,
        left: None,
    };
    let mut first = 0;
    loop {
        let files = parts.next()?;
        if files.is_empty() {
            break;
        }
        let decoded = files
            .into_par_iter()
            .enumerate()
            .map(|(at, file)| decode(&dataset, first + at, &file))
            .collect::<Result<Vec<_>, _>>()?;
        let photos = decoded.iter().filter_map(|(_, image)| image.as_ref().ok());
        let photos = photos.map(photo).collect::<Vec<_>>();
        let mut found = detections(detector, &photos)?.into_iter();
        for (key, image) in &decoded {
            let detected = match image {
                Ok(image) => found
                    .next()
                    .unwrap_or_else(|| Ok(Vec::new()))
                    .map(|detections| (image, detections)),
                Err(reason) => Err(reason.clone()),
            };
            let line = match detected {
                Ok((image, detections)) => {
                    let top = top_score(&detections);
                    if top > score {
                        with += 1;
                        if common.sheet.is_some() {
                            sheet.add(top, image, &detections, score);
                        }
                    }
                    let detections = detections.iter().map(as_json).collect::<Vec<_>>();
                    json!({"key": key, "width": image.width, "height": image.height, "detections": detections})
                }
                Err(reason) => {
                    broken += 1;
                    json!({"key": key, "error": reason})
                }
            };
            writeln!(lines, "{line}").context("cannot write the detections")?;
        }
        first += decoded.len();
        progress.at(first as u64);
    }
    lines.flush().context("cannot write the detections")?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{with} of {} photos show {what} with a score above {score}; {} photos a second",
        dataset.len(),
        data::significant(dataset.len() as f64 / seconds, 3)
    );
    if broken > 0 {
        eprintln!("warning: {broken} photos could not be looked at; their lines say why");
    }
    if let Some(path) = &common.sheet {
        match sheet.drawn() {
            Some(picture) => {
                make_folder_of(path)?;
                data::contact_sheet::write_png(&picture, path)?;
                eprintln!("{}", path.display());
            }
            None => eprintln!("nothing to draw: no sheet was written"),
        }
    }
    println!("{}", common.out.display());
    Ok(())
}

/// The detections in each photo. A photo on which the detector panics has the reason instead; a detector that
/// panics on a plain picture too has failed, as with a lost device, and that is an error.
fn detections(
    detector: &dyn Detector,
    photos: &[Photo<'_>],
) -> anyhow::Result<Vec<Result<Vec<Detection>, String>>> {
    if let Ok(found) = data::caught(|| detector.detect(photos)) {
        return Ok(found?.into_iter().map(Ok).collect());
    }
    let plain = vec![128; 64 * 64 * 3];
    let plain = Photo {
        width: 64,
        height: 64,
        pixels: &plain,
    };
    let mut all = Vec::with_capacity(photos.len());
    for photo in photos {
        match data::caught(|| detector.detect(&[*photo])) {
            Ok(found) => all.push(Ok(found?.pop().unwrap_or_default())),
            Err(message) => {
                data::caught(|| detector.detect(&[plain]))
                    .map_err(|again| Failure::new(format!("the detector panicked: {again}")))??;
                all.push(Err(data::DecodeError::Panicked { message }.to_string()));
            }
        }
    }
    Ok(all)
}

/// A photo's key and its pixels, or the reason why it has none.
fn decode(
    dataset: &Dataset,
    position: usize,
    file: &[u8],
) -> Result<(String, Result<RgbImage, String>), data::Error> {
    let image = data::decode(file, &DecodeLimits::DEFAULT).map_err(|reason| reason.to_string());
    Ok((dataset.key(position)?, image))
}

fn as_json(detection: &Detection) -> serde_json::Value {
    let bounds = detection.bounds;
    // A hundredth of a pixel, and a score in the precision of f32.
    let px = |value: f32| (f64::from(value) * 100.0).round() / 100.0;
    let edges = [bounds.left, bounds.top, bounds.right, bounds.bottom].map(px);
    let landmarks = detection.landmarks.iter().map(|point| point.map(px));
    json!({
        "box": edges,
        "class": detection.class,
        "score": (f64::from(detection.score) * 1e6).round() / 1e6,
        "landmarks": landmarks.collect::<Vec<_>>(),
    })
}

/// Side of a photo's square on the sheet, px.
const CELL_PX: u32 = 320;
/// Space around it, px.
const GAP_PX: u32 = 4;
/// Squares in a row.
const COLUMNS: usize = 5;

/// The top-scoring photos so far, resized and with boxes drawn.
struct Sheet {
    limit: usize,
    cells: Vec<(f32, RgbImage)>,
}

impl Sheet {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            cells: Vec::new(),
        }
    }

    fn add(&mut self, top: f32, image: &RgbImage, detections: &[Detection], score: f32) {
        let fit = Letterbox::new(image.width, image.height, CELL_PX, CELL_PX);
        let mut cell = RgbImage {
            width: fit.width,
            height: fit.height,
            pixels: resize(&photo(image), fit.width, fit.height),
        };
        for detection in detections.iter().filter(|detection| detection.score > score) {
            let bounds = detection.bounds.scaled(fit.ratio, fit.ratio);
            data::contact_sheet::rectangle(
                &mut cell,
                [bounds.left, bounds.top, bounds.right, bounds.bottom],
                [255, 40, 40],
            );
            for [x, y] in &detection.landmarks {
                let (x, y) = (x * fit.ratio, y * fit.ratio);
                data::contact_sheet::rectangle(
                    &mut cell,
                    [x - 1.0, y - 1.0, x + 1.0, y + 1.0],
                    [60, 255, 60],
                );
            }
        }
        self.cells.push((top, cell));
        // Not after each photo, and never all photos of the data set.
        if self.cells.len() > 2 * self.limit {
            self.keep_surest();
        }
    }

    fn keep_surest(&mut self) {
        self.cells.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.cells.truncate(self.limit);
    }

    fn drawn(mut self) -> Option<RgbImage> {
        self.keep_surest();
        let rows = self.cells.len().div_ceil(COLUMNS) as u32;
        if rows == 0 {
            return None;
        }
        let step = CELL_PX + GAP_PX;
        let (width, height) = (COLUMNS as u32 * step + GAP_PX, rows * step + GAP_PX);
        let mut sheet = RgbImage {
            width,
            height,
            pixels: vec![255; width as usize * height as usize * 3],
        };
        for (index, (_, cell)) in self.cells.iter().enumerate() {
            let place = |number: usize| GAP_PX + number as u32 * step;
            let (left, top) = (place(index % COLUMNS), place(index / COLUMNS));
            data::contact_sheet::paste(&mut sheet, cell, left, top);
        }
        Some(sheet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Panics on photos of one size, or on all of them.
    struct Panicking(Option<u32>);

    impl Detector for Panicking {
        fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, detection::DetectionError> {
            let bad = |photo: &Photo<'_>| self.0.is_none_or(|width| photo.width == width);
            assert!(!photos.iter().any(bad), "a defect");
            Ok(photos.iter().map(|_| Vec::new()).collect())
        }
    }

    #[test]
    fn a_photo_that_makes_the_detector_panic_has_its_reason_and_a_lost_detector_is_an_error() {
        let pixels = vec![0; 300];
        let photos = [10, 5, 20].map(|width| Photo {
            width,
            height: 100 / width,
            pixels: &pixels[..(width * (100 / width) * 3) as usize],
        });
        let all = detections(&Panicking(Some(7)), &photos).unwrap();
        assert!(all.iter().all(|found| found.is_ok()));
        let all = detections(&Panicking(Some(5)), &photos).unwrap();
        let reasons: Vec<Option<&String>> = all.iter().map(|found| found.as_ref().err()).collect();
        assert_eq!(
            reasons,
            [
                None,
                Some(&"the program panicked on it: a defect".to_string()),
                None
            ]
        );
        let error = detections(&Panicking(None), &photos).unwrap_err();
        assert_eq!(error.to_string(), "the detector panicked: a defect");
    }

    #[test]
    fn large_photos_are_decoded_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        for (at, side) in [10, 10, 30, 20, 20, 90, 10, 10, 10, 10].into_iter().enumerate() {
            let path = folder.path().join(format!("{at}.png"));
            image::RgbImage::new(side, 10).save(path).unwrap();
        }
        std::fs::write(folder.path().join("broken.png"), "none").unwrap();
        let dataset = Dataset::open(&folder.path().display().to_string()).unwrap();
        let mut parts = Parts {
            dataset: &dataset,
            most: 4,
            most_pixels: 500,
            at: 0,
            left: None,
        };
        let mut counts = Vec::new();
        let mut files = Vec::new();
        while let part @ [_, ..] = &parts.next().unwrap()[..] {
            counts.push(part.len());
            files.extend_from_slice(part);
        }
        // 100 + 100 + 300, 200 + 200, 900 alone, four, and one file that is not a picture.
        assert_eq!(counts, [3, 2, 1, 4, 1]);
        for (at, file) in files.iter().enumerate() {
            let mut expected = Vec::new();
            dataset.read_image(at, &mut expected).unwrap();
            assert!(*file == expected, "{at}");
        }
    }

    #[test]
    fn a_sheet_has_the_surest_photos() {
        let gray = |value| RgbImage {
            width: 4,
            height: 2,
            pixels: vec![value; 24],
        };
        let mut sheet = Sheet::new(2);
        for (top, value) in [(0.6, 10), (0.9, 20), (0.7, 30), (0.55, 40), (0.8, 50), (0.5, 60)] {
            sheet.add(top, &gray(value), &[], 0.5);
        }
        let picture = sheet.drawn().unwrap();
        assert_eq!((picture.width, picture.height), (5 * 324 + 4, 324 + 4));
        let at = |x: usize, y: usize| picture.pixels[(y * picture.width as usize + x) * 3];
        assert!(at(4, 4).abs_diff(20) < 2 && at(328, 4).abs_diff(50) < 2);
        assert!(Sheet::new(2).drawn().is_none());
    }
}
