//! The contact sheet: one HTML file with everything in it, which loads nothing and runs nothing.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use data::html::{data_uri, escape};

use super::{Audit, AuditOptions, OTHER_PHOTOS};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::photo::{Photo, one_line};
use crate::photos::Photos;
use crate::thumbnail::small_jpeg;

/// Longer side of a picture, px.
const PICTURE_PX: u32 = 360;

/// Pictures made at a time.
const CHUNK: usize = 32;

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.45 system-ui,sans-serif;margin:1rem;max-width:110rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem}table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid gray}\
ol{list-style:none;padding:0;display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(15rem,45%),1fr))}\
figure{margin:0}figure img{width:100%;height:13rem;object-fit:contain;background:rgba(128,128,128,.15)}figcaption{font-size:.85rem;overflow-wrap:anywhere}\
.scroll{overflow-x:auto}";

pub(super) fn write(
    ledger: &Ledger,
    photos: &Photos,
    name: &str,
    audit: &Audit,
    chosen: &[(Option<f64>, i64)],
    options: AuditOptions<'_>,
) -> Result<(), Error> {
    let title = format!("Audit: {}", one_line(name));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>\n",
        title = escape(&title)
    );
    page.push_str(&format!(
        "<p>{} photos survive the stage <code>{}</code>; {} of them have a detector’s score.</p>\n",
        audit.photos,
        escape(&audit.stage),
        audit.with_score
    ));
    page.push_str(&estimates(audit));
    page.push_str("<h2>Where to look</h2>\n");
    page.push_str(match audit.with_score {
        0 => "<p>No detector has looked at these photos: they are drawn at random.</p>\n",
        _ => "<p>The photos that detectors were least sure about, by the highest score that any of them gave. They say where people may be left, and nothing of how many there are.</p>\n",
    });
    page.push_str("<ol>\n");
    for (at, part) in chosen.chunks(CHUNK).enumerate() {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let known: Vec<(Option<f64>, Photo)> = part
            .iter()
            .map(|(score, photo)| Ok((*score, ledger.photo(*photo)?.unwrap_or_default())))
            .collect::<Result<_, Error>>()?;
        let figures: Vec<String> = known
            .par_iter()
            .map(|(score, photo)| {
                let file = photos.read(photo).ok();
                figure(photo, *score, file.and_then(|file| small_jpeg(&file, PICTURE_PX)))
            })
            .collect();
        figures.iter().for_each(|figure| page.push_str(figure));
        (options.progress)("audit", (at * CHUNK + part.len()) as u64, chosen.len() as u64);
    }
    page.push_str("</ol></main></body></html>\n");
    let mut aside = audit.sheet.as_os_str().to_owned();
    aside.push(".partial");
    let aside = std::path::PathBuf::from(aside);
    std::fs::write(&aside, page).map_err(Error::io("write", &aside))?;
    std::fs::rename(&aside, &audit.sheet).map_err(Error::io("write", &audit.sheet))
}

fn estimates(audit: &Audit) -> String {
    let mut text = "<h2>How many people are left</h2>\n".to_string();
    if audit.samples.is_empty() {
        text.push_str("<p>Not estimated: no random sample was drawn (<code>passer curate audit DIR --draw N</code>).</p>\n");
        return text;
    }
    text.push_str(
        "<p>From samples drawn by seed and labelled whole: photos with a person or a part of a body, with the interval of Clopper and Pearson (95 %).</p>\n\
         <div class=\"scroll\"><table><thead><tr><th scope=\"col\">Sample</th><th scope=\"col\">Seed</th><th scope=\"col\">Photos</th><th scope=\"col\">Labelled</th>\
         <th scope=\"col\">With people</th><th scope=\"col\">Rate</th><th scope=\"col\">Among all photos</th></tr></thead><tbody>\n",
    );
    for sample in &audit.samples {
        let said = match &sample.estimate {
            Some(estimate) => format!(
                "<td>{}</td><td>{}</td><td>{}</td>",
                estimate.with_people,
                estimate.rate_in_words(),
                estimate.photos_in_words()
            ),
            None if !sample.current => format!("<td colspan=\"3\">{OTHER_PHOTOS}</td>"),
            None => format!(
                "<td colspan=\"3\">not labelled whole yet (<code>passer curate review DIR --sample {}</code>)</td>",
                sample.id
            ),
        };
        text.push_str(&format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td>{said}</tr>\n",
            sample.id, sample.seed, sample.photos, sample.labelled
        ));
    }
    text.push_str("</tbody></table></div>\n");
    text
}

fn figure(photo: &Photo, score: Option<f64>, jpeg: Option<Vec<u8>>) -> String {
    let picture = match jpeg {
        Some(jpeg) => format!(
            "<img loading=\"lazy\" alt=\"photo {}\" src=\"{}\">",
            escape(&photo.key),
            data_uri(&jpeg)
        ),
        None => "<p>This file cannot be shown.</p>".to_string(),
    };
    let mut caption = match score {
        Some(score) => format!("<strong>{score:.3}</strong> "),
        None => String::new(),
    };
    caption.push_str(&format!("<code>{}</code>", escape(&photo.key)));
    if let Some(title) = &photo.title {
        caption.push_str(&format!(" “{}”", escape(&one_line(title))));
    }
    if let Some(photographer) = &photo.photographer {
        caption.push_str(&format!(" by {}", escape(&one_line(photographer))));
    }
    format!("<li><figure>{picture}<figcaption>{caption}</figcaption></figure></li>\n")
}
