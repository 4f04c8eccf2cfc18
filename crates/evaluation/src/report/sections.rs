//! The sections of a report, each a function from the evaluation to HTML; empty where there is nothing to show.

use super::findings::{Predictions, label_of, neighbors_of};
use super::page::{color, column, shortened, table};
use super::pictures::{heat, jpeg, lit, positions, sheet, small_jpeg};
use super::tsne::tsne;
use super::{Content, SEED};
use crate::encoder::POOLED;
use crate::error::Error;
use crate::features::{Features, in_order, normalize_rows};
use crate::result::Outcome;
use crate::solvers::{Neighbor, Voting};
use crate::split::TEST;
use backbones::Draws;
use backbones::draws::sample;
use data::html::data_uri;
use data::{Dataset, LoaderConfig, RgbImage};
use maud::{Markup, PreEscaped, html};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Side of the pictures of mistakes and neighbors, px.
const PICTURE_PX: u32 = 96;
const MISTAKES: usize = 24;
const QUERIES: usize = 12;
const NEIGHBORS: usize = 7;
/// Records on the map, because each of a thousand steps visits all pairs.
const MAP_RECORDS: usize = 1000;
const MAP_COLUMNS: usize = 32;
const ATTENDED: usize = 6;
/// Largest number of classes with a readable confusion table.
const TABLE_CLASSES: usize = 20;
/// Rows of the table of classes.
const CLASS_ROWS: usize = 300;
/// Heads whose attention is shown besides the mean.
const HEADS: usize = 6;

/// A score with its uncertainty, as usually quoted.
pub(crate) fn value(outcome: &Outcome) -> String {
    let (scale, digits, unit) = match outcome.is_share() {
        true => (100.0, 2, " %"),
        false => (1.0, 3, ""),
    };
    let uncertainty = outcome
        .uncertainty()
        .map_or_else(String::new, |off| format!(" ± {:.digits$}", scale * off));
    match (outcome.is_share(), uncertainty.as_str()) {
        (true, "") => data::percent(outcome.value, digits),
        _ => format!("{:.digits$}{uncertainty}{unit}", scale * outcome.value),
    }
}

fn percent(part: usize, whole: usize) -> String {
    match whole {
        0 => "–".into(),
        whole => data::percent(part as f64 / whole as f64, 1),
    }
}

/// The table of scores, with every setting behind it.
pub(crate) fn results(outcomes: &[Outcome]) -> Markup {
    let head = html! {
        (column("protocol", true)) (column("metric", true)) (column("value", false))
        (column("train records", false)) (column("test records", false)) (column("how", true))
    };
    let name = |outcome: &Outcome| match outcome.variant() {
        Some(variant) => format!("{} ({variant})", outcome.protocol),
        None => outcome.protocol.clone(),
    };
    let settings = |outcome: &Outcome| {
        let settings = serde_json::to_string_pretty(&outcome.settings).unwrap_or_default();
        shortened(&settings, 4000)
    };
    let rows = html! {
        @for outcome in outcomes {
            tr class=(if outcome.headline { "headline" } else { "" }) {
                th scope="row" { (name(outcome)) }
                td class="text" { (outcome.metric) }
                td { (value(outcome)) }
                td { (outcome.train_records) }
                td { (outcome.test_records) }
                td class="text" { details { summary { "settings" } pre { (settings(outcome)) } } }
            }
        }
    };
    html! {
        // Outside the caption, which scrolls away with the table on a phone.
        p class="quiet" {
            "Bold is the headline metric of a protocol. ± is the standard deviation over seeds, or half of a 95 % interval."
        }
        (table("", "Scores", &head, &rows))
    }
}

fn how(predictions: &Predictions) -> Markup {
    let Voting {
        neighbors,
        temperature,
    } = predictions.voting;
    html! {
        p class="quiet" {
            "Predictions here are the votes of the " (neighbors) " nearest training records (cosine, temperature " (temperature)
            "), " (format!("{:.2}", 100.0 * predictions.top1())) " % right."
        }
    }
}

