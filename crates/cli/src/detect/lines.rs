//! Photos in, one JSON object for each out, and the sheet of those with detections.

use super::sheet::Sheet;
use crate::detectors::photo;
use crate::failure::{Failure, make_folder_of};
use crate::output::counted;
use crate::progress::ProgressBar;
use anyhow::Context;
use data::{Dataset, DecodeLimits, RgbImage};
use detection::{Detection, Detector, Photo, top_score};
use rayon::prelude::*;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

/// Photos decoded and passed to the detector together; fewer where they are large.
const CHUNK: usize = 64;

/// Their pixels in total, three bytes each; one photo may have more.
const CHUNK_PIXELS: u64 = 1 << 26;

/// The photos of a data set as files, in chunks that can be decoded together.
struct Parts<'a> {
    dataset: &'a Dataset,
    most: usize,
    most_pixels: u64,
    /// The next photo to read.
    at: usize,
    /// A photo that was read and did not fit into the last chunk.
    left: Option<(Vec<u8>, u64)>,
}

impl Parts<'_> {
    /// The files of the next chunk; empty at the end.
    fn next(&mut self) -> Result<Vec<Vec<u8>>, data::Error> {
        let (mut files, mut pixels) = (Vec::new(), Vec::new());
        while files.len() < self.most {
            let (file, more) = match self.left.take() {
                Some(left) => left,
                None if self.at == self.dataset.len() => break,
                None => {
                    let mut file = Vec::new();
                    self.dataset.read_image(self.at, &mut file)?;
                    self.at += 1;
                    let pixels = data::header_pixels(&file);
                    (file, pixels)
                }
            };
            pixels.push(more);
            if data::decoded_together(pixels.iter().copied(), self.most_pixels) < pixels.len() {
                self.left = Some((file, more));
                break;
            }
            files.push(file);
        }
        Ok(files)
    }
}

/// What to look for, where, and what to write.
pub(super) struct Job<'a> {
    pub(super) detector: &'a dyn Detector,
    /// In the plural: `faces`.
    pub(super) what: &'a str,
    /// Photos with a detection of more than this count, and are drawn.
    pub(super) score: f32,
    pub(super) data: &'a str,
    pub(super) out: &'a Path,
    /// The picture, and its most photos.
    pub(super) sheet: Option<(&'a Path, usize)>,
    /// Names of the classes, which are written with each detection if they are given.
    pub(super) names: Option<&'a [Option<String>]>,
}

