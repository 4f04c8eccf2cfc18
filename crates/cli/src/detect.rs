//! `passer detect`: the detections in each photo, as JSON lines, and a sheet with them drawn.

mod lettering;
mod lines;
mod sheet;

use crate::detectors::{open, read_objects, tiled};
use crate::devices::DeviceArgument;
use crate::failure::Failure;
use anyhow::Context;
use burn::tensor::Device;
use detection::{
    COCO_PERSON, Detector, Objects, ObjectsConfig, PASS_FACE_SCORE, PASS_PERSON_SCORE, RetinaFace,
    RetinaFaceConfig, Scale, TilesConfig,
};
use lines::{Job, write};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Find faces with RetinaFace, as PASS did; thresholds default to its own (docs/detection.md)
    Faces(FacesArguments),
    /// Find persons with YOLOX, or with torchvision's or detectron2's Faster, Mask or Cascade R-CNN
    Persons(PersonsArguments),
    /// Find objects of all classes, and their masks, with the same networks
    Objects(ObjectsArguments),
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
}

#[derive(clap::Args)]
pub(crate) struct PersonsArguments {
    #[command(flatten)]
    network: NetworkArguments,
    #[command(flatten)]
    common: CommonArguments,
    /// Photos with a person of more than this count as showing one, and are drawn on the sheet
    #[arg(long, value_name = "SCORE", default_value_t = PASS_PERSON_SCORE)]
    score: f32,
    /// The class to report, by the network's numbers from 0; COCO's persons are 0
    #[arg(long, value_name = "N", default_value_t = COCO_PERSON)]
    class: usize,
}

#[derive(clap::Args)]
pub(crate) struct ObjectsArguments {
    #[command(flatten)]
    network: NetworkArguments,
    #[command(flatten)]
    common: CommonArguments,
    /// Photos with an object of more than this are drawn on the sheet, and these objects in them
    #[arg(long, value_name = "SCORE", default_value_t = 0.5)]
    score: f32,
    /// Names of the network's classes, one a line; left out: the file's own, or COCO's for 90 classes (torchvision's) and 80
    #[arg(long, value_name = "FILE.txt")]
    names: Option<PathBuf>,
}

/// A network of objects.
#[derive(clap::Args)]
struct NetworkArguments {
    /// YOLOX's ONNX export or `.pth`, or a Faster, Mask or Cascade R-CNN of torchvision, detectron2 or Passer as `.pth`, `.pkl` or
    /// safetensors
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// NMS IoU threshold within a class; left out: the network's own, 0.45 (YOLOX) or 0.5 (R-CNN)
    #[arg(long, value_name = "IOU")]
    nms_iou: Option<f32>,
    /// R-CNN: resize photos to this shorter side; left out: the network's own, 800 in torchvision
    #[arg(long, value_name = "PX")]
    shorter_px: Option<usize>,
    /// With --shorter-px: greatest longer side
    #[arg(long, value_name = "PX", default_value_t = 1333, requires = "shorter_px")]
    longer_px: usize,
    /// R-CNN: epsilon of the backbone's norms; left out: 1e-5, and 0 in files of the first version with frozen norms
    #[arg(long, value_name = "EPSILON")]
    norm_epsilon: Option<f64>,
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
    /// Detections must score more than this to be written; left out: 0.02, or --score where that is lower
    #[arg(long, value_name = "SCORE")]
    candidate_score: Option<f32>,
    /// Look at photos with a longer side than this in tiles of this side too
    #[arg(long, value_name = "PX")]
    tile_px: Option<u32>,
    /// With --tile-px: least overlap of neighboring tiles
    #[arg(long, value_name = "PX", default_value_t = 64, requires = "tile_px")]
    overlap_px: u32,
    /// Photos of one size that go through the network together; by YOLOX and R-CNN on a GPU alone
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_images: usize,
    #[command(flatten)]
    device: DeviceArgument,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Faces(arguments) => faces(arguments),
        Verb::Persons(arguments) => persons(arguments),
        Verb::Objects(arguments) => objects(arguments),
    }
}

fn faces(arguments: FacesArguments) -> anyhow::Result<()> {
    let common = &arguments.common;
    let candidate_score = checked(arguments.score, common.candidate_score, arguments.nms_iou)?;
    check_sides(arguments.shorter_px, arguments.longer_px)?;
    let device = common.device.open()?;
    let config = RetinaFaceConfig {
        candidate_score,
        nms_iou: arguments.nms_iou,
        scale: match arguments.shorter_px {
            Some(shorter_px) => Scale::Sides {
                shorter_px,
                longer_px: arguments.longer_px,
            },
            None => Scale::Original,
        },
        batch_images: common.batch_images,
        side_by_side: device == Device::flex(),
    };
    let path = &arguments.weights;
    let detector = RetinaFace::read(&mut open(path)?, config, &device)
        .with_context(|| format!("cannot read the face detector from `{}`", path.display()))?;
    look(
        detector,
        "faces",
        arguments.score,
        arguments.nms_iou,
        common,
        None,
    )
}

