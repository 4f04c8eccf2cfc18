//! A contact sheet of the photos that a stage dropped or kept, with the boxes of detectors, and duplicates beside
//! the photo that stayed: what a threshold does is to be seen.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use data::contact_sheet::rectangle;
use data::html::data_uri;
use data::terminal::one_line;
use data::thumbnail::{thumbnail, to_jpeg};
use data::{DecodeLimits, RgbImage};
use maud::{Markup, PreEscaped, html};
use serde::Serialize;

use super::sheets::{self, PICTURE_PX, document, figure};
use super::thumbnail::small_jpeg;
use crate::config::{Config, StageConfig};
use crate::error::Error;
use crate::hint::Hint;
use crate::ledger::{Decided, DuplicateOf, Ledger};
use crate::photo::Photo;
use crate::photos::Photos;
use crate::progress::Progress;
use crate::stages::detect::{DetectedBox, Detector, Detectors};

/// The settings of a stage's sheet.
#[derive(Clone, Copy)]
pub struct SheetOptions<'a> {
    /// The stage.
    pub stage: &'a str,
    /// Whether the photos that it dropped are shown, or those that it kept.
    pub dropped: bool,
    /// Photos on the sheet, at most: those with the highest scores.
    pub photos: usize,
    /// The file; `None`: `sheet-STAGE-dropped.html` or `sheet-STAGE-kept.html` in the folder of the curation.
    pub sheet: Option<&'a Path>,
    /// The detectors, which run again to draw boxes.
    pub detectors: &'a dyn Detectors,
    /// When it turns true, the work ends.
    pub stop: &'a AtomicBool,
    /// Called during the work.
    pub progress: Progress<'a>,
}

/// The result of [`stage_sheet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SheetMade {
    /// The file.
    pub sheet: PathBuf,
    /// Photos that the stage dropped, or kept.
    pub photos: u64,
    /// Photos on the sheet.
    pub shown: u64,
    /// Why no boxes were drawn, where the stage has a detector.
    pub no_boxes: Option<String>,
}

/// Makes a contact sheet of the photos that a stage dropped or kept. Photos that were taken down are not on it.
///
/// # Errors
/// A stage that has not begun, no such photos, a sheet that cannot be written. A photo that cannot be read or
/// decoded is listed as such.
pub fn stage_sheet(folder: &Path, options: SheetOptions<'_>) -> Result<SheetMade, Error> {
    let ledger = Ledger::open_existing(folder)?;
    let config = Config::of(&ledger, folder)?;
    let Some(row) = ledger.stage(options.stage)? else {
        let names: Vec<&str> = config.stages.iter().map(StageConfig::name).collect();
        let reason = match names.contains(&options.stage) {
            true => format!("`{}` has not decided on any photo", options.stage),
            false => format!(
                "this curation has no stage `{}`; it has {}",
                options.stage,
                data::names::listed(&names)
            ),
        };
        return Err(failed(reason, Hint::NameDecidedStage));
    };
    let (decided, all) = ledger.decided(row.id, !options.dropped, options.photos)?;
    let verb = if options.dropped { "dropped" } else { "kept" };
    if decided.is_empty() {
        let reason = format!("`{}` {verb} no photo that could be shown", options.stage);
        return Err(failed(reason, Hint::NameDecidedStage));
    }
    let stage = config.stages.iter().find(|stage| stage.name() == options.stage);
    let (detector, no_boxes) = match stage.and_then(|stage| detector_of(stage, options.detectors)) {
        None => (None, None),
        Some(Ok(detector)) => (Some(detector), None),
        Some(Err(reason)) => (None, Some(reason)),
    };
    let photos = config.photos(folder)?;
    let maker = Maker {
        ledger: &ledger,
        photos: &photos,
        detector,
    };
    let mut figures = String::new();
    for (at, decision) in decided.iter().enumerate() {
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let PreEscaped(item) = maker.item(decision)?;
        figures.push_str(&item);
        (options.progress)("sheet", at as u64 + 1, decided.len() as u64);
    }
    let sheet = options.sheet.map_or_else(
        || folder.join(format!("sheet-{}-{verb}.html", options.stage)),
        Path::to_path_buf,
    );
    let made = SheetMade {
        sheet,
        photos: all,
        shown: decided.len() as u64,
        no_boxes,
    };
    let title = format!("{}: {verb} by {}", one_line(&config.release.name), options.stage);
    let PreEscaped(page) = document(&title, &page(&made, options, &PreEscaped(figures)));
    data::durable::write(&made.sheet, page.as_bytes())?;
    sheets::note(&ledger, folder, &made.sheet)?;
    Ok(made)
}

fn failed(reason: String, hint: Hint) -> Error {
    Error::Stage {
        stage: "sheet".to_string(),
        reason,
        hint: Some(hint),
    }
}

/// The detector of a stage; `None` for stages without one.
fn detector_of(stage: &StageConfig, detectors: &dyn Detectors) -> Option<Result<Box<dyn Detector>, String>> {
    match stage {
        StageConfig::Faces(config) => Some(detectors.faces(config)),
        StageConfig::Persons(config) => Some(detectors.persons(config)),
        _ => None,
    }
}

