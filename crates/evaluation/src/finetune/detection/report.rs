//! The parts of a detector's HTML report: COCO's numbers, a table of classes, precision–recall curves, and
//! pictures of results beside truth.

use data::html::data_uri;
use detection::metrics::{ClassScores, CocoScores, Interval, Intervals, Kind, RECALL_POINTS};
use maud::{Markup, html};

use crate::report::{Page, color, column, shortened, table};

/// Classes with a curve of their own; more lines could not be told apart.
const CURVES: usize = 8;
/// Rows of the table of classes.
const CLASS_ROWS: usize = 300;
/// Letters of a class's name.
const NAME_LETTERS: usize = 40;

/// What was evaluated, for one kind of results.
pub(crate) struct Evaluated<'a> {
    /// Boxes or masks.
    pub(crate) kind: Kind,
    /// COCO's numbers.
    pub(crate) scores: &'a CocoScores,
    /// Intervals of AP and AP50, if they were made.
    pub(crate) intervals: Option<Intervals>,
}

impl Evaluated<'_> {
    fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Boxes => "boxes",
            Kind::Masks => "masks",
        }
    }
}

/// One picture twice: with its objects, and with what was found.
pub(crate) struct Shown {
    /// The record's key.
    pub(crate) key: String,
    /// JPEG with the true objects drawn on it.
    pub(crate) truth: Vec<u8>,
    /// JPEG with the results drawn on it.
    pub(crate) found: Vec<u8>,
}

/// The whole report; `names` are the classes' names in the order of their numbers.
pub(crate) fn report(
    title: &str,
    lead: Markup,
    evaluated: &[Evaluated<'_>],
    names: &[String],
    pictures: &[Shown],
) -> String {
    let mut page = Page::new(title, lead);
    page.section("results", "Results", numbers(evaluated));
    let each = |part: &dyn Fn(&Evaluated<'_>) -> Markup| html! { @for one in evaluated { (part(one)) } };
    page.section("curves", "Precision and recall", each(&|one| curves(one, names)));
    page.section("classes", "Results by class", each(&|one| classes(one, names)));
    page.section("pictures", "Pictures", beside(pictures));
    page.html()
}

/// A share in percent; a dash where there is no object.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{:.1}", 100.0 * share))
}

fn percent_with(share: Option<f64>, interval: Option<Interval>) -> Markup {
    html! {
        (percent(share))
        @if let Some(Interval { low, high }) = interval {
            " " span class="quiet" { "(" (format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)) ")" }
        }
    }
}

