//! `passer evaluate finetune`: an encoder and labels in, a run directory with `result.json` out.

use super::{StageBar, print_table};
use crate::configs::Kind;
use crate::failure::{Failure, Interrupted};
use crate::launch::DevicesArguments;
use crate::output::counted;
use crate::pretrain::skipped;
use crate::progress::{ProgressBar, duration};
use crate::ranks::{RankArguments, Ranks};
use crate::weights::WeightsArguments;
use crate::{configs, devices, interrupt, provenance};
use anyhow::Context;
use burn::tensor::Device;
use data::{Dataset, significant};
use evaluation::Provenance;
use evaluation::finetune::{Config, FinetuneEvent, FinetuneResult, Job};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{Event, LoadedEncoder, Outcome, RunOptions};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The fine-tuning, a TOML file as configs/evaluate/finetune-*.toml and semi-supervised-*.toml
    config: PathBuf,
    /// The encoder to start from: a run directory, a checkpoint, an encoder file, or weights of another program (docs/weights.md)
    #[arg(long, value_name = "ENCODER", required_unless_present_any = ["from_scratch", "smoke"])]
    encoder: Option<PathBuf>,
    /// Start from initial weights of the config's `[backbone]`, to compare with
    #[arg(long, conflicts_with = "encoder")]
    from_scratch: bool,
    /// Labeled records to learn from; validation records are held out of them
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
    let ranks = Ranks::join(&arguments.ranks)?;
    let result = on_ranks(arguments, &ranks);
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
    let read = match arguments.resume {
        true => configs::read_resumed,
        false => configs::read,
    };
    let config: Config = read(&arguments.config, &arguments.sets, Kind::FineTuning)?;
    config
        .validate()
        // A run that was begun continues.
        .and_then(|()| match arguments.resume {
            true => Ok(()),
            false => config.validate_length(),
        })
        .map_err(evaluation::Error::Config)
        .with_context(|| format!("config `{}` is not valid", arguments.config.display()))?;
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
    crate::pretrain::report_bad_records(&result.summary.bad_records);
    let summary = result.summary;
    let Some(outcomes) = result.outcomes else {
        eprintln!(
            "interrupted at step {} of {}; resume with the same command and `--resume`",
            summary.step, summary.steps
        );
        return Err(Interrupted.into());
    };
    eprintln!(
        "finished {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(config.data.batch_images, "image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        print_table(&outcomes);
    }
    eprintln!("{}", out.join("result.json").display());
    Ok(())
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
    println!(
        "smoke test passed: {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(config.data.batch_images, "synthetic image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
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
    let mut shown: Option<ProgressBar> = None;
    let mut stage = StageBar::default();
    let mut show = |event: FinetuneEvent<'_>| match event {
        FinetuneEvent::Training(Event::Start {
            step,
            steps,
            steps_per_epoch,
            peak_learning_rate,
        }) => {
            eprintln!(
                "{}: {} from step {step} ({steps_per_epoch} an epoch){}, peak learning rate {}, run directory `{}`",
                config.objective.protocol.name(),
                counted(steps, "step"),
                ranks.of_each(config.data.batch_images),
                significant(peak_learning_rate, 4),
                out.display()
            );
            shown = Some(ProgressBar::new("step", step as u64, steps as u64));
        }
        FinetuneEvent::Training(Event::Step { step }) => {
            if let Some(progress) = &mut shown {
                progress.at(step as u64);
            }
        }
        FinetuneEvent::Training(Event::Log(line)) => {
            if let Some(progress) = &mut shown {
                let note = format!(
                    "epoch {} loss {} lr {} {} images/s{}",
                    line.epoch + 1,
                    significant(line.loss.into(), 5),
                    significant(line.learning_rate, 4),
                    significant(line.images_per_second, 3),
                    skipped(line.skipped_steps.unwrap_or(0))
                );
                progress.note(line.step as u64, &note);
            }
        }
        FinetuneEvent::Training(Event::Checkpoint(checkpoint)) => {
            tracing::info!("checkpoint `{}`", checkpoint.path.display());
        }
        FinetuneEvent::Validated(line) => {
            if let Some(progress) = &mut shown {
                let note = format!("epoch {} validation top1 {:.2} %", line.epoch, 100.0 * line.top1);
                progress.note(line.step as u64, &note);
            }
        }
        FinetuneEvent::Testing(event) => {
            if let Some(progress) = shown.take() {
                progress.finish();
            }
            stage.show(event);
        }
    };
    let result = evaluation::finetune::run(config, &job, &mut |event| {
        if ranks.is_first() {
            show(event);
        }
    });
    if let Some(progress) = shown {
        progress.finish();
    }
    stage.finish();
    Ok(result?)
}
