//! The contact sheet: one self-contained HTML file that loads and runs nothing.

use std::sync::atomic::Ordering;

use data::html::data_uri;
use data::terminal::one_line;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use rayon::prelude::*;

use super::{Audit, AuditOptions, Estimate, OTHER_PHOTOS, Sample};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::photo::Photo;
use crate::photos::Photos;
use crate::verbs::thumbnail::small_jpeg;

/// Longer side of a picture, px.
const PICTURE_PX: u32 = 360;

/// Pictures made in parallel.
const CHUNK: usize = 32;

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.45 system-ui,sans-serif;margin:1rem;max-width:110rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem}table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid gray}\
ol{list-style:none;padding:0;display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(15rem,45%),1fr))}\
figure{margin:0}figure img{width:100%;height:13rem;object-fit:contain;background:rgba(128,128,128,.15)}figcaption{font-size:.85rem;overflow-wrap:anywhere}\
.scroll{overflow-x:auto}";

/// The content policy: only the pictures within the page.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

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
                figure(photo, *score, file.and_then(|file| small_jpeg(&file, PICTURE_PX)))
            })
            .collect();
        figures.extend(made.into_iter().map(|PreEscaped(figure)| figure));
        (options.progress)("audit", (at * CHUNK + part.len()) as u64, chosen.len() as u64);
    }
    let PreEscaped(page) = page(sources.name, audit, &PreEscaped(figures));
    Ok(data::durable::write(&audit.sheet, page.as_bytes())?)
}

fn page(name: &str, audit: &Audit, figures: &Markup) -> Markup {
    let title = format!("Audit: {}", one_line(name));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    p {
                        (audit.photos) " photos survive the stage " code { (audit.stage) } "; " (audit.with_score)
                        " of them have a detector’s score."
                    }
                    h2 { "How many people are left" }
                    (estimates(&audit.samples))
                    h2 { "Where to look" }
                    p {
                        @if audit.with_score == 0 {
                            "No detector has looked at these photos: they are drawn at random."
                        } @else {
                            "The photos that detectors were least sure about, by the highest score that any of them gave. They say where people may be left, and nothing of how many there are."
                        }
                    }
                    ol { (figures) }
                }
            }
        }
    }
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
            td { (estimate.photos_in_words()) }
        } @else if sample.current {
            td colspan="3" {
                "not labeled whole yet (" code { "passer curate review DIR --sample " (sample.id) } ")"
            }
        } @else {
            td colspan="3" { (OTHER_PHOTOS) }
        }
    }
}

fn figure(photo: &Photo, score: Option<f64>, jpeg: Option<Vec<u8>>) -> Markup {
    html! {
        li {
            figure {
                @if let Some(jpeg) = jpeg {
                    img loading="lazy" alt={ "photo " (photo.key) } src=(data_uri(&jpeg));
                } @else {
                    p { "This file cannot be shown." }
                }
                figcaption {
                    @if let Some(score) = score {
                        strong { (format!("{score:.3}")) } " "
                    }
                    code { (photo.key) }
                    @if let Some(title) = &photo.title {
                        " “" (one_line(title)) "”"
                    }
                    @if let Some(photographer) = &photo.photographer {
                        " by " (one_line(photographer))
                    }
                }
            }
        }
    }
}