fn page(made: &SheetMade, options: SheetOptions<'_>, figures: &Markup) -> Markup {
    html! {
        p {
            (made.shown) " of " (made.photos) " photos that the stage " code { (options.stage) }
            @if options.dropped { " dropped" } @else { " kept" }
            ", those with the highest scores first."
        }
        @if let Some(reason) = &made.no_boxes {
            p { "No boxes are drawn: " (one_line(reason)) "." }
        }
        ol { (figures) }
    }
}

/// Makes the items of a sheet.
struct Maker<'a> {
    ledger: &'a Ledger,
    photos: &'a Photos,
    detector: Option<Box<dyn Detector>>,
}

impl Maker<'_> {
    /// A photo with its decision; a duplicate beside its nearest kin.
    fn item(&self, decided: &Decided) -> Result<Markup, Error> {
        let photo = self.ledger.photo(decided.photo)?.unwrap_or_default();
        let (picture, boxes) = self.picture(&photo);
        let said = in_words(decided, &boxes);
        let of_duplicates = decided
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("duplicate"));
        let other = match of_duplicates {
            true => self.ledger.duplicates_of(photo.id)?.into_iter().next(),
            false => None,
        };
        Ok(match other {
            None => figure(&photo, &said, picture),
            Some((other, duplicate)) => self.pair(&photo, picture, &said, other, &duplicate)?,
        })
    }

    fn pair(
        &self,
        photo: &Photo,
        picture: Option<Vec<u8>>,
        said: &str,
        other: i64,
        duplicate: &DuplicateOf,
    ) -> Result<Markup, Error> {
        let original = self.ledger.photo(other)?.unwrap_or_default();
        let file = self.photos.read(&original).ok();
        let original = file.and_then(|file| small_jpeg(&file, PICTURE_PX).ok());
        let image = |jpeg: Option<Vec<u8>>, key: &str| {
            html! {
                @if let Some(jpeg) = jpeg {
                    img loading="lazy" alt={ "photo " (key) } src=(data_uri(&jpeg));
                } @else {
                    p { "This file cannot be shown." }
                }
            }
        };
        Ok(html! {
            li {
                figure {
                    div.pair {
                        (image(picture, &photo.key))
                        (image(original, &duplicate.key))
                    }
                    figcaption {
                        strong { (said) } " "
                        code { (photo.key) }
                        " beside "
                        code { (duplicate.key) }
                        " (" (duplicate.kind) ", " (duplicate.distance) " bits)"
                    }
                }
            }
        })
    }

    /// A small picture with the boxes of the detector, and their scores, highest first.
    fn picture(&self, photo: &Photo) -> (Option<Vec<u8>>, Vec<f32>) {
        let Ok(file) = self.photos.read(photo) else {
            return (None, Vec::new());
        };
        let drawn = data::decode_and(&file, &DecodeLimits::DEFAULT, |image| {
            let found = self.boxes(&image);
            let mut small = thumbnail(&image, PICTURE_PX);
            let ratio = small.width as f32 / image.width.max(1) as f32;
            for found in &found {
                let [left, top, right, bottom] = found.edges_px.map(|edge| edge * ratio);
                // Two pixels wide.
                for wider in [0.0, 1.0] {
                    let edges = [left - wider, top - wider, right + wider, bottom + wider];
                    rectangle(&mut small, edges, BOX);
                }
            }
            let scores = found.iter().map(|found| found.score).collect();
            (to_jpeg(&small, 85), scores)
        });
        match drawn {
            Ok((jpeg, scores)) => ((!jpeg.is_empty()).then_some(jpeg), scores),
            Err(_) => (None, Vec::new()),
        }
    }

    fn boxes(&self, image: &RgbImage) -> Vec<DetectedBox> {
        let found = self
            .detector
            .as_ref()
            .map(|detector| detector.boxes(std::slice::from_ref(image)));
        let mut found = match found {
            Some(Ok(mut found)) => found.pop().unwrap_or_default(),
            // The decision stands in the ledger; a box is only an aid.
            Some(Err(_)) | None => Vec::new(),
        };
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        // Candidates of low scores would cover the picture.
        let highest = found.first().map_or(0.0, |found| found.score);
        found.retain(|found| found.score >= highest.min(LEAST));
        found.truncate(BOXES);
        found
    }
}

/// The color of boxes.
const BOX: [u8; 3] = [255, 40, 40];
/// Boxes of lower scores are drawn only where a photo has none with this score.
const LEAST: f32 = 0.3;
/// Boxes on a picture, at most.
const BOXES: usize = 20;

/// `face 0.934, boxes 0.93 and 0.41`: the decision of a stage.
fn in_words(decided: &Decided, boxes: &[f32]) -> String {
    let mut said: Vec<String> = decided.reason.iter().cloned().collect();
    said.extend(decided.score.map(|score| data::significant(score, 3)));
    if let Some(detail) = &decided.detail {
        said.push(one_line(detail));
    }
    if boxes.len() > 1 {
        let scores: Vec<String> = boxes.iter().map(|score| format!("{score:.2}")).collect();
        said.push(format!("boxes {}", scores.join(" ")));
    }
    said.join(" · ")
}
