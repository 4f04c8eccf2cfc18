//! The sections of a report, each a function from the evaluation to HTML; empty where there is nothing to show.

use super::findings::{Predictions, label_of, neighbors_of};
use super::page::{color, shortened, table};
use super::pictures::{heat, jpeg, lit, positions, sheet, small_jpeg};
use super::tsne::tsne;
use super::{Content, SEED};
use crate::error::Error;
use crate::features::{Features, POOLED};
use crate::result::Outcome;
use crate::task::normalize_rows;
use backbones::Draws;
use data::html::{data_uri, escape};
use data::{Dataset, Loader, LoaderConfig, Order, RgbImage, ViewGroup};
use rand::seq::index::sample;
use rayon::prelude::*;
use std::fmt::Write as _;
use std::sync::Arc;

/// Side of the pictures of mistakes and neighbours, px.
const PICTURE_PX: u32 = 96;
const MISTAKES: usize = 24;
const QUERIES: usize = 12;
const NEIGHBORS: usize = 7;
/// Records on the map: all pairs are looked at a thousand times.
const MAP_RECORDS: usize = 1000;
const MAP_COLUMNS: usize = 32;
const ATTENDED: usize = 6;
/// Classes whose confusion fits a table that can be read.
const TABLE_CLASSES: usize = 20;
/// Rows of the table of classes.
const CLASS_ROWS: usize = 300;
/// Heads whose attention is shown beside the mean.
const HEADS: usize = 6;

/// A score with its uncertainty, as it is quoted.
pub(crate) fn value(outcome: &Outcome) -> String {
    let (scale, digits, unit) = match outcome.is_share() {
        true => (100.0, 2, " %"),
        false => (1.0, 3, ""),
    };
    let uncertainty = outcome
        .uncertainty()
        .map_or_else(String::new, |off| format!(" ± {:.digits$}", scale * off));
    format!("{:.digits$}{uncertainty}{unit}", scale * outcome.value)
}

