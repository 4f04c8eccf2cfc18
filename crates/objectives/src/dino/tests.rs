//! DINO compared with PyTorch and lightly, and with hand-computed values.

use super::*;
use crate::conformance::{self, Case, OneDevice, Suite};
use crate::formula::{Fixture, check_loss, follow, u};
use backbones::{Draws, parameters};
use burn::tensor::{Device, TensorData};
use serde_json::Value;

fn config() -> Config {
    Config {
        student_temperature: 0.1,
        teacher_temperature: 0.07,
        teacher_temperature_warmup: Some(TemperatureWarmup {
            start: 0.04,
            epochs: 2,
        }),
        centering: Centering::Mean { momentum: 0.9 },
        freeze_last_layer_epochs: 1,
        momentum: 0.9,
        momentum_end: None,
        koleo_weight: None,
        head: HeadConfig {
            hidden_width: 16,
            bottleneck_width: 8,
            prototypes: 12,
            batch_norm: true,
            norm_last_layer: true,
        },
    }
}

/// DINOv2's additions, and a head without batch norm whose prototypes have trained lengths.
fn of_vits() -> Config {
    Config {
        centering: Centering::Sinkhorn { iterations: 3 },
        koleo_weight: Some(0.1),
        head: HeadConfig {
            batch_norm: false,
            norm_last_layer: false,
            ..config().head
        },
        ..config()
    }
}

fn vit() -> BackboneConfig {
    BackboneConfig::Vit(conformance::vit())
}

#[test]
fn passes_the_conformance_suite() {
    conforms(&OneDevice);
}

pub(crate) fn conforms(suite: &impl Suite) {
    let case = |config, views, independent_images| Case {
        config,
        views,
        teacher: Some(("teacher.", "", 0.9)),
        independent_images,
    };
    suite.check(&case(config(), vec![(2, 16), (3, 8)], true));
    let of_vits = case(of_vits(), vec![(2, 16), (2, 12), (1, 8)], false);
    suite.check_on(&of_vits, &conformance::resnet());
    suite.check_on(&of_vits, &vit());
}

#[test]
fn twenty_steps_follow_pytorch() {
    for text in [
        include_str!("../../fixtures/dino_resnet.json"),
        include_str!("../../fixtures/dino_vit.json"),
        include_str!("../../fixtures/dino_sinkhorn.json"),
    ] {
        let fixture = Fixture::new(text);
        let objective = fixture.objective::<Config>().objective(fixture.backbone());
        follow(&objective, &fixture, |student, mut state| {
            state.teacher = independent_copy(student);
            state
        });
    }
}

/// The cases of one part of the loss's fixture.
fn cases(part: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(include_str!("../../fixtures/dino_loss.json")).unwrap();
    fixture[part].as_array().unwrap().clone()
}

fn size(case: &Value, name: &str) -> usize {
    case[name].as_u64().unwrap() as usize
}

fn number(case: &Value, name: &str) -> f64 {
    case[name].as_f64().unwrap()
}

fn matrix(tensor: usize, scale: f64, [rows, width]: [usize; 2]) -> Tensor<2> {
    let values = u(tensor, rows * width)
        .into_iter()
        .map(|value| scale as f32 * value)
        .collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, [rows, width]), &Device::flex())
}

/// The loss of a case in step `step`, and the means that update the center after it.
fn loss_at(
    case: &Value,
    step: usize,
    centering: &Centering,
    center: Option<&Param<Tensor<2>>>,
    temperature: f64,
) -> (Tensor<1>, Tensor<2>, Option<Tensor<2>>) {
    let (images, prototypes) = (size(case, "images"), size(case, "prototypes"));
    let views = GLOBAL_VIEWS + size(case, "local");
    let scale = number(case, "scale");
    let replicas = Replicas::single();
    let teacher = matrix(10 * step + 1, scale, [GLOBAL_VIEWS * images, prototypes]);
    let student = matrix(10 * step + 2, scale, [views * images, prototypes])
        .autodiff()
        .require_grad();
    let mean = centering.mean_logits(teacher.clone(), &replicas);
    let targets = centering.targets(teacher, center, temperature, &replicas);
    let of_rows: Vec<f64> = targets.clone().sum_dim(1).into_data().iter::<f64>().collect();
    assert!(of_rows.iter().all(|sum| (sum - 1.0).abs() < 1e-5));
    let loss = cross_view_prediction(
        student.clone(),
        targets,
        views,
        number(case, "student_temperature"),
    );
    (loss, student, mean)
}

