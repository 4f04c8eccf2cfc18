//! `passer features`: an encoder's features of a data set, extracted once; resumable.

use crate::devices::DeviceArgument;
use crate::evaluate::{self, StageBar};
use crate::failure::{Failure, make_folder_of};
use crate::output::counted;
use crate::slice::SliceArgument;
use crate::weights::WeightsArguments;
use data::{Filter, LoaderConfig, Transform, ViewGroup};
use evaluation::{Encoder, Event, Extraction, FeatureType, Features, Tap, Unfinished, Writing};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A run directory, a checkpoint, an encoder file, or weights of another program (docs/weights.md)
    #[arg(long, value_name = "ENCODER")]
    encoder: PathBuf,
    /// The records
    #[arg(long, value_name = "DATA")]
    data: String,
    /// The features file to write; with `--slice` the folder of slices, with `--format npy` the folder of arrays
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// What is written: one safetensors file; NumPy's arrays in a folder (one per tap, `labels.npy`, `keys.txt`); or one Parquet
    /// table with a row per record
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// Extract the I-th of N equal slices of the records (from 1) into a file in the folder `--out`, which is then read as one
    /// features file. `auto`: the task of a Slurm array; `auto/N`: that, or the pod of Kubernetes' indexed job
    #[arg(long, value_name = "I/N")]
    slice: Option<SliceArgument>,
    /// Side of the encoder's input images, px; default: that of its pretraining. Up to 64 px the whole picture is resized to it;
    /// above, the shorter side is resized to 8/7 of it (256 for 224) and the center is cropped
    #[arg(long, value_name = "PX")]
    size_px: Option<u32>,
    /// Use `test_transforms` and `normalize` of this evaluation config, a file of configs/evaluate/
    #[arg(long, value_name = "CONFIG", conflicts_with = "size_px")]
    transforms_of: Option<PathBuf>,
    /// Places of the network: `pooled` (its output); for ResNets `stages`, or one of `conv1` and `res2` to `res5` (their maps
    /// averaged to some 9,000 numbers each, as VISSL does); for vision transformers `tokens_N` (class tokens of the last N blocks
    /// and the mean of the last one's patches)
    #[arg(long, value_name = "TAPS", value_delimiter = ',', default_value = "pooled")]
    taps: Vec<String>,
    /// Type of the numbers; f16 halves the file and keeps three digits
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_images: usize,
    /// Threads that decode
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Stop when more than this fraction of the records cannot be decoded; up to it they are skipped and counted
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01)]
    max_bad_fraction: f64,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    weights: WeightsArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Safetensors,
    Npy,
    Parquet,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
}

/// The transforms to a square of this side.
fn transforms(size_px: u32) -> Vec<Transform> {
    match weights::Preparation::to(size_px as usize).shorter_px {
        None => vec![Transform::ResizeExact {
            width_px: size_px,
            height_px: size_px,
            filter: Filter::Bilinear,
        }],
        Some(shorter) => {
            let resize = Transform::Resize {
                shorter_px: shorter as u32,
                filter: Filter::Bilinear,
            };
            vec![resize, Transform::CenterCrop { size_px }]
        }
    }
}

/// The features file that is written first: for other formats one beside the output, which is removed when it has been
/// rewritten. A run that was interrupted resumes from it.
fn working_file(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    if arguments.format == Format::Safetensors {
        return Ok(arguments.out.clone());
    }
    if arguments.slice.is_some() {
        return Err(Failure::new("slices are safetensors files")
            .hint("leave out `--format`; a folder of slices is read as one features file")
            .into());
    }
    if arguments.out.exists() {
        return Err(Failure::new(format!("`{}` exists", arguments.out.display()))
            .hint("pass another `--out`, or remove what lies there")
            .into());
    }
    if arguments
        .out
        .extension()
        .is_some_and(|kind| kind == "safetensors")
    {
        let message = format!("`{}` is not to be a safetensors file", arguments.out.display());
        let example = match arguments.format {
            Format::Parquet => "features.parquet",
            _ => "features",
        };
        return Err(Failure::new(message)
            .hint(format!(
                "call it by its format, as in `--out {example}`, or leave out `--format`"
            ))
            .into());
    }
    let mut name = arguments.out.as_os_str().to_owned();
    name.push(".unfinished.safetensors");
    Ok(name.into())
}

/// Writes the finished features in the requested format.
fn rewrite(arguments: &Arguments, working: &Path) -> anyhow::Result<()> {
    match arguments.format {
        Format::Safetensors => return Ok(()),
        Format::Npy => evaluation::write_npy(working, &arguments.out)?,
        Format::Parquet => evaluation::write_parquet(working, &arguments.out)?,
    }
    Ok(std::fs::remove_file(working).map_err(data::FileError::new("remove", working))?)
}