fn percent(part: usize, whole: usize) -> String {
    match whole {
        0 => "–".into(),
        whole => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

/// The table of scores, with every setting behind it.
pub(crate) fn results(outcomes: &[Outcome]) -> String {
    let mut rows = String::new();
    for outcome in outcomes {
        let name = match outcome.variant() {
            Some(variant) => format!("{} ({variant})", outcome.protocol),
            None => outcome.protocol.clone(),
        };
        let settings = serde_json::to_string_pretty(&outcome.settings).unwrap_or_default();
        let _ = writeln!(
            rows,
            "<tr class=\"{}\"><th scope=\"row\">{}</th><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">\
             <details><summary>settings</summary><pre>{}</pre></details></td></tr>",
            if outcome.headline { "headline" } else { "" },
            escape(&name),
            escape(&outcome.metric),
            escape(&value(outcome)),
            outcome.train_records,
            outcome.test_records,
            escape(&shortened(&settings, 4000)),
        );
    }
    let head = "<th scope=\"col\" class=\"text\">protocol</th><th scope=\"col\" class=\"text\">metric</th><th scope=\"col\">value</th>\
                <th scope=\"col\">train records</th><th scope=\"col\">test records</th><th scope=\"col\" class=\"text\">how</th>";
    // Not in the caption, which scrolls away with the table on a phone.
    let note = "<p class=\"quiet\">Bold is what a protocol is quoted by. ± is the standard deviation over seeds, or half of a 95 % \
                interval.</p>\n";
    note.to_string() + &table("", "Scores", head, &rows)
}

fn how(predictions: &Predictions) -> String {
    format!(
        "<p class=\"quiet\">Predictions here are the votes of the {} nearest training records (cosine, temperature {}), {:.2} % right.</p>\n",
        predictions.voting.neighbors,
        predictions.voting.temperature,
        100.0 * predictions.top1()
    )
}

pub(crate) fn classes(predictions: &Predictions) -> String {
    let mut results = predictions.by_class();
    let all = results.len();
    if all > CLASS_ROWS {
        // The worst are the ones to look at.
        results.sort_by(|a, b| (a.right * b.records).cmp(&(b.right * a.records)));
        results.truncate(CLASS_ROWS);
    }
    let name = |class: u32| escape(&shortened(&predictions.classes[class as usize], 60));
    let mut rows = String::new();
    for result in &results {
        let taken = result
            .taken_for
            .map_or_else(String::new, |(other, count)| format!("{} ({count})", name(other)));
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{taken}</td></tr>",
            name(result.class),
            result.records,
            percent(result.right, result.records),
            percent(result.right, result.predicted),
        );
    }
    let head = "<th scope=\"col\" class=\"text\">class</th><th scope=\"col\">test records</th><th scope=\"col\">found (recall)</th>\
                <th scope=\"col\">right when said (precision)</th><th scope=\"col\" class=\"text\">most often taken for</th>";
    let caption = match all > CLASS_ROWS {
        true => format!("The {CLASS_ROWS} classes of {all} that are found least"),
        false => format!("All {all} classes of the test set"),
    };
    how(predictions) + &table("", &caption, head, &rows)
}

pub(crate) fn confusion(predictions: &Predictions) -> String {
    let counts = predictions.confusion();
    let totals: Vec<usize> = counts.iter().map(|row| row.iter().sum()).collect();
    let name = |class: usize, most| escape(&shortened(&predictions.classes[class], most));
    let mut html = String::from(
        "<p class=\"quiet\">Rows are what records are, columns what they were taken for; in per cent of the row.</p>\n",
    );
    if counts.len() <= TABLE_CLASSES {
        let mut head = String::from("<th scope=\"col\" class=\"text\">is · taken for</th>");
        for class in 0..counts.len() {
            let _ = write!(head, "<th scope=\"col\">{}</th>", name(class, 12));
        }
        let mut rows = String::new();
        for (class, row) in counts.iter().enumerate() {
            let _ = write!(rows, "<tr><th scope=\"row\">{}</th>", name(class, 24));
            for (other, count) in row.iter().enumerate() {
                let share = 100.0 * *count as f64 / totals[class].max(1) as f64;
                let text = if *count == 0 {
                    "0".into()
                } else {
                    format!("{share:.0}")
                };
                let diagonal = if class == other { " class=\"diagonal\"" } else { "" };
                let _ = write!(
                    rows,
                    "<td{diagonal} style=\"--p:{share:.0}\" title=\"{count} records\">{text}</td>"
                );
            }
            rows.push_str("</tr>\n");
        }
        html += &table("confusion", "Confusion matrix", &head, &rows);
    } else {
        let shares: Vec<f64> = counts
            .iter()
            .zip(&totals)
            .flat_map(|(row, total)| {
                row.iter()
                    .map(move |count| *count as f64 / (*total).max(1) as f64)
            })
            .collect();
        // A classifier of thousands of classes would make a picture that nobody can look at.
        if counts.len() <= 2000 {
            let picture = data::thumbnail::to_jpeg(&heat(&shares, counts.len()), 90);
            let _ = writeln!(
                html,
                "<img class=\"wide\" alt=\"Confusion matrix of {} classes as a picture: the brighter a point, the more records of its \
                 row's class were taken for its column's\" src=\"{}\">",
                counts.len(),
                data_uri(&picture)
            );
        }
    }
    let mut rows = String::new();
    for (truth, other, count) in predictions.confused().into_iter().take(10) {
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td class=\"text\">{}</td><td>{count}</td><td>{}</td></tr>",
            name(truth as usize, 60),
            name(other as usize, 60),
            percent(count, totals[truth as usize])
        );
    }
    if !rows.is_empty() {
        let head = "<th scope=\"col\" class=\"text\">is</th><th scope=\"col\" class=\"text\">taken for</th><th scope=\"col\">records</th>\
                    <th scope=\"col\">of the class</th>";
        html += &table("", "Most frequent confusions", head, &rows);
    }
    html
}

/// A picture with its caption, which is HTML; the alternative text is not.
fn figure(class: &str, encoded: &[u8], alternative: &str, caption: &str) -> String {
    let alternative = escape(alternative);
    let picture = match encoded.is_empty() {
        true => format!("<span role=\"img\" aria-label=\"{alternative}\">not readable</span>"),
        false => format!(
            "<img loading=\"lazy\" alt=\"{alternative}\" src=\"{}\">",
            data_uri(encoded)
        ),
    };
    format!("<figure class=\"{class}\">{picture}<figcaption>{caption}</figcaption></figure>")
}

