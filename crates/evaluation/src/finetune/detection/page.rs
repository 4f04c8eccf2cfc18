//! `report.html` of a detector: its numbers and curves, and test pictures with their objects beside what was found.

use super::Settings;
use super::report::{Evaluated, Shown, report};
use super::score::{BoxScores, EvaluationSet, Found, Scores};
use crate::error::Error;
use crate::report::jpeg;
use crate::result::Outcome;
use data::targets::{Object, Rle};
use data::thumbnail::thumbnail;
use data::{DecodeLimits, RgbImage, decode_and};
use detection::drawing::{Mark, draw};
use detection::metrics::{Kind, Scored, coco};
use maud::html;
use rayon::prelude::*;
use std::borrow::Cow;

/// Pictures in the report.
const PICTURES: usize = 16;
/// Longer side of a picture, px.
const SIDE_PX: u32 = 480;
/// Results of a lower score are not drawn.
const DRAWN_SCORE: f32 = 0.3;

/// Colors of the first classes; more repeat them.
const COLORS: [[u8; 3]; 6] = [
    [242, 142, 43],
    [78, 121, 167],
    [225, 87, 89],
    [89, 161, 79],
    [176, 122, 161],
    [237, 201, 72],
];

/// The file's text.
pub(super) fn page(
    settings: &Settings,
    names: &[String],
    set: &EvaluationSet,
    found: &Found,
    scores: &Scores,
    outcomes: &[Outcome],
) -> Result<String, Error> {
    let classes = settings.network.classes;
    // Curves are COCO's whatever the metric is.
    let boxes = match &scores.boxes {
        BoxScores::Coco(boxes) => Cow::Borrowed(boxes),
        BoxScores::Voc(_) => Cow::Owned(coco(&found.truth, &found.results, classes, Kind::Boxes)?),
    };
    let (of_boxes, of_masks) = scores.intervals.unzip();
    let mut evaluated = vec![Evaluated {
        kind: Kind::Boxes,
        scores: &boxes,
        intervals: of_boxes,
    }];
    if let Some(masks) = &scores.masks {
        evaluated.push(Evaluated {
            kind: Kind::Masks,
            scores: masks,
            intervals: of_masks.flatten(),
        });
    }
    let headline = outcomes.iter().find(|outcome| outcome.headline);
    let lead = html! {
        p {
            @if let Some(outcome) = headline {
                (outcome.protocol) " " (outcome.metric) " " strong { (crate::report::value(outcome)) } ". "
            }
            (settings.network.describe().replace('`', "")) ". " (found.results.len()) " test pictures."
        }
        @if headline.is_some_and(|outcome| outcome.protocol != "detection-coco") {
            p { "The tables and curves below are COCO's numbers of the same results." }
        }
        p { "Drawn are results with scores of at least " (DRAWN_SCORE) "." }
    };
    let title = match headline {
        Some(outcome) => format!("{} as a detector", outcome.encoder_name),
        None => settings.network.describe(),
    };
    Ok(report(
        &title,
        lead,
        &evaluated,
        names,
        &pictures(names, set, found),
    ))
}

/// Pictures at equal distances.
fn pictures(names: &[String], set: &EvaluationSet, found: &Found) -> Vec<Shown> {
    let count = PICTURES.min(found.results.len());
    let places: Vec<usize> = (0..count)
        .map(|index| index * found.results.len() / count.max(1))
        .collect();
    places
        .par_iter()
        .filter_map(|place| shown(names, set, found, *place))
        .collect()
}

/// A picture with its objects, and with what was found; `None` if it can no longer be read.
fn shown(names: &[String], set: &EvaluationSet, found: &Found, place: usize) -> Option<Shown> {
    let position = found.positions[place] as usize;
    let key = set.dataset.key(position).ok()?;
    let mut encoded = vec![];
    set.dataset.read_image(position, &mut encoded).ok()?;
    let image = decode_and(&encoded, &DecodeLimits::DEFAULT, |image| image).ok()?;
    let size = (image.width, image.height);
    let name = |class: u32| {
        names
            .get(class as usize)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    };
    let color = |class: u32| COLORS[class as usize % COLORS.len()];

    let objects = &found.truth[place].objects;
    let masks: Vec<Option<Rle>> = objects.iter().map(|object| mask_of(object, size)).collect();
    let labels: Vec<String> = objects.iter().map(|object| name(object.class)).collect();
    let each = objects.iter().zip(&masks).zip(&labels);
    let truth: Vec<Mark<'_>> = each
        .map(|((object, mask), label)| Mark {
            edges: object.bounding_box.edges(),
            color: color(object.class),
            mask: mask.as_ref(),
            label,
        })
        .collect();

    let drawn: Vec<&Scored> = found.results[place]
        .found
        .iter()
        .filter(|one| one.score >= DRAWN_SCORE)
        .collect();
    let labels: Vec<String> = drawn
        .iter()
        .map(|one| format!("{} {:.2}", name(one.class), one.score))
        .collect();
    let results: Vec<Mark<'_>> = drawn
        .iter()
        .zip(&labels)
        .map(|(one, label)| Mark {
            edges: one.edges,
            color: color(one.class),
            mask: one
                .mask
                .as_ref()
                .filter(|mask| (mask.width(), mask.height()) == size),
            label,
        })
        .collect();
    let small = |image: RgbImage, marks: &[Mark<'_>]| jpeg(&thumbnail(&draw(image, marks), SIDE_PX));
    Some(Shown {
        key,
        truth: small(image.clone(), &truth),
        found: small(image, &results),
    })
}

/// The mask of an object, if it is of the picture's size.
fn mask_of(object: &Object, (width, height): (u32, u32)) -> Option<Rle> {
    let mask = object.segmentation.as_ref()?.to_rle(width, height);
    ((mask.width(), mask.height()) == (width, height)).then_some(mask)
}
