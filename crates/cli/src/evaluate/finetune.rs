//! `passer evaluate finetune`: an encoder or a detector, and labels or boxes in; a run directory with `result.json` out.

mod classification;
mod detection;

use super::StageBar;
use crate::configs::{self, Checks, Kind};
use crate::failure::{Failure, check_apart};
use crate::launch::DevicesArguments;
use crate::on_event::{EventArguments, EventCommand};
use crate::output::counted;
use crate::progress::duration;
use crate::ranks::{RankArguments, Ranks};
use crate::training_progress::{TrainingProgress, skipped};
use crate::training_run::ResumeArguments;
use crate::weights::WeightsArguments;
use crate::{batch, devices, training_run};
use ::detection::rcnn::ClassLayers;
use burn::tensor::Device;
use data::Dataset;
use evaluation::finetune::{FinetuneEvent, FinetuneResult, Job, LoadedDetector, Recipe, Start};
use serde::de::DeserializeOwned;
use serde_json::Map;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{LoadedEncoder, Summary};

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
    #[command(flatten)]
    resume: ResumeArguments,
    /// A few steps of four synthetic images of the config's shapes: does this config run here?
    #[arg(long, conflicts_with_all = ["train", "test", "resume", "json", "on_event"])]
    smoke: bool,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Change a key of the config, as in `--set training.epochs=1`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    events: EventArguments,
    #[command(flatten)]
    weights: WeightsArguments,
}

/// Images in a smoke test's step.
const SMOKE_IMAGES: usize = 4;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let of_detector = configs::is_detection(&arguments.config);
    training_run::on_devices(&arguments.devices, &arguments.ranks, |ranks| match of_detector {
        true => on_ranks::<evaluation::finetune::detection::Config>(arguments, ranks),
        false => on_ranks::<evaluation::finetune::Config>(arguments, ranks),
    })
}

/// What differs between the configs of fine-tunings.
trait Config: Recipe + DeserializeOwned {
    const KIND: Kind;

    /// What a run is, for people.
    fn describe(&self) -> String;

    fn open(data: &str) -> Result<Dataset, data::Error>;
    /// The whole detector to start from.
    fn read_detector(&self, path: &Path, device: &Device) -> anyhow::Result<LoadedDetector>;

