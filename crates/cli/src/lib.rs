//! The program `passer`: arguments and config files in, one library call out.
//!
//! Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 usage, 3 waits for people's labels (`curate run`),
//! 130 interrupted.
//! A library only so that tests can reach the parser of the arguments; `main.rs` is the program.

// Only this crate prints: see ARCHITECTURE.md, invariant 5.
#![allow(clippy::print_stdout, clippy::print_stderr)]

// First, because its macros replace the standard library's in all later modules.
#[macro_use]
mod output;

mod batch;
mod card;
mod completions;
mod config;
mod configs;
mod curate;
mod detect;
mod detectors;
mod devices;
mod doctor;
mod evaluate;
mod failure;
mod features;
mod first_kernel;
mod hints;
mod interrupt;
#[cfg(feature = "tuned")]
mod kernel_cache;
mod launch;
mod loudness;
mod machine;
mod on_event;
mod panics;
mod pretrain;
mod progress;
mod provenance;
mod quickstart;
mod ranks;
mod replay;
mod report;
mod schema;
mod scores;
mod shards;
mod slice;
mod smoke;
mod training_progress;
mod training_run;
mod views;
mod weights;

use clap::error::ContextKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Learn visual representations from photographs without people and without labels: curate, pretrain, evaluate.
#[derive(Parser)]
#[command(name = "passer", version, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    loudness: loudness::Loudness,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Pretrain and evaluate a small network on bundled images, in minutes, without network
    Quickstart(quickstart::Arguments),
    /// Make a licensed release of raw photos: filter, fetch, check, balance, release, take down
    #[command(subcommand)]
    Curate(curate::Verb),
    /// Pretrain a network as a config file says
    Pretrain(pretrain::Arguments),
    /// Measure an encoder: frozen, with the protocols of a config file, or fine-tuned
    #[command(subcommand)]
    Evaluate(evaluate::Verb),
    /// Extract an encoder's features of a data set, once, into a file
    Features(features::Arguments),
    /// Pack, index, inspect and verify shards
    #[command(subcommand)]
    Shards(shards::Verb),
    /// Look into files of weights, and bring them to torchvision, timm, Transformers and ONNX
    #[command(subcommand)]
    Weights(weights::Verb),
    /// Show what the network sees: a PNG sheet of originals and their views
    Views(views::Arguments),
    /// Show training runs, alone or side by side: curves, configs and data on one HTML page
    Report(report::Arguments),
    /// Run steps of a pretraining run again: compare them with its log, and find what gave a loss that is not finite
    Replay(replay::Arguments),
    /// Find faces or persons in photos: boxes and scores as JSON lines, and a sheet to look at
    #[command(subcommand)]
    Detect(detect::Verb),
    /// List, print and write configs; their keys and schemas
    #[command(subcommand)]
    Config(config::Verb),
    /// List the devices that this build and this machine have
    Devices(devices::ListArguments),
    /// Check this machine, with two steps of training on each device
    Doctor(doctor::Arguments),
    /// Print a shell's completions of this program
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The parser of the program's arguments.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let parsed = Arguments::try_parse().map_err(|mut usage| {
        // clap advises `-- --typo`, which no verb takes.
        usage.remove(ContextKind::Suggested);
        usage
    });
    let verb = match parsed {
        Ok(arguments) => {
            arguments.loudness.begin();
            arguments.verb
        }
        // Help is no failure, but written once too.
        Err(usage) if usage.exit_code() == 0 && !ranks::launched_first() => return ExitCode::SUCCESS,
        Err(usage) => {
            if !ranks::launched_first() {
                failure::let_another_rank_report();
            }
            usage.exit()
        }
    };
    let result = panics::as_errors(|| {
        if let Some(verb) = verb.of_one_process() {
            ranks::refuse(verb)?;
        }
        match verb {
            Verb::Quickstart(arguments) => quickstart::run(arguments),
            Verb::Curate(verb) => curate::run(verb),
            Verb::Pretrain(arguments) => pretrain::run(arguments),
            Verb::Evaluate(verb) => evaluate::run(verb),
            Verb::Features(arguments) => features::run(arguments),
            Verb::Shards(verb) => shards::run(verb),
            Verb::Weights(verb) => weights::run(verb),
            Verb::Views(arguments) => views::run(arguments),
            Verb::Report(arguments) => report::run(arguments),
            Verb::Replay(arguments) => replay::run(&arguments),
            Verb::Detect(verb) => detect::run(verb),
            Verb::Config(verb) => config::run(verb),
            Verb::Devices(arguments) => devices::list(&arguments),
            Verb::Doctor(arguments) => doctor::run(&arguments),
            Verb::Completions { shell } => {
                print!("{}", completions::script(shell, command()));
                Ok(())
            }
        }
    });
    match result {
        Ok(()) if output::lost() => {
            eprintln!("error: results could not be written to standard output");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = failure::report(&error);
            if !error.is::<failure::Interrupted>() {
                // The others may wait for this rank in the middle of a step.
                ranks::abort();
            }
            status
        }
    }
}

impl Verb {
    /// The verb's name, if it cannot share its work with other processes.
    fn of_one_process(&self) -> Option<&'static str> {
        match self {
            Self::Pretrain(_) | Self::Devices(_) => None,
            Self::Config(_) => Some("config"),
            Self::Doctor(_) => Some("doctor"),
            Self::Completions { .. } => Some("completions"),
            Self::Quickstart(_) => Some("quickstart"),
            Self::Curate(_) => Some("curate"),
            Self::Evaluate(verb) => verb.of_one_process(),
            Self::Features(_) => Some("features"),
            Self::Shards(_) => Some("shards"),
            Self::Weights(_) => Some("weights"),
            Self::Views(_) => Some("views"),
            Self::Report(_) => Some("report"),
            Self::Replay(_) => Some("replay"),
            Self::Detect(_) => Some("detect"),
        }
    }
}
