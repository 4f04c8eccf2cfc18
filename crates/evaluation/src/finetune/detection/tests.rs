//! A small detector on drawn pictures: training, evaluation, resume, micro-batches; configs that contradict themselves.

mod scratch;
mod transformer;

use super::*;
use crate::finetune::{FinetuneEvent, FinetuneResult, Job, Start};
use crate::wave::{number, wave};
use backbones::{Replicas, ResNetConfig, Stem};
use burn::tensor::Device;
use data::{Dataset, Metadata, Record};
use detection::rcnn::{C4Config, Neck, Norm, PyramidConfig, Version};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use training::{FactorWarmup, RunOptions};

fn small_network(masks: bool) -> RcnnConfig {
    let backbone = ResNetConfig {
        depth: 18,
        width: 8,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    let mut network = RcnnConfig::torchvision(Version::V1, backbone, 2, masks);
    network.frozen_stages = 0;
    network.backbone_norm = Norm::Trained;
    network.neck = Neck::Pyramid(PyramidConfig {
        channels: 16,
        norm: false,
    });
    network.anchors.sizes_px = [8.0, 16.0, 32.0, 64.0, 128.0].map(|size| vec![size]).to_vec();
    network.boxes.width = 32;
    network.boxes.sampler.per_image = 32;
    network.boxes.score_above = 0.02;
    network.proposals.sampler.per_image = 32;
    network.proposals.before_nms_training = 100;
    network.proposals.after_nms_training = 50;
    network.proposals.before_nms = 100;
    network.proposals.after_nms = 50;
    network.input.short_side_px = 64;
    network.input.long_side_px = 96;
    if let Some(masks) = &mut network.masks {
        masks.channels = vec![16];
        masks.width = 16;
    }
    network
}

fn small_config(masks: bool) -> Config {
    Config {
        seed: 3,
        data: Records {
            batch_images: 4,
            workers: 0,
            order: Order::Global,
            max_bad_fraction: 0.0,
        },
        detection: Settings {
            start: None,
            views: TrainingViews {
                shorter_px: vec![48, 64],
                flip_probability: 0.5,
                by_aspect: true,
            },
            decay_norms: false,
            metric: Metric::Coco,
            evaluate_every_steps: Some(3),
            validation: None,
            keep: Keep::Last,
            evaluation_images: 1,
            precise_statistics_batches: None,
            bootstrap: None,
            max_shared_fraction: None,
            network: small_network(masks),
        },
        optimizer: OptimizerConfig::Sgd {
            learning_rate_per_256: 0.32,
            momentum: 0.9,
            weight_decay: 1e-4,
            nesterov: false,
        },
        schedule: ScheduleConfig::Milestones {
            milestones_steps: vec![5],
            factor: 0.1,
            warmup: Some(FactorWarmup {
                steps: 2,
                start_factor: 0.001,
            }),
        },
        training: TrainingConfig {
            epochs: None,
            steps: Some(7),
            batch_norm_images: Some(2),
            micro_batch_images: Some(2),
            clip_gradients: None,
            precision: Default::default(),
            recompute_activations: false,
            checkpoint_every_epochs: None,
            checkpoint_every_minutes: None,
            checkpoint_every_steps: Some(3),
            keep_checkpoints: 1,
            log_every_steps: 1,
            on_alarm: training::OnAlarm::Warn,
        },
    }
}

/// Pictures with a bright rectangle each, of class 0 if it is wide, else 1.
fn drawn(count: usize, seed: usize) -> Arc<Dataset> {
    let record = |index: usize| {
        let (width, height) = if index.is_multiple_of(3) {
            (60, 80)
        } else {
            (80, 60)
        };
        let wide = (index + seed).is_multiple_of(2);
        let (across, down) = if wide { (40, 18) } else { (18, 40) };
        let (left, top) = (5 + (7 * index + seed) % 15, 4 + (5 * index + seed) % 12);
        let mut pixels = vec![40u8; 3 * width * height];
        for y in top..top + down {
            for x in left..left + across {
                pixels[3 * (y * width + x)..][..3].copy_from_slice(&[220, 180, 30]);
            }
        }
        let [l, t, r, b] = [left, top, left + across, top + down];
        let object = json!({
            "class": u8::from(!wide),
            "bbox": [l, t, across, down],
            "segmentation": [[l, t, r, t, r, b, l, b]],
        });
        let other = json!({ "width": width, "height": height, "objects": [object] });
        Record {
            key: format!("{seed}-{index:03}"),
            image: crate::testing::bitmap(width as u32, height as u32, &pixels),
            label: None,
            metadata: Metadata {
                other: other.as_object().unwrap().clone(),
                ..Metadata::default()
            },
        }
    };
    let records = (0..count).map(record).collect();
    Arc::new(
        Dataset::from_records(records, vec![])
            .with_listed_objects()
            .unwrap(),
    )
}

struct Ran {
    result: FinetuneResult,
    lines: Vec<EvaluationLine>,
    /// Whether the test set was scored after training.
    tested: bool,
}

/// Runs it in `out`, and stops after `stop_at` steps.
fn ran(config: &Config, out: &Path, resume: bool, stop_at: Option<usize>) -> Ran {
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job {
        start: Start::Scratch,
        train: drawn(13, 0),
        test: drawn(5, 1),
        options: RunOptions {
            out: out.to_path_buf(),
            resume,
            allow_jump: false,
            keep_failed_step: false,
            gauge: None,
            device: Device::flex(),
            replicas: Replicas::single(),
            stop: Arc::clone(&stop),
            method: "detection-coco".into(),
            provenance: serde_json::Map::new(),
        },
        provenance: Default::default(),
    };
    let (mut lines, mut tested) = (vec![], false);
    let result = run(config, &job, &mut |event| match event {
        // The step after this one ends the run.
        FinetuneEvent::Training(training::Event::Step { step })
            if stop_at.is_some_and(|at| step + 1 >= at) =>
        {
            stop.store(true, Ordering::Relaxed);
        }
        FinetuneEvent::Evaluated(line) => lines.push(line.clone()),
        FinetuneEvent::Testing(_) => tested = true,
        FinetuneEvent::Training(_) => {}
    });
    Ran {
        result: result.unwrap(),
        lines,
        tested,
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_run_that_was_stopped_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let mut config = small_config(true);
    let ran_whole = ran(&config, &whole, false, None);
    assert_eq!(
        ran_whole.lines.iter().map(|line| line.step).collect::<Vec<_>>(),
        [3, 6, 7]
    );
    assert!(
        ran_whole
            .lines
            .iter()
            .all(|line| line.on == "test" && line.mask_ap.is_some())
    );
    let stopped = ran(&config, &parts, false, Some(4));
    assert!(stopped.result.outcomes.is_none());
    // Neither threads nor the time of the stop change a bit.
    config.data.workers = 3;
    let resumed = ran(&config, &parts, true, None);
    assert_eq!(
        resumed.result.outcomes.map(|all| all.len()),
        ran_whole.result.outcomes.map(|all| all.len())
    );
    for file in [
        "validation.jsonl",
        "detector.safetensors",
        "encoder.safetensors",
        "detections-boxes.json",
        "detections-masks.json",
    ] {
        assert!(bytes(&whole.join(file)) == bytes(&parts.join(file)), "{file}");
    }
    // The evaluation after the last step is the result's; a finished run that resumes scores the test set again, alike.
    assert!(!ran_whole.tested);
    let results = ["result.json", "detector.safetensors", "detections-masks.json"];
    let before = results.map(|file| bytes(&whole.join(file)));
    assert!(ran(&config, &whole, true, None).tested);
    assert!(before == results.map(|file| bytes(&whole.join(file))));
    let losses = |run: &Path| {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let of_line = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            ["loss", "learning_rate", "signals"].map(|key| line[key].clone())
        };
        text.lines().map(of_line).collect::<Vec<_>>()
    };
    assert_eq!(losses(&whole), losses(&parts));
    let signals = losses(&whole).swap_remove(0)[2].clone();
    for name in [
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    ] {
        assert!(signals[name].is_number(), "{signals}");
    }
}

#[test]
fn a_detector_learns_and_starts_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small_config(false);
    config.training.steps = Some(120);
    config.training.checkpoint_every_steps = Some(60);
    config.detection.evaluate_every_steps = Some(60);
    config.detection.validation = Some(HeldOut {
        fraction: 0.25,
        seed: 0,
    });
    config.detection.keep = Keep::BestOnValidation;
    config.detection.precise_statistics_batches = Some(2);
    config.schedule = ScheduleConfig::Milestones {
        milestones_steps: vec![100],
        factor: 0.1,
        warmup: None,
    };
    config.detection.bootstrap = Some(Bootstrap {
        resamples: 100,
        seed: 0,
    });
    let first = ran(&config, &folder.path().join("first"), false, None);
    let outcomes = first.result.outcomes.unwrap();
    let headline = outcomes.iter().find(|outcome| outcome.headline).unwrap();
    assert_eq!(
        (headline.protocol.as_str(), headline.metric.as_str()),
        ("detection-coco", "box_ap")
    );
    let ap50 = outcomes
        .iter()
        .find(|outcome| outcome.metric == "box_ap50")
        .unwrap();
    assert!(ap50.value > 0.5, "{outcomes:?}");
    assert!(headline.settings["interval_95"].is_array());
    let network = |outcome: &crate::Outcome| outcome.settings.get("network").cloned();
    assert_eq!(network(headline), Some(json!(config.detection.network)));
    assert_eq!(outcomes.iter().filter_map(network).count(), 1);
    assert!(first.tested);
    assert_eq!(
        headline.settings["step_chosen_on"],
        "records held out of the training set"
    );
    assert!(
        first
            .lines
            .iter()
            .all(|line| line.on == "validation" && line.records == 3)
    );
}

