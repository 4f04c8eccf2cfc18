//! Whole detectors compared with torchvision in float64: the results of `scripts/parity/rcnn.py`, and a cascade with an
//! implementation of our own, `scripts/parity/cascade.py`. Weights and images come from the same formula on both sides.

#[path = "../../../../scripts/parity/gradients.rs"]
mod gradients;

use std::collections::BTreeMap;

use backbones::{Context, Draws, Init, ResNetConfig, RunPosition, Stem, VitConfig};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde::Deserialize;

use super::{
    Neck, Norm, PyramidConfig, Rcnn, RcnnConfig, Target, TrueMask, Version, state_dict, torchvision_name,
};
use crate::BoundingBox;
use crate::parts::parity::u;
use crate::parts::{AnchorConfig, Choose};

const SIZES: [[usize; 2]; 2] = [[256, 320], [224, 288]];

#[derive(Deserialize)]
struct Fixture {
    losses: BTreeMap<String, f64>,
    training_proposals: Vec<usize>,
    gradients: BTreeMap<String, Vec<f64>>,
    float32_errors: BTreeMap<String, f64>,
    statistics: BTreeMap<String, Vec<f64>>,
    proposal_counts: Vec<usize>,
    /// Index and edges of some proposals of each image.
    proposals: Vec<Vec<[f64; 5]>>,
    /// Channel, score and edges.
    detections: Vec<Vec<[f64; 6]>>,
    masks: Vec<Vec<Vec<f64>>>,
}

/// The script's narrow networks.
fn config(version: Version) -> RcnnConfig {
    let first = version == Version::V1;
    let backbone = ResNetConfig {
        depth: if first { 50 } else { 18 },
        width: if first { 8 } else { 16 },
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    let mut config = RcnnConfig::torchvision(version, backbone, 3, true);
    narrow(&mut config);
    config.proposals.sampler.per_image = 64;
    config.boxes.sampler.per_image = 48;
    config.proposals.before_nms_training = 40;
    config.proposals.after_nms_training = 80;
    config.proposals.before_nms = 30;
    config.proposals.after_nms = 40;
    config
}

/// The pyramid and the heads on it as in the script.
fn narrow(config: &mut RcnnConfig) {
    config.neck = match config.neck {
        Neck::Pyramid(pyramid) => Neck::Pyramid(PyramidConfig {
            channels: 16,
            ..pyramid
        }),
        c4 @ Neck::C4(_) => c4,
    };
    config.boxes.width = 32;
    let masks = config.masks.as_mut().unwrap();
    masks.channels.fill(16);
    masks.width = 16;
}

/// The script's detector on the third stage.
fn c4() -> RcnnConfig {
    let numbers = config(Version::V2);
    let of_c4 = RcnnConfig::moco_c4(numbers.backbone.clone(), 3, true);
    let mut config = RcnnConfig {
        frozen_stages: 0,
        neck: of_c4.neck,
        anchors: AnchorConfig {
            sizes_px: of_c4.anchors.sizes_px,
            ..numbers.anchors
        },
        ..numbers
    };
    config.proposals.convolutions = 1;
    config.proposals.before_nms_training = 100;
    config.proposals.before_nms = 100;
    config.boxes.convolutions = 0;
    config.boxes.pooled = 14;
    let masks = config.masks.as_mut().unwrap();
    masks.channels = vec![];
    masks.norm = false;
    config
}

/// The script's vision transformer with the pyramid of its last map.
fn simple() -> RcnnConfig {
    let vit = VitConfig {
        width: 16,
        patch_px: 16,
        image_px: 64,
        ..VitConfig::tiny_for_tests()
    };
    let numbers = config(Version::V1);
    let neck = RcnnConfig::simple_pyramid(vit.clone(), 3, true).neck;
    let mut config = RcnnConfig {
        backbone: vit.into(),
        frozen_stages: 0,
        backbone_norm: Norm::Trained,
        neck,
        ..numbers
    };
    narrow(&mut config);
    config
}

/// The cascade of `scripts/parity/cascade.py`.
fn cascade() -> RcnnConfig {
    let backbone = ResNetConfig {
        stride_in_1x1: true,
        ..config(Version::V1).resnet().unwrap().clone()
    };
    let mut cascade = RcnnConfig::cascade(backbone, 3, true);
    narrow(&mut cascade);
    let numbers = config(Version::V1);
    cascade.proposals.sampler = numbers.proposals.sampler;
    cascade.boxes.sampler = numbers.boxes.sampler;
    cascade.proposals.before_nms_training = numbers.proposals.before_nms_training;
    cascade.proposals.after_nms_training = numbers.proposals.after_nms_training;
    cascade.proposals.before_nms = numbers.proposals.before_nms;
    cascade.proposals.after_nms = numbers.proposals.after_nms;
    cascade
}

/// The script's `value`.
pub(super) fn value(path: &str, shape: &[usize], last_norm: &str) -> Vec<f32> {
    let made = u(path, shape.iter().product());
    let of = |factor: f64, offset: f64| made.iter().map(|v| (offset + factor * v) as f32).collect();
    if shape.len() > 1 {
        let gains = [
            ("bbox_pred", 0.1),
            ("cls_score", 1.5),
            ("cls_logits", 0.5),
            ("inner_blocks", 0.1),
        ];
        let gain = gains
            .iter()
            .find(|(part, _)| path.contains(part))
            .map_or(1.0, |(_, gain)| *gain);
        let fan_in = if path.contains("conv5_mask") {
            shape[0]
        } else {
            shape[1..].iter().product()
        };
        return of(gain * (6.0 / fan_in as f64).sqrt(), 0.0);
    }
    if path.ends_with("running_var") {
        of(0.5, 1.0)
    } else if path.ends_with(last_norm) {
        of(0.03, 0.3)
    } else if path.ends_with("weight") {
        of(0.1, 1.0)
    } else {
        of(0.1, 0.0)
    }
}

struct Fill {
    path: Vec<String>,
    config: RcnnConfig,
}

impl ModuleMapper for Fill {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = torchvision_name(&self.path.join("."), &self.config);
        let shape = param.dims();
        let last_norm = if self.config.resnet().is_some_and(|resnet| resnet.depth == 50) {
            "bn3.weight"
        } else {
            "bn2.weight"
        };
        let data = TensorData::new(value(&name, &shape, last_norm), shape);
        let change = |old: Tensor<D>| Tensor::from_data(data, &old.device());
        backbones::change_value(param, change)
    }
}

