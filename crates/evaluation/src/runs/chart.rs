//! Curves as SVG: one chart for each number, over steps, epochs or hours, with a band where there is a range.

use super::compare::Curve;
use super::series::{AXES, Sample, column, thinned, ticks};
use super::words::{grouped, label, rank};
use crate::report::{color, shortened};
use data::significant;
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The drawing's units across and down; the page stretches it.
const SIDE: f64 = 1000.0;
/// Bytes of coordinates that all charts of a page may have.
const MOST_BYTES: usize = 2_500_000;
/// Bytes of a column of one curve: a point of the line and two of the band.
const COLUMN_BYTES: usize = 24;
/// Values in the text that appears under the mouse.
const MOST_VALUES: usize = 8;

/// One chart with its curves in a common range.
struct Chart<'a> {
    name: &'a str,
    curves: &'a [Curve<'a>],
    columns: usize,
}

/// Every chart of the page: the loss first and wide, then signals, rate, speed.
pub(super) fn charts(curves: &[Curve<'_>]) -> Markup {
    let names: BTreeSet<&String> = curves.iter().flat_map(|curve| curve.series.keys()).collect();
    let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() {
        return html! { p class="quiet" { "The log has no lines yet." } };
    }
    names.sort_by_key(|name| (rank(name), *name));
    let columns = MOST_BYTES / (curves.len() * names.len() * AXES.len() * COLUMN_BYTES);
    let chart = |name| Chart {
        name,
        curves,
        columns: columns.clamp(60, 500),
    };
    let has_axis = |axis: usize| {
        let mut samples = curves.iter().flat_map(|curve| curve.series.values().flatten());
        samples.any(|sample| sample.at[axis].is_finite())
    };
    let axes: Vec<usize> = (0..AXES.len()).filter(|axis| has_axis(*axis)).collect();
    html! {
        @for axis in &axes {
            input type="radio" name="axis" id={ "axis-" (AXES[*axis].0) } class="axis" checked[*axis == 0];
            label for={ "axis-" (AXES[*axis].0) } class="axis" { (AXES[*axis].1) }
        }
        @if curves.len() > 1 || curves[0].runs.len() > 1 {
            ul class="legend" aria-label="Colors of the runs" {
                @for (place, curve) in curves.iter().enumerate() {
                    li { span style={ "background:" (color(place)) } {} (shortened(&curve.name, 60)) }
                }
            }
        }
        div class=(if curves.len() == 1 { "charts alone" } else { "charts" }) {
            @for name in &names { (figure(&chart(name), &axes)) }
        }
        p class="quiet" {
            "A line is the mean of the samples of a column of the picture, a band behind it reaches from the lowest to the highest, so that no \
             peak is lost."
            @if curves.iter().any(|curve| curve.runs.len() > 1) { " For several seeds the samples are those of all of them." }
            " Hours are hours of training, without pauses between processes. Point at a chart to read its values."
        }
    }
}

fn figure(chart: &Chart<'_>, axes: &[usize]) -> Markup {
    let is_wide = chart.name == "train/loss";
    html! {
        figure class=(if is_wide { "chart wide" } else { "chart" }) {
            h3 { (label(chart.name)) }
            @for axis in axes {
                @if let Some(plot) = plot(chart, *axis) {
                    div class={ "plot by-" (AXES[*axis].0) } { (plot) }
                } @else {
                    p class={ "quiet plot by-" (AXES[*axis].0) } { "not known over " (AXES[*axis].1) }
                }
            }
        }
    }
}

/// The lowest and highest of some numbers; `None` without any.
fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values
        .filter(|value| value.is_finite())
        .fold(None, |range, value| match range {
            None => Some([value, value]),
            Some([low, high]) => Some([f64::min(low, value), f64::max(high, value)]),
        })
}

/// A range with some space around, never empty.
fn roomy([low, high]: [f64; 2]) -> [f64; 2] {
    let space = match high - low {
        0.0 => (high.abs() * 0.1).max(1e-9),
        height => height * 0.05,
    };
    [low - space, high + space]
}

