//! `passer features`: an encoder's features of a data set, extracted once.

use crate::devices::DeviceArgument;
use crate::evaluate::{self, Stage};
use crate::failure::{Failure, make_folder_of};
use crate::weights::WeightsArguments;
use data::{Filter, Transform};
use evaluation::DataConfig;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A run directory, a checkpoint, an encoder file, or weights of another program (docs/weights.md)
    #[arg(long, value_name = "ENCODER")]
    encoder: PathBuf,
    /// The records
    #[arg(long, value_name = "DATA")]
    data: String,
    /// The features file to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Side of the centre crop, px; the shorter side is first resized to 8/7 of it (256 for 224)
    #[arg(long, value_name = "PX", default_value_t = 224)]
    size_px: u32,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_images: usize,
    /// Threads that decode
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Stop when more than this fraction of the records cannot be decoded; those below it are left out and counted
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01)]
    max_bad_fraction: f64,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    weights: WeightsArguments,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.size_px == 0 || arguments.batch_images == 0 {
        return Err(Failure::new("`--size-px` and `--batch-images` must be at least 1").into());
    }
    // Before the work, which may take hours.
    make_folder_of(&arguments.out)?;
    let device = arguments.device.open()?;
    let encoder = evaluate::open(&arguments.encoder, &arguments.weights.options()?, &device)?;
    let dataset = Arc::new(data::Dataset::open(&arguments.data)?);
    let transforms = [
        Transform::Resize {
            shorter_px: (arguments.size_px * 8).div_ceil(7),
            filter: Filter::Bilinear,
        },
        Transform::CenterCrop {
            size_px: arguments.size_px,
        },
    ];
    let config = DataConfig {
        batch_images: arguments.batch_images,
        workers: arguments.workers,
        max_bad_fraction: arguments.max_bad_fraction,
    };
    let mut stage = Stage::default();
    let features = evaluation::extract(&encoder, &dataset, &transforms, &config, &device, &mut |event| {
        stage.show(event)
    });
    stage.finish();
    let features = features?;
    features.save(&arguments.out)?;
    for (tap, matrix) in &features.taps {
        eprintln!("{tap}: {} records of width {}", matrix.rows, matrix.width);
    }
    if features.bad_records > 0 {
        eprintln!(
            "warning: {} records could not be decoded and were left out",
            features.bad_records
        );
    }
    println!("{}", arguments.out.display());
    Ok(())
}
