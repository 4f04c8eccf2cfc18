//! `passer evaluate`: a frozen encoder and labeled records in, metrics out.

mod finetune;

use crate::configs::{self, Kind};
use crate::devices::DeviceArgument;
use crate::failure::{Failure, check_apart};
use crate::progress::ProgressBar;
use crate::scores::words;
use crate::weights::WeightsArguments;
use crate::{devices, provenance};
use backbones::{BackboneConfig, Stem};
use burn::tensor::Device;
use data::significant;
use data::terminal::escape;
use evaluation::suite::{Cell, EncoderEntry, Suite, SuiteContext};
use evaluation::{Encoder, Event, FeatureCache, FeaturesJob, Job, Outcome, Plan, PretrainedOn, Provenance};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weights::{EncoderInfo, ImportOptions, Role};

#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Run every protocol of a config on one encoder
    Run(Box<Arguments>),
    /// Run the protocols of a config that need no images on features files, made by `passer features` or another program
    Features(Box<FeaturesArguments>),
    /// Fine-tune an encoder on labeled images and score it: all labels, or 1 % and 10 % of them
    Finetune(Box<finetune::Arguments>),
    /// Run many protocols on many encoders and data sets and write one table; resumable
    Suite(SuiteArguments),
}

#[derive(clap::Args)]
pub(crate) struct SuiteArguments {
    /// Encoders, data sets and evaluations, a TOML file as in configs/suites/
    file: PathBuf,
    /// Folder for results, features and the table; the same folder resumes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write the tables alone, without the HTML reports
    #[arg(long)]
    no_report: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(clap::Args)]
pub(crate) struct FeaturesArguments {
    /// The protocols, a TOML file as in configs/evaluate/; its `test_transforms`, `normalize` and `data` are not used
    config: PathBuf,
    /// Features of labeled records to learn from: a file, or a folder of slices
    #[arg(long, value_name = "FILE.safetensors")]
    train: PathBuf,
    /// Features of labeled records to be scored on: a file, or a folder of slices
    #[arg(long, value_name = "FILE.safetensors")]
    test: PathBuf,
    /// Folder for `result.json`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Change a key of the config, as in `--set protocols.0.knn-dino.temperature=0.1`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The protocols, a TOML file as in configs/evaluate/
    config: PathBuf,
    /// A run directory, a checkpoint, an encoder file, or weights of another program (docs/weights.md)
    #[arg(long, value_name = "ENCODER")]
    encoder: PathBuf,
    /// Labeled records to learn from
    #[arg(long, value_name = "DATA")]
    train: String,
    /// Labeled records to be scored on
    #[arg(long, value_name = "DATA")]
    test: String,
    /// Folder for the features, `result.json` and `report.html`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
    /// Write no HTML report, which costs some seconds
    #[arg(long)]
    no_report: bool,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Change a key of the config, as in `--set protocols.0.knn-dino.temperature=0.1`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    #[command(flatten)]
    weights: WeightsArguments,
}

impl Verb {
    /// The verb's name, if it cannot share its work with other processes.
    pub(crate) fn of_one_process(&self) -> Option<&'static str> {
        match self {
            Self::Finetune(_) => None,
            Self::Run(_) => Some("evaluate run"),
            Self::Features(_) => Some("evaluate features"),
            Self::Suite(_) => Some("evaluate suite"),
        }
    }
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    let arguments = match verb {
        Verb::Run(arguments) => arguments,
        Verb::Features(arguments) => return features(&arguments),
        Verb::Finetune(arguments) => return finetune::run(&arguments),
        Verb::Suite(arguments) => return suite(&arguments),
    };
    let config = read_config(&arguments.config, &arguments.sets)?;
    let device = arguments.device.open()?;
    let encoder = open(&arguments.encoder, &arguments.weights.options()?, &device)?;
    for data in [&arguments.train, &arguments.test] {
        check_apart(data, &arguments.out)?;
    }
    let train = Arc::new(data::Dataset::open(&arguments.train)?);
    let test = Arc::new(data::Dataset::open(&arguments.test)?);
    let data_name = (!arguments.no_report).then(|| data_name(&arguments.test));
    let out = &arguments.out;
    let outcomes = evaluate(
        &config,
        &encoder,
        train,
        test,
        Writing {
            out,
            shared_features: None,
            report: data_name.as_deref(),
        },
        &device,
    )?;
    print_outcomes(&outcomes, arguments.json, out)?;
    if !arguments.no_report {
        eprintln!("{}", arguments.out.join(REPORT).display());
    }
    Ok(())
}