/// Gives an error if the output file exists and does not hold these features.
fn check_free(out: &Path, encoder: &Encoder, dataset: &data::Dataset) -> anyhow::Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let occupied =
        |message: String| Failure::new(message).hint("pass another `--out`, or remove what lies there");
    if out.is_dir() {
        let message = format!(
            "`{}` is a folder, and the features of all records are a file",
            out.display()
        );
        return Err(Failure::new(message)
            .hint("pass a file as `--out`, or `--slice I/N` to write slices into the folder")
            .into());
    }
    let Ok(stored) = Features::read_origin(out) else {
        return Err(occupied(format!("`{}` exists and is no features file", out.display())).into());
    };
    let whose = if stored.encoder != encoder.hash {
        format!("another encoder, `{}`", stored.encoder_name)
    } else if stored.fingerprint != dataset.fingerprint() {
        "other records".to_string()
    } else {
        return Ok(());
    };
    Err(occupied(format!("`{}` holds features of {whose}", out.display())).into())
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let counts = [
        ("size-px", arguments.size_px == Some(0)),
        ("batch-images", arguments.batch_images == 0),
    ];
    if let Some((flag, _)) = counts.iter().find(|(_, is_zero)| *is_zero) {
        return Err(Failure::new(format!("`--{flag}` must be at least 1, got 0")).into());
    }
    if !(0.0..=1.0).contains(&arguments.max_bad_fraction) {
        let got = arguments.max_bad_fraction;
        return Err(Failure::new(format!("`--max-bad-fraction` must be from 0 to 1, got {got}")).into());
    }
    let groups = arguments
        .taps
        .iter()
        .map(|name| Tap::group(name).map_err(Failure::new));
    let mut taps = groups.collect::<Result<Vec<_>, _>>()?.concat();
    taps.sort_unstable();
    taps.dedup();
    let slice = arguments.slice.map(SliceArgument::slice).transpose()?;
    let working = working_file(&arguments)?;
    // Before the work, which may take hours.
    make_folder_of(&arguments.out)?;
    if slice.is_some() && arguments.out.is_file() {
        let message = format!(
            "`{}` is a file, and slices are written into a folder",
            arguments.out.display()
        );
        return Err(Failure::new(message)
            .hint("pass another `--out`, or remove what lies there")
            .into());
    }
    let device = arguments.device.open()?;
    let mut encoder = evaluate::open(&arguments.encoder, &arguments.weights.options()?, &device)?;
    let dataset = Arc::new(data::Dataset::open(&arguments.data)?);
    if slice.is_none() {
        check_free(&working, &encoder, &dataset)?;
    }
    if arguments.format == Format::Npy {
        evaluation::check_keys_for_npy(&dataset)?;
    }
    let transforms = match &arguments.transforms_of {
        None => transforms(arguments.size_px.or(encoder.trained_px).unwrap_or(224)),
        Some(path) => {
            let config = evaluate::read_config(path, &[])?;
            encoder.normalize = config.normalize.unwrap_or(encoder.normalize);
            config.test_transforms
        }
    };
    let group = ViewGroup {
        count: 1,
        transforms: transforms.clone(),
    };
    let size = group.output_px().map_or_else(String::new, |size| match size {
        (width, height) if width == height => format!(", from images of {width} px"),
        (width, height) => format!(", from images of {width}×{height} px"),
    });
    if let Some(note) = encoder.size_note(&transforms) {
        eprintln!("note: {note}");
    }
    let config = LoaderConfig {
        batch_images: arguments.batch_images,
        workers: arguments.workers,
        max_bad_fraction: arguments.max_bad_fraction,
    };
    let writing = Writing {
        feature_type: match arguments.dtype {
            Dtype::F32 => FeatureType::F32,
            Dtype::F16 => FeatureType::F16,
        },
        unfinished: Unfinished::Refuse,
        set: "data",
    };
    let mut stage = StageBar::default();
    let mut show = |event: Event<'_>| stage.show(event);
    let extraction = Extraction {
        encoder: &encoder,
        dataset: &dataset,
        transforms: &transforms,
        taps: &taps,
        data: &config,
        device: &device,
    };
    let written = match slice {
        None => extraction.write(&working, writing, &mut show),
        Some(slice) => extraction.write_slice(&arguments.out, slice, writing, &mut show),
    };
    stage.finish();
    let written = written?;
    rewrite(&arguments, &working)?;
    let out = match slice {
        None => arguments.out,
        Some(slice) => {
            let there = if written.was_there {
                " is there already"
            } else {
                ""
            };
            eprintln!(
                "{slice}{there}; `{}` is read as one features file once all are there",
                arguments.out.display()
            );
            arguments.out.join(slice.file_name())
        }
    };
    for (tap, width) in &written.widths {
        eprintln!(
            "{tap}: {} of width {width}{size}",
            counted(written.records, "record")
        );
    }
    if written.bad_records > 0 {
        eprintln!(
            "warning: skipped {} that could not be decoded",
            counted(written.bad_records, "record")
        );
    }
    println!("{}", out.display());
    Ok(())
}
