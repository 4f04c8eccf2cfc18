//! The network compared with PyTorch's by formula, its file, batches and configs.

use super::*;
use crate::boxes::iou;
use crate::parity::Formula;
use std::io::Cursor;

fn detector(config: RetinaFaceConfig) -> RetinaFace {
    let file = Formula::read().file(|name| Some(name.to_owned()));
    RetinaFace::read(&mut Cursor::new(file), config, &Device::flex()).unwrap()
}

/// Every prior is reported, none is suppressed.
fn all() -> RetinaFaceConfig {
    RetinaFaceConfig {
        candidate_score: 0.0,
        nms_iou: 1.0,
        ..RetinaFaceConfig::pass()
    }
}

fn photo(pixels: &[u8]) -> Photo<'_> {
    Photo {
        width: 50,
        height: 37,
        pixels,
    }
}

/// ‖ours − reference‖ / ‖reference‖ of each head's output; the test splits the network's output by hand.
#[test]
fn the_network_is_that_of_pytorch() {
    let (formula, detector) = (Formula::read(), detector(all()));
    let pixels = Formula::pixels();
    let mut planes = Vec::new();
    for (channel, mean) in [(2, 104.0), (1, 117.0), (0, 123.0)] {
        planes.extend(
            pixels
                .iter()
                .skip(channel)
                .step_by(3)
                .map(|value| f32::from(*value) - mean),
        );
    }
    let input = Tensor::from_data(TensorData::new(planes, [1, 3, 37, 50]), &detector.device);
    let output = detector.network.forward(input);
    // 5 x 7 positions of stride 8, 3 x 4 of stride 16, 2 x 2 of stride 32.
    let places = 35 + 12 + 4;
    assert_eq!(output.dims(), [1, 32, places]);
    let output = output.into_data().iter::<f32>().collect::<Vec<_>>();
    let (mut scores, mut boxes, mut points) = (vec![], vec![], vec![]);
    for place in 0..places {
        let at = |row: usize| output[row * places + place];
        for prior in 0..2 {
            let odds = (at(2 * prior) - at(2 * prior + 1)).exp();
            scores.push(1.0 / (1.0 + odds));
            boxes.extend((0..4).map(|number| at(4 + 4 * prior + number)));
            points.extend((0..10).map(|number| at(12 + 10 * prior + number)));
        }
    }
    for (what, ours, theirs) in [
        ("scores", scores, formula.scores),
        ("boxes", boxes, formula.boxes),
        ("points", points, formula.points),
    ] {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let apart = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b));
        let error = apart / norm(&mut theirs.iter().copied());
        // PyTorch's own error in float32 is up to 7e-7.
        assert!(error < 2e-6, "{what}: {error:e}");
    }
}

#[test]
fn what_is_told_is_what_the_network_says() {
    let (formula, pixels) = (Formula::read(), Formula::pixels());
    let found = detector(all()).detect(&[photo(&pixels)]).unwrap().remove(0);
    assert_eq!(found.len(), formula.scores.len());
    let best = formula
        .scores
        .iter()
        .copied()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let (best, score) = best.unwrap();
    assert!((found[0].score - score).abs() < 1e-6);
    let prior = prior_boxes(50, 37, &LEVELS)[best];
    let offsets = formula.boxes[4 * best..4 * best + 4].try_into().unwrap();
    let wanted = decode_box(&prior, offsets, [0.1, 0.2]).scaled(50.0, 37.0);
    assert!(iou(&wanted, &found[0].bounds, Edges::Continuous) > 0.9999);
    let nose = formula.points[10 * best + 4] * 0.1 * prior.size[0] + prior.center[0];
    assert!((found[0].landmarks[2][0] - 50.0 * nose).abs() < 1e-3);
    assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));

    let sure = RetinaFaceConfig {
        candidate_score: score - 0.01,
        ..RetinaFaceConfig::pass()
    };
    let found = detector(sure).detect(&[photo(&pixels)]).unwrap().remove(0);
    assert!(!found.is_empty() && found.iter().all(|found| found.score > score - 0.01));
}

#[test]
fn neighbors_change_nothing() {
    let pixels = Formula::pixels();
    let flipped = pixels.iter().rev().copied().collect::<Vec<_>>();
    let other = Photo {
        width: 37,
        height: 50,
        pixels: &flipped,
    };
    let alone = |config: RetinaFaceConfig, photo| detector(config).detect(&[photo]).unwrap().remove(0);
    let photos = [
        photo(&pixels),
        other,
        photo(&flipped),
        photo(&pixels),
        photo(&pixels),
    ];
    for (batch_images, side_by_side) in [(1, false), (2, true), (8, true)] {
        let config = RetinaFaceConfig {
            batch_images,
            side_by_side,
            ..all()
        };
        let found = detector(config).detect(&photos).unwrap();
        for (photo, found) in photos.into_iter().zip(found) {
            assert_eq!(found, alone(all(), photo));
        }
    }
    assert_eq!(detector(all()).detect(&[]).unwrap(), Vec::<Vec<Detection>>::new());
}

