//! VISSL's probe: stages and classifiers compared with torchvision and PyTorch, and its training and errors.

use super::*;
use crate::features::{Matrix, Records};
use crate::testing::{DATA, Fixture, NORMALIZE, backbone, bench_on, extract, relative_error, resize, tinted};
use crate::wave::wave;
use backbones::init::trained;
use backbones::layers::Linear;
use backbones::{BackboneConfig, Init, ResNetConfig, Stem, replace_state, state_dict};
use burn::tensor::{Tensor, TensorData};
use data::{Filter, LoaderConfig};

/// `scripts/parity/vissl_probe.py` made it (PyTorch and torchvision).
const FIXTURE: Fixture = Fixture(include_bytes!("../../../fixtures/vissl_probe.safetensors"));

/// A network with the weights of the script's `fill`.
fn network(depth: u32, width: usize, stem: Stem) -> Encoder {
    let device = Device::flex();
    let config = BackboneConfig::Resnet(ResNetConfig {
        depth,
        width,
        stem,
        zero_init_residual: false,
        stride_in_1x1: false,
    });
    let made = config.init(&Init::empty(&device));
    let mut state = state_dict(&made);
    for (number, (name, data)) in state.iter_mut().enumerate() {
        let shape = data.shape().to_vec();
        let (scale, shift) = match shape.len() {
            1 if name.ends_with("weight") || name.ends_with("running_var") => (0.5, 1.0),
            1 => (0.2, 0.0),
            _ => ((6.0 / shape[1..].iter().product::<usize>() as f64).sqrt(), 0.0),
        };
        let values = wave(number, data.num_elements()).into_iter();
        let values: Vec<f32> = values.map(|value| (value * scale + shift) as f32).collect();
        *data = TensorData::new(values, shape);
    }
    Encoder::new(config.name(), "", &replace_state(made, state), NORMALIZE)
}

#[test]
fn stages_are_torchvisions_pooled_by_pytorch() {
    for (name, encoder, [height, width]) in [
        ("resnet50", network(50, 64, Stem::Imagenet), [224, 224]),
        ("resnet18", network(18, 64, Stem::Imagenet), [96, 64]),
        ("resnet18_w16_small", network(18, 16, Stem::Small), [32, 32]),
    ] {
        let values = wave(1000, 2 * 3 * height * width).into_iter();
        let values: Vec<f32> = values.map(|value| value as f32).collect();
        let images = Tensor::<4>::from_data(TensorData::new(values, [2, 3, height, width]), &Device::flex());
        // Out of order, as a config may name them.
        let mut taps = vec![Tap::Pooled];
        taps.extend(ResNetStage::ALL.map(Tap::Stage).into_iter().rev());
        let mut worst = 0.0f64;
        for (tap, features) in taps.iter().zip(encoder.taps(images, &taps).unwrap()) {
            let [rows, count] = features.dims();
            let key = format!("{name}.{}", tap.name());
            let about = FIXTURE.values(&format!("{key}.about"));
            assert_eq!((rows, count as f64), (2, about[0]), "{key}");
            let [channels, places] = encoder.tap_shape(*tap, [height, width]).unwrap();
            assert_eq!(channels * places, count, "{key}");

            let ours: Vec<f64> = features.into_data().iter::<f64>().collect();
            let reference = FIXTURE.values(&key);
            let samples = (0..reference.len()).map(|at| ours[at * ours.len() / reference.len()]);
            let error = relative_error(samples, &reference);
            let norm = ours.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!(
                error < 1e-5 && (norm / about[1] - 1.0).abs() < 1e-5,
                "{key} is off by {error:e}, its norm {norm}"
            );
            worst = worst.max(error);
        }
        eprintln!("{name}: stages off by {worst:.1e} at most");
    }
}

#[test]
fn a_classifier_is_trained_as_by_pytorch() {
    let device = Device::flex();
    let rows = FIXTURE.matrix("head.rows");
    let labels = FIXTURE.indices("head.rows_labels");
    let values = |name: &str| FIXTURE.values(&format!("head.{name}"));
    let config = LinearVissl {
        optimizer: OptimizerConfig::Sgd {
            // 0.1 for batches of 16.
            learning_rate_per_256: 1.6,
            momentum: 0.9,
            weight_decay: 0.05,
            nesterov: true,
        },
        schedule: ScheduleConfig::Steps {
            milestones_epochs: vec![2, 4],
            factor: 0.1,
        },
        batch_images: 16,
        epochs: 6,
        ..config()
    };
    let progress = RunPosition::at(0, 5, 30);
    let mut head = config.heads(&[[3, 4]], 5, 0, progress, &device).remove(0);
    let start = |name: &str| {
        values(name)
            .into_iter()
            .map(|value| value as f32)
            .collect::<Vec<_>>()
    };
    let graph = device.clone().autodiff();
    let layer = &mut head.classifier.layer;
    layer.weight = trained(Tensor::from_data(
        TensorData::new(start("start_weight"), [5, 12]),
        &graph,
    ));
    layer.bias = Some(trained(Tensor::from_data(
        TensorData::new(start("start_bias"), [5]),
        &graph,
    )));
    let tensor = |matrix: &Matrix| {
        Tensor::<2>::from_data(
            TensorData::new(matrix.values.clone(), [matrix.rows, matrix.width]),
            &device,
        )
    };
    for batch in FIXTURE.indices("head.order").chunks_exact(16) {
        let places: Vec<usize> = batch.iter().map(|row| *row as usize).collect();
        let truth: Vec<u32> = places.iter().map(|row| labels[*row]).collect();
        head.step(tensor(&rows.select(&places)), &truth);
    }
    let classifier = head.trained();
    let numbers = |tensor: Tensor<1>| tensor.into_data().iter::<f64>().collect::<Vec<_>>();
    let Linear { weight, bias, .. } = &classifier.layer;
    let norm = classifier.norm.as_ref().unwrap();
    for (name, ours) in [
        ("weight", numbers(weight.val().flatten(0, 1))),
        ("bias", numbers(bias.as_ref().unwrap().val())),
        ("norm_weight", numbers(norm.weight.as_ref().unwrap().val())),
        ("norm_bias", numbers(norm.bias.as_ref().unwrap().val())),
        ("running_mean", numbers(norm.running_mean.value())),
        ("running_var", numbers(norm.running_var.value())),
    ] {
        let error = relative_error(ours, &values(name));
        eprintln!("linear_vissl beside PyTorch: {name} off by {error:.1e}");
        assert!(error < 1e-4, "{name} is off by {error:e}");
    }
    // Rank 0: the class that PyTorch predicts is predicted here too.
    let ranks = classifier.ranks(tensor(&rows), &FIXTURE.indices("head.predicted"));
    assert!(ranks.iter().all(|rank| *rank == 0));
}

