//! `passer views`: what the network sees, as a PNG sheet.

use crate::configs;
use crate::failure::{Failure, make_folder_of};
use objectives::ObjectiveConfig;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The experiment whose views to show
    config: PathBuf,
    /// The photographs
    #[arg(long, value_name = "DATA")]
    data: String,
    /// The picture to write
    #[arg(long, value_name = "FILE.png")]
    out: PathBuf,
    /// The epoch whose draws to show, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    epoch: u64,
    /// Position of the first record
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: usize,
    /// Records (rows)
    #[arg(long, value_name = "N", default_value_t = 8)]
    records: usize,
    /// Change a key of the config, as in `--set seed=1`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.records == 0 {
        return Err(Failure::new("`--records` must be at least 1, got 0").into());
    }
    let is_png = |extension: &std::ffi::OsStr| extension.eq_ignore_ascii_case("png");
    if !arguments.out.extension().is_some_and(is_png) {
        return Err(Failure::new(format!(
            "`--out {}`: the sheet is a PNG, and its name should say so",
            arguments.out.display()
        ))
        .hint(format!(
            "call it `{}`",
            arguments.out.with_extension("png").display()
        ))
        .into());
    }
    let check = training::Config::<ObjectiveConfig>::validate;
    let config = configs::read(
        &arguments.config,
        &arguments.sets,
        configs::Kind::Pretraining,
        check,
    )?;
    let dataset = data::Dataset::open(&arguments.data)?;
    let sheet = data::contact_sheet::contact_sheet(
        &dataset,
        &config.views,
        config.seed,
        arguments.epoch,
        arguments.first,
        arguments.records,
    )?;
    make_folder_of(&arguments.out)?;
    data::contact_sheet::write_png(&sheet, &arguments.out)?;
    eprintln!(
        "left the original, then {} views each; {} x {} px",
        config.views.iter().map(|group| group.count).sum::<usize>(),
        sheet.width,
        sheet.height
    );
    println!("{}", arguments.out.display());
    Ok(())
}
