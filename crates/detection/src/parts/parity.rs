//! The parts compared with torchvision in float64: the results of `scripts/parity/rcnn.py`.

use backbones::layers::{Roi, RoiAlign, roi_align, roi_align_plane};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::{
    AnchorConfig, AnchorOrder, AnchorStrides, BoxCoder, Match, MatcherConfig, Paste, PoolingConfig, paste,
};
use crate::wave::{number, wave};
use crate::{BoundingBox, Edges, nms};

#[derive(Deserialize)]
struct Fixture {
    anchor_count: usize,
    anchors: Vec<[f32; 4]>,
    truth: Vec<[f32; 4]>,
    candidates: Vec<[f32; 4]>,
    low_quality: Vec<i64>,
    plain: Vec<i64>,
    encoded: Vec<[f64; 4]>,
    deltas: Vec<[f32; 4]>,
    decoded: Vec<[f64; 4]>,
    nms_boxes: Vec<[f32; 4]>,
    kept: Vec<usize>,
    level_boxes: Vec<[f32; 4]>,
    levels: Vec<usize>,
    paste_boxes: Vec<[f32; 4]>,
    grown: Vec<f64>,
    centers: Vec<f64>,
    targets: Vec<f64>,
    thresholded: Vec<u8>,
    roi_align: Pooled,
}

#[derive(Deserialize)]
struct Pooled {
    shape: [usize; 4],
    scale: f64,
    rois: Vec<[f32; 5]>,
    modes: Vec<Mode>,
}

#[derive(Deserialize)]
struct Mode {
    aligned: bool,
    ratio: usize,
    output: usize,
    values: Vec<f64>,
    norm: f64,
    gradient: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../fixtures/rcnn_parts.json")).unwrap()
}

/// The script's `u`: uniform-looking numbers in [-1, 1) of a name.
pub(crate) fn u(path: &str, count: usize) -> Vec<f64> {
    wave(number(path), count)
}

fn rounded(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

fn boxes(edges: &[[f32; 4]]) -> Vec<BoundingBox> {
    edges
        .iter()
        .map(|edges| BoundingBox::from_edges(*edges))
        .collect()
}

/// The largest difference, relative where the reference is above 1.
fn apart<'a>(ours: impl IntoIterator<Item = &'a f32>, reference: impl IntoIterator<Item = &'a f64>) -> f64 {
    let (mut reference, mut worst) = (reference.into_iter(), 0.0f64);
    for ours in ours {
        let reference = reference.next().expect("as many values as the reference has");
        worst = worst.max((f64::from(*ours) - reference).abs() / reference.abs().max(1.0));
    }
    assert!(reference.next().is_none(), "the reference has more values");
    worst
}

fn every(values: &[f32], step: usize) -> Vec<f32> {
    values.iter().copied().step_by(step).collect()
}

#[test]
fn anchors_are_torchvisions() {
    let fixture = fixture();
    let config = AnchorConfig {
        sizes_px: [32.0, 64.0, 128.0, 256.0, 512.0].map(|size| vec![size]).to_vec(),
        ratios: vec![0.5, 1.0, 2.0],
        rounded: true,
        order: AnchorOrder::RatioOuter,
        strides: AnchorStrides::FromMap,
    };
    let maps = [[38, 50], [19, 25], [10, 13], [5, 7], [3, 4]];
    let levels = maps.into_iter().enumerate();
    let all: Vec<_> = levels
        .flat_map(|(level, map)| config.of_level(level, map, [160, 224], 0))
        .collect();
    assert_eq!(all.len(), fixture.anchor_count);
    let ours: Vec<[f32; 4]> = all.iter().step_by(97).map(BoundingBox::edges).collect();
    assert_eq!(ours, fixture.anchors);
}

#[test]
fn matches_are_torchvisions() {
    let fixture = fixture();
    let (truth, candidates) = (boxes(&fixture.truth), boxes(&fixture.candidates));
    let matches = |config: MatcherConfig| {
        let matches = config.match_boxes(&truth, &candidates).into_iter();
        let numbers = matches.map(|matched| match matched {
            Match::Truth(index) => index as i64,
            Match::Background => -1,
            Match::Ignored => -2,
        });
        numbers.collect::<Vec<_>>()
    };
    let anchors = MatcherConfig {
        background_below: 0.3,
        foreground_from: 0.7,
        low_quality: true,
    };
    assert_eq!(matches(anchors), fixture.low_quality);
    let regions = MatcherConfig {
        background_below: 0.5,
        foreground_from: 0.5,
        low_quality: false,
    };
    assert_eq!(matches(regions), fixture.plain);
}