#[test]
fn contradictions_are_named() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = small_config(false);
        assert_eq!(config.validate(), Ok(()));
        change(&mut config);
        config.validate().unwrap_err()
    };
    for (key, change) in [
        (
            "`detection.keep",
            &(|config: &mut Config| config.detection.keep = Keep::BestOnValidation) as &dyn Fn(&mut Config),
        ),
        ("`training.epochs` or `training.steps`", &|config| {
            config.training.steps = None
        }),
        ("`training.epochs` or `training.steps`", &|config| {
            config.training.epochs = Some(1)
        }),
        ("`detection.network.classes`", &|config| {
            config.detection.network.classes = 0
        }),
        ("`detection.views.shorter_px`", &|config| {
            config.detection.views.shorter_px.clear()
        }),
        ("`detection.evaluation_images`", &|config| {
            config.detection.evaluation_images = 0
        }),
        ("`schedule.milestones.milestones_steps`", &|config| {
            config.schedule = ScheduleConfig::Milestones {
                milestones_steps: vec![5, 5],
                factor: 0.1,
                warmup: None,
            };
        }),
        ("`detection.bootstrap`", &|config| {
            config.detection.metric = Metric::Voc2007;
            config.detection.bootstrap = Some(Bootstrap {
                resamples: 100,
                seed: 0,
            });
        }),
    ] {
        let error = refused(change);
        assert!(error.contains(key), "{key}: {error}");
    }
}

