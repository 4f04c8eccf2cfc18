//! Time of COCO's metrics on the set of `scripts/parity/detection_metrics.py speed FOLDER`: the Rust half.
//!
//! Usage: `metrics_speed FOLDER/speed.json [RESAMPLES]`; prints seconds and AP, AP50, AP75.

#![expect(clippy::print_stdout, reason = "a program whose output is its numbers")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

use data::targets::{BoundingBox, ImageTargets, Object};
use detection::metrics::{ImageResults, Kind, Matches, Scored, VocYear, voc};
use serde::Deserialize;

#[derive(Deserialize)]
struct Set {
    classes: usize,
    images: Vec<(u64, u32, u32)>,
    truth: Vec<Truth>,
    results: Vec<Line>,
}

/// Image, class, four edges, area, crowd, difficult, no mask.
#[derive(Deserialize)]
struct Truth(u64, u32, f32, f32, f32, f32, f64, bool, bool, ());

/// Image, class, score, four edges, no mask.
#[derive(Deserialize)]
struct Line(u64, u32, f32, f32, f32, f32, f32, ());

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("the set's path is missing")?;
    let resamples: usize = arguments.next().map_or(Ok(0), |count| count.parse())?;
    let set: Set = serde_json::from_reader(BufReader::new(File::open(path)?))?;
    let mut images: BTreeMap<u64, (ImageTargets, ImageResults)> = BTreeMap::new();
    for (image_id, width, height) in set.images {
        let truth = ImageTargets {
            image_id,
            width,
            height,
            objects: vec![],
        };
        images.insert(
            image_id,
            (
                truth,
                ImageResults {
                    image_id,
                    found: vec![],
                },
            ),
        );
    }
    for (at, line) in set.truth.iter().enumerate() {
        let (truth, _) = images.get_mut(&line.0).ok_or("an image is unknown")?;
        truth.objects.push(Object {
            id: at as u64 + 1,
            class: line.1,
            bounding_box: BoundingBox {
                left: line.2,
                top: line.3,
                right: line.4,
                bottom: line.5,
            },
            segmentation: None,
            area: line.6,
            is_crowd: line.7,
            is_difficult: line.8,
        });
    }
    for line in &set.results {
        let (_, results) = images.get_mut(&line.0).ok_or("an image is unknown")?;
        results.found.push(Scored {
            class: line.1,
            score: line.2,
            edges: [line.3, line.4, line.5, line.6],
            mask: None,
        });
    }
    let (truth, results): (Vec<_>, Vec<_>) = images.into_values().unzip();

    let begun = Instant::now();
    let matches = Matches::new(&truth, &results, set.classes, Kind::Boxes)?;
    let matched = begun.elapsed();
    let scores = matches.scores();
    println!(
        "matched in {matched:?}, scored in {:?} altogether",
        begun.elapsed()
    );
    let mean = scores.mean;
    println!("{:?} {:?} {:?}", mean.ap, mean.ap50, mean.ap75);
    let begun = Instant::now();
    let intervals = matches.bootstrap(resamples, 0);
    println!("{resamples} resamples in {:?}: {intervals:?}", begun.elapsed());
    let begun = Instant::now();
    let scores = voc(&truth, &results, set.classes, VocYear::Voc2007, false)?;
    println!("VOC in {:?}: {:?}", begun.elapsed(), scores.ap50);
    Ok(())
}