/// A record's key in a few letters: its end tells it from others.
fn key(features: &Features, row: usize) -> String {
    let key = &features.keys[row];
    let letters: Vec<char> = key.chars().collect();
    match letters.len() > 40 {
        true => "…"
            .chars()
            .chain(letters[letters.len() - 39..].iter().copied())
            .collect(),
        false => key.clone(),
    }
}

pub(crate) fn mistakes(content: &Content<'_>, predictions: &Predictions) -> String {
    let wrong = predictions.mistakes();
    if wrong.is_empty() {
        return "<p>There are none.</p>\n".into();
    }
    let positions = positions(content.test_data, content.test);
    let shown: Vec<String> = wrong[..wrong.len().min(MISTAKES)]
        .par_iter()
        .filter_map(|row| {
            let (predicted, share) = predictions.predicted[*row];
            let truth = &predictions.classes[predictions.truth[*row] as usize];
            let taken = &predictions.classes[predicted as usize];
            let picture = small_jpeg(content.test_data, *positions.get(*row)?, PICTURE_PX);
            let alternative = format!("{} of class {truth}, taken for {taken}", key(content.test, *row));
            let caption = format!(
                "is {}, taken for <span class=\"wrong\">{}</span> ({:.0} %)",
                escape(&shortened(truth, 40)),
                escape(&shortened(taken, 40)),
                100.0 * share
            );
            Some(format!(
                "<li>{}</li>\n",
                figure("", &picture, &alternative, &caption)
            ))
        })
        .collect();
    format!(
        "<p class=\"quiet\">{} of {} test records are predicted wrong; the most confident first, with the share of the votes.</p>\n\
         <ul class=\"grid\">\n{}</ul>\n",
        wrong.len(),
        content.test.records(),
        shown.concat()
    )
}

/// Some rows, the same ones every time, in their order.
fn some(rows: usize, count: usize, purpose: &'static str) -> Vec<usize> {
    if rows <= count {
        return (0..rows).collect();
    }
    let mut rng = Draws::new(SEED, 0).rng(purpose, 0);
    let mut chosen = sample(&mut rng, rows, count).into_vec();
    chosen.sort_unstable();
    chosen
}

pub(crate) fn neighbors(content: &Content<'_>) -> Result<String, Error> {
    let rows = some(content.test.records(), QUERIES, "report.queries");
    let (found, in_train) = neighbors_of(&rows, content.train, content.test, NEIGHBORS, content.device)?;
    let (gallery, gallery_data) = match in_train {
        true => (content.train, content.train_data),
        false => (content.test, content.test_data),
    };
    let (of_test, of_gallery) = (
        positions(content.test_data, content.test),
        positions(gallery_data, gallery),
    );
    let row_html = |(row, found): (&usize, &Vec<crate::knn::Neighbor>)| {
        let own = label_of(content.test, *row).map(|(label, _)| label);
        let picture = of_test
            .get(*row)
            .map_or_else(Vec::new, |at| small_jpeg(content.test_data, *at, PICTURE_PX));
        let name = own.clone().unwrap_or_else(|| key(content.test, *row));
        let caption = format!("<strong>{}</strong>", escape(&shortened(&name, 40)));
        let alternative = format!("Test record {}, {name}", key(content.test, *row));
        let mut html = figure("query", &picture, &alternative, &caption);
        for (place, neighbor) in found.iter().enumerate() {
            let at = neighbor.row as usize;
            let label = label_of(gallery, at).map(|(label, _)| label);
            let picture = of_gallery
                .get(at)
                .map_or_else(Vec::new, |at| small_jpeg(gallery_data, *at, PICTURE_PX));
            let name = label.clone().unwrap_or_else(|| key(gallery, at));
            // Colour is not the only sign.
            let (class, sign) = match (&own, &label) {
                (Some(own), Some(label)) if own == label => ("right", "✓ "),
                (Some(_), Some(_)) => ("wrong", "✗ "),
                _ => ("", ""),
            };
            let caption = format!(
                "<span class=\"{class}\">{sign}{}</span> {:.2}",
                escape(&shortened(&name, 40)),
                neighbor.cosine
            );
            let alternative = format!("Neighbour {}: {}, {name}", place + 1, key(gallery, at));
            html += &figure("", &picture, &alternative, &caption);
        }
        format!("<div class=\"row\">{html}</div>\n")
    };
    let html: Vec<String> = rows.par_iter().zip(&found).map(row_html).collect();
    Ok(format!(
        "<p class=\"quiet\">Framed a test record, beside it the {} of highest cosine similarity.</p>\n{}",
        if in_train {
            "training records"
        } else {
            "other test records"
        },
        html.concat()
    ))
}