/// Gradients by torchvision's names.
fn gradients_of(network: &Rcnn, gradients: &Gradients) -> BTreeMap<String, Vec<f64>> {
    let found = gradients::gradients_of(network, gradients).into_iter();
    found
        .map(|(path, values)| (torchvision_name(&path, network.config()), values))
        .collect()
}

fn network(config: &RcnnConfig, device: &Device) -> Rcnn {
    let fill = &mut Fill {
        path: vec![],
        config: config.clone(),
    };
    config.init(&Init::empty(device)).map(fill)
}

fn images(seed: usize, device: &Device) -> Tensor<4> {
    let [high, wide] = SIZES[0];
    let mut padded = vec![0.0f32; 2 * 3 * high * wide];
    for (index, [height, width]) in SIZES.into_iter().enumerate() {
        let values = u(&format!("image.{seed}.{index}"), 3 * height * width);
        for (row, values) in values.chunks_exact(width).enumerate() {
            let (channel, y) = (row / height, row % height);
            let at = ((index * 3 + channel) * high + y) * wide;
            let values = values.iter().map(|value| (2.0 * value) as f32);
            padded[at..at + width].copy_from_slice(&values.collect::<Vec<_>>());
        }
    }
    Tensor::from_data(TensorData::new(padded, [2, 3, high, wide]), device)
}