fn config() -> LinearVissl {
    LinearVissl {
        taps: vec![
            Place::Conv1,
            Place::Res2,
            Place::Res3,
            Place::Res4,
            Place::Res5,
            Place::Res5avg,
        ],
        headline_tap: Place::Res5,
        train_transforms: vec![
            Transform::RandomResizedCrop {
                size_px: 8,
                scale: [0.5, 1.0],
                ratio: [0.75, 4.0 / 3.0],
                filter: Filter::Bilinear,
            },
            Transform::HorizontalFlip { probability: 0.5 },
        ],
        batch_images: 16,
        order: Order::Global,
        epochs: 7,
        optimizer: OptimizerConfig::Sgd {
            learning_rate_per_256: 0.5,
            momentum: 0.9,
            weight_decay: 5e-4,
            nesterov: true,
        },
        schedule: ScheduleConfig::Steps {
            milestones_epochs: vec![2, 4, 6],
            factor: 0.1,
        },
        seeds: vec![0, 1],
    }
}

#[test]
fn each_stage_has_a_classifier_of_its_own_on_images() {
    let device = Device::flex();
    let encoder = Encoder::new("small", "h", &backbone(0, &device), NORMALIZE);
    let (train, test) = (tinted(64, 0), tinted(33, 5));
    let features = extract(&encoder, &test, &resize(8), &DATA, &device, &mut |_| {}).unwrap();
    let (train, test) = (Records::from(train), Records::from(test));
    let probe = |config: &LinearVissl, workers, events: &mut dyn FnMut(Event<'_>)| {
        let pipeline = Pipeline {
            encoder: &encoder,
            train: &train,
            test: &test,
            test_transforms: &resize(8),
            data: &LoaderConfig { workers, ..DATA },
        };
        let mut bench = bench_on(pipeline, &features, &device, events);
        config.run(&mut bench).unwrap()
    };
    let mut stages = vec![];
    let all = probe(&config(), 0, &mut |event| stages.push(event.stage.to_string()));
    stages.dedup();
    assert_eq!(stages, [PROTOCOL, "test images"]);
    assert_eq!(
        (all.classes, all.train_bad_records, all.scores.len()),
        (2, Some(0), 12)
    );
    let headlines: Vec<&Score> = all.scores.iter().filter(|score| score.headline).collect();
    assert_eq!(headlines.len(), 1);
    assert_eq!(
        (headlines[0].metric, &headlines[0].details["tap"]),
        ("top1", &json!("res5"))
    );
    let of = |probe: &Scored, tap: &str| {
        let mut scores = probe.scores.iter();
        scores
            .find(|score| score.metric == "top1" && score.details["tap"] == tap)
            .unwrap()
            .clone()
    };
    for tap in ["conv1", "res3", "res5", "res5avg"] {
        let score = of(&all, tap);
        assert_eq!(score.spread.as_ref().unwrap().seeds, [0, 1]);
        assert!(score.value > 0.9, "{tap}: {}", score.value);
    }
    assert_eq!(of(&all, "conv1").details["features"], 4 * 8 * 8);
    assert_eq!(
        probe(&config(), 2, &mut |_| {}),
        all,
        "the same for any number of workers"
    );
    // Training alongside others or alone gives the same result.
    let one = LinearVissl {
        taps: vec![Place::Res5],
        ..config()
    };
    assert_eq!(of(&probe(&one, 0, &mut |_| {}), "res5"), of(&all, "res5"));
}

#[test]
fn bad_settings_are_named() {
    let refused = |config: LinearVissl| config.validate("protocols.0.x").unwrap_err();
    let of = |taps: &[Place]| LinearVissl {
        taps: taps.to_vec(),
        ..config()
    };
    assert!(
        refused(of(&[Place::Res4]))
            .contains("`protocols.0.x.headline_tap` must be one of `taps`, got `res5`")
    );
    assert!(refused(of(&[])).contains("headline_tap"));
    assert!(refused(of(&[Place::Res5, Place::Res5])).contains("names `res5` twice"));
    let one = LinearVissl {
        batch_images: 1,
        ..config()
    };
    assert!(refused(one).contains("at least 2 `batch_images`"));
    let sequential = LinearVissl {
        order: Order::Sequential,
        ..config()
    };
    assert!(refused(sequential).contains("must shuffle"));
    assert!(config().validate("protocols.0.x").is_ok());
}
