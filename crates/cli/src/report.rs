//! `passer report`: run directories in, one HTML page (or JSON) out.

use crate::failure::{Failure, make_folder_of};
use evaluation::runs::{self, Citation, ReadError, TrainingRun};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run directories of `passer pretrain` or `passer evaluate finetune`, finished or not
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

/// The method's papers, the network's, and that of the system that this program implements.
fn cite(run: &TrainingRun) -> Vec<Citation> {
    let work = |authors: &str, title: &str, year: u32, arxiv: &str| Citation {
        text: format!("{authors}, {title}, {year}"),
        url: format!("https://arxiv.org/abs/{arxiv}"),
    };
    let of_method = objectives::papers(run.method()).iter();
    let mut works: Vec<Citation> = of_method
        .map(|paper| work(paper.authors, paper.title, paper.year, paper.arxiv))
        .collect();
    works.push(match run.network().starts_with("vit") {
        true => work(
            "Dosovitskiy et al.",
            "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
            2020,
            "2010.11929",
        ),
        false => work(
            "He, Zhang, Ren, Sun",
            "Deep Residual Learning for Image Recognition",
            2015,
            "1512.03385",
        ),
    });
    works.push(work(
        "Asano, Rupprecht, Zisserman, Vedaldi",
        "PASS: An ImageNet replacement for self-supervised pretraining without humans",
        2021,
        "2109.13228",
    ));
    works
}
