//! `passer report`: run directories in, one HTML page (or JSON) out.

use crate::failure::{Failure, make_folder_of};
use backbones::papers::{self, Paper};
use evaluation::runs::{self, Citation, ReadError, TrainingRun};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run directories of `passer pretrain` or `passer evaluate finetune`, finished or not. Those that cannot be read are listed on
    /// the page; only if all of them are, the command fails
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write; without it `run.html` in the run directory, or `runs.html` here for several runs
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Print the facts as JSON; the page is only written with --out
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let read = runs::read(&arguments.runs).map_err(|error| -> anyhow::Error {
        match &error {
            ReadError::NotARun { .. } => Failure::new(error.to_string())
                .hint("give the folder that `passer pretrain --out` or `passer evaluate finetune --out` made")
                .into(),
            _ => error.into(),
        }
    })?;
    for run in &read.damaged {
        eprintln!(
            "warning: `{}` is left out: {}",
            run.path.display(),
            data::terminal::escape(&run.reason)
        );
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&runs::summary(&read, &cite))?);
    }
    let out = match (arguments.out, arguments.json, arguments.runs.as_slice()) {
        (Some(out), _, _) => out,
        (None, true, _) => return Ok(()),
        (None, false, [one]) => one.join("run.html"),
        (None, false, _) => "runs.html".into(),
    };
    if out.extension().is_none_or(|ending| ending != "html") {
        return Err(
            Failure::new(format!("`--out {}` must end in `.html`", out.display()))
                .hint("the page is written there, whatever the file holds")
                .into(),
        );
    }
    make_folder_of(&out)?;
    data::durable::write(&out, runs::page(&read, &cite).as_bytes())?;
    match arguments.json {
        // Standard output is the JSON's.
        true => eprintln!("{}", out.display()),
        false => println!("{}", out.display()),
    }
    Ok(())
}

/// The system that this program implements.
const PASS: Paper = Paper {
    authors: "Asano, Rupprecht, Zisserman, Vedaldi",
    title: "PASS: An ImageNet replacement for self-supervised pretraining without humans",
    year: 2021,
    arxiv: "2109.13228",
};

/// The method's papers, the network's, and that of the system that this program implements.
fn cite(run: &TrainingRun) -> Vec<Citation> {
    let network = match run.network().starts_with("vit") {
        true => papers::VIT,
        false => papers::RESNET,
    };
    let works = objectives::papers(run.method()).iter().chain([&network, &PASS]);
    works
        .map(|paper| Citation {
            text: paper.to_string(),
            url: paper.url(),
        })
        .collect()
}