/// COCO's twelve numbers, one row per kind.
fn numbers(evaluated: &[Evaluated<'_>]) -> Markup {
    let head = html! {
        (column("of", true))
        @for name in [
            "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100", "AR small",
            "AR medium", "AR large",
        ] { (column(name, false)) }
    };
    let rows = html! {
        @for one in evaluated {
            @let all = one.scores.mean.all();
            @let interval = |of: fn(&Intervals) -> Option<Interval>| one.intervals.as_ref().and_then(of);
            tr {
                th scope="row" { (one.noun()) }
                td { (percent_with(all[0], interval(|intervals| intervals.ap))) }
                td { (percent_with(all[1], interval(|intervals| intervals.ap50))) }
                @for share in &all[2..] { td { (percent(*share)) } }
            }
        }
    };
    html! {
        (table("", "COCO's numbers, in per cent", &head, &rows))
        p class="quiet" {
            "AP: mean precision over recall, classes and overlaps (IoU) of 0.50 to 0.95; AP50 and AP75: at one overlap. "
            "AR: mean recall with 1, 10 or 100 results per image and class. Small: up to 32² px², large: from 96² px². "
            "In brackets: 95 % of resampled images. –: no object of that size."
        }
    }
}

/// The name of a class, or its number.
fn name_of(names: &[String], class: usize) -> String {
    names
        .get(class)
        .map_or_else(|| class.to_string(), |name| shortened(name, NAME_LETTERS))
}

/// Classes that occur, the highest AP first; then those without objects.
fn ranked(scores: &CocoScores) -> Vec<(usize, &ClassScores)> {
    let classes = scores.classes.iter().enumerate();
    let mut ranked: Vec<_> = classes
        .filter(|(_, class)| class.truths > 0 || class.detections > 0)
        .collect();
    let ap = |class: &ClassScores| class.numbers.ap.unwrap_or(-1.0);
    ranked.sort_by(|(_, one), (_, two)| ap(two).total_cmp(&ap(one)));
    ranked
}

/// The numbers of each class.
fn classes(evaluated: &Evaluated<'_>, names: &[String]) -> Markup {
    let ranked = ranked(evaluated.scores);
    if ranked.is_empty() {
        return html! {};
    }
    let head = html! {
        (column("class", true))
        @for name in [
            "objects", "results", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 100",
        ] { (column(name, false)) }
    };
    let rows = html! {
        @for (number, class) in ranked.iter().take(CLASS_ROWS) {
            tr {
                th scope="row" { (name_of(names, *number)) }
                td { (class.truths) }
                td { (class.detections) }
                @for share in &class.numbers.all()[..6] { td { (percent(*share)) } }
                td { (percent(class.numbers.ar100)) }
            }
        }
    };
    html! {
        (table("", &format!("Average precision of {} by class, in per cent", evaluated.noun()), &head, &rows))
        @if ranked.len() > CLASS_ROWS {
            p class="quiet" { "The first " (CLASS_ROWS) " of " (ranked.len()) " classes." }
        }
    }
}

/// The plot's inside, in the picture's units, and the space to its left and above.
const SIDE: f64 = 320.0;
const LEFT: f64 = 44.0;
const ABOVE: f64 = 10.0;

/// Where recall and precision lie in the plot.
fn place(recall: f64, precision: f64) -> [f64; 2] {
    [LEFT + SIDE * recall, ABOVE + SIDE * (1.0 - precision)]
}

/// The points of a curve, as SVG's `polyline` has them.
fn points(precision: &[f64]) -> String {
    let last = (RECALL_POINTS - 1) as f64;
    let places = precision.iter().enumerate().map(|(at, precision)| {
        let [x, y] = place(at as f64 / last, *precision);
        format!("{x:.1},{y:.1}")
    });
    places.collect::<Vec<_>>().join(" ")
}

/// The mean of the curves of all classes with objects; empty without one.
fn mean_curve(scores: &CocoScores) -> Vec<f64> {
    let curves: Vec<&[f64]> = scores
        .classes
        .iter()
        .map(|class| &class.precision[..])
        .filter(|curve| !curve.is_empty())
        .collect();
    match curves.len() {
        0 => vec![],
        count => (0..RECALL_POINTS)
            .map(|at| curves.iter().map(|curve| curve[at]).sum::<f64>() / count as f64)
            .collect(),
    }
}

/// Precision over recall at an overlap of 0.50: the mean, and the classes with most objects.
fn curves(evaluated: &Evaluated<'_>, names: &[String]) -> Markup {
    let scores = evaluated.scores;
    let mean = mean_curve(scores);
    if mean.is_empty() {
        return html! {};
    }
    let mut drawn: Vec<(usize, &ClassScores)> = scores
        .classes
        .iter()
        .enumerate()
        .filter(|(_, class)| !class.precision.is_empty())
        .collect();
    let count = drawn.len();
    drawn.sort_by_key(|(_, class)| std::cmp::Reverse(class.truths));
    drawn.truncate(CURVES);
    let caption = format!(
        "Precision over recall of {} at an overlap of 0.50",
        evaluated.noun()
    );
    let ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
    let size = format!("0 0 {} {}", LEFT + SIDE + 12.0, ABOVE + SIDE + 40.0);
    html! {
        figure style="margin:.6rem 0;max-width:34rem" {
            svg viewBox=(size) role="img" aria-label=(caption) style="width:100%;height:auto;font-size:11px" {
                @for tick in ticks {
                    @let [x, y] = place(tick, tick);
                    line x1=(LEFT) x2=(LEFT + SIDE) y1=(y) y2=(y) style="stroke:var(--line)" {}
                    line x1=(x) x2=(x) y1=(ABOVE) y2=(ABOVE + SIDE) style="stroke:var(--line)" {}
                    text x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" style="fill:var(--quiet)" { (format!("{tick:.1}")) }
                    text x=(x) y=(ABOVE + SIDE + 15.0) text-anchor="middle" style="fill:var(--quiet)" { (format!("{tick:.1}")) }
                }
                text x=(LEFT + SIDE / 2.0) y=(ABOVE + SIDE + 32.0) text-anchor="middle" style="fill:var(--text)" { "recall" }
                text transform=(format!("translate(12 {}) rotate(-90)", ABOVE + SIDE / 2.0)) text-anchor="middle" style="fill:var(--text)" { "precision" }
                @for (number, class) in &drawn {
                    polyline points=(points(&class.precision)) fill="none" stroke=(color(*number)) stroke-width="1.5" {
                        title { (name_of(names, *number)) ", AP50 " (percent(class.numbers.ap50)) }
                    }
                }
                polyline points=(points(&mean)) fill="none" stroke-width="3" style="stroke:var(--text)" {
                    title { "mean of " (count) " classes, AP50 " (percent(scores.mean.ap50)) }
                }
            }
            figcaption {
                (caption) ": bold the mean of " (count) @if count == 1 { " class" } @else { " classes" }
                @if count > drawn.len() { "; the " (drawn.len()) " with most objects in color" } ". Behind the names: AP50, in per cent."
            }
        }
        ul class="legend" {
            @for (number, class) in &drawn {
                li { span style=(format!("background:{}", color(*number))) {} (name_of(names, *number)) " " (percent(class.numbers.ap50)) }
            }
        }
    }
}

/// Each picture with its objects and with the results.
fn beside(pictures: &[Shown]) -> Markup {
    if pictures.is_empty() {
        return html! {};
    }
    let side = |jpeg: &[u8], caption: &str, key: &str| {
        html! {
            figure style="width:min(100%,30rem)" {
                img loading="lazy" src=(data_uri(jpeg)) alt={ (caption) ": " (key) } style="aspect-ratio:auto";
                figcaption { (caption) }
            }
        }
    };
    html! {
        @for Shown { key, truth, found } in pictures {
            h3 { (shortened(key, 80)) }
            div class="row" { (side(truth, "truth", key)) (side(found, "results", key)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use detection::metrics::CocoNumbers;

    /// `share` as every number but those of small objects, of which there are none.
    fn alike(share: Option<f64>) -> CocoNumbers {
        CocoNumbers {
            ap: share,
            ap50: share,
            ap75: share,
            ap_small: None,
            ap_medium: share,
            ap_large: share,
            ar1: share,
            ar10: share,
            ar100: share,
            ar_small: None,
            ar_medium: share,
            ar_large: share,
        }
    }

    fn class(precision: f64, truths: usize) -> ClassScores {
        let ap = (truths > 0).then_some(precision / 2.0);
        ClassScores {
            numbers: CocoNumbers {
                ap50: (truths > 0).then_some(precision),
                ..alike(ap)
            },
            precision: match truths {
                0 => vec![],
                _ => vec![precision; RECALL_POINTS],
            },
            truths,
            detections: 7,
        }
    }

    fn scores(classes: Vec<ClassScores>) -> CocoScores {
        let ap = classes.iter().any(|class| class.truths > 0).then_some(0.123);
        CocoScores {
            mean: alike(ap),
            classes,
        }
    }

    fn of(scores: &CocoScores) -> Evaluated<'_> {
        Evaluated {
            kind: Kind::Boxes,
            scores,
            intervals: Some(Intervals {
                ap: Some(Interval { low: 0.1, high: 0.15 }),
                ap50: None,
            }),
        }
    }

    #[test]
    fn a_curve_runs_from_the_left_edge_to_the_right() {
        assert_eq!(place(0.0, 1.0), [44.0, 10.0]);
        assert_eq!(place(1.0, 0.0), [364.0, 330.0]);
        let mut precision = vec![1.0; RECALL_POINTS];
        precision[RECALL_POINTS - 1] = 0.5;
        let points = points(&precision);
        assert!(points.starts_with("44.0,10.0 47.2,10.0 ") && points.ends_with(" 364.0,170.0"));
        // Classes without objects are not in the mean.
        let scores = scores(vec![class(0.2, 3), class(0.0, 0), class(0.6, 1)]);
        assert!(
            mean_curve(&scores)
                .iter()
                .all(|value| (value - 0.4).abs() < 1e-12)
        );
    }

    #[test]
    fn names_are_escaped_and_classes_come_by_their_precision() {
        let scores = scores(vec![class(0.2, 3), class(0.0, 0), class(0.6, 1)]);
        let names = ["<cat>", "a & b", "dog"].map(String::from);
        let shown = [Shown {
            key: "pictures/\"1\"".into(),
            truth: vec![1, 2, 3],
            found: vec![4],
        }];
        let html = report("raccoon", html! {}, &[of(&scores)], &names, &shown);
        assert!(html.contains("&lt;cat&gt;") && !html.contains("<cat>"));
        let rows: Vec<&str> = html.split("<th scope=\"row\">").skip(2).collect();
        let begins = ["dog<", "&lt;cat&gt;<", "a &amp; b<"];
        assert_eq!(rows.len(), begins.len());
        assert!(rows.iter().zip(begins).all(|(row, begin)| row.starts_with(begin)));
        // Objects, results, AP, AP50, then a dash for small objects.
        assert!(rows[0].contains("<td>1</td><td>7</td><td>30.0</td><td>60.0</td><td>30.0</td><td>–</td>"));
        assert!(html.contains("12.3") && html.contains("(10.0 to 15.0)"));
        assert_eq!(html.matches("<polyline").count(), 3);
        assert!(html.contains("alt=\"truth: pictures/&quot;1&quot;\"") && html.contains("base64,AQID"));
        assert!(!html.contains("http://") && !html.contains("<script"));
    }

    #[test]
    fn many_classes_have_a_few_curves_and_none_has_no_plot() {
        let many = scores((0..30).map(|number| class(0.5, 1 + number)).collect());
        let html = curves(&of(&many), &[]).into_string();
        assert_eq!(html.matches("<polyline").count(), CURVES + 1);
        // Those with most objects, by their numbers where there are no names.
        assert!(html.contains("<title>29, AP50 50.0</title>") && !html.contains("<title>2, AP50"));
        let none = scores(vec![class(0.0, 0)]);
        assert!(curves(&of(&none), &[]).into_string().is_empty());
        assert!(numbers(&[of(&none)]).into_string().contains("<td>–</td>"));
    }
}