#[test]
fn the_loss_agrees_with_pytorch_and_lightly_after_steps_that_moved_the_center() {
    let cases = cases("loss");
    assert!(cases.len() >= 20);
    for case in &cases {
        let centering = Centering::Mean { momentum: 0.9 };
        let warmup: Option<TemperatureWarmup> = serde_json::from_value(case["warmup"].clone()).unwrap();
        let end = number(case, "teacher_temperature");
        let temperature = temperature(end, warmup.as_ref(), size(case, "epoch"));
        let init = Init::new(0, &Device::flex());
        let mut center = centering.init(&init, size(case, "prototypes"));
        let steps = size(case, "steps");
        for step in 0..steps {
            let (loss, student, mean) = loss_at(case, step, &centering, center.as_ref(), temperature);
            center = centering.moved(center, vec![mean]);
            if step + 1 == steps {
                check_loss(case, &student, loss);
            }
        }
    }
}

#[test]
fn sinkhorn_in_the_centers_place_agrees_with_pytorch_and_lightly() {
    let cases = cases("sinkhorn");
    assert!(cases.len() >= 12);
    for case in &cases {
        let centering = Centering::Sinkhorn {
            iterations: size(case, "iterations"),
        };
        let (loss, student, mean) = loss_at(case, 0, &centering, None, number(case, "teacher_temperature"));
        assert!(mean.is_none());
        check_loss(case, &student, loss);
    }
}

#[test]
fn koleo_agrees_with_pytorch_and_lightly() {
    let cases = cases("koleo");
    assert!(cases.len() >= 4);
    for case in &cases {
        let shape = [size(case, "images"), size(case, "width")];
        let features = matrix(3, 1.0, shape).autodiff().require_grad();
        check_loss(case, &features, koleo(features.clone()));
    }
    // Identical images repel each other with a large but finite force.
    let same = Tensor::<2>::ones([3, 4], &Device::flex().autodiff()).require_grad();
    let loss = koleo(same.clone());
    let gradient = same.grad(&loss.clone().backward()).unwrap();
    assert!(loss.into_scalar::<f32>().is_finite());
    assert!(gradient.into_data().iter::<f32>().all(f32::is_finite));
}

#[test]
fn the_loss_by_hand() {
    let device = Device::flex();
    let rows = |values: [[f32; 2]; 3]| Tensor::<2>::from_floats(values, &device);
    // One image, two global views and a local one; the teacher is certain of 0, then of 1.
    let targets = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
    let loss = cross_view_prediction(rows([[0.5, 0.0], [0.0, 1.0], [0.25, 0.25]]), targets, 3, 0.5);
    let log_p = |a: f64, b: f64| -(1.0 + ((b - a) / 0.5).exp()).ln();
    let expected = -(log_p(0.0, 1.0) + log_p(0.25, 0.25) + log_p(0.0, 0.5) + log_p(0.25, 0.25)) / 4.0;
    assert!((f64::from(loss.into_scalar::<f32>()) - expected).abs() < 1e-6);
    // Logits of 600 overflow a plain exp in f32.
    let targets = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
    let large = cross_view_prediction(rows([[600.0, 0.0], [0.0, 600.0], [0.0, 0.0]]), targets, 3, 0.1);
    assert!(large.into_scalar::<f32>().is_finite());
    // Entropy: ln 2 for an even row, 0 for a one-hot one.
    let value = entropy(Tensor::from_floats([[0.5, 0.5], [1.0, 0.0]], &device)).into_scalar::<f32>();
    assert!((value - 2f32.ln() / 2.0).abs() < 1e-6);
}