pub(crate) fn classes(predictions: &Predictions) -> Markup {
    let mut results = predictions.by_class();
    let all = results.len();
    if all > CLASS_ROWS {
        // The worst results first, because they matter most.
        results.sort_by(|a, b| (a.right * b.records).cmp(&(b.right * a.records)));
        results.truncate(CLASS_ROWS);
    }
    let name = |class: u32| shortened(&predictions.classes[class as usize], 60);
    let head = html! {
        (column("class", true)) (column("test records", false)) (column("found (recall)", false))
        (column("right when predicted (precision)", false)) (column("most often taken for", true))
    };
    let rows = html! {
        @for result in &results {
            tr {
                th scope="row" { (name(result.class)) }
                td { (result.records) }
                td { (percent(result.right, result.records)) }
                td { (percent(result.right, result.predicted)) }
                td class="text" {
                    @if let Some((other, count)) = result.taken_for { (name(other)) " (" (count) ")" }
                }
            }
        }
    };
    let caption = match all > CLASS_ROWS {
        true => format!("The {CLASS_ROWS} classes of {all} with the lowest recall"),
        false => format!("All {all} classes of the test set"),
    };
    html! { (how(predictions)) (table("", &caption, &head, &rows)) }
}

pub(crate) fn confusion(predictions: &Predictions) -> Markup {
    let counts = predictions.confusion();
    let totals: Vec<usize> = counts.iter().map(|row| row.iter().sum()).collect();
    html! {
        p class="quiet" { "Rows are true classes, columns predicted ones; in per cent of the row." }
        @if counts.len() <= TABLE_CLASSES {
            (confusion_table(predictions, &counts, &totals))
        // A classifier of thousands of classes would make a picture too large to read.
        } @else if counts.len() <= 2000 {
            (confusion_picture(&counts, &totals))
        }
        (most_confused(predictions, &totals))
    }
}

fn confusion_table(predictions: &Predictions, counts: &[Vec<usize>], totals: &[usize]) -> Markup {
    let name = |class: usize, most| shortened(&predictions.classes[class], most);
    let head = html! {
        (column("is · taken for", true))
        @for class in 0..counts.len() { (column(&name(class, 12), false)) }
    };
    let cell = |class: usize, other: usize| {
        let count = counts[class][other];
        let share = format!("{:.0}", 100.0 * count as f64 / totals[class].max(1) as f64);
        html! {
            td class=[(class == other).then_some("diagonal")] style={ "--p:" (share) } title={ (count) " records" } {
                (if count == 0 { "0" } else { &share })
            }
        }
    };
    let rows = html! {
        @for class in 0..counts.len() {
            tr { th scope="row" { (name(class, 24)) } @for other in 0..counts.len() { (cell(class, other)) } }
        }
    };
    table("confusion", "Confusion matrix", &head, &rows)
}

fn confusion_picture(counts: &[Vec<usize>], totals: &[usize]) -> Markup {
    let share = |count: &usize, total: &usize| *count as f64 / (*total).max(1) as f64;
    let shares: Vec<f64> = counts
        .iter()
        .zip(totals)
        .flat_map(|(row, total)| row.iter().map(move |count| share(count, total)))
        .collect();
    let picture = data::thumbnail::to_jpeg(&heat(&shares, counts.len()), 90);
    let alternative = format!(
        "Confusion matrix of {} classes as a picture: the brighter a point, the more records of its row's class were taken for \
         its column's",
        counts.len()
    );
    html! { img class="wide" alt=(alternative) src=(data_uri(&picture)); }
}