fn persons(arguments: PersonsArguments) -> anyhow::Result<()> {
    let (network, common) = (&arguments.network, &arguments.common);
    let detector = network.read(common, arguments.score, Some(arguments.class))?;
    let nms_iou = detector.nms_iou();
    look(detector, "persons", arguments.score, nms_iou, common, None)
}

fn objects(arguments: ObjectsArguments) -> anyhow::Result<()> {
    let (network, common) = (&arguments.network, &arguments.common);
    let detector = network.read(common, arguments.score, None)?;
    let names = match &arguments.names {
        Some(path) => names_of(path, detector.classes())?,
        None => detector.names().unwrap_or_else(|| {
            eprintln!("note: classes have numbers alone; `--names FILE.txt` names them, one a line");
            vec![None; detector.classes()]
        }),
    };
    eprintln!("{}", detector.describe());
    let nms_iou = detector.nms_iou();
    look(detector, "objects", arguments.score, nms_iou, common, Some(names))
}

/// The names in a file, one a line, of a network of so many classes.
fn names_of(path: &Path, classes: usize) -> anyhow::Result<Vec<Option<String>>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the names `{}`", path.display()))?;
    let names: Vec<Option<String>> = text
        .lines()
        .map(|line| Some(line.trim().to_owned()).filter(|name| !name.is_empty()))
        .collect();
    if names.len() == classes {
        return Ok(names);
    }
    let message = format!(
        "`{}` must have {classes} lines, one for each class of the network, got {}",
        path.display(),
        names.len()
    );
    Err(Failure::new(message)
        .hint("leave out the background; a class without a name is an empty line")
        .into())
}

impl NetworkArguments {
    fn read(&self, common: &CommonArguments, score: f32, class: Option<usize>) -> anyhow::Result<Objects> {
        let nms_iou = self.nms_iou.unwrap_or_default();
        let candidate_score = checked(score, common.candidate_score, nms_iou)?;
        check_sides(self.shorter_px, self.longer_px)?;
        let device = common.device.open()?;
        let config = ObjectsConfig {
            classes: class.map(|class| vec![class]),
            candidate_score,
            nms_iou: self.nms_iou,
            batch_images: common.batch_images,
            on_cpu: device == Device::flex(),
            sides_px: self.shorter_px.map(|shorter| [shorter, self.longer_px]),
            masks: class.is_none(),
            norm_epsilon: self.norm_epsilon,
        };
        read_objects(&self.weights, &config, &device)
    }
}

/// Detections of at most this score are not written, unless `--candidate-score` says otherwise.
const CANDIDATE_SCORE: f32 = 0.02;

/// The candidate score, after the same checks as for a curation's config: a threshold below it would have no effect.
fn checked(score: f32, candidate: Option<f32>, iou: f32) -> anyhow::Result<f32> {
    let candidate = candidate.unwrap_or(CANDIDATE_SCORE.min(score));
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
    Ok(candidate)
}

/// Gives an error under the flags' names if the longer side may not be as long as the shorter one.
fn check_sides<N: PartialOrd + std::fmt::Display>(shorter_px: Option<N>, longer_px: N) -> anyhow::Result<()> {
    match shorter_px {
        Some(shorter_px) if longer_px < shorter_px => Err(Failure::new(format!(
            "`--longer-px` must be at least `--shorter-px` = {shorter_px}, got {longer_px}"
        ))
        .into()),
        _ => Ok(()),
    }
}

/// Runs the detector, with tiles if the arguments request them.
fn look(
    detector: impl Detector + 'static,
    what: &str,
    score: f32,
    nms_iou: f32,
    common: &CommonArguments,
    names: Option<Vec<Option<String>>>,
) -> anyhow::Result<()> {
    if let Some(tile_px) = common.tile_px
        && common.overlap_px >= tile_px
    {
        let overlap_px = common.overlap_px;
        let message = format!("`--overlap-px` must be less than `--tile-px` = {tile_px}, got {overlap_px}");
        return Err(Failure::new(message)
            .hint("give both: tiles overlap by the width of what must be whole in one of them")
            .into());
    }
    let tiles = common.tile_px.map(|tile_px| TilesConfig {
        tile_px,
        overlap_px: common.overlap_px,
        nms_iou,
    });
    let detector = tiled(detector, tiles)?;
    write(&Job {
        detector: detector.as_ref(),
        what,
        score,
        data: &common.data,
        out: &common.out,
        sheet: common.sheet.as_deref().map(|path| (path, common.sheet_photos)),
        names: names.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_low_score_lowers_the_score_of_candidates() {
        assert_eq!(checked(0.5, None, 0.4).unwrap(), 0.02);
        assert_eq!(checked(0.01, None, 0.4).unwrap(), 0.01);
        assert_eq!(checked(0.01, Some(0.005), 0.4).unwrap(), 0.005);
        assert!(checked(0.01, Some(0.02), 0.4).is_err());
        // The wrong one of both is named.
        let error = checked(-0.5, None, 0.4).unwrap_err().to_string();
        assert_eq!(error, "`--score` must be from 0 to 1, got -0.5");
    }
}