#[test]
fn the_teachers_temperature_rises_epoch_by_epoch_and_stays() {
    let warmup = TemperatureWarmup {
        start: 0.04,
        epochs: 4,
    };
    let course: Vec<f64> = (0..6)
        .map(|epoch| temperature(0.07, Some(&warmup), epoch))
        .collect();
    for (value, expected) in course.iter().zip([0.04, 0.05, 0.06, 0.07, 0.07, 0.07]) {
        assert!((value - expected).abs() < 1e-12, "{course:?}");
    }
    assert_eq!(temperature(0.04, None, 0), 0.04);
}

fn at(step: usize) -> RunPosition {
    RunPosition::at(step, 5, 10)
}

#[test]
fn the_last_layer_stands_still_in_the_first_epochs() {
    let objective = of_vits().objective(vit());
    let (student, _) = objective.init(&Init::new(0, &Device::flex().autodiff()));
    assert_eq!(objective.frozen(&at(4)), ["head.last_layer"]);
    assert!(objective.frozen(&at(5)).is_empty());
    let trained = |student: &Network| -> Vec<String> {
        parameters(student)
            .into_iter()
            .filter(|p| p.trained)
            .filter_map(|p| Some(p.path.strip_prefix("head.last_layer.")?.to_string()))
            .collect()
    };
    assert_eq!(trained(&student), ["weight_g", "weight_v"]);
    let (student, _) = config()
        .objective(vit())
        .init(&Init::new(0, &Device::flex().autodiff()));
    assert_eq!(trained(&student), ["weight_v"]);
}

#[test]
fn the_head_starts_as_the_papers() {
    let init = Init::new(0, &Device::flex());
    let wide = HeadConfig {
        hidden_width: 64,
        bottleneck_width: 32,
        prototypes: 100,
        ..config().head
    };
    let head = Head::new(&init, &wide, 48);
    let std = |layer: &Linear| layer.weight.val().var(0).mean().sqrt().into_scalar::<f32>();
    assert!(
        head.layers
            .iter()
            .all(|layer| (std(layer) / 0.02 - 1.0).abs() < 0.1)
    );
    let embeddings = matrix(1, 1.0, [5, 32]);
    // Lengths of 1 on both sides: logits are cosines.
    let logits = head.logits(l2_normalize(embeddings));
    assert_eq!(logits.dims(), [5, 100]);
    assert!(logits.abs().max().into_scalar::<f32>() < 1.0);
}

#[test]
fn momentum_follows_a_cosine_and_the_center_the_mean_of_micro_batches() {
    let moving = Config {
        momentum: 0.5,
        momentum_end: Some(1.0),
        centering: Centering::Mean { momentum: 0.75 },
        ..config()
    };
    let objective = moving.objective(vit());
    let weight = |network: &Network| {
        let weight = network.head.layers[0].weight.val().into_data();
        weight.iter::<f64>().next().unwrap()
    };
    for (step, momentum) in [(0, 0.5), (5, 0.75), (10, 1.0)] {
        let init = |seed| objective.init(&Init::new(seed, &Device::flex().autodiff()));
        let (student, mut state) = init(1);
        state.teacher = independent_copy(&init(2).0);
        let expected = momentum * weight(&state.teacher) + (1.0 - momentum) * weight(&student);
        let context = Context::training(at(step), Draws::new(0, step as u64));
        let parts = [1.0, 3.0].map(|value| Some(Tensor::full([1, 12], value, &Device::flex())));
        let (_, state) = objective.commit(student, state, parts.to_vec(), &context);
        assert!((weight(&state.teacher) - expected).abs() < 1e-7, "step {step}");
        let center: Vec<f32> = state.centre.unwrap().val().into_data().iter::<f32>().collect();
        assert_eq!(center, [0.5; 12]);
    }
}