fn most_confused(predictions: &Predictions, totals: &[usize]) -> Markup {
    let name = |class: u32| shortened(&predictions.classes[class as usize], 60);
    let confused = predictions.confused();
    if confused.is_empty() {
        return html! {};
    }
    let head = html! {
        (column("is", true)) (column("taken for", true)) (column("records", false)) (column("of the class", false))
    };
    let rows = html! {
        @for (truth, other, count) in confused.into_iter().take(10) {
            tr {
                th scope="row" { (name(truth)) }
                td class="text" { (name(other)) }
                td { (count) }
                td { (percent(count, totals[truth as usize])) }
            }
        }
    };
    table("", "Most frequent confusions", &head, &rows)
}

/// A picture with its caption.
fn figure(class: &str, encoded: &[u8], alternative: &str, caption: &Markup) -> Markup {
    html! {
        figure class=(class) {
            @if encoded.is_empty() {
                span role="img" aria-label=(alternative) { "not readable" }
            } @else {
                img loading="lazy" alt=(alternative) src=(data_uri(encoded));
            }
            figcaption { (caption) }
        }
    }
}

/// A record's key in a few letters: the end distinguishes it from others.
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

pub(crate) fn mistakes(content: &Content<'_>, predictions: &Predictions) -> Markup {
    let wrong = predictions.mistakes();
    if wrong.is_empty() {
        return html! { p { "There are none." } };
    }
    let positions = positions(content.test_data, content.test);
    let shown: Vec<Markup> = wrong[..wrong.len().min(MISTAKES)]
        .par_iter()
        .filter_map(|row| {
            let (predicted, share) = predictions.predicted[*row];
            let truth = &predictions.classes[predictions.truth[*row] as usize];
            let taken = &predictions.classes[predicted as usize];
            let picture = small_jpeg(content.test_data, *positions.get(*row)?, PICTURE_PX);
            let alternative = format!("{} of class {truth}, taken for {taken}", key(content.test, *row));
            let caption = html! {
                "is " (shortened(truth, 40)) ", taken for " span class="wrong" { (shortened(taken, 40)) }
                (format!(" ({})", data::percent(share, 0)))
            };
            Some(html! { li { (figure("", &picture, &alternative, &caption)) } })
        })
        .collect();
    html! {
        p class="quiet" {
            (wrong.len()) " of " (content.test.records())
            " test records are predicted wrong; the most confident first, with the share of the votes."
        }
        ul class="grid" { @for picture in &shown { (picture) } }
    }
}

/// A fixed random subset of rows, in their order.
fn some(rows: usize, count: usize, purpose: &'static str) -> Vec<usize> {
    if rows <= count {
        return (0..rows).collect();
    }
    let mut rng = Draws::new(SEED, 0).rng(purpose, 0);
    let mut chosen = sample(&mut rng, rows, count);
    chosen.sort_unstable();
    chosen
}