#[test]
fn a_cascade_learns_with_losses_of_each_stage_and_starts_one_of_other_classes() {
    let home = tempfile::tempdir().unwrap();
    let mut config = small_config(false);
    let stages = RcnnConfig::cascade(config.detection.network.backbone.clone(), 2, false);
    config.detection.network.cascade = stages.cascade;
    config.detection.network.boxes.class_agnostic = true;
    config.detection.evaluate_every_steps = None;
    config.training.steps = Some(2);
    config.schedule = ScheduleConfig::Milestones {
        milestones_steps: vec![1],
        factor: 0.1,
        warmup: None,
    };
    assert_eq!(config.validate(), Ok(()));
    let out = home.path().join("cascade");
    ran(&config, &out, false, None);
    let lines = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    for name in [
        "loss_classifier",
        "loss_box_reg",
        "loss_classifier_stage2",
        "loss_box_reg_stage2",
        "loss_classifier_stage3",
        "loss_box_reg_stage3",
    ] {
        assert!(lines.contains(&format!("\"{name}\":")), "{name}: {lines}");
    }
    // One box for all classes: its layers are read, those of the scores are not.
    let mut other = config.detection.network.clone();
    other.classes = 5;
    let file = out.join("detector.safetensors");
    let loaded = crate::finetune::LoadedDetector::read(&file, &other, &Device::flex()).unwrap();
    // Its data go with it, and with the encoder in it, although the run learned from a part of them.
    let (train, whole) = (&loaded.trained_on, drawn(13, 0));
    assert_eq!(train.fingerprint, whole.fingerprint());
    assert_eq!(&train.sample, whole.sample().unwrap());
    let encoder = training::read_encoder(&out, &Default::default(), &Device::flex()).unwrap();
    assert!(!encoder.sample().is_empty());
    let has = |name: &str| loaded.weights.contains_key(name);
    assert!(has("roi_heads.cascade.1.box_predictor.bbox_pred.weight"));
    assert!(!has("roi_heads.cascade.1.box_predictor.cls_score.weight"));
    other.input.bgr = true;
    let error = crate::finetune::LoadedDetector::read(&file, &other, &Device::flex());
    assert_eq!(
        error.unwrap_err().to_string(),
        "evaluation config: `detection.network.input.bgr` must be false, as in the detector that the run starts from, got true"
    );
}