    /// Turns the config into a short trial, and returns its training and test records.
    fn synthetic(&mut self, start: Start<'_>) -> anyhow::Result<[Dataset; 2]>;

    /// The step of an evaluation during training, and what it found.
    fn note(line: &Self::Line) -> (usize, String);
}

/// What every rank reads and opens for itself.
struct Inputs<C> {
    config: C,
    device: Device,
    encoder: Option<LoadedEncoder>,
    detector: Option<LoadedDetector>,
    /// Training and test records; `None` in a smoke test.
    datasets: Option<[Dataset; 2]>,
}

impl<C: Config> Inputs<C> {
    fn read(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<Self> {
        let config: C = configs::read_for_run(
            &arguments.config,
            &arguments.sets,
            C::KIND,
            arguments.resume.resume,
            None,
            Checks {
                values: C::validate,
                length: C::validate_length,
                epochs: |config: &C| (config.training().epochs, config.epochs_needed()),
            },
        )?;
        let device = arguments.devices.one().open_on(ranks)?;
        let encoder = match &arguments.encoder {
            Some(path) => Some(training::read_encoder(
                path,
                &arguments.weights.options()?,
                &device,
            )?),
            None => None,
        };
        let detector = arguments.detector.as_ref();
        let detector = detector
            .map(|path| config.read_detector(path, &device))
            .transpose()?;
        for data in [&arguments.train, &arguments.test].into_iter().flatten() {
            if let Some(out) = &arguments.out {
                check_apart(data, out)?;
            }
        }
        let datasets = match (&arguments.train, &arguments.test) {
            (Some(train), Some(test)) if !arguments.smoke => Some([C::open(train)?, C::open(test)?]),
            _ => None,
        };
        Ok(Self {
            config,
            device,
            encoder,
            detector,
            datasets,
        })
    }
}

fn on_ranks<C: Config>(arguments: &Arguments, ranks: &Ranks) -> anyhow::Result<()> {
    let Inputs {
        mut config,
        device,
        encoder,
        detector,
        datasets,
    } = ranks.agree(Inputs::<C>::read(arguments, ranks))?;
    ranks.check_devices(devices::address(&device))?;
    let start = match (&encoder, &detector) {
        (Some(encoder), _) => Start::Encoder(encoder),
        (None, Some(detector)) => Start::Detector(detector),
        (None, None) => Start::Scratch,
    };
    if ranks.is_first()
        && let Some(detector) = &detector
        && detector.class_layers == ClassLayers::Keep
    {
        eprintln!(
            "`{}` has another number of classes than `detection.network.classes` = {}: the layers of classes start anew",
            detector.path.display(),
            detector.classes
        );
    }
    if arguments.smoke {
        let datasets = config.synthetic(start)?;
        let scratch = crate::smoke::Scratch::new();
        let out = arguments.out.as_deref().unwrap_or(scratch.path());
        let events = EventCommand::none();
        let summary = finetune(
            &config,
            start,
            datasets,
            (out, ResumeArguments::none()),
            events,
            &device,
            ranks,
        )?
        .summary;
        if ranks.is_first() {
            training_run::smoke_passed(&summary, config.batch_images());
        }
        return Ok(());
    }
    // clap requires all three unless --smoke.
    let (Some(datasets), Some(out)) = (datasets, &arguments.out) else {
        return Err(Failure::new("`--train`, `--test` and `--out` are needed").into());
    };
    let events = match ranks.is_first() {
        true => arguments.events.of_run(out),
        false => EventCommand::none(),
    };
    let result = finetune(
        &config,
        start,
        datasets,
        (out, arguments.resume),
        events,
        &device,
        ranks,
    )?;
    let (summary, outcomes) = (&result.summary, result.outcomes.unwrap_or_default());
    training_run::end(ranks, summary, || {
        report(summary, &outcomes, config.batch_images(), arguments.json, out)
    })
}

/// Says how a finished run was, and prints its results.
fn report(
    summary: &Summary,
    outcomes: &[evaluation::Outcome],
    batch_images: usize,
    json: bool,
    out: &Path,
) -> anyhow::Result<()> {
    eprintln!(
        "finished {} of {} in {}{}",
        counted(summary.steps, "step"),
        counted(batch_images, "image"),
        duration(summary.seconds),
        skipped(summary.skipped_steps)
    );
    super::print_outcomes(outcomes, json, out)
}

/// Runs a config with a progress display.
fn finetune<C: Config>(
    config: &C,
    start: Start<'_>,
    [train, test]: [Dataset; 2],
    (out, resume): (&Path, ResumeArguments),
    events: EventCommand,
    device: &Device,
    ranks: &Ranks,
) -> anyhow::Result<FinetuneResult> {
    let mut facts = Map::new();
    let file = match start {
        Start::Encoder(encoder) => Some(("encoder", &encoder.hash, &encoder.path)),
        Start::Detector(detector) => Some(("detector", &detector.file_hash, &detector.path)),
        Start::Scratch => None,
    };
    if let Some((kind, hash, path)) = file {
        facts.insert(kind.into(), hash.clone().into());
        facts.insert(format!("{kind}_path"), path.display().to_string().into());
    }
    let job = Job {
        start,
        train: Arc::new(train),
        test: Arc::new(test),
        options: training_run::options((out, resume), &config.protocol(), facts, device, ranks)?,
        provenance: super::provenance(device),
    };
    if ranks.is_first() {
        eprintln!("{}{}", config.describe(), ranks.of_each(config.batch_images()));
    }
    let mut shown = TrainingProgress::new(out, events);
    let mut stage = StageBar::default();
    let mut show = |event: FinetuneEvent<'_, C::Line>| match event {
        FinetuneEvent::Training(event) => shown.show(&event),
        FinetuneEvent::Evaluated(line) => {
            let (step, note) = C::note(line);
            shown.note(step, &note);
        }
        FinetuneEvent::Testing(event) => {
            shown.finish();
            stage.show(event);
        }
    };
    let result = config.run(&job, &mut |event| {
        if ranks.is_first() {
            show(event);
        }
    });
    stage.finish();
    shown.end(result.as_ref().map(|result| &result.summary));
    let resumes = resume.resume && out.join("config.toml").exists();
    result.map_err(|error| batch::explained(error, config.training(), &config.divisors(), resumes))
}