#[test]
fn deltas_and_boxes_are_torchvisions() {
    let fixture = fixture();
    let coder = BoxCoder {
        weights: [10.0, 10.0, 5.0, 5.0],
    };
    let (truth, candidates) = (boxes(&fixture.truth), boxes(&fixture.candidates));
    let pairs = truth.iter().zip(&candidates);
    let encoded: Vec<f32> = pairs
        .flat_map(|(truth, candidate)| coder.encode(candidate, truth))
        .collect();
    let error = apart(&encoded, fixture.encoded.as_flattened());
    assert!(error < 1e-5, "{error:e}");
    let pairs = fixture.deltas.iter().zip(&candidates);
    let decoded: Vec<f32> = pairs
        .flat_map(|(deltas, candidate)| coder.decode(candidate, *deltas).edges())
        .collect();
    let error = apart(&decoded, fixture.decoded.as_flattened());
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn suppression_keeps_what_torchvision_keeps() {
    let fixture = fixture();
    let scores = rounded(u("scores", fixture.nms_boxes.len()));
    let kept = nms(&boxes(&fixture.nms_boxes), &scores, 0.45, Edges::Continuous);
    assert_eq!(kept, fixture.kept);
}

#[test]
fn levels_are_torchvisions() {
    let fixture = fixture();
    let config = PoolingConfig {
        sampling_ratio: 2,
        aligned: false,
        canonical_size_px: 224.0,
        canonical_level: 4,
        level_epsilon: 1e-6,
        ratio_epsilon: 0.0,
    };
    let level = |edges: &[f32; 4]| {
        let roi = Roi {
            image: 0,
            edges: *edges,
        };
        config.level(&roi, &[4, 8, 16, 32])
    };
    assert_eq!(
        fixture.level_boxes.iter().map(level).collect::<Vec<_>>(),
        fixture.levels
    );
}

#[test]
fn masks_are_enlarged_as_by_both_references() {
    let fixture = fixture();
    let masks: Vec<f32> = u("masks", 8 * 49)
        .into_iter()
        .map(|value| (value as f32 + 1.0) / 2.0)
        .collect();
    let pasted = |how| {
        let each = masks.chunks_exact(49).zip(&fixture.paste_boxes);
        let all =
            each.flat_map(|(mask, edges)| paste(mask, 7, &BoundingBox::from_edges(*edges), [48, 56], how));
        every(&all.collect::<Vec<_>>(), 37)
    };
    let error = apart(&pasted(Paste::GrownBox), &fixture.grown);
    assert!(error < 1e-5, "{error:e}");
    let error = apart(&pasted(Paste::PixelCenters), &fixture.centers);
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn targets_of_masks_are_those_of_both_references() {
    let fixture = fixture();
    let inside =
        |y: i32, x: i32| f64::from((x - 30).pow(2)) / 400.0 + f64::from((y - 20).pow(2)) / 200.0 < 1.0;
    let mask: Vec<u8> = (0..50)
        .flat_map(|y| (0..60).map(move |x| u8::from(inside(y, x))))
        .collect();
    let pooled = |aligned| {
        let settings = RoiAlign {
            scale: 1.0,
            output: 14,
            sampling_ratio: 0,
            aligned,
        };
        let each = fixture.paste_boxes.iter();
        let all = each.flat_map(|edges| roi_align_plane(&mask, [50, 60], *edges, &settings));
        every(&all.collect::<Vec<_>>(), 3)
    };
    let error = apart(&pooled(false), &fixture.targets);
    assert!(error < 1e-5, "{error:e}");
    let thresholded: Vec<u8> = pooled(true).iter().map(|value| u8::from(*value >= 0.5)).collect();
    assert_eq!(thresholded, fixture.thresholded);
}

#[test]
fn pooling_and_its_gradient_are_torchvisions() {
    let Pooled {
        shape,
        scale,
        rois,
        modes,
    } = fixture().roi_align;
    let rois: Vec<Roi> = rois
        .iter()
        .map(|[image, left, top, right, bottom]| Roi {
            image: *image as usize,
            edges: [*left, *top, *right, *bottom],
        })
        .collect();
    let device = Device::flex().autodiff();
    let values = |tensor: Tensor<4>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
    for mode in modes {
        let settings = RoiAlign {
            scale,
            output: mode.output,
            sampling_ratio: mode.ratio,
            aligned: mode.aligned,
        };
        let host =
            |name: &str, shape: [usize; 4]| TensorData::new(rounded(u(name, shape.iter().product())), shape);
        let x = Tensor::<4>::from_data(host("roi_align.x", shape), &device).require_grad();
        let pooled = roi_align(x.clone(), &rois, &settings);
        let factor = Tensor::<4>::from_data(host("roi_align.gradient", pooled.dims()), &device);
        let gradients = (pooled.clone() * factor).sum().backward();
        let (pooled, gradient) = (values(pooled.inner()), values(x.grad(&gradients).unwrap()));
        let norm = pooled
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt();
        let what = format!("aligned {} ratio {}", mode.aligned, mode.ratio);
        assert!(
            (norm / mode.norm - 1.0).abs() < 1e-6,
            "{what}: {norm} {}",
            mode.norm
        );
        let error = apart(&every(&pooled, 5), &mode.values).max(apart(&every(&gradient, 3), &mode.gradient));
        assert!(error < 1e-5, "{what}: {error:e}");
    }
}