/// The presets are the profiles: no number of theirs was typed twice.
#[test]
fn presets_are_the_references_profiles() {
    let resnet50 = || ResNetConfig {
        depth: 50,
        width: 64,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    let fpn = || {
        let c4 = RcnnConfig::moco_c4(resnet50(), 80, true);
        RcnnConfig {
            frozen_stages: c4.frozen_stages,
            backbone_norm: c4.backbone_norm,
            input: c4.input,
            neck: Neck::Pyramid(PyramidConfig {
                channels: 256,
                norm: true,
            }),
            ..RcnnConfig::detectron2(resnet50(), 80, true)
        }
    };
    assert_eq!(
        RcnnConfig::moco_c4(resnet50(), 20, false).neck,
        Neck::C4(C4Config { norm: true })
    );
    for (name, network, steps, milestones) in [
        (
            "detection-voc07-moco-c4-resnet50.toml",
            RcnnConfig::moco_c4(resnet50(), 20, false),
            24_000,
            [18_000, 22_000],
        ),
        (
            "detection-coco-moco-c4-resnet50-1x.toml",
            RcnnConfig::moco_c4(resnet50(), 80, true),
            90_000,
            [60_000, 80_000],
        ),
        (
            "detection-coco-moco-c4-resnet50-2x.toml",
            RcnnConfig::moco_c4(resnet50(), 80, true),
            180_000,
            [120_000, 160_000],
        ),
        (
            "detection-coco-moco-fpn-resnet50-1x.toml",
            fpn(),
            90_000,
            [60_000, 80_000],
        ),
        (
            "detection-coco-moco-fpn-resnet50-2x.toml",
            fpn(),
            180_000,
            [120_000, 160_000],
        ),
        (
            "detection-coco-cascade-fpn-resnet50-1x.toml",
            RcnnConfig {
                frozen_stages: 0,
                backbone_norm: Norm::Synchronized,
                input: fpn().input,
                neck: fpn().neck,
                ..RcnnConfig::cascade(resnet50(), 80, true)
            },
            90_000,
            [60_000, 80_000],
        ),
        (
            "detection-coco-cascade-msra-resnet50-3x.toml",
            RcnnConfig::cascade(
                ResNetConfig {
                    stride_in_1x1: true,
                    ..resnet50()
                },
                80,
                true,
            ),
            270_000,
            [210_000, 250_000],
        ),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../configs/evaluate")
            .join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(config.validate(), Ok(()), "{name}");
        assert_eq!(config.detection.network, network, "{name}");
        assert_eq!(config.training.steps, Some(steps));
        assert_eq!(config.data.batch_images, 16);
        assert!((config.optimizer.peak_learning_rate(16) - 0.02).abs() < 1e-12);
        let ScheduleConfig::Milestones { milestones_steps, .. } = config.schedule else {
            panic!("{name}")
        };
        assert_eq!(milestones_steps, milestones);
    }
}

/// Losses of `scripts/parity/detection_training.py`.
#[derive(serde::Deserialize)]
struct Trained {
    losses: Vec<std::collections::BTreeMap<String, f64>>,
    float32_error: f64,
}

/// The script's `u`.
fn u(path: &str, count: usize) -> Vec<f64> {
    wave(number(path), count)
}

/// The script's `value`.
fn value(name: &str, shape: &[usize]) -> Vec<f32> {
    let of = |factor: f64, offset: f64| {
        let values = u(name, shape.iter().product()).into_iter();
        values.map(|value| (offset + factor * value) as f32).collect()
    };
    if shape.len() > 1 {
        let gains = [
            ("bbox_pred", 0.1),
            ("cls_score", 1.5),
            ("cls_logits", 0.5),
            ("inner_blocks", 0.1),
        ];
        let gain = gains.iter().find(|(part, _)| name.contains(part));
        let fan_in = match name.contains("conv5_mask") {
            true => shape[0],
            false => shape[1..].iter().product(),
        };
        return of(
            gain.map_or(1.0, |(_, gain)| *gain) * (6.0 / fan_in as f64).sqrt(),
            0.0,
        );
    }
    match name {
        _ if name.ends_with("running_var") => of(0.5, 1.0),
        _ if name.ends_with("bn2.weight") => of(0.03, 0.3),
        _ if name.ends_with("weight") => of(0.1, 1.0),
        _ => of(0.1, 0.0),
    }
}

/// The script's pictures of a step and their objects.
fn formula_batch(step: usize) -> training::Batch {
    const PADDED: usize = 96;
    let mut pixels = vec![0.0f32; 2 * 3 * PADDED * PADDED];
    let mut targets = vec![];
    for (index, (height, width)) in [(64, 96), (96, 64)].into_iter().enumerate() {
        let values = u(&format!("image.{step}.{index}"), 3 * height * width);
        for (row, values) in values.chunks_exact(width).enumerate() {
            let at = ((index * 3 + row / height) * PADDED + row % height) * PADDED;
            for (pixel, value) in pixels[at..].iter_mut().zip(values) {
                *pixel = (2.0 * value) as f32;
            }
        }
        let (left, top) = (4 + (5 * step + 3 * index) % 20, 6 + (7 * step + 2 * index) % 16);
        let boxes = [
            [left, top, left + 30, top + 22],
            [left + 10, top + 12, left + 24, top + 40],
        ];
        let object = |(class, [x0, y0, x1, y1]): (usize, [usize; 4])| {
            let mut columns = vec![0u8; width * height];
            for x in x0 + 2..x1 - 2 {
                columns[x * height + y0 + 2..x * height + y1 - 2].fill(1);
            }
            let rle = data::targets::Rle::from_columns(width as u32, height as u32, &columns).unwrap();
            let [left, top, right, bottom] = [x0, y0, x1, y1].map(|edge| edge as f32);
            data::targets::Object {
                id: class as u64 + 1,
                class: class as u32,
                bounding_box: data::targets::BoundingBox {
                    left,
                    top,
                    right,
                    bottom,
                },
                segmentation: Some(data::targets::Segmentation::Rle(rle)),
                area: 1.0,
                is_crowd: false,
                is_difficult: false,
            }
        };
        targets.push(data::ViewTargets {
            targets: data::targets::ImageTargets {
                image_id: index as u64,
                width: width as u32,
                height: height as u32,
                objects: boxes.into_iter().enumerate().map(object).collect(),
            },
            original_width: width as u32,
            original_height: height as u32,
            is_flipped: false,
        });
    }
    let pixels = burn::tensor::TensorData::new(pixels, [2, 3, PADDED, PADDED]);
    training::Batch {
        views: vec![training::ViewGroupTensor {
            images: burn::tensor::Tensor::from_data(pixels, &Device::flex()),
            count: 1,
        }],
        images: 2,
        labels: None,
        targets: Some(targets),
    }
}

/// Twenty steps from the same weights on the same pictures: all five losses as torchvision's in float64.
#[test]
fn training_is_torchvisions_step_by_step() {
    use backbones::{Context, Draws, RunPosition};
    use burn::module::Module;
    use training::Objective;
    let reference: Trained =
        serde_json::from_slice(include_bytes!("../../../fixtures/detection_training.json")).unwrap();
    let mut settings = small_config(true).detection;
    let network = &mut settings.network;
    for count in [
        &mut network.proposals.before_nms_training,
        &mut network.proposals.after_nms_training,
        &mut network.proposals.sampler.per_image,
        &mut network.boxes.sampler.per_image,
    ] {
        *count = 100_000;
    }
    network.boxes.sampler.positive_fraction = 0.5;
    let device = Device::flex();
    let empty = network.init(&backbones::Init::empty(&device));
    let weights = detection::rcnn::state_dict(&empty)
        .into_iter()
        .map(|(name, old)| {
            let shape = old.shape().to_vec();
            let values = value(&name, &shape);
            (name, burn::tensor::TensorData::new(values, shape))
        });
    let objective = objective::Detect::new(&settings, weights.collect(), &device);
    let (mut student, mut state) = objective.init(&backbones::Init::new(0, &device.clone().autodiff()));
    let optimizer = OptimizerConfig::Sgd {
        learning_rate_per_256: 0.003 * 128.0,
        momentum: 0.9,
        weight_decay: 1e-2,
        nesterov: false,
    };
    let schedule = ScheduleConfig::Milestones {
        milestones_steps: vec![15],
        factor: 0.1,
        warmup: Some(FactorWarmup {
            steps: 5,
            start_factor: 0.001,
        }),
    };
    let mut running = optimizer.init();
    let mut worst = 0.0f64;
    for (step, expected) in reference.losses.iter().enumerate() {
        let position = RunPosition::at(step, 20, 20);
        let context = Context::training(position, Draws::new(0, step as u64));
        let (loss, ()) = objective.loss(&student, &state, &formula_batch(step), &context);
        for (name, value) in &loss.signals {
            let (ours, expected) = (f64::from(value.clone().into_scalar::<f32>()), expected[*name]);
            worst = worst.max((ours - expected).abs() / expected.abs());
        }
        let gradients = burn::optim::GradientsParams::from_grads(loss.total.backward(), &student);
        let rates = optimizer.rates(
            optimizer.peak_learning_rate(2),
            &schedule,
            &position,
            objective.parameter_rules(),
        );
        student = running.step(&rates, student, gradients);
        (student, state) = objective.commit(student, state, vec![()], &context);
    }
    eprintln!(
        "worst loss of 20 steps: {worst:.1e}; PyTorch's float32 {:.1e}",
        reference.float32_error
    );
    assert!(worst < 1e-4, "{worst:e}");
    assert_eq!(student.valid().config().classes, 2);
}
