//! Training runs side by side: run directories in, one HTML page or one JSON value out.
//!
//! The page loads nothing, has no script and opens from disk. Runs whose configs differ in the seed alone are one curve, their
//! mean, with a band from the lowest to the highest. It reads a run that is still going on, and runs of earlier versions.

mod alarms;
mod chart;
mod compare;
mod directory;
mod faults;
mod paths;
mod remarks;
mod sections;
mod series;
mod words;

pub use words::utc;

use crate::report::Page;
use compare::{curves_of, differences};
use maud::{Markup, html};
use serde_json::{Value, json};
use std::path::PathBuf;

pub use directory::{DamagedRun, ReadError, TrainingRun};

/// A work that a run's results rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Citation {
    /// Authors, title and year.
    pub text: String,
    /// Its address.
    pub url: String,
}

/// Folders that were read as runs.
#[derive(Clone, Debug)]
pub struct Runs {
    /// The runs, at least one, in the order in which they were named.
    pub runs: Vec<TrainingRun>,
    /// The folders that could not be read.
    pub damaged: Vec<DamagedRun>,
}

/// Reads run directories and gives each a name that tells it from the others. A folder that cannot be read is listed as damaged.
///
/// # Errors
/// The first folder's, if none can be read.
pub fn read(paths: &[PathBuf]) -> Result<Runs, ReadError> {
    let (mut runs, mut damaged, mut first_error) = (vec![], vec![], None);
    for (path, name) in paths.iter().zip(directory::names(paths)) {
        match TrainingRun::read(path) {
            Ok(mut run) => {
                run.name = name;
                runs.push(run);
            }
            Err(error) => {
                damaged.push(DamagedRun {
                    path: path.clone(),
                    name,
                    reason: error.reason(),
                });
                first_error = first_error.or(Some(error));
            }
        }
    }
    match first_error {
        Some(error) if runs.is_empty() => Err(error),
        _ => Ok(Runs { runs, damaged }),
    }
}

/// The page of some runs. `cite` lists what to cite for a run. It is for others' eyes: of paths on this machine it has only
/// names.
pub fn page(Runs { runs, damaged }: &Runs, cite: &dyn Fn(&TrainingRun) -> Vec<Citation>) -> String {
    let curves = curves_of(runs);
    let title = match runs.as_slice() {
        [one] => one.name.clone(),
        runs => format!("{} training runs", runs.len()),
    };
    let mut page = Page::new(&title, lead(runs, curves.len())).with_style(STYLE);
    page.section("runs", "Overview", sections::overview(runs, &curves));
    page.section("alarms", "Alarms", alarms::section(runs));
    page.section("remarks", "Worth knowing", sections::remarks(runs, damaged));
    page.section("curves", "Curves", chart::charts(&curves));
    page.section("numbers", "Last numbers", sections::last_numbers(&curves));
    page.section("scores", "Scores", sections::scores(runs));
    page.section("config", "Configs", sections::configs(runs));
    page.section("views", "What the network sees", sections::views(runs));
    page.section("data", "Data", sections::data_cards(runs));
    page.section("environment", "Environment", sections::environment(runs));
    page.section("cite", "What to cite", sections::citations(runs, cite));
    page.html()
}

/// The same facts for machines, with paths as they are; the lines themselves are in each run's `metrics.jsonl`.
pub fn summary(Runs { runs, damaged }: &Runs, cite: &dyn Fn(&TrainingRun) -> Vec<Citation>) -> Value {
    let of_run = |run: &TrainingRun| {
        let cited = cite(run);
        json!({
            "name": run.name,
            "path": run.path,
            "method": run.method(),
            "network": run.network(),
            "seed": run.seed(),
            "finished": run.finished,
            "step": run.step(),
            "steps": run.steps(),
            "epochs": run.epochs(),
            "hours": run.hours(),
            "started_unix_seconds": run.lines.first().and_then(|line| line.unix_seconds),
            "images_per_second": run.rate(),
            "data_wait": run.data_wait(),
            "lowest_loss": run.lowest_loss().map(|(step, loss)| json!({"step": step, "loss": loss})),
            "last": run.last(),
            "scores": run.scores().map(|(_, outcome)| outcome).collect::<Vec<_>>(),
            "fingerprint": run.fact("fingerprint"),
            "records": run.facts.get("records"),
            "licences": run.licenses,
            "facts": run.facts,
            "alarms": run.alarms,
            "remarks": remarks::of_run(run),
            "cite": cited.iter().map(|work| json!({"text": work.text, "url": work.url})).collect::<Vec<_>>(),
        })
    };
    let curves = curves_of(runs);
    json!({
        "runs": runs.iter().map(of_run).collect::<Vec<_>>(),
        "damaged": damaged.iter().map(|run| json!({
            "name": run.name,
            "path": run.path,
            "reason": run.reason,
        })).collect::<Vec<_>>(),
        "groups_over_seeds": curves.iter().filter(|curve| curve.runs.len() > 1).map(|curve| json!({
            "runs": curve.runs.iter().map(|run| &run.name).collect::<Vec<_>>(),
            "seeds": curve.runs.iter().map(|run| run.seed()).collect::<Vec<_>>(),
            "last": curve.last_spreads(),
        })).collect::<Vec<_>>(),
        "differences": differences(runs).iter().map(|(key, values)| json!({"key": key, "values": values})).collect::<Vec<_>>(),
        "remarks": remarks::of_all(runs),
    })
}

fn lead(runs: &[TrainingRun], curves: usize) -> Markup {
    html! {
        p class="lead" {
            @match runs {
                [run] => {
                    (run.method()) " on " (run.network())
                    @if let Some(records) = run.facts.get("records").and_then(Value::as_u64) {
                        ", " (words::grouped(records as f64)) " images"
                    }
                    ". "
                    (sections::state(run))
                }
                runs => {
                    (runs.len()) " runs"
                    @if curves < runs.len() {
                        " in " (curves) @if curves == 1 { " group" } @else { " groups" }
                        ": runs whose configs differ in the seed alone are one curve, their mean, with a band from the lowest to the highest"
                    }
                    "."
                }
            }
        }
    }
}

const STYLE: &str = include_str!("runs/style.css");

#[cfg(test)]
mod tests;