fn print_outcomes(outcomes: &[Outcome], json: bool, out: &Path) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(outcomes)?),
        false => print_table(outcomes),
    }
    eprintln!("{}", out.join(RESULTS).display());
    Ok(())
}

/// Reads the config of an evaluation.
pub(crate) fn read_config(path: &Path, sets: &[String]) -> anyhow::Result<evaluation::Config> {
    configs::read(path, sets, Kind::Evaluation, evaluation::Config::validate)
}

/// Runs protocols on features files.
fn features(arguments: &FeaturesArguments) -> anyhow::Result<()> {
    let config = read_config(&arguments.config, &arguments.sets)?;
    let device = arguments.device.open()?;
    let train = evaluation::read_features(&arguments.train, &config, evaluation::Split::Train)?;
    let test = evaluation::read_features(&arguments.test, &config, evaluation::Split::Test)?;
    let job = FeaturesJob {
        train: &train,
        test: &test,
        out: &arguments.out,
        device: &device,
        provenance: provenance(&device),
    };
    let mut stage = StageBar::default();
    let scores = evaluation::run_on_features(&config, &job, &mut |event| stage.show(event));
    stage.finish();
    let scores = scores?;
    note_kept(&scores.kept, &arguments.out);
    print_outcomes(&scores.outcomes, arguments.json, &arguments.out)
}

/// Commit and device, stored with the scores.
fn provenance(device: &Device) -> Provenance {
    Provenance {
        commit: provenance::COMMIT.into(),
        device: devices::describe(device),
    }
}

/// Reports stored scores.
fn note_kept(kept: &[&str], out: &Path) {
    if !kept.is_empty() {
        eprintln!(
            "`{}` has the scores of {} already; remove the file to compute them again",
            out.join(RESULTS).display(),
            kept.join(", ")
        );
    }
}

/// The scores, in the output folder of an evaluation.
const RESULTS: &str = "result.json";
/// The file with pictures, in the output folder of an evaluation.
pub(crate) const REPORT: &str = "report.html";

/// The name of the records: from their description, or the last part of their path.
fn data_name(spec: &str) -> String {
    let about = data::Dataset::about(spec).unwrap_or_default();
    let last = || {
        let trimmed = spec.trim_end_matches(['/', '\\']);
        trimmed.rsplit(['/', '\\']).next().unwrap_or(trimmed).to_string()
    };
    about.name.unwrap_or_else(last)
}

/// Runs a suite and writes its table.
fn suite(arguments: &SuiteArguments) -> anyhow::Result<()> {
    let content: Suite = configs::read(&arguments.file, &[], Kind::Suite, Suite::validate)?;
    let device = arguments.device.open()?;
    let open_entry = |entry: &EncoderEntry, path: &Path| {
        let options = ImportOptions {
            backbone: entry.backbone.clone(),
            role: entry.part.as_deref().map(|part| match part {
                "teacher" => Role::Teacher,
                _ => Role::Student,
            }),
            ..ImportOptions::default()
        };
        Ok(open(path, &options, &device)?)
    };
    let stage = RefCell::new(StageBar::default());
    let mut on_cell = |cell: &Cell, done: usize, total: usize| {
        stage.borrow_mut().finish();
        let score = match (cell.quoted(), &cell.missing) {
            (Some(outcome), _) => format!("{} ({})", significant(outcome.value, 4), outcome.metric),
            (None, reason) => format!("missing: {}", reason.as_deref().unwrap_or_default()),
        };
        eprintln!(
            "{done}/{total} {} on {}, {}: {score}",
            cell.encoder, cell.data_set, cell.column
        );
    };
    let read =
        |path: &Path| read_config(path, &[]).map_err(|error| evaluation::Error::Config(format!("{error:#}")));
    let tables = evaluation::suite::run(
        &content,
        &mut SuiteContext {
            folder: arguments.file.parent().unwrap_or(Path::new("")),
            out: &arguments.out,
            device: &device,
            provenance: provenance(&device),
            read: &read,
            open: &open_entry,
            reports: !arguments.no_report,
            on_cell: &mut on_cell,
            progress: &mut |event| stage.borrow_mut().show(event),
        },
    );
    stage.borrow_mut().finish();
    let tables = tables?;
    print!("{}", tables.markdown);
    for file in &tables.files {
        eprintln!("{}", file.display());
    }
    let missing = tables.cells.iter().filter(|cell| cell.missing.is_some()).count();
    if missing > 0 {
        return Err(Failure::new(format!(
            "{missing} of {} scores are missing; the table has the reasons",
            tables.cells.len()
        ))
        .hint(
            "correct what the reasons name and run the same command again: only missing scores are computed",
        )
        .into());
    }
    Ok(())
}

