//! The sections of the page of runs, besides the curves.

use super::compare::{Curve, differences};
use super::directory::{DamagedRun, TrainingRun};
use super::words::{duration, grouped, label, percent, rank, sentence, utc};
use super::{Citation, remarks};
use crate::report::{color, column, shortened, table};
use data::html::data_uri;
use data::significant;
use maud::{Markup, html};
use std::collections::BTreeSet;
use std::path::Path;

/// Licenses that are listed by themselves.
const LICENSES: usize = 12;

/// How far a run is.
pub(super) fn state(run: &TrainingRun) -> Markup {
    let step = grouped(run.step() as f64);
    html! {
        @match (run.finished, run.steps()) {
            (true, _) => { span class="right" { "Finished" } " after " (step) " steps." }
            (false, Some(steps)) => { "At step " (step) " of " (grouped(steps as f64)) "." }
            (false, None) => { "At step " (step) "." }
        }
    }
}

fn swatch(place: usize) -> Markup {
    html! { span class="swatch" style={ "background:" (color(place)) } {} }
}

/// A run as tiles, or several as a table.
pub(super) fn overview(runs: &[TrainingRun], curves: &[Curve<'_>]) -> Markup {
    if let [run] = runs {
        return tiles(run);
    }
    let head = html! {
        (column("run", true)) (column("method", true)) (column("network", true)) (column("steps", false)) (column("epochs", false))
        (column("training", false)) (column("images/s", false)) (column("waiting", false)) (column("last loss", false))
        (column("lowest loss", false))
    };
    let row = |place: usize, run: &TrainingRun| {
        html! {
            tr {
                th scope="row" { (swatch(place)) (shortened(&run.name, 48)) }
                td class="text" { (run.method()) }
                td class="text" { (run.network()) }
                td { (grouped(run.step() as f64)) @if !run.finished { " of " (run.steps().map_or("?".into(), |steps| grouped(steps as f64))) } }
                td { (run.epochs().map_or("–".into(), |epochs| significant(epochs, 4))) }
                td { (run.hours().map_or("–".into(), duration)) }
                td { (run.rate().map_or("–".into(), |rate| significant(rate, 3))) }
                td { (run.data_wait().map_or("–".into(), percent)) }
                td { (run.lines.last().map_or("–".into(), |line| significant(line.loss.into(), 5))) }
                td { (run.lowest_loss().map_or("–".into(), |(_, loss)| significant(loss.into(), 5))) }
            }
        }
    };
    let rows = html! {
        @for (place, curve) in curves.iter().enumerate() {
            @for run in &curve.runs { (row(place, run)) }
        }
    };
    table("", "Every run: how far it is, and how fast it was", &head, &rows)
}

fn tiles(run: &TrainingRun) -> Markup {
    let mut tiles: Vec<(&str, String, String)> = vec![];
    if let Some(line) = run.lines.last() {
        let lowest = run.lowest_loss().map_or(String::new(), |(step, loss)| {
            format!(
                "lowest {} at step {}",
                significant(loss.into(), 5),
                grouped(step as f64)
            )
        });
        tiles.push(("last loss", significant(line.loss.into(), 5), lowest));
    }
    let of = run
        .steps()
        .map_or(String::new(), |steps| format!("of {}", grouped(steps as f64)));
    tiles.push(("steps", grouped(run.step() as f64), of));
    if let Some(epochs) = run.epochs() {
        tiles.push(("epochs", significant(epochs, 4), String::new()));
    }
    if let Some(hours) = run.hours() {
        tiles.push(("training", duration(hours), "without pauses".into()));
    }
    if let Some(rate) = run.rate() {
        let waited = run.data_wait().map_or(String::new(), |wait| {
            format!("{} waiting for data", percent(wait))
        });
        tiles.push(("images per second", significant(rate, 3), waited));
    }
    for (_, outcome) in run.scores().filter(|(_, outcome)| outcome.headline).take(2) {
        tiles.push((
            &outcome.protocol,
            crate::report::value(outcome),
            outcome.metric.clone(),
        ));
    }
    html! {
        dl class="tiles" {
            @for (name, value, more) in &tiles {
                div { dt { (name) } dd { strong { (value) } @if !more.is_empty() { span class="quiet" { (more) } } } }
            }
        }
    }
}

/// What a reader of the numbers should know.
pub(super) fn remarks(runs: &[TrainingRun], damaged: &[DamagedRun]) -> Markup {
    let of_all = remarks::of_all(runs);
    // A remark on several runs stands once.
    let mut each: Vec<(String, Vec<&str>)> = vec![];
    for run in runs {
        for remark in remarks::of_run(run) {
            match each.iter_mut().find(|(known, _)| *known == remark) {
                Some((_, names)) => names.push(&run.name),
                None => each.push((remark, vec![&run.name])),
            }
        }
    }
    if damaged.is_empty() && of_all.is_empty() && each.is_empty() {
        return html! {};
    }
    html! {
        ul class="remarks" {
            @for run in damaged {
                li { strong { (run.name) } " is not on this page: " (run.reason) "." }
            }
            @for remark in &of_all { li { (sentence(remark)) } }
            @for (remark, names) in &each {
                li { @if runs.len() > 1 { strong { (names.join(", ")) } ": " (remark) "." } @else { (sentence(remark)) } }
            }
        }
    }
}

/// The numbers of the newest line, one column for each curve.
pub(super) fn last_numbers(curves: &[Curve<'_>]) -> Markup {
    let spreads: Vec<_> = curves.iter().map(Curve::last_spreads).collect();
    let names: BTreeSet<&String> = spreads.iter().flat_map(|last| last.keys()).collect();
    if names.is_empty() {
        return html! {};
    }
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| rank(name));
    let head = html! {
        (column("number", true))
        @for (place, curve) in curves.iter().enumerate() {
            th scope="col" { @if curves.len() > 1 { (swatch(place)) } (shortened(&curve.name, 40)) }
        }
    };
    let rows = html! {
        @for name in &names {
            tr {
                th scope="row" { (label(name)) }
                @for last in &spreads {
                    td {
                        @match last.get(*name) {
                            Some(spread) => {
                                (significant(spread.mean, 5))
                                @if spread.values.len() > 1 { " ± " (significant(spread.standard_deviation, 2)) }
                            }
                            None => "–"
                        }
                    }
                }
            }
        }
    };
    let caption = match curves.iter().any(|curve| curve.runs.len() > 1) {
        true => "The newest line of each log; over seeds the mean ± the sample standard deviation",
        false => "The newest line of the log: means over its window of steps",
    };
    table("", caption, &head, &rows)
}

/// Scores in the run directories.
pub(super) fn scores(runs: &[TrainingRun]) -> Markup {
    let rows: Vec<_> = runs
        .iter()
        .flat_map(|run| run.scores().map(move |score| (run, score)))
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    let head = html! {
        (column("protocol", true)) (column("metric", true)) (column("score", false)) (column("test images", false)) (column("file", true))
    };
    let rows = html! {
        @for (run, (file, outcome)) in &rows {
            tr class=[outcome.headline.then_some("headline")] {
                th scope="row" { (outcome.protocol) @if let Some(variant) = outcome.variant() { " " (variant) } }
                td class="text" { (outcome.metric) }
                td { (crate::report::value(outcome)) }
                td { (grouped(outcome.test_records as f64)) }
                td class="text" { @if runs.len() > 1 { (shortened(&run.name, 40)) "/" } (file) }
            }
        }
    };
    table("", "Scores that lie in the run directories", &head, &rows)
}

/// What differs between the configs, and each config.
pub(super) fn configs(runs: &[TrainingRun]) -> Markup {
    let differences = differences(runs);
    let head = html! {
        (column("key", true))
        @for run in runs { (column(&shortened(&run.name, 40), true)) }
    };
    let rows = html! {
        @for (key, values) in &differences {
            tr {
                th scope="row" { code { (key) } }
                @for (run, value) in runs.iter().zip(values) {
                    td class="text" { @match value { Some(value) => code { (shortened(&run.shown(value), 80)) }, None => "–" } }
                }
            }
        }
    };
    html! {
        @if runs.len() > 1 {
            @if differences.is_empty() {
                p { "The configs are the same." }
            } @else {
                (table("", "Keys whose values differ", &head, &rows))
            }
        }
        @for run in runs {
            details {
                summary { "config.toml" @if runs.len() > 1 { " of " (run.name) } }
                pre class="config" { (run.shown_config()) }
            }
        }
    }
}

/// The views of the first records.
pub(super) fn views(runs: &[TrainingRun]) -> Markup {
    // Runs of one config and seed see the same.
    let mut shown: Vec<(&TrainingRun, &Vec<u8>)> = vec![];
    for run in runs {
        if let Some(jpeg) = &run.views
            && shown.iter().all(|(_, known)| *known != jpeg)
            && shown.len() < 4
        {
            shown.push((run, jpeg));
        }
    }
    html! {
        @if !shown.is_empty() {
            p class="quiet" { "The first images of the run, left, and the views that training made of them in its first epoch." }
        }
        @for (run, jpeg) in &shown {
            figure class="views" {
                img src=(data_uri(jpeg)) alt={ "Images and their augmented views in " (run.name) };
                @if runs.len() > 1 { figcaption { (run.name) } }
            }
        }
    }
}

/// The data sets: one card for each fingerprint.
pub(super) fn data_cards(runs: &[TrainingRun]) -> Markup {
    let prints: BTreeSet<Option<&str>> = runs.iter().map(|run| run.fact("fingerprint")).collect();
    html! {
        @for print in &prints {
            @let of: Vec<&TrainingRun> = runs.iter().filter(|run| run.fact("fingerprint") == *print).collect();
            @let run = of.iter().find(|run| !run.licenses.is_empty()).unwrap_or(&of[0]);
            div class="card" {
                @if prints.len() > 1 { h3 { @for (place, run) in of.iter().enumerate() { @if place > 0 { ", " } (run.name) } } }
                dl {
                    dt { "images" } dd { (run.facts.get("records").and_then(serde_json::Value::as_f64).map_or("not stated".into(), grouped)) }
                    dt { "fingerprint" } dd { code { (print.unwrap_or("not stated")) } }
                    @if let Some(command) = data_argument(run) { dt { "as given" } dd { code { (run.shown(command)) } } }
                    dt { "licenses" }
                    dd {
                        @if run.licenses.is_empty() { "not known: no encoder file states them" }
                        @let counts = run.licenses.counts();
                        @for (name, count) in counts.iter().take(LICENSES) {
                            div { (shortened(name, 90)) @if *count > 0 { ": " (grouped(*count as f64)) } }
                        }
                        @if counts.len() > LICENSES { div { "and " (counts.len() - LICENSES) " more" } }
                    }
                    @if !run.listing.is_empty() {
                        dt { "not used, or guessed" }
                        dd { @for line in run.listing.lines() { div { (line) } } }
                    }
                }
            }
        }
    }
}

/// What the command names as its data.
fn data_argument(run: &TrainingRun) -> Option<&str> {
    let words: Vec<&str> = run
        .facts
        .get("command")?
        .as_array()?
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    words.iter().enumerate().find_map(|(place, word)| match *word {
        "--data" | "--train" => words.get(place + 1).copied(),
        word => word
            .strip_prefix("--data=")
            .or_else(|| word.strip_prefix("--train=")),
    })
}

/// Program, device and times: those of all runs, and those that differ.
pub(super) fn environment(runs: &[TrainingRun]) -> Markup {
    let each: Vec<Vec<(&str, String)>> = runs.iter().map(facts).collect();
    let known = |facts: &[(&str, String)], name: &str| {
        let found = facts.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    };
    let of = |facts: &[(&str, String)], name: &str| known(facts, name).unwrap_or_else(|| "–".to_owned());
    let mut names: Vec<&str> = vec![];
    for (name, _) in each.iter().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    // A run that names no start has none.
    let of_run = |run: &TrainingRun, facts: &[(&str, String)], name: &str| {
        let none = (name == STARTED && !run.facts.is_empty()).then(|| "–".to_owned());
        known(facts, name).or(none)
    };
    // What is not known of a run is no difference; the runs that it is known of are named.
    let values = |name: &str| -> Vec<(&TrainingRun, String)> {
        let each = runs.iter().zip(&each);
        each.filter_map(|(run, facts)| Some((run, of_run(run, facts, name)?)))
            .filter(|(_, value)| *value != remarks::UNKNOWN)
            .collect()
    };
    let is_common = |name: &&str| {
        let values = values(name);
        values.iter().all(|(_, value)| *value == values[0].1)
    };
    let common_value = |name: &str| {
        let values = values(name);
        let Some((_, value)) = values.first() else {
            return remarks::UNKNOWN.to_owned();
        };
        let names = values
            .iter()
            .map(|(run, _)| run.name.as_str())
            .collect::<Vec<_>>();
        match names.len() == runs.len() {
            true => value.clone(),
            false => format!("{value} ({}; not known of the others)", names.join(", ")),
        }
    };
    let (common, differing): (Vec<&str>, Vec<&str>) = names.into_iter().partition(is_common);
    let head = html! { (column("", true)) @for run in runs { (column(&shortened(&run.name, 40), true)) } };
    let rows = html! {
        @for name in &differing {
            tr {
                th scope="row" { (name) }
                @for facts in &each {
                    @let value = of(facts, name);
                    td class=(if value.len() > 24 { "text long" } else { "text" }) { (value) }
                }
            }
        }
    };
    html! {
        @if !common.is_empty() {
            div class="card" { dl { @for name in &common { dt { (name) } dd { (common_value(name)) } } } }
        }
        @if !differing.is_empty() { (table("", "What differs between the runs", &head, &rows)) }
    }
}

/// The fact with the encoder that a run started from.
const STARTED: &str = "started from";

fn facts(run: &TrainingRun) -> Vec<(&'static str, String)> {
    let mut facts = vec![];
    let text = |key: &str| {
        run.facts
            .get(key)
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    for (name, key) in [
        ("Passer", "passer"),
        ("commit", "commit"),
        ("Burn", "burn"),
        ("device", "device"),
        ("CPU threads", "cpu_threads"),
    ] {
        facts.extend(text(key).map(|value| (name, value)));
    }
    let start = run
        .facts
        .get("start")
        .and_then(|start| start.get("path")?.as_str());
    facts.extend(start.map(|path| (STARTED, run.shown(path))));
    let times = || run.lines.iter().filter_map(|line| line.unix_seconds);
    if let (Some(first), Some(last)) = (times().next(), times().next_back()) {
        facts.push(("first line", utc(first)));
        facts.push(("newest line", utc(last)));
    }
    let command = run.facts.get("command").and_then(serde_json::Value::as_array);
    let words = command
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str);
    let word = |(place, word): (usize, &str)| match place {
        // The program, wherever it lies.
        0 => Path::new(word)
            .file_name()
            .map_or_else(|| word.into(), |name| name.to_string_lossy().into()),
        _ => run.shown(word),
    };
    let command = words.enumerate().map(word).collect::<Vec<_>>().join(" ");
    if !command.is_empty() {
        facts.push(("command", command));
    }
    facts
}

/// What to cite for the runs, each work once.
pub(super) fn citations(runs: &[TrainingRun], cite: &dyn Fn(&TrainingRun) -> Vec<Citation>) -> Markup {
    let mut works: Vec<Citation> = vec![];
    for work in runs.iter().flat_map(cite) {
        if !works.contains(&work) {
            works.push(work);
        }
    }
    html! {
        @if !works.is_empty() {
            ul { @for work in &works { li { (work.text) ". " a href=(work.url) rel="noreferrer" { (work.url) } } } }
        }
        p class="quiet" {
            "Photographs under licenses with attribution ask for credit wherever they are shown; a release's credits name the photographers."
        }
    }
}