pub(crate) fn map(content: &Content<'_>) -> Result<String, Error> {
    let rows = some(content.test.records(), MAP_RECORDS, "report.map");
    let mut matrix = content.test.tap(POOLED, "test")?.select(&rows);
    normalize_rows(&mut matrix);
    let places = tsne(&matrix);
    if places.is_empty() {
        return Ok(String::new());
    }
    let of_test = positions(content.test_data, content.test);
    let at: Vec<usize> = rows.iter().filter_map(|row| of_test.get(*row).copied()).collect();
    let sheet = sheet(content.test_data, &at, MAP_COLUMNS);
    let range = |axis: usize| {
        let values = places.iter().map(|place| place[axis]);
        let (low, high) = (
            values.clone().fold(f64::INFINITY, f64::min),
            values.fold(f64::NEG_INFINITY, f64::max),
        );
        (low, (high - low).max(f64::MIN_POSITIVE))
    };
    let ranges = [range(0), range(1)];
    // Within a margin, so that no picture is cut.
    let place = |value: f64, (low, length): (f64, f64)| 2.0 + 96.0 * (value - low) / length;
    let mut points = String::new();
    let mut legend = std::collections::BTreeMap::new();
    for (number, (row, at)) in rows.iter().zip(&places).enumerate() {
        let (label, class) = label_of(content.test, *row).unwrap_or((String::new(), 9));
        let title = match label.is_empty() {
            true => key(content.test, *row),
            false => format!("{} · {}", shortened(&label, 40), key(content.test, *row)),
        };
        let _ = write!(
            points,
            "<i style=\"left:{:.1}%;top:{:.1}%;--x:{};--y:{};--h:{}\" title=\"{}\"></i>",
            place(at[0], ranges[0]),
            place(at[1], ranges[1]),
            number % MAP_COLUMNS,
            number / MAP_COLUMNS,
            color(class),
            escape(&title)
        );
        if !label.is_empty() {
            legend.entry((class, label)).or_insert(());
        }
    }
    let mut html = format!(
        "<p class=\"quiet\">t-SNE of {} test records (features of length 1, all pairs, start by principal components): records lie close \
         to those that the encoder holds alike; distances between far groups say nothing.</p>\n",
        rows.len()
    );
    if legend.len() <= TABLE_CLASSES && !legend.is_empty() {
        html.push_str("<ul class=\"legend\" aria-label=\"Colours of the classes\">");
        for (class, label) in legend.keys() {
            let _ = write!(
                html,
                "<li><span style=\"background:{}\"></span>{}</li>",
                color(*class),
                escape(&shortened(label, 40))
            );
        }
        html.push_str("</ul>\n");
    }
    let _ = write!(
        html,
        "<style>.map{{--columns:{MAP_COLUMNS}}}.map i{{background-image:url({})}}</style>\n\
         <input type=\"checkbox\" id=\"dots\"> <label for=\"dots\">dots instead of pictures</label>\n\
         <div class=\"map\" role=\"img\" aria-label=\"t-SNE map of {} test records as small pictures framed in the colours of their \
         classes\">{points}</div>\n",
        data_uri(&sheet),
        rows.len()
    );
    Ok(html)
}

