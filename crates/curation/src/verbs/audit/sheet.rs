//! The contact sheet: one self-contained HTML file that loads and runs nothing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use data::terminal::one_line;
use maud::{Markup, PreEscaped, html};
use rayon::prelude::*;

use super::{Audit, AuditOptions, Estimate, OTHER_PHOTOS, Sample};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::photo::Photo;
use crate::photos::Photos;
use crate::verbs::sheets::{PICTURE_PX, document, figure};
use crate::verbs::thumbnail::small_jpeg;

/// Pictures made in parallel.
const CHUNK: usize = 32;

/// The sources of the sheet's photos.
pub(super) struct Sources<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) photos: &'a Photos,
    /// Name of the data set.
    pub(super) name: &'a str,
}

/// Writes the sheet with the chosen photos: the score of each, if it has one, and its number.
pub(super) fn write(
    sources: &Sources<'_>,
    audit: &Audit,
    chosen: &[(Option<f64>, i64)],
    options: AuditOptions<'_>,
) -> Result<(), Error> {
    let mut figures = String::new();
    for (at, part) in chosen.chunks(CHUNK).enumerate() {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let known: Vec<(Option<f64>, Photo)> = part
            .iter()
            .map(|(score, photo)| Ok((*score, sources.ledger.photo(*photo)?.unwrap_or_default())))
            .collect::<Result<_, Error>>()?;
        let made: Vec<Markup> = known
            .par_iter()
            .map(|(score, photo)| {
                let file = sources.photos.read(photo).ok();
                let score = score.map_or(String::new(), |score| format!("{score:.3}"));
                figure(
                    photo,
                    &score,
                    file.and_then(|file| small_jpeg(&file, PICTURE_PX).ok()),
                )
            })
            .collect();
        figures.extend(made.into_iter().map(|PreEscaped(figure)| figure));
        (options.progress)("audit", (at * CHUNK + part.len()) as u64, chosen.len() as u64);
    }
    let PreEscaped(page) = page(
        sources.name,
        audit,
        &PreEscaped(found(sources, &audit.samples)?),
        &PreEscaped(figures),
    );
    Ok(data::durable::write(&audit.sheet, page.as_bytes())?)
}

/// The photos that samples found and that were not taken down: each once, with its categories.
fn found(sources: &Sources<'_>, samples: &[Sample]) -> Result<String, Error> {
    let mut figures = String::new();
    let mut shown = BTreeSet::new();
    for found in samples.iter().flat_map(|sample| &sample.found) {
        if found.taken_down || !shown.insert(&found.key) {
            continue;
        }
        let photo = sources.ledger.photo(found.photo)?.unwrap_or_default();
        let file = sources.photos.read(&photo).ok();
        let jpeg = file.and_then(|file| small_jpeg(&file, PICTURE_PX).ok());
        let categories = found.categories.join(", ").replace('_', " ");
        let PreEscaped(item) = figure(&photo, &categories, jpeg);
        figures.push_str(&item);
    }
    Ok(figures)
}

fn page(name: &str, audit: &Audit, found: &Markup, figures: &Markup) -> Markup {
    let title = format!("Audit: {}", one_line(name));
    let main = html! {
            p {
                (audit.photos) " photos survive the stage " code { (audit.stage) } "; " (audit.with_score)
                " of them have a detector’s score."
                @if let Some(next) = &audit.before {
                    " The stage " code { (next) } " comes next and is not done: these are not the photos of a release yet."
                }
            }
            h2 { "How many people are left" }
            (estimates(&audit.samples))
            @if !found.0.is_empty() {
                h2 { "Found in the samples" }
                p {
                    "Take them down with " code { "passer curate takedown DIR --keys KEY,KEY" } "; "
                    code { "passer curate audit DIR" } " prints the line."
                }
                ol { (found) }
            }
            h2 { "Where to look" }
            p {
                @if audit.with_score == 0 {
                    "No detector has looked at these photos: they are drawn at random."
                } @else {
                    "The photos that detectors were least sure about, by the highest score that any of them gave. They say where people may be left, and nothing of how many there are."
                }
            }
            ol { (figures) }
    };
    document(&title, &main)
}

fn estimates(samples: &[Sample]) -> Markup {
    if samples.is_empty() {
        return html! {
            p { "Not estimated: no random sample was drawn (" code { "passer curate audit DIR --draw N" } ")." }
        };
    }
    html! {
        p {
            "From samples drawn by seed and labeled whole: photos with a person or a part of a body, with the interval of Clopper and Pearson (95 %)."
        }
        div.scroll {
            table {
                thead {
                    tr {
                        @for name in ["Sample", "Seed", "Photos", "Labeled", "With people", "Rate", "Among all photos"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for sample in samples {
                        tr {
                            th scope="row" { (sample.id) }
                            td { (sample.seed) }
                            td { (sample.photos) }
                            td { (sample.labeled) }
                            (estimate(sample, sample.estimate.as_ref()))
                        }
                    }
                }
            }
        }
    }
}

fn estimate(sample: &Sample, estimate: Option<&Estimate>) -> Markup {
    html! {
        @if let Some(estimate) = estimate {
            td { (estimate.with_people) }
            td { (estimate.rate_in_words()) }
            td {
                (estimate.photos_in_words())
                @if let Some(since @ 1..) = sample.taken_down_since {
                    ", before " (since) " taken down since"
                }
            }
        } @else if sample.taken_down_since.is_some() {
            td colspan="3" {
                "not labeled whole yet (" code { "passer curate review DIR --sample " (sample.id) } ")"
            }
        } @else {
            td colspan="3" { (OTHER_PHOTOS) }
        }
    }
}