/// One row per score.
pub(crate) fn print_table(outcomes: &[Outcome]) {
    let rows: Vec<[String; 3]> = outcomes.iter().map(words).collect();
    let width = rows
        .iter()
        .map(|[name, ..]| name.len())
        .max()
        .unwrap_or(0)
        .max(26);
    println!(
        "{:<width$} {:<13} {:>9} {:<8}  test records",
        "protocol", "metric", "value", ""
    );
    for ([name, value, uncertainty], outcome) in rows.iter().zip(outcomes) {
        println!(
            "{name:<width$} {:<13} {value:>9} {uncertainty:<8}  {}",
            outcome.metric, outcome.test_records
        );
    }
}

/// Reads an encoder for evaluation.
pub(crate) fn open(path: &Path, options: &ImportOptions, device: &Device) -> anyhow::Result<Encoder> {
    let loaded = training::read_encoder(path, options, device)?;
    // An unfinished run has scores too, which differ from those of the finished run.
    if path.is_dir() && loaded.path.parent() != Some(path) {
        tracing::warn!(
            "`{}` has no encoder of a finished run; using `{}`",
            path.display(),
            loaded.path.display()
        );
    }
    // The file states its method, which may contain any characters.
    let name = format!(
        "{} {}",
        loaded.info.architecture.name(),
        escape(&loaded.info.method)
    );
    let encoder = Encoder::new(name, loaded.hash.clone(), &loaded.backbone, loaded.normalize());
    Ok(encoder
        .trained(trained_px(&loaded.info), loaded.info.steps)
        .pretrained_on(PretrainedOn::of(&loaded)))
}

/// Side of the images that a network was pretrained on, px; 0 if unknown, as for other programs' ResNets.
fn trained_px(info: &EncoderInfo) -> usize {
    match (&info.architecture, info.extra.contains_key("layout")) {
        (BackboneConfig::Resnet(config), true) if config.stem == Stem::Imagenet => 0,
        _ => info.pixels,
    }
}

/// Where an evaluation writes.
pub(crate) struct Writing<'a> {
    /// Folder of the scores.
    pub(crate) out: &'a Path,
    /// As [`Job::shared_features`].
    pub(crate) shared_features: Option<Arc<FeatureCache>>,
    /// The data set's name in the report; `None`: no report.
    pub(crate) report: Option<&'a str>,
}

/// Runs a config's protocols with a progress display, and writes a report if it has the name of the records.
pub(crate) fn evaluate(
    config: &evaluation::Config,
    encoder: &Encoder,
    train: Arc<data::Dataset>,
    test: Arc<data::Dataset>,
    writing: Writing<'_>,
    device: &Device,
) -> anyhow::Result<Vec<Outcome>> {
    let Writing {
        out,
        shared_features,
        report,
    } = writing;
    let job = Job {
        encoder,
        train: train.into(),
        test: test.into(),
        out,
        shared_features,
        device,
        provenance: provenance(device),
    };
    let mut plan = Plan::new(config, &job)?;
    note_kept(plan.kept(), out);
    if let Some(note) = plan.size_note() {
        eprintln!(
            "note: {note}; `test_transforms` in the config sets the size (configs/evaluate/small-images.toml is for 32 px)"
        );
    }
    let mut stage = StageBar::default();
    let mut done = plan.run(&mut |event| stage.show(event));
    if let (Ok(()), Some(name)) = (&done, report) {
        done = plan
            .report(name, &mut |event| stage.show(event))
            .and_then(|html| Ok(data::durable::write(&out.join(REPORT), html.as_bytes())?));
    }
    stage.finish();
    if done.is_err() && !plan.outcomes().is_empty() {
        eprintln!(
            "the scores before the error are in `{}`; the same command resumes from there",
            out.join(RESULTS).display()
        );
    }
    done?;
    Ok(plan.outcomes())
}

/// One bar at a time, for the current stage of an evaluation.
#[derive(Default)]
pub(crate) struct StageBar {
    current: Option<(String, ProgressBar)>,
}

impl StageBar {
    /// Shows an event, in a new bar if its stage is new.
    pub(crate) fn show(&mut self, event: Event<'_>) {
        if self.current.as_ref().is_none_or(|(name, _)| name != event.stage) {
            self.finish();
            let label = format!("{} ({})", event.stage, event.unit);
            self.current = Some((
                event.stage.to_string(),
                ProgressBar::new(&label, 0, event.total as u64),
            ));
        }
        if let Some((_, progress)) = &mut self.current {
            progress.at(event.done as u64);
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&mut self) {
        if let Some((_, progress)) = self.current.take() {
            progress.finish();
        }
    }
}
