//! `passer evaluate finetune`: an encoder and labels in, a run directory with `result.json` out.

mod detection;

use super::{StageBar, print_table};
use crate::configs::Kind;
use crate::failure::{Failure, Interrupted};
use crate::launch::DevicesArguments;
use crate::output::counted;
use crate::progress::duration;
use crate::ranks::{RankArguments, Ranks};
use crate::training_progress::{TrainingProgress, skipped};
use crate::weights::WeightsArguments;
use crate::{batch, configs, devices, interrupt, provenance};
use burn::tensor::Device;
use data::Dataset;
use evaluation::Provenance;
use evaluation::finetune::{Config, FinetuneEvent, FinetuneResult, Job};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{LoadedEncoder, Outcome, RunOptions, Summary};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The fine-tuning, a TOML file as configs/evaluate/finetune-*.toml, semi-supervised-*.toml and detection-*.toml
    config: PathBuf,
    /// The encoder to start from: a run directory, a checkpoint, an encoder file, or weights of another program (docs/weights.md)
    #[arg(long, value_name = "ENCODER", required_unless_present_any = ["from_scratch", "detector", "smoke"])]
    encoder: Option<PathBuf>,
    /// A whole detector to start from, for configs with `[detection]`: torchvision's file or a run's `detector.safetensors`, also of other classes
    #[arg(long, value_name = "FILE", conflicts_with = "encoder")]
    detector: Option<PathBuf>,
    /// Start from initial weights of the config's network, to compare with
    #[arg(long, conflicts_with_all = ["encoder", "detector"])]
    from_scratch: bool,
    /// Labeled records to learn from, with boxes for detection; validation records are held out of them
    #[arg(long, value_name = "DATA", required_unless_present = "smoke")]
    train: Option<String>,
    /// Labeled records to be scored on, once, at the end
    #[arg(long, value_name = "DATA", required_unless_present = "smoke")]
    test: Option<String>,
    /// The run directory to make, or to resume with --resume
    #[arg(long, value_name = "RUN", required_unless_present = "smoke")]
    out: Option<PathBuf>,
    #[command(flatten)]
    devices: DevicesArguments,
    #[command(flatten)]
    ranks: RankArguments,
    /// Resume from the newest checkpoint in --out
    #[arg(long)]
    resume: bool,
    /// A few steps of four synthetic images of the config's shapes: does this config run here?
    #[arg(long, conflicts_with_all = ["train", "test", "resume"])]
    smoke: bool,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Change a key of the config, as in `--set training.epochs=1`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    weights: WeightsArguments,
}

/// Images in a smoke test's step.
const SMOKE_IMAGES: usize = 4;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(ended) = arguments.devices.launched() {
        return ended;
    }
    let of_detector = configs::is_detection(&arguments.config);
    if !of_detector && arguments.detector.is_some() {
        return Err(Failure::new(
            "`--detector` is for configs with `[detection]`; use `--encoder` for the others",
        )
        .into());
    }
    let ranks = Ranks::join(&arguments.ranks)?;
    let result = match of_detector {
        true => detection::on_ranks(arguments, &ranks),
        false => on_ranks(arguments, &ranks),
    };
    ranks.leave(result)
}

/// What every rank reads and opens for itself.
struct Inputs {
    config: Config,
    device: Device,
    encoder: Option<LoadedEncoder>,
    /// Training and test records; `None` in a smoke test.
    datasets: Option<[Dataset; 2]>,
}