/// Where the class token of the last block looks, for transformers.
pub(crate) fn attention(content: &Content<'_>) -> Result<String, Error> {
    if !content.encoder.has_attention() {
        return Ok(String::new());
    }
    let rows = some(content.test.records(), ATTENDED, "report.attention");
    let of_test = positions(content.test_data, content.test);
    let at: Vec<usize> = rows.iter().filter_map(|row| of_test.get(*row).copied()).collect();
    let part = at.iter().map(|position| *position as u32).collect();
    let part = Arc::new(Dataset::part(content.test_data, part)?);
    let loader = Loader::new(
        part,
        vec![ViewGroup {
            count: 1,
            transforms: content.config.test_transforms.clone(),
        }],
        LoaderConfig {
            batch_images: at.len(),
            workers: 0,
            max_bad_fraction: 0.0,
        },
        Order::Sequential,
        SEED,
    )?;
    let mut html = String::from(
        "<p class=\"quiet\">Where the class token of the last block looks: the picture lit by the mean over the heads, then the heads one by \
         one, white the most.</p>\n",
    );
    for batch in loader.batches(0, loader.batches_per_epoch()) {
        for views in batch?.views {
            let (height, width) = (views.height, views.width);
            let pictures = images_of(&views);
            let tensor = content.encoder.normalize.tensor(views, content.device);
            let Some((maps, grid)) = content.encoder.attention(tensor) else {
                continue;
            };
            for ((picture, maps), row) in pictures.iter().zip(maps).zip(&rows) {
                let label =
                    label_of(content.test, *row).map_or_else(|| key(content.test, *row), |(label, _)| label);
                let name = escape(&shortened(&label, 40));
                let mut line = figure(
                    "",
                    &jpeg(picture),
                    &format!("{label}, as the encoder sees it at {width} x {height} px"),
                    &name,
                );
                let places = grid[0] * grid[1];
                let mean: Vec<f64> = (0..places)
                    .map(|place| maps.iter().map(|head| head[place]).sum::<f64>() / maps.len() as f64)
                    .collect();
                line += &figure(
                    "",
                    &jpeg(&lit(picture, &mean, grid)),
                    &format!("{label}, lit where the heads look on average"),
                    "all heads",
                );
                for (head, map) in maps.iter().take(HEADS).enumerate() {
                    line += &figure(
                        "small",
                        &jpeg(&enlarged(map, grid)),
                        &format!("{label}: attention of head {}", head + 1),
                        &format!("head {}", head + 1),
                    );
                }
                let _ = writeln!(html, "<div class=\"row\">{line}</div>");
            }
        }
    }
    Ok(html)
}

/// A grid of weights as a picture of some size, each place a square.
fn enlarged(map: &[f64], [rows, columns]: [usize; 2]) -> RgbImage {
    let factor = (96 / rows.max(columns)).max(1);
    let most = map.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let values: Vec<f64> = (0..rows * factor)
        .flat_map(|y| (0..columns * factor).map(move |x| (y / factor) * columns + x / factor))
        .map(|place| map[place] / most)
        .collect();
    heat(&values, columns * factor)
}

/// Views as pictures: planes to pixels.
fn images_of(views: &data::Views) -> Vec<RgbImage> {
    let plane = views.height * views.width;
    let image = |planes: &[u8]| RgbImage {
        width: views.width as u32,
        height: views.height as u32,
        pixels: (0..plane)
            .flat_map(|place| [planes[place], planes[plane + place], planes[2 * plane + place]])
            .collect(),
    };
    views.pixels.chunks_exact(3 * plane).map(image).collect()
}

/// What it takes to repeat the evaluation.
pub(crate) fn origin(content: &Content<'_>) -> String {
    let mut html = String::from("<dl>\n");
    let mut entry = |name: &str, text: String| {
        let _ = writeln!(html, "<dt>{name}</dt><dd>{}</dd>", escape(&text));
    };
    let encoder = content.encoder;
    entry("encoder", format!("{} ({})", encoder.name, encoder.hash));
    if let Some(step) = encoder.step {
        entry("its steps", step.to_string());
    }
    entry("data", content.data_name.to_string());
    entry(
        "fingerprint of train",
        content.train_data.fingerprint().to_string(),
    );
    entry("fingerprint of test", content.test_data.fingerprint().to_string());
    entry(
        "records",
        format!(
            "{} train, {} test, {} test records could not be read",
            content.train_data.len(),
            content.test.records(),
            content.test.bad_records
        ),
    );
    entry(
        "transforms",
        serde_json::to_string(&content.config.test_transforms).unwrap_or_default(),
    );
    entry(
        "normalisation",
        serde_json::to_string(&encoder.normalize).unwrap_or_default(),
    );
    if let Some(outcome) = content.outcomes.first() {
        entry("program", outcome.commit.clone());
        entry("device", outcome.device.clone());
    }
    html + "</dl>\n<p class=\"quiet\">Hyper-parameters are chosen, where a protocol chooses any, on records held out of the training set; \
            each protocol's settings and what it chose are in the table of results.</p>\n"
}
