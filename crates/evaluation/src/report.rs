//! The report of an evaluation as one HTML file: scores, confusion matrix, results by class, mistakes,
//! nearest neighbors, a map of the features, attention, and the evaluation's inputs. The file loads nothing
//! and opens from disk.
//!
//! Pictures are chosen by a fixed draw, so the same evaluation gives the same file.

mod findings;
mod page;
mod pictures;
mod sections;
mod tsne;

use crate::encoder::Encoder;
use crate::error::Error;
use crate::features::Features;
use crate::progress::Event;
use crate::result::Outcome;
use crate::solvers::Voting;
use burn::tensor::Device;
use data::{Dataset, Transform};
use findings::Predictions;
use maud::{Markup, html};
use sections::{attention, classes, confusion, map, mistakes, neighbors, origin, results};
use std::sync::Arc;

pub(crate) use page::{Page, color, column, shortened, table};
pub(crate) use pictures::jpeg;
pub(crate) use sections::value;

/// Seed of the draws that choose the records to show.
const SEED: u64 = 0;

/// The inputs of a report.
pub(crate) struct Content<'a> {
    /// Name of the data set.
    pub(crate) data_name: &'a str,
    pub(crate) encoder: &'a Encoder,
    /// Transforms of a test image before the encoder.
    pub(crate) test_transforms: &'a [Transform],
    /// Settings of the kNN votes behind the predictions; absent: a usual kNN.
    pub(crate) voting: Option<Voting>,
    pub(crate) outcomes: &'a [Outcome],
    /// Has no rows if no protocol needed train features.
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
        content.voting.unwrap_or(VOTING),
        content.device,
    );
    if let Some((predictions, _)) = &predictions {
        page.section("classes", "Results by class", classes(predictions));
        page.section("confusion", "Confusion", confusion(predictions));
        page.section("mistakes", "Mistakes", mistakes(content, predictions));
    }
    finished();
    page.section("neighbors", "Nearest neighbors", neighbors(content)?);
    finished();
    page.section("map", "Map of the features", map(content)?);
    finished();
    page.section("attention", "Attention", attention(content)?);
    page.section("origin", "What this was made from", origin(content));
    finished();
    Ok(page.html())
}

/// Settings of the kNN votes if no protocol of the config votes: DINO's usual kNN.
const VOTING: Voting = Voting {
    neighbors: 20,
    temperature: 0.07,
};

fn lead(content: &Content<'_>) -> Markup {
    let headlines = content.outcomes.iter().filter(|outcome| outcome.headline);
    html! {
        p {
            @for (place, outcome) in headlines.enumerate() {
                @if place > 0 { " · " }
                (outcome.protocol) " " strong { (value(outcome)) }
            }
            @match content.encoder.step {
                None => {}
                Some(1) => ", after 1 step",
                Some(step) => { ", after " (step) " steps" }
            }
            ". " (content.test.records()) " test records; test labels chose no setting."
        }
        @for remark in remarks(content.outcomes) { p class="wrong" { (remark) "." } }
    }
}

/// What is not new in the test images. It is the same in all outcomes of an evaluation.
fn remarks(outcomes: &[Outcome]) -> Vec<String> {
    let overlap = outcomes.iter().find_map(|outcome| outcome.overlap.as_ref());
    let remarks = overlap.map(|overlap| overlap.of_data().into_iter().chain(overlap.of_encoder()));
    remarks.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