pub(crate) fn neighbors(content: &Content<'_>) -> Result<Markup, Error> {
    let rows = some(content.test.records(), QUERIES, "report.queries");
    let (nearest, in_train) = neighbors_of(&rows, content.train, content.test, NEIGHBORS, content.device)?;
    let (gallery, gallery_data) = match in_train {
        true => (content.train, content.train_data),
        false => (content.test, content.test_data),
    };
    let (of_test, of_gallery) = (
        positions(content.test_data, content.test),
        positions(gallery_data, gallery),
    );
    let neighbor_html = |place: usize, neighbor: &Neighbor, class: Option<&String>| {
        let at = neighbor.row as usize;
        let label = label_of(gallery, at).map(|(label, _)| label);
        let picture = of_gallery
            .get(at)
            .map_or_else(Vec::new, |at| small_jpeg(gallery_data, *at, PICTURE_PX));
        // Color is not the only mark.
        let (style, sign) = match (class, &label) {
            (Some(class), Some(label)) if class == label => ("right", "✓ "),
            (Some(_), Some(_)) => ("wrong", "✗ "),
            _ => ("", ""),
        };
        let name = label.unwrap_or_else(|| key(gallery, at));
        let caption = html! {
            span class=(style) { (sign) (shortened(&name, 40)) }
            (format!(" {:.2}", neighbor.cosine))
        };
        let alternative = format!("Neighbor {}: {}, {name}", place + 1, key(gallery, at));
        figure("", &picture, &alternative, &caption)
    };
    let row_html = |(row, nearest): (&usize, &Vec<Neighbor>)| {
        let class = label_of(content.test, *row).map(|(label, _)| label);
        let picture = of_test
            .get(*row)
            .map_or_else(Vec::new, |at| small_jpeg(content.test_data, *at, PICTURE_PX));
        let name = class.clone().unwrap_or_else(|| key(content.test, *row));
        let caption = html! { strong { (shortened(&name, 40)) } };
        let alternative = format!("Test record {}, {name}", key(content.test, *row));
        html! {
            div class="row" {
                (figure("query", &picture, &alternative, &caption))
                @for (place, neighbor) in nearest.iter().enumerate() {
                    (neighbor_html(place, neighbor, class.as_ref()))
                }
            }
        }
    };
    let rows: Vec<Markup> = rows.par_iter().zip(&nearest).map(row_html).collect();
    let gallery = if in_train {
        "training records"
    } else {
        "other test records"
    };
    Ok(html! {
        p class="quiet" { "Framed a test record, beside it the " (gallery) " of highest cosine similarity." }
        @for row in &rows { (row) }
    })
}

