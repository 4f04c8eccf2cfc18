//! Detectors among files of weights: what one holds, in words, and its file for another library.

use std::fmt::Write;
use std::path::Path;

use burn::tensor::Device;
use detection::rcnn::{FileOrigin, RcnnFile, TrainedOn, to_safetensors};
use weights::Checkpoint;

use super::{ConvertArguments, Library, full};
use crate::detectors::open;
use crate::failure::{Failure, make_folder_of};
use data::terminal::escape;

/// The Faster, Mask or Cascade R-CNN in a file, if it holds one.
pub(super) fn detector_in(path: &Path) -> anyhow::Result<Option<RcnnFile>> {
    if !path.is_file() {
        return Ok(None);
    }
    // What is wrong with another file, the reader of encoders says.
    let mut source = open(path)?;
    match Checkpoint::open(&mut source) {
        Ok(checkpoint) if RcnnFile::is_in(&checkpoint) => Ok(Some(RcnnFile::of(&checkpoint, &mut source)?)),
        _ => Ok(None),
    }
}

/// What a detector is, line by line.
pub(super) fn show(out: &mut String, file: &RcnnFile) -> std::fmt::Result {
    let config = &file.config;
    writeln!(out, "detector  {}", config.describe())?;
    writeln!(
        out,
        "images    shorter side {} px, longer side at most {} px; mean {:?}, std {:?} of 0 to 255 in red, green, blue; \
         channels in the order {}",
        config.input.short_side_px,
        config.input.long_side_px,
        config.input.mean,
        config.input.std,
        if config.input.bgr {
            "blue, green, red"
        } else {
            "red, green, blue"
        }
    )?;
    if let Some(resnet) = config.resnet().filter(|resnet| resnet.depth >= 50) {
        let layer = match resnet.stride_in_1x1 {
            true => "first 1×1",
            false => "3×3",
        };
        writeln!(out, "strides   in the {layer} convolutions of bottlenecks")?;
    }
    match file.origin {
        FileOrigin::Detectron2 { states_images: true } => writeln!(
            out,
            "from      detectron2; its `pixel_mean` and `pixel_std` say the order of channels and the strides"
        )?,
        FileOrigin::Detectron2 { states_images: false } => writeln!(
            out,
            "from      detectron2; the file has no `pixel_mean`: order of channels, statistics and strides are its defaults"
        )?,
        FileOrigin::Passer | FileOrigin::Torchvision => {}
    }
    if config.resnet().is_some() {
        writeln!(
            out,
            "norms     epsilon {:e} in the backbone",
            config.backbone_norm_epsilon
        )?;
    }
    if !file.names.is_empty() {
        writeln!(out, "classes   {}", escape(&file.names.join(", ")))?;
    }
    Ok(())
}

/// Writes a detector's file with torchvision's names of today.
pub(super) fn convert_detector(
    arguments: &ConvertArguments,
    library: Option<Library>,
    file: &RcnnFile,
) -> anyhow::Result<()> {
    let reason = file.config.not_of_torchvision();
    match (library, reason) {
        (Some(Library::Timm), reason) => {
            let name = if reason.is_none() { "torchvision" } else { "passer" };
            return Err(Failure::new("timm has no Faster, Mask or Cascade R-CNN")
                .hint(format!("write {name}'s file: `--to {name}`"))
                .into());
        }
        (Some(Library::Torchvision), Some(reason)) => {
            return Err(
                Failure::new(format!("torchvision has no such detector: {reason}"))
                    .hint("`--to passer` writes a file with every number of it, which Passer's commands read")
                    .into(),
            );
        }
        _ => {}
    }
    let mut source = open(&arguments.input)?;
    let checkpoint = Checkpoint::open(&mut source)?;
    let network = file.network(&checkpoint, &mut source, &Device::flex())?;
    let bytes = to_safetensors(&network, &file.names, &TrainedOn::of(&checkpoint));
    make_folder_of(&arguments.out)?;
    data::durable::write(&arguments.out, &bytes).map_err(|error| full(error.into()))?;
    eprintln!("{}", file.config.describe());
    println!("{}", arguments.out.display());
    Ok(())
}