fn targets() -> Vec<Target> {
    let boxes: [&[[f32; 4]]; 2] = [
        &[
            [10.25, 20.5, 60.0, 90.75],
            [100.0, 30.25, 230.5, 200.0],
            [20.0, 10.0, 310.0, 250.0],
            [200.25, 100.0, 219.5, 140.0],
        ],
        &[[40.5, 40.0, 100.25, 180.0], [150.0, 16.25, 280.0, 130.5]],
    ];
    let target = |(index, (boxes, size)): (usize, (&[[f32; 4]], [usize; 2]))| {
        let mask = |[left, top, right, bottom]: &[f32; 4]| {
            let share = |pixel: usize, low: f32, high: f32| {
                let from_center = pixel as f64 + 0.5 - (f64::from(low) + f64::from(high)) / 2.0;
                (from_center / (f64::from(high) - f64::from(low))).powi(2)
            };
            let pixels = (0..size[0] * size[1]).map(|at| {
                let (y, x) = (at / size[1], at % size[1]);
                u8::from(share(x, *left, *right) + share(y, *top, *bottom) < 0.25)
            });
            TrueMask {
                size,
                pixels: pixels.collect(),
            }
        };
        Target {
            boxes: boxes
                .iter()
                .map(|edges| BoundingBox::from_edges(*edges))
                .collect(),
            classes: (0..boxes.len()).map(|i| (i + index) % 3).collect(),
            masks: boxes.iter().map(mask).collect(),
        }
    };
    boxes.into_iter().zip(SIZES).enumerate().map(target).collect()
}

/// Candidates at equal distances, the script's sampler.
struct Even;

impl Choose for Even {
    fn choose(&self, _: &str, _: usize, candidates: Vec<usize>, count: usize) -> Vec<usize> {
        (0..count)
            .map(|i| candidates[i * candidates.len() / count])
            .collect()
    }
}

fn training() -> Context {
    Context::training(RunPosition::at(0, 1, 1), Draws::new(0, 0))
}

/// The script's `stored`: the norm and some elements.
fn stored(values: &[f64]) -> Vec<f64> {
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let samples = (0..8).map(|i| values[i * values.len() / 8]);
    std::iter::once(norm).chain(samples).collect()
}

/// ‖ours − reference‖ / ‖reference‖.
fn error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = squares(&mut ours.iter().zip(reference).map(|(a, b)| a - b));
    difference / squares(&mut reference.iter().copied())
}

/// `bound`: of a tensor that PyTorch's float32 has to `float32`.
fn check(name: &str, fixture: &str, config: &RcnnConfig, seed: usize) {
    const BOUND: f64 = 1e-4;
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    assert_eq!(config.validate("network"), Ok(()));
    let targets = targets();
    for target in &targets {
        assert_eq!(target.check(config), Ok(()));
    }

    let device = Device::flex();
    let evaluated = network(config, &device);
    let proposals = evaluated.propose(images(seed, &device), &SIZES);
    let counts: Vec<usize> = proposals.iter().map(Vec::len).collect();
    assert_eq!(counts, fixture.proposal_counts, "{name}: proposals");
    for (ours, reference) in proposals.iter().zip(&fixture.proposals) {
        for [index, edges @ ..] in reference {
            let ours = ours[*index as usize].edges().map(f64::from);
            let error = error(&ours, edges);
            assert!(error < BOUND, "{name}: proposal {index}: {ours:?} {edges:?}");
        }
    }
    let found = evaluated.detect(images(seed, &device), &SIZES);
    let mut worst = 0.0f64;
    for ((ours, reference), masks) in found.iter().zip(&fixture.detections).zip(&fixture.masks) {
        assert_eq!(ours.len(), reference.len(), "{name}: detections");
        for ((ours, [channel, score, edges @ ..]), mask) in ours.iter().zip(reference).zip(masks) {
            assert_eq!(
                config.class_slots.slot(ours.class),
                *channel as usize,
                "{name}: class"
            );
            let of_mask: Vec<f64> = ours
                .mask
                .as_ref()
                .unwrap()
                .iter()
                .map(|v| f64::from(*v))
                .collect();
            let errors = [
                (f64::from(ours.score) - score).abs(),
                error(&ours.bounds.edges().map(f64::from), edges),
                error(&stored(&of_mask), mask),
            ];
            worst = errors.into_iter().fold(worst, f64::max);
        }
    }
    eprintln!(
        "{name}: {} detections at worst {worst:.1e}",
        found.iter().map(Vec::len).sum::<usize>()
    );
    assert!(worst < BOUND, "{name}: detections {worst:e}");

    let device = device.autodiff();
    let trained = network(config, &device);
    let losses = trained.losses(images(seed, &device), &SIZES, &targets, &Even, &training());
    let mut worst = 0.0f64;
    for (what, loss) in losses.named() {
        let ours = f64::from(loss.inner().into_scalar::<f32>());
        let reference = fixture.losses[what];
        worst = worst.max((ours - reference).abs() / reference);
        assert!(
            (ours - reference).abs() < BOUND * reference,
            "{name}: {what}: {ours} {reference}"
        );
    }
    eprintln!("{name}: losses at worst {worst:.1e}");
    let gradients = losses.total().backward();
    let gradients = gradients_of(&trained, &gradients);
    let (ours, reference) = (gradients.keys(), fixture.gradients.keys());
    assert_eq!(ours.collect::<Vec<_>>(), reference.collect::<Vec<_>>());
    let mut worst = (0.0, "");
    for (path, reference) in &fixture.gradients {
        let error = error(&stored(&gradients[path]), reference);
        let bound = BOUND.max(3.0 * fixture.float32_errors[path]);
        assert!(
            error < bound,
            "{name}: gradient of {path}: {error:e}, at most {bound:e}"
        );
        if error > worst.0 {
            worst = (error, path);
        }
    }
    eprintln!(
        "{name}: {} gradients at worst {:.1e} ({})",
        gradients.len(),
        worst.0,
        worst.1
    );
    let state = state_dict(&trained);
    for (path, reference) in &fixture.statistics {
        let ours: Vec<f64> = state[path].iter::<f64>().collect();
        let error = error(&stored(&ours), reference);
        assert!(error < BOUND, "{name}: {path}: {error:e}");
    }
    assert_eq!(fixture.training_proposals, [80, 80]);
}