pub(crate) fn map(content: &Content<'_>) -> Result<Markup, Error> {
    let rows = some(content.test.records(), MAP_RECORDS, "report.map");
    let mut matrix = content.test.tap(POOLED, TEST)?.select(&rows);
    normalize_rows(&mut matrix);
    let places = tsne(&matrix);
    if places.is_empty() {
        return Ok(html! {});
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
    let labels: Vec<Option<(String, usize)>> = rows.iter().map(|row| label_of(content.test, *row)).collect();
    let point = |number: usize| {
        let (row, at) = (rows[number], places[number]);
        let (class, title) = match &labels[number] {
            None => (9, key(content.test, row)),
            Some((label, class)) => (
                *class,
                format!("{} · {}", shortened(label, 40), key(content.test, row)),
            ),
        };
        let style = format!(
            "left:{:.1}%;top:{:.1}%;--x:{};--y:{};--h:{}",
            place(at[0], ranges[0]),
            place(at[1], ranges[1]),
            number % MAP_COLUMNS,
            number / MAP_COLUMNS,
            color(class),
        );
        html! { i style=(style) title=(title) {} }
    };
    let legend: BTreeSet<(usize, &String)> = labels
        .iter()
        .flatten()
        .map(|(label, class)| (*class, label))
        .collect();
    let style = format!(
        ".map{{--columns:{MAP_COLUMNS}}}.map i{{background-image:url({})}}",
        data_uri(&sheet)
    );
    let alternative = format!(
        "t-SNE map of {} test records as small pictures framed in the colors of their classes",
        rows.len()
    );
    Ok(html! {
        p class="quiet" {
            "t-SNE of " (rows.len()) " test records (L2-normalized features, all pairs, initialized by principal components): \
             records that the encoder finds similar lie close together; distances between far groups mean nothing."
        }
        @if legend.len() <= TABLE_CLASSES && !legend.is_empty() {
            ul class="legend" aria-label="Colors of the classes" {
                @for (class, label) in &legend {
                    li { span style={ "background:" (color(*class)) } {} (shortened(label, 40)) }
                }
            }
        }
        style { (PreEscaped(style)) }
        input type="checkbox" id="dots";
        " "
        label for="dots" { "dots instead of pictures" }
        div class="map" role="img" aria-label=(alternative) {
            @for number in 0..places.len() { (point(number)) }
        }
    })
}

/// The attention of the last block's class token, for transformers.
pub(crate) fn attention(content: &Content<'_>) -> Result<Markup, Error> {
    if !content.encoder.has_attention() {
        return Ok(html! {});
    }
    let rows = some(content.test.records(), ATTENDED, "report.attention");
    let of_test = positions(content.test_data, content.test);
    let at: Vec<usize> = rows.iter().filter_map(|row| of_test.get(*row).copied()).collect();
    let part = at.iter().map(|position| *position as u32).collect();
    let part = Arc::new(Dataset::part(content.test_data, part)?);
    let data = LoaderConfig {
        batch_images: at.len(),
        workers: 0,
        max_bad_fraction: 0.0,
    };
    let loader = in_order(&part, content.test_transforms, &data)?;
    let mut lines = vec![];
    for batch in loader.batches(0, loader.batches_per_epoch()) {
        for views in batch?.views {
            let size = [views.width, views.height];
            let pictures = images_of(&views);
            let tensor = content.encoder.normalize.tensor(views, content.device);
            let Some((maps, grid)) = content.encoder.attention(tensor) else {
                continue;
            };
            for ((picture, maps), row) in pictures.iter().zip(&maps).zip(&rows) {
                let label =
                    label_of(content.test, *row).map_or_else(|| key(content.test, *row), |(label, _)| label);
                lines.push(attention_line(&label, picture, size, maps, grid));
            }
        }
    }
    Ok(html! {
        p class="quiet" {
            "Where the class token of the last block looks: the picture lit by the mean over the heads, then the heads one by one, \
             white the most."
        }
        @for line in &lines { (line) }
    })
}

/// One picture, weighted by the mean of all heads and by each of the first ones.
fn attention_line(
    label: &str,
    picture: &RgbImage,
    [width, height]: [usize; 2],
    maps: &[Vec<f64>],
    grid: [usize; 2],
) -> Markup {
    let mean: Vec<f64> = (0..grid[0] * grid[1])
        .map(|place| maps.iter().map(|head| head[place]).sum::<f64>() / maps.len() as f64)
        .collect();
    let whole = format!("{label}, as the encoder sees it at {width} x {height} px");
    let all = format!("{label}, lit where the heads look on average");
    html! {
        div class="row" {
            (figure("", &jpeg(picture), &whole, &html! { (shortened(label, 40)) }))
            (figure("", &jpeg(&lit(picture, &mean, grid)), &all, &html! { "all heads" }))
            @for (head, map) in (1..).zip(maps.iter().take(HEADS)) {
                (figure(
                    "small",
                    &jpeg(&enlarged(map, grid)),
                    &format!("{label}: attention of head {head}"),
                    &html! { "head " (head) },
                ))
            }
        }
    }
}

/// A grid of weights as a picture of some size, each weight a square.
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

/// Everything needed to repeat the evaluation.
pub(crate) fn origin(content: &Content<'_>) -> Markup {
    let encoder = content.encoder;
    let mut entries = vec![("encoder", format!("{} ({})", encoder.name, encoder.hash))];
    entries.extend(encoder.step.map(|step| ("its steps", step.to_string())));
    let records = format!(
        "{} train, {} test, {} test records could not be read",
        content.train_data.len(),
        content.test.records(),
        content.test.bad_records
    );
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    entries.extend([
        ("data", content.data_name.to_string()),
        (
            "fingerprint of train",
            content.train_data.fingerprint().to_string(),
        ),
        ("fingerprint of test", content.test_data.fingerprint().to_string()),
        ("records", records),
        ("transforms", json(serde_json::to_string(content.test_transforms))),
        ("normalization", json(serde_json::to_string(&encoder.normalize))),
    ]);
    if let Some(outcome) = content.outcomes.first() {
        entries.push(("program", outcome.commit.clone()));
        entries.push(("device", outcome.device.clone()));
    }
    html! {
        dl { @for (name, text) in &entries { dt { (name) } dd { (text) } } }
        p class="quiet" {
            "If a protocol chooses hyper-parameters, it does so on records held out of the training set; each protocol's settings \
             and choices are in the table of results."
        }
    }
}