#[test]
fn micro_batches_are_refused_where_the_whole_batch_matters() {
    let reason = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        config.objective(vit()).whole_batch()
    };
    assert_eq!(reason(&|_| ()), None);
    let sinkhorn = Centering::Sinkhorn { iterations: 3 };
    assert!(
        reason(&|c| c.centering = sinkhorn.clone())
            .unwrap()
            .contains("sinkhorn")
    );
    assert!(
        reason(&|c| c.koleo_weight = Some(0.1))
            .unwrap()
            .contains("koleo_weight")
    );
}

#[test]
fn bad_numbers_are_named() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        conformance::checked(&config, &vit(), 8).unwrap_err()
    };
    assert!(refused(&|c| c.student_temperature = 0.0).contains("`objective.dino.student_temperature`"));
    assert!(refused(&|c| c.teacher_temperature = f64::NAN).contains("teacher_temperature"));
    let warmup = |start, epochs| Some(TemperatureWarmup { start, epochs });
    let error = refused(&|c| c.teacher_temperature_warmup = warmup(-0.1, 3));
    assert!(error.contains("`objective.dino.teacher_temperature_warmup.start`"));
    let error = refused(&|c| c.teacher_temperature_warmup = warmup(0.04, 1));
    assert!(error.contains("at least 2") && error.contains("got 1"));
    let error = refused(&|c| c.centering = Centering::Mean { momentum: 2.0 });
    assert!(error.contains("centering.mean.momentum"));
    let error = refused(&|c| c.centering = Centering::Sinkhorn { iterations: 0 });
    assert!(error.contains("centering.sinkhorn.iterations"));
    let error = refused(&|c| {
        c.centering = Centering::Sinkhorn { iterations: 3 };
        c.teacher_temperature_warmup = warmup(0.01, 3);
    });
    assert!(error.contains("at least 0.02") && error.contains("got 0.01"));
    assert!(refused(&|c| c.momentum = -0.5).contains("`objective.dino.momentum` must be in 0..1, got -0.5"));
    assert!(refused(&|c| c.momentum_end = Some(1.5)).contains("momentum_end"));
    assert!(refused(&|c| c.koleo_weight = Some(-1.0)).contains("koleo_weight"));
    assert!(refused(&|c| c.head.hidden_width = 0).contains("`objective.dino.head.hidden_width`"));
    assert!(refused(&|c| c.head.prototypes = 1).contains("head.prototypes` must be at least 2"));
    let one = conformance::checked(&of_vits(), &vit(), 1).unwrap_err();
    assert!(one.contains("batch_images") && one.contains("koleo_weight"));
    assert_eq!(conformance::checked(&config(), &vit(), 8), Ok(()));
    assert_eq!(conformance::checked(&of_vits(), &vit(), 8), Ok(()));
}

#[test]
fn a_config_is_read_as_it_is_written() {
    let text = r#"
        student_temperature = 0.1
        teacher_temperature = 0.07
        teacher_temperature_warmup = { start = 0.04, epochs = 2 }
        centering = { mean = { momentum = 0.9 } }
        freeze_last_layer_epochs = 1
        momentum = 0.9

        [head]
        hidden_width = 16
        bottleneck_width = 8
        prototypes = 12
        batch_norm = true
        norm_last_layer = true
    "#;
    assert_eq!(toml::from_str::<Config>(text).unwrap(), config());
    let written = toml::to_string(&config()).unwrap();
    assert_eq!(toml::from_str::<Config>(&written).unwrap(), config());
    let error = toml::from_str::<Config>(&text.replace("momentum = 0.9 }", "rate = 0.9 }")).unwrap_err();
    assert!(error.to_string().contains("rate"), "{error}");
}