pub(super) fn write(job: &Job<'_>) -> anyhow::Result<()> {
    let (what, score) = (job.what, job.score);
    let dataset = Dataset::open(job.data)?;
    make_folder_of(job.out)?;
    let file =
        File::create(job.out).with_context(|| format!("cannot write the file `{}`", job.out.display()))?;
    let mut lines = BufWriter::new(file);
    let mut sheet = job.sheet.map(|(_, photos)| Sheet::new(photos, job.names));
    let mut progress = ProgressBar::new(&format!("looking for {what}"), 0, dataset.len() as u64);
    let (started, mut with, mut broken) = (Instant::now(), 0, 0);
    let mut parts = Parts {
        dataset: &dataset,
        most: CHUNK,
        most_pixels: CHUNK_PIXELS,
        at: 0,
        left: None,
    };
    let mut first = 0;
    loop {
        let files = parts.next()?;
        if files.is_empty() {
            break;
        }
        let decoded = files
            .into_par_iter()
            .enumerate()
            .map(|(at, file)| decode(&dataset, first + at, &file))
            .collect::<Result<Vec<_>, _>>()?;
        let photos = decoded.iter().filter_map(|(_, image)| image.as_ref().ok());
        let photos = photos.map(photo).collect::<Vec<_>>();
        let mut found = detections(job.detector, &photos)?.into_iter();
        for (key, image) in &decoded {
            let detected = match image {
                Ok(image) => found
                    .next()
                    .unwrap_or_else(|| Ok(Vec::new()))
                    .map(|detections| (image, detections)),
                Err(reason) => Err(reason.clone()),
            };
            let line = match detected {
                Ok((image, detections)) => {
                    let top = top_score(&detections);
                    if top > score {
                        with += 1;
                        if let Some(sheet) = &mut sheet {
                            sheet.add(top, image, &detections, score);
                        }
                    }
                    let detections = detections.par_iter().map(|one| as_json(one, image, job.names));
                    let detections = detections.collect::<Vec<_>>();
                    json!({"key": key, "width": image.width, "height": image.height, "detections": detections})
                }
                Err(reason) => {
                    broken += 1;
                    json!({"key": key, "error": reason})
                }
            };
            writeln!(lines, "{line}").context("cannot write the detections")?;
        }
        first += decoded.len();
        progress.at(first as u64);
    }
    lines.flush().context("cannot write the detections")?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    let seen = dataset.len() - broken;
    let rate = match seen {
        0 => String::new(),
        seen => format!(
            "; {} photos a second",
            data::significant(seen as f64 / seconds, 3)
        ),
    };
    eprintln!(
        "{with} of {} show {what} with a score above {score}{rate}",
        counted(seen, "photo")
    );
    if broken > 0 {
        eprintln!(
            "warning: {} more could not be looked at; their lines say why",
            counted(broken, "photo")
        );
    }
    if let Some((path, sheet)) = job.sheet.map(|(path, _)| path).zip(sheet) {
        match sheet.drawn() {
            Some(picture) => {
                make_folder_of(path)?;
                data::contact_sheet::write_png(&picture, path)?;
                eprintln!("{}", path.display());
            }
            None => eprintln!("nothing to draw: no sheet was written"),
        }
    }
    println!("{}", job.out.display());
    Ok(())
}