#[test]
fn photos_are_seen_at_the_size_that_is_asked_for() {
    let sides = |shorter_px, longer_px| RetinaFaceConfig {
        scale: Scale::Sides {
            shorter_px,
            longer_px,
        },
        ..RetinaFaceConfig::pass()
    };
    let size = |config: RetinaFaceConfig, width, height| {
        let pixels = vec![0; 3 * (width * height) as usize];
        detector(config).size(&Photo {
            width,
            height,
            pixels: &pixels,
        })
    };
    assert_eq!(size(RetinaFaceConfig::pass(), 50, 37), (50, 37));
    assert_eq!(size(sides(1600, 2150), 500, 400), (2000, 1600));
    // The longer side limits the size.
    assert_eq!(size(sides(1600, 2150), 500, 100), (2150, 430));
    // Boxes are in the original photo's pixels: half of those in the enlarged one.
    let pixels = Formula::pixels();
    let config = RetinaFaceConfig {
        scale: sides(74, 200).scale,
        ..all()
    };
    let found = detector(config).detect(&[photo(&pixels)]).unwrap().remove(0);
    let enlarged = resize(&photo(&pixels), 100, 74);
    let enlarged = Photo {
        width: 100,
        height: 74,
        pixels: &enlarged,
    };
    let double = detector(all()).detect(&[enlarged]).unwrap().remove(0);
    assert_eq!(found.len(), double.len());
    for (found, double) in found.iter().zip(&double) {
        assert_eq!(found.score, double.score);
        let half = double.bounds.scaled(0.5, 0.5);
        assert!(iou(&found.bounds, &half, Edges::Continuous) > 0.9999);
        assert!((found.landmarks[4][1] - double.landmarks[4][1] / 2.0).abs() < 1e-3);
    }
}

#[test]
fn weights_must_match_key_by_key() {
    let read = |rename: &dyn Fn(&str) -> Option<String>| {
        let file = Formula::read().file(rename);
        RetinaFace::read(&mut Cursor::new(file), RetinaFaceConfig::pass(), &Device::flex())
    };
    // The names of `nn.DataParallel`.
    assert!(read(&|name| Some(format!("module.{name}"))).is_ok());
    let message = read(&|name| match name {
        "fpn.merge1.1.running_var" => None,
        "ssh2.conv3X3.0.weight" => Some("ssh2.conv3x3.0.weight".to_owned()),
        name => Some(name.to_owned()),
    });
    assert_eq!(
        message.unwrap_err().to_string(),
        "the weights are not those of RetinaFace with MobileNet x0.25: 2 missing: fpn.merge1.1.running_var, \
         ssh2.conv3X3.0.weight; 1 unexpected: ssh2.conv3x3.0.weight"
    );
    // Two tensors swapped.
    let message = read(&|name| {
        Some(match name {
            "body.stage1.0.0.weight" => "body.stage1.1.0.weight".to_owned(),
            "body.stage1.1.0.weight" => "body.stage1.0.0.weight".to_owned(),
            name => name.to_owned(),
        })
    });
    let message = message.unwrap_err().to_string();
    assert!(
        message.ends_with(
            "2 of another shape: body.stage1.0.0.weight (expected [8, 3, 3, 3], got [8, 1, 3, 3]), \
             body.stage1.1.0.weight (expected [8, 1, 3, 3], got [8, 3, 3, 3])"
        ),
        "{message}"
    );
    let nothing = RetinaFace::read(
        &mut Cursor::new(b"nothing"),
        RetinaFaceConfig::pass(),
        &Device::flex(),
    );
    assert!(matches!(nothing, Err(DetectionError::Checkpoint(_))));
}

#[test]
fn bad_numbers_are_named() {
    let said = |change: fn(&mut RetinaFaceConfig)| {
        let mut config = RetinaFaceConfig::pass();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert_eq!(
        said(|config| config.candidate_score = 1.5),
        "`candidate_score` must be from 0 to 1, got 1.5"
    );
    assert_eq!(
        said(|config| config.nms_iou = f32::NAN),
        "`nms_iou` must be from 0 to 1, got NaN"
    );
    assert_eq!(
        said(|config| config.batch_images = 0),
        "`batch_images` must be at least 1, got 0"
    );
    let no_side = |config: &mut RetinaFaceConfig| {
        config.scale = Scale::Sides {
            shorter_px: 0,
            longer_px: 9,
        }
    };
    assert_eq!(
        said(no_side),
        "`scale.sides.shorter_px` must be at least 1, got 0"
    );
    assert!(RetinaFaceConfig::pass().validate().is_ok());
}