#[test]
fn mask_rcnn_is_torchvisions_first_version() {
    check(
        "v1",
        include_str!("../../fixtures/rcnn_v1.json"),
        &config(Version::V1),
        0,
    );
}

#[test]
fn mask_rcnn_is_torchvisions_second_version() {
    check(
        "v2",
        include_str!("../../fixtures/rcnn_v2.json"),
        &config(Version::V2),
        6,
    );
}

#[test]
fn mask_rcnn_on_the_third_stage_is_torchvisions_parts() {
    check("C4", include_str!("../../fixtures/rcnn_c4.json"), &c4(), 9);
}

#[test]
fn mask_rcnn_on_a_vision_transformers_last_map_is_torchvisions_on_an_independent_one() {
    check("ViT", include_str!("../../fixtures/rcnn_vit.json"), &simple(), 1);
}

#[test]
fn cascade_mask_rcnn_is_an_independent_implementations() {
    check(
        "cascade",
        include_str!("../../fixtures/rcnn_cascade.json"),
        &cascade(),
        0,
    );
}

#[test]
fn a_cascade_has_the_parameters_of_its_layers() {
    let resnet50 = ResNetConfig {
        depth: 50,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: true,
    };
    let count = |config: RcnnConfig| {
        let network = config.init(&Init::empty(&Device::flex()));
        let parameters = backbones::parameters(&network).into_iter();
        let sizes = parameters.map(|parameter| parameter.shape.iter().product::<usize>());
        sizes.sum::<usize>()
    };
    let cascade = count(RcnnConfig::cascade(resnet50.clone(), 80, true));
    let mut agnostic = RcnnConfig::detectron2(resnet50, 80, true);
    agnostic.boxes.class_agnostic = true;
    let stage = (256 * 49 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * (81 + 4);
    assert_eq!(cascade - count(agnostic), 2 * stage);
}

/// torchvision's own counts of its models for 91 channels.
#[test]
fn whole_models_have_torchvisions_parameters() {
    let resnet50 = ResNetConfig {
        depth: 50,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    for (version, masks, expected) in [
        (Version::V1, false, 41_755_286),
        (Version::V2, false, 43_712_278),
        (Version::V1, true, 44_401_393),
        (Version::V2, true, 46_359_409),
    ] {
        let config = RcnnConfig::torchvision(version, resnet50.clone(), 90, masks);
        let network = config.init(&Init::empty(&Device::flex()));
        let parameters = backbones::parameters(&network).into_iter();
        // Frozen norms are constants there.
        let counted = parameters.filter(|parameter| {
            let of_body = parameter.path.starts_with("backbone.body.");
            let of_norm = parameter.path.contains(".bn") || parameter.path.contains("downsample.1.");
            let constant = version == Version::V1 && of_body && of_norm;
            !parameter.running_statistic && !constant
        });
        let count: usize = counted
            .map(|parameter| parameter.shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, expected, "{version:?} {masks}");
    }
}

#[test]
fn images_without_objects_have_finite_losses_and_gradients() {
    let device = Device::flex().autodiff();
    for config in [config(Version::V1), config(Version::V2), c4(), cascade()] {
        let network = network(&config, &device);
        let empty = vec![Target::default(); 2];
        let losses = network.losses(images(0, &device), &SIZES, &empty, &Even, &training());
        let named = losses.named().into_iter();
        let values: BTreeMap<_, _> = named
            .map(|(what, loss)| (what, loss.inner().into_scalar::<f32>()))
            .collect();
        assert!(values.values().all(|value| value.is_finite()), "{values:?}");
        assert_eq!(
            (
                values["loss_rpn_box_reg"],
                values["loss_box_reg"],
                values["loss_mask"]
            ),
            (0.0, 0.0, 0.0)
        );
        assert!(values["loss_objectness"] > 0.0 && values["loss_classifier"] > 0.0);
        let gradients = gradients_of(&network, &losses.total().backward());
        assert!(gradients.values().flatten().all(|value| value.is_finite()));
    }
}

#[test]
fn what_the_profiles_freeze_has_no_gradient() {
    let backbone = config(Version::V1).backbone;
    let mut detectron2 = RcnnConfig::detectron2(backbone.clone(), 3, true);
    narrow(&mut detectron2);
    let device = Device::flex().autodiff();
    let losses_of = |config: &RcnnConfig| {
        let network = config.init(&Init::new(0, &device));
        let losses = network.losses(images(0, &device), &SIZES, &targets(), &Even, &training());
        gradients_of(&network, &losses.total().backward())
    };
    let gradients = losses_of(&detectron2);
    let has = |path: &str| gradients.contains_key(path);
    assert!(!has("backbone.body.conv1.weight") && !has("backbone.body.layer1.2.conv3.weight"));
    assert!(!has("backbone.body.layer2.0.bn1.weight") && !has("backbone.body.layer4.0.downsample.1.bias"));
    assert!(has("backbone.body.layer2.0.conv1.weight") && has("backbone.body.layer4.0.downsample.0.weight"));
    assert!(gradients.values().flatten().all(|value| value.is_finite()));
    assert!(
        gradients["roi_heads.mask_predictor.mask_fcn_logits.weight"]
            .iter()
            .any(|value| *value != 0.0)
    );

    let from_scratch = RcnnConfig {
        frozen_stages: 0,
        backbone_norm: Norm::Synchronized,
        ..detectron2
    };
    let gradients = losses_of(&from_scratch);
    for path in [
        "backbone.body.conv1.weight",
        "backbone.body.bn1.weight",
        "backbone.body.layer2.0.bn1.bias",
    ] {
        assert!(gradients.contains_key(path), "{path}");
    }
}

#[test]
fn wrong_targets_are_named() {
    let config = config(Version::V1);
    let good = targets().remove(0);
    let wrong = |change: &dyn Fn(&mut Target)| {
        let mut target = good.clone();
        change(&mut target);
        target.check(&config).unwrap_err()
    };
    assert_eq!(
        wrong(&|target| target.boxes[1].right = 100.0),
        "box 1 must be finite and not empty, got [100.0, 30.25, 100.0, 200.0]"
    );
    assert!(wrong(&|target| target.boxes[0].top = f32::NAN).starts_with("box 0 must be finite"));
    assert_eq!(
        wrong(&|target| target.classes[0] = 3),
        "classes must be below 3, got 3"
    );
    assert_eq!(
        wrong(&|target| target.masks.clear()),
        "4 boxes need as many classes and masks, got 4 and 0"
    );
    assert!(wrong(&|target| target.masks[0].size = [1, 1]).starts_with("a mask of [1, 1] has"));
}