fn inputs(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<Inputs> {
    let check = |config: &Config| {
        config.validate()?;
        // A run that was begun continues.
        match arguments.resume {
            true => Ok(()),
            false => config.validate_length(),
        }
    };
    let (path, sets, kind) = (&arguments.config, &arguments.sets, Kind::FineTuning);
    let config = match arguments.resume {
        true => configs::read_resumed(path, sets, kind, check)?,
        false => configs::read(path, sets, kind, check)?,
    };
    let device = arguments.devices.one().open_on(ranks)?;
    let encoder = match &arguments.encoder {
        Some(path) => Some(training::read_encoder(
            path,
            &arguments.weights.options()?,
            &device,
        )?),
        None => None,
    };
    let datasets = match (&arguments.train, &arguments.test) {
        (Some(train), Some(test)) if !arguments.smoke => Some([Dataset::open(train)?, Dataset::open(test)?]),
        _ => None,
    };
    Ok(Inputs {
        config,
        device,
        encoder,
        datasets,
    })
}

fn on_ranks(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<()> {
    let Inputs {
        mut config,
        device,
        encoder,
        datasets,
    } = ranks.agree(inputs(arguments, ranks))?;
    let encoder = encoder.as_ref();
    ranks.check_devices(devices::address(&device))?;
    if arguments.smoke {
        return smoke(&mut config, encoder, arguments.out.clone(), &device, ranks);
    }
    // clap requires all three unless --smoke.
    let (Some(datasets), Some(out)) = (datasets, &arguments.out) else {
        return Err(Failure::new("`--train`, `--test` and `--out` are needed").into());
    };
    let result = finetune(&config, encoder, datasets, out, arguments.resume, &device, ranks)?;
    if !ranks.is_first() {
        return match result.summary.outcome {
            Outcome::Interrupted => Err(Interrupted.into()),
            Outcome::Finished => Ok(()),
        };
    }
    let summary = &result.summary;
    end(
        arguments,
        summary,
        result.outcomes.as_deref(),
        config.data.batch_images,
        out,
    )
}

/// Says how a run ended, and prints its results.
fn end(
    arguments: &Arguments,
    summary: &Summary,
    outcomes: Option<&[evaluation::Outcome]>,
    batch_images: usize,
    out: &Path,
) -> anyhow::Result<()> {
    crate::pretrain::report_bad_records(&summary.bad_records);
    let Some(outcomes) = outcomes else {
        eprintln!(
            "interrupted at step {} of {}; resume with the same command and `--resume`",
            summary.step, summary.steps
        );
        return Err(Interrupted.into());
    };
    eprintln!(
        "finished {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(batch_images, "image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(outcomes)?);
    } else {
        print_table(outcomes);
    }
    eprintln!("{}", out.join("result.json").display());
    Ok(())
}

/// Says that a smoke test passed.
fn passed(summary: &Summary, batch_images: usize) {
    println!(
        "smoke test passed: {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(batch_images, "synthetic image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
}

fn smoke(
    config: &mut Config,
    encoder: Option<&LoadedEncoder>,
    out: Option<PathBuf>,
    device: &Device,
    ranks: &Ranks,
) -> anyhow::Result<()> {
    if encoder.is_none() && config.backbone.is_none() {
        return Err(Failure::new(
            "the config has no `[backbone]`, so a smoke test needs `--encoder` to know the network",
        )
        .into());
    }
    config.for_smoke_test(SMOKE_IMAGES);
    let synthetic = |seed| {
        let (width, height) = training::dataset_views(&config.views)
            .first()
            .copied()
            .unwrap_or((32, 32));
        Dataset::synthetic(
            3 * SMOKE_IMAGES,
            width.max(32) * 5 / 4,
            height.max(32) * 5 / 4,
            2,
            seed,
        )
    };
    let scratch = crate::smoke::Scratch::new();
    let at = out.as_deref().unwrap_or(scratch.path());
    let summary = finetune(
        config,
        encoder,
        [synthetic(config.seed), synthetic(config.seed + 1)],
        at,
        false,
        device,
        ranks,
    )?
    .summary;
    if !ranks.is_first() {
        return Ok(());
    }
    passed(&summary, config.data.batch_images);
    Ok(())
}

/// Runs a config with a progress display.
fn finetune(
    config: &Config,
    encoder: Option<&LoadedEncoder>,
    [train, test]: [Dataset; 2],
    out: &Path,
    resume: bool,
    device: &Device,
    ranks: &Ranks,
) -> anyhow::Result<FinetuneResult> {
    let mut facts = provenance::facts(device);
    if let Some(encoder) = encoder {
        facts.insert("encoder".into(), encoder.hash.clone().into());
        facts.insert("encoder_path".into(), encoder.path.display().to_string().into());
    }
    let job = Job {
        encoder,
        train: Arc::new(train),
        test: Arc::new(test),
        options: RunOptions {
            out: out.to_path_buf(),
            resume,
            replicas: ranks.replicas(),
            stop: interrupt::flag()?,
            method: config.objective.protocol.name(),
            provenance: facts,
            device: device.clone(),
        },
        provenance: Provenance {
            commit: provenance::COMMIT.into(),
            device: devices::describe(device),
        },
    };
    if ranks.is_first() {
        eprintln!(
            "{}{}",
            config.objective.protocol.name(),
            ranks.of_each(config.data.batch_images)
        );
    }
    let mut shown = TrainingProgress::new(out);
    let mut stage = StageBar::default();
    let mut show = |event: FinetuneEvent<'_>| match event {
        FinetuneEvent::Training(event) => shown.show(&event),
        FinetuneEvent::Validated(line) => {
            let note = format!("epoch {} validation top1 {:.2} %", line.epoch, 100.0 * line.top1);
            shown.note(line.step, &note);
        }
        FinetuneEvent::Testing(event) => {
            shown.finish();
            stage.show(event);
        }
    };
    let result = evaluation::finetune::run(config, &job, &mut |event| {
        if ranks.is_first() {
            show(event);
        }
    });
    shown.finish();
    stage.finish();
    let (training, mixing) = (&config.training, &config.objective.mixing);
    let divisors = [
        ("training.batch_norm_images", training.batch_norm_images),
        ("training.micro_batch_images", training.micro_batch_images),
        (
            "objective.mixing.images",
            mixing.as_ref().and_then(|mixing| mixing.images),
        ),
    ];
    result.map_err(|error| batch::explained(error, &divisors))
}