fn plot(chart: &Chart<'_>, axis: usize) -> Option<Markup> {
    let series: Vec<(usize, &Curve<'_>, &[Sample])> = chart
        .curves
        .iter()
        .enumerate()
        .filter_map(|(place, curve)| Some((place, curve, curve.series.get(chart.name)?.as_slice())))
        .collect();
    let samples = || {
        series
            .iter()
            .flat_map(|(_, _, samples)| samples.iter())
            .filter(|sample| sample.at[axis].is_finite())
    };
    // All charts of an axis begin with the run.
    let [_, last] = range(samples().map(|sample| sample.at[axis]))?;
    let across = [0.0, last.max(f64::MIN_POSITIVE)];
    let down = range(samples().flat_map(|sample| [sample.low, sample.high]))?;
    let down = match chart.name.starts_with("speed/") {
        // Rates and shares are compared with none at all.
        true => [0.0, roomy(down)[1].max(f64::MIN_POSITIVE)],
        false => roomy(down),
    };
    let x = |value: f64| (value - across[0]) / (across[1] - across[0]) * SIDE;
    let y = |value: f64| SIDE - (value - down[0]) / (down[1] - down[0]) * SIDE;
    let thin: Vec<_> = series
        .iter()
        .map(|(place, curve, samples)| (*place, *curve, thinned(samples, axis, across, chart.columns)))
        .collect();
    let (x_ticks, y_ticks) = (ticks(across, 5), ticks(down, 4));
    let percent = |value: f64| significant(value / SIDE * 100.0, 4);
    let described = format!("{} over {}", label(chart.name), AXES[axis].1);
    let mut drawing = String::new();
    for tick in &y_ticks {
        let at = y(*tick).round();
        let _ = write!(drawing, r#"<path class="grid" d="M0 {at}H1000"/>"#);
    }
    for (place, _, points) in &thin {
        // Where lines of the log are missing, nothing is drawn.
        for points in points.chunk_by(|_, (_, sample)| !sample.after_gap) {
            draw(&mut drawing, points, &x, &y, &color(*place));
        }
    }
    let hover = hover(&series, axis, across);
    Some(html! {
        svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label=(described) {
            (PreEscaped(drawing))
            (hover)
        }
        @for tick in &y_ticks {
            span class="y" style={ "top:" (percent(y(*tick))) "%" } { (number(*tick)) }
        }
        @for (place, tick) in x_ticks.iter().enumerate() {
            // Every second one is left out where the picture is narrow.
            span class=(if place % 2 == 1 { "x odd" } else { "x" }) style={ "left:" (percent(x(*tick))) "%" } { (number(*tick)) }
        }
    })
}

/// Draws a line through points, and the band from the lowest to the highest where there is one.
fn draw(
    drawing: &mut String,
    points: &[(f64, Sample)],
    x: &impl Fn(f64) -> f64,
    y: &impl Fn(f64) -> f64,
    color: &str,
) {
    let shown = points.iter().map(|(at, sample)| (x(*at).round(), sample));
    let band = shown
        .clone()
        .any(|(_, sample)| (y(sample.low) - y(sample.high)).round() >= 2.0);
    if band {
        let upper = shown.clone().map(|(at, sample)| (at, y(sample.high).round()));
        let lower = shown
            .clone()
            .rev()
            .map(|(at, sample)| (at, y(sample.low).round()));
        let _ = write!(
            drawing,
            r#"<path class="band" fill="{color}" d="{}Z"/>"#,
            path(upper.chain(lower))
        );
    }
    let line = path(shown.map(|(at, sample)| (at, y(sample.mean).round())));
    // A single sample is a dot.
    let (class, line) = match points.len() {
        1 => ("line dot", format!("{line}h.01")),
        _ => ("line", line),
    };
    let _ = write!(drawing, r#"<path class="{class}" stroke="{color}" d="{line}"/>"#);
}

/// A path through points, without those that repeat the one before.
fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let (mut path, mut before) = (String::new(), None);
    for (x, y) in points {
        if before != Some((x, y)) {
            let command = if before.is_none() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{x} {y}");
            before = Some((x, y));
        }
    }
    path
}

/// Strips over a chart that show the values within them under the mouse.
fn hover(series: &[(usize, &Curve<'_>, &[Sample])], axis: usize, across: [f64; 2]) -> Markup {
    let most = series
        .iter()
        .map(|(_, _, samples)| samples.len())
        .max()
        .unwrap_or(0);
    let strips = most.min(if series.len() > 4 { 24 } else { 48 });
    let width = SIDE / strips as f64;
    let mut texts: Vec<(Option<f64>, Vec<String>)> = vec![(None, vec![]); strips];
    for (_, curve, samples) in series {
        for (at, sample) in thinned(samples, axis, across, strips) {
            let strip = column(at, across, strips);
            let mut text = format!("{}: {}", shortened(&curve.name, 40), significant(sample.mean, 5));
            if sample.high > sample.low {
                let (low, high) = (significant(sample.low, 4), significant(sample.high, 4));
                let _ = write!(text, " ({low} to {high})");
            }
            texts[strip].0.get_or_insert(at);
            texts[strip].1.push(text);
        }
    }
    html! {
        @for (strip, (at, values)) in texts.iter().enumerate() {
            @if let Some(at) = at {
                rect x=((strip as f64 * width).round()) width=(width.ceil()) height="1000" {
                    title {
                        (AXES[axis].0) " " (number(*at))
                        @for value in values.iter().take(MOST_VALUES) { "\n" (value) }
                        @if values.len() > MOST_VALUES { "\nand " (values.len() - MOST_VALUES) " more" }
                    }
                }
            }
        }
    }
}

/// A number at an axis: groups of three digits, or few digits.
fn number(value: f64) -> String {
    match value.abs() >= 1000.0 && value.fract() == 0.0 {
        true => grouped(value),
        false => significant(value, 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_skip_what_is_not_seen() {
        let points = [(0.0, 5.0), (0.0, 5.0), (3.0, 5.0)];
        assert_eq!(path(points.into_iter()), "M0 5L3 5");
        assert_eq!(roomy([2.0, 2.0]), [1.8, 2.2]);
        assert_eq!(number(12_500.0), "12,500");
        assert_eq!(number(0.125), "0.125");
    }
}
