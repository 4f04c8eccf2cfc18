//! `passer curate sheet`, `passer curate why` and the licenses of `passer curate status`: what stages decided, to
//! look at.

use super::shown;
use crate::detectors::OnDevice;
use crate::devices::DeviceArgument;
use curation::{LicenseCount, SheetOptions, WhyRow};
use data::terminal::one_line;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct SheetArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// The stage
    #[arg(long, value_name = "NAME")]
    stage: String,
    /// Show the photos that it dropped; without it those that it kept
    #[arg(long)]
    dropped: bool,
    /// Photos on the sheet, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    photos: usize,
    /// The file; default: `sheet-STAGE-dropped.html` or `sheet-STAGE-kept.html` in the folder of the curation
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(clap::Args)]
pub(crate) struct WhyArguments {
    /// The folder of the curation
    dir: PathBuf,
    /// The photo's key
    key: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `passer curate sheet`
pub(super) fn sheet(arguments: &SheetArguments) -> anyhow::Result<()> {
    let made = shown(|stop, progress| {
        let options = SheetOptions {
            stage: &arguments.stage,
            dropped: arguments.dropped,
            photos: arguments.photos,
            sheet: arguments.out.as_deref(),
            detectors: &OnDevice(&arguments.device),
            stop,
            progress,
        };
        curation::stage_sheet(&arguments.dir, options)
    })?;
    if let Some(reason) = &made.no_boxes {
        eprintln!("no boxes are drawn: {reason}");
    }
    if made.shown < made.photos {
        eprintln!(
            "{} of {} photos; `--photos N` shows more",
            made.shown, made.photos
        );
    }
    println!("{}", made.sheet.display());
    Ok(())
}

/// `passer curate why`
pub(super) fn why(arguments: &WhyArguments) -> anyhow::Result<()> {
    let found = curation::why(&arguments.dir, &arguments.key)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    for row in &found.rows {
        print_row(row);
    }
    for answer in &found.answers {
        let sample = match answer.sample {
            0 => String::new(),
            sample => format!(", sample {sample}"),
        };
        let said = match answer.categories.as_str() {
            "" => "nothing".to_string(),
            categories => categories.replace(',', ", "),
        };
        println!(
            "label        {said} by {}, {}{sample}, {}",
            one_line(&answer.annotator),
            answer.answered,
            answer.state
        );
    }
    if let Some(down) = &found.taken_down {
        println!("taken down   {} {}", down.asked, one_line(&down.reason));
    }
    if !found.releases.is_empty() {
        let versions: Vec<String> = found.releases.iter().map(u32::to_string).collect();
        println!("released in  version {}", versions.join(", "));
    }
    Ok(())
}

/// What the number of a decision is: of a detector, or of a draw among photos.
fn measure(stage: &str) -> &'static str {
    match stage {
        "balance" | "sample" => "draw",
        _ => "score",
    }
}

/// A row of the source: its facts, then its decisions.
fn print_row(row: &WhyRow) {
    println!("row          {}", row.row);
    let line = |what: &str, text: Option<&String>| {
        if let Some(text) = text {
            println!("{what:<12} {}", one_line(text));
        }
    };
    line("title", row.title.as_ref());
    line("by", row.photographer.as_ref());
    line("licence", row.license.as_ref());
    line("licence url", row.license_url.as_ref());
    line(
        "file",
        row.file.as_ref().map(|path| path.display().to_string()).as_ref(),
    );
    line("sha256", row.sha256.as_ref());
    for decision in &row.decisions {
        let mut said = vec![if decision.kept { "kept" } else { "dropped" }.to_string()];
        said.extend(decision.reason.clone());
        said.extend(
            decision
                .score
                .map(|score| format!("{} {}", measure(&decision.stage), data::significant(score, 6))),
        );
        said.extend(decision.detail.as_ref().map(|detail| one_line(detail)));
        println!("{:<12} {}", decision.stage, said.join(", "));
    }
    for other in &row.duplicates {
        println!(
            "duplicate    {} ({}, {} bits)",
            one_line(&other.key),
            other.kind,
            other.distance
        );
    }
}

/// The licenses of the source, as they are written there.
pub(super) fn print_licenses(licenses: &[LicenseCount]) {
    println!();
    println!("{:>12} {:>12}   license as the source has it", "photos", "kept");
    for license in licenses {
        let kept = license
            .kept
            .map_or("not decided".to_string(), |kept| kept.to_string());
        let words: Vec<String> = [&license.name, &license.url]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| one_line(text))
            .collect();
        let said = match words.is_empty() {
            true => "(none)".to_string(),
            false => words.join("  "),
        };
        println!("{:>12} {kept:>12}   {said}", license.photos);
    }
}
