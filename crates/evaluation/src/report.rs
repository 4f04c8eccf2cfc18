//! The report of an evaluation as one HTML file: scores, confusion matrix, results by class, mistakes, nearest neighbours, a map of
//! the features, attention, and what all this was made from. It loads nothing and opens from disk.
//!
//! Pictures are chosen by a fixed draw, so the same evaluation gives the same file.

mod findings;
mod page;
mod pictures;
mod sections;
mod suite;
mod tsne;

use crate::config::{Config, Protocol};
use crate::encoder::Encoder;
use crate::error::Error;
use crate::features::Features;
use crate::progress::Event;
use crate::result::Outcome;
use burn::tensor::Device;
use data::Dataset;
use data::html::escape;
use findings::{Predictions, Voting};
use page::Page;
use sections::{attention, classes, confusion, map, mistakes, neighbors, origin, results};
use std::sync::Arc;

pub use suite::suite_page;

/// Seed of the draws: which records are shown.
const SEED: u64 = 0;

/// What a report is about.
pub(crate) struct Content<'a> {
    /// What the records are called.
    pub(crate) data_name: &'a str,
    pub(crate) encoder: &'a Encoder,
    pub(crate) config: &'a Config,
    pub(crate) outcomes: &'a [Outcome],
    /// Without rows where no protocol needed them.
    pub(crate) train: &'a Features,
    pub(crate) test: &'a Features,
    pub(crate) train_data: &'a Arc<Dataset>,
    pub(crate) test_data: &'a Arc<Dataset>,
    pub(crate) device: &'a Device,
}

/// The file's text.
pub(crate) fn report(content: &Content<'_>, progress: &mut dyn FnMut(Event<'_>)) -> Result<String, Error> {
    let mut done = 0;
    let mut finished = || {
        done += 1;
        progress(Event {
            stage: "report",
            done,
            total: 4,
            unit: "parts",
        });
    };
    let mut page = Page::new(
        &format!("{} on {}", content.encoder.name, content.data_name),
        lead(content),
    );
    page.section("results", "Results", results(content.outcomes));
    let predictions = Predictions::make(
        content.train,
        content.test,
        voting(content.config),
        content.device,
    );
    if let Some((predictions, _)) = &predictions {
        page.section("classes", "Results by class", classes(predictions));
        page.section("confusion", "Confusion", confusion(predictions));
        page.section("mistakes", "Mistakes", mistakes(content, predictions));
    }
    finished();
    page.section("neighbors", "Nearest neighbours", neighbors(content)?);
    finished();
    page.section("map", "Map of the features", map(content)?);
    finished();
    page.section("attention", "Attention", attention(content)?);
    page.section("origin", "What this was made from", origin(content));
    finished();
    Ok(page.html())
}

/// The kNN protocol of the config, if it has one: its numbers are those that the report's predictions are made with.
fn voting(config: &Config) -> Voting {
    let asked = config.protocols.iter().find_map(|protocol| match protocol {
        Protocol::KnnDino(knn) => Some((knn.headline_neighbors, knn.temperature)),
        Protocol::KnnVissl(knn) => Some((knn.neighbors, knn.temperature)),
        _ => None,
    });
    let (neighbors, temperature) = asked.unwrap_or((20, 0.07));
    Voting {
        neighbors,
        temperature,
    }
}

fn lead(content: &Content<'_>) -> String {
    let quoted = content.outcomes.iter().filter(|outcome| outcome.headline);
    let quoted: Vec<String> = quoted
        .map(|outcome| {
            let value = sections::value(outcome);
            format!("{} <strong>{value}</strong>", escape(&outcome.protocol))
        })
        .collect();
    let step = content.encoder.step.map_or_else(String::new, |step| match step {
        1 => ", after 1 step".to_owned(),
        step => format!(", after {step} steps"),
    });
    format!(
        "<p>{}{}. {} test records; test labels chose no setting.</p>",
        quoted.join(" · "),
        escape(&step),
        content.test.records()
    )
}

#[cfg(test)]
mod tests;