/// The detections in each photo. A photo on which the detector panics has the reason instead; a detector that
/// panics on a plain picture too has failed, as with a lost device, and that is an error.
fn detections(
    detector: &dyn Detector,
    photos: &[Photo<'_>],
) -> anyhow::Result<Vec<Result<Vec<Detection>, String>>> {
    if let Ok(found) = data::caught(|| detector.detect(photos)) {
        return Ok(found?.into_iter().map(Ok).collect());
    }
    let plain = vec![128; 64 * 64 * 3];
    let plain = Photo {
        width: 64,
        height: 64,
        pixels: &plain,
    };
    let mut all = Vec::with_capacity(photos.len());
    for photo in photos {
        match data::caught(|| detector.detect(&[*photo])) {
            Ok(found) => all.push(Ok(found?.pop().unwrap_or_default())),
            Err(message) => {
                data::caught(|| detector.detect(&[plain]))
                    .map_err(|again| Failure::new(format!("the detector panicked: {again}")))??;
                all.push(Err(data::DecodeError::Panicked { message }.to_string()));
            }
        }
    }
    Ok(all)
}

/// A photo's key and its pixels, or the reason why it has none.
fn decode(
    dataset: &Dataset,
    position: usize,
    file: &[u8],
) -> Result<(String, Result<RgbImage, String>), data::Error> {
    let image = data::decode(file, &DecodeLimits::DEFAULT).map_err(|reason| reason.to_string());
    Ok((dataset.key(position)?, image))
}

/// A detection as a line has it. With `names`, its name too; and its mask, if there is one, as COCO's compressed run
/// lengths in the photo.
fn as_json(detection: &Detection, photo: &RgbImage, names: Option<&[Option<String>]>) -> serde_json::Value {
    // A hundredth of a pixel, and a score in the precision of f32.
    let px = |value: f32| (f64::from(value) * 100.0).round() / 100.0;
    let mut line = json!({
        "box": detection.bounds.edges().map(px),
        "class": detection.class,
        "score": (f64::from(detection.score) * 1e6).round() / 1e6,
    });
    match names {
        Some(names) => line["name"] = json!(names.get(detection.class)),
        None => {
            let landmarks = detection.landmarks.iter().map(|point| point.map(px));
            line["landmarks"] = json!(landmarks.collect::<Vec<_>>());
        }
    }
    if let Some(mask) = detection.segmentation(&detection.bounds, photo.width, photo.height) {
        line["segmentation"] = json!({
            "size": [photo.height, photo.width],
            "counts": mask.to_compressed(),
        });
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use detection::BoundingBox;

    /// Panics on photos of one size, or on all of them.
    struct Panicking(Option<u32>);

    impl Detector for Panicking {
        fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, detection::DetectionError> {
            let bad = |photo: &Photo<'_>| self.0.is_none_or(|width| photo.width == width);
            assert!(!photos.iter().any(bad), "a defect");
            Ok(photos.iter().map(|_| Vec::new()).collect())
        }
    }

    #[test]
    fn a_photo_that_makes_the_detector_panic_has_its_reason_and_a_lost_detector_is_an_error() {
        let pixels = vec![0; 300];
        let photos = [10, 5, 20].map(|width| Photo {
            width,
            height: 100 / width,
            pixels: &pixels[..(width * (100 / width) * 3) as usize],
        });
        let all = detections(&Panicking(Some(7)), &photos).unwrap();
        assert!(all.iter().all(|found| found.is_ok()));
        let all = detections(&Panicking(Some(5)), &photos).unwrap();
        let reasons: Vec<Option<&String>> = all.iter().map(|found| found.as_ref().err()).collect();
        assert_eq!(
            reasons,
            [
                None,
                Some(&"the program panicked on it: a defect".to_string()),
                None
            ]
        );
        let error = detections(&Panicking(None), &photos).unwrap_err();
        assert_eq!(error.to_string(), "the detector panicked: a defect");
    }

    #[test]
    fn large_photos_are_decoded_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        for (at, side) in [10, 10, 30, 20, 20, 90, 10, 10, 10, 10].into_iter().enumerate() {
            let path = folder.path().join(format!("{at}.png"));
            image::RgbImage::new(side, 10).save(path).unwrap();
        }
        std::fs::write(folder.path().join("broken.png"), "none").unwrap();
        let dataset = Dataset::open(&folder.path().display().to_string()).unwrap();
        let mut parts = Parts {
            dataset: &dataset,
            most: 4,
            most_pixels: 500,
            at: 0,
            left: None,
        };
        let mut counts = Vec::new();
        let mut files = Vec::new();
        while let part @ [_, ..] = &parts.next().unwrap()[..] {
            counts.push(part.len());
            files.extend_from_slice(part);
        }
        // 100 + 100 + 300, 200 + 200, 900 alone, four, and one file that is not a picture.
        assert_eq!(counts, [3, 2, 1, 4, 1]);
        for (at, file) in files.iter().enumerate() {
            let mut expected = Vec::new();
            dataset.read_image(at, &mut expected).unwrap();
            assert!(*file == expected, "{at}");
        }
    }

    #[test]
    fn a_line_names_the_class_and_has_the_mask() {
        let photo = RgbImage {
            width: 4,
            height: 2,
            pixels: vec![0; 24],
        };
        let mut found = Detection {
            bounds: BoundingBox::from_edges([0.0, 0.0, 2.0, 2.0]),
            class: 1,
            score: 0.75,
            landmarks: vec![],
            mask: None,
        };
        let names = [None, Some("cat".to_owned())];
        assert_eq!(
            as_json(&found, &photo, None).to_string(),
            r#"{"box":[0.0,0.0,2.0,2.0],"class":1,"landmarks":[],"score":0.75}"#
        );
        found.mask = Some(detection::InstanceMask {
            probabilities: vec![1.0; 4],
            side: 2,
            paste: detection::parts::Paste::PixelCenters,
        });
        // Four pixels inside, then four outside: the runs 0, 4, 4.
        assert_eq!(
            as_json(&found, &photo, Some(&names)).to_string(),
            r#"{"box":[0.0,0.0,2.0,2.0],"class":1,"name":"cat","score":0.75,"segmentation":{"counts":"044","size":[2,4]}}"#
        );
        found.class = 0;
        assert_eq!(
            as_json(&found, &photo, Some(&names))["name"],
            serde_json::Value::Null
        );
    }
}
